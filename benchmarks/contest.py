"""Runs contestants as processes in environments of their own, in rounds A B C A B C. One of them works at a time.

Each contestant is a script in ``benchmarks/peers/`` that answers requests by `peers/pace.py`. Environments that are
missing are built from pinned versions, below MULTIHEAD_PEERS or ``~/.cache/multihead/peers``.
"""

import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
PACKAGES = {
    "huggingface": (TORCH, "transformers==5.23.0", "accelerate==1.15.0"),
    "joeynmt": (TORCH, "joeynmt==2.3.0", "importlib-metadata"),
    "x_transformers": (TORCH, "x-transformers==2.31.10"),
    "ctranslate2": ("ctranslate2==4.8.5",),
}
"""Packages of the environments; numpy is added. ``own`` is the environment of the benchmark itself. If
MULTIHEAD_PEERS=own, everybody uses it, for machines on which nothing can be installed."""


@dataclass
class Contestant:
    """A program that can do the work."""

    name: str
    script: str
    environment: str
    settings: dict[str, Any] = field(default_factory=dict)


def python_of(environment: str) -> str:
    """Returns the interpreter of an environment, and builds the environment if it is missing."""
    if environment == "own" or os.environ.get("MULTIHEAD_PEERS") == "own":
        return sys.executable
    root = Path(os.environ.get("MULTIHEAD_PEERS") or Path.home() / ".cache/multihead/peers")
    folder = root / environment
    python, made = folder / "bin" / "python", folder / "made.json"
    packages = [*PACKAGES[environment], "numpy"]
    if not made.is_file() or json.loads(made.read_text()) != packages:
        print(f"making the environment {environment}: {' '.join(packages)}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        made.write_text(json.dumps(packages))
    return str(python)


class Process:
    """One contestant at work.

    Args:
        contestant: The program that works.
        folder: Folder of settings.json and the data. The contestant's log goes there.
    """

    def __init__(self, contestant: Contestant, folder: Path):
        self.name, self.log = contestant.name, folder / f"{contestant.name.replace(' ', '_').replace('/', '_')}.log"
        mine = contestant.settings | {"name": self.log.stem}
        words = [
            python_of(contestant.environment),
            str(HERE / "peers" / contestant.script),
            str(folder),
            json.dumps(mine),
        ]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log.open("w"), "text": True}
        self._process = subprocess.Popen(words, cwd=folder, **pipes)
        self.about = self._read()["about"]

    def work(self, seconds: float) -> dict[str, Any]:
        """Lets it work for about this many seconds, and returns its answer."""
        return self.ask({"seconds": seconds})

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns its answer to a request that `peers/pace.py` knows."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):  # otherwise it is output from before the redirection
                return json.loads(line)
        raise SystemExit(f"{self.name} ended: {self.log.read_text()[-2000:]}")

    def end(self) -> None:
        """Ends the contestant."""
        self._process.kill()
        self._process.wait()


def contest(
    contestants: Sequence[Contestant], folder: Path, rounds: int, seconds: float, warm_up: float
) -> dict[str, dict[str, Any]]:
    """Returns each contestant's description of itself, and its units per second in each round.

    Args:
        contestants: The contestants in the order of a round.
        folder: Folder of settings.json and the data.
        rounds: Number of rounds that count.
        seconds: Seconds of work in a round.
        warm_up: Seconds of work before the rounds, which do not count.
    """
    processes: dict[str, Process] = {}
    try:
        for contestant in contestants:
            processes[contestant.name] = Process(contestant, folder)
            processes[contestant.name].work(warm_up)
        speeds: dict[str, list[float]] = {name: [] for name in processes}
        answers: dict[str, dict[str, Any]] = {}
        for _ in range(rounds):
            for name, process in processes.items():
                answers[name] = process.work(seconds)
                speeds[name].append(answers[name]["units"] / answers[name]["seconds"])
    finally:
        for process in processes.values():
            process.end()
    return {
        name: {
            **process.about,
            "speeds": speeds[name],
            "median": statistics.median(speeds[name]),
            "last": answers[name],
        }
        for name, process in processes.items()
    }


def table(title: str, unit: str, results: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table: medians, spread, and the first contestant's ratio to each other one."""
    lines = [
        f"**{title}**",
        "",
        f"| | {unit} a second | rounds | ratio | settings |",
        "| --- | --: | --- | --: | --- |",
    ]
    first = next(iter(results.values()))["median"]
    for name, result in results.items():
        spread = f"{min(result['speeds']):,.0f} to {max(result['speeds']):,.0f}"
        about = [str(result[key]) for key in ("version", "batch", "attention", "search") if key in result]
        about += [f"{result['parameters']:,} parameters"] if "parameters" in result else []
        ratio = first / result["median"]
        lines.append(f"| {name} | {result['median']:,.0f} | {spread} | {ratio:.2f} | {', '.join(about)} |")
    return "\n".join(lines) + "\n"
