"""A record: a YAML file with a result that a command reached, and with what is needed to reach it again.

The settings of ``reproduce``, which checks a record, stand here too.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from multihead.config.check import nearest_name, require, require_choice
from multihead.config.compose import parse
from multihead.config.settings import Settings, setting
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError, ConfigError

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "records"
"""Folder of the records in a clone of the repository."""
MACHINES = {"2 CPU cores": "cpu", "one GPU": "gpu"}
"""Classes of machines, each with the accelerator on which its records are trained."""
ROUNDING = 1e-3
"""Largest relative distance of the value from the mean of the seeds. The value may be rounded."""
NOT_IN_A_COMMAND = ("run_dir", "resume", "resume_force", "plan", "seed", "logger", "plugin", "plugin_sha256",
                    "config_dir", "accelerator", "devices", "num_nodes", "hardware")  # fmt: skip
"""Keys that the command of a record may not have: the check sets them, or a file would name code to run."""


@dataclass(kw_only=True)
class Record:
    """What stands in the file of a record."""

    path: str
    """The file."""
    what: str
    """What the record is, in a sentence."""
    task: str
    """Name of the task."""
    data: str
    """Name of the data set."""
    metric: str
    """A key of result.json."""
    value: float
    """The value of the metric: the mean over the seeds."""
    seeds: dict[int, float | None]
    """The seeds, each with its value, or null if only the mean and the deviation were kept."""
    command: list[str]
    """The words of ``python train.py`` without seed and run directory."""
    machine: str
    """Class of the machine: a key of `MACHINES`."""
    parameters: int
    """Number of parameters of the model that the command builds."""
    seconds: float
    """Time of a seed; of several seeds the longest."""
    processor: str
    """The processor on which the seeds were trained."""
    threads: int
    """Number of threads."""
    commit: str
    """The commit of the code, or the one that states the value."""
    versions: dict[str, str]
    """Versions of the libraries, as far as they were kept."""
    source: str
    """Where the values were first written down."""
    deviation: float | None = None
    """Standard deviation between seeds. If all values of the seeds are given, it is computed from them."""
    tolerance: float = 0.0
    """The largest distance from the value at which it counts as reproduced. 0 means that it follows from the deviation
    and the numbers of seeds."""
    why_tolerance: str = ""
    """Why a stated tolerance is as large as it is."""
    log: str = ""
    """Where the log of the runs is, if it was kept."""
    data_source: str = ""
    """Where the data come from; empty if they are built in."""
    plugin: str = ""
    """The plugin, as a path in the clone. It says what to type; nothing is loaded because of it."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Checksums of the splits, as in environment.json, if they were kept."""

    def __post_init__(self) -> None:
        values = [value for value in self.seeds.values() if value is not None]
        require(bool(self.seeds), self.at("seeds"), "a mapping of seeds to values", self.seeds)
        if len(values) == len(self.seeds):
            near = math.isclose(self.value, statistics.fmean(values), rel_tol=ROUNDING)
            require(near, self.at("value"), f"the mean of the seeds, {statistics.fmean(values):.6g}", self.value)
            self.deviation = statistics.stdev(values) if len(values) > 1 else self.deviation
        hexadecimal = re.fullmatch(r"[0-9a-f]{4,40}", self.commit)
        require(bool(hexadecimal), self.at("commit"), "a commit of git, such as 2f89205", self.commit)
        require_choice(self.at("machine"), self.machine, MACHINES)
        several = self.deviation is not None and self.deviation > 0 and len(self.seeds) > 1
        missing = "given if there is no deviation of several seeds"
        require(several or self.tolerance != 0, self.at("tolerance"), missing, self.tolerance)
        require(self.tolerance >= 0, self.at("tolerance"), "above 0", self.tolerance)
        for word in parse(self.command):
            what = "may not stand in the command of a record"
            if word.key in NOT_IN_A_COMMAND or word.is_hydra:
                raise ConfigError(self.at("command"), f"{word.key} {what}", f"leave {word.typed} out")

    def check_plugin(self, given: str) -> None:
        """Checks that the plugin which the user named is that of the record.

        Args:
            given: The value of ``plugin=``; empty if none is named.

        Raises:
            ConfigError: The record needs none, or another one.
        """
        if given and not self.plugin:
            raise ConfigError("plugin", f"{self.path} has no plugin", "leave plugin out")
        if self.plugin and not given:
            what = f"is missing: {self.path} was trained with one, and no file may name code to run"
            raise ConfigError("plugin", what, f"plugin={self.plugin}")
        if Path(given).name != Path(self.plugin).name:
            what = f"{self.path} was trained with {self.plugin}, and not with {given}"
            raise ConfigError("plugin", what, f"plugin={self.plugin}")

    @property
    def name(self) -> str:
        """What ``record=`` takes for a record in the folder of the clone."""
        return Path(self.path).stem

    @property
    def words(self) -> list[str]:
        """What a user types after ``python train.py`` in a clone."""
        return [*self.command, *([f"plugin={self.plugin}"] if self.plugin else [])]

    def at(self, key: str) -> str:
        """The place of a key, for messages."""
        return f"{self.path}: {key}"


