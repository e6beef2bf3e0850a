"""What a sweep says of its trials: importances only where they are more than chance."""

import pytest

from multihead.sweeping.importance import importances, no_importances
from multihead.sweeping.ledger import Row


def trials(values, points=None, by_seed=()):
    points = points or [{"optim.lr": 0.1 * i, "model.dropout": 0.1 * (i % 3)} for i in range(len(values))]
    record = {"by_seed": list(by_seed)} if by_seed else {}
    return [
        Row(i, "complete", value, point, record) for i, (value, point) in enumerate(zip(values, points, strict=True))
    ]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "0 of the parameters differ"),
        (trials([1.0, 1.1, 0.9, 1.2], [{"optim.lr": 0.1 * i} for i in range(4)]), "1 of the parameters differs"),
        (trials([1.0, 1.1, 0.9, 1.2]), "4 complete trials; it takes 10"),
        (trials([1.0] * 12), "no more than chance"),
        (
            trials([1.0 + 0.001 * i for i in range(12)], by_seed=(0.9, 1.1)),
            "no more than chance .* of equal trials 0.14",
        ),
    ],
)
def test_there_are_no_importances_of_noise(rows, why):
    import re

    assert re.search(why, no_importances(rows)) and importances(None, rows) == {}


def test_importances_of_many_different_trials_are_shown():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: t.suggest_float("a", 0, 1) + 0.01 * t.suggest_float("b", 0, 1), n_trials=20)
    rows = [Row(t.number, "complete", t.value, dict(t.params)) for t in study.trials]
    assert no_importances(rows) == ""
    found = importances(study, rows)
    assert found["a"] > found["b"]
