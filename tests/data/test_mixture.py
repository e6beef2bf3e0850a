"""Several plans as one: shares of the steps, their order, and that each task goes through its own epochs."""

from collections import Counter

import numpy as np
import pytest

from multihead.data.mixture import Mixture
from multihead.data.plan import BatchPlan


def plan(num_steps, batch_tokens=8, part_tokens=8):
    """A plan of so many full steps of eight targets of one token."""
    lengths = np.ones(num_steps * batch_tokens, dtype=np.int64)
    made = BatchPlan(lengths, lengths, batch_tokens=batch_tokens, part_tokens=part_tokens, seed=num_steps)
    made._num_steps = num_steps
    return made


@pytest.mark.parametrize(
    ("sizes", "temperature", "expected"),
    [
        ((16, 4), 1.0, [16, 4]),
        ((16, 4), 2.0, [13, 7]),  # 20 steps, 4 to 2
        ((16, 4), 1e9, [10, 10]),
        ((40, 1), 0.5, [41, 1]),  # at least one of each
        ((5,), 3.0, [5]),
    ],
)
def test_shares_follow_sizes_and_temperature(sizes, temperature, expected):
    mixture = Mixture({f"task{i}": plan(size) for i, size in enumerate(sizes)}, temperature=temperature)
    assert list(mixture.counts.values()) == expected
    assert mixture.num_steps(0) == mixture.num_steps(7) == sum(expected) == len(mixture.steps(7))
    for epoch in range(2):
        assert Counter(step.task for step in mixture.steps(epoch)) == mixture.counts


def test_each_task_goes_through_its_own_epochs_one_after_the_other():
    plans = {"long": plan(16), "short": plan(4)}
    mixture = Mixture(plans, temperature=2.0)  # 13 of 16 steps, and 7 of 4
    taken = {name: [] for name in plans}
    for epoch in range(4):
        for step in mixture.steps(epoch):
            taken[step.task].append(sorted(step.indices.tolist()))
    for name, own in plans.items():
        expected = [sorted(step.indices.tolist()) for epoch in range(7) for step in own.steps(epoch)]
        assert taken[name] == expected[: len(taken[name])]
    assert {name: len(steps) for name, steps in taken.items()} == {"long": 52, "short": 28}


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    def order(mixture, epoch):
        return [step.task for step in mixture.steps(epoch)]

    def mixed(seed=1):
        return Mixture({"a": plan(16), "b": plan(8)}, seed=seed)

    one, other = mixed(), mixed()
    assert order(one, 3) == order(other, 3) != order(one, 4)
    assert order(one, 3) == order(other, 3) != order(mixed(2), 3)
    assert one.steps(3) is one.steps(3)
    assert order(one, 3) != sorted(order(one, 3))
    assert [step.indices.tolist() for step in Mixture({"a": plan(5)}).steps(2)] == [
        step.indices.tolist() for step in plan(5).steps(2)
    ]


def test_parts_and_padding_are_those_of_the_tasks():
    widths = np.array([4, 2] * 4)
    padded = BatchPlan(np.full(8, 1), widths, batch_tokens=4, part_tokens=4, seed=0)
    plans = {"full": plan(6, part_tokens=2), "padded": padded}
    mixture = Mixture(plans)
    assert mixture.num_micro_batches() == 4 == plans["full"].num_micro_batches()
    for step in mixture.steps(0):
        for count in (1, 2, 5):
            ours, own = mixture.micro_batches(step, count), plans[step.task].micro_batches(step, count)
            assert [part.tolist() for part in ours] == [part.tolist() for part in own]
    shares = [mixture.counts[name] * own.padding(4) for name, own in plans.items()]
    assert mixture.padding(4) == pytest.approx(sum(shares) / sum(mixture.counts.values()))
