"""Starting a run from the weights of another one, of any task: what fits is copied, and a table shows what was.

Embeddings and vocabulary heads are copied row by row, by the text of their entries. If the source lacks a stack, its
other stack is copied: a classifier's encoder comes from a language model's decoder. The rest keeps its initial values.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from multihead.config.model import ModelConfig
from multihead.errors import CheckpointError, ConfigError
from multihead.model.lora import ADAPTERS, untrained
from multihead.pretrained.source import read_published
from multihead.runs.directory import describe_model, load_vocab
from multihead.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from rich.table import Table

    from multihead.data.tokenizer import Tokenizer
    from multihead.tasks.base import Model

log = logging.getLogger("multihead")

SAME = ("d_model", "num_heads", "num_kv_heads", "d_ff", "activation", "norm", "norm_placement", "position", "qk_norm",
        "bias", "attention", "feed_forward", "norm_eps", "embedding_width", "embedding_scale", "embedding_norm",
        "segment_types", "position_offset", "rope_theta", "rotary_share", "head_size", "attention_bias", "parallel",
        "share_layers", "rope_scaling", "rope_factor", "rope_original_len", "sinusoid_order", "relative_buckets",
        "relative_max_distance", "attention_scale")  # fmt: skip
"""Keys of ``model.*`` in which two models must agree so that the weights of one fit the other."""
OF_THE_VOCABULARY = ("output_scale", "output_transform", "output_bias")
"""Keys of ``model.*`` in which they must agree too if both have a head over the vocabulary."""
MOST_TENSORS = 20_000
"""Most tensors of a model that is read: a file of a few MB can name millions of empty ones."""
ROLES = ("pad_id", "bos_id", "eos_id", "unk_id", "sep_id", "mask_id")
OTHER = {"encoder": "decoder", "decoder": "encoder"}


@dataclass
class Source:
    """A finished run that another one starts from: plain tensors and data."""

    path: str
    state: dict[str, Tensor]
    """Every parameter by name; a shared one stands under each of its names."""
    vocab: Vocabulary
    model: dict[str, Any]
    """Its configuration ``model.*``."""


@dataclass
class Copied:
    """How many parameters of one part of the new model were copied."""

    part: str
    copied: int = 0
    """Number of parameters that were copied from a tensor of the same size."""
    resized: int = 0
    """Number of parameters that were copied row by row, from a matrix of another size."""
    fresh: int = 0
    """Number of parameters that keep their initial values."""
    why: str = ""


def read_source(run_dir: Path) -> Source:
    """The weights, vocabulary and sizes of a finished run.

    Raises:
        CheckpointError: If they are missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = run_dir / "model" / "model.safetensors"
    description = describe_model(run_dir)
    try:
        with safe_open(path, framework="pt") as file:
            names, shared = list(file.keys()), file.metadata() or {}
            if len(names) > MOST_TENSORS:
                what = f"holds {len(names):,} tensors, above the limit of {MOST_TENSORS:,}"
                raise CheckpointError(str(path), what, "copy the run again")
            state = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(path), f"cannot be loaded ({error})", "copy the run again") from error
    state |= {name: state[kept] for name, kept in shared.items() if kept in state}
    return Source(str(run_dir), state, load_vocab(run_dir), description["config"]["model"])


def published_source(init_from: str) -> Source:
    """A published model as a source: its tensors under our names, its tokenizer and classes.

    Raises:
        ConfigError: There is no such folder.
        CheckpointError: It is damaged, incomplete, or of a family that we do not have.
    """
    found = read_published(init_from)
    if found.unused:
        log.info("weights of %s that this run does not use: %s", init_from, ", ".join(found.unused))
    embedding = found.state.get("transformer.encoder.embedding.weight")
    if embedding is not None and any(name.startswith("transformer.decoder.") for name in found.state):
        found.state.setdefault("transformer.decoder.embedding.weight", embedding)
    return Source(init_from, found.state, Vocabulary(found.tokenizers, found.labels), found.options)


def tokenizers_from(run_dir: Path, roles: Sequence[str]) -> dict[str, Tokenizer]:
    """A run's tokenizers for the roles of another task: by role, else the source's for ``text``, else the target's."""
    found = load_vocab(run_dir).tokenizers
    first = next(iter(found.values()))
    near = {"text": "source", "text_b": "text", "source": "text", "target": "text"}
    return {role: found.get(role) or found.get(near[role]) or found.get("target", first) for role in roles}


