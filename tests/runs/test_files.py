"""The small files of a run: only a newline ends a line, and what replaces a file is on the disk before it does."""

import json
import os

import pytest

from multihead.runs.files import read_metrics, replace_synced, whole_lines
from multihead.runs.metrics_file import CSVMetrics

NO_ENDS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj"
"""Characters at which ``str.splitlines`` would cut; a carriage return too would be lost in text mode."""


def test_only_a_newline_ends_a_line(tmp_path):
    rows = [{"output": NO_ENDS}, {"output": "the next one"}]
    path = tmp_path / "samples.jsonl"
    assert whole_lines(path) == []
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    assert [json.loads(line) for line in whole_lines(path)] == rows
    path.write_bytes(f"{NO_ENDS}\n{NO_ENDS}\ntorn".encode())
    assert whole_lines(path) == [NO_ENDS] * 2


def test_metrics_may_have_any_name(tmp_path):
    logger, name = CSVMetrics(tmp_path), f"val/{NO_ENDS}".replace("\r", "")
    logger.log_metrics({name: 1.5, 'val/"a", b': 2.5}, 10)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("20,0.1")  # torn by a kill
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert (row["step"], row[name], row['val/"a", b']) == ("10", "1.5", "2.5")
    assert read_metrics(tmp_path / "nowhere.csv") == []


@pytest.fixture
def calls(monkeypatch):
    """The calls that make a file safe from a crash, in their order, with the names of what they are called for."""
    told = []
    sync, replace = os.fsync, os.replace

    def synced(handle):
        told.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        sync(handle)

    def replaced(source, target):
        told.append(("replace", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return told


def test_a_file_is_on_the_disk_before_it_replaces_another(tmp_path, calls):
    path = tmp_path / "latest.json"
    for content in (b"one", b"two"):
        replace_synced(path, content)
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["latest.json"]
    once = [("fsync", "latest.json.tmp"), ("replace", "latest.json"), ("fsync", tmp_path.name)]
    assert calls == once * 2


def test_metrics_are_written_again_in_the_same_way(tmp_path, calls):
    CSVMetrics(tmp_path)
    assert calls == [("fsync", "metrics.csv.tmp"), ("replace", "metrics.csv"), ("fsync", tmp_path.name)]
