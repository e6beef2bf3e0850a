"""Sums of sufficient statistics give the scores of sacreBLEU, torchmetrics and the formulae."""

import math

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from torchmetrics.functional.text.rouge import rouge_score

from multihead.comparing.per_example import rouge, statistics_of
from multihead.metrics.classification import class_metrics, label_set_metrics

REFERENCES = ["The cat sat on the mat.", "A dog barked at the red cat!", "Übung macht den Meister.", "No", "It rains."]
OUTPUTS = ["The cat sat on a mat.", "A dog barks at a Red cat!", "Übung macht Meister .", "", "Sun shines today"]


def texts(outputs, references):
    return [{"index": i, "output": o, "reference": r} for i, (o, r) in enumerate(zip(outputs, references, strict=True))]


def subsets(count):
    """Draws with replacement, as a bootstrap makes them; the single examples first."""
    rng = np.random.default_rng(0)
    return [[i] for i in range(count)] + [list(rng.integers(0, count, 4)) for _ in range(30)]


@pytest.mark.parametrize(
    ("metric", "scorer"), [("bleu", BLEU()), ("bleu_lowercase", BLEU(lowercase=True)), ("chrf", CHRF())]
)
def test_bleu_and_chrf_are_sacrebleus(metric, scorer):
    found = statistics_of(metric, [texts(OUTPUTS, REFERENCES)])
    rows = subsets(len(OUTPUTS))
    sums = np.array([found.runs[0][row].sum(0) for row in rows])
    expected = [scorer.corpus_score([OUTPUTS[i] for i in row], [[REFERENCES[i] for i in row]]).score for row in rows]
    assert found.score(sums) == pytest.approx(expected)
    assert len(set(np.round(expected, 3))) > 15
    assert found.test == "bootstrap"


@pytest.mark.parametrize("key", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_torchmetrics(key):
    more = ["b a c d e a b", "the the the cat", "same words here", "", "x"]
    other = ["a b c d a e b", "the cat the", "same words here", "", ""]
    pairs = [*zip(OUTPUTS + more, REFERENCES + other, strict=True)]
    expected = [float(rouge_score(o, r, rouge_keys=key)[f"{key}_fmeasure"]) for o, r in pairs]
    assert [rouge(key, o, r) for o, r in pairs] == pytest.approx(expected, abs=1e-6)
    found = statistics_of(key, [texts(*zip(*pairs, strict=True))])
    assert float(found.score(found.runs[0].sum(0))) == pytest.approx(100 * np.mean(expected), abs=1e-4)


def test_rouge_by_hand():
    """Lin 2004, section 3: police killed the gunman against police kill the gunman: 3 of 4 words in order."""
    assert rouge("rougeL", "police kill the gunman", "police killed the gunman") == 0.75
    assert rouge("rougeL", "the gunman kill police", "police killed the gunman") == 0.5
    assert rouge("rouge2", "the gunman kill police", "police killed the gunman") == pytest.approx(1 / 3)


NAMES = ["ham", "spam", "other", "never"]


def classified(labels, predicted, probabilities):
    by_name = [dict(zip(NAMES, map(float, row), strict=True)) for row in probabilities]
    return [
        {"index": i, "text": "t", "label": NAMES[a], "predicted": NAMES[b], "probabilities": p}
        for i, (a, b, p) in enumerate(zip(labels, predicted, by_name, strict=True))
    ]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc", "f1/spam", "f1/never"])
def test_classes_are_torchmetrics(metric):
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    probabilities = np.eye(4)[predicted]
    found = statistics_of(metric, [classified(labels, predicted, probabilities)])
    for row in [list(range(40)), *(list(rng.integers(0, 40, 6)) for _ in range(20))]:
        expected = class_metrics(
            torch.tensor(probabilities[row]), torch.tensor(predicted[row]), torch.tensor(labels[row]), NAMES
        )
        assert float(found.score(found.runs[0][row].sum(0))) == pytest.approx(expected[metric], abs=1e-6)
    assert found.test == ("mcnemar" if metric == "accuracy" else "permutation")


def test_loss_of_classes():
    probabilities = [[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.7, 0.0], [0.0, 1.0, 0.0, 0.0]]
    found = statistics_of("loss", [classified([0, 1, 0], [0, 2, 1], probabilities)])
    expected = (math.log(2) + math.log(5) - math.log(5e-7)) / 3  # the last: half of what six decimals can show
    assert float(found.score(found.runs[0].sum(0))) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "micro_f1", "f1/spam", "mcc"])
def test_label_sets_are_torchmetrics(metric):
    rng = np.random.default_rng(2)
    labels, predicted = rng.random((30, 4)) < 0.4, rng.random((30, 4)) < 0.4
    labels[:, 3] = predicted[:, 3] = False
    sets = [[[name for name, has in zip(NAMES, row, strict=True) if has] for row in x] for x in (labels, predicted)]
    samples = [
        {"index": i, "text": "t", "label": a, "predicted": b, "probabilities": dict.fromkeys(NAMES, 0.5)}
        for i, (a, b) in enumerate(zip(*sets, strict=True))
    ]
    found = statistics_of(metric, [samples])
    expected = label_set_metrics(
        torch.tensor(predicted).float(), torch.tensor(predicted).long(), torch.tensor(labels).long(), NAMES
    )
    assert float(found.score(found.runs[0].sum(0))) == pytest.approx(expected[metric], abs=1e-6)


def test_language_models_by_hand():
    """2 bits for each of 10 tokens of 4 bytes, and 4 bits for each of 30 tokens of 2 bytes."""
    two, four = 10 * 2 * math.log(2), 30 * 4 * math.log(2)
    samples = [
        {"index": 0, "nats": two, "tokens": 10, "bytes": 40},
        {"index": 1, "nats": four, "tokens": 30, "bytes": 60},
    ]
    expected = {"loss": 3.5 * math.log(2), "perplexity": 2**3.5, "bits_per_byte": 1.4}
    for metric, value in expected.items():
        found = statistics_of(metric, [samples])
        assert float(found.score(found.runs[0].sum(0))) == pytest.approx(value)


def test_what_examples_do_not_tell():
    assert statistics_of("loss", [texts(OUTPUTS, REFERENCES)]) is None
    assert statistics_of("auroc", [classified([0], [0], [[1.0, 0, 0, 0]])]) is None
    assert statistics_of("f1/nobody", [classified([0], [0], [[1.0, 0, 0, 0]])]) is None
    assert statistics_of("token_accuracy", [[{"index": 0, "nats": 1.0, "tokens": 1, "bytes": 1}]]) is None
    assert statistics_of("bleu", [[]]) is None
