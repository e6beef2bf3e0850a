"""A published model as the start of a run: its tensors under our names, its tokenizer, its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multihead.config.model import ModelConfig
from multihead.config.published import Described, locate, read
from multihead.data.published import PublishedTokenizer
from multihead.errors import CheckpointError
from multihead.model.transformer import OutputTransform, Transformer
from multihead.pretrained.folder import AGAIN, Weights, as_stored, opened, read_json
from multihead.pretrained.names import NAMES, Names, Stored, stored

OLDER = {"gamma": "weight", "beta": "bias"}
"""Last word of names in checkpoints that were converted from TensorFlow."""


@dataclass
class Published:
    """What a folder holds, as a run reads it."""

    path: str
    state: dict[str, Tensor]
    """Tensors under our names: ``transformer.encoder.layers.0...``, and those of a head that there is."""
    options: dict[str, Any]
    """``model.*`` of the whole model."""
    tokenizer: PublishedTokenizer
    labels: list[str]
    """Names of its classes, if it has a head over classes."""
    unused: list[str]
    """Names of tensors that mean nothing to us."""


def read_published(init_from: str) -> Published:
    """Reads the folder that ``init_from`` names.

    Raises:
        ConfigError: There is no such folder.
        CheckpointError: It is damaged, incomplete, or of a family that we do not have.
    """
    described = read(locate(init_from))
    with opened(described.folder) as weights:
        state, unused = translated(described, weights)
    tokenizer = read_tokenizer(described)
    labels = _labels(described.content) if "head.output.weight" in state else []
    return Published(init_from, state, described.options, tokenizer, labels, unused)


def tokenizer_of(init_from: str) -> PublishedTokenizer:
    """The tokenizer alone; raises as `read_published` does."""
    return read_tokenizer(read(locate(init_from)))


def read_tokenizer(described: Described) -> PublishedTokenizer:
    """The tokenizer of a folder.

    Raises:
        CheckpointError: It has none, or a damaged one, or one that does not fit the model.
    """
    folder, path = described.folder, described.folder / "tokenizer.json"
    if not path.is_file():
        command = "AutoTokenizer.from_pretrained('.').save_pretrained('.')"
        fix = f'cd {folder} && python -c "from transformers import AutoTokenizer; {command}"'
        raise CheckpointError(str(path), "is missing, and no other file of a tokenizer is read", fix)
    content = read_json(path)
    special: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            special |= _special(read_json(folder / name))
    try:
        special = _by_id(content, described.content) | special
        return PublishedTokenizer(content, special, described.vocab_size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(str(path), f"is no tokenizer that we can use: {error}", AGAIN) from None


def _special(content: Any) -> dict[str, str]:
    """The names of special entries in a file: each a text, or an object with its ``content``."""
    found = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _by_id(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """The special entries that ``config.json`` names by their ids."""
    entries = {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens", [])}
    vocab = tokenizer["model"].get("vocab", {})
    entries |= {number: entry for entry, number in vocab.items()} if isinstance(vocab, dict) else {}
    found = {}
    for name in ("bos", "eos", "pad", "sep", "cls"):
        number = config.get(f"{name}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and number in entries:
            found[f"{name}_token"] = entries[number]
    return found


def _labels(content: Mapping[str, Any]) -> list[str]:
    """The names of the classes in the order of their numbers."""
    named = content.get("id2label")
    named = named if isinstance(named, dict) else {}
    return [str(named[str(number)]) for number in range(len(named)) if str(number) in named]


class Reader:
    """Finds tensors of ours in a folder's.

    Args:
        described: The model.
        weights: Its tensors.
    """

    def __init__(self, described: Described, weights: Weights):
        self.described, self.weights = described, weights
        self.names: Names = NAMES[described.model_type]
        self.heads: int = described.fixed["num_heads"]
        self.known = {_modern(name): name for name in weights.shapes}
        """Name as it is now to name in the file."""
        first = stored(self.names.body, "embedding.weight")
        assert first is not None
        self.prefix = f"{self.names.prefix}." if f"{self.names.prefix}.{first.name}" in self.known else ""
        self.used: set[str] = set()

    def name_of(self, entry: Stored, ours: torch.Size, prefix: str = "") -> str | None:
        """The name in the file of a tensor of ours of this shape; None if there is none. Nothing is loaded.

        Raises:
            CheckpointError: It has another shape.
        """
        name = self.known.get(prefix + entry.name)
        if name is None:
            return None
        shape, wanted = self.weights.shapes[name], entry.shape(ours)
        if shape != wanted:
            what = f"{name} has the shape {shape}, and config.json says {wanted}"
            raise CheckpointError(str(self.described.folder), what, AGAIN)
        return name

    def load(self, entry: Stored, name: str) -> Tensor:
        """A tensor of ours out of the one of this name."""
        self.used.add(name)
        return entry.take(as_stored(self.weights, name), self.heads)

    def find(self, entry: Stored, ours: torch.Size) -> Tensor | None:
        """A tensor of ours of this shape, if there is one; raises as `name_of` does."""
        name = self.name_of(entry, ours)
        return None if name is None else self.load(entry, name)


def translated(described: Described, weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under our names, and the names of those that mean nothing to us.

    Raises:
        CheckpointError: One of the stack is missing or has another shape.
    """
    reader, stack = Reader(described, weights), described.family.stack
    found: dict[str, tuple[Stored, str]] = {}
    missing: list[str] = []
    for name, parameter in body_of(described).items():
        entry = stored(reader.names.body, name)
        assert entry is not None, f"no name for {name}"
        theirs = reader.name_of(entry, parameter.shape, reader.prefix)
        if theirs is None:
            missing.append(reader.prefix + entry.name)
        else:
            found[name] = entry, theirs
    if missing:
        what = f"lacks {len(missing):,} tensors of its stack, {missing[0]} first"
        raise CheckpointError(str(described.folder), what, "download the whole model")
    state = {f"transformer.{stack}.{name}": reader.load(*where) for name, where in found.items()}
    state |= _head(reader, reader.names.vocabulary, _vocabulary_shapes(described))
    state |= _head(reader, reader.names.classes, _class_shapes(described, reader))
    tied = reader.names.vocabulary["weight"] if described.free["tie_embeddings"] == "target_output" else ""
    buffers = ("position_ids", "masked_bias", "attn.bias", "rotary_emb.inv_freq", "attention.bias")
    unused = [
        name
        for modern, name in reader.known.items()
        if name not in reader.used and modern not in (tied, *reader.names.same.values()) and not name.endswith(buffers)
    ]
    return state, unused


