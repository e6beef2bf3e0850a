"""Suggestions are right, every key is documented, and every YAML file says only what differs from the defaults."""

import random
import string

import pytest
import yaml

from multihead.config.compose import compose, composer
from multihead.config.folder import conf_dir
from multihead.config.keys import (
    GROUPS,
    Key,
    documentation,
    edit_distance,
    find,
    leaf_keys,
    nearest_key,
    unknown_key,
)
from multihead.config.synonyms import SYNONYMS
from multihead.config.task import TASKS
from multihead.errors import ConfigError
from multihead.tables.records import flatten

KEYS = leaf_keys(TASKS.values())


def one_letter_changes(name: str, rng: random.Random, count: int) -> list[str]:
    """Misspellings of ``name`` by one letter left out, added, replaced, or swapped with the next."""
    found = set()
    while len(found) < count:
        i, letter = rng.randrange(len(name)), rng.choice(string.ascii_lowercase)
        kind = rng.randrange(4)
        if kind == 0:
            changed = name[:i] + name[i + 1 :]
        elif kind == 1:
            changed = name[:i] + letter + name[i:]
        elif kind == 2:
            changed = name[:i] + letter + name[i + 1 :]
        else:
            changed = name[:i] + name[i + 1 : i + 2] + name[i : i + 1] + name[i + 2 :]
        if changed and changed != name and find(changed, KEYS) is None:
            found.add(changed)
    return sorted(found)


@pytest.mark.unhurried
def test_suggestions_for_one_letter_changes():
    rng = random.Random(7)
    some = rng.sample(sorted(KEYS), 80)  # row 35 of the fault matrix tries every key
    cases = [(name, changed) for name in some for changed in one_letter_changes(name, rng, 4)]
    wrong = [(name, changed) for name, changed in cases if nearest_key(changed, KEYS) != name]
    assert len(wrong) <= 0.05 * len(cases), wrong
    assert len(cases) >= 300


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tsk", "task"),
        ("modle", "model"),
        ("d_model", "model.d_model"),
        ("lr", "optim.lr"),
        ("model.lr", "optim.lr"),
        ("data.rolse.source", "data.roles.source"),
        ("trainer.max_step", "trainer.max_steps"),
        ("max_epochs_and_more", ""),
    ],
)
def test_suggestion(typed, meant):
    assert nearest_key(typed, KEYS) == meant


USUAL = {
    "lr": "optim.lr", "learning_rate": "optim.lr", "batch_size": "data.batch_tokens", "epochs": "trainer.max_steps",
    "max_epochs": "trainer.max_steps", "num_train_epochs": "trainer.max_steps", "dropout": "model.dropout",
    "hidden_size": "model.d_model", "n_embd": "model.d_model", "n_layer": "model.num_encoder_layers",
    "num_layers": "model.num_encoder_layers", "n_head": "model.num_heads", "fp16": "precision=16-mixed",
    "bf16": "precision=bf16-mixed", "gpus": "devices", "device": "accelerator", "output_dir": "run_dir",
    "out_dir": "run_dir", "seq_len": "model.max_len", "max_length": "model.max_len", "block_size": "task.block_size",
    "warmup_steps": "optim.warmup_steps", "weight_decay": "optim.weight_decay", "optimizer": "optim",
    "lr_scheduler_type": "optim.schedule", "max_grad_norm": "trainer.gradient_clip_val",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches", "eval_steps": "trainer.val_every_n_steps",
    "save_steps": "trainer.checkpoint_every_n_steps", "logging_steps": "trainer.log_every_n_steps",
    "patience": "trainer.early_stopping_patience", "beam_size": "decoding.num_beams", "num_beams": "decoding.num_beams",
    "random_seed": "seed", "num_workers": "data.num_workers", "dataset": "data", "train_file": "data.train",
    "validation_file": "data.val", "resume_from_checkpoint": "resume", "pretrained": "init_from", "wandb": "logger",
    "temperature": "decoding.temperature", "label_smoothing": "task.label_smoothing", "task_name": "task",
    "data.batch_size": "data.batch_tokens", "trainer.max_epochs": "trainer.max_steps",
    "model.hidden_size": "model.d_model",
    "train.lr": "optim.lr", "optimizer.weight_decay": "optim.weight_decay", "d_ffn": "model.d_ff",
}  # fmt: skip
"""The most usual words of other programs, with what they are here."""


@pytest.mark.parametrize(("typed", "meant"), USUAL.items())
def test_words_of_other_programs(typed, meant):
    assert nearest_key(typed, KEYS).split(" ")[0] == meant
    assert f"did you mean {meant}" in str(unknown_key(typed, KEYS))


def test_every_synonym_names_what_there_is():
    one = composer([])
    for ours in set(SYNONYMS.values()):
        word = ours.split(" ")[0]
        key, _, value = word.partition("=")
        assert key in KEYS or key in GROUPS, ours
        assert not value or one(["task=lm", word]), ours


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("precision=bf16", r"precision: .* fix: precision=bf16-mixed"),
        ("precision=fp16", r"precision: .* fix: precision=16-mixed"),
        ("precision=32", r"precision: .* fix: precision=32-true"),
        ("model.norm=my_norm", r"model\.norm: must be one of layer_norm, rms_norm, got 'my_norm'; fix: type plugin="),
        ("model.attention=own", r"got 'own'; fix: type plugin=FILE\.py, if a plugin adds own$"),
        ("optim.schedule=own", r"got 'own'; fix: type plugin=FILE\.py, if a plugin adds own$"),
        ("model.norm=rmsnorm", r"fix: model\.norm=rms_norm"),
        ("tokenizer=bert", r"tokenizer: a node, .* choose the kind .*: bpe, .*; fix: tokenizer\.kind=bpe"),
        ("tokenizer=char", r"tokenizer: a node, .*; fix: tokenizer\.kind=char"),
        ("task_name=lm", r"did you mean task\?"),
    ],
)
def test_values_that_other_programs_take(word, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=translation", word])


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("a", "", 1), ("lr", "rl", 1), ("task", "tsk", 1), ("kitten", "sitting", 3), ("abc", "cab", 2)],
)
def test_edit_distance(first, second, distance):
    assert edit_distance(first, second) == edit_distance(second, first) == distance


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_key_is_documented(key: Key):
    assert len(documentation(key)) > 10
    assert key.requirement


def test_flatten():
    tree = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}], "f": None}
    assert flatten(tree) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}], "f": None}


def yaml_files() -> list[str]:
    return sorted(str(file.relative_to(conf_dir())) for file in conf_dir().rglob("*.yaml"))


@pytest.mark.parametrize("name", yaml_files())
def test_yaml_says_what_it_is_for(name):
    text = (conf_dir() / name).read_text()
    lines = text.splitlines()
    comment = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert comment.startswith("# ") and len(comment) > 20
    assert "_target_" not in text and "${" not in text


def test_yaml_files_are_few():
    kinds = [name.split("/")[0] for name in yaml_files()]
    assert len([kind for kind in kinds if kind not in ("data", "experiment")]) <= 30


@pytest.mark.parametrize("name", [name for name in yaml_files() if name.split("/")[0] in ("model", "optim", "data")])
def test_yaml_holds_deltas_only(name):
    """A value that equals the dataclass's default stands there alone (names, which say who one is, apart)."""
    group = name.split("/")[0]
    tree = yaml.safe_load((conf_dir() / name).read_text()) or {}
    same = []
    for key, value in flatten(tree).items():
        known = find(f"{group}.{key}", KEYS)
        if known and known.name == f"{group}.{key}" and known.default == value and key not in ("name", "format"):
            same.append(key)
    assert same == []
