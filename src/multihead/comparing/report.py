"""A comparison of systems as Markdown, LaTeX, JSON, or one HTML page that needs nothing else, with curves as SVG."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multihead.comparing.significance import Spread, Test
from multihead.config.verbs import REPORT_FORMATS
from multihead.errors import ConfigError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a67c00", "#56b4e9", "#8a5cd0", "#7f7f7f")
"""Of systems, in turn (after Okabe & Ito): told apart by the colour-blind, and on a light and a dark ground."""
MAX_POINTS = 400
"""Of a curve that is drawn."""


@dataclass
class System:
    """Runs that differ in their seed only."""

    name: str
    runs: list[str]
    seeds: list[int]
    values: list[float]
    spread: Spread
    parameters: int


@dataclass
class Pair:
    """Two systems, compared."""

    first: str
    second: str
    test: Test | None
    """None where there is nothing to test with: one seed each, and nothing for each example."""
    corrected: float | None
    """The p-value after Holm's correction."""
    statement: str


@dataclass
class Curve:
    """A column of metrics.csv of one run."""

    system: int
    run: str
    points: list[tuple[float, float]]


@dataclass
class Report:
    """All that a comparison found."""

    task: str
    metric: str
    better: str
    """max or min."""
    systems: list[System]
    pairs: list[Pair]
    differences: dict[str, list[str]]
    """Key of the configuration to its value in each system."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    """Title to curves against steps."""


def render(report: Report, kind: str) -> str:
    """The report in one of `REPORT_FORMATS`."""
    return {"markdown": markdown, "latex": latex, "html": page, "json": as_json}[kind](report)


def outputs(formats: Sequence[str], out: str) -> list[tuple[str, Path | None]]:
    """The formats to write, each with its file, or None for standard output.

    Args:
        formats: Names of `REPORT_FORMATS`; if it is empty, the suffix of ``out`` decides.
        out: A file; if several formats are written, the beginning of their names.

    Raises:
        ConfigError: Several formats have no file, or no format has the suffix of ``out``.
    """
    if not out:
        if len(formats) > 1:
            raise ConfigError("out", "is missing: several formats need files", "out=comparison")
        return [(kind, None) for kind in formats]
    file = Path(out)
    if file.is_dir():
        raise ConfigError("out", f"{out} is a directory", f"out={file / 'comparison.html'}")
    if not formats:
        formats = [kind for kind, suffix in REPORT_FORMATS.items() if suffix == file.suffix.lower()]
        if not formats:
            raise ConfigError("out", f"{out}: no format ends in {file.suffix or 'nothing'}", "format=markdown")
    if len(formats) == 1:
        return [(formats[0], file)]
    stem = file.with_suffix("") if file.suffix in REPORT_FORMATS.values() else file
    return [(kind, stem.with_name(stem.name + REPORT_FORMATS[kind])) for kind in formats]


# ---- tables, as rows of text


def systems_rows(report: Report) -> list[list[str]]:
    """The table of systems, its head first."""
    digits = _digits([s.spread for s in report.systems])
    rows = [["system", "seeds", "mean", "sd", "95 % CI over seeds", "parameters"]]
    for system in report.systems:
        found = system.spread
        several = found.deviation is not None
        rows.append(
            [
                system.name,
                str(len(system.values)),
                f"{found.mean:.{digits}f}",
                f"{found.deviation:.{digits}f}" if several else "-",
                f"{found.low:.{digits}f} to {found.high:.{digits}f}" if several else "-",
                f"{system.parameters:,}",
            ]
        )
    return rows


def pairs_rows(report: Report) -> list[list[str]]:
    """The table of comparisons, its head first."""
    rows = [["first - second", "difference", "95 % CI", "p", "p (Holm)", "test"]]
    for pair in report.pairs:
        name = f"{pair.first} - {pair.second}"
        if pair.test is None:
            rows.append([name, "-", "-", "-", "-", "none possible"])
            continue
        test = pair.test
        digits = difference_digits(test)
        also = "".join(f"; {other} {p_text(p)}" for other, p in test.also)
        rows.append(
            [
                name,
                signed(test.difference, digits, plus=True),
                f"{signed(test.low, digits)} to {signed(test.high, digits)}",
                p_text(test.p, bare=True),
                p_text(pair.corrected, bare=True),
                test.method + also,
            ]
        )
    return rows


def differences_rows(report: Report) -> list[list[str]]:
    """What differs in the configurations, its head first."""
    head = ["key", *(system.name for system in report.systems)]
    return [head, *([key, *values] for key, values in report.differences.items())]


def p_text(p: float | None, bare: bool = False) -> str:
    """``p = 0.004`` or ``p < 0.001``; without ``p =`` where ``bare``."""
    if p is None:
        return "-"
    if p < 0.001:
        return "< 0.001" if bare else "p < 0.001"
    value = f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"
    return value if bare else f"p = {value}"


def difference_digits(test: Test) -> int:
    """Decimals at which an interval's width shows two digits."""
    width = test.high - test.low
    size = width if width > 0 else abs(test.difference)
    return min(6, max(0, 1 - math.floor(math.log10(size)))) if size > 0 else 2


