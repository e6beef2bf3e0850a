"""The backbone as a CTranslate2 model (https://github.com/OpenNMT/CTranslate2): its tensors under that library's names.

Translation and summarization become a ``Translator``; with ``task.topology=decoder``, and as language models, they
become a ``Generator``. Shapes: T target tokens, V vocabulary, D d_model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multihead.config.extras import require_package
from multihead.config.model import ModelConfig
from multihead.config.training import DecodingConfig
from multihead.data.tokenizer import NUM_SPECIALS
from multihead.errors import CheckpointError, ConfigError
from multihead.exporting.verify import Example, Reference
from multihead.model.heads import CopyHead, VocabularyHead
from multihead.model.positions import PositionTable
from multihead.model.transformer import RMSNorm, Stack
from multihead.tasks.base import Task

ACTIVATIONS = ("relu", "gelu", "swiglu")
NO_WORDS = (
    *("norm_eps", "position_offset", "rope_theta", "rotary_share", "embedding_width", "embedding_scale"),
    *("embedding_norm", "segment_types", "share_layers", "parallel", "head_size", "attention_bias"),
    *("output_transform", "output_bias"),
)
"""Options of the model that this export leaves to others."""
EXHAUSTIVE_PATIENCE = 1000.0
"""CTranslate2 stops when ``beam_size * patience`` hypotheses are finished; so many never are."""


def import_ctranslate2() -> Any:
    """The library, quiet.

    Raises:
        ConfigError: It is not installed.
    """
    require_package("ctranslate2", "to", "to=ctranslate2")
    import ctranslate2

    ctranslate2.set_log_level(logging.ERROR)
    return ctranslate2


def check(task: Task, decoding: DecodingConfig) -> None:
    """Refuses what CTranslate2 has no words for.

    Raises:
        ConfigError: Names the key.
    """
    model, transformer = task.config.model, task.model.transformer
    if not isinstance(task.model.head, VocabularyHead):
        raise ConfigError(
            f"task={task.settings.name}", "CTranslate2 has no head of classes on its encoder", "to=onnx or torch_export"
        )
    if getattr(task, "causal", True) is False:
        what = "CTranslate2's encoder gives hidden states, and no logits of masked tokens"
        raise ConfigError("task.objective=masked", what, "to=onnx or torch_export")
    if isinstance(task.model.head, CopyHead):
        raise ConfigError("task.copy=true", "CTranslate2 cannot copy tokens of the source", "to=onnx or torch_export")
    for key, value, ours in (
        ("attention", model.attention, "multi_head"),
        ("feed_forward", model.feed_forward, "dense"),
    ):
        if value != ours:
            what = f"CTranslate2 runs its own blocks, not a plugin's; it has model.{key}={ours}"
            raise ConfigError(f"model.{key}={value}", what, "to=onnx or torch_export")
    plain = ModelConfig()
    for key in NO_WORDS:
        if (value := getattr(model, key)) != getattr(plain, key):
            what = "CTranslate2 runs the published families that have it, and not ours"
            raise ConfigError(f"model.{key}={value}", what, "to=onnx or torch_export")
    if model.activation not in ACTIVATIONS:
        what = f"our export to CTranslate2 has {', '.join(ACTIVATIONS)}"
        raise ConfigError(f"model.activation={model.activation}", what, "to=onnx or torch_export")
    if model.ngram_buckets:
        raise ConfigError("model.ngram_buckets", "CTranslate2 has no embeddings of n-grams", "to=onnx or torch_export")
    with_encoder = transformer.encoder is not None and not _alone(task)
    if with_encoder and model.position == "alibi":
        what = "CTranslate2 has ALiBi in a decoder only"
        raise ConfigError("model.position=alibi", what, "to=onnx, or train with task.topology=decoder")
    if with_encoder and model.qk_norm:
        what = "CTranslate2 computes another norm than ours in the attention to the encoder"
        raise ConfigError("model.qk_norm=true", what, "to=onnx, or train with task.topology=decoder")
    stacks = {"num_encoder_layers": transformer.encoder if with_encoder else None}
    for key, stack in (stacks | {"num_decoder_layers": transformer.decoder}).items():
        if stack is not None and not len(stack.layers):
            raise ConfigError(f"model.{key}=0", "CTranslate2 needs a layer in each stack", "to=onnx or torch_export")
    if decoding.forced_prefix:
        what = "CTranslate2 does not count a forced prefix in the score, so that outputs could not be compared"
        raise ConfigError("decoding.forced_prefix", what, "decoding.forced_prefix=")


def write(task: Task, folder: Path, quantization: str) -> None:
    """Writes ``model.bin``, ``config.json`` and the vocabulary into an existing folder.

    Args:
        task: A single task with a decoder, checked by `check`.
        folder: Where to.
        quantization: One of `multihead.config.verbs.QUANTIZATIONS`.

    Raises:
        ConfigError: CTranslate2 is not installed.
    """
    specs = import_ctranslate2().specs
    decoder = _decoder(specs, task)
    if _alone(task):
        spec = specs.TransformerDecoderModelSpec(decoder)
        spec.register_vocabulary(vocabulary(task, "target"))
    else:
        spec = specs.TransformerSpec(_encoder(specs, task), decoder)
        spec.register_source_vocabulary(vocabulary(task, "source"))
        spec.register_target_vocabulary(vocabulary(task, "target"))
        spec.config.decoder_start_token = "<bos>"
        spec.config.add_source_eos = True
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = "<unk>", "<bos>", "<eos>"
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def vocabulary(task: Task, role: str) -> list[str]:
    """The entries of a role's tokenizer by id; one that spells a special entry gets a backslash before it."""
    entries = (task.tokenizers.get(role) or task.tokenizers["text"]).vocab
    taken = set(entries)
    names = list(entries[:NUM_SPECIALS])
    for entry in entries[NUM_SPECIALS:]:
        name = entry
        while name in names[:NUM_SPECIALS] or (name != entry and name in taken):
            name = "\\" + name
        taken.add(name)
        names.append(name)
    return names


