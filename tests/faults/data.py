"""Section C: data that is damaged, absurd or hostile."""

from __future__ import annotations

import functools
import gzip
import io
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np

from faults.harness import PRLIMIT, Bench, Section, raised
from multihead.config.data import DataConfig, TokenizerConfig
from multihead.data.corpus import load_corpus
from multihead.data.encode import cached_tokenizer, encode_corpus
from multihead.data.labels import class_names, encode_labels, read_labels
from multihead.data.lines import Lines
from multihead.data.stream import encode_stream
from multihead.data.tokenizer import Tokenizer, train_tokenizer
from multihead.errors import CheckpointError, DataError, MultiheadError

ROWS = Section("C")
PAIRS = "".join(f"the dog number {n} sleeps\tder Hund Nummer {n} schläft\n" for n in range(60))
TEXTS = [line.split("\t")[1] for line in PAIRS.splitlines()]


def lines_of(bench: Bench, content: bytes, skip: bool = False, name: str = "train.de") -> list[str | None]:
    lines = Lines(bench.file(name, content), name, skip)
    found = list(lines)
    lines_of.summary = lines.summary()
    return found


def read(bench: Bench, content: str | bytes, roles=("source", "target"), name="mine.tsv", **settings):
    settings = {"format": "tsv", "columns": list(roles), "quoting": False, "splits": {"val": 5, "test": 5}} | settings
    return load_corpus(DataConfig(train=str(bench.file(name, content)), **settings), roles)


@ROWS.row(
    "21",
    "data file cut short, inside a character too",
    "file:line, the byte, status 2; a last line without its newline is a line",
    'patch("multihead.data.lines.Lines._not_utf8", lambda self, *rest: "")',
)
def cut_short(bench):
    whole = "eins\nzwei €😀\n".encode()
    assert lines_of(bench, whole[:-1]) == ["eins", "zwei €😀"]
    for cut in (2, 3, 4):
        told = raised(
            DataError, lambda cut=cut: lines_of(bench, whole[:-cut]), "train.de:2:7", "ends inside a character"
        )
        assert f"byte {len(whole) - 4}" in told
    assert lines_of(bench, whole[:-3], skip=True) == ["eins", None]
    return told


@ROWS.row(
    "21b",
    "gzip file cut short, at every byte, or damaged",
    "refused with its name; never fewer lines in silence",
    'patch("gzip._GzipReader._read_eof", lambda self: None)',
)
def gzip_cut_short(bench):
    whole = gzip.compress(PAIRS.encode(), mtime=0)
    for size in range(1, len(whole)):
        raised(DataError, lambda size=size: lines_of(bench, whole[:size], name="train.de.gz"), "train.de.gz")
    flipped = bytearray(whole)
    flipped[-8] ^= 1  # the checksum
    return raised(DataError, lambda: lines_of(bench, bytes(flipped), name="train.de.gz"), "damaged gzip data")


def encoded(bench: Bench, notes: list[str]):
    tokenizer = train_tokenizer(TokenizerConfig(kind="byte"), TEXTS)
    return encode_corpus({"text": TEXTS}, {"text": tokenizer}, fingerprint="x", cache=bench.folder, note=notes.append)


def damages(content):
    """A file that is emptied, cut in the middle, cut at the end, or has a flipped bit."""
    middle = len(content) // 2
    return b"", content[:middle], content[:-1], content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@ROWS.row(
    "22",
    "encoded rows in the cache cut short, flipped or without their list",
    "said, made again, equal to a fresh build",
    'patch("multihead.data.encode.sha256", lambda path: "")',
)
def damaged_cache(bench):
    fresh = encoded(bench, [])
    (folder,) = (bench.folder / "encoded").iterdir()
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for damaged in damages(content):
            file.write_bytes(damaged)
            notes = []
            again = encoded(bench, notes)
            assert notes and "is damaged; the rows are encoded again" in notes[0], (file.name, len(damaged))
            assert all(np.array_equal(fresh.ids("text", i), again.ids("text", i)) for i in range(len(fresh)))
            assert file.read_bytes() == content
    return notes[0]


