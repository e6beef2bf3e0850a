"""``predict``: reads lines, answers lines, in order."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from multihead.config.check import require_choice
from multihead.config.words import run_words, take
from multihead.errors import ConfigError, DataError
from multihead.text.inputs import lines_of

if TYPE_CHECKING:
    from multihead.config.training import DecodingConfig
    from multihead.tasks.base import Task

log = logging.getLogger("multihead")

CHUNK = 512  # lines that are read, sorted by length and answered together where the input is a file or a pipe


def run(words: Sequence[str]) -> int:
    """``multihead predict run=RUN [format=text|jsonl] [part=TASK] [decoding.num_beams=5] < lines``."""
    from rich.console import Console

    from multihead.runs.loggers import quiet_lightning
    from multihead.runs.progress import open_log
    from multihead.runs.run import load

    runs, words = run_words(words)
    if len(runs) != 1:
        raise ConfigError("run", f"predict takes one run, got {len(runs)}", "run=outputs/...")
    form, words = take(words, "format")
    part, words = take(words, "part")
    form = form or "text"
    require_choice("format", form, ("text", "jsonl"))
    quiet_lightning()
    open_log(None, Console(stderr=True))  # standard output holds answers only
    loaded = load(runs[0], *words)
    task, decoding = loaded.task.member(part), loaded.config.decoding
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty() and form == "text"
    if at_terminal and hasattr(task, "stream") and decoding.num_beams == decoding.num_return_sequences == 1:
        return stream(task, decoding)
    size = 1 if sys.stdin.isatty() else CHUNK
    strict = loaded.config.data.on_bad_line == "error"
    said = Said()
    try:
        for lines in chunks(sys.stdin.buffer, size, strict, said):
            flaws = [task.flaw(line) for line in lines]
            good = next((place for place, flaw in enumerate(flaws) if flaw), len(lines))
            cut = said.truncated(task.too_long(lines[:good]))
            answers = task.predict(lines[:good], decoding, said.lines)
            for line, outputs, was_cut in zip(lines[:good], answers, cut, strict=True):
                sys.stdout.write(answer(task, line, outputs, form, was_cut) + "\n")
            sys.stdout.flush()
            said.lines += good
            if good < len(lines):
                raise DataError(f"input:{said.lines + 1}", *flaws[good])
    finally:
        said.say()
    return 0


@dataclass
class Said:
    """What standard error says once, at the end."""

    lines: int = 0
    """Lines that were answered."""
    cut: list[int] = field(default_factory=list)
    """Numbers of the lines that are longer than the model reads."""
    not_utf8: list[int] = field(default_factory=list)
    """Numbers of the lines in which U+FFFD stands for what is not UTF-8."""

    def truncated(self, cut: Sequence[bool]) -> Sequence[bool]:
        """Keeps which of the next lines are too long."""
        self.cut += [self.lines + place for place, was_cut in enumerate(cut, start=1) if was_cut]
        return cut

    def say(self) -> None:
        """Warns of what happened to lines."""
        for numbers, what in (
            (self.cut, "longer than the model reads, and was cut"),
            (self.not_utf8, "not UTF-8, and was read with U+FFFD in place of such bytes"),
        ):
            if numbers:
                log.warning("%s of the input: %s; the first is input:%d", _lines(len(numbers)), what, numbers[0])


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def stream(task: Task, decoding: DecodingConfig) -> int:
    """Continues prompts typed at a terminal, each word as it comes."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    said = Said()
    for number, (line,) in enumerate(chunks(sys.stdin.buffer, 1, False, said)):
        task.stream(line, decoding, write, number)
        write("\n")
    said.say()
    return 0


def chunks(stream: BinaryIO, size: int, strict: bool, said: Said) -> Iterator[list[str]]:
    """Lines of a byte stream, ``size`` at a time; those before a line that is an error come first (`lines_of`)."""
    lines: list[str] = []
    number = 0
    try:
        for number, (line, is_utf8) in enumerate(lines_of(stream, strict), start=1):
            lines.append(line)
            if not is_utf8:
                said.not_utf8.append(number)
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
    """One line of output for one line of input: what the task makes of the best, or all of them as a JSON object."""
    if form == "text":
        return task.line(outputs)
    return json.dumps({"input": line, "outputs": outputs, "truncated": truncated}, ensure_ascii=False)
