"""What is sent of a sweep: every run of a settled trial, once, and nothing that W&B left in its folder."""

from pathlib import Path
from types import SimpleNamespace

from multihead.sweeping import upload
from multihead.sweeping.ledger import Row


def test_every_run_of_settled_trials_is_sent_once(tmp_path, monkeypatch):
    for run in ("0/seed_1", "0/seed_2", "1", "2", "3"):
        for name in ("config.yaml", "environment.json", "wandb/run-1-a/files/config.yaml"):
            (tmp_path / run / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / run / name).write_text("{}")
    states = ["complete", "failed", "pruned", "running"]
    rows = [Row(i, state, None, {}, {"dir": str(tmp_path / str(i))}) for i, state in enumerate(states)]
    rows.append(Row(4, "failed", None, {}))  # never started
    sent = []
    monkeypatch.setattr(upload, "send_run", lambda folder, failed: sent.append((folder, failed)))
    monkeypatch.setenv("WANDB_RUN_GROUP", "")
    assert upload.send(rows, SimpleNamespace(name="mine")) == 0
    wanted = [("0/seed_1", False), ("0/seed_2", False), ("1", True), ("2", False)]
    assert sent == [(Path(tmp_path / run), failed) for run, failed in wanted]
