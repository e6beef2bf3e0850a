"""Language modelling on packed blocks: predicting the next token (causal), hidden tokens (masked), or both.

Shapes: B blocks, T block size, N predicted positions, D d_model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from multihead.config.task import LanguageModelingConfig
from multihead.config.training import Config, DecodingConfig
from multihead.errors import ConfigError, side_output
from multihead.model.beam_search import Hypothesis, generate, next_log_probs
from multihead.model.heads import VocabularyHead
from multihead.model.output import new_output_transform
from multihead.model.sampling import OnToken, cut_at_stop, sample, settled
from multihead.model.transformer import Transformer
from multihead.tasks.base import (
    IGNORED,
    EvaluationData,
    Model,
    RunningText,
    Task,
    at_places,
    by_length,
    labelled,
    rank_and_size,
)
from multihead.tasks.masking import hide, masked_blocks, num_hidden
from multihead.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from multihead.metrics.sums import WeightedMean

OUTSIDE_SEGMENT = -1
"""Segment of positions outside of the stream, which are padding."""
METRIC_ROWS = 2048
"""Positions whose logits a plugin's metric gets at once."""
PROMPT_WORDS = 4
"""Words of a validation document that are its prompt if ``task.prompts`` names none."""
NEW_TOKENS = 64
"""Tokens of a continuation if ``decoding.max_new_tokens`` is 0."""


