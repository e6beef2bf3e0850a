"""The figures promised for Multi30k; needs MULTIHEAD_DATA of the caller's environment, so it is run by hand:

MULTIHEAD_DATA=... pytest -m slow tests/data/test_multi30k.py -s
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from multihead.config.data import DataConfig, TokenizerConfig
from multihead.data.corpus import load_corpus
from multihead.data.encode import cached_tokenizer, encode_corpus
from multihead.data.module import DataModule, TaskData

ROOT = os.environ.get("MULTIHEAD_DATA", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (Path(ROOT) / "multi30k").is_dir(), reason="MULTIHEAD_DATA holds no multi30k"),
]
ROLES = ("source", "target")


def load(config, cache):
    corpus = load_corpus(config, ROLES)
    texts = (text for role in ROLES for text in corpus.splits["train"].columns[role])
    tokenizer = cached_tokenizer(
        TokenizerConfig(), texts, config.normalize, fingerprint=corpus.fingerprints["train"], cache=cache
    )
    return {
        split: encode_corpus(
            rows.columns, dict.fromkeys(ROLES, tokenizer), fingerprint=corpus.fingerprints[split], cache=cache
        )
        for split, rows in corpus.splits.items()
    }


def lengths(encoded):
    target = encoded.lengths("target") + 1
    return target, np.stack([encoded.lengths("source"), target], axis=1)


def collate(encoded, indices, epoch=0):
    return {
        "source": encoded.padded("source", indices),
        "target": encoded.padded("target", indices, prepend=[1]),
        "labels": encoded.padded("target", indices, append=[2], pad_id=-100),
    }


def test_padding_fullness_and_speed(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_DATA", ROOT)
    config = DataConfig(
        format="parallel",
        root="multi30k",
        columns=["en", "de"],
        roles={"source": "en", "target": "de"},
        train=["train.en.gz", "train.de.gz"],
        val=["val.en.gz", "val.de.gz"],
        test=["test_2016_flickr.en.gz", "test_2016_flickr.de.gz"],
        normalize="nfc",
    )
    load(config, tmp_path)
    start = time.perf_counter()
    splits = load(config, tmp_path)
    seconds = time.perf_counter() - start
    source = TaskData(splits, lengths, lambda encoded: lengths(encoded)[0], collate)
    data = DataModule({"translation": source}, config, seed=1)
    plan = data.plan.plans["translation"]
    parts = [part for step in plan.steps(0) for part in plan.micro_batches(step, plan.num_micro_batches())]
    padded = sum(len(part) * plan.widths[part].max(axis=0).astype(int) for part in parts)
    padding = 1 - plan.widths.sum(axis=0) / padded
    loader = data.train_dataloader()
    start = time.perf_counter()
    tokens = sum(int((batch["labels"] != -100).sum()) for batch in loader)
    speed = tokens / (time.perf_counter() - start)
    full = plan.tokens(0).mean() / config.batch_tokens
    print(f"second load {seconds:.2f} s; padding {padding}; steps {full:.3f} full; {speed:,.0f} target tokens/s")
    assert seconds < 1 and (padding < 0.03).all() and full > 0.98 and speed > 1e6
