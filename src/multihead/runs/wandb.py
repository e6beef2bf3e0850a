"""Weights & Biases: how a run of it is started, what is sent to it, and how its files are read back.

A run never waits long for W&B, never asks the user, and goes on if W&B fails.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import queue
import secrets
import shlex
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger

from multihead.errors import MachineError
from multihead.runs.files import Row, replace_synced, whole_lines
from multihead.runs.metrics_file import COORDINATES
from multihead.tables.records import flatten

log = logging.getLogger("multihead")

PROBE_SECONDS = 5.0
"""Longest wait for an answer of the W&B server. After it, the run goes on offline."""
FINISH_SECONDS = 3.0
"""Longest wait for the upload at the end of an online run. Rows that were not sent stay in the run directory."""
QUEUE_SECONDS = 3.0
"""Longest wait for the tables that are still in the queue when a run ends."""
UPLOAD_SECONDS = 600.0
"""Longest wait at the end if the run directory is uploaded too."""

MOST_SAMPLES = 1000
"""Number of rows that the table of samples shows. Older rows are left out."""
ARTIFACT_FILES = ("config.yaml", "overrides.yaml", "environment.json", "result.json", "metrics.csv")


class WandbMetrics(Logger):
    """Sends metrics, configuration and sample tables to one W&B run, against optimizer steps.

    W&B writes its file in blocks, so a killed run loses the last seconds of it. A resumed run therefore reads the
    files of the same id and sends only the rows of metrics.csv that are missing there. So over all files of the id no
    row is lost and none is doubled. In a file that was sent while it was written, only those rows count that the
    server says it has.

    A thread sends tables and artifacts, because W&B waits for the server at each of them. The first error of W&B
    becomes a warning, and the run goes on.

    Args:
        run: The run that ``wandb.init`` returned.
        run_dir: The run directory.
        rows: The rows of metrics.csv.
    """

    def __init__(self, run: Any, run_dir: Path, rows: Sequence[Row]):
        super().__init__()
        self.run: Any = run
        self.run_dir = run_dir
        self._waiting: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._left_out, self._all_sent, self._upload_waits = False, True, False
        self._sender = threading.Thread(target=self._send_waiting, daemon=True)
        self._sender.start()
        for name in ("step", "tokens"):
            run.define_metric(name)
        run.define_metric("*", step_metric="step", step_sync=True)
        taken = run.starting_step if run.settings.mode == "online" else float("inf")
        self._recorded = {
            (int(row.get("step", -1)), name)
            for path in run_dir.glob(f"wandb/*run-*-{run.id}/run-{run.id}.wandb")
            for row in wandb_history(path)
            if path.parent.name.startswith("offline-") or row["_step"] < taken
            for name in row
        }
        for row in rows:
            coordinates = {"epoch": float(row["epoch"]), "tokens": float(row["tokens"])}
            values = {name: float(text) for name, text in row.items() if text and name not in COORDINATES}
            self.log_metrics(coordinates | values, int(row["step"]))

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.run.id

    def log_hyperparams(self, params: Any) -> None:
        """Does nothing, because `build_loggers` passes the configuration."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        coordinates = {"step": step or 0} | {k: float(v) for k, v in metrics.items() if k in COORDINATES}
        values = {k: float(v) for k, v in metrics.items() if k not in COORDINATES}
        self._send_now(coordinates, values)

    def log_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Sends a table of the sentences of all validations so far: a row per sample, the newest last.

        The rows come from samples.jsonl, which also has ``samples``. So the table is complete after a resume too.
        """
        if not samples:
            return
        known = [json.loads(line) for line in whole_lines(self.run_dir / "samples.jsonl")]
        shown = [row for row in known if row.pop("split") == "val" and row["step"] <= step][-MOST_SAMPLES:] or samples
        columns = list(dict.fromkeys(name for row in shown for name in row))  # each task may have its own keys
        self.log_table(step, "samples", columns, [[row.get(name) for name in columns] for row in shown])

    def log_picture(self, step: int, name: str, path: Path) -> None:
        """Sends a PNG file."""
        import wandb

        self._send_now({"step": step}, {name: wandb.Image(str(path))})

    def log_result(self, result: Mapping[str, Any], whole: bool) -> None:
        """Sends the result as the run's summary, and if ``whole`` the run directory as a ``model`` artifact."""
        if self.run is None:
            return
        try:
            self.run.summary.update({k: v for k, v in result.items() if isinstance(v, int | float | str)})
        except Exception as error:
            log.warning("W&B did not take the result: %s", _shown(error))
        if whole:
            self._upload_waits = True
            self._waiting.put(self._send_artifact)

    def _send_artifact(self) -> None:
        import wandb

        artifact = wandb.Artifact(f"{self.run.id}-run", type="model")
        artifact.add_dir(str(self.run_dir / "model"), name="model")
        for name in ARTIFACT_FILES:
            artifact.add_file(str(self.run_dir / name))
        self.run.log_artifact(artifact)

    def log_table(self, step: int, name: str, columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
        """Sends a table under a name."""
        import wandb

        listed: list[Any] = [list(row) for row in rows]
        self._waiting.put(lambda: self._send({"step": step}, {name: wandb.Table(columns=list(columns), data=listed)}))

    def _send_now(self, coordinates: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        try:
            self._send(coordinates, values)
        except Exception as error:
            step = coordinates["step"]
            log.warning("W&B logging stopped at step %s (metrics.csv continues): %s", step, _shown(error))
            self._left_out = True

    def _send_waiting(self) -> None:
        """Runs in the thread: sends one thing after the other until None is in the queue."""
        while (send := self._waiting.get()) is not None:
            try:
                if self._all_sent:
                    send()
            except Exception as error:
                self._all_sent = False
                if self.run is not None:
                    log.warning("tables are no longer sent to W&B (%s has their rows): %s", self.run_dir, _shown(error))

    def _send(self, coordinates: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        values = {k: v for k, v in values.items() if (coordinates["step"], k) not in self._recorded}
        if values and self.run is not None and not self._left_out:
            self.run.log({**coordinates, **values})

    def finish(self, status: int) -> None:
        """Closes the run with its exit status and logs in one line where it is."""
        if self.run is None:
            return
        self._waiting.put(None)
        self._sender.join(UPLOAD_SECONDS if self._upload_waits else QUEUE_SECONDS)
        whole = self._all_sent and not self._left_out and not self._sender.is_alive()
        run, self.run = self.run, None
        try:
            run.finish(exit_code=status)
        except TimeoutError:
            whole = False
        except Exception as error:
            log.warning("W&B could not be closed: %s", _shown(error))
        online = run.settings.mode == "online"
        if online and whole:
            log.info("W&B: %s", run.url)
            return
        kind = "run" if online else "offline-run"
        files = sorted(self.run_dir.glob(f"wandb/{kind}-*-{run.id}"))
        several = f"{shlex.quote(str(self.run_dir))}/wandb/{kind}-*-{run.id}"
        where = shlex.quote(str(files[0])) if len(files) == 1 else several
        how = "the server did not take everything; it is kept" if online else "offline"
        log.info("W&B: %s in %s/wandb; upload later: wandb sync %s", how, self.run_dir, where)


def _shown(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def wandb_id(run_dir: Path) -> str:
    """Returns the W&B id of a run. It is written to ``wandb/id`` before the first step, so a resumed run keeps it.

    If there is no id yet, ``WANDB_RUN_ID`` gives it; W&B's sweep agent sets that variable.
    """
    path = run_dir / "wandb" / "id"
    if path.is_file() and path.read_text().strip():
        return path.read_text().strip()
    name = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    try:
        path.parent.mkdir(exist_ok=True)
        replace_synced(path, f"{name}\n".encode())
    except OSError as error:
        raise MachineError(str(path), f"cannot be written ({error.strerror})") from error
    return name


def wandb_history(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the logged rows of a ``.wandb`` file, which has a header and then records in LevelDB's log format.

    A record that the end of the file cuts off is left out. ``_step`` counts a run's rows over all its files.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    block, first_bytes = 32768, 7
    content = path.read_bytes()
    position, whole = first_bytes, b""
    while position + 7 <= len(content):
        rest = block - position % block
        if rest < 7:
            position += rest
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the record is complete: it has one piece, or this is its last
            try:
                record = Record.FromString(whole)
            except DecodeError:
                return
            whole = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def start_wandb(run_dir: Path, tree: Mapping[str, Any]) -> Any:
    """Starts a W&B run: online if the user is logged in and the server answers, else offline. None if W&B is off."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb
    from wandb.errors import Error

    failures = (Error, OSError, ValueError, RuntimeError)  # ValueError: a WANDB_ variable has a wrong value
    name = wandb_id(run_dir)
    try:
        wandb.setup(wandb.Settings(silent=True))
        try:
            mode, why = _choose_mode()
        except failures as error:
            mode, why = "offline", f"W&B: {_shown(error).rstrip('.')}"
        if mode == "disabled":
            return None
        if mode == "online":
            try:
                return _init_wandb(run_dir, tree, name, mode)
            except failures as error:
                why = f"W&B did not start ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
                wandb.teardown()
        log.info("%s: logging offline to %s/wandb", why, run_dir)
        return _init_wandb(run_dir, tree, name, "offline")
    except failures as error:
        log.warning("W&B is left out: %s", " ".join(str(error).split()))
        return None


def _init_wandb(run_dir: Path, tree: Mapping[str, Any], name: str, mode: Literal["online", "offline"]) -> Any:
    import wandb

    settings = wandb.Settings(
        console="off",  # train.log has it
        host="",
        disable_git=True,  # a remote's address may hold a password
        save_code=False,
        silent=True,
        x_disable_meta=True,  # command line, user, host
        x_disable_machine_info=True,
        x_save_requirements=False,
        init_timeout=PROBE_SECONDS,
        finish_timeout=UPLOAD_SECONDS if tree.get("log_model") else FINISH_SECONDS,
        finish_timeout_raises=True,
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "multihead",
        name=os.environ.get("WANDB_NAME") or run_dir.resolve().name,
        id=name,
        dir=str(run_dir),
        resume="allow",
        mode=mode,
        job_type=str(tree.get("task", {}).get("name", "run")),
        config={**tree, "reproduce": reproduce(run_dir)},
        settings=settings,
    )
    run.config.update(hidden_leaves(tree, dict(run.config)))
    return run


def hidden_leaves(tree: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves, by names with dots, of the nodes that W&B does not show.

    In a sweep, W&B's agent sets ``task=translation`` or ``model=small``. W&B then keeps this word instead of our node
    of the same name.

    Args:
        tree: The whole configuration.
        shown: The configuration of the W&B run.
    """
    nodes = {name: node for name, node in tree.items() if isinstance(node, Mapping)}
    hidden = {name: node for name, node in nodes.items() if not isinstance(shown.get(name), Mapping)}
    return {name: value for name, value in flatten(hidden).items() if name not in shown}


def reproduce(run_dir: Path) -> dict[str, Any]:
    """Returns the commit and the command line of a run from its environment.json."""
    try:
        known = json.loads((run_dir / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: known[name] for name in ("command", "git_commit", "git_dirty") if name in known}


def _choose_mode() -> tuple[str, str]:
    """Returns online, offline or disabled, and why it is offline. WANDB_MODE decides first; the user is never asked."""
    import wandb

    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked == "disabled":
        return "disabled", ""
    if asked in ("offline", "dryrun"):
        return "offline", f"W&B: WANDB_MODE={asked}"
    if not wandb.login(prompt=False, verify=False):
        return "offline", "W&B: not logged in (wandb login)"
    address = wandb.setup().settings.base_url
    if not _answers(address):
        return "offline", "W&B unreachable"
    return "online", ""


def _answers(address: str) -> bool:
    """Whether an HTTP server answers with any status within `PROBE_SECONDS`, which include the name resolution."""
    outcome: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(address, timeout=PROBE_SECONDS):
                outcome.append(True)
        except urllib.error.HTTPError:
            outcome.append(True)
        except (OSError, ValueError, http.client.HTTPException):
            outcome.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return outcome == [True]
