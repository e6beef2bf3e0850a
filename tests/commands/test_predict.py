"""``predict``: every line is answered or the line that is wrong is named; what was cut is said."""

import functools
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from multihead.cli import main
from multihead.config.compose import compose
from multihead.data.tokenizer import train_tokenizer
from multihead.errors import ConfigError
from multihead.runs.run import Run
from multihead.tasks import build_task
from multihead.text.vocabulary import Vocabulary

TEXTS = ["the dog sees a cat", "die Katze schläft", "a über straße"]
SMALL = ["model.d_model=16", "model.num_heads=2", "model.d_ff=16", "model.num_encoder_layers=1", "model.max_len=24",
         "model.num_decoder_layers=1", "model.dropout=0", "tokenizer.kind=char",
         "decoding.max_new_tokens=8"]  # fmt: skip
ROLES = {"translation": ("source", "target"), "lm": ("text",), "classification": ("text",)}


@functools.cache
def run_of(task, *words):
    """A run of a task with random weights, as `multihead.load` gives it."""
    config = compose([f"task={task}", *SMALL, *words]).config
    tokenizer = train_tokenizer(config.tokenizer, TEXTS)
    torch.manual_seed(0)
    return Run(
        Path("RUN"), config, build_task(config, Vocabulary(dict.fromkeys(ROLES[task], tokenizer), ["no", "yes"])).eval()
    )


@pytest.fixture
def predict(monkeypatch, capsys):
    """Status, lines of standard output, and standard error of ``multihead predict`` for an input in bytes."""

    def predict(content, *words, task="translation"):
        made = lambda path, *words, **_: run_of(task, *words)  # noqa: E731
        monkeypatch.setattr("multihead.runs.run.load", made)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False))
        capsys.readouterr()
        status = main(["predict", "run=RUN", *words])
        out, err = capsys.readouterr()
        return status, out.split("\n")[:-1], err

    return predict


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_is_no_text_and_utf_16_is_understood(predict, encoding):
    text = "die Katze\r\n\na über straße"
    content = text.encode(encoding)
    content = "\ufeff".encode(encoding) + content if encoding == "utf-16-be" else content
    status, answers, _ = predict(content, "format=jsonl")
    assert status == 0 and [json.loads(line)["input"] for line in answers] == ["die Katze", "", "a über straße"]


def test_a_line_that_is_not_utf_8_is_named_after_the_answers_before_it(predict):
    content = "der Hund\nstraße\ndie Katze\n".encode("cp1252")
    status, answers, errors = predict(content)
    assert (status, len(answers)) == (2, 1)
    assert "error[data] input:2:5: byte 0xDF is not UTF-8; fix: convert it (iconv -f WINDOWS-1252" in errors
    status, answers, errors = predict(content, "data.on_bad_line=skip", "format=jsonl")
    assert status == 0 and json.loads(answers[1])["input"] == "stra\N{REPLACEMENT CHARACTER}e"
    assert "1 line of the input: not UTF-8" in errors and "input:2" in errors
    status, answers, errors = predict("ab\ncd".encode("utf-16")[:-1])
    assert (status, len(answers)) == (2, 1) and "input:2: damaged UTF-16 data" in errors


@pytest.mark.parametrize("task", ["translation", "classification"])
@pytest.mark.parametrize("blank", ["", " ", "\t", "\xa0", "\u3000", "\u200b", " \u200b\u2028"])
def test_a_blank_line_is_answered_by_an_empty_line(predict, task, blank):
    status, answers, _ = predict(f"{blank}\nder Hund\n{blank}\n".encode(), task=task)
    assert status == 0 and len(answers) == 3
    assert answers[0] == answers[2] == "" and answers[1] != ""


@pytest.mark.parametrize("task", ["translation", "classification", "lm"])
@pytest.mark.parametrize("beams", [1, 2])
def test_every_line_is_answered_and_those_that_were_cut_are_said(predict, task, beams):
    content = b"the dog\n" + b"the dog " * 30 + b"\na cat\n" + b"x" * 25 + b"\n"
    status, answers, errors = predict(content, "format=jsonl", f"decoding.num_beams={beams}", task=task)
    assert status == 0
    assert [json.loads(line)["truncated"] for line in answers] == [False, True, False, True]
    assert errors.count("longer than the model") == 1
    assert "2 lines of the input: longer than the model reads, so they were cut; the first is input:2" in " ".join(
        errors.split()
    )
    assert predict(content, task=task)[0] == 0
    assert "longer" not in predict(b"the dog\n", task=task)[2]


def test_a_text_has_one_answer_and_a_list_a_list():
    translation, lm, classifier = run_of("translation"), run_of("lm"), run_of("classification")
    for verb in (translation.translate, lm.generate):
        assert isinstance(verb("the dog"), str) and verb(["the dog"]) == [verb("the dog")]
    assert classifier.classify("a cat") == classifier.classify(["a cat"])[0]
    assert set(classifier.classify("a cat")) == {"label", "probability"}
    assert classifier.classify(" ") == {"label": None, "probability": None} and translation.translate("\u200b") == ""
    assert lm.score("the dog") == lm.score(["the dog"])[0] < 0
    assert translation.score("the dog", "a cat") == translation.score(["the dog"], ["a cat"])[0] < 0
    assert len(translation.predict("the dog")) == 1


@pytest.mark.parametrize(
    ("task", "call", "message"),
    [
        ("translation", lambda run: run.classify("a"), r"run.classify: this run is task=translation, which has "
         r"predict\(texts\), translate\(texts\), score\(sources, targets\), embed\(texts\), attention\(text\); fix: "
         r"run.translate\(texts\)"),
        ("translation", lambda run: run.generate(["a"]), r"run.generate: this run is task=translation"),
        ("translation", lambda run: run.score(["a"]), r"run.score: .* score\(sources, targets\)"),
        ("translation", lambda run: run.score(["a"], ["b", "c"]), r"1 sources and 2 targets; fix: give one tar"),
        ("lm", lambda run: run.translate("a"), r"this run is task=lm, which has .* generate\(texts\), score\(texts\)"),
        ("lm", lambda run: run.score(["a"], ["b"]), r"run.score: this run is task=lm"),
        ("classification", lambda run: run.score(["a"]), r"predict\(texts\), classify\(texts\), embed\(texts\), "
         r"attention\(text\); fix: run.classify"),
        ("classification", lambda run: run.classify(["a", None]), r"run.classify: input 1 is a NoneType \(None\)"),
        ("translation", lambda run: run.translate([float("nan")]), r"input 0 is a float \(nan\), not a text"),
    ],
)  # fmt: skip
def test_a_verb_that_the_task_lacks_and_inputs_that_are_no_texts_are_refused(task, call, message):
    with pytest.raises(ConfigError, match=message):
        call(run_of(task))


def test_texts_that_were_cut_are_warned_of(caplog):
    run_of("translation").translate(["the dog", "the dog " * 30])
    assert "1 of 2 texts were cut, because they are longer than the model reads" in caplog.text
