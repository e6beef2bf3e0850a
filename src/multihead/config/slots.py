"""The places of a run that a plugin can fill: for each, the key that chooses, and our own choices.

The choices of such a key are ours and those that the plugin adds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multihead.config.check import require, require_choice
from multihead.config.data import FORMATS, ROLES, TOKENIZERS
from multihead.config.model import EMBEDDINGS, LAYERS, NORMS, POSITIONS, STACKS
from multihead.config.task import OWN, TaskConfig
from multihead.config.training import OPTIMIZERS, SCHEDULES, Config
from multihead.errors import ConfigError

if TYPE_CHECKING:
    from multihead.plugin import Plugin

LOOKING_BACK = ("relative", "learned_relative")
"""Position schemes that do not tell how far a later token is, if they are those of a decoder."""


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

    def keys(self, config: Any) -> list[str]:
        """The keys of a configuration that choose. Each task of several has its own, and each side's tokenizer."""
        node, _, field = self.key.partition(".")
        own: list[str] = []
        if node == "task" and config.task.name == "multitask":
            own = [part for part in config.task.parts if hasattr(config.task, part)]  # the task itself refuses others
        elif node == "tokenizer":
            own = [side for side in ("source", "target") if getattr(config.tokenizer, side).kind]
        return [self.key, *(f"{node}.{member}.{field}" for member in own)]


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
        Slot("tokenizers", "tokenizer.kind", TOKENIZERS),
        Slot("readers", "data.format", FORMATS),
        Slot("losses", "task.loss", OWN),
        Slot("heads", "task.head", OWN),
    )
}


def added_choices(config: Any) -> dict[str, str]:
    """The keys whose value is none of our own choices, so that a plugin adds it, and these values."""
    chosen = [(slot, key, functools.reduce(getattr, key.split("."), config))
              for slot in SLOTS.values() for key in slot.keys(config)]  # fmt: skip
    return {key: value for slot, key, value in chosen if value not in slot.own}


def check_choices(config: Any, plugin: Plugin | None) -> None:
    """Checks every key to whose choices a plugin can add.

    Raises:
        ConfigError: Neither we nor the plugin have the choice, or both have it.
    """
    for slot in SLOTS.values():
        if both := [name for name in slot.own if plugin and name in getattr(plugin, slot.field)]:
            what = f"{slot.field}[{both[0]!r}] has the name of one of our own choices of {slot.key}"
            raise ConfigError("plugin", what, "choose another name")
        for key in slot.keys(config):
            value = functools.reduce(getattr, key.split("."), config)
            hint = "" if plugin else f"type plugin=FILE.py, if a plugin adds {value}"
            require_choice(key, value, slot.choices(plugin), otherwise=hint)
        if config.task.name == "multitask" and slot.key.startswith("task."):
            each = f"{config.task.parts[0]}.{slot.key.partition('.')[2]}" if config.task.parts else "PART"
            value = slot.chosen(config)
            require(value in slot.own, slot.key, "default; each task has its own", value, f"task.{each}={value}")


def check_roles(config: Config) -> None:
    """Checks the names in ``data.roles``: ours, those of the task, or one of them after a task (``lm_text``).

    Raises:
        ConfigError: There is no such role.
    """
    of_tasks = [role for task in config.task.members().values() for role in (*task.roles, *task.optional_roles)]
    known = list(dict.fromkeys((*ROLES, *of_tasks)))
    for role in config.data.roles:
        of_one_task = [name for name in known if role.endswith(f"_{name}")]  # classification_text_b
        require_choice("data.roles", of_one_task[0] if of_one_task else role, known)


def check_rows(config: Config, plugin: Plugin | None) -> None:
    """Checks that the parts of a decoder can look both ways, if a task trains one that does so in masked blocks.

    Raises:
        ConfigError: They look back only.
    """
    if not any(getattr(task, "objective", "") == "both" for task in config.task.members().values()):
        return
    position, attention = config.model.position, config.model.attention
    what = "another scheme if task.objective=both, because a decoder's relative biases are for earlier tokens only"
    require(position not in LOOKING_BACK, "model.position", what, position, "model.position=rotary")
    looks_back = plugin is not None and attention in plugin.causal_attention
    what = "another one if task.objective=both, because this one replaces the self-attention of decoders only"
    require(not looks_back, "model.attention", what, attention, "model.attention=multi_head")


def metrics_of(task: TaskConfig, plugin: Plugin | None) -> dict[str, str]:
    """The metrics that ``task.monitor`` can name, each with its better direction; empty if they are not known.

    A plugin's task logs what it likes.
    """
    own = type(task).METRICS
    if own is TaskConfig.METRICS:
        return {}
    added = plugin.metrics.items() if plugin else ()
    several = task.members() if task.name == "multitask" else {"": task}
    places = [(f"{part}/" if part else "", member.name) for part, member in several.items()]
    return own | {
        f"val/{prefix}{name}": metric.better
        for name, metric in added
        for prefix, member in places
        if member in metric.tasks
    }


def check_monitor(task: TaskConfig, plugin: Plugin | None) -> None:
    """Checks that the task logs the metric that is monitored, and that the better direction is the metric's.

    Raises:
        ConfigError: It does not, or it is not.
    """
    if not (known := metrics_of(task, plugin)):
        return
    require_choice("task.monitor", task.monitor, known)
    if task.monitor.rpartition("/")[2].startswith("masked_"):
        both = any(getattr(each, "objective", "") == "both" for each in task.members().values())
        what = "another metric, because only task.objective=both has a masked loss beside its loss"
        require(both, "task.monitor", what, task.monitor, "task.monitor=val/loss")
    for name, each in task.members().items():
        whole = f"val/{name}/bits_per_byte" if len(task.members()) > 1 else "val/bits_per_byte"
        scored = getattr(each, "objective", "") != "masked" or task.monitor != whole
        what = "another metric, because task.objective=masked scores hidden tokens only and has no bits_per_byte"
        require(scored, "task.monitor", what, task.monitor, "task.monitor=val/loss")
    better = known[task.monitor]
    what, fix = f"{better} if task.monitor={task.monitor}", f"task.monitor_mode={better}"
    require(task.monitor_mode == better, "task.monitor_mode", what, task.monitor_mode, fix)


def from_plugin(
    config: Config, plugin: Plugin | None, field: str, task: TaskConfig | None = None
) -> Callable[..., Any] | None:
    """What the plugin adds under the name that the configuration chooses; None if the choice is ours.

    Options of this name (``options.NAME.*``) become the argument ``options``.

    Args:
        config: The whole configuration.
        plugin: The user's plugin, if there is one.
        field: A field of `Plugin`; ``causal_attention`` and ``cross_attention`` have the key of ``attention``.
        task: For ``losses`` and ``heads``, the settings of one of several tasks; by default ``config.task``.
    """
    slot = SLOTS[field if field in SLOTS else "attention"]
    name = getattr(task, slot.key.partition(".")[2]) if task is not None else slot.chosen(config)
    added = getattr(plugin, field).get(name) if plugin else None
    options = config.options.get(name)
    return added if added is None or options is None else functools.partial(added, options=options)
