"""Tiny models with random weights, and examples for them, for the tests of every format."""

import random
from dataclasses import replace

import torch

from multihead.config.compose import compose
from multihead.config.data import TokenizerConfig
from multihead.data.tokenizer import train_tokenizer
from multihead.exporting import places
from multihead.exporting.verify import Reference
from multihead.tasks import build_task
from multihead.text.vocabulary import Vocabulary

SIZES = ["model.d_model=32", "model.num_heads=4", "model.d_ff=48", "model.num_encoder_layers=2"]
SIZES += ["model.num_decoder_layers=2", "model.max_len=40", "accelerator=cpu"]
WORDS = ["ein", "Mann", "fährt", "Rad", "the", "man", "rides", "a", "bike", "<unk>", "red", "house", "is", "big", "on"]
OPTIONS = [
    [],
    ["model.norm_placement=post"],
    ["model.norm_placement=post", "model.norm=rms_norm", "model.activation=gelu"],
    ["model.norm=rms_norm", "model.activation=swiglu", "model.bias=false", "model.num_kv_heads=2"],
    ["model.bias=false", "model.num_kv_heads=1", "model.position=learned"],
    ["model.position=learned", "model.tie_embeddings=none", "model.activation=gelu"],
    ["model.position=rotary", "model.qk_norm=true", "model.tie_embeddings=source_target"],
    ["model.position=rotary", "model.norm=rms_norm", "model.num_kv_heads=2", "model.qk_norm=true"],
    ["model.position=none", "model.tie_embeddings=target_output", "model.qk_norm=true"],
]
"""Every mechanism at least once, ALiBi apart."""
ALIBI = [["model.position=alibi"], ["model.position=alibi", "model.num_heads=6", "model.d_model=48"]]


def ids(words):
    """The name of a case."""
    return ",".join(word.removeprefix("model.") for word in words) or "default"


def new_task(*words, seed=0, kind="word"):
    """A task of tiny size with random weights, sharpened so that its choices are clear; ``kind`` is the tokenizer's."""
    composition = compose([*words[:1], *SIZES, *words[1:]])
    config = composition.config
    tokenizer = train_tokenizer(TokenizerConfig(kind=kind, min_frequency=1, vocab_size=300), [" ".join(WORDS)])
    roles = {"translation": ("source", "target"), "summarization": ("source", "target"),
             "multitask": ("source", "target", "text")}.get(config.task.name, ("text",))  # fmt: skip
    torch.manual_seed(seed)
    task = build_task(config, Vocabulary(dict.fromkeys(roles, tokenizer), ["no", "yes", "maybe"]), composition.plugin)
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if parameter.ndim == 1:  # biases and gains start at 0 and 1
                parameter += 0.1 * torch.randn_like(parameter)
            elif "ngrams" in name:  # they start at 0, or all the same
                parameter[1:] = 0.3 * torch.randn_like(parameter[1:])
            elif name.endswith("head.weight") or "embedding" in name:
                parameter *= 2.0
    return task.eval()


def reference(task, **decoding):
    """The model as the comparison sees it."""
    return Reference(task, replace(task.config.decoding, **decoding))


def drawn(task, count=12):
    """Inputs of different lengths."""
    rng = random.Random(1)
    return [places.drawn(task, rng) for _ in range(count)]