def copy_weights(model: Model, vocab: Vocabulary, source: Source) -> list[Copied]:
    """Copies what fits from ``source`` into ``model`` (a backbone ``transformer`` and its heads), in place.

    Args:
        model: Freshly initialised.
        vocab: The vocabulary of the new model.
        source: The run whose weights are copied.

    Returns:
        A row for each part of the model; its numbers add up to the model's parameters, shared ones counted once.

    Raises:
        ConfigError: If the width or another setting of the layers differs, or if the model has adapters and what they
            leave untrained is not all in the source.
        CheckpointError: If a weight has another shape than its description says.
    """
    both = any(map(_of_vocabulary, model.state_dict())) and any(map(_of_vocabulary, source.state))
    check_same(model.transformer.config, source, (*SAME, *(OF_THE_VOCABULARY if both else ())))
    parts: dict[str, Copied] = {}
    lacking: list[str] = []
    left_out = untrained(model)
    for name, parameter in model.named_parameters():  # a shared one comes once
        part = _part(name)
        row = parts.setdefault(part, Copied(part))
        counterpart, from_other = _counterpart(name, source.state)
        fresh = row.fresh
        with torch.no_grad():
            why = _copy(name, parameter, counterpart, source, vocab, row)
        lacking += [name] if row.fresh > fresh and id(parameter) in left_out else []
        if from_other and counterpart is not None:
            why = f"from the {from_other}" + (f"; {why}" if why else "")
        if why and why not in row.why:
            row.why = f"{row.why}; {why}" if row.why else why
    if lacking:
        what = f"{source.path} does not have all of {lacking[0]}, which lora.r leaves untrained"
        raise ConfigError("lora.also_train", what, f"'lora.also_train=[{_pattern(lacking[0])}]'")
    return list(parts.values())


def _pattern(name: str) -> str:
    """A pattern that names a parameter and those of its kind in other layers."""
    words = name.split(".")
    if words[0] != "transformer":
        return f"{name.rpartition('.')[0]}.*"
    return f"*.{words[4]}.*" if words[2] == "layers" else f"*.{words[2]}.*"


def check_same(config: ModelConfig, source: Source, names: Sequence[str] = SAME) -> None:
    """Checks that the layers of the source have the same size and kind, or what ``names`` are about.

    Raises:
        ConfigError: If they have not.
    """
    for name in names:
        default = ModelConfig.__dataclass_fields__[name].default  # of a run that is older than the option
        theirs, ours = source.model.get(name, default), getattr(config, name)
        if name == "num_kv_heads":
            theirs, ours = theirs or source.model["num_heads"], config.kv_heads
        if theirs != ours:
            what = f"{source.path} has model.{name}={theirs}, this run has {ours}"
            raise ConfigError("init_from", what, f"model.{name}={theirs}")


def _part(name: str) -> str:
    """The row of the table that a parameter belongs to."""
    words = name.split(".")
    if words[-1] in ADAPTERS:
        return f"{words[1]} adapters"
    if words[0] != "transformer":
        return "head" if words[0] == "head" else f"head {words[1]}"
    kind = words[2]
    if kind == "layers":
        return f"{words[1]} {'cross-attention' if words[4].startswith('cross_attention') else 'layers'}"
    return f"{words[1]} {kind}"


def _counterpart(name: str, state: Mapping[str, Tensor]) -> tuple[str | None, str]:
    """The source's parameter for one of ours, and the name of its stack if it is the other stack."""
    words = name.split(".")
    if words[0] == "transformer":
        if any(known.startswith(f"transformer.{words[1]}.") for known in state):
            return (name if name in state else None), ""
        other = OTHER[words[1]]
        swapped = ".".join(["transformer", other, *words[2:]])
        return (swapped if swapped in state else None), other
    tail = words[1:] if words[0] == "head" else words[2:]
    same = [name, ".".join(["head", *tail])]
    same += [known for known in state if known.startswith("heads.") and known.split(".")[2:] == tail]
    return next((known for known in same if known in state), None), ""


