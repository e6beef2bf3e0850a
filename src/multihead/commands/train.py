"""``train``: joins data, task and trainer into one run, and leaves a capsule."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from multihead.config.compose import Composition, compose_from_run, load_yaml
from multihead.config.data import SPLITS
from multihead.config.training import Config
from multihead.data.corpus import Corpus, load_corpus
from multihead.data.encode import Encoded, apply_overlong, cache_root, cached_tokenizer, encode_corpus
from multihead.data.tokenizer import Tokenizer
from multihead.errors import MultiheadError, Stopped
from multihead.launch import is_main_rank, launch, local_ranks, world_size
from multihead.run import (
    capsule_dir,
    copy_plugin,
    create,
    describe,
    environment,
    export_model,
    git_commit_label,
    git_state,
    load_tokenizers,
    load_weights,
    new_run_dir,
    write_result,
)

if TYPE_CHECKING:
    import lightning as L

    from multihead.checkpoint import Steps
    from multihead.data.module import DataModule
    from multihead.data.plan import BatchPlan
    from multihead.tasks.base import Task

log = logging.getLogger("multihead")

NEVER = 10**12  # batches between Lightning's own validations: `multihead.checkpoint.Steps` validates
SPLIT_SEED = 0  # of held-out shares: the run's own seed does not change what is tested


@dataclass
class Prepared:
    """Everything the data path gives: text, tokenizers, ids."""

    corpus: Corpus
    tokenizers: dict[str, Tokenizer]
    encoded: dict[str, Encoded]
    notes: list[str]
    """What the user should hear: lines skipped, splits held out, caches made anew."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """What may not change between a checkpoint and its resume."""
        marks = {f"tokenizer_{role}": tokenizer.fingerprint for role, tokenizer in self.tokenizers.items()}
        return {f"data_{split}": value for split, value in self.corpus.fingerprints.items()} | marks


def prepare(
    composition: Composition, splits: Sequence[str], tokenizers: dict[str, Tokenizer] | None = None
) -> Prepared:
    """Reads, tokenizes and encodes the splits; a second time from the cache.

    Args:
        composition: The configuration and the user's plugin.
        splits: Which splits to prepare.
        tokenizers: Those of a capsule; None trains them on the train split.
    """
    config, plugin = composition.config, composition.plugin
    readers = plugin.corpora if plugin else {}
    few_examples = config.trainer.overfit_examples
    wanted = ("train",) if few_examples else splits
    corpus = load_corpus(config.data, config.task.roles, splits=wanted, seed=SPLIT_SEED, readers=readers)
    notes = list(corpus.notes)
    if few_examples:
        few = corpus.splits["train"]
        few = few.select(np.arange(min(few_examples, len(few))))
        corpus = Corpus(dict.fromkeys(splits, few), dict.fromkeys(splits, few.fingerprint()))
    tokenizers = tokenizers or train_tokenizers(config, corpus, notes)
    cache = cache_root() if config.data.cache else None
    encoded = {}
    for split, rows in corpus.splits.items():
        mark = corpus.fingerprints[split]
        encoded[split] = encode_corpus(rows.columns, tokenizers, fingerprint=mark, cache=cache, note=notes.append)
    return Prepared(corpus, tokenizers, encoded, notes)


def train_tokenizers(config: Config, corpus: Corpus, notes: list[str]) -> dict[str, Tokenizer]:
    """One tokenizer for all roles, or one each; trained on the train split, or taken from the cache."""
    rows, mark = corpus.splits["train"], corpus.fingerprints["train"]
    roles = [role for role in config.task.roles if role != "label"]
    groups = [roles] if config.tokenizer.joint else [[role] for role in roles]
    trained: dict[str, Tokenizer] = {}
    for group in groups:
        tokenizer = cached_tokenizer(
            config.tokenizer,
            itertools.chain.from_iterable(rows.columns[role] for role in group),
            config.data.normalize,
            fingerprint=f"{mark} {' '.join(sorted(group))}",
            cache=cache_root() if config.data.cache else None,
            note=notes.append,
        )
        trained |= dict.fromkeys(group, tokenizer)
    return trained


# ---- the job


def run(composition: Composition) -> int:
    """Trains as composed; returns the exit status."""
    train(composition)
    return 0


def train(composition: Composition) -> dict[str, Any]:
    """Trains as composed, in this process or in one per local device; returns what result.json holds, and ``run_dir``.

    Raises:
        MultiheadError: What the user can mend.
        Stopped: If a signal ended the run, after its state was saved.
    """
    composition, resume_dir = _resumed(composition)
    config = composition.config
    run_dir = resume_dir or new_run_dir(config)
    job = {
        "tree": composition.tree,
        "words": composition.words,
        "run_dir": str(run_dir),
        "resume": resume_dir is not None,
        "plugin": config.plugin,
    }
    ranks = local_ranks(config)
    try:
        if ranks == 1:
            return {**_train(composition, job), "run_dir": str(run_dir)}
        join(composition, prepare(composition, SPLITS), ranks)  # fills the caches, and bad data is told once
        launch(ranks, job)
    except Exception as error:
        if is_main_rank() and (run_dir / "config.yaml").is_file():
            file = run_dir / "crash.txt"
            file.write_text(getattr(error, "traceback", "") or "".join(traceback.format_exception(error)))
            error.crash_file = file  # the door names it
        raise
    return {**json.loads((run_dir / "result.json").read_text()), "run_dir": str(run_dir)}


def _resumed(composition: Composition) -> tuple[Composition, Path | None]:
    """For resume=RUN: the run's own configuration plus what was typed."""
    if not composition.config.resume:
        return composition, None
    path = capsule_dir(composition.config.resume, "resume")
    words = [word for word in composition.words if not word.lstrip("+").startswith("resume=")]
    composed = compose_from_run(load_yaml(path / "config.yaml"), words)
    typed = load_yaml(path / "overrides.yaml") if (path / "overrides.yaml").is_file() else []
    composed.words = [*typed, *words]
    return composed, path


