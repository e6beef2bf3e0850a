"""Writes a run as a folder in Hugging Face's layout, which the Auto classes of ``transformers`` load without our code.

One of the published families must have the same model. `multihead.pretrained.target` compares a model with a family. If
no family fits, the message names the option that prevents the export.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from multihead.config.extras import installed
from multihead.config.families import FAMILIES
from multihead.config.published import Described, described
from multihead.config.task import ClassificationConfig, PooledConfig, RegressionConfig, TaskConfig, TranslationConfig
from multihead.data.sentencepiece import ESCAPE
from multihead.data.tokenizer import Tokenizer
from multihead.errors import CheckpointError, ConfigError
from multihead.exporting.verify import Example, Reference, temperature_of
from multihead.model.heads import CopyHead, PooledClassifier, Regressor, VocabularyHead
from multihead.pretrained.folder import opened
from multihead.pretrained.names import NAMES
from multihead.pretrained.source import translated
from multihead.pretrained.target import Obstacle, content_of, obstacles, published_state
from multihead.runs import card as model_card
from multihead.runs.card import Facts
from multihead.runs.files import read_json
from multihead.tasks import build_task
from multihead.tasks.base import Task
from multihead.tasks.classification import ClassificationTask
from multihead.tasks.language_modeling import NEW_TOKENS, LanguageModelingTask
from multihead.tasks.regression import RegressionTask
from multihead.tasks.translation import TranslationTask

OTHERS = "to=onnx or torch_export"
OWN_CODE = "remote_code=true, which writes the model's code beside its weights; or to=onnx"


def family_of(task: Task) -> str:
    """The ``model_type`` of the family that has the model of the task.

    Raises:
        ConfigError: There is no such family. The message names the options in which the nearest family differs.
    """
    settings, model = task.settings, task.config.model
    if len(task.config.task.members()) > 1:
        raise ConfigError("task=multitask", "no published family has several heads", OTHERS)
    require_own_head(task)
    if isinstance(settings, TranslationConfig):
        check_translator(task, settings)
    pooled = isinstance(settings, PooledConfig)
    require_bias(settings)
    marks = _marks(task)
    found: dict[str, list[Obstacle]] = {}
    for model_type, family in FAMILIES.items():
        foreign = model_type == "qwen2" and marks.kind != "published"
        foreign |= marks.pad_id not in family.needs.get("pad_token_id", (marks.pad_id,))  # it counts positions from it
        if not family.classes or family.stacks != settings.stacks or foreign:  # AutoTokenizer takes Qwen2's own
            continue
        try:
            named = obstacles(model_type, model, marks.vocab_size, with_vocabulary=not pooled)
        except CheckpointError:  # a model of these sizes cannot be of this family
            continue
        found[model_type] = [(f"model.{name}", ours, theirs) for name, ours, theirs in named]
        if pooled:
            found[model_type] += obstacles_of_classes(settings, model_type)
    if not found:
        raise ConfigError("model", "prevents the export: no published family has such sizes", OWN_CODE)
    nearest = min(found, key=lambda model_type: len(found[model_type]))
    if found[nearest]:
        (key, ours, theirs), *others = found[nearest]
        more = "".join(f"; {name}={_word(here)} too, it has {_word(there)}" for name, here, there in others)
        what = f"prevents the export: the nearest published family, {FAMILIES[nearest].name}, has {_word(theirs)}{more}"
        raise ConfigError(f"{key}={_word(ours)}", what, OWN_CODE)
    return nearest


def require_own_head(task: Task) -> None:
    """Checks that the head is one of ours.

    Raises:
        ConfigError: It is a plugin's, whose code an export does not copy.
    """
    if type(task.model.head) not in (VocabularyHead, CopyHead, PooledClassifier, Regressor):
        what = f"its head, {type(task.model.head).__name__}, is part of the model, and an export does not copy its code"
        raise ConfigError("plugin", what, OTHERS)


def check_translator(task: Task, settings: TranslationConfig) -> None:
    """Checks what a published translator cannot have.

    Raises:
        ConfigError: The message names the option.
    """
    if settings.topology == "decoder":
        raise ConfigError("task.topology=decoder", "no published family translates with a decoder alone", OTHERS)
    if settings.copy:
        raise ConfigError("task.copy=true", "no published family copies tokens of the source", OTHERS)
    source, target = (
        [entry.removeprefix(ESCAPE) for entry in task.tokenizers[role].vocab] for role in ("source", "target")
    )
    if source != target:
        what = "a published translator has one vocabulary for source and target"
        raise ConfigError("tokenizer.joint=false", what, OTHERS)


def _marks(task: Task) -> Tokenizer:
    """The tokenizer that is exported: a translator's for the source, whose entries are those of the target too."""
    return task.tokenizers.get("source") or task.tokenizers["text"]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def obstacles_of_classes(settings: PooledConfig, model_type: str) -> list[Obstacle]:
    """Options of ``task.*`` in which a head over classes differs from the family's."""
    names = NAMES[FAMILIES[model_type].tensors]
    dense = "dense" in names.classes
    wanted = {
        "pooling": "first" if dense else "last",
        "head_activation": names.activation,
        "head_bias": dense,
        **({"ngram_buckets": 0} if isinstance(settings, ClassificationConfig) else {}),
    }
    differ = [name for name, value in wanted.items() if getattr(settings, name) != value]
    return [(f"task.{name}", getattr(settings, name), wanted[name]) for name in differ]


