"""Reads a published model from which a run starts: its tensors under our names, its tokenizer and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multihead.config.model import ModelConfig
from multihead.config.published import Described, locate, read
from multihead.data.published import PublishedTokenizer
from multihead.data.sentencepiece import marian_tokenizer, pegasus_tokenizer, read_pieces, t5_tokenizer
from multihead.errors import CheckpointError
from multihead.model.output import OutputTransform
from multihead.model.transformer import Transformer
from multihead.pretrained.folder import AGAIN, MOST_BYTES, Weights, as_stored, opened, read_json
from multihead.pretrained.names import Names, Stored, names_of, stored

MARKS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
"""The special entries of Marian and T5."""
T5_SPANS, PEGASUS_OFFSET = 100, 103
"""Number of T5's entries that mark spans, and what Pegasus adds to the ids of pieces, if the folder does not say it."""
OLDER = {"gamma": "weight", "beta": "bias"}
"""Last word of a tensor's name in checkpoints that were converted from TensorFlow, to the usual word."""


@dataclass
class Published:
    """The content of a folder, as a run uses it."""

    path: str
    state: dict[str, Tensor]
    """The tensors under our names: ``transformer.encoder.layers.0...``, and ``head...`` if the model has a head."""
    options: dict[str, Any]
    """All options ``model.*``."""
    tokenizers: dict[str, PublishedTokenizer]
    """``text`` to the tokenizer; or ``source`` and ``target`` to the two tokenizers of a translator."""
    labels: list[str]
    """The names of its classes, if it has a head over classes."""
    unused: list[str]
    """The names of tensors that no part of our model uses."""


def read_published(init_from: str) -> Published:
    """Reads the folder that ``init_from`` names.

    Raises:
        ConfigError: There is no such folder.
        CheckpointError: It is damaged, incomplete, or of a family that we do not have.
    """
    described = read(locate(init_from))
    with opened(described.folder) as weights:
        state, unused = translated(described, weights)
    tokenizers = read_tokenizers(described)
    labels = _labels(described.content) if "head.output.weight" in state else []
    return Published(init_from, state, described.options, tokenizers, labels, unused)


def tokenizers_of(init_from: str) -> dict[str, PublishedTokenizer]:
    """Reads the tokenizers alone; it raises the errors of `read_published`."""
    return read_tokenizers(read(locate(init_from)))


def read_tokenizers(described: Described) -> dict[str, PublishedTokenizer]:
    """Reads the tokenizer of a folder, or both of them: ``tokenizer.json``, or models of sentencepiece.

    Raises:
        CheckpointError: It has none, or a damaged one, or one that does not fit the model.
    """
    folder = described.folder
    of_marian = all((folder / name).is_file() for name in ("vocab.json", "source.spm", "target.spm"))
    if of_marian and not (folder / "tokenizer.json").is_file():
        return {role: _tokenizer(described, f"{role}.spm") for role in ("source", "target")}
    named = ("tokenizer.json", "spiece.model")
    return {"text": _tokenizer(described, next((name for name in named if (folder / name).is_file()), named[0]))}


