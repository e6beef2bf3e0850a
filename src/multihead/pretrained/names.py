"""The names that each family gives its tensors: one table for each family, from our modules to those of the family.

A key of a table is the name of a module, to which ``weight`` and ``bias`` are added, or the name of a single tensor.
``{i}`` stands for the number of a layer. Most tensors are stored as ours are; `Stored` describes the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from multihead.config.model import GATED
from multihead.config.published import Described


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, which holds one or several of our tensors.

    If it holds three, they are queries, keys and values, in this order. Either each of them is whole, or the order
    repeats for each head (``by_head``).
    """

    name: str
    transposed: bool = False
    """Whether matrices are stored as [in, out] (GPT-2's Conv1D)."""
    part: int = 0
    """Place of our tensor among the ``parts``, from 0."""
    parts: int = 1
    """Number of our tensors that the tensor in the file holds."""
    by_head: bool = False
    """Whether the order of the ``parts`` repeats for each head."""
    row: bool = False
    """Whether a vector is stored as a matrix of one row."""

    def shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """The shape of the tensor in the file, if our tensor has the shape ``ours``."""
        shape = [1, *ours] if self.row else [ours[0] * self.parts, *ours[1:]]
        return tuple(reversed(shape)) if self.transposed and len(shape) == 2 else tuple(shape)

    def take(self, theirs: Tensor, num_heads: int) -> Tensor:
        """Cuts our tensor out of the tensor in the file."""
        found = theirs[0] if self.row else theirs.T if self.transposed and theirs.ndim == 2 else theirs
        if self.parts > 1:
            blocks = (num_heads, self.parts, -1) if self.by_head else (1, self.parts, -1)
            found = found.reshape(*blocks, *found.shape[1:])[:, self.part].flatten(0, 1)
        return found.contiguous()

    def put(self, ours: Sequence[Tensor], num_heads: int) -> Tensor:
        """Builds the tensor in the file from all of our tensors that it holds, in their order."""
        joined = ours[0][None] if self.row else ours[0]
        if self.by_head:
            joined = torch.stack([each.unflatten(0, (num_heads, -1)) for each in ours], dim=1).flatten(0, 2)
        elif self.parts > 1:
            joined = torch.cat(list(ours))
        return (joined.T if self.transposed and joined.ndim == 2 else joined).contiguous()


@dataclass(frozen=True)
class Names:
    """The names of the tensors of one family."""

    prefix: str
    """How the names of the body's tensors begin, if the model has a head. A body alone does not have it."""
    body: Mapping[str, str | Stored]
    """Modules of the body. If the model has two stacks, a key begins with ``encoder.`` or ``decoder.``."""
    vocabulary: Mapping[str, str | Stored] = field(default_factory=dict)
    """Modules of the head over the vocabulary, with their whole names."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """Modules of the head over classes, with their whole names."""
    activation: str = "none"
    """``task.head_activation`` of the family's classifiers."""
    same: Mapping[str, str] = field(default_factory=dict)
    """A name in one of the tables to another name of the same tensor. If a file has both, the other name counts."""
    copies: tuple[str, ...] = ()
    """Names of tensors in older files that are not read: copies of others, and tables that are computed."""


def _layers(prefix: str, modules: Mapping[str, str | Stored], stack: str = "") -> dict[str, str | Stored]:
    """The modules of a layer with their whole names, on our side and in the file."""
    found: dict[str, str | Stored] = {}
    for ours, theirs in modules.items():
        if isinstance(theirs, Stored):
            found[f"{stack}layers.{{i}}.{ours}"] = replace(theirs, name=f"{prefix}.{theirs.name}")
        else:
            found[f"{stack}layers.{{i}}.{ours}"] = f"{prefix}.{theirs}"
    return found


