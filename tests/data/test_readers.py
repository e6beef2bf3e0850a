"""Every way a file can be wrong is one line with its place; right files are read as the standard library reads them."""

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
import time
import types
import zipfile

import pytest

from multihead.config.compose import compose
from multihead.config.data import DataConfig
from multihead.data import lines
from multihead.data.corpus import load_corpus
from multihead.data.lines import Lines
from multihead.errors import ConfigError, DataError
from multihead.tables import rows as table_rows

ODD = "a\u2028b\x0bc\x0cd\x1ce\x85f\rg"


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def config(tmp_path, content, format="tsv", **options):
    file = write(tmp_path / f"rows.{format}", content)
    options = {"columns": ["source", "target"], "splits": {}} | options
    return DataConfig(format=format, train=file, **options)


def pairs(config, roles=("source", "target")):
    corpus = load_corpus(config, roles, splits=["train"])
    return list(zip(*corpus.splits["train"].columns.values(), strict=True)), corpus


def parallel(tmp_path, source, target, **options):
    files = [write(tmp_path / "train.en", source), write(tmp_path / "train.de.gz", target)]
    return DataConfig(format="parallel", columns=["en", "de"], train=files, splits={},
                      roles={"source": "en", "target": "de"}, **options)  # fmt: skip


# Lines


def test_lines_split_at_newline_only(tmp_path):
    path = tmp_path / "x"
    write(path, f"{ODD}\nsecond\r\n\n last")
    lines = list(Lines(path, "x", False))
    assert lines == [ODD, "second", "", " last"]
    assert lines == [line.removesuffix("\r") for line in path.read_bytes().decode().split("\n")]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_lines_do_not_depend_on_the_chunks_read(tmp_path, monkeypatch, chunk):
    content = "é\nab\n\n" + "ü" * 40 + "\r\n" + ODD + "\nend\n"
    write(tmp_path / "x", content)
    monkeypatch.setattr(lines, "CHUNK_BYTES", chunk)
    assert list(Lines(tmp_path / "x", "x", False)) == content.replace("\r\n", "\n").split("\n")[:-1]