def _alone(task: Task) -> bool:
    """Whether the task uses the decoder by itself, also where the backbone has an encoder for another task."""
    return task.settings.stacks == ("decoder",)


# From our tensors to the specification's


def _encoder(specs: Any, task: Task) -> Any:
    model, stack = task.config.model, task.model.transformer.encoder
    spec = specs.transformer_spec.TransformerEncoderSpec(
        len(stack.layers),
        model.num_heads,
        pre_norm=model.norm_placement == "pre",
        activation=_activation(specs, model.activation),
        ffn_glu=model.activation == "swiglu",
        rms_norm=model.norm == "rms_norm",
        num_heads_kv=model.kv_heads if model.kv_heads != model.num_heads else None,
        rotary_dim=0 if model.position == "rotary" else None,  # 0 stands for all dimensions of a head
        rotary_interleave=False,
        qk_norm=model.qk_norm,
    )
    spec.embeddings[0].weight = _numbers(stack.embedding.weight)
    _fill_stack(spec, stack, task.config.model.max_len, cross=False)
    return spec


def _decoder(specs: Any, task: Task) -> Any:
    model, stack = task.config.model, task.model.transformer.decoder
    cross = not _alone(task)
    spec = specs.transformer_spec.TransformerDecoderSpec(
        len(stack.layers),
        model.num_heads,
        pre_norm=model.norm_placement == "pre",
        activation=_activation(specs, model.activation),
        with_encoder_attention=cross,
        ffn_glu=model.activation == "swiglu",
        rms_norm=model.norm == "rms_norm",
        alibi=model.position == "alibi",
        alibi_use_positive_positions=True,  # slope * j: our -slope * (i - j) but for a constant in each row
        rotary_dim=0 if model.position == "rotary" else None,
        rotary_interleave=False,
        num_heads_kv=model.kv_heads if model.kv_heads != model.num_heads else None,
        qk_norm=model.qk_norm,
    )
    spec.embeddings.weight = _numbers(stack.embedding.weight)
    spec.projection.weight = _numbers(task.model.head.weight)
    _fill_stack(spec, stack, task.config.model.max_len, cross=cross)
    return spec


