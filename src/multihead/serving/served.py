"""A run as the server knows it: under a public name, with the tasks that answer its verbs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multihead.config.training import DecodingConfig
from multihead.errors import ConfigError
from multihead.model.transformer import MultiHeadAttention
from multihead.runs.run import VERBS, Run, load
from multihead.tasks.base import Task
from multihead.tasks.language_modeling import LanguageModelingTask
from multihead.tasks.pooled import PooledTask

EXAMPLES = 8
"""Number of the run's own inputs that the page offers."""
EXAMPLE_CHARACTERS = 300
"""An example is at most this long."""
FILTERS = ("no_repeat_ngram_size", "min_new_tokens", "top_k", "min_p", "repetition_penalty")
"""Options of decoding, apart from temperature and top_p, that change the distribution of the next token."""
KINDS = {"encoder": ("encoder", "self"), "decoder": ("decoder", "self"), "cross": ("decoder", "cross")}
"""Public name of each kind of attention: the stack that has it, and whose keys it looks at."""


@dataclass(frozen=True)
class ServedRun:
    """A loaded run, its public name, and the task that answers each verb."""

    name: str
    run: Run
    tasks: dict[str, Task]
    """Verb to the task that answers it."""

    @classmethod
    def load(cls, name: str, path: str, words: Sequence[str]) -> ServedRun:
        """Loads a finished run.

        Args:
            name: Its public name.
            path: The run directory.
            words: Overrides as on the command line.
        """
        run = load(path, *words)
        return cls(name, run, tasks_by_verb(run))

    def scorer(self, has_targets: bool) -> Task:
        """The task that scores targets given their sources, or texts alone; if there is none, the other one.

        Args:
            has_targets: Whether a request gives targets.
        """
        arguments = 2 if has_targets else 1
        fitting = [task for name, task in answering(self.run) if VERBS.get(name, {}).get("score") == arguments]
        return fitting[0] if fitting else self.tasks["score"]

    def decoding(self, plain: bool = False, **given: Any) -> DecodingConfig:
        """The run's options of decoding with those that a request gives.

        A ``max_new_tokens`` below the run's own ``min_new_tokens`` lowers it too.

        Args:
            plain: Whether the run's own options are left out.
            given: Options of the request; None where it gives none.

        Raises:
            ConfigError: They are not valid together.
        """
        own = DecodingConfig() if plain else self.run.config.decoding
        given = {key: value for key, value in given.items() if value is not None}
        if "max_new_tokens" in given:
            given["min_new_tokens"] = min(own.min_new_tokens, given["max_new_tokens"])
        return replace(own, **given)

    def describe(self) -> dict[str, Any]:
        """What ``/v1/runs`` says of the run; no directory and no text of the training data is in it."""
        config, model = self.run.config, self.run.task.model
        names = [name for name, module in model.named_modules() if type(module) is MultiHeadAttention]
        layers = {"encoder": config.model.num_encoder_layers, "decoder": config.model.num_decoder_layers}
        labels = next((list(task.labels) for task in self.run.task.members().values() if task.labels), None)
        return {
            "name": self.name,
            "task": config.task.name,
            "verbs": list(self.tasks),
            "labels": labels if "classify" in self.tasks else None,
            "num_layers": max((layers[stack] for stack in config.task.stacks), default=0),
            "num_heads": config.model.num_heads,
            "attention": [
                kind
                for kind, (stack, keys) in KINDS.items()
                if any(f"{stack}.layers." in name and name.endswith(f"{keys}_attention") for name in names)
            ],
            "max_len": config.model.max_len,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "filtered": any(getattr(config.decoding, name) != getattr(DecodingConfig(), name) for name in FILTERS),
            "examples": self.examples(),
        }

    def examples(self) -> list[str]:
        """Some inputs of the run's own test data, or of its validation data; empty if it kept none."""
        file, found = self.run.path / "samples.jsonl", dict[str, list[str]]()
        with contextlib.suppress(OSError):
            for sample in _lines(file.read_text(encoding="utf-8")):
                parts = [sample.get(role) for role in ("source", "text", "text_b")]
                text = "\t".join(part for part in parts if isinstance(part, str))
                texts = found.setdefault(str(sample.get("split")), [])
                if text and len(text) <= EXAMPLE_CHARACTERS and len(texts) < EXAMPLES and text not in texts:
                    texts.append(text)
        return found.get("test") or found.get("val") or []


def _lines(text: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines; what is not one is left out."""
    for line in text.split("\n"):
        with contextlib.suppress(ValueError):
            if isinstance(sample := json.loads(line), dict):
                yield sample


def answering(run: Run) -> list[tuple[str, Task]]:
    """The tasks of a run with their names, without a masked language model, which continues and scores no text."""
    members = run.task.members().items()
    return [(name, task) for name, task in members if not isinstance(task, LanguageModelingTask) or task.causal]


def tasks_by_verb(run: Run) -> dict[str, Task]:
    """Verb to the task that answers it; ``embed`` and ``attention`` are answered by the first task of the run.

    If a run has several tasks that score, `ServedRun.scorer` chooses between them.
    """
    found: dict[str, Task] = {}
    for name, task in answering(run):
        for verb in VERBS.get(name, {}):
            found.setdefault(verb, task)
    first = next(iter(run.task.members().values()))
    return found | {"embed": first, "attention": first}


def chosen(runs: dict[str, ServedRun], name: str | None, verb: str) -> ServedRun:
    """The run that a request names, or the first that answers a verb.

    Raises:
        ConfigError: There is no such run, or it does not answer.
    """
    if name is not None and name not in runs:
        raise ConfigError("run", f"no run of this name; there are {', '.join(runs)}")
    among = runs.values() if name is None else [runs[name]]
    for run in among:
        if verb in run.tasks:
            return run
    said = "; ".join(f"{run.name} has {', '.join(run.tasks)}" for run in among)
    what = f"this run does not answer {verb}" if name is not None else f"no run here answers {verb}"
    raise ConfigError("run", f"{what}; {said}")


def check_text(task: Task, text: str) -> None:
    """Checks that a text can be an input.

    Raises:
        ConfigError: The run reads pairs, and the text is not one.
    """
    if isinstance(task, PooledTask) and (flaw := task.flaw(text)):
        raise ConfigError("inputs", *flaw)


def check_prefix(task: Task, ids: Sequence[int] | None) -> tuple[int, ...]:
    """The ids that an output shall start with, checked.

    Raises:
        ConfigError: An id is not a token of the outputs, or the end mark is not last.
    """
    tokenizer = task.tokenizers.get("target", task.tokenizers.get("text"))
    if not ids or tokenizer is None:
        return ()
    if wrong := [i for i in ids if not 0 <= i < tokenizer.vocab_size]:
        raise ConfigError("prefix", f"must be ids below {tokenizer.vocab_size:,}, got {wrong[0]}")
    if tokenizer.eos_id in ids[:-1]:
        raise ConfigError("prefix", "nothing may follow the end mark")
    return tuple(ids)