def file_of(record: str) -> str:
    """Returns the file of a record: the given one, or the one of this name in the folder of the clone.

    Raises:
        ConfigError: If there is no record of this name.
    """
    if Path(record).suffix in (".yaml", ".yml") or "/" in record:
        return record
    names = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if not names:
        raise ConfigError("record", f"{record}: {FOLDER} has no records; they are in a clone", "record=PATH/FILE.yaml")
    if record not in names:
        near = nearest_name(record, names)
        fix = f"record={near}" if near else f"the names are {', '.join(names)}"
        raise ConfigError("record", f"{FOLDER} has no record {record}", fix)
    return str(FOLDER / f"{record}.yaml")


def read_record(record: str) -> Record:
    """Reads a record: a file, or the name of one in the folder of the clone.

    Raises:
        ConfigError: If it cannot be read, or if a key is missing, unknown or of another type.
    """
    file = file_of(record)
    try:
        content = load_yaml(file)
    except (CheckpointError, OSError) as error:
        what = error.what if isinstance(error, CheckpointError) else str(error.strerror)
        raise ConfigError("record", f"{file}: {what}", "record=NAME, or record=PATH/FILE.yaml") from None
    if not isinstance(content, dict):
        raise ConfigError("record", f"{file}: must be a mapping of keys to values")
    fields = {each.name: each for each in dataclasses.fields(Record) if each.name != "path"}
    for name in content:
        if name not in fields:
            near = nearest_name(name, fields)
            raise ConfigError(f"{file}: {name}", "no such key of a record", f"write {near}" if near else "")
    for name, each in fields.items():
        optional = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        require(name in content or optional, f"{file}: {name}", "given", None)
    for name, value in content.items():
        require(_fits(value, str(fields[name].type)), f"{file}: {name}", _MEANT[str(fields[name].type)], value)
    return Record(path=str(Path(file)), **content)


def _fits(value: Any, kind: str) -> bool:
    """Whether a value of the file has the type of its field."""
    if kind.startswith("float"):
        return _is_number(value)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if kind == "list[str]":
        return isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value)
    if kind.startswith("dict[int"):
        seeds = isinstance(value, dict) and all(isinstance(seed, int) for seed in value)
        return seeds and all(entry is None or _is_number(entry) for entry in value.values())
    if kind == "dict[str, str]":
        texts = (*value, *value.values()) if isinstance(value, dict) else (None,)
        return all(isinstance(text, str) for text in texts)
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_MEANT = {
    "str": "a text",
    "int": "a whole number above 0",
    "float": "a number",
    "float | None": "a number",
    "list[str]": "a list of words",
    "dict[int, float | None]": "a mapping of seeds to values",
    "dict[str, str]": "a mapping of texts to texts",
}


@dataclass(kw_only=True)
class ReproduceSettings(Settings):
    """Trains a run or a record again, and says whether its result is the same.

    A run is trained from its own configuration, with its number of threads. With the same processor, threads, versions
    and commit, all metrics must be the same to the last digit. Otherwise the monitored metric must be within
    tolerance=. Other data are an error before anything is trained. A record is a file with a command and its result:
    see benchmarks/records. Exit status 2 means that the result was not reproduced.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead reproduce run=outputs/translation/grammar/...",
        "multihead reproduce record=classification_trec",
        "multihead reproduce record=classification_trec seeds=all format=json",
    )

    run: str = setting(takes="RUN")
    """The directory of a finished run."""
    record: str = setting(takes="NAME")
    """A record: the name of a file in benchmarks/records, or the path of a file."""
    seeds: str = setting("one", choices=("one", "all"))
    """all trains all seeds of a record, and compares their mean and their spread."""
    tolerance: str = setting("0.01", takes="SHARE")
    """Largest relative change of the monitored metric of a run if the circumstances differ."""
    out: str = setting(takes="FOLDER")
    """Keeps the new runs in this folder. By default they are deleted."""
    plugin: str = setting(takes="FILE.py")
    """The plugin of the run, whose copy is in RUN/plugin, or of the record."""
    format: str = setting("table", choices=("table", "json"))
    """json prints everything as JSON."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not self.run and not self.record:
            raise ConfigError(
                "run",
                "is missing: which run or record should be reproduced?",
                "run=outputs/TASK/DATA/..., or record=NAME",
            )
        if self.run and self.record:
            raise ConfigError("record", "cannot be given together with run=", "leave one out")
        if self.seeds == "all" and not self.record:
            raise ConfigError("seeds", "is for a record; a run has one seed", "leave seeds out")
        self.share()

    def share(self) -> float:
        """The tolerance as a number."""
        good = re.fullmatch(r"\d*\.?\d+(?:[eE][+-]?\d+)?", self.tolerance)
        require(bool(good), "tolerance", "a share of at least 0, such as 0.01", self.tolerance, "tolerance=0.01")
        return float(self.tolerance)
