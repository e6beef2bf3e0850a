"""Simulates whole studies by the functions that `multihead study` uses: how often are they wrong, and do they see?

    python benchmarks/study_simulation.py            # 2,000 studies; two minutes of processor time

Each simulated study has two variants, three tasks and at most eight seeds. The metric of a run is its system's mean
plus Gaussian noise. The deviation differs between tasks and is not known to the study. `schedule.progress` says which
runs come next, `sequential.found_different` decides, and `sequential.detectable` announces.

- Equal systems: the share of studies with any "better" or "worse" must be at most alpha = 0.05.
- One variant is better on one task by the announced difference: it must be found with probability 0.8.
- The same with noise that is not Gaussian, which the test does not promise.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

from multihead.studying.schedule import Key, Pair, Plan, progress
from multihead.studying.sequential import detectable

RESULTS = Path(__file__).parent / "results"
TASKS, VARIANTS, SEEDS, POWER = ("translation", "lm", "classification"), ("first", "second"), 8, 0.8
DEVIATIONS = {"translation": 0.8, "lm": 0.02, "classification": 0.01}
NOISES = {
    "Gaussian": lambda rng: rng.standard_normal(),
    "uniform": lambda rng: rng.uniform(-math.sqrt(3), math.sqrt(3)),
    "Student's t, 5 degrees of freedom": lambda rng: rng.standard_t(5) / math.sqrt(5 / 3),
    "exponential": lambda rng: rng.exponential() - 1,
}


def plan() -> Plan:
    """The plan of each simulated study."""
    better = {"translation": "max", "lm": "min", "classification": "max"}
    return Plan("plain", ("plain", *VARIANTS), TASKS, dict.fromkeys(TASKS, "val/x"), better, {}, tuple(range(SEEDS)))


def study(design: Plan, rng: np.random.Generator, noise: str, effect: float) -> tuple[dict[Pair, int], int]:
    """One study; returns what it decided, and its number of runs.

    Args:
        design: Its plan.
        rng: Draws the noise.
        noise: A key of `NOISES`.
        effect: By how many deviations of the differences the first variant is better in translation.
    """
    results: dict[Key, float | None] = {}
    while missing := (state := progress(design, results, None)).missing:
        for key in missing:
            gain = effect * math.sqrt(2) if key.task == "translation" and key.arm == "first" else 0.0
            results[key] = 10 + DEVIATIONS[key.task] * (NOISES[noise](rng) + gain)
    return dict(state.decided), len(results)


def interval(hits: int, count: int) -> list[float]:
    """The exact 95 % interval of a share (Clopper and Pearson 1934)."""
    from scipy import stats

    low, high = stats.binomtest(hits, count).proportion_ci(0.95)
    return [round(float(low), 4), round(float(high), 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--out", default=str(RESULTS / "study_simulation.json"))
    options = parser.parse_args()
    design, began = plan(), time.process_time()
    effect = detectable(design.design, POWER)
    found: dict[str, object] = {"announced_effect_in_deviations": round(effect, 3), "seeds": SEEDS, "comparisons": 6}
    target = Pair("translation", "first")
    for noise in NOISES:
        count = options.studies if noise == "Gaussian" else options.studies // 4
        equal = [study(design, np.random.default_rng((1, i)), noise, 0.0) for i in range(count)]
        wrong = sum(bool(decided) for decided, _ in equal)
        different = [study(design, np.random.default_rng((2, i)), noise, effect) for i in range(count)]
        seen = sum(decided.get(target) == 1 for decided, _ in different)
        runs = [runs for _, runs in different]
        found[noise] = {
            "studies": count,
            "equal_called_different": wrong / count,
            "interval_of_error": interval(wrong, count),
            "power_at_announced_effect": seen / count,
            "interval_of_power": interval(seen, count),
            "mean_runs_of_equal": float(np.mean([runs for _, runs in equal])),
            "mean_runs_with_effect": float(np.mean(runs)),
            "runs_without_early_stop": SEEDS * len(TASKS) * (1 + len(VARIANTS)),
        }
        print(noise, json.dumps(found[noise]), flush=True)
    found["processor_seconds"] = round(time.process_time() - began, 1)
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
