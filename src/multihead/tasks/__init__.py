"""The tasks, each one a module of torch; `multihead.tasks.lightning_module` trains them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from multihead.config.training import Config

if TYPE_CHECKING:
    from multihead.plugin import Plugin
    from multihead.tasks.base import EvaluationData, Task
    from multihead.text.vocabulary import Vocabulary

MODULES = {
    "lm": "multihead.tasks.language_modeling:LanguageModelingTask",
    "translation": "multihead.tasks.translation:TranslationTask",
    "summarization": "multihead.tasks.summarization:SummarizationTask",
    "classification": "multihead.tasks.classification:ClassificationTask",
    "regression": "multihead.tasks.regression:RegressionTask",
    "multitask": "multihead.tasks.multitask:MultiTask",
}


def build_task(
    config: Config,
    vocab: Vocabulary,
    plugin: Plugin | None = None,
    evaluation: Mapping[str, EvaluationData] | None = None,
) -> Task:
    """The task of ``config.task`` with a freshly initialised model.

    Args:
        config: The whole configuration.
        vocab: Tokenizers and classes.
        plugin: What the user's own code adds.
        evaluation: Task to its texts for validation and test; None if the task only trains or predicts.
    """
    return task_class(config.task.name, plugin).build(config, vocab, plugin, evaluation or {})


def task_class(name: str, plugin: Plugin | None = None) -> type[Task]:
    """The class of a task, ours or a plugin's."""
    target = plugin.tasks[name][1] if plugin and name in plugin.tasks else MODULES[name]
    if not isinstance(target, str):
        return target()
    module, _, cls = target.partition(":")
    return getattr(importlib.import_module(module), cls)
