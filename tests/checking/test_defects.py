"""The doctor finds each seeded defect by name, and says nothing about healthy models."""

import copy
import dataclasses
from pathlib import Path

import defects
import pytest

from multihead.checking.examination import CHECKS, examine
from multihead.checking.look import Mismatch, Pair, blame, difference, first_mismatch, whole
from multihead.checking.outcome import FINDING
from multihead.checking.subject import Subject, subjects, without_parts
from multihead.config.compose import compose
from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import load_plugin

FILE = Path(defects.__file__)
ROOT = FILE.parent.parent.parent
SIZES = ["model.d_model=16", "model.num_heads=2", "model.d_ff=32", "model.max_len=64", "tokenizer.vocab_size=300"]
EXPENSIVE = ("widths", "export", "cost")
"""Checks of which no defect depends; other tests run them."""


@pytest.fixture(scope="module")
def healthy():
    """A tiny translation model of our own parts, whose data and tokenizers all tests share."""
    return subjects(compose(["task=translation", *SIZES]))[0]


def changed(healthy: Subject, plugin, words=None, **model) -> tuple[Subject, Subject | None]:
    """The same model with other values of keys, or below model., and its baseline."""
    config = copy.deepcopy(healthy.config)
    for key, value in (words or {}).items():
        node, _, name = key.partition(".")
        setattr(getattr(config, node), name, value)
    config.model = dataclasses.replace(config.model, **model)
    theirs = without_parts(config)
    subject = Subject(config, plugin, healthy.prepared)
    return subject, None if theirs is None else Subject(theirs, plugin, healthy.prepared)


DEFECTS = defects.all_defects()
NO_PLACE = ("wrong_shape", "batch_statistics", "forgets_memory", "skips_the_last", "mean")
"""Defects that show themselves in another class than that of the defect, or in no module."""


def test_there_are_enough_defects():
    assert len(DEFECTS) >= 40
    untested = {"documents", "reload", *EXPENSIVE}  # tested below and in test_doctor.py
    assert {check for *_, check in DEFECTS} | untested == set(CHECKS)


@pytest.mark.unhurried
@pytest.mark.parametrize(("key", "name", "cls", "check"), DEFECTS, ids=[name for _, name, _, _ in DEFECTS])
def test_a_defect_is_found_by_name_and_place(healthy, key, name, cls, check):
    plugin = load_plugin(str(FILE))
    options = {"position": "none"} if name == "wrong_places" else {}
    subject, baseline = changed(healthy, plugin, {key: name}, **options)
    (outcome,) = examine(subject, baseline, [check])
    assert outcome.status == FINDING
    (finding, *_) = outcome.findings
    assert finding.expected.endswith(".") and finding.found
    if name not in NO_PLACE:
        assert cls.__name__ in finding.where and FILE.name in finding.where
    if check in ("causality", "padding", "batch", "cache"):
        assert finding.smallest.startswith(
            ("1 text", "text ", "an encoder's text of 1 token", "a decoder's text of 1 token")
        )


@pytest.mark.unhurried
def test_a_healthy_plugin_raises_no_alarm(healthy):
    subject, baseline = changed(healthy, load_plugin(str(FILE)), attention="plain")
    outcomes = list(examine(subject, baseline, [name for name in CHECKS if name not in EXPENSIVE]))
    assert {outcome.name: outcome.text for outcome in outcomes if outcome.status == FINDING} == {}


AGREEMENTS = ["outputs", "causality", "padding", "batch", "cache", "order", "lengths"]
VARIANTS = [
    {"position": "learned", "norm": "rms_norm", "norm_placement": "post"},
    {"position": "rotary", "num_kv_heads": 1, "qk_norm": True, "activation": "swiglu"},
    {"position": "alibi", "bias": False},
    {"position": "relative", "share_layers": True},
    {"position": "none", "ngram_buckets": 30},
]


@pytest.mark.unhurried
@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: options["position"])
def test_our_own_variants_raise_no_alarm(healthy, options):
    subject, _ = changed(healthy, None, **options)
    outcomes = list(examine(subject, None, AGREEMENTS))
    assert {outcome.name: outcome.findings for outcome in outcomes if outcome.status == FINDING} == {}


