"""``multihead new`` writes plugins that train at once, and tests that pass, for every part that a plugin can add."""

import ast
import dataclasses
import json
import re
import shlex
import subprocess
import sys

import pytest
from trial import ROOT

from multihead.cli import main
from multihead.commands.new import TEMPLATES
from multihead.config.compose import compose
from multihead.config.keys import documentation, leaf_keys
from multihead.config.slots import SLOTS
from multihead.config.verbs import BLOCKS
from multihead.plugin import Plugin, load_plugin

QUICKLY = ("attention", "loss")
"""Parts whose files are run in every run of the suite."""
NOT_OF_THE_MODEL = ("metric", "report", "corpus", "reader", "tokenizer", "callback")
"""Parts that the doctor does not check."""
SMALL = ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.max_len=64", "tokenizer.vocab_size=300"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(capsys, *words):
    """Writes a plugin; returns the commands that were printed."""
    assert main(["new", *words]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


@pytest.mark.unhurried
@pytest.mark.parametrize("block", BLOCKS)
def test_its_command_chooses_the_part(block, folder, capsys):
    train, test = written(capsys, f"block={block}")
    assert train[:2] == ["multihead", "train"] and test == ["pytest", f"test_my_{block}.py"]
    composed = compose([*train[2:], "debug=smoke"])
    plugin = composed.plugin
    assert plugin is not None
    added = {field for field in fields() if f"my_{block}" in getattr(plugin, field)}
    chosen = {slot.field for slot in SLOTS.values() if slot.chosen(composed.config) == f"my_{block}"}
    assert (folder / f"my_{block}.txt").exists() == (block == "reader")
    chosen |= {"tasks"} if composed.config.task.name == f"my_{block}" else set()
    chosen |= {"corpora"} if composed.config.data.name == f"my_{block}" else set()
    assert chosen <= added and (chosen or block in ("callback", "metric", "report"))
    source = (folder / f"my_{block}.py").read_text()
    assert ast.get_docstring(ast.parse(source)).splitlines()[0].endswith(shlex.join(train))
    keys = leaf_keys([], plugin.options)  # explain shows what each option means
    assert all(documentation(key) for name, key in keys.items() if name.startswith("options."))
    assert len(source.splitlines()) <= 45 and len((folder / test[1]).read_text().splitlines()) <= 45


def fields():
    return [field.name for field in dataclasses.fields(Plugin) if "dict" in str(field.type) and field.name != "options"]


@pytest.mark.unhurried
def test_there_is_a_block_for_each_part_that_a_plugin_can_add():
    plugins = [load_plugin(str(TEMPLATES / f"{block}.py")) for block in BLOCKS]
    assert {field for plugin in plugins for field in fields() if getattr(plugin, field)} == set(fields())


@pytest.mark.unhurried
@pytest.mark.parametrize(
    "block", [pytest.param(block, marks=() if block in QUICKLY else pytest.mark.slow) for block in BLOCKS]
)
def test_the_file_trains_and_its_test_passes_unedited(block, folder, capsys):
    train, test = written(capsys, f"block={block}")
    assert pytest.main([*test[1:], "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]) == 0
    if block not in QUICKLY:
        assert main([*train[1:], "debug=smoke", "trainer.max_steps=2", f"run_dir={folder / 'run'}"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_the_doctor_finds_nothing_in_the_unedited_file(block, folder, capsys):
    train, _ = written(capsys, f"block={block}")
    status = main(["doctor", *train[2:], "format=json", "seconds=0", *SMALL])
    printed = capsys.readouterr()
    if block in NOT_OF_THE_MODEL:
        assert status == 2 and f"plugin: nothing of my_{block}.py would be checked; fix: leave it out" in printed.err
        return
    report = json.loads(printed.out)
    assert {check["name"]: check["findings"] for check in report["checks"] if check["findings"]} == {}
    assert status == 0 and report["healthy"] is True
    assert f"my_{block}" in (report["task"], *report["changed"].values())


def test_another_name_and_folder(folder, capsys):
    train, test = written(capsys, "block=attention", "file=variants/warm_heads.py")
    assert train[2:] == ["plugin=variants/warm_heads.py", "task=lm", "model.attention=warm_heads"]
    assert test == ["pytest", "variants/test_warm_heads.py"]
    text = (folder / "variants" / "warm_heads.py").read_text() + (folder / test[1]).read_text()
    assert "class WarmHeads(" in text and "options.warm_heads.start" in text and "my_" not in text
    composed = compose([*train[2:], "options.warm_heads.start=2"])
    assert composed.config.options["warm_heads"].start == 2


def test_a_new_task_names_the_example_with_a_label_for_each_token(folder, capsys):
    assert main(["new", "block=task"]) == 0
    (example,) = re.findall(r"each token gets a label, begin with (\S+\.py) ", capsys.readouterr().out)
    assert load_plugin(str(ROOT / example)).tasks
    assert main(["new", "block=norm"]) == 0 and "label" not in capsys.readouterr().out


def test_commands_can_be_pasted(folder, capsys):
    for block in ("norm", "reader"):
        train, test = written(capsys, f"block={block}", f"file=my own/a_{block}.py")
        assert test == ["pytest", f"my own/test_a_{block}.py"]
        assert f"plugin=my own/a_{block}.py" in train
    assert "data.train=my own/a_reader.txt" in train and compose(train[2:]).config.data.train == "my own/a_reader.txt"
    assert main(["new", "block=norm", "file=my own/a_norm.py"]) == 2
    assert "fix: 'file=my own/a_norm_2.py'" in capsys.readouterr().err


def test_nothing_is_overwritten(folder, capsys):
    for existing in ("my_norm.py", "test_my_norm.py"):
        (folder / existing).write_text("mine")
        assert main(["new", "block=norm"]) == 2
        error = capsys.readouterr().err
        assert f"{existing} exists, and new overwrites nothing; fix: file=my_norm_2.py" in error
        assert (folder / existing).read_text() == "mine" and len(list(folder.iterdir())) == 1
        (folder / existing).unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("block=atention", "block: must be one of attention, "),
        ("", "block: is missing; fix: block=attention"),
        ("block=norm file=rms_norm.py", "another name than our norms have (layer_norm, rms_norm)"),
        ("block=task file=translation.py", "another name than our tasks have ("),
        ("block=norm file=torch.py", "another name than that of an installed package, which the file would hide"),
        ("block=norm file=json.py", "another name than that of an installed package, which the file would hide"),
        ("block=attention file=multi_head_attention.py", "another name, because the file uses MultiHeadAttention"),
        ("block=norm file=Norm", "NAME.py with small letters, digits and _, got 'Norm'; fix: file=my_norm.py"),
        ("block=norm file=class.py", "NAME.py with small letters"),
        ("block=norm file=2x.py", "NAME.py with small letters"),
        ("block=norm name=x", "name: no such key; new takes block, file"),
    ],
)
def test_what_cannot_be(words, message, folder, capsys):
    assert main(["new", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written(folder, capsys):
    (folder / "file").write_text("")
    assert main(["new", "block=norm", "file=file/mine.py"]) == 5
    assert "cannot be written (" in capsys.readouterr().err


def test_it_imports_nothing_heavy(folder):
    code = "import sys; from multihead.cli import main; main(['new', 'block=attention']); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "False"


@pytest.mark.unhurried
def test_the_page_of_plugins_has_a_row_for_each_part_with_its_key_and_files_that_exist():
    text = (ROOT / "docs" / "plugins.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:`([\w.]+)`)? ?\|.*\| (.*) \|$", text, flags=re.MULTILINE)
    keys = {field: key for field, key, _ in rows}
    assert set(keys) == {*fields(), "options"}
    for slot in SLOTS.values():
        assert keys[slot.field] == slot.key
    assert keys["causal_attention"] == keys["cross_attention"] == "model.attention"
    listed = set(re.findall(r"^\| \[([\w.]+)\]", text.partition("## Examples")[2], flags=re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "docs" / "examples" / "plugins").glob("*.py")} | {
        "gated_attention.py"
    }
    for field, _, example in rows:
        for name in re.findall(r"\[([\w.]+\.py)\]", example):
            assert getattr(load_plugin(str(ROOT / "docs" / "examples" / "plugins" / name)), field), name
