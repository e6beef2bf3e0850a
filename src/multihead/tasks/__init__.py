"""The tasks, each one LightningModule."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from multihead.config.training import Config

if TYPE_CHECKING:
    from multihead.plugin import Plugin
    from multihead.tasks.base import Task

MODULES = {"translation": "multihead.tasks.translation:TranslationTask"}


def build_task(config: Config, tokenizers: Mapping[str, Any], plugin: Plugin | None = None) -> Task:
    """The LightningModule of ``config.task`` with a freshly initialised model.

    Args:
        config: The whole configuration.
        tokenizers: Role to tokenizer.
        plugin: What the user's own code adds.
    """
    from multihead.transformer import Blocks, FeedForward, MultiHeadAttention

    blocks = Blocks(
        attention=_block(config, plugin.attention if plugin else {}, config.model.attention, MultiHeadAttention),
        feed_forward=_block(config, plugin.feed_forward if plugin else {}, config.model.feed_forward, FeedForward),
    )
    target = MODULES.get(config.task.name) or plugin.tasks[config.task.name][1]
    if isinstance(target, str):
        module, _, name = target.partition(":")
        cls = getattr(importlib.import_module(module), name)
    else:
        cls = target()
    return cls.build(config, tokenizers, blocks)


def _block(config: Config, added: Mapping[str, Any], name: str, default: type) -> Any:
    """The class a name stands for; one with options of its own gets them as the argument ``options``."""
    if name not in added:
        return default
    options = config.options.get(name)
    return added[name] if options is None else functools.partial(added[name], options=options)
