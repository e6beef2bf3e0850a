"""Compares the Transformer with an LSTM and a CNN of as many parameters, with the same data, steps and tokens.

    python benchmarks/transformers_against_others.py [tasks=translation,lm,classification] [seeds=3] [candidates=2]
        [steps=N] [architectures=transformer,lstm,conv] [runs=DIR] [out=FILE] [KEY=VALUE ...]

The blocks are those of `recurrent_and_convolutional.py`; ``lstm_mixer`` and ``conv_mixer`` keep the feed-forward. Each
architecture has the positions that suit it. Each is tuned with the same effort. It tries ``candidates`` settings of the
optimizer with one seed. The setting that is best on the validation split by the task's metric runs with all seeds.
`multihead compare` does the rest on the test split. Seconds are kept in the JSON and not shown: they are a finding only
if nothing else ran on the machine.

Everything else is the framework's and the same for all. KEY=VALUE goes to every run. Finished runs are not run again,
so the same command continues an interrupted one. Results are added to ``out`` by task, and stand beside it as Markdown.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rounds import split_words

import multihead
from multihead.comparing.compare import compare
from multihead.config.compose import compose

PLUGIN = Path(__file__).with_name("recurrent_and_convolutional.py")
OWN = {
    "tasks": "translation,lm,classification",
    "architectures": "transformer,lstm,conv",
    "seeds": 3,
    "candidates": 2,
    "steps": 0,
    "runs": "outputs/transformers_against_others",
    "out": "benchmarks/results/transformers_against_others.json",
}
GRAMMAR = ["data.batch_tokens=1024", "data.grammar.val_size=200", "model.tie_embeddings=source_target"]
CHARACTERS = ["tokenizer.kind=char", "data.batch_tokens=1024", "model.max_len=128", "model.tie_embeddings=none"]
"""The output layer is not tied. All three learn faster without, the LSTM and the CNN most. 120 steps of translation
reach 2.63 instead of 3.31 nats a token (LSTM), 2.26 instead of 3.08 (CNN), 2.99 instead of 3.19 (Transformer)."""
TASKS = {
    "translation": (400, ["task=translation", "data=grammar", *GRAMMAR]),
    "lm": (500, ["task=lm", "data=tinyshakespeare", *CHARACTERS]),
    "classification": (300, ["task=classification", "data=trec", "data.batch_tokens=1024", "model.dropout=0.1"]),
}
"""Number of steps if ``steps`` is 0, and the words that the runs of a task share."""
LSTM, CONV = ([f"plugin={PLUGIN}", f"model.attention={name}"] for name in ("lstm", "conv"))
ARCHITECTURES = {
    "transformer": ["model.position=rotary"],
    "lstm": [*LSTM, "model.position=none", "model.feed_forward=none"],
    "conv": [*CONV, "model.position=sinusoidal", "model.feed_forward=none"],
    "lstm_mixer": [*LSTM, "model.position=none"],
    "conv_mixer": [*CONV, "model.position=sinusoidal"],
}
ADAMW = ["optim=adamw", "optim.schedule=cosine", "optim.warmup_steps=50"]
CANDIDATES = [
    ["optim=muon"],
    [*ADAMW, "optim.lr=3e-3"],
    [*ADAMW, "optim.lr=1e-3"],
    ["optim=muon", "optim.muon_lr=5e-3"],
]
"""Settings of the optimizer. Every architecture tries the first ones."""


def folder_of(runs: Path, architecture: str, words: Sequence[str]) -> Path:
    """Returns the folder of the seeds of one configuration. Other words, or a changed plugin, give another folder."""
    content = "\0".join(PLUGIN.read_text() if word.startswith("plugin=") else word for word in words)
    return runs / f"{architecture}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def run(words: Sequence[str], folder: Path, seed: int) -> dict[str, Any]:
    """Trains one seed, if it was not trained yet, and returns what result.json holds."""
    run_dir = folder / f"seed_{seed}"
    if not (run_dir / "result.json").is_file():
        shutil.rmtree(run_dir, ignore_errors=True)  # interrupted
        multihead.train([*words, f"seed={seed}", f"run_dir={run_dir}"])
    return json.loads((run_dir / "result.json").read_text())


def tune(
    words: Sequence[str], architecture: str, runs: Path, candidates: int
) -> tuple[list[str], Path, dict[str, float]]:
    """Returns the best candidate's words and folder, and the validation metric of each with the first seed."""
    task = compose(words).config.task
    sign = 1 if task.monitor_mode == "max" else -1
    tried = []
    for candidate in CANDIDATES[:candidates]:
        folder = folder_of(runs, architecture, [*words, *candidate])
        tried.append((run([*words, *candidate], folder, seed=1)[task.monitor], candidate, folder))
    _, candidate, folder = max(tried, key=lambda row: sign * row[0])
    return [*words, *candidate], folder, {" ".join(words): value for value, words, _ in tried}


