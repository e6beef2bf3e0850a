"""Where examples come from, and that a folder is put in place whole or not at all."""

import json
from pathlib import Path

import pytest
from tiny import new_task

from multihead.errors import ConfigError, MachineError
from multihead.exporting import places


def samples(folder, *rows):
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_test_samples_first_then_validation_then_drawn_ids(tmp_path):
    task = new_task("task=translation")
    samples(
        tmp_path,
        {"split": "val", "source": "the man", "reference": "ein Mann"},
        {"split": "test", "source": "red house", "reference": "Rad"},
        {"split": "test", "source": "red house", "reference": "Rad"},
        {"split": "test", "source": "", "reference": "Rad"},
    )
    found = places.examples(task, tmp_path, 5)
    texts = [task.tokenizers["source"].decode_batch([each.source])[0] for each in found]
    assert texts[:2] == ["red house", "the man"]
    assert len(found) == 5 and all(each.source and each.target for each in found)
    assert found == places.examples(task, tmp_path, 5)


def test_a_prompt_starts_after_the_end_of_a_document(tmp_path):
    task = new_task("task=lm")
    samples(tmp_path, {"split": "val", "source": "the man", "reference": "", "output": " rides a bike"})
    example = places.examples(task, tmp_path, 1)[0]
    assert example.source[0] == task.tokenizers["text"].eos_id
    assert task.tokenizers["text"].decode_batch([example.target]) == ["rides a bike"]


def test_rows_of_a_classifier_and_samples_of_another_task(tmp_path):
    task = new_task("task=classification")
    marks = task.tokenizers["text"]
    samples(
        tmp_path,
        {"split": "test", "task": "lm", "source": "the man", "output": "rides"},
        {"split": "test", "task": "classification", "text": "big red house", "label": "no"},
    )
    example = places.examples(task, tmp_path, 1)[0]
    assert (example.source[0], example.source[-1], len(example.source)) == (marks.bos_id, marks.eos_id, 5)


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "export" / "onnx"
    for text in ("first", "second"):
        with places.put_in_place(out) as folder:
            (folder / "verification.json").write_text(text)
    assert (out / "verification.json").read_text() == "second"
    assert [file.name for file in out.parent.iterdir()] == ["onnx"]


def test_the_folder_in_which_the_user_is(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for text in ("first", "second"):
        with places.put_in_place(Path(".")) as folder:
            (folder / "verification.json").write_text(text)
            (folder / text).mkdir()
        assert sorted(file.name for file in Path(".").iterdir()) == [text, "verification.json"]
        assert Path("verification.json").read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == ["here"]


def test_nothing_remains_of_a_failure_and_the_former_export_stays(tmp_path):
    out = tmp_path / "onnx"
    with places.put_in_place(out) as folder:
        (folder / "verification.json").write_text("first")
    with pytest.raises(KeyError), places.put_in_place(out) as folder:
        (folder / "model").write_text("half")
        raise KeyError
    assert [file.name for file in tmp_path.rglob("*")] == ["onnx", "verification.json"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(ConfigError, match=r"out: .* exists already and is not an earlier export"),
        places.put_in_place(tmp_path),
    ):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written"), places.put_in_place(tmp_path / "file" / "onnx"):
        pass
