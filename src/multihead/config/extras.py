"""Optional packages: which extra of ours installs each, and the one line that says so where one is missing."""

from __future__ import annotations

import importlib.util

from multihead.errors import ConfigError

EXTRAS = {
    "psycopg": "postgresql",
    "optuna": "sweep",
    "matplotlib": "plot",
    "tensorboard": "tensorboard",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "pyarrow": "parquet",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "ctranslate2": "export",
    "submitit": "slurm",
    "joblib": "joblib",
}
"""Package to the extra that brings it."""


def install(package: str) -> str:
    """The command that installs an optional package."""
    return f'pip install "multihead[{EXTRAS[package]}]"'


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported here."""
    return importlib.util.find_spec(package) is not None


def require_package(package: str, where: str, what: str) -> None:
    """Raises `ConfigError` with the command that installs ``package``, unless it is there.

    Args:
        package: One of `EXTRAS`.
        where: The key or file that wants it, for the message.
        what: What needs it, such as "format=parquet".
    """
    if not installed(package):
        raise ConfigError(where, f"{what} needs {package}, which is not installed", install(package))
