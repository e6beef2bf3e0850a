"""How well an export answers where the right answer is known, beside its run: accuracy, absolute error, or loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from multihead.exporting import places
from multihead.exporting.verify import Example, Reference, Runtime
from multihead.runs.files import whole_lines
from multihead.tasks.classification import ClassificationTask
from multihead.tasks.pooled import PooledTask

MOST = 1000
"""Labelled examples that are measured at most."""


def measured(runtime: Runtime, reference: Reference, run_dir: Path, examples: Sequence[Example]) -> str:
    """A sentence on the run's metric and the export's; empty if no right answers are at hand.

    Classes and numbers are those of the run's test split, which samples.jsonl holds. Of sequences it is the loss on the
    targets of the examples.

    Args:
        runtime: The export.
        reference: The run's model.
        run_dir: The run directory.
        examples: What the export was compared on.
    """
    if isinstance(reference.task, PooledTask):
        rows, labels = labelled(reference.task, run_dir)
        return _of_labels(runtime, reference, rows, labels) if rows else ""
    with_targets = [example for example in examples if example.target]
    if not reference.searches or not with_targets:
        return ""
    ours = _loss([runtime.expected(example) for example in with_targets], with_targets, reference.eos)
    theirs = _loss(runtime.teacher_forced(with_targets), with_targets, reference.eos)
    return (
        f"The loss on the targets of {len(with_targets)} inputs is {theirs:.4f} nats a token; the run's is {ours:.4f}."
    )


def labelled(task: PooledTask, run_dir: Path) -> tuple[list[Example], list[list[int]] | Tensor]:
    """Examples of the test split, and their labels: classes as `Reference.decide` gives them, or numbers [N]."""
    rows = [json.loads(line) for line in whole_lines(run_dir / "samples.jsonl")]
    name = task.settings.name
    rows = [row for row in rows if row["split"] == "test" and row.get("task", name) == name and "label" in row][:MOST]
    pairs = [(places.read(task, row), row["label"]) for row in rows]
    examples = [example for example, _ in pairs if example is not None]
    labels = [label for example, label in pairs if example is not None]
    if isinstance(task, ClassificationTask):
        return examples, [_ids(task, label) for label in labels]
    return examples, torch.tensor(labels, dtype=torch.float64)


def _ids(task: ClassificationTask, label: str | list[str]) -> list[int]:
    if isinstance(label, list):
        return [int(name in label) for name in task.labels]
    return [task.labels.index(label)]


def _of_labels(
    runtime: Runtime, reference: Reference, rows: Sequence[Example], labels: list[list[int]] | Tensor
) -> str:
    """The sentence for classes or numbers."""
    ours, theirs = [runtime.expected(row) for row in rows], runtime.teacher_forced(rows)
    where = f"{len(rows)} labelled inputs of the test split"
    if isinstance(labels, Tensor):
        errors = [float((torch.stack(list(found))[:, 0] - labels).abs().mean()) for found in (theirs, ours)]
        return f"On {where}, the mean absolute error is {errors[0]:.6g}; the run's is {errors[1]:.6g}."
    before, after = ([reference.decide(row) for row in found] for found in (ours, theirs))
    right = [sum(a == b for a, b in zip(found, labels, strict=True)) / len(rows) for found in (after, before)]
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    what = f"On {where}, the accuracy is {right[0]:.1%}; the run's is {right[1]:.1%}"
    return f"{what}. The largest logit is another one on {changed} of them. Thresholds are not applied here."


def _loss(logits: Sequence[Tensor], examples: Sequence[Example], eos: int) -> float:
    """Mean cross-entropy in nats over the targets and their end marks."""
    labels = torch.tensor([token for example in examples for token in (*example.target, eos)])
    return float(F.cross_entropy(torch.cat([row[: len(e.target) + 1] for row, e in zip(logits, examples, strict=True)])
                                 .double(), labels))  # fmt: skip
