"""One Transformer backbone, many heads.

The way of the data: `config` (typed dataclasses, composed by Hydra) -> `data` (rows with roles, tokenizers, the batch
plan) -> a task's ``collate`` (`tasks`) -> `model` (the Transformer and its heads) -> `metrics` -> the run directory
(`runs`). `training.job` is the page that shows a run from start to result. `cli` reads the command line, and
`commands` has a thin module for each verb.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from multihead.errors import ConfigError, as_user_error

if TYPE_CHECKING:
    from multihead.checking.outcome import Outcome
    from multihead.runs.run import Run

__version__ = "0.1.0"
__all__ = ["doctor", "evaluate", "load", "train"]


def load(run: Any, *words: str, ensemble: Sequence[Any] = ()) -> Run:
    """Loads a finished run for prediction, alone or together with more runs; see `multihead.runs.run.load`."""
    from multihead.runs.run import load as load_run

    with _user_errors():
        return load_run(run, *words, ensemble=ensemble)


def train(words: Sequence[str] = (), quiet: bool = False) -> dict[str, Any]:
    """Trains as ``python train.py WORDS`` does and returns what result.json holds, with the run's directory.

    Args:
        words: ``key=value`` overrides, such as ``["task=translation", "model=tiny"]``.
        quiet: Shows nothing. ``train.log`` in the run directory has all messages.

    Raises:
        MultiheadError: If the run fails in a way that you can fix: `ConfigError` for a wrong word, and so on.
        Stopped: If a signal ended the run, after its state was saved.
    """
    from multihead.config.compose import compose
    from multihead.training.job import train as train_run

    with _user_errors(), _silence() if quiet else contextlib.nullcontext():
        return train_run(compose(_listed("train", words)), quiet)


def evaluate(run: Any, words: Sequence[str] = ()) -> dict[str, Any]:
    """Measures a finished run as ``multihead evaluate`` does, and returns the metrics by their names.

    It shows only warnings. The metrics are also written beside the run's result.json.

    Args:
        run: A loaded run or a run directory. If it is a loaded run with a plugin, the plugin is used again.
        words: Settings and overrides, such as ``["data.split=val", "decoding.num_beams=4"]``.

    Raises:
        MultiheadError: If a word is wrong, or if the run cannot be measured.
    """
    from multihead.commands.evaluate import evaluate as evaluate_run
    from multihead.config.words import write
    from multihead.runs.run import Run

    with _user_errors():
        words = _listed("evaluate", words)
        if not isinstance(run, Run):
            return evaluate_run(str(run), words)
        known = run.config.plugin and not any(word.startswith("plugin=") for word in words)
        return evaluate_run(str(run.path), [*([write("plugin", run.config.plugin)] if known else []), *words])


def doctor(words: Sequence[str] = ()) -> list[Outcome]:
    """Checks a model as ``multihead doctor`` does; shows nothing and returns the outcome of each check.

    Args:
        words: Settings and overrides, such as ``["plugin=variant.py", "checks=[causality,cache]"]``.

    Raises:
        MultiheadError: If a word is wrong.
    """
    from multihead.commands.doctor import Examination

    with _user_errors():
        return list(Examination.of(_listed("doctor", words)).outcomes())


def _listed(name: str, words: Sequence[str]) -> list[str]:
    """Returns the words as a list.

    Raises:
        ConfigError: If they are one text, which would be a sequence of letters.
    """
    if isinstance(words, str):
        listed = ", ".join(f'"{word}"' for word in words.split())
        raise ConfigError(f"multihead.{name}", "takes a list of words, got a text", f"multihead.{name}([{listed}])")
    return list(words)


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Raises an error of the disk, the memory or the permissions as `MachineError`, as the command line reports it."""
    try:
        yield
    except Exception as error:
        known = as_user_error(error)
        if known is error:
            raise
        raise known from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drops messages and warnings of what runs before the run's own log is open."""
    from multihead.runs.console import open_log

    with contextlib.closing(open_log(None, quiet=True)):
        yield
