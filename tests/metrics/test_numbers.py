"""Metrics of regression are SciPy's and scikit-learn's, and so are their sums over resamples."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from multihead.comparing.per_example import statistics_of
from multihead.metrics.regression import regression_metrics


def drawn(seed, count=60, decimals=1):
    draw = np.random.default_rng(seed)
    labels = draw.normal(1000, 3, count).round(decimals)  # rounded, so that there are ties
    return (labels + draw.normal(0.5, 2, count)).round(decimals), labels


def expected(predicted, labels):
    return {
        "mse": theirs.mean_squared_error(labels, predicted),
        "mae": theirs.mean_absolute_error(labels, predicted),
        "r2": theirs.r2_score(labels, predicted),
        "pearson": stats.pearsonr(predicted, labels)[0],
        "spearman": stats.spearmanr(predicted, labels)[0],
    }


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_metrics_are_scipys_and_scikit_learns(decimals):
    predicted, labels = drawn(decimals, decimals=decimals)
    assert regression_metrics(predicted, labels) == pytest.approx(expected(predicted, labels), rel=1e-9)


def test_what_is_undefined_is_left_out():
    three = np.array([1.0, 2.0, 3.0])
    assert regression_metrics(np.full(3, 2.0), three) == {"mse": pytest.approx(2 / 3), "mae": pytest.approx(2 / 3),
                                                          "r2": pytest.approx(0.0)}  # fmt: skip
    assert regression_metrics(three, np.full(3, 2.0)).keys() == {"mse", "mae"}
    assert regression_metrics(three[:0], three[:0]) == {}
    assert regression_metrics(2 * three, three)["pearson"] == regression_metrics(three**3, three)["spearman"] == 1.0


@pytest.mark.parametrize("metric", ["mse", "mae", "r2", "pearson"])
def test_sums_over_resamples_give_the_metric(metric):
    predicted, labels = drawn(7)
    samples = [{"predicted": p, "label": y} for p, y in zip(predicted.tolist(), labels.tolist(), strict=True)]
    found = statistics_of(metric, [samples])
    assert found is not None and found.test == "permutation"
    draw = np.random.default_rng(1)
    rows = [np.arange(60), *(draw.integers(0, 60, 60) for _ in range(20))]
    sums = np.stack([found.runs[0][row].sum(0) for row in rows])
    assert found.score(sums) == pytest.approx([expected(predicted[row], labels[row])[metric] for row in rows])


def test_the_rank_correlation_of_all_examples_is_exact():
    predicted, labels = drawn(3)
    samples = [{"predicted": p, "label": y} for p, y in zip(predicted.tolist(), labels.tolist(), strict=True)]
    found = statistics_of("spearman", [samples])
    assert found is not None
    assert float(found.score(found.runs[0].sum(0))) == pytest.approx(stats.spearmanr(predicted, labels)[0])
    assert statistics_of("loss", [samples]) is None
