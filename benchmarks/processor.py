"""Measures what this processor does fast: a recipe by precision, and each choice that depends on the processor.

    python benchmarks/processor.py [precisions=32-true,bf16-mixed] [seconds=30] [out=FILE] [KEY=VALUE ...]

The recipe trains in one process in every precision in turn, step by step, so other work on the machine slows all of
them alike. It is ``experiment=multi30k_en_de``, or other words of the configuration. Speeds are target tokens a second
of each round, with the optimizer's update and without validation. The report names what ``precision=auto`` is here. Two
separate runs would not be fair, because the second finds the kernels that the first has built.

Both answers to each choice are timed alone, in turn. Their ratio is that of the least times. With ``OMP_NUM_THREADS=1``
seconds are those of the processor, so other work on the machine changes little. This emulates a less able x86
processor:

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/processor.py
"""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from rounds import report, split_words

from multihead import capabilities
from multihead.config.compose import compose
from multihead.config.data import SPLITS
from multihead.data.prepare import prepare
from multihead.model import kernels
from multihead.model.optim import orthogonalize
from multihead.model.transformer import Dropout
from multihead.training.build import join
from multihead.training.precision import settle

OWN = {"precisions": "32-true,bf16-mixed", "seconds": 30.0, "repeats": 10, "out": ""}
RECIPE = ["experiment=multi30k_en_de"]
EMULATED = (*capabilities.ISA_LIMITS, "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")


def now() -> float:
    """Returns seconds. They are those of the processor if one thread computes."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def decided(words: list[str]) -> str:
    """Returns what ``precision=auto`` is on this processor."""
    composition = compose([*words, "precision=auto", "accelerator=cpu"])
    settle(composition)
    return composition.config.precision


def steps(words: list[str], precision: str) -> Iterator[float]:
    """Measures the speed of one step after the other."""
    composition = compose([*words, f"precision={precision}", "accelerator=cpu"])
    settle(composition)
    task, data = join(composition, prepare(composition, SPLITS), 1)
    optimizer = task.configure_optimizers()["optimizer"]
    task.train()
    positions = itertools.cycle(range(min(8, data.plan.num_steps(0))))

    for position in positions:
        parts = list(data.batches_of((0, position)))
        began = now()
        optimizer.zero_grad()
        for part in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = task.training_step(part, 0)["loss"]
            loss.backward()
        optimizer.step()
        yield parts[0]["tokens_of_step"] / (now() - began)


def recipe(words: list[str], precisions: list[str], seconds: float) -> dict[str, list[float]]:
    """Returns the speeds of every precision, round by round. The first round builds kernels and does not count."""
    auto = decided(words)
    contestants = {f"{name} (auto)" if name == auto else name: steps(words, name) for name in precisions}
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        next(run)
    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(speeds.values()):
        for name, run in contestants.items():
            speeds[name].append(next(run))
    return speeds


def in_turn(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> float:
    """Returns how many times as long the second takes as the first, by the least time of each."""
    least = [float("inf")] * 2
    for number in range(repeats + 1):
        for place, work in enumerate((first, second)):
            began = now()
            work()
            if number:
                least[place] = min(least[place], now() - began)
    return least[1] / least[0]


def choices(repeats: int) -> dict[str, float]:
    """Returns for each choice how many times as long the other answer takes as ours. For bfloat16, ours is the one
    named first."""
    torch.manual_seed(0)
    square = [torch.randn(192, 192) for _ in range(16)]
    by = {dtype: (lambda dtype=dtype: orthogonalize(square, 5, dtype)) for dtype in (torch.bfloat16, torch.float32)}
    found = {
        "linear layer's products: float32 / bfloat16": capabilities.bf16_gain("cpu"),
        "Muon's iterations: float32 / bfloat16": in_turn(by[torch.bfloat16], by[torch.float32], repeats),
    }
    if capabilities.has_onednn():
        for rows, inner, columns in ((512, 192, 5000), (256, 5000, 192)):
            left, right = torch.randn(rows, inner), torch.randn(columns, inner)
            ratio = in_turn(lambda a=left, b=right: kernels.product(a, b), lambda a=left, b=right: a @ b.T, repeats)
            found[f"product {rows} x {inner} x {columns}, float32: MKL / oneDNN"] = ratio
    for dtype, (count, length) in itertools.product((torch.float32, torch.bfloat16), ((150, 14), (64, 32), (16, 128))):
        heads = [torch.randn(count, 4, length, 48, dtype=dtype, requires_grad=True) for _ in range(3)]

        def attend(longest: int, heads: list[torch.Tensor] = heads) -> None:
            kernels.SHORT, before = longest, kernels.SHORT
            kernels.attend(*heads, None, True, 0.0).sum().backward()
            kernels.SHORT = before

        ratio = in_turn(lambda f=attend: f(10**6), lambda f=attend: f(0), repeats)
        found[f"attention of {length}, {str(dtype)[6:]}: fused / plain"] = ratio
    dropout, x = Dropout(0.15), torch.randn(2048, 192)
    found["dropout: torch's / ours"] = in_turn(lambda: dropout(x), lambda: F.dropout(x, 0.15, True), repeats)
    return found


def main(argv: list[str]) -> None:
    """Times and prints."""
    settings, words = split_words(argv, OWN)
    capabilities.limit_kernel_caches()
    about = {"instructions": capabilities.bf16_instructions() or "none", "words": words or RECIPE}
    about |= {name: os.environ[name] for name in EMULATED if os.environ.get(name)}
    about["choices"] = choices(settings["repeats"])
    for name, ratio in about["choices"].items():
        print(f"{ratio:6.2f}  {name}")
    speeds = recipe(words or RECIPE, settings["precisions"].split(","), settings["seconds"])
    rounds = min(map(len, speeds.values()))
    speeds = {name: values[:rounds] for name, values in speeds.items()}
    report("target tokens", speeds, about, settings["out"])


if __name__ == "__main__":
    main(sys.argv[1:])
