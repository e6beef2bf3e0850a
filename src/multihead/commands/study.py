"""``study`` says whether a variant is better than the baseline, on several tasks and over several seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from multihead.config.extras import require_package
from multihead.config.many_runs import StudySettings
from multihead.config.settings import read_words
from multihead.config.study import Study, read_study
from multihead.config.study_check import check
from multihead.runs.screen import report_console
from multihead.sweeping.frozen import frozen_conf, trial_words

if TYPE_CHECKING:
    from multihead.studying.ledger import StudyLedger


def run(words: Sequence[str]) -> int:
    """Runs ``multihead study``; see `StudySettings`."""
    settings, typed = read_words(StudySettings, words)
    require_package("optuna", "sweep", "a study")
    if settings.storage.startswith("postgresql"):
        require_package("psycopg", "storage", "PostgreSQL")
    study = read_study(settings.file)
    study.name = settings.name or study.name
    folder = Path(settings.dir or Path("outputs") / "studies" / study.name)
    with frozen_conf(folder):
        return _run(study, folder, settings, typed)


def _run(study: Study, folder: Path, settings: StudySettings, typed: Sequence[str]) -> int:
    compositions = check(study, typed)
    from rich.console import Console

    from multihead.studying.launch import Launch, draft, open_ledger
    from multihead.studying.ledger import StudyLedger
    from multihead.studying.outlook import outline, prospect, purchase
    from multihead.studying.runner import StudyRunner

    console = report_console() if settings.format == "table" else Console(stderr=True, highlight=False)
    if settings.status:
        return _answer(StudyLedger(study.name, folder, settings.storage, create=False), study, folder, settings)
    first = next(iter(compositions.values()))
    ledger = open_ledger(study, folder, typed, settings, first)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"study {study.name}: {study.question}")
    plan = ledger.plan or draft(study, compositions, settings)
    say(outline(plan, study.equal))
    if ledger.plan:
        say(purchase(plan, study.power, ledger.price(), plan.tuning))
    else:
        if not study.ladder:
            say(prospect(plan, study.power))
        Launch(study, folder, trial_words(typed, folder), settings, console).plan(compositions, ledger, plan)
    status = StudyRunner(ledger, folder, settings, first, console).run()
    return _answer(ledger, study, folder, settings) or status


def _answer(ledger: StudyLedger, study: Study, folder: Path, settings: StudySettings) -> int:
    """Prints the answer and writes its files. Returns 7 if runs failed, else 0."""
    from multihead.studying.collect import collect
    from multihead.studying.latex import latex
    from multihead.studying.report import as_json, show, write

    plan = ledger.plan
    if plan is None:
        report_console().print(f"study {study.name}: its plan is not fixed yet", highlight=False)
        return 0
    report = collect(ledger, plan, study.question, study.equal, study.power)
    write(report, folder)
    if settings.format == "table":
        show(report, report_console(), folder)
    else:
        sys.stdout.write({"json": as_json, "latex": latex}[settings.format](report))
    return 7 if any(run.state == "failed" for run in report.runs) else 0