def _fused(name: str, transposed: bool = False, by_head: bool = False) -> dict[str, Stored]:
    """Entries for queries, keys and values that stand in one tensor."""
    parts = ("query", "key", "value")
    return {f"self_attention.{each}": Stored(name, transposed, i, 3, by_head) for i, each in enumerate(parts)}


BERT_LAYER = {
    "self_attention.query": "attention.self.query",
    "self_attention.key": "attention.self.key",
    "self_attention.value": "attention.self.value",
    "self_attention.output": "attention.output.dense",
    "self_attention_norm": "attention.output.LayerNorm",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
UNTYPED_EMBEDDINGS = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
BERT_EMBEDDINGS = UNTYPED_EMBEDDINGS | {"types": "embeddings.token_type_embeddings"}
BERT = Names(
    prefix="bert.",
    body=BERT_EMBEDDINGS | _layers("encoder.layer.{i}", BERT_LAYER),
    vocabulary={
        "weight": "cls.predictions.decoder.weight",
        "bias": "cls.predictions.bias",
        "transform.0": "cls.predictions.transform.dense",
        "transform.2": "cls.predictions.transform.LayerNorm",
    },
    classes={"dense": "bert.pooler.dense", "output": "classifier"},
    activation="tanh",
    same={"cls.predictions.bias": "cls.predictions.decoder.bias"},
)
ROBERTA = Names(
    prefix="roberta.",
    body=BERT.body,
    vocabulary={
        "weight": "lm_head.decoder.weight",
        "bias": "lm_head.bias",
        "transform.0": "lm_head.dense",
        "transform.2": "lm_head.layer_norm",
    },
    classes={"dense": "classifier.dense", "output": "classifier.out_proj"},
    activation="tanh",
    same={"lm_head.bias": "lm_head.decoder.bias"},
)
ELECTRA = Names(
    prefix="electra.",
    body={**BERT.body, "widen": "embeddings_project"},
    vocabulary={
        "weight": "generator_lm_head.weight",
        "bias": "generator_lm_head.bias",
        "transform.0": "generator_predictions.dense",
        "transform.2": "generator_predictions.LayerNorm",
    },
    classes={"dense": "classifier.dense", "output": "classifier.out_proj"},
    activation="gelu",
)
ALBERT = Names(
    prefix="albert.",
    body=BERT_EMBEDDINGS
    | {"widen": "encoder.embedding_hidden_mapping_in"}
    | _layers(
        "encoder.albert_layer_groups.{i}.albert_layers.0",
        {
            "self_attention.query": "attention.query",
            "self_attention.key": "attention.key",
            "self_attention.value": "attention.value",
            "self_attention.output": "attention.dense",
            "self_attention_norm": "attention.LayerNorm",
            "feed_forward.up": "ffn",
            "feed_forward.down": "ffn_output",
            "feed_forward_norm": "full_layer_layer_norm",
        },
    ),
    vocabulary={
        "weight": "predictions.decoder.weight",
        "bias": "predictions.bias",
        "transform.0": "predictions.dense",
        "transform.2": "predictions.LayerNorm",
    },
    classes={"dense": "albert.pooler", "output": "classifier"},
    activation="tanh",
    same={"predictions.bias": "predictions.decoder.bias"},
)
MPNET = replace(
    ROBERTA,
    prefix="mpnet.",
    body=UNTYPED_EMBEDDINGS
    | {"positions.biases": "encoder.relative_attention_bias"}
    | _layers(
        "encoder.layer.{i}",
        BERT_LAYER
        | {
            "self_attention.query": "attention.attn.q",
            "self_attention.key": "attention.attn.k",
            "self_attention.value": "attention.attn.v",
            "self_attention.output": "attention.attn.o",
            "self_attention_norm": "attention.LayerNorm",
        },
    ),
)
DISTILBERT = Names(
    prefix="distilbert.",
    body=UNTYPED_EMBEDDINGS
    | _layers(
        "transformer.layer.{i}",
        {
            "self_attention.query": "attention.q_lin",
            "self_attention.key": "attention.k_lin",
            "self_attention.value": "attention.v_lin",
            "self_attention.output": "attention.out_lin",
            "self_attention_norm": "sa_layer_norm",
            "feed_forward.up": "ffn.lin1",
            "feed_forward.down": "ffn.lin2",
            "feed_forward_norm": "output_layer_norm",
        },
    ),
    vocabulary={
        "weight": "vocab_projector.weight",
        "bias": "vocab_projector.bias",
        "transform.0": "vocab_transform",
        "transform.2": "vocab_layer_norm",
    },
    classes={"dense": "pre_classifier", "output": "classifier"},
    activation="relu",
)
GPT2 = Names(
    prefix="transformer.",
    body={"embedding": "wte", "positions": "wpe", "norm": "ln_f"}
    | _layers(
        "h.{i}",
        {
            "self_attention_norm": "ln_1",
            **_fused("attn.c_attn", transposed=True),
            "self_attention.output": Stored("attn.c_proj", transposed=True),
            "feed_forward_norm": "ln_2",
            "feed_forward.up": Stored("mlp.c_fc", transposed=True),
            "feed_forward.down": Stored("mlp.c_proj", transposed=True),
        },
    ),
    vocabulary={"weight": "lm_head.weight"},
    classes={"output": "score"},
)
LLAMA = Names(
    prefix="model.",
    body={"embedding": "embed_tokens", "norm": "norm"}
    | _layers(
        "layers.{i}",
        {
            "self_attention_norm": "input_layernorm",
            "self_attention.query": "self_attn.q_proj",
            "self_attention.key": "self_attn.k_proj",
            "self_attention.value": "self_attn.v_proj",
            "self_attention.output": "self_attn.o_proj",
            "self_attention.query_norm": "self_attn.q_norm",
            "self_attention.key_norm": "self_attn.k_norm",
            "feed_forward_norm": "post_attention_layernorm",
            "feed_forward.up": "mlp.gate_proj",  # the one that goes through the activation
            "feed_forward.gate": "mlp.up_proj",
            "feed_forward.down": "mlp.down_proj",
        },
    ),
    vocabulary={"weight": "lm_head.weight"},
    classes={"output": "score"},
)
GPT_NEOX = Names(
    prefix="gpt_neox.",
    body={"embedding": "embed_in", "norm": "final_layer_norm"}
    | _layers(
        "layers.{i}",
        {
            "self_attention_norm": "input_layernorm",
            **_fused("attention.query_key_value", by_head=True),
            "self_attention.output": "attention.dense",
            "feed_forward_norm": "post_attention_layernorm",
            "feed_forward.up": "mlp.dense_h_to_4h",
            "feed_forward.down": "mlp.dense_4h_to_h",
        },
    ),
    vocabulary={"weight": "embed_out.weight"},
    classes={"output": "score"},
    same={"embed_out.weight": "lm_head.weight"},
)
MARIAN_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
MARIAN_LAYER = {
    **{f"self_attention.{ours}": f"self_attn.{theirs}" for ours, theirs in MARIAN_ATTENTION.items()},
    "self_attention_norm": "self_attn_layer_norm",
    **{f"cross_attention.{ours}": f"encoder_attn.{theirs}" for ours, theirs in MARIAN_ATTENTION.items()},
    "cross_attention_norm": "encoder_attn_layer_norm",
    "feed_forward.up": "fc1",
    "feed_forward.down": "fc2",
    "feed_forward_norm": "final_layer_norm",
}
MARIAN = Names(
    prefix="model.",
    body={
        "encoder.embedding": "shared",
        **_layers("encoder.layers.{i}", MARIAN_LAYER, stack="encoder."),
        **_layers("decoder.layers.{i}", MARIAN_LAYER, stack="decoder."),
    },
    vocabulary={"weight": "lm_head.weight", "bias": Stored("final_logits_bias", row=True)},
    copies=tuple(f"{each}coder.embed_{what}.weight" for each in ("en", "de") for what in ("tokens", "positions")),
)
BART = replace(
    MARIAN,
    body={
        **MARIAN.body,
        **{
            f"{stack}.{ours}": f"{stack}.{theirs}"
            for stack in ("encoder", "decoder")
            for ours, theirs in (
                ("positions", "embed_positions"),
                ("embedding_norm", "layernorm_embedding"),
                ("norm", "layer_norm"),
            )
        },
    },
    copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)
PEGASUS = replace(
    MARIAN, body={**MARIAN.body, "encoder.norm": "encoder.layer_norm", "decoder.norm": "decoder.layer_norm"}
)
T5_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}


