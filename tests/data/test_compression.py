"""Compressed files that are cut or damaged at any place: they are read as they were written, or refused in one line."""

import bz2
import gzip
import io
import lzma
import random
import zipfile

import pytest

from multihead.data.lines import Lines
from multihead.errors import DataError
from multihead.tables.compression import SKIPPABLE
from multihead.tables.opening import open_bytes
from multihead.tables.sniff import look

ROWS = [f"{i * 7919 % 1000} words in row {i},label{i % 3}" for i in range(300)]
KINDS = ["gz", "bz2", "xz", "zst", "zip"]


def compressed(kind, content):
    if kind == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.csv", content)
        return file.getvalue()
    if kind == "zst":
        zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
        return zstandard.ZstdCompressor(write_checksum=True).compress(content)
    return {"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(content)


def whole(kind, streams):
    """The bytes of a file of several compressed streams, each with a share of the rows; and where the streams end."""
    size = len(ROWS) // streams
    parts = ["".join(row + "\n" for row in ROWS[size * i : size * (i + 1)]).encode() for i in range(streams)]
    found, ends = b"", []
    for part in parts:
        found += compressed(kind, part)
        ends.append(len(found))
    return found, ends


def outcome(path, content):
    """The lines that are read, or the message of the refusal."""
    path.write_bytes(content)
    try:
        lines = list(Lines(path, "rows", skip=False))
    except DataError as error:
        assert "\n" not in str(error) and "rows" in error.where and error.status == 2
        with pytest.raises(DataError, match=r"^error\[data\] rows"):
            look(path, "rows", {})
        return str(error)
    return lines


@pytest.mark.parametrize(
    ("kind", "streams"), [(kind, 1) for kind in KINDS] + [("gz", 3), ("bz2", 3), ("xz", 3), ("zst", 3)]
)
def test_a_file_is_read_whole_or_refused(tmp_path, kind, streams):
    content, ends = whole(kind, streams)
    path = tmp_path / f"rows.csv.{kind}"
    assert outcome(path, content) == ROWS
    drawn = random.Random(0)
    cuts = {*drawn.sample(range(1, len(content)), 60), *range(1, 12), *range(len(content) - 12, len(content))}
    for cut in sorted(cuts - {*ends}):  # a file that is cut between two streams is a whole file of fewer streams
        assert isinstance(outcome(path, content[:cut]), str), cut
    edges = [place for end in (0, *ends) for place in range(end - 24, end + 24) if 0 <= place < len(content)]
    for place in sorted({*drawn.sample(range(len(content)), 60), *edges}):
        flipped = bytearray(content)
        flipped[place] ^= 1 << drawn.randrange(8)
        found = outcome(path, bytes(flipped))
        assert isinstance(found, str) or found == ROWS, place


def test_a_whole_zip_can_be_damaged_behind_its_directory(tmp_path):
    archive = compressed("zip", b"a,b\n")
    path = tmp_path / "rows.zip"
    damaged = archive.replace(b"rows.csv", b"rows.tsv", 1)  # the two names of the file differ
    assert "is a damaged zip file" in outcome(path, damaged)
    flags = bytearray(archive)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        flags[flags.index(signature) + offset] |= 1
    assert "is encrypted" in outcome(path, bytes(flags))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_bytes_behind_the_end_are_refused(tmp_path, kind):
    content, _ = whole(kind, 1)
    assert "damaged" in outcome(tmp_path / f"rows.{kind}", content + b"more")


def test_padding_and_frames_without_content_are_no_damage(tmp_path):
    one, _ = whole("xz", 1)
    assert outcome(tmp_path / "rows.xz", one + bytes(8) + one) == ROWS + ROWS
    one, _ = whole("zst", 1)
    frame = SKIPPABLE[3] + (5).to_bytes(4, "little") + b"hello"
    assert outcome(tmp_path / "rows.zst", frame + one + frame + one) == ROWS + ROWS


def test_a_bomb_of_zstd_is_read_in_pieces(tmp_path):
    path = tmp_path / "zeros.zst"
    path.write_bytes(compressed("zst", bytes(64 << 20)))
    size = 0
    with open_bytes(path) as file:
        while chunk := file.read(1 << 20):
            assert len(chunk) <= 1 << 20
            size += len(chunk)
    assert size == 64 << 20