def signed(value: float, digits: int, plus: bool = False) -> str:
    """A number without the sign of a rounded zero; with a plus where ``plus``."""
    text = f"{value:{'+' if plus else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _digits(spreads: Sequence[Spread]) -> int:
    """Decimals for a column of means: two digits of the smallest deviation, or enough to tell the means apart."""
    deviations = [s.deviation for s in spreads if s.deviation]
    if deviations:
        return min(5, max(1, 1 - math.floor(math.log10(min(deviations)))))
    return 2 if max(abs(s.mean) for s in spreads) >= 10 else 4


# ---- text formats


def as_json(report: Report) -> str:
    """Everything but the curves; numbers in full."""
    content: dict[str, Any] = {key: value for key, value in asdict(report).items() if key != "curves"}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def markdown(report: Report) -> str:
    """A table of systems, one of comparisons, and the findings in words."""

    def table(rows: list[list[str]]) -> list[str]:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        rule = ["---", *["---:"] * (len(rows[0]) - 1)]
        return ["| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]]]

    parts = [f"**{report.metric}** ({_better(report)})", "", *table(systems_rows(report)), ""]
    parts += [*table(pairs_rows(report)), "", *(f"- {pair.statement}" for pair in report.pairs)]
    remarks = [*(f"Warning: {text}" for text in report.warnings), *report.notes]
    if remarks:
        parts += ["", *(f"{text}  " for text in remarks)]
    return "\n".join(parts).rstrip() + "\n"


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
}


def latex(report: Report) -> str:
    """A table environment with the systems, and the findings as comments and as its caption; needs no package."""

    def escape(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in text)

    head, *rows = systems_rows(report)
    lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{lrrrrr}", r"\hline"]
    lines += [" & ".join(map(escape, head)) + r" \\", r"\hline"]
    lines += [" & ".join(escape(cell) for cell in row) + r" \\" for row in rows]
    caption = " ".join(escape(_sentence(pair.statement)) for pair in report.pairs)
    title = f"{escape(report.metric)} ({_better(report)})."
    lines += [r"\hline", r"\end{tabular}", rf"\caption{{{title} {caption}}}", r"\end{table}"]
    comments = [f"% Warning: {text}" for text in report.warnings] + [f"% {text}" for text in report.notes]
    return "\n".join([*comments, *lines]) + "\n"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _better(report: Report) -> str:
    return f"{'higher' if report.better == 'max' else 'lower'} is better"


# ---- the HTML page

_STYLE = """
:root { color-scheme: light dark; --line: #8888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; } .warning { border-left: 3px solid #d55e00; padding-left: .7rem; }
.note { opacity: .75; } svg { width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
.axis { stroke: currentColor; stroke-width: 1; } .grid { stroke: currentColor; opacity: .15; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.swatch { display: inline-block; width: 1.6em; border-top: 3px; vertical-align: middle; margin-right: .4em; }
"""


