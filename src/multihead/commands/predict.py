"""``predict``: reads lines, answers lines, in order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from multihead.commands.evaluate import run_words
from multihead.commands.explain import take
from multihead.config.check import require_choice
from multihead.errors import ConfigError, DataError

if TYPE_CHECKING:
    from multihead.config.training import DecodingConfig
    from multihead.tasks.base import Task

CHUNK = 512  # lines that are read, sorted by length and answered together where the input is a file or a pipe


def run(words: Sequence[str]) -> int:
    """``multihead predict run=RUN [format=text|jsonl] [part=TASK] [decoding.num_beams=5] < lines``."""
    from rich.console import Console

    from multihead.progress import open_log
    from multihead.run import load
    from multihead.tracking import quiet_lightning

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
    size, number = 1 if sys.stdin.isatty() else CHUNK, 0
    for lines in chunks(sys.stdin.buffer, size):
        flaws = [task.flaw(line) for line in lines]
        good = next((place for place, flaw in enumerate(flaws) if flaw), len(lines))
        for line, outputs in zip(lines[:good], task.predict(lines[:good], decoding, number), strict=True):
            sys.stdout.write(answer(task, line, outputs, form) + "\n")
        sys.stdout.flush()
        if good < len(lines):
            raise DataError(f"input:{number + good + 1}", *flaws[good])
        number += len(lines)
    return 0


def stream(task: Task, decoding: DecodingConfig) -> int:
    """Continues prompts typed at a terminal, each word as it comes."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    for number, (line,) in enumerate(chunks(sys.stdin.buffer, 1), start=1):
        if flaw := task.flaw(line):
            raise DataError(f"input:{number}", *flaw)
        task.stream(line, decoding, write, number - 1)
        write("\n")
    return 0


def chunks(stream: BinaryIO, size: int) -> Iterator[list[str]]:
    r"""Lines of a byte stream, ``size`` at a time, split at ``\n`` only; bytes that are not UTF-8 become U+FFFD."""
    lines: list[str] = []
    for raw in stream:
        lines.append(raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", errors="replace"))
        if len(lines) == size:
            yield lines
            lines = []
    if lines:
        yield lines


def answer(task: Task, line: str, outputs: Sequence[dict[str, Any]], form: str) -> str:
    """One line of output for one line of input: what the task makes of the best, or all of them as a JSON object."""
    if form == "text":
        return task.line(outputs)
    return json.dumps({"input": line, "outputs": outputs}, ensure_ascii=False)
