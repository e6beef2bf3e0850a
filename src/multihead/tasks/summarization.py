"""Summarization: translation from long to short, scored by ROUGE."""

from __future__ import annotations

from typing import Any

from torch import nn

from multihead.metrics.rouge import ROUGE, SIGNATURE
from multihead.metrics.text import CorpusROUGE
from multihead.tasks.translation import TranslationTask


class SummarizationTask(TranslationTask):
    """A text becomes its summary; model, loss and decoding are those of translation."""

    def new_scores(self) -> nn.ModuleDict:
        return nn.ModuleDict({key: CorpusROUGE(key) for key in ROUGE})

    def signatures(self) -> dict[str, Any]:
        return {"rouge_signature": SIGNATURE}
