"""Checks that the ledger is consistent after many trials, many workers and some kills: python benchmarks/sweep_many.py

200 trials only sleep, and a tenth of them fails. There are 8 workers, three of which are killed (SIGKILL) on the way.
These are checked: every trial is settled, no settled trial was begun again, each failure was intended, and no process
is left.

Settings: trials=200 workers=8 kills=3 storage=URL out=FILE.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from rounds import split_words  # noqa: E402

from multihead.config.sweep import read_sweep  # noqa: E402
from multihead.sweeping.ledger import SETTLED, Ledger  # noqa: E402

SETTINGS = {"trials": 200, "workers": 8, "kills": 3, "storage": "", "out": ""}
SLEEPER = ROOT / "tests" / "sweeping" / "sleeper.py"
FILE = """\
program: train.py
name: many-{stamp}
method: random
metric: {{name: val/loss, goal: minimize}}
parameters:
  task: {{value: lm}}
  optim.lr: {{min: 0.1, max: 0.9}}
command: ["python", "${{program}}", "${{args_no_hyphens}}"]
"""
PROGRAM = (
    "import sys; from multihead.sweeping import runner; from multihead.cli import main;"
    "runner.PROGRAM = [sys.executable, sys.argv[1], 'sleep=0.5', 'fails=0.1'];"
    "sys.exit(main(['sweep', *sys.argv[2:]]))"
)


def workers_of(pid: int) -> list[int]:
    """Returns the processes that a sweep has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main(words: list[str]) -> None:
    settings, _ = split_words(words, SETTINGS)
    base = Path(tempfile.mkdtemp(prefix="multihead-many-")).resolve()
    file, folder = base / "many.yaml", base / "sweep"
    file.write_text(FILE.format(stamp=int(time.time())))
    storage = [f"storage={settings['storage']}"] if settings["storage"] else []
    own = [f"file={file}", f"dir={folder}", f"budget={settings['trials']}", f"workers={settings['workers']}", *storage]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    began, killed, draw = time.monotonic(), 0, random.Random(0)
    with open(base / "log", "w") as log:
        words = [sys.executable, "-c", PROGRAM, str(SLEEPER), *own]
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            done = len(list(folder.glob("trials/*/result.json")))
            if killed < settings["kills"] and done > settings["trials"] * (killed + 1) / (settings["kills"] + 2):
                os.kill(draw.choice(workers_of(process.pid)), signal.SIGKILL)
                killed += 1
            time.sleep(0.2)
    seconds = time.monotonic() - began
    rows = Ledger(read_sweep(str(file)), folder, settings["storage"], create=False).rows()
    starts = {int(path.parent.name): len(path.read_text().splitlines()) for path in folder.glob("trials/*/starts")}
    meant = [number for number in range(len(rows)) if number % 10 == 3]
    wrong = []
    if sorted(row.number for row in rows) != list(range(settings["trials"])):
        wrong.append(f"{len(rows)} trials")
    wrong += [f"trial {row.number} is {row.state}" for row in rows if row.state not in SETTLED]
    if [row.number for row in rows if row.state == "failed"] != meant:
        wrong.append("other trials failed than were meant to")
    again = {row.number: row.record["attempt"] for row in rows if row.record["attempt"] > 1}
    wrong += [
        f"trial {number} was begun {count} times" for number, count in starts.items() if count > again.get(number, 1)
    ]
    found = {
        "status": process.returncode,
        "seconds": round(seconds),
        "trials": len(rows),
        "states": dict(collections.Counter(row.state for row in rows)),
        "workers killed": killed,
        "taken over": len(again),
        "wrong": wrong,
        "good": not wrong and process.returncode == 7 and killed == settings["kills"],
    }
    print(json.dumps(found, indent=1))
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if found["good"] else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
