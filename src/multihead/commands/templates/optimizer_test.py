"""Checks of my_optimizer.py: pytest test_my_optimizer.py"""

from pathlib import Path

import torch

import multihead
from multihead.config.training import OptimConfig
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_optimizer.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "optim.name=my_optimizer"]


def test_it_trains_and_classifies(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1


def test_the_first_step_is_the_learning_rate_times_the_sign_of_the_gradient():
    plugin = load_plugin(str(FILE))
    weight = torch.nn.Parameter(torch.zeros(3))
    groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.0, "hidden": False}]
    optimizer = plugin.optimizers["my_optimizer"](groups, OptimConfig(), options=plugin.options["my_optimizer"]())
    weight.grad = torch.tensor([5.0, -0.2, 0.0])
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([-0.1, 0.1, 0.0]))
