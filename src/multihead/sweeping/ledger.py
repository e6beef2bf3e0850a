"""The ledger of a sweep, which says who runs each trial and how it ended. It is an Optuna study in a file or database.

A process claims a trial under a lock, which is free when the process ends, so each trial is claimed once. Optuna's
state RUNNING does not say whether a process still runs the trial. So each trial names its owner, a process on a host,
which writes a heartbeat now and then. If an owner was killed, the next claim takes its trial over.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from multihead.config.extras import require_package
from multihead.config.sweep import Parameter, Sweep
from multihead.errors import CheckpointError, ConfigError, MachineError
from multihead.runs.lock import kernel_lock
from multihead.sweeping import optuna_private
from multihead.sweeping.owner import alive, this_process

PATIENCE_SECONDS = 600.0
"""Longest wait for a database that does not answer."""
SETTLED = ("complete", "pruned", "failed")
"""States of trials that have ended."""


@dataclass
class Claim:
    """A trial that this process has claimed and runs."""

    number: int
    values: dict[str, Any]
    """Values of the swept parameters."""
    attempt: int
    """Number of the attempt. It is above 1 if an earlier owner was killed."""
    record: dict[str, Any]
    """What `Ledger.note` has written about the trial."""
    lost: bool = False
    """Whether another process has taken the trial over."""


@dataclass
class Row:
    """A trial with its state in the ledger."""

    number: int
    state: str
    """complete, pruned, failed, running or orphaned. An orphaned trial has not ended, and its owner is gone."""
    value: float | None
    values: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    """Values of the metric of the first seed, by optimizer step."""


def patiently(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method so that it waits for a database that does not answer. The trials go on meanwhile."""

    @functools.wraps(method)
    def patient(self: Ledger, *arguments: Any, **options: Any) -> Any:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import DBAPIError

        deadline, pause = time.monotonic() + PATIENCE_SECONDS, 0.5
        while True:
            try:
                return method(self, *arguments, **options)
            except (StorageInternalError, DBAPIError, MachineError) as error:
                if time.monotonic() > deadline:
                    raise error if isinstance(error, MachineError) else self._unreachable(error) from error
                time.sleep(pause)
                pause = min(2 * pause, 30.0)

    return patient


