"""Measures where a Transformer, an LSTM and a CNN translate best: over sizes of data, steps, tokens and minutes.

    MULTIHEAD_DATA=... python benchmarks/map_of_architectures.py [data=tatoeba_10k,tatoeba_30k,tatoeba_138k,multi30k]
        [architectures=transformer,lstm,conv] [trials=8] [kept=2] [seeds=3] [tokens=6000000] [points=12] [rounds=3]
        [runs=DIR] [out=FILE] [KEY=VALUE ...]

The blocks are those of `recurrent_and_convolutional.py`. The networks have equal parameters within 1 %, or the command
ends with an error.

- **Tuning.** Each network tries the same ``trials`` settings (see `setting`) with seed 1, each for a quarter of
  ``tokens`` target tokens. The ``kept`` best of each network on each axis go on to all of them. The rate is constant
  after a warm-up and the weights are averaged. So every point of a curve is a result that needed no horizon: the best
  validation BLEU so far.
- **Three axes.** A budget is what every trial that went on has reached: so many steps, tokens or minutes. For each
  axis, a network's setting is its best one at that budget, so batches may differ between the axes. It is trained with
  ``seeds`` further seeds, which did not choose it.
- **Minutes** are tokens divided by a pace. The pace is the median of ``rounds`` rounds, in which all networks work in
  turn. So long trainings may run beside other work, but these rounds need an idle machine.

KEY=VALUE goes to every run, in place of what a trial would have. Finished runs and paces are kept in ``runs``, and an
interrupted run goes on from its checkpoint, so the same command continues. ``out`` gets the results of each data set,
and a picture stands beside it.

With the defaults, 96 runs end after a quarter or go on, and 36 to 108 are those of the seeds. At 5,000 target tokens a
second, a whole one would take 20 minutes (computed, not measured).
"""

import itertools
import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from rounds import split_words
from transformers_against_others import ARCHITECTURES, folder_of

import multihead
from multihead.comparing.significance import over_seeds, spread
from multihead.config.compose import compose
from multihead.runs.files import read_metrics
from multihead.studying.sizes import forecast

OWN = {
    "data": "tatoeba_10k,tatoeba_30k,tatoeba_138k,multi30k",
    "architectures": "transformer,lstm,conv",
    "trials": 8,
    "kept": 2,
    "seeds": 3,
    "tokens": 6_000_000,
    "points": 12,
    "rounds": 3,
    "runs": "outputs/map_of_architectures",
    "out": "benchmarks/results/map_of_architectures.json",
}
DATA = {
    "tatoeba_10k": ["data=tatoeba", "data.train_examples=10000"],
    "tatoeba_30k": ["data=tatoeba", "data.train_examples=30000"],
    "tatoeba_138k": ["data=tatoeba", "data.train_examples=138000"],
    "multi30k": ["data=multi30k"],
    "grammar": ["data=grammar"],
}
SHARED = [
    "experiment=multi30k_en_de",
    "model.tie_embeddings=source_target",  # a tied output layer harms the LSTM and the CNN most
    "optim.schedule=constant",
    "optim.warmup_steps=100",
    "trainer.ema_decay=0.99",
    "decoding.num_beams=1",
    "logger=none",
]
"""The words of all runs: the sizes of ``experiment=multi30k_en_de``, and a schedule without a horizon."""
LABELS = {"transformer": "Transformer", "lstm": "LSTM", "conv": "CNN"}
AXES = ("steps", "tokens", "minutes")
QUARTER = 4
"""The trials are first compared after this part of their tokens."""
EQUAL = 1.01
"""Largest ratio of the numbers of parameters."""

Curve = list[dict[str, float]]
"""Points with ``steps``, ``tokens``, ``minutes`` and ``bleu``, the best validation BLEU so far."""


def setting(number: int) -> list[str]:
    """Returns the words of a trial, the same for all networks: four trials have both optimizers and both batches."""
    draw = random.Random(number)
    words = [f"data.batch_tokens={(1024, 4096)[number % 2]}", f"model.dropout={draw.choice((0.0, 0.1, 0.2, 0.3))}"]
    if number // 2 % 2:
        return [*words, "optim=adamw", f"optim.lr={10 ** draw.uniform(-3.3, -2):.2g}"]
    return [*words, "optim=muon", f"optim.muon_lr={10 ** draw.uniform(-2.5, -1.5):.2g}"]


