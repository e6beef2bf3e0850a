"""What a sweep file cannot mean is refused before the first trial, with its line."""

import math
import re

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from multihead.config.many_runs import SweepSettings, duration
from multihead.config.settings import read_words
from multihead.config.sweep import check, read_sweep
from multihead.errors import ConfigError
from multihead.sweeping.ledger import distribution

FILE = """\
program: train.py
method: bayes
run_cap: 4
metric:
  name: val/bleu
  goal: maximize
early_terminate:
  type: hyperband
  min_iter: 2
parameters:
  task:
    value: translation
  model.num_heads:
    values: [2, 4]
  optim.lr:
    distribution: log_uniform_values
    min: 1.0e-4
    max: 1.0e-2
  model.dropout:
    values: [0.0, 0.1]
command: ["${env}", "python", "${program}", "${args_no_hyphens}"]
"""
BROKEN = {
    "a misspelt key": ("method: bayes", "metod: bayes", 2, "metod: no such key; fix: method:"),
    "a method": ("method: bayes", "method: baies", 2, "must be one of grid, random, bayes; got 'baies'; fix: .*bayes"),
    "the test split": ("val/bleu", "test/bleu", 5, "must be a validation metric"),
    "another task's metric": ("val/bleu", "val/accuracy", 5, "must be one of val/bleu, .*got 'val/accuracy'"),
    "the wrong way": ("maximize", "minimize", 6, "higher val/bleu is better; fix: goal: maximize"),
    "a number that is a text": ("min: 1.0e-4", "min: 1e-4", 17, "reads 1e-4 as a text.*write 1.0e-4"),
    "a number that is a text, as a choice": ("[0.0, 0.1]", "[0.0, 1e-1]", 20, "reads 1e-1 as a text"),
    "a misspelt parameter": ("optim.lr:", "optim.lrr:", 15, "optim.lrr: no such key; .*optim.lr"),
    "a value out of range": ("[0.0, 0.1]", "[0.0, 1.5]", 20, r"model.dropout: must be in \[0, 1\)"),
    "an impossible pair": ("[2, 4]", "[2, 3]", 14, "model.num_heads: must be a divisor of model.d_model=128"),
    "no value": ("[2, 4]", "[2, null]", 14, "null would reach a trial"),
    "a mapping": (
        "    values: [2, 4]",
        "    parameters: {a: {value: 1}}",
        13,
        "nested parameters .*model.num_heads.a:",
    ),
    "an empty range": ("max: 1.0e-2", "max: 1.0e-5", 15, "min must be below max"),
    "a logarithm of nothing": ("min: 1.0e-4", "min: 0.0", 17, "must be above 0 on a logarithmic scale"),
    "a distribution": ("log_uniform_values", "log_normal", 16, "distribution: must be one of"),
    "code": ("program: train.py", "program: mine.py", 1, "a file cannot name code to run"),
    "arguments with hyphens": ("args_no_hyphens", "args", 21, "must hold .*args_no_hyphens"),
    "a grid over a range": ("method: bayes", "method: grid", 15, "a grid needs values"),
    "a rule that never stops": ("min_iter: 2", "min_iter: 9", 7, "a trial has 3 validations"),
    "another rule": ("hyperband", "median", 8, "must be one of hyperband"),
    "what the sweep sets": ("model.num_heads:", "run_dir:", 13, "a sweep cannot set it"),
    "a value twice": ("[2, 4]", "[2, 2]", 14, "occurs twice"),
    "a key twice": ("  model.dropout:", "  task:", 1, "line 11: the key 'task' occurs twice"),
    "a name with a slash": ("run_cap: 4", "name: a/b", 3, "letters, digits"),
    "decimal numbers for a whole one": (
        "    values: [2, 4]",
        "    {distribution: uniform, min: 1, max: 4}",
        13,
        "model.num_heads: must be a whole number, got 1.0",
    ),
    "no trials": ("run_cap: 4", "run_cap: 0", 3, "whole number of at least 1"),
}


@pytest.fixture
def write(tmp_path):
    def written(text):
        file = tmp_path / "s.yaml"
        file.write_text(text)
        return str(file)

    return written


