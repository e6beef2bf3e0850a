"""The backbone as a CTranslate2 model (https://github.com/OpenNMT/CTranslate2): its tensors under that library's names.

Translation and summarization become a ``Translator``; with ``task.topology=decoder``, and as language models, they
become a ``Generator``. Shapes: T target tokens, V vocabulary, D d_model.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multihead.config.extras import require_package
from multihead.config.model import NORMS, ModelConfig
from multihead.config.training import DecodingConfig
from multihead.data.tokenizer import NUM_SPECIALS
from multihead.errors import ConfigError
from multihead.model.heads import CopyHead, VocabularyHead
from multihead.model.positions import PositionTable
from multihead.model.transformer import FeedForward, Layer, MultiHeadAttention, RMSNorm, Stack
from multihead.tasks.base import Task

OTHERS = "to=onnx or torch_export"
"""The formats that can hold every model."""
ACTIVATIONS = ("relu", "gelu", "swiglu")
POSITIONS = ("sinusoidal", "learned", "rotary", "alibi", "none")
NO_WORDS = (
    *(
        "norm_eps",
        "position_offset",
        "rope_theta",
        "rope_scaling",
        "rotary_share",
        "embedding_width",
        "embedding_scale",
    ),
    *("embedding_norm", "segment_types", "share_layers", "parallel", "head_size", "attention_bias"),
    *("output_transform", "output_bias", "output_scale", "attention_scale", "sinusoid_order"),
)
"""Options of the model that this export cannot express."""


def import_ctranslate2() -> Any:
    """The library, with its log turned off.

    Raises:
        ConfigError: It is not installed.
    """
    require_package("ctranslate2", "to", "to=ctranslate2")
    import ctranslate2

    ctranslate2.set_log_level(logging.ERROR)
    return ctranslate2


def check(task: Task, decoding: DecodingConfig) -> None:
    """Checks that CTranslate2 can express the model and the decoding.

    Raises:
        ConfigError: It cannot; the message names the key.
    """
    model, transformer = task.config.model, task.model.transformer
    if not isinstance(task.model.head, VocabularyHead):
        what = "CTranslate2 has no classification head on its encoder"
        raise ConfigError(f"task={task.settings.name}", what, OTHERS)
    if getattr(task, "causal", True) is False:
        what = "CTranslate2's encoder returns hidden states, not logits of masked tokens"
        raise ConfigError("task.objective=masked", what, OTHERS)
    if isinstance(task.model.head, CopyHead):
        raise ConfigError("task.copy=true", "CTranslate2 cannot copy tokens of the source", OTHERS)
    for key, value, ours in (
        ("attention", model.attention, "multi_head"),
        ("feed_forward", model.feed_forward, "dense"),
        ("embedding", model.embedding, "table"),
        ("layer", model.layer, "residual"),
        ("stack", model.stack, "sequential"),
    ):
        if value != ours:
            what = f"CTranslate2 runs its own blocks, not a plugin's; it has model.{key}={ours}"
            raise ConfigError(f"model.{key}={value}", what, OTHERS)
    plain = ModelConfig()
    for key in NO_WORDS:
        if (value := getattr(model, key)) != getattr(plain, key):
            what = "CTranslate2 supports this option only for published model families"
            raise ConfigError(f"model.{key}={value}", what, OTHERS)
    for key, value, known in (
        ("activation", model.activation, ACTIVATIONS),
        ("position", model.position, POSITIONS),
        ("norm", model.norm, NORMS),
    ):
        if value not in known:
            what = f"the export to CTranslate2 supports {', '.join(known)}"
            raise ConfigError(f"model.{key}={value}", what, OTHERS)
    if model.ngram_buckets:
        raise ConfigError("model.ngram_buckets", "CTranslate2 has no embeddings of n-grams", OTHERS)
    with_encoder = transformer.encoder is not None and not _alone(task)
    if with_encoder and model.position == "alibi":
        what = "CTranslate2 supports ALiBi in a decoder only"
        raise ConfigError("model.position=alibi", what, "to=onnx, or train with task.topology=decoder")
    if with_encoder and model.qk_norm:
        what = "CTranslate2 computes a different norm in the cross-attention"
        raise ConfigError("model.qk_norm=true", what, "to=onnx, or train with task.topology=decoder")
    stacks = {"num_encoder_layers": transformer.encoder if with_encoder else None}
    for key, stack in (stacks | {"num_decoder_layers": transformer.decoder}).items():
        if stack is not None and not len(stack.layers):
            raise ConfigError(f"model.{key}=0", "CTranslate2 needs a layer in each stack", OTHERS)
    _check_decoding(task, decoding)


def _check_decoding(task: Task, decoding: DecodingConfig) -> None:
    """Checks that CTranslate2 decodes as the run does; raises as `check` does."""
    if decoding.forced_prefix:
        what = "CTranslate2 leaves a forced prefix out of the score, so outputs cannot be compared with the run's"
        raise ConfigError("decoding.forced_prefix", what, "decoding.forced_prefix=")
    if task.settings.name != "lm":  # the others know neither of what follows
        return
    if decoding.repetition_penalty != 1.0 and decoding.num_beams == 1:  # beam search knows no penalty
        what = "is not exported to CTranslate2, so that its outputs would not be those of the run"
        fix = "decoding.repetition_penalty=1"
        raise ConfigError(f"decoding.repetition_penalty={decoding.repetition_penalty:g}", what, fix)
    if decoding.stop_strings:
        what = "CTranslate2 ends an output at tokens, and a stop string may be any part of tokens"
        raise ConfigError("decoding.stop_strings", what, "'decoding.stop_strings=[]'")


def write(task: Task, folder: Path, quantization: str) -> None:
    """Writes ``model.bin``, ``config.json`` and the vocabulary into an existing folder.

    Args:
        task: A single task with a decoder, checked by `check`.
        folder: The folder.
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
    """The entries of a role's tokenizer by id; one that is spelled like a special entry gets a backslash."""
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
    """Whether the task uses the decoder by itself, even if the backbone has an encoder for another task."""
    return task.settings.stacks == ("decoder",)