def test_byte_order_mark_is_removed_and_said(tmp_path):
    rows, corpus = pairs(config(tmp_path, b"\xef\xbb\xbfa\tb\n"))
    assert rows == [("a", "b")]
    assert any("byte-order mark removed" in note for note in corpus.notes)


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read_by_its_byte_order_mark(tmp_path, monkeypatch, encoding, chunk):
    monkeypatch.setattr(lines, "CHUNK_BYTES", chunk)
    rows, _ = pairs(config(tmp_path, "\ufeffä\tb\r\nc\t\N{PILE OF POO}\u010a\n".encode(encoding)))
    assert rows == [("ä", "b"), ("c", "\N{PILE OF POO}\u010a")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a\tb\nc\td\xe9e\n",
            r"rows.tsv:2:4: byte 0xE9 is not UTF-8; fix: data.encoding=cp1252 if .* data.on_bad_line=skip",
        ),
        ("é\tb\nüé\t".encode() + b"\xff\n", r"rows.tsv:2:4: byte 0xFF is not UTF-8"),
        (b"\xff\xfea\0\t\0b", r"rows.tsv:1: damaged UTF-16 data"),
        ("a\tb\nc\té".encode()[:-1], r"rows.tsv:2:3: ends inside a character \(byte 7 of the file\)"),
        ("a\tb\nc\t\N{PILE OF POO}".encode()[:-2], r"rows.tsv:2:3: ends inside a character"),
        (b"a\tb\nc\td\0\n", r"rows.tsv:2:4: holds a NUL character"),
        (b"a\tb\nc\td\te\n", r"rows.tsv:2: has 3 columns, expected 2 \(source, target\)"),
        (b"a\tb\nc\n", r"rows.tsv:2: has 1 columns, expected 2"),
        (b"a\tb\n\td\n", r"rows.tsv:2: the source is empty, the target \(.*rows.tsv:2\) is not; fix: fix the line"),
        (b"a\tb\nc\t \n", r"rows.tsv:2: the target is empty"),
        (b"", r"rows.tsv: is empty; fix: .*rows.tsv must hold"),
        (b"\t\n", r"rows.tsv: no usable row"),
    ],
)
def test_bad_lines_of_tsv(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        pairs(config(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert caught.value.status == 2


def test_bad_lines_are_skipped_and_counted(tmp_path):
    content = b"a\tb\nc\td\xe9e\nx\ng\t\n\t\nh\ti\0\nj\tk\n"
    rows, corpus = pairs(config(tmp_path, content, on_bad_line="skip"))
    assert rows == [("a", "b"), ("j", "k")]
    assert corpus.splits["train"].origin(1).endswith("rows.tsv:7")
    text = " | ".join(corpus.notes)
    assert "skipped 3 lines" in text and "rows.tsv:2 (byte 0xE9 is not UTF-8)" in text
    assert "skipped 1 rows that lack one side" in text and "dropped 1 empty rows" in text


@pytest.mark.parametrize("empty", ["", "  ", "\t", "\u3000", "\u200b", "\xa0\r"])
@pytest.mark.parametrize(
    ("format", "lines"),
    [
        ("tsv", ["source\ttarget", "a\tb", "c\td"]),
        ("csv", ["source,target", 'a,"b"', "c,d"]),
        ("jsonl", ['{"source": "a", "target": "b"}', '{"source": "c", "target": "d"}']),
    ],
)
def test_an_empty_line_is_dropped_and_counted_as_in_parallel_files(tmp_path, format, lines, empty):
    one = config(tmp_path, "\n".join([empty, *lines, empty, ""]), format, columns=[], header=format != "jsonl")
    rows, corpus = pairs(one)
    assert rows == [("a", "b"), ("c", "d")]
    assert "dropped" in corpus.notes[0] and "rows." in corpus.notes[0] and "empty" in corpus.notes[0]
    assert corpus.skipped == {}


def test_an_empty_line_of_running_text_is_a_row(tmp_path):
    one = config(tmp_path, "a\n\nb\n", "tsv", columns=["text"], roles={"text": "text"})
    assert pairs(one, ["text"])[0] == [("a",), ("",), ("b",)]


def test_messages_name_quoting_and_header(tmp_path):
    csv_file = 'a,b\n"one, two",c\n'
    with pytest.raises(DataError, match=r"rows.csv:2: has 3 columns, .* fix: data.quoting=true if fields stand in quo"):
        pairs(config(tmp_path, csv_file, "csv", quoting=False))
    with pytest.raises(
        DataError, match=r"rows.csv:1: has 3 columns, .* data.header=true 'data.columns=\[\]' if the fi"
    ):
        pairs(config(tmp_path, "id,source,target\n1,a,b\n", "csv"))
    roles = {"source": "title", "target": "y"}
    with pytest.raises(
        ConfigError, match=r"no column 'title'; there are x, y; fix: data.header=true 'data.columns=\[\]'"
    ):
        pairs(config(tmp_path, "title,y\na,b\n", "csv", columns=["x", "y"], roles=roles))
    assert pairs(config(tmp_path, "title,y\na,b\n", "csv", columns=["x", "y"], roles=roles, header=True))[0] == [
        ("a", "b")
    ]


def test_the_header_of_the_file_wins_over_columns_that_are_preset(tmp_path):
    turned = config(tmp_path, "target\tsource\nb\ta\n", header=True)  # the columns of conf/data/files.yaml
    assert pairs(turned)[0] == [("a", "b")]
    renamed = config(tmp_path, "english\tgerman\na\tb\n", header=True)
    assert pairs(renamed)[0] == [("a", "b")]
    with pytest.raises(DataError, match="no column 'text'; there are en, de"):
        pairs(config(tmp_path, "en\tde\na\tb\n", header=True, roles={"source": "text", "target": "de"}))


def test_cells_of_json_that_are_no_texts(tmp_path):
    content = '{"a": {"en": 1.5, "de": true}, "l": [{"t": "x"}]}\n\n{"a": {"en": "e", "de": "d"}, "l": [{"t": "y"}]}\n'
    nested = config(tmp_path, content, "jsonl", columns=[], roles={"source": "a.en", "target": "a.de"})
    assert pairs(nested)[0] == [("1.5", "true"), ("e", "d")]
    nested.roles = {"source": "a.en", "target": "l.0.t"}
    assert pairs(nested)[0] == [("1.5", "x"), ("e", "y")]
    array = config(tmp_path, '[{"source": "a", "target": "b"},\n {"source": "c", "target": "d"}]', "json", columns=[])
    assert pairs(array)[0] == [("a", "b"), ("c", "d")]
    (tmp_path / "rows.json").write_text('{"source": "a"}')
    with pytest.raises(DataError, match=r"is one JSON object and not a list of objects; fix: write"):
        pairs(array)


def test_files_one_after_the_other_keep_their_lines(tmp_path):
    second = write(tmp_path / "more.tsv", "e\tf\ng\t\n")
    one = config(tmp_path, "a\tb\nc\td\n")
    one.train = [one.train, second]
    with pytest.raises(DataError, match=r"more.tsv:2: the target is empty"):
        pairs(one)
    one.on_bad_line = "skip"
    rows, corpus = pairs(one)
    assert rows == [("a", "b"), ("c", "d"), ("e", "f")]
    assert corpus.splits["train"].origin(2) == f"{second}:1"


def test_several_files_in_shares(tmp_path):
    names = []
    for name, count in (("a", 300), ("b", 50)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{name}{i}\tx{i}\n" for i in range(count)))
        names.append(str(tmp_path / f"{name}.tsv"))
    one = DataConfig(train=names, columns=["source", "target"], splits={}, train_shares=[1.5, 0.5])
    rows, corpus = pairs(one)
    of_files = [[row for row in rows if row[0].startswith(name)] for name in "ab"]
    assert [len(part) for part in of_files] == [150, 50]
    assert of_files[1] == [(f"b{i}", f"x{i}") for i in range(50)]
    drawn = [int(source[1:]) for source, _ in of_files[0]]
    assert drawn == sorted(set(drawn)) and 120 < sum(drawn) / 150 < 180 and pairs(one)[0] == rows
    assert f"{names[0]}: 150 of 300 rows are used (data.train_shares)" in corpus.notes
    assert corpus.splits["train"].origin(150) == f"{names[1]}:1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": "a.tsv"}, "data.train_shares: must be empty unless data.train lists tables"),
        (
            {"train": ["a", "b"], "format": "parallel"},
            "data.train_shares: must be empty unless data.train lists tables",
        ),
        ({"train": ["a", "b", "c"]}, "data.train_shares: must be 3 numbers above 0, one for each file"),
        ({"train": ["a", "b"], "train_shares": [1, 0]}, "data.train_shares: must be 2 numbers above 0"),
    ],
)
def test_shares_that_do_not_fit_the_files(values, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**{"train_shares": [0.7, 0.3]} | values)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "utf-32", "shift_jis"])
def test_an_encoding_that_is_stated(tmp_path, monkeypatch, encoding):
    text = "ソース\t表\nb\tc\n" if encoding == "shift_jis" else "süß\tÉtat\nb\tc\n"
    monkeypatch.setattr(lines, "CHUNK_BYTES", 3)
    rows, _ = pairs(config(tmp_path, text.encode(encoding), encoding=encoding))
    assert rows == [tuple(line.split("\t")) for line in text.splitlines()]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip", "zst"])
