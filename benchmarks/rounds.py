"""Gives the benchmarks what they share: words, and a report of speeds as a table and as JSON."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def split_words(words: Sequence[str], own: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the benchmark's own settings (``rounds=3``), with the types of their defaults, and the words left for
    `multihead`."""
    settings, rest = dict(own), []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in own:
            settings[name] = type(own[name])(value)
        else:
            rest.append(word)
    return settings, rest


def report(unit: str, speeds: Mapping[str, Sequence[float]], about: Mapping[str, Any], out: str) -> dict[str, Any]:
    """Prints medians and the first contestant's ratio to the others. Then it prints a JSON line, which also goes to
    ``out``."""
    names = list(speeds)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    width = max(map(len, names))
    print(f"\n{'':{width}}  {'median':>10}  {'least':>10}  {'most':>10}   {unit} a second")
    for name in names:
        low, high = min(speeds[name]), max(speeds[name])
        print(f"{name:{width}}  {medians[name]:>10,.0f}  {low:>10,.0f}  {high:>10,.0f}")
    ratios = {}
    for name in names[1:]:
        pairs = [ours / theirs for ours, theirs in zip(speeds[names[0]], speeds[name], strict=True)]
        ratios[name] = medians[names[0]] / medians[name]
        print(f"{names[0]} / {name}: {ratios[name]:.2f} (rounds {min(pairs):.2f} to {max(pairs):.2f})")
    result = {
        "unit": f"{unit} per second",
        "medians": medians,
        "ratios": ratios,
        "rounds": {name: list(values) for name, values in speeds.items()},
        "about": dict(about),
        "machine": {"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
        | {"architecture": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()},
    }
    line = json.dumps(result)
    print(line)
    if out:
        Path(out).write_text(line + "\n")
    return result
