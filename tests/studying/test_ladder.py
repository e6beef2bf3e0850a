"""What a variant is worth, from synthetic losses whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from multihead.studying.ladder import Rung, climb, factor_interval, fit, slopes, worth
from multihead.studying.schedule import Key, Plan

OPTIMUM, EXPONENT = 0.8, 0.3


def rungs(factor=1.0, exponent=EXPONENT, noise=0.0, seed=0, count=5, dear=1.0):
    """Sizes on a line, on which a factor of k has the effect of k times the compute; ``dear`` times as dear."""
    rng = np.random.default_rng(seed)
    found = []
    for size in range(count):
        compute = 3.0**size
        gap = 2.0 * (factor * compute) ** -exponent
        losses = OPTIMUM + gap * np.exp(noise * rng.standard_normal(3))
        found.append(Rung(f"s{size}", dear * compute, losses.tolist()))
    return found


def test_without_noise_the_factor_is_found():
    found = fit(rungs(), rungs(1.3), OPTIMUM)
    assert math.exp(found.difference / found.exponent) == pytest.approx(1.3)
    assert (found.exponent, math.exp(found.intercept)) == pytest.approx((EXPONENT, 2.0))
    own = worth("lm", ("plain", "new"), rungs(), rungs(1.3), OPTIMUM, 0.05)
    assert own.verdict == "better" and own.scale / own.variant_scale == pytest.approx(1.3**EXPONENT)
    assert own.statement.startswith("lm: new is worth 1.30 times the compute of plain (95 % interval 1.30 to 1.30)")


def test_what_costs_more_is_worth_less():
    """A variant that is as good as 1.3 times the compute, but takes twice as much, is worth 0.65."""
    own = worth("lm", ("plain", "new"), rungs(), rungs(1.3, dear=2.0), OPTIMUM, 0.05)
    assert own.factor == pytest.approx(0.65) and own.verdict == "worse"


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """400 ladders with three noisy seeds a size: 95 % of the intervals hold 1.3, and 5 % of equal systems differ."""
    hits = wrong = 0
    for number in range(400):
        ends = factor_interval(fit(rungs(1.0, noise=0.05, seed=(1, number)), rungs(1.3, noise=0.05, seed=(2, number)),
                                   OPTIMUM), 0.05)  # fmt: skip
        hits += ends[0] <= 1.3 <= ends[1]
        same = worth("lm", ("plain", "new"), rungs(noise=0.05, seed=(3, number)), rungs(noise=0.05, seed=(4, number)),
                     OPTIMUM, 0.05)  # fmt: skip
        wrong += same.verdict != "undecided"
    low, high = stats.binom.interval(0.999, 400, 0.95)
    assert low <= hits <= high and 400 - high <= wrong <= 400 - low


def test_fiellers_interval_is_where_students_t_ends():
    """By definition, at both ends r of log k: |difference - r exponent| is t standard errors of it."""
    found = fit(rungs(noise=0.05, seed=8), rungs(1.3, noise=0.05, seed=9), OPTIMUM)
    bound = stats.t.isf(0.025, found.freedom)
    for end in map(math.log, factor_interval(found, 0.05)):
        weights = np.array([1.0, -end])
        error = math.sqrt(weights @ found.covariance @ weights)
        assert abs(found.difference - end * found.exponent) / error == pytest.approx(bound)
    assert found.freedom == 7


def test_lines_that_are_not_parallel_are_told():
    """By hand: 3^-(0.35 x) = 3^-(0.3 (x + y)) at x = 4 gives y = 4 / 6, and k = 3^(2 / 3) there; at x = 0 it is 1."""
    own = worth(
        "lm", ("plain", "new"), rungs(noise=1e-4, seed=1), rungs(exponent=0.35, noise=1e-4, seed=2), OPTIMUM, 0.05
    )
    assert own.exponents_differ and own.at_ends == pytest.approx((1.0, 3 ** (2 / 3)), rel=1e-2)
    assert "Their exponents differ (0.30 and 0.35), so it depends on the compute: 1.00 at the" in own.statement
    assert not slopes(rungs(noise=0.05, seed=1), rungs(1.3, noise=0.05, seed=2), OPTIMUM, 0.05)[1]


def test_a_variant_that_is_better_at_one_end_only_is_undecided():
    """The lines cross between the sizes: the interval of the mean factor is above 1, the factor at one end is not."""
    names, twelve = ("plain", "new"), {"count": 12, "noise": 1e-4}
    own = worth("lm", names, rungs(**twelve), rungs(0.5, exponent=0.36, seed=1, **twelve), OPTIMUM, 0.05)
    assert own.low > 1 and own.at_ends[0] < 1 < own.at_ends[1] and own.verdict == "undecided"
    rising = worth("lm", names, rungs(exponent=-0.01, **twelve), rungs(3.0**-6, seed=1, **twelve), OPTIMUM, 0.05)
    assert rising.at_ends is None and rising.verdict == "undecided"
    assert rising.statement.endswith("Their exponents differ (-0.01 and 0.30), so it depends on the compute")


def test_a_factor_without_bounds_is_not_a_number():
    """Losses that fall by a hair with compute, without noise, would be worth e^700 times and more."""
    own = worth("lm", ("plain", "new"), rungs(exponent=1e-4), rungs(exponent=1e-4, factor=1e300), OPTIMUM, 0.05)
    assert own.verdict == "underpowered" and own.factor is None and "fall too little" in own.statement


def test_what_cannot_be_fitted_is_underpowered():
    two = worth("lm", ("plain", "new"), rungs(count=2), rungs(1.3), OPTIMUM, 0.05)
    assert two.verdict == "underpowered" and "2 sizes have results of new and plain; it takes 3" in two.statement
    assert worth("lm", ("plain", "new"), [], [], OPTIMUM, 0.05, ended=False).verdict == "no result yet"
    below = worth("lm", ("plain", "new"), rungs(), rungs(1.3), 1.5, 0.05)
    assert below.verdict == "underpowered" and "the loss at s4 is not above the optimum 1.5" in below.statement
    level = [rungs(exponent=0.0, noise=0.2, seed=seed) for seed in (11, 12)]
    flat = worth("lm", ("plain", "new"), *level, OPTIMUM, 0.05)
    assert flat.verdict == "underpowered" and "fall too little with compute" in flat.statement


def study():
    """A plan of five sizes, its results, and what its ledger knows beside them; the variant is worth 1.3."""
    sizes = [f"s{i}" for i in range(5)]
    cells = [f"lm.{size}" for size in sizes]
    plan = Plan("plain", ("plain", "new"), tuple(cells), {}, dict.fromkeys(cells, "min"), {}, (1, 2, 3), False)
    results = {
        Key(f"lm.{rung.size}", arm, index): loss
        for arm, line in LINES.items()
        for rung in line
        for index, loss in enumerate(rung.losses)
    }
    facts = {
        "ladder": {"sizes": sizes, "compute": "flops", "optimum": {"lm": OPTIMUM}},
        "sizes": {f"lm.{r.size}/{arm}": {"flops": r.compute / 10} for arm, line in LINES.items() for r in line},
        "steps": {f"lm.{size}/{arm}": 10 for size in sizes for arm in LINES},
    }
    return plan, results, facts


LINES = {"plain": rungs(noise=0.01, seed=5), "new": rungs(1.3, noise=0.01, seed=6)}


def test_a_study_gives_its_sizes_with_their_compute():
    plan, results, facts = study()
    (own,), found = climb(plan, results, facts, {}, True)
    assert found["lm"]["new"] == [Rung(r.size, pytest.approx(r.compute), r.losses) for r in LINES["new"]]
    assert own.verdict == "better" and own.low < 1.3 < own.high
    facts["ladder"]["compute"] = "minutes"
    minutes = {(f"lm.{r.size}", arm): r.compute * (1 + (arm == "new")) for arm, line in LINES.items() for r in line}
    assert climb(plan, results, facts, minutes, True)[0][0].factor == pytest.approx(own.factor / 2)
