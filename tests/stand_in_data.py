"""Writes small data sets in the formats, and under the file names, of ``conf/data``. Tests use them."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from multihead.config.compose import compose
from multihead.config.data import DataConfig, GrammarConfig
from multihead.data import grammar

TASKS = {"multi30k": "translation", "multi30k_en_fr": "translation", "tatoeba": "translation", "sst2": "classification",
         "sms_spam": "classification", "ag_news": "classification", "wikitext2": "lm", "aeslc": "summarization",
         "tinyshakespeare": "lm"}  # fmt: skip
"""The data sets that the documents and experiments name, each with a task that it serves."""


def write_all(root: Path) -> Path:
    """Writes every data set below ``root``, which is then MULTIHEAD_DATA."""
    for name, task in TASKS.items():
        write(name, task, root)
    return root


def write(name: str, task: str, root: Path, rows: int = 240) -> None:
    """Writes the files that ``data=NAME`` reads below ``root``, each with ``rows`` rows of the built-in grammar.

    Args:
        name: Name of a file of conf/data.
        task: A task that the data set serves. The configuration is that of ``task=TASK data=NAME``.
        root: The folder that MULTIHEAD_DATA names.
        rows: Number of rows of a training file. A validation or test file has a fifth of it, and at least 24.
    """
    data = compose([f"task={task}", f"data={name}"]).config.data
    rows += 2 * sum(int(size) for size in data.splits.values() if size >= 1)  # these are held out of train
    for split, value in (("train", data.train), ("val", data.val), ("test", data.test)):
        files = value if isinstance(value, list) else [value] if value else []
        count = rows if split == "train" else max(rows // 5, 24)
        table = list(itertools.islice(_rows(data, split, count), count))
        for position, file in enumerate(files):
            target = root / data.root / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if data.format == "parallel":
                text = "".join(row[position] + "\n" for row in table)
            else:
                text = _table(data, table)
            packed = gzip.compress(text.encode(), mtime=0) if file.endswith(".gz") else text.encode()
            target.write_bytes(packed)


def _rows(data: DataConfig, split: str, count: int) -> Iterator[list[str]]:
    """Yields rows with a value for each column, in the order of the file."""
    sizes = GrammarConfig(train_size=count, val_size=count, test_size=count)
    columns = data.columns or list(dict.fromkeys(data.roles.values())) or ["text"]
    labels = list(data.labels) or ["ham", "spam"]
    texts = grammar.columns(sizes, split, ["english", "german", "opinion", "sentiment"])
    for i, english in enumerate(texts["english"]):
        label = labels[i % len(labels)]
        if data.label_pattern:
            label += ":other"
        values = {"german": texts["german"][i], "label": label, "opinion": f"{texts['opinion'][i]} {label.lower()}"}
        yield [_value(column, data, values, english) for column in columns]


def _value(column: str, data: DataConfig, values: dict[str, str], english: str) -> str:
    roles = {role for role, name in data.roles.items() if name == column}
    if any(role.endswith("label") for role in roles):
        return values["label"]
    if roles & {"target"} and "text" not in roles:
        return values["german"]
    if "label" in data.roles and "text" in roles:
        return values["opinion"]
    return english if roles else "1"


def _table(data: DataConfig, table: list[list[str]]) -> str:
    if data.format == "jsonl":
        names = list(dict.fromkeys(data.roles.values()))
        return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in table)
    if data.format == "text":
        return "".join(row[0] + "\n" for row in table)
    out = io.StringIO()
    separator = data.separator or ("," if data.format == "csv" else "\t")
    quoting = csv.QUOTE_ALL if data.format == "csv" and data.quoting is not False else csv.QUOTE_NONE
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator="\n", quotechar='"', escapechar=None)
    if data.last_takes_rest:
        return "".join(separator.join(row) + "\n" for row in table)
    if data.header:
        writer.writerow(data.columns)
    writer.writerows(table)
    return out.getvalue()


def write_scores(folder: Path) -> None:
    """Writes tables with a number to predict, of a text and of two texts, and one of words with their sounds."""
    texts = [f"the {i % 7} films were {'not ' * (i % 2)}good, said {i}" for i in range(60)]
    reviews = [f'"{text}",{i % 23 / 4}' for i, text in enumerate(texts)]
    (folder / "reviews.csv").write_text("\n".join(["text,score", *reviews]) + "\n")
    pairs = [f'"{a}","{b}",{i % 23 / 4}' for i, (a, b) in enumerate(zip(texts, reversed(texts), strict=True))]
    (folder / "sts.csv").write_text("\n".join(["sentence1,sentence2,score", *pairs]) + "\n")
    sounds = [f"{word}\t{' '.join(word.upper())}" for word in sorted({word for text in texts for word in text.split()})]
    (folder / "pronunciations.tsv").write_text("\n".join(["word\tpronunciation", *sounds]) + "\n")


def write_tickets(path: Path, rows: int = 400) -> None:
    """Writes a table of support tickets as people export them: a CSV with quoted texts and columns nobody needs."""
    texts = {"billing": "I was charged twice, please refund day {}", "login": "My password fails on day {}"}
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "created", "body", "category"])
        for number, (category, text) in zip(range(rows), itertools.cycle(texts.items())):
            table.writerow([number, f"2026-11-{number % 28 + 1:02}", f'"{text.format(number)}", she said.', category])