def run_rank(job: Mapping[str, Any]) -> int:
    """One rank of several, in a process of its own."""
    words = [f"plugin={job['plugin']}"] if job["plugin"] else []
    _train(compose_from_run(job["tree"], words), job)
    return 0


def _train(composition: Composition, job: Mapping[str, Any]) -> dict[str, Any]:
    """The whole of a run: prepare, build, fit, test, write the result."""
    from multihead.progress import LIBRARIES, open_log
    from multihead.tracking import Events, build_loggers, finish, quiet_lightning

    quiet_lightning()
    config, run_dir, main = composition.config, Path(job["run_dir"]), is_main_rank()
    clock = time.monotonic()
    start = capsule_dir(config.init_from, "init_from") if config.init_from else None
    prepared = prepare(composition, SPLITS, load_tokenizers(start) if start else None)
    task, data = join(composition, prepared, world_size())
    if start:
        load_weights(
            task, start / "model" / "model.safetensors", "needs the same task and model.* as the run it is from"
        )
    if not main:  # one rank speaks for all
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
    if main and not job["resume"]:
        known = environment(config, prepared.fingerprints, composition.plugin)
        create(run_dir, job["tree"], job["words"], known)
        copy_plugin(run_dir, composition.plugin)
    log_file = open_log(run_dir) if main else None
    events = Events(run_dir / "events.jsonl") if main else lambda name, **fields: None
    loggers: list[Any] = []
    status = 1
    try:
        _announce(config, prepared, task, run_dir)
        resume = _checkpoint(run_dir) if job["resume"] else None
        steps = _steps(config, run_dir, data, prepared, events, resume)
        loggers = build_loggers(config, run_dir, job["tree"], step=steps.first_step) if main else []
        task.on_samples = functools.partial(_write_samples, run_dir, loggers)
        trainer = build_trainer(composition, data, loggers, steps)
        steps.on_resumed = functools.partial(describe, run_dir, job["tree"], job["words"])
        with steps.signals():
            trainer.fit(task, datamodule=data)
            result = _finish(job, run_dir, trainer, task, data, clock)
        status = 0
        if main:
            _show(config, run_dir, task, result)
        return result
    except (MultiheadError, Stopped) as error:
        status = error.status
        events("failed" if isinstance(error, MultiheadError) else "left", status=status, reason=str(error))
        raise
    except Exception as error:
        events("failed", status=status, reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        finish(loggers, status)
        if log_file is not None:
            log_file.close()


def join(composition: Composition, prepared: Prepared, ranks: int) -> tuple[Task, DataModule]:
    """Task and data module, joined by the task's pure functions.

    Raises:
        ConfigError: If model, data and sizes of batches do not go together.
        DataError: If texts are too long and data.overlong=error.
    """
    import lightning as L

    from multihead.data.module import DataModule
    from multihead.tasks import build_task

    config = composition.config
    L.seed_everything(config.seed, verbose=False)
    task = build_task(config, prepared.tokenizers, composition.plugin)
    if config.compile:
        task.model.transformer.compile_layers()
    task.texts = {split: rows.columns for split, rows in prepared.corpus.splits.items() if split != "train"}
    encoded = {}
    for split, rows in prepared.corpus.splits.items():
        encoded[split], note = apply_overlong(
            prepared.encoded[split], task.limits(), config.data.overlong, origin=rows.origin, split=split
        )
        prepared.notes += [note] if note else []
    data = DataModule(
        encoded,
        config.data,
        lengths=task.lengths,
        collate=task.collate,
        seed=config.seed,
        accumulate=config.trainer.accumulate_grad_batches,
    )
    data.accumulation(ranks)
    return task, data


def _steps(config: Config, run_dir: Path, data: DataModule, prepared: Prepared, events: Any, resume: Path | None):
    from multihead.checkpoint import Steps

    monitor = (config.task.monitor, config.task.monitor_mode)
    planned = {"seed": config.seed} | {
        f"data.{name}": getattr(config.data, name) for name in ("batch_tokens", "part_tokens", "overlong")
    }
    return Steps(run_dir, data, config.trainer, monitor, resume, events, prepared.fingerprints | planned)


def build_trainer(composition: Composition, data: DataModule, loggers: list[Any], steps: Steps) -> L.Trainer:
    """Lightning's Trainer, with validation, checkpoints and signals left to `multihead.checkpoint.Steps`."""
    import lightning as L

    from multihead.progress import Progress
    from multihead.tasks.base import averaging

    config, plugin = composition.config, composition.plugin
    added = [make() for make in plugin.callbacks.values()] if plugin else []
    return L.Trainer(
        **devices(config),
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        max_time=config.trainer.max_time or None,
        accumulate_grad_batches=data.accumulation(world_size()),
        gradient_clip_val=config.trainer.gradient_clip_val or None,
        check_val_every_n_epoch=None,
        val_check_interval=NEVER,
        num_sanity_val_steps=0,
        logger=loggers or False,
        callbacks=[*averaging(config.trainer), *added, Progress(config), steps],
    )


def devices(config: Config) -> dict[str, Any]:
    """Lightning's arguments for where and in what precision to compute, and what we do ourselves."""
    from multihead.checkpoint import FolderCheckpointIO

    listed = [int(part) for part in config.devices.split(",") if part] if "," in config.devices else None
    return {
        "accelerator": config.accelerator,
        "devices": listed or (config.devices if config.devices == "auto" else int(config.devices)),
        "strategy": config.strategy,
        "num_nodes": config.num_nodes,
        "precision": config.precision,
        "plugins": [FolderCheckpointIO()],
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def _checkpoint(run_dir: Path) -> Path:
    """The newest checkpoint whose hashes match; damaged ones are named and passed over."""
    from multihead.checkpoint import newest_valid

    path, passed = newest_valid(run_dir)
    for line in passed:
        log.warning("resume: %s; using %s", line, path.name)
    log.info("resume: going on from %s", path)
    return path


def _announce(config: Config, prepared: Prepared, task: Task, run_dir: Path) -> None:
    """One line each on the data, the model and where the run lives."""
    for note in prepared.notes:
        log.info("data: %s", note)
    counts = ", ".join(f"{split} {len(rows):,}" for split, rows in prepared.corpus.splits.items())
    vocabulary = " + ".join(f"{t.vocab_size:,}" for t in {id(t): t for t in prepared.tokenizers.values()}.values())
    parameters = sum(p.numel() for p in task.model.parameters())
    log.info("data %s: %s examples; vocabulary %s", config.data.name, counts, vocabulary)
    log.info(
        "model %s parameters; %d steps of up to %s target tokens; run %s",
        f"{parameters:,}",
        config.trainer.max_steps,
        f"{config.data.batch_tokens:,}",
        run_dir,
    )


def _finish(job, run_dir: Path, trainer: L.Trainer, task: Task, data: Any, clock: float) -> dict[str, Any]:
    """Loads the best checkpoint, exports it, tests what was exported, writes the result and reads it back."""
    from multihead.checkpoint import FolderCheckpointIO, Steps

    steps = next(callback for callback in trainer.callbacks if isinstance(callback, Steps))
    config = task.config
    trained = {"steps": trainer.global_step, "tokens": task.tokens_seen, "seconds": time.monotonic() - clock}
    best = run_dir / "checkpoints" / f"step_{steps.best['step']}"
    state = FolderCheckpointIO().load_checkpoint(best)["state_dict"]
    task.load_state_dict(state)
    if trainer.is_global_zero:
        export_model(run_dir, task, job["tree"], steps.best["step"])
    trainer.strategy.barrier("export")
    load_weights(task, run_dir / "model" / "model.safetensors")
    trainer.test(task, datamodule=data, verbose=False)
    commit, dirty = git_state()
    logged = task.recorded | steps.best["metrics"]
    result = {
        **{name: value for name, value in logged.items() if name.partition("/")[0] in ("train", "val", "test")},
        "parameters": sum(p.numel() for p in task.model.parameters()),
        **trained,
        "tokens_per_second": steps.tokens_per_second,
        "padding": padding(data.plan, data.accumulation(trainer.world_size) * trainer.world_size),
        "seed": config.seed,
        "git_commit": git_commit_label(commit, dirty),
        "best_checkpoint": f"checkpoints/{best.name}",
        "best_step": steps.best["step"],
        **task.signatures(),
    }
    return write_result(run_dir, result) if trainer.is_global_zero else result


def padding(plan: BatchPlan, parts: int) -> float:
    """Share of the positions of the first epoch's batches that hold no token."""
    cut = [part for step in plan.steps(0) for part in plan.parts(step, parts)]
    positions = sum(plan.cost(part) for part in cut)
    return 1 - sum(int(plan.widths[part].sum()) for part in cut) / positions


def _write_samples(run_dir: Path, loggers: list[Any], split: str, step: int, samples: list[dict[str, Any]]) -> None:
    """Appends to samples.jsonl and to loggers that hold tables."""
    from multihead.tracking import log_samples

    with open(run_dir / "samples.jsonl", "a", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps({"split": split, "step": step, **sample}, ensure_ascii=False) + "\n")
    if split == "val":
        log_samples(loggers, step, samples)


def _show(config: Config, run_dir: Path, task: Task, result: Mapping[str, Any]) -> None:
    from multihead.progress import summary

    samples = sorted(task.samples, key=lambda sample: sample["index"])[: config.task.num_samples]
    shown = [(sample["source"], sample["reference"], sample["output"]) for sample in samples]
    summary(result, shown, next_commands(config, run_dir))


def next_commands(config: Config, run_dir: Path) -> list[str]:
    """What to type next."""
    return [
        f'echo "..." | multihead predict run={run_dir}',
        f"multihead evaluate run={run_dir} decoding.num_beams=5",
        f"multihead explain run={run_dir} key=optim.lr",
    ]
