"""Measures ``multihead serve`` under load, beside ``predict`` and beside a server without batches.

    python benchmarks/serving_load.py translation=RUN classification=RUN2

writes benchmarks/results/serving_load.json. ``seconds=60`` and ``clients=200`` are the defaults; ``soak=600`` also
watches the memory for so many seconds under load, and ``bad=true`` sends the bad requests of tests/serving meanwhile.
The run of translation must be one of task=translation, that of classification one of task=classification.

- Each client is a connection that asks with one sentence, waits for the answer, and asks again. All clients are in one
  process, which is not the server's.
- ``predict`` is one process that reads as many sentences as the server answered, at most `PREDICTED`. The time with one
  sentence is subtracted, since it is that of loading.
- The plain server is FastAPI on uvicorn with a lock around ``run.translate`` or ``run.classify``: no batches, otherwise
  the same.

Server, clients and plain server share the machine's cores, so that figures depend on how many it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from multihead.capabilities import processor_name

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "serving_load.json"
VERBS = {"translation": "translate", "classification": "classify"}
PLAIN = """
import asyncio, sys
import uvicorn
from fastapi import FastAPI
from multihead.runs.run import load
app, run, lock = FastAPI(), load(sys.argv[1]), asyncio.Lock()

@app.post("/v1/{verb}")
async def ask(verb: str, body: dict):
    async with lock:
        found = await asyncio.to_thread(run.predict, [body["inputs"]])
    return {"run": "plain", "outputs": found}

uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
PREDICTED = 4000
"""Most sentences that ``predict`` answers."""


def main(words: list[str]) -> None:
    """Measures what the words name and writes the result."""
    given = {"seconds": "60", "clients": "200", "soak": "0", "bad": "true", "out": str(RESULT)}
    given |= dict(word.split("=", 1) for word in words)
    seconds, clients = float(given["seconds"]), int(given["clients"])
    runs = {task: given[task] for task in VERBS if task in given}
    if not runs:
        raise SystemExit("give translation=RUN or classification=RUN, or both")
    result: dict[str, Any] = {"machine": machine(), "clients": clients, "seconds": seconds, "loopback": True}
    for task, run in runs.items():
        texts = sentences(run)
        result[task] = measure(task, run, texts, clients, seconds, float(given["soak"]), given["bad"] == "true")
        print(json.dumps({task: result[task]}, indent=1))
    Path(given["out"]).write_text(json.dumps(result, indent=1) + "\n")


def measure(
    task: str, run: str, texts: list[str], clients: int, seconds: float, soak: float, bad: bool
) -> dict[str, Any]:
    """Figures of the server, of the plain server and of ``predict`` with the sentences of one run."""
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", "multihead", "serve", f"run={run}", "names=run", "port=0"]
    with Process(command, r"http://127\.0\.0\.1:(\d+)/") as server:
        load(server.port, task, texts, clients, min(3.0, seconds))  # warms up
        found["server"] = load(server.port, task, texts, clients, seconds, server)
        found["server"]["batch_inputs"] = mean_batch(server.port)
        if bad and task == "translation":  # most of them ask for a translation
            found["bad_requests"] = send_bad(server, task, texts, clients)
        if soak:
            found["soak"] = {"seconds": soak, **load(server.port, task, texts, clients, soak, server)}
        found["ended_with_status"] = server.end()
    port = free_port()
    with Process([sys.executable, "-c", PLAIN, run, str(port)], "", port) as plain:
        load(port, task, texts, clients, min(3.0, seconds))
        found["plain_server"] = load(port, task, texts, clients, seconds, plain)
    found["predict"] = predict(run, texts, min(PREDICTED, found["server"]["answers"]))
    return found


class Process:
    """A server in a process of its own."""

    def __init__(self, command: list[str], pattern: str, port: int = 0):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.port = port
        while not self.port:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{command} ended with status {self.process.wait()}")
            self.port = int(match[1]) if (match := re.search(pattern, line)) else 0
        until_open(self.port)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> int:
        """Ends the process by SIGTERM; returns its exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def resident(self) -> int:
        """Resident memory in bytes; 0 where the system does not say it."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def until_open(port: int) -> None:
    """Waits until a server listens."""
    import socket

    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def free_port() -> int:
    """A port that is free now."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def sentences(run: str) -> list[str]:
    """The inputs of the run's test data."""
    samples = (json.loads(line) for line in (Path(run) / "samples.jsonl").read_text().splitlines())
    found = [sample.get("source", sample.get("text")) for sample in samples if sample.get("split") == "test"]
    return [text for text in found if text] or ["The dog sleeps."]


