"""The user's own code: what it adds takes part in composition; what is wrong with it is one line."""

import hashlib
import os
import re
import traceback
from pathlib import Path

import pytest

from multihead.config.changes import changes, same_run
from multihead.config.compose import compose, compose_from_run
from multihead.config.multirun import compose_sweep
from multihead.errors import CheckpointError, ConfigError, report
from multihead.plugin import Plugin, load_plugin
from multihead.training.assignment import RankError

VARIANT = '''
from dataclasses import dataclass
from multihead.config.task import TranslationConfig
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class LinearOptions:
    """Linear attention."""

    features: int = 16
    """Width of the feature map."""


@dataclass(kw_only=True)
class NoisyConfig(TranslationConfig):
    name: str = "noisy"
    noise: float = 0.1
    """Share of words that are dropped."""


def linear(*args):
    raise NotImplementedError


def poems(config, split, columns):
    return {}


PLUGIN = Plugin(
    attention={"linear": linear},
    feed_forward={"mixture": linear},
    tasks={"noisy": (NoisyConfig, "variant:Noisy")},
    corpora={"poems": poems},
    options={"linear": LinearOptions},
)
'''


@pytest.fixture
def variant(tmp_path):
    path = tmp_path / "variant.py"
    path.write_text(VARIANT)
    return path


def test_takes_part_in_composition(variant):
    words = [f"plugin={variant}", "task=noisy", "task.noise=0.3", "model.attention=linear", "options.linear.features=8"]
    composition = compose(words)
    config = composition.config
    assert (config.task.name, config.task.noise, config.model.attention) == ("noisy", 0.3, "linear")
    assert config.options["linear"].features == 8
    assert composition.provenance["options.linear.features"][-1] == ("options.linear.features=8", 8)
    assert composition.plugin.files == (variant,) and composition.tree["plugin"] == "variant.py"
    assert composition.tree["plugin_sha256"] == composition.plugin.sha256 == config.plugin_sha256
    assert compose([f"plugin={variant}", "task=translation", "data=poems"]).config.data.name == "poems"
    assert len(compose_sweep([f"plugin={variant}", "task=noisy,translation", "options.linear.features=1,2"])) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task=noisy task.nose=1", r"task\.nose: no such key; did you mean task\.noise\?"),
        ("task=noisy options.linear.feature=1", r"did you mean options\.linear\.features\?"),
        ("task=noisy options.lineal.features=1", r"options\.lineal\.features: no such options; the plugin adds linear"),
        ("task=noisy options.linear.features=x", r"options\.linear\.features: must be a whole number, got 'x'"),
        ("task=noisy model.attention=linaer", r"must be one of multi_head, linear, got 'linaer'; fix: .*=linear"),
        ("task=noisi", r"task=noisi: no such task; there are .*noisy.*translation; fix: task=noisy"),
    ],
)
def test_is_checked_like_all_else(variant, words, message):
    with pytest.raises(ConfigError, match=message):
        compose([f"plugin={variant}", *words.split()])


def test_leaves_with_the_command(variant):
    """What a plugin added is unknown to the next composition without it."""
    compose([f"plugin={variant}", "task=noisy"])
    with pytest.raises(ConfigError, match=r"task=noisy: no such task; there are .*translation"):
        compose(["task=noisy"])
    with pytest.raises(ConfigError, match="data=poems: no such data"):
        compose(["task=translation", "data=poems"])
    with pytest.raises(ConfigError, match="no plugin adds any"):
        compose(["task=translation", "options.linear.features=1"])


def test_a_run_wants_its_plugin_again(variant):
    tree = compose([f"plugin={variant}", "task=noisy", "options.linear.features=8"]).tree
    with pytest.raises(
        CheckpointError, match=r"was trained with the plugin variant\.py.*add plugin=old/plugin/variant\.py"
    ):
        compose_from_run(tree, [], run="old")
    again = compose_from_run(tree, [f"plugin={variant}"])
    assert again.config.options["linear"].features == 8
    variant.write_text(VARIANT.replace("0.1", "0.2"))
    with pytest.raises(CheckpointError, match="trained with another version of the plugin"):
        compose_from_run(tree, [f"plugin={variant}"])
    accepted = compose_from_run(tree, [f"plugin={variant}", "plugin_sha256="])
    assert accepted.config.plugin_sha256 == accepted.plugin.sha256 != tree["plugin_sha256"]


