"""A published model as the start of a run: ``init_from=hf:FOLDER`` or ``hf:ORG/NAME[@revision]``.

Its ``config.json`` decides the sizes and mechanisms of ``model.*``; nothing here imports torch or runs code of the
folder. `multihead.config.families` says what the file means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.extras import require_package
from multihead.config.families import FAMILIES, GATES, LONGEST, Family
from multihead.config.model import TABLES, ModelConfig
from multihead.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from multihead.config.training import Config

PREFIX = "hf:"
ON_THE_HUB = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
MOST_BYTES = 10_000_000
"""Size of a config.json that is read."""
DESCRIBING = ("config.json", "1_Pooling/config.json")
WHOLE = (
    *DESCRIBING,
    *("model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("source.spm", "target.spm", "vocab.json", "spiece.model"),
)
OLDER = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Files that are fetched from the hub; the older ones of a model without safetensors."""
LARGEST = {"d_model": 65_536, "d_ff": 1_048_576, "num_heads": 65_536, "max_len": 16_777_216}
LARGEST |= dict.fromkeys(("layers", "num_encoder_layers", "num_decoder_layers"), 1_000)
"""Sizes above these are no model's: they would be a mistake, or meant to exhaust the memory."""
ADDED = ("init", "ngram_buckets", "ngram_max")
"""Options that a run may add to a published model: its weights mean the same with them."""
POOLINGS = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
FREE = ("dropout", "attention_dropout", "ff_dropout", "max_len", "tie_embeddings")
FREE += ("num_encoder_layers", "num_decoder_layers")
"""Options that a run may have otherwise than the published model."""


@dataclass(frozen=True)
class Described:
    """A published model by its ``config.json``."""

    folder: Path
    family: Family
    model_type: str
    content: Mapping[str, Any]
    """The file."""
    fixed: Mapping[str, Any]
    """Options of ``model.*`` that its weights dictate."""
    free: Mapping[str, Any]
    """Options of ``model.*`` that a run may have otherwise."""
    most: Mapping[str, int]
    """Options of ``model.*`` that a run may have smaller, but not larger."""
    vocab_size: int

    @property
    def options(self) -> dict[str, Any]:
        """All of them as arguments of `ModelConfig`."""
        return {**self.fixed, **self.free}

    def line(self) -> str:
        """The model in one line."""
        model = ModelConfig(**self.options)
        stacks = " and ".join(f"{stack} of {self.most[f'num_{stack}_layers']} layers" for stack in self.family.stacks)
        heads = f"{model.num_heads} heads" + (
            f" ({model.kv_heads} of keys)" if model.kv_heads < model.num_heads else ""
        )
        return (
            f"{self.family.name}, {stacks}, width {model.d_model}, {heads}, "
            f"d_ff {model.d_ff}, {model.activation}, {model.position} positions, {self.vocab_size:,} entries"
        )


def is_published(init_from: object) -> bool:
    """Whether ``init_from`` names a published model and not a run."""
    return isinstance(init_from, str) and init_from.startswith(PREFIX)


def hub_name(init_from: str) -> tuple[str, str]:
    """Name and revision of the published model that ``init_from`` names; the revision is empty if none is named.

    A folder has its path as its name.
    """
    named = init_from.removeprefix(PREFIX)
    on_hub = None if Path(named).expanduser().is_dir() else ON_THE_HUB.fullmatch(named)
    return (on_hub["name"], on_hub["revision"] or "") if on_hub else (named, "")


