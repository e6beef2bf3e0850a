"""``evaluate``: any split or file, any decoding, one run or several."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multihead.config.compose import compose_from_run, load_yaml
from multihead.config.training import Config
from multihead.errors import ConfigError

log = logging.getLogger("multihead")


def run(words: Sequence[str]) -> int:
    """``multihead evaluate run=RUN [run=RUN2 ...] [data.split=val] [data.test=FILE] [decoding.num_beams=8]``."""
    from multihead.progress import metrics_table, open_log, runs_table
    from multihead.tracking import quiet_lightning

    runs, words = run_words(words)
    quiet_lightning()
    open_log(None)
    results = {path: evaluate(path, words) for path in runs}
    table = runs_table(results) if len(results) > 1 else metrics_table(results[runs[0]])
    log.info("", extra={"renderable": table})
    return 0


def run_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits ``run=`` (one directory, or ``run=[A,B]``) from the overrides.

    Raises:
        ConfigError: If no run is named.
    """
    runs: list[str] = []
    rest = []
    for word in words:
        if word.startswith("run="):
            value = word[len("run=") :]
            listed = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
            runs += [item.strip() for item in listed if item.strip()]
        else:
            rest.append(word)
    if not runs:
        raise ConfigError("run", "is missing", "run=outputs/TASK/DATA/...")
    return runs, rest


def evaluate(run: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """Metrics of a finished run on ``data.split`` (default test); written beside result.json, never over it.

    Args:
        run: The run's directory.
        words: Overrides as on the command line.
    """
    import lightning as L

    from multihead.commands.train import devices, give_texts, source_of
    from multihead.data.module import DataModule
    from multihead.prepare import prepare
    from multihead.run import capsule_dir, load_vocab, load_weights, write_result
    from multihead.tasks import build_task

    path = capsule_dir(run)
    composition = compose_from_run(load_yaml(path / "config.yaml"), words, run=run)
    config, split = composition.config, composition.config.data.split
    prepared = prepare(composition, (split,), load_vocab(path))
    for text in prepared.texts.values():
        text.rename(split, "test")
    prepared.encoded = {name: {"test": splits[split]} for name, splits in prepared.encoded.items()}
    for note in prepared.notes:
        log.info("data: %s", note)
    task = build_task(config, prepared.vocab, composition.plugin)
    load_weights(task, path / "model" / "model.safetensors")
    give_texts(task, prepared)
    sources = {name: source_of(config, task.member(name), prepared) for name in prepared.texts}
    data = DataModule(sources, config.data, seed=config.seed)
    one_process = devices(config) | {"devices": 1, "strategy": "auto", "num_nodes": 1}
    clock = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="multihead-") as scratch:
        trainer = L.Trainer(**one_process, default_root_dir=scratch, logger=False)
        trainer.test(task, datamodule=data, verbose=False)
    metrics = {name: value for name, value in task.recorded.items() if name.startswith("test/")}
    result = {name.replace("test/", f"{split}/", 1): value for name, value in metrics.items()}
    result |= {"seconds": time.monotonic() - clock, "examples": sum(len(splits["test"]) for splits in prepared.encoded.values()), **task.signatures()}
    name = result_name(config, split, words)
    write_result(path, {**result, "overrides": " ".join(words)}, name)
    log.info("wrote %s", Path(path, name))
    return result


def result_name(config: Config, split: str, words: Sequence[str]) -> str:
    """``evaluate_SPLIT.json``, with a mark of the overrides where there are any."""
    import hashlib

    changed = sorted(word for word in words if not word.startswith("data.split="))
    mark = "_" + hashlib.sha256(" ".join(changed).encode()).hexdigest()[:8] if changed else ""
    return f"evaluate_{split}{mark}.json"
