"""One run from its start to its result, in the order in which things happen. A newcomer can begin to read here.

`train` chooses the run directory and starts the ranks. In each rank, `_train` prepares the data and builds the task,
`_fit` trains it (`multihead.training.steps` says what happens between two steps), and `_finish` tests the best weights.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.compose import Composition, compose_from_run
from multihead.config.plugin_notes import notes_on as plugin_notes
from multihead.config.published import notes_on as published_notes
from multihead.config.words import write
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
from multihead.runs.run import load_weights
from multihead.tables.records import flatten
from multihead.training.assignment import Assignment
from multihead.training.build import build_trainer, join, starting, whole_task
from multihead.training.launch import launch, local_ranks, requeue
from multihead.training.precision import cautions, settle
from multihead.training.screen import show_end, show_profile, show_start
from multihead.training.signals import leaving_on_signals

if TYPE_CHECKING:
    import lightning as L

    from multihead.data.lightning_module import TrainingData
    from multihead.tasks.base import Task
    from multihead.training.steps import Steps

log = logging.getLogger("multihead")


def train(composition: Composition, quiet: bool = False) -> dict[str, Any]:
    """Trains in this process or in one per local device; returns what result.json holds, and ``run_dir``.

    With ``plan=true`` it does not train, and returns what the forecast says.

    Args:
        composition: The configuration of the run.
        quiet: Shows nothing; ``train.log`` has all messages.

    Raises:
        MultiheadError: If the run fails in a way that the user can fix.
        Stopped: If a signal ended the run, after its state was saved.
    """
    check_ranks()
    if composition.config.plan:
        from multihead.training.forecast import plan

        with leaving_on_signals():
            return plan(composition, quiet)
    if composition.config.trainer.profile_steps and max(local_ranks(composition.config), world_size()) > 1:
        raise ConfigError("trainer.profile_steps", "only a run with one rank can be profiled", "devices=1")
    found = aim(composition)
    composition, run_dir = found.composition, found.run_dir
    config = composition.config
    if config.trainer.profile_steps and found.resumes:
        raise ConfigError("trainer.profile_steps", "only a new run can be profiled", "trainer.profile_steps=0")
    ranks = local_ranks(config)
    notes = [*settle(composition), *([] if found.resumes else published_notes(config)), *plugin_notes(config)]
    if found.how == "done":
        if is_main_rank():
            _say_finished(run_dir, quiet)
        return {**finished_result(run_dir), "run_dir": str(run_dir)}
    assignment = Assignment(
        tree=composition.tree,
        words=composition.words,
        run_dir=str(run_dir),
        how=found.how,
        force=config.resume_force,
        plugin=config.plugin,
        notes=notes,
        quiet=quiet,
    )
    try:
        with leaving_on_signals():
            if ranks == 1:
                return {**_train(composition, assignment), "run_dir": str(run_dir)}
            prepared, _ = starting(composition, run_dir if found.resumes else None)
            join(composition, prepared, ranks)  # fills the caches for all ranks, and reports bad data once
        launch(ranks, assignment)
    except Stopped as stopped:
        if stopped.status == 128 + signal.SIGUSR1 and is_main_rank():
            raise Stopped(signal.SIGUSR1, f"{stopped}{requeue()}") from None
        raise
    except Exception as error:
        if is_main_rank() and (run_dir / "config.yaml").is_file():
            _write_crash(run_dir / "crash.txt", error)
        raise
    return {**finished_result(run_dir), "run_dir": str(run_dir)}


def _say_finished(run_dir: Path, quiet: bool) -> None:
    from multihead.runs.console import open_log

    with contextlib.closing(open_log(None, quiet=quiet)):
        log.info("%s is finished already; its result.json is unchanged", run_dir)


def _write_crash(file: Path, error: BaseException) -> None:
    """Writes the traceback into the run directory; `multihead.errors.report` names the file."""
    try:
        file.write_text(getattr(error, "traceback", "") or "".join(traceback.format_exception(error)))
        error.__dict__["crash_file"] = file
    except OSError:
        log.debug("%s could not be written", file)


def run_rank(assignment: Assignment, heartbeat: L.Callback) -> None:
    """Trains as one rank of several, in a process of its own."""
    words = [write("plugin", assignment.plugin)] if assignment.plugin else []
    _train(compose_from_run(assignment.tree, words), assignment, [heartbeat])


def _train(composition: Composition, assignment: Assignment, callbacks: Sequence[L.Callback] = ()) -> dict[str, Any]:
    """Prepares the data, builds the task, opens the run directory, and trains."""
    from multihead.runs.console import LIBRARIES, open_log
    from multihead.runs.metrics_file import Events
    from multihead.runs.noise import quiet_lightning
    from multihead.training.transfer import as_rows, copy_weights, transfer_table

    quiet_lightning()
    config, run_dir = composition.config, Path(assignment.run_dir)
    began = time.monotonic()
    prepared, source = starting(composition, run_dir if assignment.resumes else None)
    task, data = join(composition, prepared, world_size())
    copied = copy_weights(task.model, prepared.vocab, source) if source else None
    if not is_main_rank():  # the main rank logs for all
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
        steps = _steps(composition, assignment, prepared, data, lambda name, **fields: None, began)
        return _fit(composition, assignment, task, steps, callbacks)
    with locked(run_dir), contextlib.ExitStack() as stack:
        _open_run_directory(composition, assignment, prepared)
        stack.callback(open_log(run_dir, quiet=assignment.quiet).close)
        events = Events(run_dir / "events.jsonl")
        try:
            show_start(config, [*assignment.notes, *cautions(config)], prepared, task, run_dir)
            if copied is not None:
                log.info("", extra={"renderable": transfer_table(copied, config.init_from)})
                events("initialised", source=config.init_from, parts=as_rows(copied))
            steps = _steps(composition, assignment, prepared, data, events, began)
            return _fit(composition, assignment, task, steps, callbacks)
        except (MultiheadError, Stopped) as error:
            events("failed" if isinstance(error, MultiheadError) else "left", status=error.status, reason=str(error))
            raise
        except Exception as error:
            events("failed", status=1, reason=f"{type(error).__name__}: {error}")
            raise


def _open_run_directory(composition: Composition, assignment: Assignment, prepared: Prepared) -> None:
    """Writes into the run directory what it has to hold before the first step.

    Raises:
        ConfigError: If another process has created it meanwhile.
        MachineError: If it cannot be written.
    """
    run_dir = Path(assignment.run_dir)
    if assignment.resumes:
        return
    if assignment.how == "again":
        start_again(run_dir)
    elif (run_dir / "config.yaml").exists():
        raise ConfigError("run_dir", f"{run_dir} is the directory of another run", "choose another directory")
    known = environment(composition.config, prepared.fingerprints, composition.plugin, assignment.words, prepared.rows)
    create(run_dir, assignment.tree, assignment.words, known, prepared.vocab)
    copy_plugin(run_dir, composition.plugin)


def _steps(
    composition: Composition,
    assignment: Assignment,
    prepared: Prepared,
    data: TrainingData,
    events: Callable[..., None],
    began: float,
) -> Steps:
    """Creates what happens between the steps; on a resume it begins from the newest checkpoint."""
    from multihead.training.steps import Steps

    run_dir = Path(assignment.run_dir)
    record = flatten(assignment.tree) | prepared.fingerprints
    start = open_checkpoint(run_dir, record, assignment.force, is_main_rank()) if assignment.resumes else None
    on_resumed = functools.partial(_take_over, assignment)
    return Steps(run_dir, data, composition.config, start, events, record, began, on_resumed)


def _take_over(assignment: Assignment) -> None:
    """Writes the configuration with which a run goes on, once its checkpoint is known to fit."""
    run_dir = Path(assignment.run_dir)
    describe(run_dir, assignment.tree, assignment.words)
    set_aside_result(run_dir)


def _fit(
    composition: Composition, assignment: Assignment, task: Task, steps: Steps, callbacks: Sequence[L.Callback]
) -> dict[str, Any]:
    """Trains, tests and writes the result; every rank does this."""
    from multihead.runs.loggers import build_loggers, finish
    from multihead.tasks.lightning_module import TaskModule

    config, run_dir, main = composition.config, Path(assignment.run_dir), is_main_rank()
    loggers = build_loggers(config, run_dir, assignment.tree, step=steps.counters.first_step) if main else []
    status = 1
    try:
        trainer = build_trainer(composition, steps, loggers, callbacks)
        with steps.signals.caught():
            trainer.fit(TaskModule(task, composition.plugin), datamodule=steps.data)
            if config.trainer.profile_steps:
                found = show_profile(run_dir, trainer, task)
                steps.events("profiled", step=trainer.global_step)
                status = 0
                return found
            task = whole_task(composition, trainer, task)
            result, tables = _finish(assignment, trainer, task, steps)
        status = 0
        if main:
            steps.events("finished", step=trainer.global_step)
            show_end(config, run_dir, task, result, tables)
            warn_of_skipped(steps.data.skipped, ("val", "test"))
            _report(composition, run_dir)
        return result
    except (MultiheadError, Stopped) as error:
        status = error.status
        raise
    finally:
        finish(loggers, status)


def _report(composition: Composition, run_dir: Path) -> None:
    """Calls the reports of the plugin, if there are any; they may fail without costing the result."""
    for name, report in (composition.plugin.reports if composition.plugin else {}).items():
        with side_output(f"the plugin's report {name}"):
            report(run_dir)


def _finish(
    assignment: Assignment, trainer: L.Trainer, task: Task, steps: Steps
) -> tuple[dict[str, Any], dict[str, list[list[Any]]]]:
    """Loads the best checkpoint, exports it, tests what was exported, writes the result and reads it back.

    Adapters are merged into the weights before that.

    Returns:
        The result, and the tables that the task shows beside it.
    """
    from multihead.model.lora import merge
    from multihead.runs.checkpoint import FolderCheckpointIO
    from multihead.tasks.lightning_module import TaskModule
    from multihead.training.cost import peak_memory

    run_dir, data, best = Path(assignment.run_dir), steps.data, steps.validation.best
    trained = {"steps": trainer.global_step, "tokens": task.tokens_seen, "seconds": steps.counters.seconds}
    checkpoint = run_dir / "checkpoints" / f"step_{best['step']}"
    task.load_state_dict(FolderCheckpointIO().load_checkpoint(checkpoint)["state_dict"])
    learned = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    adapter = merge(task.model)
    if trainer.is_global_zero:
        export_model(run_dir, task, assignment.tree, best["step"], adapter)
    trainer.strategy.barrier("export")
    load_weights(task, run_dir / "model" / "model.safetensors")
    trainer.test(TaskModule(task), datamodule=data, verbose=False)
    logged = task.recorded | best["metrics"]
    result = {
        **{name: value for name, value in logged.items() if name.partition("/")[0] in ("train", "val", "test")},
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "trained_parameters": learned,
        **trained,
        "tokens_per_second": steps.counters.tokens_per_second,
        "peak_memory": peak_memory(task.device),
        "padding": data.plan.padding(data.accumulation(trainer.world_size) * trainer.world_size),
        "seed": task.config.seed,
        "git_commit": git_commit_label(*git_state()),
        "best_checkpoint": f"checkpoints/{checkpoint.name}",
        "best_step": best["step"],
        **{f"skipped_rows_{split}": count for split, (count, _) in data.skipped.items()},
        **task.signatures(),
    }
    return _write_result(run_dir, trainer, task, steps, result) if trainer.is_global_zero else (result, {})


def _write_result(
    run_dir: Path, trainer: L.Trainer, task: Task, steps: Steps, result: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, list[list[Any]]]]:
    """Writes the result, and beside it tables and pictures, which may fail without costing the result."""
    from multihead.runs.card import write as write_card
    from multihead.runs.loggers import log_picture, log_result, log_table
    from multihead.training.suspicions import Training, notes_on, of_training

    result["notes"] = []
    with side_output("the notes on the result"):
        training = Training.of(task.config, steps.validation, trainer.global_step)
        result["notes"] = of_training(training) + notes_on(task, result)
    tables: dict[str, list[list[Any]]] = {}
    with side_output("the task's report on the test split"):
        tables = task.report(run_dir, "test")
    for name, rows in tables.items():
        log_table(trainer.loggers, trainer.global_step, name, rows)
    with side_output("the pictures of attention"):
        _draw_attention(run_dir, task, steps.data)
    for path in (*run_dir.glob("confusion_test*.png"), *sorted(run_dir.glob("pictures/attention_*.png"))):
        log_picture(trainer.loggers, trainer.global_step, path.stem, path)
    written = write_result(run_dir, result)
    with side_output("the model card"):
        write_card(run_dir, task.config)
    log_result(trainer.loggers, run_dir, written, task.config.log_model)
    return written, tables


def _draw_attention(run_dir: Path, task: Task, data: TrainingData) -> None:
    """Draws where the heads look in an example of validation, if matplotlib, an extra, is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        log.info('no pictures of attention: they need matplotlib (pip install "multihead[plot]")')
        return
    from multihead.training.attention_maps import draw_all

    batch = data.example("val")
    if batch is not None:
        batch = {name: value.to(task.device) if hasattr(value, "to") else value for name, value in batch.items()}
        draw_all(task, batch, run_dir / "pictures")
