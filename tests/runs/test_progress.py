"""What a run shows, drawn into a string: without a terminal, in narrow and wide ones, and in train.log."""

import io
import logging
import re
import time
import warnings

import lightning as L
import pytest
import torch
from rich.console import Console

from multihead.config.task import TranslationConfig
from multihead.config.training import Config, TrainerConfig
from multihead.runs.console import Screen, open_log
from multihead.runs.noise import quiet_lightning
from multihead.runs.progress import Progress
from multihead.runs.tables import duration, number, summary


class Toy(L.LightningModule):
    """Ten tokens a step, a BLEU that rises and falls. It is its own task."""

    task = property(lambda self: self)

    def __init__(self, seconds=0.0):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.tokens_seen, self.seconds = 0, seconds
        self.bleus = iter([12.5, 30.25, 20.0, 40.0])

    def training_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        return self.layer(batch).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.tokens_seen += 10
        self.trainer.callback_metrics["train/loss"] = torch.tensor(1 / self.trainer.global_step)

    def validation_step(self, batch, batch_idx):
        time.sleep(self.seconds)

    def on_validation_epoch_end(self):
        values = {"val/loss": torch.tensor(0.5), "val/bleu": torch.tensor(next(self.bleus))}
        self.trainer.callback_metrics.update(values)

    def test_step(self, batch, batch_idx):
        time.sleep(self.seconds)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(callbacks=(), seconds=0.0, max_steps=8):
    quiet_lightning()
    warnings.filterwarnings("ignore", category=Warning, module="lightning")
    config = Config(task=TranslationConfig(), trainer=TrainerConfig(max_steps=max_steps, log_every_n_steps=2))
    trainer = L.Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, val_check_interval=4, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        callbacks=[*callbacks, Progress(config)],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.zeros(6, 1), batch_size=1)
    module = Toy(seconds)
    trainer.fit(module, loader, loader)
    trainer.test(module, loader, verbose=False)


@pytest.fixture
def opened(tmp_path):
    """Returns a function that opens a log on a console of some width and gives what it showed so far."""
    logs = []

    def start(width, terminal):
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal, legacy_windows=False)
        logs.append(open_log(tmp_path, console))
        return console.file.getvalue

    yield start
    for log in logs[-1:]:
        log.close()


def test_plain_lines_without_a_terminal(opened, tmp_path):
    shown = opened(80, False)
    run()
    lines = shown().splitlines()
    assert [re.sub(r"  [\d,]+ tokens/s  0:00:0\d left$", " ...", line) for line in lines] == [
        "step 2/8  train  loss 0.500 ...",
        "step 4/8  train  loss 0.250 ...",
        "step 4/8  val  bleu 12.50 (best)  loss 0.500",
        "step 6/8  train  loss 0.167 ...",
        "step 8/8  train  loss 0.125 ...",
        "step 8/8  val  bleu 30.25 (best)  loss 0.500",
    ]
    assert "\x1b" not in shown()
    logged = (tmp_path / "train.log").read_text().splitlines()
    assert [line[20:] for line in logged] == lines
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", logged[0])


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.unhurried
def test_a_bar_that_fits_the_terminal_and_leaves_only_validations(opened, tmp_path, width):
    shown = opened(width, True)
    run(seconds=0.03)
    screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown())
    drawn = [line for line in re.split(r"[\r\n]+", screen) if "━" in line]
    assert drawn and all(len(line) <= width for line in drawn)
    assert any(re.search(r"train +━.*6/8 loss 0\.167 bleu 12\.50 \d+ tok/s 0:00:\d\d", line) for line in drawn)
    assert any(line.startswith("validating") for line in drawn) and any(line.startswith("test") for line in drawn)
    kept = [line for line in re.split(r"[\r\n]+", screen) if line.startswith("step")]
    assert kept == ["step 4/8  val  bleu 12.50 (best)  loss 0.500", "step 8/8  val  bleu 30.25 (best)  loss 0.500"]
    logged = (tmp_path / "train.log").read_text()
    assert "━" not in logged and "\x1b" not in logged and "train  loss 0.125" in logged


def test_the_best_is_remembered_over_a_resume():
    config = Config(task=TranslationConfig())
    before = Progress(config)
    assert before.state_dict() == {}
    assert before._is_best({"val/bleu": 30.0, "val/loss": 2.0}) and not before._is_best({"val/bleu": 20.0})
    after = Progress(config)
    after.load_state_dict(before.state_dict())
    assert not after._is_best({"val/bleu": 25.0}) and not after._is_best({"val/bleu": 30.0, "val/loss": 2.0})
    assert after._is_best({"val/bleu": 30.0, "val/loss": 1.9}) and after._is_best({"val/bleu": 31.0})


