"""Random tables in random dialects are read as they were written, or refused: never otherwise."""

import csv
import io
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="the extra [dev] is not installed")
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from multihead.config.data import DataConfig
from multihead.data.readers import read_split
from multihead.errors import MultiheadError
from multihead.tables.opening import Unclear
from multihead.tables.sniff import look

WORDS = ["great", "film", "süß", "don't", '"good"', "a,b", "1,5", "x;y", "so; then", "well, yes", "a|b", "(c)", "Über"]
NAMES = ["text", "label", "id", "title", "created", "Kommentar", "x", "review text", "user_name"]
word = st.sampled_from(WORDS) | st.text(
    st.characters(codec="cp1252", categories=("L", "N", "P", "S")), min_size=1, max_size=6
)
cell = st.lists(word, max_size=6).map(" ".join)
odd_cell = cell | st.lists(word | st.sampled_from(["\n", "\t", '"', '""', ""]), max_size=5).map(" ".join)


@st.composite
def tables(draw):
    """Rows, their header or None, and the bytes of a file that holds them."""
    width = draw(st.integers(2, 4))
    separator = draw(st.sampled_from(",;\t|"))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE]))
    cells = odd_cell if quoting != csv.QUOTE_NONE else cell
    if quoting == csv.QUOTE_NONE:
        cells = cells.map(lambda text: text.replace(separator, "/"))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=8))
    rows = [row for row in rows if any(text.strip() for text in row)] or [["a"] * width]
    header = draw(st.none() | st.lists(st.sampled_from(NAMES), min_size=width, max_size=width, unique=True))
    out = io.StringIO()
    end = draw(st.sampled_from(["\n", "\r\n"]))
    if quoting == csv.QUOTE_NONE:
        out.write("".join(separator.join(row) + end for row in ([header] if header else []) + rows))
    else:
        csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end).writerows(
            ([header] if header else []) + rows
        )
    text = out.getvalue() + draw(st.sampled_from(["", end, end * 2]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    content = text.encode(encoding)
    assume(encoding != "cp1252" or text.isascii() or not _is_utf8(content))  # two accents that are a character of UTF-8
    assume(quoting != csv.QUOTE_NONE or not all(len(c) > 1 and c[0] == c[-1] == '"' for row in rows for c in row))
    return rows, header, content


def _is_utf8(content):
    try:
        content.decode()
        return True
    except UnicodeDecodeError:
        return False


def reading(content, form="csv"):
    """The names of the columns and the rows that a file is found to have, both by the sample and by the reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"table.{form}")
        path.write_bytes(content)
        found = look(path, str(path), {})
        if found.dialect is None:
            return found.columns, found.rows
        dialect = {"separator": found.dialect.separator, "quoting": found.dialect.quoting, "header": found.header}
        file = {"format": found.format, "encoding": found.encoding, "columns": found.columns, "train": str(path)}
        config = DataConfig(**file, **dialect)
        table = read_split(config, "train", found.columns)
        rows = [list(row) for row in zip(*table.columns.values(), strict=True)]
        assert rows == found.rows  # what is shown is what is trained on
        return found.columns, rows


def outcome(rows, header, content):
    """Whether a written table was read, read wrongly, or why it was refused."""
    try:
        columns, found = reading(content)
    except Unclear as unclear:
        return f"asked: {unclear.what.partition('(')[0].strip()}"
    except MultiheadError as error:
        return f"refused: {error.what.partition('(')[0][:60]}"
    if found == rows and (header is None or columns == header):
        return "read"
    return "wrong"


@pytest.mark.parametrize(
    "rows", [[["#a b", "c", "d"]], [["#a", "b"], ["#c", "d"]], [["#a", "b"], ["c", "d"], ["#e", "f"]]]
)
def test_rows_that_begin_with_a_hash_are_no_comments(rows):
    content = "".join("|".join(row) + "\n" for row in rows) + "\n\n"
    assert outcome(rows, None, content.encode()) != "wrong"


@pytest.mark.unhurried
@given(tables())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_table_is_read_as_it_was_written_or_refused(table):
    assert outcome(*table) != "wrong"


if __name__ == "__main__":
    counts = Counter()
    wrong = []

    @given(tables())
    @settings(max_examples=int(os.environ.get("TABLES", "2000")), deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def count(table):
        result = outcome(*table)
        counts[result] += 1
        if result == "wrong" and len(wrong) < 12:
            wrong.append(table)

    count()
    for reason, number in counts.most_common(40):
        print(f"{number:6} {reason}")
    for rows, header, content in wrong:
        print(rows, header, content, reading(content), sep="\n  ")
