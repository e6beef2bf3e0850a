"""The process of one worker of a study. It claims runs until the study has ended, and is otherwise that of a sweep."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multihead.errors import guarded
from multihead.studying.ledger import StudyLedger
from multihead.sweeping.trial import end_with_parent
from multihead.sweeping.worker import STORAGE, Job, Worker


def main(text: str) -> int:
    """Runs a worker process. ``text`` is the job as JSON, without the storage's URL, which may hold a password."""
    end_with_parent()
    given: Mapping[str, Any] = json.loads(text)

    def work() -> int:
        ledger = StudyLedger(given["name"], Path(given["folder"]), os.environ.get(STORAGE, ""), create=False)
        return Worker(ledger, Job(**given["job"])).work()

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