def _activation(specs: Any, name: str) -> Any:
    kinds = specs.common_spec.Activation
    return {"relu": kinds.RELU, "gelu": kinds.GELU, "swiglu": kinds.SWISH}[name]


def _fill_stack(spec: Any, stack: Stack, max_len: int, cross: bool) -> None:
    if hasattr(spec, "position_encodings"):
        no_positions = torch.zeros(max_len, stack.embedding.embedding_dim)
        table = stack.positions.weight if isinstance(stack.positions, PositionTable) else no_positions
        spec.position_encodings.encodings = _numbers(table)
    if hasattr(spec, "layer_norm"):
        _fill_norm(spec.layer_norm, stack.norm)
    for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
        _fill_attention(layer_spec.self_attention, layer.self_attention, layer.self_attention_norm, fused=True)
        if cross:
            _fill_attention(layer_spec.attention, layer.cross_attention, layer.cross_attention_norm, fused=False)
        _fill_norm(layer_spec.ffn.layer_norm, layer.feed_forward_norm)
        _fill_linear(layer_spec.ffn.linear_0, layer.feed_forward.up)
        _fill_linear(layer_spec.ffn.linear_1, layer.feed_forward.down)
        if layer.feed_forward.gate is not None:
            _fill_linear(layer_spec.ffn.linear_0_noact, layer.feed_forward.gate)


def _fill_attention(spec: Any, attention: nn.Module, norm: nn.Module, fused: bool) -> None:
    """Query, key and value are one matrix in self-attention, query apart from the others in cross-attention."""
    _fill_norm(spec.layer_norm, norm)
    if fused:
        _fill_linear(spec.linear[0], attention.query, attention.key, attention.value)
    else:
        _fill_linear(spec.linear[0], attention.query)
        _fill_linear(spec.linear[1], attention.key, attention.value)
    _fill_linear(spec.linear[-1], attention.output)
    if isinstance(attention.query_norm, RMSNorm):
        _fill_norm(spec.q_norm, attention.query_norm)
        _fill_norm(spec.k_norm, attention.key_norm)


def _fill_linear(spec: Any, *layers: nn.Linear) -> None:
    spec.weight = _numbers(torch.cat([layer.weight for layer in layers]))
    if layers[0].bias is not None:
        spec.bias = _numbers(torch.cat([layer.bias for layer in layers]))


def _fill_norm(spec: Any, norm: nn.Module) -> None:
    """Gain and bias. Without a bias the library would take it for RMSNorm, so that zeros stand for none."""
    spec.gamma = _numbers(norm.weight)
    if not isinstance(norm, RMSNorm):
        spec.beta = _numbers(torch.zeros_like(norm.weight) if norm.bias is None else norm.bias)


def _numbers(x: Tensor) -> Any:
    """A copy that the library may change in place."""
    return x.detach().float().cpu().clone().numpy()


# Back from disk