def locate(init_from: str, *, whole: bool = True) -> Path:
    """The folder that ``init_from`` names; from the hub's cache, or downloaded into it, if it is no folder here.

    Args:
        init_from: ``hf:FOLDER`` or ``hf:ORG/NAME[@revision]``.
        whole: Whether the weights are wanted; else ``config.json`` alone is fetched.

    Raises:
        ConfigError: There is no such folder, and no such model on the hub, or the hub cannot be reached.
    """
    named = init_from.removeprefix(PREFIX)
    folder = Path(named).expanduser()
    if named and folder.is_dir():
        return folder
    on_hub = ON_THE_HUB.fullmatch(named)
    if not on_hub or named.startswith((".", "/", "~")):
        raise ConfigError(
            "init_from", f"no such folder: {named or '(empty)'}", "init_from=hf:FOLDER, with a config.json"
        )
    require_package("huggingface_hub", "init_from", f"{init_from} is not a folder here; to fetch it from the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = on_hub["name"], on_hub["revision"]
    fetch = lambda files: Path(snapshot_download(name, revision=revision, allow_patterns=[*files]))  # noqa: E731
    try:
        folder = fetch(WHOLE if whole else DESCRIBING)
        return fetch(OLDER) if whole and not any(folder.glob("*.safetensors")) else folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        at = f" --revision {revision}" if revision else ""
        fix = f"hf download {name}{at} --local-dir {Path(name).name}, then init_from=hf:{Path(name).name}"
        raise ConfigError(
            "init_from", f"{named} is not a folder here, and the download from the hub failed ({reason})", fix
        ) from None


def describe(init_from: str) -> Described:
    """What the ``config.json`` of a published model says.

    Raises:
        ConfigError: There is no such model.
        CheckpointError: The file is missing, damaged, or of a family or with a mechanism that we do not have.
    """
    return read(locate(init_from, whole=False))


def read(folder: Path) -> Described:
    """As `describe`, of a folder."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(str(path), f"is larger than {MOST_BYTES:,} bytes", "download the model again")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise CheckpointError(str(path), reason, "init_from=hf:FOLDER needs a folder with a config.json") from None
    return described(folder, content)


def described(folder: Path, content: Any) -> Described:
    """What the content of a ``config.json`` means; raises as `describe` does."""
    path = folder / "config.json"
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        what = f"model_type={model_type!r} is not supported; supported are {', '.join(FAMILIES)}"
        raise CheckpointError(str(path), what, "choose a model of one of these families")
    family = FAMILIES[model_type]
    values = {**family.defaults, **{key: value for key, value in content.items() if value is not None}}
    for key, allowed in family.needs.items():
        if (value := values.get(key, allowed[0])) not in allowed:
            what = f"{key}={value!r} is not supported; for {family.name} it must be {allowed[0]!r}"
            raise CheckpointError(str(path), what, "choose another model")
    for key, other in family.equal.items():
        if (value := values.get(key, values.get(other))) != values.get(other):
            what = f"{key}={value!r} is not supported; for {family.name} it must be {other}={values.get(other)!r}"
            raise CheckpointError(str(path), what, "choose another model")
    options = _options(path, family, values)
    free = {name: options.pop(name) for name in FREE if name in options}
    most = {f"num_{stack}_layers": free[f"num_{stack}_layers"] for stack in family.stacks}
    if options["position"] in TABLES:
        most["max_len"] = free["max_len"]
    vocab_size = _size(path, "vocab_size", values.get("vocab_size"), 10_000_000)
    try:
        ModelConfig(**options, **free)
    except (ConfigError, TypeError) as error:
        what = error.what if isinstance(error, ConfigError) else str(error)
        raise CheckpointError(str(path), f"describes no model: {what}", "download the model again") from None
    fixed = {item.name: item.default for item in fields(ModelConfig) if item.name not in (*ADDED, *FREE, *free)}
    return Described(folder, family, model_type, content, fixed | options, free, most, vocab_size)


def pooling_of(folder: Path) -> str:
    """How the vector of a text was pooled in training, if the folder says it as sentence-transformers does."""
    try:
        content = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        found = [ours for key, ours in POOLINGS.items() if content.get(key) is True]
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return found[0] if len(found) == 1 else ""


def _options(path: Path, family: Family, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``model.*``."""
    options = dict(family.always)
    for ours, theirs in family.keys.items():
        value = values.get(theirs)
        if value is None and ours == "num_decoder_layers":
            value = values.get(family.keys["num_encoder_layers"])
        if ours in LARGEST and not (ours == "d_ff" and value is None):
            value = _size(path, theirs, value, LARGEST[ours])
        if ours == "activation":
            if (value := str(value)) not in family.activations:
                what = f"{theirs}={value!r} is not supported; supported are {', '.join(family.activations)}"
                raise CheckpointError(str(path), what, "choose another model")
            value = family.activations[value]
        if value is not None:
            options[ours] = value
    options.setdefault("d_ff", 4 * options["d_model"])
    if depth := options.pop("layers", 0):
        options |= {"num_encoder_layers": depth, "num_decoder_layers": depth}
    tied, both = values.get("tie_word_embeddings", True), len(family.stacks) == 2
    options["tie_embeddings"] = ("none", "target_output", "source_target", "all")[2 * both + bool(tied)]
    if options.get("head_size", 0) * options["num_heads"] == options["d_model"]:
        options["head_size"] = 0
    if options.get("num_kv_heads") == options["num_heads"]:
        options["num_kv_heads"] = 0
    if options.get("embedding_width") == options["d_model"] and not family.always_widens:
        options["embedding_width"] = 0
    if family.activations is GATES and "attention_bias" not in options:
        options["attention_bias"] = "all" if values.get("attention_bias") else "none"
    if "output_scale" in family.keys:
        options.setdefault("output_scale", bool(tied))
    if family.counts_offset:
        options["max_len"] -= options.get("position_offset", 0)
    if options["position"] == "rotary":
        _rotary(path, options, values)
    return options


def _rotary(path: Path, options: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Adds what the file says of rotary positions, in its newer or its older words."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default" if isinstance(rope, dict) else rope
    as_llama3 = isinstance(rope, dict) and (rope.get("low_freq_factor", 1), rope.get("high_freq_factor", 4)) == (1, 4)
    if kind not in ("default", "linear", "llama3") or (kind == "llama3" and not as_llama3):
        what = f"scales rotary positions by {rope}, which Multihead does not support"
        raise CheckpointError(str(path), what, "choose another model")
    if kind != "default":
        options |= {"rope_scaling": kind, "rope_factor": float(rope.get("factor", 1.0))}
    if kind == "llama3":
        options["rope_original_len"] = rope.get("original_max_position_embeddings", options["max_len"])
    theta = rope.get("rope_theta", values.get("rope_theta", values.get("rotary_emb_base", 10000.0)))
    share = rope.get("partial_rotary_factor", values.get("partial_rotary_factor", values.get("rotary_pct", 1.0)))
    options |= {"rope_theta": float(theta), "rotary_share": float(share)}
    window = values.get("sliding_window") if values.get("use_sliding_window", True) else None
    options["max_len"] = min(options["max_len"], LONGEST, window or LONGEST)


def _size(path: Path, key: str, value: object, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        what = f"{key} must be a whole number from 1 to {largest:,}, got {value!r}"
        raise CheckpointError(str(path), what, "download the model again")
    return value


def notes_on(config: Config) -> list[str]:
    """A line on the published model that a run starts from, and one on what the run has otherwise."""
    if not is_published(config.init_from):
        return []
    described = describe(config.init_from)
    unused = [f"num_{stack}_layers" for stack in ("encoder", "decoder") if stack not in described.family.stacks]
    pairs = [(name, getattr(config.model, name), value) for name, value in described.free.items() if name not in unused]
    changed = [f"model.{name}={ours} (there {theirs})" for name, ours, theirs in pairs if ours != theirs]
    return [
        f"{config.init_from}: {described.line()}",
        *([f"this run differs from it in {', '.join(changed)}"] if changed else []),
    ]


def check_typed(described: Described, init_from: str, typed: Mapping[str, Any]) -> None:
    """Refuses what was typed against what the published model is.

    Args:
        described: The model.
        init_from: As it was typed.
        typed: Dotted names to values.

    Raises:
        ConfigError: Names the key.
    """
    for name, value in typed.items():
        node, _, key = name.rpartition(".")
        if node == "tokenizer" and typed.get("init_tokenizer", "same") == "same":
            what = f"has no effect: the tokenizer is that of {init_from}"
            raise ConfigError(name, what, f"leave out {name}={value}")
        if node != "model":
            continue
        if key in described.fixed and described.fixed[key] != value:
            what = f"must be {described.fixed[key]}, as in {init_from}, whose weights this run starts from, got {value}"
            raise ConfigError(name, what, f"leave out {name}={value}")
        if key in described.most and isinstance(value, int) and value > described.most[key]:
            what = f"must be at most {described.most[key]}, as in {init_from}, got {value}"
            raise ConfigError(name, what, f"{name}={described.most[key]}")