def streamed(bench: Bench):
    tokenizer = train_tokenizer(TokenizerConfig(kind="byte"), TEXTS)
    options = {"document": "row", "mark": "x", "cache": bench.folder, "count_documents": True}
    return encode_stream(lambda: TEXTS, tokenizer, **options)


@ROWS.row(
    "22b",
    "running text in the cache cut short, flipped or without its list",
    "made again, equal to a fresh build",
    'patch("multihead.data.stream._damaged", lambda folder, rest: not (folder / "sums.json").is_file())',
)
def damaged_stream(bench):
    stream = streamed(bench)
    fresh = stream.read(0, len(stream))
    (folder,) = (bench.folder / "streams").iterdir()
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for damaged in damages(content):
            file.write_bytes(damaged)
            again = streamed(bench)
            assert np.array_equal(fresh, again.read(0, len(again))), (file.name, len(damaged))
            assert np.array_equal(stream.document_bytes, again.document_bytes)
            assert file.read_bytes() == content, (file.name, len(damaged))


@ROWS.row(
    "22c",
    "a tokenizer in the cache cut short or changed",
    "said, trained again, equal",
    'patch("multihead.data.tokenizer._flaw", lambda content: "")\n'
    'patch("multihead.data.encode._intact", lambda path: True)',
)
def damaged_tokenizer(bench):
    config = TokenizerConfig(vocab_size=300)

    def trained(notes):
        return cached_tokenizer(config, TEXTS, "none", fingerprint="x", cache=bench.folder, note=notes.append)

    fresh = trained([])
    (file,) = (bench.folder / "tokenizers").glob("*.json")
    content = file.read_bytes()
    swapped = content.replace(b'"a",\n"b",', b'"b",\n"a",')  # still a tokenizer
    assert swapped != content
    for damaged in (b"", content[: len(content) // 2], swapped):
        file.write_bytes(damaged)
        notes = []
        assert trained(notes).fingerprint == fresh.fingerprint
        assert notes and "is damaged; the tokenizer is trained again" in notes[0]
        assert file.read_bytes() == content
    return notes[0]


@ROWS.row(
    "23",
    "bytes that are not UTF-8: latin-1, and 200 random mutations",
    "file:line:column and the byte, or skipped and counted; never a traceback",
    'patch("multihead.data.lines.Lines._not_utf8", lambda self, error, *rest: (_ for _ in ()).throw(error))',
)
def not_utf8(bench):
    told = raised(DataError, lambda: lines_of(bench, b"good\ncaf\xe9 x\n"), "train.de:2:4", "byte 0xE9 is not UTF-8")
    rng = random.Random(0)
    for _ in range(200):
        content = bytearray(PAIRS.encode()[:600])
        content[rng.randrange(len(content))] = rng.randrange(256)
        number = len(bytes(content).split(b"\n"))
        found = lines_of(bench, bytes(content), skip=True)
        assert len(found) in (number, number - 1)
        assert (None in found) == bool(lines_of.summary) or bytes(content).startswith(b"\xef\xbb\xbf")
        if None in found:
            raised(
                DataError, lambda content=content: lines_of(bench, bytes(content)), f"train.de:{found.index(None) + 1}:"
            )
    return told


@ROWS.row(
    "24",
    "byte-order mark, CRLF, U+2028, U+0085, lone CR, form feeds, NUL",
    "lines split at the newline alone; the mark goes and is said; NUL is refused with its place",
    'patch("multihead.data.lines.Lines._raw_lines", '
    'lambda self: (line.encode() for line in open(self.path, newline="").read().splitlines()))',
)
def separators(bench):
    odd = "a\u2028b\u0085c\x0bd\x0ce\x1cf\rg"
    assert lines_of(bench, f"\ufeff{odd}\r\nnext\n".encode()) == [odd, "next"]
    assert lines_of.summary == ["train.de: byte-order mark removed"]
    rng = random.Random(1)
    for _ in range(100):
        content = (
            "".join(rng.choice("ab\n\r\u2028\u0085\x0b\x0c\x1c\x1d\u2029 ") for _ in range(60)).rstrip("\n") + "x\n"
        )
        assert len(lines_of(bench, content.encode())) == content.count("\n")
    return raised(DataError, lambda: lines_of(bench, b"a\nb\0c\n"), "train.de:2:2", "NUL")


@ROWS.row(
    "25",
    "empty lines on one side, on both, and an empty file",
    "one side: both places, status 2, or skipped and counted; both: dropped and counted; empty file: status 2",
    'patch("multihead.data.corpus._Source._complete", lambda self, rows: rows)',
)
def empty_lines(bench):
    told = raised(DataError, lambda: read(bench, PAIRS + "a\t \n"), "mine.tsv:61", "the target is empty", "is not")
    assert len(read(bench, PAIRS + "a\t \n", on_bad_line="skip").splits["train"]) == 50
    corpus = read(bench, PAIRS + "\t\n\t\n")
    assert len(corpus.splits["train"]) == 50 and any("dropped 2 empty rows" in note for note in corpus.notes)
    raised(DataError, lambda: read(bench, ""), "is empty")
    raised(DataError, lambda: read(bench, "\t\n\t\n"), "no usable row")
    return told


@ROWS.row(
    "26",
    "source and target of different length",
    "both counts and the place where a line seems to be missing, before anything is tokenized",
    'import multihead.data.readers as r\npatch("multihead.data.readers._different_lengths", None)\n'
    'patch("multihead.data.readers.zip", lambda *sides, strict: zip(*sides))\n'
    'patch("multihead.data.readers.read_parallel", lambda *rest: None)',
)
def different_lengths(bench):
    rng = random.Random(0)
    source = ["word " * rng.randrange(1, 30) for _ in range(400)]
    for missing in (399, 200, 0):
        target = [line.replace("word", "Wort") for line in source]
        del target[missing]
        names = [str(bench.file(name, "\n".join(lines) + "\n")) for name, lines in (("s", source), ("t", target))]
        config = DataConfig(format="parallel", columns=["source", "target"], train=names, splits={"val": 5, "test": 5})
        told = raised(DataError, lambda config=config: load_corpus(config, ["source", "target"]), "400", "399")
        near = int(told.rpartition("near line ")[2].split(";")[0].replace(",", ""))
        assert abs(near - missing - 1) <= 2, told
    return told


WHOLE = 'patch("multihead.data.lines.Lines._raw_lines", lambda self: iter(self._open().read().split(b"\\n")))'
READ = """
import sys
from pathlib import Path
from multihead.data.lines import Lines
print(list(Lines(Path(sys.argv[1]), "big", sys.argv[2] == "skip")))
"""


def bounded(bench: Bench, path, how: str):
    """The lines of a file, read by a process that may have 700 MB of addresses."""
    command = ["prlimit", f"--as={700 << 20}", sys.executable, "-c", READ, str(path), how]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **bench.environment()}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)


