"""Classification of a text, or of a pair of texts, into one class or several: one vector, one logit for each class.

Shapes: B batch, T tokens, N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multihead.config.task import ClassificationConfig
from multihead.config.training import Config, DecodingConfig
from multihead.errors import DataError
from multihead.metrics.calibration import Calibration
from multihead.metrics.classification import Confusion, Outputs, class_metrics, label_set_metrics
from multihead.model.heads import PooledClassifier
from multihead.model.losses import balanced_weights, class_loss, label_set_loss
from multihead.model.ngrams import NGramClasses
from multihead.model.transformer import Transformer
from multihead.tasks.base import EvaluationData, Model, Task, by_length
from multihead.text.inputs import is_blank
from multihead.text.vocabulary import Vocabulary


class ClassificationTask(Task[ClassificationConfig, Model[PooledClassifier]]):
    """Classification of ``<bos> text <eos>``, or ``<bos> text <sep> text_b <eos>``.

    The loss of a step is the sum over its examples divided by their number, with or without class weights, so that it
    does not depend on how the step is cut. The loss of validation and test is the plain cross-entropy.
    """

    def __init__(
        self,
        config: Config,
        settings: ClassificationConfig,
        model: Model[PooledClassifier],
        vocab: Vocabulary,
        evaluation: EvaluationData | None = None,
    ):
        super().__init__(config, settings, model, vocab, evaluation)
        marks = self.tokenizers["text"]
        self.pad, self.start, self.between, self.end = marks.pad_id, marks.start, marks.between, marks.end
        self.typed = config.model.segment_types > 1 and "text_b" in self.tokenizers and marks.second_type > 0
        """Whether the model is shown which of two texts a token belongs to."""
        self.multi_label = settings.multi_label
        self.pairs = "text_b" in self.tokenizers
        self.outputs = Outputs()
        self.calibration = Calibration()
        """The temperature and thresholds that evaluation and prediction use."""
        self.confusion: Confusion | None = None
        """The confusions on the split that was evaluated last."""
        self._weights: tuple[Any, Tensor] | None = None  # a split, and the weights of its classes

    @classmethod
    def new_head(
        cls, config: Config, settings: ClassificationConfig, transformer: Transformer, vocab: Vocabulary
    ) -> PooledClassifier:
        classes, buckets = len(vocab.labels), settings.ngram_buckets
        ngrams = NGramClasses(buckets, settings.ngram_max, classes) if buckets else None
        pooling, dropout, share = settings.pooling, settings.head_dropout, settings.ngram_share
        dense, bias = settings.head_activation, settings.head_bias
        return PooledClassifier(config.model.d_model, classes, pooling, dropout, ngrams, share, dense, bias)

    @torch.no_grad()
    def start_from(self, encoded: Any) -> None:
        ngrams = self.model.head.ngrams
        if ngrams is None:
            return
        counts = torch.zeros(ngrams.weight.shape)
        for indices in np.array_split(np.arange(len(encoded)), max(1, len(encoded) // 256)):
            batch = self.collate(encoded, indices)
            labels = batch["labels"]
            has = labels.float() if self.multi_label else torch.nn.functional.one_hot(labels, len(self.labels)).float()
            rows = ngrams.rows(batch["text"], batch["mask"])  # [B, M]
            counts.index_add_(0, rows.flatten(), has.repeat_interleave(rows.size(1), 0))
        counts[0] = 0
        ngrams.start_from(counts)

    # ---- from ids to batches

    def limits(self) -> dict[str, int]:
        room = self.config.model.max_len - self._marks
        return {"text": room // 2, "text_b": room // 2} if self.pairs else {"text": room}

    @property
    def _marks(self) -> int:
        """Number of marks in a row."""
        return len(self.start) + len(self.end) + (len(self.between) if self.pairs else 0)

    def lengths(self, encoded: Any) -> tuple[np.ndarray, np.ndarray]:
        total = encoded.lengths("text") + self._marks
        if self.pairs:
            total = total + encoded.lengths("text_b")
        return total, total[:, None]

    def targets(self, encoded: Any) -> np.ndarray:
        return np.ones(len(encoded), dtype=np.int64)

    def collate(self, encoded: Any, indices: np.ndarray, epoch: int = 0) -> dict[str, Any]:
        if len(indices) == 0:  # one row without a label: its loss is 0 and its gradient exists
            labels = torch.zeros((0, len(self.labels)) if self.multi_label else 0, dtype=torch.long)
            row = torch.tensor([[*self.start, *self.end] or [self.pad]])
            return {"text": row, "mask": None, "types": None, "labels": labels}
        middle = ["text", *self.between, "text_b"] if self.pairs else ["text"]
        tokens = encoded.joined([*self.start, *middle, *self.end], indices, pad_id=self.pad)
        firsts = encoded.lengths("text")[indices]
        batch = self._masked(tokens, self.lengths(encoded)[0][indices], firsts)
        batch["labels"] = self.labels_of(encoded, indices)
        if self.settings.class_weights == "balanced":
            batch["class_weights"] = self._class_weights(encoded)
        return batch

    def _masked(self, tokens: Tensor, lengths: np.ndarray, firsts: np.ndarray) -> dict[str, Any]:
        """Tokens [B, T], their mask (None if all are real), and which text of a pair each belongs to."""
        mask = torch.arange(tokens.size(1)) < torch.as_tensor(lengths)[:, None]
        types = None
        if self.typed:
            second = torch.as_tensor(firsts)[:, None] + len(self.start) + len(self.between)
            types = (torch.arange(tokens.size(1)) >= second).long()
        return {"text": tokens, "mask": None if bool(mask.all()) else mask, "types": types}

    def labels_of(self, encoded: Any, indices: np.ndarray) -> Tensor:
        """Classes of examples: numbers [B], or with ``multi_label`` 0 and 1 for each class [B, C]."""
        ids = encoded.joined(["label"], indices, pad_id=len(self.labels))
        if not self.multi_label:
            return ids[:, 0]
        return torch.zeros(len(ids), len(self.labels) + 1, dtype=torch.long).scatter_(1, ids, 1)[:, :-1]

    def _class_weights(self, encoded: Any) -> Tensor:
        """Weights of the classes by their frequency in a split: [C], or [2, C] for not having and having each."""
        if self._weights is None or self._weights[0] is not encoded:
            labels = self.labels_of(encoded, np.arange(len(encoded)))
            if self.multi_label:
                have = labels.sum(0)
                counts = torch.stack([len(labels) - have, have])
            else:
                counts = torch.bincount(labels, minlength=len(self.labels))
            self._weights = (encoded, balanced_weights(counts.float()))
        return self._weights[1]

    # ---- from batches to losses

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits [N, C] in float32 and labels of the examples of a batch."""
        found, labels = self.opinions(batch)
        return self.model.head.joined(found), labels

    def opinions(self, batch: Mapping[str, Any]) -> tuple[list[Tensor], Tensor]:
        """Logits [N, C] in float32 of each classifier of the head, and labels of the examples of a batch."""
        found, labels = self.model.head.opinions(self.hidden(batch), batch["mask"], batch["text"]), batch["labels"]
        return [logits.float()[: len(labels)] for logits in found], labels  # an empty batch has one row without label

    def hidden(self, batch: Mapping[str, Any]) -> Tensor:
        """Hidden states [B, T, D] of a batch."""
        text = self._dropped(batch["text"])
        if self.settings.stack == "encoder":
            return self.model.transformer.encode(text, batch["mask"], types=batch.get("types"))
        return self.model.transformer.decode(text)  # causality hides the padding, which is on the right

    def _dropped(self, text: Tensor) -> Tensor:
        """Ids [B, T]; in training, ``task.token_dropout`` of them are ``<mask>``."""
        if not self.training or not self.settings.token_dropout:
            return text
        marks = self.tokenizers["text"]
        chosen = torch.rand(text.shape, device=text.device) < self.settings.token_dropout
        for special in marks.special_ids:  # one by one, since a tensor of them would make the host wait
            chosen &= text != special
        return text.masked_fill(chosen, marks.mask_id)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        found, labels = self.opinions(batch)
        loss = label_set_loss if self.multi_label else class_loss
        totals = [  # each classifier has its own loss: a stack that overfits would leave n-grams nothing to learn
            loss(
                logits,
                labels,
                weights=batch.get("class_weights"),
                label_smoothing=self.settings.label_smoothing,
                focal_gamma=self.settings.focal_gamma,
            )
            for logits in found
        ]
        return self.step_loss(torch.stack(totals).sum() / len(totals), batch)

    # ---- validation and test

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        logits, labels = self(batch)
        self.outputs.update(logits, labels)
        rows = batch["index"].tolist()
        wanted = [place for place, row in enumerate(rows) if split == "test" or row < self.settings.num_samples]
        answers = self._answers(logits[wanted], labels[wanted])
        columns = self.evaluation.texts[split]
        roles = [role for role in ("text", "text_b") if role in columns]
        for place, answer in zip(wanted, answers, strict=True):
            texts = {role: columns[role][rows[place]] for role in roles}
            self.samples.append({"index": rows[place], **texts, **answer})

    def _answers(self, logits: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """Labels and predictions of examples, by name, as they stand in samples.jsonl."""
        probabilities = self.calibration.probabilities(logits.double(), self.multi_label)
        decided = self.calibration.decide(probabilities, self.labels, self.multi_label)
        answers = []
        for row, label, choice in zip(probabilities.tolist(), labels.tolist(), decided.tolist(), strict=True):
            by_name = {name: round(p, 6) for name, p in zip(self.labels, row, strict=True)}
            answer = {"label": self._named(label), "predicted": self._named(choice), "probabilities": by_name}
            answers.append(answer if self.multi_label else answer | {"probability": by_name[answer["predicted"]]})
        return answers

    def _named(self, label: Any) -> Any:
        """The name of a class; with ``multi_label``, the names of the classes that are 1."""
        if not self.multi_label:
            return self.labels[label]
        return [name for name, has in zip(self.labels, label, strict=True) if has]

    def finish_evaluation(self, split: str) -> dict[str, float]:
        logits, labels = self.outputs.compute()
        self.outputs.reset()
        probabilities = self.calibration.probabilities(logits, self.multi_label)
        predicted = self.calibration.decide(probabilities, self.labels, self.multi_label)
        self.confusion = Confusion.of(predicted, labels, self.labels, self.multi_label)
        metrics = label_set_metrics if self.multi_label else class_metrics
        loss = float(self.calibration.nats(logits, labels, self.multi_label))
        return {"loss": loss, **metrics(probabilities, predicted, labels, self.labels)}

    def signatures(self) -> dict[str, Any]:
        return self.calibration.facts()

    def load_calibration(self, path: Path) -> None:
        """Uses the temperature and thresholds of a file from now on; if there is no file, nothing changes.

        Raises:
            CheckpointError: The file is damaged.
        """
        self.calibration = Calibration.load(path)

    def calibrate(
        self, encoded: Any, texts: Mapping[str, Sequence[str]], temperature: bool | None, threshold: str, label: str
    ) -> Calibration:
        """Fits a temperature or a threshold on a validation split; evaluation and prediction use it from now on.

        Args:
            encoded: The split's examples.
            texts: Role to the split's texts.
            temperature: As in `Calibration.refit`, and so are the next two.
            threshold: The criterion of a threshold.
            label: The class that the threshold is for.

        Raises:
            ConfigError: There is no such class, or no threshold meets the criterion.
        """
        logits = self.logits(texts["text"], texts.get("text_b"))
        labels = self.labels_of(encoded, np.arange(len(logits)))
        self.calibration = self.calibration.refit(
            logits, labels, self.labels, self.multi_label, temperature=temperature, threshold=threshold, label=label
        )
        return self.calibration

    def report(self, folder: Path, name: str) -> dict[str, list[list[Any]]]:
        """Writes the confusion matrix of the last evaluation as ``confusion_NAME`` (CSV, JSON, picture)."""
        if self.confusion is None:
            return {}
        self.confusion.write(folder, f"confusion_{name}")
        return {f"confusion_{name}": self.confusion.summary()}

    # ---- prediction

    def predict(self, texts: Sequence[str], decoding: DecodingConfig, first: int = 0) -> list[list[dict[str, Any]]]:
        """For each text all classes with their probabilities: the predicted one, then the others by probability.

        With ``multi_label``, all classes are in the order of their probabilities, and ``predicted`` says whether the
        text has the class. A pair of texts is one line with a tab between them. A blank text, or a pair with one, has
        no outputs.

        Raises:
            DataError: This run classifies pairs, and an input has no tab.
        """
        for text in texts:
            if flaw := self.flaw(text):
                raise DataError("input", *flaw)
        firsts, others = self._sides(texts)
        results = self.classify(firsts, others)
        for place, sides in enumerate(zip(firsts, *([others] if self.pairs else []), strict=True)):
            if any(map(is_blank, sides)):
                results[place] = []
        return results

    def _sides(self, texts: Sequence[str]) -> tuple[list[str], list[str] | None]:
        """First and second texts of lines; None instead of second texts if this run classifies single texts."""
        if not self.pairs:
            return list(texts), None
        halves = [text.partition("\t") for text in texts]
        return [first for first, _, _ in halves], [second for _, _, second in halves]

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        limits, over = self.limits(), [False] * len(texts)
        for role, column in zip(limits, self._sides(texts), strict=False):
            ids = self.tokenizers[role].encode_batch(column)
            over = [was_over or len(row) > limits[role] for was_over, row in zip(over, ids, strict=True)]
        return over

    def flaw(self, text: str) -> tuple[str, str] | None:
        if self.pairs and "\t" not in text and not is_blank(text):
            return f"{text[:40]!r} is one text, and this run classifies pairs", "write TEXT<TAB>TEXT_B"
        return None

    def classify(self, texts: Sequence[str], others: Sequence[str] | None = None) -> list[list[dict[str, Any]]]:
        """As `predict`, but the second texts of pairs are a separate argument."""
        probabilities = self.calibration.probabilities(self.logits(texts, others).double(), self.multi_label)
        decided = self.calibration.decide(probabilities, self.labels, self.multi_label).tolist()
        results = []
        for row, choice in zip(probabilities.tolist(), decided, strict=True):
            first = None if self.multi_label else choice
            order = sorted(range(len(row)), key=lambda i: (i != first, -row[i], i))
            results.append([{"label": self.labels[i], "probability": round(row[i], 6)} for i in order])
            if self.multi_label:
                for output, i in zip(results[-1], order, strict=True):
                    output["predicted"] = bool(choice[i])
        return results

    def line(self, outputs: Sequence[Mapping[str, Any]]) -> str:
        if not outputs:
            return ""
        chosen = [output for output in outputs if output["predicted"]] if self.multi_label else outputs[:1]
        separator = self.config.data.label_separator
        labels = separator.join(output["label"] for output in chosen)
        return labels + "\t" + separator.join(f"{output['probability']:.4f}" for output in chosen)

    def read(self, text: str, target: str = "") -> None:
        self.logits(*self._sides([text]))

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """The vectors [N, D] that ``task.pooling`` takes from the hidden states, before the head's linear maps."""
        result = torch.zeros(len(texts), self.config.model.d_model)
        for chosen, batch in self._batches(*self._sides(texts)):
            result[chosen] = self.model.head.pool(self.hidden(batch), batch["mask"]).float().cpu()
        return result

    @torch.inference_mode()
    def logits(self, texts: Sequence[str], others: Sequence[str] | None = None) -> Tensor:
        """Logits [N, C] of texts or of pairs; texts that are longer than the model reads are cut."""
        result = torch.zeros(len(texts), len(self.labels))
        for chosen, batch in self._batches(texts, others):
            result[chosen] = self(batch)[0].cpu()
        return result

    def _batches(
        self, texts: Sequence[str], others: Sequence[str] | None
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yields texts or pairs in batches of similar lengths: their numbers, and what `forward` takes."""
        limits = self.limits()
        rows = [[*self.start, *ids[: limits["text"]]] for ids in self.tokenizers["text"].encode_batch(list(texts))]
        firsts = np.array([len(row) - len(self.start) for row in rows])
        if self.pairs:
            second = self.tokenizers["text_b"].encode_batch(list(others or [""] * len(rows)))
            rows = [[*row, *self.between, *ids[: limits["text_b"]]] for row, ids in zip(rows, second, strict=True)]
        rows = [[*row, *self.end] or [self.pad] for row in rows]
        for chosen in by_length(rows, self.config.data.eval_tokens):
            width = len(rows[chosen[0]])
            tokens = torch.tensor([rows[i] + [self.pad] * (width - len(rows[i])) for i in chosen])
            batch = self._masked(tokens, np.array([len(rows[i]) for i in chosen]), firsts[chosen])
            batch["labels"] = torch.zeros(len(chosen), dtype=torch.long)
            yield chosen, {name: value if value is None else value.to(self.device) for name, value in batch.items()}
