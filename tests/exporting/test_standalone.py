"""An ONNX export of a classifier is whole: its own script gives the labels and probabilities of ``predict``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import ids, new_task, reference
from tokenizers import Tokenizer as Backend

import multihead
from multihead.cli import main
from multihead.exporting import programs
from multihead.exporting.formats import own_vocab
from multihead.exporting.verify import Example
from multihead.metrics.calibration import Calibration, Threshold
from multihead.pretrained.source import tokenizers_of
from multihead.runs.directory import save_vocab

sys.path.append(str(Path(__file__).parents[1] / "pretrained"))
import published_folders

pytestmark = pytest.mark.unhurried
TEXTS = ["", "\u200b \t", "I liked the film .", "not a good book", "…", "the <unk> <eos> Straße", "a " * 300, "good"]


def test_the_script_gives_what_predict_gives(tmp_path, runs):
    runs.copy(tmp_path / "run", "task=classification")
    names = json.loads((tmp_path / "run" / "model" / "labels.json").read_text())
    thresholds = {names[-1]: Threshold(0.35, "cost:1")}
    calibration = Calibration(temperature=0.4, thresholds=thresholds)
    (tmp_path / "run" / "model" / "calibration.json").write_bytes(calibration.content())
    assert main(["export", f"run={tmp_path / 'run'}", "to=onnx", "sentences=3", f"out={tmp_path / 'out'}"]) == 0
    assert "import multihead" not in (tmp_path / "out" / "predict.py").read_text()
    script = [sys.executable, str(tmp_path / "out" / "predict.py")]
    done = subprocess.run(script, input="\n".join(TEXTS) + "\n", capture_output=True, text=True, check=True)
    wanted = multihead.load(tmp_path / "run").predict(TEXTS)
    for line, outputs in zip(done.stdout.splitlines(), wanted, strict=True):
        if not outputs:
            assert line == ""
            continue
        label, probability = line.split("\t")
        assert label == outputs[0]["label"]
        assert float(probability) == pytest.approx(outputs[0]["probability"], abs=2e-4)


def ask(folder, content):
    script = [sys.executable, str(folder / "predict.py")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}  # what the script reads and writes is UTF-8 all the same
    return subprocess.run(script, input=content, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory):
    """A folder with the script of a classifier with several labels, and the task."""
    folder = tmp_path_factory.mktemp("several")
    task = new_task("task=classification", "task.multi_label=true", "data.label_separator=' | '")
    task.vocab.labels[2] = task.labels[2] = "größer"
    task.calibration = Calibration(temperature=5.0, thresholds={name: Threshold(0.2, "f1") for name in task.labels})
    programs.write(reference(task), folder, "onnx")
    programs.write_tokenizers(task, folder, {"text": "tokenizer.json"})
    programs.write_script(task, folder)
    return folder, task


def test_several_labels_are_written_as_predict_writes_them(several_labels):
    folder, task = several_labels
    texts = ["the man rides", "", "a big red house", "Straße", "on a bike"]
    done = ask(folder, b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    wanted = [task.line(outputs) for outputs in task.predict(texts, task.config.decoding)]
    assert done.stdout.decode().splitlines() == wanted
    assert any(" | " in line and "größer" in line for line in wanted)
    assert any(line.split("\t")[0].split(" | ") != sorted(line.split("\t")[0].split(" | "), key=task.labels.index)
               for line in wanted if line)  # fmt: skip


def test_a_line_that_is_not_utf_8_ends_the_script_behind_the_lines_before_it(several_labels):
    done = ask(several_labels[0], b"the man\nStra\xdfe\nthe man\n")
    assert done.returncode == 1 and done.stdout.count(b"\n") == 1
    fix = "iconv -f WINDOWS-1252 -t UTF-8 < texts.txt > utf8.txt"
    assert done.stderr.decode().strip() == f"line 2: byte 0xDF is not UTF-8; fix: {fix}"


def test_a_published_tokenizer_neither_pads_nor_cuts_there(tmp_path):
    content = json.loads((published_folders.write(tmp_path / "bert") / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                          "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = tokenizers_of(f"hf:{tmp_path / 'bert'}")["text"]
    (tmp_path / "out.json").write_text(tokenizer.tokenizers_json())
    assert Backend.from_file(str(tmp_path / "out.json")).encode("the dog sees a cat").ids == [1, 5, 6, 8, 9, 7, 2]


@pytest.mark.parametrize("part", ["lm", "translation", "classification"])
def test_the_tokenizer_of_one_task_of_several_has_its_own_marks(part, tmp_path):
    task = new_task("task=multitask").members()[part]  # all tasks share one tokenizer
    files = save_vocab(tmp_path, own_vocab(task))
    programs.write_tokenizers(task, tmp_path, files)
    marks = task.tokenizers["text"]
    (plain,) = marks.encode_batch(["the man"])
    wanted = {
        "lm": [*marks.opening, *plain],
        "translation": [*plain, *marks.source_end],
        "classification": [*marks.start, *plain, *marks.end],
    }
    assert Backend.from_file(str(tmp_path / next(iter(files.values())))).encode("the man").ids == wanted[part]


DECODER = ["task=translation", "task.topology=decoder"]


@pytest.mark.parametrize("words", [["task=classification"], ["task=lm"], ["task=translation"], DECODER], ids=ids)
def test_the_readme_runs(words, tmp_path):
    task = new_task(*words, "model.num_encoder_layers=1", "model.num_decoder_layers=1")
    ours = reference(task)
    programs.write(ours, tmp_path, "torch_export")
    role = next(iter(task.tokenizers))
    programs.write_tokenizers(task, tmp_path, {role: "tokenizer.json"})
    text = programs.readme(ours, {role: "tokenizer.json"}, "torch_export")
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace('"tokenizer.json"', f'"{tmp_path}/tokenizer.json"').replace('load("', f'load("{tmp_path}/')
    found: dict = {}
    exec(code, found)
    marks = task.tokenizers[role]
    row = found["ids"]
    plain = marks.encode_batch(["A text."])[0]
    if words == ["task=classification"]:
        assert row == [*marks.start, *plain, *marks.end]
        torch.testing.assert_close(found["output"], task.model.head(task.model.transformer.encode(torch.tensor([row]))))
    elif words == ["task=lm"]:
        assert row == [*marks.opening, *plain]
    elif words == DECODER:
        assert row == ours.prefix(Example(plain, []))
        torch.testing.assert_close(found["output"][0, -1], ours.logits(Example(plain, []))[0])
        assert "A row is `<bos> source <sep>`" in text
    else:
        assert row == [*plain, marks.eos_id]
