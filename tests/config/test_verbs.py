"""The settings of every command: reading, checks, help and completion follow from one dataclass."""

import dataclasses
import os
import subprocess
import sys

import pytest

from multihead.config.keys import documentation
from multihead.config.settings import read_words
from multihead.config.verbs import (
    SETTINGS,
    CompareSettings,
    EvaluateSettings,
    PredictSettings,
    RunsSettings,
)
from multihead.errors import ConfigError
from multihead.help import verb_help


def test_settings_are_taken_out_of_the_words():
    words = ["run=A", "calibrate=true", "data.split=val", "run=[B,C]", 'threshold="cost:5"', "threshold_label=spam"]
    settings, others = read_words(EvaluateSettings, words)
    assert settings == EvaluateSettings(run=["A", "B", "C"], calibrate=True, threshold="cost:5", threshold_label="spam")
    assert others == ["data.split=val"]
    assert read_words(RunsSettings, ["limit=3", "limit=5", "task=lm"])[0] == RunsSettings(limit=5)


def test_paths_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    settings, _ = read_words(PredictSettings, ["run=~/x", "ensemble=[~/y,$HOME/z]"])
    assert (settings.run, settings.ensemble) == ("/home/me/x", ["/home/me/y", "/home/me/z"])
    assert read_words(CompareSettings, ["runs=~/x,$HOME/y"])[0].runs == ["/home/me/x", "/home/me/y"]


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("evaluate", [], "run: is missing; fix: run=outputs/TASK/DATA"),
        ("evaluate", ["run=[]"], "run: is missing"),
        ("evaluate", ["run=A", "calibrte=true"], "calibrte: no such key; did you mean calibrate.; fix: calibrate=true"),
        ("evaluate", ["run=A", "calibrate=yes"], "calibrate: must be true or false, got 'yes'"),
        ("evaluate", ["run=A", "threshold_label=spam"], "threshold_label: names a class, but threshold= is missing"),
        ("evaluate", ["run=A", "threshold=0.5"], "threshold: must be f1, precision:P, cost:C or none, got '0.5'"),
        ("evaluate", ["run=A", "verbose"], "verbose: not of the form key=value"),
        ("predict", ["run=A", "run=B"], "run: predict takes only one run=, got 2: A, B; fix: run=A"),
        ("predict", ["run=[]"], "run: is missing"),
        ("predict", ["run=[A,B]"], "run: predict takes only one run=, got 2: A, B; fix: run=A"),
        ("predict", ["run=A", "format=json"], "format: must be one of text, jsonl, got 'json'; fix: format=jsonl"),
        ("export", ["run=A"], "to: is missing; fix: to=ctranslate2"),
        ("export", ["run=A", "to=onnx", "sentences=0"], "sentences: must be at least 1, got 0"),
        ("runs", ["stat=failed"], "stat: no such key; did you mean state.; fix: state=failed"),
        ("runs", ["limit=ten"], "limit: must be a whole number, got 'ten'"),
        ("diff", ["a=A", "b=B", "seed=1"], "seed: no such key; diff takes a, b"),
        ("compare", ["run=A"], "run: no such key; compare takes runs, group, .*; fix: runs=A"),
        ("compare", [], "runs: is missing: which runs should be compared"),
        ("compare", ["runs=A", "format=[html,text]"], "format: must be one of markdown, latex, html, json, got 'text'"),
        ("sweep", ["budget=20"], "file: is missing; fix: file=sweeps/translation.yaml"),
    ],
)
def test_words_that_are_not_valid(verb, words, message):
    with pytest.raises(ConfigError, match=message):
        read_words(SETTINGS[verb], words)


@pytest.mark.parametrize("verb", SETTINGS)
def test_every_setting_is_documented_and_stands_in_the_help(verb):
    shown = verb_help(verb)
    for name, key in SETTINGS[verb].keys().items():
        text = documentation(key)
        assert text.endswith(".") and " ".join(text.split()[:4]) in " ".join(shown.split()), name
    defaults = [f.name for f in dataclasses.fields(SETTINGS[verb]) if type(f.default) is int and f.default == 1]
    assert all(f"{name}=N" in shown and "(default 1)" in shown for name in defaults)


COMPLETED = [
    ("multihead evaluate cal", ["calibrate="]),
    ("multihead evaluate run=A calibrate=", ["calibrate=false", "calibrate=true"]),
    ("multihead evaluate run=A decoding.num_b", ["decoding.num_beams="]),
    ("multihead evaluate run=A dec", ["decoding."]),
    ("multihead runs sort=me", ["sort=metric"]),
    ("multihead runs data=wiki", ["data=wikitext2"]),
    ("multihead diff ", ["a=", "b="]),
    ("multihead diff a=run", ["a=run_1/", "a=run_2/"]),
    ("multihead train task=lm optim.muon_m", ["optim.muon_momentum="]),
    ("multihead train task=tr", ["task=translation"]),
]


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """What bash offers for each beginning of a line: one shell that has evaluated our own completion."""
    folder = tmp_path_factory.mktemp("completion")
    for name in ("run_1", "run_2"):
        (folder / name).mkdir()
    (folder / "multihead").write_text(
        f"#!{sys.executable}\nimport sys\nfrom multihead.cli import main\nsys.exit(main())\n"
    )
    (folder / "multihead").chmod(0o755)
    lines = ['eval "$(multihead -sc install=bash)"']
    for line, _ in COMPLETED:
        words = line.split(" ")
        lines += [f"COMP_LINE={line!r}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_POINT={len(line)}",
                  "COMPREPLY=(); hydra_bash_completion_here; echo \"${COMPREPLY[@]}\""]  # fmt: skip
    script = "\n".join(lines).replace(
        "hydra_bash_completion_here", "$(complete -p multihead | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
    )
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.unhurried
def test_completion_in_bash(completed):
    assert [sorted(line.split()) for line in completed] == [offered for _, offered in COMPLETED]
