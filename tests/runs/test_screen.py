"""Tables that fit: what is folded, left out or shown in blocks."""

import io

import pytest
from rich.console import Console

from multihead.runs.console import in_lines
from multihead.runs.screen import Fitted
from multihead.runs.tables import runs_table

HEAD = ["name", "best", "steps", "run"]
ROWS = [["first", "0.123456", "1,353,600", "outputs/" + "x" * 30], ["second", "12.5", "9", "outputs/y"]]


def shown(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_table_that_fits_is_a_table():
    lines = shown(Fitted(HEAD, ROWS, left=("run",)), 80)
    assert lines == [
        "name        best      steps  run",
        "first   0.123456  1,353,600  outputs/" + "x" * 30,
        "second      12.5          9  outputs/y",
    ]


def test_texts_are_folded_then_columns_left_out_then_rows_are_blocks():
    table = Fitted(HEAD, ROWS, left=("run",), fold=("run",), optional=("steps",), elsewhere="format=jsonl has all")
    folded = shown(table, 55)
    assert len(folded) == 4 and "1,353,600" in folded[1] and "".join(folded).count("x") == 30
    dropped = shown(table, 45)
    assert dropped[-1] == "not shown, too narrow: steps; format=jsonl has all"[:45] or "steps" in " ".join(dropped[-2:])
    assert "1,353,600" not in " ".join(dropped) and "0.123456" in " ".join(dropped)
    blocks = shown(table, 30)
    assert blocks[0] == "first" and ["best", "0.123456"] in [line.split() for line in blocks]
    assert ["steps", "1,353,600"] in [line.split() for line in blocks] and "".join(blocks).count("x") == 30
    for width in range(20, 90):
        assert all(len(line) <= width for line in shown(table, width))
        assert "".join(shown(table, width)).count("x") == 30


@pytest.mark.parametrize("width", [80, 100, 120, 10_000])
def test_metrics_of_several_runs_keep_their_digits(width):
    runs = {
        f"outputs/translation/grammar/2026-11-27_02-03-3{i}_ab12": {"test/bleu": 85.12, "test/loss": 1234567.0}
        for i in range(4)
    }
    text = " ".join(shown(runs_table(runs), width))
    assert text.count("1,234,567") == 4 and text.count("85.12") == 4 and "test/bleu" in text


def test_parts_of_a_line_stay_whole():
    parts = ["step 900/900  val", "bleu 96.72 (best)", "loss 0.205", "perplexity 1.227", "bits_per_byte 0.061"]
    parts += ["token_accuracy 0.984", "chrf 98.10"]
    whole = "  ".join(parts)
    assert len(whole) == 121 and in_lines(parts, 121) == whole
    assert in_lines(parts, 120) == " ".join(parts)
    lines = in_lines(parts, 80).split("\n")
    assert len(lines) == 2 and all(len(line) <= 80 for line in lines)
    assert [part for line in lines for part in line.strip().split("  ")] == whole.split("  ")
