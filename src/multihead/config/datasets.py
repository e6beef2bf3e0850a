"""Which data sets of conf/data have the roles that a task needs, according to their YAML files."""

from __future__ import annotations

from collections.abc import Iterable

from multihead.config.data import column_of
from multihead.config.folder import conf_dir
from multihead.config.yaml_file import load_yaml


def datasets_with(task: str, roles: Iterable[str]) -> list[str]:
    """Returns the names of the data sets that have all these roles for a task, sorted."""
    roles = list(roles)
    found = []
    for path in sorted((conf_dir() / "data").glob("*.yaml")):
        own = load_yaml(path).get("roles") or {}
        if all(column_of(own, task, role) is not None for role in roles):
            found.append(path.stem)
    return found
