"""Spacing: multihead train task=spacing plugin=docs/examples/plugins/spacing.py tokenizer.kind=char

The model reads a text that lost its blanks, character by character, and says at which characters a word begins, as in
Chinese word segmentation (Xue 2003, O03-4002). Any text is data. model.ngram_buckets=1000 lets it learn in seconds.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from multihead.config.task import TaskConfig
from multihead.plugin import Plugin
from multihead.tasks.base import IGNORED, Task, at_places, labelled


@dataclass(kw_only=True, slots=True)
class SpacingConfig(TaskConfig):
    name: str = "spacing"
    roles = property(lambda self: ("text",))
    stacks = property(lambda self: ("encoder",))


class Spacing(Task):
    blank = property(lambda self: self.tokenizers["text"].vocab.index(" "))

    @classmethod
    def new_head(cls, config, settings, transformer, vocab):
        return nn.Linear(config.model.d_model, 2)

    def lengths(self, encoded):
        letters = [(encoded.ids("text", i) != self.blank).sum() for i in range(len(encoded))]
        return np.array(letters, int), np.array(letters, int)[:, None]

    def collate(self, encoded, indices, epoch=0):
        return self.batch([encoded.ids("text", int(i)) for i in indices])

    def batch(self, rows):  # without rows, it has one row without targets
        kept = [np.flatnonzero(row != self.blank) for row in rows]
        text, labels = torch.full((2, max(1, len(rows)), max([1, *map(len, kept)])), IGNORED)  # [B, T] each
        for i, (row, at) in enumerate(zip(rows, kept, strict=True)):
            found = np.stack((row[at], np.append(self.blank, row)[at] == self.blank))
            text[i, : len(at)], labels[i, : len(at)] = torch.from_numpy(found.astype(np.int64))
        return {"text": text.clamp(min=0), "mask": text >= 0, "labels": labels, "places": labelled(labels)}

    def logits_and_labels(self, batch):  # loss, validation and test follow from it
        logits = self.model.head(self.model.transformer.encode(batch["text"], batch["mask"])).float()  # [B, T, 2]
        return at_places(logits, batch["places"]), at_places(batch["labels"], batch["places"])

    @torch.inference_mode()
    def predict(self, texts, decoding, first=0):
        found, own = [], self.tokenizers["text"]
        for ids in own.encode_batch(["".join(text.split()) for text in texts]):
            begins = self.logits_and_labels(self.batch([np.array(ids)]))[0].argmax(-1).tolist() if ids else []
            found.append([{"text": "".join(" " * b + own.vocab[i] for b, i in zip(begins, ids, strict=True)).strip()}])
        return found


PLUGIN = Plugin(tasks={"spacing": (SpacingConfig, lambda: Spacing)})