def write(task: Task, folder: Path, run_dir: Path) -> str:
    """Writes configuration, weights, tokenizer and model card into an existing folder; returns the family.

    Raises:
        ConfigError: No family has the model.
    """
    model_type = family_of(task)
    start = FAMILIES[model_type].classes
    content = content_of(model_type, task.config.model, _marks(task).vocab_size) | content_of_task(task, start)
    state = {name: parameter.detach() for name, parameter in task.model.named_parameters()}
    tensors = published_state(described(folder, content), scaled_output(task, state), prefixed=True)
    write_json(folder / "config.json", content)
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(task, folder)
    (folder / "README.md").write_text(card(task, run_dir, content), encoding="utf-8")
    return model_type


def require_bias(settings: TaskConfig) -> None:
    """Checks that the family's head can hold the mean of a regression's labels.

    Raises:
        ConfigError: It has no bias.
    """
    if isinstance(settings, RegressionConfig) and settings.stack == "decoder":
        what = "a published decoder's head has no bias, so it cannot hold the mean of the labels"
        raise ConfigError("task.stack=decoder", what, OWN_CODE)


def scaled_output(task: Task, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state, with the temperature or the scale of the labels in those of the last layer."""
    output = {name: tensor for name, tensor in state.items() if name.startswith("head.output.")}
    if not isinstance(task, RegressionTask):
        return {**state, **{name: tensor / temperature_of(task) for name, tensor in output.items()}}
    scaled = {name: tensor * task.scale.deviation for name, tensor in output.items()}
    scaled["head.output.bias"] = scaled["head.output.bias"] + task.scale.mean
    return {**state, **scaled}


def content_of_task(task: Task, start: str) -> dict[str, Any]:
    """The keys of ``config.json`` that depend on the task: the class that loads the model, special ids and classes.

    Args:
        task: The task.
        start: How the names of the family's classes begin.
    """
    settings, marks = task.settings, _marks(task)
    ids = {"bos_token_id": marks.bos_id, "eos_token_id": marks.eos_id, "pad_token_id": marks.pad_id}
    if isinstance(settings, RegressionConfig):
        architecture = f"{start}ForSequenceClassification"
        return {"architectures": [architecture], **ids, "id2label": {"0": "LABEL_0"}, "problem_type": "regression"}
    if isinstance(settings, ClassificationConfig) and isinstance(task, ClassificationTask):
        names = dict(enumerate(task.labels))
        kind = "multi_label_classification" if settings.multi_label else "single_label_classification"
        thresholds = {name: each.value for name, each in task.calibration.thresholds.items()}
        return {
            "architectures": [f"{start}ForSequenceClassification"],
            **ids,
            "id2label": {str(number): name for number, name in names.items()},
            "label2id": {name: number for number, name in names.items()},
            "problem_type": kind,
            **({"multihead_thresholds": thresholds} if thresholds else {}),
        }
    if isinstance(settings, TranslationConfig):
        last = "MTModel" if start == "Marian" else "ForConditionalGeneration"
        return {"architectures": [start + last], **ids, **_starts(task), "is_encoder_decoder": True}
    causal = settings.stacks == ("decoder",)
    last = ("LMHeadModel" if start == "GPT2" else "ForCausalLM") if causal else "ForMaskedLM"
    return {"architectures": [start + last], **ids}


def _starts(task: Task) -> dict[str, Any]:
    """What a decoder reads before a target, and that nothing is forced at its end."""
    first, *more = task.tokenizers["target"].target_start
    forced = {"forced_bos_token_id": more[0] if more else None, "forced_eos_token_id": None}
    return {"decoder_start_token_id": first, **forced}


def write_tokenizer(task: Task, folder: Path) -> None:
    """Writes the tokenizer in the ``tokenizers`` library's format, and the settings that ``transformers`` reads."""
    marks, settings = _marks(task), task.settings
    if isinstance(settings, PooledConfig):
        written = marks.tokenizers_json(marks.start, marks.end)
    elif isinstance(settings, TranslationConfig):
        written = marks.tokenizers_json(marks.source_start, marks.source_end)
    else:
        before = marks.opening if settings.stacks == ("decoder",) else ()
        written = marks.tokenizers_json(before, by_line=isinstance(task, LanguageModelingTask) and task.by_line)
    (folder / "tokenizer.json").write_text(written, encoding="utf-8")
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if task.config.model.segment_types > 1 else [])
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": task.config.model.max_len,
        "model_input_names": inputs,
        "padding_side": "left" if settings.name == "lm" and settings.stacks == ("decoder",) else "right",
        "clean_up_tokenization_spaces": False,
        **marks.tokenizers_names,
    }
    write_json(folder / "tokenizer_config.json", {"pad_token": marks.vocab[marks.pad_id]} | said)
    if "decoder" in settings.stacks and not isinstance(settings, ClassificationConfig):
        write_json(folder / "generation_config.json", _generation(task))


