"""Sizes and mechanisms of the backbone. Knows nothing of tasks: any model serves any task."""

from __future__ import annotations

from dataclasses import dataclass

from multihead.config.check import require, require_choice

POSITIONS = ("sinusoidal", "learned", "rotary", "alibi", "relative", "learned_relative", "none")
TABLES, BIASES = ("learned", "learned_relative"), ("relative", "learned_relative")
"""Positions that have a table of vectors to learn, and those that have biases to learn."""
SINUSOID_ORDERS = ("alternating", "halves")
NORMS = ("layer_norm", "rms_norm")
NORM_PLACEMENTS = ("pre", "post")
EMBEDDINGS = ("table",)
LAYERS = ("residual",)
STACKS = ("sequential",)
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "relu2", "swiglu", "geglu", "geglu_tanh")
GATED = ("swiglu", "geglu", "geglu_tanh")
ROPE_SCALINGS = ("none", "linear", "llama3")
ATTENTION_BIASES = ("auto", "none", "qkv", "all")
TIES = ("none", "source_target", "target_output", "all")
INITS = ("xavier", "depth_scaled")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The Transformer of Vaswani et al. (2017), arXiv:1706.03762, and its common variants."""

    d_model: int = 512
    """Width of the residual stream."""
    num_heads: int = 8
    """Attention heads; each has d_model / num_heads dimensions."""
    num_kv_heads: int = 0
    """Key and value heads of grouped-query attention (arXiv:2305.13245); 0 means num_heads."""
    d_ff: int = 2048
    """Inner width of the feed-forward."""
    num_encoder_layers: int = 6
    """Layers of the encoder, if the task has one."""
    num_decoder_layers: int = 6
    """Layers of the decoder, if the task has one."""
    max_len: int = 256
    """Longest sequence in tokens, including begin and end marks."""
    dropout: float = 0.1
    """Dropout on embeddings and on the output of each sub-layer (section 5.4)."""
    attention_dropout: float = 0.0
    """Dropout on attention weights; off by default, because it rules out the fused attention kernels of the CPU."""
    ff_dropout: float = 0.0
    """Dropout on the inner activations of the feed-forward."""
    activation: str = "relu"
    """relu (the paper), gelu, gelu_tanh (its approximation, arXiv:1606.08415), silu, relu2 (arXiv:2109.08668); or
    swiglu, geglu, geglu_tanh (arXiv:2002.05202), whose gate adds a third matrix of d_ff."""
    norm: str = "layer_norm"
    """layer_norm, rms_norm (arXiv:1910.07467), or the name of a norm that a plugin adds."""
    norm_eps: float = 0.0
    """Epsilon of the norms, which is added to the variance; 0 means 1e-5 for layer_norm and 1e-6 for rms_norm."""
    norm_placement: str = "pre"
    """pre (norm before each sub-layer and a final norm) or post (the paper: norm after each residual sum)."""
    position: str = "sinusoidal"
    """sinusoidal (the paper), learned, rotary (arXiv:2104.09864), alibi (arXiv:2108.12409), relative (the learned
    biases of T5, arXiv:1910.10683), learned_relative (both, as in MPNet, arXiv:2004.09297), none, or the name of a
    position scheme that a plugin adds."""
    sinusoid_order: str = "alternating"
    """Order of sinusoidal positions: alternating (the paper: sine and cosine in turn) or halves (first all sines, then
    all cosines, as in tensor2tensor and Marian)."""
    relative_buckets: int = 32
    """For position=relative or learned_relative, the number of buckets of distances. Each head has one learned bias for
    each bucket."""
    relative_max_distance: int = 128
    """For position=relative or learned_relative, the distance from which on all distances share a bucket."""
    position_offset: int = 0
    """Unused rows at the start of the table of learned positions (RoBERTa, BART and OPT have 2)."""
    rope_theta: float = 10000.0
    """Base of the wavelengths of rotary positions; larger ones suit longer texts (arXiv:2309.16039)."""
    rope_scaling: str = "none"
    """How wavelengths are stretched for texts longer than those of pretraining: none; linear (arXiv:2306.15595), all by
    rope_factor; or llama3 (arXiv:2407.21783), only those that are long relative to rope_original_len."""
    rope_factor: float = 1.0
    """The factor of rope_scaling."""
    rope_original_len: int = 8192
    """For rope_scaling=llama3, the number of positions in pretraining."""
    rotary_share: float = 1.0
    """Share of the dimensions of a head that rotary positions rotate (GPT-NeoX, arXiv:2204.06745, rotates a
    quarter)."""
    embedding_width: int = 0
    """Width of the embeddings, which a linear map widens to d_model (ALBERT, arXiv:1909.11942); 0 means d_model
    without a map."""
    embedding_scale: bool = True
    """Whether embeddings are multiplied by the square root of their width (section 3.4 of the paper)."""
    embedding_norm: bool = False
    """Whether a norm follows the sum of the embeddings (BERT, arXiv:1810.04805)."""
    segment_types: int = 0
    """Number of segment embeddings, which distinguish the first text of a pair from the second (BERT, arXiv:1810.04805,
    section 3.2); 0 means none."""
    share_layers: bool = False
    """Whether all layers of a stack share the same weights (ALBERT, arXiv:1909.11942)."""
    parallel: bool = False
    """Whether attention, attention to the memory and feed-forward read the same input in parallel, not one after the
    other (arXiv:2204.02311, section 2)."""
    head_size: int = 0
    """Dimensions of an attention head; 0 means d_model / num_heads."""
    ngram_buckets: int = 0
    """Rows of a table of hashed n-grams, whose embeddings are added to those of the tokens (arXiv:1607.01759); 0 is
    none."""
    ngram_max: int = 2
    """Maximum length, in tokens, of the n-grams of model.ngram_buckets; the minimum is 2."""
    attention_scale: bool = True
    """Whether attention scores are divided by the square root of head_dim (section 3.2.1 of the paper; T5 does not)."""
    qk_norm: bool = False
    """Whether queries and keys of each head are RMS-normalised (arXiv:2010.04245)."""
    bias: bool = True
    """Whether linear layers and LayerNorm have biases."""
    attention_bias: str = "auto"
    """Biases in attention: auto (as model.bias), none, qkv (of queries, keys and values only, as in Qwen2) or all."""
    output_transform: bool = False
    """Whether a head over the vocabulary begins with a dense layer, activation and norm (BERT's, for masked tokens)."""
    output_bias: bool = False
    """Whether a head over the vocabulary has a bias."""
    output_scale: bool = False
    """Whether hidden states are divided by the square root of d_model before a head over the vocabulary (T5 does it if
    embedding and output layer share weights)."""
    tie_embeddings: str = "all"
    """Which of source embedding, target embedding and output layer share weights (arXiv:1608.05859):
    none, source_target, target_output or all. source_target and all need a joint vocabulary."""
    init: str = "xavier"
    """xavier (uniform), or depth_scaled: projections into the residual stream shrink with 1/sqrt(2 * layers)."""
    attention: str = "multi_head"
    """multi_head, or the name of an attention that a plugin adds."""
    feed_forward: str = "dense"
    """dense, or the name of a feed-forward that a plugin adds."""
    embedding: str = "table"
    """table (one vector for each token), or the name of an embedding that a plugin adds."""
    layer: str = "residual"
    """residual (the paper's layer), or the name of a whole layer that a plugin adds."""
    stack: str = "sequential"
    """sequential (one layer after the other), or the name of a whole encoder or decoder that a plugin adds."""

    def __post_init__(self) -> None:
        for name in ("d_model", "num_heads", "d_ff", "max_len"):
            require(getattr(self, name) >= 1, f"model.{name}", "at least 1", getattr(self, name))
        for name in (
            *("num_kv_heads", "num_encoder_layers", "num_decoder_layers"),
            *("position_offset", "embedding_width", "segment_types", "head_size"),
        ):
            require(getattr(self, name) >= 0, f"model.{name}", "at least 0", getattr(self, name))
        for name in ("dropout", "attention_dropout", "ff_dropout"):
            require(0 <= getattr(self, name) < 1, f"model.{name}", "in [0, 1)", getattr(self, name))
        require(
            self.ngram_buckets == 0 or self.ngram_buckets >= 2,
            "model.ngram_buckets",
            "0, or at least 2",
            self.ngram_buckets,
        )
        require(2 <= self.ngram_max <= 8, "model.ngram_max", "in [2, 8]", self.ngram_max)
        require_choice("model.activation", self.activation, ACTIVATIONS)
        require_choice("model.norm_placement", self.norm_placement, NORM_PLACEMENTS)
        require_choice("model.sinusoid_order", self.sinusoid_order, SINUSOID_ORDERS)
        require(
            self.relative_buckets >= 4 and self.relative_buckets % 2 == 0,
            "model.relative_buckets",
            "an even number from 4",
            self.relative_buckets,
        )
        require_choice("model.rope_scaling", self.rope_scaling, ROPE_SCALINGS)
        require(1 <= self.rope_factor < float("inf"), "model.rope_factor", "at least 1", self.rope_factor)
        require(self.rope_original_len >= 1, "model.rope_original_len", "at least 1", self.rope_original_len)
        require_choice("model.attention_bias", self.attention_bias, ATTENTION_BIASES)
        require(0 <= self.norm_eps < 1, "model.norm_eps", "in [0, 1)", self.norm_eps)
        require(1 < self.rope_theta < float("inf"), "model.rope_theta", "above 1 and finite", self.rope_theta)
        require(0 < self.rotary_share <= 1, "model.rotary_share", "in (0, 1]", self.rotary_share)
        require_choice("model.tie_embeddings", self.tie_embeddings, TIES)
        require_choice("model.init", self.init, INITS)
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Checks that the values fit each other."""
        require(
            self.head_size > 0 or self.d_model % self.num_heads == 0,
            "model.num_heads",
            f"a divisor of model.d_model={self.d_model}",
            self.num_heads,
        )
        require(
            self.num_heads % self.kv_heads == 0,
            "model.num_kv_heads",
            f"a divisor of model.num_heads={self.num_heads}",
            self.num_kv_heads,
        )
        require(
            self.position != "rotary" or self.rotary_dim > 0,
            "model.rotary_share",
            f"at least {2 / self.head_dim:.3g}, which is two dimensions of a head of {self.head_dim}",
            self.rotary_share,
        )
        require(
            self.position != "rotary" or self.rotary_dim % 2 == 0,
            "model.position",
            f"other than rotary if the rotated dimensions of a head are odd ({self.rotary_dim})",
            self.position,
        )
        require(
            self.relative_max_distance > self.relative_buckets // 2,
            "model.relative_max_distance",
            f"more than half of model.relative_buckets={self.relative_buckets}",
            self.relative_max_distance,
        )
        require(
            not (self.output_scale and self.output_transform),
            "model.output_scale",
            "false if model.output_transform is true",
            self.output_scale,
        )
        require(
            not (self.parallel and self.norm_placement == "post"),
            "model.parallel",
            "false if model.norm_placement=post",
            self.parallel,
        )
        require(
            not (self.ngram_buckets and self.embedding_width),
            "model.ngram_buckets",
            "0 if model.embedding_width is set",
            self.ngram_buckets,
        )
        require(
            self.position != "sinusoidal" or self.width_of_embeddings % 2 == 0,
            "model.d_model",
            "even if model.position=sinusoidal",
            self.width_of_embeddings,
        )

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.head_size or self.d_model // self.num_heads

    @property
    def rotary_dim(self) -> int:
        """Dimensions of one head that rotary positions turn."""
        return int(self.head_dim * self.rotary_share)

    @property
    def width_of_embeddings(self) -> int:
        """Width of the embeddings before they are widened to d_model."""
        return self.embedding_width or self.d_model

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_kv_heads or self.num_heads
