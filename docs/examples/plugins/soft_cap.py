"""Soft-capped logits: multihead train task=lm plugin=docs/examples/plugins/soft_cap.py task.head=soft_cap

Logits are cap * tanh(logits / cap), so that none exceeds the cap, as in Gemma 2 (arXiv:2408.00118, section 2). It fits
lm, translation and summarization.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from multihead.model.heads import VocabularyHead
from multihead.plugin import Plugin
from multihead.tasks import task_class


@dataclass(kw_only=True)
class CapOptions:
    cap: float = 30.0


class SoftCap(VocabularyHead):
    cap = 30.0

    def forward(self, hidden):
        return self.cap * torch.tanh(super().forward(hidden) / self.cap)

    def loss(self, hidden, labels, label_smoothing=0.0):  # ours, in chunks, computes plain logits
        return F.cross_entropy(self(hidden).float(), labels, reduction="sum", label_smoothing=label_smoothing)


def soft_cap(config, settings, transformer, vocab, options):
    own = task_class(settings.name).new_head(config, settings, transformer, vocab)
    assert type(own) is VocabularyHead, "task.head=soft_cap needs logits over a vocabulary, without task.copy"
    head = SoftCap(own.weight.size(1), own.weight.size(0), own.weight, own.bias is not None, own.transform)
    head.cap = options.cap
    return head


PLUGIN = Plugin(heads={"soft_cap": soft_cap}, options={"soft_cap": CapOptions})
