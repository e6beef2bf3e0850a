"""A tokenizer for each side of a translation: in the run directory, in predictions, and on the way back."""

import json

import pytest

import multihead
from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.errors import ConfigError

SIDES = ["tokenizer.kind=word", "tokenizer.min_frequency=1", "tokenizer.source.kind=char",
         "tokenizer.target.lowercase=true", "model.tie_embeddings=target_output"]  # fmt: skip
SMALL = ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.num_encoder_layers=1",
         "model.num_decoder_layers=1", "model.dropout=0"]  # fmt: skip


def write(folder):
    """Words to the names of their letters, as a pronunciation is: abc to A-b-c without hyphens."""
    words = ["".join("abcdefgh"[(i * step + j) % 8] for j in range(2 + i % 4)) for i in range(8) for step in (1, 3, 5)]
    lines = [f"{word}\t{' '.join(f'S{char}' for char in word)}" for word in dict.fromkeys(words)]
    (folder / "sounds.tsv").write_text("word\tpronunciation\n" + "\n".join(lines) + "\n")
    return f"data={folder / 'sounds.tsv'}"


def test_each_side_has_its_tokenizer_with_the_defaults_of_both(tmp_path):
    words = ["task=translation", write(tmp_path), *SIDES, "data.cache=false"]
    found = prepare(compose(words), ("train", "val", "test"))
    source, target = (found.vocab.tokenizers[role] for role in ("source", "target"))
    assert source.kind == "char" and len(source.encode_batch(["abc"])[0]) == 3
    assert target.kind == "word" and target.decode_batch(target.encode_batch(["Sa Sb"])) == ["sa sb"]
    assert {"a", "b"} <= {*source.vocab} and "sa" in target.vocab and "sa" not in source.vocab
    settings = compose(words).config.tokenizer
    assert settings.of("source").min_frequency == 1 and not settings.of("source").lowercase
    assert settings.of("text") == settings.of("other")


@pytest.mark.unhurried
def test_a_run_keeps_both_and_goes_on_with_them(tmp_path):
    words = ["task=translation", write(tmp_path), *SIDES, *SMALL, "logger=none", "accelerator=cpu",
             "trainer.max_steps=4", "trainer.val_every_n_steps=2", "trainer.checkpoint_every_n_steps=2",
             f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    result = multihead.train(words)
    assert {"test/cer", "test/edit_similarity", "test/exact_match", "test/token_accuracy"} <= result.keys()
    described = json.loads((tmp_path / "run" / "model" / "model.json").read_text())["tokenizers"]
    assert described == {"source": "tokenizer_source.json", "target": "tokenizer.json"}
    loaded = multihead.load(tmp_path / "run")
    tokenizers, transformer = loaded.task.tokenizers, loaded.model.transformer
    assert transformer.encoder.embedding.weight.shape[0] == tokenizers["source"].vocab_size
    assert transformer.decoder.embedding.weight.shape[0] == tokenizers["target"].vocab_size
    assert isinstance(loaded.translate("abc"), str)
    again = multihead.train([f"resume={tmp_path / 'run'}", "trainer.max_steps=6", "resume_force=[trainer.max_steps]"])
    assert again["steps"] == 6
    assert multihead.load(tmp_path / "run").task.tokenizers["source"].fingerprint == tokenizers["source"].fingerprint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.tie_embeddings=all"], r"model.tie_embeddings: must be none or target_output if tokenizer.source and "),
        (["task=lm"], r"tokenizer\.source: belongs to a task with a source and a target, and task=lm has one text"),
        (["task=regression", "data=grammar"], r"tokenizer\.source: .* task=regression .*; fix: tokenizer\.kind="),
        (["task.topology=decoder"], r"task.topology: must be encoder_decoder if tokenizer.source and tokenizer.target"),
        (["task.copy=true"], r"task.copy: must be false if tokenizer.source and tokenizer.target differ"),
        (["tokenizer.target.kind=bytes"], r"tokenizer.target.kind: must be one of bpe, .*, got 'bytes'"),
        (["tokenizer.target.vocab_size=3"], r"tokenizer.target.vocab_size: must be 0, or at least 8, got 3"),
        (["tokenizer.source.min_frequency=-1"], r"tokenizer.source.min_frequency: must be 0, or at least 1, got -1"),
    ],
)
def test_what_needs_one_vocabulary_is_refused(words, message):
    named = {word.partition("=")[0] for word in words}
    rest = [word for word in ["task=translation", *SIDES] if word.partition("=")[0] not in named]
    with pytest.raises(ConfigError, match=message):
        compose([*words, *rest])