def test_no_file_names_it(variant, tmp_path):
    """Neither a YAML file nor a run's configuration loads code."""
    (tmp_path / "experiment").mkdir()
    marker = tmp_path / "ran"
    variant.write_text(f"open({str(marker)!r}, 'w')\n{VARIANT}")
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /task: translation\nplugin: {variant}\n"
    )
    with pytest.raises(ConfigError, match="plugin: only the command line names code"):
        compose(["experiment=mine"], config_dir=str(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"variant\.py: module .* has no attribute 'PLUGIN'; fix: define PLUGIN = Plugin"),
        (
            "from multihead.plugin import Plugin\nPLUGIN = Plugin(cross_attention={'deep': int})\n",
            r"cross_attention\['deep'\] needs attention\['deep'\] too",
        ),
        ("PLUGIN = 3\n", r"PLUGIN must be a multihead\.plugin\.Plugin, got int"),
        ("def f(:\n", r"variant\.py:1: invalid syntax"),
        ("import nosuchmodule\n", r"variant\.py: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("1 / 0\n", r"variant\.py: ZeroDivisionError: division by zero"),
        (
            "from multihead.plugin import Plugin\nPLUGIN = Plugin(options={'a': int})\n",
            r"options\['a'\] must be a dataclass",
        ),
        (
            "from multihead.plugin import Plugin\nPLUGIN = Plugin(tasks={'a': int})\n",
            r"tasks\['a'\] must be a pair of a",
        ),
        (
            VARIANT.replace('tasks={"noisy"', 'tasks={"translation"'),
            r"tasks\['translation'\] has the name of a built-in task; fix: choose another name",
        ),
        ("from multihead.plugin import Plugin\nPLUGIN = Plugin(bogus={})\n", r"TypeError: .*bogus"),
    ],
)
def test_what_is_wrong_is_one_line(text, message, variant):
    variant.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_plugin(str(variant))
    assert "\n" not in str(caught.value)


def test_missing():
    with pytest.raises(ConfigError, match=re.escape("plugin: no such file: ./nowhere.py")):
        load_plugin("./nowhere.py")
    with pytest.raises(ConfigError, match=r"no entry point called 'nowhere' .*plugin=\./variant\.py"):
        load_plugin("nowhere")


def test_entry_point(variant, monkeypatch):
    """An installed package's entry point, in the group multihead.plugins, is loaded by its name."""
    installed = variant.parent / "site" / "poetry-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: poetry\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[multihead.plugins]\npoetry = poetry_variant:PLUGIN\n")
    (variant.parent / "site" / "poetry_variant.py").write_text(VARIANT)
    monkeypatch.syspath_prepend(str(variant.parent / "site"))
    plugin = load_plugin("poetry")
    assert isinstance(plugin, Plugin) and plugin.name == "poetry" and len(plugin.sha256) == 64
    with pytest.raises(ConfigError, match=r"no entry point called 'poetri' \(installed: .*poetry.*fix: plugin=poetry"):
        load_plugin("poetri")


def test_several_at_once(variant, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        "from multihead.plugin import Plugin\nPLUGIN = Plugin(norms={'mine': lambda config, width: None})\n"
    )
    both = f"plugin={variant}{os.pathsep}{other}"
    composition = compose([both, "task=noisy", "model.attention=linear", "model.norm=mine"])
    assert composition.plugin is not None and composition.plugin.files == (variant, other)
    assert composition.tree["plugin"] == f"variant.py{os.pathsep}other.py"
    with pytest.raises(
        CheckpointError, match=re.escape(f"add plugin=old/plugin/variant.py{os.pathsep}old/plugin/other")
    ):
        compose_from_run(composition.tree, [], run="old")
    assert compose_from_run(composition.tree, [both]).config.model.norm == "mine"
    assert composition.tree["plugin_sha256"] == os.pathsep.join(
        load_plugin(str(file)).sha256 for file in (variant, other)
    )
    assert compose_from_run(composition.tree, [f"plugin={other}{os.pathsep}{variant}"]).config.model.norm == "mine"
    with pytest.raises(ConfigError, match=r"other\.py adds norms\['mine'\], and so does a plugin before it; fix: name"):
        compose([f"plugin={other}{os.pathsep}{other}", "task=lm"])


@pytest.fixture
def norms(tmp_path):
    """Three plugins, each with a norm of its own."""
    files = [tmp_path / f"{name}.py" for name in ("first", "second", "third")]
    for file in files:
        file.write_text(
            f"from multihead.plugin import Plugin\nPLUGIN = Plugin(norms={{{file.stem!r}: lambda *_: 0}})\n"
        )
    return files


