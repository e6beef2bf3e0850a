"""The public data sets by ``data=PATH`` alone: the same rows as by their YAML, also in dialects that others write."""

import csv
import gzip
import json
import os
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from multihead.config.compose import compose
from multihead.config.roles import data_of
from multihead.data.corpus import load_corpus
from multihead.data.stream import TextFiles
from multihead.tables.markup import one_line

ROOT = Path(os.environ.get("MULTIHEAD_DATA") or "data").absolute()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "multi30k").is_dir(), reason="MULTIHEAD_DATA has no data sets"),
]
SETS = [
    ("classification", "sst2", "sst2/train_sentences.tsv.gz", []),
    ("classification", "trec", "trec/train.txt.gz", ["data.label_pattern=^[A-Z]+"]),
    ("classification", "ag_news", "ag_news/train_20k.csv.gz", []),
    ("classification", "imdb", "imdb", []),
    ("classification", "sms_spam", "sms_spam/sms.tsv.gz", []),
    ("translation", "tatoeba", "tatoeba/eng-deu.tsv.gz", []),
    ("translation", "multi30k", "multi30k", ["data.roles.source=en", "data.roles.target=de"]),
    ("translation", "enja", "small_parallel_enja", ["data.roles.source=en", "data.roles.target=ja"]),
    ("summarization", "aeslc", "aeslc/train.jsonl.gz", ["data.on_bad_line=skip"]),
    ("summarization", "ag_news", "ag_news/train_20k.csv.gz", []),
]


@pytest.fixture(autouse=True)
def data_sets(monkeypatch):
    monkeypatch.setenv("MULTIHEAD_DATA", str(ROOT))


def columns(words):
    """The columns of train by role."""
    config = compose(words).config
    data = data_of(config.data, config.task)
    data.splits = {}
    return load_corpus(data, sorted(data.roles), splits=["train"]).splits["train"].columns


@pytest.mark.parametrize(("task", "name", "path", "words"), SETS)
def test_the_same_rows_by_path(task, name, path, words):
    assert columns([f"task={task}", f"data={ROOT / path}", *words]) == columns([f"task={task}", f"data={name}"])


@pytest.mark.parametrize(
    ("name", "path"), [("tinyshakespeare", "tinyshakespeare/input.txt.gz"), ("wikitext2", "wikitext-2")]
)
def test_the_same_running_text_by_path(name, path):
    lines = []
    for words in ([f"data={name}"], [f"data={ROOT / path}", "data.document=row" if name == "wikitext2" else "seed=1"]):
        config = compose(["task=lm", *words]).config.data
        config.splits = {}
        lines.append(list(TextFiles(config).lines("train")))
    assert lines[0] == lines[1]


# Other dialects


def semicolons(folder, head, rows):
    with open(folder / "rows.csv", "w", encoding="cp1252", errors="replace", newline="") as file:
        csv.writer(file, delimiter=";").writerows([head, *rows])
    return folder / "rows.csv"


def tabs(folder, head, rows):
    with open(folder / "rows.tsv", "w", encoding="utf-16", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([head, *rows])
    return folder / "rows.tsv"


def nested(folder, head, rows):
    records = [{"meta": {"n": n}, "row": dict(zip(head, row, strict=True))} for n, row in enumerate(rows)]
    with gzip.open(folder / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return folder / "rows.jsonl.gz"


def parquet(folder, head, rows):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
    from pyarrow import parquet

    table = {name: [row[place] for row in rows] for place, name in enumerate(head)}
    parquet.write_table(pyarrow.table(table), folder / "rows.parquet")
    return folder / "rows.parquet"


def arrow(folder, head, rows):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
    (folder / "set" / "train").mkdir(parents=True)
    table = pyarrow.table({name: [row[place] for row in rows] for place, name in enumerate(head)})
    with pyarrow.ipc.new_stream(str(folder / "set" / "train" / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table)
    (folder / "set" / "train" / "state.json").write_text("{}")
    (folder / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return folder / "set"


def memory(folder, head, rows):
    """A translation memory in TMX."""
    with open(folder / "rows.tmx", "w", encoding="utf-8") as file:
        file.write(f'<?xml version="1.0"?>\n<tmx version="1.4"><header srclang="{head[0]}"/><body>\n')
        for row in rows:
            sides = zip(head, map(escape, row), strict=True)
            file.write("<tu>" + "".join(f'<tuv xml:lang="{name}"><seg>{text}</seg></tuv>' for name, text in sides))
            file.write("</tu>\n")
        file.write("</body></tmx>\n")
    return folder / "rows.tmx"


def segments(folder, head, rows):
    """The two sides of a test set as WMT writes them in SGML."""
    for place, (kind, name) in enumerate(zip(("src", "ref"), head, strict=True)):
        with open(folder / f"rows-{kind}.{name}.sgm", "w", encoding="utf-8") as file:
            file.write(f'<{kind}set setid="rows" srclang="any">\n')
            for first in range(0, len(rows), 100):
                file.write(f'<doc docid="{first}">\n')
                texts = [escape(row[place]) for row in rows[first : first + 100]]
                file.writelines(f'<seg id="{number}">{text}</seg>\n' for number, text in enumerate(texts, start=1))
                file.write("</doc>\n")
            file.write(f"</{kind}set>\n")
    return f"[{folder}/rows-ref.{head[1]}.sgm,{folder}/rows-src.{head[0]}.sgm]"


@pytest.mark.parametrize("write", [memory, segments])
@pytest.mark.parametrize("name", ["multi30k", "tatoeba", "enja"])
def test_the_same_pairs_in_a_translation_file(tmp_path, write, name):
    found = columns(["task=translation", f"data={name}"])
    rows = list(zip(found["source"], found["target"], strict=True))
    rows = [tuple(one_line(text) for text in row) for row in rows[:: max(1, len(rows) // 1500)]]
    again = columns(["task=translation", f"data={write(tmp_path, ('en', 'de'), rows)}"])
    assert list(zip(again["source"], again["target"], strict=True)) == rows


@pytest.mark.parametrize("write", [semicolons, tabs, nested, parquet, arrow])
@pytest.mark.parametrize(
    ("task", "name"), [("classification", "imdb"), ("classification", "trec"), ("translation", "multi30k")]
)
def test_the_same_rows_in_another_dialect(tmp_path, write, task, name):
    found = columns([f"task={task}", f"data={name}"])
    roles = sorted(found)
    rows = list(zip(*(found[role] for role in roles), strict=True))
    rows = rows[:: len(rows) // 1500]
    if write is semicolons:
        rows = [tuple(text.encode("cp1252", "replace").decode("cp1252") for text in row) for row in rows]
    again = columns([f"task={task}", f"data={write(tmp_path, roles, rows)}"])
    assert list(zip(*(again[role] for role in roles), strict=True)) == rows


def test_a_folder_for_each_class(tmp_path):
    found = columns(["task=classification", "data=imdb"])
    rows = list(zip(found["label"], found["text"], strict=True))[::25]
    for number, (label, text) in enumerate(rows):
        (tmp_path / "imdb" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "imdb" / label / f"{number:05}.txt").write_text(text, encoding="utf-8")
    again = columns(["task=classification", f"data={tmp_path / 'imdb'}"])
    assert list(zip(again["label"], again["text"], strict=True)) == rows  # sorted by class already
