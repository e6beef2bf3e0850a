"""Finds options of decoding that were set and have no effect, and says what would give them one."""

from __future__ import annotations

import dataclasses

from multihead.config.task import SINGLE_TASKS, LanguageModelingConfig, TaskConfig, TranslationConfig
from multihead.config.training import Config, DecodingConfig

OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")


def without_effect(config: Config) -> list[str]:
    """Returns a line for each option of ``decoding`` that differs from its default and has no effect here.

    A plugin's task may use any option, so the result is empty if there is one.
    """
    tasks, decoding = list(config.task.members().values()), config.decoding
    if any(type(task) not in SINGLE_TASKS.values() for task in tasks):
        return []
    default = DecodingConfig()
    changed = {
        field.name: getattr(decoding, field.name)
        for field in dataclasses.fields(DecodingConfig)
        if getattr(decoding, field.name) != getattr(default, field.name)
    }
    reasons = {name: _reason(name, decoding, tasks) for name in changed}
    return [f"decoding.{name}={changed[name]} has no effect: {why}" for name, why in reasons.items() if why]


def _continues(task: TaskConfig) -> bool:
    """Whether the task continues text, so that its outputs can be sampled."""
    return isinstance(task, LanguageModelingConfig) and task.continues


def _reason(name: str, decoding: DecodingConfig, tasks: list[TaskConfig]) -> str:
    """Returns why an option has no effect, and what would give it one; empty if it has an effect."""
    text, searched = any(map(_continues, tasks)), any(isinstance(task, TranslationConfig) for task in tasks)
    named = ", ".join(task.name for task in tasks)
    if not text and not searched:
        return f"task={named} decodes nothing"
    if name in OF_SAMPLING and not decoding.do_sample:
        return "it needs decoding.do_sample=true" if text else f"task={named} does not sample its outputs"
    if name in ("repetition_penalty", "stop_strings") and not text:
        return f"task={named} does not use it"
    if name == "repetition_penalty" and decoding.num_beams > 1:
        return "beam search does not use it; it needs decoding.num_beams=1"
    if name == "forced_prefix" and not searched:
        return f"task={named} continues its prompts"
    if name == "length_penalty" and decoding.num_beams == 1:
        return "it ranks beams and needs several, for example decoding.num_beams=5"
    return ""