def words_of(name: str, architecture: str, number: int, settings: Mapping[str, Any], more: Sequence[str]) -> list[str]:
    """Returns the words of a trial of a network on a data set. The last word of a key wins."""
    words = [*SHARED, *DATA[name], *ARCHITECTURES[architecture], *setting(number), *more]
    by_key = {word.partition("=")[0]: word for word in words}
    steps = settings["tokens"] // int(by_key["data.batch_tokens"].partition("=")[2])
    every = max(1, steps // settings["points"])
    rhythm = {f"trainer.{key}": every for key in ("val_every_n_steps", "checkpoint_every_n_steps")}
    return [*by_key.values(), *(f"{key}={value}" for key, value in {"trainer.max_steps": steps, **rhythm}.items())]


def steps_of(words: Sequence[str]) -> int:
    """Returns the number of steps of a whole run."""
    return int(dict(word.split("=", 1) for word in words)["trainer.max_steps"])


def run(words: Sequence[str], folder: Path, seed: int, part: int = 1) -> dict[str, Any]:
    """Trains one seed for a part of its steps, or goes on with it, and returns what result.json holds."""
    file, steps = folder / f"seed_{seed}" / "result.json", steps_of(words) // part
    if not file.is_file() or json.loads(file.read_text())["steps"] < steps:
        own = [word for word in words if not word.startswith("trainer.max_steps=")]
        multihead.train([*own, f"trainer.max_steps={steps}", f"seed={seed}", f"run_dir={file.parent}", "resume=auto"])
    return json.loads(file.read_text())


def trained(words: Sequence[str], place: Path, seed: int) -> dict[str, Any]:
    """Trains one seed by a recipe to its end, unless that was done, and returns what result.json holds."""
    if not (place / "result.json").is_file():
        multihead.train([*words, f"seed={seed}", f"run_dir={place}", "resume=auto"])
    return json.loads((place / "result.json").read_text())


def curve(run_dir: Path, pace: float) -> Curve:
    """Returns the curve of a run whose pace is ``pace`` target tokens a second."""
    points, best = [dict.fromkeys((*AXES, "bleu"), 0.0)], 0.0
    for row in read_metrics(run_dir / "metrics.csv"):
        if row.get("val/bleu"):
            best, tokens = max(best, float(row["val/bleu"])), float(row["tokens"])
            points.append({"steps": float(row["step"]), "tokens": tokens, "minutes": tokens / pace / 60, "bleu": best})
    return points


def at(points: Curve, axis: str, budget: float) -> float:
    """Returns the BLEU of a curve at a budget, on the line between two points; after its end, its last one."""
    for before, after in itertools.pairwise(points):
        if budget <= after[axis]:
            share = (budget - before[axis]) / (after[axis] - before[axis])
            return before["bleu"] + share * (after["bleu"] - before["bleu"])
    return points[-1]["bleu"]


def paces(kinds: Mapping[str, list[str]], file: Path, rounds: int) -> dict[str, list[float]]:
    """Returns the target tokens a second of each kind of step, given by the words of a run, in each round.

    The kinds work in turn.
    """
    known: dict[str, list[float]] = json.loads(file.read_text()) if file.is_file() else {}
    for number in range(rounds):
        for kind, words in kinds.items():
            if len(known.setdefault(kind, [])) <= number:
                known[kind].append(float(forecast(compose(words))["tokens_per_second"]))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(known, indent=1) + "\n")
    return {kind: known[kind] for kind in kinds}


def require_equal(sizes: Mapping[str, int], name: str) -> None:
    """Ends the command if the networks' numbers of parameters differ."""
    if max(sizes.values()) > EQUAL * min(sizes.values()):
        sys.exit(f"{name}: the numbers of parameters differ by more than 1 %: {dict(sizes)}")


def circumstances(run_dir: Path) -> dict[str, Any]:
    """Returns the machine, the versions, the commit and the data of a run."""
    about = json.loads((run_dir / "environment.json").read_text())
    kept = {key: about[key] for key in ("versions", "git_commit", "data")}
    return {"hardware": about["hardware"] | {"threads": about["threads"]}, **kept}


