"""What is cut out of whole blocks is what is read one line at a time, and the rest is read one line at a time."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multihead.config.data import DataConfig
from multihead.data import lines, readers
from multihead.data.regular import VISIBLE, Columns
from multihead.errors import DataError
from multihead.text.inputs import is_blank

CELLS = st.sampled_from(
    ["", "a", "b c", "é", "日", " ", "\u200b", '"a"', '""', '"a""b"', '""""', '"a,\nb"', '"x\r\ny"']
)
ODD = st.sampled_from(['a"b', '"', '"a"b', "\r", "\0", "a,b", "", "\n", "\udcff"])


@st.composite
def files(draw) -> bytes:
    """Files of two columns, most of them regular."""
    rows = draw(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8))
    text = [f"{left},{right}" for left, right in rows]
    if draw(st.integers(0, 2)) == 0:
        place = draw(st.integers(0, len(text) - 1))
        text[place] += draw(ODD)
    end = draw(st.sampled_from(["\n", "\r\n"]))
    content = "x,y" + end + end.join(text) + draw(st.sampled_from(["", end, end + end, "\r"]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content.encode("utf-8", "surrogateescape")


def _outcome(path: Path, skip: bool, quoting: bool) -> Any:
    """All that is known of a file after reading, or its error."""
    config = DataConfig(
        format="csv", train=str(path), quoting=quoting, header=True, on_bad_line="skip" if skip else "error"
    )
    try:
        found = readers.read_separated(config, str(path), ["y", "x"])
    except DataError as error:
        return str(error)
    for column, blank in found.blank.items():
        assert blank == [row for row, text in enumerate(found.columns[column]) if is_blank(text)]
    return found.columns, found.lines.tolist(), found.notes, found.skipped


@pytest.mark.unhurried
@settings(max_examples=200, deadline=None)
@given(files(), st.booleans(), st.booleans(), st.sampled_from([1, 7, 1 << 18]))
@example(b'x,y\n"""a""","b"\n"",""""\n', False, True, 1 << 18)
@example(b'x,y\n"a,\nb",c\nd,e\n\n', False, True, 1)
def test_blocks_give_what_lines_give(tmp_path_factory, content, skip, quoting, chunk):
    path = tmp_path_factory.mktemp("regular") / "rows.csv"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK_BYTES", chunk)
        ours = _outcome(path, skip, quoting)
        patch.setattr(readers, "read_regular", lambda *_: Columns([[], []]))
        assert ours == _outcome(path, skip, quoting)


def test_a_regular_file_is_read_by_blocks_and_the_lines_behind_an_odd_one_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "CHUNK_BYTES", 64)
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n" + '"a\nb",c\n' * 50)
    by_lines = []
    original = readers._rows_behind
    monkeypatch.setattr(readers, "_rows_behind", lambda *given: by_lines.append(given[-1]) or original(*given))
    columns, numbers, *_ = _outcome(path, False, True)
    assert columns == {"y": ["c"] * 50, "x": ["a\nb"] * 50} and not by_lines
    assert numbers == list(range(2, 102, 2))
    path.write_text("x,y\n" + '"a\nb",c\n' * 50 + "d,e,f\n")
    assert f"{path}:102: has 3 columns" in _outcome(path, False, True)
    assert 60 < by_lines[0] < 102


def test_a_text_that_begins_with_one_of_these_bytes_is_not_blank():
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000 and VISIBLE[chr(code).encode()[0]]:
            assert not is_blank(chr(code)), hex(code)


def test_a_column_of_few_texts_holds_each_once(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n" + "a b c,some label\n" * 1000)
    columns, *_ = _outcome(path, False, True)
    assert len({id(text) for text in columns["y"]}) == 1