def _t5_stack(stack: str, gated: bool) -> dict[str, str | Stored]:
    """The modules of T5's encoder or decoder. Its layers are lists of sub-layers, each with its norm."""
    last = 1 if stack == "encoder" else 2
    names = {f"self_attention.{ours}": f"0.SelfAttention.{theirs}" for ours, theirs in T5_ATTENTION.items()}
    names |= {"self_attention_norm": "0.layer_norm", "feed_forward_norm": f"{last}.layer_norm"}
    if stack == "decoder":
        names |= {f"cross_attention.{ours}": f"1.EncDecAttention.{theirs}" for ours, theirs in T5_ATTENTION.items()}
        names["cross_attention_norm"] = "1.layer_norm"
    up = {"up": "wi_0", "gate": "wi_1"} if gated else {"up": "wi"}
    names |= {f"feed_forward.{o}": f"{last}.DenseReluDense.{t}" for o, t in {**up, "down": "wo"}.items()}
    return {
        f"{stack}.positions": f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{stack}.norm": f"{stack}.final_layer_norm",
        **_layers(f"{stack}.block.{{i}}.layer", names, stack=f"{stack}."),
    }


T5 = Names(
    prefix="",
    body={"encoder.embedding": "shared", **_t5_stack("encoder", False), **_t5_stack("decoder", False)},
    vocabulary={"weight": "lm_head.weight"},
    copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)
