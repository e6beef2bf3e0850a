"""Sequence to sequence: teacher forcing in training, real decoding in validation and test.

Shapes: N real target positions (or examples), B batch, T target time, S source time, D d_model.
"""

from __future__ import annotations

import functools
import itertools
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.task import TranslationConfig
from multihead.config.training import Config, DecodingConfig
from multihead.errors import ConfigError, NumericsError
from multihead.metrics.edit_distance import EDITS
from multihead.model.beam_search import WORKERS, Hypothesis, generate, mean_of, next_log_probs, side_by_side
from multihead.model.heads import CopyHead, VocabularyHead
from multihead.model.output import new_output_transform
from multihead.model.transformer import Transformer
from multihead.tasks.base import IGNORED, EvaluationData, Model, Task, at_places, by_length, labelled
from multihead.tasks.simcut import simcut
from multihead.text.inputs import is_blank
from multihead.text.targets import TargetText, usable_tokenizer
from multihead.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from multihead.metrics.sums import WeightedMean
    from multihead.metrics.text import TextScore

UNICODE_FORMS: Mapping[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}
"""``data.normalize`` to the form that it names."""


class TranslationTask(Task[TranslationConfig, Model[VocabularyHead]]):
    """A source text becomes a target text.

    With ``task.topology=decoder``, one causal stack reads ``<bos> source <sep> target`` and is trained on the target.
    """

    def __init__(
        self,
        config: Config,
        settings: TranslationConfig,
        model: Model[VocabularyHead],
        vocab: Vocabulary,
        evaluation: EvaluationData | None = None,
    ):
        super().__init__(config, settings, model, vocab, evaluation)
        self.decoder_only = settings.topology == "decoder"
        marks = self.tokenizers["target"]
        self.pad, self.bos, self.eos, self.sep = marks.pad_id, marks.bos_id, marks.eos_id, marks.sep_id
        self.start = tuple(marks.target_start)
        source = self.tokenizers["source"]
        self.source_start, self.source_end = tuple(source.source_start), tuple(source.source_end)
        self.target_text = vocab.targets.get(settings.name, TargetText())
        self.others = nn.ModuleList()  # the other models of an ensemble

    @property
    def models(self) -> list[Model[VocabularyHead]]:
        """The model, and the other models of the ensemble if there is one."""
        return [self.model, *cast("list[Model[VocabularyHead]]", list(self.others))]

    def join(self, others: Sequence[Task]) -> None:
        for other in others:
            if not isinstance(other, TranslationTask):
                what = f"takes runs of translation or summarization, got one of task={other.settings.name}"
                raise ConfigError("ensemble", what, "leave that run out")
            if other.settings.topology != self.settings.topology:
                what = f"has a run with task.topology={other.settings.topology}, but run= has {self.settings.topology}"
                raise ConfigError("ensemble", what, "leave that run out")
            theirs = other.limits()
            for role, limit in self.limits().items():
                if self.tokenizers[role].fingerprint != other.tokenizers[role].fingerprint:
                    what = f"takes runs that have one vocabulary, but the tokenizers of the {role} differ"
                    raise ConfigError("ensemble", what, "train the others with the same data and tokenizer.*")
                if theirs[role] < limit:
                    what = f"has a run that reads {theirs[role]} tokens of the {role}, but run= reads {limit}"
                    raise ConfigError("ensemble", what, "name the run that reads fewest tokens as run=")
            self.others.append(other.model)

    @classmethod
    def new_head(
        cls, config: Config, settings: TranslationConfig, transformer: Transformer, vocab: Vocabulary
    ) -> VocabularyHead:
        model, size = config.model, vocab.tokenizers["target"].vocab_size
        transform = None if settings.copy else new_output_transform(model, transformer.blocks)
        width = model.width_of_embeddings if transform is not None and model.output_transform else model.d_model
        tied = model.tie_embeddings in ("target_output", "all") and width == model.width_of_embeddings
        weight = transformer.stack("decoder").embedding.weight if tied else None
        if settings.copy:
            return CopyHead(width, size, weight)
        return VocabularyHead(width, size, weight, model.output_bias, transform)

    @functools.cached_property
    def means(self) -> dict[str, WeightedMean]:
        """Means over the split that is evaluated. Prediction does without them."""
        return self.new_means("loss", "bits", "token_accuracy", "exact_match", "cut_outputs")

    @functools.cached_property
    def scores(self) -> dict[str, TextScore]:
        """Metrics of the decoded text by name. Those that ``task.monitor`` does not know are computed in test only."""
        return {name: metric.to(self.device) for name, metric in self.new_scores().items()}

    def new_scores(self) -> dict[str, TextScore]:
        """Fresh metrics of the decoded text by name."""
        from multihead.metrics.text import CorpusBLEU, CorpusCHRF, CorpusEdits, CorpusTER

        tokenize, _ = usable_tokenizer(self.settings.bleu_tokenize, self.target_text)
        scores: dict[str, TextScore] = {"bleu": CorpusBLEU(tokenize=tokenize), "chrf": CorpusCHRF()}
        scores |= {key: CorpusEdits(key) for key in EDITS}
        scores["bleu_lowercase"] = CorpusBLEU(lowercase=True, tokenize=tokenize)
        return scores | ({"ter": CorpusTER()} if self.settings.ter else {})

    # ---- from ids to batches

    def limits(self) -> dict[str, int]:
        max_len = self.config.model.max_len
        if self.decoder_only:
            source = target = (max_len - 2) // 2
        else:
            source, target = max_len - len(self.source_start + self.source_end), max_len - len(self.start)
        return {"source": min(source, self.settings.max_source_len or source), "target": target}

    def lengths(self, encoded: Any) -> tuple[np.ndarray, np.ndarray]:
        source, target = encoded.lengths("source"), encoded.lengths("target") + 1
        if self.decoder_only:
            return target, (source + 1 + target)[:, None]
        source = source + len(self.source_start + self.source_end)
        return target, np.stack([source, target + len(self.start) - 1], axis=1)

    def collate(self, encoded: Any, indices: np.ndarray, epoch: int = 0) -> dict[str, Any]:
        if len(indices) == 0:  # one row without targets: its loss is 0 and its gradient exists
            row = torch.full((1, 1), self.eos)
            labels = torch.full((1, 1), IGNORED)
            batch = {"target": row, "labels": labels, "places": labelled(labels)}
            return batch if self.decoder_only else batch | {"source": row, "source_mask": None}
        if self.decoder_only:
            return self._collate_joined(encoded, indices)
        around = {"prepend": self.source_start, "append": self.source_end}
        source = encoded.padded("source", indices, **around, pad_id=self.pad)
        mask = source != self.pad
        unseen = (IGNORED,) * (len(self.start) - 1)
        labels = encoded.padded("target", indices, prepend=unseen, append=(self.eos,), pad_id=IGNORED)
        return {
            "source": source,  # [B, S]
            "source_mask": None if bool(mask.all()) else mask,
            "target": encoded.padded("target", indices, prepend=self.start, pad_id=self.pad),  # [B, T]
            "labels": labels,  # [B, T]
            "places": labelled(labels),
        }

    def _collate_joined(self, encoded: Any, indices: np.ndarray) -> dict[str, Any]:
        target = encoded.joined([self.bos, "source", self.sep, "target"], indices, pad_id=self.pad)
        labels = encoded.joined(["source", self.sep, "target", self.eos], indices, pad_id=IGNORED)
        first = torch.from_numpy(encoded.lengths("source")[indices]) + 1  # the separator predicts the first target
        labels[torch.arange(labels.shape[1]) < first[:, None]] = IGNORED
        return {"target": target, "labels": labels, "places": labelled(labels)}  # [B, T]

    # ---- from batches to losses

    def forward(self, batch: Mapping[str, Any], model: Model[VocabularyHead] | None = None) -> tuple[Tensor, ...]:
        """The arguments of the head's loss: hidden states [N, D] and labels [N] of the real target positions.

        A `CopyHead` also takes the shares [N, 1 + S] and the ids [N, S] of their source.
        """
        source, mask = batch.get("source"), batch.get("source_mask")
        model = model or self.model
        transformer, head = model.transformer, model.head
        memory = None if source is None else transformer.encode(source, mask)
        hidden = transformer.decode(batch["target"], memory=memory, memory_mask=mask)  # [B, T, D]
        places = batch["places"]
        positions = at_places(hidden, places), at_places(batch["labels"], places)
        if not isinstance(head, CopyHead) or source is None or memory is None:
            return positions
        shares = head.shares(hidden, head.source(source, memory, mask))  # [B, T, 1 + S]
        ids = source[:, None].expand(-1, hidden.size(1), -1)  # [B, T, S]
        return (*positions, at_places(shares, places), at_places(ids, places))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        settings, smoothing = self.settings, self.settings.label_smoothing
        if settings.simcut_alpha and self.training:
            options = {"alpha": settings.simcut_alpha, "cut": settings.simcut_cut, "label_smoothing": smoothing}
            return self.step_loss(simcut(self, batch, **options), batch)
        return self.step_loss(self.model.head.loss(*self(batch), label_smoothing=smoothing), batch)

    def logits_and_labels(
        self, batch: dict[str, Any], model: Model[VocabularyHead] | None = None
    ) -> tuple[Tensor, Tensor]:
        model = model or self.model
        (hidden, labels, *copied), head = self(batch, model), model.head
        if copied and isinstance(head, CopyHead):
            return head.log_probs(hidden, *copied), labels
        return head(hidden).float(), labels

    # ---- validation and test

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        limit = self.config.trainer.limit_val_examples if split == "val" else 0
        decoding = replace(self.config.decoding, do_sample=False, num_return_sequences=1)
        each, hits, labels = self._teacher_forced(batch)
        nats = each.double().sum()
        self.means["loss"].update(nats, labels.numel())
        self.means["token_accuracy"].update(hits.sum(), hits.numel())
        texts, rows = self.evaluation.texts[split], list[int](batch["index"].tolist())
        counts = (batch["labels"] != IGNORED).sum(1)[: len(rows)]  # of each row, with the end mark
        whole = counts <= self.limits()["target"]  # the others may be cut, and their texts have more bytes than these
        of_whole = each[whole.repeat_interleave(counts)].double().sum()
        kept = [texts["target"][i] for i, is_whole in zip(rows, whole.tolist(), strict=True) if is_whole]
        num_bytes = sum(len(text.encode()) + 1 for text in kept)  # the end mark stands for the end of line
        self.means["bits"].update(of_whole / math.log(2), num_bytes)
        index = [i for i in rows if not limit or i < limit]
        sources = [texts["source"][i] for i in index]
        try:
            best = [hypotheses[0] for hypotheses in self.translate(sources, decoding)]
        except NumericsError:  # a model that has diverged: its loss says so, and the run's policy decides what follows
            best = [("", Hypothesis([], math.nan, math.nan)) for _ in sources]
        outputs = [text for text, _ in best]
        references = [self.in_form(texts["target"][i]) for i in index]
        for name, metric in self.scores.items():
            if split == "test" or f"val/{name}" in self.settings.METRICS:
                metric.update(outputs, references)
        self.measure(outputs, references)
        self.means["exact_match"].update(sum(map(str.__eq__, outputs, references)), len(outputs))
        self.means["cut_outputs"].update(sum(found.cut for _, found in best), len(outputs))
        for i, source, reference, output in zip(index, sources, references, outputs, strict=True):
            if split == "test" or i < self.settings.num_samples:
                self.samples.append({"index": i, "source": source, "reference": reference, "output": output})

    def _teacher_forced(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy [N] in nats, whether the most probable token is the label's [N], and the labels [N]."""
        if not self.others:
            positions = self(batch)
            return *self.model.head.evaluate(*positions), positions[1]
        found = [self.logits_and_labels(batch, model) for model in self.models]
        log_probs, labels = mean_of([logits.log_softmax(-1) for logits, _ in found]), found[0][1]
        return F.nll_loss(log_probs, labels, reduction="none"), log_probs.argmax(-1) == labels, labels

    def in_form(self, text: str) -> str:
        """A reference in the Unicode form that ``data.normalize`` gives to outputs."""
        form = UNICODE_FORMS.get(self.config.data.normalize)
        return text if form is None else unicodedata.normalize(form, text)

    def finish_evaluation(self, split: str) -> dict[str, float]:
        found = {name: float(mean.compute()) for name, mean in self.means.items()}
        whole = not math.isnan(found["bits"])  # whether any target was scored as a whole
        metrics = {
            "loss": found["loss"],
            "perplexity": math.exp(min(found["loss"], 700.0)),
            **self.comparable(split, "target", {"bits_per_byte": found["bits"]} if whole else {}),
            **{name: found[name] for name in ("token_accuracy", "exact_match", "cut_outputs")},
        }
        for name, metric in self.scores.items():
            if split == "test" or f"val/{name}" in self.settings.METRICS:
                metrics[name] = float(metric.compute())
        for metric in (*self.means.values(), *self.scores.values()):
            metric.reset()
        return metrics

    def signatures(self) -> dict[str, Any]:
        names = {"bleu": "signature", "chrf": "chrf_signature", "ter": "ter_signature"}
        return {name: self.scores[score].signature() for score, name in names.items() if score in self.scores}

    # ---- prediction

    def prompts_of(self, split: str) -> Sequence[str]:
        return self.evaluation.texts[split]["source"]

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        limit = self.limits()["source"]
        return [len(ids) > limit for ids in self.tokenizers["source"].encode_batch(list(texts))]

    def predict(self, texts: Sequence[str], decoding: DecodingConfig, first: int = 0) -> list[list[dict[str, Any]]]:
        return [
            [{"text": text, "score": round(h.score, 6), "log_prob": round(h.log_prob, 6)} for text, h in hypotheses]
            for hypotheses in self.translate(texts, decoding)
        ]

    def read(self, text: str, target: str = "") -> None:
        self.score([text], [target])

    def written(self, text: str) -> str:
        return self.predict([text], self.config.decoding)[0][0]["text"]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """The means [N, D] of the hidden states of each source with its marks, in the stack that reads it."""
        limit, transformer = self.limits()["source"], self.model.transformer
        rows = [ids[:limit] for ids in self.tokenizers["source"].encode_batch(list(texts))]
        rows = [[self.bos, *row, self.sep] if self.decoder_only else self._marked(row) for row in rows]
        result = torch.zeros(len(rows), self.config.model.d_model)
        for chosen in by_length(rows, self.config.data.eval_tokens):
            ids, mask = self._pad([rows[i] for i in chosen])
            hidden = transformer.decode(ids) if self.decoder_only else transformer.encode(ids, mask)  # [B, S, D]
            result[chosen] = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).float().cpu()
        return result

    def translate(
        self,
        texts: Sequence[str],
        decoding: DecodingConfig,
        forced: Sequence[int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[list[tuple[str, Hypothesis]]]:
        """The ``decoding.num_return_sequences`` best translations of each text, best first.

        A blank text has an empty translation. A text that is longer than the model reads is cut.

        Args:
            texts: Sources.
            decoding: How translations are searched for.
            forced: Ids that every translation starts with, instead of ``decoding.forced_prefix``.
            stop: Asked before each step of the search. True ends it early.

        Raises:
            ConfigError: ``decoding.do_sample`` is on.
        """
        if decoding.do_sample:
            what = "is for task=lm only; this task decodes by beam search"
            raise ConfigError("decoding.do_sample", what, "decoding.num_beams=5")
        ids = self.tokenizers["source"].encode_batch(["" if is_blank(text) else text for text in texts])
        tokenizer = self.tokenizers["target"]
        return [
            list(zip(tokenizer.decode_batch([h.ids for h in hypotheses]), hypotheses, strict=True))
            for hypotheses in self.search(ids, decoding, forced, stop)
        ]

    @torch.inference_mode()
    def search(
        self,
        ids: Sequence[Sequence[int]],
        decoding: DecodingConfig,
        forced: Sequence[int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[list[Hypothesis]]:
        """Hypotheses for each row of source ids without marks, best first; rows of similar length share a batch.

        ``forced`` and ``stop`` are those of `translate`.
        """
        begun = self.tokenizers["target"].encode_batch([decoding.forced_prefix])[0] if forced is None else forced
        results = [[Hypothesis([], 0.0, 0.0)] for _ in ids]
        limit = self.limits()["source"]
        ids = [row[:limit] for row in ids]
        order = sorted((i for i, row in enumerate(ids) if row), key=lambda i: (-len(ids[i]), i))
        one_at_a_time = (  # fsdp's hooks and the profile's clock follow one pass
            self.device.type != "cpu"
            or self.config.compile
            or self.config.strategy == "fsdp"
            or self.config.trainer.profile_steps
        )
        workers = 1 if one_at_a_time else min(WORKERS, torch.get_num_threads())
        room = max(1, self.config.data.eval_tokens // workers)
        batches, start = [], 0
        while start < len(order):
            count = max(1, room // (len(ids[order[start]]) + 1) // max(1, decoding.num_beams // 2))
            batches.append([ids[i] for i in order[start : start + count]])
            start += count
        found = side_by_side(lambda rows: self._generate(rows, decoding, begun, stop), batches, workers)
        for i, hypotheses in zip(order, itertools.chain.from_iterable(found), strict=True):
            results[i] = hypotheses
        return results

    def _generate(
        self,
        rows: list[list[int]],
        decoding: DecodingConfig,
        forced: Sequence[int],
        stop: Callable[[], bool] | None,
    ) -> list[list[Hypothesis]]:
        """Decodes one batch of source ids, the longest first."""
        longest = [self.target_text.limit(len(row)) for row in rows]
        if decoding.max_new_tokens:
            longest = [decoding.max_new_tokens] * len(rows)
        max_len = self.config.model.max_len
        if self.decoder_only:
            prefix, mask = self._pad([[self.bos, *row, self.sep] for row in rows], left=True)
            source = source_mask = None
            longest = [min(n, max_len - len(row) - 2) for n, row in zip(longest, rows, strict=True)]
        else:
            source, source_mask = self._pad([self._marked(row) for row in rows])
            prefix, mask = self._pad([[*self.start] for _ in rows])
            longest = [min(n, max_len - len(self.start)) for n in longest]
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
            forced=[forced] * len(rows) if forced else None,
            forbidden=(self.bos, self.sep),
            stop=stop,
            others=[(model.transformer, model.head) for model in self.models[1:]],
        )

    def _marked(self, source_ids: Sequence[int]) -> list[int]:
        """What the encoder reads of a source."""
        return [*self.source_start, *source_ids, *self.source_end]

    def _pad(self, rows: list[list[int]], left: bool = False) -> tuple[Tensor, Tensor]:
        """Ids and mask; the padding may also be a token of a row, since some models start a target with it."""
        width = max(len(row) for row in rows)
        ids, mask = torch.full((len(rows), width), self.pad), torch.zeros(len(rows), width, dtype=torch.bool)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[number, place] = torch.tensor(row)
            mask[number, place] = True
        return ids.to(self.device), mask.to(self.device)

    @torch.inference_mode()
    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """log p(target | source) of each pair in nats, with the end mark. A source that is too long is cut.

        Raises:
            ConfigError: A target is longer than the model writes.
        """
        limit = self.limits()["source"]
        results = []
        for source_ids, target in zip(self.tokenizers["source"].encode_batch(list(sources)), targets, strict=True):
            target_ids = self.target_ids(target)
            log_probs = self.next_log_probs(source_ids[:limit], target_ids)
            each = log_probs.gather(1, torch.tensor([*target_ids, self.eos], device=log_probs.device)[:, None])
            results.append(float(each.sum()))
        return results

    def target_ids(self, target: str) -> list[int]:
        """Ids of a target that is scored, without marks.

        Raises:
            ConfigError: The target is longer than the model writes.
        """
        ids, limit = self.tokenizers["target"].encode_batch([target])[0], self.limits()["target"]
        if len(ids) > limit:
            what = f"has {len(ids):,} tokens, but the model writes at most {limit:,}"
            raise ConfigError("target", what, "give shorter targets")
        return ids

    @torch.inference_mode()
    def next_log_probs(self, source_ids: Sequence[int], target_ids: Sequence[int]) -> Tensor:
        """log p [T + 1, V] of all tokens at each place of a target of T tokens, and at that of its end mark.

        Both rows of ids are without marks, and not longer than the model reads.
        """
        if self.decoder_only:
            source, first = None, len(source_ids) + 1
            row = [self.bos, *source_ids, self.sep, *target_ids, self.eos]
        else:
            source, first = torch.tensor([self._marked(source_ids)], device=self.device), len(self.start) - 1
            row = [*self.start, *target_ids, self.eos]
        target = torch.tensor([row], device=self.device)
        found = [next_log_probs(m.transformer, m.head, target=target, source=source) for m in self.models]
        return mean_of(found)[0, first:]
