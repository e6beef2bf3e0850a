"""The sweep files mean the same to W&B and to us: each trial is the command line that W&B's own code makes of it."""

from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from multihead.config.compose import composer
from multihead.config.sweep import check, read_sweep
from multihead.config.task import SINGLE_TASKS
from multihead.tables.records import flatten

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
KEYS = {"program", "method", "metric", "parameters", "command", "name", "description", "run_cap", "early_terminate"}
PARAMETER_KEYS = ({"value"}, {"values"}, {"min", "max"}, {"min", "max", "distribution"})


@pytest.fixture(params=SWEEPS, ids=[path.stem for path in SWEEPS])
def path(request) -> Path:
    return request.param


def points(sweep):
    """The first values of all parameters, and each other value alone."""
    base = {parameter.name: parameter.examples()[0] for parameter in sweep.parameters}
    yield base
    for parameter in sweep.parameters:
        yield from (base | {parameter.name: value} for value in parameter.examples()[1:])


def test_there_is_one_for_each_task_and_one_for_the_backbone():
    assert {path.stem for path in SWEEPS} == {*SINGLE_TASKS, "multitask", "backbone"}


def test_the_file_is_one_that_the_server_takes(path):
    """By its schema (of the package sweeps 0.3.0, read on 2026-11-23), as far as these files go."""
    tree = yaml.safe_load(path.read_text())
    assert set(tree) <= KEYS and tree["method"] in ("grid", "random", "bayes")
    assert set(tree["metric"]) == {"name", "goal"} and (ROOT / tree["program"]).is_file()
    for spec in tree["parameters"].values():
        assert set(spec) in PARAMETER_KEYS


@pytest.mark.unhurried
def test_every_trial_is_the_command_that_wandb_makes_and_composes_to_its_values(path):
    sweep, command = read_sweep(str(path)), yaml.safe_load(path.read_text())["command"]
    assert create_sweep_command(list(command)) == command == ["${env}", "python", "${program}", "${args_no_hyphens}"]
    compose = composer([])
    for point in points(sweep):
        words = create_sweep_command_args({"args": {k: {"value": v} for k, v in point.items()}})["args_no_hyphens"]
        assert sweep.point(point) == words
        leaves = flatten(compose(words).tree)
        for name, value in point.items():
            if "." in name:
                assert leaves[name] == value, name


@pytest.mark.unhurried
def test_the_whole_is_sound(path):
    sweep = read_sweep(str(path))
    assert check(sweep).config.task.monitor == sweep.metric
    assert sweep.run_cap or sweep.method == "grid"


def test_the_variants_of_the_backbone_are_of_one_size():
    """Parameters of the layers by their formulas: attention 4 d^2, feed-forward 2 d f, gated 3 d f."""
    compose = composer([])
    dense, gated = (compose(["task=translation", f"model={name}"]).config.model for name in ("tiny", "tiny_swiglu"))
    sizes = [4 * m.d_model**2 + factor * m.d_model * m.d_ff for m, factor in ((dense, 2), (gated, 3))]
    assert abs(sizes[0] / sizes[1] - 1) < 0.001