@ROWS.row(
    "27",
    "a line of 1 GB without a newline",
    "refused with its length, or skipped, in bounded memory",
    WHOLE,
    needs=PRLIMIT,
    defect_slow=True,
)
def one_long_line(bench):
    path = bench.folder / "big"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    done = bounded(bench, path, "error")
    assert "DataError" in done.stderr and "1,073,741,824 bytes long" in done.stderr, done.stderr[-500:]
    assert bounded(bench, path, "skip").stdout == "[None]\n"
    return done.stderr.splitlines()[-1]


@ROWS.row(
    "27b",
    "a gzip file of 1 MB that unpacks to 1 GB",
    "refused with its length, in bounded memory",
    WHOLE,
    needs=PRLIMIT,
    slow=True,
)
def bomb(bench):
    path = bench.folder / "big.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(16 << 20))
    done = bounded(bench, path, "error")
    assert "DataError" in done.stderr and "1,073,741,824 bytes long" in done.stderr, done.stderr[-500:]


@ROWS.row(
    "28",
    "letters that no training text held: emoji, other scripts, combining marks",
    "bytes of them, and back to the same text; word and char show <unk> and count it",
    'patch("multihead.data.tokenizer.Tokenizer.encode_batch", '
    "lambda self, texts: [[i + 6 for i in text.encode('ascii', 'ignore')] for text in texts])",
)
def unknown_letters(bench):
    strange = ["😀 日本語 ‏עברית", "a\u0301\u0302\u0303 \U0001f468\u200d\U0001f469", "\ud83d half", "<eos><pad>"]
    for kind in ("bpe", "unigram", "byte"):
        tokenizer = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=300), TEXTS)
        ids = tokenizer.encode_batch(strange)
        want = [text.encode("utf-8", "replace").decode() for text in strange]
        assert tokenizer.decode_batch(ids) == want
        assert tokenizer.unk_rate(ids) == 0 and min(map(min, ids)) >= 6
    for kind in ("word", "char"):
        tokenizer = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=300), TEXTS)
        ids = tokenizer.encode_batch(["日本語"])
        assert tokenizer.unk_rate(ids) == 1 and "<unk>" in tokenizer.decode_batch(ids)[0]


