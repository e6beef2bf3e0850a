"""Fixtures that give tests what users have: the default logger, no account, and data under MULTIHEAD_DATA."""

import io
import json
import sys

import pytest
from stand_in_data import write_all

from multihead.cli import main


@pytest.fixture(scope="session")
def small_data(shared_folder):
    """A folder of small data sets, in the files that conf/data/*.yaml name. All workers share it."""
    from shared_runs import locked

    with locked(shared_folder / "small_data.lock"):
        if not (shared_folder / "small_data").is_dir():
            write_all(shared_folder / "small_data_new").rename(shared_folder / "small_data")
    return shared_folder / "small_data"


class Commands:
    """Runs commands as users type them, in this process."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, verb, *words, lines="", status=0):
        """Runs a command, which must end with ``status``, and returns its standard output."""
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        found = main([verb, *words])
        out, err = self.capsys.readouterr()
        assert found == status, f"{verb} {' '.join(words)}: status {found}\n{err}\n{out[-3000:]}"
        assert "goes on without" not in out + err, out + err
        return out

    def result(self, run):
        """Reads the result.json of a run."""
        return json.loads((run / "result.json").read_text())

    def evaluated(self, run, split):
        """Reads the file that `evaluate` of a split wrote."""
        (file,) = run.glob(f"evaluate_{split}*.json")  # overrides, also plugin=, change its name
        return json.loads(file.read_text())


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, small_data):
    import wandb

    for name in ("WANDB_MODE", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MULTIHEAD_DATA", str(small_data))
    monkeypatch.chdir(tmp_path)
    yield Commands(monkeypatch, capsys)
    wandb.teardown()
