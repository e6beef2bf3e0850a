"""What an export costs where the right answers are known: counted by hand on examples and a run that are made up."""

import json

import pytest
import torch
import torch.nn.functional as F
from tiny import drawn, new_task, reference

from multihead.exporting import accuracy


class Flipped:
    """An export whose logits are those of the run, but for the examples at some places."""

    def __init__(self, ours, places=(), shift=0.0):
        self.ours, self.places, self.shift = ours, places, shift

    def expected(self, example):
        return self.ours.logits(example)

    def teacher_forced(self, examples):
        found = [self.expected(example) + self.shift for example in examples]
        return [-row if place in self.places else row for place, row in enumerate(found)]


def write_samples(folder, rows):
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_classes(tmp_path):
    task = new_task("task=classification")
    ours, texts = reference(task), ["the man", "a bike", "red house", "big"]
    _, examples = [], [accuracy.places.read(task, {"text": text}) for text in texts]
    chosen = [task.labels[ours.decide(ours.logits(example))[0]] for example in examples]
    labels = [*chosen[:3], next(name for name in task.labels if name != chosen[3])]  # the run has 3 of 4 right
    rows = [{"split": "test", "text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    write_samples(tmp_path, [*rows, {"split": "val", "text": "on", "label": chosen[0]}])
    flipped = Flipped(ours, places=(0,))
    changed = ours.decide(-ours.logits(examples[0])) != ours.decide(ours.logits(examples[0]))
    said = accuracy.measured(flipped, ours, tmp_path, [])
    assert changed and "On 4 labelled inputs of the test split, the accuracy is 50.0%; the run's is 75.0%" in said
    assert "another one on 1 of them" in said
    write_samples(tmp_path, [])
    assert accuracy.measured(flipped, ours, tmp_path, []) == ""


def test_numbers(tmp_path):
    task = new_task("task=regression")
    ours = reference(task)
    given = float(ours.logits(accuracy.places.read(task, {"text": "the man"})))
    write_samples(tmp_path, [{"split": "test", "text": "the man", "label": given + 1.0}])
    said = accuracy.measured(Flipped(ours, shift=-0.5), ours, tmp_path, [])
    assert "the mean absolute error is 1.5; the run's is 1." in said.replace("1.50000", "1.5")


def test_sequences(tmp_path):
    task = new_task("task=translation")
    ours, examples = reference(task), drawn(task, 3)
    logits = torch.cat([ours.logits(example) for example in examples])
    labels = torch.tensor([token for example in examples for token in (*example.target, ours.eos)])
    loss = float(F.cross_entropy(logits, labels))
    said = accuracy.measured(Flipped(ours), ours, tmp_path, examples)
    assert said.startswith("The loss on the targets of 3 inputs is")
    assert float(said.split(" is ")[1].split()[0]) == pytest.approx(loss, abs=1e-4)
