"""Translation: loss and score by hand, what is counted in an evaluation, and the limit on the length of outputs."""

import math
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from trial import ROOT

from multihead.config.compose import compose
from multihead.data.encode import encode_corpus
from multihead.data.tokenizer import train_tokenizer
from multihead.errors import ConfigError
from multihead.model.beam_search import Hypothesis
from multihead.plugin import load_plugin
from multihead.tasks import build_task
from multihead.tasks.base import EvaluationData
from multihead.text.targets import TargetText
from multihead.text.vocabulary import Vocabulary

SMALL = ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.num_encoder_layers=1", "model.max_len=64"]
SMALL += ["model.num_decoder_layers=2", "model.dropout=0", "tokenizer.kind=word", "tokenizer.min_frequency=1"]
SOURCES = ["the dog reads", "a cat", "the man sees the old dog", "no"]
TARGETS = ["der Hund liest", "eine Katze", "der Mann sieht den alten Hund", "nein"]
TOPOLOGIES = ["encoder_decoder", "decoder"]


def task(*words, targets=None, texts=SOURCES + TARGETS):
    config = compose(["task=translation", *SMALL, *words]).config
    tokenizer = train_tokenizer(config.tokenizer, texts, config.data.normalize)
    torch.manual_seed(0)
    vocab = Vocabulary(dict.fromkeys(("source", "target"), tokenizer), targets={"translation": targets or TargetText()})
    return build_task(config, vocab).eval()


def batch_of(made, rows):
    encoded = encode_corpus({"source": SOURCES, "target": TARGETS}, made.tokenizers)
    return made.collate(encoded, rows) | {"index": torch.tensor(rows), "targets_of_step": 40, "parts": 3}


def logits_one_by_one(made, row):
    """Logits [T, V] that predict a target and its end mark, from a pass of its own, and their labels."""
    encode = lambda role, text: made.tokenizers[role].encode_batch([text])[0]  # noqa: E731
    source, target = encode("source", SOURCES[row]), encode("target", TARGETS[row])
    transformer, head = made.model.transformer, made.model.head
    if made.decoder_only:
        ids = [made.bos, *source, made.sep, *target]
        logits = head(transformer.decode(torch.tensor([ids])))[0, len(source) + 1 :]
    else:
        memory = transformer.encode(torch.tensor([[*source, made.eos]]))
        logits = head(transformer.decode(torch.tensor([[made.bos, *target]]), memory=memory))[0]
    return logits, torch.tensor([*target, made.eos])


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_torchs_with_label_smoothing(topology, smoothing):
    made = task(f"task.topology={topology}", f"task.label_smoothing={smoothing}")
    with torch.no_grad():
        found = made.training_step(batch_of(made, [0, 2, 3]), 0)
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="sum")
        expected = sum(float(loss(*logits_one_by_one(made, row))) for row in (0, 2, 3))
    assert float(found["sum"]) == pytest.approx(expected, rel=1e-5)
    assert float(found["loss"]) == pytest.approx(expected * 3 / 40, rel=1e-5)


# ---- ensembles


def ensemble(*words):
    """A task joined with two others of other sizes, and the others by themselves."""
    made = task(*words)
    others = [task(*words, more) for more in ("model.d_model=48", "model.num_encoder_layers=2")]
    for other in others:
        other.model.requires_grad_(False)
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    made.join(others)
    return made, others


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.unhurried
@torch.no_grad()
def test_an_ensemble_evaluates_and_scores_the_mean_of_the_probabilities(topology):
    made, others = ensemble(f"task.topology={topology}")
    rows, nats, hits, labels = [0, 2, 3], [], [], []
    for row in rows:
        each = [logits_one_by_one(one, row) for one in (made, *others)]
        mean = torch.stack([logits.softmax(-1) for logits, _ in each]).mean(0).log()
        nats.append(nn.functional.nll_loss(mean, each[0][1], reduction="none"))
        hits.append(mean.argmax(-1) == each[0][1])
        labels.append(each[0][1])
    found_nats, found_hits, found_labels = made._teacher_forced(batch_of(made, rows))
    torch.testing.assert_close(found_nats, torch.cat(nats), rtol=1e-5, atol=1e-5)
    assert found_hits.equal(torch.cat(hits)) and found_labels.equal(torch.cat(labels))
    found = made.score([SOURCES[row] for row in rows], [TARGETS[row] for row in rows])
    assert found == pytest.approx([-float(each.sum()) for each in nats], rel=1e-5)


