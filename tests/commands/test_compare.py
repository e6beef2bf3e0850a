"""``compare`` on small fabricated run directories: systems, tests, words, refusals, files."""

import copy
import csv
import functools
import io
import json
import math
import re
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from scipy import stats

from multihead.cli import main
from multihead.commands import compare as command
from multihead.comparing.compare import compare, compare_tasks
from multihead.comparing.finished import FinishedRun
from multihead.comparing.overview import looks_text, overview_rows, render
from multihead.comparing.report import Pair, Report, System
from multihead.comparing.scores import describe
from multihead.comparing.significance import Spread, Test
from multihead.config.compose import compose, to_yaml
from multihead.config.keys import GROUPS
from multihead.config.settings import read_words
from multihead.config.verbs import CompareSettings
from multihead.errors import CheckpointError, ConfigError, DataError
from multihead.plugin import AddedMetric, Plugin
from multihead.runs.directory import environment

WORDS = [f"w{i}" for i in range(30)]
TRUTH = {"data_train": "t1", "data_val": "v1", "data_test": "s1", "tokenizer_target": "k1"}


@functools.cache
def composed(*words):
    """Composing takes a while, and many runs here differ in a value only."""
    return compose(list(words)).tree


def configuration(folder, words):
    """The tree of group choices, then of single values."""
    groups = [word for word in words if word.partition("=")[0] in GROUPS]
    tree = copy.deepcopy(composed(*groups))
    for word in [*words, f"run_dir={folder}"]:
        key, _, value = word.partition("=")
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node[part]
        if word not in groups:
            node[last] = type(node[last])(value)
    return tree


