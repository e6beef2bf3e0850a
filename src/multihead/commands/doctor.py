"""``doctor`` checks whether a model with a plugin's parts still is a Transformer that trains, decodes and resumes."""

from __future__ import annotations

import json
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multihead.config.compose import Composition, compose
from multihead.config.model import ModelConfig
from multihead.config.settings import read_words
from multihead.config.slots import SLOTS, added_choices
from multihead.config.verbs import DoctorSettings
from multihead.errors import ConfigError

if TYPE_CHECKING:
    from multihead.checking.outcome import Outcome
    from multihead.checking.subject import Subject

DEFAULT = "task=translation"
"""The task if none is given: it has both stacks and all kinds of attention."""
CHECKED = ("model.", "optim.", "task.")
"""The beginnings of the keys that choose a part which the doctor checks."""
ONLY = "the doctor checks parts of the model, heads, losses, optimizers, schedules and tasks"
"""What a plugin must bring to be checked."""
BELOW = " " * len("  expected: ")
"""Where a line of a finding goes on."""
NOT_HEALTHY = 2
"""Exit status if there are findings, or if nothing was checked."""


@dataclass(frozen=True)
class Examination:
    """A model that is ready to be checked."""

    settings: DoctorSettings
    subject: Subject
    baseline: Subject | None
    about: dict[str, Any]
    """What is checked, as plain data."""

    @classmethod
    def of(cls, words: Sequence[str]) -> Examination:
        """Builds the model that the words describe.

        Raises:
            ConfigError: If the words are not valid.
        """
        from multihead.capabilities import limit_threads
        from multihead.checking.subject import parts_of, subjects

        settings, words = read_words(DoctorSettings, words)
        composition, added = composed(words)
        limit_threads()
        subject, baseline, notes = subjects(composition)
        config, plugin = subject.config, subject.plugin
        about: dict[str, Any] = {
            "words": [*words, *added],
            "task": config.task.name,
            "task_of": plugin.name if plugin and config.task.name in plugin.tasks else "",
            "changed": parts_of(config),
            "notes": notes,
        }
        return cls(settings, subject, baseline, about)

    def outcomes(self) -> Iterator[Outcome]:
        """Yields the outcome of each check when it is done."""
        from multihead.checking.examination import examine

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch")
            yield from examine(self.subject, self.baseline, self.settings.checks, self.settings.seconds)


def run(words: Sequence[str]) -> int:
    """Runs ``multihead doctor``; see `DoctorSettings`."""
    examination = Examination.of(words)
    settings, about = examination.settings, examination.about
    from multihead.checking.report import as_json, is_healthy, paragraphs, table, verdict
    from multihead.runs.screen import report_console

    outcomes = []
    for outcome in examination.outcomes():
        outcomes.append(outcome)
        if settings.format == "table" and sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{outcome.name}: {outcome.status}")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if settings.format == "json":
        sys.stdout.write(json.dumps(as_json(outcomes, about), indent=1) + "\n")
    else:
        console = report_console()
        console.print(_head(about, examination.subject.config.model), markup=False, soft_wrap=not sys.stdout.isatty())
        console.print(table(outcomes))
        for line in "\n".join(paragraphs(outcomes)).split("\n"):
            console.print(_wrapped(line, console.width), markup=False, soft_wrap=True)
        console.print(f"\n{verdict(outcomes)}", markup=False)
    return 0 if is_healthy(outcomes) else NOT_HEALTHY


def composed(words: Sequence[str]) -> tuple[Composition, list[str]]:
    """The configuration, and the words that were added: a task, and the parts of the plugin if there is no choice.

    Raises:
        ConfigError: The words are not valid, the plugin adds several parts of a kind and none is chosen, or nothing of
            the plugin would be checked.
    """
    keys = {word.partition("=")[0] for word in words}
    added = [] if keys & {"task", "experiment"} else [DEFAULT]
    composition = compose([*words, *added])
    plugin, config = composition.plugin, composition.config
    if plugin is None or config.task.name in plugin.tasks or any(k.startswith(CHECKED) for k in added_choices(config)):
        return composition, added
    offered = {slot: list(getattr(plugin, slot.field)) for slot in SLOTS.values() if slot.key.startswith(CHECKED)}
    offered = {slot: names for slot, names in offered.items() if names}
    if plugin.tasks and not offered:
        what = f"{plugin.name} adds the task {', '.join(plugin.tasks)}"
        raise ConfigError("task", what, f"add task={next(iter(plugin.tasks))} data=...")
    if not any(slot.key not in keys for slot in offered):
        what = f"nothing of {plugin.name} would be checked"
        fixes = [f"{slot.key}={names[0]}" for slot, names in offered.items()]
        raise ConfigError("plugin", what, f"add {' '.join(fixes)}" if fixes else f"leave it out: {ONLY}")
    for slot, names in offered.items():
        if len(names) > 1:
            what = f"the plugin adds {', '.join(names)}: which one should be checked?"
            raise ConfigError(slot.key, what, f"{slot.key}={names[0]}")
        if slot.key not in keys:
            added.append(f"{slot.key}={names[0]}")
    return compose([*words, *added]), added


def _wrapped(line: str, width: int) -> str:
    """A line of a finding; what does not fit goes on below the beginning of its text, and no path is cut."""
    return textwrap.fill(line, width, subsequent_indent=BELOW, break_long_words=False, break_on_hyphens=False)


def _head(about: dict[str, Any], model: ModelConfig) -> str:
    """One line about what is checked."""
    own = f" of {about['task_of']}" if about["task_of"] else ""
    parts = [f"{key}={value}" for key, value in about["changed"].items()]
    changed = ", ".join([f"task={about['task']}{own}", *(parts or ([] if own else ["no part of a plugin"]))])
    layers = f"{model.num_encoder_layers} + {model.num_decoder_layers} layers of width {model.d_model}"
    return "\n".join([f"{changed}; {layers}", f"on {', '.join(about['notes'])}", ""])