def load(
    port: int, task: str, texts: list[str], clients: int, seconds: float, process: Process | None = None
) -> dict[str, Any]:
    """Requests for some seconds: answers per second, latencies in milliseconds, memory in MB at ten moments."""
    return asyncio.run(_load(port, f"/v1/{VERBS[task]}", texts, clients, seconds, process))


async def _load(
    port: int, path: str, texts: list[str], clients: int, seconds: float, process: Process | None
) -> dict[str, Any]:
    latencies: list[float] = []
    failed: list[str] = []
    began = time.perf_counter()
    end = began + seconds
    memory: list[float] = []

    async def client(number: int) -> None:
        drawn = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            body = json.dumps({"inputs": drawn.choice(texts)}).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            sent = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status, _ = await answer(reader)
            if status == 200:
                latencies.append(time.perf_counter() - sent)
            else:
                failed.append(str(status))
        writer.close()

    async def watch() -> None:
        while process is not None and time.perf_counter() < end:
            memory.append(round(process.resident() / 1e6, 1))
            await asyncio.sleep(seconds / 10)

    await asyncio.gather(watch(), *(client(number) for number in range(clients)))
    took = time.perf_counter() - began
    ordered = sorted(latencies)
    return {
        "answers": len(latencies),
        "not_answered": len(failed),
        "per_second": round(len(latencies) / took, 1),
        "p50_ms": round(1000 * statistics.median(ordered), 1) if ordered else None,
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1) if ordered else None,
        "resident_mb": memory,
    }


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of an HTTP answer that has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
    return int(head.split()[1]), await reader.readexactly(length)


def mean_batch(port: int) -> float:
    """Mean number of inputs of a batch so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    total, count = (float(re.search(rf"^multihead_batch_inputs_{key} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]
                    for key in ("sum", "count"))  # fmt: skip
    return round(total / max(1.0, count), 1)


def send_bad(server: Process, task: str, texts: list[str], clients: int) -> dict[str, Any]:
    """Sends every bad request of tests/serving while clients ask; each must have a right outcome."""
    sys.path.insert(0, str(ROOT / "tests" / "serving"))
    from bad_requests import BAD, outcome  # type: ignore[import-not-found]

    with ThreadPoolExecutor(len(BAD) + 1) as pool:
        asked = pool.submit(load, server.port, task, texts, max(1, clients // 10), 15.0, server)
        outcomes = list(pool.map(lambda bad: outcome(("127.0.0.1", server.port), bad), BAD))
        during = asked.result()
    rows = {bad.name: got for bad, got in zip(BAD, outcomes, strict=True)}
    wrong = [bad.name for bad in BAD if rows[bad.name] not in bad.right]
    others = {"answers_to_others": during["answers"], "others_not_answered": during["not_answered"]}
    return {"outcomes": rows, "wrong": wrong, **others}


def predict(run: str, texts: list[str], count: int) -> dict[str, Any]:
    """Seconds of one ``predict`` process with ``count`` sentences, less those with one sentence."""
    drawn = random.Random(1)
    lines = [drawn.choice(texts) for _ in range(max(2, count))]
    whole, start = (_predict(run, some) for some in (lines, lines[:1]))
    return {
        "sentences": len(lines),
        "seconds": round(whole, 2),
        "seconds_to_start": round(start, 2),
        "per_second": round((len(lines) - 1) / (whole - start), 1) if whole > start else None,
    }


def _predict(run: str, lines: list[str]) -> float:
    with tempfile.TemporaryFile("w+") as file:
        file.write("\n".join(lines) + "\n")
        file.seek(0)
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-m", "multihead", "predict", f"run={run}"]
        subprocess.run(command, stdin=file, stdout=subprocess.DEVNULL, check=True, env=environment)
        return time.perf_counter() - began


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
