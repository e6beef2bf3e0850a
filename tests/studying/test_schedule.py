"""What a study runs next follows from the results alone."""

import itertools

import numpy as np
import pytest

from multihead.studying.schedule import Key, Pair, Plan, gains, progress


def plan(**changes) -> Plan:
    tasks, better = ("bleu", "loss"), {"bleu": "max", "loss": "min"}
    words = {"bleu/rms": ["task=translation"]}
    base = {"arms": ("plain", "rms"), "tasks": tasks, "metrics": {}, "better": better, "words": words}
    return Plan(**{"baseline": "plain", "seeds": (5, 6, 7, 8, 9, 10), **base, **changes})


def run_all(design, value, costs=None, order=1):
    """Runs a study to its end; ``order`` is the order in which the runs of a round end."""
    results = {}
    while missing := (state := progress(design, results, costs)).missing:
        for key in missing[::order]:
            results[key] = value(key)
            later = progress(design, results, costs)
            assert later.round == state.round or not set(missing) - set(results)
    return state, results


def noise(key: Key) -> float:
    return float(np.random.default_rng([key.index, len(key.arm), len(key.task), ord(key.task[0])]).normal())


def test_equal_systems_take_all_seeds():
    state, results = run_all(plan(), noise)
    assert state.ended and state.round == 6 and not state.decided
    assert sorted(results) == sorted(Key(*k) for k in itertools.product(("bleu", "loss"), ("plain", "rms"), range(6)))


def test_a_round_is_paired_by_seed():
    assert progress(plan(), {}, None).missing == [Key(t, a, 0) for t in ("bleu", "loss") for a in ("plain", "rms")]
    assert plan().run_words(Key("bleu", "rms", 2)) == ["task=translation", "seed=7"]


def test_a_lower_loss_is_better():
    results = {Key("loss", "plain", 0): 2.0, Key("loss", "rms", 0): 1.5, Key("bleu", "rms", 0): 3.0}
    assert gains(plan(), results) == {Pair("bleu", "rms"): [], Pair("loss", "rms"): [0.5]}


def clear_on_bleu(key: Key) -> float:
    return 0.01 * noise(key) + (3.0 if key.task == "bleu" and key.arm == "rms" else 0.0)


@pytest.mark.parametrize("order", [1, -1])
def test_a_decided_comparison_takes_no_more_seeds(order):
    state, results = run_all(plan(), clear_on_bleu, order=order)
    assert dict(state.decided) == {Pair("bleu", "rms"): 1}
    per_task = {task: sum(key.task == task for key in results) for task in ("bleu", "loss")}
    assert per_task == {"bleu": 6, "loss": 12}  # three seeds of two systems, and six seeds of two systems


def test_one_look_at_the_end_takes_all_seeds():
    state, results = run_all(plan(every_seed=False), clear_on_bleu)
    assert dict(state.decided) == {Pair("bleu", "rms"): 1} and len(results) == 24


def test_a_difference_that_is_too_small_to_matter_takes_no_more_seeds():
    state, results = run_all(plan(smallest={"loss": 1.0}), clear_on_bleu)
    assert dict(state.decided) == {Pair("bleu", "rms"): 1} and len(results) == 12


def test_the_budget_ends_a_study():
    """A round takes 4 * 10 seconds, so 145 seconds allow three rounds and, of the fourth, those of the first task."""
    costs = dict.fromkeys(itertools.product(("bleu", "loss"), ("plain", "rms")), 10.0)
    state, results = run_all(plan(budget=145.0), noise, costs)
    counts = {task: sum(key.task == task for key in results) for task in ("bleu", "loss")}
    assert counts == {"bleu": 8, "loss": 6} and state.unaffordable == {"bleu", "loss"}
    state, results = run_all(plan(budget=145.0, tuning=100.0), noise, costs)
    assert len(results) == 4  # the tuning took most of it


def test_what_always_fails_is_given_up():
    state, results = run_all(plan(), lambda key: None if key.arm == "rms" and key.task == "loss" else noise(key))
    failed = [key for key, value in results.items() if value is None]
    assert len(failed) == 3 and state.ended and not state.decided
    assert gains(plan(), results)[Pair("loss", "rms")] == []


def test_a_plan_is_read_back():
    given = plan(budget=60.0, smallest={"loss": 0.1})
    assert Plan.from_json(given.to_json()) == given


def test_a_round_of_a_cross_validation_has_one_fold():
    design = plan(folds=3, every_seed=False)
    assert design.run_words(Key("bleu", "rms", 4)) == ["task=translation", "data.fold=4", "seed=9"]
    assert design.design.ratio == 0.5 and plan().design.ratio == 0.0
    assert plan(folds=3, every_seed=False, ratio=0.6).design.ratio == 0.6
    assert Plan.from_json(design.to_json()) == design
