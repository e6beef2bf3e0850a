"""Loggers read back: by the standard library, by W&B's own inspector, after kills, and without a network."""

import csv
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from trial import FORKS
from wandb_server import WandbServer

from multihead.config.training import Config
from multihead.errors import ConfigError
from multihead.runs.loggers import build_loggers, finish, log_picture, log_samples, log_table
from multihead.runs.metrics_file import CSVMetrics, Events
from multihead.runs.noise import quiet_lightning
from multihead.runs.wandb import WandbMetrics, wandb_history, wandb_id

KEY = "5ec2e7" * 6 + "abcd"
"""A planted W&B key."""


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- metrics.csv and events.jsonl


def test_csv_has_every_value_and_columns_may_come_later(tmp_path):
    logger = CSVMetrics(tmp_path)
    logger.log_metrics({"train/loss": 4.5, "epoch": 0.5, "tokens": 100}, 20)
    logger.log_metrics({"val/bleu": 12.25, "a,b": float("nan")}, 20)
    logger.log_metrics({"train/loss": 1e-7}, 40)
    rows = table(tmp_path / "metrics.csv")
    assert list(rows[0]) == ["step", "epoch", "tokens", "seconds", "train/loss", "val/bleu", "a,b"]
    assert [row["train/loss"] for row in rows] == ["4.5", "", "1e-07"]
    assert rows[1]["val/bleu"] == "12.25" and rows[1]["a,b"] == "nan"
    assert [row["tokens"] for row in rows] == ["100"] * 3 and rows[2]["epoch"] == "0.5"
    assert 0 <= float(rows[0]["seconds"]) <= float(rows[2]["seconds"]) < 60


def test_resumed_csv_neither_loses_nor_doubles_rows(tmp_path):
    logger = CSVMetrics(tmp_path)
    for step in (10, 20, 30):
        logger.log_metrics({"train/loss": 100.0 - step, "tokens": step * 7}, step)
        if step == 20:
            logger.log_metrics({"val/bleu": 20.0}, step)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("40,0,28")  # torn by a kill
    resumed = CSVMetrics(tmp_path, step=20)
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == ["10", "20", "20"]
    resumed.log_metrics({"val/bleu": 20.0}, 20)  # validated again: the checkpoint was saved before it
    resumed.log_metrics({"train/loss": 70.0, "test/bleu": 30.0}, 30)
    rows = table(tmp_path / "metrics.csv")
    assert [(row["step"], row["train/loss"], row["val/bleu"]) for row in rows] == [
        ("10", "90.0", ""), ("20", "80.0", ""), ("20", "", "20.0"), ("30", "70.0", ""),
    ]  # fmt: skip
    assert rows[-1]["tokens"] == "140" and rows[-1]["test/bleu"] == "30.0"


def log_for_ever(folder):
    logger = CSVMetrics(folder)
    for step in range(1, 10**6):
        logger.log_metrics({"train/loss": 1 / step, f"column{step // 50}": step}, step)


def test_csv_survives_sigkill_at_any_moment(tmp_path):
    process = FORKS.Process(target=log_for_ever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "metrics.csv").exists():
        assert process.exitcode is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    process.join()
    CSVMetrics(tmp_path, step=10**6)
    steps = [int(row["step"]) for row in table(tmp_path / "metrics.csv")]
    assert len(steps) > 10 and steps == list(range(1, len(steps) + 1))


def test_events_are_whole_lines_even_after_a_torn_one(tmp_path):
    path = tmp_path / "events.jsonl"
    Events(path)("started", step=0)
    with open(path, "a") as file:
        file.write('{"time": "20')
    Events(path)("resumed", step=20, checkpoint="schön")
    first, torn, last = path.read_text().splitlines()
    assert json.loads(first)["event"] == "started" and json.loads(first)["time"].endswith("+00:00")
    assert torn == '{"time": "20' and json.loads(last)["checkpoint"] == "schön"


# ---- Weights & Biases


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run directory, and nothing of the user's W&B settings around it."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)
    (tmp_path / "run").mkdir()
    wandb.teardown()
    yield tmp_path / "run"
    wandb.teardown()


