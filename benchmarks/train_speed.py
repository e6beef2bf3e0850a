"""Training speed: our step against a plain loop over ``torch.nn.Transformer`` of the same sizes.

    python benchmarks/train_speed.py [rounds=5] [steps=8] [out=FILE] [model=small precision=bf16-mixed ...]

Both train on the built-in grammar's pairs with the same ids, sizes, dropout, tied embeddings, label smoothing, AdamW
and clipping, and about the same real target tokens per step; what is counted are these. The plain loop is what a
tutorial has: shuffled sentences padded to the longest of the batch, logits at every position, cross-entropy that
ignores padding. Dropout stands in the same places in both: torch's own on attention weights and inside the feed-forward
are taken out. Ours is the batch plan, collate, forward, backward and optimizer of a run, without Lightning's loop,
logging and validation. CPU only.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rounds import interleaved, report, split_words
from torch import Tensor, nn

from multihead.commands.train import join, prepare
from multihead.config.compose import compose
from multihead.config.model import ModelConfig
from multihead.transformer import sinusoids

OWN = {"rounds": 5, "steps": 8, "out": ""}


class PlainTransformer(nn.Module):
    """PyTorch's own Transformer with one embedding table for source, target and output."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        self.register_buffer("positions", sinusoids(config.max_len, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            config.d_model,
            config.num_heads,
            config.num_encoder_layers,
            config.num_decoder_layers,
            config.d_ff,
            config.dropout,
            batch_first=True,
            norm_first=config.norm_placement == "pre",
        )
        for module in self.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = config.attention_dropout
            elif isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
                module.dropout.p = config.ff_dropout

    def forward(self, source: Tensor, target: Tensor, pad_id: int) -> Tensor:
        """Logits [B, T, V]."""
        hides_source = source == pad_id
        hidden = self.transformer(
            self._embed(source),
            self._embed(target),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.size(1), dtype=torch.bool),
            tgt_is_causal=True,
            src_key_padding_mask=hides_source,
            memory_key_padding_mask=hides_source,
        )
        return F.linear(hidden, self.embedding.weight)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.dropout(self.embedding(ids) * self.embedding.embedding_dim**0.5 + self.positions[: ids.size(1)])


def ours(task: Any, data: Any, steps: int) -> Callable[[], int]:
    """So many steps of a run."""
    optimizer = task.configure_optimizers()["optimizer"]
    parameters, clip = list(task.model.parameters()), task.config.trainer.gradient_clip_val
    task.train()
    loader = data.train_dataloader()
    count = data.accumulation(1)
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())

    def work() -> int:
        tokens = 0
        for _ in range(steps):
            optimizer.zero_grad()
            for batch in itertools.islice(batches, count):
                with autocast(task.config.precision):
                    loss = task.training_step(batch, 0)["loss"]
                (loss / count).backward()
            if clip:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            tokens += batch["tokens_of_step"]
        return tokens

    return work


def plain(task: Any, encoded: Any, steps: int) -> Callable[[], int]:
    """So many steps of the plain loop."""
    config = task.config
    model = PlainTransformer(config.model, task.tokenizers["target"].vocab_size).train()
    optimizer = torch.optim.AdamW(model.parameters(), config.optim.lr, tuple(config.optim.betas), config.optim.eps)
    mean = float((encoded.lengths("target") + 1).mean())
    batches = shuffled(len(encoded), max(1, round(config.data.batch_tokens / mean)))

    def work() -> int:
        tokens = 0
        for _ in range(steps):
            indices = next(batches)
            source = encoded.padded("source", indices, append=(task.eos,), pad_id=task.pad)
            target = encoded.padded("target", indices, prepend=(task.bos,), pad_id=task.pad)
            labels = encoded.padded("target", indices, append=(task.eos,), pad_id=-100)
            optimizer.zero_grad()
            with autocast(config.precision):
                logits = model(source, target, task.pad)
            smoothing = config.task.label_smoothing
            F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=smoothing).backward()
            if config.trainer.gradient_clip_val:
                nn.utils.clip_grad_norm_(model.parameters(), config.trainer.gradient_clip_val)
            optimizer.step()
            tokens += int((labels >= 0).sum())
        return tokens

    return work


def shuffled(examples: int, size: int) -> Iterator[np.ndarray]:
    """Batches of so many examples in random order, for ever; the rest of an epoch is left out."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(examples)
        yield from (order[start : start + size] for start in range(0, examples - size + 1, size))


def autocast(precision: str) -> Any:
    """What Lightning does for ``precision``."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")


def main() -> None:
    """Measures and reports."""
    settings, words = split_words(sys.argv[1:], OWN)
    warnings.filterwarnings("ignore", message="enable_nested_tensor is True")  # of no use in training
    composition = compose(["task=translation", *words])
    prepared = prepare(composition, ("train",))
    task, data = join(composition, prepared, 1)
    encoded, steps = data.splits["train"], settings["steps"]
    contestants = {"multihead": ours(task, data, steps), "torch.nn.Transformer": plain(task, encoded, steps)}
    about = {"words": words, "steps": steps, "parameters": sum(p.numel() for p in task.model.parameters())}
    report("real target tokens", interleaved(contestants, settings["rounds"]), about, settings["out"])


if __name__ == "__main__":
    main()