def typed(*files):
    return "plugin=" + os.pathsep.join(map(str, files))


def test_a_run_is_loaded_with_its_plugins_among_others(norms):
    """So runs with different plugins can be served together."""
    first, second, third = norms
    one = compose([typed(first), "task=lm", "model.norm=first"]).tree
    two = compose([typed(first, second), "task=lm", "model.norm=second"]).tree
    for tree, norm in ((one, "first"), (two, "second")):
        assert compose_from_run(tree, [typed(third, second, first)]).config.model.norm == norm
    add = re.escape(f"add {typed(third, 'cons/plugin/first.py')}; or, to accept yours in its place, add plugin_sha256=")
    with pytest.raises(
        CheckpointError, match=rf"cons: was trained with the plugin first\.py, but .* third\.py; .*{add}"
    ):
        compose_from_run(one, [typed(third)], run="cons")
    with pytest.raises(
        CheckpointError, match=r"was trained with the plugin second\.py, but the command names first\.py"
    ):
        compose_from_run(two, [typed(first)])
    second.write_text(second.read_text() + "\n")
    with pytest.raises(
        CheckpointError, match=r"another version of the plugin second\.py \(sha256 \w{12}\); fix: add pl"
    ):
        compose_from_run(two, [typed(first, second)])


def test_a_renamed_plugin_is_the_same_plugin(norms):
    first, second, _ = norms
    tree = compose([typed(first, second), "task=lm", "model.norm=first"]).tree
    renamed = first.rename(first.with_name("renamed.py"))
    assert compose_from_run(tree, [typed(renamed, second)]).config.model.norm == "first"


def test_a_run_of_before_has_one_checksum_for_several_plugins(norms):
    first, second, third = norms
    tree = compose([typed(first, second), "task=lm", "model.norm=second"]).tree
    sums = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in (first, second))
    now = dict(tree)
    tree["plugin_sha256"] = hashlib.sha256(sums.encode()).hexdigest()
    assert same_run(tree, now) and changes(tree, now) == ([], [])
    assert not same_run(tree, {**now, "plugin_sha256": os.pathsep.join(["0" * 64, "1" * 64])})
    for files in ((first, second), (second, third, first)):
        assert compose_from_run(tree, [typed(*files)]).config.model.norm == "second"
    with pytest.raises(
        CheckpointError, match=r"was trained with the plugin second\.py, but the command names first\.py"
    ):
        compose_from_run(tree, [typed(first)])
    second.write_text(second.read_text() + "\n")
    with pytest.raises(
        CheckpointError, match=r"another version of the plugin first\.py, second\.py; fix: add plugin=RUN/"
    ):
        compose_from_run(tree, [typed(first, second)])


FAILS = """import torch
from multihead.plugin import Plugin, names_of
def itself(): assert False, "own"
def by_torch(): torch.zeros(2) + torch.zeros(3)
def in_ours(): names_of(None)
PLUGIN = Plugin(callbacks={"itself": itself, "by_torch": by_torch, "in_ours": in_ours})
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("itself", "error[plugin] in your plugin mytag.py:3: AssertionError: own; traceback in "),
        ("by_torch", "error[plugin] in your plugin mytag.py:4: RuntimeError: The size of tensor a (2) must match "),
    ],
)
def test_an_error_that_comes_from_a_plugin_names_its_line(name, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = error_of(name, tmp_path)
    assert report(error) == 1
    message = capsys.readouterr().err
    assert message.startswith(said) and "bug in Multihead" not in message
    assert "mytag.py" in Path(message.split("traceback in ")[1].strip()).read_text()
    of_rank = RankError(f"rank 1: {error}", "".join(traceback.format_exception(error)))
    assert report(of_rank) == 1 and re.match(r"error\[plugin] in your plugin mytag\.py:\d: ", capsys.readouterr().err)


def test_an_error_that_comes_from_our_code_is_our_bug(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert report(error_of("in_ours", tmp_path)) == 1
    assert "a bug in Multihead" in capsys.readouterr().err


def error_of(name, folder):
    """The error of one of the callbacks of a plugin that fails."""
    file = folder / "mytag.py"
    file.write_text(FAILS)
    with pytest.raises(Exception) as raised:
        load_plugin(str(file)).callbacks[name]()
    return raised.value
