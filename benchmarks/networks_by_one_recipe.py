"""Trains an LSTM and a CNN by the recipe of a Transformer, for as long as the recipe says.

    MULTIHEAD_DATA=... python benchmarks/networks_by_one_recipe.py [recipe=multi30k_en_de]
        [architectures=transformer,lstm,conv] [seeds=1] [rounds=3] [runs=DIR] [out=FILE] [KEY=VALUE ...]

`map_of_architectures.py` tunes each network, and compares the first minutes. Here all of them have the recipe that was
tuned for the Transformer: `conf/experiment/RECIPE.yaml` with its steps, optimizer and dropout. So a network that is
ahead of the Transformer is so against the odds, and one that is behind may lack tuning. The blocks are those of
`recurrent_and_convolutional.py`. The networks have equal parameters within 1 %, or the command ends with an error.

The learning rate of a recipe falls to zero. So only the ends of the curves are results of trainings; a shorter training
is better than a long one's curve at that point.

Minutes are tokens divided by a pace. It is the median of ``rounds`` rounds, in which all networks work in turn after
the trainings. They need an idle machine, and the trainings do not. KEY=VALUE goes to every run. Finished runs and paces
are kept in ``runs``, and an interrupted run goes on from its checkpoint.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from map_of_architectures import AXES, LABELS, circumstances, curve, paces, require_equal, trained
from matplotlib import pyplot as plt
from rounds import split_words
from transformers_against_others import ARCHITECTURES, folder_of

OWN = {
    "recipe": "multi30k_en_de",
    "architectures": "transformer,lstm,conv",
    "seeds": 1,
    "rounds": 3,
    "runs": "outputs/networks_by_one_recipe",
    "out": "benchmarks/results/networks_by_one_recipe.json",
}
BLOCKS = ARCHITECTURES | {"transformer": []}  # as the recipe has it
SCORES = ("test/bleu", "test/bleu_lowercase")


def measure(settings: Mapping[str, Any], more: Sequence[str]) -> dict[str, Any]:
    """Trains all networks, and then measures their pace."""
    networks, folder = settings["architectures"].split(","), Path(settings["runs"], settings["recipe"])
    shared = [f"experiment={settings['recipe']}", "logger=none", *more]
    words = {network: [*shared, *BLOCKS[network]] for network in networks}
    places = {network: folder_of(folder, network, words[network]) for network in networks}
    results: dict[str, list[dict[str, Any]]] = {network: [] for network in networks}
    for network in networks:
        for seed in range(1, settings["seeds"] + 1):
            results[network].append(trained(words[network], places[network] / f"seed_{seed}", seed))
    sizes = {network: found[0]["parameters"] for network, found in results.items()}
    require_equal(sizes, settings["recipe"])
    speeds = paces(words, folder / "paces.json", settings["rounds"])
    systems = {}
    for network, found in results.items():
        pace = statistics.median(speeds[network])
        seeds = [
            {"seed": seed, **{score: result[score] for score in SCORES if score in result}}
            | {"curve": curve(places[network] / f"seed_{seed}", pace)}
            for seed, result in enumerate(found, start=1)
        ]
        systems[network] = {"parameters": sizes[network], "tokens_per_second": speeds[network], "seeds": seeds}
    return {"words": shared, "systems": systems, **circumstances(places[networks[0]] / "seed_1")}


def table(found: Mapping[str, Any]) -> str:
    """Returns a Markdown table with a row for each network."""
    lines = ["| network | parameters | tokens a second | minutes | best validation BLEU | test BLEU | lower-cased |"]
    lines.append("| --- |" + " ---: |" * 6)
    for network, system in found["systems"].items():
        pace, ends = statistics.median(system["tokens_per_second"]), [seed["curve"][-1] for seed in system["seeds"]]
        scores = [", ".join(f"{seed[score]:.2f}" for seed in system["seeds"] if score in seed) for score in SCORES]
        best = ", ".join(f"{end['bleu']:.2f}" for end in ends)
        cells = [f"{system['parameters']:,}", f"{pace:,.0f}", f"{ends[0]['minutes']:.1f}", best, *scores]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[str, Any], picture: Path) -> None:
    """Draws validation BLEU against tokens and against minutes."""
    axes = AXES[1:]
    figure, places = plt.subplots(1, len(axes), figsize=(9, 3.5), sharey=True, constrained_layout=True)
    for place, axis in zip(places, axes, strict=True):
        for number, (network, system) in enumerate(found["systems"].items()):
            for seed in system["seeds"]:
                points = seed["curve"]
                label = LABELS.get(network, network) if seed["seed"] == 1 else None
                place.plot([p[axis] for p in points], [p["bleu"] for p in points], f"C{number}.-", label=label)
        place.set(xlabel=axis)
        place.grid(alpha=0.3)
    places[0].set(ylabel="best validation BLEU so far")
    places[0].legend(frameon=False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Trains, and writes the results as JSON, as a table and as a picture."""
    settings, more = split_words(arguments, OWN)
    for name in settings["architectures"].split(","):
        if name not in BLOCKS:
            sys.exit(f"architectures={name}: there are {', '.join(BLOCKS)}")
    out = Path(settings["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    found = measure(settings, more)
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(found))
    draw(found, out.with_suffix(".png"))
    print("\n" + table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
