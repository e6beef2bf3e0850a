"""What the ``config.json`` of a published model means in options of ours: one table for each family.

A table says where each option of ``model.*`` stands in the file, which options the family always has, and which values
of other keys it must have for the options to describe it. To add a family, add a table here and one of tensor names in
`multihead.pretrained.names`. The names of keys are those of the ``transformers`` library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
}
GATES = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_new": "geglu_tanh"}
GATES["gelu_pytorch_tanh"] = "geglu_tanh"
LONGEST = 1024
"""Positions that are taken of a model without a table of them; ``model.max_len`` takes more."""


@dataclass(frozen=True)
class Family:
    """How to read the ``config.json`` of one ``model_type``."""

    name: str
    """For messages."""
    stacks: tuple[str, ...]
    """The stacks that the model has: encoder, decoder or both."""
    tensors: str
    """Key of its table of tensor names in `multihead.pretrained.names.NAMES`."""
    classes: str
    """How the names of its classes in ``transformers`` begin; empty if another family has the same model."""
    keys: Mapping[str, str]
    """Option of ours to key of the file. ``layers`` stands for the depth of a model with one stack."""
    always: Mapping[str, Any]
    """Options of ours that the family has, whatever the file says."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of keys that the file may leave out."""
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key to the values that it may have; the first counts if the file leaves the key out."""
    equal: Mapping[str, str] = field(default_factory=dict)
    """Key to another key of the file that must have the same value."""
    activations: Mapping[str, str] = field(default_factory=lambda: ACTIVATIONS)
    """Name of an activation there to ours."""
    counts_offset: bool = True
    """Whether the number of positions in the file includes ``position_offset``."""
    always_widens: bool = False
    """Whether embeddings go through a map even if they are as wide as the layers."""

    def but(self, **changes: Any) -> Family:
        """The same with other fields; a mapping is added to the one there is."""
        merged = {
            name: {**getattr(self, name), **value} if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return replace(self, **merged)


SIZES = {
    "d_model": "hidden_size",
    "layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "max_len": "max_position_embeddings",
}
NO_DECODER = {"is_decoder": (False,), "add_cross_attention": (False,)}
PLAIN_ATTENTION = {"position_embedding_type": ("absolute",)}
BERT = Family(
    name="BERT",
    stacks=("encoder",),
    tensors="bert",
    classes="Bert",
    keys=SIZES
    | {
        "segment_types": "type_vocab_size",
        "activation": "hidden_act",
        "norm_eps": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    always={
        "norm": "layer_norm",
        "norm_placement": "post",
        "position": "learned",
        "bias": True,
        "embedding_scale": False,
        "embedding_norm": True,
        "output_transform": True,
        "output_bias": True,
    },
    defaults={"hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2},
    needs=NO_DECODER | PLAIN_ATTENTION,
)
ONLY_GELU = {"hidden_act": ("gelu",)}  # their heads over the vocabulary have it, whatever the layers have
ROBERTA = BERT.but(
    name="RoBERTa",
    tensors="roberta",
    classes="Roberta",
    always={"position_offset": 2},
    needs={"pad_token_id": (1,)} | ONLY_GELU,
)
ELECTRA = BERT.but(
    name="ELECTRA",
    tensors="electra",
    classes="Electra",
    keys={"embedding_width": "embedding_size"},
    needs=ONLY_GELU,
)
ALBERT = BERT.but(
    name="ALBERT",
    tensors="albert",
    classes="Albert",
    always_widens=True,
    keys={"embedding_width": "embedding_size"},
    always={"share_layers": True},
    defaults={"hidden_act": "gelu_new"},
    needs={"num_hidden_groups": (1,), "inner_group_num": (1,)},
)
DISTILBERT = Family(
    name="DistilBERT",
    stacks=("encoder",),
    tensors="distilbert",
    classes="DistilBert",
    keys={
        "d_model": "dim",
        "layers": "n_layers",
        "num_heads": "n_heads",
        "d_ff": "hidden_dim",
        "max_len": "max_position_embeddings",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
    },
    always={**BERT.always, "norm_eps": 1e-12},
    defaults={"activation": "gelu"},
)
MPNET = replace(
    ROBERTA.but(
        name="MPNet",
        tensors="mpnet",
        classes="MPNet",
        always={"position": "learned_relative"},
        needs={"relative_attention_num_buckets": (32,)},  # transformers computes 32 buckets, whatever the file says
    ),
    keys={ours: theirs for ours, theirs in BERT.keys.items() if ours != "segment_types"},
    defaults={key: value for key, value in BERT.defaults.items() if key != "type_vocab_size"},
)
GPT2 = Family(
    name="GPT-2",
    stacks=("decoder",),
    tensors="gpt2",
    classes="GPT2",
    keys={
        "d_model": "n_embd",
        "layers": "n_layer",
        "num_heads": "n_head",
        "d_ff": "n_inner",
        "max_len": "n_positions",
        "activation": "activation_function",
        "norm_eps": "layer_norm_epsilon",
        "dropout": "resid_pdrop",
        "attention_dropout": "attn_pdrop",
    },
    always={
        "norm": "layer_norm",
        "norm_placement": "pre",
        "position": "learned",
        "bias": True,
        "embedding_scale": False,
    },
    defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    needs={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
)
LLAMA = Family(
    name="Llama",
    stacks=("decoder",),
    tensors="llama",
    classes="Llama",
    keys=SIZES
    | {
        "num_kv_heads": "num_key_value_heads",
        "head_size": "head_dim",
        "activation": "hidden_act",
        "norm_eps": "rms_norm_eps",
        "attention_dropout": "attention_dropout",
    },
    always={
        "norm": "rms_norm",
        "norm_placement": "pre",
        "position": "rotary",
        "bias": False,
        "embedding_scale": False,
        "dropout": 0.0,
    },
    defaults={"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    needs={"mlp_bias": (False,)},
    activations=GATES,
)
NO_WINDOW = {"use_sliding_window": (False,)}
QWEN2 = LLAMA.but(name="Qwen2", classes="Qwen2", always={"attention_bias": "qkv"}, needs=NO_WINDOW)
QWEN3 = LLAMA.but(name="Qwen3", classes="Qwen3", always={"qk_norm": True}, needs=NO_WINDOW)
GPT_NEOX = Family(
    name="GPT-NeoX",
    stacks=("decoder",),
    tensors="gpt_neox",
    classes="GPTNeoX",
    keys=SIZES
    | {
        "activation": "hidden_act",
        "norm_eps": "layer_norm_eps",
        "parallel": "use_parallel_residual",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
    },
    always={
        "norm": "layer_norm",
        "norm_placement": "pre",
        "position": "rotary",
        "bias": True,
        "embedding_scale": False,
    },
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rotary_pct": 0.25,
        "use_parallel_residual": True,
    },
    needs={"attention_bias": (True,)},
)
BART = Family(
    name="BART",
    stacks=("encoder", "decoder"),
    tensors="bart",
    classes="Bart",
    keys={
        "d_model": "d_model",
        "num_encoder_layers": "encoder_layers",
        "num_decoder_layers": "decoder_layers",
        "num_heads": "encoder_attention_heads",
        "d_ff": "encoder_ffn_dim",
        "max_len": "max_position_embeddings",
        "activation": "activation_function",
        "embedding_scale": "scale_embedding",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "ff_dropout": "activation_dropout",
    },
    always={
        "norm": "layer_norm",
        "norm_placement": "post",
        "position": "learned",
        "position_offset": 2,
        "embedding_norm": True,
        "bias": True,
        "output_bias": True,
    },
    defaults={"activation_function": "gelu", "scale_embedding": False},
    needs={
        "tie_word_embeddings": (True,),
        "normalize_before": (False,),
        "normalize_embedding": (True,),
        "add_final_layer_norm": (False,),
    },
    equal={"decoder_attention_heads": "encoder_attention_heads", "decoder_ffn_dim": "encoder_ffn_dim"},
    counts_offset=False,
)
MBART = BART.but(
    name="mBART",
    classes="MBart",
    always={"norm_placement": "pre"},
    needs={"normalize_before": (True,), "add_final_layer_norm": (True,)},
)
MARIAN = BART.but(
    name="Marian",
    tensors="marian",
    classes="Marian",
    always={"position": "sinusoidal", "sinusoid_order": "halves", "position_offset": 0, "embedding_norm": False},
    needs={"normalize_embedding": (False,), "share_encoder_decoder_embeddings": (True,)},
    equal={"decoder_vocab_size": "vocab_size"},
)
PEGASUS = BART.but(
    name="Pegasus",
    tensors="pegasus",
    classes="Pegasus",
    always={
        "norm_placement": "pre",
        "position": "sinusoidal",
        "sinusoid_order": "halves",
        "position_offset": 0,
        "embedding_norm": False,
    },
    needs={"normalize_before": (True,), "normalize_embedding": (False,), "add_final_layer_norm": (True,)},
)
T5 = Family(
    name="T5",
    stacks=("encoder", "decoder"),
    tensors="t5",
    classes="T5",
    keys={
        "d_model": "d_model",
        "num_encoder_layers": "num_layers",
        "num_decoder_layers": "num_decoder_layers",
        "num_heads": "num_heads",
        "head_size": "d_kv",
        "d_ff": "d_ff",
        "max_len": "n_positions",
        "activation": "feed_forward_proj",
        "norm_eps": "layer_norm_epsilon",
        "relative_buckets": "relative_attention_num_buckets",
        "relative_max_distance": "relative_attention_max_distance",
        "output_scale": "scale_decoder_outputs",
        "dropout": "dropout_rate",
    },
    always={
        "norm": "rms_norm",
        "norm_placement": "pre",
        "position": "relative",
        "bias": False,
        "embedding_scale": False,
        "attention_scale": False,
    },
    defaults={"feed_forward_proj": "relu", "n_positions": 512, "layer_norm_epsilon": 1e-6},
    activations={
        "relu": "relu",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "silu": "silu",
        "gated-gelu": "geglu_tanh",
        "gated-silu": "swiglu",
    },
)
FAMILIES = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA.but(classes=""),
    "camembert": ROBERTA.but(classes=""),
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "electra": ELECTRA,
    "albert": ALBERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA.but(name="Mistral", classes=""),
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt_neox": GPT_NEOX,
    "marian": MARIAN,
    "bart": BART,
    "mbart": MBART,
    "pegasus": PEGASUS,
    "t5": T5,
}
"""By the ``model_type`` of the file."""
