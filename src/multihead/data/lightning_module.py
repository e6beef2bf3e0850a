"""The loaders of `multihead.data.module.DataModule` as Lightning takes them."""

from __future__ import annotations

import lightning as L

from multihead.data.module import DataModule


class TrainingData(DataModule, L.LightningDataModule):
    """A `DataModule` that belongs to Lightning's trainer. Both constructors run: the first one calls the other."""
