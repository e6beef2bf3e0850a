"""Counts what the server does, and writes it as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Mapping

Labels = tuple[tuple[str, str], ...]

HELP: Mapping[str, str] = {
    "multihead_requests_total": "Requests by route and HTTP status.",
    "multihead_request_seconds": "Time of requests by route.",
    "multihead_inputs_total": "Inputs by run and verb.",
    "multihead_inputs_dropped_total": "Inputs that were dropped because nobody waited for them any more.",
    "multihead_batch_inputs": "Inputs of a batch.",
    "multihead_batch_seconds": "Time that the model took for a batch.",
    "multihead_queue_seconds": "Time that an input waited for the model.",
    "multihead_queue_inputs": "Inputs that wait for the model.",
    "multihead_requests_in_flight": "Requests that are not answered yet.",
    "multihead_ready": "Whether the server takes requests (1) or is ending (0).",
    "process_resident_memory_bytes": "Resident memory of the process.",
}
"""Each metric and what it measures."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Histogram:
    """Counts observations by the upper bounds of buckets."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value in the first bucket whose bound is not below it."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, labels: Labels) -> list[str]:
        """The histogram in the text format, where each bucket counts those before it too."""
        lines, total = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {total}")
        return [*lines, f"{name}_sum{_labels(labels)} {self.sum:.6f}", f"{name}_count{_labels(labels)} {total}"]


class Meters:
    """All metrics of a server. Threads may use it at the same time."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        key = name, tuple(labels.items())
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + by

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds a value to a histogram."""
        key = name, tuple(labels.items())
        with self._lock:
            if key not in self._histograms:
                self._histograms[key] = Histogram(SECONDS if name.endswith("_seconds") else SIZES)
            self._histograms[key].add(value)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Registers a value that is read whenever the metrics are."""
        self._gauges[name] = read

    def text(self) -> str:
        """All metrics in the text format."""
        by_name: dict[str, tuple[str, list[str]]] = {}
        with self._lock:
            for (name, labels), value in sorted(self._counters.items()):
                by_name.setdefault(name, ("counter", []))[1].append(f"{name}{_labels(labels)} {value:.17g}")
            for (name, labels), histogram in sorted(self._histograms.items()):
                by_name.setdefault(name, ("histogram", []))[1].extend(histogram.lines(name, labels))
        for name, read in self._gauges.items():
            by_name[name] = ("gauge", [f"{name} {read():.17g}"])
        lines = []
        for name, (kind, rows) in by_name.items():
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}", *rows]
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    escaped = (f'{name}="{value.translate(ESCAPES)}"' for name, value in labels)
    return "{" + ",".join(escaped) + "}" if labels else ""


ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def resident_bytes() -> float:
    """The resident memory of this process; 0 where the system does not say it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    import resource

    return float(pages * resource.getpagesize())
