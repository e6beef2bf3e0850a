"""Lists options that touch the same objects, and combinations in which every pair of their values occurs.

Such a list is a covering array. Pairs that a user cannot combine are in `REFUSED`. A test checks that the
configuration gives an error for each of them.
"""

import itertools
from pathlib import Path

from allpairspy import AllPairs

HERE = Path(__file__).parent
LINEAR = HERE.parents[1] / "docs" / "examples" / "linear_attention.py"
TWO = ["accelerator=cpu", "devices=2"]

OPTIONS: dict[str, dict[str, list[str]]] = {
    "task": {
        "translation": ["task=translation"],
        "one stack": ["task=translation", "task.topology=decoder"],
        "summaries": ["task=summarization", "task.copy=true"],
        "lm": ["task=lm"],
        "masked": ["task=lm", "task.objective=masked"],
        "both": ["task=lm", "task.objective=both"],
        "classes": ["task=classification", "task.class_weights=balanced"],
        "several": ["task=multitask"],
    },
    "precision": {
        "32": [],
        "bf16": ["precision=bf16-mixed"],
        "bf16 alone": ["precision=bf16-true"],
        "fp16": ["precision=16-mixed"],
        "64": ["precision=64-true"],
    },
    "averaging": {
        "no": [],
        "moving": ["trainer.ema_decay=0.6"],
        "last": ["trainer.average_last_steps=3", "trainer.average_every_n_steps=1"],
    },
    "logger": {"default": [], "none": ["logger=none"], "tensorboard": ["logger=tensorboard"]},
    "ranks": {"one": [], "ddp": [*TWO, "strategy=ddp"], "fsdp": [*TWO, "strategy=fsdp"]},
    "plugin": {
        "none": [],
        "attention": [f"plugin={LINEAR}", "model.attention=linear"],
        "callback": [f"plugin={HERE / 'poison.py'}"],
    },
    "not finite": {"stop": [], "skip": ["trainer.on_nan=skip"], "rewind": ["trainer.on_nan=rewind"]},
    "intervals": {
        "default": [],
        "short": ["trainer.val_every_n_steps=2", "trainer.checkpoint_every_n_steps=2", "trainer.log_every_n_steps=1"],
    },
    "goes on": {"no": [], "longer": [], "after a loss": []},
    "optimizer": {
        "muon": ["optim=muon"],
        "adamw": ["optim=adamw"],
        "layers": ["optim=adamw", "optim.layer_decay=0.8"],
        "frozen": ["optim.freeze=[transformer.*.layers.0.*norm*]"],
    },
    "micro-batches": {"one": [], "two": ["trainer.accumulate_grad_batches=2"]},
    "stops early": {"no": [], "yes": ["trainer.early_stopping_patience=1"]},
    "recomputes": {"no": [], "yes": ["trainer.activation_checkpointing=true"]},
    "workers": {"none": [], "one": ["data.num_workers=1"]},
    "embeddings": {"all": [], "one": ["model.tie_embeddings=target_output"], "own": ["model.tie_embeddings=none"]},
    "compiled": {"no": [], "yes": ["compile=true"]},
}
"""The options. Each value has the words that choose it."""

REFUSED = [
    {"ranks": "fsdp", "precision": "fp16"},
    {"ranks": "fsdp", "precision": "64"},
]
"""Pairs for which the configuration gives an error."""
MEANINGLESS = [
    {"plugin": "callback", "not finite": "stop"},  # this ends the run, as it should
    {"plugin": "callback", "not finite": "rewind", "intervals": "default"},  # there is no checkpoint to return to
    {"goes on": "after a loss", "intervals": "default"},  # there is no earlier checkpoint
    *({"compiled": "yes", "ranks": ranks} for ranks in ("ddp", "fsdp")),  # minutes of compiling in each rank
]
"""Pairs and triples that test nothing, or that take too much time."""

SLOW = ("compiled", "ranks", "goes on")
"""Options of which all values but the first take much time."""

SMALL = [
    *("model=tiny", "model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.max_len=64"),
    *("model.num_encoder_layers=1", "model.num_decoder_layers=1", "data.batch_tokens=512", "data.overlong=cut"),
    "data.grammar={train_size: 300, val_size: 12, test_size: 12}",
]


def possible(chosen: dict[str, str]) -> bool:
    """Says whether these values can be together."""
    return not any(wrong.items() <= chosen.items() for wrong in (*REFUSED, *MEANINGLESS))


def pairs_of(chosen: dict[str, str]) -> set[frozenset]:
    """Returns every two choices of a combination."""
    return {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}


def possible_pairs() -> list[dict[str, str]]:
    """Returns every two values of two options that can be together."""
    every = [[(name, value) for value in values] for name, values in OPTIONS.items()]
    pairs = (dict(pair) for a, b in itertools.combinations(every, 2) for pair in itertools.product(a, b))
    return [pair for pair in pairs if possible(pair)]


def combinations() -> list[dict[str, str]]:
    """Returns rows in which every possible pair of values occurs. They are the same each time."""

    def together(row: list[str]) -> bool:
        return possible(dict(zip(OPTIONS, row, strict=False)))

    found = AllPairs([list(values) for values in OPTIONS.values()], filter_func=together)
    rows = [dict(zip(OPTIONS, row, strict=True)) for row in found]
    covered = set().union(*(pairs_of(row) for row in rows))
    left = [pair for pair in possible_pairs() if not pairs_of(pair) <= covered]  # the library leaves these out
    while left:
        row: dict[str, str] = {}
        for pair in left:
            merged = row | pair
            if row.items() <= merged.items() and possible(merged):
                row = merged
        for name, values in OPTIONS.items():
            row.setdefault(name, next(value for value in values if possible(row | {name: value})))
        rows.append({name: row[name] for name in OPTIONS})
        left = [pair for pair in left if not pair.items() <= row.items()]
    return cheaper(rows)


def cheaper(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Replaces slow values by the first one of their option, if every pair still occurs."""
    needed = {pair for chosen in possible_pairs() for pair in pairs_of(chosen)}
    for number, row in enumerate(rows):
        others = set().union(*(pairs_of(other) for other in rows[:number] + rows[number + 1 :]))
        for name in SLOW:
            plain = row | {name: next(iter(OPTIONS[name]))}
            if possible(plain) and needed <= others | pairs_of(plain):
                row = plain
        rows[number] = row
    return rows


def words_of(chosen: dict[str, str]) -> list[str]:
    """Returns the words that a user types for the combination."""
    return [word for name, value in chosen.items() for word in OPTIONS[name][value]]


def name_of(chosen: dict[str, str]) -> str:
    """Returns a name: the values of a combination that are not the first of their option."""
    shown = [value for name, value in chosen.items() if name == "task" or value != next(iter(OPTIONS[name]))]
    return "-".join(value.replace(" ", "_") for value in shown)