def test_compressed_files(tmp_path, ending):
    content = "".join(f"{i * 7919}\t{i}\n" for i in range(1000)).encode()
    file = tmp_path / f"rows.tsv.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.tsv", content)
    elif ending == "zst":
        file.write_bytes(pytest.importorskip("zstandard").compress(content))
    else:
        file.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[ending].compress(content))
    one = DataConfig(train=str(file), columns=["source", "target"], splits={})
    assert len(pairs(one)[0]) == 1000
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DataError, match=f"rows.tsv.{ending}"):
        pairs(one)


def test_a_folder_for_each_class(tmp_path):
    for name, text in (
        ("pos/1.txt", "good\nfilm"),
        ("pos/2.txt", ""),
        ("neg/1.txt", "bad"),
        ("unsup/1.txt", "none"),
        (".ipynb_checkpoints/1.txt", "a copy"),
        ("pos/.1.txt", "a copy"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    one = DataConfig(format="folders", columns=["text", "label"], train=str(tmp_path), splits={})
    rows, corpus = pairs(one, ("text", "label"))
    assert rows == [("bad", "neg"), ("good\nfilm", "pos")]
    assert corpus.splits["train"].origin(1) == f"{tmp_path}/pos/1.txt:1"
    assert any("left out 1 empty files" in note for note in corpus.notes)


def test_a_role_of_several_columns(tmp_path):
    roles = {"source": "{title}: {body}", "target": "y"}
    one = config(tmp_path, "title\tbody\ty\na{0}\tb\tc\n", header=True, columns=[], roles=roles)
    assert pairs(one)[0] == [("a{0}: b", "c")]


def test_columns_of_0_and_1_are_a_label(tmp_path):
    options = {"header": True, "columns": [], "roles": {"text": "t"}, "label_columns": ["x", "y"]}
    rows, _ = pairs(config(tmp_path, "t\tx\ty\na\t1\t0\nb\t0\t0\nc\t1.0\ttrue\n", **options), ("text", "label"))
    assert rows == [("a", '["x"]'), ("b", "[]"), ("c", '["x", "y"]')]


@pytest.mark.parametrize("quoting", [False, True])
def test_lines_above_the_table_are_left_out_and_lines_keep_their_numbers(tmp_path, quoting):
    options = {"skip_lines": 2, "quoting": quoting, "columns": [], "header": True, "separator": ","}
    text = 'a "title, of\nmany, words, here\nsource,target\na,b\nc,d\n'
    assert pairs(config(tmp_path, text, **options))[0] == [("a", "b"), ("c", "d")]
    options |= {"columns": ["source", "target"], "header": False}
    text = text.replace("source,target\n", "")
    assert pairs(config(tmp_path, text, **options))[0] == [("a", "b"), ("c", "d")]
    with pytest.raises(DataError, match=r"\.tsv:5: has 3 columns"):
        pairs(config(tmp_path, text + "e,f,g\n", **options))
    for wrong in ({"skip_lines": -1}, {"skip_lines": 1, "format": "jsonl"}):
        with pytest.raises(
            ConfigError, match=r"data\.skip_lines: must be at least 0, and 0 unless data\.format is csv"
        ):
            DataConfig(**wrong)


def test_skipped_rows_are_counted_by_split(tmp_path):
    test = write(tmp_path / "test.tsv", "a\tb\nc\nd\t\n\ne\tf\n")
    one = config(tmp_path, "a\tb\nc\td\n", on_bad_line="skip", test=test)
    corpus = load_corpus(one, ["source", "target"], splits=["train", "test"])
    assert corpus.skipped == {"test": (2, 4)}  # the empty line is no row


def test_every_changed_byte_is_an_error_or_skipped_never_a_traceback(tmp_path):
    import random

    rng = random.Random(0)
    good = "".join(f"süß {i}\tÄpfel {i}\n" for i in range(8)).encode()
    for _ in range(200):
        place, byte = rng.randrange(len(good)), rng.randrange(256)
        content = good[:place] + bytes([byte]) + good[place + 1 :]
        rows, _ = pairs(config(tmp_path, content, on_bad_line="skip"))
        assert len(rows) >= 6
        try:
            pairs(config(tmp_path, content))
        except DataError as error:
            assert "rows.tsv:" in str(error)


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_truncated_gzip_names_the_line(tmp_path, cut):
    path = tmp_path / "rows.tsv.gz"
    path.write_bytes(gzip.compress("".join(f"{i * 7919}\t{i}\n" for i in range(1000)).encode())[:-cut])
    with pytest.raises(DataError, match=r"rows.tsv.gz:\d+: damaged gzip data"):
        pairs(DataConfig(train=str(path), columns=["source", "target"], splits={}))


def test_a_file_that_is_not_gzip(tmp_path):
    (tmp_path / "rows.tsv.gz").write_bytes(b"a\tb\n")
    with pytest.raises(DataError, match=r"rows.tsv.gz:1: damaged gzip data"):
        pairs(DataConfig(train=str(tmp_path / "rows.tsv.gz"), columns=["source", "target"], splits={}))


# Missing


def test_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.tsv.gz").touch()
    with pytest.raises(DataError, match="no such file") as caught:
        pairs(DataConfig(root="set", train="train.tsv", columns=["source", "target"]))
    text = str(caught.value)
    assert str(tmp_path / "set" / "train.tsv") in text and f"MULTIHEAD_DATA is '{tmp_path}'" in text
    assert "train.tsv.gz is there" in text and "data.url" in text
    monkeypatch.delenv("MULTIHEAD_DATA")
    with pytest.raises(DataError, match="MULTIHEAD_DATA is not set, so data/ was used"):
        pairs(DataConfig(root="set", train="train.tsv", columns=["source", "target"]))
    with pytest.raises(DataError, match="is a folder, not a file"):
        pairs(DataConfig(train=str(tmp_path), columns=["source", "target"]))


def test_no_file_named():
    with pytest.raises(ConfigError, match=r"data.train: names no file; fix: data.train=FILE"):
        pairs(DataConfig(columns=["source", "target"]))


# Parallel files


def test_parallel_files_and_roles_swap(tmp_path):
    one = parallel(tmp_path, "a\nb\n", "A\nB\n")
    assert pairs(one)[0] == [("a", "A"), ("b", "B")]
    one.roles = {"source": "de", "target": "en"}
    rows, corpus = pairs(one)
    assert rows == [("A", "a"), ("B", "b")]
    assert corpus.splits["train"].origin(1, "source").endswith("train.de.gz:2")


def test_only_the_files_of_the_roles_are_read(tmp_path):
    one = parallel(tmp_path, "a\nb\n", "A\nB\n")
    one.columns, one.train = ["en", "fr", "de"], [one.train[0], str(tmp_path / "not there"), one.train[1]]
    assert len(pairs(one)[0]) == 2


def test_parallel_bad_line_drops_the_pair(tmp_path):
    one = parallel(tmp_path, b"a\nb\xff\nc\nd\n", b"A\nB\nC\0\nD\n", on_bad_line="skip")
    rows, corpus = pairs(one)
    assert rows == [("a", "A"), ("d", "D")]
    assert list(corpus.splits["train"].lines) == [1, 4]
    assert len(corpus.notes) == 2


@pytest.mark.parametrize("lost", [0, 57, 400, 1998, 1999])
@pytest.mark.parametrize("side", [0, 1])
def test_parallel_of_different_length_names_both_counts_and_the_first_suspect(tmp_path, lost, side):
    import random

    rng = random.Random(1)
    source = ["x" * rng.randint(5, 80) for _ in range(2000)]
    target = ["y" * max(1, round(len(line) * 1.2 + rng.gauss(0, 3))) for line in source]
    sides = [source, target]
    del sides[side][lost]
    one = parallel(tmp_path, *("\n".join(lines) + "\n" for lines in sides))
    with pytest.raises(DataError, match=r"train.* has 1,999 lines, .*train.* 2,000; .* near line") as caught:
        pairs(one)
    name, _, line = caught.value.where.rpartition(":")
    assert name.endswith(("train.en", "train.de.gz")[side])
    assert abs(int(line) - (lost + 1)) <= 3


def test_parallel_needs_a_column_per_file(tmp_path):
    one = parallel(tmp_path, "a\n", "A\n")
    one.columns = ["en", "de", "fr"]
    with pytest.raises(ConfigError, match="one column for each file: it has 3 names for 2 files"):
        pairs(one)


# CSV


def test_csv_equals_the_standard_library(tmp_path):
    import random

    rng = random.Random(2)
    texts = [["".join(rng.choices('ab", \n', k=rng.randint(1, 9))) + "x" for _ in range(3)] for _ in range(400)]
    path = tmp_path / "rows.csv"
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n", quoting=quoting).writerows([["s", "t", "u"], *texts])
        one = DataConfig(format="csv", header=True, train=str(path), roles={"source": "s", "target": "u"}, splits={})
        rows, corpus = pairs(one)
        assert rows == [(row[0], row[2]) for row in texts]
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            starts = []
            last = 0
            for _ in reader:
                starts.append(last + 1)
                last = reader.line_num
        assert list(corpus.splits["train"].lines) == starts[1:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'a,b\n"c","d\n',
            r"rows.csv:2: the quotation mark that opens here has no closing quote up to the end of the file",
        ),
        ('a,b\n"c\nd","e\nf\n', r"rows.csv:3: the quotation mark that opens here has no closing quote"),
        (
            'a,b\n"c","d\n"e","f"\n',
            r'rows.csv:2: the quotation mark that opens here has text after its closing quote in line 3; .* ""',
        ),
        ('a,"b" c\n', r"rows.csv:1: the quotation mark that opens here has text after its closing quote in line 1"),
        ('a,b\n"c,d",e,f\n', r"rows.csv:2: has 3 columns, expected 2 \(source, target\)"),
        ("a,b\nc\n", r"rows.csv:2: has 1 columns, expected 2"),
    ],
)
def test_bad_csv(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        pairs(config(tmp_path, content, "csv"))


def test_csv_without_quoting_keeps_quotes(tmp_path):
    assert pairs(config(tmp_path, '"a,b"\n', "csv", quoting=False))[0] == [('"a', 'b"')]
    assert pairs(config(tmp_path, 'a 5" b;c\n', "csv", separator=";"))[0] == [('a 5" b', "c")]


def test_unclosed_quote_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(table_rows, "LONGEST_CELL", 1000)
    with pytest.raises(DataError, match=r"rows.csv:2: .* no closing quote in 1,000 characters"):
        pairs(config(tmp_path, 'a,b\n"c,d\n' + "x,y\n" * 1000, "csv"))


def test_missing_column_lists_those_there(tmp_path):
    one = config(tmp_path, "english\tgerman\na\tb\n", header=True, columns=[],
                 roles={"source": "english", "target": "germany"})  # fmt: skip
    with pytest.raises(DataError, match=r"no column 'germany'; there are english, german; fix: .*'german'"):
        pairs(one)
    one.columns, one.header = ["english", "german"], False
    with pytest.raises(ConfigError, match=r"data.roles.target: no column 'germany'; there are english, german"):
        pairs(one)
    one.columns = []
    with pytest.raises(ConfigError, match="must name the columns of a file without a header"):
        pairs(one)


# JSON lines


def test_jsonl(tmp_path):
    rows = [{"source": ODD, "target": "x\ny", "other": 3}, {"target": "ü", "source": "1"}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert pairs(config(tmp_path, content, "jsonl", columns=[]))[0] == [(ODD, "x\ny"), ("1", "ü")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"rows.jsonl:2: not JSON \("),
        ("[" * 100_000, r"rows.jsonl:2: not JSON \("),
        ("[1]", r"rows.jsonl:2: must be a JSON object, got list"),
        ('{"source": "a"}', r"rows.jsonl:2: no key 'target'; there are source"),
        ('{"source": "a", "target": null}', r"rows.jsonl:2: the target is empty, the source"),
        (r'{"source": "a", "target": "\ud800"}', r"'target' holds a NUL character or half a surrogate pair"),
        (r'{"source": "a", "target": "\u0000"}', r"'target' holds a NUL character"),
    ],
)
def test_bad_jsonl(tmp_path, line, message):
    good = '{"source": "a", "target": "b"}\n'
    one = config(tmp_path, good + line + "\n" + good, "jsonl", columns=[])
    with pytest.raises(DataError, match=message):
        pairs(one)
    one.on_bad_line = "skip"
    assert len(pairs(one)[0]) == 2


