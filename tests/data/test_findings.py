"""Several findings come together: at most ten, and how many more."""

import numpy as np
import pytest

from multihead.config.compose import compose
from multihead.config.data import DataConfig
from multihead.data.corpus import Rows, load_corpus
from multihead.data.labels import encode_labels, read_numbers
from multihead.errors import DataError, report

WORDS = "some words that a person wrote about this and that"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a table, and returns the error that its lines lead to."""
    monkeypatch.chdir(tmp_path)

    def refused(lines, action):
        (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
        with pytest.raises(DataError) as error:
            action()
        return error.value

    return refused


def load(**keys):
    roles = {"text": "text", "label": "label"}
    config = DataConfig(format="csv", header=True, train="rows.csv", roles=roles, **keys)
    return load_corpus(config, ["text", "label"], splits=["train"])


def good(count):
    return [f"{WORDS} {number},{'xy'[number % 2]}" for number in range(count)]


@pytest.mark.unhurried
def test_damage_far_behind_the_first_rows_is_found_before_anything_is_trained(table):
    bad = [f"a, b, {number},x" for number in range(12)]
    error = table(good(30_000) + bad, lambda: compose(["task=classification", "data=rows.csv"]))
    assert str(error).startswith("error[data] rows.csv:30002: has 4 columns, expected 2")
    assert len(error.others) + error.more == 11 and error.others[0].startswith("rows.csv:30003: has 4 columns")
    last = [*[f'"{WORDS}, {number}",x' for number in range(29_999)], '"no end,x', *good(3)]
    error = table(last, lambda: compose(["task=classification", "data=rows.csv"]))
    assert str(error).startswith("error[data] rows.csv:30001: the quotation mark that opens here has no closing quote")


def test_quotation_marks_that_stand_only_far_down_are_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [*good(30_000), '"he said ""yes"", twice",x', '"and ""no""",y']
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    config = compose(["task=classification", "data=rows.csv"]).config
    assert config.data.quoting is True
    config.data.splits.clear()
    rows = load_corpus(config.data, ["text", "label"], splits=["train"]).splits["train"]
    assert [text for text in rows.columns["text"] if '"' in text] == ['he said "yes", twice', 'and "no"']


def test_bad_lines_of_all_kinds_come_together(table, capsys):
    error = table([*good(3), *["a,b,c"] * 10, "\0,x", 'a,"b'], load)
    assert report(error) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error[data] rows.csv:5: has 3 columns, expected 2 (text, label); fix: ")
    assert lines[1:9] == [f"rows.csv:{n}: has 3 columns, expected 2 (text, label)" for n in range(6, 14)]
    assert lines[9] == "rows.csv:14: has 3 columns, expected 2 (text, label)"
    assert lines[10] == "and 2 more"


def test_rows_that_lack_a_role_come_together(table):
    error = table([*good(3), *[",x"] * 12], load)
    assert error.where == "rows.csv:5" and len(error.others) == 9 and error.more == 2
    assert error.others[0].startswith("rows.csv:6: the text is empty, the label (rows.csv:6) is not")


def test_labels_that_are_no_numbers_and_labels_that_train_lacks():
    rows = Rows({"label": ["1", "a", "2", "b", *["c"] * 11]}, {"label": "rows.csv"}, np.arange(2, 17))
    with pytest.raises(DataError) as error:
        read_numbers(DataConfig(), rows)
    assert error.value.where == "rows.csv:3" and len(error.value.others) == 9 and error.value.more == 3
    with pytest.raises(DataError) as error:
        encode_labels([["x"], ["v"], ["w"], ["v"]], ["x", "y"], rows, "test")
    assert error.value.where == "rows.csv:3"
    assert [line[: len("rows.csv:4: the label 'w'")] for line in error.value.others] == ["rows.csv:4: the label 'w'"]


def test_open_questions_come_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n},{n} {WORDS},{-n} {WORDS},{'xy'[n % 2]},{'ab'[n % 3 > 0]}\n" for n in range(40))
    (tmp_path / "rows.csv").write_text("id,first,second,kind,group\n" + rows)
    with pytest.raises(DataError) as error:
        compose(["task=classification", "data=rows.csv"])
    assert "which column holds the label: kind or group?" in error.value.what
    (other,) = error.value.others
    assert other.startswith("rows.csv: which column holds the text: ") and "data.roles.text=second" in other