@torch.no_grad()
def test_an_ensemble_translates_as_its_score_says():
    """The search reports log p of what it found, and another pass over the whole target finds the same."""
    made, others = ensemble("decoding.max_new_tokens=6")
    decoding = made.config.decoding
    for source, [(_, found)] in zip(SOURCES, made.translate(SOURCES, decoding), strict=True):
        (source_ids,) = made.tokenizers["source"].encode_batch([source])
        ids = torch.tensor(found.ids if found.cut else [*found.ids, made.eos])
        log_probs = made.next_log_probs(source_ids, found.ids)[: len(ids)]
        assert found.log_prob == pytest.approx(float(log_probs.gather(1, ids[:, None]).sum()), abs=1e-4)
    alone = [one.predict(SOURCES, decoding) for one in (task(), *others)]
    assert made.predict(SOURCES, decoding) not in alone


def test_members_of_an_ensemble_must_fit():
    made = task()
    with pytest.raises(ConfigError, match="tokenizers of the source differ"):
        made.join([task(texts=TARGETS)])
    with pytest.raises(ConfigError, match="reads 31 tokens of the source, but run= reads 63"):
        made.join([task("model.max_len=32")])
    with pytest.raises(ConfigError, match=r"task\.topology=decoder, but run= has encoder_decoder"):
        made.join([task("task.topology=decoder")])
    config = compose(["task=lm", *SMALL]).config
    other = build_task(config, Vocabulary({"text": made.tokenizers["source"]}))
    with pytest.raises(ConfigError, match="got one of task=lm"):
        made.join([other])
    with pytest.raises(ConfigError, match="this run has task=lm"):
        other.join([made])
    assert not made.others


@pytest.mark.parametrize("words", [[], ["task.topology=decoder"], ["task.copy=true", "model.dropout=0.1"]])
def test_simcut_is_the_plugins_bit_for_bit(words):
    """tests/test_example_plugins.py compares the plugin with the formula."""
    plugin = load_plugin(str(ROOT / "docs" / "examples" / "plugins" / "simcut.py"))
    options = plugin.options["simcut"](alpha=2.0, cut=0.4)
    made = task("task.simcut_alpha=2", "task.simcut_cut=0.4", *words)
    batch = batch_of(made, [0, 2, 3])

    def result_of(loss):
        made.zero_grad()
        torch.manual_seed(3)
        found = loss()
        found.backward()
        return [found.detach(), *(p.grad.clone() for p in made.parameters())]

    made.train()
    ours = result_of(lambda: made.training_step(batch, 0)["loss"])
    theirs = result_of(lambda: made.step_loss(plugin.losses["simcut"](made, batch, options), batch)["loss"])
    plain = result_of(lambda: made.step_loss(made.model.head.loss(*made(batch), label_smoothing=0.1), batch)["loss"])
    assert all(map(torch.equal, ours, theirs)) and float(ours[0]) > float(plain[0])
    made.eval()
    alike = [made.training_step(batch, 0)["sum"], made.model.head.loss(*made(batch), label_smoothing=0.1)]
    assert torch.equal(*alike)  # outside of training there is one pass


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_score_is_of_the_target_and_its_end_mark_alone(topology):
    made = task(f"task.topology={topology}")
    for row in range(len(SOURCES)):
        with torch.no_grad():
            logits, labels = logits_one_by_one(made, row)
            expected = float(logits.log_softmax(-1)[torch.arange(len(labels)), labels].sum())
        assert made.score([SOURCES[row]], [TARGETS[row]])[0] == pytest.approx(expected, rel=1e-5)


def test_a_target_that_is_too_long_has_no_score():
    made = task("model.max_len=5")
    with pytest.raises(ConfigError, match=r"target: has 6 tokens, but the model writes at most 4"):
        made.score(SOURCES[2:3], TARGETS[2:3])


def outputs_of(monkeypatch, made, found):
    """Makes the search find these (text, whether it was cut) for the sources in order."""
    monkeypatch.setattr(
        made,
        "translate",
        lambda sources, decoding: [[(t, Hypothesis([], 0.0, 0.0, cut=cut))] for t, cut in found],
    )


def evaluated(made, rows=(0, 1, 2, 3), targets=TARGETS, split="test"):
    made.evaluation = replace(made.evaluation, texts={split: {"source": SOURCES, "target": targets}})
    with torch.no_grad():
        made.evaluate_batch(batch_of(made, list(rows)), split)
    return made.finish_evaluation(split)


def test_exact_matches_and_outputs_that_were_cut_are_counted(monkeypatch):
    made = task()
    outputs_of(monkeypatch, made, [(TARGETS[0], False), ("eine", True), ("der Mann", True), ("Nein", False)])
    metrics = evaluated(made)
    assert metrics["exact_match"] == 0.25 and metrics["cut_outputs"] == 0.5
    assert {"bits_per_byte", "bleu", "chrf", "bleu_lowercase"} <= set(metrics) and "ter" not in metrics
    again = evaluated(made)
    assert again == metrics  # the counts start anew


