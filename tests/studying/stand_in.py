"""Stands in for a training in the tests of studies: writes a curve and a result that follow from its words.

A run is better by ``gain`` if it has the norm rms_norm, and its score varies with its seed, task and norm by ``noise``.
The score rises with the learning rate, so that tuning chooses the largest. With ``fails=SEED``, rms_norm crashes there.
If a run is judged by bits per byte, they fall with width and steps, as those of a ladder.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
own = {name: float(words.get(name, default)) for name, default in
       {"gain": 3.0, "noise": 1.0, "sleep": 0.0, "fails": -1.0}.items()}  # fmt: skip
run_dir, seed, norm, task = Path(words["run_dir"]), int(words.get("seed", 1)), words.get("model.norm"), words["task"]
run_dir.mkdir(parents=True, exist_ok=True)
with open(run_dir / "starts", "a") as file:
    file.write(f"{os.getpid()}\n")
if norm == "rms_norm" and seed == own["fails"]:
    sys.exit("error[data] train.de:88: is not text; fix: write text")
time.sleep(own["sleep"])
draw = math.sin(2.4 * seed + 78.2 * len(norm) + len(task))  # looks random, and its mean is near 0
better = own["gain"] if norm == "rms_norm" and task == "translation" else 0.0
score = 20 + own["noise"] * draw + better + 100 * float(words.get("optim.lr", 0))
metric = "bleu" if task == "translation" else "accuracy"
if words.get("task.monitor") == "val/bits_per_byte":
    compute = float(words["model.d_model"]) * float(words["trainer.max_steps"]) * (1.3 if norm == "rms_norm" else 1.0)
    metric, score = "bits_per_byte", 0.8 + 2 * compute**-0.3 * math.exp(0.01 * draw)
with open(run_dir / "metrics.csv", "w") as file:
    file.write(f"step,epoch,tokens,seconds,val/{metric}\n")
    for step in (10, 20):
        file.write(f"{step},0,{step * 100},{step},{score - 20 / step}\n")
(run_dir / "config.yaml").write_text(f"task: {{name: {task}}}\nseed: {seed}\n")
(run_dir / "environment.json").write_text(json.dumps({"data": {"data_val": "a", "data_train": "b"}}))
result = {f"val/{metric}": score, f"test/{metric}": score - 1, "seconds": 60.0, "tokens_per_second": 100.0}
result["parameters"] = 1_000 + 10 * int(words.get("model.d_ff", 512)) + (500 if norm == "rms_norm" else 0)
(run_dir / "result.json").write_text(json.dumps(result))
