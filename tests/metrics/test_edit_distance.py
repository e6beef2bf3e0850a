"""The edit distance is that of the usual table and of torchmetrics, and its corpus scores are sums."""

import random

import numpy as np
import pytest
from torchmetrics.functional.text import char_error_rate
from torchmetrics.functional.text import edit_distance as theirs

from multihead.comparing.per_example import statistics_of
from multihead.metrics.edit_distance import edit_distance, edits
from multihead.metrics.text import CorpusEdits


@pytest.mark.parametrize(
    ("output", "reference", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("same", "same", 0), ("ab", "ba", 2),
     ("Straße", "Strasse", 2), ("a", "b" * 100, 100)],
)  # fmt: skip
def test_by_hand(output, reference, distance):
    assert edit_distance(output, reference) == distance


def by_table(output, reference):
    row = list(range(len(reference) + 1))
    for i, a in enumerate(output, start=1):
        above, row = row, [i]
        for j, b in enumerate(reference, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def drawn(count=60):
    draw = random.Random(0)
    texts = ["".join(draw.choice("ab c") for _ in range(draw.randint(1, 90))) for _ in range(count)]
    return texts, ["".join(c for c in text if draw.random() < 0.8) + draw.choice(["", "ab"]) or "a" for text in texts]


def test_bits_give_what_the_table_gives():
    outputs, references = drawn()
    found = [edit_distance(*pair) for pair in zip(outputs, references, strict=True)]
    assert found == [by_table(*pair) for pair in zip(outputs, references, strict=True)]
    assert sum(found) == int(theirs(outputs, references, reduction="sum"))


@pytest.mark.parametrize("key", ["cer", "edit_similarity"])
def test_corpus_scores_are_torchmetrics_and_by_hand_in_any_batches(key):
    outputs, references = drawn()
    metric = CorpusEdits(key)
    for start in range(0, len(outputs), 7):
        metric.update(outputs[start : start + 7], references[start : start + 7])
    pairs = list(zip(outputs, references, strict=True))
    by_hand = float(np.mean([1 - by_table(a, b) / max(len(a), len(b)) for a, b in pairs]))
    expected = float(char_error_rate(outputs, references)) if key == "cer" else by_hand
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    samples = [{"output": a, "reference": b} for a, b in pairs]
    found = statistics_of(key, [samples])
    assert found is not None
    assert float(found.score(found.runs[0].sum(0))) == pytest.approx(expected, rel=1e-6)
    assert edits("edit_similarity", "", "") == (1.0, 1.0)
