"""``show`` opens the page for the browser with finished runs."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Sequence

from multihead.config.extras import require_package
from multihead.config.serving import ServeSettings, ShowSettings
from multihead.config.settings import read_words

SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""Environment variables of which Linux has one if a browser can open."""


def run(words: Sequence[str]) -> int:
    """Runs ``multihead show``; see `ShowSettings`."""
    settings, others = read_words(ShowSettings, words)
    for package in ("fastapi", "uvicorn"):
        require_package(package, "show", "the server of the page")
    from rich.console import Console

    from multihead.runs.console import open_log
    from multihead.serving.server import serve

    open_log(None, Console(stderr=True))

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    serve(ServeSettings(run=settings.run, names=settings.names, port=0), others, say, open_browser)
    return 0


def open_browser(url: str) -> None:
    """Opens an address in the user's browser, if there is one; a browser inside the terminal is none.

    It does not wait, since some browsers return only when they are closed.
    """
    if sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in SCREENS):
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
