"""What classification and regression share: a text, or a pair of texts, becomes one vector, and that the outputs.

Shapes: B batch, T tokens, N examples, O outputs (classes, or one number).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from multihead.config.roles import roles_of
from multihead.config.task import PooledConfig
from multihead.config.training import Config, DecodingConfig
from multihead.errors import DataError
from multihead.model.heads import PooledClassifier
from multihead.tasks.base import EvaluationData, Model, Task, by_length
from multihead.text.inputs import is_blank
from multihead.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from multihead.metrics.sums import Outputs

PooledT = TypeVar("PooledT", bound=PooledConfig)


class PooledTask(Task[PooledT, Model[PooledClassifier]], Generic[PooledT]):
    """A task on ``<bos> text <eos>``, or on ``<bos> text <sep> text_b <eos>``.

    A subclass defines the head, the labels of a batch, the loss, the evaluation and `answers`.
    """

    def __init__(
        self,
        config: Config,
        settings: PooledT,
        model: Model[PooledClassifier],
        vocab: Vocabulary,
        evaluation: EvaluationData | None = None,
    ):
        super().__init__(config, settings, model, vocab, evaluation)
        marks = self.tokenizers["text"]
        self.pad, self.start, self.between, self.end = marks.pad_id, marks.start, marks.between, marks.end
        self.pairs = "text_b" in self.tokenizers
        """Whether an example has two texts. Beside single texts here, another task of the run may have pairs."""
        if len(config.task.members()) > 1:
            self.pairs &= "text_b" in roles_of(config.data, settings)
        self.typed = config.model.segment_types > 1 and self.pairs and marks.second_type > 0
        """Whether the model is shown which of two texts a token belongs to."""

    @functools.cached_property
    def outputs(self) -> Outputs:
        """The outputs and labels of the split that is evaluated. Prediction does without them."""
        from multihead.metrics.sums import Outputs  # torchmetrics comes with it, which takes seconds

        return Outputs().to(self.device)

    # ---- what a subclass defines

    def labels_of(self, encoded: Any, indices: np.ndarray) -> Tensor:
        """What the loss takes as the labels of examples [N, ...]; of no examples too."""
        raise NotImplementedError

    def answers(self, texts: Sequence[str], others: Sequence[str] | None = None) -> list[list[dict[str, Any]]]:
        """As `predict`, but the second texts of pairs are a separate argument, and no text is blank."""
        raise NotImplementedError

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
            row = torch.tensor([[*self.start, *self.end] or [self.pad]])
            return {"text": row, "mask": None, "types": None, "labels": self.labels_of(encoded, indices)}
        middle = ["text", *self.between, "text_b"] if self.pairs else ["text"]
        tokens = encoded.joined([*self.start, *middle, *self.end], indices, pad_id=self.pad)
        firsts = encoded.lengths("text")[indices]
        batch = self._masked(tokens, self.lengths(encoded)[0][indices], firsts)
        batch["labels"] = self.labels_of(encoded, indices)
        return batch

    def _masked(self, tokens: Tensor, lengths: np.ndarray, firsts: np.ndarray) -> dict[str, Any]:
        """Tokens [B, T], their mask (None if all are real), and which text of a pair each belongs to."""
        mask = torch.arange(tokens.size(1)) < torch.as_tensor(lengths)[:, None]
        types = None
        if self.typed:
            second = torch.as_tensor(firsts)[:, None] + len(self.start) + len(self.between)
            types = (torch.arange(tokens.size(1)) >= second).long()
        return {"text": tokens, "mask": None if bool(mask.all()) else mask, "types": types}

    # ---- from batches to outputs

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Outputs [N, O] in float32 and labels of the examples of a batch."""
        found, labels = self.opinions(batch)
        return self.model.head.joined(found), labels

    def opinions(self, batch: Mapping[str, Any]) -> tuple[list[Tensor], Tensor]:
        """Outputs [N, O] in float32 of each classifier of the head, and labels of the examples of a batch."""
        found, labels = self.model.head.opinions(self.hidden(batch), batch["mask"], batch["text"]), batch["labels"]
        return [logits.float()[: len(labels)] for logits in found], labels  # an empty batch has one row without label

    def hidden(self, batch: Mapping[str, Any]) -> Tensor:
        """Hidden states [B, T, D] of a batch."""
        text = self._dropped(batch["text"])
        if self.settings.stack == "encoder":
            return self.model.transformer.encode(text, batch["mask"], types=batch.get("types"))
        return self.model.transformer.decode(text, types=batch.get("types"))  # padding is on the right, so it is unseen

    def _dropped(self, text: Tensor) -> Tensor:
        """Ids [B, T]; in training, ``task.token_dropout`` of them are ``<mask>``."""
        if not self.training or not self.settings.token_dropout:
            return text
        marks = self.tokenizers["text"]
        chosen = torch.rand(text.shape, device=text.device) < self.settings.token_dropout
        for special in marks.special_ids:  # one by one, since a tensor of them would make the host wait
            chosen &= text != special
        return text.masked_fill(chosen, marks.mask_id)

    # ---- validation and test

    def add_samples(self, rows: Sequence[int], answers: Sequence[Mapping[str, Any]], split: str) -> None:
        """Keeps the texts and the answers of rows of a split for samples.jsonl."""
        columns = self.evaluation.texts[split]
        roles = [role for role in ("text", "text_b") if role in columns]
        for row, answer in zip(rows, answers, strict=True):
            self.samples.append({"index": row, **{role: columns[role][row] for role in roles}, **answer})

    # ---- prediction

    def predict(self, texts: Sequence[str], decoding: DecodingConfig, first: int = 0) -> list[list[dict[str, Any]]]:
        """What `answers` gives for each text. A pair of texts is one line with a tab between them.

        A blank text, or a pair with one, has no outputs.

        Raises:
            DataError: This run reads pairs, and an input has no tab.
        """
        for text in texts:
            if flaw := self.flaw(text):
                raise DataError("input", *flaw)
        firsts, others = self._sides(texts)
        results = self.answers(firsts, others)
        for place, sides in enumerate(zip(firsts, *([others] if self.pairs else []), strict=True)):
            if any(map(is_blank, sides)):
                results[place] = []
        return results

    def _sides(self, texts: Sequence[str]) -> tuple[list[str], list[str] | None]:
        """First and second texts of lines; None instead of second texts if this run reads single texts."""
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
            return f"{text[:40]!r} is one text, and this run reads pairs", "write TEXT<TAB>TEXT_B"
        return None

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
        """Outputs [N, O] of texts or of pairs; texts that are longer than the model reads are cut."""
        result = torch.zeros(len(texts), self.model.head.output.out_features, dtype=torch.float64)
        for chosen, batch in self._batches(texts, others):
            result[chosen] = self(batch)[0].double().cpu()
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
