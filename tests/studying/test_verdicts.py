"""The words of a verdict, and what they say about it."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from multihead.studying.collect import RunRow, StudyReport, SystemRow, unequal
from multihead.studying.latex import latex
from multihead.studying.outlook import capability, outline, paid, prospect, purchase
from multihead.studying.report import counts
from multihead.studying.schedule import Key, Plan
from multihead.studying.sequential import Design, power
from multihead.studying.verdicts import Verdict, judge, overall

SEEDS = 6


def plan(**changes) -> Plan:
    """One look, so that a verdict is that of Student's t-test at 0.05 / 2."""
    base = {
        "baseline": "plain",
        "arms": ("plain", "rms"),
        "tasks": ("bleu", "loss"),
        "metrics": {"bleu": "val/bleu", "loss": "val/loss"},
        "better": {"bleu": "max", "loss": "min"},
        "words": {},
        "seeds": tuple(range(SEEDS)),
        "every_seed": False,
    }
    return Plan(**base | changes)


def results(bleu: float, loss: float, scale: float = 1.0) -> dict:
    """Results whose differences between rms and plain have these means and the deviation ``scale``."""
    noise = np.array([-1.0, 1.0, -0.5, 0.5, -0.2, 0.2])
    noise *= scale / noise.std(ddof=1)
    found = {}
    for task, gap in (("bleu", bleu), ("loss", loss)):
        for i in range(SEEDS):
            found[Key(task, "plain", i)] = 10.0
            found[Key(task, "rms", i)] = 10.0 + gap + float(noise[i])
    return found


def test_better_and_worse_follow_the_direction_of_the_metric():
    """A difference of 3 with a deviation of 1 over 6 seeds has t = 7.3; the bound is 3.16."""
    bleu, loss = judge(plan(), results(3.0, 3.0), 0.8)
    assert (bleu.verdict, loss.verdict) == ("better", "worse")
    half = stats.t.isf(0.0125, 5) / math.sqrt(6)
    assert bleu.statement == (
        f"bleu: rms is better than plain by 3.0 BLEU (95 % interval {3 - half:.1f} to {3 + half:.1f}; 6 seeds)"
    )
    assert loss.statement.startswith("loss: rms is worse than plain by 3.0 loss (95 % interval")
    assert (loss.difference, loss.low) == (pytest.approx(3.0), pytest.approx(3 - half))
    (found,) = overall(plan(), [bleu, loss])
    assert found.verdict == "undecided"
    assert found.statement == "rms: it depends on the task (better on bleu; worse on loss)"


def test_a_verdict_whose_interval_contains_zero_says_by_what_it_was_decided():
    """t = 2.8 lies between the bounds of both steps of Holm's method for 5 degrees of freedom: 3.16 and 2.57."""
    bleu, loss = judge(plan(), results(2.8 / math.sqrt(6), 3.0), 0.8)
    assert (bleu.verdict, loss.verdict) == ("better", "worse") and bleu.low is not None and bleu.low < 0
    assert bleu.statement.endswith("6 seeds); Holm's method decides this, although the interval contains 0")
    assert "Holm" not in loss.statement


def test_what_is_not_distinguishable_names_the_difference_that_would_have_been_seen():
    bleu, _ = judge(plan(), results(0.2, 0.0, scale=2.0), 0.8)
    assert bleu.verdict == "undecided" and bleu.detectable is not None
    bound = stats.t.isf(0.0125, 5)
    assert stats.nct.sf(bound, 5, bleu.detectable / 2 * math.sqrt(6)) == pytest.approx(0.8, abs=0.01)
    seen = f"a difference of {bleu.detectable:.1f} BLEU would have been seen with probability 0.8"
    gap = "difference +0.2 BLEU, 95 % interval -2.4 to 2.8, 6 seeds"
    assert f"rms and plain are not distinguishable with this budget ({gap}): {seen}" in bleu.statement