class Ledger:
    """The Optuna study of one sweep.

    Args:
        sweep: The sweep.
        folder: The sweep's folder on this machine.
        storage: A database's URL, or empty for a file in the folder.
        val_every: Optimizer steps between validations. ``min_iter`` counts validations.
        create: Whether to begin the sweep if it does not exist.

    Raises:
        ConfigError: If there is no such sweep, or if Optuna is missing.
        MachineError: If the database cannot be reached.
    """

    KIND: ClassVar[str] = "sweep"
    """What the ledger is of, for messages."""
    TO_START: ClassVar[str] = "start it: leave out status=, best= and to="

    def __init__(self, sweep: Sweep, folder: Path, storage: str = "", *, val_every: int = 1, create: bool = True):
        optuna = import_optuna()
        self.sweep, self.folder, self.url = sweep, folder, storage or f"sqlite:///{folder}/ledger.db"
        self._file = self.url.startswith("sqlite:///")
        self._val_every = val_every
        if self._file and not create and not Path(self.url.removeprefix("sqlite:///")).is_file():
            raise ConfigError("name", f"there is no {self.KIND} in {folder} yet", self.TO_START)
        with self.exclusively():  # two processes that begin a sweep at once would both create its tables
            self._storage = self._open_storage(optuna)
            try:
                self.study = optuna.load_study(
                    study_name=sweep.name, storage=self._storage, pruner=self._pruner(optuna)
                )
            except KeyError:
                if not create:
                    raise ConfigError(
                        "name", f"there is no {self.KIND} called {sweep.name} in the storage yet"
                    ) from None
                self.study = optuna.create_study(
                    study_name=sweep.name,
                    storage=self._storage,
                    direction=sweep.goal,
                    pruner=self._pruner(optuna),
                )

    def _open_storage(self, optuna: Any) -> Any:
        from sqlalchemy.exc import SQLAlchemyError

        options = {"connect_args": {"timeout": 60}} if self._file else {"pool_pre_ping": True, "pool_size": 2}
        try:
            return optuna.storages.RDBStorage(_driver(self.url), engine_kwargs=options)
        except (SQLAlchemyError, OSError, ImportError) as error:
            raise self._unreachable(error) from error

    def _pruner(self, optuna: Any) -> Any:
        """Returns the pruner. W&B's hyperband is asynchronous successive halving with rungs at min_iter * eta**k."""
        if not self.sweep.min_iter:
            return optuna.pruners.NopPruner()
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.sweep.min_iter * self._val_every, reduction_factor=self.sweep.eta
        )

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """Inside, no other process claims or ends a trial of this sweep."""
        return self._flock() if self._file else self._advisory()

    @contextlib.contextmanager
    def _flock(self) -> Iterator[None]:
        try:
            held = kernel_lock(Path(f"{self.url.removeprefix('sqlite:///')}.lock")).acquire()
        except OSError as error:
            raise MachineError(str(self.folder), f"cannot be written ({error.strerror})", "another dir=") from error
        with held:
            yield

    @contextlib.contextmanager
    def _advisory(self) -> Iterator[None]:
        """Holds PostgreSQL's lock of a session, which is free when the connection ends in any way."""
        import sqlalchemy
        from sqlalchemy.exc import SQLAlchemyError

        key = zlib.crc32(f"multihead {self.sweep.name}".encode())
        engine = sqlalchemy.create_engine(
            _driver(self.url), isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.pool.NullPool
        )
        try:
            connection = engine.connect()
        except SQLAlchemyError as error:
            raise self._unreachable(error) from error
        with connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
            yield

    def _unreachable(self, error: Exception) -> MachineError:
        where = self.url.rpartition("@")[2] or self.url
        what = f"cannot be reached ({' '.join(str(error).split())[:200]})"
        return MachineError(f"storage {where}", what, "is the database up, and is psycopg installed?")

    def freeze(self, launch: Mapping[str, Any]) -> None:
        """Records what a new sweep consists of. A sweep that exists must still consist of the same.

        Args:
            launch: Texts and numbers by name: the file's text, typed words, seeds, checksums.

        Raises:
            CheckpointError: If the sweep was launched with other values.
        """
        with self.exclusively():
            known = self.study.user_attrs.get("launch")
            if known is None:
                self.study.set_user_attr("launch", dict(launch))
                return
        for key, value in launch.items():
            if known.get(key) != value:
                raise CheckpointError(
                    f"{self.KIND} {self.sweep.name}",
                    f"{key} must be {_shown(known.get(key))}, as when it was launched, got {_shown(value)}",
                    f"put it back, or give the new {self.KIND} another name=",
                )

    @property
    def launch(self) -> dict[str, Any]:
        """Returns what `freeze` recorded."""
        return self.study.user_attrs.get("launch", {})

    @patiently
    def rows(self) -> list[Row]:
        """Returns all trials, in the order of their numbers."""
        return [self._row(trial) for trial in self.study.get_trials(deepcopy=False)]

    def _row(self, trial: Any) -> Row:
        record = dict(trial.user_attrs)
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running")
        if state == "running" and not alive(record.get("owner")):
            state = "orphaned"
        value = trial.value if state == "complete" else None
        return Row(trial.number, state, value, dict(trial.params), record, dict(trial.intermediate_values))

    @patiently
    def claim(self, trials: int, seconds: float = 0.0) -> Claim | None:
        """Claims a trial for this process: one whose owner is gone, or else a new one. None if nothing is left.

        Args:
            trials: Largest number of trials of the sweep, or 0 for no limit.
            seconds: If all trials together took this time, no new one begins. 0 is no limit.
        """
        with self.exclusively():
            rows = self.rows()
            for row in rows:
                if row.state == "orphaned":
                    record = row.record | {"attempt": row.record.get("attempt", 0) + 1}
                    self.note(row.number, attempt=record["attempt"], owner=this_process())
                    return Claim(row.number, row.values, record["attempt"], record)
            if self.sweep.method == "grid":
                trials = min(trials or self.sweep.grid_size(), self.sweep.grid_size())
            if trials and len(rows) >= trials:
                return None
            if seconds and sum(spent(row) for row in rows) >= seconds:
                return None
            self.study.sampler = self._sampler(len(rows))
            trial = self.study.ask(fixed_distributions=self._distributions())
            record = {"attempt": 1, "began": time.time(), "elapsed": 0.0}
            self.note(trial.number, owner=this_process(), **record)
            return Claim(trial.number, dict(trial.params), 1, record)

    def _sampler(self, number: int) -> Any:
        """Returns the sampler of a trial. The number seeds it, so that two workers do not draw the same values."""
        from optuna import samplers

        seed = int.from_bytes(hashlib.sha256(f"{self.sweep.name} {number}".encode()).digest()[:4])
        if self.sweep.method == "grid":
            space = {parameter.name: parameter.values for parameter in self.sweep.swept}
            return samplers.GridSampler(space, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls some of TPE's options experimental
            return samplers.RandomSampler(seed) if self.sweep.method == "random" else samplers.TPESampler(seed=seed)

    def _distributions(self) -> dict[str, Any]:
        return {parameter.name: distribution(parameter) for parameter in self.sweep.swept}

    @patiently
    def note(self, number: int, **record: Any) -> None:
        """Records values for a trial."""
        for key, value in record.items():
            optuna_private.set_attribute(self.study, number, key, value)

    @patiently
    def beat(self, claim: Claim, elapsed: float) -> bool:
        """Records that a trial's owner is alive. Returns False if another process has taken the trial."""
        if not self._mine(claim.number):
            return False
        self.note(claim.number, owner=this_process(), elapsed=elapsed)
        return True

    def _mine(self, number: int) -> bool:
        owner, me = optuna_private.frozen(self.study, number).user_attrs.get("owner") or {}, this_process()
        return all(owner.get(key) == me[key] for key in ("host", "boot", "pid", "start"))

    def release(self, claim: Claim) -> None:
        """Gives back an unfinished trial, so that another process can claim it."""
        self.note(claim.number, owner=None)

    @patiently
    def report(self, number: int, step: int, value: float) -> bool:
        """Records the metric at a step, and returns whether the trial should end early."""
        trial = optuna_private.going_on(self.study, number)
        if step not in optuna_private.frozen(self.study, number).intermediate_values:
            trial.report(value, step)
        return trial.should_prune()

    @patiently
    def settle(self, number: int, state: str, value: float | None = None, **record: Any) -> bool:
        """Ends a trial of this process as complete with its value, as pruned, or as failed. A second call does nothing.

        Returns:
            False if another process has taken the trial over, which then ends it.
        """
        from optuna.trial import TrialState

        with self.exclusively():
            if not self._mine(number):
                return False
            if optuna_private.frozen(self.study, number).state.is_finished():
                return True  # the database ended it, but its reply was lost
            self.note(number, **record)
            kind = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[state]
            curve = optuna_private.frozen(self.study, number).intermediate_values
            if state == "pruned" and curve:
                value = curve[max(curve)]
            values = None if value is None or math.isnan(value) else [value]  # a stored nan could not be read again
            return optuna_private.end(self.study, number, kind, values)


def _driver(url: str) -> str:
    """Returns the URL with the driver that the extra installs."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def import_optuna() -> Any:
    """Imports Optuna and turns off its messages.

    Raises:
        ConfigError: If it is not installed.
    """
    require_package("optuna", "sweep", "a sweep")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def distribution(parameter: Parameter) -> Any:
    """Returns Optuna's distribution for a parameter's values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.values:
        return CategoricalDistribution(parameter.values)
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.log, int(parameter.step) or 1)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or None)


def spent(row: Row) -> float:
    """Returns the seconds that a trial has taken so far."""
    if row.state in SETTLED:
        return float(row.record.get("seconds", 0.0))
    return float(row.record.get("elapsed", 0.0))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