@pytest.mark.unhurried
@pytest.mark.parametrize("task", ["lm", "classification"])
def test_the_example_of_the_guide_raises_no_alarm(task):
    file = ROOT / "docs" / "examples" / "linear_attention.py"
    words = [f"plugin={file}", f"task={task}", "model.attention=linear", *SIZES]
    subject, baseline, _ = subjects(compose(words))
    outcomes = list(examine(subject, baseline, AGREEMENTS))
    assert {outcome.name: outcome.findings for outcome in outcomes if outcome.status == FINDING} == {}


@pytest.mark.unhurried
def test_dropout_repeats_and_resumes(healthy):
    """Dropout draws the same numbers again, in a second training and after a break."""
    subject, _ = changed(healthy, None, dropout=0.2, attention_dropout=0.1)
    outcomes = list(examine(subject, None, ["evaluation", "repeat", "resume", "micro_batches"]))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 4
    assert outcomes[0].text == "same bits twice; dropout acts in training only"


def test_packed_documents_that_see_each_other_are_found():
    """The example's linear attention takes the mask of the last query for all, so the first document sees nothing."""
    file = ROOT / "docs" / "examples" / "linear_attention.py"
    words = ["task=lm", "task.document_mask=true", *SIZES]
    (ours,) = examine(subjects(compose(words))[0], None, ["documents"])
    assert ours.status == "ok"
    subject, baseline, _ = subjects(compose([f"plugin={file}", "model.attention=linear", *words]))
    (theirs,) = examine(subject, baseline, ["documents"])
    assert theirs.status == FINDING and "LinearAttention" in theirs.findings[0].where


def test_an_order_that_is_lost_is_found(healthy):
    """An encoder whose positions do nothing is a bag of words, which the option none says and others deny."""
    subject, _ = changed(healthy, None, position="sinusoidal")
    subject.exact.model.transformer.encoder.positions.weight.zero_()
    (outcome,) = examine(subject, None, ["order"])
    assert outcome.status == FINDING and "bag of words" in outcome.findings[0].found


def test_a_random_constant_is_not_reloaded(healthy):
    subject, baseline = changed(healthy, load_plugin(str(FILE)), feed_forward="unregistered_buffer")
    (outcome,) = examine(subject, baseline, ["reload"])
    assert outcome.status == FINDING and "UnregisteredBuffer" in outcome.findings[0].where


def test_after_the_first_error_nothing_else_runs(healthy):
    subject, baseline = changed(healthy, load_plugin(str(FILE)), feed_forward="wrong_shape")
    outcomes = list(examine(subject, baseline))
    assert [outcome.status for outcome in outcomes] == [FINDING, *["skipped"] * (len(CHECKS) - 1)]


def test_checks_that_compare_passes_wait_for_equal_passes(healthy):
    subject, baseline = changed(healthy, load_plugin(str(FILE)), feed_forward="random_in_evaluation")
    outcomes = list(examine(subject, baseline, ["evaluation", "causality"]))
    assert [outcome.status for outcome in outcomes] == [FINDING, "skipped"]


def test_differences():
    import torch

    a = torch.tensor([1.0, -4.0])
    assert difference(a, torch.tensor([1.0, -3.0])) == 0.25
    assert difference(a, a[:1]) == difference(a, torch.tensor([1.0, torch.nan])) == float("inf")
    assert difference(torch.zeros(2), torch.zeros(2)) == 0 and difference(torch.zeros(1), torch.ones(1)) == float("inf")


def test_the_module_that_makes_a_difference_is_named(healthy):
    """Its inputs agree and its output does not; the modules after it only pass the difference on."""
    import torch

    task = healthy.exact
    layer = task.model.transformer.encoder.layers[1].feed_forward
    assert not isinstance(layer, MultiHeadAttention)

    def second():
        hook = layer.down.register_forward_hook(lambda module, x, y: 2 * y)
        try:
            return healthy.hidden(task, "encoder")
        finally:
            hook.remove()

    pair = Pair("", lambda: healthy.hidden(task, "encoder"), second, whole, whole)
    with torch.no_grad():
        mismatch = first_mismatch(task.model, [pair], 1e-6)
    assert isinstance(mismatch, Mismatch)
    place = blame(task.model, pair, 1e-6)
    assert place.startswith("transformer.encoder.layers.1.feed_forward (FeedForward, multihead/model/transformer.py:")
