"""``diff``: what differs between two runs, and nothing else."""

import json

import pytest

from multihead.commands import diff
from multihead.config.compose import compose, to_yaml
from multihead.errors import CheckpointError, ConfigError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, of model=tiny and model=small."""
    monkeypatch.chdir(tmp_path)
    for name, model, bleu in (("a", "tiny", 31.25), ("b", "small", 34.5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(compose(["task=translation", f"model={model}"]).tree))
        (folder / "environment.json").write_text(json.dumps({"versions": {"torch": "2.13.0"}, "threads": 2}))
        (folder / "result.json").write_text(json.dumps({"test/bleu": bleu, "steps": 10, "note": "[bold]"}))
    return tmp_path


def test_what_differs(runs, capsys):
    assert diff.run(["a=a", "b=b"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model.d_model", "128", "256", "+128"] in rows
    assert ["test/bleu", "31.25", "34.5", "+3.25"] in rows
    assert ["environment:", "the", "same"] in rows
    assert not [row for row in rows if row and row[0] in ("steps", "note", "seed", "threads")]


def test_same_and_missing(runs, capsys):
    (runs / "b" / "result.json").unlink()
    assert diff.run(["a=a", "b=b"]) == 0
    assert "result: no result.json in b" in capsys.readouterr().out
    assert diff.run(["a=a", "b=a"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "configuration: the same",
        "environment: the same",
        "result: the same",
    ]


def test_a_key_of_one_run_only(runs):
    (runs / "b" / "result.json").write_text(json.dumps({"test/bleu": 31.25, "steps": 10, "test/chrf": 50.0}))
    assert diff.diff(runs / "a", runs / "b", "result") == [("note", "[bold]", "-"), ("test/chrf", "-", 50.0)]


def test_refused(runs):
    with pytest.raises(ConfigError, match="b: is missing"):
        diff.run(["a=a"])
    with pytest.raises(ConfigError, match="a: c is not the directory of a run"):
        diff.run(["a=c", "b=b"])
    with pytest.raises(ConfigError, match="seed: no such key; diff takes a, b"):
        diff.run(["a=a", "b=b", "seed=1"])
    (runs / "a" / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a/result\.json: is damaged \(not readable as JSON"):
        diff.run(["a=a", "b=b"])
    (runs / "a" / "result.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"a/result\.json: is damaged \(must be a mapping of keys to values"):
        diff.run(["a=a", "b=b"])
