"""Starting from another run: which numbers go where, whatever the two tasks are; what cannot be is refused."""

import json

import pytest
import torch
from trial import train as train_translation

import multihead
from multihead.config.compose import compose
from multihead.config.lora import LoraConfig
from multihead.config.model import ModelConfig
from multihead.config.training import OptimConfig
from multihead.data.tokenizer import train_tokenizer
from multihead.errors import CheckpointError, ConfigError
from multihead.model.lora import adapt
from multihead.model.optim import build_optimizer, freeze, layer_rates, lr_factor
from multihead.tasks import build_task
from multihead.text.vocabulary import Vocabulary
from multihead.training.transfer import (
    SAME,
    Source,
    _pattern,
    as_rows,
    copy_weights,
    read_source,
    tokenizers_from,
    transfer_table,
)

SIZES = [
    "model.d_model=32",
    "model.num_heads=2",
    "model.d_ff=64",
    "model.num_encoder_layers=2",
    "model.num_decoder_layers=2",
]
ENGLISH = ["the dog sees a cat", "a cat sees the dog", "the old man", "she sees it", "dogs and cats"] * 5
OTHERS = ["the dog eats a bone", "a man sees the river", "cats eat fish", "she and the dog"] * 5


def task(*words, texts=ENGLISH, labels=(), seed=0):
    config = compose([*words[:1], *SIZES, *words[1:], "tokenizer.kind=word", "tokenizer.min_frequency=1"]).config
    tokenizer = train_tokenizer(config.tokenizer, texts)
    roles = [role for part in config.task.members().values() for role in part.roles if role != "label"]
    torch.manual_seed(seed)
    return build_task(config, Vocabulary(dict.fromkeys(roles, tokenizer), list(labels))).eval()


def source_of(made):
    state = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    return Source("RUN", state, made.vocab, {name: getattr(made.config.model, name) for name in SAME})


def numbers(copied):
    return {row.part: (row.copied, row.resized, row.fresh) for row in copied}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_pattern_names_a_parameter_and_its_kind():
    names = ("transformer.decoder.layers.0.self_attention.query.weight", "transformer.decoder.embedding.weight")
    names += ("head.weight", "head.query.weight", "heads.lm.weight")
    patterns = ["*.self_attention.*", "*.embedding.*", "head.*", "head.query.*", "heads.lm.*"]
    assert [_pattern(name) for name in names] == patterns


def test_rows_of_embeddings_are_matched_by_token():
    old, new = task("task=lm"), task("task=lm", texts=OTHERS, seed=1)
    before = new.model.transformer.decoder.embedding.weight.clone()
    copied = copy_weights(new.model, new.vocab, source_of(old))
    ours, theirs = new.tokenizer.vocab, old.tokenizer.vocab
    shared = [entry for entry in ours if entry in theirs]
    assert {"the", "dog", "cats", "<eos>", "<mask>"} <= set(shared) and "bone" not in theirs
    after, source = new.model.transformer.decoder.embedding.weight, old.model.transformer.decoder.embedding.weight
    for number, entry in enumerate(ours):
        expected = source[theirs.index(entry)] if entry in theirs else before[number]
        assert torch.equal(after[number], expected), entry
    assert new.model.head.weight is after  # still tied
    assert numbers(copied)["decoder embedding"] == (0, 32 * len(shared), 32 * (len(ours) - len(shared)))
    assert f"{len(shared)} of {len(ours)} entries" in next(row.why for row in copied if row.part == "decoder embedding")


def test_a_word_spelt_like_a_special_entry_is_another_one():
    texts = ["the <unk> sees a <unk>", "a dog"] * 5
    old, new = task("task=lm", texts=texts), task("task=lm", texts=[*texts, "more words here"] * 2, seed=1)
    copy_weights(new.model, new.vocab, source_of(old))
    ours, theirs = (made.model.transformer.decoder.embedding.weight for made in (new, old))
    unk = new.tokenizer.unk_id
    assert torch.equal(ours[unk], theirs[unk])
    word = [made.tokenizer.encode_batch(["<unk>"])[0][0] for made in (new, old)]
    assert unk not in word and torch.equal(ours[word[0]], theirs[word[1]])


