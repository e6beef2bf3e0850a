"""Loaders: exact positions with and without workers, any number of ranks, and a real Trainer over them."""

import lightning
import numpy as np
import pytest
import torch

from multihead.config.data import DataConfig
from multihead.data.encode import Encoded
from multihead.data.lightning_module import TrainingData
from multihead.data.module import EvalSampler, MicroBatchSampler, TaskData
from multihead.data.plan import eval_batches
from multihead.errors import ConfigError


def encoded(count=300, seed=0):
    rng = np.random.default_rng(seed)
    lengths = {role: rng.integers(1, 30, count) for role in ("source", "target")}
    flat = {role: rng.integers(5, 99, length.sum()).astype(np.uint16) for role, length in lengths.items()}
    starts = {role: np.cumsum(length) - length for role, length in lengths.items()}
    return Encoded(flat, starts, lengths)


def task_lengths(encoded):
    return encoded.lengths("target") + 1, np.stack([encoded.lengths("source"), encoded.lengths("target") + 1], 1)


def task_collate(encoded, indices, epoch=0):
    return {
        "source": encoded.padded("source", indices),
        "labels": encoded.padded("target", indices, append=[2], pad_id=-100),
    }


def module(workers=0, accumulate=0, splits=None, **options):
    options = {"batch_tokens": 400, "part_tokens": 200, "eval_tokens": 300, "num_workers": workers} | options
    splits = splits or {"train": encoded(), "val": encoded(50, 1), "test": encoded(7, 2)}
    source = TaskData(splits, task_lengths, lambda encoded: task_lengths(encoded)[0], task_collate)
    return TrainingData({"translation": source}, DataConfig(**options), seed=3, accumulate=accumulate)


def take(loader):
    return [(batch["index"].tolist(), batch["tokens_of_step"], batch["labels"].tolist()) for batch in loader]


def test_batches_are_parts_of_steps():
    data = module()
    plan, train = data.plan, data.sources["translation"].splits["train"]
    assert data.accumulation(1) == 2
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 2 * plan.num_steps(0)
    for number, step in enumerate(plan.steps(0)):
        pair = batches[2 * number : 2 * number + 2]
        assert sorted(i for batch in pair for i in batch["index"].tolist()) == sorted(step.indices)
        assert sum(int((batch["labels"] != -100).sum()) for batch in pair) == step.tokens
        for batch in pair:
            assert batch["tokens_of_step"] == step.tokens and batch["parts"] == 2
            assert isinstance(batch["tokens_of_step"], int)
            assert batch["source"][0].tolist()[: train.lengths("source")[batch["index"][0]]] == list(
                train.ids("source", int(batch["index"][0]))
            )


def test_index_is_the_row_of_the_split():
    rows = np.arange(20, 120)
    data = module(splits={"train": encoded().select(rows)})
    assert sorted(i for index, *_ in take(data.train_dataloader()) for i in index) == rows.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_position_yields_the_rest_of_the_epoch(workers):
    data = module()
    loader = data.train_dataloader()
    epochs = [take(loader) for _ in range(3)]
    assert epochs[0] != epochs[1] and len(epochs[0]) == len(epochs[1])
    steps = data.plan.num_steps(0)
    for epoch, step in ((0, 0), (0, 5), (1, 1), (1, steps - 1), (1, steps), (2, 0)):
        resumed = module(workers)
        resumed.set_position(epoch, step)
        loader = resumed.train_dataloader()
        assert len(loader) == 2 * steps
        expected_epoch, expected_step = (epoch + 1, 0) if step == steps else (epoch, step)
        assert take(loader) == epochs[expected_epoch][2 * expected_step :]
        if expected_epoch < 2:
            assert take(loader) == epochs[expected_epoch + 1]


def test_a_position_set_after_the_loader_was_made_counts():
    data, other = module(), module()
    loader = data.train_dataloader()
    list(loader)
    data.set_position(4, 2)
    other.set_position(4, 2)
    assert take(loader) == take(other.train_dataloader())
    with pytest.raises(ValueError, match="step 999 of an epoch of"):
        data.set_position(0, 999)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_given_up_starts_again(workers):
    data = module(workers)
    loader = data.train_dataloader()
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    del iterator
    assert take(loader) == take(module().train_dataloader())