def test_underpowered_means_that_what_matters_could_not_have_been_seen():
    """The number of seeds grows with the square of detectable / smallest."""
    bleu, loss = judge(plan(smallest={"bleu": 1.0, "loss": 9.0}), results(0.2, 0.2, scale=2.0), 0.8)
    assert bleu.verdict == "underpowered" and loss.verdict == "undecided"
    assert f"but 1 matters, which takes about {math.ceil(6 * bleu.detectable**2)} seeds" in bleu.statement
    assert "loss: rms and plain do not differ by as much as 9 loss (difference +0.2 loss" in loss.statement
    (found,) = overall(plan(), [bleu, loss])
    assert found.verdict == "undecided"


def test_before_the_first_look_nothing_is_said():
    known = {key: value for key, value in results(3.0, 3.0).items() if key.index < 2}
    for found in judge(plan(), known, 0.8):
        assert found.verdict == "underpowered" and found.low is None
        assert "are not distinguishable yet" in found.statement
    (found,) = overall(plan(), judge(plan(), known, 0.8))
    assert found.verdict == "underpowered" and "too few runs to show a difference" in found.statement
    assert "no seed has a result of both" in judge(plan(), {}, 0.8)[0].statement


def test_better_on_one_task_and_worse_on_none_is_better():
    (found,) = overall(plan(), judge(plan(), results(3.0, 0.1), 0.8))
    assert found.verdict == "better"
    assert found.statement == (
        "rms is better than plain on 1 of 2 tasks, and worse on none (better on bleu; undecided on loss)"
    )


def test_what_a_study_can_see_is_said_before_it_starts():
    """One look at 6 seeds and 0.05 / 2: the noncentral t gives the same difference."""
    text = capability(plan(smallest={"bleu": 2.0}), 0.8)
    effect = float(text.partition("a difference of ")[2].split(" ")[0])
    assert stats.nct.sf(stats.t.isf(0.0125, 5), 5, effect * math.sqrt(6)) == pytest.approx(0.8, abs=0.01)
    assert f"bleu: 2 BLEU is found if that deviation is at most {2 / effect:.2g} BLEU" in text
    assert "no difference can be found" in capability(plan(every_seed=True), 0.8, seeds=2)


def test_what_is_compared_is_said_without_a_measurement():
    assert outline(plan(), "parameters") == (
        "bleu by val/bleu (higher is better), loss by val/loss (lower is better); equal: parameters\n"
        "4 runs a seed; 2 comparisons with plain. If all systems are equal, the probability that any is called "
        "different is at most 0.05.\n6 seeds, with one look after the last"
    )
    assert "at most 6 seeds, with a look after each from seed 3 on" in outline(plan(every_seed=True), "none")
    assert prospect(plan(budget=60.0), 0.8).startswith("if the budget pays all 6 seeds, a difference of ")
    assert prospect(plan(), 0.8).startswith("with 6 seeds, a difference of ")


@pytest.mark.parametrize(
    ("budget", "search", "seeds"), [(0, 0, 10), (1800, 0, 4), (1800, 900, 2), (60, 0, 1), (1e6, 0, 10)]
)
def test_the_budget_pays_so_many_seeds(budget, search, seeds):
    assert paid(plan(seeds=tuple(range(10)), budget=budget), 450.0, search) == seeds


def test_a_budget_that_does_not_pay_all_seeds_finds_less_and_has_a_way_out():
    """A seed takes 7.5 minutes, so that 30 minutes pay 4 of 10 seeds and 75 minutes pay all."""
    short = plan(seeds=tuple(range(10)), every_seed=True, budget=1800.0)
    text = purchase(short, 0.8, 450.0, 0.0)
    assert text.startswith("the budget pays about 4 of 10 seeds; with 4 seeds, a difference of ")
    now, smaller, more = (
        float(number) for number in re.findall(r"([\d.]+) (?:standard )?deviations (?:of|with) ", text)
    )
    assert power(now, Design(2, 10), 4) == pytest.approx(0.8, abs=0.01)
    assert power(smaller, Design(2, 4)) == pytest.approx(0.8, abs=0.01)
    assert power(more, Design(2, 10)) == pytest.approx(0.8, abs=0.01)
    assert now > smaller > more
    assert "write max_seeds: 4 and type a new name= (finds " in text and "or type budget=75m for all 10 seeds" in text
    text = purchase(short, 0.8, 900.0, 0.0)  # two seeds, and the first look is at three
    assert "with 2 seeds, no difference can be found, because the first look is at 3 seeds" in text
    assert "type budget=45m for 3 seeds, or type budget=150m for all 10 seeds" in text and "max_seeds" not in text
    text = purchase(plan(budget=1800.0), 0.8, 450.0, 0.0)  # listed seeds have one look
    assert "with 4 seeds, no difference can be found" in text and "write only 4 seeds and type a new name=" in text
    assert purchase(plan(), 0.8, 450.0, 0.0) == capability(plan(), 0.8)