def finished_run(folder, words, result, samples, *, data=None, rows=None, curve=(3.0, 2.0, 1.0), parameters=1000):
    """Writes a finished run of the configuration that ``words`` make."""
    folder.mkdir(parents=True)
    tree = configuration(folder, words)
    (folder / "config.yaml").write_text(to_yaml(tree))
    environment = {"data": data or TRUTH, "rows": rows or {}, "seed": tree["seed"]}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "result.json").write_text(json.dumps({**result, "parameters": parameters, "seed": tree["seed"]}))
    rows = [{"split": "val", "step": 1, "index": 0, "source": "s", "reference": "r", "output": "o"}]
    rows += [{"split": "test", "step": 9, "index": i, **sample} for i, sample in enumerate(samples)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        monitor = tree["task"]["monitor"]
        writer.writerow(["step", "train/loss", monitor])
        writer.writerows([10 * i, value, value + 1] for i, value in enumerate(curve))
    return folder


def translations(share, seed, count=60):
    """References that are the same for all, and outputs of which a share of words is wrong."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        reference = list(fixed.choice(WORDS, 10))
        output = [word if rng.random() > share else "x" for word in reference]
        samples.append({"source": "s", "reference": " ".join(reference), "output": " ".join(output)})
    return samples


def bleu(samples):
    return BLEU().corpus_score([s["output"] for s in samples], [[s["reference"] for s in samples]]).score


def translation(folder, share, *words, seed=1, noise=0, **more):
    samples = translations(share, 100 * noise + seed, more.pop("count", 60))
    words = ["task=translation", f"seed={seed}", *words]
    return finished_run(folder, words, {"test/bleu": bleu(samples), "test/loss": share}, samples, **more)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three seeds of each of two systems of different width, the second better."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 3):
        translation(tmp_path / f"runs/narrow_{seed}", 0.30, "model.d_model=64", seed=seed, parameters=1000)
        translation(tmp_path / f"runs/wide_{seed}", 0.10, "model.d_model=96", seed=seed, noise=1, parameters=1400)
    return tmp_path


# ---- systems and numbers


def test_seeds_make_systems_named_by_what_differs(runs):
    report = compare([], group=["runs"])
    assert [system.name for system in report.systems] == ["model.d_model=64", "model.d_model=96"]
    assert [system.seeds for system in report.systems] == [[1, 2, 3], [1, 2, 3]]
    values = [bleu(translations(0.30, seed)) for seed in (1, 2, 3)]
    found = report.systems[0].spread
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert report.differences == {"model.d_model": ["64", "96"]}
    assert report.warnings == ["parameters differ by 40.0%: model.d_model=64 1,000, model.d_model=96 1,400"]
    (pair,) = report.pairs
    assert pair.test.method == "t-test over seeds and examples"
    assert pair.statement.startswith("model.d_model=96 is better than model.d_model=64 by ")
    assert " BLEU (95 % CI " in pair.statement and "corrected" not in pair.statement
    assert {name: len(curves) for name, curves in report.curves.items()} == {"val/bleu": 6, "train/loss": 6}
    assert report.curves["train/loss"][0].points == [(0, 3.0), (10, 2.0), (20, 1.0)]


@pytest.mark.parametrize(
    "words", [["runs/*"], ["runs"], ["runs/narrow_*", "runs/wide_*"], ["runs/narrow_1", "runs", "runs/narrow_1/"]]
)
def test_ways_to_name_runs(runs, words):
    assert [len(system.runs) for system in compare(words).systems] == [3, 3]


def test_what_a_run_directory_holds_is_no_run(runs):
    (runs / "runs/wide_1/wandb/files").mkdir(parents=True)
    (runs / "runs/wide_1/wandb/files/config.yaml").write_text("wandb_version: 1\n")
    assert len(compare(["runs/wide_*"]).systems[0].runs) == 3


def test_one_seed_is_sacrebleus_randomisation_and_bootstrap(runs):
    report = compare(["runs/narrow_1", "runs/wide_1"])
    (pair,) = report.pairs
    difference = bleu(translations(0.30, 1)) - bleu(translations(0.10, 101))
    assert pair.test.difference == pytest.approx(difference)
    assert pair.test.method == "paired approximate randomisation"
    (also,) = pair.test.also
    assert also == ("sacreBLEU's paired bootstrap", pytest.approx(1 / 5001)) and pair.test.p == pytest.approx(1 / 5001)
    assert pair.test.low < difference < pair.test.high < 0
    assert pair.statement.endswith(", p < 0.001)")
    assert any(note.startswith("One seed each") for note in report.notes)
    assert report.systems[0].spread.deviation is None


CHINESE = ["那个人读了一本书。", "她在车站买了一只猫。", "老师在图书馆丢了钥匙。"] * 20


def chinese(folder, tokenize, wrong, lr):
    """Whole sentences, of which some have another last word."""
    outputs = [text[:-2] + "人。" if i < wrong else text for i, text in enumerate(CHINESE)]
    scorer = BLEU(tokenize=tokenize)
    score = scorer.corpus_score(outputs, [CHINESE]).score
    result = {"test/bleu": score, "signature": str(scorer.get_signature())}
    samples = [{"source": "s", "reference": r, "output": o} for r, o in zip(CHINESE, outputs, strict=True)]
    return finished_run(folder, ["task=translation", f"optim.lr={lr}"], result, samples)


def test_bleu_is_resampled_with_the_tokenizer_that_it_was_scored_with(runs):
    chinese(runs / "zh/a", "zh", 3, 0.1)
    chinese(runs / "zh/b", "zh", 40, 0.2)
    chinese(runs / "zh_char", "char", 40, 0.3)
    report = compare(["zh/a", "zh/b"])
    assert report.warnings == []  # the examples give the score that was recorded
    assert report.pairs[0].test.p < 0.01
    with pytest.raises(ConfigError, match=r"different tokenizers of BLEU \(zh, char\); fix: metric=test/chrf"):
        compare(["zh/a", "zh_char"])


def test_references_in_another_unicode_form_are_the_same(runs):
    for name, form in (("a", "NFC"), ("b", "NFD")):
        reference = unicodedata.normalize(form, "Größe zählt sehr viel hier")
        samples = [{"source": "s", "reference": reference, "output": reference}] * 12
        finished_run(
            runs / f"forms/{name}",
            ["task=translation", f"optim.lr={len(form) + ord(name)}"],
            {"test/bleu": 100.0},
            samples,
        )
    assert compare(["forms/a", "forms/b"]).pairs[0].test.difference == 0


def test_not_distinguishable_and_corrected(runs):
    for noise in (5, 6):
        for seed in (1, 2, 3):
            lr = f"optim.lr=0.00{noise}"
            translation(runs / f"runs/again_{noise}_{seed}", 0.30, "model.d_model=64", lr, seed=seed, noise=noise)
    report = compare(["runs/again_5_*", "runs/again_6_*", "runs/wide_*"], names=["five", "six", "wide"])
    first, second, third = report.pairs
    assert first.statement.startswith("five and six are not distinguishable (difference ")
    assert second.statement.startswith("wide is better than five by ") and second.statement.endswith("corrected)")
    p = sorted(pair.test.p for pair in report.pairs)
    assert sorted(pair.corrected for pair in report.pairs) == pytest.approx(
        [3 * p[0], max(3 * p[0], 2 * p[1]), max(p[2], 2 * p[1])]
    )
    assert third.corrected > third.test.p
    assert any("corrected for 3 comparisons" in note for note in report.notes)


@pytest.mark.unhurried
def test_baseline_instead_of_all_pairs(runs):
    translation(runs / "runs/other", 0.2, "model.d_model=32")
    for baseline in ("runs/wide_2", "model.d_model=96"):
        report = compare(["runs"], baseline=baseline)
        assert [(pair.first, pair.second) for pair in report.pairs] == [
            ("model.d_model=64", "model.d_model=96"),
            ("model.d_model=32", "model.d_model=96"),
        ]
    assert any(note.startswith("model.d_model=32: one seed, taken to vary") for note in report.notes)
    assert all(pair.statement.endswith("corrected)") for pair in report.pairs)
    assert any("corrected for 2 comparisons" in note for note in report.notes)
    with pytest.raises(ConfigError, match="baseline: nowhere matches none of the systems: model"):
        compare(["runs"], baseline="nowhere")
    with pytest.raises(ConfigError, match="baseline: runs matches several of the systems"):
        compare(["runs"], baseline="runs")


def test_names(runs):
    report = compare(["runs"], names=["slim", "broad"])
    assert [system.name for system in report.systems] == ["slim", "broad"]
    report = compare([f"runs/narrow_{i}" for i in (1, 2)] + ["runs/wide_1"], names=["a", "a", "b"])
    assert {system.name: len(system.runs) for system in report.systems} == {"a": 2, "b": 1}
    with pytest.raises(ConfigError, match=r"names: needs 2 different names, .*: model.d_model=64; model.d_model=96"):
        compare(["runs"], names=["a", "b", "c"])
    with pytest.raises(
        ConfigError, match=r"names: a would name both runs/narrow_1 and runs/wide_1, which differ in model\.d_model"
    ):
        compare(["runs/narrow_1", "runs/wide_1"], names=["a", "a"])


def test_runs_of_a_study_have_its_names_and_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        translation(tmp_path / f"s/runs/short/small/seed_{seed}", 0.30, "model.d_model=64", seed=seed)
        translation(tmp_path / f"s/runs/short/big/seed_{seed}", 0.10, "model.d_model=96", seed=seed, noise=1)
    report = compare([], group=["s/runs"])  # a folder is a study only if it has a ledger or a report
    assert [system.name for system in report.systems] == ["model.d_model=96", "model.d_model=64"]
    assert report.warnings == []
    (tmp_path / "s/report.json").write_text("{}")
    report = compare([], group=["s/runs"])
    assert [system.name for system in report.systems] == ["big", "small"]
    (warning,) = report.warnings
    assert warning.startswith("s is a study. It may have stopped at a clear difference, and the p-values")
    assert [system.name for system in compare([], group=["s"], names=["wide", "narrow"]).systems] == ["wide", "narrow"]
    translation(tmp_path / "other", 0.20, "model.d_model=32")
    systems = compare(["s", "other"]).systems
    assert [system.name for system in systems] == ["model.d_model=96", "model.d_model=64", "model.d_model=32"]


def test_the_smallest_difference_that_matters_has_its_name_in_a_study_too():
    settings, _ = read_words(CompareSettings, ["group=x", "smallest=lm:0.01", "smallest_effect=0.5"])
    assert settings.limits() == {"lm": 0.01, "": 0.5}
    with pytest.raises(ConfigError, match="smallest: must be a number above 0"):
        read_words(CompareSettings, ["group=x", "smallest_effect=-1"])


def test_a_repetition_is_no_seed(runs):
    translation(runs / "runs/narrow_again", 0.31, "model.d_model=64", seed=2)
    with pytest.raises(ConfigError, match="runs/narrow_2 and runs/narrow_again have the same configuration and seed"):
        compare(["runs"])
    report = compare(["runs/narrow_2", "runs/narrow_again"], names=["before", "after"])
    assert [system.name for system in report.systems] == ["before", "after"]


def test_runs_that_started_from_seeds_of_one_pretraining_are_one_system(runs):
    for seed in (1, 2):
        start = f"init_from=runs/wide_{seed}"
        translation(runs / f"tuned/from_{seed}", 0.05, "model.d_model=96", start, seed=seed, noise=3)
    report = compare(["tuned/*", "runs/wide_*"])
    assert [system.name for system in report.systems] == ["init_from=runs/wide_1", "no init_from"]
    assert [len(system.runs) for system in report.systems] == [2, 3]


def test_systems_that_differ_in_much_are_named_by_little(runs):
    for size in ("tiny", "small", "base"):
        translation(runs / f"sizes/{size}", 0.2, f"model={size}")
    names = [system.name for system in compare(["sizes"]).systems]
    assert sorted(names) == ["model.d_model=128", "model.d_model=256", "model.d_model=512"]


def test_a_run_from_before_a_key_existed(runs):
    old = runs / "runs/narrow_1/config.yaml"
    lines = old.read_text().splitlines()
    old.write_text("\n".join(line for line in lines if "layer_decay" not in line and "freeze" not in line) + "\n")
    assert len(compare(["runs/narrow_*"]).systems) == 1


def test_which_way_a_metric_is_better():
    settings = {"task.monitor": "val/distance", "task.monitor_mode": "min"}
    own = SimpleNamespace(task="tagging", settings=settings, lower_is_better=())  # a plugin's task
    usual = {"task.monitor": "val/bleu", "task.monitor_mode": "max"}
    known = SimpleNamespace(task="translation", settings=usual, lower_is_better=("brier",))
    ways = [(own, "distance", "min"), (own, "loss", "min"), (own, "other", "max")]
    ways += [(known, "bleu", "max"), (known, "perplexity", "min"), (known, "ter", "min"), (known, "rouge9", "max")]
    ways += [(known, "brier", "min"), (own, "brier", "max"), (known, "unknown_tokens", "min")]
    for run, name, better in ways:
        assert describe(run, f"test/{name}").better == better


def test_one_run_only(runs):
    report = compare(["runs/wide_1"])
    assert [len(system.values) for system in report.systems] == [1] and report.pairs == []


def test_one_system_only(runs):
    report = compare(["runs/narrow_*"])
    assert report.pairs == [] and report.notes[-1].startswith("All runs are seeds of one system")


# ---- other tasks


def classification(folder, right, *words, seed=1, result=None, task="classification"):
    """Examples of two classes in turn, of which those in ``right`` are predicted."""
    classes, samples = ("ham", "spam"), []
    for i, hit in enumerate(right):
        predicted = classes[i % 2] if hit else classes[1 - i % 2]
        samples.append({"text": f"t{i}", "label": classes[i % 2], "predicted": predicted})
    found = result or {"test/accuracy": sum(right) / len(right)}
    return finished_run(folder, [f"task={task}", f"seed={seed}", *words], found, samples)


def test_accuracy_is_mcnemars(runs):
    a = np.ones(60, dtype=int)
    a[:6] = 0
    b = np.ones(60, dtype=int)
    b[4:20] = 0  # 2 examples wrong in both: only a wrong 4, only b wrong 14
    classification(runs / "c/a", a, "optim.lr=0.1")
    classification(runs / "c/b", b, "optim.lr=0.2")
    (pair,) = compare(["c/a", "c/b"], names=["A", "B"]).pairs
    assert pair.test.method == "McNemar"
    assert pair.test.p == pytest.approx(stats.binomtest(4, 18).pvalue)
    name, permuted = pair.test.also[0]
    assert name == "permutation" and permuted == pytest.approx(stats.binomtest(4, 18).pvalue, abs=0.012)
    assert pair.statement.startswith("A is better than B by 0.17 accuracy (95 % CI 0.0")


def test_f1_of_a_class_is_a_permutation(runs):
    for name, lr, wrong in (("a", "0.1", 6), ("b", "0.2", 20)):
        right = np.ones(60, dtype=int)
        right[:wrong] = 0
        classification(runs / f"c/{name}", right, f"optim.lr={lr}", result={"test/f1/spam": 1 - wrong / 60})
    report = compare(["c"], metric="f1/spam")
    assert (report.metric, report.better) == ("test/f1/spam", "max")
    assert report.pairs[0].test.method == "paired permutation"
    assert " F1 of spam (" in report.pairs[0].statement
    assert report.warnings == []  # as many errors in each class: F1 is the accuracy


def language(folder, nats, *words, seed=1, tokenizer="k1", result=None):
    samples = [{"nats": float(n), "tokens": 10 + i, "bytes": 40 + i} for i, n in enumerate(nats)]
    total = sum(nats)
    found = {
        "test/loss": total / sum(s["tokens"] for s in samples),
        "test/bits_per_byte": total / sum(s["bytes"] for s in samples) / math.log(2),
    }
    words = ["task=lm", f"seed={seed}", *words]
    return finished_run(folder, words, result or found, samples, data=TRUTH | {"tokenizer_text": tokenizer})


def test_language_models_differ_by_document(runs):
    rng = np.random.default_rng(6)
    base = rng.gamma(5.0, 8.0, 40)
    language(runs / "l/a", base, "optim.lr=0.1")
    language(runs / "l/b", base + rng.normal(2.0, 1.0, 40), "optim.lr=0.2")
    report = compare(["l"])
    assert (report.metric, report.better) == ("test/loss", "min")
    (pair,) = report.pairs
    assert pair.test.method == "paired permutation" and pair.test.p < 0.001
    assert pair.statement.startswith("optim.lr=0.1 is better than optim.lr=0.2 by 0.0")
    assert " nats per token (95 % CI 0.0" in pair.statement
    assert list(report.curves) == ["val/loss", "train/loss"]


def test_other_tokenizers_are_compared_in_bits_per_byte(runs):
    rng = np.random.default_rng(6)
    language(runs / "l/a", rng.gamma(5.0, 8.0, 40), "optim.lr=0.1")
    language(runs / "l/b", rng.gamma(5.0, 8.0, 40), "optim.lr=0.2", tokenizer="k2")
    report = compare(["l"])
    assert report.metric == "test/bits_per_byte"
    assert report.notes[0].startswith("test/loss is per token and the runs have different tokenizers")
    with pytest.raises(ConfigError, match="metric: test/loss is per token, so it cannot be compared between runs"):
        compare(["l"], metric="loss")


def test_documents_that_are_cut_otherwise_are_not_resampled(runs):
    for seed in (1, 2):
        language(runs / f"l/a{seed}", [40.0 + seed] * 40, "optim.lr=0.1", seed=seed)
        language(runs / f"l/b{seed}", [45.0 + seed] * 30, "optim.lr=0.2", seed=seed)
    report = compare(["l"])
    assert report.pairs[0].test.method == "t-test over seeds"
    assert "chance in the choice of documents is not looked at" in report.notes[0]


def test_a_metric_that_examples_do_not_tell(runs):
    values = [[0.29, 0.30, 0.31], [0.10, 0.11, 0.12]]
    for name, losses in zip(("narrow", "wide"), values, strict=True):
        for seed, loss in enumerate(losses, start=1):
            result = runs / f"runs/{name}_{seed}/result.json"
            result.write_text(json.dumps(json.loads(result.read_text()) | {"test/loss": loss}))
    report = compare(["runs"], metric="test/loss")
    assert report.better == "min"
    assert report.pairs[0].test.difference == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert report.pairs[0].test.method == "t-test over seeds"
    assert report.notes[0].startswith("samples.jsonl has nothing for each example about test/loss")
    report = compare(["runs/narrow_1", "runs/wide_1"], metric="test/loss")
    assert report.pairs[0].test is None
    assert report.pairs[0].statement.endswith("differ by 0.19 nats per token; with one seed each there is no test")


def test_a_metric_that_is_not_finite_is_refused(runs):
    """A perplexity may overflow."""
    result = runs / "runs/wide_2/result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"test/bleu": math.inf}))
    with pytest.raises(ConfigError, match=r"wide_2 has test/bleu=inf, which cannot be compared"):
        compare(["runs"])


def test_few_examples_are_not_resampled(runs):
    for name, lr in (("a", "0.1"), ("b", "0.2")):
        translation(runs / f"few/{name}", 0.3, f"optim.lr={lr}", count=9)
    report = compare(["few"])
    assert report.notes[0].startswith("only 9 test examples") and report.pairs[0].test is None


def test_seeds_that_do_not_vary_are_no_proof(runs):
    """Without examples, two systems whose seeds all have one score are not tested: chance may have done that."""
    for seed in (1, 2):
        for name, share, lr in (("a", 0.3, "0.1"), ("b", 0.2, "0.2")):
            translation(runs / f"same/{name}{seed}", share, f"optim.lr={lr}", seed=seed, count=9)
    (pair,) = compare(["same"], metric="test/loss").pairs
    assert (pair.verdict, pair.test) == ("underpowered", None)
    assert pair.statement.endswith("differ by 0.1 nats per token; without any spread between seeds there is no test")


def test_a_later_test_of_the_same_example_counts(runs):
    """A resumed run tests again, and its new lines stand below the old ones."""
    path = runs / "runs/narrow_1/samples.jsonl"
    wrong = [{"split": "test", "step": 5, "index": i, **s} for i, s in enumerate(translations(0.9, 1))]
    path.write_text("".join(json.dumps(row) + "\n" for row in wrong) + path.read_text())
    assert not any("samples.jsonl" in text for text in compare(["runs"]).warnings)


# ---- warnings and refusals


def test_samples_that_disagree_with_the_result(runs):
    path = runs / "runs/wide_1/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test/bleu": 99.0}))
    warnings = compare(["runs"]).warnings
    assert any(text.startswith("runs/wide_1: samples.jsonl gives ") and "has 99" in text for text in warnings)


def test_other_training_data_are_told(runs):
    translation(runs / "runs/more", 0.1, "data.grammar.train_size=99", data=TRUTH | {"data_train": "t2"})
    warnings = compare(["runs/narrow_1", "runs/more"], names=["a", "b"]).warnings
    assert warnings[0] == "training data differ: a | b"


def test_small_differences_in_size_are_not_told(runs):
    translation(runs / "runs/x", 0.1, "model.d_model=128", parameters=1009)
    assert compare(["runs/narrow_1", "runs/x"]).warnings == []


def test_refused_runs(runs):
    (runs / "empty").mkdir()
    translation(runs / "elsewhere", 0.1, "optim.lr=0.5", data=TRUTH | {"data_test": "s2"})
    what = "runs/narrow_1 and elsewhere have different test data \\(s1, s2\\)"
    with pytest.raises(ConfigError, match=what):
        compare(["runs/narrow_1", "elsewhere"])
    translation(runs / "unknown", 0.1, "optim.lr=0.6", data={"data_train": "t1"})
    with pytest.raises(ConfigError, match=r"unknown/environment\.json has no fingerprint of its test data"):
        compare(["runs/narrow_1", "unknown"])
    classification(runs / "sorted", [1, 0] * 30)
    with pytest.raises(
        ConfigError, match="runs/narrow_1 and sorted have different tasks \\(translation, classification"
    ):
        compare(["runs/narrow_1", "sorted"])
    (runs / "runs/wide_3/result.json").unlink()
    what = "runs/wide_3 has no result.json, because the run is not finished; fix: finish it by resume=runs/wide_3, or"
    with pytest.raises(ConfigError, match=what):
        compare(["runs/wide_3", "runs/narrow_1"])
    with pytest.raises(ConfigError, match="runs: nothing/here does not exist"):
        compare(["nothing/here"])
    with pytest.raises(ConfigError, match=r"runs: nothing/\* matches no run"):
        compare(["nothing/*"])
    with pytest.raises(ConfigError, match="group: empty is not a run and contains none"):
        compare([], group=["empty"])


@pytest.mark.parametrize("words", [{"runs": [], "group": ["runs"]}, {"runs": ["runs/*"]}])
def test_several_runs_go_on_without_those_that_have_no_result(runs, words):
    (runs / "runs/wide_3/result.json").unlink()
    (runs / "runs/wide_2/result.json").write_text("{")
    report = compare(**words)
    assert [system.seeds for system in report.systems] == [[1, 2, 3], [1]]
    damaged, unfinished, *_ = report.warnings
    assert damaged.startswith("left out: runs/wide_2/result.json is damaged (not readable as JSON")
    assert unfinished == "left out: runs/wide_3 has no result.json, because the run is not finished"
    with pytest.raises(ConfigError, match="group: runs/wide_3 holds no finished run; runs/wide_3 has no result"):
        compare([], group=["runs/wide_3"])
    event = {"event": "failed", "time": "2026-01-01", "reason": "the loss is not\nfinite at step 3"}
    (runs / "runs/wide_3/events.jsonl").write_text(json.dumps(event) + "\n")
    text = "runs/wide_3 has no result.json, because the run failed (the loss is not finite at step 3)"
    assert compare(**words).warnings[1] == f"left out: {text}"


def test_other_objectives_are_refused(runs):
    for name, objective in (("a", "causal"), ("b", "masked")):
        language(runs / f"l/{name}", [40.0] * 20, f"task.objective={objective}")
    with pytest.raises(ConfigError, match=r"l/a and l/b have different objectives \(causal, masked\)"):
        compare(["l"])


def test_a_model_of_both_objectives_has_the_loss_of_a_causal_one(runs):
    for name, objective in (("a", "causal"), ("b", "both")):
        language(runs / f"l/{name}", [40.0] * 20, f"task.objective={objective}")
    assert [system.seeds for system in compare(["l"]).systems] == [[1], [1]]


def test_refused_metric(runs):
    what = r"runs/narrow_1 has no test/blue; it has test/bleu, test/loss; fix: metric=test/bleu"
    with pytest.raises(ConfigError, match=what):
        compare(["runs"], metric="test/blue")
    what = r"parameters is no metric of a split, so it does not say which system is better; fix: metric=test/bleu"
    with pytest.raises(ConfigError, match=what):
        compare(["runs"], metric="parameters")


def test_a_run_directory_says_which_metrics_of_a_plugin_fall(runs):
    plugin = Plugin(metrics={"brier": AddedMetric(new=list, tasks=("translation",), better="min")}, name="mine.py")
    said = environment(compose(["task=translation"]).config, {}, plugin)
    for place in runs.glob("runs/*_[123]"):
        result, known = (json.loads((place / name).read_text()) for name in ("result.json", "environment.json"))
        brier = result["seed"] / 1000 + (0.3 if "narrow" in place.name else 0.1)
        (place / "result.json").write_text(json.dumps(result | {"test/brier": brier}))
        (place / "environment.json").write_text(json.dumps(known | {"lower_is_better": said["lower_is_better"]}))
    report = compare(["runs"], metric="test/brier")
    assert report.better == "min" and report.pairs[0].verdict == "worse"  # of the narrow one


def test_a_smallest_difference_of_an_unknown_task_is_refused(runs):
    with pytest.raises(ConfigError, match="smallest: must be one of translation, got 'translaton'"):
        compare(["runs"], smallest={"translaton": 0.5})


def test_damaged_files(runs):
    path = runs / "runs/narrow_1/samples.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:30]) + "{\n" + "".join(lines[31:]))
    with pytest.raises(DataError, match=r"narrow_1/samples\.jsonl:31: not an example as JSON"):
        compare(["runs"])
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ConfigError, match=r"have different test examples in samples\.jsonl \(59 and 60\)"):
        compare(["runs"])
    path.write_text(whole)
    (runs / "runs/narrow_1/metrics.csv").write_text("step,train/loss\nx,1\n")
    with pytest.raises(DataError, match=r"narrow_1/metrics\.csv: cannot be read"):
        compare(["runs"])
    (runs / "runs/narrow_1/result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"narrow_1/result\.json: is damaged \(not readable as JSON"):
        compare(["runs/narrow_1", "runs/wide_1"])
    (runs / "runs/narrow_1/result.json").write_text("[]")
    with pytest.raises(
        CheckpointError, match=r"narrow_1/result\.json: is damaged \(must be a mapping of keys to values"
    ):
        compare(["runs/narrow_1", "runs/wide_1"])
    (runs / "runs/narrow_1/environment.json").unlink()
    with pytest.raises(CheckpointError, match=r"narrow_1/environment\.json: cannot be read \(No such file"):
        compare(["runs/narrow_1", "runs/wide_1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "runs: is missing: which runs should be compared"),
        (["run=runs"], "run: no such key; compare takes runs, group, .*fix: runs=runs"),
        (["runs=runs", "format=pdf"], "format: must be one of markdown, latex, html, json, got 'pdf'"),
        (["runs=runs", "format=[html,json]"], "out: is missing: several formats need files"),
        (
            ["runs=runs", "out=x.pdf"],
            "out: must end in .md, .tex, .html, .json, got x.pdf; fix: format=markdown",
        ),
        (["runs=runs", "out=runs"], "out: runs is a directory; fix: out=runs/comparison.html"),
    ],
)
def test_refused_words(runs, words, message):
    with pytest.raises(ConfigError, match=message):
        command.run(words)


# ---- through the door


def test_the_terminal(runs, capsys):
    assert main(["compare", "runs=[runs/narrow_*,runs/wide_*]", "names=[narrow,wide]", "out=new/report.html"]) == 0
    told = capsys.readouterr()
    rows = [line.split() for line in told.out.splitlines()]
    assert ["system", "seeds", "mean", "sd", "95", "%", "CI", "over", "seeds", "parameters"] in rows
    assert [row[:2] for row in rows if row[-1:] == ["1,400"]] == [["wide", "3"]]
    assert "wide is better than narrow by " in told.out
    assert told.err.splitlines() == [
        "warning: parameters differ by 40.0%: narrow 1,000, wide 1,400",
        "wrote new/report.html",
    ]
    page = (runs / "new/report.html").read_text()
    assert page.count("<img") == 2 and "model.d_model" in page


@pytest.fixture
def found():
    """Two systems, one comparison, and texts that are wider than the terminal or look like markup."""
    several, one = Spread(30.5, 0.70711, 24.15, 36.85), Spread(33.25)
    systems = [System("base", ["a1", "a2"], [1, 2], [30.0, 31.0], several, 1_000_000)]
    systems.append(System("small [b]", ["b1"], [1], [33.25], one, 1_200_000))
    pair = Pair("base", "small [b]", Test(-2.75, -4.5, -1.0, 0.004, "t-test"), 0.008, "said [b] " + 30 * "words ")
    return Report("translation", "test/bleu", "max", systems, [pair], {}, [], ["noted [b] " + 30 * "words "])


SHOWN = """\
test/bleu (higher is better)
 system      seeds    mean     sd   95 % CI over seeds   parameters
 base            2   30.50   0.71       24.15 to 36.85    1,000,000
 small [b]       1   33.25      -                    -    1,200,000

 first - second     difference        95 % CI       p   p (Holm)     test
 base - small [b]         -2.8   -4.5 to -1.0   0.004      0.008   t-test

"""


def test_what_is_shown_to_a_file_line_by_line(found, capsys):
    command.show(found)
    told = capsys.readouterr().out
    long = [found.pairs[0].statement, found.notes[0]]
    assert [line.split() for line in told.splitlines()] == [line.split() for line in [*SHOWN.splitlines(), *long]]


def test_a_terminal_gets_bold_heads_and_dim_notes(found, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.delenv("NO_COLOR", raising=False)
    command.show(found)
    told = terminal.getvalue()
    assert told.startswith("\x1b[1mtest/bleu (higher is better)\x1b[0m\n")
    assert "\x1b[1msystem" in told and "\x1b[2mnoted [b] words" in told
    lines = re.sub(r"\x1b\[\dm", "", told).splitlines()
    assert max(map(len, lines)) <= 140
    words = " ".join(" ".join(lines).split())  # a long line goes on in the next one, and no word is cut
    assert found.pairs[0].statement in words and " ".join(found.notes[0].split()) in words


def test_several_files(runs, capsys):
    assert main(["compare", "group=runs", "format=[markdown,html,json,latex]", "out=report.md"]) == 0
    assert sorted(path.name for path in runs.glob("report.*")) == [
        "report.html", "report.json", "report.md", "report.tex",
    ]  # fmt: skip
    capsys.readouterr()


def test_standard_output_holds_the_format_only(runs, capsys):
    assert main(["compare", "group=runs", "format=json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["metric"] == "test/bleu" and len(content["systems"]) == 2
    assert content["pairs"][0]["test"]["p"] == content["pairs"][0]["corrected"]


def test_one_line_and_status_2(runs, capsys):
    translation(runs / "elsewhere", 0.1, data=TRUTH | {"data_test": "s2"})
    assert main(["compare", "runs=[runs/wide_1,elsewhere]"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    assert told.err.startswith("error[config] runs: runs/wide_1 and elsewhere have different test data (s1, s2); fix:")


def test_several_tasks_at_once(runs):
    """Of a run that learned several tasks, one task's examples and metrics."""
    for name, lr, wrong in (("a", "0.1", 5), ("b", "0.2", 30)):
        right = [0] * wrong + [1] * (60 - wrong)
        result = {"test/classification/accuracy": 1 - wrong / 60, "test/loss": 2.0}
        path = classification(runs / f"m/{name}", right, f"optim.lr={lr}", result=result, task="multitask")
        lines = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
        both = [{**line, "task": "classification"} for line in lines] + [
            {"task": "translation", "split": "test", "step": 9, "index": i, **s}
            for i, s in enumerate(translations(0.1, 1))
        ]
        (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in both))
    report = compare(["m"], metric="classification/accuracy")
    assert report.metric == "test/classification/accuracy" and report.warnings == []
    assert report.pairs[0].test.method == "McNemar"
    assert report.pairs[0].statement.startswith("optim.lr=0.1 is better than optim.lr=0.2 by 0.42 accuracy")
    report = compare(["m"])
    assert report.metric == "test/loss" and report.pairs[0].test is None
    assert report.notes == ["test/loss is of several tasks: chance in the choice of examples is not looked at."]


