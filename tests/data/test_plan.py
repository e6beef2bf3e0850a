"""The plan of an epoch: every example once, limits kept, little padding, and nothing that depends on the ranks."""

import time

import numpy as np
import pytest

from multihead.data.plan import BatchPlan, _cuts, divide, eval_batches
from multihead.errors import ConfigError


def lengths(count, seed=0, mean=2.7, sigma=0.45, longest=200):
    """Target lengths, and widths of (source, target), like those of sentence pairs."""
    rng = np.random.default_rng(seed)
    target = np.clip(rng.lognormal(mean, sigma, count), 1, longest).astype(np.int64)
    source = np.clip(target * rng.lognormal(0, 0.2, count), 1, longest).astype(np.int64)
    return target, np.stack([source, target], axis=1)


def make(count=3000, seed=1, batch_tokens=2000, part_tokens=500, **options):
    target, widths = lengths(count, **options)
    return BatchPlan(target, widths, batch_tokens=batch_tokens, part_tokens=part_tokens, seed=seed)


CASES = [(np.random.default_rng(case), case) for case in range(30)]


@pytest.mark.parametrize(("rng", "case"), CASES)
@pytest.mark.unhurried
def test_every_example_once_within_the_limits(rng, case):
    count, longest = int(rng.integers(1, 600)), int(rng.integers(1, 120))
    target = rng.integers(1, longest + 1, count) if case % 3 else lengths(count, case, longest=longest)[0]
    widths = np.concatenate([rng.integers(1, longest + 1, (count, case % 3)), target[:, None]], axis=1)
    part = int(rng.integers(target.max(), 3 * target.max() + 50))
    batch = int(rng.integers(part if case % 2 else target.max(), 5 * part))
    plan = BatchPlan(target, widths, batch_tokens=batch, part_tokens=part, seed=case)
    for epoch in range(2):
        steps = plan.steps(epoch)
        assert len(steps) == plan.num_steps(epoch)
        assert np.array_equal(np.sort(np.concatenate([step.indices for step in steps])), np.arange(count))
        assert [target[step.indices].sum() for step in steps] == plan.tokens(epoch).tolist()
        assert plan.tokens(epoch).max() <= batch
        for step in steps:
            assert max(target[bucket].sum() for bucket in step.buckets) <= part
            for parts in (1, 2, 3, 5, 7):
                cut = plan.micro_batches(step, parts)
                assert len(cut) == parts
                assert np.array_equal(np.sort(np.concatenate(cut)), np.sort(step.indices))
                assert parts < plan.num_micro_batches() or max(target[indices].sum() for indices in cut) <= part
                assert [plan.cost(indices) for indices in cut] == sorted(map(plan.cost, cut), reverse=True)


def test_a_plan_is_a_pure_function_of_seed_epoch_and_lengths():
    def content(plan, epoch):
        return [step.indices.tolist() for step in plan.steps(epoch)]

    one, two = make(), make()
    for epoch in (3, 0, 7, 3):
        assert content(one, epoch) == content(two, epoch)
        two.steps(epoch + 1)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    assert content(make(), 3) == content(one, 3) != content(one, 4)
    assert content(make(seed=2), 3) != content(one, 3)
    assert np.array_equal(before, np.random.get_state()[1])


def test_the_limit_of_a_part_decides_the_steps_and_the_number_of_parts_does_not():
    """What docs/devices.md and docs/batch_plan.md say of data.part_tokens and of trainer.accumulate_grad_batches."""
    plan, other = make(part_tokens=500), make(part_tokens=250)
    steps, others = ([sorted(step.indices.tolist()) for step in each.steps(0)] for each in (plan, other))
    assert steps != others
    for step, indices in zip(plan.steps(0), steps, strict=True):
        for parts in (plan.num_micro_batches(), 8, 32):
            assert sorted(np.concatenate(plan.micro_batches(step, parts)).tolist()) == indices
    assert plan.tokens(0).max() <= 2000 and other.tokens(0).max() <= 2000  # of one size


