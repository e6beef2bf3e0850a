"""Who tries what, and what came of it: an Optuna study, in a file of the sweep or in a database.

A trial is claimed under a lock that goes with the process that holds it, so that each is claimed once. Optuna's RUNNING
does not say whether anybody runs it: each trial therefore names its owner, a process of a host, which says now and then
that it is alive. What an owner leaves behind, because it was killed, the next claim takes over.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihead.config.extras import require_package
from multihead.config.sweep import Parameter, Sweep
from multihead.errors import CheckpointError, ConfigError, MachineError
from multihead.runs.lock import kernel_lock
from multihead.sweeping import optuna_private
from multihead.sweeping.owner import alive, this_process

PATIENCE_SECONDS = 600.0
"""For a database that does not answer."""
SETTLED = ("complete", "pruned", "failed")


@dataclass
class Claim:
    """A trial that this process is to run."""

    number: int
    values: dict[str, Any]
    """Of the swept parameters."""
    attempt: int
    """1, or more where an owner before was killed."""
    record: dict[str, Any]
    """What the ledger holds of it (`Ledger.note`)."""
    lost: bool = False
    """Another process has taken it."""


@dataclass
class Row:
    """A trial as the ledger has it."""

    number: int
    state: str
    """complete, pruned, failed, running, or orphaned: its owner is gone."""
    value: float | None
    values: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    """The metric by optimizer step, of the first seed."""


def _patiently(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that waits for a database that does not answer for a while: trials go on meanwhile."""

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
    """The study of one sweep.

    Args:
        sweep: What is swept.
        folder: Of the sweep, on this machine.
        storage: A database's URL; empty for a file in the folder.
        val_every: Optimizer steps between validations, in which ``min_iter`` counts.
        create: Whether to begin a sweep where there is none.

    Raises:
        ConfigError: There is no such sweep, or Optuna is missing.
        MachineError: The database cannot be reached.
    """

    def __init__(self, sweep: Sweep, folder: Path, storage: str = "", *, val_every: int = 1, create: bool = True):
        optuna = import_optuna()
        self.sweep, self.folder, self.url = sweep, folder, storage or f"sqlite:///{folder}/ledger.db"
        self._file = self.url.startswith("sqlite:///")
        self._val_every = val_every
        if self._file and not create and not Path(self.url.removeprefix("sqlite:///")).is_file():
            raise ConfigError("name", f"no sweep in {folder} yet", "start it: leave out status=, best= and to=")
        with self.exclusively():  # two processes that begin the same sweep at once would both make its tables
            self._storage = self._open_storage(optuna)
            try:
                self.study = optuna.load_study(
                    study_name=sweep.name, storage=self._storage, pruner=self._pruner(optuna)
                )
            except KeyError:
                if not create:
                    raise ConfigError("name", f"no sweep called {sweep.name} in the storage yet") from None
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
        """W&B's hyperband has one bracket with rungs at min_iter * eta**k, which is asynchronous successive halving."""
        if not self.sweep.min_iter:
            return optuna.pruners.NopPruner()
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.sweep.min_iter * self._val_every, reduction_factor=self.sweep.eta
        )

    # One at a time

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """Inside, no other process claims or settles a trial of this sweep."""
        return self._flock() if self._file else self._advisory()

    @contextlib.contextmanager
    def _flock(self) -> Iterator[None]:
        lock = kernel_lock(Path(f"{self.url.removeprefix('sqlite:///')}.lock"))
        try:
            lock.acquire()
        except OSError as error:
            raise MachineError(str(self.folder), f"cannot be written ({error.strerror})", "another dir=") from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _advisory(self) -> Iterator[None]:
        """PostgreSQL's lock of a session: given back where the connection ends, however it ends."""
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

    # The sweep as a whole

    def freeze(self, launch: Mapping[str, Any]) -> None:
        """Writes down what the sweep is where it begins, and refuses to go on with another one under its name.

        Args:
            launch: Texts and numbers by name: the file's text, typed words, seeds, checksums.

        Raises:
            CheckpointError: It began with something else.
        """
        with self.exclusively():
            known = self.study.user_attrs.get("launch")
            if known is None:
                self.study.set_user_attr("launch", dict(launch))
                return
        for key, value in launch.items():
            if known.get(key) != value:
                raise CheckpointError(
                    f"sweep {self.sweep.name}",
                    f"was launched with {_shown(known.get(key))} as {key}, now it is {_shown(value)}",
                    "put it back, or give the new sweep another name=",
                )

    @property
    def launch(self) -> dict[str, Any]:
        """What `freeze` wrote down."""
        return self.study.user_attrs.get("launch", {})

    @_patiently
    def rows(self) -> list[Row]:
        """All trials, in order of their numbers."""
        return [self._row(trial) for trial in self.study.get_trials(deepcopy=False)]

    def _row(self, trial: Any) -> Row:
        record = dict(trial.user_attrs)
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running")
        if state == "running" and not alive(record.get("owner")):
            state = "orphaned"
        value = trial.value if state == "complete" else None
        return Row(trial.number, state, value, dict(trial.params), record, dict(trial.intermediate_values))

    # One trial

    @_patiently
    def claim(self, trials: int, seconds: float = 0.0) -> Claim | None:
        """The next trial for this process: one whose owner is gone, else a new one; None where nothing is left to do.

        Args:
            trials: Most trials of the sweep; 0 for no limit.
            seconds: Time of all trials together after which none is begun; 0 for no limit.
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
        """Draws trial ``number``: seeded by it, so that two workers do not draw the same."""
        from optuna import samplers

        seed = int.from_bytes(hashlib.sha256(f"{self.sweep.name} {number}".encode()).digest()[:4])
        if self.sweep.method == "grid":
            space = {parameter.name: parameter.values for parameter in self.sweep.swept}
            return samplers.GridSampler(space, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of TPE's options are called experimental
            return samplers.RandomSampler(seed) if self.sweep.method == "random" else samplers.TPESampler(seed=seed)

    def _distributions(self) -> dict[str, Any]:
        return {parameter.name: distribution(parameter) for parameter in self.sweep.swept}

    @_patiently
    def note(self, number: int, **record: Any) -> None:
        """Writes down what is known of a trial."""
        for key, value in record.items():
            optuna_private.set_attribute(self.study, number, key, value)

    def beat(self, claim: Claim, elapsed: float) -> bool:
        """Says that the owner of a trial is alive; False where the trial was taken from it, as after a long silence."""
        if not self._mine(claim.number):
            return False
        self.note(claim.number, owner=this_process(), elapsed=elapsed)
        return True

    def _mine(self, number: int) -> bool:
        owner, me = optuna_private.frozen(self.study, number).user_attrs.get("owner") or {}, this_process()
        return all(owner.get(key) == me[key] for key in ("host", "boot", "pid", "start"))

    def release(self, claim: Claim) -> None:
        """Gives a trial back that is not finished, for whoever claims next."""
        self.note(claim.number, owner=None)

    @_patiently
    def report(self, number: int, step: int, value: float) -> bool:
        """Writes down the metric at a step; returns whether the trial is hopeless."""
        trial = optuna_private.going_on(self.study, number)
        if step not in optuna_private.frozen(self.study, number).intermediate_values:
            trial.report(value, step)
        return trial.should_prune()

    @_patiently
    def settle(self, number: int, state: str, value: float | None = None, **record: Any) -> bool:
        """Ends a trial of this process, once: complete with its value, pruned, or failed.

        Returns:
            False where the trial was taken from this process: it is then not this process's to settle.
        """
        from optuna.trial import TrialState

        with self.exclusively():
            if not self._mine(number):
                return False
            if optuna_private.frozen(self.study, number).state.is_finished():
                return True  # the database took it, and its reply was lost
            self.note(number, **record)
            kind = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[state]
            curve = optuna_private.frozen(self.study, number).intermediate_values
            if state == "pruned" and curve:
                value = curve[max(curve)]
            values = None if value is None else [value]
            return optuna_private.end(self.study, number, kind, values)


def _driver(url: str) -> str:
    """The URL with the driver that the extra installs."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def import_optuna() -> Any:
    """The module, quiet.

    Raises:
        ConfigError: It is not installed.
    """
    require_package("optuna", "sweep", "a sweep")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def distribution(parameter: Parameter) -> Any:
    """Optuna's distribution of a parameter's values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.values:
        return CategoricalDistribution(parameter.values)
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.log, int(parameter.step) or 1)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or None)


def spent(row: Row) -> float:
    """Seconds that a trial has taken so far."""
    if row.state in SETTLED:
        return float(row.record.get("seconds", 0.0))
    return float(row.record.get("elapsed", 0.0))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
