"""An ablation of real runs: all of its processes are killed twice, and the answer stays the same."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import multihead
from multihead.studying.ablation import ablation
from multihead.studying.ledger import StudyLedger
from multihead.studying.schedule import Key
from multihead.studying.verdicts import judge

FILE = """\
question: Which of these switches help?
words: [debug=smoke]
baseline: {all: []}
ablate: {rms: [model.norm=rms_norm], rotary: [model.position=rotary]}
tasks: {lm: [task=lm]}
seeds: [1, 2]
"""


def started(folder):
    words = [f"file={folder}/s.yaml", "workers=2", f"dir={folder}/study"]
    command = [sys.executable, "-m", "multihead", "study", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_all(process):
    """Kills a study with its workers and their runs, none of which sees another one end."""
    pids = [process.pid]
    for pid in pids:  # it grows
        os.kill(pid, signal.SIGSTOP)
        pids += [
            int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
        ]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def without_kills(folder):
    """The answer from the same runs, which this process trains one after the other."""
    ledger = StudyLedger("s", folder / "study", create=False)
    plan, results = ledger.plan, {}
    assert plan is not None
    for key in sorted(Key(task, arm, i) for task in plan.tasks for arm in plan.arms for i in range(len(plan.seeds))):
        words = [*plan.run_words(key), f"run_dir={folder / 'again' / '_'.join(map(str, key))}"]
        results[key] = multihead.train(words)[plan.metrics[key.task]]
    answer = {
        "verdicts": [asdict(found) for found in judge(plan, results, 0.8)],
        "ablation": [asdict(found) for found in ablation(plan, results)],
    }
    return json.loads(json.dumps(answer)), list(results.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a study in /proc")
def test_killed_twice_it_gives_the_answer_without_kills(tmp_path):
    (tmp_path / "s.yaml").write_text(FILE)
    for begun in (2, 6):
        process = started(tmp_path)
        while len(list(tmp_path.glob("study/runs/*/*/*/metrics.csv"))) < begun:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        kill_all(process)
        assert not (tmp_path / "study" / "report.json").exists()
    process = started(tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    report = json.loads((tmp_path / "study" / "report.json").read_text())
    assert sum(run["attempts"] > 1 for run in report["runs"]) >= 2
    answer, values = without_kills(tmp_path)
    assert [run["value"] for run in report["runs"]] == values and len(set(values)) == 8
    assert {name: report[name] for name in answer} == answer
