"""tests/files: small files that each hold one thing that people's files have, and the expected reading beside them.

``expected.yaml`` holds the task, the words, and either the rows that have to be read or the pattern of the refusal. If
a refusal offers commands, each has to compose when it is pasted; with the words of ``choose`` the rows have to be read.
If it offers a command that rewrites the file, the rows of ``fixed`` have to be read from what the command writes.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from multihead.config.compose import compose
from multihead.config.roles import data_of
from multihead.data.corpus import load_corpus
from multihead.data.labels import class_names, read_labels
from multihead.data.stream import TextFiles
from multihead.errors import MultiheadError

FOLDER = Path(__file__).parents[1] / "files"
EXAMPLES = sorted(each.name for each in FOLDER.iterdir() if each.is_dir())


def reading(words):
    """The rows of train by the roles of the task, and the number of rows of the other splits that have files."""
    config = compose(words).config
    data = data_of(config.data, config.task)
    data.splits = {}
    if data.format == "text":
        return list(TextFiles(data).lines("train")), {}
    splits = ["train", *(split for split in ("val", "test") if getattr(data, split))]
    multi_label = getattr(config.task, "multi_label", False)
    roles = ["source", "target"] if "source" in data.roles else ["text", "text_b", "label"]
    roles = [role for role in roles if role in data.roles or (role == "label" and data.label_columns)]
    corpus = load_corpus(data, roles, splits=splits, may_be_empty=("label",) if multi_label else ())
    train = corpus.splits["train"]
    if "label" in roles:
        labels = read_labels(data, train, multi_label)
        class_names(labels, train, multi_label=multi_label)
        if not multi_label:
            train.columns["label"] = [label for (label,) in labels]
    rows = [list(row) for row in zip(*(train.columns[role] for role in roles), strict=True)]
    return rows, {split: len(corpus.splits[split]) for split in splits if split != "train"}


def reading_after(command, file, words):
    """The rows of the file that a command writes, which runs in a copy of the folder."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(here, folder, dirs_exist_ok=True)
        subprocess.run(command, shell=True, check=True, cwd=folder)
        try:
            os.chdir(folder)
            rows, _ = reading([words[0], f"data=./{file}", *words[2:]])
        finally:
            os.chdir(here)
    return rows


def check(example):
    """Whether an example is ``read`` or ``refused`` as its expectation says; otherwise an assertion fails."""
    expected = yaml.safe_load((FOLDER / example / "expected.yaml").read_text(encoding="utf-8"))
    if "needs" in expected:
        pytest.importorskip(expected["needs"], reason=f"{expected['needs']} is not installed")
    words = [f"task={expected['task']}", f"data={expected['data']}", *expected.get("words", [])]
    if "refused" not in expected:
        rows, others = reading(words)
        assert rows == expected["rows"]
        assert others == expected.get("others", {})
        return "read"
    with pytest.raises(MultiheadError) as refused:
        reading(words)
    message = str(refused.value)
    assert re.search(expected["refused"], message), message
    assert refused.value.status == 2 and "\n" not in message
    for command in re.findall(r"(?:multihead train|python \S*train\.py) (.*?)(?=  or  |$)", message):
        try:
            compose(shlex.split(command))
        except MultiheadError as next_question:
            assert "fix: multihead train" in str(next_question), (command, str(next_question))
    if "fixed" in expected:
        command = re.search(r"fix: (.* > (FIXED\S*?))(,|$)", message)
        assert command is not None, message
        assert reading_after(command[1], command[2], words) == expected["fixed"]
    if "choose" in expected:
        chosen = [word for choice in expected["choose"] for word in shlex.split(choice)]
        rows, others = reading([*words, *chosen])
        assert rows == expected["rows"]
        assert others == expected.get("others", {})
    return "refused"


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example, monkeypatch):
    monkeypatch.chdir(FOLDER / example)
    check(example)


def table():
    """One line for each example, and how many were read, refused, and read wrongly."""
    lines, counts = [], {"read": 0, "refused": 0, "wrong": 0}
    for example in EXAMPLES:
        os.chdir(FOLDER / example)
        try:
            outcome = check(example)
        except (AssertionError, MultiheadError, pytest.fail.Exception):
            outcome = "wrong"
        counts[outcome] += 1
        what = yaml.safe_load((FOLDER / example / "expected.yaml").read_text(encoding="utf-8"))["what"]
        lines.append(f"{example:32} {outcome:8} {what}")
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return "\n".join([*lines, f"{len(EXAMPLES)} examples: {summary}"])


if __name__ == "__main__":
    print(table())
