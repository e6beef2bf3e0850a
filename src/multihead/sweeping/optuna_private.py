"""Optuna's storage by trial number, which a study does not give: read in Optuna 5.0.0.

A study's ask and tell serve one process that lives until its trial ends. Here another process may go on with a trial,
so its attributes, its curve and its end are written by number. `tests/sweeping/test_optuna_private.py` fails first if
Optuna changes one of these parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

VERSION = "5.0.0"


def _trial_id(study: Study, number: int) -> int:
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def frozen(study: Study, number: int) -> FrozenTrial:
    """A trial as the storage has it now."""
    return study._storage.get_trial(_trial_id(study, number))


def going_on(study: Study, number: int) -> Trial:
    """A trial that can report values, also if another process asked for it."""
    from optuna.trial import Trial

    return Trial(study, _trial_id(study, number))


def set_attribute(study: Study, number: int, key: str, value: Any) -> None:
    """Writes a user attribute of a trial."""
    study._storage.set_trial_user_attr(_trial_id(study, number), key, value)


def end(study: Study, number: int, state: TrialState, values: Sequence[float] | None) -> bool:
    """Ends a trial; returns False if it had ended already."""
    return bool(study._storage.set_trial_state_values(_trial_id(study, number), state, values))
