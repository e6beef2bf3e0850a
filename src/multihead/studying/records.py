"""Runs the command of a record again, and says whether its result is that of the record."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihead import capabilities
from multihead.comparing.significance import further_deviation, further_mean
from multihead.config.compose import Composition, compose
from multihead.config.record import MACHINES, Record
from multihead.config.words import write
from multihead.errors import ConfigError, DataError
from multihead.runs.directory import environment, has_commit
from multihead.studying.again import Changes, environment_of, final_metrics
from multihead.studying.reproduce import duration, trained_again


@dataclass(frozen=True)
class SeedAgain:
    """A seed of a record that was trained again."""

    seed: int
    then: float | None
    """The value in the record, if it was kept."""
    now: float
    seconds: float
    run_dir: str


@dataclass(frozen=True)
class RecordChecked:
    """A record whose command was run again."""

    record: Record
    seeds: list[SeedAgain]
    value: float
    """The mean over the seeds that were trained now."""
    allowed: float
    """The largest distance of the mean from the record's value at which it counts as reproduced."""
    deviation: float | None
    """Standard deviation between the seeds that were trained now; None for one seed."""
    allowed_deviation: float | None
    """The largest deviation that counts as reproduced; None if one of the two deviations is not known."""
    differs: Changes = field(default_factory=dict)
    """What differs between the circumstances of the record and those of now."""

    @property
    def reproduced(self) -> bool:
        """Whether neither the mean is too far from the record's value nor the spread too wide."""
        near = abs(self.value - self.record.value) <= self.allowed
        if self.deviation is None or self.allowed_deviation is None:
            return near
        return near and self.deviation <= self.allowed_deviation


def check_record(
    record: Record, folder: Path, every_seed: bool, say: Callable[[str], None], plugin: str = ""
) -> RecordChecked:
    """Runs the command of a record with its first seed or with all, and compares mean and spread with the record's.

    Args:
        record: The record.
        folder: The folder of the new runs.
        every_seed: Whether all seeds are trained.
        say: Called with a line about what happens.
        plugin: The file of the record's plugin, as the user named it.

    Raises:
        ConfigError: If the command and the record do not fit each other, if the machine is of another class, or if the
            plugin is not the record's.
        DataError: If the data are missing or others than those of the record.
    """
    record.check_plugin(plugin)
    seeds = list(record.seeds.items())[: None if every_seed else 1]
    found: list[SeedAgain] = []
    differs: Changes = {}
    for seed, value in seeds:
        place = folder / f"seed_{seed}"
        composition = composed(record, seed, place, plugin)
        if not found:
            for line in notes(record, environment(composition.config, {}, None)):
                say(line)
        threads = f"{record.threads} thread{'s' * (record.threads > 1)}"
        say(f"training seed {seed}; the record took {duration(record.seconds)} on {threads} of {record.processor}")
        try:
            again = trained_again(composition, place, record.threads, record.fingerprints, record.path)
        except DataError as error:
            source = f"; the data are: {record.data_source}" if record.data_source else ""
            raise DataError(error.where, error.what, error.fix + source) from None
        if record.metric not in again.result:
            there = ", ".join(final_metrics(again))
            raise ConfigError(record.at("metric"), f"result.json has no {record.metric}; it has {there}")
        now, seconds = float(again.result[record.metric]), float(again.result.get("seconds", 0.0))
        found.append(SeedAgain(seed, value, now, seconds, str(place)))
        differs = since(record, environment_of(place))
    return judged(record, found, differs)


def judged(record: Record, seeds: list[SeedAgain], differs: Changes) -> RecordChecked:
    """Compares the seeds that were trained now with the record.

    If the record has a deviation, what is allowed is a prediction interval: so far may the mean, and so wide the
    spread, of further seeds of the same recipe be. A stated tolerance takes the place of the one for the mean.
    """
    values = [seed.now for seed in seeds]
    then, now = len(record.seeds), len(seeds)
    known = record.deviation if record.deviation and then > 1 else None
    deviation = statistics.stdev(values) if now > 1 else None
    allowed = record.tolerance or further_mean(known or 0.0, then, now)
    wide = further_deviation(known, then, now) if known is not None and deviation is not None else None
    return RecordChecked(record, seeds, statistics.fmean(values), allowed, deviation, wide, differs)


def composed(record: Record, seed: int, place: Path, plugin: str = "") -> Composition:
    """Composes the command of a record for the accelerator of its class.

    Raises:
        ConfigError: If the command trains something else, or if this machine has no such accelerator.
    """
    accelerator = MACHINES[record.machine]
    has_gpu = "cuda" in capabilities.device_counts()
    if accelerator == "gpu" and not has_gpu:
        what = f'the record is of the class "{record.machine}", and torch finds no GPU on this machine'
        by_hand = shlex.join(["python", "train.py", *record.words, f"seed={seed}"])
        raise ConfigError("record", what, f"check it on a machine with a GPU, or train here without a check: {by_hand}")
    own = [
        *([write("plugin", plugin)] if plugin else []),
        f"seed={seed}",
        write("run_dir", str(place)),
        "logger=none",
        f"accelerator={accelerator}",
    ]
    composition = compose([*record.command, *own, *(["devices=1"] if accelerator == "gpu" else [])])
    named = (composition.config.task.name, composition.config.data.name)
    if named != (record.task, record.data):
        what = f"trains {' on '.join(named)}, and not {record.task} on {record.data}"
        raise ConfigError(record.at("command"), what, "correct the record")
    return composition


def notes(record: Record, now: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each circumstance that differs from the record's and that is known before the training.

    Args:
        record: The record.
        now: What environment.json of a run would hold now.
    """
    lines = []
    cores, commit = now["hardware"]["cores"], now["git_commit"]
    if cores < record.threads:
        lines.append(f"note: the record used {record.threads} threads, and this process may use only {cores}")
    other = [f"{name} {version} (here {now['versions'].get(name, 'not installed')})"
             for name, version in record.versions.items() if now["versions"].get(name) != version]  # fmt: skip
    if other:
        lines.append(f"note: the record was made with other versions, which may change the result: {', '.join(other)}")
    if commit is None:
        lines.append(f"note: this is no clone of git, so its code cannot be compared with commit {record.commit}")
    elif not commit.startswith(record.commit):
        found = f"this clone is at {commit[:7]}; git checkout {record.commit} has it"
        found = found if has_commit(record.commit) else "this clone does not have it; git fetch may bring it"
        lines.append(f"note: the record is of commit {record.commit}, and {found}")
    return lines


def since(record: Record, now: Mapping[str, Any]) -> Changes:
    """Returns what differs between the circumstances of a record and those of a run."""
    commit, hardware = str(now.get("git_commit") or ""), now.get("hardware") or {}
    gpus = hardware.get("gpus") or [""]
    pairs = {
        "processor": (record.processor, gpus[0] if MACHINES[record.machine] == "gpu" else hardware.get("processor")),
        "threads": (record.threads, now.get("threads")),
        "git_commit": (record.commit, commit[: len(record.commit)]),
    }
    versions = now.get("versions") or {}
    pairs |= {f"versions.{name}": (version, versions.get(name)) for name, version in record.versions.items()}
    differs = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    return differs | ({"git_dirty": (False, True)} if now.get("git_dirty") else {})
