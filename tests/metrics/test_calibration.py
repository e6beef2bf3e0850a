"""Temperature against a general minimiser and closed forms; thresholds against every cut there is; the file."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from multihead.config.verbs import read_criterion
from multihead.errors import CheckpointError, ConfigError
from multihead.metrics.calibration import (
    Calibration,
    Threshold,
    choose_threshold,
    fit_temperature,
)

# Temperature


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_temperature_minimises_the_negative_log_likelihood(true, multi_label):
    optimize = pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, 4, generator=generator, dtype=torch.float64)
    if multi_label:
        labels = torch.bernoulli((logits / true).sigmoid(), generator=generator).long()
    else:
        labels = torch.multinomial((logits / true).softmax(1), 1, generator=generator)[:, 0]

    def nats(temperature):
        scaled = logits / temperature
        if multi_label:
            return F.binary_cross_entropy_with_logits(scaled, labels.double()).item()
        return F.cross_entropy(scaled, labels).item()

    fitted = fit_temperature(logits, labels, multi_label)
    found = optimize.minimize_scalar(nats, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    assert fitted == pytest.approx(found, rel=1e-5)
    assert fitted == pytest.approx(true, rel=0.1)
    calibration = Calibration(fitted)
    assert calibration.nats(logits, labels, multi_label).item() == pytest.approx(nats(found), rel=1e-9)


def test_the_temperature_by_hand():
    """Logit 2 for the class that 3 of 4 have: the likeliest odds are 3, so 2 / T = ln 3."""
    logits = torch.tensor([[2.0, 0.0]] * 4)
    assert fit_temperature(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(2 / math.log(3), rel=1e-9)
    assert fit_temperature(logits[:, :1], torch.tensor([[1], [1], [1], [0]]), True) == pytest.approx(2 / math.log(3))


def test_the_temperature_stays_within_its_bounds():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits / 9, torch.tensor([0, 1])) == pytest.approx(0.01)  # all right: the colder the better
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(100)
    warmest = fit_temperature(logits * 9, torch.tensor([0, 1]))  # of those whose likelihood rounds to 1
    assert warmest > 0.1 and Calibration(warmest).nats(logits.double() * 9, torch.tensor([0, 1])) < 1e-15


# Thresholds


def every_cut(scores, positive):
    """(precision, recall, false positives, false negatives) of each set that some threshold decides for."""
    for cut in sorted({*scores, 2.0}):
        chosen = [p for s, p in zip(scores, positive, strict=True) if s >= cut]
        hits, total = sum(chosen), sum(positive)
        yield cut, hits / len(chosen) if chosen else 0.0, hits / total, len(chosen) - hits, total - hits


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_are_the_best_of_all_cuts(seed):
    draw = random.Random(seed)
    scores = [round(draw.random(), 2) for _ in range(60)]  # with ties
    positive = [draw.random() < s for s in scores]
    tensors = torch.tensor(scores, dtype=torch.float64), torch.tensor(positive)
    cuts = list(every_cut(scores, positive))

    def found(threshold):
        chosen = [p for s, p in zip(scores, positive, strict=True) if s >= threshold]
        return len(chosen), sum(chosen)

    for precision in (0.5, 0.8, 0.9):
        most = max((recall for _, p, recall, _, _ in cuts if p >= precision and recall), default=None)
        if most is None:
            continue
        count, hits = found(choose_threshold(*tensors, f"precision:{precision}"))
        assert hits / sum(positive) == pytest.approx(most) and hits / count >= precision
    for cost in (0.1, 1, 5, 1000):
        least = min(cost * false_positives + false_negatives for *_, false_positives, false_negatives in cuts)
        count, hits = found(choose_threshold(*tensors, f"cost:{cost}"))
        assert cost * (count - hits) + sum(positive) - hits == pytest.approx(least)


def test_a_threshold_stands_half_way_between_two_scores():
    scores = torch.tensor([0.9, 0.8, 0.6, 0.2]).double()
    positive = torch.tensor([True, True, False, False])
    assert choose_threshold(scores, positive, "precision:1") == pytest.approx(0.7)
    assert choose_threshold(scores, positive, "precision:0.5") == pytest.approx(0.7)  # 2 of 2, not 2 of 3 or of 4
    assert choose_threshold(scores, ~positive, "cost:0.1") == pytest.approx(0.1)  # two false alarms cost 0.2


def test_where_false_alarms_cost_too_much_nothing_is_decided_for():
    scores, positive = torch.tensor([0.9, 0.5, 0.4]).double(), torch.tensor([False, True, False])
    assert choose_threshold(scores, positive, "cost:5") == pytest.approx(0.95)
    certain = choose_threshold(torch.tensor([1.0, 0.5]).double(), torch.tensor([False, True]), "cost:5")
    assert 1 < certain < 1 + 1e-9


def test_a_precision_out_of_reach_is_refused_with_the_best_there_is():
    scores, positive = torch.tensor([0.9, 0.8, 0.7]).double(), torch.tensor([False, True, True])
    message = r"threshold: no threshold reaches precision:0.99 on the validation split; the best precision is 0.6667; "
    with pytest.raises(ConfigError, match=message + "fix: threshold=precision:0.66"):
        choose_threshold(scores, positive, "precision:0.99")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recall:0.9", r"threshold: must be precision:P, cost:C or none, got 'recall:0.9'; fix: threshold=precision"),
        ("0.9", r"threshold: must be precision:P, cost:C or none, got '0.9'"),
        ("precision:1.5", r"threshold: must be a precision in \(0, 1\], got 'precision:1.5'"),
        ("cost:0", r"threshold: must be a cost above 0 and finite, got 'cost:0'"),
        ("cost:1e999", r"threshold: must be a cost above 0 and finite, got 'cost:1e999'"),
    ],
)
def test_a_criterion_that_cannot_be(text, message):
    with pytest.raises(ConfigError, match=message):
        read_criterion(text)


# Decisions


def test_one_class_each_by_threshold():
    probabilities = torch.tensor([[0.7, 0.3, 0.0], [0.75, 0.25, 0.0], [0.2, 0.29, 0.51], [0.1, 0.45, 0.45]])
    names = ["ham", "spam", "scam"]
    assert Calibration().decide(probabilities, names).tolist() == [0, 0, 2, 1]
    low = Calibration(thresholds={"spam": Threshold(0.3, "cost:0.1")})
    assert low.decide(probabilities, names).tolist() == [1, 0, 2, 1]
    high = Calibration(thresholds={"ham": Threshold(0.74, "precision:0.9")})
    assert high.decide(probabilities, names).tolist() == [1, 0, 2, 1]


def test_several_classes_each_by_its_threshold():
    probabilities = torch.tensor([[0.4, 0.5], [0.6, 0.8]])
    assert Calibration().decide(probabilities, ["joy", "anger"], True).tolist() == [[0, 1], [1, 1]]
    own = Calibration(thresholds={"joy": Threshold(0.4, "x"), "anger": Threshold(0.9, "x")})
    assert own.decide(probabilities, ["joy", "anger"], True).tolist() == [[1, 0], [1, 0]]


def test_a_new_calibration_changes_and_says_nothing():
    logits = torch.randn(5, 3).double()
    torch.testing.assert_close(Calibration().probabilities(logits), logits.softmax(1))
    torch.testing.assert_close(Calibration().probabilities(logits, True), logits.sigmoid())
    assert Calibration().decide(logits.softmax(1), ["a", "b", "c"]).tolist() == logits.argmax(1).tolist()
    assert Calibration().facts() == {}


# What evaluate is asked


def test_a_new_temperature_chooses_a_standing_threshold_anew():
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(500, 2, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / 4).softmax(1), 1, generator=generator)[:, 0]
    names = ["ham", "spam"]
    first = Calibration().refit(logits, labels, names, threshold="cost:5", label="spam")
    assert first.temperature == 1 and first.thresholds["spam"].criterion == "cost:5"
    both = first.refit(logits, labels, names, temperature=True)
    assert both.temperature == pytest.approx(4, rel=0.3)
    assert both.thresholds["spam"].value < first.thresholds["spam"].value  # softer probabilities
    decided = [c.decide(c.probabilities(logits), names).tolist() for c in (first, both)]
    assert decided[0] == decided[1]  # of two classes the order of scores stays: the same examples
    assert both.facts()["calibrated"] is True and both.facts()["threshold_label"] == "spam"
    assert both.refit(logits, labels, names, temperature=False) == first
    assert both.refit(logits, labels, names, threshold="none").thresholds == {}
    other = both.refit(logits, labels, names, threshold="cost:2", label="ham")
    assert list(other.thresholds) == ["ham"]  # of one class each there is one threshold
    with pytest.raises(ConfigError, match=r"threshold_label: must be one of ham, spam, got 'spma'; fix: .*=spam"):
        both.refit(logits, labels, names, threshold="cost:2", label="spma")


def test_several_classes_keep_a_threshold_each():
    logits, labels = torch.randn(50, 2).double(), torch.randint(2, (50, 2))
    one = Calibration().refit(logits, labels, ["joy", "anger"], True, threshold="cost:1", label="joy")
    two = one.refit(logits, labels, ["joy", "anger"], True, threshold="cost:2", label="anger")
    assert list(two.thresholds) == ["joy", "anger"]
    assert {"threshold/joy", "threshold/anger"} <= set(two.facts())


def test_a_threshold_says_what_it_gave_and_on_how_many_rows(tmp_path):
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1]).double()
    logits = torch.stack([torch.zeros(5).double(), (scores / (1 - scores)).log()], 1)
    labels = torch.tensor([1, 1, 0, 0, 1])
    made = Calibration().refit(logits, labels, ["ham", "spam"], threshold="precision:0.7", label="spam")
    threshold = made.thresholds["spam"]
    assert (threshold.precision, threshold.recall, threshold.decided, threshold.positives) == (1, 2 / 3, 2, 3)
    assert str(threshold) == "threshold 0.75 (precision:0.7): precision 1 (2 of 2), recall 0.6667 (2 of 3)"
    assert made.facts()["threshold_val_precision"] == 1 and made.facts()["threshold_val_recall"] == 2 / 3
    (tmp_path / "calibration.json").write_bytes(made.content())
    assert Calibration.load(tmp_path / "calibration.json") == made
    never = Calibration().refit(logits, 1 - labels, ["ham", "spam"], threshold="cost:9", label="spam")
    assert str(never.thresholds["spam"]).endswith(
        "precision not defined (no text is classified as it), recall 0 (0 of 2)"
    )
    assert "threshold_val_precision" not in never.facts()
    older = '{"temperature": 1.0, "thresholds": {"spam": {"value": 0.4, "criterion": "cost:1"}}}'
    (tmp_path / "calibration.json").write_text(older)
    assert Calibration.load(tmp_path / "calibration.json").thresholds["spam"] == Threshold(0.4, "cost:1")


# The file


def test_the_file_holds_it_to_the_last_bit(tmp_path):
    path = tmp_path / "calibration.json"
    assert Calibration.load(path) == Calibration()
    calibration = Calibration(1.2345678901234567, {"späm": Threshold(0.1 + 0.2, "cost:5")})
    path.write_bytes(calibration.content())
    assert Calibration.load(path) == calibration
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"temperature": "x", "thresholds": {}}', '{"thresholds": 3}'])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"calibration.json: is damaged .*; fix: delete it, and calibrate again"):
        Calibration.load(path)