def kind_of(architecture: str, words: Sequence[str]) -> str:
    """Names what decides the time of a step: a network with the same batches and optimizer has one kind."""
    keys = ("data.batch_tokens", "optim")
    return " ".join([architecture, *(word for word in words if word.partition("=")[0] in keys)])


def tune(
    name: str,
    words: Mapping[tuple[str, int], list[str]],
    folders: Mapping[tuple[str, int], Path],
    pace: Mapping[tuple[str, int], float],
    kept: int,
) -> tuple[dict[tuple[str, int], Curve], dict[tuple[str, int], Curve], dict[str, int]]:
    """Trains the trials of all networks with seed 1.

    Returns:
        The curves of all trials, up to a quarter of their steps.
        The curves of the trials that went on, up to the end.
        The number of parameters of each network.
    """
    quarters, sizes = {}, {}
    for pair in words:
        sizes[pair[0]] = run(words[pair], folders[pair], 1, QUARTER)["parameters"]
        points = curve(folders[pair] / "seed_1", pace[pair])
        quarters[pair] = [point for point in points if point["steps"] <= steps_of(words[pair]) // QUARTER]
    require_equal(sizes, name)
    whole = {}
    for network, orders in ranking(quarters, budgets_of(quarters)).items():
        for number in sorted({number for order in orders.values() for number in order[:kept]}):
            pair = network, number
            run(words[pair], folders[pair], 1)
            whole[pair] = curve(folders[pair] / "seed_1", pace[pair])
    return quarters, whole, sizes


def budgets_of(curves: Mapping[tuple[str, int], Curve]) -> dict[str, float]:
    """Returns for each axis how far every curve goes."""
    return {axis: min(points[-1][axis] for points in curves.values()) for axis in AXES}


def ranking(curves: Mapping[tuple[str, int], Curve], budgets: Mapping[str, float]) -> dict[str, dict[str, list[int]]]:
    """Returns the numbers of each network's trials by axis, with the best one at the budget first."""
    orders: dict[str, dict[str, list[int]]] = {}
    for network in dict.fromkeys(network for network, _ in curves):
        numbers = [number for one, number in curves if one == network]
        orders[network] = {
            axis: sorted(numbers, key=lambda n: at(curves[network, n], axis, budgets[axis]), reverse=True)
            for axis in AXES
        }
    return orders


def measure(name: str, settings: Mapping[str, Any], more: Sequence[str]) -> dict[str, Any]:
    """Tunes and trains the networks on one data set."""
    networks, folder = settings["architectures"].split(","), Path(settings["runs"], name)
    pairs = [(network, number) for number in range(settings["trials"]) for network in networks]
    words = {pair: words_of(name, *pair, settings, more) for pair in pairs}
    folders = {pair: folder_of(folder, pair[0], words[pair]) for pair in pairs}
    kinds = {kind_of(pair[0], words[pair]): words[pair] for pair in pairs}
    speeds = paces(kinds, folder / "paces.json", settings["rounds"])
    pace = {pair: statistics.median(speeds[kind_of(pair[0], words[pair])]) for pair in pairs}
    quarters, whole, sizes = tune(name, words, folders, pace, settings["kept"])
    budgets = budgets_of(whole)
    systems: dict[str, Any] = {}
    for network, orders in ranking(whole, budgets).items():
        best = {axis: order[0] for axis, order in orders.items()}
        trained = {number: [] for number in dict.fromkeys(best.values())}
        for number, seeds in trained.items():
            for seed in range(2, settings["seeds"] + 2):
                result = run(words[network, number], folders[network, number], seed)
                points = curve(folders[network, number] / f"seed_{seed}", pace[network, number])
                seeds.append({"seed": seed, "test/bleu": result["test/bleu"], "curve": points})
        systems[network] = {
            "parameters": sizes[network],
            "trials": [
                {
                    "words": sorted({*setting(n)} & {*words[network, n]}),
                    "curve": (quarters | whole)[network, n],
                    "chosen": chosen(best, n),
                }
                for n in range(settings["trials"])
            ],
            "seeds": {axis: trained[best[axis]] for axis in AXES},
        }
    asked = {key: settings[key] for key in ("trials", "kept", "seeds", "tokens", "points", "rounds")}
    return {
        "settings": asked | {"words": list(more)},
        "budgets": budgets,
        "tokens_per_second": speeds,
        "systems": systems,
        **circumstances(folders[pairs[0]] / "seed_1"),
    }


def chosen(best: Mapping[str, int], number: int) -> list[str]:
    """Returns the axes for which a trial is the best."""
    return [axis for axis, one in best.items() if one == number]


def table(found: Mapping[str, Any]) -> str:
    """Returns a Markdown table: BLEU of each network at the budgets, with the 95 % interval of the mean over seeds, and
    then their `differences`."""
    names = list(dict.fromkeys(network for result in found.values() for network in result["systems"]))
    lines = [f"| data | budget | {' | '.join(names)} |", f"| --- | --- |{' --- |' * len(names)}"]
    for data, result in found.items():
        for axis, budget in result["budgets"].items():
            cells = []
            for network in names:
                seeds = result["systems"].get(network, {"seeds": {axis: []}})["seeds"][axis]
                one = spread([at(seed["curve"], axis, budget) for seed in seeds]) if seeds else None
                interval = f" ({one.low:.1f} to {one.high:.1f})" if one is not None and one.low is not None else ""
                cells.append(f"{one.mean:.1f}{interval}" if one is not None else "-")
            amount = f"{budget:,.0f}" if budget >= 100 else f"{budget:.2f}"
            lines.append(f"| {data} | {amount} {axis} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *differences(found)]) + "\n"


def differences(found: Mapping[str, Any]) -> list[str]:
    """Returns a Markdown table: the difference of each two networks at the budgets, with its 95 % interval (Welch)."""
    lines = ["| data | budget | networks | difference |", "| --- | --- | --- | --- |"]
    for data, result in found.items():
        for axis, budget in result["budgets"].items():
            scores = {
                network: [at(seed["curve"], axis, budget) for seed in system["seeds"][axis]]
                for network, system in result["systems"].items()
            }
            for first, second in itertools.combinations(scores, 2):
                test = over_seeds(scores[second], scores[first]) if len(scores[first] + scores[second]) > 2 else None
                if test is not None:
                    cell = f"{test.difference:+.1f} ({test.low:+.1f} to {test.high:+.1f})"
                    lines.append(f"| {data} | {axis} | {second} - {first} | {cell} |")
    return lines


def draw(found: Mapping[str, Any], picture: Path) -> None:
    """Draws a row for each data set and a column for each axis: the mean over seeds, and the range of the seeds."""
    size = (11, 3 * len(found))
    figure, places = plt.subplots(len(found), len(AXES), figsize=size, squeeze=False, constrained_layout=True)
    for row, (data, result) in zip(places, found.items(), strict=True):
        for place, axis in zip(row, AXES, strict=True):
            budgets = [result["budgets"][axis] * share / 40 for share in range(1, 41)]
            for network, system in result["systems"].items():
                lines = [[at(seed["curve"], axis, budget) for budget in budgets] for seed in system["seeds"][axis]]
                values = list(zip(*lines, strict=True))
                place.plot(budgets, [statistics.fmean(each) for each in values], label=LABELS.get(network, network))
                place.fill_between(budgets, [min(each) for each in values], [max(each) for each in values], alpha=0.2)
            place.set(xlabel=axis, ylabel="best validation BLEU so far", title=data)
            place.locator_params(axis="x", nbins=5)
            place.grid(alpha=0.3)
    places[0][0].legend(frameon=False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Measures the data sets of the command line, and writes the results after each."""
    settings, more = split_words(arguments, OWN)
    for key, known in (("data", DATA), ("architectures", ARCHITECTURES)):
        for name in settings[key].split(","):
            if name not in known:
                sys.exit(f"{key}={name}: there are {', '.join(known)}")
    out = Path(settings["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in settings["data"].split(","):
        known = json.loads(out.read_text()) if out.is_file() else {}
        known[name] = measure(name, settings, more)
        out.write_text(json.dumps(known, indent=1) + "\n")
        draw(known, out.with_suffix(".png"))
        out.with_suffix(".md").write_text(table(known))
        print("\n" + table(known))


if __name__ == "__main__":
    main(sys.argv[1:])
