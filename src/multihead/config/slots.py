"""The places of a run that a plugin can fill: for each, the key that chooses, and our own choices.

The choices of such a key are ours and those that the plugin adds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multihead.config.check import require_choice
from multihead.config.model import EMBEDDINGS, LAYERS, NORMS, POSITIONS, STACKS
from multihead.config.training import OPTIMIZERS, SCHEDULES, Config

if TYPE_CHECKING:
    from multihead.plugin import Plugin


@dataclass(frozen=True)
class Slot:
    """One place that a plugin can fill."""

    field: str
    """The field of `Plugin` that holds what it adds, by name."""
    key: str
    """The key of the configuration that chooses one of the names."""
    own: tuple[str, ...]
    """Our own choices."""

    def choices(self, plugin: Plugin | None) -> list[str]:
        """Our choices, and those that the plugin adds."""
        return [*self.own, *(getattr(plugin, self.field) if plugin else ())]

    def chosen(self, config: Any) -> str:
        """The name that a configuration chooses."""
        return functools.reduce(getattr, self.key.split("."), config)


SLOTS = {
    slot.field: slot
    for slot in (
        Slot("attention", "model.attention", ("multi_head",)),
        Slot("feed_forward", "model.feed_forward", ("dense",)),
        Slot("norms", "model.norm", NORMS),
        Slot("positions", "model.position", POSITIONS),
        Slot("embeddings", "model.embedding", EMBEDDINGS),
        Slot("layers", "model.layer", LAYERS),
        Slot("stacks", "model.stack", STACKS),
        Slot("optimizers", "optim.name", OPTIMIZERS),
        Slot("schedules", "optim.schedule", SCHEDULES),
    )
}


def check_choices(config: Any, plugin: Plugin | None) -> None:
    """Checks every key to whose choices a plugin can add.

    Raises:
        ConfigError: Neither we nor the plugin have the choice.
    """
    for slot in SLOTS.values():
        require_choice(slot.key, slot.chosen(config), slot.choices(plugin))


def from_plugin(config: Config, plugin: Plugin | None, field: str) -> Callable[..., Any] | None:
    """What the plugin adds under the name that the configuration chooses; None if the choice is ours.

    Options of this name (``options.NAME.*``) become the argument ``options``.

    Args:
        config: The whole configuration.
        plugin: The user's plugin, if there is one.
        field: A field of `Plugin`; ``causal_attention`` and ``cross_attention`` have the key of ``attention``.
    """
    slot = SLOTS[field if field in SLOTS else "attention"]
    name = slot.chosen(config)
    added = getattr(plugin, field).get(name) if plugin else None
    options = config.options.get(name)
    return added if added is None or options is None else functools.partial(added, options=options)
