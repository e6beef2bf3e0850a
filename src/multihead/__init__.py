"""One Transformer backbone, many heads.

The way of the data: `config` (typed dataclasses, composed by Hydra) -> `data` (rows with roles, tokenizers, the batch
plan) -> a task's ``collate`` (`tasks`) -> `model` (the Transformer and its heads) -> `metrics` -> the run directory
(`runs`). `training.job` is the page that shows a run from start to result. `cli` reads the command line, and
`commands` has a thin module for each verb.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multihead.runs.run import Run

__version__ = "0.1.0"
__all__ = ["load", "train"]


def load(run: Any, *words: str) -> Run:
    """Loads a finished run for prediction; see `multihead.runs.run.load`."""
    from multihead.runs.run import load as load_run

    return load_run(run, *words)


def train(words: Sequence[str] = ()) -> dict[str, Any]:
    """Trains as ``python train.py WORDS`` does and returns what result.json holds, with the run's directory.

    Args:
        words: ``key=value`` overrides, such as ``["task=translation", "model=tiny"]``.

    Raises:
        ConfigError: If a word cannot be.
    """
    from multihead.config.compose import compose
    from multihead.training.job import train as train_run

    return train_run(compose(list(words)))
