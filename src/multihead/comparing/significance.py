"""Tests whether a difference between runs is more than chance, for one seed or several seeds of each system.

Each test example has a few numbers, the sufficient statistics: n-gram matches and lengths for BLEU, correct and 1 for
accuracy, nats and tokens for loss. Each metric is a function of their sums. So one bootstrap and one permutation test
serve all metrics: they resample the sums and need no text.

**One seed each.** The question is whether two *models* differ on texts like these. Chance is the choice of examples.
`permutation_p` (approximate randomisation; Noreen 1989; sacreBLEU's ``--paired-ar``) and `mcnemar` are both paired by
example. The interval comes from `paired_bootstrap` (Koehn 2004, W04-3250). Other seeds may give another result.

**Several seeds.** The question is whether two *recipes* differ. There are two sources of chance: the choice of seeds
and the choice of examples. They are crossed, because all runs read the same examples. `over_seeds` is the analysis of
readers and cases in radiology, with readers nested in the treatment (Obuchowski & Rockette 1995; degrees of freedom by
Hillis 2007, doi:10.1002/sim.2532):

    var(difference) = s_A^2 / n_A + s_B^2 / n_B + max(0, cov_AA + cov_BB - 2 cov_AB)

Here s^2 is the variance of scores between seeds. cov is the covariance, over resampled examples, of the scores of two
*different* runs: the chance that all seeds share because they read the same examples. The noise that examples add to a
single run is already in s^2 and must not be counted twice. Degrees of freedom follow Welch and Satterthwaite, with
chance only in the terms of the seeds. The difference is compared with Student's t.

Why this is not a bootstrap over seeds and examples: with n seeds, that takes (n - 1) / n of their variance for all of
it, and a normal distribution for Student's t. If seeds vary, it finds a difference between identical systems in about
12 % of trials with three seeds, and in 20 % with two. If runs differ only in single examples, it counts that noise
twice and finds nothing (`tests/comparing/test_significance.py` shows both). The t-test holds its 5 % in both cases.

Why runs with the same seed are not paired: a seed gives two different recipes the same order of the data and little
else, so their scores are hardly correlated. Pairing would halve the degrees of freedom: with three seeds, t would have
to pass 4.30 instead of 2.78. If the scores are correlated after all, the unpaired test is conservative, not wrong.

Shapes: E examples, K statistics of an example, R resamples, S and T seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats takes a second to import

RESAMPLES = 5000
LEVEL = 0.95
EXACT_BELOW = 25
"""If there are fewer discordant pairs, McNemar's test is the exact binomial one."""
MOST_FREEDOM = 1e9
"""Degrees of freedom at which Student's t is taken as normal."""
_CELLS = 4_000_000
"""Largest number of cells of a resampling matrix in memory."""

Score = Callable[[np.ndarray], np.ndarray]
"""A function from sums of sufficient statistics [..., K] to scores [...]."""


@dataclass(frozen=True)
class Test:
    """A difference (first minus second), its confidence interval, and the p-value of no difference."""

    __test__ = False  # pytest must not collect this class
    difference: float
    low: float
    high: float
    p: float
    method: str
    also: tuple[tuple[str, float], ...] = ()
    """Names and p-values of further tests of the same difference."""


@dataclass(frozen=True)
class Spread:
    """The mean of scores over seeds, their standard deviation (n - 1), and Student's interval of the mean.

    One seed has neither a deviation nor an interval.
    """

    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