def test_a_study_that_goes_on_has_no_result_before_its_first_look():
    found = judge(plan(), {}, 0.8, ended=False)
    assert {verdict.verdict for verdict in found} == {"no result yet"}
    assert found[0].statement == "bleu: no result yet, because no seed has a result of rms and plain"
    assert [one.statement for one in overall(plan(), found)] == ["rms: no result yet"]
    later = judge(plan(), results(3.0, 0.1), 0.8, ended=False)
    assert later == judge(plan(), results(3.0, 0.1), 0.8)


def system(task: str, name: str, parameters: int, minutes: float) -> SystemRow:
    return SystemRow(task, name, 3, 1.0, 0.1, 1.0, 0.1, parameters, 1e6, 1e3, minutes)


def test_what_was_not_equal_after_all_is_said():
    rows = [system("lm", "plain", 10_000, 2.0), system("lm", "rms", 10_090, 2.2), system("lm", "big", 10_200, 2.05)]
    assert unequal(rows, "plain", "parameters") == ["lm: big has +2.0% parameters relative to plain"]
    assert unequal(rows, "plain", "minutes") == ["lm: rms has +10.0% minutes relative to plain"]
    assert unequal(rows, "plain", "none") == []


def test_one_run_is_no_plural():
    report = StudyReport("s", "?", "none", "plain", 0.05, 0.8, False, [], [], [], [], {}, {}, 1, 3, 0.5, 1)
    run = RunRow("lm", "plain", 1, "complete", 1.0, 30.0, 1, "", "")
    assert counts(report).startswith("0 runs (none), 0.5 minutes of runs.") and "read 1 time, and" in counts(report)
    assert counts(replace(report, runs=[run], test_looks=2)).startswith("1 run (1 complete), ")
    assert "read 2 times, and" in counts(replace(report, test_looks=2))


PLACES = {"plain": 1.0, "rms": 3.0, "big": 2.0}
"""Test means; rms has the best one in each case."""


@pytest.mark.parametrize(
    ("rms", "big", "bold"),
    [
        ("undecided", "underpowered", []),  # the best mean alone is no finding
        ("better", "undecided", ["rms"]),
        ("better", "better", ["rms", "big"]),
        ("worse", "worse", ["plain"]),
        ("worse", "undecided", []),
    ],
)
def test_the_latex_table_prints_in_bold_what_a_verdict_singles_out(rms, big, bold):
    rows = [replace(system("lm", name, 100, 1.0), test_mean=mean) for name, mean in PLACES.items()]
    said = [Verdict("lm", name, found, "s", "val/x", 3, 0.1, None, None, 0.1, None) for name, found in
            (("rms", rms), ("big", big))]  # fmt: skip
    report = StudyReport("s", "?", "none", "plain", 0.05, 0.8, True, said, [], rows, [], {"lm": "val/x"},
                         {"lm": "max"}, 3, 3, 0.5, 1)  # fmt: skip
    table = latex(report)
    assert "system & lm (x $\\uparrow$) & parameters" in table
    assert "lm (x $\\downarrow$)" in latex(replace(report, better={"lm": "min"}))
    assert [name for name in PLACES if f"\n{name} & \\textbf{{" in table] == bold
    assert ("Bold, by the verdicts: a variant better than plain, or plain " in table) == bool(bold)
