"""Computes metrics of regression. It needs no torch, so that `multihead.comparing` can use it.

Shapes: N examples; ``...`` is any number of resamples.
"""

from __future__ import annotations

import numpy as np

MOMENTS = 8
"""Number of sums that describe a set of examples; see `moments`."""


def regression_metrics(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns metrics of predicted numbers.

    - ``mse`` and ``mae``: the mean squared error, and the mean absolute error.
    - ``r2``: the coefficient of determination, 1 - mse / variance of the labels.
    - ``pearson``: Pearson's correlation coefficient.
    - ``spearman``: Spearman's rank correlation; equal numbers share the mean of their ranks.

    ``r2`` is left out if all labels are equal. A correlation is left out if all labels, or all predictions, are equal.

    Args:
        predicted: Predictions [N].
        labels: True numbers [N].
    """
    if len(labels) == 0:
        return {}
    errors = predicted - labels
    metrics = {"mse": float(np.square(errors).mean()), "mae": float(np.abs(errors).mean())}
    if np.ptp(labels) > 0:
        metrics["r2"] = 1 - metrics["mse"] / float(np.var(labels))
    if np.ptp(labels) > 0 and np.ptp(predicted) > 0:
        metrics["pearson"] = correlation(predicted, labels)
        metrics["spearman"] = correlation(ranks(predicted), ranks(labels))
    return metrics


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Computes Pearson's correlation coefficient of two columns [N], neither of which is constant."""
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def ranks(numbers: np.ndarray) -> np.ndarray:
    """Returns the rank of each number [N], from 1. Equal numbers share the mean of their ranks."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def moments(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns for each example the numbers whose sums give every metric [N, MOMENTS].

    Predictions and labels are measured from the mean of the labels and in their deviation, so that no digits are lost.
    """
    mean, deviation = labels.mean(), labels.std() or 1.0
    x, y = (predicted - mean) / deviation, (labels - mean) / deviation
    errors = predicted - labels
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y, np.square(errors), np.abs(errors)], axis=-1)


def score_of_moments(sums: np.ndarray, name: str) -> np.ndarray:
    """Computes a metric from sums of `moments` [..., MOMENTS]; a correlation that is 0/0 is 0.

    Args:
        sums: The sums.
        name: mse, mae, r2 or pearson.
    """
    n, x, y, xx, yy, xy, squares, absolutes = (sums[..., i] for i in range(MOMENTS))
    if name == "mse":
        return squares / n
    if name == "mae":
        return absolutes / n
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    if name == "r2":
        return 1 - _ratio(n * (xx - 2 * xy + yy), spread_y)
    return _ratio(n * xy - x * y, np.sqrt(np.maximum(spread_x * spread_y, 0.0)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns ``above / below``, or 0 if ``below`` is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)
