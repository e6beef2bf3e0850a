"""What a run shows on the screen: data and model before it starts, result and next commands at its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.slots import added_choices
from multihead.config.training import Config
from multihead.config.words import pasted, write
from multihead.data.encode import Encoded
from multihead.data.prepare import Prepared, warn_of_skipped
from multihead.errors import side_output
from multihead.runs.run import say_without_effect

if TYPE_CHECKING:
    import lightning as L

    from multihead.tasks.base import Task

log = logging.getLogger("multihead")

MOST_CLASSES = 10
"""Number of classes that the start of a run names."""


def show_start(config: Config, notes: Sequence[str], prepared: Prepared, task: Task, run_dir: Path) -> None:
    """Logs one line each on the device, the data, the model and the run directory."""
    for note in notes:
        log.info("%s", note)
    for note in prepared.notes:
        log.info("data: %s", note)
    warn_of_skipped(prepared.skipped)
    say_without_effect(config)
    tokenizers = prepared.vocab.tokenizers.values()
    vocabulary = " + ".join(f"{t.vocab_size:,}" for t in {id(t): t for t in tokenizers}.values())
    parameters = sum(p.numel() for p in task.model.parameters())
    trained = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    for name, splits in prepared.encoded.items():
        counts = ", ".join(f"{split} {len(ids):,}" for split, ids in splits.items())
        unit = "examples" if isinstance(next(iter(splits.values())), Encoded) else "tokens"
        of_task = f" for {name}" if len(prepared.encoded) > 1 else ""
        log.info("data %s%s: %s %s; vocabulary %s", config.data.name, of_task, counts, unit, vocabulary)
    if prepared.vocab.labels:
        names, more = prepared.vocab.labels[:MOST_CLASSES], len(prepared.vocab.labels) - MOST_CLASSES
        log.info("classes: %s", ", ".join(names) + (f" and {more} more" if more > 0 else ""))
    for scale in prepared.vocab.scales.values():
        log.info("labels of train: mean %.6g, standard deviation %.6g", scale.mean, scale.deviation)
    chosen = "".join(f", {key}={name}" for key, name in added_choices(config).items())
    log.info(
        "model %s parameters%s%s; %d steps of up to %s target tokens; run %s",
        f"{parameters:,}",
        f", of which {trained:,} are trained" if trained < parameters else "",
        chosen,
        config.trainer.max_steps,
        f"{config.data.batch_tokens:,}",
        run_dir,
    )


@side_output("the summary on the screen")
def show_end(config: Config, run_dir: Path, task: Task, result: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Shows the task's tables, the metrics, some samples, the next commands and the notes on the result."""
    from multihead.runs.tables import plain_table, summary

    for name, rows in tables.items():
        with side_output(f"the table {name}"):
            log.info("", extra={"renderable": plain_table(name, rows)})
    shown: list[dict[str, str]] = []
    with side_output("the samples on the screen"):
        shown = [texts_of(sample) for sample in task.samples if "nats" not in sample][: config.task.num_samples]
    summary(result, shown, next_commands(config, run_dir))
    for text in result["notes"]:
        log.warning("note: %s", text)


def show_profile(run_dir: Path, trainer: L.Trainer, task: Task) -> dict[str, Any]:
    """Shows in tables how long the parts of a step took; writes the same to profile.json and returns it."""
    from multihead.runs.tables import plain_table
    from multihead.training.profiling import report, tables

    found = report(trainer, task)
    (run_dir / "profile.json").write_text(json.dumps(found, indent=1) + "\n")
    with side_output("the tables of the profile"):
        for title, rows in tables(found).items():
            log.info("", extra={"renderable": plain_table(title, rows)})
    return found


def texts_of(sample: Mapping[str, Any]) -> dict[str, str]:
    """Input, reference and output of a sample, or whatever a plugin's task gives, as texts by name."""
    text = {k: " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in sample.items()}
    if sample.keys() >= {"source", "reference", "output"}:
        return {name: text[name] for name in ("source", "reference", "output")}
    if sample.keys() >= {"text", "label", "predicted"}:
        source = " | ".join(text[role] for role in ("text", "text_b") if role in text)
        labels = map(_label_text, (sample["label"], sample["predicted"]))
        return dict(zip(("source", "reference", "output"), (source, *labels), strict=True))
    return {name: value for name, value in text.items() if name != "index"}


def _label_text(label: Any) -> str:
    """A class, several classes, or a number, as the screen shows it."""
    if isinstance(label, float):
        return f"{label:.6g}"
    return ", ".join(label) if isinstance(label, list) else str(label)


def next_commands(config: Config, run_dir: Path) -> list[str]:
    """What the user can type next."""
    tries = dict.fromkeys(("translation", "summarization"), "decoding.num_beams=5") | {
        "classification": "calibrate=true"
    }
    members = list(config.task.members())
    part = [f"part={members[0]}"] if len(members) > 1 else []
    masked = (
        getattr(config.task, "objective", "causal") == "masked"
    )  # such a model continues no text; another task starts from it
    plugin = [write("plugin", config.plugin)] if config.plugin else []
    run = [write("run", str(run_dir)), *plugin]
    use = pasted("python", "train.py", "task=classification", write("init_from", str(run_dir)))
    return [
        use if masked else f'echo "..." | {pasted("multihead", "predict", *run, *part)}',
        pasted("multihead", "evaluate", *run, tries.get(config.task.name, "data.split=val")),
        pasted("multihead", "explain", *run, "key=optim.lr"),
    ]