class Runtime:
    """An exported model, loaded and run by CTranslate2 on the CPU.

    Args:
        folder: What `write` wrote.
        reference: The model that it came from, for the bounds of its search.
        patience: Of beam search; CTranslate2's own default is 1.

    Raises:
        CheckpointError: CTranslate2 refuses the model.
    """

    measured = "log-probabilities of target tokens"
    greedy = False

    def __init__(self, folder: Path, reference: Reference, patience: float = EXHAUSTIVE_PATIENCE):
        library = import_ctranslate2()
        self.reference, self.patience = reference, patience
        kind = library.Generator if reference.prefixed else library.Translator
        try:
            self.model = kind(str(folder), device="cpu", inter_threads=1, intra_threads=torch.get_num_threads())
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(str(folder), f"CTranslate2 cannot load it ({error})", "to=onnx") from error
        self.compute_type = self.model.compute_type
        self._source, self._target = (vocabulary(reference.task, role) for role in ("source", "target"))
        self._ids = {name: number for number, name in enumerate(self._target)}

    def versions(self) -> dict[str, str]:
        """What ran it."""
        return {"ctranslate2": import_ctranslate2().__version__, "compute_type": self.compute_type}

    def teacher_forced(self, examples: Sequence[Example]) -> list[Tensor]:
        """log p [T] of each example's target tokens, the end mark included."""
        targets = [[self._target[i] for i in [*example.target, self.reference.eos]] for example in examples]
        if self.reference.prefixed:
            rows = [self._prompt(example) + target for example, target in zip(examples, targets, strict=True)]
            results = self.model.score_batch(rows, max_batch_size=32, max_input_length=0)
        else:
            sources = [self._words(example) for example in examples]
            targets = [target[:-1] for target in targets]  # it adds the end mark itself
            results = self.model.score_batch(sources, targets, max_batch_size=32, max_input_length=0)
        scores = [torch.tensor(result.log_probs) for result in results]
        return [x[-len(example.target) - 1 :] for x, example in zip(scores, examples, strict=True)]

    def expected(self, example: Example) -> Tensor:
        """What `teacher_forced` should give."""
        logits = self.reference.logits(example)  # [T, V]
        labels = torch.tensor([*example.target, self.reference.eos])
        return logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]

    def outputs(self, examples: Sequence[Example]) -> list[list[int]]:
        """The best output of each example; those with the same bounds and length of prompt in one batch."""
        results: list[list[int]] = [[] for _ in examples]
        for (limit, _), indices in self._groups(examples):
            options = self.options(limit) | {"max_batch_size": 32}
            batch = [examples[i] for i in indices]
            if self.reference.prefixed:
                found = self.model.generate_batch([self._prompt(e) for e in batch], **options)
                names = [result.sequences[0] for result in found]
            else:
                found = self.model.translate_batch([self._words(e) for e in batch], **options)
                names = [result.hypotheses[0] for result in found]
            for i, hypothesis in zip(indices, names, strict=True):
                ids = [self._ids[name] for name in hypothesis]
                results[i] = ids[:-1] if ids and ids[-1] == self.reference.eos else ids
        return results

    def settings(self) -> dict[str, Any]:
        """The words of ``translate_batch`` or ``generate_batch``, but for the bound of the length."""
        bounds = ("max_length", "max_decoding_length")
        return {name: value for name, value in self.options(1).items() if name not in bounds}

    def options(self, limit: int) -> dict[str, Any]:
        """The words of ``translate_batch`` or ``generate_batch`` for the run's decoding, at most ``limit`` tokens."""
        decoding, prefixed = self.reference.decoding, self.reference.prefixed
        options: dict[str, Any] = {
            "beam_size": decoding.num_beams,
            "patience": self.patience if decoding.num_beams > 1 else 1,
            "length_penalty": decoding.length_penalty,
            "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
            "suppress_sequences": [[self._target[i]] for i in self.reference.forbidden],
            "return_end_token": True,  # so that it counts in the length that scores are divided by
        }
        if prefixed:
            bounds = {"max_length": limit, "min_length": decoding.min_new_tokens, "include_prompt_in_result": False}
        else:
            bounds = {
                "max_decoding_length": limit,
                "min_decoding_length": decoding.min_new_tokens,
                "max_input_length": 0,
            }
        return options | bounds

    def _groups(self, examples: Sequence[Example]) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Indices of examples by the bound of their output and, where there is a prompt, by its length."""

        def key(i: int) -> tuple[int, int]:
            prompt = len(self.reference.prefix(examples[i])) if self.reference.prefixed else 0
            return self.reference.limit(examples[i]), prompt

        for found, group in groupby(sorted(range(len(examples)), key=key), key):
            yield found, list(group)

    def _words(self, example: Example) -> list[str]:
        return [self._source[i] for i in example.source]

    def _prompt(self, example: Example) -> list[str]:
        return [self._target[i] for i in self.reference.prefix(example)]


def readme(reference: Reference, files: Mapping[str, str], equal: Mapping[str, float]) -> str:
    """How to run the folder, as Markdown.

    Args:
        reference: The run's model.
        files: Role to the file of its tokenizer.
        equal: The share of outputs that are those of ``predict``, by patience.
    """
    decoding, prefixed = reference.decoding, reference.prefixed
    forbidden = [[vocabulary(reference.task, "target")[i]] for i in reference.forbidden]
    kind, call, bound = ("Generator", "generate_batch", "max_length") if prefixed else (
        "Translator", "translate_batch", "max_decoding_length"
    )  # fmt: skip
    options = [f"beam_size={decoding.num_beams}", f"length_penalty={decoding.length_penalty}"]
    if decoding.no_repeat_ngram_size:
        options.append(f"no_repeat_ngram_size={decoding.no_repeat_ngram_size}")
    options.append(f"{bound.replace('max', 'min')}={decoding.min_new_tokens}")  # CTranslate2's default may be 1
    options += [f"suppress_sequences={forbidden}", "return_end_token=True"]
    options += ["include_prompt_in_result=False"] if prefixed else []
    role = "text" if "text" in reference.task.tokenizers and reference.name == "lm" else "source"
    prompt = "{}"
    if reference.name == "lm":
        prompt = '["<eos>", *{}]'
    elif prefixed:
        prompt = '["<bos>", *{}, "<sep>"]'
    source_file, target_file = _vocabulary_files(reference)
    longest, max_len = "64", reference.task.config.model.max_len
    if reference.name != "lm":
        text = reference.task.target_text
        longest = f"int({text.slope:g} * len(ids)) + {text.extra}"
    marks = 1 if reference.name == "lm" or not prefixed else 2
    room = f"{max_len - marks} - len(ids)" if prefixed else f"{max_len - marks}"
    longest = f"min({longest}, {room})"
    cut = f"[:{reference.task.limits()['source']}]" if role == "source" else ""
    field = "sequences" if prefixed else "hypotheses"
    return f"""# {reference.name} for CTranslate2

