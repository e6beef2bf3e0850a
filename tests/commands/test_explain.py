"""``explain``: value, who set it, what that overrode, what it means."""

import os
import re
import subprocess
import sys

import pytest

from multihead.commands import explain
from multihead.config.compose import compose, to_yaml
from multihead.config.keys import leaf_keys
from multihead.config.task import TASKS
from multihead.errors import ConfigError


def told(capsys, line):
    assert explain.run(line.split()) == 0
    return capsys.readouterr().out


def test_a_key(capsys):
    assert told(capsys, "key=model.d_model task=translation model=small model.d_model=64").splitlines() == [
        "model.d_model = 64",
        "  Width of the residual stream.",
        "  Takes a whole number.",
        "",
        "  default of ModelConfig  512  overridden",
        "  conf/model/small.yaml   256  overridden",
        "  model.d_model=64        64  <- counts",
    ]


def test_a_key_that_nobody_set(capsys):
    out = told(capsys, "key=run_dir task=translation")
    assert out.startswith("run_dir = ''\n") and out.endswith("  default of Config  ''\n")


def test_a_mapping_and_its_entry(capsys):
    whole = told(capsys, "key=data.roles task=translation data.roles.source=german")
    entry = told(capsys, "key=data.roles.source task=translation data.roles.source=german")
    assert "  data.roles.source\n  conf/data/grammar.yaml    english  overridden\n" in whole
    assert entry.startswith("data.roles.source = german\n") and "data.roles.source=german  german  <- counts" in entry


def test_a_node(capsys):
    lines = told(capsys, "key=tokenizer task=translation tokenizer.kind=char").splitlines()
    assert len(lines) == 15 and lines[0].startswith("tokenizer.kind = char ")
    assert "bpe (arXiv:1508.07909)" in lines[0]


def test_a_key_of_a_run(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(compose(["task=translation", "seed=5"]).tree))
    assert f"  {tmp_path}/config.yaml  5  <- counts\n" in told(capsys, f"key=seed run={tmp_path}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("task=translation", "key: is missing"),
        ("key=model.d_modle task=translation", "d_modle: no such key; did you mean model.d_model"),
        ("key=seed task=translation sed=1", "sed: no such key; did you mean seed"),
        ("key=seed sed=1", "sed: no such key; did you mean seed"),
        ("key=seed model=smal", "model=smal: no such model; .*; fix: model=small"),
        ("key=experiment task=translation", "experiment: a group: its choice sets keys, and is no value itself"),
        ("key=seed run=nowhere", "run: nowhere is not the directory of a run"),
    ],
)
def test_refused(line, message):
    with pytest.raises(ConfigError, match=message):
        explain.run(line.split())


def test_the_types_are_words():
    for key in leaf_keys(TASKS.values()).values():
        assert re.search(r"typing|[\[|]", key.requirement) is None, key


def test_a_terminal_that_cannot_show_a_character_shows_its_code(tmp_path):
    words = ["multihead", "explain", "key=run_dir", "task=lm", "run_dir=ä"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", *words], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and r"run_dir = \xe4" in done.stdout


def test_an_option_that_a_plugins_loss_does_not_read(capsys, tmp_path):
    file = tmp_path / "focal.py"
    file.write_text("from multihead.plugin import Plugin\nPLUGIN = Plugin(losses={'focal': print})\n")
    words = f"key=task.class_weights task=classification task.class_weights=balanced plugin={file}"
    assert "no effect" not in told(capsys, words)
    last = told(capsys, f"{words} task.loss=focal").splitlines()[-1]
    assert last.startswith("  task.class_weights=balanced has no effect: task.loss=focal replaces the task's own loss")
