"""Language modelling: documents that never see each other, exact shares of masked tokens, windows by hand."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import multihead
from multihead.cli import main
from multihead.config.compose import compose
from multihead.data.stream import Stream
from multihead.data.tokenizer import Tokenizer, train_tokenizer
from multihead.errors import ConfigError
from multihead.tasks import build_task
from multihead.tasks.base import IGNORED, EvaluationData
from multihead.text.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
TEXTS = ["the dog sees a cat", "a cat", "the cat sees the old dog here", "dogs", "she sees it"] * 4
WORDS = ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.num_encoder_layers=2", "model.dropout=0"]


@pytest.fixture(autouse=True)
def no_gradients(request):
    with torch.set_grad_enabled("run_of" in request.node.name):
        yield


def task(*words, max_len=16, kind="word"):
    words = [*WORDS, "model.num_decoder_layers=2", f"model.max_len={max_len}", f"tokenizer.kind={kind}", *words]
    composition = compose(["task=lm", "tokenizer.min_frequency=1", *words])
    torch.manual_seed(0)
    vocab = Vocabulary({"text": train_tokenizer(composition.config.tokenizer, TEXTS)})
    return build_task(composition.config, vocab, composition.plugin).eval()


def streamed(made, block_size, stride=0, texts=TEXTS):
    ids = [i for text in texts for i in [*made.tokenizer.encode_batch([text])[0], Tokenizer.eos_id]]
    return Stream(np.array(ids), Tokenizer.eos_id, 100, block_size=block_size, stride=stride)


@pytest.mark.parametrize("position", ["sinusoidal", "learned", "rotary", "alibi", "none"])
def test_with_boundaries_a_packed_document_is_as_it_is_alone(position):
    made = task("task.document_mask=true", f"model.position={position}", max_len=64)
    stream = streamed(made, 64)
    batch = made.collate(stream, np.array([0]))
    packed = made.hidden(batch["inputs"], batch["segments"])[0]
    place = 0
    for text in TEXTS[:5]:
        ids = made.tokenizer.encode_batch([text])[0]
        alone = made.hidden(torch.tensor([[Tokenizer.eos_id, *ids]]))[0]
        torch.testing.assert_close(packed[place : place + len(alone)], alone, atol=1e-5, rtol=1e-5)
        place += len(alone)
    without = task("task.document_mask=false", f"model.position={position}", max_len=64)
    without.load_state_dict(made.state_dict())
    apart = without.hidden(without.collate(stream, np.array([0]))["inputs"])[0]
    assert not torch.allclose(apart[10:20], packed[10:20], atol=1e-3)


def test_masked_documents_see_both_sides_of_themselves_alone():
    made = task("task.objective=masked", "task.document_mask=true", max_len=64)
    ids = [made.tokenizer.encode_batch([text])[0] for text in TEXTS[:3]]
    row = [i for document in ids for i in [*document, Tokenizer.eos_id]]
    segments = [n for n, document in enumerate(ids) for _ in range(len(document) + 1)]
    packed = made.hidden(torch.tensor([row]), torch.tensor([segments]))[0]
    start = len(ids[0]) + 1
    alone = made.hidden(torch.tensor([[*ids[1], Tokenizer.eos_id]]))[0]
    torch.testing.assert_close(packed[start : start + len(alone)], alone, atol=1e-5, rtol=1e-5)
    batch = made.collate(streamed(made, 64), np.array([0]))
    assert batch["segments"][0, : len(row)].tolist() == segments  # a document's mark belongs to it


LINEAR = [f"plugin={ROOT / 'docs' / 'examples' / 'linear_attention.py'}", "model.attention=linear"]
"""An attention that has one mask for all queries."""
BY_POSITION = [[f"model.position={name}"] for name in ("sinusoidal", "rotary", "alibi")]


@pytest.mark.parametrize(
    ("document_mask", "words"), [*itertools.product(("true", "false"), BY_POSITION), ("false", LINEAR)]
)
def test_a_masked_model_does_not_see_the_padding_of_the_last_block(document_mask, words):
    made = task("task.objective=masked", f"task.document_mask={document_mask}", *words, max_len=64)
    stream = streamed(made, 64)
    start = len(stream) - 40  # 24 places of padding
    batch = made.collate(stream, np.array([start]))
    batch |= {"inputs": batch["inputs"].clone()}
    shown = made.hidden(batch["inputs"], batch["segments"])[0, :40]
    cut = None if document_mask == "false" else batch["segments"][:, :40]
    torch.testing.assert_close(made.hidden(batch["inputs"][:, :40], cut)[0], shown, atol=1e-5, rtol=1e-5)
    full = made.collate(stream, np.array([0]))
    assert document_mask == "true" or full["segments"] is None


def test_of_a_prompt_that_is_too_long_the_end_is_continued():
    made = task(max_len=16)
    decoding = replace(made.config.decoding, max_new_tokens=6)
    long = "the dog " * 40 + "sees a cat"
    assert made.too_long([long, "the dog " * 7, "the dog " * 7 + "sees"]) == [True, False, True]
    for beams, kept in ((1, 15), (3, 10)):
        settings = replace(decoding, num_beams=beams)
        (outputs,) = made.predict([long], settings)
        assert outputs[0]["text"].strip()
        prompt = made.prompt(long, 1 if beams == 1 else 6)
        assert len(prompt) == kept and long.endswith(made.decode(prompt))


def test_of_a_prompt_that_leaves_no_room_for_beams_the_end_is_read():
    """Each prompt is followed by as many new tokens as are asked for, up to half of what the model reads."""
    made = task()
    for length in range(1, 20):
        prompt = "the dog sees " * 10
        text = " ".join(prompt.split()[:length])
        words = replace(made.config.decoding, num_beams=2, max_new_tokens=6, min_new_tokens=6)
        (found,) = made.predict([text], words)
        assert len(found[0]["text"].split()) == 6, length


def test_a_model_that_was_trained_on_short_blocks_sees_no_more():
    made = task("task.block_size=8", max_len=16)
    assert made.window == 8 and len(made.prompt("the dog " * 10)) == 7
    assert made.too_long(["the dog " * 4, "the dog sees"]) == [True, False]
    made.config.init_from = "hf:gpt2"  # weights that may know longer texts
    assert made.window == 16
    with pytest.raises(ConfigError, match=r"task.block_size: must be at most model.max_len=16, got 17"):
        task("task.block_size=17", max_len=16)


def test_exactly_the_rounded_share_is_masked_by_seed_epoch_and_block():
    made = task("task.objective=masked", "task.mask_share=0.2", max_len=16)
    stream = streamed(made, 16)
    starts = np.array([0, 16, -5, 32])
    batch, again, later = (made.collate(stream, starts, epoch) for epoch in (0, 0, 1))
    inside = (stream.windows(starts)[1] >= 0).sum(axis=1)
    assert (
        (batch["labels"] != IGNORED).sum(1).tolist()
        == [round(0.2 * n) for n in inside]
        == made.targets(inside).tolist()
    )
    assert torch.equal(batch["inputs"], again["inputs"]) and not torch.equal(batch["labels"], later["labels"])
    assert torch.equal(made.collate(stream, starts[1:2])["labels"][0], batch["labels"][1])  # whatever stands beside it


def test_eight_of_ten_show_the_mask_one_another_token_and_one_itself():
    made = task("task.objective=masked", "task.mask_share=0.5", max_len=1000)
    ids = np.random.default_rng(0).integers(6, made.tokenizer.vocab_size, size=100_000)
    stream = Stream(ids, Tokenizer.eos_id, 1, block_size=1000)
    batch = made.collate(stream, np.arange(100) * 1000)
    chosen = batch["labels"] != IGNORED
    shown, true = batch["inputs"][chosen], batch["labels"][chosen]
    assert len(true) == 50_000
    masked = (shown == Tokenizer.mask_id).double().mean()
    same = (shown == true).double().mean()
    by_chance = 0.1 / (made.tokenizer.vocab_size - 6)
    assert abs(masked - 0.8) < 0.01 and abs(same - 0.1 - by_chance) < 0.01
    assert torch.equal(batch["inputs"][~chosen], torch.from_numpy(ids.reshape(100, 1000))[~chosen])


def test_the_loss_is_the_mean_of_cross_entropy_and_parts_add_up():
    made = task()
    stream = streamed(made, 16)
    starts = np.array([0, 16, 32])
    batch = made.collate(stream, starts) | {"parts": 1, "targets_of_step": 48}
    loss = made.training_step(batch, 0)["loss"]
    _, labels = stream.windows(starts)
    logits = made.model.head(made.hidden(batch["inputs"]))
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).flatten()))
    parts = [made.collate(stream, starts[i : i + 1]) | {"parts": 3, "targets_of_step": 48} for i in range(3)]
    torch.testing.assert_close(sum(made.training_step(part, 0)["loss"] for part in parts) / 3, loss)
    empty = made.collate(stream, starts[:0]) | {"parts": 3, "targets_of_step": 48}
    assert made.training_step(empty, 0)["loss"] == 0


class Fake:
    """What of a trainer evaluation asks for."""

    world_size, global_rank, is_global_zero = 1, 0, False


@pytest.mark.parametrize("stride", [0, 4, 15])
def test_the_full_pass_is_a_sliding_window_over_every_token(stride):
    made = task(f"task.stride={stride}")
    stream = streamed(made, 16, stride)
    made._trainer, made.evaluation = Fake(), EvaluationData(streams={"test": stream})
    starts, scored_from = stream.evaluation()
    for first in range(0, len(starts), 3):
        part = slice(first, first + 3)
        batch = made.collate(stream, starts[part])
        batch |= {"scored_from": torch.from_numpy(scored_from[part]), "index": torch.from_numpy(starts[part])}
        made.evaluate_batch(batch, "test")
    samples = made.merged_samples(made.samples)
    metrics = made.finish_evaluation("test")

    ids, total = stream.read(0, len(stream)).tolist(), 0.0
    step = stride or 16
    for place, token in enumerate(ids):
        end = 16 if place < 16 else 16 + math.ceil((place - 15) / step) * step
        context = [Tokenizer.eos_id, *ids][max(0, end - 16) : place + 1]
        logits = made.model.head(made.hidden(torch.tensor([context])))[0, -1]
        total -= float(torch.log_softmax(logits, 0)[token])
    assert metrics["loss"] == pytest.approx(total / len(ids), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(total / len(ids)), rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / 100, rel=1e-5)
    assert sum(s["nats"] for s in samples) == pytest.approx(total, rel=1e-4)
    assert [s["tokens"] for s in samples] == [len(text.split()) + 1 for text in TEXTS]


def test_random_windows_are_the_mean_over_the_blocks_that_were_drawn():
    made = task("task.random_windows=40")
    stream = streamed(made, 16)
    made._trainer, made.evaluation = Fake(), EvaluationData(streams={"val": stream})
    drawn = stream.random_starts(40, made.config.seed)
    inputs, labels = stream.windows(drawn)
    logits = made.model.head(made.hidden(torch.from_numpy(inputs))).flatten(0, 1)
    expected = F.cross_entropy(logits, torch.from_numpy(labels).flatten())
    assert made._random_windows("val") == pytest.approx(float(expected), rel=1e-5)
    assert len(set(drawn.tolist())) > 10 and drawn.max() < len(stream) - 16


def test_score_is_the_probability_of_a_document_and_greedy_takes_the_best():
    made = task(max_len=64)
    text = "the dog sees"
    ids = [Tokenizer.eos_id, *made.tokenizer.encode_batch([text])[0], Tokenizer.eos_id]
    log_probs = torch.log_softmax(made.model.head(made.hidden(torch.tensor([ids[:-1]])))[0], -1)
    expected = sum(float(log_probs[i, token]) for i, token in enumerate(ids[1:]))
    assert made.score([text])[0] == pytest.approx(expected, rel=1e-5)
    made.config.decoding.max_new_tokens = 5
    outputs = made.predict([text, "", "a cat sees the"], made.config.decoding)
    assert [o[0]["text"] for o in outputs] == [
        made.predict([t], made.config.decoding)[0][0]["text"] for t in (text, "", "a cat sees the")
    ]
    shown = []
    streamed_outputs = made.stream(text, made.config.decoding, shown.append)
    assert "".join(shown) == streamed_outputs[0]["text"] == outputs[0][0]["text"]
    assert "\n" not in made.line([{"text": "a\nb"}]) and made.line([{"text": "a\nb"}]) == "a\\nb"


def test_a_masked_model_continues_nothing_and_long_texts_are_refused():
    masked = task("task.objective=masked")
    with pytest.raises(ConfigError, match=r"task\.objective: a masked language model fills gaps; it cannot continue"):
        masked.predict(["the"], masked.config.decoding)
    made = task(max_len=4)
    with pytest.raises(ConfigError, match="score: a text has 7 tokens, but the model reads at most 4"):
        made.score(["the dog sees the old cat"])


def test_a_validation_in_a_run_of_averaged_weights_is_all_of_them(tmp_path):
    words = ["task=lm", "debug=smoke", "model.max_len=64", "trainer.ema_decay=0.95", "optim.lr=0.01"]
    result = multihead.train([*words, f"run_dir={tmp_path / 'run'}", "task.random_windows=7"])
    assert result["best_step"] == 10
    assert main(["evaluate", f"run={tmp_path / 'run'}", "data.split=val"]) == 0
    again = json.loads((tmp_path / "run" / "evaluate_val.json").read_text())  # of the saved weights, the averaged ones
    for name in ("val/loss", "val/loss_random_windows"):
        assert result[name] == pytest.approx(again[name], rel=1e-5)


def test_a_run_of_each_objective_predicts_from_its_directory(tmp_path):
    words = ["task=lm", "debug=smoke", "model.max_len=64"]
    result = multihead.train([*words, f"run_dir={tmp_path / 'a'}", "task.stride=32", "task.random_windows=5"])
    assert {"test/loss", "test/perplexity", "test/bits_per_byte", "test/loss_random_windows"} <= set(result)
    run = multihead.load(tmp_path / "a")
    drawn = run.generate(["The"], do_sample=True, num_return_sequences=1, max_new_tokens=100, seed=3)
    assert drawn == run.generate(["The"], do_sample=True, max_new_tokens=100, seed=3)
    assert len(run.score(["The dog."])) == 1
    result = multihead.train([*words, f"run_dir={tmp_path / 'b'}", "task.objective=masked"])
    assert result["test/perplexity"] == pytest.approx(math.exp(result["test/loss"]))


def test_a_stop_string_with_a_blank_is_seen_at_the_first_word(monkeypatch):
    made = task(max_len=64)
    ids = made.tokenizer.encode_batch(["sees a cat a cat a"])[0]
    steps = iter(ids)
    logits = lambda hidden: 50.0 * F.one_hot(torch.tensor([next(steps)]), made.tokenizer.vocab_size)  # noqa: E731
    monkeypatch.setattr(made.model.head, "forward", logits)
    made.config.decoding.max_new_tokens = 6
    made.config.decoding.stop_strings = [" sees"]
    (found,) = made.predict(["the dog"], made.config.decoding)
    assert found[0]["text"] == "" and next(steps) == ids[1]  # one token was generated
