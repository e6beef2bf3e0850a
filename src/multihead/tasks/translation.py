"""Sequence to sequence: teacher forcing in training, real decoding in validation and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional as F

from multihead.config.training import Config, DecodingConfig
from multihead.decoding import Hypothesis, generate, score
from multihead.heads import VocabularyHead
from multihead.metrics import CorpusBLEU, CorpusCHRF, WeightedMean
from multihead.tasks.base import Model, Task
from multihead.transformer import Blocks, Transformer

IGNORED = -100


class TranslationTask(Task):
    """Translation and its like: a source text becomes a target text.

    With ``task.topology=decoder`` one causal stack reads ``<bos> source <sep> target`` and is trained on the target.
    """

    def __init__(self, config: Config, model: Model, tokenizers: Mapping[str, Any]):
        super().__init__(config, model, tokenizers)
        self.decoder_only = config.task.topology == "decoder"
        marks = tokenizers["target"]
        self.pad, self.bos, self.eos, self.sep = marks.pad_id, marks.bos_id, marks.eos_id, marks.sep_id
        self.loss_mean, self.accuracy = WeightedMean(), WeightedMean()
        self.bleu, self.chrf = CorpusBLEU(), CorpusCHRF()
        self.bleu_lowercase = CorpusBLEU(lowercase=True)

    @classmethod
    def build(cls, config: Config, tokenizers: Mapping[str, Any], blocks: Blocks) -> TranslationTask:
        """The task with a freshly initialised backbone and vocabulary head."""
        source_size, target_size = tokenizers["source"].vocab_size, tokenizers["target"].vocab_size
        both = config.task.topology == "encoder_decoder"
        transformer = Transformer(
            config.model,
            source_vocab_size=source_size if both else None,
            target_vocab_size=target_size,
            blocks=blocks,
        )
        tied = config.model.tie_embeddings in ("target_output", "all")
        weight = transformer.decoder.embedding.weight if tied else None
        return cls(config, Model(transformer, VocabularyHead(config.model.d_model, target_size, weight)), tokenizers)

    # ---- from ids to batches

    def limits(self) -> dict[str, int]:
        max_len = self.config.model.max_len
        each = (max_len - 2) // 2 if self.decoder_only else max_len - 1
        return {"source": each, "target": each}

    def lengths(self, encoded: Any) -> tuple[np.ndarray, np.ndarray]:
        source, target = encoded.lengths("source") + 1, encoded.lengths("target") + 1
        widths = (source + target)[:, None] if self.decoder_only else np.stack([source, target], axis=1)
        return target, widths

    def collate(self, encoded: Any, indices: np.ndarray) -> dict[str, Any]:
        if len(indices) == 0:  # one row without targets: its loss is 0 and its gradient exists
            row = torch.full((1, 1), self.eos)
            batch = {"target": row, "labels": torch.full((1, 1), IGNORED)}
            return batch if self.decoder_only else batch | {"source": row, "source_mask": None}
        if self.decoder_only:
            return self._collate_joined(encoded, indices)
        source = encoded.padded("source", indices, append=(self.eos,), pad_id=self.pad)
        mask = source != self.pad
        return {
            "source": source,  # [B, S]
            "source_mask": None if bool(mask.all()) else mask,
            "target": encoded.padded("target", indices, prepend=(self.bos,), pad_id=self.pad),  # [B, T]
            "labels": encoded.padded("target", indices, append=(self.eos,), pad_id=IGNORED),  # [B, T]
        }

    def _collate_joined(self, encoded: Any, indices: np.ndarray) -> dict[str, Any]:
        target = encoded.joined([self.bos, "source", self.sep, "target"], indices, pad_id=self.pad)
        labels = encoded.joined(["source", self.sep, "target", self.eos], indices, pad_id=IGNORED)
        first = torch.from_numpy(encoded.lengths("source")[indices]) + 1  # the separator predicts the first target
        labels[torch.arange(labels.shape[1]) < first[:, None]] = IGNORED
        return {"target": target, "labels": labels}  # [B, T]

    # ---- from batches to losses

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Hidden states [N, D] and labels [N] of the real target positions."""
        hidden = self.model.transformer(
            source=batch.get("source"), source_mask=batch.get("source_mask"), target=batch["target"]
        )  # [B, T, D]
        real = batch["labels"] != IGNORED
        return hidden[real], batch["labels"][real]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        hidden, labels = self(batch)
        return self.step_loss(self.model.head.loss(hidden, labels, self.config.task.label_smoothing), batch)

    # ---- validation and test

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val", limit=self.config.trainer.limit_val_examples)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "test", limit=0)

    def on_validation_epoch_start(self) -> None:
        self.samples = []

    def on_test_epoch_start(self) -> None:
        self.samples = []

    def on_validation_epoch_end(self) -> None:
        self._record("val")

    def on_test_epoch_end(self) -> None:
        self._record("test")

    def _evaluate(self, batch: dict[str, Any], split: str, limit: int) -> None:
        hidden, labels = self(batch)
        logits = self.model.head(hidden).float()
        self.loss_mean.update(F.cross_entropy(logits, labels, reduction="sum"), labels.numel())
        self.accuracy.update((logits.argmax(-1) == labels).sum(), labels.numel())
        index = [int(i) for i in batch["index"] if not limit or int(i) < limit]
        texts = self.texts[split]
        sources = [texts["source"][i] for i in index]
        outputs = [best[0][0] for best in self.translate(sources, self.config.decoding)]
        references = [texts["target"][i] for i in index]
        for metric in (self.bleu, self.chrf, self.bleu_lowercase):
            metric.update(outputs, references)
        for i, source, reference, output in zip(index, sources, references, outputs, strict=True):
            if split == "test" or i < self.config.task.num_samples:
                self.samples.append({"index": i, "source": source, "reference": reference, "output": output})

    def _record(self, split: str) -> None:
        loss = float(self.loss_mean.compute())
        metrics = {
            "loss": loss,
            "perplexity": float(np.exp(min(loss, 700.0))),
            "token_accuracy": float(self.accuracy.compute()),
            "bleu": float(self.bleu.compute()),
            "chrf": float(self.chrf.compute()),
        }
        if split == "test":
            metrics["bleu_lowercase"] = float(self.bleu_lowercase.compute())
        for metric in (self.loss_mean, self.accuracy, self.bleu, self.chrf, self.bleu_lowercase):
            metric.reset()
        named = {f"{split}/{name}": value for name, value in metrics.items()}
        self.record({**named, "tokens": self.tokens_seen}, self.trainer.global_step)
        self.finish_samples(split)

    def signatures(self) -> dict[str, str]:
        return {"signature": self.bleu.signature(), "chrf_signature": self.chrf.signature()}

    # ---- prediction

    @torch.inference_mode()
    def translate(
        self, texts: Sequence[str], decoding: DecodingConfig, step: Callable[[int], None] | None = None
    ) -> list[list[tuple[str, Hypothesis]]]:
        """Translations of ``texts``, in order, each with ``decoding.num_return_sequences`` hypotheses, best first.

        An empty text has an empty translation; a text longer than the model allows is cut.
        """
        results: list[list[tuple[str, Hypothesis]]] = [[("", Hypothesis([], 0.0, 0.0))] for _ in texts]
        ids = self.tokenizers["source"].encode_batch(list(texts))
        limit = self.limits()["source"]
        ids = [row[:limit] for row in ids]
        order = sorted((i for i, row in enumerate(ids) if row), key=lambda i: (-len(ids[i]), i))
        room = max(1, self.config.data.eval_tokens)
        start = 0
        while start < len(order):
            count = max(1, room // (len(ids[order[start]]) + 1) // max(1, decoding.num_beams // 2))
            chosen = order[start : start + count]
            for i, hypotheses in zip(chosen, self._generate([ids[i] for i in chosen], decoding), strict=True):
                outputs = self.tokenizers["target"].decode_batch([h.ids for h in hypotheses])
                results[i] = list(zip(outputs, hypotheses, strict=True))
            start += count
        return results

    def _generate(self, rows: list[list[int]], decoding: DecodingConfig) -> list[list[Hypothesis]]:
        """Decodes one batch of source ids (longest first)."""
        forced_ids = self.tokenizers["target"].encode_batch([decoding.forced_prefix])[0]
        longest = [2 * len(row) + 10 for row in rows]
        if decoding.max_new_tokens:
            longest = [decoding.max_new_tokens] * len(rows)
        max_len = self.config.model.max_len
        if self.decoder_only:
            prefix, mask = self._pad([[self.bos, *row, self.sep] for row in rows], left=True)
            source = source_mask = None
            longest = [min(n, max_len - len(row) - 2) for n, row in zip(longest, rows, strict=True)]
        else:
            source, source_mask = self._pad([[*row, self.eos] for row in rows])
            prefix, mask = self._pad([[self.bos] for _ in rows])
            longest = [min(n, max_len - 1) for n in longest]
        return generate(
            self.model.transformer,
            self.model.head,
            decoding,
            prefix=prefix,
            prefix_mask=mask,
            source=source,
            source_mask=source_mask,
            eos_id=self.eos,
            pad_id=self.pad,
            max_new_tokens=torch.tensor(longest, device=self.device),
            forced=[forced_ids] * len(rows) if forced_ids else None,
            forbidden=(self.bos, self.sep),
        )

    def _pad(self, rows: list[list[int]], left: bool = False) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad)
        for number, row in enumerate(rows):
            if left:
                ids[number, width - len(row) :] = torch.tensor(row)
            else:
                ids[number, : len(row)] = torch.tensor(row)
        ids = ids.to(self.device)
        return ids, ids != self.pad

    @torch.inference_mode()
    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """log p(target | source) in nats of each pair, end mark included."""
        limits = self.limits()
        pairs = zip(
            self.tokenizers["source"].encode_batch(list(sources)),
            self.tokenizers["target"].encode_batch(list(targets)),
            strict=True,
        )
        results = []
        for source_ids, target_ids in pairs:
            source_ids, target_ids = source_ids[: limits["source"]], target_ids[: limits["target"]]
            results.append(self._score_one(source_ids, target_ids))
        return results

    def _score_one(self, source_ids: list[int], target_ids: list[int]) -> float:
        if self.decoder_only:
            row = [self.bos, *source_ids, self.sep, *target_ids, self.eos]
            target, mask = self._pad([row])
            tokens = score(self.model.transformer, self.model.head, target=target, target_mask=mask)
            return float(tokens[0, len(source_ids) + 1 :].sum())
        target, mask = self._pad([[self.bos, *target_ids, self.eos]])
        source, source_mask = self._pad([[*source_ids, self.eos]])
        tokens = score(
            self.model.transformer,
            self.model.head,
            target=target,
            target_mask=mask,
            source=source,
            source_mask=source_mask,
        )
        return float(tokens.sum())