@pytest.mark.parametrize("ties", ["all", "none", "target_output"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("task=lm", "task=classification"),
        ("task=lm", "task=translation"),
        ("task=translation", "task=lm"),
        ("task=classification", "task=lm"),
        ("task=lm task.objective=masked", "task=classification"),
        ("task=lm task.objective=both", "task=classification"),
        ("task=multitask", "task=summarization"),
        ("task=translation", "task=multitask"),
    ],
)
@pytest.mark.unhurried
def test_the_table_adds_up_to_the_parameters(old, new, ties):
    labels = ["bad", "good"]
    source = source_of(task(*old.split(), f"model.tie_embeddings={ties}", labels=labels))
    made = task(*new.split(), f"model.tie_embeddings={ties}", labels=labels, texts=OTHERS, seed=1)
    copied = copy_weights(made.model, made.vocab, source)
    assert sum(sum(values) for values in numbers(copied).values()) == count(made.model)
    assert all(row.copied or row.resized for row in copied if row.part.endswith(("coder layers", "embedding")))
    assert all(row.why for row in copied if row.fresh)
    table = transfer_table(copied, "RUN")
    assert table.row_count == len(copied) + 1
    assert as_rows(copied)[0].keys() == {"part", "copied", "resized", "fresh", "why"}


def test_a_classifiers_encoder_is_the_language_models_decoder():
    old = task("task=lm", "model.position=rotary")
    new = task("task=classification", "model.position=rotary", labels=["a", "b"], seed=1)
    copied = copy_weights(new.model, new.vocab, source_of(old))
    ids = torch.tensor([[7]])  # of one token both see the same
    torch.testing.assert_close(new.model.transformer.encode(ids), old.model.transformer.decode(ids))
    assert next(row.why for row in copied if row.part == "encoder layers") == "from the decoder"
    causal = task("task=classification", "task.stack=decoder", "model.position=rotary", labels=["a", "b"], seed=2)
    copy_weights(causal.model, causal.vocab, source_of(old))
    ids = torch.tensor([[7, 8, 9, 6]])
    assert torch.equal(causal.model.transformer.decode(ids), old.model.transformer.decode(ids))


def test_heads_are_copied_where_they_mean_the_same():
    old = task("task=classification", labels=["bad", "good"])
    for labels, copied_whole in ((["bad", "good"], True), (["good", "bad"], False), (["x", "y", "z"], False)):
        new = task("task=classification", labels=labels, seed=1)
        row = numbers(copy_weights(new.model, new.vocab, source_of(old)))["head"]
        assert row == ((count(new.model.head), 0, 0) if copied_whole else (0, 0, count(new.model.head)))
        assert torch.equal(new.model.head.output.weight, old.model.head.output.weight) == copied_whole
    several = task("task=multitask", labels=["bad", "good"], seed=1)
    copy_weights(several.model, several.vocab, source_of(old))
    assert torch.equal(several.model.heads["classification"].output.weight, old.model.head.output.weight)


@pytest.mark.parametrize(
    ("words", "changes", "why"),
    [
        ([], {}, ""),
        ([], {"texts": OTHERS}, "another vocabulary: its n-grams are others"),
        (["model.ngram_buckets=30", "task.ngram_buckets=40"], {}, "is not"),
        (["model.ngram_buckets=0", "task.ngram_buckets=0"], {}, None),
        (["model.ngram_max=3"], {}, ""),  # pairs are where they were
    ],
)
def test_tables_of_ngrams_are_copied_where_their_rows_mean_the_same(words, changes, why):
    both = ["task=classification", "model.ngram_buckets=20", "task.ngram_buckets=50"]
    old = task(*both, labels=["bad", "good"])
    with torch.no_grad():
        old.model.transformer.encoder.ngrams.weight.normal_()
        old.model.head.ngrams.ratio.normal_()
    new = task(*both, *words, labels=["bad", "good"], seed=1, **changes)
    copied = {row.part: row.why for row in copy_weights(new.model, new.vocab, source_of(old))}
    if why is None:
        assert "encoder ngrams" not in copied
        return
    ours, theirs = dict(new.model.named_parameters()), dict(old.model.named_parameters())
    for name in ("transformer.encoder.ngrams.weight", "head.ngrams.ratio"):
        assert torch.equal(ours[name], theirs[name]) == (why == "")
        assert ours[name].any() == (why == "")
    assert why in copied["encoder ngrams"] and why in copied["head"]


