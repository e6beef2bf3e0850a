"""Metrics of classification against scikit-learn and by hand, alone and over two gloo ranks."""

import csv
import json
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from trial import FORKS

from multihead.comparing.per_example import statistics_of
from multihead.metrics.classification import Confusion, _plain, class_metrics, label_set_metrics
from multihead.metrics.sums import Outputs

NAMES = ["ham", "spam", "scam"]


def outputs(n=300, seed=0):
    """Logits that lean towards the label, and labels of which the first class has most."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), n, replacement=True, generator=generator)
    logits = torch.randn(n, 3, generator=generator, dtype=torch.float64) + 1.2 * torch.eye(3)[labels]
    return logits, labels


def label_sets(n=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, 3, generator=generator) < torch.tensor([0.5, 0.2, 0.05])).long()
    return torch.randn(n, 3, generator=generator, dtype=torch.float64) + labels - 0.5, labels


def test_of_one_class_each_they_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, labels = outputs()
    probabilities = logits.softmax(1)
    predicted = probabilities.argmax(1)
    metrics = class_metrics(probabilities, predicted, labels, NAMES)
    y, p = labels.numpy(), predicted.numpy()
    f1 = sklearn.f1_score(y, p, average=None)
    expected = {
        "accuracy": sklearn.accuracy_score(y, p),
        "macro_f1": sklearn.f1_score(y, p, average="macro"),
        "mcc": sklearn.matthews_corrcoef(y, p),
        "auroc": sklearn.roc_auc_score(y, probabilities.numpy(), multi_class="ovr", average="macro"),
        **{f"f1/{name}": value for name, value in zip(NAMES, f1, strict=True)},
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert set(metrics) == {*expected, "ece"}
    assert 0.4 < metrics["macro_f1"] < 0.9


def test_of_one_class_that_examples_may_have_they_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, labels = (x[:, :1] for x in label_sets())
    probabilities = logits.sigmoid()
    predicted = (probabilities >= 0.5).long()
    metrics = label_set_metrics(probabilities, predicted, labels, NAMES[:1])
    y, p = labels[:, 0].numpy(), predicted[:, 0].numpy()
    f1 = sklearn.f1_score(y, p)
    expected = dict.fromkeys(("macro_f1", "micro_f1", "f1/ham"), f1)
    expected |= {"accuracy": sklearn.accuracy_score(y, p), "mcc": sklearn.matthews_corrcoef(y, p)}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert 0 < f1 < 1


def test_of_several_classes_they_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, labels = label_sets()
    probabilities = logits.sigmoid()
    predicted = (probabilities >= 0.5).long()
    metrics = label_set_metrics(probabilities, predicted, labels, NAMES)
    y, p = labels.numpy(), predicted.numpy()
    f1 = sklearn.f1_score(y, p, average=None)
    expected = {
        "accuracy": sklearn.accuracy_score(y, p),
        "macro_f1": sklearn.f1_score(y, p, average="macro"),
        "micro_f1": sklearn.f1_score(y, p, average="micro"),
        "mcc": sklearn.matthews_corrcoef(y.ravel(), p.ravel()),
        "auroc": sklearn.roc_auc_score(y, probabilities.numpy(), average="macro"),
        **{f"f1/{name}": value for name, value in zip(NAMES, f1, strict=True)},
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def _decisions(kind, count, rng, n=80):
    """Labels and predictions of degenerate and of plain kinds, with ``count`` classes."""
    labels, predicted = rng.integers(0, count, n), rng.integers(0, count, n)
    if kind == "one predicted":
        predicted[:] = count - 1
    elif kind == "one present":
        labels[:] = 0
    elif kind == "one of each, the same":
        labels[:] = predicted[:] = 1
    elif kind == "one of each, others":
        labels[:], predicted[:] = 0, 1
    elif kind == "a class that neither occurs nor is predicted":
        labels[labels == 0], predicted[predicted == 0] = 1, 1
    elif kind == "all wrong":
        predicted = (labels + rng.integers(1, count, n)) % count
    elif kind == "all right":
        predicted = labels.copy()
    elif kind == "collapsed on 90:10":
        labels, predicted = (np.arange(n) % 10 == 0).astype(int), np.zeros(n, dtype=int)
    elif kind == "one example":
        labels, predicted = labels[:1], predicted[:1]
    return labels, predicted


KINDS = ("plain", "one predicted", "one present", "one of each, the same", "one of each, others", "all wrong",
         "a class that neither occurs nor is predicted", "all right", "collapsed on 90:10", "one example")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 77])
def test_on_degenerate_decisions_they_are_scikit_learns_and_compares(kind, count):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(count)
    names = [f"c{i}" for i in range(count)]
    y, p = _decisions(kind, count, rng)
    probabilities = torch.softmax(torch.eye(count, dtype=torch.float64)[torch.tensor(p)] * 3, 1)
    metrics = class_metrics(probabilities, torch.tensor(p), torch.tensor(y), names)
    each = sklearn.f1_score(y, p, average=None, labels=range(count), zero_division=0)
    occurring = sorted({*y.tolist(), *p.tolist()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn, of a single label
        expected = {
            "accuracy": sklearn.accuracy_score(y, p),
            "macro_f1": sklearn.f1_score(y, p, average="macro", labels=occurring, zero_division=0),
            "mcc": sklearn.matthews_corrcoef(y, p),
            **{f"f1/{name}": value for name, value in zip(names, each, strict=True)},
        }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    if kind in ("one predicted", "one present", "collapsed on 90:10"):
        assert metrics["mcc"] == 0
    samples = [{"label": names[a], "predicted": names[b]} for a, b in zip(y.tolist(), p.tolist(), strict=True)]
    for name in ("accuracy", "macro_f1", "mcc"):
        found = statistics_of(name, [samples])
        assert float(found.score(found.runs[0].sum(0))) == pytest.approx(expected[name], abs=1e-9)


@pytest.mark.parametrize(
    "kind", ["plain", "none predicted", "none present", "neither", "all", "all wrong", "all right"]
)
@pytest.mark.parametrize("count", [2, 3, 77])
def test_on_degenerate_sets_they_are_scikit_learns_and_compares(kind, count):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(count)
    names = [f"c{i}" for i in range(count)]
    y, p = (rng.random((60, count)) < 0.3).astype(int), (rng.random((60, count)) < 0.3).astype(int)
    if kind in ("none predicted", "neither"):
        p[:] = 0
    if kind in ("none present", "neither"):
        y[:] = 0
    p = {"all": np.ones_like(p), "all wrong": 1 - y, "all right": y}.get(kind, p)
    metrics = label_set_metrics(torch.tensor(p).double(), torch.tensor(p), torch.tensor(y), names)
    each = sklearn.f1_score(y, p, average=None, zero_division=0)
    expected = {
        "accuracy": sklearn.accuracy_score(y, p),
        "macro_f1": each.mean(),
        "mcc": 0.0 if kind == "neither" else sklearn.matthews_corrcoef(y.flatten(), p.flatten()),
        **{f"f1/{name}": value for name, value in zip(names, each, strict=True)},
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    named = [[[name for name, has in zip(names, row, strict=True) if has] for row in x] for x in (y, p)]
    samples = [
        {"label": a, "predicted": b, "probabilities": dict.fromkeys(names, 0.5)} for a, b in zip(*named, strict=True)
    ]
    for name in ("accuracy", "macro_f1", "mcc"):
        found = statistics_of(name, [samples])
        assert float(found.score(found.runs[0].sum(0))) == pytest.approx(expected[name], abs=1e-9)


def test_by_hand():
    """Four ham and two spam; one spam missed, one ham predicted as spam: spam has precision 1/2, recall 1/2."""
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    spam = torch.tensor([0.1, 0.2, 0.3, 0.6, 0.9, 0.4])
    metrics = class_metrics(torch.stack([1 - spam, spam], 1), predicted, labels, ["ham", "spam"])
    expected = {
        "accuracy": 4 / 6,
        "f1/ham": 3 / 4,
        "f1/spam": 1 / 2,
        "macro_f1": 5 / 8,
        "mcc": (1 * 3 - 1 * 1) / (2 * 2 * 4 * 4) ** 0.5,
        "auroc": 7 / 8,  # of 8 pairs one is in the wrong order: 0.4 below 0.6
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_expected_calibration_error_by_hand():
    """Confidence 0.9 right 1 time of 2, confidence 0.6 right 2 times of 2: (2 * 0.4 + 2 * 0.4) / 4."""
    top = torch.tensor([0.9, 0.9, 0.6, 0.6]).double()
    labels = torch.tensor([0, 1, 0, 0])
    metrics = class_metrics(torch.stack([top, 1 - top], 1), torch.zeros(4).long(), labels, ["a", "b"])
    assert metrics["ece"] == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("predicted", [[0, 0, 0], [1, 1, 1], [0, 2, 1]])
def test_what_is_undefined_is_left_out_without_a_warning(predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probabilities = torch.eye(3)[torch.tensor(predicted)].double()
        metrics = class_metrics(probabilities, torch.tensor(predicted), torch.zeros(3).long(), NAMES)
        assert "auroc" not in metrics and metrics["mcc"] == 0
        assert metrics["f1/scam"] == 0 and metrics["accuracy"] == pytest.approx(predicted.count(0) / 3)
        sets = label_set_metrics(probabilities, probabilities.long(), torch.ones(3, 3).long(), NAMES)
        assert "auroc" not in sets
        assert class_metrics(torch.zeros(0, 3), torch.zeros(0).long(), torch.zeros(0).long(), NAMES) == {}
        assert label_set_metrics(torch.zeros(0, 3), *[torch.zeros(0, 3).long()] * 2, NAMES) == {}


def test_auroc_is_the_mean_over_the_classes_that_can_have_one():
    logits, labels = outputs()
    probabilities, two = logits.softmax(1), labels.clamp(max=1)
    metrics = class_metrics(probabilities, probabilities.argmax(1), two, NAMES)
    areas = []
    for number in (0, 1):
        inside, outside = probabilities[two == number, number], probabilities[two != number, number]
        areas.append(float((inside[:, None] > outside).double().mean()))
    assert metrics["auroc"] == pytest.approx(sum(areas) / 2, abs=1e-6)


# Over ranks

SHARES = {"equal": (0, 50, 100), "unequal": (0, 13, 100), "one rank empty": (0, 0, 100)}


def rank(number, address, results):
    """One of two ranks: its share in batches of 7, and an empty one; what it gathers goes to ``results``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=number, world_size=2)
    gathered = {}
    for name, cuts in SHARES.items():
        for kind, (logits, labels) in {"one": outputs(100), "several": label_sets(100)}.items():
            metric = Outputs()
            for start in range(cuts[number], cuts[number + 1], 7):
                part = slice(start, min(start + 7, cuts[number + 1]))
                metric.update(logits[part], labels[part])
            metric.update(logits[:0], labels[:0])
            gathered[name, kind] = [part.tolist() for part in metric.compute()]
    results.put(gathered)
    dist.destroy_process_group()


