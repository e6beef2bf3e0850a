"""Tagging: multihead train task=tagging plugin=docs/examples/plugins/tagging.py data=tagged.tsv tokenizer.kind=word \
    tokenizer.joint=false model.tie_embeddings=none 'data.roles={text: words, target: tags}'

Each word gets a tag (Collobert et al. 2011, arXiv:1103.0398, section 3). The header is words TAB tags; a row has words
with blanks between them, and as many tags. docs/examples/conll.py reads files with a word on each line.
"""

from dataclasses import dataclass

import torch

from multihead.config.task import TaskConfig
from multihead.errors import DataError
from multihead.plugin import Plugin
from multihead.tasks.base import IGNORED, Task, at_places, labelled
from multihead.text.inputs import is_blank


@dataclass(kw_only=True, slots=True)
class TaggingConfig(TaskConfig):
    name: str = "tagging"
    monitor: str = "val/accuracy"
    monitor_mode: str = "max"
    roles = property(lambda self: ("text", "target"))
    stacks = property(lambda self: ("encoder",))


class Tagging(Task):
    @classmethod
    def new_head(cls, config, settings, transformer, vocab):
        return torch.nn.Linear(config.model.d_model, vocab.tokenizers["target"].vocab_size)

    def lengths(self, encoded):
        words, tags = encoded.lengths("text"), encoded.lengths("target")
        for i in (words != tags).nonzero()[0]:
            row = " ".join(self.tokenizers["text"].vocab[word] for word in encoded.ids("text", int(i)))
            fix = "give each word one tag; tokenizer.kind=word keeps words whole"
            raise DataError("data", f"a row has words={words[i]}, tags={tags[i]}: {row}", fix)
        return tags, words[:, None]

    def collate(self, encoded, indices, epoch=0):
        pad = self.tokenizers["text"].pad_id
        text, labels = (encoded.padded(r, indices, pad_id=p) for r, p in (("text", pad), ("target", IGNORED)))
        if len(indices) == 0:  # a well-formed batch without targets
            text, labels = (torch.full((1, 1), fill) for fill in (self.tokenizers["text"].eos_id, IGNORED))
        return {"text": text, "mask": text != pad, "labels": labels, "places": labelled(labels)}

    def logits_and_labels(self, batch):  # loss, validation and test follow from it
        logits = self.model.head(self.model.transformer.encode(batch["text"], batch["mask"])).float()  # [B, T, C]
        return at_places(logits, batch["places"]), at_places(batch["labels"], batch["places"])

    @torch.inference_mode()
    def predict(self, texts, decoding, first=0):
        rows = [torch.tensor([i or [0]], device=self.device) for i in self.tokenizers["text"].encode_batch(list(texts))]
        hidden = [self.model.transformer.encode(row) for row in rows]
        tags = self.tokenizers["target"].decode_batch([self.model.head(x)[0].argmax(-1).tolist() for x in hidden])
        return [[{"text": "" if is_blank(text) else own}] for text, own in zip(texts, tags, strict=True)]


PLUGIN = Plugin(tasks={"tagging": (TaggingConfig, lambda: Tagging)})
