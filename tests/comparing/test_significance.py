"""The tests hold their level on identical systems, and agree with scipy, sacreBLEU and examples worked out by hand."""

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from multihead.comparing.per_example import macro_f1, mean, statistics_of
from multihead.comparing.significance import (
    Spread,
    further_deviation,
    further_mean,
    holm,
    mcnemar,
    over_folds,
    over_seeds,
    paired_bootstrap,
    permutation_p,
    resampled,
    score_interval,
    spread,
)

TRIALS = 400
LEAST, MOST = 0.02, 0.09
"""Share of trials in which 5 % tests may find a difference that is none; 400 trials have a standard error of 1.1 %."""


def counted(values):
    """[..., E] to statistics of their mean [..., E, 2]."""
    return np.stack([values, np.ones_like(values)], -1).astype(float)


# ---- known answers


def test_spread_is_students_interval():
    """Student's own data (1908): extra hours of sleep by the second drug, n = 10."""
    sleep = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = spread(sleep)
    assert found.mean == pytest.approx(2.33)
    assert found.deviation == pytest.approx(2.002249, abs=1e-6)
    assert found.low == pytest.approx(2.33 - 2.262157 * 2.002249 / math.sqrt(10), abs=1e-5)  # t(0.975, 9) = 2.262
    expected = stats.ttest_1samp(sleep, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("count", "further"), [(3, 1), (3, 3), (5, 2)])
def test_further_seeds_stay_within_the_prediction_intervals_in_95_of_100_cases(count, further):
    rng = np.random.default_rng(count * 10 + further)
    known, new = (rng.normal(70.0, 2.0, (20_000, number)) for number in (count, further))
    distance, known_deviation = np.abs(new.mean(1) - known.mean(1)), known.std(1, ddof=1)
    allowed = further_mean(1.0, count, further) * known_deviation
    assert np.mean(distance <= allowed) == pytest.approx(0.95, abs=0.006)
    if further > 1:
        wide = further_deviation(1.0, count, further) * known_deviation
        assert np.mean(new.std(1, ddof=1) <= wide) == pytest.approx(0.95, abs=0.006)


def test_one_seed_has_no_interval():
    found = spread([31.5])
    assert (found.mean, found.deviation, found.low, found.high) == (31.5, None, None, None)


def test_mcnemar_by_hand():
    # 1 of 7 discordant pairs: 2 (C(7,0) + C(7,1)) / 2^7 = 16 / 128
    assert mcnemar(1, 6) == pytest.approx(0.125)
    assert mcnemar(6, 1) == pytest.approx(0.125)
    assert mcnemar(3, 8) == pytest.approx(stats.binomtest(3, 11).pvalue)
    # Agresti, Categorical Data Analysis, table 10.1 (approval of the prime minister): 150 and 86 changed their mind,
    # z^2 = (86 - 150)^2 / (86 + 150) = 17.36
    assert mcnemar(150, 86) == pytest.approx(math.erfc(math.sqrt(4096 / 236 / 2)))
    for one, other in ((0, 5), (2, 2), (12, 12), (11, 13)):
        assert mcnemar(one, other) == pytest.approx(stats.binomtest(one, one + other).pvalue)
    assert mcnemar(0, 0) == mcnemar(4, 4) == mcnemar(50, 50) == 1.0


def test_holm_by_hand():
    # sorted 0.005 0.01 0.03 0.04: times 4, 3, 2, 1 = 0.02 0.03 0.06 0.04, and never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_permutation_is_the_sign_flip_test():
    """Fisher's use of Darwin's maize (The Design of Experiments, 1935): of 2^15 sign flips 1726 are as extreme."""
    eighths = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    differences = np.array(eighths, dtype=float)
    p = permutation_p(counted(differences), counted(np.zeros(15)), mean, resamples=20000)
    assert p == pytest.approx(1726 / 2**15, abs=0.006)  # 0.0527; four standard errors
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert exact == pytest.approx(1726 / 2**15)