@pytest.fixture
def track(run_dir, monkeypatch, caplog, capfd):
    """Returns a function that logs steps ``first + 1`` to ``last`` and gives our lines and the seconds it all took."""
    import wandb

    def run(first, last, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()
        caplog.set_level(logging.INFO, "multihead")
        caplog.clear()
        start = time.monotonic()
        loggers = build_loggers(Config(), run_dir, {"optim": {"lr": 0.001}}, step=first)
        for step in range(first + 1, last + 1):
            for logger in loggers:
                logger.log_metrics({"train/loss": 1 / step, "tokens": 10 * step, "epoch": 0.1}, step)
        log_samples(loggers, last, [{"source": "a dog", "output": "ein Hund"}])
        log_table(loggers, last, "confusion_test", [["class", "ham", "spam"], ["ham", 7, 0], ["spam", 1, 2]])
        finish(loggers, 0)
        seconds = time.monotonic() - start
        wandb.teardown()  # as the end of the process does it
        printed = capfd.readouterr()
        assert printed.out == printed.err == ""
        return [record.getMessage() for record in caplog.records if record.name == "multihead"], seconds

    return run


def inspect(run_dir):
    """The history rows of all offline files of a run, as W&B's own tool prints them."""
    rows = []
    for folder in sorted(run_dir.glob("wandb/offline-run-*")):
        tool = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        printed = subprocess.run(tool, capture_output=True, text=True, timeout=60, check=True).stdout
        records = [json.loads(line) for line in printed.splitlines()]
        rows += [record["history"]["item"] for record in records if record["type"] == "history"]
    return rows


def values(rows, name):
    return [(row["step"], row[name]) for row in rows if name in row]


def num_rows(run_dir):
    """Training rows in all offline files, by our own reader, which another test holds against W&B's."""
    files = run_dir.glob("wandb/offline-run-*/*.wandb")
    return sum("train/loss" in row for file in files for row in wandb_history(file))


def test_without_login_it_is_offline_and_reads_back(run_dir, track):
    lines, seconds = track(0, 3, {})
    (folder,) = run_dir.glob("wandb/offline-run-*")
    assert lines == [
        f"W&B: not logged in (wandb login): logging offline to {run_dir}/wandb",
        f"W&B: offline in {run_dir}/wandb; upload later: wandb sync {folder}",
    ]
    assert seconds < 15
    content = inspect(run_dir)
    assert values(content, "train/loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert values(content, "tokens")[-1][1] == 30
    assert num_rows(run_dir) == 3
    assert (run_dir / "wandb" / "id").read_text().strip() == folder.name.rsplit("-", 1)[1]
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in folder.glob("files/media/table/*.json")}
    assert tables["samples"]["data"] == [["a dog", "ein Hund"]]
    assert tables["confusion"] == {"columns": ["class", "ham", "spam"], "data": [["ham", 7, 0], ["spam", 1, 2]]}


def test_a_resumed_run_keeps_its_id_and_no_step_is_lost_or_doubled(run_dir, track):
    code = """
        import os, signal, sys; from pathlib import Path
        from multihead.config.training import Config; from multihead.runs.loggers import build_loggers
        loggers = build_loggers(Config(), Path(sys.argv[1]), {})
        for step in range(1, 31):
            for logger in loggers:
                logger.log_metrics({"train/loss": 1 / step}, step)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(run_dir)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    name = wandb_id(run_dir)
    (file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    os.truncate(file, file.stat().st_size // 2)  # W&B writes in blocks, some seconds late: a kill may lose more
    assert num_rows(run_dir) < 30
    time.sleep(1)  # folders are named by the second
    lines, _ = track(20, 40, {})
    assert "wandb sync " + str(run_dir / f"wandb/offline-run-*-{name}") in lines[-1]
    time.sleep(1)
    track(35, 50, {})
    assert {folder.name.rsplit("-", 1)[1] for folder in run_dir.glob("wandb/offline-run-*")} == {name}
    assert sorted(values(inspect(run_dir), "train/loss")) == [(s, pytest.approx(1 / s)) for s in range(1, 51)]


def test_a_key_without_network_goes_offline_at_once(run_dir, track):
    lines, seconds = track(0, 3, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"})
    assert lines[0] == f"W&B unreachable: logging offline to {run_dir}/wandb"
    assert seconds < 10 and num_rows(run_dir) == 3


def test_a_server_that_never_answers_costs_at_most_ten_seconds(run_dir, track):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        lines, seconds = track(0, 3, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": address})
    assert lines[0] == f"W&B unreachable: logging offline to {run_dir}/wandb"
    assert seconds < 12 and num_rows(run_dir) == 3


@pytest.mark.slow
def test_a_server_that_answers_nonsense_costs_at_most_ten_seconds(run_dir, track):
    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_error(500)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        lines, seconds = track(0, 3, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": address})
        server.shutdown()
    assert lines[0].startswith("W&B did not start (") and len(lines) == 2
    assert seconds < 15 and num_rows(run_dir) == 3


@pytest.fixture
def server():
    """A stand-in for W&B's server."""
    server = WandbServer()
    yield server
    server.die()


def test_online_the_server_has_everything_and_a_resumed_run_sends_what_it_lacks(run_dir, track, server):
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.address}
    lines, seconds = track(0, 3, environment)
    name = wandb_id(run_dir)
    assert lines == [f"W&B: {server.address}/somebody/multihead/runs/{name}"] and seconds < 10
    assert values(server.history[name], "train/loss") == [(s, pytest.approx(1 / s)) for s in (1, 2, 3)]
    assert server.exits[name] == 0 and server.config[name]["optim"]["value"] == {"lr": 0.001}
    assert any("samples" in file for file in server.files) and any("samples" in row for row in server.history[name])
    del server.history[name][2:]  # as if the run had been killed before it sent them
    time.sleep(1)  # folders are named by the second
    track(3, 5, environment)
    assert values(server.history[name], "train/loss") == [(s, pytest.approx(1 / s)) for s in range(1, 6)]


