"""``predict file= out= keep=``: the answers to a table are a table, in order, and those of standard input."""

import csv
import gzip
import io
import json
import re
import sys
from types import SimpleNamespace

import pytest
from commands.test_predict import run_of
from tasks.test_regression import task as regression

from multihead.cli import main
from multihead.config.verbs import PredictSettings
from multihead.errors import ConfigError
from multihead.runs import answers

ROWS = [("7", "die Katze, a b"), ("8", ""), ("9", 'a "b"\nthe dog'), ("10", "the dog the dog")]


@pytest.fixture
def predict(monkeypatch, capsys):
    """Status and standard error of ``multihead predict`` with a run of a task."""

    def predict(task, *words):
        monkeypatch.setattr("multihead.runs.run.load", lambda path, *words, **_: run_of(task, *words))
        status = main(["predict", "run=RUN", *map(str, words)])
        return status, capsys.readouterr().err

    return predict


def written(path, form):
    """Writes `ROWS` with an unused column in front."""
    if form == "jsonl":
        lines = [json.dumps({"date": 1, "id": i, "text": text}) for i, text in ROWS]
        path.write_text("\n".join(lines))
        return path
    table = io.StringIO()
    rows = csv.writer(table, delimiter={"csv": ",", "semicolon": ";"}[form])
    rows.writerows([("date", "id", "text"), *((1, i, text) for i, text in ROWS)])
    (path.write_text if path.suffix != ".gz" else lambda text: path.write_bytes(gzip.compress(text.encode())))(
        table.getvalue()
    )
    return path


def read(path):
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("name", "form"), [("a.csv", "csv"), ("a.csv.gz", "semicolon"), ("a.jsonl", "jsonl")])
@pytest.mark.parametrize("out", ["answers.csv", "answers.jsonl"])
def test_a_classifier_answers_a_table_without_labels(predict, tmp_path, name, form, out):
    file = written(tmp_path / name, form)
    status, said = predict("classification", f"file={file}", f"out={tmp_path / out}", "keep=id")
    assert status == 0 and "text=text" in said
    found = read(tmp_path / out)
    assert [row["id"] for row in found] == [i for i, _ in ROWS]
    for row, (_, text) in zip(found, ROWS, strict=True):
        best = run_of("classification").classify(text)
        assert (row["prediction"] or None) == best["label"]
        assert (float(row["probability"]) if row["probability"] else None) == best["probability"]
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name or "tmp" in each.name] == []


def test_the_answers_of_a_translator_are_those_of_standard_input(predict, tmp_path, monkeypatch, capsys):
    lines = ["the dog", "", "a cat and the dog", "die Katze"]
    (tmp_path / "a.tsv").write_text("source\tn\n" + "".join(f"{line or ' '}\t{i}\n" for i, line in enumerate(lines)))
    status, _ = predict("translation", f"file={tmp_path / 'a.tsv'}", f"out={tmp_path / 'b.jsonl'}", "keep=[n,source]")
    assert status == 0
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(lines).encode()), isatty=lambda: False)
    )
    assert main(["predict", "run=RUN"]) == 0
    typed = capsys.readouterr().out.split("\n")[:-1]
    found = read(tmp_path / "b.jsonl")
    assert [row["prediction"] for row in found] == typed
    assert [list(row) for row in found] == [["n", "source", "prediction"]] * 4


