"""The model of a Multihead run for the Auto classes of ``transformers``, in one file that needs only torch beside it.

The classes of the backbone are Multihead's own. The classes at the end of the file give them the interface that the
Auto classes and ``generate`` expect. Weights have the names that they have in Multihead.

Shapes: B batch, T target time, S source time, D d_model, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
)

from multihead.config.model import ModelConfig
from multihead.model.cache import Cache, KeyValueCache, LayerCache
from multihead.model.heads import PooledClassifier, VocabularyHead
from multihead.model.ngrams import NGramClasses
from multihead.model.output import new_output_transform
from multihead.model.positions import Positions, new_positions
from multihead.model.transformer import Transformer

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""The name of the cache among the outputs; it depends on the version of ``transformers``."""


class MultiheadConfig(PretrainedConfig):
    """The content of ``config.json``. The base class takes each key of the file as an attribute."""

    model_type = "multihead"
    backbone = {}
    """The options of ``model.*``."""
    vocabularies = {}
    """Sizes of the vocabularies of ``encoder`` and ``decoder``; a stack without one does not exist."""
    pooled = {}
    """Arguments of the head over classes; empty if the head is over the vocabulary."""
    calibration = 1.0
    """The temperature that divides the logits of classes."""
    scale = (0.0, 1.0)
    """Mean and deviation of the labels of a regression."""


class MultiheadModel(PreTrainedModel):
    """The backbone, and what all the models below share."""

    config_class = MultiheadConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["Layer"]

    def __init__(self, config: MultiheadConfig):
        super().__init__(config)
        self.options = ModelConfig(**config.backbone)
        encoder, decoder = (config.vocabularies.get(stack) for stack in ("encoder", "decoder"))
        self.transformer = Transformer(self.options, source_vocab_size=encoder, target_vocab_size=decoder)
        self.head = self.new_head()
        self._tied_weights_keys = self._ties()
        self.post_init()

    def new_head(self) -> nn.Module:
        """The head over the vocabulary of the last stack."""
        options, sizes = self.options, self.config.vocabularies
        last = "decoder" if "decoder" in sizes else "encoder"
        embedding: Any = self.transformer.stack(last).embedding
        tied = embedding.weight if options.tie_embeddings in ("target_output", "all") else None
        width = options.width_of_embeddings if options.output_transform else options.d_model
        tied = tied if width == options.width_of_embeddings else None
        return VocabularyHead(width, sizes[last], tied, options.output_bias, new_output_transform(options))

    def _ties(self) -> dict[str, str]:
        """The names of weights that are shared, each with the name that the file has."""
        firsts: dict[int, str] = {}
        found = {}
        for name, weight in self.named_parameters(remove_duplicate=False):
            first = firsts.setdefault(id(weight), name)
            found |= {name: first} if first != name else {}
        return found

    def _init_weights(self, module: nn.Module) -> None:
        """Computes the tables of positions, which the file does not have. The rest is drawn as usual."""
        if not isinstance(module, Positions):
            return super()._init_weights(module)
        for name, table in new_positions(self.options, causal=False).named_buffers():
            getattr(module, name).copy_(table)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the first stack."""
        return self.transformer.stack("encoder" if "encoder" in self.config.vocabularies else "decoder").embedding

    def stored(self, cache: Any, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> StoredCache | None:
        """The cache of ``generate`` as the backbone takes one."""
        if cache is not None and self.options.ngram_buckets:
            raise ValueError("a model with n-grams keeps no cache: call generate(..., use_cache=False)")
        return None if cache is None else StoredCache(cache, self.options, memory, memory_mask)


class StoredKeys(KeyValueCache):
    """The keys and values of one layer, in a cache of ``transformers``; they are [B, S, G, K] here, [B, G, S, K] there.

    Args:
        cache: The cache.
        layer: Number of the layer.
    """

    def __init__(self, cache: Any, layer: int):
        super().__init__()
        self.cache, self.layer = cache, layer

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the keys and values of new tokens; returns those of all tokens so far."""
        key, value = self.cache.update(key.transpose(1, 2), value.transpose(1, 2), self.layer)
        return key.transpose(1, 2), value.transpose(1, 2)


