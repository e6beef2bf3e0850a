"""Combines options that touch the same objects. Every possible pair of their values occurs in one of these runs.

``pytest -m "slow or not slow" tests/as_shipped`` runs the whole stage.
"""

import itertools
import shutil

import pytest
import torch
from options import OPTIONS, REFUSED, SMALL, combinations, name_of, pairs_of, possible_pairs, words_of
from safetensors.torch import load_file

from multihead.config.compose import compose
from multihead.errors import ConfigError

pytestmark = pytest.mark.unhurried

COMBINATIONS = combinations()


def few(rows):
    """A few of these combinations in which every value of theirs occurs."""
    chosen, left = [], {value for row in rows for value in row.items()}
    while left:
        chosen.append(max(rows, key=lambda row: len(left & row.items())))
        left -= chosen[-1].items()
    return chosen


OFTEN = few([chosen for chosen in COMBINATIONS if chosen["ranks"] == "one" and chosen["compiled"] == "no"])
"""The combinations that every run of the tests tries."""
PARAMETERS = [
    pytest.param(chosen, id=name_of(chosen), marks=() if chosen in OFTEN else pytest.mark.slow)
    for chosen in COMBINATIONS
]


def test_every_possible_pair_occurs():
    covered = set().union(*(pairs_of(chosen) for chosen in COMBINATIONS))
    assert covered == {pair for chosen in possible_pairs() for pair in pairs_of(chosen)}
    two_of_each = itertools.combinations([len(values) for values in OPTIONS.values()], 2)
    assert len(covered) == sum(a * b for a, b in two_of_each) - 6


@pytest.mark.parametrize("chosen", REFUSED, ids=name_of)
def test_what_is_left_out_is_refused(chosen):
    with pytest.raises(ConfigError):
        compose(["task=translation", *words_of(chosen)])


def typed(chosen, steps):
    return [*words_of(chosen), *SMALL, f"trainer.max_steps={steps}"]


def weights(run):
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.parametrize("chosen", PARAMETERS)
def test_a_run_of_the_combination(chosen, command, tmp_path):
    run, config = tmp_path / "run", compose(typed(chosen, 6)).config
    plugin = [word for word in OPTIONS["plugin"][chosen["plugin"]] if word.startswith("plugin=")]
    command("train", *typed(chosen, 4 if chosen["goes on"] == "longer" else 6), f"run_dir={run}")
    assert (run / "tensorboard").is_dir() == (chosen["logger"] == "tensorboard")
    assert bool(list(run.glob("wandb/offline-run-*"))) == (chosen["logger"] == "default")
    log = (run / "train.log").read_text()  # several ranks do not write to our standard output
    assert "goes on without" not in log
    assert ("was skipped, because its gradient" in log) == (chosen["plugin"] == "callback")
    if chosen["goes on"] == "longer":
        command("train", f"resume={run}", "trainer.max_steps=6", *plugin)
    if chosen["goes on"] == "after a loss":
        lose_the_end(run, command.result(run)["steps"])
        before = weights(run)
        command("train", f"resume={run}", *plugin)
        after = weights(run)
        assert all(torch.equal(before[name], after[name]) for name in before)  # bit by bit, on any number of ranks
    result = command.result(run)
    assert result["steps"] == 6 or config.trainer.early_stopping_patience
    part = ["part=translation"] if chosen["task"] == "several" else []
    masked = chosen["task"] == "masked"
    answers = command("predict", f"run={run}", *part, *plugin, lines="the dog\n", status=2 if masked else 0)
    assert answers.count("\n") == (0 if masked else 1)
    command("evaluate", f"run={run}", *plugin)
    again = command.evaluated(run, "test")
    assert again["test/loss"] == pytest.approx(result["test/loss"], rel=0.02 if "16" in chosen["precision"] else 1e-4)


def lose_the_end(run, step):
    """Leaves the run as if the process had been killed after the checkpoint before the last one."""
    shutil.rmtree(run / "checkpoints" / f"step_{step}")
    (run / "result.json").rename(run / "result_of_the_first.json")
