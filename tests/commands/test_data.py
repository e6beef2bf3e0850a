"""``multihead data``: what it prints of files, the commands that it offers, and the data set that it saves."""

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from multihead.commands import data, explain
from multihead.config.compose import compose
from multihead.errors import ConfigError, DataError

TICKETS = "id,created,subject,body,category\n" + "".join(
    f'{i},2024-01-0{i % 9 + 1},Problem {i % 3},"Hello, number {i} of them does not work",{label}\n'
    for i, label in enumerate(["billing", "login"] * 6 + ["Login", "n/a"])
)


@pytest.fixture
def tickets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.csv").write_text(TICKETS)
    return tmp_path


def test_a_table(tickets, capsys):
    assert data.run(["file=tickets.csv"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "tickets.csv: CSV, quoted, with a header, 14 rows" in text
    assert "created date 0 9 1 2024-01-01" in text and "body text 0 14 8 Hello, number 0 of them" in text
    assert "classes: billing 6, login 6, Login 1, n/a 1" in text
    assert "2 classes have fewer than 5 rows ('Login', 'n/a'); data.min_class_examples=5 leaves them out" in text
    assert "labels that differ only in capitals or blanks: 'Login', 'login'" in text
    assert "the label 'n/a' (1 rows) may mean \"no label\"" in text
    assert "classification: label=category, text=body" in text
    assert "multihead train task=classification data=tickets.csv" in text


@pytest.mark.parametrize(("rows", "found"), [(1, False), (2, True), (7, True), (200, False)])
def test_sentences_with_a_word_on_each_line_are_pointed_to_the_example(tmp_path, monkeypatch, capsys, rows, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pos.conll").write_text("\n".join("dog\tN\n" * (rows - 1) + "sees\tV\n" for _ in range(4)))
    assert data.run(["file=pos.conll", "task=translation"]) == 0
    said = "empty lines part the rows into 4 blocks; if each is a sentence with a word and its tag on each line"
    assert (said in capsys.readouterr().out) == found


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(tickets, capsys):
    data.run(["file=tickets.csv"])
    lines = capsys.readouterr().out.split("\n")
    assert [line for line in lines if line != line.rstrip()] == []
    assert any(line.startswith("body      text ") for line in lines)  # blanks between columns stay


def test_json_and_the_commands_compose(tickets, capsys):
    data.run(["file=tickets.csv", "format=json"])
    found = json.loads(capsys.readouterr().out)
    tasks = {each["task"]: each["words"] for each in found["tasks"]}
    assert list(tasks) == ["classification", "regression", "translation", "summarization", "lm"]
    assert not tasks.pop("regression")  # there is no column of numbers to predict
    for words in tasks.values():
        compose(words.split())


def test_counts_with_marks_between_thousands_get_no_command_that_fails(tmp_path, monkeypatch, capsys):
    """1,100 may be 1100 or 1.1, and training refuses it. Fewer such cells than half are left to training."""
    monkeypatch.chdir(tmp_path)
    views = [f'"{i + 1},{100 + i}"' for i in range(12)]
    for name, cells in (
        ("counts.csv", views),
        ("mixed.csv", [*views[:4], *(["0.5", "1.5", "2.5", "3.5", "4.5", "5.5", "6.5", "7.5"])]),
    ):
        rows = [f"the text number {i} of them,{cell}\n" for i, cell in enumerate(cells)]
        (tmp_path / name).write_text("text,views\n" + "".join(rows))
    data.run(["file=counts.csv", "format=json"])
    found = next(each for each in json.loads(capsys.readouterr().out)["tasks"] if each["task"] == "regression")
    assert (
        not found["words"]
        and "views holds numbers that may be read in two ways: '1,100' (row 1) is 1100" in found["what"]
    )
    data.run(["file=mixed.csv", "task=regression", "format=json"])
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert found["words"] == "task=regression data=mixed.csv"


def test_a_run_of_several_tasks_asks_for_the_roles_of_its_tasks_only(tickets):
    """Without translation, nobody asks which column is the source."""
    words = ["task=multitask", "task.parts=[lm,classification]", "data=tickets.csv", "data.min_class_examples=5"]
    config = compose(words).config
    assert config.data.roles == {"text": "body", "label": "category"}
    (tickets / "scores.csv").write_text("text,score\n" + "".join(f"text {i} of many,{i / 4}\n" for i in range(12)))
    words[1:3] = ["task.parts=[lm,regression]", "data=scores.csv"]
    assert compose(words[:3]).config.data.roles == {"text": "text", "label": "score"}


def test_rows_in_two_splits(tickets, capsys):
    rows = [f"a text of some words {i},{'xy'[i % 2]}\n" for i in range(10)]
    (tickets / "train.csv").write_text("text,label\n" + "".join(rows[:8]) + rows[0])
    (tickets / "test.csv").write_text("text,label\n" + "".join(rows[6:]))
    (tickets / "tickets.csv").unlink()
    data.run(["file=.", "task=classification"])
    text = capsys.readouterr().out
    assert "2 of 4 rows of test have a text that is in train too" in text
    assert "1 rows of train repeat the text of another row" in text


def test_saved_and_chosen(tickets, capsys):
    data.run(["file=tickets.csv", "task=classification", "save=my_conf/data/support.yaml", "data.roles.text=subject"])
    assert "config_dir=my_conf data=support" in capsys.readouterr().out
    config = compose(["task=classification", "data=support", "config_dir=my_conf"]).config.data
    assert config.name == "support" and config.roles == {"text": "subject", "label": "category"}
    assert (config.train, config.format, config.header) == ("tickets.csv", "csv", True)
    with pytest.raises(ConfigError, match=r"save: must name a .yaml file"):
        data.run(["file=tickets.csv", "save=my_conf"])
    with pytest.raises(DataError, match=r"the columns for task=translation are not clear; fix: multihead train task"):
        data.run(["file=tickets.csv", "task=translation", "save=x.yaml"])


def test_commands_for_unusual_names_can_be_pasted(tickets, capsys):
    rows = Path("tickets.csv").read_text()
    Path("a,b.csv").write_text(rows)
    data.run(["file=a,b.csv", "task=classification", "data.roles.text=subject", "save=my conf/data/a.yaml"])
    out = capsys.readouterr().out
    (train,) = re.findall("multihead train (.*)", out)
    assert compose(shlex.split(train)).config.data.train.endswith("a,b.csv")
    assert "to choose it: 'config_dir=my conf' data=a" in out
    with pytest.raises(ConfigError, match=r"save: the name of a data set has .*, got a b; fix: 'save=my conf/data/a_b"):
        data.run(["file=nowhere.csv", "save=my conf/data/a b.yaml"])
    with pytest.raises(ConfigError, match=f"fix: save=data/{'a' * 100}.yaml$"):
        data.run(["file=nowhere.csv", f"save=data/{'a' * 101}.yaml"])


def test_what_cannot_be_read(tickets):
    with pytest.raises(ConfigError, match=r"file: is missing; fix: file=tickets.csv"):
        data.run([])
    with pytest.raises(DataError, match=r"ticket.csv: no such file in .*; fix: data=tickets.csv"):
        data.run(["file=ticket.csv"])
    (tickets / "x.pdf").write_bytes(b"%PDF-1.7\n")
    with pytest.raises(DataError, match="is PDF, which Multihead does not read"):
        data.run(["file=x.pdf"])


def test_a_folder_for_each_class(tmp_path, capsys):
    for name in ("pos/1.txt", "pos/2.txt", "neg/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    data.run([f"file={tmp_path}"])
    text = capsys.readouterr().out
    assert "classes: pos 2, neg 1" in text and f"multihead train task=classification data={tmp_path}" in text


def test_torch_is_not_imported(tickets):
    code = (
        "import sys; from multihead.cli import main; status = main(['data', 'file=tickets.csv'])\n"
        "heavy = [name for name in ('torch', 'numpy', 'lightning') if name in sys.modules]\n"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_hydra_shows_of_a_path(tickets, capsys, monkeypatch):
    from multihead.cli import main

    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))  # Hydra adds one for --info
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    assert main(["train", "task=classification", "data=tickets.csv", "--info", "config"]) == 0
    assert "Config search path" in capsys.readouterr().out
    assert main(["train", "task=classification", "data=tickets.csv", "--cfg", "job", "--package", "data.roles"]) == 0
    assert "label: category\ntext: body\n" in capsys.readouterr().out


def test_a_multirun_over_paths(tmp_path, monkeypatch):
    from multihead.config.multirun import compose_sweep

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        rows = [f"some words {name} {i},l{i % 2}" for i in range(20)]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(rows))
    found = [each.config.data for each in compose_sweep(["task=classification", "data=a.csv,b.csv"])]
    assert [(each.name, each.train) for each in found] == [("a", "a.csv"), ("b", "b.csv")]


TAGGING = f"plugin={Path(__file__).parents[2] / 'docs/examples/plugins/tagging.py'}"


@pytest.fixture
def tagged(tmp_path, monkeypatch):
    """A file without a header: a text, and a tag for each of its words."""
    monkeypatch.chdir(tmp_path)
    texts = ["w" + " x" * (i % 7 + 5) + f" y{i}" for i in range(40)]
    rows = [f"{text}\t{' '.join('NVD'[i % 3] + str(i) for _ in text.split())}\n" for i, text in enumerate(texts)]
    (tmp_path / "tagged.tsv").write_text("".join(rows))
    return ["task=tagging", TAGGING, "data=tagged.tsv"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["data.roles={text: words, target: tags}"],
        ["data.roles={target: tags, text: words}"],
        ["data.roles.text=words", "data.roles.target=tags"],
        ["data.roles={text: column1, target: tags}"],
        ["data.roles={text: words, target: column2}"],
    ],
)
def test_the_command_for_a_wrong_role_gives_each_role_a_column(tagged, words):
    with pytest.raises(DataError) as refused:
        compose([*tagged, *words])
    command = str(refused.value).partition("fix: ")[2]
    assert command.count("data.roles") == 1 and "words" not in command and "tags" not in command
    roles = compose(shlex.split(command)[2:]).config.data.roles
    assert {role: roles[role] for role in ("text", "target")} == {"text": "column1", "target": "column2"}


def test_a_role_without_a_column_left_has_no_command(tagged):
    Path("one.tsv").write_text("a text\nanother text\n")
    with pytest.raises(DataError, match="none is left for the label; fix: let two roles not share"):
        compose(["task=classification", "data=tagged.tsv", "data.roles={text: column2, label: kind}"])


def test_two_roles_of_a_task_on_one_column_are_refused(tagged):
    words = ["data.roles={text: column1, target: column1}"]
    with pytest.raises(ConfigError, match=r"target: is column1, which is the text of task=tagging .*target=column2"):
        compose([*tagged, *words])
    assert compose([*tagged, *words, "data.roles.target=column2"]).config.data.roles["target"] == "column2"
    copies = compose(["task=translation", "data=tagged.tsv", "data.roles={source: column1, target: column1}"])
    assert any("the model learns to copy" in note for note in copies.notes)
    several = ["task=multitask", "task.parts=[lm,classification]", "task.monitor=val/loss", "task.monitor_mode=min"]
    several += ["data=files", "data.train=labelled.csv", "data.roles={text: text, label: label}"]
    assert compose([*several, "data.roles.lm_text=text"]).config  # two tasks may read one text
    with pytest.raises(ConfigError, match=r"data.roles.classification_label: is text, which is the text of task=class"):
        compose([*several, "data.roles.classification_label=text"])


def test_tasks_of_a_plugin_and_no_label_that_differs_in_each_row(tagged, capsys):
    assert data.run(["file=tagged.tsv", TAGGING]) == 0
    out = capsys.readouterr().out
    assert "data.roles.label" not in out and "most rows have a value of their own" in out
    assert re.search(r"median .* 95 %", out)
    command = re.findall(r"multihead train (task=tagging .*)", out)[0]
    assert compose(shlex.split(command)).config.data.roles["target"] == "column2"
    assert data.run(["file=tagged.tsv", TAGGING, "task=tagging"]) == 0
    assert "TSV, no header, 40 rows" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"task: must be one of classification, .*, lm, got 'tagging'"):
        data.run(["file=tagged.tsv", "task=tagging"])


def test_the_words_of_the_command_stay(tickets, capsys):
    data.run(["file=tickets.csv", "task=classification", "data.roles.text=subject", "task.multi_label=false"])
    words = re.findall(r"multihead train (.*)", capsys.readouterr().out)[0]
    assert words == "task=classification data=tickets.csv data.roles.text=subject task.multi_label=false"


def test_a_meaning_needs_no_task(capsys):
    assert explain.run(["key=model.norm", TAGGING]) == 0
    out = capsys.readouterr().out
    assert "default of ModelConfig  layer_norm" in out and "add task=tagging" in out
    with pytest.raises(ConfigError, match=r"task: must be chosen to see the values of tokenizer; fix: add task=trans"):
        explain.run(["key=tokenizer"])
    with pytest.raises(ConfigError, match=r"did you mean model.norm"):
        explain.run(["key=model.nrom"])


def test_a_file_whose_very_form_is_unclear_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("hdr.csv").write_text("alpha beta,gamma delta\n" + "one two,three four\n" * 6)
    assert data.run(["file=hdr.csv"]) == 0
    text = capsys.readouterr().out
    assert "is its first row ('alpha beta', 'gamma delta') the names of the columns?" in text
    assert "multihead train task=translation data=hdr.csv data.header=true" in text
