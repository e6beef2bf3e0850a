"""Lightning's messages and warnings that a user does not need."""

from __future__ import annotations

import logging
import warnings

NOISE = (
    "GPU available",
    "TPU available",
    "HPU available",
    "💡 Tip",
    "`Trainer.fit` stopped",
    "`weights_only` was not set",
    "Using bfloat16 Automatic Mixed Precision",
    "Using 16bit Automatic Mixed Precision",
    "You are using a CUDA device",
    "LOCAL_RANK:",
    "Initializing distributed",
    "----------",
    "distributed_backend=",
    "All distributed processes registered",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Found current_model_state in the checkpoint",
)
"""Beginnings of Lightning's messages that advertise, or that repeat what our own lines say."""

TALKERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",  # a filter does not apply to child loggers
)
"""Loggers that write the messages of `NOISE`."""

WARNINGS = (
    ".*isinstance\\(treespec, LeafSpec\\).*",  # lightning 2.6 under torch 2.13
    ".*does not have many workers.*",  # batches are assembled from arrays in memory
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",  # a false alarm if a gradient scaler skips the first step
    ".*The ``compute`` method of metric .* was called before the ``update`` method.*",  # a rank without examples
)
"""Warnings that do not apply to our use of Lightning, torch and torchmetrics."""


class _Noise(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(NOISE)


def quiet_lightning() -> None:
    """Drops `NOISE` and `WARNINGS`; errors and other warnings pass. Call it before you create a Trainer."""
    for name in TALKERS:
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _Noise) for existing in logger.filters):
            logger.addFilter(_Noise())
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
