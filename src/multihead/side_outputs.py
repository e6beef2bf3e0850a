"""What a run shows or writes beside its result, and does not depend on: pictures, tables, uploads, the progress bar."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator

log = logging.getLogger("multihead")

SHOW_TRACEBACK = "MULTIHEAD_TRACEBACK"
MOST_LETTERS = 300
"""Letters of a reason that are shown."""


@contextlib.contextmanager
def side_output(what: str) -> Iterator[None]:
    """Inside, or in a function that it decorates, an error costs neither the run nor its result.

    One warning names what failed and why; while a log is open (`multihead.runs.progress.open_log`) it is not said again.
    A signal, which is no ``Exception``, still ends the run. Not for code in which ranks wait for each other.

    Args:
        what: The output, as the beginning of a sentence: "the table of samples".
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK) == "1":
            sys.stderr.write("".join(traceback.format_exception(error)))
        log.warning("%s failed, and the run goes on without: %s", what, reason(error), extra={"once": what})


def reason(error: BaseException) -> str:
    """What happened, in one line: the error's class and its words."""
    words = " ".join(str(error).split())[:MOST_LETTERS]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
