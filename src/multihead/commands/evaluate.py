"""``evaluate`` measures one run or several, on any split or file and with any decoding."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.compose import Composition, compose_from_run, load_yaml
from multihead.config.settings import read_words
from multihead.config.training import Config
from multihead.config.verbs import EvaluateSettings
from multihead.config.words import write
from multihead.errors import ConfigError, side_output
from multihead.runs.files import read_json, replace_synced

if TYPE_CHECKING:
    from multihead.data.prepare import Prepared
    from multihead.tasks.base import Task

log = logging.getLogger("multihead")


MOST_LINES = 10
"""Number of classes whose thresholds are shown."""


def run(words: Sequence[str]) -> int:
    """Runs ``multihead evaluate``; see `EvaluateSettings`."""
    runs = read_words(EvaluateSettings, words)[0].run
    typed = [word for word in words if not word.startswith("run=")]
    from multihead.runs.console import open_log
    from multihead.runs.tables import metrics_table, runs_table

    open_log(None)
    results = {path: evaluate(path, typed) for path in runs}
    table = runs_table(results) if len(results) > 1 else metrics_table(results[runs[0]])
    log.info("", extra={"renderable": table})
    return 0


def evaluate(run: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """Measures a finished run on ``data.split`` (by default test) and writes the metrics beside its result.json.

    Args:
        run: The run's directory.
        words: Settings and overrides as on the command line.
    """
    from multihead.runs.directory import run_directory, write_result
    from multihead.runs.run import join_ensemble, load_calibration, load_weights, say_without_effect
    from multihead.runs.tables import plain_table
    from multihead.tasks import build_task
    from multihead.tasks.evaluation import TYPES
    from multihead.training.build import evaluation_data
    from multihead.training.precision import cautions, settle
    from multihead.training.suspicions import notes_on

    path = run_directory(run)
    settings, overrides = read_words(EvaluateSettings, [write("run", run), *words])
    composition = compose_from_run(load_yaml(path / "config.yaml"), overrides, run=run)
    _require_label(settings, composition.config)
    if settings.phenomena:
        from multihead.comparing.phenomena import require_breakdown

        require_breakdown(composition.config)
    for line in [*settle(composition), *cautions(composition.config)]:
        log.info("%s", line)
    config, split = composition.config, composition.config.data.split
    prepared = _prepare(composition, path, words)
    say_without_effect(config)
    task = build_task(config, prepared.vocab, composition.plugin, evaluation_data(prepared))
    join_ensemble(task, settings.ensemble, overrides)
    task.to(dtype=TYPES.get(config.precision))  # float32 would round the weights of 64-true
    load_weights(task, path / "model" / "model.safetensors")
    load_calibration(task, path)
    if settings.calibrate is not None or settings.threshold:
        _decide(settings, task, composition, path)
    result = _measure(config, task, prepared)
    result["notes"] = []
    with side_output("the notes on the result"):
        result["notes"] = notes_on(task, result, split)
    name = result_name(config, split, words)
    write_result(path, {**result, "overrides": " ".join(words)}, name)
    with side_output("the task's report"):
        for title, rows in task.report(path, Path(name).stem).items():
            log.info("", extra={"renderable": plain_table(title, rows)})
    if settings.phenomena:
        with side_output("the table of phenomena"):
            _show_phenomena(task, config, path, Path(name).stem)
    for text in result["notes"]:
        log.warning("note: %s", text)
    log.info("wrote %s", Path(path, name))
    return result


def _show_phenomena(task: Task, config: Config, path: Path, name: str) -> None:
    """Shows the share of right answers by what the sentences contain, and writes it as ``phenomena_NAME.csv``."""
    import csv

    from multihead.comparing.phenomena import breakdown
    from multihead.runs.tables import plain_table

    for part, member in task.members().items():
        rows = breakdown(config, member, config.data.split)
        several = f"_{part}" if len(task.members()) > 1 else ""
        file = path / f"phenomena_{name}{several}.csv"
        with file.open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows(rows)
        log.info("", extra={"renderable": plain_table("right answers by what the sentences contain", rows)})


def _require_label(settings: EvaluateSettings, config: Config) -> None:
    """Checks that a threshold is for one class, or for every class of a run whose examples may have several.

    Raises:
        ConfigError: No class is named.
    """
    several = getattr(config.task.members().get("classification"), "multi_label", True)
    if settings.threshold not in ("", "none") and not settings.threshold_label and not several:
        raise ConfigError("threshold_label", "is missing", "threshold_label=CLASS says which class")


def _prepare(composition: Composition, path: Path, words: Sequence[str]) -> Prepared:
    """Prepares the split that is evaluated, under the name ``test``."""
    from multihead.data.prepare import prepare, warn_of_skipped
    from multihead.runs.directory import load_vocab

    split = composition.config.data.split
    prepared = prepare(composition, (split,), load_vocab(path))
    warn_of_skipped(prepared.skipped)
    _warn_of_other_rows(path, split, prepared, words)
    for text in prepared.texts.values():
        text.rename(split, "test")
    prepared.encoded = {name: {"test": splits[split]} for name, splits in prepared.encoded.items()}
    prepared.unknown = {name: {"test": shares[split]} for name, shares in prepared.unknown.items() if split in shares}
    for note in prepared.notes:
        log.info("data: %s", note)
    return prepared


def _measure(config: Config, task: Task, prepared: Prepared) -> dict[str, Any]:
    """Returns the metrics by their names for this split, the seconds, the number of rows, and how text was scored."""
    import torch

    from multihead import capabilities
    from multihead.data.encode import Encoded
    from multihead.data.module import DataModule
    from multihead.tasks.evaluation import test
    from multihead.training.build import source_of

    split = config.data.split
    sources = {name: source_of(config, task.member(name), prepared) for name in prepared.texts}
    data = DataModule(sources, config.data, seed=config.seed)
    kind = capabilities.device_of(config.accelerator)
    device = torch.device({"tpu": "xla"}.get(kind, kind))  # the first one
    clock = time.monotonic()
    test(task, data.test_dataloader(), device, config.precision)
    metrics = {name: value for name, value in task.recorded.items() if name.startswith("test/")}
    examples = sum(len(ids["test"]) for ids in prepared.encoded.values() if isinstance(ids["test"], Encoded))
    counted = {"examples": examples} if examples else {}  # running text has none
    counted |= {"skipped_rows": prepared.skipped["test"][0]} if "test" in prepared.skipped else {}
    return {
        **{name.replace("test/", f"{split}/", 1): value for name, value in metrics.items()},
        "seconds": time.monotonic() - clock,
        **counted,
        **task.signatures(),
    }


def _warn_of_other_rows(path: Path, split: str, prepared: Prepared, words: Sequence[str]) -> None:
    """Warns if a split differs from the one that the run had, although the user asked for no other data."""
    name, file = f"data_{split}", path / "environment.json"
    asked = any(word.startswith("data") and not word.startswith("data.split=") for word in words)
    known = read_json(file, dict).get("data") if file.is_file() else None
    if not asked and isinstance(known, dict) and known.get(name) not in (None, prepared.fingerprints[name]):
        cause = "the files or the rule for holding out rows have changed"
        log.warning(
            "data: the rows of %s are not those that the run had (%s); some may have been in its training data",
            split,
            cause,
        )


def _decide(settings: EvaluateSettings, task: Task, composition: Composition, path: Path) -> None:
    """Fits a temperature or chooses a threshold on the validation split, and saves it in the run directory."""
    from multihead.data.prepare import prepare
    from multihead.metrics.calibration import FILE
    from multihead.tasks.classification import ClassificationTask

    classifier = task.members().get("classification")
    if not isinstance(classifier, ClassificationTask):
        word = "threshold" if settings.threshold else "calibrate"
        what = f"needs a run of task=classification, but this run has task={task.settings.name}"
        raise ConfigError(word, what, f"leave {word} out")
    prepared = prepare(composition, ("val",), task.vocab)
    columns, encoded = prepared.texts["classification"].corpus.splits["val"].columns, prepared.encoded["classification"]
    task.eval()
    chosen = classifier.calibrate(
        encoded["val"], columns, settings.calibrate, settings.threshold, settings.threshold_label
    )
    replace_synced(path / "model" / FILE, chosen.content())
    facts, count = ", ".join(f"{name} {value}" for name, value in chosen.facts().items()), len(columns["text"])
    if len(chosen.thresholds) > 1:
        facts = f"thresholds of {len(chosen.thresholds)} classes"
    log.info("chosen on val (%d examples): %s; saved in %s", count, facts or "nothing", path / "model" / FILE)
    for name, threshold in list(chosen.thresholds.items())[:MOST_LINES]:
        log.info("%s on the %d examples of val: %s", name, count, threshold)
    if len(chosen.thresholds) > MOST_LINES:
        log.info("... and %d more", len(chosen.thresholds) - MOST_LINES)
    lacking = [name for name in classifier.labels if name not in chosen.thresholds]
    if settings.threshold not in ("", "none") and not settings.threshold_label and lacking:
        shown = ", ".join(lacking[:MOST_LINES]) + (" ..." if len(lacking) > MOST_LINES else "")
        log.info("no example of val has these classes, so they keep one half: %s", shown)


def result_name(config: Config, split: str, words: Sequence[str]) -> str:
    """Returns ``evaluate_SPLIT.json``; if there are overrides, the name has a mark that stands for them."""
    import hashlib

    changed = sorted(word for word in words if not word.startswith("data.split="))
    mark = "_" + hashlib.sha256(" ".join(changed).encode()).hexdigest()[:8] if changed else ""
    return f"evaluate_{split}{mark}.json"
