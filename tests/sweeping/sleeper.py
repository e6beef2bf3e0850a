"""Stands in for a training where only its life and death matter: writes a curve and a result, or comes to grief."""

import json
import os
import signal
import sys
import time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
run_dir, lr = Path(words["run_dir"]), float(words.get("optim.lr", 1))
run_dir.mkdir(parents=True, exist_ok=True)
with open(run_dir / "starts", "a") as file:
    file.write(f"{os.getpid()}\n")
kind = words.get("seed" if words.get("seed", "").isalpha() else "how", "")
share = float(words.get("fails", 0))
if share and int(run_dir.name) % round(1 / share) == 3:
    kind = "crash"
if kind == "crash":
    sys.exit("error[data] train.de:88: is not text; fix: write text")
if kind == "diverge":
    print("error[numerics] step 3: the loss is nan")
    sys.exit(4)
if kind == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
steps = int(words.get("steps", 3))
with open(run_dir / "metrics.csv", "w") as file:
    file.write("step,epoch,tokens,seconds,val/loss\n")
    for step in range(10, 10 * steps + 1, 10):
        file.write(f"{step},0,0,0,{lr / step}\n")
        file.flush()
        time.sleep(float(words.get("sleep", 0)))
value = float("nan") if kind == "nan" else lr / (10 * steps)
(run_dir / "result.json").write_text(json.dumps({} if kind == "empty" else {"val/loss": value}))