def test_permutation_of_identical_outputs():
    same = counted(np.arange(30.0))
    assert permutation_p(same, same, mean) == 1.0


def test_permutation_of_a_score_that_is_no_mean():
    """Macro-F1 of 6 examples, all 64 exchanges worked out one by one."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    a, b = np.array([0, 0, 0, 0, 1, 0]), np.array([1, 1, 0, 1, 0, 1])

    def cells(predicted):
        one = np.eye(2)
        return np.stack([one[predicted] * one[labels], one[predicted], one[labels]], -1).reshape(6, -1)

    def score(predicted):
        return float(macro_f1(cells(predicted).sum(0)))

    flips = np.array(list(np.ndindex(*[2] * 6))).astype(bool)
    gaps = [abs(score(np.where(f, b, a)) - score(np.where(f, a, b))) for f in flips]
    expected = np.mean(np.array(gaps) >= abs(score(a) - score(b)) - 1e-12)
    assert 0.1 < expected < 0.9
    assert permutation_p(cells(a), cells(b), macro_f1, resamples=20000) == pytest.approx(expected, abs=0.02)


def test_bootstrap_interval_is_scipys():
    rng = np.random.default_rng(5)
    a = rng.gamma(2.0, size=300)
    b = a * 0.5 + rng.gamma(2.0, size=300)
    low, high, p = paired_bootstrap(1.0, resampled(counted(a), mean), resampled(counted(b), mean))
    expected = stats.bootstrap((a - b,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert p < 0.01


def test_two_seeds_have_a_deviation_and_one_has_none():
    assert spread([3.0]) == Spread(3.0)
    found = spread([1.0, 3.0])
    half = 12.706 * 2**0.5 / 2**0.5  # Student's t with one degree of freedom
    assert (found.mean, found.deviation) == pytest.approx((2.0, 2**0.5))
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-3)


def test_the_interval_of_one_score_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    half = 1.645 * values.std() / 20
    expected = (values.mean() - half, values.mean() + half)
    assert score_interval(counted(values), mean, level=0.9) == pytest.approx(expected, abs=0.03)


def test_a_paired_bootstrap_by_hand():
    """The mean of the absolute differences is 2.5; two of nine are more than 5 above it."""
    first, second = np.array([9.0, 9.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]), np.zeros(9)
    assert paired_bootstrap(5.0, first, second)[2] == (2 + 1) / (9 + 1)
    assert paired_bootstrap(-5.0, second, first)[2] == (2 + 1) / (9 + 1)
    assert paired_bootstrap(6.5, first, second)[2] == (0 + 1) / (9 + 1)  # not above, but as large
    low, high, _ = paired_bootstrap(5.0, np.arange(101.0), np.zeros(101), level=0.9)
    assert (low, high) == pytest.approx((5.0, 95.0))


@pytest.mark.parametrize("worse", [0.21, 0.22, 0.24, 0.30])
@pytest.mark.unhurried
def test_bleu_tests_are_sacrebleus(worse):
    """sacreBLEU's own paired tests of the same outputs: the same p-values, means and intervals, but for the draws."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    references = [" ".join(rng.choice(words, 12)) for _ in range(200)]

    def damaged(share):
        return [" ".join(w if rng.random() > share else "x" for w in line.split()) for line in references]

    outputs = {"a": damaged(0.20), "b": damaged(worse)}
    theirs, randomised = (
        PairedTest(list(outputs.items()), {"bleu": BLEU()}, [references], test_type=kind, n_samples=1000)()[1]
        for kind in ("bs", "ar")
    )
    samples = [
        [{"index": i, "output": o, "reference": r} for i, (o, r) in enumerate(zip(texts, references, strict=True))]
        for texts in outputs.values()
    ]
    found = statistics_of("bleu", samples)
    boots = [resampled(run, found.score) for run in found.runs]
    for run, boot, result in zip(found.runs, boots, theirs["BLEU"], strict=True):
        assert float(found.score(run.sum(0))) == pytest.approx(result.score)
        assert boot.mean() == pytest.approx(result.mean, abs=0.15)
        half = (np.quantile(boot, 0.975) - np.quantile(boot, 0.025)) / 2
        assert half == pytest.approx(result.ci, rel=0.12)
    difference = theirs["BLEU"][0].score - theirs["BLEU"][1].score
    assert paired_bootstrap(difference, *boots)[2] == pytest.approx(theirs["BLEU"][1].p_value, abs=0.05)
    p = permutation_p(*found.runs, found.score)
    assert p == pytest.approx(randomised["BLEU"][1].p_value, abs=0.05)
    assert p < 0.001 if worse == 0.30 else p > 0.001