def labelled(bench: Bench, train: str, test: str, **settings):
    config = DataConfig(
        format="tsv", columns=["text", "label"], train=str(bench.file("train.tsv", train)),
        val=str(bench.file("val.tsv", train)), test=str(bench.file("test.tsv", test)), quoting=False, **settings,
    )  # fmt: skip
    corpus = load_corpus(config, ["text", "label"])
    labels = {split: read_labels(config, rows) for split, rows in corpus.splits.items()}
    classes = class_names(labels["train"], corpus.splits["train"])
    return {split: encode_labels(labels[split], classes, rows, split) for split, rows in corpus.splits.items()}


OPINIONS = "good film\tpos\nbad film\tneg\nfine film\tpos\npoor film\tneg\n"


@ROWS.row(
    "29",
    "a label that train does not have, an empty one, blanks around one",
    "file:line, the classes and the nearest, status 2; blanks go",
    "import multihead.data.labels as l\n"
    'patch("multihead.data.labels.encode_labels", None)\n'
    'patch("faults.data.encode_labels", lambda labels, classes, rows, split="", multi_label=False: '
    "[[classes.index(x) if x in classes else 0 for x in row] for row in labels])",
)
def unknown_label(bench):
    told = raised(
        DataError, lambda: labelled(bench, OPINIONS, "x\tpos\nx\tpostive\n"), "test.tsv:2", "'postive'", "pos"
    )
    assert "nearest: pos" in told and "neg, pos" in told
    raised(DataError, lambda: labelled(bench, OPINIONS, "x\tpos\nx\t\n"), "test.tsv:2", "the label is empty")
    assert labelled(bench, OPINIONS, "x\t pos \ny\tneg\n")["test"] == [[1], [0]]
    return told


@ROWS.row(
    "30",
    "csv: a quote never closed, a column that is missing, columns too many",
    "file:line of the opening quote; the columns there are; status 2",
    'patch("multihead.data.readers.quoted_rows", lambda lines, separator: '
    "((n, (line.replace(chr(34), '').split(separator) + ['', ''])[:2]) for n, line in enumerate(lines, 1)))",
)
def broken_csv(bench):
    csv = functools.partial(read, bench, name="mine.csv", format="csv", quoting=True)
    good = "".join(f"a{n},b{n}\n" for n in range(60))
    opened = "the quotation mark that opens here"
    told = raised(DataError, lambda: csv(good + 'x,"never closed\n' + good), "mine.csv:61", opened)
    raised(DataError, lambda: csv(good + 'x,"closed" and more\n'), "mine.csv:61", "text after its closing quote")
    raised(DataError, lambda: csv(good + "x,y,z\n"), "mine.csv:61", "3 columns, expected 2")
    raised(DataError, lambda: csv(good + "x\n"), "mine.csv:61", "1 column")
    raised(MultiheadError, lambda: csv("source,targt\n" + good, header=True, columns=[]), "target", "targt")
    return told