NAMES = {
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "electra": ELECTRA,
    "albert": ALBERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "gpt_neox": GPT_NEOX,
    "marian": MARIAN,
    "bart": BART,
    "pegasus": PEGASUS,
    "t5": T5,
    "t5_gated": replace(T5, body={**T5.body, **_t5_stack("encoder", True), **_t5_stack("decoder", True)}),
}
"""By the field ``tensors`` of a `multihead.config.families.Family`."""


def names_of(described: Described) -> Names:
    """The table for a published model. The feed-forward may have other names if it is gated (T5)."""
    table, gated = described.family.tensors, described.fixed["activation"] in GATED
    return NAMES.get(f"{table}_gated" if gated else table, NAMES[table])


def stored(table: Mapping[str, str | Stored], name: str) -> Stored | None:
    """Finds the tensor in a file that holds one of our tensors; None if the table does not have it.

    Args:
        table: A mapping of `Names`.
        name: Our name within the backbone or the head: ``encoder.layers.0.feed_forward.up.weight``. A table of one
            stack leaves out the name of the stack.
    """
    numbered = re.fullmatch(r"(.*\blayers\.)(\d+)(\..*)", name)
    layer = numbered[2] if numbered else ""
    plain = f"{numbered[1]}{{i}}{numbered[3]}" if numbered else name
    module, _, suffix = plain.rpartition(".")
    found = table.get(plain, table.get(module))
    if found is None:
        stack, _, rest = name.partition(".")
        return stored(table, rest) if stack in ("encoder", "decoder") else None
    entry = found if isinstance(found, Stored) else Stored(found)
    whole = entry.name if plain in table else f"{entry.name}.{suffix}"
    return replace(entry, name=whole.replace("{i}", layer))
