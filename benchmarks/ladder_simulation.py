"""Simulates ladders with a known answer: how often does the interval of the factor contain it?

    python benchmarks/ladder_simulation.py            # 2,000 ladders a row; under a minute of processor time

loss = 0.8 + a C^-0.3 exp(noise), with C over five sizes that grow by a factor of 3, three seeds, and a variant that is
worth 1.3 times the compute. The rows differ in the noise of a run and in how far the sizes stray from the line, which
more seeds do not average out. Two intervals at 95 %: Fieller's of `multihead.studying.ladder`, and the percentiles of a
bootstrap over the seeds of each size.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from multihead.studying.ladder import Rung, factor_interval, fit

RESULTS = Path(__file__).parent / "results"
OPTIMUM, EXPONENT, FACTOR, SIZES = 0.8, 0.3, 1.3, 5
CASES = {
    "noise 0.02": (0.02, 0.0, 3),
    "noise 0.05": (0.05, 0.0, 3),
    "noise 0.05, five seeds": (0.05, 0.0, 5),
    "noise 0.05, sizes stray by 0.02": (0.05, 0.02, 3),
}
RESAMPLES = 200


def ladder(rng: np.random.Generator, factor: float, noise: float, stray: float, seeds: int) -> list[Rung]:
    """The runs of one system. A factor of k shifts its line as k times the compute would."""
    rungs = []
    for size in range(SIZES):
        compute = 3.0**size
        gap = (factor * compute) ** -EXPONENT * math.exp(stray * rng.standard_normal())
        losses = OPTIMUM + gap * np.exp(noise * rng.standard_normal(seeds))
        rungs.append(Rung(str(size), compute, losses.tolist()))
    return rungs


def bootstrap(base: list[Rung], variant: list[Rung], rng: np.random.Generator) -> tuple[float, float]:
    """The percentile interval over resampled seeds."""

    def drawn(rungs: list[Rung]) -> list[Rung]:
        return [replace(r, losses=rng.choice(r.losses, len(r.losses)).tolist()) for r in rungs]

    fits = [fit(drawn(base), drawn(variant), OPTIMUM) for _ in range(RESAMPLES)]
    low, high = np.quantile([found.difference / found.exponent for found in fits], [0.025, 0.975])
    return math.exp(low), math.exp(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladders", type=int, default=2000)
    parser.add_argument("--out", default=str(RESULTS / "ladder_simulation.json"))
    options = parser.parse_args()
    found = {}
    for name, (noise, stray, seeds) in CASES.items():
        hits, widths = {"fieller": 0, "bootstrap": 0}, {"fieller": [], "bootstrap": []}
        equal_called_different, factors, resampled = 0, [], max(1, options.ladders // 10)
        for number in range(options.ladders):
            rng = np.random.default_rng((number, seeds))
            base, variant = (ladder(rng, factor, noise, stray, seeds) for factor in (1.0, FACTOR))
            own = fit(base, variant, OPTIMUM)
            factors.append(math.exp(own.difference / own.exponent))
            intervals = {"fieller": factor_interval(own, 0.05)}
            if number < resampled:
                intervals["bootstrap"] = bootstrap(base, variant, rng)
            for kind, ends in intervals.items():
                low, high = ends or (0.0, math.inf)
                hits[kind] += low <= FACTOR <= high
                widths[kind].append(high / low if low else math.inf)
            same = factor_interval(fit(base, ladder(rng, 1.0, noise, stray, seeds), OPTIMUM), 0.05)
            equal_called_different += same is not None and not same[0] <= 1 <= same[1]
        found[name] = {
            "ladders": options.ladders,
            "coverage_fieller": hits["fieller"] / options.ladders,
            "coverage_bootstrap": hits["bootstrap"] / resampled,
            "equal_called_different": equal_called_different / options.ladders,
            "median_factor": round(float(np.median(factors)), 3),
            "median_ratio_of_ends_fieller": round(float(np.median(widths["fieller"])), 3),
        }
        print(name, json.dumps(found[name]), flush=True)
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
