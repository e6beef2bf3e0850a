"""Sends the runs of a finished sweep to W&B."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from multihead.config.sweep import Sweep
from multihead.config.yaml_file import load_yaml
from multihead.errors import MachineError
from multihead.runs.listing import run_dirs
from multihead.sweeping.ledger import SETTLED, Row

log = logging.getLogger("multihead")


def send(rows: Sequence[Row], sweep: Sweep) -> int:
    """Sends every run of the trials that have ended, in a group with the sweep's name. Returns 0.

    Raises:
        MachineError: If W&B did not take a run.
    """
    from multihead.runs.console import open_log

    os.environ["WANDB_RUN_GROUP"] = sweep.name
    sent = 0
    with contextlib.closing(open_log(None)):
        for row in rows:
            if row.state not in SETTLED or "dir" not in row.record:
                continue
            for folder in run_dirs(Path(row.record["dir"])):
                send_run(folder, failed=row.state == "failed")
                sent += 1
        log.info("sent %d runs of the sweep %s", sent, sweep.name)
    return 0


def send_run(run_dir: Path, failed: bool = False) -> None:
    """Sends what W&B has recorded offline, or else the configuration, metrics and result in the run directory.

    Raises:
        MachineError: If W&B did not take the run.
    """
    recorded = sorted(run_dir.glob("wandb/offline-run-*"))
    for folder in recorded:
        done = subprocess.run([sys.executable, "-m", "wandb", "sync", str(folder)], capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
            raise MachineError(str(folder), f"wandb sync failed ({lines[0][:200]})", "wandb login, then to=wandb again")
    if recorded or list(run_dir.glob("wandb/run-*")):
        return
    from multihead.runs.files import read_metrics
    from multihead.runs.wandb import WandbMetrics, start_wandb

    tree = load_yaml(run_dir / "config.yaml")
    run = start_wandb(run_dir, tree)
    if run is None:
        raise MachineError("to=wandb", "W&B is switched off or did not start", "WANDB_MODE=online, wandb login")
    logger = WandbMetrics(run, run_dir, read_metrics(run_dir / "metrics.csv"))
    with contextlib.suppress(OSError, ValueError):  # a run that failed has no result
        logger.log_result(json.loads((run_dir / "result.json").read_text()), whole=False)
    logger.finish(1 if failed else 0)
