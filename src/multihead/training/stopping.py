"""When a run ends: after its last step, when its time is over, or when validation gets no better."""

from __future__ import annotations

import logging
from collections.abc import Callable

import lightning as L

from multihead.config.training import TrainerConfig
from multihead.training.agreement import Agreement
from multihead.training.validation import Validation

log = logging.getLogger("multihead")


class Stopping:
    """Decides after each step whether it was the last one.

    Args:
        config: The node ``trainer``.
        agreement: Lets all ranks come to the same decision.
        events: Called with an event's name and fields, for events.jsonl.
    """

    def __init__(self, config: TrainerConfig, agreement: Agreement, events: Callable[..., None]):
        self._config, self._agreement, self._events = config, agreement, events

    def is_last(self, trainer: L.Trainer, seconds: float) -> bool:
        """Whether trainer.max_steps are done, or the ``seconds`` that the run has taken reach trainer.max_time."""
        return trainer.global_step >= self._config.max_steps or self._out_of_time(trainer, seconds)

    def _out_of_time(self, trainer: L.Trainer, seconds: float) -> bool:
        limit = self._config.max_time
        if not limit:
            return False
        days, hours, minutes, rest = map(int, limit.split(":"))
        over = bool(self._agreement.largest(trainer, int(seconds >= ((days * 24 + hours) * 60 + minutes) * 60 + rest)))
        if over and not trainer.should_stop:
            trainer.should_stop = True
            self._events("out_of_time", step=trainer.global_step)
            log.info("trainer.max_time=%s is over: step %d is the last", limit, trainer.global_step)
        return over

    def stop_early(self, trainer: L.Trainer, validation: Validation) -> None:
        """Ends the run after trainer.early_stopping_patience validations in a row that were not the best."""
        patience = self._config.early_stopping_patience
        if patience and validation.num_bad >= patience and not trainer.should_stop:
            trainer.should_stop = True
            self._events("early_stop", step=trainer.global_step, best=validation.best)
