"""Finds the folder of the groups' YAML files."""

from __future__ import annotations

import os
from pathlib import Path

from multihead.errors import ConfigError

PRIMARY = "train"


def conf_dir() -> Path:
    """Returns the folder of our YAML files: inside an installed package, or at the top of the repository.

    ``MULTIHEAD_CONF`` names another folder. So the trials of a sweep read the files as they were when it began.
    """
    if frozen := os.environ.get("MULTIHEAD_CONF"):
        return Path(frozen)
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / f"{PRIMARY}.yaml").is_file():
            return folder
    raise ConfigError("conf", f"no {PRIMARY}.yaml in {package / 'conf'} or {package.parents[1] / 'conf'}", "reinstall")