def test_parquet_goes_in_and_out(predict, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": [i for i, _ in ROWS], "text": [text for _, text in ROWS]})
    parquet.write_table(table, tmp_path / "a.parquet")
    words = f"file={tmp_path / 'a.parquet'}", f"out={tmp_path / 'b.parquet'}", "keep=id"
    assert predict("classification", *words)[0] == 0
    found = parquet.read_table(tmp_path / "b.parquet").to_pylist()
    assert [row["id"] for row in found] == [i for i, _ in ROWS] and found[1]["prediction"] is None


def test_a_template_and_a_column_of_another_name_are_inputs(predict, tmp_path):
    (tmp_path / "a.csv").write_text("id,title,body\n1,the,dog\n2,die,Katze\n")
    words = f"file={tmp_path / 'a.csv'}", f"out={tmp_path / 'b.jsonl'}", 'data.roles.text="{title} {body}"'
    assert predict("classification", *words)[0] == 0
    found = [row["probability"] for row in read(tmp_path / "b.jsonl")]
    assert found == [run_of("classification").classify(text)["probability"] for text in ("the dog", "die Katze")]


def test_what_was_computed_before_an_interruption_is_kept(predict, tmp_path, monkeypatch):
    file = written(tmp_path / "a.csv", "csv")
    monkeypatch.setattr("multihead.commands.predict.CHUNK", 2)
    task, asked = run_of("classification").task, []

    def interrupted(texts, decoding, first=0):
        asked.append(first)
        if first:
            raise KeyboardInterrupt
        return type(task).predict(task, texts, decoding, first)

    monkeypatch.setattr(task, "predict", interrupted)
    status, said = predict("classification", f"file={file}", f"out={tmp_path / 'b.csv'}", "keep=id")
    assert status != 0 and "interrupted: the first 2 of 4 answers are in" in said
    assert [row["id"] for row in read(tmp_path / "b.csv.partial.jsonl")] == ["7", "8"]
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["file=no.csv", "out=b.csv"], "file: no.csv is missing"),
        (["file=.", "out=b.csv"], r"file: \. is a folder"),
        (["file=a.csv"], "out: is missing; fix: out=a_answers.csv"),
        (["file=a.csv", "out=b.xlsx"], "out: must end in .csv, .jsonl, .parquet, got 'b.xlsx'"),
        (["file=a.csv", "out=x/b.csv"], "out: there is no folder x"),
        (["file=a.csv", "out=a.csv"], "out: is the input file, which would be lost"),
        (
            ["file=a.csv", "out=b.csv", "keep=nr"],
            "keep: a.csv has no column 'nr'; it has id, title, body; fix: keep=id",
        ),
        (["file=p.csv", "out=b.csv", "keep=prediction"], "keep: 'prediction' is the name of a column of answers"),
        (["file=a.csv", "out=b.csv", "data.roles.text=nr"], "has no column 'nr'; it has id, title, body"),
        (["file=bad.csv", "out=b.csv"], r"bad.csv: its rows have no separator that"),
    ],
)
def test_bad_input_is_one_sentence(predict, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("id,title,body\n1,the,dog\n2,die,Katze\n")
    (tmp_path / "p.csv").write_text("prediction,text\n1,the dog\n2,die Katze\n")
    (tmp_path / "bad.csv").write_text('id,text\n1,"the dog",x\n2,die Katze\n3,a\n')
    status, said = predict("classification", *words)
    assert status == 2 and len(said.splitlines()) == 1
    assert re.search(message, said), said
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("name", ["out", "keep"])
def test_out_and_keep_belong_to_a_file(name):
    with pytest.raises(ConfigError, match=f"{name}: needs file=, the table of inputs"):
        PredictSettings(run="RUN", **{name: "b.csv" if name == "out" else ["id"]})


def test_parquet_needs_a_package(tmp_path, monkeypatch):
    file = written(tmp_path / "a.csv", "csv")
    monkeypatch.setattr(answers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'a .parquet file needs pyarrow; fix: pip install "multihead\[parquet\]"'):
        answers.places_of(PredictSettings(run="RUN", file=str(file), out=str(tmp_path / "b.parquet")), {})


def test_a_blank_text_has_no_number(tmp_path, capsys):
    """The columns of the answers are the same in each row, whatever comes first."""
    made = regression()
    for texts in (["word1", "", "word2"], ["", "word1"]):
        rows = list(answers.answers(made, made.predict(texts, made.config.decoding)))
        assert [list(row) for row in rows] == [[answers.PREDICTION]] * len(texts)
        assert [row[answers.PREDICTION] is None for row in rows] == [not text for text in texts]