# ---- over several tasks


@pytest.fixture
def tasks(runs):
    """The translations of `runs`, and a classification in which the widths do not differ."""
    for seed in (1, 2, 3):
        for name, width in (("narrow", 64), ("wide", 96)):
            right = np.ones(60, dtype=int)
            right[: 10 + seed * (1 if name == "wide" else 2) % 5] = 0
            words = [f"model.d_model={width}", "optim.lr=0.01"]
            classification(runs / f"runs/opinions/{name}_{seed}", right, *words, seed=seed)
    return runs


def test_a_table_over_all_tasks(tasks):
    found = compare_tasks([], group=["runs"])
    assert list(found.reports) == ["translation", "classification"] and found.systems == [
        "model.d_model=64",
        "model.d_model=96",
    ]
    (each,) = found.overall
    assert (each.variant, each.baseline, each.verdict) == ("model.d_model=64", "model.d_model=96", "worse")
    assert each.statement.endswith(
        "on 1 of 2 tasks, and better on none (worse on translation; undecided on classification)"
    )
    head, narrow, wide = overview_rows(found)
    assert head == ["system", "translation (bleu, higher)", "classification (accuracy, higher)"]
    assert wide[1].endswith("(3) *") and narrow[1].endswith("(3)")  # only what the test says is marked
    assert narrow[2].endswith("(3)") and wide[2].endswith("(3)")
    tests = {task: report.pairs[0] for task, report in found.reports.items()}
    assert tests["translation"].corrected == pytest.approx(2 * tests["translation"].test.p)
    assert looks_text(found) == "The test splits were read 12 times by these runs."
    (tasks / "runs/opinions/wide_1/evaluate_test_1234.json").write_text("{}")
    assert compare_tasks([], group=["runs"]).reports["classification"].test_looks == 7


