"""Measures how cost grows with width, length of the sequence, size of the corpus, and number of beams.

    python benchmarks/growth.py [widths=64,128,256,512] [lengths=64,...,2048] [rows=1000,...,1000000] [beams=1,...,16]
        [seconds=20] [threads=2] [out=benchmarks/results/growth.json] [picture=docs/growth.png]

- Width and length: a language model of two layers on random ids, with forward and backward pass and update (AdamW).
  A step has 4,096 tokens, and the unit is microseconds a token. ``d_model`` grows at 256 tokens of context, and the
  context grows at ``d_model`` 128.
- Corpus: pairs of 10 to 30 random ids. The plan of an epoch is computed, and batches of 4,096 target tokens are
  collated. The results are real target tokens a second, and the largest memory of a process that does nothing else.
- Beams: an untrained encoder-decoder of two layers, 64 sentences of 20 tokens, 20 new tokens. The unit is
  milliseconds a sentence.

A measurement is the median of as many repetitions as ``seconds`` hold, and of at least three. It runs on a CPU only,
and takes about six minutes on two cores.
"""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rounds import split_words

from multihead.config.model import ModelConfig
from multihead.config.training import DecodingConfig, OptimConfig
from multihead.model.heads import VocabularyHead
from multihead.model.transformer import Transformer

ROOT = Path(__file__).parents[1]
OWN = {
    "widths": "64,128,256,512",
    "lengths": "64,128,256,512,1024,2048",
    "rows": "1000,10000,100000,1000000",
    "beams": "1,2,4,8,16",
    "seconds": 20.0,
    "threads": 2,
    "tokens": 4096,
    "out": str(ROOT / "benchmarks" / "results" / "growth.json"),
    "picture": str(ROOT / "docs" / "growth.png"),
}
VOCAB = 4096
HEAD_DIM = 32
WIDTH, LENGTH = 128, 256
SENTENCES, WORDS = 64, 20


