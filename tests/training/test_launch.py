"""Who started the ranks, which rank hangs, and what SLURM is asked for."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from trial import ROOT, SMOKE, process, train

import multihead
from multihead import capabilities, ranks
from multihead.cli import main
from multihead.config.training import Config
from multihead.errors import ConfigError
from multihead.training import launch
from multihead.training import watchdog as module_of_watchdog
from multihead.training.assignment import RANK_PROGRAM
from multihead.training.watchdog import Watchdog, processes, read_beats

RANK = """
import sys, time, types
from pathlib import Path
sys.modules["lightning"] = types.SimpleNamespace(Callback=object)  # importing it takes seconds
from multihead.training.watchdog import guard_rank
heartbeat = guard_rank(Path(sys.argv[1]), int(sys.argv[2]))
for number in range(int(sys.argv[3])):
    heartbeat.beat()
    time.sleep(0.01)
while True:
    time.sleep(1)
"""
SLURM = [f"SLURM_{name}" for name in ("JOB_ID", "NTASKS", "NTASKS_PER_NODE", "PROCID", "LOCALID", "NODEID", "STEP_ID")]
SLURM += ["SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*ranks.TORCHRUN, "LOCAL_WORLD_SIZE", *SLURM):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(tmp_path):
    """Starts processes that are ranks to the watchdog, with so many beats each."""
    started = []

    def begin(*beats):
        for rank, count in enumerate(beats):
            words = [sys.executable, "-c", RANK, str(tmp_path), str(rank), str(count)]
            started.append(subprocess.Popen(words))
        deadline = time.monotonic() + 60
        while {rank: count for rank, (_, count) in read_beats(tmp_path).items()} != dict(enumerate(beats)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return started

    yield begin
    for rank in started:
        rank.kill()
        rank.wait()


def verdict(folder, run_dir, seconds=1):
    with Watchdog(folder, 2, seconds, run_dir) as watchdog:
        deadline = time.monotonic() + 20
        while watchdog.verdict is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return watchdog.verdict


def test_the_rank_with_the_least_progress_is_named(tmp_path, job):
    job(9, 5)
    (tmp_path / "run").mkdir()
    name, what = verdict(tmp_path, tmp_path / "run")
    assert name == "rank 1"
    assert what.startswith("made no progress for 1 s (stacks of all threads in ")
    stacks = (tmp_path / "run" / "stacks.txt").read_text()
    assert "rank 0:" in stacks
    assert 'File "<string>", line 11 in <module>' in stacks


def test_a_stopped_rank_is_named_whatever_its_progress(tmp_path, job):
    ranks = job(9, 5)
    ranks[0].send_signal(signal.SIGSTOP)
    assert verdict(tmp_path, tmp_path / "run") == ("rank 0", "is stopped and made no progress for 1 s")


def test_ranks_that_get_further_are_left_alone(tmp_path, job):
    job(3, 3)
    beat = tmp_path / "beat_0"
    with Watchdog(tmp_path, 2, 1, tmp_path) as watchdog:
        for number in range(20):
            beat.write_bytes((os.getpid()).to_bytes(8, "little") + (100 + number).to_bytes(8, "little"))
            time.sleep(0.1)
        assert watchdog.verdict is None


def test_a_signal_is_passed_on_once(tmp_path, job):
    ranks = job(1, 1)
    with Watchdog(tmp_path, 2, 0, tmp_path) as watchdog:
        watchdog.pass_on(signal.SIGUSR1)
        assert [rank.wait(10) for rank in ranks] == [-signal.SIGUSR1] * 2


def test_a_signal_is_passed_on_as_often_as_it_comes(tmp_path, monkeypatch):
    """A rank that has begun saves at the first one and ends at the second. One that has not begun ends at once."""
    sent = []
    monkeypatch.setattr(module_of_watchdog, "_send", lambda pid, signum: sent.append((pid, signum)))
    monkeypatch.setattr(module_of_watchdog, "processes", lambda folder: [11, 12])
    (tmp_path / "beat_0").write_bytes((11).to_bytes(8, "little") + (5).to_bytes(8, "little"))
    watchdog = Watchdog(tmp_path, 2, 0, tmp_path)
    watchdog.pass_on(signal.SIGINT)
    watchdog._signal(read_beats(tmp_path))
    assert sent == [(11, signal.SIGINT), (12, signal.SIGTERM)]
    sent.clear()
    both = {0: (11, 5), 1: (12, 1)}  # it had just begun
    watchdog._signal(both)
    watchdog._signal(both)
    assert sent == [(12, signal.SIGINT)]
    watchdog.pass_on(signal.SIGINT)
    watchdog._signal(both)
    watchdog._signal(both)
    assert sent == [(12, signal.SIGINT), (11, signal.SIGINT), (12, signal.SIGINT)]


def test_ranks_are_found_by_their_command_line(tmp_path):
    assert processes(tmp_path) == []
    words = [sys.executable, "-c", "import time; time.sleep(60)", RANK_PROGRAM, str(tmp_path / "job.json")]
    with subprocess.Popen(words) as rank:
        deadline = time.monotonic() + 60
        while not (found := processes(tmp_path)):  # for a moment after it starts, a process has no command line
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert found == [rank.pid]
        assert processes(tmp_path / "other") == []
        rank.kill()
    assert find_spec(RANK_PROGRAM)


def test_who_started_us(monkeypatch):
    assert (ranks.world_size(), ranks.is_main_rank()) == (1, True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert ranks.world_size() == 1  # a batch script or an allocation, without srun
    assert type(launch.cluster_environment()).__name__ == "LightningEnvironment"
    monkeypatch.setenv("SLURM_STEP_ID", str(2**32 - 5))  # how SLURM numbers the batch script itself
    assert ranks.world_size() == 1
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(
        ConfigError, match=r"srun: You set .--ntasks=4.*; fix: call srun as docs/examples/slurm.sh does"
    ):
        launch.cluster_environment()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert (ranks.world_size(), ranks.is_main_rank()) == (4, False)
    assert type(launch.cluster_environment()).__name__ == "SLURMEnvironment"
    assert not launch.cluster_environment().auto_requeue
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (ranks.world_size(), ranks.is_main_rank()) == (2, False)  # torchrun inside SLURM
    assert type(launch.cluster_environment()).__name__ == "TorchElasticEnvironment"


def test_nodes_and_devices_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_nodes: 2 nodes need torchrun or srun, which start the same command"):
        train(tmp_path / "run", "num_nodes=2")
    with pytest.raises(ConfigError, match=r"accelerator: no tpu on this machine, which has: .*; fix: accelerator=auto"):
        train(tmp_path / "run", "accelerator=tpu")
    with pytest.raises(ConfigError, match="accelerator: no tpu on this machine"):
        train(tmp_path / "run", "accelerator=tpu", "plan=true")
    assert not (tmp_path / "run").exists()


DEVICES = ("1", "2", "5", "auto", "0,1", "0,", "1,", "0,0", "0,5")
RANKS = {
    "cpu": (1, 2, 5, 1, "list", "list", "list", "list", "list"),
    "cuda": (1, 2, "got 5", 2, 2, 1, 1, "twice", "no cuda device 5"),
    "tpu": (1, "got 2", "got 5", 1, "no tpu device 1", 1, "no tpu device 1", "twice", "no tpu device 5"),
}
MEANT = {
    "cpu": {"auto": "cpu", "cpu": "cpu"},
    "cuda": {"auto": "cuda", "cpu": "cpu", "gpu": "cuda", "cuda": "cuda"},
    "tpu": {"auto": "tpu", "cpu": "cpu", "tpu": "tpu"},
}


@pytest.mark.parametrize("machine", MEANT)
@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu", "cuda", "tpu"])
@pytest.mark.parametrize("devices", DEVICES)
def test_every_accelerator_with_every_form_of_devices(monkeypatch, machine, accelerator, devices):
    """A number of ranks, or one line that says what there is; the fix that it names works."""
    counts = {"cpu": 1} | ({machine: 2 if machine == "cuda" else 1} if machine != "cpu" else {})
    monkeypatch.setattr(capabilities, "device_counts", lambda: {k: counts[k] for k in sorted(counts, key="cpu".__eq__)})
    config = Config(accelerator=accelerator, devices=devices)
    kind = MEANT[machine].get(accelerator)
    expected = RANKS[kind][DEVICES.index(devices)] if kind else f"no {accelerator} on this machine"
    if isinstance(expected, int):
        assert launch.local_ranks(config) == expected
        return
    with pytest.raises(ConfigError, match=expected) as error:
        launch.local_ranks(config)
    fixed = [word for word in re.split(r"[ ,]+", error.value.fix) if "=" in word]
    setting = dict([fixed[0].split("=")])
    assert launch.local_ranks(Config(**{"accelerator": accelerator, "devices": "1"} | setting)) >= 1


TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"LOCAL_RANK": "0"},
            "LOCAL_RANK: is set, but not RANK and WORLD_SIZE; .*; fix: unset LOCAL_RANK",
        ),
        ({"RANK": "0"}, "RANK: is set, but not LOCAL_RANK and WORLD_SIZE"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE: is set, but not RANK and LOCAL_RANK"),
        (
            {"RANK": "0", "WORLD_SIZE": "4"},
            "RANK and WORLD_SIZE: are set, but not LOCAL_RANK; .* unset RANK WORLD_SIZE",
        ),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "RANK and LOCAL_RANK: are set, but not WORLD_SIZE"),
        (
            {**TORCHRUN, "RANK": ""},
            "RANK: .* must be a number of at least 0, got ''; fix: unset RANK",
        ),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK: .* must be a number of at least 0, got ''"),
        (
            {**TORCHRUN, "WORLD_SIZE": "two"},
            "WORLD_SIZE: .* must be a number of at least 0, got 'two'",
        ),
        ({**TORCHRUN, "RANK": "-1"}, "RANK: .* must be a number of at least 0, got '-1'"),
        (
            {**TORCHRUN, "LOCAL_RANK": "1.0"},
            "LOCAL_RANK: .* must be a number of at least 0, got '1.0'",
        ),
        (
            {**TORCHRUN, "LOCAL_WORLD_SIZE": "x"},
            "LOCAL_WORLD_SIZE: .* must be a number of at least 0, got 'x'",
        ),
        ({**TORCHRUN, "RANK": "2"}, "RANK: must be below WORLD_SIZE=2, got 2"),
        (
            {**TORCHRUN, "LOCAL_WORLD_SIZE": "0"},
            "LOCAL_WORLD_SIZE: must be above LOCAL_RANK=1 .*, got 0",
        ),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE: must be .* at most WORLD_SIZE=2, got 3"),
        ({"SLURM_PROCID": ""}, "SLURM_PROCID: .* must be a number of at least 0, got ''"),
        (
            {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "all"},
            "SLURM_NTASKS: the environment variable must be a number",
        ),
        (
            {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"},
            "SLURM_NTASKS: is not set, although SLURM_STEP_ID",
        ),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, "SLURM_PROCID: is not set"),
    ],
)
@pytest.mark.unhurried
def test_a_part_of_what_a_launcher_sets_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, variables, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        ranks.check_ranks()
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMOKE, "run_dir=run"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "variables",
    [
        {},
        TORCHRUN,
        {name: TORCHRUN[name] for name in ranks.TORCHRUN},
        {"SLURM_NTASKS": "many"},  # of an allocation: nobody reads it
        {"SLURM_STEP_ID": "batch", "SLURM_PROCID": "0"},
        {"SLURM_STEP_ID": ""},
        {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
    ],
)
def test_what_a_launcher_sets_is_taken(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ranks.check_ranks()
    torchrun, srun = "RANK" in variables, variables.get("SLURM_STEP_ID") == "0"
    assert (ranks.by_torchrun(), ranks.by_srun(), ranks.by_others()) == (torchrun, srun, torchrun or srun)
    assert ranks.world_size() == (2 if torchrun or srun else 1)


def test_ranks_that_others_started_need_their_devices(monkeypatch):
    monkeypatch.setattr(capabilities, "device_counts", lambda: {"cuda": 1, "cpu": 1})
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigError, match="devices: 2 ranks were started on this machine, but this machine has 1 cuda device"
    ):
        launch.local_ranks(Config())
    assert launch.local_ranks(Config(accelerator="cpu")) == 1
    monkeypatch.setattr(capabilities, "device_counts", lambda: {"cuda": 4, "cpu": 1})
    assert launch.local_ranks(Config(devices="2,3")) == 1
    assert launch.placed(Config(devices="2,3")) == ("2,3", 1)
    with pytest.raises(ConfigError, match="devices: '2,' names 1 device, but 2 ranks were started on this machine"):
        launch.local_ranks(Config(devices="2,"))


def test_a_job_is_requeued_after_the_checkpoint(tmp_path, monkeypatch):
    assert launch.requeue() == ""
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4711", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = [*SMOKE, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=100000", "trainer.val_every_n_steps=100000"]
    running = process(str(ROOT / "train.py"), *words, **slurm)
    while '"saved"' not in (file.read_text() if (file := tmp_path / "run" / "events.jsonl").exists() else ""):
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGUSR1)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 138
    assert errors.endswith("; job 4711 is requeued\n")
    assert asked.read_text() == "requeue 4711\n"
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.requeue() == "; job 12_3 is requeued"
    (tmp_path / "scontrol").unlink()
    assert launch.requeue().startswith("; job 12_3 could not be requeued (")


def same_as_alone(run, tmp_path):
    alone = train(tmp_path / "alone", "model.dropout=0")
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == alone["steps"]
    assert result["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-5)


@pytest.mark.slow
def test_under_torchrun(tmp_path):
    words = [*SMOKE, f"run_dir={tmp_path / 'run'}", "accelerator=cpu", "strategy=ddp", "model.dropout=0", "resume=auto"]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "train.py")]
    for _ in range(2):  # the second time the run is finished
        running = process(*command, *words)
        output, errors = running.communicate(timeout=180)
        assert running.returncode == 0, errors
    assert output.count("is finished already") == 1
    same_as_alone(tmp_path / "run", tmp_path)


@pytest.mark.slow
def test_under_srun(tmp_path):
    """Two processes with the variables that srun sets."""
    words = [*SMOKE, f"run_dir={tmp_path / 'run'}", "accelerator=cpu", "strategy=ddp", "devices=2", "model.dropout=0"]
    both = {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"}
    both |= {"SLURM_JOB_NAME": "train", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1"}
    both |= {"SLURM_JOB_NUM_NODES": "1"}
    running = [
        process(str(ROOT / "train.py"), *words, **both, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in ("0", "1")
    ]
    for each in running:
        _, errors = each.communicate(timeout=180)
        assert each.returncode == 0, errors
    same_as_alone(tmp_path / "run", tmp_path)


@pytest.mark.slow
def test_a_multirun_of_two_ranks_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*SMOKE, "seed=1,2", "devices=2", "accelerator=cpu", "strategy=ddp"]
    running = process(str(ROOT / "train.py"), "-m", *words, TMPDIR=str(tmp_path))
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    results = sorted((tmp_path / "outputs").rglob("result.json"))
    assert [json.loads(result.read_text())["seed"] for result in results] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
    assert multihead.load(results[0].parent).translate(["The dog sleeps."])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "joblib"])
def test_a_multirun_by_a_launcher_of_hydras(tmp_path, monkeypatch, launcher):
    monkeypatch.chdir(tmp_path)
    words = [*SMOKE, "seed=1,2", "accelerator=cpu", f"hydra/launcher={launcher}"]
    running = process(str(ROOT / "train.py"), "-m", *words)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    results = (tmp_path / "outputs").rglob("result.json")
    assert sorted(json.loads(result.read_text())["seed"] for result in results) == [1, 2]
    (tmp_path / "my.tsv").write_text("one\ttwo\n")
    running = process(str(ROOT / "train.py"), "-m", *words, "data=files", "data.train=nowhere.tsv")
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 2 and "a job of the multirun failed with status 2" in errors


@pytest.mark.slow
def test_a_sweep_whose_trials_have_two_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val/bleu, goal: maximize}\n"
        "parameters: {optim.lr: {values: [1.0e-3, 2.0e-3]}}\n"
        'command: ["python", "${program}", "${args_no_hyphens}"]\n'
    )
    words = [*SMOKE, "devices=2", "accelerator=cpu", "strategy=ddp"]
    running = process("-m", "multihead", "sweep", "file=s.yaml", *words)
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0 and "2 complete" in output, errors
    runs = sorted((tmp_path / "outputs" / "sweeps" / "s" / "trials").glob("*/result.json"))
    assert len(runs) == 2 and not list((tmp_path / "outputs").glob("translation"))
