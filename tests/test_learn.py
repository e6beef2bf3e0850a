"""The chapters of the guide run, cut down, and have the parts that a reader expects.

A chapter tests itself: its blocks assert what its text says, and the answers of its exercises have asserts too.
"""

import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "docs" / "learn"
CHAPTERS = sorted(FOLDER.glob("[0-9]*.py"))
NAMES = [path.stem for path in CHAPTERS]


def cells(path: Path) -> list[tuple[str, str]]:
    """Marker and content of each cell of a py:percent file."""
    parts = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert parts[0] == "", f"{path.name} has text before its first cell"
    return list(zip((marker.strip() for marker in parts[1::2]), parts[2::2], strict=True))


@pytest.mark.unhurried
@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_a_chapter_runs(chapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a chapter writes
    monkeypatch.delenv("MULTIHEAD_GUIDE", raising=False)
    plt.switch_backend("Agg")
    before = dict(plt.rcParams)
    try:
        with torch.random.fork_rng():
            runpy.run_path(str(chapter), run_name="__main__")
        assert plt.get_fignums(), "a chapter draws at least one figure"
    finally:
        plt.close("all")
        plt.rcParams.update(before)
        torch.set_printoptions(profile="default")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_the_answer_of_an_exercise_is_hidden_and_tested(chapter):
    found = cells(chapter)
    exercises = [
        at for at, (marker, text) in enumerate(found) if marker == "[markdown]" and "{admonition} Exercise" in text
    ]
    assert exercises
    for at in exercises:
        marker, answer = found[at + 1]
        assert "hide-cell" in marker, f"the cell behind {found[at][1][:60]!r} is the answer and is hidden"
        assert "assert" in answer


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_a_chapter_has_its_number_a_summary_and_a_next(chapter):
    titles = [line for _, text in cells(chapter) for line in re.findall(r"^# (#+ .*)", text, flags=re.MULTILINE)]
    assert titles[0].startswith(f"# {int(chapter.name[:2])}. ")
    assert "## What you have learned" in titles
    assert "## Next" in titles


def test_the_index_names_every_chapter():
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if name not in index] == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_the_appendix_collects_every_usual_mistake(chapter):
    appendix = (FOLDER / "appendix_broken_tutorial.md").read_text(encoding="utf-8")
    mistakes = re.findall(r'^# ```{admonition} A usual mistake: (".*")$', chapter.read_text(encoding="utf-8"), re.M)
    number = int(chapter.name[:2])
    for mistake in mistakes:
        assert re.search(rf"^\| {re.escape(mistake)} \|.*\| \[{number}\]\[{number}\] \|$", appendix, re.M), mistake