@ROWS.row(
    "31",
    "one class only; no example short enough",
    "what is left of how many, status 2",
    'patch("multihead.data.labels._one_class", lambda *rest: KeyError("one"))\n'
    'patch("multihead.data.labels.len", lambda x: max(2, len(x)))',
)
def nothing_to_learn(bench):
    told = raised(DataError, lambda: labelled(bench, "a\tpos\nb\tpos\n", "a\tpos\n"), "one class only, 'pos'")
    bench.file("mine.tsv", PAIRS)
    words = ["train", "task=translation", "debug=smoke", "data=files", f"data.train={bench.folder / 'mine.tsv'}"]
    done = bench.main(*words, "tokenizer.kind=byte", "model.max_len=4", f"run_dir={bench.folder / 'run'}")
    done.expect(2, "no example is left of 58", "model.max_len")
    assert not (bench.folder / "run" / "config.yaml").exists()
    return told


@ROWS.row(
    "32",
    "a line of the data changed, or their order, since the checkpoint",
    "refused with both fingerprints, status 3; accepted by its name alone",
    'patch("multihead.runs.resume.changes", lambda saved, wanted, force=(): ([], []))',
)
def changed_data(bench):
    path, run = bench.file("mine.tsv", PAIRS), bench.folder / "run"
    words = ["task=translation", "debug=smoke", "data=files", f"data.train={path}", "tokenizer.vocab_size=300"]
    first = bench.main("train", *words, f"run_dir={run}", "trainer.max_steps=5")
    assert first.status == 0, first.err
    (run / "result.json").unlink()
    lines = PAIRS.splitlines(keepends=True)
    changed = [PAIRS.replace("number 7 ", "number 9 "), "".join(reversed(lines)), "".join(lines[:-1])]
    for content in changed:
        path.write_text(content)
        told = bench.main("train", f"resume={run}").expect(3, "data_train: sha256", "resume_force=[")
    return told


@ROWS.row(
    "33",
    "a tokenizer of the same size changed since the checkpoint",
    "refused with both fingerprints, status 3",
    'patch("multihead.runs.resume.changes", lambda saved, wanted, force=(): ([], []))',
)
def changed_tokenizer(bench):
    run = bench.unfinished("lm")
    file = run / "vocabulary" / "tokenizer.json"
    tokenizer = Tokenizer.load(file)
    tokenizer.vocab[-1], tokenizer.vocab[-2] = tokenizer.vocab[-2], tokenizer.vocab[-1]
    tokenizer.save(file)
    return bench.main("train", f"resume={run}").expect(3, "tokenizer_text: sha256")


