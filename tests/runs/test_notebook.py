"""Use from Python and in notebooks: what a run shows of itself, its learning curves, quiet trainings, and errors."""

import json
import logging
import os
import sys

import matplotlib.pyplot as plt
import pytest

import multihead
from multihead.cli import main
from multihead.errors import CheckpointError, ConfigError, DataError, MachineError, together
from multihead.runs.console import open_log
from multihead.runs.files import read_metrics
from multihead.runs.notebook import NotebookBar, as_html


@pytest.fixture
def loaded(runs):
    return multihead.load(runs.finished("task=translation"))


@pytest.fixture(autouse=True)
def no_windows():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def test_a_run_says_what_it_is(loaded, runs):
    result = runs.result("task=translation")
    parameters = f"{result['parameters']:,}"
    assert repr(loaded).startswith(f"Run({str(loaded.path)!r}: task=translation, data=grammar, parameters={parameters}")
    assert ", test/bleu=" in repr(loaded) and "\n" not in repr(loaded)
    shown = loaded._repr_html_()
    assert f">{parameters}</td>" in shown and ">test/chrf</th>" in shown and "translate(texts)" in shown


def test_a_run_of_which_only_the_model_is_left_says_what_it_is(runs, tmp_path):
    path = runs.copy(tmp_path / "run", "task=lm")
    (path / "metrics.csv").unlink()
    (path / "result.json").write_text("torn")
    run = multihead.load(path)
    assert "task=lm" in repr(run) and "test/" not in run._repr_html_()
    with pytest.raises(CheckpointError, match=r"metrics\.csv: does not exist or is empty"):
        _ = run.metrics
    with pytest.raises(CheckpointError, match=r"metrics\.csv: does not exist or is empty"):
        run.plot()


def test_what_a_run_shows_is_escaped(tmp_path):
    shown = as_html(tmp_path / "<script>", {"<b>": "a & b"}, ["<i>"])
    assert "<script>" not in shown and "<i>" not in shown and "&lt;b&gt;" in shown and "a &amp; b" in shown


def test_metrics_are_a_frame_by_step(loaded):
    frame, rows = loaded.metrics, read_metrics(loaded.path / "metrics.csv")
    assert len(frame) == len(rows) and sorted(frame.columns) == sorted(name for name in rows[0] if name != "step")
    losses = [(int(row["step"]), float(row["val/loss"])) for row in rows if row["val/loss"]]
    assert list(frame["val/loss"].dropna().items()) == losses


def test_a_torn_last_line_is_left_out(runs, tmp_path):
    path = runs.copy(tmp_path / "run", "task=lm")
    before = len(multihead.load(path).metrics)
    with (path / "metrics.csv").open("a") as file:
        file.write("11,0.5,12")
    assert len(multihead.load(path).metrics) == before


def test_learning_curves(loaded):
    losses, bleu = loaded.plot()
    assert [line.get_label() for line in losses.lines] == ["train/loss", "val/loss"]
    assert bleu.get_ylabel() == "val/bleu"
    expected = loaded.metrics["val/loss"].dropna()
    assert losses.lines[1].get_xydata().tolist() == [list(point) for point in expected.items()]
    (one,) = loaded.plot("optim/gradient_norm")
    assert len(one.lines) == 1
    with pytest.raises(ConfigError, match=r'metrics\.csv has no val/los; it has .*; fix: run\.plot\("val/loss"\)'):
        loaded.plot("val/los")


def test_the_same_line_as_on_the_terminal(capsys, tmp_path):
    words = ["task=lm", "optim.lrr=1"]
    with pytest.raises(ConfigError) as caught:
        multihead.train(words)
    assert main(["train", *words]) == 2
    assert capsys.readouterr().err == f"{caught.value}\n"
    assert caught.value._render_traceback_() == [str(caught.value)]
    with pytest.raises(ConfigError, match=r"error\[config\] run: no such directory: nowhere"):
        multihead.load("nowhere")
    with pytest.raises(ConfigError, match=r'fix: multihead\.train\(\["task=lm", "model=tiny"\]\)'):
        multihead.train("task=lm model=tiny")
    assert str(DataError("a\nb", "c\r\nd")) == "error[data] a b: c d"


def test_jupyter_shows_all_findings_and_the_traceback_to_who_asks(monkeypatch):
    error = together([DataError(f"a.csv:{line}", "is wrong") for line in range(12)])
    shown = error._render_traceback_()
    assert shown[:2] == ["error[data] a.csv:0: is wrong", "a.csv:1: is wrong"] and shown[-1] == "and 2 more"
    monkeypatch.setenv("MULTIHEAD_TRACEBACK", "1")
    assert error._render_traceback_()[-1].startswith("multihead.errors.DataError: error[data]")