def test_two_ranks_gather_what_one_has(tmp_path):
    results = FORKS.SimpleQueue()
    mp.start_processes(rank, (f"file://{tmp_path}/rendezvous", results), nprocs=2, start_method="forkserver")
    own = {"one": outputs(100), "several": label_sets(100)}
    for _ in range(2):
        for (name, kind), (logits, labels) in results.get().items():
            assert logits == own[kind][0].tolist(), name
            assert labels == own[kind][1].tolist(), name


# Confusion


def test_confusion_by_hand_as_csv_json_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    labels, predicted = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0])
    confusion = Confusion.of(predicted, labels, ["ham, cured", "spam", "$cam_$"])
    assert confusion.counts == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    files = confusion.write(tmp_path, "confusion_test")
    assert [file.name for file in files] == ["confusion_test.csv", "confusion_test.json", "confusion_test.png"]
    with open(files[0], newline="") as file:
        read = list(csv.reader(file))
    assert read[0] == ["class \\ predicted", "ham, cured", "spam", "$cam_$"]
    assert read[1] == ["ham, cured", "1", "1", "0"]
    assert b"\r" not in files[0].read_bytes()
    assert json.loads(files[1].read_text())["counts"] == confusion.counts
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_the_picture_says_what_it_shows(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda figure, path, **options: drawn.append(figure.axes[0]))
    Confusion(["a", "b"], [[3000, 1000], [0, 0]]).draw(tmp_path / "c.png")
    Confusion(["a", "b"], [[1, 0, 1, 1], [1, 1, 0, 1]], multi_label=True).draw(tmp_path / "c.png")
    one, several = drawn
    assert (one.get_xlabel(), one.get_ylabel()) == ("predicted", "class")
    assert (several.get_xlabel(), several.get_ylabel()) == ("", "class")
    assert [tick.get_text() for tick in one.get_xticklabels()] == ["a", "b"]
    assert [tick.get_text() for tick in one.get_yticklabels()] == ["a", "b"]
    assert several.get_xticklabels()[0].get_text() == "true positives"
    cells = {text.get_position(): (text.get_text(), text.get_color()) for text in one.texts}  # (column, row)
    assert cells[0, 0] == ("3,000", "white") and cells[1, 0] == ("1,000", "black")
    assert one.images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]