def _tokenizer(described: Described, name: str) -> PublishedTokenizer:
    """The tokenizer in one file."""
    folder, path = described.folder, described.folder / name
    if not path.is_file():
        command = "AutoTokenizer.from_pretrained('.').save_pretrained('.')"
        fix = f'cd {folder} && python -c "from transformers import AutoTokenizer; {command}"'
        raise CheckpointError(str(path), "is missing, and no other file of a tokenizer is read", fix)
    settings: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file() and isinstance(found := read_json(folder / file), dict):
            settings |= found
    special = _special(settings)
    try:
        content = read_json(path) if name == "tokenizer.json" else _converted(described, path, settings)
        special = special if name == "tokenizer.json" else MARKS | special
        special = _by_id(content, described.content) | special
        return PublishedTokenizer(content, special, described.vocab_size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(str(path), f"is no tokenizer that we can use: {error}", AGAIN) from None


def _converted(described: Described, path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` for a model of sentencepiece."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES:,} bytes")
        model = read_pieces(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read ({error})") from None
    if described.model_type == "pegasus":
        offset = settings.get("offset", PEGASUS_OFFSET)
        return pegasus_tokenizer(model, offset if isinstance(offset, int) and offset <= 1000 else PEGASUS_OFFSET)
    if path.suffix == ".model":
        extra = settings.get("extra_ids", T5_SPANS)
        return t5_tokenizer(model, extra if isinstance(extra, int) and 0 <= extra <= 1000 else T5_SPANS)
    special = {*MARKS.values(), *_special(settings).values()}
    return marian_tokenizer(model, read_json(path.with_name("vocab.json")), special)


def _special(content: Any) -> dict[str, str]:
    """The special entries that a file names. The value of a name is a text, or an object with a ``content``."""
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
    for name in ("bos", "eos", "pad", "sep", "cls", "decoder_start", "forced_bos"):
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
    """Finds our tensors among those of a folder.

    Args:
        described: The model.
        weights: Its tensors.
    """

    def __init__(self, described: Described, weights: Weights):
        self.described, self.weights = described, weights
        self.names: Names = names_of(described)
        self.heads: int = described.fixed["num_heads"]
        self.known = {_modern(name): name for name in weights.shapes}
        """The modern name of each tensor to its name in the file."""
        first = stored(self.names.body, f"{described.family.stacks[0]}.embedding.weight")
        assert first is not None
        self.prefix = self.names.prefix if self.names.prefix + first.name in self.known else ""
        self.used: set[str] = set()

    def name_of(self, entry: Stored, ours: torch.Size, prefix: str = "") -> str | None:
        """The name of a tensor in the file; None if the file does not have it. Nothing is loaded.

        Args:
            entry: The tensor in the file.
            ours: The shape of our tensor.
            prefix: First words of the name.

        Raises:
            CheckpointError: It has another shape.
        """
        name = self.known.get(prefix + entry.name)
        if name is None:
            return None
        shape, wanted = self.weights.shapes[name], entry.shape(ours)
        if shape != wanted:
            what = f"{name} has the shape {shape}, but config.json expects {wanted}"
            raise CheckpointError(str(self.described.folder), what, AGAIN)
        return name

    def load(self, entry: Stored, name: str) -> Tensor:
        """Loads the tensor of this name, and cuts our tensor out of it."""
        self.used.add(name)
        return entry.take(as_stored(self.weights, name), self.heads)

    def find(self, entry: Stored, ours: torch.Size) -> Tensor | None:
        """Loads our tensor, if the file has it; the errors are those of `name_of`."""
        name = self.name_of(entry, ours)
        return None if name is None else self.load(entry, name)


def translated(described: Described, weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under our names, and the names of those that no part of our model uses.

    Raises:
        CheckpointError: A tensor of the body is missing or has another shape.
    """
    reader = Reader(described, weights)
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
        what = f"lacks {len(missing):,} tensors of the model, for example {missing[0]}"
        raise CheckpointError(str(described.folder), what, "download the whole model")
    state = {f"transformer.{name}": reader.load(*where) for name, where in found.items()}
    state |= _head(reader, reader.names.vocabulary, _vocabulary_shapes(described))
    if reader.names.classes:
        state |= _head(reader, reader.names.classes, _class_shapes(described, reader))
    known = {*reader.names.same.values(), *(reader.prefix + name for name in reader.names.copies)}
    if described.free["tie_embeddings"] in ("target_output", "all"):
        known.add(_check_tied(reader, state))
    buffers = ("position_ids", "masked_bias", "attn.bias", "rotary_emb.inv_freq", "attention.bias")
    unused = [
        name
        for modern, name in reader.known.items()
        if name not in reader.used and modern not in known and not name.endswith(buffers)
    ]
    return state, unused


def _check_tied(reader: Reader, state: Mapping[str, Tensor]) -> str:
    """The name of the output layer's weight, which a file may hold although it is the embedding's.

    Raises:
        CheckpointError: It is another matrix.
    """
    entry = stored(reader.names.vocabulary, "weight")
    assert entry is not None, "every family has an output layer"
    embedding = state[f"transformer.{reader.described.family.stacks[0]}.embedding.weight"]
    found = reader.find(entry, embedding.shape)
    if found is not None and not torch.equal(found, embedding):
        what = f"{entry.name} is not the embedding, although config.json ties them (tie_word_embeddings)"
        raise CheckpointError(str(reader.described.folder), what, 'write "tie_word_embeddings": false there')
    return entry.name


def _modern(name: str) -> str:
    before, _, last = name.rpartition(".")
    return f"{before}.{OLDER[last]}" if last in OLDER else name


def body_of(described: Described) -> dict[str, Tensor]:
    """The parameters of our backbone by name. They have shapes, but take no memory."""
    sizes = [described.vocab_size if stack in described.family.stacks else None for stack in ("encoder", "decoder")]
    with torch.device("meta"):
        model = Transformer(ModelConfig(**described.options), source_vocab_size=sizes[0], target_vocab_size=sizes[1])
    return dict(model.named_parameters())


def _vocabulary_shapes(described: Described) -> dict[str, torch.Size]:
    """The shapes of our head over the vocabulary, without a tied matrix."""
    config, size = ModelConfig(**described.options), described.vocab_size
    width = config.width_of_embeddings if config.output_transform else config.d_model
    shapes = {} if config.tie_embeddings in ("target_output", "all") else {"weight": torch.Size((size, width))}
    if config.output_bias:
        shapes["bias"] = torch.Size((size,))
    if config.output_transform:
        with torch.device("meta"):
            transform = OutputTransform(config)
        shapes |= {f"transform.{name}": parameter.shape for name, parameter in transform.named_parameters()}
    return shapes


def _class_shapes(described: Described, reader: Reader) -> dict[str, torch.Size]:
    """The shapes of our head over classes, with as many classes as the folder's head has."""
    width, shapes = described.fixed["d_model"], {}
    if "dense" in reader.names.classes:
        shapes |= {"dense.weight": torch.Size((width, width)), "dense.bias": torch.Size((width,))}
    last = reader.known.get(f"{reader.names.classes['output']}.weight", "")
    if len(shape := reader.weights.shapes.get(last, ())) == 2:
        shapes |= {"output.weight": torch.Size((shape[0], width)), "output.bias": torch.Size((shape[0],))}
    return shapes


def _head(reader: Reader, table: Mapping[str, str | Stored], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Loads those tensors of a head that the folder has."""
    state = {}
    for name, shape in shapes.items():
        entry = stored(table, name)
        assert entry is not None, f"no name for {name}"
        other = reader.names.same.get(entry.name, "")
        tensor = reader.find(Stored(other) if other in reader.known else entry, shape)
        if tensor is None and entry.name.startswith(reader.names.prefix):  # a body alone has no prefix
            tensor = reader.find(Stored(entry.name.removeprefix(reader.names.prefix)), shape)
        if tensor is not None:
            state[f"head.{name}"] = tensor
    return state