def spread(values: Sequence[float], ratio: float = 0.0) -> Spread:
    """Returns the mean, deviation and interval of the scores of several seeds.

    Args:
        values: The scores.
        ratio: If they are of folds, test rows by training rows; see `over_folds`.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean)
    deviation = float(np.std(values, ddof=1))
    half = _t_quantile((1 + LEVEL) / 2, len(values) - 1) * deviation * (1 / len(values) + ratio) ** 0.5
    return Spread(mean, deviation, mean - half, mean + half)


def further_mean(deviation: float, count: int, further: int) -> float:
    """Returns how far the mean of further scores may be from the mean of the known ones: their prediction interval.

    If all scores are of one normal distribution, the distance is smaller in `LEVEL` of all cases (Hahn and Meeker
    1991, Statistical Intervals). It does not depend on the further scores, so their own noise cannot widen it.

    Args:
        deviation: The standard deviation of the known scores.
        count: Number of known scores, at least 2.
        further: Number of further scores.
    """
    return _t_quantile((1 + LEVEL) / 2, count - 1) * deviation * (1 / count + 1 / further) ** 0.5


def further_deviation(deviation: float, count: int, further: int) -> float:
    """Returns what the standard deviation of at least 2 further scores stays below in `LEVEL` of all cases.

    The arguments are those of `further_mean`. The ratio of the two variances follows the F distribution.
    """
    return deviation * float(special.fdtri(further - 1, count - 1, LEVEL)) ** 0.5


def _t_quantile(share: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, share))


# ---- one run


def proportion_interval(hits: int, count: int) -> tuple[float, float]:
    """Returns the exact interval of the share ``hits / count`` (Clopper and Pearson 1934)."""
    tail = (1 - LEVEL) / 2
    low = float(special.betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def score_interval(statistics: np.ndarray, score: Score, level: float = LEVEL) -> tuple[float, float]:
    """Returns the percentile interval of a score over bootstrap samples of the examples [E, K]."""
    low, high = np.quantile(resampled(statistics, score, 1000), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- one seed each


def resampled(statistics: np.ndarray, score: Score, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Scores bootstrap samples of the examples.

    The samples depend only on the number of examples and ``seed``, so the scores of two runs are paired.

    Args:
        statistics: The statistics [E, K] of a run.
        score: The metric's function from sums to scores.
        resamples: The number R of samples.
        seed: Seed of the draws.

    Returns:
        The scores [R].
    """
    rng = np.random.default_rng(seed)
    count = len(statistics)
    scores = []
    for size in _chunks(resamples, count):
        drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)  # each example in each sample
        scores.append(score(times.astype(np.float64) @ statistics))
    return np.concatenate(scores)


def paired_bootstrap(
    difference: float, first: np.ndarray, second: np.ndarray, level: float = LEVEL
) -> tuple[float, float, float]:
    """Computes the interval and p-value of a difference by paired bootstrap resampling (Koehn 2004).

    The interval is that of percentiles. The p-value is sacreBLEU's (``--paired-bs``): the share of samples in which the
    absolute difference, less its mean over the samples, is above the observed one. For identical systems it is below
    0.05 in about 12 % of trials (`test_significance.py`). So reports also show a test that holds its level.

    Args:
        difference: The observed difference.
        first: Scores [R] of one run on the samples, from `resampled`.
        second: Scores [R] of the other run on the same samples.
        level: Level of the interval.

    Returns:
        The interval's lower and upper end, and the p-value.
    """
    differences = first - second
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    absolute = np.abs(differences)
    beyond = int((absolute - absolute.mean() > abs(difference)).sum())
    return float(low), float(high), (beyond + 1) / (len(differences) + 1)


