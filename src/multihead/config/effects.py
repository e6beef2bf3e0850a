"""Options of decoding that were set and have no effect: each is said in a line, with what gives it one."""

from __future__ import annotations

import dataclasses

from multihead.config.task import SINGLE_TASKS, LanguageModelingConfig, TaskConfig, TranslationConfig
from multihead.config.training import Config, DecodingConfig

OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")


def without_effect(config: Config) -> list[str]:
    """A line for each option of ``decoding`` that differs from its default and changes nothing in this configuration.

    Tasks of a plugin may use any of them, so nothing is said of those.
    """
    tasks, decoding = list(config.task.members().values()), config.decoding
    if any(type(task) not in SINGLE_TASKS.values() for task in tasks):
        return []
    changed = {
        field.name: getattr(decoding, field.name)
        for field in dataclasses.fields(DecodingConfig)
        if getattr(decoding, field.name) != (field.default_factory() if field.name == "stop_strings" else field.default)
    }
    reasons = {name: _reason(name, decoding, tasks) for name in changed}
    return [f"decoding.{name}={changed[name]} has no effect: {why}" for name, why in reasons.items() if why]


def _continues(task: TaskConfig) -> bool:
    """Whether the task continues text, which can be drawn."""
    return isinstance(task, LanguageModelingConfig) and task.objective == "causal"


def _reason(name: str, decoding: DecodingConfig, tasks: list[TaskConfig]) -> str:
    """Why an option has no effect, and what gives it one; empty where it has an effect."""
    text, searched = any(map(_continues, tasks)), any(isinstance(task, TranslationConfig) for task in tasks)
    named = ", ".join(task.name for task in tasks)
    if not text and not searched:
        return f"task={named} decodes nothing"
    if name in OF_SAMPLING and not decoding.do_sample:
        return "decoding.do_sample=true gives it one" if text else f"task={named} does not draw its outputs"
    if name in ("repetition_penalty", "stop_strings") and not text:
        return f"task={named} does not use it"
    if name == "repetition_penalty" and decoding.num_beams > 1:
        return "beams do not use it, decoding.num_beams=1 does"
    if name == "forced_prefix" and not searched:
        return f"task={named} continues its prompts"
    if name == "length_penalty" and decoding.num_beams == 1:
        return "it ranks beams; decoding.num_beams=5 gives it one"
    return ""