def test_summary_shows_metrics_samples_and_what_to_type(opened, tmp_path):
    shown = opened(80, False)
    result = {"val/bleu": 97.5, "seconds": 201.4, "test/bleu": 98.123, "tokens": 1234567, "git_commit": "abc",
              "test/loss": 0.0123, "padding": 0.0}  # fmt: skip
    samples = [("a [red]dog[/red]", "ein Hund", "ein Hund"), ("\x1b[2Jcat\n\t", "Katze", ""), ("long " * 40, "x", "y")]
    samples = [dict(zip(("source", "reference", "output"), sample, strict=True)) for sample in samples]
    summary(result, samples, ["multihead predict run=outputs/translation/grammar/2026-01-01_00-00-00_abcd " + "x" * 40])
    text = shown()
    assert [line for line in text.splitlines() if line != line.rstrip()] == []  # blanks at the end clutter a file
    names = re.findall(r"^ (\S+) +([\d,.:]+)$", text, re.M)
    assert names == [
        ("test/bleu", "98.12"), ("test/loss", "0.012"), ("val/bleu", "97.50"),
        ("seconds", "0:03:21"), ("tokens", "1,234,567"), ("padding", "0"),
    ]  # fmt: skip
    assert re.search(r"source +a \[red\]dog\[/red\]", text) and "abc" not in re.sub("abcd", "", text)
    assert "\x1b" not in text and "�[2Jcat\\n\\t" in text
    assert "x" * 40 in text  # a command stays on one line, so that it can be copied
    assert "ein Hund" in (tmp_path / "train.log").read_text()


def test_warnings_reach_the_file_and_closing_gives_logging_back(tmp_path):
    before = logging.getLogger("multihead").handlers, logging.getLogger("lightning.pytorch").handlers
    console = Console(file=io.StringIO(), width=80)
    log = open_log(tmp_path, console)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("take care", stacklevel=1)
        log.close()
    assert "take care" in console.file.getvalue() and "take care" in (tmp_path / "train.log").read_text()
    assert (logging.getLogger("multihead").handlers, logging.getLogger("lightning.pytorch").handlers) == before
    open_log(tmp_path, console)
    open_log(tmp_path, console).close()  # opening again closes the first
    assert logging.getLogger("multihead").handlers == before[0]


def test_a_reader_that_leaves_does_not_stop_the_run(tmp_path):
    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    log = open_log(tmp_path, Screen(file=Left(), width=80))
    logging.getLogger("multihead").info("one")
    logging.getLogger("multihead").info("two")
    log.close()
    assert [line[20:] for line in (tmp_path / "train.log").read_text().splitlines()] == ["one", "two"]


def test_numbers_and_durations():
    assert [number(x) for x in (5, 0.0, 12.345, 1.23456, 0.012345, 1e-5, 123456.7, float("nan"))] == [
        "5", "0", "12.35", "1.235", "0.012", "1.00e-05", "123,457", "nan",
    ]  # fmt: skip
    assert [duration(x) for x in (0.4, 59.6, 3725, float("nan"))] == ["0:00:00", "0:01:00", "1:02:05", "-:--:--"]


@pytest.mark.parametrize(("width", "terminal"), [(60, True), (80, True), (120, True), (80, False)])
def test_a_long_line_wraps_between_words_and_a_command_stays_whole(opened, width, terminal):
    shown = opened(width, terminal)
    note = "note: " + " ".join(f"word{number}" for number in range(60))
    command = f"  multihead evaluate run=outputs/{'long' * 30}/run decoding.num_beams=5"
    logging.getLogger("multihead").info("%s", note)
    logging.getLogger("multihead").info("\nnext:\n%s", command)
    lines = shown().splitlines()
    assert lines[-2:] == ["next:", command]
    wrapped = lines[: lines.index("")]
    assert " ".join(line.rstrip() for line in wrapped) == note  # no word is cut
    assert all(len(line) <= width for line in wrapped) if terminal else len(wrapped) == 1


def test_a_pipe_is_no_terminal_even_if_colours_are_forced(tmp_path, monkeypatch, capsys):
    """A rank of a notebook's training drew a bar of 10,000 columns, because Jupyter sets FORCE_COLOR."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = open_log(tmp_path)
    run()
    log.close()
    out = capsys.readouterr().out
    assert "step 2/8  train" in out and "\x1b" not in out and "━" not in out