def _generation(task: Task) -> dict[str, Any]:
    """How ``transformers`` generates as the run does: the search, and the tokens that are never emitted."""
    marks, decoding = _marks(task), task.config.decoding
    never = {marks.pad_id, marks.bos_id, marks.sep_id}
    names = ["num_beams", "length_penalty", "no_repeat_ngram_size"]
    names += ["min_new_tokens"] if decoding.min_new_tokens else []
    own: dict[str, Any]
    if isinstance(task, TranslationTask):
        length, own = decoding.max_new_tokens or task.config.model.max_len - len(task.start), _starts(task)
    else:
        never |= {marks.unk_id, marks.mask_id}
        length = min(decoding.max_new_tokens or NEW_TOKENS, max(1, task.config.model.max_len // 2))  # a prompt has room
        own = {"do_sample": True} if decoding.do_sample else {}
        names += ["repetition_penalty"]
        names += ["temperature", "top_k", "top_p", "min_p"] if decoding.do_sample else []  # else they bring a warning
    if decoding.num_beams > 1:
        own["early_stopping"] = "never"
    return {
        "bos_token_id": marks.bos_id,
        "eos_token_id": marks.eos_id,
        "pad_token_id": marks.pad_id,
        "max_new_tokens": length,
        **{name: getattr(decoding, name) for name in names},
        **own,
        **({"suppress_tokens": sorted(never - {marks.eos_id})} if never - {marks.eos_id} else {}),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# ---- the model card


def card(task: Task, run_dir: Path, content: Mapping[str, Any]) -> str:
    """The model card: what `multihead.runs.card` says of a run, and how ``transformers`` loads the folder."""
    auto = auto_class(content)
    trust = ", trust_remote_code=True" if "auto_map" in content else ""
    temperature = temperature_of(task)
    notes = [
        f"""```python
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained("."{trust})
model = {auto}.from_pretrained("."{trust})
```"""
    ]
    if trust:
        notes.append("`trust_remote_code=True` runs `modeling_multihead.py` of this folder: read it first.")
    if temperature != 1.0:
        notes.append(f"Its logits are divided by the calibration's temperature, {temperature:.4g}.")
    if "multihead_thresholds" in content:
        notes.append("The thresholds of classes stand in `config.json` (`multihead_thresholds`); apply them yourself.")
    if lost := [name for name in ("forced_prefix", "stop_strings") if getattr(task.config.decoding, name)]:
        named = " and ".join(f"`decoding.{name}`" for name in lost)
        notes.append(f"`generate` does not know {named} of the run, which `generation_config.json` cannot hold.")
    if auto == "AutoModelForCausalLM":
        most, new = task.config.model.max_len, _generation(task)["max_new_tokens"]
        notes.append(
            f"A prompt and its continuation have at most {most:,} tokens, because `generate` does not slide a window "
            f"over the text as `multihead predict` does. `generation_config.json` asks for up to {new:,} new tokens, "
            f"so cut a prompt to its last {most - new:,} tokens."
        )
    parameters = sum(p.numel() for p in task.model.parameters())
    about = (
        f"A {content['architectures'][0]} of {parameters:,} parameters, trained by Multihead on the data set "
        f"`{task.config.data.name}`."
    )
    return model_card.card(Facts.read(run_dir, task.config), "transformers", about, "\n\n".join(notes))


AUTO = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "MTModel": "AutoModelForSeq2SeqLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
}
"""End of the name of a model's class to the name of the Auto class that loads it."""


def auto_class(content: Mapping[str, Any]) -> str:
    """The name of the Auto class that loads a model, by its ``config.json``."""
    return next(auto for end, auto in AUTO.items() if content["architectures"][0].endswith(end))


# ---- the comparison


class Runtime:
    """A model that was read back from disk.

    Args:
        reference: The run's model.
        fresh: The task as our own reader finds it on disk.
        theirs: The model as ``transformers`` loads it; None if our task computes the logits too.
    """

    measured = "logits"
    greedy = False

    def __init__(self, reference: Reference, fresh: Task, theirs: Any = None):
        self.reference, self.fresh, self.theirs = reference, Reference(fresh, reference.decoding), theirs

    def versions(self) -> Mapping[str, str]:
        """Versions of what runs the model, without torch."""
        return {} if self.theirs is None else {"transformers": metadata.version("transformers")}

    def expected(self, example: Example) -> Tensor:
        """The run's logits, divided by the temperature."""
        return self.reference.logits(example) / self.reference.temperature

    @torch.inference_mode()
    def teacher_forced(self, examples: Sequence[Example]) -> list[Tensor]:
        """Logits of each example."""
        if self.theirs is None:
            return [self.fresh.logits(example) for example in examples]
        return [self._forced(self.theirs, example) for example in examples]

    def _forced(self, model: Any, example: Example) -> Tensor:
        prefix = self.reference.prefix(example) if self.reference.searches else example.source
        row = [*prefix, *example.target] if self.reference.searches else example.source
        if isinstance(self.reference.task, TranslationTask):
            source = torch.tensor([self.reference.source(example)])
            logits = model(input_ids=source, decoder_input_ids=torch.tensor([row])).logits[0]
            return logits[len(prefix) - 1 :]
        words = {} if example.types is None else {"token_type_ids": torch.tensor([example.types])}
        logits = model(input_ids=torch.tensor([row]), **words).logits[0]
        return logits[len(prefix) - 1 :] if self.reference.searches else logits

    def outputs(self, examples: Sequence[Example]) -> list[list[int]]:
        """The output of each example by the run's search."""
        return self.fresh.outputs(examples)


def read_back(folder: Path, reference: Reference) -> Runtime:
    """Reads the folder that `write` wrote. If ``transformers`` is installed, it computes the logits."""
    theirs = _auto_model(folder) if installed("transformers") else None
    return Runtime(reference, _fresh(folder, reference.task), theirs)


def _auto_model(folder: Path) -> Any:
    """Lets ``transformers`` load the model without its messages."""
    import transformers

    transformers.logging.set_verbosity_error()
    auto = auto_class(read_json(folder / "config.json", dict))
    with contextlib.redirect_stderr(io.StringIO()):
        return getattr(transformers, auto).from_pretrained(folder).eval()


def _fresh(folder: Path, task: Task) -> Task:
    """Builds a fresh task and loads the tensors of the folder under our names. They hold the scale of a regression."""
    fresh = build_task(task.config, replace(task.vocab, scales={}), None)
    model: Described = described(folder, read_json(folder / "config.json", dict))
    with opened(folder) as weights:
        state, _ = translated(model, weights)
    _, unexpected = fresh.model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    return fresh.eval()
