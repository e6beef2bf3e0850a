"""``predict`` reads lines and answers each of them with a line, in order; or the rows of a file."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from multihead.config.found_data import stated_keys
from multihead.config.keys import leaf_keys
from multihead.config.settings import read_words
from multihead.config.task import TASKS
from multihead.config.verbs import PredictSettings
from multihead.errors import DataError
from multihead.runs.answers import Places, answers, inputs_of, places_of, read, write
from multihead.text.inputs import lines_of

if TYPE_CHECKING:
    from multihead.config.training import DecodingConfig
    from multihead.tasks.base import Task
    from multihead.tasks.language_modeling import LanguageModelingTask

log = logging.getLogger("multihead")

CHUNK = 512
"""Lines of a file or a pipe that are read, sorted by length and answered together."""


def run(words: Sequence[str]) -> int:
    """Runs ``multihead predict``; see `PredictSettings`."""
    settings, words = read_words(PredictSettings, words)
    of_data = [word for word in words if word.startswith("data.")] if settings.file else []
    stated = stated_keys(of_data, leaf_keys(TASKS.values()))
    places = places_of(settings, stated) if settings.file else None
    from rich.console import Console

    from multihead.runs.console import open_log
    from multihead.runs.run import load
    from multihead.tasks.language_modeling import LanguageModelingTask

    open_log(None, Console(stderr=True))  # standard output holds answers only
    loaded = load(settings.run, *words, ensemble=settings.ensemble)
    task, decoding = loaded.task.member(settings.part), loaded.config.decoding
    if places is not None:
        roles = inputs_of(places, task.settings, loaded.config.data, stated)
        return answer_file(task, decoding, places, read(places, roles, loaded.config.data.on_bad_line), roles)
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty() and settings.format == "text"
    one_output = decoding.num_beams == decoding.num_return_sequences == 1
    if at_terminal and one_output and isinstance(task, LanguageModelingTask):
        return stream(task, decoding)
    size = 1 if sys.stdin.isatty() else CHUNK
    strict = loaded.config.data.on_bad_line == "error"
    notes = Notes()
    try:
        for lines in chunks(sys.stdin.buffer, size, strict, notes):
            flaws = ((place, flaw) for place, line in enumerate(lines) if (flaw := task.flaw(line)))
            good, flaw = next(flaws, (len(lines), None))
            cut = notes.truncated(task.too_long(lines[:good]))
            answers = task.predict(lines[:good], decoding, notes.lines)
            for line, outputs, was_cut in zip(lines[:good], answers, cut, strict=True):
                sys.stdout.write(answer(task, line, outputs, settings.format, was_cut) + "\n")
            sys.stdout.flush()
            notes.lines += good
            if flaw is not None:
                raise DataError(f"input:{notes.lines + 1}", *flaw)
    finally:
        notes.log()
    return 0


def answer_file(
    task: Task,
    decoding: DecodingConfig,
    places: Places,
    table: tuple[list[str], dict[str, list[str]]],
    roles: Mapping[str, str],
) -> int:
    """Answers all inputs of a file, and writes the answers with the columns that are kept."""
    texts, kept = table
    named = ", ".join(f"{role}={column}" for role, column in roles.items())
    log.info("%s: %s; %s", places.path, places.table.described(), named)
    if cut := sum(task.too_long(texts)):
        log.warning("%s of the input: longer than the model reads, so they were cut", _lines(cut))

    def rows() -> Iterator[dict[str, Any]]:
        for start in range(0, len(texts), CHUNK):
            part = texts[start : start + CHUNK]
            for place, found in enumerate(answers(task, task.predict(part, decoding, start)), start):
                yield {name: cells[place] for name, cells in kept.items()} | found

    write(places, rows(), len(texts))
    return 0


@dataclass
class Notes:
    """What is logged once, at the end, about the lines of the input."""

    lines: int = 0
    """Number of lines that were answered."""
    cut: list[int] = field(default_factory=list)
    """Line numbers of the lines that are longer than the model reads."""
    not_utf8: list[int] = field(default_factory=list)
    """Line numbers of the lines that are not UTF-8 and were read with U+FFFD in place of those bytes."""

    def truncated(self, cut: Sequence[bool]) -> Sequence[bool]:
        """Records which of the next lines are too long."""
        self.cut += [self.lines + place for place, was_cut in enumerate(cut, start=1) if was_cut]
        return cut

    def log(self) -> None:
        """Logs one warning for each kind of line."""
        for numbers, what in (
            (self.cut, "longer than the model reads, so they were cut"),
            (self.not_utf8, "not UTF-8, so they were read with U+FFFD in place of the wrong bytes"),
        ):
            if numbers:
                log.warning("%s of the input: %s; the first is input:%d", _lines(len(numbers)), what, numbers[0])


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def stream(task: LanguageModelingTask, decoding: DecodingConfig) -> int:
    """Continues prompts typed at a terminal, each word as it comes."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    notes = Notes()
    for number, (line,) in enumerate(chunks(sys.stdin.buffer, 1, False, notes)):
        task.stream(line, decoding, write, number)
        write("\n")
    notes.log()
    return 0


def chunks(stream: BinaryIO, size: int, strict: bool, notes: Notes) -> Iterator[list[str]]:
    """Yields the lines of a byte stream, ``size`` at a time; the lines before an error come before it is raised."""
    lines: list[str] = []
    number = 0
    try:
        for number, (line, is_utf8) in enumerate(lines_of(stream, strict), start=1):
            lines.append(line)
            if not is_utf8:
                notes.not_utf8.append(number)
            if len(lines) == size:
                yield lines
                lines = []
    except DataError:
        if lines:
            yield lines
        raise
    if lines:
        yield lines


def answer(task: Task, line: str, outputs: Sequence[dict[str, Any]], form: str, truncated: bool = False) -> str:
    """Returns the output line for an input line: the task's text for the best output, or all outputs as JSON."""
    if form == "text":
        return task.line(outputs)
    return json.dumps({"input": line, "outputs": outputs, "truncated": truncated}, ensure_ascii=False)
