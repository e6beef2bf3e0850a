"""Whether a difference between runs is more than chance: intervals, resampling, and what several seeds allow to say.

Every metric here is a function of the sum over test examples of a few numbers per example, its sufficient statistics
(BLEU: n-gram matches and lengths; accuracy: correct and 1; loss: nats and tokens). So one bootstrap and one permutation
test serve them all: they resample sums, and never look at text again.

**One seed each.** The question is whether two *models* differ on texts like these. Chance is the choice of examples:
`permutation_p` (approximate randomisation; Noreen 1989; sacreBLEU's ``--paired-ar``) or `mcnemar`, both paired by
example, with the interval of the `paired_bootstrap` (Koehn 2004, W04-3250). Nothing is said about other seeds.

**Several seeds.** The question is whether two *recipes* differ, and there are two sources of chance: which seeds were
drawn, and which examples. All runs read the same examples, so the two are crossed. `over_seeds` is the analysis of
readers and cases in radiology, where readers are nested in the treatment (Obuchowski & Rockette 1995; degrees of
freedom by Hillis 2007, doi:10.1002/sim.2532):

    var(difference) = s_A^2 / n_A + s_B^2 / n_B + max(0, cov_AA + cov_BB - 2 cov_AB)

where s^2 is the variance of scores between seeds, and cov the covariance over resampled examples of the scores of two
*different* runs: what all seeds have in common by reading the same examples. The noise of examples that a run has to
itself is in s^2 already and must not be counted twice. Degrees of freedom follow Welch and Satterthwaite, with chance
in the seeds' terms only, and the difference is compared with Student's t.

Why not a bootstrap over seeds and examples: with n seeds it takes (n - 1) / n of their variance for the whole, and a
normal distribution for Student's t, so where seeds vary it finds a difference between identical systems in about 12 %
of trials with three seeds and in 20 % with two; where runs differ in single examples only, it counts that noise twice
and finds nothing (`tests/comparing/test_significance.py` shows it). The t-test holds its 5 % in both.

Why runs with the same seed are not paired: a seed gives two different recipes the same order of the data and little
else, so their scores are hardly correlated, and pairing would halve the degrees of freedom (three seeds: t has to pass
4.30 instead of 2.78). Where they are correlated after all, the unpaired test is conservative, not wrong.

Shapes: E examples, K statistics of an example, R resamples, S and T seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats takes a second to import, and what is needed of it is in here

RESAMPLES = 5000
LEVEL = 0.95
EXACT_BELOW = 25
"""Discordant pairs below which McNemar's test is the exact binomial one."""
MOST_FREEDOM = 1e9
"""Degrees of freedom at which Student's t is normal for us."""
_CELLS = 4_000_000
"""Most cells of a resampling matrix in memory at once."""

Score = Callable[[np.ndarray], np.ndarray]
"""Sums of sufficient statistics [..., K] to scores [...]."""


@dataclass(frozen=True)
class Test:
    """A difference (first minus second), its confidence interval, and the p-value of there being none."""

    __test__ = False  # no test of pytest's
    difference: float
    low: float
    high: float
    p: float
    method: str
    also: tuple[tuple[str, float], ...] = ()
    """Further tests of the same difference, by name, with their p-values."""


@dataclass(frozen=True)
class Spread:
    """Scores over seeds: their mean, standard deviation (n - 1), and Student's interval of the mean.

    With one seed there is neither deviation nor interval.
    """

    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


