"""What one file was found to be: format, encoding, dialect, columns and a sample of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from multihead.tables.dialect import Dialect

KINDS = {
    "jsonl": "JSON lines",
    "json": "a JSON array",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "text": "text",
    "tmx": "a translation memory (TMX)",
    "xliff": "XLIFF",
    "wmt": "XML of WMT",
    "sgm": "SGML of WMT",
    "conllu": "CoNLL-U",
}
"""Format to its name in sentences."""


@dataclass
class Look:
    """Describes one file."""

    name: str
    """The file as the user named it."""
    format: str
    """One of the values of ``data.format``, such as csv."""
    encoding: str = "utf-8"
    dialect: Dialect | None = None
    """The dialect of csv and tsv. The other formats have none."""
    header: bool = False
    """Whether the first row names the columns."""
    skip_lines: int = 0
    """Number of lines above the table."""
    columns: list[str] = field(default_factory=list)
    """Names of the columns, from the header or the keys; otherwise column1, column2 and so on."""
    rows: list[list[str]] = field(default_factory=list)
    """Rows of the sample, without the header."""
    whole: bool = True
    """Whether the sample is the whole file."""
    count: int = 0
    """Number of rows; an estimate if the sample is not the whole file."""
    blocks: int = 1
    """Number of blocks of lines that empty lines part, in a table without quotes."""
    first_token_is_label: str = ""
    """Pattern of the label, if lines begin with one: ``__label__good I like it``."""

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column in the sample."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def described(self) -> str:
        """Returns what the file is, in a few words."""
        words = [self.dialect.name if self.dialect else KINDS.get(self.format, self.format)]
        words += [self.encoding] if self.encoding != "utf-8" else []
        if self.dialect:
            words.append("with a header" if self.header else "no header")
        if self.skip_lines:
            words.append(f"without its first {'line' if self.skip_lines == 1 else f'{self.skip_lines} lines'}")
        return ", ".join([*words, f"{'' if self.whole else 'about '}{self.count:,} rows"])
