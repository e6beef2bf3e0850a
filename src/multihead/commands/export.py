"""``export`` writes a finished run for another runtime and compares the two before the export is put in place."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from multihead.config.settings import read_words
from multihead.config.verbs import ExportSettings

log = logging.getLogger("multihead")


def run(words: Sequence[str]) -> int:
    """Runs ``multihead export``; see `ExportSettings`."""
    settings, words = read_words(ExportSettings, words)
    from multihead.exporting.formats import export, require_packages
    from multihead.exporting.hub import push
    from multihead.runs.console import open_log
    from multihead.runs.run import load
    from multihead.runs.tables import plain_table

    require_packages(settings.to)
    open_log(None)
    folder, verification = export(load(settings.run, *words), settings)
    log.info("", extra={"renderable": plain_table("compared with the run's own model", verification.table())})
    log.info("wrote %s", folder)
    if settings.push:
        log.info("uploaded it to %s", push(folder, settings.push))
    return 0