def test_systems_that_chance_can_explain_get_no_mark(tasks):
    """Three widths whose translations are equally bad; and one of them as the baseline."""
    for seed in (1, 2, 3):
        translation(tasks / f"runs/middle_{seed}", 0.30, "model.d_model=80", seed=seed, noise=2)
    cells = {row[0]: row[1] for row in overview_rows(compare_tasks(["runs"]))}
    marks = {name: cell.partition(")")[2] for name, cell in cells.items() if name != "system"}
    assert marks == {"model.d_model=64": "", "model.d_model=80": "", "model.d_model=96": " *"}
    found = compare_tasks(["runs"], baseline="model.d_model=64")
    cells = {row[0]: row[1:] for row in overview_rows(found)}
    assert cells["model.d_model=96"][0].endswith(" +") and cells["model.d_model=80"][1] == "-"
    assert {each.variant: each.verdict for each in found.overall} == {
        "model.d_model=80": "undecided",
        "model.d_model=96": "better",
    }
    assert "If you choose among 3 systems" in looks_text(found)


def test_what_the_runs_could_not_have_shown_is_underpowered(tasks):
    found = compare_tasks(["runs"], smallest={"classification": 0.001})
    (pair,) = found.reports["classification"].pairs
    assert pair.verdict == "underpowered" and pair.statement.endswith("but 0.001 matters")
    half = (pair.test.high - pair.test.low) / 2
    assert pair.detectable == pytest.approx(
        half * (stats.norm.isf(0.025 / 2) + stats.norm.isf(0.2)) / stats.norm.isf(0.025)
    )
    (pair,) = compare_tasks(["runs"], smallest={"": 0.9}).reports["classification"].pairs
    assert pair.verdict == "undecided"  # the whole interval is below what matters
    with pytest.raises(ConfigError, match="smallest: must be a number above 0, or TASK:NUMBER, got 'lm:x'"):
        command.run(["runs=runs", "smallest=lm:x"])