def repeated(work: Callable[[], Any], seconds: float) -> float:
    """Returns the median seconds of a call, without the first one."""
    work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def sizes(d_model: int, max_len: int) -> ModelConfig:
    """Returns the configuration of two layers of this width."""
    heads = max(1, d_model // HEAD_DIM)
    return ModelConfig(
        d_model=d_model,
        num_heads=heads,
        d_ff=4 * d_model,
        num_encoder_layers=2,
        num_decoder_layers=2,
        max_len=max_len,
        dropout=0.0,
    )


def training(d_model: int, length: int, tokens: int, seconds: float) -> float:
    """Returns the microseconds a token of a training step of a language model."""
    from multihead.model.optim import build_optimizer

    model = Transformer(sizes(d_model, length), source_vocab_size=None, target_vocab_size=VOCAB)
    head = VocabularyHead(d_model, VOCAB, model.decoder.embedding.weight)
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(name="adamw"), fused=True)
    ids = torch.randint(VOCAB, (max(1, tokens // length), length))

    def step() -> None:
        optimizer.zero_grad()
        loss = head.loss(model.decode(ids).flatten(0, 1), ids.flatten()) / ids.numel()
        loss.backward()
        optimizer.step()

    return 1e6 * repeated(step, seconds) / ids.numel()


def beams(count: int, seconds: float) -> float:
    """Returns the milliseconds to decode a sentence with this number of beams."""
    from multihead.model.beam_search import generate

    model = Transformer(sizes(WIDTH, LENGTH), source_vocab_size=VOCAB, target_vocab_size=VOCAB).eval()
    head = VocabularyHead(WIDTH, VOCAB, model.decoder.embedding.weight)
    config = DecodingConfig(num_beams=count, min_new_tokens=WORDS)
    source = torch.randint(VOCAB, (SENTENCES, WORDS))
    prefix = torch.ones(SENTENCES, 1, dtype=torch.long)

    def search() -> None:
        generate(model, head, config, prefix=prefix, source=source, eos_id=2, pad_id=0, max_new_tokens=WORDS)

    return 1e3 * repeated(search, seconds) / SENTENCES


def corpus(rows: int, tokens: int, seconds: float) -> dict[str, float]:
    """Returns tokens a second of a loader over this many pairs, and the largest memory of a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_corpus, args=(rows, tokens, seconds, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        process.join()


def _corpus(rows: int, tokens: int, seconds: float, sending: Any) -> None:
    import itertools

    import numpy as np

    from multihead.config.data import DataConfig
    from multihead.data.encode import Encoded
    from multihead.data.module import DataModule, TaskData
    from multihead.training.cost import resident_memory

    before = resident_memory()
    rng = np.random.default_rng(0)
    counts = {role: rng.integers(10, 31, rows) for role in ("source", "target")}
    flat = {role: rng.integers(6, VOCAB, int(many.sum()), dtype=np.uint16) for role, many in counts.items()}
    starts = {role: many.cumsum() - many for role, many in counts.items()}
    held = resident_memory()
    encoded = Encoded(flat, starts, counts)

    def lengths(ids: Any) -> tuple[Any, Any]:
        source, target = ids.lengths("source") + 1, ids.lengths("target") + 1
        return target, np.stack([source, target], axis=1)

    def collate(ids: Any, indices: Any, epoch: int = 0) -> dict[str, Any]:
        return {
            "source": ids.padded("source", indices, append=(2,), pad_id=0),
            "target": ids.padded("target", indices, prepend=(1,), pad_id=0),
            "labels": ids.padded("target", indices, append=(2,), pad_id=-100),
        }

    source = TaskData({"train": encoded}, lengths, lambda ids: lengths(ids)[0], collate)
    start = time.perf_counter()
    data = DataModule({"translation": source}, DataConfig(batch_tokens=tokens, part_tokens=tokens), seed=1)
    batches = itertools.chain.from_iterable(iter(data.train_dataloader()) for _ in itertools.count())
    next(batches)
    planned = time.perf_counter() - start
    seen, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        seen += next(batches)["tokens_of_step"]
    speed = seen / (time.perf_counter() - start)
    found = {"tokens_per_second": speed, "first_batch_seconds": planned}
    sending.send(found | {"memory_mb": peak() / 1e6, "ids_mb": (held - before) / 1e6})


def peak() -> int:
    """Returns the most bytes that this process had in memory. (getrusage would also count its parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def draw(found: dict[str, Any], file: Path) -> None:
    """Draws four panels, as wide as a README."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), dpi=110, layout="constrained")
    panels = figure.subplots(2, 2).flat
    curves = {
        "width": ("width, d_model", "µs per token"),
        "length": ("context, tokens", "µs per token"),
        "corpus": ("corpus, rows", "million tokens per second"),
        "beams": ("beams", "ms per sentence"),
    }
    titles = ("training against width", "training against length", "loader against corpus", "decoding against beams")
    for axes, title, (name, (across, up)) in zip(panels, titles, curves.items(), strict=True):
        points = found[name]
        places = [point["size"] for point in points]
        values = [point["tokens_per_second"] / 1e6 if name == "corpus" else point["cost"] for point in points]
        axes.plot(places, values, "o-", color="#1f6f8b", linewidth=2)
        axes.set(title=title, xlabel=across, ylabel=up, xscale="log", ylim=(0, 1.25 * max(values)))
        axes.set_xticks(places, [f"{place:,}" for place in places])
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "corpus":
            beside = axes.twinx()
            beside.plot(places, [point["memory_mb"] for point in points], "s--", color="#c0652a")
            beside.set(ylim=(0, 1.25 * max(point["memory_mb"] for point in points)))
            beside.set_ylabel("peak memory, MB (dashed)", color="#c0652a")
            beside.spines["top"].set_visible(False)
    figure.savefig(file)


def main(words: list[str]) -> dict[str, Any]:
    """Measures, prints and draws."""
    settings, rest = split_words(words, OWN)
    if rest:
        raise SystemExit(f"settings are {', '.join(OWN)}")
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    seconds, tokens = settings["seconds"], settings["tokens"]
    chosen = {
        name: [int(size) for size in settings[name].split(",")] for name in ("widths", "lengths", "rows", "beams")
    }
    found: dict[str, Any] = {"width": [], "length": [], "corpus": [], "beams": []}
    work = {
        "width": ("widths", lambda size: {"cost": training(size, LENGTH, tokens, seconds)}),
        "length": ("lengths", lambda size: {"cost": training(WIDTH, size, tokens, seconds)}),
        "corpus": ("rows", lambda size: corpus(size, tokens, seconds / 4)),
        "beams": ("beams", lambda size: {"cost": beams(size, seconds)}),
    }
    for name, (sizes_of, measure) in work.items():
        for size in chosen[sizes_of]:
            found[name].append({"size": size, **measure(size)})
            print(name, json.dumps(found[name][-1]), flush=True)
    about = {"tokens": tokens, "seconds": seconds, "torch": torch.__version__, "threads": settings["threads"]}
    result = {**found, "about": about | {"cores": os.cpu_count(), "architecture": platform.machine()}}
    Path(settings["out"]).write_text(json.dumps(result, indent=1) + "\n")
    draw(result, Path(settings["picture"]))
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
