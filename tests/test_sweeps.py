"""Every trial of the sweep files is a command line that W&B would run and that composes."""

import itertools
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from multihead.config.compose import compose, parse
from multihead.config.keys import flatten
from multihead.config.merge import Composition

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
KEYS = {"program", "method", "metric", "parameters", "command", "name", "description", "run_cap", "early_terminate"}


def trials(sweep: dict) -> list[dict]:
    """Each combination of the parameters, as a W&B agent gets it; of a range both its ends."""
    choices = []
    for name, parameter in sweep["parameters"].items():
        values = [parameter["value"]] if "value" in parameter else parameter.get("values")
        values = values or [parameter["min"], parameter["max"]]
        choices.append([(name, {"value": value}) for value in values])
    return [dict(combination) for combination in itertools.product(*choices)]


@pytest.fixture(params=SWEEPS, ids=[path.stem for path in SWEEPS])
def sweep(request) -> dict:
    return yaml.safe_load(request.param.read_text())


def test_there_are_sweeps():
    assert SWEEPS


def test_the_file_is_one_that_the_server_takes(sweep):
    assert set(sweep) <= KEYS
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] in ("minimize", "maximize")
    assert (ROOT / sweep["program"]).is_file()
    for name, parameter in sweep["parameters"].items():
        values = parameter.get("values", [v for k, v in parameter.items() if k in ("value", "min", "max")])
        for value in values:  # a null arrives as the text None, 1e-5 without a dot as a string
            assert value is not None and not isinstance(value, dict), name
            assert not (isinstance(value, str) and _is_number(value)), f"{name}: {value} is a string; write a dot"


def test_the_command_gives_key_and_value_and_nothing_else(sweep):
    assert create_sweep_command(list(sweep["command"])) == sweep["command"]
    assert sweep["command"] == ["${env}", "python", "${program}", "${args_no_hyphens}"]
    for trial in trials(sweep):
        words = create_sweep_command_args({"args": trial})["args_no_hyphens"]
        assert words == [f"{name}={parameter['value']}" for name, parameter in trial.items()]


def test_every_trial_composes_to_its_values(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for trial in trials(sweep):
        words = create_sweep_command_args({"args": trial})["args_no_hyphens"]
        composed: Composition = compose(words)
        leaves = flatten(composed.tree)
        for override in parse(words):
            name = override.key_or_group
            if "." in name:
                assert leaves[name] == trial[name]["value"], name
        assert composed.config.task.monitor == sweep["metric"]["name"]
        assert not list(tmp_path.iterdir())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
