"""Writes the tables of docs/records.md from the files in benchmarks/records, and from the goals below.

    python benchmarks/records_table.py

What stands above `MARK` in the page is written by hand and stays.
"""

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multihead.comparing.scores import LOWER_IS_BETTER
from multihead.config.record import FOLDER, MACHINES, Record, read_record

PAGE = Path(__file__).parents[1] / "docs" / "records.md"
MARK = "<!-- written by benchmarks/records_table.py -->"
COLUMNS = 120
PERCENT = ("accuracy", "f1")
"""Metrics that are shares, and are shown in percent."""


@dataclass(frozen=True)
class Goal:
    """A score that a model from scratch should reach in as little time as possible."""

    what: str
    data: str
    metric: str
    target: float

    def reached_by(self, record: Record) -> bool:
        """Whether a record has the score."""
        sign = -1 if lower_is_better(self.metric) else 1
        return sign * (record.value - self.target) >= 0


BLEU, NATS = "test/bleu_lowercase", "test/loss_random_windows"
GOALS = (
    Goal("Multi30k, English to German: 35 BLEU", "multi30k", BLEU, 35.0),
    Goal("Multi30k, English to German: 41 BLEU", "multi30k", BLEU, 41.0),
    Goal("tiny Shakespeare, characters: 1.50 nats", "tinyshakespeare", NATS, 1.50),
    Goal("tiny Shakespeare, characters: 1.47 nats", "tinyshakespeare", NATS, 1.47),
    Goal("SST-2: accuracy of the best linear model, 81.88", "sst2", "test/accuracy", 0.8188),
)
"""The goals of each class of machines. The page says where their targets come from."""


def lower_is_better(metric: str) -> bool:
    """Whether a metric such as ``test/loss`` falls while a model gets better."""
    return metric.partition("/")[2] in LOWER_IS_BETTER


def shown(metric: str, value: float, of: float | None = None) -> str:
    """Returns a value in four digits, a share in percent. The deviation ``of`` a value has its decimals."""
    percent = 100 if metric.split("/")[1] in PERCENT else 1
    return f"{percent * value:.{2 if percent * (of or value) >= 10 else 3}f}"


def score(record: Record) -> str:
    """Returns the value of a record and its deviation over seeds."""
    value = shown(record.metric, record.value)
    return value if record.deviation is None else f"{value} ± {shown(record.metric, record.deviation, record.value)}"


def link(record: Record) -> str:
    """Returns a link to the section of a record."""
    return f"[{record.name}](#{record.name})"


def goals(records: Sequence[Record]) -> list[str]:
    """Returns the table of the goals: the fastest record of each, or the nearest one."""
    lines = ["| class | goal | record | minutes | nearest so far |", "| --- | --- | --- | ---: | --- |"]
    for machine in MACHINES:
        for goal in GOALS:
            fits = [r for r in records if (r.machine, r.data, r.metric) == (machine, goal.data, goal.metric)]
            fits = [r for r in fits if not any(word.startswith("init_from=") for word in r.command)]
            reached = sorted((r for r in fits if goal.reached_by(r)), key=lambda r: r.seconds)
            near = sorted(fits, key=lambda r: r.value, reverse=not lower_is_better(goal.metric))
            if reached:
                cells = [f"{link(reached[0])}, {score(reached[0])}", f"{reached[0].seconds / 60:.1f}", ""]
            else:
                cells = ["nobody yet", "", f"{link(near[0])}, {score(near[0])}" if near else ""]
            lines.append(f"| {' | '.join([machine, goal.what, *cells])} |")
    return lines


def table(records: Sequence[Record]) -> list[str]:
    """Returns the table of the records of one class of machines."""
    lines = ["| record | metric | score | seeds | parameters | minutes | processor | commit |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | --- | --- |")
    for record in sorted(records, key=lambda r: (r.task, r.data, r.metric, r.seconds)):
        cells = [link(record), f"`{record.metric.partition('/')[2]}`", score(record), str(len(record.seeds))]
        cells += [f"{record.parameters / 1e6:.2f} M", f"{record.seconds / 60:.1f}"]
        cells += [f"{record.processor}, {record.threads} thread{'s' * (record.threads > 1)}", f"`{record.commit}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(record: Record) -> list[str]:
    """Returns what a record is: its commands, its seeds, and where its values come from."""
    train = textwrap.wrap(f"python train.py {shlex.join(record.words)}", COLUMNS - 2, break_long_words=False,
                          break_on_hyphens=False, subsequent_indent="  ")  # fmt: skip
    values = [f"{shown(record.metric, v)} (seed {seed})" for seed, v in record.seeds.items() if v is not None]
    kept = [f"Values of `{record.metric}`: {', '.join(values) or 'only mean and deviation were kept'}"]
    kept += [f"Source: {record.source}", f"Log: {record.log or 'not kept'}"]
    check = [f"record={record.name}", *([f"plugin={record.plugin}"] if record.plugin else [])]
    check += ["seeds=all"] if len(record.seeds) > 1 else []
    lines = [f"### {record.name}", "", *textwrap.wrap(record.what, COLUMNS), ""]
    lines += ["```text", " \\\n".join(train), f"multihead reproduce {shlex.join(check)}", "```", ""]
    return [*lines, *textwrap.wrap(f"{'. '.join(kept)}.", COLUMNS, break_long_words=False, break_on_hyphens=False), ""]


def page(text: str, records: Sequence[Record]) -> str:
    """Returns the page with new tables below `MARK`."""
    lines = [text.partition(MARK)[0] + MARK, "", "## Goals", "", *goals(records), ""]
    for machine in MACHINES:
        there = [record for record in records if record.machine == machine]
        lines += [f"## Records on {machine}", "", *(table(there) if there else ["There are none yet."]), ""]
        for record in there:
            lines += section(record)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Writes the page."""
    records = [read_record(str(file)) for file in sorted(FOLDER.glob("*.yaml"))]
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), records), encoding="utf-8")
    print(f"wrote {PAGE.name}: {len(records)} records, {len(GOALS) * len(MACHINES)} goals")


if __name__ == "__main__":
    main()