def spread(values: Sequence[float], level: float = LEVEL) -> Spread:
    """Mean, deviation and interval of scores of several seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean)
    deviation = float(np.std(values, ddof=1))
    half = _t_quantile((1 + level) / 2, len(values) - 1) * deviation / len(values) ** 0.5
    return Spread(mean, deviation, mean - half, mean + half)


def _t_quantile(share: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, share))


# ---- one run


def proportion_interval(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a share from ``hits`` of ``count`` examples (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = float(special.betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def score_interval(statistics: np.ndarray, score: Score, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of a score over bootstrap samples of the examples [E, K]."""
    low, high = np.quantile(resampled(statistics, score, 1000), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- one seed each


def resampled(statistics: np.ndarray, score: Score, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Scores of bootstrap samples of the examples.

    The samples depend on the number of examples and ``seed`` alone: the scores of two runs are paired.

    Args:
        statistics: [E, K].
        score: From sums to scores.
        resamples: R.
        seed: Of the draws.

    Returns:
        [R].
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
    """Interval and p-value of a difference by paired bootstrap resampling (Koehn 2004).

    The interval is that of percentiles. The p-value is sacreBLEU's (``--paired-bs``): the share of samples in which the
    absolute difference, less its mean over the samples, is above the observed one. On identical systems it is below
    0.05 in about 12 % of trials (`test_significance.py`), so it is shown beside a test that holds its level.

    Args:
        difference: The observed one.
        first: Scores of one run on the samples [R], from `resampled`.
        second: The other's, on the same samples.
        level: Of the interval.

    Returns:
        Low, high, p.
    """
    differences = first - second
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    absolute = np.abs(differences)
    beyond = int((absolute - absolute.mean() > abs(difference)).sum())
    return float(low), float(high), (beyond + 1) / (len(differences) + 1)


def permutation_p(
    first: np.ndarray, second: np.ndarray, score: Score, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p-value of a paired permutation test: each example's outputs change sides or stay, at random.

    For a mean over examples this is the sign-flip test of the differences. The observed arrangement counts as one of
    the random ones, so p is never 0 (Phipson & Smyth 2010).

    Args:
        first: Statistics of one run [E, K].
        second: The other's, of the same examples.
        score: From sums to scores.
        resamples: R.
        seed: Of the draws.
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
    """Two-sided p-value of McNemar's test (1947) from the examples that one run alone has right.

    Below `EXACT_BELOW` of them it is the exact binomial test, which is conservative; from there on the chi-square test
    without continuity correction, which holds its level better than with it (Fagerland et al. 2013,
    doi:10.1186/1471-2288-13-91).
    """
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    if discordant < EXACT_BELOW:
        return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), discordant, 0.5)))
    return float(special.chdtrc(1, (only_first - only_second) ** 2 / discordant))


def _chunks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to ``total``, each of at most `_CELLS` cells."""
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
) -> Test:
    """Difference of two recipes' mean scores, with chance in seeds and, where resamples are given, in examples.

    See the top of this module for the method and its reasons. A recipe with one seed is taken to vary from seed to
    seed as the other does. Without resamples this is Welch's t-test.

    Args:
        first: Scores of one recipe's S runs.
        second: Of the other's T runs; S + T is at least 3.
        first_resampled: Scores of the first's runs on the same bootstrap samples of the examples [S, R].
        second_resampled: Of the second's [T, R].
        level: Of the interval.
    """
    counts = len(first), len(second)
    assert sum(counts) >= 3, "one seed each says nothing about seeds"
    variances = [np.var(scores, ddof=1) if len(scores) > 1 else None for scores in (first, second)]
    terms = [  # variance of a mean, and its degrees of freedom
        (float(variance) / count, count - 1)
        for variance, count in zip(variances, counts, strict=True)
        if variance is not None
    ]
    if len(terms) == 1:  # the seeds of both vary alike
        variance = float(next(v for v in variances if v is not None))
        terms = [(variance * (1 / counts[0] + 1 / counts[1]), terms[0][1])]
    of_seeds, of_examples = sum(term for term, _ in terms), 0.0
    if first_resampled is not None and second_resampled is not None:
        of_examples = _common(first_resampled, second_resampled)
    total = of_seeds + of_examples
    difference = float(np.mean(first) - np.mean(second))
    method = "t-test over seeds and examples" if first_resampled is not None else "t-test over seeds"
    if total <= 1e-24:  # every run has the same score, whatever the examples
        return Test(difference, difference, difference, float(abs(difference) < 1e-12), method)
    noise = sum(term**2 / freedom for term, freedom in terms)
    freedom = min(total**2 / noise, MOST_FREEDOM) if noise > 0 else MOST_FREEDOM
    error = total**0.5
    half = _t_quantile((1 + level) / 2, freedom) * error
    p = 2 * float(special.stdtr(freedom, -abs(difference) / error))
    return Test(difference, difference - half, difference + half, p, method)


def _common(first: np.ndarray, second: np.ndarray) -> float:
    """Variance over examples of the difference that infinitely many seeds would have: cov_AA + cov_BB - 2 cov_AB.

    Args:
        first: [S, R].
        second: [T, R].
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
    """P-values corrected for their number (Holm 1979): the chance of any false discovery stays below the level."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = highest
    return corrected
