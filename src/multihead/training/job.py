"""``train``: joins data, task and trainer into one run, and leaves a capsule."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.compose import Composition, compose_from_run
from multihead.config.keys import flatten
from multihead.config.training import Config
from multihead.config.words import pasted, write
from multihead.data.encode import Encoded
from multihead.data.prepare import Prepared, warn_of_skipped
from multihead.errors import ConfigError, MultiheadError, Stopped, side_output
from multihead.ranks import check_ranks, is_main_rank, world_size
from multihead.runs.directory import (
    copy_plugin,
    create,
    describe,
    environment,
    export_model,
    git_commit_label,
    git_state,
    write_result,
)
from multihead.runs.lock import locked
from multihead.runs.resume import aim, finished_result, open_checkpoint, set_aside_result, start_again
from multihead.runs.run import load_weights, say_without_effect
from multihead.training.build import build_trainer, join, starting, whole_task
from multihead.training.launch import launch, local_ranks, requeue
from multihead.training.precision import cautions, settle
from multihead.training.signals import leaving_on_signals

if TYPE_CHECKING:
    import lightning as L

    from multihead.data.module import DataModule
    from multihead.tasks.base import Task
    from multihead.training.steps import Steps
    from multihead.training.suspicions import Training

log = logging.getLogger("multihead")


# ---- the job


def train(composition: Composition) -> dict[str, Any]:
    """Trains as composed, in this process or in one per local device; returns what result.json holds, and ``run_dir``.

    Raises:
        MultiheadError: What the user can mend.
        Stopped: If a signal ended the run, after its state was saved.
    """
    check_ranks()
    if composition.config.plan:
        from multihead.training.forecast import plan

        with leaving_on_signals():
            return plan(composition)
    if composition.config.trainer.profile_steps and max(local_ranks(composition.config), world_size()) > 1:
        raise ConfigError("trainer.profile_steps", "a profile is of one rank, and there are several", "devices=1")
    found = aim(composition)
    composition, run_dir = found.composition, found.run_dir
    config = composition.config
    if config.trainer.profile_steps and found.resumes:
        raise ConfigError("trainer.profile_steps", "a profile is of a new run", "trainer.profile_steps=0")
    ranks = local_ranks(config)
    notes = settle(composition)
    if found.how == "done":
        if is_main_rank():
            from multihead.runs.progress import open_log

            with contextlib.closing(open_log(None)):
                log.info("%s is finished already: its result.json stands", run_dir)
        return {**finished_result(run_dir), "run_dir": str(run_dir)}
    job = {
        "tree": composition.tree,
        "words": composition.words,
        "run_dir": str(run_dir),
        "how": found.how,
        "resume": found.resumes,
        "force": config.resume_force,
        "plugin": config.plugin,
        "notes": notes,
    }
    try:
        with leaving_on_signals():
            if ranks == 1:
                return {**_train(composition, job), "run_dir": str(run_dir)}
            prepared, _ = starting(composition, run_dir if job["resume"] else None)
            join(composition, prepared, ranks)  # the caches are full, and bad data was told once
        launch(ranks, job)
    except Stopped as stopped:
        if stopped.status == 128 + signal.SIGUSR1 and is_main_rank():
            raise Stopped(signal.SIGUSR1, f"{stopped}{requeue()}") from None
        raise
    except Exception as error:
        if is_main_rank() and (run_dir / "config.yaml").is_file():
            _write_crash(run_dir / "crash.txt", error)
        raise
    return {**finished_result(run_dir), "run_dir": str(run_dir)}


def _write_crash(file: Path, error: BaseException) -> None:
    """Puts the traceback into the capsule; the door names the file."""
    try:
        file.write_text(getattr(error, "traceback", "") or "".join(traceback.format_exception(error)))
        error.crash_file = file
    except OSError:
        log.debug("%s could not be written", file)


def run_rank(job: Mapping[str, Any], heartbeat: L.Callback) -> int:
    """One rank of several, in a process of its own."""
    words = [write("plugin", job["plugin"])] if job["plugin"] else []
    _train(compose_from_run(job["tree"], words), job, [heartbeat])
    return 0


def _train(composition: Composition, job: Mapping[str, Any], callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """The whole of a run: prepare, build, fit, test, write the result."""
    from multihead.runs.loggers import quiet_lightning
    from multihead.runs.metrics_file import Events
    from multihead.runs.progress import LIBRARIES, open_log
    from multihead.training.transfer import as_rows, copy_weights, transfer_table

    quiet_lightning()
    config, run_dir, main = composition.config, Path(job["run_dir"]), is_main_rank()
    clock = time.monotonic()
    prepared, source = starting(composition, run_dir if job["resume"] else None)
    task, data = join(composition, prepared, world_size())
    copied = copy_weights(task.model, prepared.vocab, source) if source else None
    if not main:  # one rank speaks for all
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
        steps = _steps(composition, job, prepared, data, lambda name, **fields: None, clock)
        return _fit(composition, job, task, steps, callbacks)
    with locked(run_dir), contextlib.ExitStack() as stack:
        _open_capsule(composition, job, prepared)
        stack.callback(open_log(run_dir).close)
        events = Events(run_dir / "events.jsonl")
        try:
            _announce(config, [*job["notes"], *cautions(config)], prepared, task, run_dir)
            if copied is not None:
                log.info("", extra={"renderable": transfer_table(copied, config.init_from)})
                events("initialised", source=config.init_from, parts=as_rows(copied))
            steps = _steps(composition, job, prepared, data, events, clock)
            return _fit(composition, job, task, steps, callbacks)
        except (MultiheadError, Stopped) as error:
            events("failed" if isinstance(error, MultiheadError) else "left", status=error.status, reason=str(error))
            raise
        except Exception as error:
            events("failed", status=1, reason=f"{type(error).__name__}: {error}")
            raise


def _open_capsule(composition: Composition, job: Mapping[str, Any], prepared: Prepared) -> None:
    """The directory of the run, as it has to be before the first step.

    Raises:
        ConfigError: Another process has made it meanwhile.
        MachineError: It cannot be written.
    """
    run_dir = Path(job["run_dir"])
    if job["resume"]:
        return
    if job["how"] == "again":
        start_again(run_dir)
    elif (run_dir / "config.yaml").exists():
        raise ConfigError("run_dir", f"{run_dir} is the directory of another run", "choose another directory")
    known = environment(composition.config, prepared.fingerprints, composition.plugin, job["words"])
    create(run_dir, job["tree"], job["words"], known, prepared.vocab)
    copy_plugin(run_dir, composition.plugin)


def _steps(
    composition: Composition, job: Mapping[str, Any], prepared: Prepared, data: DataModule, events: Any, clock: float
) -> Steps:
    """What happens between the steps, from the checkpoint on if there is one."""
    from multihead.training.steps import Steps

    config, run_dir = composition.config, Path(job["run_dir"])
    record = flatten(job["tree"]) | prepared.fingerprints
    start = open_checkpoint(run_dir, record, job["force"], is_main_rank()) if job["resume"] else None
    take_over = functools.partial(_take_over, job)
    return Steps(run_dir, data, config, start, events, record, clock, take_over)


def _fit(
    composition: Composition, job: Mapping[str, Any], task: Task, steps: Steps, callbacks: Sequence[Any]
) -> dict[str, Any]:
    """Trains, tests and writes the result; on every rank."""
    from multihead.runs.loggers import build_loggers, finish

    config, run_dir, main = composition.config, Path(job["run_dir"]), is_main_rank()
    loggers = build_loggers(config, run_dir, job["tree"], step=steps.counters.first_step) if main else []
    status = 1
    try:
        trainer = build_trainer(composition, steps, loggers, callbacks)
        with steps.signals.caught():
            trainer.fit(task, datamodule=steps.data)
            if config.trainer.profile_steps:
                found = _show_profile(run_dir, trainer, task)
                steps.events("profiled", step=trainer.global_step)
                status = 0
                return found
            task = whole_task(composition, trainer, task)
            result, tables = _finish(job, run_dir, trainer, task, steps)
        status = 0
        if main:
            steps.events("finished", step=trainer.global_step)
            _show(config, run_dir, task, result, tables)
            warn_of_skipped(steps.data.skipped, ("val", "test"))
        return result
    except (MultiheadError, Stopped) as error:
        status = error.status
        raise
    finally:
        finish(loggers, status)


def _take_over(job: Mapping[str, Any]) -> None:
    """Once its checkpoint is known to fit: the capsule has the configuration that it goes on with."""
    describe(Path(job["run_dir"]), job["tree"], job["words"])
    set_aside_result(Path(job["run_dir"]))


def _announce(config: Config, notes: Sequence[str], prepared: Prepared, task: Task, run_dir: Path) -> None:
    """One line each on the device, the data, the model and where the run lives."""
    for note in notes:
        log.info("%s", note)
    for note in prepared.notes:
        log.info("data: %s", note)
    warn_of_skipped(prepared.skipped)
    say_without_effect(config)
    tokenizers = prepared.vocab.tokenizers.values()
    vocabulary = " + ".join(f"{t.vocab_size:,}" for t in {id(t): t for t in tokenizers}.values())
    parameters = sum(p.numel() for p in task.model.parameters())
    for name, splits in prepared.encoded.items():
        counts = ", ".join(f"{split} {len(ids):,}" for split, ids in splits.items())
        unit = "examples" if isinstance(next(iter(splits.values())), Encoded) else "tokens"
        of_task = f" for {name}" if len(prepared.encoded) > 1 else ""
        log.info("data %s%s: %s %s; vocabulary %s", config.data.name, of_task, counts, unit, vocabulary)
    if prepared.vocab.labels:
        log.info("classes: %s", ", ".join(prepared.vocab.labels))
    log.info(
        "model %s parameters; %d steps of up to %s target tokens; run %s",
        f"{parameters:,}",
        config.trainer.max_steps,
        f"{config.data.batch_tokens:,}",
        run_dir,
    )


def _finish(job, run_dir: Path, trainer: L.Trainer, task: Task, steps: Steps) -> tuple[dict, dict]:
    """Loads the best checkpoint, exports it, tests what was exported, writes the result and reads it back.

    Returns:
        The result, and what the task shows beside it.
    """
    from multihead.runs.checkpoint import FolderCheckpointIO
    from multihead.runs.loggers import log_capsule, log_picture, log_table
    from multihead.training.cost import peak_memory
    from multihead.training.suspicions import notes_on, of_training

    config, data = task.config, steps.data
    trained = {"steps": trainer.global_step, "tokens": task.tokens_seen, "seconds": steps.counters.seconds}
    best = run_dir / "checkpoints" / f"step_{steps.validation.best['step']}"
    state = FolderCheckpointIO().load_checkpoint(best)["state_dict"]
    task.load_state_dict(state)
    if trainer.is_global_zero:
        export_model(run_dir, task, job["tree"], steps.validation.best["step"])
    trainer.strategy.barrier("export")
    load_weights(task, run_dir / "model" / "model.safetensors")
    trainer.test(task, datamodule=data, verbose=False)
    commit, dirty = git_state()
    logged = task.recorded | steps.validation.best["metrics"]
    result = {
        **{name: value for name, value in logged.items() if name.partition("/")[0] in ("train", "val", "test")},
        "parameters": sum(p.numel() for p in task.model.parameters()),
        **trained,
        "tokens_per_second": steps.counters.tokens_per_second,
        "peak_memory": peak_memory(task.device),
        "padding": data.plan.padding(data.accumulation(trainer.world_size) * trainer.world_size),
        "seed": config.seed,
        "git_commit": git_commit_label(commit, dirty),
        "best_checkpoint": f"checkpoints/{best.name}",
        "best_step": steps.validation.best["step"],
        **{f"skipped_rows_{split}": count for split, (count, _) in data.skipped.items()},
        **task.signatures(),
    }
    if not trainer.is_global_zero:
        return result, {}
    result["notes"] = []
    with side_output("the notes on the result"):
        result["notes"] = of_training(_choice(config, steps, trainer.global_step)) + notes_on(task, result)
    tables: dict[str, Any] = {}
    with side_output("the task's report on the test split"):
        tables = task.report(run_dir, "test")
    for name, rows in tables.items():
        log_table(trainer.loggers, trainer.global_step, name, rows)
    with side_output("the pictures of attention"):
        _draw_attention(run_dir, task, data)
    for path in (*run_dir.glob("confusion_test*.png"), *sorted(run_dir.glob("pictures/attention_*.png"))):
        log_picture(trainer.loggers, trainer.global_step, path.stem, path)
    written = write_result(run_dir, result)
    log_capsule(trainer.loggers, run_dir, written, config.log_model)
    return written, tables


def _choice(config: Config, steps: Steps, last_step: int) -> Training:
    """How the best checkpoint was chosen, and whether the average that was asked for has a sample."""
    from multihead.training.suspicions import Training

    trainer = config.trainer
    first = trainer.max_steps - trainer.average_last_steps + 1
    samples = last_step // trainer.average_every_n_steps - (first - 1) // trainer.average_every_n_steps
    empty = trainer.average_last_steps and samples <= 0
    return Training(
        monitor=config.task.monitor,
        mode=config.task.monitor_mode,
        validations=steps.validation.monitored,
        best_step=steps.validation.best["step"],
        whole=last_step >= trainer.max_steps,
        unsampled_average=f"trainer.average_last_steps={trainer.average_last_steps}" if empty else "",
    )


def _draw_attention(run_dir: Path, task: Task, data: DataModule) -> None:
    """Pictures of where the heads look in an example of validation; none without matplotlib, which is an extra."""
    if importlib.util.find_spec("matplotlib") is None:
        log.info('no pictures of attention: they need matplotlib (pip install "multihead[plot]")')
        return
    from multihead.training.attention_maps import draw_all

    batch = data.example("val")
    if batch is not None:
        batch = {name: value.to(task.device) if hasattr(value, "to") else value for name, value in batch.items()}
        draw_all(task, batch, run_dir / "pictures")


@side_output("the summary on the screen")
def _show(config: Config, run_dir: Path, task: Task, result: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    from multihead.runs.progress import plain_table, summary

    for name, rows in tables.items():
        with side_output(f"the table {name}"):
            log.info("", extra={"renderable": plain_table(name, rows)})
    shown: list[dict[str, str]] = []
    with side_output("the samples on the screen"):
        shown = [_shown(sample) for sample in task.samples if "nats" not in sample][: config.task.num_samples]
    summary(result, shown, next_commands(config, run_dir))
    for text in result["notes"]:
        log.warning("note: %s", text)


def _show_profile(run_dir: Path, trainer: L.Trainer, task: Task) -> dict[str, Any]:
    """Where the time of the steps went, as tables and in profile.json."""
    from multihead.runs.progress import plain_table
    from multihead.training.profiling import report, tables

    found = report(trainer, task)
    (run_dir / "profile.json").write_text(json.dumps(found, indent=1) + "\n")
    with side_output("the tables of the profile"):
        for title, rows in tables(found).items():
            log.info("", extra={"renderable": plain_table(title, rows)})
    return found


def _shown(sample: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts of what is shown of a sample: input, reference and output, or whatever a plugin's task gives."""
    text = {k: " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in sample.items()}
    if sample.keys() >= {"source", "reference", "output"}:
        return {name: text[name] for name in ("source", "reference", "output")}
    if sample.keys() >= {"text", "label", "predicted"}:
        source = " | ".join(text[role] for role in ("text", "text_b") if role in text)
        labels = (", ".join(v) if isinstance(v, list) else str(v) for v in (sample["label"], sample["predicted"]))
        return dict(zip(("source", "reference", "output"), (source, *labels), strict=True))
    return {name: value for name, value in text.items() if name != "index"}


def next_commands(config: Config, run_dir: Path) -> list[str]:
    """What to type next."""
    tries = dict.fromkeys(("translation", "summarization"), "decoding.num_beams=5") | {
        "classification": "calibrate=true"
    }
    members = list(config.task.members())
    part = [f"part={members[0]}"] if len(members) > 1 else []
    masked = getattr(config.task, "objective", "causal") == "masked"  # it continues nothing, others start from it
    plugin = [write("plugin", config.plugin)] if config.plugin else []
    run = [write("run", str(run_dir)), *plugin]
    use = pasted("python", "train.py", "task=classification", write("init_from", str(run_dir)))
    return [
        use if masked else f'echo "..." | {pasted("multihead", "predict", *run, *part)}',
        pasted("multihead", "evaluate", *run, tries.get(config.task.name, "data.split=val")),
        pasted("multihead", "explain", *run, "key=optim.lr"),
    ]
