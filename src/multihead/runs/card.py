"""The model card of a run, in the layout of Hugging Face: a head in YAML with the scores, then what people read.

`RUN/model/README.md` is such a card. An export to Hugging Face's layout writes one with the same parts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from multihead.config.changes import OF_THE_COMMAND
from multihead.config.keys import leaf_keys
from multihead.config.task import LanguageModelingConfig, PooledConfig, TaskConfig
from multihead.config.training import Config
from multihead.runs.files import read_json, replace_synced

METRIC_TYPES = {
    **dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), "rouge"),
    "macro_f1": "f1",
    "micro_f1": "f1",
    "mcc": "matthews_correlation",
    "auroc": "roc_auc",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Our names of metrics to Hugging Face's, where they differ."""
RECIPE_NODES = ("task", "model", "tokenizer", "optim", "trainer", "decoding", "lora")
RECIPE_KEYS = ("data.batch_tokens", "data.part_tokens", "precision", "seed", "devices", "strategy", "compile")


@dataclass(frozen=True)
class Facts:
    """What the files of a run say. A run that is not finished has no result."""

    config: Config
    result: Mapping[str, Any]
    """The content of result.json."""
    known: Mapping[str, Any]
    """The content of environment.json."""

    @classmethod
    def read(cls, run_dir: Path, config: Config) -> Facts:
        """Reads the files of a run directory, as far as they are there."""
        files = (run_dir / name for name in ("result.json", "environment.json"))
        result, known = (read_json(file, dict) if file.is_file() else {} for file in files)
        return cls(config, result, known)

    @property
    def title(self) -> str:
        """The data set and the task."""
        return f"{self.config.data.name}: {self.config.task.name}"

    @property
    def scores(self) -> dict[str, float]:
        """The metrics of the test split, by their names in result.json."""
        numbers = {name: value for name, value in self.result.items() if name.startswith("test/")}
        return {name: value for name, value in numbers.items() if isinstance(value, int | float)}


def write(run_dir: Path, config: Config) -> None:
    """Writes the card of a finished run into its model's folder."""
    replace_synced(run_dir / "model" / "README.md", run_card(Facts.read(run_dir, config)).encode())


def run_card(facts: Facts) -> str:
    """Returns the card of a run, whose model Multihead loads."""
    parameters, data = facts.result.get("parameters", 0), facts.config.data.name
    about = f"A Transformer of {parameters:,} parameters, trained by Multihead on the data set `{data}`."
    use = """`RUN` is the run directory, which holds this folder as `model/`. It needs only `config.yaml` beside it.

```bash
echo "..." | multihead predict run=RUN
```

```python
import multihead

run = multihead.load("RUN")
```"""
    return card(facts, "multihead", about, use)


def card(facts: Facts, library: str, about: str, use: str) -> str:
    """Returns a card.

    Args:
        facts: What is known about the run.
        library: The library that loads the model, by its name on the hub.
        about: What the model is.
        use: How the model is used.
    """
    start = facts.config.init_from
    origin = f"It began from `{start}`, whose licence holds for it too.\n\n" if start else ""
    parts = [
        f"---\n{yaml.safe_dump(head(facts, library), sort_keys=False, allow_unicode=True)}---",
        f"# {facts.title}",
        f"{about}\n\n{origin}{use}",
        f"## Scores on the test split\n\n{_scores(facts)}",
        f"## Recipe\n\n{_recipe(facts.config)}",
        f"## Data\n\n{_data(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Limits\n\n{_limits(facts)}",
    ]
    return "\n\n".join(parts) + "\n"