def test_steps_are_full_and_padded_little():
    plan = make(20_000, batch_tokens=4096, part_tokens=2048)
    real = plan.widths.sum(axis=0)
    for epoch in range(3):
        tokens = plan.tokens(epoch)
        assert tokens.mean() > 0.985 * 4096 and tokens.min() > 0.95 * 4096
        padded = sum(
            len(part) * plan.widths[part].max(axis=0).astype(int)
            for step in plan.steps(epoch)
            for part in plan.micro_batches(step, plan.num_micro_batches())
        )
        assert (1 - real / padded < 0.05).all()  # sorted by one length alone the other side has over 15 %


def test_epochs_differ_and_steps_mix_lengths():
    plan = make(20_000, batch_tokens=8192, part_tokens=2048)
    bucket_of = []
    for epoch in range(2):
        place = np.empty(20_000, dtype=int)
        for number, bucket in enumerate(b for step in plan.steps(epoch) for b in step.buckets):
            place[bucket] = number
        bucket_of.append(place)
    pairs = np.random.default_rng(0).integers(0, 20_000, (400_000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    together = [place[pairs[:, 0]] == place[pairs[:, 1]] for place in bucket_of]
    assert (together[0] & together[1]).sum() < 0.7 * together[0].sum()
    means = [plan.lengths[step.indices].mean() for step in plan.steps(0)]
    bucket_means = [plan.lengths[b].mean() for step in plan.steps(0) for b in step.buckets]
    assert np.std(means) < 0.65 * np.std(bucket_means)


def test_parts_share_the_work():
    plan = make(20_000, batch_tokens=4096, part_tokens=2048)
    for count, limit in ((2, 1.2), (4, 1.2), (8, 1.25), (3, 1.35)):
        costs = np.array([[plan.cost(part) for part in plan.micro_batches(step, count)] for step in plan.steps(0)])
        assert (costs.max(axis=1) / costs.mean(axis=1)).mean() < limit


def test_few_examples_make_one_step_and_empty_parts():
    plan = make(3, batch_tokens=2000, part_tokens=500)
    assert plan.num_steps(0) == 1
    parts = plan.micro_batches(plan.steps(0)[0], 8)
    assert [len(part) for part in parts] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert parts[-1].dtype == np.int64


def test_limits_below_the_longest_example():
    target, widths = lengths(100)
    longest = target.max()
    with pytest.raises(ConfigError, match=rf"data\.part_tokens: must be at least {longest}, the number of tokens"):
        BatchPlan(target, widths, batch_tokens=4096, part_tokens=longest - 1, seed=0)
    with pytest.raises(ConfigError, match=r"data.batch_tokens: must be at least .* of the longest target"):
        BatchPlan(target, widths, batch_tokens=longest - 1, part_tokens=4096, seed=0)
    with pytest.raises(ConfigError, match=r"data.train: must have at least one example"):
        BatchPlan(target[:0], widths[:0], batch_tokens=10, part_tokens=10, seed=0)


def test_crowded_buckets_are_evened_out_or_filled_in_order(monkeypatch):
    target = np.array([7] * 30 + [5] * 30 + [400] * 9)
    plan = BatchPlan(target, target, batch_tokens=800, part_tokens=800, seed=0)
    monkeypatch.setattr(BatchPlan, "_even_out", lambda self, buckets: False)
    for epoch in range(5):
        steps = plan.steps(epoch)
        assert len(steps) == plan.num_steps(epoch) and plan.tokens(epoch).max() <= 800
        assert sum(len(step.indices) for step in steps) == len(target)


def test_padding_is_the_share_of_positions_without_a_token():
    lengths, widths = np.array([1, 1, 1]), np.array([[2, 5], [2, 4], [1, 3]])
    plan = BatchPlan(lengths, widths, batch_tokens=3, part_tokens=3, seed=0)
    assert plan.padding(1) == pytest.approx(1 - 17 / (3 * 2 + 3 * 5))
    assert plan.padding(3) == 0.0


def test_an_epoch_is_made_once():
    plan = make(300)
    first = plan.steps(3)
    assert plan.steps(3) is first
    assert plan.steps(4) is not first


@pytest.mark.parametrize(
    ("weights", "place", "padded"),
    [
        ([1, 1, 1, 1], 2, 2 * 5 + 2 * 3),
        ([3, 1, 1, 1], 1, 1 * 5 + 3 * 4),
        ([1, 1, 1, 3], 3, 3 * 5 + 1 * 1),
        ([2, 3, 1, 1], 1, 1 * 5 + 3 * 4),  # 2 of 7 are nearer to the half than 5 are: by nothing, so the first
        ([9, 1, 1, 1], 1, 1 * 5 + 3 * 4),  # never nothing
        ([1, 1, 1, 9], 3, 3 * 5 + 1 * 1),
    ],
)
def test_a_cut_stands_where_the_weights_are_nearest_to_equal(weights, place, padded):
    """Widths descend; a box is as wide as its widest example."""
    costs, places = _cuts(np.arange(4), 2, np.array(weights), np.array([[5], [4], [3], [1]]))
    assert places.tolist() == [place] and costs.tolist() == [padded]


def test_cuts_into_more_boxes_by_hand():
    costs, places = _cuts(
        np.array([2, 0, 1, 3, 4, 5]), 3, np.ones(6), np.array([[1, 9], [2, 8], [3, 7], [4, 6], [5, 5], [6, 4]])
    )
    assert places.tolist() == [2, 4]
    assert costs.tolist() == [2 * (3 + 9) + 4 * (6 + 8), 4 * (4 + 9) + 2 * (6 + 5)]


def test_crowded_buckets_give_to_those_with_room():
    plan = BatchPlan(np.full(6, 4), np.array([[9], [1], [1], [8], [2], [2]]), batch_tokens=8, part_tokens=8, seed=0)
    buckets = [np.array([0, 1, 2]), np.array([3]), np.array([4])]
    assert plan._even_out(buckets) is True
    assert [sorted(bucket.tolist()) for bucket in buckets] == [[1, 2], [0, 3], [4]]  # 9 is least wasted beside 8
    assert plan._even_out(buckets) is True  # nothing to do
    assert plan._even_out([np.array([0, 1, 2]), np.array([3, 4])]) is False


def test_without_chance_the_best_cut_is_taken_and_with_it_one_nearly_as_good():
    """Cut by the first column the boxes hold 612 positions, by the second 610, uncut 812."""
    widths = np.array([[1, 1], [1, 102], [101, 1], [101, 102]])

    def boxes(rng=None):
        return {tuple(sorted(box.tolist())) for box in divide(np.arange(4), 2, np.ones(4), widths, rng)}

    by_first, by_second = {(0, 1), (2, 3)}, {(0, 2), (1, 3)}
    assert boxes() == by_second
    drawn = [boxes(np.random.default_rng(seed)) for seed in range(20)]
    assert by_first in drawn and by_second in drawn and all(found in (by_first, by_second) for found in drawn)


def test_divide_is_fair():
    target, widths = lengths(1000)
    boxes = divide(np.arange(1000), 10, target, widths)
    sums = np.array([target[box].sum() for box in boxes])
    assert len(boxes) == 10 and sums.max() - sums.min() < 2 * target.max()


def test_a_million_examples_in_a_few_seconds():
    target, widths = lengths(200_000, longest=500, mean=2.9, sigma=0.6)
    start = time.process_time()
    plan = BatchPlan(target, widths, batch_tokens=32_768, part_tokens=8192, seed=0)
    plan.steps(0)
    assert time.process_time() - start < 3  # a fifth of a million in a fifth of the time


@pytest.mark.parametrize("seed", range(10))
def test_evaluation_takes_every_example_once_longest_first(seed):
    rng = np.random.default_rng(seed)
    widths = rng.integers(0, 50, (int(rng.integers(1, 300)), 1 + seed % 2))
    batches = eval_batches(widths, 100)
    order = np.concatenate(batches)
    assert np.array_equal(np.sort(order), np.arange(len(widths)))
    assert (np.diff(widths[order, 0]) <= 0).all()
    for batch, after in zip(batches, [*batches[1:], None], strict=True):
        assert len(batch) == 1 or len(batch) * widths[batch].max() <= 100
        if after is not None:
            more = np.append(batch, after[0])
            assert len(more) * widths[more].max() > 100
    assert [b.tolist() for b in eval_batches(widths, 100)] == [b.tolist() for b in batches]


def test_evaluation_by_one_length_or_several():
    lengths = [3, 9, 1, 5]
    for widths in (lengths, np.array(lengths), np.array(lengths)[:, None]):
        assert [batch.tolist() for batch in eval_batches(widths, 10)] == [[1], [3, 0], [2]]


def test_evaluation_of_nothing():
    assert eval_batches(np.zeros((0, 2)), 100) == []
