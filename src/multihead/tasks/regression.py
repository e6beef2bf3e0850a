"""Regression: a text, or a pair of texts, becomes one number.

Shapes: N examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from multihead.config.task import RegressionConfig
from multihead.config.training import Config
from multihead.metrics.regression import regression_metrics
from multihead.model.heads import PooledClassifier, Regressor
from multihead.model.transformer import Transformer
from multihead.tasks.base import EvaluationData, Model
from multihead.tasks.pooled import PooledTask
from multihead.text.vocabulary import Scale, Vocabulary


class RegressionTask(PooledTask[RegressionConfig]):
    """Regression by the mean squared error of standardised labels, as `transformers` does it with one label.

    Labels are standardised by their mean and deviation in the training split. Predictions and metrics are in the
    original units; only the loss is standardised.
    """

    def __init__(
        self,
        config: Config,
        settings: RegressionConfig,
        model: Model[PooledClassifier],
        vocab: Vocabulary,
        evaluation: EvaluationData | None = None,
    ):
        super().__init__(config, settings, model, vocab, evaluation)
        self.scale = vocab.scales.get(settings.name, Scale())

    @classmethod
    def new_head(
        cls, config: Config, settings: RegressionConfig, transformer: Transformer, vocab: Vocabulary
    ) -> PooledClassifier:
        scale = vocab.scales.get(settings.name, Scale())
        pooling, dropout = settings.pooling, settings.head_dropout
        dense, bias, width = settings.head_activation, settings.head_bias, config.model.d_model
        return Regressor(width, pooling, dropout, dense, bias, mean=scale.mean, deviation=scale.deviation)

    def labels_of(self, encoded: Any, indices: np.ndarray) -> Tensor:
        """Standardised labels of examples [N]."""
        return encoded.numbers("label", np.asarray(indices, dtype=np.int64))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        (found,), labels = self.opinions(batch)
        return self.step_loss(F.mse_loss(found[:, 0], labels.to(found), reduction="sum"), batch)

    def logits_and_labels(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        (found,), labels = self.opinions(batch)
        return found, labels

    # ---- validation and test

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        found, _ = self(batch)
        rows = list[int](batch["index"].tolist())
        labels = [float(self.evaluation.texts[split]["label"][row]) for row in rows]  # exact in any precision
        wished = torch.tensor(labels, dtype=torch.float64, device=found.device)
        self.outputs.update(found[:, 0], wished)
        self.measure(found[:, 0].double(), wished)
        wanted = [place for place, row in enumerate(rows) if split == "test" or row < self.settings.num_samples]
        answers = [{"label": labels[i], "predicted": float(self._digits(found[i, 0], 9))} for i in wanted]
        self.add_samples([rows[i] for i in wanted], answers, split)

    def finish_evaluation(self, split: str) -> dict[str, float]:
        predicted, labels = (numbers.cpu().numpy().reshape(-1) for numbers in self.outputs.compute())
        self.outputs.reset()
        metrics = regression_metrics(predicted, labels)
        return {"loss": metrics["mse"] / self.scale.deviation**2, **metrics}

    def signatures(self) -> dict[str, Any]:
        return {"label_mean": self.scale.mean, "label_deviation": self.scale.deviation}

    # ---- prediction

    def answers(self, texts: Sequence[str], others: Sequence[str] | None = None) -> list[list[dict[str, Any]]]:
        """For each text its number."""
        return [[{"number": float(self._digits(number, 9))}] for number in self.logits(texts, others)[:, 0]]

    def line(self, outputs: Sequence[Mapping[str, Any]]) -> str:
        return self._digits(outputs[0]["number"], 6) if outputs else ""

    def _digits(self, number: Tensor | float, count: int) -> str:
        """A number with so many digits; more if it is large beside the deviation of the labels, as dates are."""
        ratio = abs(float(number)) / self.scale.deviation
        more = max(0, math.floor(math.log10(ratio)) - 2) if 0 < ratio < math.inf else 0
        return f"{float(number):.{count + more}g}"
