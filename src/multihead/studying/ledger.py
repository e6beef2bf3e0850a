"""The ledger of a study. It is a sweep's ledger, whose trials are the runs that `schedule.progress` asks for.

So a run is claimed once, and another process takes over the runs of one that was killed. The plan and the costs of the
first round are written into the ledger once; the answer depends only on these and on the results.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from multihead.comparing.of_study import RUNS
from multihead.config.study import Study
from multihead.config.sweep import Sweep
from multihead.studying.schedule import Costs, Key, Plan, Progress, progress
from multihead.sweeping.ledger import SETTLED, Claim, Ledger, Row, import_optuna, patiently, spent
from multihead.sweeping.owner import this_process


class StudyLedger(Ledger):
    """The runs of one study.

    Args:
        name: The study's name.
        folder: The study's folder on this machine.
        storage: A database's URL, or empty for a file in the folder.
        create: Whether to begin the study if it does not exist.

    Raises:
        ConfigError: If there is no such study, or if Optuna is missing.
        MachineError: If the database cannot be reached.
    """

    KIND: ClassVar[str] = "study"
    TO_START: ClassVar[str] = "start it: leave out status="

    def __init__(self, name: str, folder: Path, storage: str = "", *, create: bool = True):
        super().__init__(as_sweep(name), folder, storage, create=create)

    @property
    def plan(self) -> Plan | None:
        """The plan, once it is fixed. Only its budget may change, by `allow`."""
        found = self.study.user_attrs
        return replace(Plan.from_json(found["plan"]), budget=found.get("budget", 0.0)) if "plan" in found else None

    def allow(self, budget: float) -> None:
        """Sets the seconds of all runs together; 0 means no limit.

        A larger budget lets a study go on. That costs no error, because the largest number of seeds stays as it was.
        """
        if self.study.user_attrs.get("budget") != budget:
            self.study.set_user_attr("budget", budget)

    def fix(self, plan: Plan, facts: Mapping[str, Any]) -> Plan:
        """Fixes the plan. If another process was first, its plan counts, and it is returned.

        Args:
            plan: The plan.
            facts: What the report says about it, as plain data: sizes, forecasts, what the tuning chose.
        """
        with self.exclusively():
            if (known := self.plan) is not None:
                return known
            self.study.set_user_attr("facts", dict(facts))
            self.study.set_user_attr("plan", plan.to_json())
        return plan

    @property
    def facts(self) -> dict[str, Any]:
        """What `fix` wrote beside the plan."""
        return self.study.user_attrs.get("facts", {})

    @property
    def measured(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What `measure` wrote: task to arm to forecast."""
        return self.study.user_attrs.get("measured", {})

    def measure(self, task: str, forecasts: Mapping[str, Mapping[str, Any]]) -> None:
        """Keeps the forecasts of a task's runs, so that a start after a kill does not measure them again.

        Args:
            task: The task.
            forecasts: The forecast of a run of each arm.
        """
        with self.exclusively():
            self.study.set_user_attr("measured", self.measured | {task: {a: dict(f) for a, f in forecasts.items()}})

    def price(self) -> float:
        """Returns the seconds of all runs of one seed: those of the first round, or else the forecast; 0 if unknown."""
        return sum((self.costs or self.facts.get("forecast", {})).values())

    @patiently
    def claim(self, trials: int, seconds: float = 0.0) -> Claim | None:
        """Claims a run of the round that goes on. None if nothing is left, or if all of its runs are claimed.

        Args:
            trials: Not used: the schedule knows the number of runs.
            seconds: Not used: the plan has the budget.
        """
        with self.exclusively():
            rows = self.rows()
            orphans = [row for row in rows if row.state == "orphaned"]
            for row in orphans:
                if row.record.get("run"):
                    record = row.record | {"attempt": row.record.get("attempt", 0) + 1}
                    self.note(row.number, attempt=record["attempt"], owner=this_process())
                    return Claim(row.number, {}, record["attempt"], record)
            held = {key_of(row) for row in rows if row.record.get("run")}
            free = [key for key in self.progress(rows).missing if key not in held]
            if not free:
                return None
            # an orphan without a run was created by a process that was killed before it could write the run down
            number = orphans[0].number if orphans else self.study.ask().number
            return self._begin(number, free[0])

    def _begin(self, number: int, key: Key) -> Claim:
        plan = self._fixed()
        record = {
            "attempt": 1,
            "began": time.time(),
            "elapsed": 0.0,
            "metric": plan.metrics[key.task],
            "words": plan.run_words(key),
            "dir": str(run_dir(self.folder, plan, key)),
            "run": list(key),
        }
        self.note(number, owner=this_process(), **record)
        return Claim(number, {}, 1, record)

    def _fixed(self) -> Plan:
        plan = self.plan
        assert plan is not None, "the plan is fixed before the first run"
        return plan

    def progress(self, rows: Sequence[Row] | None = None) -> Progress:
        """Returns where the study stands. When the first round has ended, its costs are written down."""
        plan = self._fixed()
        known: Sequence[Row] = self.rows() if rows is None else rows
        results, costs = results_of(known), self.costs
        found = progress(plan, results, costs)
        if costs is None and found.round > 0:
            seconds = {key_of(row): spent(row) for row in known if row.state in SETTLED and row.record.get("run")}
            first = {f"{key.task}/{key.arm}": taken for key, taken in seconds.items() if key.index == 0}
            self.study.set_user_attr("costs", first)
            found = progress(plan, results, self.costs)
        return found

    @property
    def costs(self) -> Costs | None:
        """Seconds of a run of each task and arm, once the first round has ended."""
        found = self.study.user_attrs.get("costs")
        if found is None:
            return None
        return {(task, arm): float(taken) for name, taken in found.items() for task, arm in [name.split("/")]}


def name_in(folder: Path) -> str:
    """Returns the name of the study whose ledger is a file in the folder; "" if there is none, or several."""
    if not (folder / "ledger.db").is_file():
        return ""
    names = import_optuna().study.get_all_study_names(f"sqlite:///{folder}/ledger.db")
    return names[0] if len(names) == 1 else ""


def as_sweep(name: str, study: Study | None = None) -> Sweep:
    """Returns what a sweep's ledger and copies need to know of a study."""
    path, text = (study.path, study.text) if study else (Path(name), "")
    return Sweep(
        path=path, text=text, name=name, method="study", metric="", goal="maximize", parameters=[], words=[]
    )  # the direction is not used, because the tasks have several


def run_dir(folder: Path, plan: Plan, key: Key) -> Path:
    """Returns the directory of a run."""
    return folder.resolve() / RUNS / key.task / key.arm / f"seed_{plan.seeds[key.index]}"


def key_of(row: Row) -> Key:
    """Returns which run a row of the ledger is."""
    task, arm, index = row.record["run"]
    return Key(task, arm, int(index))


def results_of(rows: Sequence[Row]) -> dict[Key, float | None]:
    """Returns the metric of each run that has ended; None if it failed."""
    return {key_of(row): row.value for row in rows if row.state in SETTLED and row.record.get("run")}