class StoredCache(Cache):
    """A cache of ``transformers`` with the interface of the backbone's own.

    Args:
        cache: The cache.
        options: Of the backbone.
        memory: The encoder's output [B, S, D]. Its keys are computed at each step.
        memory_mask: Its real places [B, S].
    """

    def __init__(self, cache: Any, options: ModelConfig, memory: Tensor | None, memory_mask: Tensor | None):
        super().__init__(0, memory, memory_mask)
        self.length = int(cache.get_seq_length())
        own = getattr(cache, "self_attention_cache", cache)
        self.layers = [LayerCache(StoredKeys(own, i)) for i in range(options.num_decoder_layers)]

    def extend(self, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
        """Counts new tokens [B, T]; the mask [B, S] has those before them too."""
        self.length += tokens.size(1)
        return mask


def real(mask: Tensor | None) -> Tensor | None:
    """A mask [B, T] of 0 and 1 as booleans; None if everything is real."""
    return None if mask is None or bool(mask.all()) else mask.bool()


class MultiheadForCausalLM(MultiheadModel, GenerationMixin):
    """A language model."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] of ids [B, T], which follow those in the cache. Rows may be padded on either side."""
        kept = past_key_values if cache is None else cache
        hidden = self.transformer.decode(input_ids, target_mask=real(attention_mask), cache=self.stored(kept))
        logits, loss = self.head(hidden), None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: kept})


class MultiheadForMaskedLM(MultiheadModel):
    """A masked language model."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> MaskedLMOutput:
        """Logits [B, T, V] of ids [B, T], padded on the right."""
        logits = self.head(self.transformer.encode(input_ids, real(attention_mask)))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)


class MultiheadForSequenceClassification(MultiheadModel):
    """A classifier, or a regression with one output."""

    def new_head(self) -> nn.Module:
        """The head over classes."""
        given = dict(self.config.pooled)
        buckets, most = given.pop("ngram_buckets"), given.pop("ngram_max")
        ngrams = NGramClasses(buckets, most, given["num_classes"]) if buckets else None
        return PooledClassifier(self.options.d_model, ngrams=ngrams, **given)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of ids [B, T], padded on the right."""
        mask = real(attention_mask)
        if "encoder" in self.config.vocabularies:
            types = token_type_ids if self.options.segment_types > 1 else None
            hidden = self.transformer.encode(input_ids, mask, types=types)
        else:
            hidden = self.transformer.decode(input_ids)  # causality hides the padding
        mean, deviation = self.config.scale
        logits = self.head(hidden, mask, input_ids) / self.config.calibration * deviation + mean
        return SequenceClassifierOutput(loss=None if labels is None else self._loss(logits, labels), logits=logits)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "regression":
            return F.mse_loss(logits[:, 0], labels.float().flatten())
        if self.config.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        return F.cross_entropy(logits, labels)


class Encoding(nn.Module):
    """The encoder as ``generate`` calls it."""

    def __init__(self, transformer: Transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """The memory [B, S, D] of source ids [B, S]."""
        return BaseModelOutput(last_hidden_state=self.transformer.encode(input_ids, real(attention_mask)))


class MultiheadForConditionalGeneration(MultiheadModel, GenerationMixin):
    """A model that translates or summarizes."""

    main_input_name = "input_ids"

    def get_encoder(self, *_: Any, **__: Any) -> nn.Module:
        """The encoder."""
        return Encoding(self.transformer)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        cache: Any = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Logits [B, T, V] of target ids [B, T] and source ids [B, S]; without target ids, of those before labels.

        Raises:
            ValueError: There is no source, or neither target ids nor labels.
        """
        kept, mask = past_key_values if cache is None else cache, real(attention_mask)
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(input_ids, attention_mask)
        memory = encoder_outputs[0]
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("the decoder needs decoder_input_ids or labels")
            start = torch.full_like(labels[:, :1], self.config.decoder_start_token_id)
            decoder_input_ids = torch.cat((start, labels[:, :-1].clamp(min=0)), dim=1)
        target_mask, stored = real(decoder_attention_mask), self.stored(kept, memory, mask)
        given = {} if stored is not None else {"memory": memory, "memory_mask": mask}
        hidden = self.transformer.decode(decoder_input_ids, target_mask=target_mask, cache=stored, **given)
        logits, loss = self.head(hidden), None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=memory, **{CACHE: kept})
