"""The pages of the site that are read from the code hold all of it. Continuous integration builds the site itself."""

import importlib
from pathlib import Path

import pytest

from multihead.cli import VERBS
from multihead.config.keys import documentation, leaf_keys
from multihead.config.task import SINGLE_TASKS, TASKS

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        return importlib.import_module("pages")


@pytest.mark.parametrize("task", SINGLE_TASKS)
def test_the_configuration_page_has_every_key_with_its_default_and_meaning(task, pages):
    terms = [line for line in pages.configuration().splitlines() if line.startswith("[`")]
    definitions = [line for line in pages.configuration().splitlines() if line.startswith(": ")]
    assert len(terms) == len(definitions)
    for key in leaf_keys([SINGLE_TASKS[task]]).values():
        meaning = pages.escaped(documentation(key))
        found = [term for term, text in zip(terms, definitions, strict=True) if text == f": {meaning}"]
        assert meaning, key.name
        assert any(term.startswith(f"[`{key.name}`]") for term in found), key.name


def test_keys_that_two_tasks_explain_differently_come_twice_with_their_tasks(pages):
    terms = [line for line in pages.configuration().splitlines() if line.startswith("[`task.monitor`]")]
    assert len(terms) > 1
    assert sum("#key-task-monitor" in term for term in terms) == 1  # one anchor
    for task in TASKS:
        assert sum(task in term for term in terms) == 1, terms


def test_the_page_of_commands_has_every_command(pages):
    headings = [line.removeprefix("## ") for line in pages.commands().splitlines() if line.startswith("## ")]
    assert sorted(headings) == sorted(VERBS)


def test_marks_of_markdown_in_a_meaning_are_shown_and_code_stays_code(pages):
    assert pages.escaped("[a] * 2 < $x_; `a*b`") == r"\[a\] \* 2 \< \$x\_; `a*b`"


def test_every_mark_stands_in_one_page_and_is_replaced(pages):
    sources = [page.read_text() for page in DOCS.glob("*.md")]
    for mark in pages.MARKS:
        (source,) = [text for text in sources if mark in text]
        filled = pages.fill(source)
        assert mark not in filled
        assert len(filled) > len(source) + 1000
        elsewhere = source.partition(mark)[2].strip()
        assert elsewhere.startswith("The site ") and len(elsewhere) > 60  # a reader of the repository sees it
        assert elsewhere not in filled


def test_links_to_files_lead_to_the_pages_that_show_them(pages):
    filled = pages.fill(
        "[a](examples/plugins/lion.py) [b](../benchmarks/results/fault_matrix.md)\n\n[1]: examples/gated_attention.py\n"
        "[c](../.github/CONTRIBUTING.md)\n"
    )
    assert "[a](examples.md#example-lion)" in filled
    assert "[b](tables.md#table-fault-matrix)" in filled
    assert "[1]: examples.md#example-gated-attention" in filled
    assert "[c](contributing.md)" in filled
    for anchor in ("example-lion", "example-gated-attention"):
        assert f"({anchor})=" in pages.examples()
    assert "(table-fault-matrix)=" in pages.tables()
