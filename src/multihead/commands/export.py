"""``export``: a finished run for another runtime, compared with the run before it is put in place."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from multihead.config.check import require
from multihead.config.words import path_of, run_words, split, take
from multihead.errors import ConfigError

log = logging.getLogger("multihead")


def run(words: Sequence[str]) -> int:
    """``multihead export run=RUN to=FORMAT [out=DIR] [quantization=int8] [sentences=100] [part=TASK] [KEY=VALUE]``."""
    from multihead.exporting.formats import Request, export
    from multihead.runs.loggers import quiet_lightning
    from multihead.runs.progress import open_log, plain_table
    from multihead.runs.run import load

    runs, words = run_words(words)
    if len(runs) != 1:
        raise ConfigError("run", f"export takes one run, got {len(runs)}", "run=outputs/...")
    taken = {}
    for name in ("to", "out", "quantization", "sentences", "part"):
        taken[name], words = take(words, name)
    taken["out"] = path_of("out", taken["out"])
    number = taken.pop("sentences") or "100"
    require(number.isdecimal() and int(number) >= 1, "sentences", "a number of at least 1", number, "sentences=100")
    request = Request(**taken, sentences=int(number))
    request.check()
    quiet_lightning()
    open_log(None)
    folder, verification = export(
        load(runs[0], *words), request, [word for word in words if split(word).key == "plugin"]
    )
    log.info("", extra={"renderable": plain_table("compared with the run's own model", verification.table())})
    log.info("wrote %s", folder)
    return 0
