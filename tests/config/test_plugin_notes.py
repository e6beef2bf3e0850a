"""What a plugin leaves without effect is said: the plugin that nothing uses, and options of a loss that it replaces."""

from pathlib import Path

import pytest

from multihead.config.compose import compose
from multihead.config.plugin_notes import notes_on

PLUGINS = Path(__file__).parent.parent.parent / "docs" / "examples" / "plugins"
FOCAL = "from multihead.plugin import Plugin\nPLUGIN = Plugin(losses={'focal': print})\n"
REPORT = "from multihead.plugin import Plugin\nPLUGIN = Plugin(reports={'mine': print})\n"


@pytest.fixture
def focal(tmp_path):
    (tmp_path / "focal.py").write_text(FOCAL)
    return tmp_path / "focal.py"


def said(*words):
    return notes_on(compose(words).config)


@pytest.mark.unhurried
def test_a_plugin_that_nothing_uses_is_said_with_what_uses_it(focal):
    unused = "plugin focal.py is loaded, but nothing uses it; add task.loss=focal"
    assert said("task=classification", f"plugin={focal}") == [unused]
    lion = PLUGINS / "lion.py"
    assert said("task=classification", f"plugin={lion}:{focal}", "optim.name=lion") == [unused]
    tagging = PLUGINS / "tagging.py"
    assert said("task=lm", f"plugin={tagging}") == [
        "plugin tagging.py is loaded, but nothing uses it; add task=tagging"
    ]


def test_a_plugin_that_is_used_is_not_said(focal, tmp_path):
    assert said("task=classification") == []
    assert said("task=classification", f"plugin={focal}", "task.loss=focal") == []
    assert said("task=multitask", f"plugin={focal}", "task.classification.loss=focal") == []
    (tmp_path / "report.py").write_text(REPORT)
    assert said("task=classification", f"plugin={tmp_path / 'report.py'}") == []


def test_an_option_of_the_loss_that_is_replaced_is_said(focal):
    assert said("task=translation", f"plugin={focal}", "task.loss=focal") == [
        "task.label_smoothing=0.1 has no effect: task.loss=focal replaces the task's own loss, and focal.py does not "
        "read label_smoothing; set task.label_smoothing=0 in every run that you compare"
    ]
    words = ["task=classification", f"plugin={focal}", "task.loss=focal"]
    (weights, gamma) = said(*words, "task.class_weights=balanced", "task.focal_gamma=2")
    assert weights.startswith("task.class_weights=balanced has no effect") and "class_weights=none in every" in weights
    assert gamma.startswith("task.focal_gamma=2.0 has no effect")
    assert said(*words[:2], "task.class_weights=balanced")[1:] == []  # the task's own loss reads it
    (_, cut) = said("task=translation", *words[1:], "task.simcut_alpha=3")
    assert cut.startswith("task.simcut_alpha=3.0 has no effect")
    (of_one,) = said("task=multitask", f"plugin={focal}", "task.translation.loss=focal")
    assert of_one.startswith("task.translation.label_smoothing=0.1 has no effect: task.translation.loss=focal replaces")


def test_a_loss_that_reads_the_option_is_not_said():
    assert said("task=translation", f"plugin={PLUGINS / 'simcut.py'}", "task.loss=simcut") == []
