"""Checks of my_schedule.py: pytest test_my_schedule.py"""

from pathlib import Path

import pytest

import multihead
from multihead.config.training import OptimConfig
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_schedule.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "optim.schedule=my_schedule"]


def test_it_trains_and_classifies(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1


def test_it_warms_up_to_the_peak_and_falls_to_0():
    plugin, config = load_plugin(str(FILE)), OptimConfig(warmup_steps=10)
    options = plugin.options["my_schedule"]()
    factors = [plugin.schedules["my_schedule"](config, 110, step, options=options) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[9] == max(factors) == 1 and factors[60] == pytest.approx(0.25) and factors[110] == 0
