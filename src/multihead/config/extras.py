"""Optional packages, the extra of ours that installs each of them, and the error for a missing one."""

from __future__ import annotations

import importlib.util

from multihead.errors import ConfigError

EXTRAS = {
    "psycopg": "postgresql",
    "optuna": "sweep",
    "matplotlib": "plot",
    "pandas": "notebook",
    "tensorboard": "tensorboard",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "pyarrow": "parquet",
    "zstandard": "zstd",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "ctranslate2": "export",
    "submitit": "slurm",
    "joblib": "joblib",
    "fastapi": "serve",
    "uvicorn": "serve",
}
"""Each package with the extra that installs it."""


def install(package: str) -> str:
    """Returns the command that installs an optional package."""
    return f'pip install "multihead[{EXTRAS[package]}]"'


def installed(package: str) -> bool:
    """Whether a package can be imported. It is not imported here."""
    return importlib.util.find_spec(package) is not None


def require_package(package: str, where: str, what: str) -> None:
    """Raises `ConfigError` with the command that installs ``package``, unless it is installed.

    Args:
        package: One of `EXTRAS`.
        where: The key or file that needs it, for the message.
        what: What needs it, such as "format=parquet".
    """
    if not installed(package):
        raise ConfigError(where, f"{what} needs {package}, which is not installed", install(package))
