"""Measures how fast data comes: batches of bucketed translation, and a corpus that is tokenised and packed.

    python benchmarks/loader_speed.py [rounds=3] [megabytes=200] [vocabulary=8000] [out=FILE]

The loader is `DataModule`'s own on Multi30k (MULTIHEAD_DATA), on one thread. It does everything for which a step waits:
plan, gathering and padding. The corpus is WikiText-2's training text, over and over, in one file of this many
megabytes. Both contestants have the same subword tokenizer. One is Multihead's ``data=text``. The other is a bare loop
that reads a thousand lines, calls the `tokenizers` library's ``encode_batch_fast`` and appends the ids to a file. Both
write 16-bit ids. `corpus_memory.py` measures the largest resident memory of each corpus size.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import split_words

from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.data.stream import encode_stream
from multihead.training.build import join

OWN = {"rounds": 3, "megabytes": 200, "vocabulary": 8000, "out": ""}


def loader(rounds: int) -> dict[str, Any]:
    """Returns real target tokens per second of epochs of the loader alone."""
    torch.set_num_threads(1)
    composition = compose(["task=translation", "data=multi30k"])
    _, data = join(composition, prepare(composition, ("train",)), 1)
    speeds = []
    for _ in range(rounds + 1):
        start, tokens = time.perf_counter(), 0
        for batch in data.train_dataloader():
            tokens += int((batch["labels"] >= 0).sum())
        speeds.append(tokens / (time.perf_counter() - start))
    return {
        "unit": "target tokens per second, one thread",
        "median": statistics.median(speeds[1:]),
        "rounds": speeds[1:],
    }


def lines_of(file: Path) -> Callable[[], Any]:
    """Gives the lines of a file, as often as somebody asks for them."""

    def lines() -> Any:
        with file.open(encoding="utf-8") as text:
            for line in text:
                yield line.rstrip("\n")

    return lines


def bare(file: Path, backend: Any, eos: int, out: Path) -> None:
    """The loop that one would write."""

    def flush(texts: list[str]) -> None:
        ids: list[int] = []
        for encoding in backend.encode_batch_fast(texts, add_special_tokens=False):
            ids += encoding.ids
            ids.append(eos)
        np.array(ids, dtype=np.uint16).tofile(target)

    with out.open("wb") as target:
        texts = []
        for line in lines_of(file)():
            texts.append(line)
            if len(texts) == 1000:
                flush(texts)
                texts = []
        flush(texts)


def corpus(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns megabytes of text per second of our loop and of the bare loop, which run in turn."""
    torch.set_num_threads(os.cpu_count() or 1)
    composition = compose(
        ["task=lm", "data=wikitext2", "tokenizer.kind=bpe", f"tokenizer.vocab_size={settings['vocabulary']}"]
    )
    prepared = prepare(composition, ("train",))
    tokenizer, text = prepared.vocab.tokenizers["text"], "\n".join(prepared.texts["lm"].lines["train"]()) + "\n"
    with tempfile.TemporaryDirectory() as name:
        folder, encoded = Path(name), text.encode()
        file = folder / "corpus.txt"
        with file.open("wb") as target:
            written = 0
            while written < settings["megabytes"] * 10**6:
                written += target.write(encoded)
        seconds: dict[str, list[float]] = {"Multihead": [], "bare loop": []}
        for number in range(settings["rounds"]):
            start = time.perf_counter()
            stream = encode_stream(
                lines_of(file), tokenizer, document="row", mark=str(number), cache=folder, count_documents=False
            )
            seconds["Multihead"].append(time.perf_counter() - start)
            start = time.perf_counter()
            bare(file, tokenizer._backend, tokenizer.eos_id, folder / "bare.bin")
            seconds["bare loop"].append(time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            other = np.memmap(folder / "bare.bin", np.uint16, "r")
            assert len(stream) == len(other), "the two must encode alike"
            for first in range(0, len(other), 2**20):
                part = other[first : first + 2**20]
                assert np.array_equal(stream.read(first, first + len(part)), part), "the two must encode alike"
    rates = {who: [written / 1e6 / each for each in times] for who, times in seconds.items()}
    medians = {who: statistics.median(rate) for who, rate in rates.items()}
    return {"unit": "megabytes of text per second", "medians": medians, "rounds": rates, "megabytes": written / 1e6,
            "ratio": medians["Multihead"] / medians["bare loop"], "peak_resident_MB": peak}  # fmt: skip


def main() -> None:
    """Measures and reports."""
    settings, words = split_words(sys.argv[1:], OWN)
    if words:
        raise SystemExit(f"unknown words: {' '.join(words)}")
    results = {"loader": loader(settings["rounds"]), "corpus": corpus(settings)}
    print(f"loader alone: {results['loader']['median']:,.0f} target tokens a second on one thread")
    for who, rate in results["corpus"]["medians"].items():
        print(f"{who}: {rate:.2f} MB of text a second")
    print(
        f"ratio {results['corpus']['ratio']:.2f}, peak resident memory {results['corpus']['peak_resident_MB']:.0f} MB"
    )
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