class LanguageModelingTask(Task[LanguageModelingConfig, Model[VocabularyHead]]):
    """Running text, cut into blocks of ``task.block_size`` tokens.

    The label of a position is the stream's token there. If the model is causal, its input is the token before; so the
    input of a document's first position is the ``<eos>`` of the document before. With ``task.document_mask``,
    documents in a block do not see each other.

    With ``task.objective=both``, a block is causal or masked (GPT-BERT, Charpentier and Samuel 2024, arXiv:2410.24159).
    A masked block has the inputs and labels of a causal one, but some inputs are hidden, its positions see both sides,
    and only the labels of hidden tokens count. So a hidden token is predicted at the position before it.
    """

    def __init__(
        self,
        config: Config,
        settings: LanguageModelingConfig,
        model: Model[VocabularyHead],
        vocab: Vocabulary,
        evaluation: EvaluationData | None = None,
    ):
        super().__init__(config, settings, model, vocab, evaluation)
        self.causal, self.both = settings.continues, settings.objective == "both"
        self.tokenizer = self.tokenizers["text"]
        if self.both and not self.tokenizer.has_mask:
            what = "both needs a token that hides others, and the published tokenizer has none"
            raise ConfigError("task.objective", what, "task.objective=causal or init_tokenizer=new")

    @functools.cached_property
    def means(self) -> dict[str, WeightedMean]:
        """Means over the split that is evaluated. Prediction does without them."""
        return self.new_means("loss", "token_accuracy", "masked_loss", "masked_token_accuracy", "windows")

    @classmethod
    def new_head(
        cls, config: Config, settings: LanguageModelingConfig, transformer: Transformer, vocab: Vocabulary
    ) -> VocabularyHead:
        stack = transformer.stack("decoder" if settings.continues else "encoder")
        transform = new_output_transform(config.model, transformer.blocks)
        width = config.model.width_of_embeddings if config.model.output_transform else config.model.d_model
        tied = config.model.tie_embeddings in ("target_output", "all") and width == config.model.width_of_embeddings
        weight = stack.embedding.weight if tied else None
        size = vocab.tokenizers["text"].vocab_size
        return VocabularyHead(width, size, weight, config.model.output_bias, transform)

    # ---- from ids to batches

    def limits(self) -> dict[str, int]:
        return {}

    def targets(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
        """Number of predicted positions of blocks: all of their tokens, or the rounded share if they are masked.

        Args:
            tokens: Number of tokens of each block [N].
            starts: Position of each block in the stream [N]; needed if some blocks are masked and others are not.
        """
        hidden = num_hidden(tokens, self.settings.mask_share)
        if starts is not None and self.both:
            return np.where(self.masked_of(starts), hidden, tokens)
        return tokens if self.causal else hidden

    def masked_of(self, starts: np.ndarray) -> np.ndarray:
        """Which of the blocks at these positions of a stream are masked, bool [N]."""
        if not self.both:
            return np.full(len(starts), not self.causal)
        size = self.settings.block_size or self.config.model.max_len
        return masked_blocks(starts, size, self.settings.masked_blocks, self.config.seed)

    def collate(self, encoded: RunningText, indices: np.ndarray, epoch: int | None = None) -> dict[str, Any]:
        """As in `Task`. If the objective is both, a batch of evaluation has every block twice.

        The entries ``masked_inputs``, ``masked_labels`` and so on are the blocks as masked ones.
        """
        if self.both and epoch is None:
            every = np.ones(len(indices), dtype=bool)
            masked = self._batch(encoded, indices, every, 0)
            return self._batch(encoded, indices, ~every, 0) | {f"masked_{name}": x for name, x in masked.items()}
        return self._batch(encoded, indices, self.masked_of(indices), epoch or 0)

    def _batch(self, encoded: RunningText, starts: np.ndarray, masked: np.ndarray, epoch: int) -> dict[str, Any]:
        """The blocks at these positions; those that are True in ``masked`` [B] are masked."""
        if len(starts) == 0:  # one row without targets: its loss is 0 and its gradient exists
            row = torch.full((1, 1), self.tokenizer.eos_id)
            labels = torch.full((1, 1), IGNORED)
            return {"inputs": row, "labels": labels, "segments": torch.zeros_like(row), "places": labelled(labels)}
        inputs, labels = encoded.windows(starts)
        inside = labels >= 0
        segments = None
        if masked.any() and not inside.all():  # padding is a segment of its own, to which no token attends
            segments = torch.from_numpy(np.where(inside | ~masked[:, None], 0, OUTSIDE_SEGMENT))
        if self.settings.document_mask:
            source = inputs if self.causal else labels  # a document starts at the <eos> before it, or after it
            ends = source == self.tokenizer.eos_id
            if not self.causal:
                ends = np.concatenate([np.zeros_like(ends[:, :1]), ends[:, :-1]], axis=1)
            segments = torch.from_numpy(np.where(inside, ends.cumsum(axis=1), OUTSIDE_SEGMENT))
        inputs = inputs if self.causal else labels.copy()
        marks, share = self.tokenizer, self.settings.mask_share
        plain = range(marks.first_plain, marks.vocab_size)
        for row in np.flatnonzero(masked):  # what is hidden depends on (seed, epoch, block) alone
            rng = np.random.default_rng([self.config.seed, epoch, int(starts[row]) + (1 << 20), 0x3A5C])
            shift = int(self.causal)
            hide(inputs[row], labels[row], rng, share=share, mask_id=marks.mask_id, plain=plain, shift=shift)
        inputs = np.where(inside, inputs, self.tokenizer.pad_id)
        labels = torch.from_numpy(np.where(labels < 0, IGNORED, labels))
        batch = {"inputs": torch.from_numpy(inputs), "labels": labels, "segments": segments}  # [B, T]
        if self.both:
            rows = torch.from_numpy(masked)
            batch["bidirectional"] = rows if masked.any() and not masked.all() else bool(masked.all())
        return batch | {"places": labelled(labels)}

    # ---- from batches to losses

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Hidden states [N, D] and labels [N] of the predicted positions."""
        hidden = self.hidden(batch["inputs"], batch["segments"], batch.get("bidirectional", False))  # [B, T, D]
        return at_places(hidden, batch["places"]), at_places(batch["labels"], batch["places"])

    def hidden(self, inputs: Tensor, segments: Tensor | None = None, bidirectional: Tensor | bool = False) -> Tensor:
        """Hidden states [B, T, D] of inputs [B, T]; rows of a decoder see both sides if ``bidirectional`` says so."""
        if self.causal:
            return self.model.transformer.decode(inputs, segments=segments, bidirectional=bidirectional)
        if segments is None or self.settings.document_mask:
            return self.model.transformer.encode(inputs, segments=segments)
        return self.model.transformer.encode(inputs, segments != OUTSIDE_SEGMENT)  # one mask for all queries

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        hidden, labels = self(batch)
        return self.step_loss(self.model.head.loss(hidden, labels), batch)

    def logits_and_labels(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        hidden, labels = self(batch)
        return self.model.head(hidden).float(), labels

    # ---- validation and test

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        hidden, labels, real = self._scored(batch)  # [N, D], [N], [B, T]
        nats = self._measured(hidden, labels)
        if self.added_metrics:
            for states, some in zip(hidden.split(METRIC_ROWS), labels.split(METRIC_ROWS), strict=True):
                self.measure(self.model.head(states).float(), some)
        if split == "test" and self.causal and len(batch["index"]):
            self._collect(batch, real, nats)
        if self.both:
            self._measured(*self._scored(batch, "masked_")[:2], "masked_")

    def _scored(self, batch: dict[str, Any], form: str = "") -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [N, D] and labels [N] of what a batch scores, and where that is, bool [B, T].

        Args:
            batch: A batch of evaluation.
            form: ``masked_`` for the entries of masked blocks if the objective is both.
        """
        labels = batch[f"{form}labels"]
        if "scored_from" in batch:
            place = torch.arange(labels.size(1), device=labels.device)
            labels = labels.masked_fill(place < batch["scored_from"][:, None], IGNORED)
        real = labels != IGNORED
        hidden = self.hidden(batch[f"{form}inputs"], batch[f"{form}segments"], batch.get(f"{form}bidirectional", False))
        return hidden[real], labels[real], real

    def _measured(self, hidden: Tensor, labels: Tensor, form: str = "") -> Tensor:
        """The nats [N] of labels, which are added to the means of loss and accuracy."""
        nats, hits = self.model.head.evaluate(hidden, labels)
        self.means[f"{form}loss"].update(nats.double().sum(), nats.numel())
        self.means[f"{form}token_accuracy"].update(hits.sum(), hits.numel())
        return nats

    def _collect(self, batch: dict[str, Any], real: Tensor, nats: Tensor) -> None:
        """Notes the nats of every scored position, by its place in the stream."""
        if not self.samples:  # one array: small arrays between the large tensors of batches would fragment memory
            self.samples.append({"nats": np.zeros(len(self.evaluation.streams["test"]), np.float32)})
        places = batch["index"][:, None].to(real.device) + torch.arange(real.size(1), device=real.device)
        self.samples[0]["nats"][places[real].cpu().numpy()] = nats.float().cpu().numpy()

    def finish_evaluation(self, split: str) -> dict[str, float]:
        loss = float(self.means["loss"].compute())
        metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if self.causal:  # every token was scored once
            stream = self.evaluation.streams[split]
            bits = {"bits_per_byte": loss * len(stream) / math.log(2) / stream.num_bytes}
            metrics |= self.comparable(split, "text", bits)
        names = ("token_accuracy", "masked_loss", "masked_token_accuracy") if self.both else ("token_accuracy",)
        metrics |= {name: float(self.means[name].compute()) for name in names}
        if self.settings.random_windows:
            metrics["loss_random_windows"] = self._random_windows(split)
        for metric in self.means.values():
            metric.reset()
        if split == "val" and self.causal and rank_and_size()[0] == 0:
            self._continue_prompts(split)
        return metrics

    def _random_windows(self, split: str) -> float:
        """Mean loss over blocks drawn with replacement; each rank takes its share of them."""
        stream, (rank, world) = self.evaluation.streams[split], rank_and_size()
        starts = stream.random_starts(self.settings.random_windows, self.config.seed)
        many = max(1, self.config.data.eval_tokens // stream.block_size)
        for first in range(rank * many, len(starts), many * world):
            chosen = starts[first : first + many]
            batch = self._batch(stream, chosen, np.full(len(chosen), not self.causal), 0)
            batch = {name: x.to(self.device) if isinstance(x, Tensor) else x for name, x in batch.items()}
            hidden, labels = self(batch)
            nats, _ = self.model.head.evaluate(hidden, labels)
            self.means["windows"].update(nats.double().sum(), labels.numel())
        return float(self.means["windows"].compute())

    @side_output("the continuations of prompts")
    def _continue_prompts(self, split: str) -> None:
        prompts = self.prompts_of(split)
        outputs = self.predict(prompts, self.config.decoding) if prompts else []
        for index, (prompt, found) in enumerate(zip(prompts, outputs, strict=True)):
            self.samples.append({"index": index, "source": prompt, "reference": "", "output": found[0]["text"]})

    def prompts_of(self, split: str) -> Sequence[str]:
        return (self.settings.prompts or self._first_words(split)) if self.causal else ()

    def _first_words(self, split: str) -> list[str]:
        """The beginnings of the first documents of the split."""
        stream = self.evaluation.streams[split]
        starts = stream.document_starts()[: self.settings.num_samples]
        texts = [self.decode(stream.read(start, start + 50).tolist()) for start in starts.tolist()]
        prompts = [" ".join(text.split(" ")[:PROMPT_WORDS]) for text in texts]
        return [prompt for prompt in prompts if prompt.strip()]

    def merged_samples(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        plain = [s for s in samples if "nats" not in s]
        scored = [s["nats"] for s in samples if "nats" in s]
        if not scored:
            return plain
        stream = self.evaluation.streams["test"]
        nats = np.sum(scored, axis=0, dtype=np.float64)  # each place was scored by one rank
        starts = stream.document_starts()
        sizes = stream.document_bytes
        if len(starts) < 10:  # so few documents that blocks are listed instead
            starts = np.arange(0, len(stream), stream.block_size)
        ends = np.append(starts[1:], len(stream))
        sums, tokens = np.add.reduceat(nats, starts), ends - starts
        if sizes is None or len(sizes) != len(starts):
            texts = [stream.read(a, b).tolist() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
            sizes = [len(text.encode()) for text in self.tokenizer.decode_batch(texts)]
        rows = zip(sums.tolist(), tokens.tolist(), np.asarray(sizes).tolist(), strict=True)
        return [{"index": i, "nats": round(a, 6), "tokens": b, "bytes": c} for i, (a, b, c) in enumerate(rows)] + plain

    # ---- prediction

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], decoding: DecodingConfig, first: int = 0) -> list[list[dict[str, Any]]]:
        """Continuations of prompts, drawn or searched for, each with ``text``, ``score`` and ``log_prob``.

        Args:
            texts: Prompts. An empty prompt starts a document. Of a prompt of `window` tokens or more, only the end is
                read.
            decoding: Options. In beam search, prompt and continuation share `window` tokens, so less of the prompt may
                be read.
            first: Number of the first prompt.

        Raises:
            ConfigError: The model is masked, not causal.
        """
        self._require_causal()
        if decoding.num_beams > 1:
            return self._search(texts, decoding)
        results: list[list[dict[str, Any]]] = []
        size = max(1, self.config.data.eval_tokens // self.window)
        for start in range(0, len(texts), size):
            prompts = [self.prompt(text) for text in texts[start : start + size]]
            numbers = range(first + start, first + start + len(prompts))
            results += self._outputs(prompts, self.sample(prompts, decoding, numbers), decoding)
        return results

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        return [len(self.encode(text)) >= self.window for text in texts]

    @property
    def window(self) -> int:
        """Number of tokens that the model sees at once: ``model.max_len``, or those of the blocks it was trained on.

        Weights that came from elsewhere may know longer texts than ``task.block_size``.
        """
        block = self.settings.block_size
        return max(2, block) if block and not self.config.init_from else self.config.model.max_len

    def prompt(self, text: str, room: int = 1) -> list[int]:
        """Ids of a prompt. If a continuation would not fit, the beginning is cut to leave ``room``, or half of all."""
        ids, kept = self.encode(text), self.window - min(room, self.window // 2)
        return ids if len(ids) <= kept else ids[-kept:]

    @torch.inference_mode()
    def read(self, text: str, target: str = "") -> None:
        self.hidden(torch.tensor([self.prompt(text)], device=self.device))

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """The means [N, D] of the hidden states of each text's tokens, with the mark that a document starts from."""
        rows = [self.prompt(text) for text in texts]
        result = torch.zeros(len(rows), self.config.model.d_model)
        for chosen in by_length(rows, self.config.data.eval_tokens):
            lengths = torch.tensor([len(rows[i]) for i in chosen])
            real = torch.arange(int(lengths.max())) < lengths[:, None]  # [B, T], padding on the right
            ids = torch.full(real.shape, self.tokenizer.pad_id)
            ids[real] = torch.tensor([i for row in chosen for i in rows[row]])
            segments = None if self.causal else torch.where(real, 0, OUTSIDE_SEGMENT).to(self.device)
            hidden = self.hidden(ids.to(self.device), segments).float().cpu()
            result[chosen] = (hidden * real[..., None]).sum(1) / lengths[:, None]
        return result

    @torch.inference_mode()
    def stream(
        self, text: str, decoding: DecodingConfig, write: Callable[[str], None], number: int = 0
    ) -> list[dict[str, Any]]:
        """Continues the prompt ``number``; calls ``write`` with the text as it grows, up to a stop string."""
        self._require_causal()
        prompt, ids, shown = self.prompt(text), [], 0

        def on_token(row: int, number: int, token: int, logits: Tensor) -> None:
            nonlocal shown
            if token == self.tokenizer.eos_id:
                return
            ids.append(token)
            grown = settled(self.new_text(prompt, ids).rstrip("\N{REPLACEMENT CHARACTER}"), decoding.stop_strings)
            write(grown[shown:])
            shown = max(shown, len(grown))

        alone = replace(decoding, num_return_sequences=1, num_beams=1)
        outputs = self._outputs([prompt], self.sample([prompt], alone, [number], on_token), alone)[0]
        write(outputs[0]["text"][shown:])
        return outputs

    def _require_causal(self) -> None:
        if not self.causal:
            what = "a masked language model fills gaps; it cannot continue a text"
            raise ConfigError("task.objective", what, "use a run with task.objective=causal")

    @property
    def by_line(self) -> bool:
        """Whether each line of a text is encoded by itself, because newlines are text."""
        return self.config.data.document == "file"

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt after what a document starts from; lines are encoded as in training."""
        lines = [text]
        if self.by_line:
            lines = [line + "\n" for line in text.split("\n")]
            lines[-1] = lines[-1].removesuffix("\n")
        ids = [i for each in self.tokenizer.encode_batch(lines) for i in each]
        return [*self.tokenizer.opening, *ids] or [self.tokenizer.eos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without the blank that a tokenizer puts before each line's first word."""
        text = self.tokenizer.decode_batch([ids])[0]
        return text.replace("\n ", "\n") if self.by_line and self.tokenizer.kind in ("bpe", "unigram") else text

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[list[int]],
        decoding: DecodingConfig,
        numbers: Sequence[int],
        on_token: OnToken | None = None,
        forced: Sequence[int] = (),
    ) -> list[list[Hypothesis]]:
        """Continuations of prompts in one batch, drawn or the most probable; `predict` cuts a long list into batches.

        Args:
            prompts: Ids, as `prompt` returns them.
            decoding: Options, with one beam.
            numbers: Number of each prompt; it and the seed decide what is drawn.
            on_token: Called for each new token, the end mark too.
            forced: Ids that each continuation starts with.
        """
        self._require_causal()
        prefix, mask = self._left_padded(prompts)
        marks = self.tokenizer
        return sample(
            self.model.transformer,
            self.model.head,
            decoding,
            prefix=prefix,
            prefix_mask=mask,
            eos_id=marks.eos_id,
            pad_id=marks.pad_id,
            max_new_tokens=decoding.max_new_tokens or NEW_TOKENS,
            max_len=self.window,
            forbidden=(marks.bos_id, marks.sep_id, marks.unk_id, marks.mask_id),
            decode=lambda row, ids: self.new_text(prompts[row], ids),
            on_token=on_token,
            numbers=numbers,
            forced=[forced] * len(prompts),
        )

    def _search(self, texts: Sequence[str], decoding: DecodingConfig) -> list[list[dict[str, Any]]]:
        """Continuations found by beam search, one prompt at a time."""
        marks = self.tokenizer
        results = []
        for text in texts:
            prompt = self.prompt(text, decoding.max_new_tokens or NEW_TOKENS)
            room = self.window + 1 - len(prompt)
            found = generate(
                self.model.transformer,
                self.model.head,
                decoding,
                prefix=torch.tensor([prompt], device=self.device),
                eos_id=marks.eos_id,
                pad_id=marks.pad_id,
                max_new_tokens=min(decoding.max_new_tokens or NEW_TOKENS, room),
                forbidden=(marks.bos_id, marks.sep_id, marks.unk_id, marks.mask_id),
                continues_text=True,
            )
            results += self._outputs([prompt], found, decoding)
        return results

    def _outputs(
        self, prompts: Sequence[list[int]], found: Sequence[Sequence[Hypothesis]], decoding: DecodingConfig
    ) -> list[list[dict[str, Any]]]:
        return [
            [self.output(prompt, hypothesis, decoding) for hypothesis in hypotheses]
            for prompt, hypotheses in zip(prompts, found, strict=True)
        ]

    def output(self, prompt: list[int], hypothesis: Hypothesis, decoding: DecodingConfig) -> dict[str, Any]:
        """A continuation as `predict` returns it."""
        text = cut_at_stop(self.new_text(prompt, hypothesis.ids), decoding.stop_strings)
        return {"text": text, "score": round(hypothesis.score, 6), "log_prob": round(hypothesis.log_prob, 6)}

    def new_text(self, prompt: list[int], ids: list[int]) -> str:
        """The text that the ids add to the prompt's text."""
        return self.decode([*prompt, *ids])[len(self.decode(prompt)) :]

    def line(self, outputs: Sequence[Mapping[str, Any]]) -> str:
        return "\t".join(str(output["text"]).replace("\n", "\\n") for output in outputs)

    def _left_padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor | None]:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_id)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for number, row in enumerate(rows):
            ids[number, width - len(row) :] = torch.tensor(row)
            mask[number, width - len(row) :] = True
        return ids.to(self.device), None if bool(mask.all()) else mask.to(self.device)

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> list[float]:
        """log p of each text in nats, as a document with its end mark.

        Raises:
            ConfigError: The model is masked, or a text is longer than ``model.max_len``.
        """
        results = []
        for text in texts:
            ids = self.document(text)
            log_probs = self.next_log_probs(ids)
            results.append(float(log_probs.gather(1, torch.tensor(ids[1:], device=self.device)[:, None]).sum()))
        return results

    def document(self, text: str) -> list[int]:
        """Ids of a text as a whole document: what it starts from, its tokens and its end mark.

        Raises:
            ConfigError: The text is longer than ``model.max_len``.
        """
        ids = [*self.encode(text), self.tokenizer.eos_id]
        ids = ids if self.tokenizer.opening else [self.tokenizer.eos_id, *ids]  # the first token is predicted too
        if len(ids) > self.config.model.max_len + 1:
            what = f"a text has {len(ids) - 1:,} tokens, but the model reads at most {self.config.model.max_len:,}"
            raise ConfigError("score", what, "score shorter texts")
        return ids

    @torch.inference_mode()
    def next_log_probs(self, ids: Sequence[int]) -> Tensor:
        """log p [T - 1, V] of all tokens that may follow each of T ids but the last.

        Raises:
            ConfigError: The model is masked.
        """
        self._require_causal()
        target = torch.tensor([ids], device=self.device)
        return next_log_probs(self.model.transformer, self.model.head, target=target)[0]
