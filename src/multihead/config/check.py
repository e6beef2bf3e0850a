"""The one way a value of the configuration is refused: key, requirement, value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from multihead.errors import ConfigError


def require(condition: bool, key: str, requirement: str, value: object, fix: str = "") -> None:
    """Raises `ConfigError` naming ``key``, what it must be and what it was, unless ``condition`` holds."""
    if not condition:
        raise ConfigError(key, f"must be {requirement}, got {value!r}", fix)


def require_choice(key: str, value: object, choices: Iterable[str]) -> None:
    """Raises `ConfigError` with the nearest choice unless ``value`` is one of ``choices``."""
    choices = list(choices)
    near = difflib.get_close_matches(str(value), choices, n=1)
    require(value in choices, key, f"one of {', '.join(choices)}", value, f"{key}={near[0]}" if near else "")
