"""Classification of a text, or of a pair of texts, into one class or several: one vector, one logit for each class.

Shapes: B batch, N examples, M n-grams of a text, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multihead.config.task import ClassificationConfig
from multihead.config.training import Config
from multihead.metrics.calibration import Calibration
from multihead.metrics.classification import Confusion, class_metrics, label_set_metrics
from multihead.model.heads import PooledClassifier
from multihead.model.losses import balanced_weights, class_loss, label_set_loss
from multihead.model.ngrams import NGramClasses
from multihead.model.transformer import Transformer
from multihead.tasks.base import EvaluationData, Model
from multihead.tasks.pooled import PooledTask
from multihead.text.vocabulary import Vocabulary


class ClassificationTask(PooledTask[ClassificationConfig]):
    """Classification of a text, or of a pair of texts.

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
        self.multi_label = settings.multi_label
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

    def collate(self, encoded: Any, indices: np.ndarray, epoch: int = 0) -> dict[str, Any]:
        batch = super().collate(encoded, indices, epoch)
        if self.settings.class_weights == "balanced" and len(indices):
            batch["class_weights"] = self._class_weights(encoded)
        return batch

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

    def logits_and_labels(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self(batch)

    # ---- validation and test

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        logits, labels = self(batch)
        self.outputs.update(logits, labels)
        self.measure(self.calibration.probabilities(logits.double(), self.multi_label), labels)
        rows = batch["index"].tolist()
        wanted = [place for place, row in enumerate(rows) if split == "test" or row < self.settings.num_samples]
        self.add_samples([rows[i] for i in wanted], self._answers(logits[wanted], labels[wanted]), split)

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
        logits = logits.reshape(-1, len(self.labels))
        labels = labels.reshape(logits.shape if self.multi_label else -1)
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
            label: The class that the threshold is for; if it is empty, every class of a multi-label run.

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
        """Writes what the last evaluation says about classes.

        ``confusion_NAME`` (CSV, JSON, picture) is the confusion matrix; ``classes_NAME.csv`` has scores of each class.
        """
        if self.confusion is None:
            return {}
        extremes = self.confusion.write_classes(folder, f"classes_{name}")
        self.confusion.write(folder, f"confusion_{name}")
        found: dict[str, list[list[Any]]] = {f"classes_{name}": extremes} if extremes else {}
        return found | {f"confusion_{name}": self.confusion.summary()}

    # ---- prediction

    def answers(self, texts: Sequence[str], others: Sequence[str] | None = None) -> list[list[dict[str, Any]]]:
        """For each text all classes with their probabilities: the predicted one, then the others by probability.

        With ``multi_label``, all classes are in the order of their probabilities, and ``predicted`` says whether the
        text has the class.
        """
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
