"""The page for the browser as a folder of files, which shows recorded answers without a server."""

from __future__ import annotations

import shutil
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
"""The files of the page."""
LIVE = '<meta name="answers" content="live">'
"""The line by which the page knows that a server answers."""


def write_static(folder: Path, recorded: Path) -> None:
    """Writes the page into a folder, in the mode that looks answers up among recorded ones.

    Args:
        folder: The folder; it is created, and files of the page in it are replaced.
        recorded: Answers that ``benchmarks/record_page.py`` wrote.
    """
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    index = folder / "index.html"
    text = index.read_text(encoding="utf-8")
    assert text.count(LIVE) == 1
    index.write_text(text.replace(LIVE, LIVE.replace("live", "recorded")), encoding="utf-8")
    shutil.copyfile(recorded, folder / "recorded.json")