def test_names_in_a_picture_are_cut_at_24_characters():
    assert _plain("x" * 24) == "x" * 24
    assert _plain("x" * 25) == "x" * 23 + "…"
    assert _plain("$a$") == r"\$a\$"


def test_confusion_of_several_classes_counts_each_class_by_itself(tmp_path):
    labels, predicted = torch.tensor([[1, 0], [1, 1], [0, 0]]), torch.tensor([[1, 1], [0, 1], [0, 0]])
    confusion = Confusion.of(predicted, labels, ["joy", "anger"], multi_label=True)
    assert confusion.rows() == [
        ["class", "true positives", "false positives", "false negatives", "true negatives"],
        ["joy", 1, 0, 1, 1],
        ["anger", 1, 1, 0, 1],
    ]
    assert confusion.write(tmp_path, "c")[0].read_text().splitlines()[1] == "joy,1,0,1,1"


def test_of_many_classes_the_most_frequent_confusions_are_shown():
    labels, predicted = torch.arange(20).repeat(3), torch.arange(20).repeat(3)
    predicted[:3], predicted[20] = torch.tensor([7, 8, 9]), 7
    confusion = Confusion.of(predicted, labels, [f"class{i}" for i in range(20)])
    assert confusion.summary()[:2] == [["class", "predicted as", "examples"], ["class0", "class7", 2]]
    assert sorted(row[2] for row in confusion.summary()[1:]) == [1, 1, 2]
    few = Confusion(["a", "b"], [[1, 0], [0, 1]])
    assert few.summary() == few.rows()