@ROWS.row(
    "34",
    "archives with ../, absolute paths, links, devices, duplicate names, given as data",
    "never unpacked: refused as a table, nothing written elsewhere",
    "import shutil, multihead.data.lines as r\nfind = r.find\n"
    "def unpack(config, name):\n"
    "    path = find(config, name)\n"
    '    shutil.unpack_archive(path, path.parent / "in", "zip" if name.endswith("zip") else "tar", '
    '**({} if name.endswith("zip") else {"filter": "fully_trusted"}))\n'
    "    return path\n"
    'patch("multihead.data.lines.find", unpack)',
)
def archives(bench):
    home = bench.folder / "home"
    content = bench.file("payload", "x\ty\n")
    members = [("../canary", {}), (str(bench.folder / "canary"), {}), ("same", {}), ("same", {})]
    members += [("link", {"type": tarfile.SYMTYPE, "linkname": "../canary"}), ("pipe", {"type": tarfile.FIFOTYPE})]
    members += [("hard", {"type": tarfile.LNKTYPE, "linkname": "../../canary"}), ("dev", {"type": tarfile.CHRTYPE})]
    home.mkdir()
    for number, (name, fields) in enumerate(members):
        for kind in ("tar", "tar.gz"):
            path = home / f"{number}.{kind}"
            with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
                info = archive.gettarinfo(content, name)
                info.name = name
                for field, value in fields.items():
                    setattr(info, field, value)
                archive.addfile(info, io.BytesIO(content.read_bytes()) if not fields else None)
    with zipfile.ZipFile(home / "z.zip", "w") as archive:
        archive.writestr("../canary", "x")
    before = sorted(home.iterdir())
    for path in before:
        config = DataConfig(format="tsv", columns=["source", "target"], train=str(path), quoting=False)
        told = raised(DataError, lambda config=config: load_corpus(config, ["source", "target"]), path.name)
    assert sorted(home.iterdir()) == before and not (bench.folder / "canary").exists()
    return told


@ROWS.row(
    "34b",
    "a download whose content is another, or that stops half-way",
    "refused by its sha256; nothing is left in place",
    'patch("multihead.data.download._fetch", lambda url, part: (part.write_bytes(b"x"), "ab" * 32)[1])',
)
def wrong_download(bench):
    source, target = bench.file("there.tsv", PAIRS), bench.folder / "root" / "mine.tsv"
    config = {"format": "tsv", "columns": ["source", "target"], "root": "", "train": str(target), "quoting": False}
    config |= {"url": {str(target): source.as_uri()}, "sha256": {str(target): "ab" * 32}}
    told = raised(DataError, lambda: load_corpus(DataConfig(**config), ["source", "target"]), "sha256")
    assert not target.exists() and not list(target.parent.glob("*"))
    return told


@ROWS.row(
    "28b",
    "names of special entries, and our own escapes, in the text",
    "text like any other: no id of a special entry comes of it",
    'patch("multihead.data.tokenizer.Tokenizer.encode_batch", '
    "lambda self, texts: [[2] if '<eos>' in text else [9] for text in texts])",
)
def special_names(bench):
    for kind in ("bpe", "unigram", "word", "char", "byte"):
        tokenizer = train_tokenizer(
            TokenizerConfig(kind=kind, vocab_size=300, min_frequency=1), [*TEXTS, "<eos> <pad>"]
        )
        for ids in tokenizer.encode_batch(["<eos> <bos> <pad> <sep> <mask>", "a <eos>"]):
            assert not {0, 1, 2, 4, 5} & set(ids), (kind, ids)


@ROWS.row(
    "C1",
    "a tokenizer file whose entries, merges or scores do not fit",
    "refused as a checkpoint, status 3",
    'patch("multihead.data.tokenizer._flaw", lambda content: "")',
)
def forged_tokenizer(bench):
    import json

    good = train_tokenizer(TokenizerConfig(kind="unigram", vocab_size=300), TEXTS)
    path = bench.folder / "tokenizer.json"
    good.save(path)
    content = json.loads(path.read_text())
    wrong = [
        {"vocab": content["vocab"][:-1]}, {"vocab": "abc"}, {"scores": [float("nan")] * len(content["vocab"])},
        {"scores": ["x"] * len(content["vocab"])}, {"kind": "__import__"}, {"lowercase": "yes"}, {"version": 99},
        {"vocab": content["vocab"] + ["\0x"]}, {"merges": [["a"]]},
        {"kind": "bpe", "scores": [], "merges": [["q1", "z"]]},
    ]  # fmt: skip
    for change in wrong:
        path.write_text(json.dumps(content | change))
        told = raised(CheckpointError, lambda: Tokenizer.load(path), "is not a tokenizer of Multihead")
    path.write_text("[" * 100_000)
    raised(CheckpointError, lambda: Tokenizer.load(path), "is not a tokenizer of Multihead")
    shutil.rmtree(bench.folder)
    return told