def test_an_error_of_the_machine_is_ours(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("multihead.runs.run.run_directory", full)
    with pytest.raises(MachineError, match=r"error\[machine\] somewhere: No space left on device"):
        multihead.load("x")


def test_a_quiet_training_shows_nothing(tmp_path, capfd):
    words = ["task=lm", "debug=smoke", "logger=none"]
    result = multihead.train([*words, f"run_dir={tmp_path / 'run'}"], quiet=True)
    again = multihead.train([*words, f"run_dir={tmp_path / 'run'}", "resume=auto"], quiet=True)
    assert again["test/loss"] == result["test/loss"]
    assert multihead.train([*words, "plan=true"], quiet=True)["parameters"] == result["parameters"]
    assert capfd.readouterr() == ("", "")
    assert "step 10/10  val" in (tmp_path / "run" / "train.log").read_text()
    assert logging.getLogger("multihead").handlers == []


def test_evaluate_gives_the_metrics(runs, tmp_path):
    run = multihead.load(runs.copy(tmp_path / "run", "task=classification"))
    found = multihead.evaluate(run)
    known = json.loads((run.path / "result.json").read_text())
    assert found["test/accuracy"] == known["test/accuracy"] and (run.path / "evaluate_test.json").is_file()
    assert multihead.evaluate(run.path, ["data.split=val"])["val/accuracy"] == pytest.approx(known["val/accuracy"])


@pytest.mark.unhurried
def test_doctor_gives_its_outcomes(capfd):
    sizes = ["model.d_model=16", "model.num_heads=2", "model.d_ff=32", "model.max_len=64", "tokenizer.vocab_size=300"]
    outcomes = multihead.doctor(["checks=[outputs,documents]", *sizes])
    assert [(each.name, each.status) for each in outcomes] == [("outputs", "ok"), ("documents", "skipped")]
    assert capfd.readouterr() == ("", "")


class Output:
    """Stands for the output of a notebook's cell."""

    __module__ = "ipykernel.iostream"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


class Handle:
    """Keeps what a notebook was asked to show."""

    def __init__(self):
        self.shown = []

    def update(self, what, raw=False):
        self.shown.append(what["text/html"] if raw else what._repr_html_())


@pytest.fixture
def cell(monkeypatch):
    """Returns a function that begins a notebook's cell and gives its standard output and its bar."""

    def begin():
        handle, output = Handle(), Output()
        monkeypatch.setattr("IPython.display.display", lambda bar, display_id: handle)
        monkeypatch.setattr(sys, "stdout", output)  # pytest sets it anew when the test begins
        return output, handle

    return begin


def test_a_notebook_has_a_bar_and_no_quiet_lines(tmp_path, cell):
    output, handle = cell()
    multihead.train(["task=lm", "debug=smoke", "logger=none", f"run_dir={tmp_path / 'run'}"])
    bars = [each for each in handle.shown if each]
    assert any('value="10" max="10"' in bar and "loss " in bar and "tok/s" in bar for bar in bars)
    assert handle.shown[-1] == "", "the bar disappears"
    lines = output.text.splitlines()
    assert any("val  " in line and "(best)" in line for line in lines)
    assert not any("tokens/s" in line for line in lines), "the bar has these numbers"
    assert "tokens/s" in (tmp_path / "run" / "train.log").read_text()


def test_a_bar_that_fails_costs_no_run(tmp_path, cell, monkeypatch):
    output, _ = cell()
    monkeypatch.setattr(NotebookBar, "update", lambda *arguments, **options: 1 / 0)
    result = multihead.train(["task=lm", "debug=smoke", "logger=none", f"run_dir={tmp_path / 'run'}"])
    assert result["steps"] == 10
    assert "the progress bar failed, and the run goes on without it" in output.text


def test_a_table_in_a_notebook_is_no_wider_than_its_lines(cell, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter does
    cell()
    log = open_log(None)
    assert log.console.width == 100 and log.in_notebook and not log.console.is_jupyter
    assert not log.console.is_terminal
    log.close()
    assert not open_log(None, quiet=True).in_notebook
    log.close()


def test_the_bar_is_escaped():
    bar = NotebookBar()
    bar.add_task("<b>", total=5, loss="<i>", left="")
    assert repr(bar) == "<b>  0/5  <i>"
    assert "&lt;b&gt;" in bar._repr_html_() and "<i>" not in bar._repr_html_()


@pytest.mark.slow
def test_a_real_notebook(tmp_path):
    """A kernel runs cells. The bar stands in no cell at the end, an error is one line, and a run is a table."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [
        "import multihead\nresult = multihead.train(['task=lm', 'debug=smoke', 'logger=none', 'run_dir=first'])",
        "quiet = multihead.train(['task=lm', 'debug=smoke', 'logger=none', 'run_dir=second'], quiet=True)",
        "run = multihead.load('first')\nrun",
        "run.plot();",
        "run.metrics",
        "multihead.train(['task=lm', 'optim.lrr=1'])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    client = nbclient.NotebookClient(notebook, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    outputs = [cell["outputs"] for cell in notebook["cells"]]
    text = "".join(output.get("text", "") for output in outputs[0])
    assert "val  loss" in text and "tokens/s" not in text
    assert [output["data"].get("text/html") for output in outputs[0] if "data" in output] == ["", ""]
    assert outputs[1] == []
    assert "<table>" in outputs[2][0]["data"]["text/html"]
    assert [kind for output in outputs[3] for kind in output["data"] if kind.startswith("image/")] == ["image/png"]
    assert "<table" in outputs[4][0]["data"]["text/html"]
    assert outputs[5][0]["traceback"] == ["error[config] optim.lrr: no such key; did you mean optim.lr?"]
