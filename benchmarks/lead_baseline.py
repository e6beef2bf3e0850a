"""Computes ROUGE of the first words of the source: python benchmarks/lead_baseline.py data=aeslc [words=8] [split=test]

It reads the data as `task=summarization` does. It prints ROUGE-1, ROUGE-2 and ROUGE-L of summaries that are only the
first eight words. A model has to be better than that.
"""

from __future__ import annotations

import json
import sys

from rounds import split_words

from multihead.config.compose import compose
from multihead.config.roles import data_of
from multihead.data.corpus import load_corpus
from multihead.data.prepare import SPLIT_SEED
from multihead.metrics.text import CorpusROUGE


def main() -> None:
    own, words = split_words(sys.argv[1:], {"words": 8, "split": "test"})
    config = compose(["task=summarization", *words]).config
    data = data_of(config.data, config.task)
    rows = load_corpus(data, config.task.roles, splits=[own["split"]], seed=SPLIT_SEED).splits[own["split"]]
    outputs = [" ".join(text.split()[: own["words"]]) for text in rows.columns["source"]]
    scores = {}
    for key in ("rouge1", "rouge2", "rougeL"):
        metric = CorpusROUGE(key)
        metric.update(outputs, rows.columns["target"])
        scores[key] = round(float(metric.compute()), 2)
    print(json.dumps({"data": data.name, "split": own["split"], "examples": len(rows), "lead": own["words"], **scores}))


if __name__ == "__main__":
    main()