def test_without_matplotlib_there_are_tables_only(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    files = Confusion(["a", "b"], [[1, 0], [0, 1]]).write(tmp_path, "c")
    assert [file.name for file in files] == ["c.csv", "c.json"] and not (tmp_path / "c.png").exists()


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("count", [20, 25])
def test_the_scores_of_each_class_are_scikit_learns_and_many_show_their_extremes(count, multi_label, tmp_path):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng, names = np.random.default_rng(count), [f"class{i:02}" for i in range(count)]
    if multi_label:
        labels, predicted = rng.random((200, count)) < 0.3, rng.random((200, count)) < 0.3
    else:
        labels = rng.integers(0, count, 400)
        predicted = np.where(rng.random(400) < labels / count, labels, rng.integers(0, count, 400))
    tensors = (torch.tensor(x).long() for x in (predicted, labels))
    confusion = Confusion.of(*tensors, names, multi_label)
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(labels, predicted, zero_division=0)
    head, *rows = confusion.classes()
    assert head == ["class", "f1", "precision", "recall", "examples", "predicted"]
    for place, scores in enumerate((f1, precision, recall, support), start=1):
        assert [row[place] for row in rows] == pytest.approx(scores.tolist())
    shown = confusion.write_classes(tmp_path, "classes_test")
    with open(tmp_path / "classes_test.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["class", *names]
    if count == 20:
        assert shown == []
        return
    assert len(shown) == 22 and shown[11][0] == "... 5 more in classes_test.csv"
    order = sorted(range(count), key=lambda place: -f1[place])
    assert [row[1] for row in shown[1:11]] == pytest.approx([round(f1[i], 3) for i in order[:10]])
    assert [row[1] for row in shown[12:]] == pytest.approx([round(f1[i], 3) for i in order[-10:]])