def test_deeper_longer_and_crossed_models_keep_what_has_no_counterpart():
    old = task("task=lm", "model.position=learned", "model.max_len=16")
    new = task("task=translation", "model.position=learned", "model.max_len=24", "model.num_decoder_layers=3", seed=1)
    fresh = {name: p.clone() for name, p in new.model.named_parameters()}
    copied = copy_weights(new.model, new.vocab, source_of(old))
    ours, theirs = dict(new.model.named_parameters()), dict(old.model.named_parameters())
    name = "transformer.decoder.positions.weight"
    assert torch.equal(ours[name][:16], theirs[name]) and torch.equal(ours[name][16:], fresh[name][16:])
    third = "transformer.decoder.layers.2.feed_forward.up.weight"
    crossed = "transformer.decoder.layers.0.cross_attention.query.weight"
    assert torch.equal(ours[third], fresh[third]) and torch.equal(ours[crossed], fresh[crossed])
    why = {row.part: row.why for row in copied}
    assert why["decoder layers"] == "it has 2 layers" and why["decoder cross-attention"] == "it has no cross-attention"
    assert why["decoder positions"] == "16 of 24 positions" and why["encoder layers"] == "from the decoder"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 64}, r"init_from: RUN has model\.d_model=64, this run has 32; fix: model\.d_model=64"),
        ({"d_ff": 128}, r"RUN has model\.d_ff=128, this run has 64"),
        ({"num_heads": 4}, r"RUN has model\.num_heads=4, this run has 2"),
        ({"norm": "rms_norm"}, r"RUN has model\.norm=rms_norm, this run has layer_norm"),
        ({"position": "alibi"}, r"RUN has model\.position=alibi, this run has sinusoidal"),
    ],
)
def test_other_sizes_are_refused(change, message):
    made = task("task=lm")
    source = source_of(made)
    source.model |= change
    with pytest.raises(ConfigError, match=message):
        copy_weights(made.model, made.vocab, source)


@pytest.mark.parametrize("name", ["output_scale", "output_transform", "output_bias"])
def test_two_heads_over_the_vocabulary_must_agree_and_others_need_not(name):
    source = source_of(task("task=lm", f"model.{name}=true"))
    source.model[name] = True
    with pytest.raises(ConfigError, match=rf"RUN has model\.{name}=True, this run has False; fix: model.{name}=True"):
        made = task("task=lm")
        copy_weights(made.model, made.vocab, source)
    made = task("task=classification", "task.stack=decoder", labels=["a", "b"])
    copy_weights(made.model, made.vocab, source)
    made = task("task=lm", f"model.{name}=true")
    assert numbers(copy_weights(made.model, made.vocab, source))["decoder layers"][1:] == (0, 0)


@pytest.mark.parametrize("position", ["relative", "learned_relative"])
def test_biases_for_distances_do_not_go_over_to_the_other_stack(position):
    """Half of an encoder's biases are for later keys; a decoder has all of them for earlier ones."""
    source = source_of(task("task=lm", f"model.position={position}"))
    source.model["position"] = position
    made = task("task=classification", f"model.position={position}", labels=["a", "b"])
    name = "weight" if position == "relative" else "biases.weight"
    biases = made.model.get_parameter(f"transformer.encoder.positions.{name}")
    before = biases.detach().clone()
    (row,) = (row for row in copy_weights(made.model, made.vocab, source) if row.part == "encoder positions")
    assert torch.equal(biases, before) and "its rows are for other distances" in row.why
    assert row.fresh == before.numel()


