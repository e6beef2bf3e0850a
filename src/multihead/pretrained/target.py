"""Writes our models as models of a published family: the ``config.json``, and our tensors under the family's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from multihead.config.families import FAMILIES, GATES
from multihead.config.model import BIASES, TABLES, ModelConfig
from multihead.config.published import Described, described
from multihead.model.norms import norm_eps
from multihead.pretrained.names import Names, Stored, names_of, stored

WITHOUT_MEANING = (
    *("num_encoder_layers", "num_decoder_layers", "max_len", "init", "ngram_max", "tie_embeddings"),
    *("dropout", "attention_dropout", "ff_dropout"),
)
"""Options that every family can have, or that only training uses."""
OF_THE_VOCABULARY = ("output_transform", "output_bias")


def content_of(model_type: str, model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """The ``config.json`` of a family for our options.

    If the family has no key for an option, the file describes a model with the family's own value.
    """
    family = FAMILIES[model_type]
    activations = {ours: theirs for theirs, ours in reversed(list(family.activations.items()))}
    meant = _meaning(model)
    values = meant | {
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "layers": getattr(model, f"num_{family.stacks[0]}_layers"),
        "num_encoder_layers": model.num_encoder_layers,
        "num_decoder_layers": model.num_decoder_layers,
        "ff_dropout": model.ff_dropout,
        "segment_types": max(1, model.segment_types),  # transformers always looks one up
        "activation": activations.get(model.activation),
        "max_len": model.max_len + family.counts_offset * family.always.get("position_offset", 0),
    }
    defaults = {key: value for key, value in family.defaults.items() if key != "tie_word_embeddings"}
    content: dict[str, Any] = {"model_type": model_type, "vocab_size": vocab_size, **defaults}
    content |= {theirs: values[ours] for ours, theirs in family.keys.items() if values[ours] is not None}
    content |= {key: allowed[0] for key, allowed in family.needs.items()}
    content |= {key: content[other] for key, other in family.equal.items()}
    content.setdefault("tie_word_embeddings", model.tie_embeddings in ("target_output", "all"))
    if family.activations is GATES and "attention_bias" not in family.always:
        content["attention_bias"] = meant["attention_bias"] == (True, True)
    if family.always["position"] == "rotary":
        share = {} if family.activations is GATES else {"partial_rotary_factor": model.rotary_share}
        content["rope_parameters"] = {"rope_theta": model.rope_theta, **_scaling(model), **share}
    return content


def _scaling(model: ModelConfig) -> dict[str, Any]:
    """``model.rope_scaling`` in the words of ``config.json``."""
    if model.rope_scaling == "none":
        return {"rope_type": "default"}
    scaling = {"rope_type": model.rope_scaling, "factor": model.rope_factor}
    if model.rope_scaling == "llama3":
        original = {"original_max_position_embeddings": model.rope_original_len}
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} | original
    return scaling


Obstacle = tuple[str, Any, Any]
"""An option, its value here, and its value in a family."""


def obstacles(model_type: str, model: ModelConfig, vocab_size: int, with_vocabulary: bool) -> list[Obstacle]:
    """The options of ``model.*`` that keep a model from being one of a family.

    Args:
        model_type: The family.
        model: Our options.
        vocab_size: Number of entries.
        with_vocabulary: Whether a head over the vocabulary stands on the model.
    """
    family = ModelConfig(**described(Path(), content_of(model_type, model, vocab_size)).options)
    ours, theirs = _meaning(model), _meaning(family)
    left_out = () if with_vocabulary else OF_THE_VOCABULARY
    differ = [name for name in ours if ours[name] != theirs[name] and name not in left_out]
    if len(FAMILIES[model_type].stacks) == 2 and model.tie_embeddings != family.tie_embeddings:
        differ.append("tie_embeddings")
    return [(name, getattr(model, name), getattr(family, name)) for name in differ]


def _meaning(model: ModelConfig) -> dict[str, Any]:
    """The options of a model in one form, so that two ways to say the same are equal."""
    values = {item.name: getattr(model, item.name) for item in fields(model) if item.name not in WITHOUT_MEANING}
    places = model.attention_bias
    values["attention_bias"] = (
        model.bias if places == "auto" else places in ("qkv", "all"),
        model.bias if places == "auto" else places == "all",
    )
    values |= {"num_kv_heads": model.kv_heads, "head_size": model.head_dim}
    values["embedding_width"] = model.width_of_embeddings
    values["norm_eps"] = norm_eps(model, model.norm)
    if model.position != "sinusoidal":
        values["sinusoid_order"] = None
    if model.position not in BIASES:
        values |= {"relative_buckets": None, "relative_max_distance": None}
    if model.position != "rotary":
        values |= {"rope_theta": None, "rotary_share": None, "rope_scaling": None}
    if values["rope_scaling"] in ("none", None):
        values["rope_factor"] = None
    if values["rope_scaling"] != "llama3":
        values["rope_original_len"] = None
    if model.position not in TABLES:
        values["position_offset"] = None
    return values


def published_state(model: Described, state: Mapping[str, Tensor], *, prefixed: bool) -> dict[str, Tensor]:
    """The tensors as the family stores them.

    Args:
        model: As its ``config.json`` says.
        state: Tensors under our names, ``transformer.STACK...`` and ``head....``, each tensor under one name.
        prefixed: Whether the names of the body begin as in a model with a head.
    """
    names = names_of(model)
    prefix = names.prefix if prefixed else ""
    groups: dict[str, list[tuple[Stored, Tensor]]] = {}
    for name, tensor in state.items():
        entry, is_body = _entry(names, name)
        groups.setdefault((prefix if is_body else "") + entry.name, []).append((entry, tensor))
    heads = model.fixed["num_heads"]
    found = {}
    for name, members in groups.items():
        members.sort(key=lambda pair: pair[0].part)
        found[name] = members[0][0].put([tensor for _, tensor in members], heads)
    return found


def _entry(names: Names, name: str) -> tuple[Stored, bool]:
    """The tensor in the file that holds our tensor, and whether our tensor belongs to the body."""
    if name.startswith("head."):
        tail = name.removeprefix("head.")
        entry = stored(names.classes, tail) or stored(names.vocabulary, tail)
    else:
        entry = stored(names.body, name.removeprefix("transformer."))
    assert entry is not None, f"no name for {name}"
    return entry, not name.startswith("head.")
