"""The private parts of Optuna that sweeps use: this fails first if a new version changes them."""

import optuna
import pytest
from optuna.trial import TrialState

from multihead.sweeping import optuna_private


def test_a_trial_is_reached_by_its_number():
    study = optuna.create_study(storage="sqlite://")  # in memory
    study.ask()
    number = study.ask().number
    optuna_private.set_attribute(study, number, "dir", "there")
    optuna_private.going_on(study, number).report(2.5, 10)
    found = optuna_private.frozen(study, number)
    assert (found.number, found.state, found.user_attrs) == (1, TrialState.RUNNING, {"dir": "there"})
    assert found.intermediate_values == {10: 2.5}
    assert optuna_private.end(study, number, TrialState.COMPLETE, [2.5])
    assert optuna_private.frozen(study, number).value == 2.5
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        optuna_private.end(study, number, TrialState.FAIL, None)


def test_the_version_that_was_read():
    read, installed = (tuple(map(int, v.split(".")[:1])) for v in (optuna_private.VERSION, optuna.__version__))
    assert read == installed, "read sweeping/optuna_private.py again with the new version"
