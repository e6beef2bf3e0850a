"""The LaTeX of ablations and ladders, read back as a typesetter reads it: cells, numbers, and no bare special."""

import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import test_ablation
import test_ladder

from multihead.comparing.report import latex_text
from multihead.studying.ablation import ablation
from multihead.studying.collect import StudyReport, SystemRow
from multihead.studying.ladder import climb
from multihead.studying.latex import latex

SPECIALS = r"[#&_^~<>|]|(?<!\\)[%$]"
"""Characters that mean something to LaTeX, or are printed as others, unless a backslash or mathematics has them."""
NUMBER = r"[+-]?[\d.]+"


def tables(text):
    """The cells of each table, as a reader sees them. Each row has a cell for each column, and nothing is bare."""
    found = []
    assert text.count(r"\begin{table}") == text.count(r"\toprule") == text.count(r"\bottomrule")
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert all(line.endswith(r" \\") for line in lines)
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))] for line in lines]
        assert {len(row) for row in rows} == {len(columns)}
        found.append([[printed(cell) for cell in row] for row in rows])
    for caption in re.findall(r"\\caption\{(.*)\}\n", text):
        printed(caption)
    return found


def printed(text):
    """A text without its LaTeX."""
    plain = re.sub(r"\\[#&_%$]", "", re.sub(r"(?<!\\)\$.*?(?<!\\)\$", "", text))
    assert not re.search(SPECIALS, plain), plain
    assert text.count("{") == text.count("}")
    text = re.sub(r"\\([#&_%])", r"\1", text.replace(r"$\pm$", "±"))
    return text.replace("$", "")


def report(plan, **changes):
    systems = [SystemRow(task, arm, 3, 1.0, 0.1, 0.9, 0.2, 1000, 1e6, 1e3, 1.0) for task in plan.tasks
               for arm in plan.arms]  # fmt: skip
    metrics = {task: plan.metrics.get(task, "val/bits_per_byte") for task in plan.tasks}
    return StudyReport("s", "?", "none", plan.baseline, 0.05, 0.8, True, [], [], systems, [], metrics,
                       dict(plan.better), 3, 3, 0.5, 1, **changes)  # fmt: skip


def test_an_ablation_has_its_ranked_effects_with_intervals_and_flags():
    plan = test_ablation.plan()
    switches = ablation(plan, test_ablation.results(plan, 0.1, seed=1, interact=2.0))
    (head, *rows), systems = tables(latex(report(plan, ablation=switches)))
    assert head == ["task", "rank", "switch", "left out of all", "added to none", "interaction"]
    assert [row[0] for row in rows] == ["all tasks (%)", "", "", "acc (accuracy)", "", "", "loss (loss)", "", ""]
    assert [row[1:3] for row in rows[:3]] == [["1", "a"], ["2", "b"], ["3", "c"]]
    for row, found in zip(rows, switches, strict=True):
        assert row[2] == found.name and row[5].endswith("^{*}") == found.flagged
        for cell, effect in zip(row[3:], (found.left_out, found.added, found.interaction), strict=True):
            assert effect is not None
            numbers = [float(number) for number in re.findall(NUMBER, cell)]
            assert numbers == pytest.approx([effect.value, effect.low, effect.high], abs=0.006)
    assert {found.flagged for found in switches} == {True, False}
    assert [row[0] for row in systems[1:]] == list(plan.arms)  # without_a and the others have underscores


def test_an_ablation_without_the_second_half_has_no_empty_columns():
    plan = test_ablation.plan(tasks=("acc",))
    plan = replace(plan, contrasts={name: both for name, both in plan.contrasts.items() if name.startswith("without")})
    drawn = test_ablation.results(plan, 0.1)
    drawn |= {key._replace(arm="without_c"): drawn[key._replace(arm="all")] for key in drawn}
    text = latex(report(plan, ablation=ablation(plan, drawn)))
    (head, *rows), _ = tables(text)
    assert head[-1] == "left out of all" and "interaction" not in text and "^{*}" not in text
    assert rows[-1] == ["", "-", "c", "0.00"]  # all differences are equal: no interval, and no rank


def test_a_ladder_has_its_sizes_with_their_losses_and_the_factor_with_its_interval():
    plan, results, facts = test_ladder.study()
    worths, rungs = climb(plan, results, facts, {}, True)
    rungs["lm"]["new"] = rungs["lm"]["new"][:4]  # the last size has no result
    text = latex(report(plan, ladder=worths, rungs=rungs, compute="flops"))
    (head, *sizes), factors = tables(text)
    assert head == ["task", "size", "system", "compute (flops)", "validation", "test"]
    assert [row[:3] for row in sizes[:3]] == [["lm", "s0", "plain"], ["", "", "new"], ["lm", "s1", "plain"]]
    for row, rung in zip(sizes[::2], rungs["lm"]["plain"], strict=True):
        assert float(row[3]) == pytest.approx(rung.compute, rel=0.005)
        mean, deviation = map(float, row[4].split(" ± "))
        assert (mean, deviation) == pytest.approx((fmean(rung.losses), stdev(rung.losses)), abs=0.006)
        assert row[5] == "0.90 ± 0.20"
    assert sizes[-1] == ["", "", "new", "-", "-", "0.90 ± 0.20"]
    (own,) = worths
    task, variant, exponent, factor, interval, verdict = factors[1]
    assert (task, variant, verdict) == ("lm", "new", "better")
    assert float(exponent) == pytest.approx(own.exponent, abs=1e-3)
    assert float(factor) == pytest.approx(own.factor, abs=0.006)
    assert [float(n) for n in interval.split(" to ")] == pytest.approx([own.low, own.high], abs=0.006)
    assert r"bits\_per\_byte" in text and r"95 \% intervals" in text


@pytest.mark.parametrize(("compute", "cell"), [(1.234e12, r"1.23 \times 10^{12}"), (0.5, "0.5"), (812.0, "812")])
def test_compute_is_written_with_three_digits(compute, cell):
    plan, results, facts = test_ladder.study()
    worths, rungs = climb(plan, results, facts, {}, True)
    rungs["lm"]["plain"][0] = replace(rungs["lm"]["plain"][0], compute=compute)
    assert tables(latex(report(plan, ladder=worths, rungs=rungs, compute="flops")))[0][1][3] == cell


def test_a_ladder_without_an_answer_has_no_numbers_for_it():
    plan, _, facts = test_ladder.study()
    worths, rungs = climb(plan, {}, facts, {}, True)
    _, factors = tables(latex(report(plan, ladder=worths, rungs=rungs, compute="flops")))
    assert factors[1] == ["lm", "new", "-", "-", "-", "underpowered"]


def test_specials_are_escaped():
    assert latex_text(r"50% of #1 & $2_{3}") == r"50\% of \#1 \& \$2\_\{3\}"
    assert printed(latex_text("a < b > c | d")) == r"a < b > c \textbar{} d"
