"""Two ranks on the CPU, by our launcher: the same gradients and scores as one, and one line for what goes wrong."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trial import ROOT, SMOKE, events, process, rows, train, weights

import multihead
from multihead.runs.checkpoint import random_state
from multihead.training.launch import SHUTDOWN_SECONDS
from multihead.training.streams import Streams

TWO = ["hardware=ddp", "devices=2", "accelerator=cpu"]
PLUGIN = '''
import os
import time
import lightning as L
import torch
from safetensors.torch import save_file
from multihead.plugin import Plugin

class Gradients(L.Callback):
    """Saves the gradient of the first step, before clipping."""
    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 0 and trainer.is_global_zero:
            gradients = {name: p.grad.contiguous() for name, p in module.task.model.named_parameters()}
            save_file(gradients, os.environ["GRADIENTS"])

class Slow(L.Callback):
    """Takes long for its third step."""
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2 and (seconds := os.environ.get("SLOW")):
            open(f"{os.environ['GRADIENTS']}.slow.{trainer.global_rank}", "w").close()
            end = time.monotonic() + float(seconds)
            while time.monotonic() < end:
                time.sleep(0.1)

class Failing(L.Callback):
    """Fails on one rank."""
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 7 and trainer.global_rank == 1 and (how := os.environ.get("FAILS")):
            if how == "defect":
                raise ZeroDivisionError("no such luck")
            if how == "disk":
                raise OSError(28, "No space left on device", "somewhere")
            os.kill(os.getpid(), int(how))

class Streams(L.Callback):
    """Saves what each rank draws in its first step, and its weights after the last one."""
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 0:
            before = torch.get_rng_state()
            self.drawn = torch.rand(1000)
            torch.set_rng_state(before)

    def on_train_end(self, trainer, module):
        if hasattr(self, "drawn"):
            held = {name: p.detach().contiguous().clone() for name, p in module.task.model.named_parameters()}
            save_file(held | {"drawn": self.drawn}, f"{os.environ['GRADIENTS']}.{trainer.global_rank}")

PLUGIN = Plugin(callbacks={"gradients": Gradients, "failing": Failing, "slow": Slow, "streams": Streams})
'''


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "watch.py").write_text(PLUGIN)
    return f"plugin={tmp_path / 'watch.py'}"


def test_gradients_and_scores_do_not_depend_on_the_cut(tmp_path, monkeypatch, plugin, forked_ranks):
    """The same step whole, as 4 micro-batches, and on two ranks with 3 micro-batches and empty parts."""
    same = ["model.dropout=0", "trainer.max_steps=4", "trainer.val_every_n_steps=4", "optim.lr=1e-2", plugin]
    cuts = {
        "whole": [],
        "parts": ["data.part_tokens=1024", "trainer.accumulate_grad_batches=4"],
        "both": [*TWO, "trainer.accumulate_grad_batches=3"],
    }
    gradients, results = {}, {}
    for name, cut in cuts.items():
        monkeypatch.setenv("GRADIENTS", str(tmp_path / f"{name}.safetensors"))
        results[name] = train(tmp_path / name, *same, "data.batch_tokens=512", "data.part_tokens=512", *cut)
        gradients[name] = load_file(tmp_path / f"{name}.safetensors")
    for name in ("parts", "both"):
        for parameter, expected in gradients["whole"].items():
            torch.testing.assert_close(gradients[name][parameter], expected, rtol=1e-5, atol=1e-5)
        assert results[name]["test/loss"] == pytest.approx(results["whole"]["test/loss"], rel=1e-5)
        assert results[name]["val/loss"] == pytest.approx(results["whole"]["val/loss"], rel=1e-5)
        assert results[name]["tokens"] == results["whole"]["tokens"]
        losses = zip(rows(tmp_path / name), rows(tmp_path / "whole"), strict=True)
        assert all(float(a) == pytest.approx(float(b), rel=1e-5) for (_, a), (_, b) in losses)
    indices = lambda name: [  # noqa: E731
        json.loads(line)["index"] for line in (tmp_path / name / "samples.jsonl").read_text().splitlines()
    ]
    assert indices("both") == indices("whole")


@pytest.mark.slow  # test_metrics.py gathers BLEU over two ranks
def test_evaluating_under_two_ranks_gives_the_same_bleu(tmp_path, forked_ranks):
    """The same weights, scored by one rank and by two: BLEU to the last digit."""
    words = ["trainer.max_steps=100", "trainer.val_every_n_steps=100", "trainer.checkpoint_every_n_steps=100"]
    one = train(tmp_path / "run", *words, "optim=muon", "optim.warmup_steps=5", "model.d_model=64")
    (tmp_path / "run" / "result.json").unlink()
    two = multihead.train([f"resume={tmp_path / 'run'}", *TWO])
    assert one["test/bleu"] > 0
    for name in ("test/bleu", "test/chrf", "test/bleu_lowercase", "val/bleu"):
        assert two[name] == one[name], name
    assert two["test/loss"] == pytest.approx(one["test/loss"], rel=1e-9)


def left_over(path):
    """Processes whose command line names something under ``path``."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(path).encode() in file.read_bytes():
                found.append(file.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("how", "status", "line"),
    [
        pytest.param(
            "defect",
            1,
            "error[plugin] in your plugin watch.py:",
            marks=pytest.mark.slow,
        ),
        pytest.param("disk", 5, "error[machine] somewhere: No space left on device", marks=pytest.mark.slow),
        ("9", 6, "error[peer] rank 1: was killed by SIGKILL"),
        pytest.param("15", 143, "stopped by SIGTERM, saved step 8", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_ends_all_with_one_line(tmp_path, plugin, how, status, line):
    words = [*SMOKE, *TWO, plugin, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=200"]
    environment = {"FAILS": how, "GRADIENTS": str(tmp_path / "g"), "TMPDIR": str(tmp_path)}
    running = process(str(ROOT / "train.py"), *words, **environment)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == status, errors
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(line)
    assert left_over(tmp_path) == []
    assert (tmp_path / "run" / "checkpoints" / "step_5").is_dir()
    if how == "defect":
        assert "RankError: rank 1: ZeroDivisionError: no such luck" in errors
        assert "raise ZeroDivisionError" in (tmp_path / "run" / "crash.txt").read_text()


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_parent_ends_every_rank(tmp_path, signum):
    words = [*SMOKE, *TWO, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=3000", "trainer.val_every_n_steps=3000"]
    running = process(str(ROOT / "train.py"), *words, TMPDIR=str(tmp_path))
    file = tmp_path / "run" / "events.jsonl"
    while not (file.exists() and '"saved"' in file.read_text()):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    os.kill(running.pid, signum)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (-9 if signum == signal.SIGKILL else 128 + signum), errors
    deadline = time.monotonic() + 20
    while left_over(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_over(tmp_path) == []
    if signum != signal.SIGKILL:
        assert events(tmp_path / "run")[-2]["event"] == "stopped"
        assert len(errors.splitlines()) == 1, errors


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_ranks_save_a_step_that_takes_longer_than_the_launcher_waits(tmp_path, plugin, signum):
    words = [*SMOKE, *TWO, plugin, f"run_dir={tmp_path / 'run'}", "trainer.val_every_n_steps=100"]
    words += ["trainer.checkpoint_every_n_steps=100", "trainer.max_steps=100"]
    environment = {"SLOW": str(SHUTDOWN_SECONDS + 4), "GRADIENTS": str(tmp_path / "g"), "TMPDIR": str(tmp_path)}
    running = process(str(ROOT / "train.py"), *words, **environment)
    while len(list(tmp_path.glob("g.slow.*"))) < 2:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    os.kill(running.pid, signum)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + signum, errors
    assert (
        errors.startswith(f"stopped by {signal.Signals(signum).name}, saved step 3") and len(errors.splitlines()) == 1
    )
    assert (tmp_path / "run" / "checkpoints" / "latest.json").is_file()
    assert [event["event"] for event in events(tmp_path / "run")][-3:] == ["saved", "stopped", "left"]


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_the_step(tmp_path, plugin):
    words = [*SMOKE, *TWO, plugin, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=100"]
    environment = {"SLOW": "60", "GRADIENTS": str(tmp_path / "g"), "TMPDIR": str(tmp_path)}
    running = process(str(ROOT / "train.py"), *words, **environment)
    while len(list(tmp_path.glob("g.slow.*"))) < 2:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    for _ in range(2):
        os.kill(running.pid, signal.SIGTERM)
        time.sleep(0.5)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 143 and errors.startswith("stopped by SIGTERM; resume="), errors
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_killed_under_two_ranks_and_resumed(tmp_path, plugin):
    words = ["trainer.max_steps=20", "trainer.val_every_n_steps=30", *TWO, plugin]
    environment = {"GRADIENTS": str(tmp_path / "g"), "FAILS": "9"}
    train_words = [*SMOKE, f"run_dir={tmp_path / 'killed'}", *words]
    running = process(str(ROOT / "train.py"), *train_words, **environment)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 6
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("error[peer] rank 1: was killed by SIGKILL")
    for run in (f"run_dir={tmp_path / 'whole'}", f"resume={tmp_path / 'killed'}"):
        again = process(
            str(ROOT / "train.py"),
            run,
            *(words if "resume" in run else [*SMOKE, *words]),
            GRADIENTS=str(tmp_path / "g"),
        )
        _, errors = again.communicate(timeout=120)
        assert again.returncode == 0, errors
    ours, theirs = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    one, two = (load_file(tmp_path / f"g.{rank}") for rank in (0, 1))
    assert not torch.equal(one.pop("drawn"), two.pop("drawn"))  # masks of dropout
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_rank_draws_its_own_numbers_also_after_a_change_of_their_number():
    """Two ranks are resumed as three: two go on in their streams, and the third has a stream of its own."""
    saved, drawn = [], []
    for rank in (0, 1):
        torch.manual_seed(100 + rank)
        saved.append({"random": random_state(), "sum": None})
    for rank in (0, 1, 2):
        streams = Streams(seed=1)
        streams.resume(saved, rank, step=12)
        streams.begin_step()
        drawn.append(torch.rand(100))
    torch.manual_seed(100)
    assert torch.equal(drawn[0], torch.rand(100))
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 3


@pytest.mark.parametrize("task", [pytest.param("lm", marks=pytest.mark.slow), "multitask"])
def test_every_task_scores_the_same_under_two_ranks(tmp_path, task, forked_ranks):
    words = [f"task={task}", "debug=smoke", "model.dropout=0", "trainer.max_steps=4", "trainer.val_every_n_steps=4"]
    own = ["task.classification.head_dropout=0", "task.translation.copy=true", "task.lm.random_windows=9"]
    words += own if task == "multitask" else ["task.random_windows=9"]
    one = multihead.train([*words, f"run_dir={tmp_path / 'one'}"])
    two = multihead.train([*words, f"run_dir={tmp_path / 'two'}", *TWO])
    assert {name for name in one if "/" in name} == {name for name in two if "/" in name}
    for name, value in one.items():
        if name.startswith(("test/", "val/", "train/")):
            assert two[name] == pytest.approx(value, rel=1e-3, abs=2e-3), name
    samples = [(tmp_path / run / "samples.jsonl").read_text().count('"split": "test"') for run in ("one", "two")]
    assert samples[0] == samples[1] >= 20


def test_quiet_ranks_show_nothing(tmp_path, capfd, forked_ranks):
    words = [*SMOKE, *TWO, f"run_dir={tmp_path / 'run'}"]
    multihead.train(words, quiet=True)
    assert capfd.readouterr() == ("", "")
    assert "step 10/10  val" in (tmp_path / "run" / "train.log").read_text()
