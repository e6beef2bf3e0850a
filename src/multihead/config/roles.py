"""The roles of a data set that one task reads."""

from __future__ import annotations

from dataclasses import replace

from multihead.config.data import DataConfig, column_of
from multihead.config.task import TaskConfig


def roles_of(data: DataConfig, settings: TaskConfig) -> list[str]:
    """Returns the task's required roles, and the optional ones that this data set provides."""
    have = [role for role in settings.optional_roles if column_of(data.roles, settings.name, role) is not None]
    return [*settings.roles, *have]


def data_of(data: DataConfig, settings: TaskConfig) -> DataConfig:
    """Returns the data configuration with the roles of one task only."""
    roles = {
        role: column
        for role in roles_of(data, settings)
        if (column := column_of(data.roles, settings.name, role)) is not None
    }
    return replace(data, roles=roles) if roles else data