def test_an_epoch_ends_with_its_last_part_although_the_iterator_is_not_exhausted():
    data = module()
    loader = data.train_dataloader()
    iterator = iter(loader)
    for _ in range(len(loader)):  # Lightning counts, it does not wait for StopIteration
        next(iterator)
    second = module()
    second.set_position(1, 0)
    assert take(loader) == take(second.train_dataloader())


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 2), (2, 1), (1, 4), (2, 2), (4, 1), (3, 1)])
def test_any_number_of_ranks_makes_the_same_steps(world_size, accumulation):
    plan = module().plan
    samplers = [MicroBatchSampler(plan, rank, world_size, accumulation) for rank in range(world_size)]
    epochs = [list(sampler) for sampler in samplers]
    assert {len(parts) for parts in epochs} == {plan.num_steps(0) * accumulation} == {len(samplers[0])}
    for number, step in enumerate(plan.steps(0)):
        window = slice(number * accumulation, (number + 1) * accumulation)
        parts = [part for parts in epochs for part in parts[window]]
        assert sorted(np.concatenate([indices for _, indices, _ in parts])) == sorted(step.indices)
        same = {"tokens_of_step": step.tokens, "targets_of_step": step.targets, "epoch": 0, "step_in_epoch": number}
        assert all(extra == same | {"parts": world_size * accumulation} for *_, extra in parts)


def test_accumulation_is_the_least_that_fits():
    data = module(batch_tokens=1000, part_tokens=200)
    assert [data.accumulation(world) for world in (1, 2, 3, 5, 8)] == [5, 3, 2, 1, 1]
    assert module(accumulate=7).accumulation(1) == 7
    message = r"trainer.accumulate_grad_batches: must be at least 2, .*=400 .*part_tokens=200, got 1"
    with pytest.raises(ConfigError, match=message):
        module(accumulate=1).accumulation(1)


def test_an_empty_part_is_a_batch():
    data = module(splits={"train": encoded(2)}, accumulate=5)
    batches = list(data.train_dataloader())
    assert len(batches) == 5
    assert [len(batch["index"]) for batch in batches] == [1, 1, 0, 0, 0]
    assert batches[-1]["labels"].shape == (0, 1) and batches[-1]["index"].dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_example_once(workers):
    data = module(workers)
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        for _ in range(2):
            seen = [i for batch in loader for i in batch["index"].tolist()]
            assert sorted(seen) == list(range(len(data.sources["translation"].splits[split])))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 5, 50])
def test_evaluation_is_shared_out_without_padding(world_size, count):
    _, widths = task_lengths(encoded(count))
    batches = [("translation", indices, {}) for indices in eval_batches(widths, 300)]
    samplers = [EvalSampler(batches, rank, world_size) for rank in range(world_size)]
    assert len({len(sampler) for sampler in samplers}) == 1 and len(samplers[0]) >= 1
    seen = [i for sampler in samplers for _, indices, _ in sampler for i in indices.tolist()]
    assert sorted(seen) == list(range(count))


def test_nothing_is_drawn_from_the_global_random_state():
    data = module()
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        list(loader)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


class Recorder(lightning.LightningModule):
    """Writes down which rows it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.validated, self.steps = [], [], []

    def training_step(self, batch, batch_index):
        self.seen.append(batch["index"].tolist())
        self.steps.append(self.global_step)
        return self.weight.sum() * batch["tokens_of_step"]

    def validation_step(self, batch, batch_index):
        self.validated += batch["index"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*logging interval.*")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
def test_a_trainer_sees_three_whole_epochs_and_can_start_in_the_middle(tmp_path):
    steps = module().plan.num_steps(0)

    def fit(position, max_steps):
        data, model = module(), Recorder()
        data.set_position(*position)
        trainer = lightning.Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            max_steps=max_steps,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            accumulate_grad_batches=data.accumulation(1),
            num_sanity_val_steps=0,
        )
        trainer.fit(model, datamodule=data)
        return model

    expected = [step.indices.tolist() for epoch in range(3) for step in module().plan.steps(epoch)]
    whole = fit((0, 0), 3 * steps)
    windows = [sorted(a + b) for a, b in zip(whole.seen[::2], whole.seen[1::2], strict=True)]
    assert windows == [sorted(step) for step in expected]
    assert whole.steps == [n for n in range(3 * steps) for _ in range(2)]
    assert sorted(whole.validated) == sorted(list(range(50)) * 3)
    assert fit((1, 0), steps).seen == whole.seen[2 * steps : 4 * steps]
