"""How every value of the configuration is checked; the message names the key, what it must be, and what it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multihead.errors import ConfigError


def require(condition: bool, key: str, requirement: str, value: object, fix: str = "") -> None:
    """Raises `ConfigError` unless ``condition`` holds; it names ``key``, what it must be and what it was."""
    if not condition:
        raise ConfigError(key, f"must be {requirement}, got {value!r}", fix)


def require_choice(
    key: str, value: object, choices: Iterable[str], meant: Mapping[str, str] | None = None, otherwise: str = ""
) -> None:
    """Raises `ConfigError` unless ``value`` is one of ``choices``; it suggests the nearest choice.

    Args:
        key: The key.
        value: The value that was given.
        choices: The values that are allowed.
        meant: Words of other programs, each with the choice that it means.
        otherwise: What to do if no choice is near.
    """
    choices = list(choices)
    near = (meant or {}).get(str(value)) or nearest_name(str(value), choices)
    require(value in choices, key, f"one of {', '.join(choices)}", value, f"{key}={near}" if near else otherwise)


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Returns the one of ``names`` that ``name`` misspells or begins, or an empty string."""
    names = sorted(names)
    near = min(names, key=lambda known: (edit_distance(name, known), known), default="")
    if near and edit_distance(name, near) <= max(1, len(name) // 4):
        return near
    begun = [known for known in names if len(name) >= 3 and known.lower().startswith(name.lower())]
    begun += [known for known in names if len(known) >= max(3, len(name) / 2) and name.startswith(known)]
    return min(begun, key=len, default="")


def edit_distance(first: str, second: str) -> int:
    """Counts the characters to insert, delete, replace or swap with a neighbour to turn ``first`` into ``second``."""
    before: list[int] = []
    above = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]
