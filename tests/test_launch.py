"""Who started the ranks, which rank hangs, and what SLURM is asked for."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from trial import ROOT, SMOKE, process, train

import multihead
from multihead import launch
from multihead.config.training import Config
from multihead.errors import ConfigError
from multihead.watchdog import Watchdog, processes, read_beats

RANK = """
import sys, time, types
from pathlib import Path
sys.modules["lightning"] = types.SimpleNamespace(Callback=object)  # importing it takes seconds
from multihead.watchdog import guard_rank
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
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", *SLURM):
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


def test_processes_of_a_job_are_found_by_their_command_line(tmp_path):
    assert processes(tmp_path) == []


def test_who_started_us(monkeypatch):
    assert (launch.world_size(), launch.is_main_rank()) == (1, True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert launch.world_size() == 1  # a batch script or an allocation, without srun
    assert type(launch.cluster_environment()).__name__ == "LightningEnvironment"
    monkeypatch.setenv("SLURM_STEP_ID", str(2**32 - 5))  # how SLURM numbers the batch script itself
    assert launch.world_size() == 1
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(ConfigError, match=r"srun: You set .--ntasks=4.*; fix: docs/examples/slurm.sh"):
        launch.cluster_environment()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert (launch.world_size(), launch.is_main_rank()) == (4, False)
    assert type(launch.cluster_environment()).__name__ == "SLURMEnvironment"
    assert not launch.cluster_environment().auto_requeue
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (launch.world_size(), launch.is_main_rank()) == (2, False)  # torchrun inside SLURM
    assert type(launch.cluster_environment()).__name__ == "TorchElasticEnvironment"


def test_nodes_and_devices_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_nodes: 2 nodes need torchrun or srun, which start the same command"):
        train(tmp_path / "run", "num_nodes=2")
    with pytest.raises(ConfigError, match="accelerator: no gpu on this machine; fix: accelerator=cpu"):
        train(tmp_path / "run", "hardware=gpu")
    assert not (tmp_path / "run").exists()
    assert launch.local_ranks(Config(accelerator="cpu", devices="3")) == 3
    assert launch.local_ranks(Config(accelerator="cpu", devices="auto")) == 1


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