def test_bleu_lowercase_does_not_see_the_case(monkeypatch):
    texts = ["Der alte Mann sieht einen Hund", "Eine Frau kauft heute ein Buch", "Das Kind schläft im Haus", "Nein"]
    made = task()
    outputs_of(monkeypatch, made, [(text.lower(), False) for text in texts])
    for split in ("val", "test"):
        metrics = evaluated(made, targets=texts, split=split)
        assert 0 < metrics["bleu"] < 50 and metrics["bleu_lowercase"] == pytest.approx(100)


def test_words_of_one_letter_are_matched_exactly_where_bleu_is_0(monkeypatch):
    made = task()
    outputs_of(monkeypatch, made, [(text.split()[0], False) for text in TARGETS])
    metrics = evaluated(made, targets=[text.split()[0] for text in TARGETS])
    assert metrics["bleu"] == 0 and metrics["chrf"] == pytest.approx(100) and metrics["exact_match"] == 1


def test_references_are_in_the_form_that_outputs_have(monkeypatch):
    composed = ["Größe zählt für früher", "é", "ä ö", "nein"]
    decomposed = [unicodedata.normalize("NFD", text) for text in composed]
    for form, least, most in (("nfc", 100, 100), ("none", 0, 20)):
        made = task(f"data.normalize={form}")
        outputs_of(monkeypatch, made, [(text, False) for text in composed])
        metrics = evaluated(made, targets=decomposed)
        assert least - 1e-6 < metrics["bleu"] < most + 1e-6, form
        assert [sample["reference"] for sample in made.samples] == (composed if form == "nfc" else decomposed)


def test_bits_per_byte_are_left_out_where_tokens_are_unknown(monkeypatch):
    made = task()
    unknown = {"test": {"source": 0.5, "target": 0.125}, "val": {"source": 0.5, "target": 0.0}}
    made.evaluation = EvaluationData(unknown=unknown)
    outputs_of(monkeypatch, made, [(text, False) for text in TARGETS])
    metrics = evaluated(made)
    assert metrics["unknown_tokens"] == 0.125 and "bits_per_byte" not in metrics
    assert "bits_per_byte" in evaluated(made, split="val")


def test_bits_per_byte_are_of_targets_that_were_scored_as_a_whole(monkeypatch):
    made = task("model.max_len=5")  # the third target is cut
    encoded = encode_corpus({"source": SOURCES, "target": TARGETS}, made.tokenizers).cut(made.limits())
    made.evaluation = EvaluationData({"test": {"source": SOURCES, "target": TARGETS}})

    def bits(*rows):
        outputs_of(monkeypatch, made, [("", False)] * len(rows))
        batch = made.collate(encoded, np.array(rows)) | {"index": torch.tensor(rows)}
        with torch.no_grad():
            made.evaluate_batch(batch, "test")
        return made.finish_evaluation("test").get("bits_per_byte")

    assert bits(2) is None
    assert bits(0, 1, 2, 3) == pytest.approx(bits(0, 1, 3))
    (log_prob,) = made.score(SOURCES[:1], TARGETS[:1])
    assert bits(0) == pytest.approx(-log_prob / math.log(2) / (len(TARGETS[0]) + 1), rel=1e-5)


def test_ter_where_it_is_asked_for(monkeypatch):
    made = task("task.ter=true")
    outputs_of(monkeypatch, made, [(text, False) for text in TARGETS])
    assert evaluated(made)["ter"] == 0 and "ter" not in evaluated(made, split="val")
    assert set(made.signatures()) == {"signature", "chrf_signature", "ter_signature"}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("targets", "longest"), [(None, 2 * 3 + 10), (TargetText(5.0, 20), 5 * 3 + 20)])
def test_outputs_end_at_the_limit_that_the_training_split_gave(topology, targets, longest):
    made = task(f"task.topology={topology}", "decoding.min_new_tokens=60", targets=targets)  # the end mark never comes
    ids = made.tokenizers["source"].encode_batch(SOURCES[:1])
    ((found,),) = made.search(ids, made.config.decoding)
    assert len(found.ids) == longest and found.cut
    ((found,),) = made.search(ids, replace(made.config.decoding, min_new_tokens=0, max_new_tokens=4))
    assert len(found.ids) <= 4 and found.cut == (len(found.ids) == 4)


@pytest.mark.parametrize(
    ("words", "script", "expected"), [([], "zh", "zh"), ([], "13a", "13a"), (["task.bleu_tokenize=char"], "zh", "char")]
)
def test_the_tokenizer_of_bleu_is_that_of_the_targets_script(words, script, expected):
    made = task(*words, targets=TargetText(bleu_tokenize=script))
    assert f"|tok:{expected}|" in made.signatures()["signature"]
    assert made.scores["bleu_lowercase"].tokenize == expected
