"""Checks that a sweep ends with every trial accounted for, whatever happens: python benchmarks/sweep_survives.py

There are twenty trials on the grammar and two workers. Three trials raise errors, one diverges, one takes longer than
its limit, and one is killed. The sweep itself is killed twice (SIGKILL): first the command alone, then everything at
once, as by a power cut. Each time it is started again with the same words. With ``storage=postgresql://...``, two
commands with one worker each share the ledger. One of them is killed and not started again.

Settings: storage=URL folder=DIR out=FILE.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "plugins")]

from rounds import split_words  # noqa: E402
from troubles import TROUBLES  # noqa: E402

from multihead.config.sweep import read_sweep  # noqa: E402
from multihead.sweeping.ledger import SETTLED, Ledger  # noqa: E402

SETTINGS = {"storage": "", "folder": "", "out": ""}
TRIALS = 20
EXPECTED = {"crash": "crashed: RuntimeError", "diverge": "diverged", "hang": "took longer", "kill": "killed by SIGKILL"}
FILE = """\
program: train.py
name: survives{stamp}
method: grid
metric: {{name: val/loss, goal: minimize}}
parameters:
  task: {{value: translation}}
  options.trouble.number: {{values: {numbers}}}
  trainer.max_steps: {{value: 12}}
  trainer.val_every_n_steps: {{value: 4}}
  trainer.checkpoint_every_n_steps: {{value: 1}}
  task.monitor: {{value: val/loss}}
  task.monitor_mode: {{value: min}}
command: ["${{env}}", "python", "${{program}}", "debug=smoke", "${{args_no_hyphens}}"]
"""


def command(file: Path, folder: Path, storage: str, workers: int) -> list[str]:
    """Returns the words of the sweep."""
    words = [f"file={file}", f"dir={folder}", f"workers={workers}", "trial_time=90s", "logger=none"]
    words += [f"plugin={ROOT}/benchmarks/plugins/troubles.py", f"options.trouble.record={file.parent}/record.jsonl"]
    return [sys.executable, "-m", "multihead", "sweep", *words, *([f"storage={storage}"] if storage else [])]


def start(words: list[str], log: Path) -> subprocess.Popen:
    """Starts the sweep in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with open(log, "a") as output:
        return subprocess.Popen(words, stdout=output, stderr=output, env=environment, start_new_session=True)


def family(folder: Path) -> list[int]:
    """Returns every process whose words name the folder: command, workers, trials, ranks."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in file.read_bytes() and int(file.parent.name) != os.getpid():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def settled(ledger: Ledger) -> int:
    """Counts the trials that are settled."""
    return sum(row.state in SETTLED for row in ledger.rows())


def wait_until(ledger: Ledger, count: int, process: subprocess.Popen, record: Path) -> None:
    """Waits until this many trials are settled, and another one is in the middle of its steps."""
    while settled(ledger) < count or not in_the_middle(record):
        assert process.poll() is None, "the sweep ended by itself"
        time.sleep(0.1)


def in_the_middle(record: Path) -> bool:
    """Says whether the last written value is a step of a sound trial, after a checkpoint."""
    last = json.loads(record.read_text().splitlines()[-1])
    return last["event"] == "step" and 3 <= last["step"] <= 8 and last["number"] not in TROUBLES


def verdict(ledger: Ledger, record: Path) -> dict[str, Any]:
    """Returns counts, and everything that is not as it should be."""
    wrong, rows = [], ledger.rows()
    events = [json.loads(line) for line in record.read_text().splitlines()]
    by_number = collections.defaultdict(list)
    for event in events:
        by_number[event["number"]].append(event)
    numbers = [row.values["options.trouble.number"] for row in rows]
    if sorted(numbers) != list(range(TRIALS)):
        wrong.append(f"points {sorted(numbers)}")
    redone, resumed = 0, 0
    for row in rows:
        number = row.values["options.trouble.number"]
        trouble = TROUBLES.get(number)
        expected = "failed" if trouble else "complete"
        reason = row.record.get("reason", "")
        if row.state != expected or (trouble and EXPECTED[trouble] not in reason):
            wrong.append(f"trial {row.number} ({trouble}): {row.state}, {reason}")
        own = by_number[number]
        ends = [i for i, event in enumerate(own) if event["event"] == "end"]
        if not trouble and (len(ends) != 1 or ends[0] != len(own) - 1):
            wrong.append(f"trial {row.number}: ended {len(ends)} times, or went on afterwards")
        steps = [event["step"] for event in own if event["event"] == "step"]
        redone += len(steps) - len(set(steps))
        first = {event["pid"]: event["step"] for event in reversed(own) if event["event"] == "step"}
        resumed += sum(step > 1 for step in first.values())
    return {
        "trials": len(rows),
        "states": dict(collections.Counter(row.state for row in rows)),
        "attempts": sum(row.record.get("attempt", 1) for row in rows),
        "resumed from a checkpoint": resumed,
        "steps done again": redone,
        "steps": sum(event["event"] == "step" for event in events),
        "wrong": wrong,
    }


def alone(file: Path, folder: Path, ledger_of: Any) -> int:
    """Runs one command, killed twice and started again, and returns its last status."""
    log, words, record = file.with_name("sweep.log"), command(file, folder, "", 2), file.with_name("record.jsonl")
    process = start(words, log)
    while not (folder / "ledger.db").is_file():
        time.sleep(0.2)
    time.sleep(3)
    wait_until(ledger_of(), 4, process, record)
    process.kill()
    process.wait()
    process = start(words, log)  # at once: the first sweep's last processes are still ending
    wait_until(ledger_of(), 10, process, record)
    for pid in family(folder):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    return start(words, log).wait()


def together(file: Path, folder: Path, storage: str, ledger_of: Any) -> int:
    """Runs two commands that share a database. The first and its processes are killed. The second ends the sweep."""
    folders = [folder.with_name(f"{folder.name}_{name}") for name in ("first", "second")]
    first = start(command(file, folders[0], storage, 1), file.with_name("first.log"))
    second = start(command(file, folders[1], storage, 1), file.with_name("second.log"))
    time.sleep(10)
    wait_until(ledger_of(), 7, first, file.with_name("record.jsonl"))
    for pid in family(folders[0]):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    return second.wait()


def main(words: list[str]) -> None:
    settings, _ = split_words(words, SETTINGS)
    base = Path(settings["folder"] or tempfile.mkdtemp(prefix="multihead-sweep-")).resolve()
    base.mkdir(parents=True, exist_ok=True)
    file, folder = base / "survives.yaml", base / "sweep"
    stamp = f"-{int(time.time())}" if settings["storage"] else ""
    file.write_text(FILE.format(stamp=stamp, numbers=list(range(TRIALS))))
    sweep = read_sweep(str(file))

    def ledger_of() -> Ledger:
        return Ledger(sweep, folder, settings["storage"], create=bool(settings["storage"]))

    began = time.monotonic()
    shared = settings["storage"]
    status = together(file, folder, shared, ledger_of) if shared else alone(file, folder, ledger_of)
    found = {"status": status, "seconds": round(time.monotonic() - began)} | verdict(ledger_of(), base / "record.jsonl")
    found["processes left"] = len(family(folder))
    found["report"] = any(path.stat().st_size > 1e6 for path in base.glob("*/report.html"))
    found["good"] = not found["wrong"] and status == 7 and not found["processes left"] and found["report"]
    print(json.dumps(found, indent=1))
    print(f"sweep in {base}")
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if found["good"] else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
