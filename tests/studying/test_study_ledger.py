"""The ledger of a study: each run is claimed once, round by round, and what a killed process left is taken over."""

import pytest

from multihead.errors import ConfigError
from multihead.studying.ledger import StudyLedger, key_of, results_of
from multihead.studying.schedule import Key, Plan

pytestmark = pytest.mark.unhurried


@pytest.fixture
def ledger(tmp_path):
    plan = Plan(
        baseline="plain",
        arms=("plain", "rms"),
        tasks=("lm",),
        metrics={"lm": "val/loss"},
        better={"lm": "min"},
        words={"lm/plain": ["task=lm"], "lm/rms": ["task=lm", "model.norm=rms_norm"]},
        seeds=(4, 5, 6),
    )
    ledger = StudyLedger("s", tmp_path)
    assert ledger.plan is None
    assert ledger.fix(plan, {"sizes": {}}) == plan == ledger.plan
    return ledger


def settle(ledger, claim, value, seconds=10.0):
    state = "complete" if value is not None else "failed"
    assert ledger.settle(claim.number, state, value, seconds=seconds)


def test_a_round_is_claimed_once_and_ends_before_the_next(ledger, tmp_path):
    first, second = ledger.claim(0), ledger.claim(0)
    assert first.record["words"] == ["task=lm", "seed=4"] and first.record["metric"] == "val/loss"
    assert second.record["words"] == ["task=lm", "model.norm=rms_norm", "seed=4"]
    assert second.record["dir"] == str(tmp_path / "runs" / "lm" / "rms" / "seed_4")
    assert ledger.claim(0) is None  # the round goes on
    settle(ledger, first, 2.0)
    assert ledger.claim(0) is None and ledger.costs is None
    settle(ledger, second, 1.5, seconds=12.0)
    third = ledger.claim(0)
    assert third.record["run"] == ["lm", "plain", 1] and ledger.costs == {("lm", "plain"): 10.0, ("lm", "rms"): 12.0}
    settle(ledger, third, None, seconds=99.0)
    assert results_of(ledger.rows())[Key("lm", "plain", 1)] is None
    assert ledger.costs == {("lm", "plain"): 10.0, ("lm", "rms"): 12.0}  # those of the first round stay


def test_what_a_killed_process_left_is_taken_over(ledger):
    """A process may also be killed between the creation of a trial and the record of its run."""
    left = ledger.claim(0)
    ledger.note(left.number, owner=None)
    again = ledger.claim(0)
    assert (again.number, again.attempt, again.record["run"]) == (left.number, 2, ["lm", "plain", 0])
    created = ledger.study.ask().number
    assert ledger.claim(0).number == created  # it gets the next run
    assert sorted(key_of(row) for row in ledger.rows()) == [Key("lm", "plain", 0), Key("lm", "rms", 0)]
    assert ledger.claim(0) is None


def test_only_the_budget_of_a_plan_may_change(ledger):
    ledger.allow(60.0)
    assert ledger.plan.budget == 60.0
    other = Plan.from_json(ledger.plan.to_json().replace('"alpha": 0.05', '"alpha": 0.5'))
    assert ledger.fix(other, {}).alpha == 0.05 and ledger.facts == {"sizes": {}}


def test_there_is_none_yet(tmp_path):
    with pytest.raises(ConfigError, match="there is no study in"):
        StudyLedger("s", tmp_path, create=False)
