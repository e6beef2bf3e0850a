"""Summarization: translation from long to short, scored by ROUGE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multihead.metrics.rouge import ROUGE
from multihead.tasks.translation import TranslationTask

if TYPE_CHECKING:
    from multihead.metrics.text import TextScore


class SummarizationTask(TranslationTask):
    """A text becomes its summary; model, loss and decoding are those of translation."""

    def new_scores(self) -> dict[str, TextScore]:
        from multihead.metrics.text import CorpusROUGE

        return {key: CorpusROUGE(key) for key in ROUGE}

    def signatures(self) -> dict[str, Any]:
        return {"rouge_signature": self.scores["rougeL"].signature()}
