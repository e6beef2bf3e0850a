"""The sequential test against scipy, simulation and numbers worked by hand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from multihead.studying.sequential import (
    Design,
    bounds,
    crossing,
    detectable,
    found_different,
    interval,
    power,
    t_statistic,
)


def simulated_t(seeds: int, count: int, seed: int) -> np.ndarray:
    """t [count, seeds - 2] after 3, 4, ... seeds of Gaussian differences, computed from their definition."""
    values = np.random.default_rng(seed).normal(0, 3, (count, seeds))
    found = []
    for n in range(3, seeds + 1):
        part = values[:, :n]
        found.append(part.mean(1) * math.sqrt(n) / part.std(1, ddof=1))
    return np.stack(found, 1)


@pytest.mark.parametrize(("level", "seeds"), [(0.05, 4), (0.05, 10), (0.2, 6)])
def test_each_look_spends_its_share_of_the_level(level, seeds):
    """The share of equal systems that crosses a bound up to seed n is level * (n / seeds)^2, by simulation."""
    count = 200_000
    crossed = np.abs(simulated_t(seeds, count, 1)) > np.array(bounds(level, seeds))
    for n in range(3, seeds + 1):
        wanted = level * (n / seeds) ** 2
        error = math.sqrt(wanted * (1 - wanted) / count)
        assert crossed[:, : n - 2].any(1).mean() == pytest.approx(wanted, abs=4.5 * error)


def test_the_usual_bound_at_each_look_would_be_wrong_too_often():
    """So the test above can fail: Student's quantile at each of eight looks gives 15 % for 5 %."""
    quantiles = stats.t.ppf(0.975, np.arange(2, 10))
    assert (np.abs(simulated_t(10, 50_000, 2)) > quantiles).any(1).mean() > 0.14


def test_one_look_is_the_t_test():
    assert bounds(0.05, 7, 7) == pytest.approx([stats.t.ppf(0.975, 6)])
    assert bounds(0.05, 10)[0] == pytest.approx(stats.t.isf(0.05 * 0.09 / 2, 2))


@pytest.mark.unhurried
def test_the_grid_is_fine_enough():
    assert bounds(0.05 / 6, 8) == pytest.approx(bounds(0.05 / 6, 8, 3, 400), rel=0.005)


@pytest.mark.unhurried
def test_a_higher_level_has_lower_bounds():
    """Holm's method needs this: what is decided at one step stays decided at the next."""
    for seeds in (3, 6, 12):
        for strict, loose in itertools.pairwise(bounds(0.05 / m, seeds) for m in (6, 4, 3, 2, 1)):
            assert all(a > b for a, b in zip(strict, loose, strict=True))


def test_t_and_interval_are_those_of_scipy():
    differences = [0.3, -0.1, 0.8, 0.45, 0.2]
    assert t_statistic(differences) == pytest.approx(stats.ttest_1samp(differences, 0).statistic)
    once = Design(comparisons=2, most=5, alpha=0.1, every_seed=False)
    expected = stats.t.interval(0.95, 4, loc=np.mean(differences), scale=stats.sem(differences))
    assert interval(differences, once) == pytest.approx(expected)
    assert interval(differences[:4], once) is None


def test_equal_differences_say_nothing():
    """Three equal differences of a coarse metric have no deviation; the test does not call that certain."""
    design = Design(comparisons=1, most=5)
    assert t_statistic([0.1, 0.1, 0.1]) == t_statistic([0.0, 0.0]) == 0.0
    assert crossing([0.1, 0.1, 0.1, 0.1], design.bounds(), design.first) == 0
    assert interval([0.1, 0.1, 0.1], design) is None


def test_a_comparison_is_decided_at_the_first_look_that_crosses():
    """By hand: [1, 2, 3] has t = 2 / (1 / sqrt 3) = 3.46, and [1, 2, 3, 2] has t = 2 / (0.816 / 2) = 4.90."""
    assert t_statistic([1, 2, 3]) == pytest.approx(3.4641, abs=1e-4)
    assert t_statistic([1, 2, 3, 2]) == pytest.approx(4.8990, abs=1e-4)
    assert crossing([-1, -2, -3, -2], [3.5, 4.8], 3) == -4
    assert crossing([1, 2, 3, 2], [3.4, 4.8], 3) == 3
    assert crossing([1, 2, 3], [3.5, 4.8], 3) == 0


def with_p(p: float, n: int = 6) -> list[float]:
    """Differences of which the t-test has this p-value."""
    values = np.array([-1.0, 1.0, -0.5, 0.5, -0.2, 0.2])[:n]
    values = (values - values.mean()) / values.std(ddof=1)
    return list(values + stats.t.isf(p / 2, n - 1) / math.sqrt(n))


def test_several_comparisons_are_corrected_as_holm_does():
    """p of 0.01, 0.02, 0.03, 0.2 at 0.05: 0.01 < 0.05 / 4, but 0.02 > 0.05 / 3, and the rest is not looked at."""
    design = Design(comparisons=4, most=6, every_seed=False)
    paths = {name: with_p(p) for name, p in {"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.2}.items()}
    assert stats.ttest_1samp(paths["b"], 0).pvalue == pytest.approx(0.02)
    assert found_different(paths, design) == {"a": 1}
    paths = {name: with_p(p) for name, p in {"a": 0.01, "b": 0.016, "c": 0.02, "d": 0.2}.items()}
    paths["c"] = [-x for x in paths["c"]]
    assert found_different(paths, design) == {"a": 1, "b": 1, "c": -1}


def test_power_is_that_of_scipys_noncentral_t():
    design = Design(comparisons=2, most=6, every_seed=False)
    bound = stats.t.isf(0.0125, 5)
    for effect in (0.8, 1.5):
        expected = stats.nct.sf(bound, 5, effect * math.sqrt(6))
        assert power(effect, design) == pytest.approx(expected, abs=0.012)
    assert power(detectable(design, 0.8), design) == pytest.approx(0.8, abs=0.01)


def test_fewer_seeds_detect_less():
    design = Design(comparisons=3, most=8)
    found = [detectable(design, 0.8, seeds) for seeds in (4, 6, 8)]
    assert found == sorted(found, reverse=True) and detectable(design, 0.8, 2) == math.inf
    assert power(0.0, design) < 0.02  # half of the level is on each side


def test_folds_share_training_rows():
    """By hand: t = mean / (s sqrt(1 / 5 + 1 / 4)), with Student's bound at one look."""
    design, folds = Design(1, 5, every_seed=False, ratio=1 / 4), [1.0, 2.0, 3.0, 2.0, 2.0]
    error = np.std(folds, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    half = stats.t.isf(0.025, 4) * error
    assert interval(folds, design) == pytest.approx((2 - half, 2 + half))
    assert found_different({"a": folds}, design) == ({"a": 1} if half < 2 else {})
    assert interval(folds, replace(design, ratio=0.0))[0] > interval(folds, design)[0]


def test_the_power_of_folds_is_that_of_correlated_differences():
    """The noncentral t with the error of the mean that all folds share."""
    design = Design(1, 10, every_seed=False, ratio=1 / 4)
    effect = detectable(design, 0.8)
    shift = effect / math.sqrt(1 / 10 + 1 / 4)
    assert stats.nct.sf(stats.t.isf(0.025, 9), 9, shift) == pytest.approx(0.8, abs=0.015)
