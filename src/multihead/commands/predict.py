"""``predict``: reads lines, answers lines, in order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from multihead.commands.evaluate import run_words
from multihead.config.check import require_choice
from multihead.errors import ConfigError

CHUNK = 512  # lines that are read, sorted by length and answered together where the input is a file or a pipe


def run(words: Sequence[str]) -> int:
    """``multihead predict run=RUN [format=text|jsonl] [decoding.num_beams=5] < lines``."""
    from rich.console import Console

    from multihead.progress import open_log
    from multihead.run import load
    from multihead.tracking import quiet_lightning

    runs, words = run_words(words)
    if len(runs) != 1:
        raise ConfigError("run", f"predict takes one run, got {len(runs)}", "run=outputs/...")
    form = "text"
    rest = []
    for word in words:
        if word.startswith("format="):
            form = word.removeprefix("format=")
        else:
            rest.append(word)
    require_choice("format", form, ("text", "jsonl"))
    quiet_lightning()
    open_log(None, Console(stderr=True))  # standard output holds answers only
    loaded = load(runs[0], *rest)
    size = 1 if sys.stdin.isatty() else CHUNK
    for lines in chunks(sys.stdin.buffer, size):
        for line, hypotheses in zip(lines, loaded.hypotheses(lines), strict=True):
            sys.stdout.write(answer(line, hypotheses, form) + "\n")
        sys.stdout.flush()
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


def answer(line: str, hypotheses: Sequence[tuple[str, Any]], form: str) -> str:
    """One line of output for one line of input: the best hypothesis, or all of them as a JSON object."""
    if form == "text":
        return hypotheses[0][0].replace("\n", " ")
    outputs = [{"text": text, "score": round(h.score, 6), "log_prob": round(h.log_prob, 6)} for text, h in hypotheses]
    return json.dumps({"input": line, "outputs": outputs}, ensure_ascii=False)
