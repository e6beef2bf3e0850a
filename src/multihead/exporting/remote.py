"""Writes a run in Hugging Face's layout with the model's own code beside it, for ``trust_remote_code=True``.

Every model of ours can be written so, whether or not a published family has it. ``modeling_multihead.py`` holds the
classes of the backbone, as `multihead.exporting.bundle` collects them from our sources.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors.torch import load_file, save_file

from multihead import __version__
from multihead.config.extras import installed
from multihead.config.task import ClassificationConfig, TranslationConfig
from multihead.errors import ConfigError
from multihead.exporting.bundle import bundled
from multihead.exporting.huggingface import (
    OTHERS,
    Runtime,
    auto_class,
    card,
    check_translator,
    content_of_task,
    require_own_head,
    write_json,
    write_tokenizer,
)
from multihead.exporting.verify import Reference, temperature_of
from multihead.model.transformer import Blocks
from multihead.runs.directory import read_json
from multihead.tasks import build_task
from multihead.tasks.base import Task
from multihead.tasks.pooled import PooledTask
from multihead.tasks.regression import RegressionTask

FILE = "modeling_multihead.py"
NOTE = f"""Multihead {__version__} wrote this file from its sources (Apache License 2.0)."""
UNUSED = {"VocabularyHead": ("loss", "evaluate"), "MultiheadError": ("lines", "_render_traceback_")}
"""Methods that the file does without."""


def check(task: Task) -> None:
    """Checks that the file can hold the model.

    Raises:
        ConfigError: A plugin's block is part of it, or ``transformers`` has no interface for it, or is not installed.
    """
    settings = task.settings
    if len(task.config.task.members()) > 1:
        raise ConfigError("task=multitask", "an Auto class loads one head, and this run has several", OTHERS)
    require_own_head(task)
    for part in fields(Blocks):
        if getattr(task.model.transformer.blocks, part.name) is not part.default:
            what = f"its {part.name} is part of the model, and an export does not copy a plugin's code"
            raise ConfigError("plugin", what, OTHERS)
    if isinstance(settings, TranslationConfig):
        check_translator(task, settings)
    if not installed("transformers"):
        what = "the export is compared with the run by transformers, which is not installed"
        raise ConfigError("remote_code", what, "pip install transformers")


def write(task: Task, folder: Path, run_dir: Path) -> None:
    """Writes configuration, code, weights, tokenizer and model card into an existing folder.

    Raises:
        ConfigError: As `check`.
    """
    check(task)
    content = _content(task)
    write_json(folder / "config.json", content)
    (folder / FILE).write_text(bundled("multihead.exporting.modeling", NOTE, UNUSED), encoding="utf-8")
    state = {name: parameter.detach().cpu().contiguous() for name, parameter in task.model.named_parameters()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(task, folder)
    if (path := folder / "generation_config.json").is_file():
        write_json(path, read_json(path, dict) | {"use_cache": content["use_cache"]})
    (folder / "README.md").write_text(card(task, run_dir, content), encoding="utf-8")


def _content(task: Task) -> dict[str, Any]:
    """The content of ``config.json``."""
    model = task.config.model
    embeddings: dict[str, Any] = {name: task.model.transformer.stack(name).embedding for name in task.settings.stacks}
    vocabularies = {name: len(embedding.weight) for name, embedding in embeddings.items()}
    content = {"model_type": "multihead", **content_of_task(task, "Multihead")}
    architecture = content["architectures"][0]
    last = "decoder" if "decoder" in vocabularies else "encoder"
    return content | {
        "auto_map": {
            "AutoConfig": f"{Path(FILE).stem}.MultiheadConfig",
            auto_class(content): f"{Path(FILE).stem}.{architecture}",
        },
        "backbone": asdict(model),
        "vocabularies": vocabularies,
        "pooled": _pooled(task) if isinstance(task, PooledTask) else {},
        "calibration": temperature_of(task),
        "scale": [task.scale.mean, task.scale.deviation] if isinstance(task, RegressionTask) else [0.0, 1.0],
        "vocab_size": vocabularies[last],
        "hidden_size": model.d_model,
        "num_hidden_layers": getattr(model, f"num_{last}_layers"),
        "num_attention_heads": model.num_heads,
        "max_position_embeddings": model.max_len,
        "tie_word_embeddings": model.tie_embeddings != "none" or model.share_layers,
        "use_cache": not model.ngram_buckets,
    }


def _pooled(task: PooledTask[Any]) -> dict[str, Any]:
    """The arguments of the head over classes."""
    settings, found = task.settings, {"ngram_buckets": 0, "ngram_max": 1, "ngram_share": 0.0}
    if isinstance(settings, ClassificationConfig):
        found = {name: getattr(settings, name) for name in found}
    return found | {
        "num_classes": task.model.head.output.out_features,
        "pooling": settings.pooling,
        "dropout": settings.head_dropout,
        "activation": settings.head_activation,
        "bias": settings.head_bias,
    }


def read_back(folder: Path, reference: Reference) -> Runtime:
    """Reads the folder that `write` wrote: by its own code for the logits, by our reader for outputs."""
    task = reference.task
    fresh = build_task(task.config, task.vocab, None)
    fresh.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return Runtime(reference, fresh.eval(), load(folder))


def load(folder: Path) -> Any:
    """The model, by the code in the folder. Unlike an Auto class, it copies nothing into the user's cache."""
    import transformers

    transformers.logging.set_verbosity_error()
    name = read_json(folder / "config.json", dict)["architectures"][0]
    with contextlib.redirect_stderr(io.StringIO()):
        return getattr(_module(folder / FILE), name).from_pretrained(folder).eval()


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("multihead_exported", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and transformers look it up there
    spec.loader.exec_module(module)
    return module