def head(facts: Facts, library: str) -> dict[str, Any]:
    """Returns the metadata of a card: the library, the kind of task, and the scores as a ``model-index``."""
    members = facts.config.task.members()
    kinds = {name: pipeline(settings) for name, settings in members.items()}
    found: dict[str, Any] = {"library_name": library, "tags": ["multihead", "transformer"]}
    if len(kinds) == 1:
        found["pipeline_tag"] = pipeline(next(iter(members.values())))
    data = {"type": facts.config.data.name, "name": facts.config.data.name, "split": "test"}
    results = []
    for name, kind in kinds.items():
        beginning = f"test/{name}/" if len(kinds) > 1 else "test/"
        scores = {key: value for key, value in facts.scores.items() if key.startswith(beginning)}
        metrics = [_metric(key, key.removeprefix(beginning), value) for key, value in scores.items()]
        if metrics:
            results.append({"task": {"type": kind, "name": name}, "dataset": dict(data), "metrics": metrics})
    if results:
        found["model-index"] = [{"name": facts.title, "results": results}]
    return found


def pipeline(settings: TaskConfig) -> str:
    """Returns the hub's name for a task; a plugin's task has its own."""
    if isinstance(settings, PooledConfig):
        return "text-classification"
    if isinstance(settings, LanguageModelingConfig):
        return "fill-mask" if settings.objective == "masked" else "text-generation"
    return settings.name


def _metric(key: str, name: str, value: float) -> dict[str, Any]:
    kind = name.partition("/")[0]
    return {"type": METRIC_TYPES.get(kind, kind), "name": key, "value": value}


def _scores(facts: Facts) -> str:
    if not facts.scores:
        return "The run is not finished, so there are none."
    signatures = [f"`{value}`" for name, value in facts.result.items() if name.endswith("signature")]
    names = [name.replace("|", "\\|") for name in facts.scores]  # a class may have any name
    rows = [f"| {name} | {value:.6g} |" for name, value in zip(names, facts.scores.values(), strict=True)]
    quoted = ["", f"Signatures: {', '.join(signatures)}."] if signatures else []
    return "\n".join(["| metric | value |", "| --- | --- |", *rows, *quoted])


def _recipe(config: Config) -> str:
    """Returns the keys that differ from the defaults of the dataclasses, as they are typed."""
    words = []
    for name, key in leaf_keys([type(config.task)]).items():
        value = functools.reduce(getattr, name.split("."), config)
        belongs = name.split(".")[0] in RECIPE_NODES or name in RECIPE_KEYS
        if belongs and name not in OF_THE_COMMAND and value != key.default:
            words.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    text = "\n".join(words)
    return f"These keys differ from Multihead's defaults:\n\n```text\n{text}\n```"


def _data(facts: Facts) -> str:
    marks = [f"- {key.removeprefix('data_')}: sha256 `{mark}`" for key, mark in facts.known.get("data", {}).items()]
    return "\n".join([f"The data set is `{facts.config.data.name}`. Its content and the tokenizers:", "", *marks])


def _training(facts: Facts) -> str:
    """Returns the command that trains the model again, with the code and the machine that it ran on."""
    known, result = facts.known, facts.result
    versions = ", ".join(f"{name} {version}" for name, version in known.get("versions", {}).items())
    machine = known.get("hardware", {})
    processors = [str(machine.get("processor")), f"threads: {known.get('threads')}", *machine.get("gpus", [])]
    lines = ["```bash", str(known.get("command", "")), "```", ""]
    if result:
        took = f"{result['tokens']:,} target tokens, {result['seconds']:,.0f} seconds"
        lines.append(f"Steps: {result['steps']:,}, with {took}.")
    lines.append(f"Commit of Multihead: {result.get('git_commit') or known.get('git_commit')}. Versions: {versions}.")
    return "\n".join([*lines, f"Machine: {', '.join(processors)}."])


def _limits(facts: Facts) -> str:
    """Returns what a reader should not expect, and what looked suspicious about the result."""
    config = facts.config
    lines = [
        f"The scores are those of one run (seed {config.seed}) on the test split of `{config.data.name}`. Another seed "
        "gives other scores, and other texts may be answered worse.",
        f"The model reads at most {config.model.max_len} tokens; a longer text is cut.",
        "Nobody has examined its outputs for bias or harm.",
    ]
    if config.data.format == "grammar":
        lines.insert(0, "The data are sentences of a small built-in grammar. The model knows no other language.")
    lines += [f"Note: {note}." for note in facts.result.get("notes", [])]
    return "\n".join(f"- {line}" for line in lines)
