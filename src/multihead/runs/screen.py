"""Tables that fit the terminal. A table says which columns it leaves out, and has its full width in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 10_000
"""Width of tables if standard output is not a terminal, so that they are never cut."""
NARROWEST = 24
"""Least width of a column whose texts are folded."""


class PipedConsole(Console):
    """Writes to a pipe: tables have their full width, and no line ends with the blanks that fill the last column."""

    def __init__(self, file: IO[str]):
        super().__init__(file=file, width=PIPE_WIDTH, highlight=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints objects as `rich.console.Console` does."""
        with self.capture() as written:
            super().print(*objects, **options)
        self.file.write(without_trailing_blanks(written.get()))


def without_trailing_blanks(text: str) -> str:
    """Returns a text without blanks at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.split("\n"))


def report_console() -> Console:
    """Returns the console that shows the tables of a report on standard output."""
    return Console(file=sys.stdout, highlight=False) if sys.stdout.isatty() else PipedConsole(sys.stdout)


@dataclass
class Fitted:
    """Shows rows as a table that fits the console's width.

    If the table is too wide, the texts of the columns in ``fold`` are folded into several lines. If that is not
    enough, the columns in ``optional`` are left out, and a line names them. At last, each row becomes a block with a
    line for each column.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[str] = ()
    """Columns of text, which are aligned to the left. The first column is always one of them."""
    fold: Collection[str] = ()
    """Columns whose texts may be folded."""
    optional: Sequence[str] = ()
    """Columns that may be left out. The first of them goes first."""
    elsewhere: str = ""
    """Says where all columns are. The line that names the columns left out ends with it."""

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