def page(report: Report) -> str:
    """One page: tables, findings, what differs, and curves; no script, nothing fetched, light or dark as the reader."""
    title = f"{report.task}: {report.metric}"
    statements = "".join(f"<li>{html.escape(pair.statement)}</li>" for pair in report.pairs)
    parts = [
        f"<h1>{html.escape(title)} <small>({_better(report)})</small></h1>",
        *(f'<p class="warning">{html.escape(text)}</p>' for text in report.warnings),
        f"<ul>{statements}</ul>",
        "<h2>Systems</h2>",
        _table(systems_rows(report)),
        "<h2>Comparisons</h2>",
        _table(pairs_rows(report)),
        *(f'<p class="note">{html.escape(text)}</p>' for text in report.notes),
    ]
    if report.curves:
        parts += ["<h2>Curves</h2>", _legend(report)]
        parts += [chart(name, curves, report) for name, curves in report.curves.items()]
    if report.differences:
        parts += ["<h2>What differs in the configurations</h2>", _table(differences_rows(report))]
    runs = [["run", "system", "seed", report.metric]]
    for system in report.systems:
        for run, seed, value in zip(system.runs, system.seeds, system.values, strict=True):
            runs.append([run, system.name, str(seed), f"{value:.6g}"])
    parts += ["<h2>Runs</h2>", _table(runs)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _table(rows: list[list[str]]) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + row(rows[0], "th") + "".join(row(cells, "td") for cells in rows[1:]) + "</table>"


def _stroke(system: int) -> tuple[str, str]:
    """Colour and dashes of a system's curves: dashes tell apart those beyond the colours."""
    return COLOURS[system % len(COLOURS)], ("", "6 3", "2 3")[system // len(COLOURS) % 3]


def _legend(report: Report) -> str:
    items = []
    for i, system in enumerate(report.systems):
        colour, dashes = _stroke(i)
        swatch = f"border-top-style:{'dashed' if dashes else 'solid'};border-top-color:{colour}"
        seeds = f"{len(system.runs)} seeds" if len(system.runs) > 1 else "1 seed"
        items.append(f'<li><span class="swatch" style="{swatch}"></span>{html.escape(system.name)} ({seeds})</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


WIDTH, HEIGHT = 860, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 28, 44
"""Of a chart, in SVG's units: its size, and its margins."""


def chart(title: str, curves: Sequence[Curve], report: Report) -> str:
    """One SVG: curves against steps, a colour for each system, with axes and ticks."""
    drawn = [(curve, thinned([p for p in curve.points if all(map(math.isfinite, p))])) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    if not drawn:
        return ""
    x_ticks = ticks(0.0, max(x for _, points in drawn for x, _ in points))
    y_ticks = ticks(min(y for _, points in drawn for _, y in points), max(y for _, points in drawn for _, y in points))
    x_low, x_high, y_low, y_high = x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text x="{LEFT}" y="16" font-weight="600">{html.escape(title)}</text>',
    ]
    for y in y_ticks:
        at = f"{down(y):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at}" dy="4" text-anchor="end">{tick_text(y, y_ticks)}</text>')
    for x in x_ticks:
        at = f"{across(x):.1f}"
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 5}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{tick_text(x, x_ticks)}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    for curve, points in drawn:
        parts.append(_line(curve, [(across(x), down(y)) for x, y in points], report))
    return "".join(parts) + "</svg>"


def _line(curve: Curve, points: Sequence[tuple[float, float]], report: Report) -> str:
    """One curve in SVG's coordinates; a single point is a dot. Pointing at it shows system and run."""
    colour, dashes = _stroke(curve.system)
    name = html.escape(f"{report.systems[curve.system].name}: {curve.run}")
    if len(points) == 1:
        x, y = points[0]
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{name}</title></circle>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.85"{dashed}>'
        f"<title>{name}</title></polyline>"
    )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers, equally spaced, from at most ``low`` to at least ``high``: at least two."""
    if not high > low:
        margin = abs(low) * 0.05 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


def tick_text(value: float, all_ticks: Sequence[float]) -> str:
    """A tick's number with the decimals that its distance to the next one needs."""
    step = all_ticks[1] - all_ticks[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points: means of as many neighbours, so that no peak is made or hidden by the choice."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