def test_seeds_alone_are_welchs_test():
    a, b = [81.2, 80.1, 82.7, 81.9], [79.0, 80.3, 78.1]
    expected = stats.ttest_ind(a, b, equal_var=False)
    found = over_seeds(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_one_seed_against_several_takes_their_variance():
    """Student's test of a single value against a sample: t = d / (s sqrt(1 + 1/n)), n - 1 degrees of freedom."""
    b = [79.0, 80.3, 78.1, 79.4]
    t = (82.0 - np.mean(b)) / (np.std(b, ddof=1) * math.sqrt(1 + 1 / 4))
    assert over_seeds([82.0], b).p == pytest.approx(2 * stats.t.sf(t, 3))
    assert over_seeds(b, [82.0]).p == pytest.approx(2 * stats.t.sf(t, 3))


def test_the_variance_of_examples_is_what_different_seeds_share():
    """Seeds that differ by constants: the examples' part is the variance of the difference of the two means."""
    rng = np.random.default_rng(3)
    easy, other = rng.normal(0, 1, 400), rng.normal(0, 1, 400)
    a = np.stack([easy + shift for shift in (0.00, 0.02, 0.04)])
    b = np.stack([other + shift for shift in (0.00, 0.02, 0.04)])
    boots = [np.stack([resampled(counted(run), mean) for run in runs]) for runs in (a, b)]
    found = over_seeds(a.mean(1), b.mean(1), *boots)
    of_examples = (easy - other).var(ddof=1) / 400
    of_seeds = 2 * 0.02**2 / 3
    freedom = (of_examples + of_seeds) ** 2 / (2 * (0.02**2 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(of_examples + of_seeds)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    same = over_seeds(a.mean(1), b.mean(1), boots[0], boots[0])  # shared examples cancel: seeds remain
    assert same.p == pytest.approx(over_seeds(a.mean(1), b.mean(1)).p)


def test_seeds_that_do_not_vary_leave_a_normal_distribution():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.03, 1, 500), rng.normal(0, 1, 500)
    boots = [np.stack([resampled(counted(run), mean, 2000)] * 2) for run in (a, b)]
    found = over_seeds([a.mean()] * 2, [b.mean()] * 2, *boots)
    error = (boots[0][0] - boots[1][0]).std(ddof=1)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.difference) / error))
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error, rel=1e-6)


def test_equal_scores_of_all_runs():
    """Scores that do not vary say nothing about chance, unless no choice of examples changes them either."""
    assert over_seeds([1.0, 1.0], [1.0, 1.0]).p == 1.0
    assert over_seeds([1.0, 1.0], [0.5, 0.5]) is None
    right, wrong = np.ones((2, 50)), np.zeros((2, 50))
    assert over_seeds([1.0, 1.0], [0.0, 0.0], right, wrong).p == 0.0
    apart = np.stack([np.arange(50.0), -np.arange(50.0)])  # the covariance of different runs is below 0
    assert over_seeds([1.0, 1.0], [0.0, 0.0], apart, wrong) is None


# ---- identical systems: about 5 % of trials find a difference


def rate(p_values):
    return float(np.mean(np.array(p_values) < 0.05))


