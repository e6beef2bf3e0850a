"""The loggers of a run: metrics.csv, Weights & Biases, TensorBoard. Only rank 0 writes any of them.

A call ``log_metrics(metrics, step)`` writes one row. ``step`` counts optimizer steps. The metrics ``epoch`` and
``tokens`` (target tokens seen) are coordinates of the row; if a call does not give them, they keep their last value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities import rank_zero_only
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from multihead.config.training import Config
from multihead.errors import ConfigError, side_output
from multihead.runs.metrics_file import CSVMetrics
from multihead.runs.wandb import WandbMetrics, start_wandb
from multihead.tasks.lightning_module import TaskCallback, TaskModule


def build_loggers(config: Config, run_dir: Path, tree: Mapping[str, Any], *, step: int = 0) -> list[Logger]:
    """Builds the loggers of a run: always `CSVMetrics`, and the one that ``config.logger`` names.

    Args:
        config: The configuration.
        run_dir: The run directory, which exists. The loggers write only below it.
        tree: The whole configuration as plain containers, which W&B shows.
        step: Number of optimizer steps before a resume, else 0. Later rows of metrics.csv are dropped. Values that
            W&B already has are not sent again.

    Returns:
        The loggers on rank 0, and an empty list on every other rank.

    Raises:
        ConfigError: If ``logger=tensorboard`` is set and the package is missing.
        MachineError: If metrics.csv cannot be written.
    """
    if rank_zero_only.rank:
        return []
    metrics = CSVMetrics(run_dir, step)
    loggers: list[Logger] = [metrics]
    if config.logger == "tensorboard":
        loggers.append(_tensorboard(run_dir, step))
    elif config.logger in ("auto", "wandb"):
        with side_output("W&B"):
            run = start_wandb(run_dir, tree)
            if run is not None:
                loggers.append(WandbMetrics(run, run_dir, metrics.rows()))
    return loggers


class SamplesFile(TaskCallback):
    """Appends the samples of each validation and test to ``samples.jsonl``. W&B shows those of validation."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "samples.jsonl"

    @side_output("samples.jsonl")
    def on_samples(self, trainer: L.Trainer, pl_module: TaskModule, split: str) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        lines = [
            json.dumps({"split": split, "step": step, **sample}, ensure_ascii=False, default=_plain)
            for sample in pl_module.task.samples
        ]
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        if split == "val":
            log_samples(trainer.loggers, step, pl_module.task.samples)


def _plain(value: Any) -> Any:
    """Converts a value of a plugin's sample that JSON does not know: arrays and tensors to lists, others to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


@side_output("the table of samples")
def log_samples(loggers: Sequence[Logger], step: int, samples: Sequence[Mapping[str, Any]]) -> None:
    """Shows sentences and their outputs as a table, if a logger has tables (W&B)."""
    for logger in loggers:
        if isinstance(logger, WandbMetrics):
            logger.log_samples(step, samples)


@side_output("a table")
def log_table(loggers: Sequence[Logger], step: int, name: str, rows: Sequence[Sequence[Any]]) -> None:
    """Shows a table if a logger has tables (W&B). The first row is the head."""
    for logger in loggers:
        if isinstance(logger, WandbMetrics):
            logger.log_table(step, name, rows[0], rows[1:])


@side_output("a picture's upload")
def log_picture(loggers: Sequence[Logger], step: int, name: str, path: Path) -> None:
    """Shows a PNG file if a logger has pictures (W&B, TensorBoard)."""
    for logger in loggers:
        if isinstance(logger, WandbMetrics):
            logger.log_picture(step, name, path)
        elif isinstance(logger, TensorBoardLogger):
            from matplotlib.image import imread

            image = imread(path)  # [H, W, 3 or 4], or grey [H, W]
            grey = image.ndim == 2
            logger.experiment.add_image(
                name, image if grey else image[..., :3], step, dataformats="HW" if grey else "HWC"
            )


@side_output("the upload of the result")
def log_result(loggers: Sequence[Logger], run_dir: Path, result: Mapping[str, Any], whole: bool) -> None:
    """Shows the result if a logger has a summary (W&B). If ``whole``, W&B also gets the run directory."""
    for logger in loggers:
        if isinstance(logger, WandbMetrics):
            logger.log_result(result, whole)


def finish(loggers: Sequence[Logger], status: int) -> None:
    """Closes the loggers at the end of a run with its exit status, and logs where the W&B run is."""
    for logger in loggers:
        with side_output(f"closing the logger {logger.name}"):
            if isinstance(logger, WandbMetrics):
                logger.finish(status)
            else:
                logger.finalize("success" if status == 0 else "failed")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, whose errors become warnings and do not end the run."""

    log_metrics = side_output("TensorBoard")(TensorBoardLogger.log_metrics)
    log_hyperparams = side_output("TensorBoard")(TensorBoardLogger.log_hyperparams)
    log_graph = side_output("TensorBoard")(TensorBoardLogger.log_graph)
    save = side_output("TensorBoard")(TensorBoardLogger.save)
    finalize = side_output("TensorBoard")(TensorBoardLogger.finalize)


def _tensorboard(run_dir: Path, step: int) -> Logger:
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        fix = 'pip install "multihead[tensorboard]", or logger=auto'
        raise ConfigError("logger", "tensorboard is not installed", fix) from error
    return TensorBoard(str(run_dir), "tensorboard", "", purge_step=step + 1 if step else None)