def test_a_run_starts_from_another_and_outlives_it(tmp_path):
    train_translation(tmp_path / "first")
    words = ["task=lm", "debug=smoke", f"init_from={tmp_path / 'first'}", "init_tokenizer=same"]
    multihead.train([*words, f"run_dir={tmp_path / 'second'}"])
    first, second = multihead.load(tmp_path / "first"), multihead.load(tmp_path / "second")
    assert second.task.tokenizers["text"].fingerprint == first.task.tokenizers["source"].fingerprint
    events = [json.loads(line) for line in (tmp_path / "second" / "events.jsonl").read_text().splitlines()]
    parts = next(event["parts"] for event in events if event["event"] == "initialised")
    assert sum(part["copied"] + part["resized"] + part["fresh"] for part in parts) == count(second.model)
    other = ["task=classification", "debug=smoke", f"init_from={tmp_path / 'first'}", "init_tokenizer=same"]
    assert "test/accuracy" in multihead.train([*other, f"run_dir={tmp_path / 'classifier'}"])
    assert multihead.load(tmp_path / "classifier").classify(["The food was good."])
    (tmp_path / "first").rename(tmp_path / "gone")
    result = multihead.train([f"resume={tmp_path / 'second'}", "trainer.max_steps=12"])
    assert result["steps"] == 12
    with pytest.raises(ConfigError, match=r"init_from: .*first.* is not a run|init_from: .*no such"):
        multihead.train([*words, f"run_dir={tmp_path / 'third'}"])
    with pytest.raises(ConfigError, match=r"has model\.d_model=32, this run has 64"):
        multihead.train(["task=lm", "debug=smoke", f"init_from={tmp_path / 'gone'}", "model.d_model=64"])
    (tmp_path / "gone" / "model" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be loaded"):
        read_source(tmp_path / "gone")
    assert set(tokenizers_from(tmp_path / "gone", ["text", "source"])) == {"text", "source"}


def test_rates_fall_from_layer_to_layer():
    made = task("task=translation", "model.num_encoder_layers=3")
    names = [name for name, _ in made.model.named_parameters()]
    rates = dict(zip(names, layer_rates(names, 0.5), strict=True))
    assert rates["transformer.encoder.layers.2.feed_forward.up.weight"] == 1
    assert rates["transformer.encoder.layers.1.self_attention.query.bias"] == 0.5
    assert rates["transformer.encoder.layers.0.feed_forward_norm.weight"] == 0.25
    assert rates["transformer.encoder.embedding.weight"] == 0.25
    assert rates["transformer.decoder.layers.0.cross_attention.key.weight"] == 0.5
    assert rates["transformer.encoder.norm.weight"] == rates["transformer.decoder.norm.bias"] == 1
    config = OptimConfig(name="muon", lr=2e-3, muon_lr=0.04, layer_decay=0.5, warmup_steps=0, schedule="constant")
    groups = build_optimizer(made.model.named_parameters(), config, fused=False).param_groups
    assert sorted({group["lr"] for group in groups if group["kind"] == "muon"}) == [0.01, 0.02, 0.04]
    assert sorted({group["lr"] for group in groups if group["kind"] == "adamw"}) == [5e-4, 1e-3, 2e-3]
    assert sum(len(group["params"]) for group in groups) == len(names) and lr_factor(config, 10, 3) == 1
    freeze(made.model.named_parameters(), ["*.layers.*"])  # frozen layers still count
    groups = build_optimizer(made.model.named_parameters(), config, fused=False).param_groups
    embedding = made.model.transformer.encoder.embedding.weight
    assert next(g["lr"] for g in groups if any(p is embedding for p in g["params"])) == 5e-4


@pytest.mark.unhurried
def test_frozen_parameters_stay():
    made = task("task=lm")
    named = dict(made.model.named_parameters())
    frozen = freeze(named.items(), ["*.layers.0.*", "*embedding*"])
    assert {name for name, p in named.items() if not p.requires_grad} == set(frozen)
    before = {name: p.clone() for name, p in named.items()}
    optimizer = build_optimizer(named.items(), OptimConfig(lr=0.1), fused=False)
    made.model.transformer.decode(torch.tensor([[7, 8, 9]])).square().sum().backward()
    optimizer.step()
    moved = {name for name, p in named.items() if not torch.equal(p, before[name])}
    assert moved and not moved & set(frozen)
    tied = task("task=lm")
    freeze(tied.model.named_parameters(remove_duplicate=False), ["head.*"])
    assert not tied.model.transformer.decoder.embedding.weight.requires_grad
    with pytest.raises(ConfigError, match=r"optim\.freeze: no parameter is named head\.x; the nearest name is"):
        freeze(named.items(), ["head.x"])
    with pytest.raises(ConfigError, match=r"optim\.freeze: all parameters are frozen"):
        freeze(named.items(), ["*"])
    tied = task("task=lm")  # the head's weight is the embedding, under another name
    with pytest.raises(ConfigError, match=r"optim\.freeze: all parameters are frozen"):
        freeze(tied.model.named_parameters(remove_duplicate=False), ["transformer.*"])


def test_what_no_run_trains_need_not_be_in_the_source_of_adapters():
    source = source_of(task("task=classification", labels=["a", "b"]))
    made = task("task=classification", "task.ngram_buckets=100", labels=["a", "b"])
    adapt(made.model, LoraConfig(r=2))
    assert not made.model.get_parameter("head.ngrams.ratio").requires_grad  # log-count ratios
    assert sum(row.copied for row in copy_weights(made.model, made.vocab, source)) > 0
    del source.state["transformer.encoder.layers.1.feed_forward.up.weight"]
    with pytest.raises(
        ConfigError, match=r"RUN does not have all of transformer\.encoder\.layers\.1\.feed_forward\.up"
    ):
        copy_weights(made.model, made.vocab, source)


def test_what_must_agree_is_a_field_of_the_model():
    assert set(SAME) <= set(ModelConfig.__slots__)