def measure(name: str, settings: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Tunes, trains and compares the architectures on one task."""
    steps, of_task = TASKS[name]
    steps = settings["steps"] or steps
    length = [f"trainer.max_steps={steps}", f"trainer.val_every_n_steps={max(1, steps // 3)}", "logger=none"]
    length.append(f"trainer.checkpoint_every_n_steps={steps}")
    by_key = {word.partition("=")[0]: word for word in [*of_task, *length, *words]}  # the last word of a key wins
    shared = list(by_key.values())
    runs = Path(settings["runs"], name)
    names = settings["architectures"].split(",")
    details, folders = {}, []
    for architecture in names:
        own = [*shared, *ARCHITECTURES[architecture]]
        chosen, folder, tried = tune(own, architecture, runs, settings["candidates"])
        results = [run(chosen, folder, seed) for seed in range(1, settings["seeds"] + 1)]
        folders.append(folder)
        details[architecture] = {
            "words": [word for word in chosen if word not in shared and not word.startswith("plugin=")],
            "candidates": tried,
            "tokens": results[0]["tokens"],
            "seconds": [round(result["seconds"], 1) for result in results],
        }
    report = compare([str(folder) for folder in folders], names=names if len(names) > 1 else ())
    about = json.loads((folders[0] / "seed_1" / "environment.json").read_text())
    result = {
        "words": shared,
        "metric": report.metric,
        "architectures": {
            system.name: {"values": system.values, "parameters": system.parameters, **details[architecture]}
            for architecture, system in zip(names, report.systems, strict=True)
        },
        "pairs": [asdict(pair) for pair in report.pairs],
        "notes": [*report.warnings, *report.notes],
        "versions": about["versions"],
        "hardware": about["hardware"] | {"threads": about["threads"]},
    }
    return result


def table(results: dict[str, Any]) -> str:
    """Returns all tasks as Markdown: mean and deviation of the test metric of each architecture, and the findings."""
    names = list(dict.fromkeys(name for result in results.values() for name in result["architectures"]))
    lines = [f"| task | data | metric | steps | seeds | {' | '.join(names)} |"]
    lines.append("|---|---|---|---:|---:|" + "---:|" * len(names))
    for task, result in results.items():
        words = dict(word.split("=", 1) for word in result["words"])
        found = [result["architectures"].get(name, {}).get("values", []) for name in names]
        cells = [task, words["data"], result["metric"].removeprefix("test/"), words["trainer.max_steps"]]
        lines.append(f"| {' | '.join([*cells, str(max(map(len, found))), *map(spread, found)])} |")
    for task, result in results.items():
        sizes = ", ".join(f"{name} {found['parameters']:,}" for name, found in result["architectures"].items())
        counts = sorted({found["tokens"] for found in result["architectures"].values()})
        tokens = ", ".join(f"{count:,}" for count in counts)
        lines += ["", f"**{task}** Parameters: {sizes}. Target tokens of a run: {tokens}."]
        lines += [f"- {pair['statement']}" for pair in result["pairs"]] + [f"- {note}" for note in result["notes"]]
    return "\n".join(lines)


def mean(values: Sequence[float]) -> float:
    """Returns the arithmetic mean."""
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> str:
    """Returns mean and standard deviation (of a sample) in four digits, or a dash if there is no value."""
    if not values:
        return "-"
    deviation = (sum((value - mean(values)) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
    return f"{mean(values):.4g}" + (f" ± {deviation:.2g}" if len(values) > 1 else "")


def main(arguments: Sequence[str]) -> None:
    """Measures the tasks of the command line."""
    settings, words = split_words(arguments, OWN)
    for key, known in (("tasks", TASKS), ("architectures", ARCHITECTURES)):
        for name in settings[key].split(","):
            if name not in known:
                sys.exit(f"{key}={name}: there are {', '.join(known)}")
    out = Path(settings["out"])
    for name in settings["tasks"].split(","):
        result = measure(name, settings, words)
        known = json.loads(out.read_text()) if out.is_file() else {}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(known | {name: result}, indent=1) + "\n")
        text = table(json.loads(out.read_text()))
        out.with_suffix(".md").write_text(text + "\n")
    print("\n" + text)


if __name__ == "__main__":
    main(sys.argv[1:])