def bleu_like(rng, seeds, examples=150, of_seeds=0.0):
    """Statistics of BLEU for ``seeds`` runs: lengths and matches, with sentences that are hard for all of them."""
    lengths = rng.integers(8, 25, examples)
    ease = rng.beta(6, 3, examples)
    runs = []
    for _ in range(seeds):
        share = np.clip(ease + rng.normal(0, 0.1, examples) + rng.normal(0, of_seeds), 0.02, 0.98)
        totals = np.stack([lengths - n for n in range(4)], -1)
        matches = rng.binomial(totals, share[:, None] ** np.arange(1, 5))
        runs.append(np.concatenate([lengths[:, None], lengths[:, None], matches, totals], -1).astype(float))
    return runs


def rouge_like(rng, seeds, examples=150, of_seeds=0.0):
    ease = rng.normal(0.4, 0.15, examples)
    return [
        counted(100 * np.clip(ease + rng.normal(0, 0.15, examples) + rng.normal(0, of_seeds), 0, 1))
        for _ in range(seeds)
    ]


def predictions(rng, seeds, examples=200, of_seeds=0.0):
    """Labels, and predictions of ``seeds`` runs, on examples that are hard or easy for all of them."""
    labels = rng.integers(0, 3, examples)
    ease = rng.normal(1.0, 1.0, examples)
    runs = []
    for _ in range(seeds):
        right = rng.random(examples) < 1 / (1 + np.exp(-(ease + rng.normal(0, of_seeds))))
        runs.append(np.where(right, labels, (labels + rng.integers(1, 3, examples)) % 3))
    return labels, runs


def accuracy_like(rng, seeds, examples=200, of_seeds=0.0):
    labels, runs = predictions(rng, seeds, examples, of_seeds)
    return [counted((run == labels).astype(float)) for run in runs]


def f1_like(rng, seeds, examples=200, of_seeds=0.0):
    labels, runs = predictions(rng, seeds, examples, of_seeds)
    one = np.eye(3)
    return [np.stack([one[r] * one[labels], one[r], one[labels]], -1).reshape(examples, -1) for r in runs]


def nats_like(rng, seeds, examples=60, of_seeds=0.0):
    """Nats, tokens and bytes of documents of very different lengths."""
    tokens = rng.integers(20, 400, examples).astype(float)
    hard = rng.normal(3.5, 0.4, examples)
    return [
        np.stack([tokens * (hard + rng.normal(0, 0.1, examples) + rng.normal(0, of_seeds)), tokens, tokens * 4], -1)
        for _ in range(seeds)
    ]


def bits(sums):
    from multihead.comparing.per_example import language_score

    return language_score(sums, "bits_per_byte")


def bleu_score(sums):
    from multihead.comparing.per_example import bleu

    return bleu(sums)


KINDS = {
    "bleu": (bleu_like, bleu_score, 0.04),
    "rouge": (rouge_like, mean, 0.04),
    "accuracy": (accuracy_like, mean, 0.3),
    "macro_f1": (f1_like, macro_f1, 0.3),
    "bits_per_byte": (nats_like, bits, 0.05),
}


@pytest.mark.unhurried
def test_sacrebleus_bootstrap_finds_differences_that_are_none_too_often():
    """Why its p-value stands beside that of approximate randomisation and is not the one that decides."""
    rng = np.random.default_rng(11)
    p_values = []
    for trial in range(TRIALS):
        runs = bleu_like(rng, 2)
        boots = [resampled(run, bleu_score, 400, trial) for run in runs]
        difference = float(bleu_score(runs[0].sum(0)) - bleu_score(runs[1].sum(0)))
        p_values.append(paired_bootstrap(difference, *boots)[2])
    assert 0.09 < rate(p_values) < 0.16