def _copy(name: str, parameter: Tensor, counterpart: str | None, source: Source, vocab: Vocabulary, row: Copied) -> str:
    """Copies one parameter and counts it in ``row``; returns a remark for the table, if there is one."""
    size = parameter.numel()
    if counterpart is None:
        row.fresh += size
        return _lacking(name, source.state)
    theirs = source.state[counterpart]
    if name.endswith(("embedding.weight", "head.weight")) or _is_vocabulary_head(name):
        entries = _tokenizer(counterpart, source.vocab)
        fitting = (entries.vocab_size, parameter.size(1))
        if theirs.shape != fitting:
            what = f"{counterpart} must have the shape {fitting}, got {tuple(theirs.shape)}"
            raise CheckpointError(f"{source.path}/model/model.safetensors", what, "copy the run again")
        return _copy_rows(parameter, theirs, _tokenizer(name, vocab), entries, row)
    biases = "positions.weight" if source.model.get("position") == "relative" else "positions.biases.weight"
    if name.endswith(biases) and name != counterpart:
        row.fresh += size
        return "its rows are for other distances"
    if name.endswith("positions.weight"):
        rows = min(len(parameter), len(theirs))
        parameter[:rows] = theirs[:rows]
        whole = rows == len(parameter) == len(theirs)
        row.copied, row.resized = row.copied + whole * size, row.resized + (not whole) * parameter[:rows].numel()
        row.fresh += 0 if whole else size - parameter[:rows].numel()
        return "" if whole else f"{rows:,} of {len(parameter):,} positions"
    if ".ngrams." in name and _tokenizer(name, vocab).vocab != _tokenizer(counterpart, source.vocab).vocab:
        row.fresh += size
        return "another vocabulary: its n-grams are others"
    if name.endswith("head.bias") and _tokenizer(name, vocab).vocab != _tokenizer(counterpart, source.vocab).vocab:
        row.fresh += size
        return "another vocabulary"
    of_classes = not name.startswith("transformer.") and ("output" in name or "ngrams" in name)
    if of_classes and vocab.labels != source.vocab.labels:
        row.fresh += size
        return "other classes"
    if theirs.shape != parameter.shape and ".layers." in name:  # `check_same` has compared all that shapes them
        what = f"{counterpart} has the shape {tuple(theirs.shape)}, but its model.json says {tuple(parameter.shape)}"
        raise CheckpointError(f"{source.path}/model/model.safetensors", what, "copy the run again")
    if theirs.shape != parameter.shape:
        row.fresh += size
        return f"{tuple(theirs.shape)} is not {tuple(parameter.shape)}"
    parameter.copy_(theirs)
    row.copied += size
    return ""


def _of_vocabulary(name: str) -> bool:
    return name == "head.weight" or _is_vocabulary_head(name)


def _is_vocabulary_head(name: str) -> bool:
    return name.startswith("heads.") and name.split(".")[2:] == ["weight"]


def _tokenizer(name: str, vocab: Vocabulary) -> Tokenizer:
    """What the rows of an embedding or a vocabulary head stand for."""
    found, first = vocab.tokenizers, next(iter(vocab.tokenizers.values()))
    role = "source" if name.startswith("transformer.encoder.") else "target"
    return found.get(role) or found.get("text", first)


def _copy_rows(parameter: Tensor, theirs: Tensor, ours_of: Tokenizer, theirs_of: Tokenizer, row: Copied) -> str:
    """Rows by the text of their entries, or all rows if the vocabularies are the same."""
    if ours_of.vocab == theirs_of.vocab:
        parameter.copy_(theirs)
        row.copied += parameter.numel()
        return ""
    special, theirs_special = set(ours_of.special_ids), set(theirs_of.special_ids)
    place = {entry: number for number, entry in enumerate(theirs_of.vocab) if number not in theirs_special}
    words = [(number, entry) for number, entry in enumerate(ours_of.vocab) if number not in special]
    roles = {getattr(ours_of, role): getattr(theirs_of, role) for role in ROLES}  # a word may be spelt like one
    pairs = [*roles.items(), *((number, place[e]) for number, e in words if e in place)]
    ours, others = (torch.tensor(column) for column in zip(*pairs, strict=True))
    parameter[ours] = theirs[others].to(parameter.dtype)
    row.resized += len(pairs) * parameter.size(1)
    row.fresh += parameter.numel() - len(pairs) * parameter.size(1)
    return f"{len(pairs):,} of {len(ours_of.vocab):,} entries are in its vocabulary of {len(theirs_of.vocab):,}"


def _lacking(name: str, state: Mapping[str, Tensor]) -> str:
    """Why a parameter has no counterpart."""
    words = name.split(".")
    if words[-1] in ADAPTERS:
        return "they begin without effect"
    if words[0] != "transformer":
        return "it has no such head"
    if words[2] != "layers":
        return f"it has no {words[2]}"
    if words[4].startswith("cross_attention"):
        return "it has no cross-attention"
    deep = {known.split(".")[3] for known in state if known.startswith("transformer.") and ".layers." in known}
    return f"it has {len(deep)} layers"


def as_rows(copied: Sequence[Copied]) -> list[dict[str, Any]]:
    """The table as plain data."""
    return [asdict(row) for row in copied]


def transfer_table(copied: Sequence[Copied], run: str) -> Table:
    """The table for the screen, with a row of totals."""
    from multihead.runs.tables import plain_table

    total = Copied("all")
    for row in copied:
        total = Copied("all", total.copied + row.copied, total.resized + row.resized, total.fresh + row.fresh)
    body = [[row.part, row.copied, row.resized, row.fresh, row.why] for row in (*copied, total)]
    return plain_table(f"parameters from {run}", [["part", "copied", "resized", "fresh", "why"], *body])
