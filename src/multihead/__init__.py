"""One Transformer backbone, many heads.

The way of the data: `config` (typed dataclasses, composed by Hydra) -> `data.corpus` (rows and roles) or `data.stream`
(running text) -> `data.tokenizer` -> `data.encode` -> `data.plan` (what each optimizer step sees) and `data.mixture`
(of which task) -> a task's ``collate`` -> `transformer` -> `heads` -> `metrics` -> the capsule (`run`, `checkpoint`).
`prepare` goes this way up to the ids, `tasks` has a module per task, `transfer` starts a run from another's weights.
`cli` is the door, `commands` has a module per verb, and `commands.train` joins the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multihead.runs.directory import Run

__version__ = "0.1.0"
__all__ = ["load", "train"]


def load(run: Any, *words: str) -> Run:
    """Loads a finished run for prediction; see `multihead.runs.directory.load`."""
    from multihead.runs.directory import load as load_run

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