def test_all_formats_of_several_tasks(tasks, capsys):
    (tasks / "runs/opinions/wide_3/result.json").unlink()
    names = ["names=[slim,broad]", "runs=[runs/*narrow*,runs/opinions/narrow*,runs/*wide*,runs/opinions/wide*]"]
    assert main(["compare", names[1], "names=[slim,slim,broad,broad]", "format=json"]) == 0
    told = capsys.readouterr()
    content = json.loads(told.out)
    assert content["overall"][0]["verdict"] == "worse" and set(content["tasks"]) == {"translation", "classification"}
    assert content["tasks"]["translation"]["pairs"][0]["verdict"] == "worse" and content["test_looks"] == 11
    assert told.err.splitlines()[0].startswith("warning: left out: runs/opinions/wide_3 has no result")
    assert main(["compare", "group=runs", names[0], "out=new/c.html"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "all tasks" in shown and "slim is worse than broad on 1 of 2 tasks" in shown
    assert "translation: test/bleu (higher is better)" in shown
    page = (tasks / "new/c.html").read_text()
    assert "translation (bleu, higher)" in page and page.count("<h2>Systems</h2>") == 2
    found = compare_tasks([], group=["runs"], names=["slim", "broad"])
    table, text = render(found, "latex"), render(found, "markdown")
    assert r"slim & " in table and r"$\pm$" in table and "### classification" in text and "| broad |" in text


def test_runs_of_several_tasks_need_two_systems_on_one(tasks):
    with pytest.raises(ConfigError, match="narrow_1 have different tasks"):
        compare(["runs/narrow_1", "runs/opinions/narrow_1"])
    with pytest.raises(ConfigError, match="they are of several tasks: translation, classification"):
        compare(["runs"])
    with pytest.raises(ConfigError, match="names: needs 2 different names"):
        compare_tasks(["runs"], names=["a", "b", "c"])


# ---- folds of a cross-validation


@pytest.fixture
def folds(runs):
    """Five folds of two systems, each fold with a test split of its own. The second one is better by 0.02 to 0.04."""
    for fold in range(5):
        for name, lr, gain in (("a", "0.1", 0.0), ("b", "0.2", 0.02 + 0.005 * fold)):
            words = [f"optim.lr={lr}", "data.folds=5", f"data.fold={fold}"]
            result = {"test/accuracy": 0.7 + 0.01 * (fold % 3) + gain}
            data = TRUTH | {f"data_{split}": f"{split}{fold}" for split in ("train", "val", "test")}
            words = ["task=classification", "seed=1", *words]
            samples = [{"text": f"{fold} {i}", "label": "x", "predicted": "x"} for i in range(12)]
            finished_run(runs / f"folds/{name}{fold}", words, result, samples, data=data, rows=FOLD_ROWS)
    return runs


FOLD_ROWS = {"train": 36, "val": 12, "test": 12}


def test_folds_are_one_system_and_are_paired(folds):
    report = compare(["folds"])
    assert [len(system.values) for system in report.systems] == [5, 5] and report.warnings == []
    (pair,) = report.pairs
    assert pair.test.method == "corrected resampled t-test over folds" and pair.verdict == "worse"
    gains = np.array([0.02 + 0.005 * fold for fold in range(5)])
    t = gains.mean() / (gains.std(ddof=1) * math.sqrt(1 / 5 + 12 / 36))
    assert pair.test.p == pytest.approx(2 * stats.t.sf(t, 4)) and pair.test.difference == pytest.approx(-gains.mean())
    values = report.systems[0].values
    half = stats.t.isf(0.025, 4) * np.std(values, ddof=1) * math.sqrt(1 / 5 + 12 / 36)
    assert report.systems[0].spread.high == pytest.approx(np.mean(values) + half)
    text = "5-fold cross-validation over 5 folds; each text is tested once."
    assert report.notes == [text]


@pytest.mark.parametrize(
    ("data", "ratio"),
    [
        ({"splits": {"val": 0.25}}, 1 / 3),  # a fifth is tested on; a quarter of the rest is another fifth
        ({"val": "val.csv", "splits": {"val": 0.25}}, 1 / 4),
        ({"splits": {"val": 12}}, 1 / 4),  # a number of rows is no share
    ],
)
def test_folds_of_runs_without_numbers_of_rows_take_the_share_of_the_configuration(data, ratio):
    run = FinishedRun("run", {"task": {"name": "classification"}, "data": {"folds": 5} | data}, {}, {})
    assert run.fold_ratio == pytest.approx(ratio)


def test_seeds_of_one_fold_count_as_their_mean_in_the_table_too(folds):
    usual = compare(["folds"]).systems
    for fold in range(5):
        for name, lr in (("a", "0.1"), ("b", "0.2")):
            run = folds / f"folds/{name}{fold}"
            value = json.loads((run / "result.json").read_text())["test/accuracy"]
            for seed, change in ((2, -0.001), (3, 0.001)):
                words = ["task=classification", f"optim.lr={lr}", "data.folds=5", f"data.fold={fold}"]
                words.append(f"seed={seed}")
                data = json.loads((run / "environment.json").read_text())["data"]
                result = {"test/accuracy": value + change}
                samples = [{"text": f"{fold} {i}", "label": "x", "predicted": "x"} for i in range(12)]
                more = {"data": data, "rows": FOLD_ROWS}
                finished_run(folds / f"folds/{name}{fold}_{seed}", words, result, samples, **more)
    for now, then in zip(compare(["folds"]).systems, usual, strict=True):
        assert len(now.values) == 15
        assert (now.spread.low, now.spread.high) == pytest.approx((then.spread.low, then.spread.high))


def test_folds_without_a_test_say_why(folds):
    (pair,) = compare(["folds/a0", "folds/b0"]).pairs
    assert pair.statement.endswith("; with fewer than two common folds there is no test")
    for fold in range(5):
        result = folds / f"folds/b{fold}/result.json"
        content = json.loads(result.read_text())
        result.write_text(json.dumps(content | {"test/accuracy": 0.75 + 0.01 * (fold % 3)}))
    (pair,) = compare(["folds"]).pairs
    assert pair.statement.endswith("; without any spread between folds there is no test")
    assert pair.verdict == "underpowered"


def test_folds_that_are_lacking_or_differ_are_told(folds):
    edit = folds / "folds/b2/environment.json"
    whole = edit.read_text()
    edit.write_text(whole.replace("train2", "other"))
    assert compare(["folds"]).warnings[0].startswith("training data of fold 2 differ: ")
    edit.write_text(whole.replace("test2", "other"))
    with pytest.raises(ConfigError, match=r"folds/a2 and folds/b2 have different test data \(test2, other\)"):
        compare(["folds"])
    (folds / "folds/b2/result.json").unlink()
    notes = compare(["folds/*"]).notes
    assert notes[1] == "Not all systems have fold 2; a pair is tested on what it shares."
    classification(folds / "plain", [1] * 12, "optim.lr=0.1")
    with pytest.raises(ConfigError, match="have different numbers of folds"):
        compare(["folds/a0", "plain"])
