"""The examples of a comparison, and the place of a finished export."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multihead.errors import ConfigError, MachineError
from multihead.exporting.verify import Example
from multihead.runs.files import whole_lines
from multihead.tasks.base import Task
from multihead.tasks.language_modeling import LanguageModelingTask
from multihead.tasks.pooled import PooledTask

DRAWN_LENGTHS = (4, 12)
"""Smallest and largest number of tokens of an input that is drawn."""


def examples(task: Task, run_dir: Path, count: int) -> list[Example]:
    """Inputs with targets: the run's test samples, then its validation samples, then ids drawn from the tokenizer.

    Args:
        task: A single task.
        run_dir: The run directory, which holds samples.jsonl.
        count: Number of examples.
    """
    path, name = run_dir / "samples.jsonl", task.settings.name
    rows = [json.loads(line) for line in whole_lines(path)]
    rows = [row for row in rows if row.get("task", name) == name]
    rows = [row for row in rows if row["split"] == "test"] + [row for row in reversed(rows) if row["split"] != "test"]
    found, seen = [], set()
    for row in rows:
        example = read(task, row)
        key = None if example is None else tuple(example.source)
        if example is not None and key not in seen and len(found) < count:
            found.append(example)
            seen.add(key)
    rng = random.Random(0)
    while len(found) < count:
        found.append(drawn(task, rng))
    return found


def read(task: Task, row: dict[str, Any]) -> Example | None:
    """A sample as ids, cut to the length that the model reads; None if it has no input."""
    max_len, tokenizers = task.config.model.max_len, task.tokenizers
    if isinstance(task, PooledTask):
        return _whole_row(task, [row[role] for role in ("text", "text_b") if role in row])
    source, target = row.get("source"), row.get("reference") or row.get("output")
    if not source or not target:
        return None
    if isinstance(task, LanguageModelingTask):
        prompt, whole = task.encode(source)[: max(1, max_len // 2)], task.encode(source + target)
        return Example(prompt, whole[len(prompt) : max_len])
    limits = task.limits()
    source_ids = tokenizers["source"].encode_batch([source])[0][: limits["source"]]
    target_ids = tokenizers["target"].encode_batch([target])[0][: limits["target"]]
    return Example(source_ids, target_ids) if source_ids and target_ids else None


def _whole_row(task: Task, texts: list[str]) -> Example | None:
    """The text, or the two texts, between the marks of the tokenizer."""
    if not texts:
        return None
    marks, limits = task.tokenizers["text"], task.limits()
    row, first = [*marks.start], 0
    for role, text in zip(("text", "text_b"), texts, strict=False):
        row += marks.between if role == "text_b" else ()
        first = len(row) if role == "text_b" else 0
        row += task.tokenizers[role].encode_batch([text])[0][: limits[role]]
    row += marks.end
    typed = first and getattr(task, "typed", False)
    return Example(row, [], [int(place >= first) for place in range(len(row))] if typed else None)


def drawn(task: Task, rng: random.Random) -> Example:
    """An example of ids that are drawn evenly from the entries that are not special."""
    name, max_len = task.settings.name, task.config.model.max_len
    room = max(1, (max_len - 4) // 2)

    def draw(role: str) -> list[int]:
        tokenizer = task.tokenizers.get(role) or task.tokenizers["text"]
        size = min(room, rng.randint(*DRAWN_LENGTHS))
        plain = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids] or [0]
        return [rng.choice(plain) for _ in range(size)]

    source, target = draw("source"), draw("target")
    marks = task.tokenizers.get("target") or task.tokenizers["text"]
    if isinstance(task, PooledTask):
        return Example([*marks.start, *source, *marks.end], [])
    if name == "lm":
        return Example([*marks.opening, *source], target)
    return Example(source, target)


@contextlib.contextmanager
def put_in_place(out: Path) -> Iterator[Path]:
    """An empty folder that is moved to ``out`` at the end. If the body fails, the folder is deleted.

    Raises:
        ConfigError: ``out`` exists and is not an earlier export.
        MachineError: ``out`` cannot be written.
    """
    out = Path(os.path.abspath(out))  # out=. has a name only then
    if out.exists() and not (out / "verification.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError("out", f"{out} exists already and is not an earlier export", "out=ANOTHER")
    beside, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        beside.mkdir(parents=True)
        yield beside
        if out.exists() and out.samefile(os.curdir):  # a shell stands in it, so that the folder itself stays
            old.mkdir()
            for source, target in ((out, old), (beside, out)):
                for file in list(source.iterdir()):
                    os.rename(file, target / file.name)
            return
        if out.exists():
            os.rename(out, old)
        os.rename(beside, out)
    except OSError as error:
        raise MachineError(str(out), f"cannot be written ({error.strerror or error})", "out=ANOTHER") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
