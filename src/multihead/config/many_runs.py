"""The settings of the commands that train many runs, ``sweep`` and ``study``, and of ``verify``, which checks them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from multihead.config.check import require
from multihead.config.settings import Settings, setting
from multihead.errors import ConfigError


@dataclass(kw_only=True)
class SweepSettings(Settings):
    """Runs a W&B sweep file (method: bayes, random or grid) on Optuna.

    Each trial is a process with the command line of a single run. Whatever ends the sweep, the same command continues
    it. Exit status 7 means that some trials failed.
    """

    OTHER_KEYS: ClassVar[str] = "Every other word goes to every trial: data=sst2 devices=2"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead sweep file=sweeps/translation.yaml workers=2",
        "multihead sweep file=sweeps/classification.yaml data=sst2 seeds=3",
        "multihead sweep file=sweeps/translation.yaml best=true",
    )

    file: str = setting(takes="FILE", example="file=sweeps/translation.yaml")
    """The sweep file; it also works with wandb sweep."""
    workers: int = setting(1, takes="N")
    """Number of trials that run at the same time on this machine."""
    budget: str = setting(takes="BUDGET")
    """Number of trials (20), or time summed over all trials (8h, 30m). By default it is run_cap, or the whole grid."""
    seeds: int = setting(1, takes="N")
    """Number of runs of each trial, with seed, seed + 1, ... The mean of their results is optimised."""
    trial_time: str = setting(takes="TIME")
    """Longest time of a run (90s, 30m, 2h). A run that takes longer is ended and counts as failed."""
    status: bool = setting(False)
    """true prints the table of trials as it is now and writes the report."""
    best: bool = setting(False)
    """true prints the command that trains the best configuration."""
    to: str = setting(takes="wandb", choices=("wandb",))
    """Sends the finished runs to W&B."""
    name: str = setting(takes="NAME")
    """Name of the sweep; by default the name in the file."""
    dir: str = setting(takes="FOLDER")
    """Folder of the sweep; by default outputs/sweeps/NAME."""
    storage: str = setting(takes="ADDRESS")
    """Where the ledger is; by default a file in dir. If several machines take part, with the same command on each, it
    is postgresql://USER@HOST/DATABASE."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        for key in ("workers", "seeds"):
            require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))
        check_name(self.name)
        check_storage(self.storage)
        self.limits()

    def limits(self) -> tuple[int, float, float]:
        """The budget in trials and in seconds, and the longest time of a run in seconds; 0 means no limit."""
        trials, seconds = 0, 0.0
        if self.budget.isdigit():
            trials = int(self.budget)
            require(trials >= 1, "budget", "at least 1 trial", self.budget)
        elif self.budget:
            seconds = duration("budget", self.budget, of_trials=True)
        return trials, seconds, duration("trial_time", self.trial_time) if self.trial_time else 0.0


@dataclass(kw_only=True)
class StudySettings(Settings):
    """Says whether a variant is better than the baseline, over several tasks and seeds.

    Runs of the baseline and its variants are added seed by seed, until a sequential test has decided each comparison or
    the budget is spent. Whatever ends the study, the same command continues it. The answer is in the table that is
    printed, and in report.html, report.tex and report.json in the study's folder. A file with ablate says which of
    several switches help, one with ladder how much compute a variant is worth, and one with folds cross-validates.
    """

    OTHER_KEYS: ClassVar[str] = "Every other word goes to every run: data.batch_tokens=2048 plugin=variant.py"
    KEYS: ClassVar[tuple[str, ...]] = ("plugin",)
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead study file=sweeps/studies/norms.yaml workers=2",
        "multihead study file=sweeps/studies/norms.yaml status=true",
        "multihead study file=mine.yaml plugin=variant.py format=json",
    )

    file: str = setting(takes="FILE", example="file=sweeps/studies/norms.yaml")
    """The study file; docs/studies.md describes it."""
    workers: int = setting(1, takes="N")
    """Number of runs at the same time on this machine."""
    budget: str = setting(takes="TIME")
    """Time of all runs together (90m, 8h). It wins over the budget of the file."""
    run_time: str = setting(takes="TIME")
    """Longest time of a run (90s, 30m, 2h). A run that takes longer is ended and counts as failed."""
    status: bool = setting(False)
    """true shows the answer as it is now, and starts nothing."""
    format: str = setting("table", choices=("table", "json", "latex"))
    """json or latex prints the answer in this format on standard output; what happens goes to standard error."""
    name: str = setting(takes="NAME")
    """Name of the study; by default the name in the file."""
    dir: str = setting(takes="FOLDER")
    """Folder of the study; by default outputs/studies/NAME."""
    storage: str = setting(takes="ADDRESS")
    """Where the ledger is; by default a file in dir. For several machines, postgresql://USER@HOST/DATABASE."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        require(self.workers >= 1, "workers", "at least 1", self.workers)
        check_name(self.name)
        check_storage(self.storage)
        self.limits()

    def limits(self) -> tuple[float, float]:
        """The budget and the longest time of a run, in seconds. Without a budget it is 0: the file's counts."""
        budget = duration("budget", self.budget) if self.budget else 0.0
        return budget, duration("run_time", self.run_time) if self.run_time else 0.0


@dataclass(kw_only=True)
class VerifySettings(Settings):
    """Checks that the claim of a study or of a comparison holds.

    The runs of each system must have one configuration, and all runs of a task the same data, code and versions. Every
    run that was started must be shown. The verdicts are computed again from the run directories. The shortest run is
    trained again and must give the same. Exit status 2 means findings.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead verify group=outputs/studies/norms",
        "multihead verify group=outputs/lm claim=comparison.json",
        "multihead verify group=outputs/studies/norms rerun=false format=json",
    )

    group: str = setting(takes="FOLDER", example="group=outputs/studies/NAME")
    """The folder of a study, or a folder of runs."""
    claim: str = setting(takes="FILE.json")
    """What compare group=FOLDER out=FILE.json has said about a folder of runs."""
    rerun: bool = setting(True)
    """Whether the shortest run is trained again, in a temporary folder."""
    format: str = setting("table", choices=("table", "json"))
    """json prints everything as JSON."""
    name: str = setting(takes="NAME")
    """Name of the study, if several have one storage."""
    storage: str = setting(takes="ADDRESS")
    """Where the ledger of the study is; by default a file in its folder."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_name(self.name)
        check_storage(self.storage)


def check_name(name: str) -> None:
    """Checks the name of a sweep or a study; empty means that there is none."""
    if name and not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
        raise ConfigError("name", f"must be up to 100 letters, digits, '-', '_' and '.', got {name!r}")


def check_storage(storage: str) -> None:
    """Checks the address of a ledger; empty means a file."""
    if storage and not storage.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
        shown = storage.partition("@")[2] or storage  # without a password
        raise ConfigError("storage", f"must be postgresql://USER@HOST/DATABASE or sqlite:///FILE, got {shown!r}")


def duration(key: str, text: str, of_trials: bool = False) -> float:
    """Seconds of ``90s``, ``30m``, ``2.5h`` or ``1d``.

    Raises:
        ConfigError: It is not a time above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found or not float(found[1]):
        also = "a number of trials, or " if of_trials else ""
        raise ConfigError(key, f"must be {also}a time such as 90s, 30m or 2h, got {text!r}")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
