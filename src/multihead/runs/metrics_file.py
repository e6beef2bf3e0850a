"""The files metrics.csv and events.jsonl of a run, which only rank 0 writes."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_only
from lightning.pytorch.loggers import Logger

from multihead.errors import MachineError
from multihead.runs.files import Row, read_metrics, replace_synced

COORDINATES = ("step", "epoch", "tokens", "seconds")


class CSVMetrics(Logger):
    """Writes ``metrics.csv``, which has a row per call and a column per metric.

    Each row is appended and flushed at once. A new metric adds a column: the file is written again under another name
    and renamed. So a kill at any moment leaves complete rows and at most one torn line, which a resume drops.

    Args:
        run_dir: The run directory.
        step: Rows after this optimizer step are dropped, because the resumed run writes them again.
    """

    def __init__(self, run_dir: Path, step: int = 0):
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self._resumed_at = step
        rows = [row for row in read_metrics(self.path) if int(row["step"]) <= step]
        self._columns = list(COORDINATES) + [name for name in (rows[0] if rows else {}) if name not in COORDINATES]
        self._position = {name: rows[-1][name] if rows else "0" for name in ("epoch", "tokens")}
        self._started = time.monotonic() - (float(rows[-1]["seconds"]) if rows else 0.0)
        self._rewrite(rows)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def rows(self) -> list[Row]:
        """Returns the rows of the file."""
        return read_metrics(self.path)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Does nothing, because ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = {name: _text(value) for name, value in metrics.items()}
        self._position |= {name: values.pop(name) for name in ("epoch", "tokens") if name in values}
        step = step or 0
        if step <= self._resumed_at:
            self._forget(step, values)
        new = [name for name in values if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite(self.rows())
        row = {"step": str(step), **self._position, "seconds": f"{time.monotonic() - self._started:.3f}", **values}
        line = _csv_line([row.get(name, "") for name in self._columns])
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(line)
        except OSError as error:
            raise MachineError(str(self.path), f"cannot be written ({error.strerror})") from error

    def _forget(self, step: int, names: Mapping[str, str]) -> None:
        """Removes values that a resumed run logs again, so that the file has each only once."""
        rows = self.rows()
        kept = [
            {k: "" if int(row["step"]) == step and k in names else value for k, value in row.items()} for row in rows
        ]
        if kept != rows:
            self._rewrite([row for row in kept if any(row[k] for k in row if k not in COORDINATES)])

    def _rewrite(self, rows: Sequence[Row]) -> None:
        lines = [self._columns, *([row.get(name, "") for name in self._columns] for row in rows)]
        try:
            replace_synced(self.path, "".join(map(_csv_line, lines)).encode())
        except OSError as error:
            raise MachineError(str(self.path), f"cannot be written ({error.strerror})") from error


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _text(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    return repr(value) if isinstance(value, float) else str(value)


class Events:
    """Writes ``events.jsonl``, which has a line per event. A resumed run appends to it."""

    def __init__(self, path: Path):
        self.path = path

    @rank_zero_only
    def __call__(self, event: str, **fields: Any) -> None:
        """Appends ``{"time": ..., "event": event, **fields}``; the time is UTC.

        Raises:
            MachineError: If the file cannot be written.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **fields}, ensure_ascii=False) + "\n"
        try:
            with open(self.path, "ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a kill tore the last line
                        line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise MachineError(str(self.path), f"cannot be written ({error.strerror})") from error
