"""The effects of switches, their interactions and their ranks, from results that are made by hand or drawn."""

import math

import numpy as np
import pytest
from scipy import stats

from multihead.studying.ablation import ALL_TASKS, ablation, statement
from multihead.studying.schedule import Key, Plan, gains

SEEDS = 6
SWITCHES = ("a", "b", "c")


def plan(tasks=("acc", "loss"), **changes) -> Plan:
    contrasts = {f"without_{name}": (f"without_{name}", "all") for name in SWITCHES}
    contrasts |= {f"only_{name}": (f"only_{name}", "no_switch") for name in SWITCHES}
    base = {
        "baseline": "all",
        "arms": ("all", *(f"without_{n}" for n in SWITCHES), "no_switch", *(f"only_{n}" for n in SWITCHES)),
        "tasks": tasks,
        "metrics": {"acc": "val/accuracy", "loss": "val/loss"},
        "better": {"acc": "max", "loss": "min"},
        "words": {},
        "seeds": tuple(range(SEEDS)),
        "every_seed": False,
        "contrasts": contrasts,
    }
    return Plan(**base | changes)


def has(arm: str) -> set[str]:
    """The switches that are on."""
    if arm in ("all", "no_switch"):
        return set(SWITCHES) if arm == "all" else set()
    name = arm.rpartition("_")[2]
    return {name} if arm.startswith("only") else set(SWITCHES) - {name}


def results(design: Plan, noise: float, seed: int = 0, interact: float = 0.0) -> dict:
    """a brings 4, b brings 1, c nothing; a and b together bring ``interact`` more. The loss is 100 less this."""
    rng, found = np.random.default_rng(seed), {}
    for task in design.tasks:
        for arm in design.arms:
            on = has(arm)
            value = 50.0 + 4.0 * ("a" in on) + 1.0 * ("b" in on) + interact * ({"a", "b"} <= on)
            for i in range(SEEDS):
                drawn = value + noise * rng.standard_normal()
                found[Key(task, arm, i)] = drawn if task == "acc" else 100.0 - drawn
    return found


def test_effects_by_hand():
    """Of accuracy: all has 55 + 2, so a brings 4 + 2 beside the others and 4 alone. The percent are of 57 and 43."""
    design = plan()
    found = {(each.task, each.name): each for each in ablation(design, results(design, 1e-4, seed=1, interact=2.0))}
    a = found["acc", "a"]
    assert (a.left_out.value, a.added.value, a.interaction.value) == pytest.approx((6.0, 4.0, 2.0), abs=1e-3)
    assert (found["loss", "a"].left_out.value, found["loss", "c"].left_out.value) == pytest.approx((6.0, 0.0), abs=1e-3)
    together = found[ALL_TASKS, "a"]
    assert together.left_out.value == pytest.approx(100 * (6 / 57 + 6 / 43) / 2, abs=1e-3)
    assert [each.flagged for each in (a, found["acc", "b"], found["acc", "c"])] == [True, True, False]
    assert [each.name for each in ablation(design, results(design, 1e-4))][:3] == ["a", "b", "c"]
    assert (together.first_rank, together.last_rank) == (1, 1) and together.verdict == "better"
    text = statement(a, "accuracy", 1)
    assert text.startswith(
        "a helps: +6.0 (+6.0 to +6.0) accuracy beside the others, +4.0 (+4.0 to +4.0) alone. It depends"
    )


def test_the_interval_is_students_at_the_level_of_all_effects():
    """One look after 6 seeds; 3 switches, 2 tasks and all tasks, 2 effects: 18 intervals. Interactions: 9."""
    design = plan()
    drawn = results(design, 1.0)
    path = [drawn[Key("acc", "all", i)] - drawn[Key("acc", "without_b", i)] for i in range(SEEDS)]
    b = next(each for each in ablation(design, drawn) if (each.task, each.name) == ("acc", "b"))
    half = stats.t.isf(0.05 / 18 / 2, SEEDS - 1) * np.std(path, ddof=1) / math.sqrt(SEEDS)
    assert (b.left_out.low, b.left_out.high) == pytest.approx((np.mean(path) - half, np.mean(path) + half))
    alone = [drawn[Key("acc", "only_b", i)] - drawn[Key("acc", "no_switch", i)] for i in range(SEEDS)]
    both = np.array(path) - np.array(alone)
    half = stats.t.isf(0.05 / 9 / 2, SEEDS - 1) * np.std(both, ddof=1) / math.sqrt(SEEDS)
    assert b.interaction.high == pytest.approx(np.mean(both) + half)


def test_ranks_overlap_where_chance_explains_the_order():
    design = plan(tasks=("acc",))
    found = {each.name: each for each in ablation(design, results(design, 0.3, seed=3))}
    assert (found["a"].first_rank, found["a"].last_rank) == (1, 1)
    assert [(found[n].first_rank, found[n].last_rank) for n in "bc"] == [(2, 3), (2, 3)]
    assert not any(each.flagged for each in found.values())


def test_equal_systems_are_rarely_called_different():
    """Of 200 ablations without any effect, at most about 5 % have an effect, and at most about 5 % a flag."""
    design = plan()
    effects = flags = 0
    for seed in range(200):
        rng = np.random.default_rng((7, seed))
        keys = [Key(task, arm, i) for task in design.tasks for arm in design.arms for i in range(SEEDS)]
        found = ablation(design, {key: 50 + rng.standard_normal() for key in keys})
        said = {each.verdict for switch in found for each in (switch.left_out, switch.added)}
        effects += bool(said & {"better", "worse"})
        flags += any(each.flagged for each in found)
    assert effects <= stats.binom.ppf(0.999, 200, 0.05) and flags <= stats.binom.ppf(0.999, 200, 0.05)


def test_each_comparison_has_its_own_reference_and_a_decided_one_takes_no_more_runs():
    design = plan(tasks=("acc",), every_seed=True)
    drawn = results(design, 1e-3)
    assert gains(design, drawn)["acc", "only_a"] == pytest.approx([4.0] * SEEDS, abs=0.02)
    assert gains(design, drawn)["acc", "without_a"] == pytest.approx([-4.0] * SEEDS, abs=0.02)
    assert Plan.from_json(design.to_json()).sides("only_a") == ("only_a", "no_switch")


def test_before_there_are_results_nothing_is_ranked():
    found = ablation(plan(), {}, ended=False)
    assert {each.verdict for each in found} == {"no result yet"} and found[0].first_rank is None
    assert statement(found[0], "accuracy", 1) == "a: no result yet"


def test_equal_differences_say_nothing_about_chance():
    """c changes nothing at all, so that its chance is not known; a and b have noise and keep their ranks."""
    design = plan(tasks=("acc",))
    drawn = results(design, 0.3, seed=3)
    for with_c, without in (("all", "without_c"), ("only_c", "no_switch")):
        drawn |= {Key("acc", with_c, i): drawn["acc", without, i] for i in range(SEEDS)}
    found = {each.name: each for each in ablation(design, drawn)}
    c = found["c"]
    for effect in (c.left_out, c.added, c.interaction):
        assert (effect.value, effect.low, effect.high, effect.verdict) == (0.0, None, None, "underpowered")
    assert (c.verdict, c.flagged, c.first_rank, c.last_rank) == ("underpowered", False, None, None)
    assert found["a"].verdict == "better" and (found["a"].first_rank, found["b"].last_rank) == (1, 3)
    assert statement(c, "accuracy", 1).startswith("c: the runs cannot say what it does, because all differences are")
    assert {each.verdict for each in ablation(design, drawn, ended=False)} == {"better", "no result yet"}
