"""Summarization: translation from long to short, scored by ROUGE."""

from __future__ import annotations

from importlib import metadata

from torch import nn

from multihead.metrics import CorpusROUGE
from multihead.tasks.translation import TranslationTask


class SummarizationTask(TranslationTask):
    """A text becomes its summary; model, loss and decoding are those of translation."""

    def new_scores(self) -> nn.ModuleDict:
        return nn.ModuleDict({key: CorpusROUGE(key) for key in ("rouge1", "rouge2", "rougeL")})

    def signatures(self) -> dict[str, str]:
        return {"rouge_signature": f"torchmetrics|version:{metadata.version('torchmetrics')}|stem:no|mean F-measure"}
