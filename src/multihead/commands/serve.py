"""``serve`` answers over HTTP with finished runs, and shows a page in the browser."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from multihead.config.extras import require_package
from multihead.config.serving import ServeSettings
from multihead.config.settings import read_words


def run(words: Sequence[str]) -> int:
    """Runs ``multihead serve``; see `ServeSettings`."""
    settings, others = read_words(ServeSettings, words)
    for package in ("fastapi", "uvicorn"):
        require_package(package, "serve", "a server")
    from rich.console import Console

    from multihead.runs.console import open_log
    from multihead.serving.server import serve

    open_log(None, Console(stderr=True))

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    serve(settings, others, say)
    return 0
