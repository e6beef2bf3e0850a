"""Checks that W&B never stops, slows or loses a run: python benchmarks/tracking_situations.py

Each situation is a real run (``python train.py task=lm`` of a few hundred steps) with a home folder of its own and a
planted key. The real client talks to a stand-in server on this machine. These are checked: the exit status, the line
that says where the values went, and the seconds beyond a run without W&B (at most 10). metrics.csv must be the same.
All its values must be in W&B's files (read by W&B's own tool) and once at the server, and the key in no file.

Settings: cases="..." out=FILE.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exactness
from rounds import split_words

sys.path.insert(0, str(exactness.ROOT / "tests"))
from wandb_server import WandbServer

SETTINGS = {"cases": "", "out": ""}
KEY = "0123456789abcdef" * 2 + "feedf00d"
MOST_SECONDS = 10
STEPS, OFTEN = 300, 50
WORDS = ["task=lm", "debug=smoke", "accelerator=cpu", f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=10"]
WORDS += [f"trainer.val_every_n_steps={OFTEN}", f"trainer.checkpoint_every_n_steps={OFTEN}"]
FAILS = """
import lightning as L
from multihead.plugin import Plugin


class Fails(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 120:
            raise ValueError("as planned")


PLUGIN = Plugin(callbacks={"fails": Fails})
"""


@dataclass
class Case:
    """One situation."""

    says: str
    """Text that our line about W&B must contain."""
    environment: dict[str, str] = field(default_factory=dict)
    key: bool = True
    server: str = ""
    """The server: none, closed (its port is closed), silent (it accepts and does not answer), or stand-in."""
    during: Callable[[subprocess.Popen, Path, Any], None] | None = None
    """A function that acts while the run goes on. It gets the process, the run directory and the server."""
    words: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()
    terminal: bool = False
    status: int = 0
    resumed: bool = False
    """Whether the run is killed in the middle, and the same command is started again."""
    tables: bool = True
    """Whether tables are in W&B's files too, and not in the run directory alone."""


def wait_for(run: Path, event: str, process: subprocess.Popen) -> None:
    """Waits until the run has written an event."""
    while event not in _read(run / "events.jsonl") and process.poll() is None:
        time.sleep(0.02)


def lost_early(process: subprocess.Popen, run: Path, server: WandbServer) -> None:
    """Ends the server before the first validation."""
    wait_for(run, '"event": "started"', process)
    server.die()


def lost_in_the_middle(process: subprocess.Popen, run: Path, server: WandbServer) -> None:
    """Ends the server after the third checkpoint."""
    wait_for(run, f'"event": "saved", "step": {3 * OFTEN}', process)
    server.die()


def silent_in_the_middle(process: subprocess.Popen, run: Path, server: WandbServer) -> None:
    """Lets the server answer nothing any more after the third checkpoint."""
    wait_for(run, f'"event": "saved", "step": {3 * OFTEN}', process)
    server.silent.set()


def silent_at_the_end(process: subprocess.Popen, run: Path, server: WandbServer) -> None:
    """Lets the server answer nothing any more after the last step was saved."""
    wait_for(run, f'"event": "saved", "step": {STEPS}', process)
    server.silent.set()


def killed(process: subprocess.Popen, run: Path, server: Any) -> None:
    """Sends SIGKILL after the third checkpoint."""
    wait_for(run, f'"event": "saved", "step": {3 * OFTEN}', process)
    exactness.kill(process.pid)


OFFLINE = {"WANDB_MODE": "offline"}
CASES = {
    "no key, no terminal": Case("not logged in", key=False),
    "no key, a terminal": Case("not logged in", key=False, terminal=True),
    "key, the port is closed": Case("unreachable", server="closed"),
    "key, a server that never answers": Case("unreachable", server="silent"),
    "key, no network (unshare -n)": Case("unreachable", wrap=("unshare", "-n")),
    "online": Case("http://127.0.0.1", server="stand-in"),
    "network lost before the first table": Case(
        "did not take everything", server="stand-in", during=lost_early, tables=False
    ),
    "network lost in the middle": Case("did not take everything", server="stand-in", during=lost_in_the_middle),
    "silence from the middle on": Case("did not take everything", server="stand-in", during=silent_in_the_middle),
    "silence at the end": Case("did not take everything", server="stand-in", during=silent_at_the_end),
    "killed and resumed, online": Case("http://127.0.0.1", server="stand-in", during=killed, resumed=True),
    "killed and resumed, offline": Case("WANDB_MODE=offline", OFFLINE, during=killed, resumed=True),
    "the run fails, online": Case("http://127.0.0.1", server="stand-in", words=("plugin=FAILS",), status=1),
    "the run fails, offline": Case("WANDB_MODE=offline", OFFLINE, words=("plugin=FAILS",), status=1),
    "WANDB_MODE=offline, log_model=true": Case("WANDB_MODE=offline", OFFLINE, words=("log_model=true",)),
    "WANDB_MODE=disabled": Case("", {"WANDB_MODE": "disabled"}),
}


def command(case: Case, folder: Path, address: str, logger: str) -> tuple[list[str], dict[str, str]]:
    """Returns the words of the process, and its whole environment."""
    (folder / "home").mkdir(exist_ok=True)
    (folder / "fails.py").write_text(FAILS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home = str(folder / "home")
    environment = clean | {"HOME": home, "NETRC": f"{home}/.netrc", "OMP_NUM_THREADS": "1"} | case.environment
    environment |= {"WANDB_BASE_URL": address} if address else {}
    environment |= {"WANDB_API_KEY": KEY} if case.key else {}
    words = [word.replace("FAILS", str(folder / "fails.py")) for word in case.words]
    train = [sys.executable, str(exactness.ROOT / "train.py"), *WORDS, *words]
    return [*case.wrap, *train, f"run_dir={folder / 'run'}", f"logger={logger}"], environment


def carried_out(case: Case, folder: Path, address: str, server: Any, logger: str = "auto") -> tuple[int, float, str]:
    """Returns the exit status, the seconds of all attempts, and the output."""
    words, environment = command(case, folder, address, logger)
    printed, began = "", time.monotonic()
    for attempt in range(1 + case.resumed):
        reader, writer = pty.openpty() if case.terminal else (None, None)
        with open(folder / "printed.txt", "w") as out:
            process = subprocess.Popen(
                words, stdin=writer if case.terminal else subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        if case.during and not (case.resumed and attempt):
            threading.Thread(target=case.during, args=(process, folder / "run", server), daemon=True).start()
        try:
            process.wait(180)
        except subprocess.TimeoutExpired:
            exactness.kill(process.pid)
        printed += _read(folder / "printed.txt")
        words = [*words, "resume=auto"] if case.resumed and not attempt else words
        for handle in (reader, writer):
            if handle is not None:
                os.close(handle)
    return process.returncode, time.monotonic() - began, printed


def situation(case: Case, folder: Path, usual: dict[str, Any]) -> dict[str, Any]:
    """Runs one situation, and returns what was seen, and what of it was not as promised."""
    server: Any = WandbServer() if case.server == "stand-in" else None
    listener = socket.create_server(("127.0.0.1", 0)) if case.server in ("closed", "silent") else None
    address = server.address if server else f"http://127.0.0.1:{listener.getsockname()[1]}" if listener else ""
    if case.server == "closed":
        listener.close()
    status, seconds, printed = carried_out(case, folder, address, server)
    time.sleep(0.3)
    run = folder / "run"
    said = [line for line in _read(run / "train.log").splitlines() + printed.splitlines() if "W&B" in line]
    lost = seconds - usual["seconds"] * (1 if status == 0 and not case.resumed else 0)
    wrong = [f"status {status}"] if status != case.status else []
    wrong += [f"not said: {case.says}"] if not any(case.says in line for line in said) and case.says else []
    known = status == 0 and not case.resumed
    wrong += [f"{lost:.1f} s lost"] if known and lost > MOST_SECONDS else []
    if status == 0 and _values(run) != usual["values"]:
        wrong.append("metrics.csv differs from that without W&B")
    found = _inspected(run)
    if case.environment.get("WANDB_MODE") != "disabled":
        wrong += _not_whole(found, run, case)
        if "log_model=true" in case.words and found["artifact_files"] < 5:
            wrong.append("no artifact with the run directory")
    if server is not None and (case.resumed or not case.during):
        wrong += _not_told(server, run, case.status)
    leaked = [str(file) for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    wrong += [f"the key is in {leaked}"] if leaked else []
    if listener and case.server == "silent":
        listener.close()
    line = said[-1].partition("W&B")[2].replace(str(run), "RUN") if said else ""
    return {"status": status, "lost": lost if known else None, "line": f"W&B{line}"[:150], "wrong": wrong, **found}


def _values(run: Path) -> dict[tuple[str, str], str]:
    """Maps step and name to a value of metrics.csv, without values of the clock."""
    names = _read(run / "metrics.csv").splitlines()[0].split(",")
    columns = [n for n in names if n not in ("step", "seconds", "epoch", "tokens") and not n.startswith("system/")]
    return {(str(step), name): text for name in columns for step, text in exactness.column(run, name)}


def _inspected(run: Path) -> dict[str, Any]:
    """Returns the content of a run's files, as W&B's own tool prints them."""
    files = sorted(run.glob("wandb/*run-*/run-*.wandb"))
    rows, kinds, artifact, config, exits = [], set(), 0, [], []
    for file in files:
        tool = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        printed = subprocess.run(tool, capture_output=True, text=True, timeout=120).stdout
        for record in map(json.loads, printed.splitlines()):
            kind = record["type"]
            content = record.get(kind) or {}
            if kind == "history":
                rows.append(content["item"])
                kinds |= {value for name, value in content["item"].items() if name.endswith("._type")}
            elif kind == "artifact":
                artifact = len((content.get("manifest") or {}).get("contents", ())) or artifact
            elif kind == "run":
                config += list((content.get("config") or {}).get("update", ()))
            elif kind == "exit":
                exits.append(content.get("exit_code", 0))
    media = {file.suffix for file in run.glob("wandb/*run-*/files/media/**/*") if file.is_file()}
    return {
        "ids": sorted({file.stem for file in files}),
        "rows": rows,
        "kinds": sorted(kinds),
        "media": sorted(media),
        "artifact_files": artifact,
        "config": sorted(set(config)),
        "exits": exits,
    }


def _not_whole(found: dict[str, Any], run: Path, case: Case) -> list[str]:
    """Returns what W&B's files of a run do not have."""
    wrong = [f"{len(found['ids'])} ids"] if len(found["ids"]) != 1 else []
    wrong += _differ(found["rows"], run, twice=False) if not wrong else []
    status = case.status
    kinds = ("table-file", "image-file") if case.tables else ("image-file",)
    wrong += [f"no {kind}" for kind in kinds if kind not in found["kinds"] and status == 0]
    suffixes = (".json", ".png") if case.tables else (".png",)
    wrong += [f"no {suffix} file" for suffix in suffixes if suffix not in found["media"] and status == 0]
    wrong += [f"no {name} in the configuration" for name in ("model", "optim", "task") if name not in found["config"]]
    wrong += [f"exits {found['exits']}"] if not found["exits"] or found["exits"][-1] != status else []
    return wrong


def _not_told(server: WandbServer, run: Path, status: int) -> list[str]:
    """Returns what the server does not have of a run."""
    name = _read(run / "wandb" / "id").strip()
    wrong = [f"server: {fault}" for fault in _differ(server.history.get(name, []), run, twice=True)]
    wrong += [f"server: exit {server.exits.get(name)}"] if server.exits.get(name) != status else []
    return wrong + ([] if name in server.config else ["server: no configuration"])


def _differ(rows: list[dict[str, Any]], run: Path, twice: bool) -> list[str]:
    """Returns values of metrics.csv that W&B lacks. If ``twice`` is set, also those that it has more than once."""
    there: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, int | float) and key not in ("step", "tokens", "epoch") and key[0] != "_":
                there.setdefault((int(row["step"]), key), []).append(value)
    ours = {(int(step), name): float(text) for (step, name), text in _values(run).items()}
    missing = [key for key in ours if ours[key] not in there.get(key, ())]
    doubled = [key for key, values in there.items() if len(values) > 1] if twice else []
    return ([f"{len(missing)} values missing, {missing[0]}"] if missing else []) + (
        [f"{len(doubled)} values twice, {doubled[0]}"] if doubled else []
    )


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def main(words: list[str]) -> int:
    """Prints the table. The status is 1 if a promise was broken."""
    settings, rest = split_words(words, SETTINGS)
    chosen = settings["cases"].split(";") if settings["cases"] else list(CASES)
    if rest or not set(chosen) <= set(CASES):
        raise SystemExit(f"settings are {', '.join(SETTINGS)}; cases, divided by ';', are {'; '.join(CASES)}")
    without, results = Case("", key=False), {}
    with tempfile.TemporaryDirectory(prefix="tracking-") as scratch:
        seconds = []
        for number in range(4):  # the first run fills the caches
            folder = Path(scratch) / f"without_{number}"
            folder.mkdir()
            seconds.append(carried_out(without, folder, "", None, "none")[1])
        usual = {"seconds": statistics.median(seconds[1:]), "values": _values(folder / "run")}
        for number, name in enumerate(chosen):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            results[name] = situation(CASES[name], folder, usual)
            results[name]["rows"] = len(results[name]["rows"])
            print(name, results[name], flush=True)
            shutil.rmtree(folder)
    rows = []
    for name, seen in results.items():
        lost = "" if seen["lost"] is None else f"{seen['lost']:+.1f}"
        held = "yes" if not seen["wrong"] else f"**no**: {'; '.join(seen['wrong'])}"
        rows.append([name, seen["line"], lost, seen["status"], seen["rows"], held])
    head = ["situation", "our last line about it", "seconds beyond none", "status", "rows in its files", "as promised"]
    result = {"cases": results, "seconds without": seconds[1:], "steps": STEPS}
    exactness.save("tracking_situations", exactness.table(head, rows), result, settings["out"])
    return int(any(seen["wrong"] for seen in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