```python
import json, ctranslate2
from multihead.data.tokenizer import Tokenizer  # imports no torch

model = ctranslate2.{kind}(".")
source_names, target_names = json.load(open("{source_file}")), json.load(open("{target_file}"))
ids = Tokenizer.load("{files[role]}").encode_batch(["A text."])[0]{cut}
tokens = [source_names[i] for i in ids]
found = model.{call}([{prompt.format("tokens")}], {bound}={longest}, {", ".join(options)})
index = {{name: i for i, name in enumerate(target_names)}}
target = Tokenizer.load("{files["target" if role == "source" else role]}")
print(target.decode_batch([[index[name] for name in found[0].{field}[0]]])[0])
```

Of the inputs that were compared (`verification.json` says how many), the outputs were those of `multihead predict`
in {", ".join(f"{share:.1%} (`{word}`)" for word, share in equal.items())}. `return_end_token` lets the end mark count
in the length that scores are divided by, as it does there; `suppress_sequences` keeps marks out of the output.
CTranslate2 stops when `beam_size * patience` hypotheses are finished, Multihead when none can get better: a large
patience finds the same, 1 is faster.
"""


def _vocabulary_files(reference: Reference) -> tuple[str, str]:
    """Names of the vocabularies of source and target, as CTranslate2 writes them."""
    if reference.prefixed:
        return "vocabulary.json", "vocabulary.json"
    shared = vocabulary(reference.task, "source") == vocabulary(reference.task, "target")
    return ("shared_vocabulary.json",) * 2 if shared else ("source_vocabulary.json", "target_vocabulary.json")
