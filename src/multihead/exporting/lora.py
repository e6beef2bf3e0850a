"""The adapters of a run in the layout of ``peft``: a small file beside the published model that the run began from.

Our layers have queries, keys and values apart. If a family has them in one matrix, their adapters become one adapter,
whose rank is the sum of theirs: A below each other, B in blocks.

Shapes: R rank of an adapter, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from multihead.config.published import Described, hub_name, is_published, locate, read
from multihead.config.task import MultitaskConfig, PooledConfig
from multihead.errors import CheckpointError, ConfigError
from multihead.exporting.huggingface import (
    OTHERS,
    Runtime,
    obstacles_of_classes,
    require_bias,
    scaled_output,
    write_tokenizer,
)
from multihead.exporting.verify import Reference
from multihead.pretrained.folder import Weights, as_stored, opened
from multihead.pretrained.names import Stored, names_of, stored
from multihead.pretrained.source import translated
from multihead.pretrained.target import published_state
from multihead.runs.card import Facts, card
from multihead.runs.directory import ADAPTER
from multihead.runs.files import read_json
from multihead.tasks import build_task
from multihead.tasks.base import Task
from multihead.text.vocabulary import Vocabulary
from multihead.training.transfer import Source, copy_weights

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
BEFORE = "base_model.model."
"""What stands before the names of all tensors in peft's file."""
WHOLE = "to=huggingface writes the whole model"


def base_of(task: Task) -> Described:
    """The published model whose adapters the run has.

    Raises:
        ConfigError: It has none, or adapters and a head cannot say what was trained, or the run has only some of its
            layers.
    """
    start, settings = task.config.init_from, task.config.task
    if isinstance(settings, MultitaskConfig):
        what = "has several tasks, but a model of peft has one head"
        raise ConfigError(f"task={settings.name}", what, OTHERS)
    if not task.config.lora.r:
        raise ConfigError("to=lora", "the run has no adapters, because it was trained without lora.r", WHOLE)
    if not is_published(start):
        what = f"the adapters need the weights of {start}, which is not a published model"
        raise ConfigError("to=lora", what, WHOLE)
    if task.config.lora.also_train:
        raise ConfigError("lora.also_train", "to=lora writes adapters and heads, but the run trained more", WHOLE)
    base = read(locate(start, whole=False))
    if settings.stacks != base.family.stacks:
        what = f"has other stacks than {start}, so that no model of peft has its adapters"
        raise ConfigError(f"task={settings.name}", what, OTHERS)
    for key in (f"num_{stack}_layers" for stack in settings.stacks):
        if (ours := getattr(task.config.model, key)) != base.most[key]:
            what = f"prevents the export: peft adds adapters to the whole of {start}, which has {base.most[key]}"
            raise ConfigError(f"model.{key}={ours}", what, WHOLE)
    require_bias(settings)
    if isinstance(settings, PooledConfig) and (named := obstacles_of_classes(settings, base.model_type)):
        key, ours, theirs = named[0]
        raise ConfigError(f"{key}={ours}", f"prevents the export: {base.family.name} has {theirs}", "to=onnx")
    return base


