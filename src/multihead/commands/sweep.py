"""``sweep``: runs a W&B sweep file without W&B. Each trial is a process, and the ledger is an Optuna study."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from multihead.config.extras import require_package
from multihead.config.many_runs import SweepSettings
from multihead.config.settings import read_words
from multihead.config.sweep import Sweep, check, read_sweep
from multihead.errors import ConfigError
from multihead.runs.screen import report_console
from multihead.sweeping.frozen import frozen_conf, launch, trial_words
from multihead.sweeping.ledger import Ledger
from multihead.sweeping.report import REPORT, best_command, show, write_report
from multihead.sweeping.runner import Runner


def run(words: Sequence[str]) -> int:
    """Runs ``multihead sweep``; see `SweepSettings`."""
    settings, typed = read_words(SweepSettings, words)
    _check_packages(settings)
    sweep = read_sweep(settings.file)
    sweep.name = settings.name or sweep.name
    folder = Path(settings.dir or Path("outputs") / "sweeps" / sweep.name)
    with frozen_conf(folder):
        first = check(sweep, typed)
        ledger_options = {"storage": settings.storage, "val_every": first.config.trainer.val_every_n_steps}
        if settings.status or settings.best or settings.to:
            return _look(settings, Ledger(sweep, folder, create=False, **ledger_options), folder)
        trials, seconds = _budget(sweep, settings)
        ledger = launch(sweep, folder, typed, settings, first, ledger_options)
        return Runner(sweep, folder, settings, ledger, first).run(trials, seconds, trial_words(typed, folder))


def _check_packages(settings: SweepSettings) -> None:
    """Checks that the optional packages are installed, before anything is written.

    Raises:
        ConfigError: If one is missing. The message says how to install it.
    """
    require_package("optuna", "sweep", "a sweep")
    if settings.storage.startswith("postgresql"):
        require_package("psycopg", "storage", "PostgreSQL")


def _budget(sweep: Sweep, settings: SweepSettings) -> tuple[int, float]:
    """Returns the largest number of trials, and the seconds of all trials together. 0 is no limit.

    Raises:
        ConfigError: If the sweep would never end.
    """
    trials, seconds, _ = settings.limits()
    if not settings.budget:
        trials = sweep.run_cap
    if sweep.method != "grid" and not trials and not seconds:
        what = f"must be given, because method: {sweep.method} has no last trial and {sweep.path} has no run_cap"
        raise ConfigError("budget", what, "budget=20 (trials) or budget=8h (of trials)")
    return trials, seconds


def _look(settings: SweepSettings, ledger: Ledger, folder: Path) -> int:
    """Does what ``status=true``, ``best=true`` or ``to=wandb`` asks for."""
    rows, sweep = ledger.rows(), ledger.sweep
    if settings.best:
        sys.stdout.write(best_command(rows, sweep) + "\n")
        return 0
    if settings.to:
        from multihead.sweeping.upload import send

        return send(rows, sweep)
    write_report(folder / REPORT, sweep, rows, ledger.study)
    show(report_console(), sweep, rows, folder, ledger.study)
    return 0