# From our tensors to the specification's


def _encoder(specs: Any, task: Task) -> Any:
    model, stack = task.config.model, task.model.transformer.encoder
    assert stack is not None
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
    model, stack, head = task.config.model, task.model.transformer.decoder, task.model.head
    assert stack is not None and isinstance(head, VocabularyHead)
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
        alibi_use_positive_positions=True,  # slope * j differs from our -slope * (i - j) by a constant in each row
        rotary_dim=0 if model.position == "rotary" else None,
        rotary_interleave=False,
        num_heads_kv=model.kv_heads if model.kv_heads != model.num_heads else None,
        qk_norm=model.qk_norm,
    )
    spec.embeddings.weight = _numbers(stack.embedding.weight)
    spec.projection.weight = _numbers(head.weight)
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
        assert isinstance(layer, Layer) and isinstance(layer.feed_forward, FeedForward)
        _fill_attention(layer_spec.self_attention, layer.self_attention, layer.self_attention_norm, fused=True)
        if cross:
            _fill_attention(layer_spec.attention, layer.cross_attention, layer.cross_attention_norm, fused=False)
        _fill_norm(layer_spec.ffn.layer_norm, layer.feed_forward_norm)
        _fill_linear(layer_spec.ffn.linear_0, layer.feed_forward.up)
        _fill_linear(layer_spec.ffn.linear_1, layer.feed_forward.down)
        if layer.feed_forward.gate is not None:
            _fill_linear(layer_spec.ffn.linear_0_noact, layer.feed_forward.gate)


def _fill_attention(spec: Any, attention: nn.Module, norm: nn.Module, fused: bool) -> None:
    """In self-attention, query, key and value are one matrix; in cross-attention, the query is apart."""
    assert isinstance(attention, MultiHeadAttention)
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
    """Gain and bias. The library takes a norm without a bias for RMSNorm, so a LayerNorm without one gets zeros."""
    assert isinstance(norm, RMSNorm | nn.LayerNorm)
    spec.gamma = _numbers(norm.weight)
    if isinstance(norm, nn.LayerNorm):
        bias: Tensor | None = norm.bias
        spec.beta = _numbers(torch.zeros_like(norm.weight) if bias is None else bias)


def _numbers(x: Tensor) -> Any:
    """A copy, which the library may change in place."""
    return x.detach().float().cpu().clone().numpy()
