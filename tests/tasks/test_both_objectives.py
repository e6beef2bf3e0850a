"""task.objective=both: one decoder that is causal in some blocks and sees both sides in others."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import multihead
from multihead.cli import main
from multihead.config.compose import compose
from multihead.data.stream import BlockPlan, Stream
from multihead.data.tokenizer import Tokenizer, train_tokenizer
from multihead.errors import ConfigError
from multihead.tasks import build_task
from multihead.tasks.base import IGNORED, EvaluationData
from multihead.text.vocabulary import Vocabulary

WORDS = ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.dropout=0", "tokenizer.kind=word",
         "model.num_encoder_layers=2", "model.num_decoder_layers=2", "model.max_len=16"]  # fmt: skip
TEXTS = ["the dog sees a cat", "a cat", "the cat sees the old dog here", "dogs", "she sees it"]
EOS, MASK = Tokenizer.eos_id, Tokenizer.mask_id
POSITIONS = ["sinusoidal", "learned", "rotary", "alibi", "none"]


def task(*words, objective="both"):
    words = [f"task.objective={objective}", *WORDS, "tokenizer.min_frequency=1", *words]
    config = compose(["task=lm", *words]).config
    torch.manual_seed(0)
    made = build_task(config, Vocabulary({"text": train_tokenizer(config.tokenizer, TEXTS)}))
    return made.double().eval()


def with_weights_of(made, *words, objective="causal"):
    other = task(*words, objective=objective)
    state = made.state_dict()
    if objective == "masked":
        state = {name.replace(".decoder.", ".encoder."): x for name, x in state.items()}
    other.load_state_dict(state)
    return other


def running(made, length=1000, size=16, stride=0):
    ids = np.random.default_rng(0).integers(6, made.tokenizer.vocab_size, size=length)
    ids[::7] = EOS
    return Stream(ids, EOS, 3 * length, block_size=size, stride=stride)


def test_a_hidden_token_is_predicted_at_the_position_before_it():
    made = task("task.mask_share=0.25", "task.masked_blocks=1")
    stream = running(made)
    starts = np.arange(0, 960, 16)
    batch, again, later = (made.collate(stream, starts, epoch) for epoch in (0, 0, 1))
    inputs, labels = map(torch.from_numpy, stream.windows(starts))  # of a causal model
    hidden = batch["labels"] != IGNORED
    assert (hidden.sum(1) == 4).all() and hidden[:, -1].any()  # 25 % of 16, the last one too
    assert torch.equal(batch["labels"][hidden], labels[hidden])
    changeable = torch.zeros_like(hidden)
    changeable[:, 1:] = hidden[:, :-1]
    assert torch.equal(batch["inputs"][~changeable], inputs[~changeable])
    assert 0.7 < (batch["inputs"][changeable] == MASK).double().mean() < 0.9
    assert torch.equal(batch["inputs"], again["inputs"]) and not torch.equal(batch["labels"], later["labels"])
    alone = made.collate(stream, starts[5:6], 0)
    assert torch.equal(alone["inputs"][0], batch["inputs"][5]) and torch.equal(alone["labels"][0], batch["labels"][5])


def test_the_last_tokens_of_a_text_are_padded_and_hidden_by_their_number():
    made = task("task.mask_share=0.5", "task.masked_blocks=1")
    stream = running(made, length=42)
    batch = made.collate(stream, np.array([-6, 32]), 0)
    assert (batch["labels"] != IGNORED).sum(1).tolist() == [5, 5]  # half of 10 tokens
    assert (batch["inputs"][0, :6] == Tokenizer.pad_id).all() and (batch["inputs"][1, 10:] == Tokenizer.pad_id).all()
    shown = made.hidden(batch["inputs"], batch["segments"], batch["bidirectional"])[1, :10]
    cut = made.hidden(batch["inputs"][1:, :10], bidirectional=True)[0]
    torch.testing.assert_close(shown, cut)


@pytest.mark.parametrize(("share", "batch"), [(0.9375, 16 * 16), (0.75, 10 * 16), (0.5, 3 * 16), (0.9375, 4 * 16)])
def test_each_step_has_the_share_of_masked_blocks_and_knows_its_targets(share, batch):
    made = task(f"task.masked_blocks={share}")
    stream = running(made, length=16 * 200)
    plan = BlockPlan(stream, batch_tokens=batch, part_tokens=batch, seed=1, targets=made.targets)
    causal = []
    for epoch in range(3):
        masked, blocks = 0, 0
        for step in plan.steps(epoch):
            rows = made.masked_of(step.indices)
            assert abs(rows.sum() - share * len(rows)) < 2
            masked, blocks = masked + rows.sum(), blocks + len(rows)
            assert (made.collate(stream, step.indices, epoch)["labels"] != IGNORED).sum() == step.targets
            places = np.arange(16) + step.indices[~rows][:, None]
            causal += [set(places.flatten().tolist())]
        assert abs(masked - share * blocks) < 2 and blocks == plan.num_blocks
    assert len(set.union(*causal)) > 1.3 * (1 - share) * len(stream)  # other text than in the first epoch


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_in_one_batch_causal_rows_look_back_and_masked_rows_look_both_ways(position):
    made = task(f"model.position={position}")
    ids = torch.randint(6, made.tokenizer.vocab_size, (1, 9)).repeat(2, 1)
    changed = ids.clone()
    changed[:, 6] = torch.where(ids[:, 6] == 7, 8, 7)
    rows = torch.tensor([False, True])
    before, after = (made.hidden(x, bidirectional=rows) for x in (ids, changed))
    torch.testing.assert_close(before[0, :6], after[0, :6], rtol=0, atol=1e-12)
    assert not torch.isclose(before[0, 6:], after[0, 6:]).all(-1).any()
    assert not torch.isclose(before[1], after[1]).all(-1).any()
    causal = with_weights_of(made, f"model.position={position}")
    torch.testing.assert_close(before[:1], causal.hidden(ids[:1]))
    encoder = with_weights_of(made, f"model.position={position}", objective="masked")
    torch.testing.assert_close(before[1:], encoder.hidden(ids[1:]))  # masked rows are those of an encoder
    torch.testing.assert_close(before[1:], made.hidden(ids[1:], bidirectional=True))


@pytest.mark.parametrize("document_mask", ["false", "true"])
@torch.no_grad()
def test_causal_blocks_are_those_of_a_causal_model(document_mask):
    words = [f"task.document_mask={document_mask}", "model.position=rotary"]
    made = task(*words, "task.masked_blocks=0.5")
    causal, stream = with_weights_of(made, *words), running(made)
    starts = np.arange(-5, 1000, 16)  # the first and the last block are padded
    mixed, plain = (each.collate(stream, starts, 3) for each in (made, causal))
    rows = ~mixed["bidirectional"]
    assert rows.any() and not rows.all() and rows[0] != mixed["bidirectional"][0]
    assert torch.equal(mixed["inputs"][rows], plain["inputs"][rows])
    assert torch.equal(mixed["labels"][rows], plain["labels"][rows])
    ours = made.hidden(mixed["inputs"], mixed["segments"], mixed["bidirectional"])[rows]
    torch.testing.assert_close(ours, causal.hidden(plain["inputs"], plain["segments"])[rows])
    none = with_weights_of(made, *words, "task.masked_blocks=0", objective="both")
    for (logits, labels), (expected, tokens) in [
        (none.logits_and_labels(none.collate(stream, starts, 3)), causal.logits_and_labels(plain))
    ]:
        assert torch.equal(logits, expected) and torch.equal(labels, tokens)


@torch.no_grad()
def test_a_masked_document_is_as_it_is_alone():
    made = task("task.document_mask=true", "task.masked_blocks=1", "model.max_len=64")
    documents = [[EOS, *made.tokenizer.encode_batch([text])[0]] for text in TEXTS[:3]]
    row = torch.tensor([[i for document in documents for i in document]])
    segments = torch.tensor([[n for n, document in enumerate(documents) for _ in document]])
    packed = made.hidden(row, segments, True)[0]
    alone = made.hidden(torch.tensor([documents[1]]), bidirectional=True)[0]
    start = len(documents[0])
    torch.testing.assert_close(packed[start : start + len(alone)], alone)
    stream = Stream(np.array([*row[0, 1:].tolist(), EOS]), EOS, 9, block_size=row.size(1))
    batch = made.collate(stream, np.array([0]), 0)
    assert batch["segments"].tolist() == (segments + 1).tolist()  # also if the token before a document is hidden


def test_the_loss_is_a_sum_over_targets_and_micro_batches_add_up():
    made = task("task.masked_blocks=0.5", "task.mask_share=0.3")
    stream = running(made)
    plan = BlockPlan(stream, batch_tokens=20 * 16, part_tokens=20 * 16, seed=1, targets=made.targets)
    step = plan.steps(0)[0]

    def gradients(count):
        made.zero_grad()
        for indices in plan.micro_batches(step, count):
            batch = made.collate(stream, indices, 0) | {"parts": count, "targets_of_step": step.targets}
            (made.training_step(batch, 0)["loss"] / count).backward()  # as Lightning divides
        return {name: p.grad.clone() for name, p in made.named_parameters()}

    whole = gradients(1)
    for count in (3, 7, 25):  # the last ones of 25 are empty
        torch.testing.assert_close(gradients(count), whole)
    batch = made.collate(stream, step.indices, 0)
    assert (batch["labels"] != IGNORED).sum() == step.targets
    logits = made.model.head(made.hidden(batch["inputs"], batch["segments"], batch["bidirectional"]))
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
    made.zero_grad()
    expected.backward()
    torch.testing.assert_close({name: p.grad for name, p in made.named_parameters()}, whole)


def evaluated(made, stream, split):
    made.evaluation = EvaluationData(streams={split: stream})
    starts, scored_from = stream.evaluation()
    for first in range(0, len(starts), 3):
        part = slice(first, first + 3)
        batch = made.collate(stream, starts[part])
        batch |= {"scored_from": torch.from_numpy(scored_from[part]), "index": torch.from_numpy(starts[part])}
        made.evaluate_batch(batch, split)
    made.evaluate_batch(made.collate(stream, starts[:0]) | {"index": torch.tensor([])}, split)  # as some ranks get it
    samples = made.merged_samples(made.samples)
    return made.finish_evaluation(split), samples


@pytest.mark.unhurried
@torch.no_grad()
def test_evaluation_scores_every_token_as_a_causal_model_and_hidden_tokens_beside_it():
    words = ["task.mask_share=0.25", "task.stride=8", "task.random_windows=9"]
    made = task(*words)
    stream = running(made, length=200, stride=8)
    metrics, samples = evaluated(made, stream, "test")
    expected, theirs = evaluated(with_weights_of(made, *words), stream, "test")
    assert {name: metrics[name] for name in expected} == expected and samples == theirs
    assert set(metrics) - set(expected) == {"masked_loss", "masked_token_accuracy"}

    every = with_weights_of(made, *words, "task.masked_blocks=1", objective="both")
    starts, scored_from = stream.evaluation()
    batch = every.collate(stream, starts, 0)  # what a training on masked blocks alone sees
    labels = torch.where(torch.arange(16) < torch.from_numpy(scored_from)[:, None], IGNORED, batch["labels"])
    logits = made.model.head(made.hidden(batch["inputs"], batch["segments"], True))
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert metrics["masked_loss"] == pytest.approx(float(loss), rel=1e-5)
    hits = (logits.argmax(-1) == labels)[labels != IGNORED].double().mean()
    assert metrics["masked_token_accuracy"] == pytest.approx(float(hits))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["task.masked_blocks=1.5"], r"task\.masked_blocks: must be in \[0, 1\]"),
        (["model.position=relative"], r"model\.position: must be another scheme if task\.objective=both"),
        (["model.position=learned_relative"], r"model\.position: must be another scheme if task\.objective=both"),
        (["task.objective=causal", "task.monitor=val/masked_loss"], r"task\.monitor: must be another metric, because"),
        (["task.objective=masked", "task.monitor=val/bits_per_byte"], r"masked scores hidden tokens only"),
    ],
)
def test_what_cannot_be_both_is_refused(words, what):
    with pytest.raises(ConfigError, match=what):
        compose(["task=lm", "task.objective=both", *words])


def test_an_attention_that_looks_back_only_is_refused(tmp_path, capsys):
    plugin = Path(multihead.__file__).parent / "commands" / "templates" / "causal_attention.py"
    words = ["task=lm", "task.objective=both", f"plugin={plugin}", "model.attention=my_causal_attention"]
    assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "model.attention: must be another one if task.objective=both" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_a_mask_is_refused(monkeypatch):
    monkeypatch.setattr(Tokenizer, "has_mask", False)
    with pytest.raises(ConfigError, match=r"task\.objective: both needs a token that hides others"):
        task()


def test_a_run_of_both_reports_both_and_continues_texts(runs, tmp_path, capsys):
    words = ["task=lm", "task.objective=both", "task.masked_blocks=0.5", "model.max_len=64"]
    result, run_dir = runs.result(*words), runs.finished(*words)
    for split in ("val", "test"):
        assert {f"{split}/{name}" for name in ("loss", "perplexity", "bits_per_byte", "masked_loss")} <= set(result)
        assert result[f"{split}/perplexity"] == pytest.approx(math.exp(result[f"{split}/loss"]))
    run = multihead.load(run_dir)
    assert len(run.generate(["The"], max_new_tokens=3)) == 1 and len(run.score(["The dog."])) == 1
    copy = runs.copy(tmp_path / "run", *words)
    assert main(["evaluate", f"run={copy}", "data.split=val"]) == 0
    again = json.loads((copy / "evaluate_val.json").read_text())
    for name in ("val/loss", "val/masked_loss"):
        assert again[name] == pytest.approx(result[name], rel=1e-5)
    words = ["task=classification", "debug=smoke", "model.max_len=64", f"init_from={run_dir}"]
    started = multihead.train([*words, f"run_dir={tmp_path / 'classes'}"])
    assert "test/accuracy" in started


@pytest.mark.slow
def test_both_losses_fall(tmp_path):
    words = ["task=lm", "task.objective=both", "task.masked_blocks=0.75", "model=tiny", "trainer.max_steps=400",
             "trainer.val_every_n_steps=100", "optim.lr=0.003", "model.max_len=64"]  # fmt: skip
    multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    curve = multihead.load(tmp_path / "run").metrics
    for name in ("val/loss", "val/masked_loss"):
        values = curve[name].dropna().tolist()
        assert values == sorted(values, reverse=True) and values[-1] < 0.95 * values[0]