def test_a_server_that_dies_costs_at_most_ten_seconds_and_nothing_that_was_logged(run_dir, track, server, monkeypatch):
    log_metrics = WandbMetrics.log_metrics

    def dies(self, metrics, step=None):
        if step == 2:
            server.die()
        log_metrics(self, metrics, step)

    monkeypatch.setattr(WandbMetrics, "log_metrics", dies)
    lines, seconds = track(0, 4, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.address})
    (folder,) = run_dir.glob("wandb/run-*")
    told = "the server did not take everything; it is kept in"
    assert lines[-1] == f"W&B: {told} {run_dir}/wandb; upload later: wandb sync {folder}" and seconds < 12
    assert sum("train/loss" in row for row in wandb_history(next(folder.glob("*.wandb")))) == 4


def test_whatever_wandb_raises_the_run_goes_on(run_dir, track, monkeypatch):
    import wandb

    log, error = wandb.Run.log, TypeError("a defect\nof theirs")

    def broken(self, data, **options):
        if "samples" in data or data["step"] == 3:
            raise error
        log(self, data, **options)

    monkeypatch.setattr(wandb.Run, "log", broken)
    lines, _ = track(0, 2, {"WANDB_MODE": "offline"})
    assert (
        lines[1] == f"tables are no longer sent to W&B ({run_dir} has their rows): a defect of theirs"
        and len(lines) == 3
    )
    time.sleep(1)
    lines, _ = track(2, 5, {})
    assert lines[1] == "W&B logging stopped at step 3 (metrics.csv continues): a defect of theirs"
    assert num_rows(run_dir) == 2 and [row["step"] for row in table(run_dir / "metrics.csv")] == list("12345")


def test_wandb_mode_wins_and_a_bad_setting_does_not_stop_the_run(run_dir, track):
    lines, _ = track(0, 1, {"WANDB_MODE": "disabled"})
    assert lines == [] and not list(run_dir.glob("wandb/*run*"))
    lines, _ = track(1, 2, {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY})
    assert lines[0].startswith("W&B: WANDB_MODE=offline: logging offline")
    lines, _ = track(2, 3, {"WANDB_MODE": "online", "WANDB_API_KEY": "", "WANDB_BASE_URL": "nonsense"})
    assert len(lines) == 1 and lines[0].startswith("W&B is left out: ")
    assert [row["step"] for row in table(run_dir / "metrics.csv")] == ["1", "2", "3"]


def test_a_key_that_cannot_be_is_offline(run_dir, track):
    """W&B was left out, and nothing was kept."""
    lines, _ = track(0, 2, {"WANDB_API_KEY": "short"})
    assert lines[0].startswith("W&B: WANDB_API_KEY invalid: ") and f": logging offline to {run_dir}/wandb" in lines[0]
    assert num_rows(run_dir) == 2


def test_a_sweeps_agent_hides_nothing_of_the_configuration(run_dir, server, monkeypatch):
    """The agent sets task=translation, and W&B keeps that word in the place of our node ``task``."""
    import wandb

    params = run_dir.parent / "params.yaml"
    params.write_text("wandb_version: 1\ntask: {value: translation}\nmodel: {value: tiny}\noptim.lr: {value: 0.01}\n")
    told = {"SWEEP_ID": "s1", "SWEEP_PARAM_PATH": params, "RUN_ID": "r1", "API_KEY": KEY, "BASE_URL": server.address}
    for name, value in told.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    tree = {
        "task": {"name": "translation", "num_samples": 5},
        "model": {"d_model": 64},
        "optim": {"lr": 0.01, "betas": [0.9, 0.98]},
        "seed": 3,
    }
    loggers = build_loggers(Config(), run_dir, tree)
    shown = dict(loggers[1].run.config)
    finish(loggers, 0)
    wandb.teardown()
    assert {k: v for k, v in shown.items() if k != "reproduce"} == {
        "task": "translation", "task.name": "translation", "task.num_samples": 5, "model": "tiny", "model.d_model": 64,
        "optim": {"lr": 0.01, "betas": [0.9, 0.98]}, "optim.lr": 0.01, "seed": 3,
    }  # fmt: skip
    sent = server.config["r1"]
    assert sent["model.d_model"]["value"] == 64 and sent["task"]["value"] == "translation"