# Text, and long lines


def test_running_text_keeps_every_line(tmp_path):
    rows, _ = pairs(config(tmp_path, " a \n\nb", "text", columns=[]), roles=["text"])
    assert rows == [(" a ",), ("",), ("b",)]


def test_a_line_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE_BYTES", 1000)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 64)
    content = "a\tb\n" + "x" * 5000 + "\nc\td\n" + "y" * 1001
    with pytest.raises(DataError, match=r"rows.tsv:2: 5,000 bytes long, above the limit of 1,000"):
        pairs(config(tmp_path, content))
    rows, corpus = pairs(config(tmp_path, content, on_bad_line="skip"))
    assert rows == [("a", "b"), ("c", "d")]
    assert list(corpus.splits["train"].lines) == [1, 3]


def test_a_line_without_end_takes_bounded_memory(tmp_path):
    path = tmp_path / "long.tsv"
    with open(path, "wb") as file:
        file.truncate(400 << 20)  # NUL, taking no room on disk
    code = (
        "import resource, sys\n"
        "from multihead.data.readers import Lines\n"
        "from pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert list(Lines(Path(sys.argv[1]), 'x', True)) == [None]\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 100_000  # kilobytes


def test_long_lines_take_linear_time(tmp_path):
    def seconds(size):
        write(tmp_path / "x", "a b" * (size // 3))
        start = time.process_time()
        list(Lines(tmp_path / "x", "x", False))
        return time.process_time() - start

    small, large = (min(seconds(size) for _ in range(3)) for size in (1 << 20, 10 << 20))
    assert large < 10 * 4 * max(small, 0.002)


# Parquet and hub: extras


def test_extras_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"data.format=parquet: needs the package pyarrow.*'multihead\[parquet\]'"):
        pairs(config(tmp_path, "x", "parquet"))
    with pytest.raises(ConfigError, match=r"data.format=hub: needs the package datasets.*'multihead\[hub\]'"):
        pairs(DataConfig(format="hub", hub="x", splits={}), roles=["text"])


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
    from pyarrow import parquet

    table = {"source": ["a", ODD], "target": ["b", "ü"], "label": [0, 1], "none": ["x", None]}
    parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    one = DataConfig(format="parquet", train=str(tmp_path / "rows.parquet"), splits={})
    assert pairs(one)[0] == [("a", "b"), (ODD, "ü")]
    assert pairs(one, ["source", "label"])[0] == [("a", "0"), (ODD, "1")]
    one.roles = {"source": "source", "target": "none"}
    with pytest.raises(DataError, match=r"rows.parquet:2: the target is empty"):
        pairs(one)
    one.roles["target"] = "nothing"
    with pytest.raises(DataError, match=r"no column 'nothing'; there are source, target, label, none"):
        pairs(one)
    (tmp_path / "rows.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="not a Parquet file"):
        pairs(one)


class StandInDataset:
    """What a data set of the hub's library answers, as far as the reader asks."""

    def __init__(self, columns, names):
        self.columns, self.column_names = columns, list(columns)
        self.features = {name: types.SimpleNamespace(names=names.get(name)) for name in columns}

    def __getitem__(self, name):
        return self.columns[name]


def test_hub_reads_what_the_library_loads(monkeypatch):
    asked = []

    def load_dataset(name, subset, split):
        asked.append((name, subset, split))
        if name == "gone":
            raise FileNotFoundError("Dataset 'gone'\ndoesn't exist")
        return StandInDataset({"text": ["a", "b"], "label": [1, 0]}, {"label": ["neg", "pos"]})

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    one = DataConfig(format="hub", hub="some/set:part", test="validation", splits={})
    corpus = load_corpus(one, ["text", "label"], splits=["train", "test"])
    assert corpus.splits["test"].columns == {"text": ["a", "b"], "label": ["pos", "neg"]}
    assert asked == [("some/set", "part", "train"), ("some/set", "part", "validation")]
    assert corpus.splits["train"].origin(1) == "some/set:part[train]:2"
    one.hub = "gone"
    with pytest.raises(DataError, match=r"gone\[train\]: Dataset 'gone' doesn't exist"):
        pairs(one, ["text"])
    one.hub = ""
    with pytest.raises(ConfigError, match=r"data.hub: must name a data set"):
        pairs(one, ["text"])


# The rest of a line


def test_the_last_column_takes_the_rest(tmp_path):
    made = config(tmp_path, "DESC:manner How did serfdom end ?\nHUM:ind  Who ?\nNUM:x ?\n", separator=" ",
                  columns=["label", "text"], last_takes_rest=True)  # fmt: skip
    rows, _ = pairs(made, ("label", "text"))
    assert rows == [("DESC:manner", "How did serfdom end ?"), ("HUM:ind", " Who ?"), ("NUM:x", "?")]


def test_with_a_header_its_names_are_the_columns_and_a_short_line_is_still_bad(tmp_path):
    options = {"separator": " ", "columns": [], "header": True, "last_takes_rest": True}
    rows, _ = pairs(config(tmp_path, "source target\na b c d\n", **options))
    assert rows == [("a", "b c d")]
    with pytest.raises(DataError, match=r"rows.tsv:3: has 1 columns, expected 2 \(source, target\)"):
        pairs(config(tmp_path, "source target\na b c\nalone\n", **options))


def test_the_rest_of_a_line_is_refused_where_fields_are_quoted(tmp_path):
    made = config(tmp_path, "a,b,c\n", format="csv", last_takes_rest=True)
    with pytest.raises(ConfigError, match=r"data.last_takes_rest: must be false if fields are quoted, got True"):
        pairs(made)
    made.quoting = False
    assert pairs(made)[0] == [("a", "b,c")]


def test_a_carriage_return_within_a_large_quoted_file_is_a_character(tmp_path):
    """Only in a file of more than 1 MiB does the standard library read the sample."""
    text = "a word, " * 40
    lines = [f'"{text}{number}","label {number % 2}"' for number in range(6000)]
    lines[7] = "one\rtwo,label 1"
    (tmp_path / "big.csv").write_text("text,label\n" + "\n".join(lines) + "\n", newline="")
    config = compose(["task=classification", f"data={tmp_path / 'big.csv'}"]).config.data
    assert (config.format, config.columns) == ("csv", ["text", "label"])
    config.splits = {}
    assert load_corpus(config, ["text"], splits=["train"]).splits["train"].columns["text"][7] == "one\rtwo"


def test_a_mistyped_split_is_mended_by_its_own_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text("text,label\n" + "a,x\nb,y\n" * 9)
    (tmp_path / "valdir").mkdir()
    words = ["task=classification", "data=train.csv"]
    with pytest.raises(DataError, match=r"vall\.csv: no such file in .*; fix: data\.val=val\.csv$"):
        compose([*words, "data.val=vall.csv"])
    with pytest.raises(DataError, match=r"valdir: is a folder, not a file; fix: data\.val=FILE$"):
        compose([*words, "data.val=valdir"])