def _modern(name: str) -> str:
    before, _, last = name.rpartition(".")
    return f"{before}.{OLDER[last]}" if last in OLDER else name


def body_of(described: Described) -> dict[str, Tensor]:
    """Our stack's parameters by name, of the right shapes and without memory."""
    encoder = described.family.stack == "encoder"
    size = described.vocab_size
    with torch.device("meta"):
        config = ModelConfig(**described.options)
        model = Transformer(
            config, source_vocab_size=size if encoder else None, target_vocab_size=None if encoder else size
        )
    return dict(model.stack(described.family.stack).named_parameters())


def _vocabulary_shapes(described: Described) -> dict[str, torch.Size]:
    """Our head over the vocabulary, apart from a tied matrix."""
    config, size = ModelConfig(**described.options), described.vocab_size
    width = config.width_of_embeddings if config.output_transform else config.d_model
    shapes = {} if config.tie_embeddings == "target_output" else {"weight": torch.Size((size, width))}
    if config.output_bias:
        shapes["bias"] = torch.Size((size,))
    if config.output_transform:
        with torch.device("meta"):
            transform = OutputTransform(config)
        shapes |= {f"transform.{name}": parameter.shape for name, parameter in transform.named_parameters()}
    return shapes


def _class_shapes(described: Described, reader: Reader) -> dict[str, torch.Size]:
    """Our head over classes, with as many as the folder's."""
    width, shapes = described.fixed["d_model"], {}
    if "dense" in reader.names.classes:
        shapes |= {"dense.weight": torch.Size((width, width)), "dense.bias": torch.Size((width,))}
    last = reader.known.get(f"{reader.names.classes['output']}.weight", "")
    if len(shape := reader.weights.shapes.get(last, ())) == 2:
        shapes |= {"output.weight": torch.Size((shape[0], width)), "output.bias": torch.Size((shape[0],))}
    return shapes


def _head(reader: Reader, table: Mapping[str, str], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors of a head that the folder has."""
    state = {}
    for name, shape in shapes.items():
        entry = stored(table, name)
        assert entry is not None, f"no name for {name}"
        other = reader.names.same.get(entry.name, "")
        tensor = reader.find(Stored(other) if other in reader.known else entry, shape)
        if tensor is None and entry.name.startswith(f"{reader.names.prefix}."):  # a body alone has no prefix
            tensor = reader.find(Stored(entry.name.removeprefix(f"{reader.names.prefix}.")), shape)
        if tensor is not None:
            state[f"head.{name}"] = tensor
    return state
