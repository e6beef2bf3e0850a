"""Measures how much a Transformer, an LSTM and a CNN gain from text that is far back.

    MULTIHEAD_DATA=... python benchmarks/loss_by_position.py [recipe=shakespeare_char_3min] [contexts=64,256,512]
        [architectures=transformer,lstm,conv] [seeds=1] [rounds=3] [runs=DIR] [out=FILE] [KEY=VALUE ...]

Every network is trained as a language model by ``recipe`` with each context. Then all models predict the same
validation tokens. The loss is averaged by position, which is the number of tokens that a model has seen in its context
(as in Kaplan et al. 2020, arXiv:2001.08361, figure 7). A network that can use what is far back has a loss that still
falls at the last positions.

The blocks are those of `recurrent_and_convolutional.py`. The networks have equal parameters within 1 %, or the command
ends with an error. The recipe is the same for all of them. It was tuned for the Transformer with tied embeddings, which
are not tied here because that harms the LSTM and the CNN most.

Windows start at every ``EVERY``-th token and have the length of the context. So a token that is not at the ends of the
text is predicted with every multiple of ``EVERY`` more tokens before it.

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
import torch

matplotlib.use("Agg")
from map_of_architectures import LABELS, circumstances, paces, require_equal, trained
from matplotlib import pyplot as plt
from rounds import split_words
from torch import Tensor
from transformers_against_others import ARCHITECTURES, folder_of

import multihead
from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.runs.run import Run

OWN = {
    "recipe": "shakespeare_char_3min",
    "contexts": "64,256,512",
    "architectures": "transformer,lstm,conv",
    "seeds": 1,
    "rounds": 3,
    "runs": "outputs/loss_by_position",
    "out": "benchmarks/results/loss_by_position.json",
}
EVERY = 64
"""Number of tokens between the starts of two windows."""
TOKENS_AT_ONCE = 16384


def words_of(recipe: str, architecture: str, context: int, more: Sequence[str]) -> list[str]:
    """Returns the words of a training."""
    shared = [f"experiment={recipe}", "model.tie_embeddings=none", "task.random_windows=0", "logger=none"]
    return [*shared, f"model.max_len={context}", *ARCHITECTURES[architecture], *more]


@torch.inference_mode()
def loss_at(run: Run, ids: Tensor, context: int) -> Tensor:
    """Returns the mean loss in nats after 1, 2, ... ``context`` tokens.

    Args:
        run: A causal language model.
        ids: The tokens of a text.
        context: Length of a window.
    """
    windows = ids.unfold(0, context + 1, EVERY)  # [N, context + 1]
    task: Any = run.task
    sums = torch.zeros(context, dtype=torch.float64)
    for some in windows.split(max(1, TOKENS_AT_ONCE // context)):
        hidden, labels = task.hidden(some[:, :-1]), some[:, 1:]
        nats, _ = run.model.head.evaluate(hidden.flatten(0, 1), labels.flatten())
        sums += nats.double().view(labels.shape).sum(0)
    return sums / len(windows)


def octaves(context: int) -> list[tuple[int, int]]:
    """Returns the positions 1, 2, 3 to 4, 5 to 8 and so on up to the context, each with its first and its last one."""
    ends = [2**power for power in range(context.bit_length()) if 2**power < context] + [context]
    return list(zip([1, *(end + 1 for end in ends)], ends, strict=False))


def measure(settings: Mapping[str, Any], more: Sequence[str]) -> dict[str, Any]:
    """Trains all networks with all contexts, measures them, and then their pace."""
    networks, folder = settings["architectures"].split(","), Path(settings["runs"], settings["recipe"])
    contexts = [int(context) for context in settings["contexts"].split(",")]
    words = {(n, c): words_of(settings["recipe"], n, c, more) for c in contexts for n in networks}
    places = {pair: folder_of(folder, f"{pair[0]}_{pair[1]}", each) for pair, each in words.items()}
    systems: dict[str, dict[str, Any]] = {network: {} for network in networks}
    for (network, context), each in words.items():
        seeds, result = [], {}
        for seed in range(1, settings["seeds"] + 1):
            place = places[network, context] / f"seed_{seed}"
            result = trained(each, place, seed)
            run = multihead.load(place, *(word for word in each if word.startswith("plugin=")))
            stream: Any = prepare(compose(each), ("val",), run.task.vocab).encoded["lm"]["val"]
            losses = loss_at(run, torch.from_numpy(stream.read(0, len(stream))).long(), context)
            seeds.append({"seed": seed, "val/loss": result["val/loss"], "by_position": losses.tolist()})
        size = {name: result[name] for name in ("parameters", "tokens", "steps")}
        systems[network][str(context)] = {**size, "seeds": seeds}
    for context in map(str, contexts):
        require_equal({name: of_network[context]["parameters"] for name, of_network in systems.items()}, context)
    speeds = paces({f"{n} {c}": each for (n, c), each in words.items()}, folder / "paces.json", settings["rounds"])
    for network, context in words:
        systems[network][str(context)]["tokens_per_second"] = speeds[f"{network} {context}"]
    first = places[networks[0], contexts[0]] / "seed_1"
    return {"recipe": settings["recipe"], "words": list(more), "systems": systems, **circumstances(first)}


def mean(seeds: Sequence[Mapping[str, Any]], first: int, last: int) -> float:
    """Returns the loss at the positions from ``first`` to ``last``, averaged over seeds."""
    return statistics.fmean(statistics.fmean(seed["by_position"][first - 1 : last]) for seed in seeds)


def table(found: Mapping[str, Any]) -> str:
    """Returns two Markdown tables: each training, and the loss of the longest context by position."""
    lines = ["| network | context | parameters | tokens a second | minutes | validation loss |"]
    lines.append("| --- |" + " ---: |" * 5)
    for network, of_network in found["systems"].items():
        for context, one in of_network.items():
            pace = statistics.median(one["tokens_per_second"])
            losses = ", ".join(f"{seed['val/loss']:.3f}" for seed in one["seeds"])
            cells = [network, context, f"{one['parameters']:,}", f"{pace:,.0f}", f"{one['tokens'] / pace / 60:.1f}"]
            lines.append(f"| {' | '.join([*cells, losses])} |")
    longest = max((context for of_network in found["systems"].values() for context in of_network), key=int)
    lines += ["", f"| tokens seen, context {longest} | {' | '.join(found['systems'])} |"]
    lines.append("| --- |" + " ---: |" * len(found["systems"]))
    for first, last in octaves(int(longest)):
        losses = [mean(of_network[longest]["seeds"], first, last) for of_network in found["systems"].values()]
        name = str(last) if first == last else f"{first} to {last}"
        lines.append(f"| {name} | {' | '.join(f'{loss:.3f}' for loss in losses)} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[str, Any], picture: Path) -> None:
    """Draws the loss against the position, in one picture for each context."""
    contexts = list(next(iter(found["systems"].values())))
    size = (3.6 * len(contexts), 3.5)
    figure, places = plt.subplots(1, len(contexts), figsize=size, squeeze=False, sharey=True, constrained_layout=True)
    for place, context in zip(places[0], contexts, strict=True):
        for network, of_network in found["systems"].items():
            marks = [(last, mean(of_network[context]["seeds"], first, last)) for first, last in octaves(int(context))]
            place.plot(*zip(*marks, strict=True), ".-", label=LABELS.get(network, network))
        place.set(xscale="log", xlabel="tokens seen", title=f"context {context}")
        place.set_xticks([last for _, last in octaves(int(context))][::2])
        place.xaxis.set_major_formatter("{x:.0f}")
        place.minorticks_off()
        place.grid(alpha=0.3)
    places[0][0].set(ylabel="validation loss, nats a token")
    places[0][0].legend(frameon=False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Trains, and writes the results as JSON, as tables and as a picture."""
    settings, more = split_words(arguments, OWN)
    for name in settings["architectures"].split(","):
        if name not in ARCHITECTURES:
            sys.exit(f"architectures={name}: there are {', '.join(ARCHITECTURES)}")
    out = Path(settings["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    found = measure(settings, more)
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(found))
    draw(found, out.with_suffix(".png"))
    print("\n" + table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
