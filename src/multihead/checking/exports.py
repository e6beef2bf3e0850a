"""Which formats of ``multihead export`` can hold the model, and whether an exported program computes the same."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path

from multihead.checking.outcome import Finding, Outcome, found, note, ok, skipped
from multihead.checking.subject import Subject, parts_of
from multihead.config.task import SINGLE_TASKS
from multihead.errors import CheckpointError, ConfigError
from multihead.exporting import ctranslate, huggingface, programs
from multihead.exporting.places import drawn
from multihead.exporting.verify import Reference, verify

EXAMPLES = 6


def export(subject: Subject) -> Outcome:
    """Traces the model as `multihead.exporting` does, reads the program back from disk, and compares it."""
    name = subject.config.task.name
    if name not in SINGLE_TASKS:
        return skipped(f"task={name} is not exported as a whole")
    task = subject.shaken(quiet=False)
    decoding = replace(subject.config.decoding, do_sample=False, num_return_sequences=1, num_beams=1)
    reference = Reference(task, decoding)
    rng = random.Random(0)
    examples = [drawn(task, rng) for _ in range(EXAMPLES)]
    can, cannot = [], []
    try:
        with tempfile.TemporaryDirectory(prefix="multihead-doctor-") as folder:
            programs.write(reference, Path(folder), "torch_export")
            runtime = programs.Runtime(Path(folder), reference, "torch_export")
            verify(runtime, reference, examples, reference.outputs(examples, greedy=True), exact=True)
        can.append("torch_export")
    except ConfigError as error:
        cannot.append(f"torch_export: {error.where}: {error.what}.")
    except CheckpointError as error:
        expected = "An exported program computes what the model computes."
        return found("the exported program is another model", Finding(expected, f"{error.what}."))
    for to, check in (
        ("ctranslate2", lambda: ctranslate.check(task, decoding)),
        ("huggingface", lambda: huggingface.family_of(task)),
    ):
        try:
            check()
            can.append(to)
        except ConfigError as error:
            parts = [f"{key}={name}" for key, name in parts_of(subject.config).items()]
            blocks = ", ".join(part for part in parts if part.startswith("model."))
            own = f"no published family has {blocks}" if blocks and to == "huggingface" else ""
            cannot.append(f"{to}: {own or f'{error.where}: {error.what}'}.")
    text = f"{', '.join(can)} {'hold' if len(can) > 1 else 'holds'} it; onnx was not tried"
    return ok(text, *cannot) if "torch_export" in can else note("no program can be traced", *cannot)