@pytest.mark.unhurried
@pytest.mark.parametrize("kind", ["bleu", "rouge", "accuracy", "macro_f1", "bits_per_byte"])
def test_level_of_the_permutation_test(kind):
    make, score, _ = KINDS[kind]
    rng = np.random.default_rng(12)
    p_values = [permutation_p(*make(rng, 2), score, 400, trial) for trial in range(TRIALS)]
    assert LEAST < rate(p_values) < MOST


@pytest.mark.unhurried
@pytest.mark.parametrize(("examples", "least"), [(200, LEAST), (40, 0.002)])
def test_level_of_mcnemar(examples, least):
    """With few discordant pairs (40 examples) the exact test is conservative, as is known of it."""
    rng = np.random.default_rng(13)
    p_values = []
    for _ in range(4 * TRIALS):
        a, b = (run[:, 0] > 0 for run in accuracy_like(rng, 2, examples))
        p_values.append(mcnemar(int((a & ~b).sum()), int((b & ~a).sum())))
    assert least < rate(p_values) < 0.065


@pytest.mark.unhurried
@pytest.mark.parametrize("seeds", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_level_over_seeds_that_vary(kind, seeds):
    make, score, of_seeds = KINDS[kind]
    assert LEAST < rate(over_seeds_trials(make, score, of_seeds, seeds)) < MOST


def over_seeds_trials(make, score, of_seeds, seeds, against=None, resamples=200):
    """P-values of comparing runs of one recipe with runs of the same."""
    rng = np.random.default_rng(14)
    p_values = []
    for trial in range(TRIALS):
        runs = make(rng, seeds + (against or seeds), of_seeds=of_seeds)
        scores = [float(score(run.sum(0))) for run in runs]
        boots = np.stack([resampled(run, score, resamples, trial) for run in runs])
        test = over_seeds(scores[:seeds], scores[seeds:], boots[:seeds], boots[seeds:])
        p_values.append(test.p)
        assert (test.p < 0.05) == (test.low > 0 or test.high < 0)
    return p_values


@pytest.mark.unhurried
@pytest.mark.parametrize("kind", ["rouge", "accuracy"])
def test_level_over_seeds_that_do_not_vary(kind):
    """Runs that differ in single examples only: their noise must not be counted twice."""
    make, score, _ = KINDS[kind]
    assert LEAST < rate(over_seeds_trials(make, score, 0.0, 3)) < MOST


@pytest.mark.unhurried
@pytest.mark.parametrize(("seeds", "against"), [(1, 5), (3, 5)])
def test_level_over_unequal_numbers_of_seeds(seeds, against):
    assert LEAST < rate(over_seeds_trials(rouge_like, mean, 0.04, seeds, against)) < MOST


@pytest.mark.unhurried
def test_a_bootstrap_over_seeds_and_examples_would_not_hold_its_level():
    """Why there is none: far from 5 % in both directions, where the t-test on the same data is at 5 %."""
    found = {}
    for name, of_seeds, seeds in (("vary", 0.1, 2), ("do not", 0.0, 3)):
        rng = np.random.default_rng(15)
        p_values = []
        for trial in range(TRIALS):
            runs = rouge_like(rng, 2 * seeds, of_seeds=of_seeds)
            boots = np.stack([resampled(run, mean, 200, trial) for run in runs])
            sides = [
                block.T[np.arange(200)[:, None], rng.integers(0, seeds, (200, seeds))].mean(1)
                for block in (boots[:seeds], boots[seeds:])
            ]
            below = (sides[0] - sides[1] <= 0).mean()
            p_values.append(2 * min(below, 1 - below))
        found[name] = rate(p_values)
    assert found["vary"] > 0.15
    assert found["do not"] < 0.02


@pytest.mark.unhurried
def test_level_where_equal_seeds_are_correlated():
    """Runs of equal seed that go up and down together: the unpaired test finds fewer false differences, not more."""
    rng = np.random.default_rng(16)
    p_values = []
    for _ in range(TRIALS):
        together = rng.normal(0, 1, 4)
        a, b = (80 + together + rng.normal(0, 0.7, 4) for _ in range(2))
        p_values.append(over_seeds(list(a), list(b)).p)
    assert rate(p_values) < 0.05


def test_power():
    """Differences that are there are found: twice the seeds' standard deviation, with five seeds each."""
    rng = np.random.default_rng(17)
    p_values = []
    for trial in range(100):
        a, b = rouge_like(rng, 10, of_seeds=0.02)[:5], rouge_like(rng, 5, of_seeds=0.02)
        a = [run + np.array([6.0, 0.0]) for run in a]  # other examples altogether, so wider than in truth
        boots = [np.stack([resampled(run, mean, 200, trial) for run in runs]) for runs in (a, b)]
        scores = [[float(mean(run.sum(0))) for run in runs] for runs in (a, b)]
        p_values.append(over_seeds(*scores, *boots).p)
    assert rate(p_values) > 0.7


# ---- folds of a cross-validation


def cross_validated(features, label, held_out=0, folds=5):
    """Accuracies by fold of two rules: a threshold on the first or on the second feature.

    The first ``held_out`` rows of the other folds are not trained on, as if they were a validation split.
    """
    fold_of, scores = np.arange(len(label)) % folds, np.zeros((2, folds))
    for fold in range(folds):
        train, test = np.flatnonzero(fold_of != fold)[held_out:], fold_of == fold
        for rule in range(2):
            x, y = features[train, rule], label[train]
            threshold = (x[y == 1].mean() + x[y == 0].mean()) / 2
            scores[rule, fold] = ((features[test, rule] > threshold) == label[test]).mean()
    return scores


def test_the_corrected_test_by_hand():
    """d = 1, 2, 3 of three folds: mean 2, s = 1, t = 2 / sqrt(1 / 3 + 1 / 2), and 2 degrees of freedom."""
    test = over_folds([11.0, 13.0, 15.0], [10.0, 11.0, 12.0], 1 / 2)
    t = 2 / math.sqrt(1 / 3 + 1 / 2)
    assert test.p == pytest.approx(2 * stats.t.sf(t, 2)) and test.difference == 2.0
    half = stats.t.isf(0.025, 2) * math.sqrt(1 / 3 + 1 / 2)
    assert (test.low, test.high) == pytest.approx((2 - half, 2 + half))
    assert over_folds([1.0], [2.0], 1 / 4) is None and over_folds([1.0, 1.0], [1.0, 1.0], 1 / 4).p == 1.0


def test_folds_that_differ_by_the_same_are_no_proof():
    """Equal systems on two folds of 20 texts often differ by the same number of texts, which once was p = 0."""
    assert over_folds([0.85, 0.90], [0.80, 0.85], 1.0) is None
    rng, found = np.random.default_rng(6), 0
    for _ in range(1000):
        first, second = rng.binomial(20, 0.8, (2, 2)) / 20
        test = over_folds(first, second, 1.0)
        found += test is not None and test.p < 0.05
    assert found / 1000 < 0.03


@pytest.mark.parametrize(("held_out", "ratio"), [(0, 12 / 48), (12, 12 / 36)])
def test_equal_recipes_differ_in_few_cross_validations(held_out, ratio):
    """Four partitions of 400 small sets, whose features are alike: the ordinary t-test is wrong far too often.

    A fold has 12 of the 60 rows. With a validation split of 12 rows, 36 are left to train on.
    """
    corrected = ordinary = 0
    for number in range(400):
        rng = np.random.default_rng((5, number))
        label = rng.integers(0, 2, 60)
        features = label[:, None] * 0.8 + rng.standard_normal((60, 2))
        orders = [rng.permutation(60) for _ in range(4)]
        scores = [cross_validated(features[order], label[order], held_out) for order in orders]
        first, second = np.concatenate(scores, 1)
        corrected += over_folds(first, second, ratio).p < 0.05
        ordinary += stats.ttest_rel(first, second).pvalue < 0.05
    assert corrected / 400 < 0.08 < 0.2 < ordinary / 400