def write(task: Task, folder: Path, run_dir: Path) -> None:
    """Writes peft's two files, the tokenizer and a card into an existing folder.

    Raises:
        ConfigError: As `base_of`.
        CheckpointError: The run's file of adapters is missing or damaged.
    """
    base, path = base_of(task), run_dir / "model" / ADAPTER
    try:
        learned = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(path), f"cannot be loaded ({error})", "copy the run again") from None
    adapters, ranks = _joined(base, learned)
    heads = {name: tensor for name, tensor in learned.items() if name.startswith("head.")}
    whole = published_state(base, scaled_output(task, heads), prefixed=True)
    tensors = {BEFORE + name: tensor.contiguous() for name, tensor in (adapters | whole).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    content = _config(task, base, ranks, sorted({name.rpartition(".")[0] for name in whole}))
    (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_tokenizer(task, folder)
    (folder / "README.md").write_text(_card(task, run_dir, content), encoding="utf-8")


def _joined(base: Described, learned: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The adapters under the family's names, and the rank of each by the name of its layer."""
    names = names_of(base)
    layers: dict[str, dict[int, tuple[Stored, Tensor, Tensor]]] = {}
    for name, a in learned.items():
        if name.endswith(".lora_A"):
            ours = name.removesuffix(".lora_A")
            entry = stored(names.body, f"{ours.removeprefix('transformer.')}.weight")
            assert entry is not None, f"no name for {ours}"
            theirs = names.prefix + entry.name.removesuffix(".weight")
            layers.setdefault(theirs, {})[entry.part] = entry, a, learned[f"{ours}.lora_B"]
    found, ranks = {}, {}
    for theirs, parts in layers.items():
        order = sorted(parts)
        entry, _, first = parts[order[0]]
        a = torch.cat([parts[part][1] for part in order])  # [R, I]
        blocks = torch.block_diag(*(parts[part][2] for part in order)).split(len(first))  # [O, R] each
        placed = [torch.zeros_like(blocks[0])] * entry.parts
        for part, block in zip(order, blocks, strict=True):
            placed[part] = block
        b = replace(entry, transposed=False).put(placed, base.fixed["num_heads"])  # peft's are never transposed
        found |= {f"{theirs}.lora_A.weight": a, f"{theirs}.lora_B.weight": b}
        ranks[theirs] = len(a)
    return found, ranks


def _config(task: Task, base: Described, ranks: Mapping[str, int], whole: Sequence[str]) -> dict[str, Any]:
    """The content of ``adapter_config.json``."""
    lora, (name, revision) = task.config.lora, hub_name(task.config.init_from)
    other = {name: rank for name, rank in ranks.items() if rank != lora.r}
    kinds = {
        "classification": "SEQ_CLS",
        "regression": "SEQ_CLS",
        "lm": "CAUSAL_LM" if base.family.stacks == ("decoder",) else None,
    }
    kinds |= dict.fromkeys(("translation", "summarization"), "SEQ_2_SEQ_LM")
    return {
        "peft_type": "LORA",
        "task_type": kinds[task.settings.name],
        "base_model_name_or_path": name,
        "revision": revision or None,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(e, Stored) and e.transposed for e in names_of(base).body.values()),
        "target_modules": sorted(ranks),
        "modules_to_save": list(whole) or None,
        "rank_pattern": other,
        "alpha_pattern": {name: lora.alpha * rank / lora.r for name, rank in other.items()},
    }


def _card(task: Task, run_dir: Path, content: Mapping[str, Any]) -> str:
    """The model card: what `multihead.runs.card` says of a run, and how peft loads the adapters."""
    auto = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}
    auto["SEQ_2_SEQ_LM"] = "AutoModelForSeq2SeqLM"
    name = auto.get(content["task_type"], "AutoModelForMaskedLM")
    labels = dict(enumerate(task.vocab.labels))
    arguments = f", num_labels={len(labels)}, id2label={labels}" if labels else ""
    arguments = ", num_labels=1" if task.settings.name == "regression" else arguments
    base, revision = content["base_model_name_or_path"], content["revision"]
    arguments = (f", revision={revision!r}" if revision else "") + arguments
    at = f" at revision {revision}" if revision else ""
    about = f"""Adapters for {base}{at}, trained by Multihead on the data set `{task.config.data.name}`. The file holds
low-rank adapters and the head; the other weights are those of the published model."""
    use = f"""```python
from peft import PeftModel
from transformers import {name}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
base = {name}.from_pretrained({base!r}{arguments})
model = PeftModel.from_pretrained(base, ".")
```"""
    return card(Facts.read(run_dir, task.config), "peft", about, use)


# ---- the comparison


class Adapted:
    """The weights of a published model with the adapters of a folder: W + (alpha / R) B A, and whole tensors.

    Args:
        base: The weights of the published model.
        folder: What `write` wrote.
        prefix: How the names of the body begin in the folder; a body alone has no such beginning.
    """

    def __init__(self, base: Weights, folder: Path, prefix: str):
        self._base, self._config = base, read_json(folder / CONFIG, dict)
        tensors = {name.removeprefix(BEFORE): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
        self._whole = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
        self.shapes = {**base.shapes} | {name: tuple(tensor.shape) for name, tensor in self._whole.items()}
        self._changes: dict[str, Tensor] = {}
        for layer in self._config["target_modules"]:
            a, b = tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]
            alpha = self._config["alpha_pattern"].get(layer, self._config["lora_alpha"])
            change = (alpha / len(a)) * b @ a
            name = f"{layer}.weight"
            name = name if name in base.shapes else name.removeprefix(prefix)
            self._changes[name] = change.T if self._config["fan_in_fan_out"] else change

    def tensor(self, name: str) -> Tensor:
        """As in `Weights`."""
        if name in self._whole:
            return self._whole[name]
        found = as_stored(self._base, name)
        return found + self._changes[name] if name in self._changes else found


def read_back(folder: Path, reference: Reference) -> Runtime:
    """Reads the folder that `write` wrote: adapters and head, on the weights of the published model."""
    task = reference.task
    described = read(locate(task.config.init_from))
    with opened(described.folder) as weights:
        state, _ = translated(described, Adapted(weights, folder, names_of(described).prefix))
    fresh = build_task(task.config, replace(task.vocab, scales={}), None)  # the head holds a regression's scale
    source = Source(str(folder), state, Vocabulary(task.tokenizers, task.vocab.labels), {**described.options})
    copy_weights(fresh.model, task.vocab, source)
    return Runtime(reference, fresh.eval())
