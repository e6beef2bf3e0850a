"""``verify`` checks that the claim of a study or of a comparison holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from multihead.config.extras import require_package
from multihead.config.many_runs import VerifySettings
from multihead.config.settings import read_words

FINDINGS = 2
"""Exit status if a check has found something."""


def run(words: Sequence[str]) -> int:
    """Runs ``multihead verify``; see `VerifySettings`."""
    settings, _ = read_words(VerifySettings, words)
    from multihead.comparing.of_study import study_of

    folder = None if settings.claim else study_of(Path(settings.group))
    if folder:
        require_package("optuna", "sweep", "a study")
    from multihead.runs.screen import report_console
    from multihead.studying.verify_runs import verify_runs
    from multihead.studying.verify_study import verify_study

    if folder:
        found = verify_study(folder, settings.name, settings.storage, settings.rerun)
    else:
        found = verify_runs(settings.group, settings.claim, settings.rerun)
    holds = all(finding.ok for finding in found)
    if settings.format == "json":
        content = {"group": settings.group, "holds": holds, "checks": [asdict(finding) for finding in found]}
        sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        return 0 if holds else FINDINGS
    console = report_console()
    for finding in found:
        style = "green" if finding.ok else "bold red"
        console.print(f"{'ok' if finding.ok else 'FINDING':<8}", end="", style=style)
        console.print(f" {finding.check}: {finding.text}", markup=False, highlight=False, soft_wrap=True)
    wrong = sum(not finding.ok for finding in found)
    checks = f"{len(found)} check{'s' * (len(found) != 1)}"
    said = f"verified: {checks}, no finding" if holds else f"{wrong} finding{'s' * (wrong > 1)} in {checks}"
    console.print(said, style="bold", markup=False, highlight=False)
    return 0 if holds else FINDINGS
