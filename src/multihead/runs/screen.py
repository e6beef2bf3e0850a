"""Tables that fit where they are shown: no column and no digit is lost without a word, and nothing is cut in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 10_000
"""Columns where standard output is no terminal: tables have their full width."""
NARROWEST = 24
"""Least columns of a text that is folded."""


def report_console() -> Console:
    """Standard output, for the tables of a report."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


@dataclass
class Fitted:
    """Rows as a table of the console's width.

    If the table is too wide, texts of the columns in ``fold`` go on in the next line; then the columns in ``optional``
    are left out, and a line names them; then each row becomes a block with a line for each column.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[str] = ()
    """Columns of text; numbers stand at the right. The first column is always text."""
    fold: Collection[str] = ()
    """Columns whose texts may be folded."""
    optional: Sequence[str] = ()
    """Columns that may be left out, in this order."""
    elsewhere: str = ""
    """Where all columns are, for the line that names those left out."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for count in range(len(self.optional) + 1):
            dropped = self.optional[:count]
            if self._least_width(console, options, dropped) <= options.max_width:
                yield self._table(dropped)
                if dropped:
                    names = [name for name in self.head if name in dropped]
                    more = f"; {self.elsewhere}" if self.elsewhere else ""
                    yield Text(f"not shown, too narrow: {', '.join(names)}{more}", style="dim")
                return
        yield from self._blocks()

    def _least_width(self, console: Console, options: ConsoleOptions, dropped: Collection[str]) -> int:
        wide = options.update(max_width=PIPE_WIDTH)
        saved = 0
        for place, name in enumerate(self.head):
            if name in self.fold and name not in dropped:
                longest = max(Text(text).cell_len for text in (name, *(row[place] for row in self.rows)))
                saved += max(0, longest - NARROWEST)
        return Measurement.get(console, wide, self._table(dropped)).maximum - saved

    def _table(self, dropped: Collection[str]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        kept = [place for place, name in enumerate(self.head) if name not in dropped]
        for place in kept:
            name = self.head[place]
            justify = "left" if place == 0 or name in self.left else "right"
            table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=name not in self.fold)
        for row in self.rows:
            table.add_row(*(Text(row[place]) for place in kept))
        return table

    def _blocks(self) -> Iterator[RenderableType]:
        for row in self.rows:
            yield Text(row[0], style="bold", overflow="fold")
            block = Table.grid(padding=(0, 2, 0, 0))
            block.add_column(no_wrap=True)
            block.add_column(overflow="fold")
            for name, cell in zip(self.head[1:], row[1:], strict=True):
                block.add_row(Text(f"  {name}"), Text(cell))
            yield block
