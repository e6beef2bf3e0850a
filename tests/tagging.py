"""A plugin as a user writes it: ``task=tagging`` gives each token a tag; its samples have fields of their own."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from multihead.config.task import TaskConfig
from multihead.plugin import Plugin


@dataclass(kw_only=True, slots=True)
class TaggingConfig(TaskConfig):
    name: str = "tagging"
    monitor: str = "val/accuracy"
    monitor_mode: str = "max"

    @property
    def roles(self):
        return ("text", "target")

    @property
    def stacks(self):
        return ("encoder",)


def tagging():
    from multihead.metrics.text import WeightedMean
    from multihead.tasks.base import IGNORED, Task

    class Tagging(Task):
        def __init__(self, config, settings, model, vocab, evaluation):
            super().__init__(config, settings, model, vocab, evaluation)
            self.words, self.tags = self.tokenizers["text"], self.tokenizers["target"]
            self.hits, self.nats = WeightedMean(), WeightedMean()

        @classmethod
        def new_head(cls, config, settings, transformer, vocab):
            return nn.Linear(config.model.d_model, vocab.tokenizers["target"].vocab_size)

        def limits(self):
            return {"text": self.config.model.max_len, "target": self.config.model.max_len}

        def lengths(self, encoded):
            return encoded.lengths("target"), encoded.lengths("text")[:, None]

        def collate(self, encoded, indices, epoch=0):
            if len(indices) == 0:
                return {"text": torch.full((1, 1), self.words.eos_id), "labels": torch.full((1, 1), IGNORED)}
            text = encoded.padded("text", np.asarray(indices), pad_id=self.words.pad_id)
            return {"text": text, "labels": encoded.padded("target", np.asarray(indices), pad_id=IGNORED)}

        def forward(self, batch):
            return self.model.head(self.model.transformer.encode(batch["text"], batch["text"] != self.words.pad_id))

        def training_step(self, batch, batch_idx):
            logits = self(batch).flatten(0, 1).float()
            loss = nn.functional.cross_entropy(logits, batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")
            return self.step_loss(loss, batch)

        def evaluate_batch(self, batch, split):
            logits, labels = self(batch).float(), batch["labels"]
            real = labels != IGNORED
            found = logits.argmax(-1)
            self.hits.update((found == labels)[real].sum(), int(real.sum()))
            self.nats.update(nn.functional.cross_entropy(logits[real], labels[real], reduction="sum"), int(real.sum()))
            for row, words, tags in zip(batch["index"].tolist(), batch["text"], found, strict=False):
                named = [self.tags.vocab[i] for i in tags.tolist()]
                self.samples.append({"row": row, "words": words, "tags": named})  # no index; a tensor

        def finish_evaluation(self, split):
            metrics = {"accuracy": float(self.hits.compute()), "loss": float(self.nats.compute())}
            self.hits.reset(), self.nats.reset()
            return metrics

        def predict(self, texts, decoding, first=0):
            found = []
            for ids in self.words.encode_batch(list(texts)):
                logits = self({"text": torch.tensor([ids or [self.words.eos_id]])})
                found.append(
                    [{"text": " ".join(self.tags.vocab[i] for i in logits[0].argmax(-1).tolist()), "score": 0.0}]
                )
            return found

    return Tagging


PLUGIN = Plugin(tasks={"tagging": (TaggingConfig, tagging)})


def write_data(folder, rows=120):
    """Words and their tags, a tab between; returns the words of the command line that read it."""
    tags = {"the": "D", "a": "D", "dog": "N", "cat": "N", "sees": "V", "likes": "V", "old": "A", "small": "A"}
    draw = np.random.default_rng(0)
    lines = []
    for _ in range(rows):
        words = draw.choice(list(tags), size=draw.integers(2, 8)).tolist()
        lines.append(" ".join(words) + "\t" + " ".join(tags[word] for word in words))
    unique = list(dict.fromkeys(lines))
    for split, part in {"train": unique[20:], "val": unique[:10], "test": unique[10:20]}.items():
        (folder / f"{split}.tsv").write_text("\n".join(part) + "\n")
    files = [f"data.{split}={folder}/{split}.tsv" for split in ("train", "val", "test")]
    return [
        *(f"plugin={__file__}", "task=tagging", "data=files", "data.format=tsv", "data.columns=[text,target]"),
        *("data.roles={text: text, target: target}", "tokenizer.kind=word", "tokenizer.joint=false"),
        "model.tie_embeddings=none",
        *("tokenizer.min_frequency=1", *files),
    ]
