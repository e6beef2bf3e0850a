"""Summarization: translation from long to short, scored by ROUGE."""

from __future__ import annotations

from typing import Any

from multihead.metrics.rouge import ROUGE
from multihead.metrics.text import CorpusROUGE, TextScore
from multihead.tasks.translation import TranslationTask


class SummarizationTask(TranslationTask):
    """A text becomes its summary; model, loss and decoding are those of translation."""

    def new_scores(self) -> dict[str, TextScore]:
        return {key: CorpusROUGE(key) for key in ROUGE}

    def signatures(self) -> dict[str, Any]:
        return {"rouge_signature": self.scores["rougeL"].signature()}