@pytest.mark.parametrize("broken", ["define_metric", "Image", "Table"])
def test_what_wandb_cannot_do_is_one_line(run_dir, monkeypatch, caplog, broken):
    import wandb

    def fails(*arguments, **options):
        raise KeyError("theirs")

    monkeypatch.setattr(wandb.Run if broken == "define_metric" else wandb, broken, fails)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with caplog.at_level(logging.WARNING, "multihead"):
        loggers = build_loggers(Config(), run_dir, {})
        log_table(loggers, 1, "confusion_test", [["class"], ["ham"]])
        log_picture(loggers, 1, "attention", run_dir / "attention.png")
        finish(loggers, 0)
    wandb.teardown()
    told = [record.getMessage() for record in caplog.records if "theirs" in record.getMessage()]
    assert len(told) == 1 and len(told[0].splitlines()) == 1


def test_no_secret_is_written(run_dir, track, monkeypatch):
    track(0, 2, {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://user:hunter2@127.0.0.1:9"})
    monkeypatch.setattr(socket, "gethostname", lambda: "planted-host")
    track(2, 3, {})
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in (KEY, "hunter2", "planted-host") if secret.encode() in content], path
    assert not [path for path in files if path.name in ("wandb-metadata.json", "requirements.txt")]


def test_the_agents_run_id_is_taken_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "sweep7")
    assert wandb_id(tmp_path) == "sweep7"
    monkeypatch.setenv("WANDB_RUN_ID", "other")
    assert wandb_id(tmp_path) == "sweep7"


# ---- the rest


def test_none_writes_the_csv_alone(tmp_path):
    loggers = build_loggers(Config(logger="none"), tmp_path, {})
    loggers[0].log_metrics({"train/loss": 1.0}, 1)
    log_samples(loggers, 1, [{"source": "a"}])
    finish(loggers, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero.rank_zero_only.rank", 1)
    assert build_loggers(Config(), tmp_path, {}) == []
    Events(tmp_path / "events.jsonl")("started")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_back(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = build_loggers(Config(logger="tensorboard"), tmp_path, {})
    for logger in loggers:
        logger.log_metrics({"train/loss": 2.5}, 20)
    image = pytest.importorskip("matplotlib.image")
    image.imsave(tmp_path / "map.png", [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]], cmap="Blues")
    log_picture(loggers, 30, "attention", tmp_path / "map.png")
    finish(loggers, 0)
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(20, 2.5)]
    assert [(event.step, event.height, event.width) for event in events.Images("attention")] == [(30, 2, 3)]


def test_a_tensorboard_that_cannot_write_costs_no_run(tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    loggers = build_loggers(Config(logger="tensorboard"), tmp_path, {})
    for name in ("add_scalar", "add_image", "flush", "close"):
        monkeypatch.setattr(SummaryWriter, name, full)
    with caplog.at_level(logging.WARNING, "multihead"):
        for logger in loggers:
            logger.log_metrics({"train/loss": 2.5}, 20)
            logger.save()
        log_picture(loggers, 30, "attention", tmp_path / "map.png")
        finish(loggers, 0)
    assert "TensorBoard failed, and the run goes on without it: OSError: [Errno 28] No space left" in caplog.text
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == ["20"]


def test_tensorboard_missing_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"logger: tensorboard is not installed; fix: pip install"):
        build_loggers(Config(logger="tensorboard"), tmp_path, {})


def test_quiet_lightning_drops_advertising_and_nothing_else(capsys):
    quiet_lightning()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    try:
        logger.info("💡 Tip: For seamless cloud logging, try installing ...")
        logger.warning("GPU available: False, used: False")
        logger.warning("something is wrong")
    finally:
        logger.removeHandler(handler)
    assert heard == ["something is wrong"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_lightning()
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
        warnings.warn("the loss is not finite", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["the loss is not finite"]


def test_a_finished_run_is_sent_afterwards_with_its_whole_curve(run_dir, monkeypatch):
    import wandb
    from trial import train

    from multihead.runs.files import read_metrics
    from multihead.sweeping.upload import send_run

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    run_dir.rmdir()
    train(run_dir, "logger=none")
    send_run(run_dir)
    wandb.teardown()  # as the end of the process does it
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    sent = {row["step"]: row for row in wandb_history(file) if "train/loss" in row}
    rows = {
        int(row["step"]): float(row["train/loss"]) for row in read_metrics(run_dir / "metrics.csv") if row["train/loss"]
    }
    assert {step: row["train/loss"] for step, row in sent.items()} == rows and rows
    assert b"mine" in file.read_bytes()
