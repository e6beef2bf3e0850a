"""What the program prints as a command works when it is pasted into a shell."""

import shlex
from pathlib import Path

import pytest

from multihead.config.compose import compose, to_yaml
from multihead.config.settings import read_words
from multihead.config.verbs import SETTINGS
from multihead.config.words import typed_as
from multihead.training.screen import next_commands

NAMES = ["plain", "my run", "a,b", "a=b", "it's", 'say "x"', "ü", "[x]", "{x}", "~x", "$HOME", "a(b", "1e5", "null"]
PLUGIN = "from multihead.plugin import Plugin\nPLUGIN = Plugin()\n"


@pytest.mark.parametrize("folder", NAMES)
@pytest.mark.unhurried
def test_pasted(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir()
    plugin = Path(folder, "my plugin.py")
    plugin.write_text(PLUGIN)
    config = compose(["task=translation", shlex.split(typed_as("plugin", str(plugin)))[0]]).config
    Path(folder, "config.yaml").write_text(to_yaml(compose(["task=lm"]).tree))
    predict, evaluate, explain = next_commands(config, Path(folder))
    for line in (predict.partition(" | ")[2], evaluate, explain):
        program, verb, *words = shlex.split(line)
        settings, words = read_words(SETTINGS[verb], words)
        assert program == "multihead" and settings.run in (folder, [folder])
        given = [word for word in words if word.startswith("plugin=")]
        assert compose(["task=lm", *given]).config.plugin == str(plugin)
    (resume,) = shlex.split(typed_as("resume", folder))
    assert compose([resume]).config.resume == folder


def test_of_a_masked_language_model():
    (use, *_) = next_commands(compose(["task=lm", "task.objective=masked"]).config, Path("my run"))
    words = shlex.split(use)[2:]
    assert compose(words).config.init_from == "my run" and "task=classification" in words