def test_a_sound_file_is_read(write):
    sweep = read_sweep(write(FILE))
    first = check(sweep)
    assert first.config.task.name == "translation" and first.config.model.num_heads == 2
    assert (sweep.name, sweep.metric, sweep.goal, sweep.min_iter, sweep.eta) == ("s", "val/bleu", "maximize", 2, 3)
    assert [p.name for p in sweep.swept] == ["model.num_heads", "optim.lr", "model.dropout"]
    point = {"model.num_heads": 4, "optim.lr": 0.003, "model.dropout": 0.1}
    assert sweep.point(point) == ["task=translation", "model.num_heads=4", "optim.lr=0.003", "model.dropout=0.1"]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_its_line(write, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after, line, message = BROKEN[case]
    assert FILE.count(before) >= 1
    path = write(FILE.replace(before, after, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        check(read_sweep(path))
    where = str(caught.value)
    if case != "a key twice":
        assert re.search(rf"s\.yaml:{line}:", where), where
    assert [file.name for file in tmp_path.iterdir()] == ["s.yaml"]


def test_an_impossible_pair_of_two_parameters_is_found(write):
    text = FILE.replace("model.dropout:\n    values: [0.0, 0.1]", "model.d_model:\n    values: [128, 126]")
    with pytest.raises(ConfigError, match=r"s\.yaml:(14|20): .*a divisor of model.d_model=126"):
        check(read_sweep(write(text)))


def test_what_is_typed_and_swept_is_refused(write):
    with pytest.raises(ConfigError, match=r"s\.yaml:15: optim.lr is set by the sweep and also typed as optim.lr=1"):
        check(read_sweep(write(FILE)), ["optim.lr=1"])
    with pytest.raises(ConfigError, match="run_dir: the sweep sets it for each trial"):
        check(read_sweep(write(FILE)), ["run_dir=x"])


def test_hyperband_by_max_iter_begins_where_wandb_begins(write):
    text = FILE.replace("min_iter: 2", "max_iter: 27\n  s: 2")  # bands 27 / 3 and 27 / 9
    assert read_sweep(write(text)).min_iter == 3


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{values: [a, b]}", CategoricalDistribution(["a", "b"])),
        ("{values: [true, false]}", CategoricalDistribution([True, False])),
        ("{min: 1, max: 5}", IntDistribution(1, 5)),
        ("{min: 0.0, max: 0.5}", FloatDistribution(0, 0.5)),
        ("{distribution: uniform, min: 0, max: 1}", FloatDistribution(0, 1)),
        ("{distribution: q_uniform, min: 0.0, max: 1.0, q: 0.25}", FloatDistribution(0, 1, step=0.25)),
        ("{distribution: q_uniform, min: 1, max: 4}", IntDistribution(1, 4)),
        ("{distribution: q_uniform, min: 64, max: 256, q: 64}", IntDistribution(64, 256, step=64)),
        ("{distribution: log_uniform_values, min: 1.0e-4, max: 0.1}", FloatDistribution(1e-4, 0.1, log=True)),
        ("{distribution: log_uniform, min: -2.0, max: 0.0}", FloatDistribution(math.exp(-2), 1, log=True)),
        ("{distribution: int_uniform, min: 2, max: 8}", IntDistribution(2, 8)),
    ],
)
def test_distributions_mean_what_they_mean_to_wandb(write, spec, expected):
    text = FILE.replace("    values: [2, 4]", f"    {spec}".replace("{", "{")).replace("model.num_heads:\n", "x.y:\n")
    text = re.sub(r"x\.y:\n\s+", "x.y: ", text)
    (found,) = (p for p in read_sweep(write(text)).parameters if p.name == "x.y")
    assert distribution(found) == expected


def test_settings_are_taken_out_of_the_words():
    settings, words = read_words(SweepSettings, ["file=x.yaml", "workers=3", "status=true", "data=sst2", "budget=2h"])
    assert settings == SweepSettings(file="x.yaml", workers=3, status=True, budget="2h")
    assert words == ["data=sst2"] and settings.limits() == (0, 7200.0, 0.0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("workers=0", "workers: must be at least 1"),
        ("workers=two", "workers: must be a whole number"),
        ("budget=tomorrow", "budget: must be a number of trials, or a time"),
        ("trial_time=5", "trial_time: must be a time such as 90s"),
        ("status=yes", "status: must be true or false"),
        ("to=mars", "to: must be one of wandb"),
        ("storage=mysql://user:secret@host/db", "storage: must be postgresql://.*got 'host/db'"),
    ],
)
def test_settings_that_cannot_be_are_refused(word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_words(SweepSettings, ["file=x.yaml", word])
    assert "secret" not in str(caught.value)


def test_durations():
    assert [duration("k", text) for text in ("90s", "30m", "1.5h", "1d")] == [90, 1800, 5400, 86400]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("1.10", "YAML reads 1.10 as 1.1, but the key takes text; fix: '1.10'"),
        ("2024_11_26", "YAML reads 2024_11_26 as 20241126, but the key takes text; fix: '2024_11_26'"),
        ("true", "YAML reads true as True, but the key takes text"),
        ('"a, b"', "several values"),
    ],
)
@pytest.mark.parametrize("form", ["{{value: {}}}", "{{values: [x, {}]}}"])
def test_a_text_that_yaml_reads_otherwise(write, typed, message, form):
    """A trial, and W&B's agent, would type what YAML made of it: it is refused, with what to write."""
    file = write(FILE.replace("parameters:\n", f"parameters:\n  decoding.forced_prefix: {form.format(typed)}\n"))
    with pytest.raises(ConfigError, match=message):
        check(read_sweep(file))
    if "fix" in message:
        quoted = message.partition("fix: ")[2]
        sweep = read_sweep(write(FILE.replace("parameters:\n", f"parameters:\n  data.root: {{value: {quoted}}}\n")))
        assert check(sweep).config.data.root == typed


def test_own_files_of_a_sweep_are_frozen(write, tmp_path):
    from multihead.config.compose import compose
    from multihead.sweeping.frozen import OWN, freeze_files, trial_words

    own = tmp_path / "my conf"
    (own / "data").mkdir(parents=True)
    (own / "data" / "mine.yaml").write_text("format: grammar\nroles: {source: a, target: b}\nbatch_tokens: 99\n")
    typed = [f"config_dir={own}", "data=mine"]
    sweep = read_sweep(write(FILE))
    freeze_files(sweep, tmp_path, check(sweep, typed))
    (own / "data" / "mine.yaml").unlink()
    words = trial_words(typed, tmp_path)
    assert compose(["task=translation", *words]).config.data.batch_tokens == 99 and OWN in words[0]