def permutation_p(
    first: np.ndarray, second: np.ndarray, score: Score, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Returns the two-sided p-value of a paired permutation test, which swaps the outputs of random examples.

    For a mean over examples this is the sign-flip test of the differences. The observed arrangement counts as one of
    the random ones, so p is never 0 (Phipson & Smyth 2010).

    Args:
        first: Statistics [E, K] of one run.
        second: Statistics [E, K] of the other run on the same examples.
        score: The metric's function from sums to scores.
        resamples: The number R of random arrangements.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    both, apart = (first + second).sum(0), (first - second).astype(np.float64)
    observed = abs(float(score(first.sum(0)) - score(second.sum(0))))
    changed = np.flatnonzero(apart.any(1))
    if not len(changed):
        return 1.0
    apart, extreme = apart[changed], 0
    for size in _chunks(resamples, len(apart)):
        signs = rng.integers(0, 2, (size, len(apart)), dtype=np.int8) * 2.0 - 1.0
        tilt = signs @ apart
        differences = np.abs(score((both + tilt) / 2) - score((both - tilt) / 2))
        extreme += int((differences >= observed * (1 - 1e-9) - 1e-12).sum())
    return (extreme + 1) / (resamples + 1)


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the two-sided p-value of McNemar's test (1947) from the examples that only one run has right.

    With fewer than `EXACT_BELOW` of them, it is the exact binomial test, which is conservative. Otherwise it is the
    chi-square test without continuity correction, which holds its level better than the corrected one (Fagerland et
    al. 2013, doi:10.1186/1471-2288-13-91).
    """
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    if discordant < EXACT_BELOW:
        return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), discordant, 0.5)))
    return float(special.chdtrc(1, (only_first - only_second) ** 2 / discordant))


def _chunks(total: int, width: int) -> Iterator[int]:
    """Yields sizes that add up to ``total``. Each has at most `_CELLS` cells."""
    size = max(1, _CELLS // max(1, width))
    for start in range(0, total, size):
        yield min(size, total - start)


# ---- several seeds


def over_seeds(
    first: Sequence[float],
    second: Sequence[float],
    first_resampled: np.ndarray | None = None,
    second_resampled: np.ndarray | None = None,
    level: float = LEVEL,
) -> Test | None:
    """Tests the difference of two recipes' mean scores, with chance in seeds and, if resamples are given, in examples.

    The top of this module explains the method. If a recipe has one seed, its scores are taken to vary between seeds as
    the other's do. Without resamples this is Welch's t-test.

    Args:
        first: Scores of the S runs of one recipe.
        second: Scores of the T runs of the other recipe. S + T is at least 3.
        first_resampled: Scores [S, R] of the first recipe's runs on the same bootstrap samples of the examples.
        second_resampled: Scores [T, R] of the second recipe's runs on these samples.
        level: Level of the interval.

    Returns:
        None if the scores differ but vary by nothing, so that it is not known how much they would vary. Few seeds on a
        small test set often have equal scores by chance.
    """
    counts = len(first), len(second)
    assert sum(counts) >= 3, "one seed each says nothing about seeds"
    variances = [np.var(scores, ddof=1) if len(scores) > 1 else None for scores in (first, second)]
    terms = [  # variance of a mean, and its degrees of freedom
        (float(variance) / count, count - 1)
        for variance, count in zip(variances, counts, strict=True)
        if variance is not None
    ]
    if len(terms) == 1:  # both recipes are taken to vary alike
        variance = float(next(v for v in variances if v is not None))
        terms = [(variance * (1 / counts[0] + 1 / counts[1]), terms[0][1])]
    of_seeds, of_examples = sum(term for term, _ in terms), 0.0
    if first_resampled is not None and second_resampled is not None:
        of_examples = _common(first_resampled, second_resampled)
    total = of_seeds + of_examples
    difference = float(np.mean(first) - np.mean(second))
    method = "t-test over seeds and examples" if first_resampled is not None else "t-test over seeds"
    if total <= 1e-24:
        if abs(difference) < 1e-12:
            return Test(difference, difference, difference, 1.0, method)
        if first_resampled is None or second_resampled is None:
            return None
        if max(np.ptp(first_resampled, 1).max(), np.ptp(second_resampled, 1).max()) > 1e-12:
            return None
        return Test(difference, difference, difference, 0.0, method)  # the same scores, whatever the examples
    noise = sum(term**2 / freedom for term, freedom in terms)
    freedom = min(total**2 / noise, MOST_FREEDOM) if noise > 0 else MOST_FREEDOM
    error = total**0.5
    half = _t_quantile((1 + level) / 2, freedom) * error
    p = 2 * float(special.stdtr(freedom, -abs(difference) / error))
    return Test(difference, difference - half, difference + half, p, method)


def over_folds(first: Sequence[float], second: Sequence[float], ratio: float, level: float = LEVEL) -> Test | None:
    """Tests the difference of two recipes by the folds of a cross-validation: the corrected resampled t-test.

    The folds share training rows, so the differences are correlated, and an ordinary t-test finds differences between
    equal recipes far too often. The variance of the mean is (1 / J + n_test / n_train) s^2 for J folds instead of
    s^2 / J (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366; for repeated cross-validation Bouckaert and Frank
    2004, doi:10.1007/978-3-540-24775-3_3). With k folds a partition, n_test / n_train is 1 / (k - 1) if all rows of the
    other folds are trained on. It is larger if a validation split is held out of them.

    Args:
        first: Scores of one recipe by fold.
        second: Scores of the other recipe on the same folds.
        ratio: n_test / n_train, the rows of a fold by those that were trained on.
        level: Level of the interval.

    Returns:
        None if there is one fold only, or if all folds differ by the same amount: then it is not known how much the
        differences vary. On small folds, a few equal differences are often chance.
    """
    differences = np.subtract(first, second)
    count, method = len(differences), "corrected resampled t-test over folds"
    if count < 2:
        return None
    difference = float(differences.mean())
    error = float(np.std(differences, ddof=1)) * (1 / count + ratio) ** 0.5
    if error <= 1e-12:
        return Test(difference, difference, difference, 1.0, method) if abs(difference) < 1e-12 else None
    half = _t_quantile((1 + level) / 2, count - 1) * error
    p = 2 * float(special.stdtr(count - 1, -abs(difference) / error))
    return Test(difference, difference - half, difference + half, p, method)


def _common(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the difference's variance over examples for infinitely many seeds: cov_AA + cov_BB - 2 cov_AB.

    Args:
        first: Resampled scores [S, R] of one recipe.
        second: Resampled scores [T, R] of the other.
    """
    count = len(first)
    covariance = np.cov(np.concatenate([first, second]))  # [S + T, S + T]
    within = []
    for block in (covariance[:count, :count], covariance[count:, count:]):
        size = len(block)
        if size > 1:
            within.append((block.sum() - np.trace(block)) / (size * (size - 1)))
    across = covariance[:count, count:].mean()
    return max(0.0, float(sum(within) * 2 / len(within) - 2 * across))


# ---- many comparisons


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm 1979), so that the chance of a false discovery stays below the level."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = highest
    return corrected
