"""Optimizers against torch.optim and the singular value decomposition, schedules against their formulas."""

import copy
import math

import pytest
import torch
from torch import nn

from multihead import capabilities
from multihead.config.training import OptimConfig
from multihead.errors import ConfigError
from multihead.model import optim
from multihead.model.optim import MuonAdamW, build_optimizer, freeze, layer_rates, lr_factor, orthogonalize


class Toy(nn.Module):
    """Names and shapes of every kind: embedding, hidden matrices (tall, wide, square), biases, a norm."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 40), nn.Linear(40, 16), nn.LayerNorm(16)) for _ in range(2)
        )

    def forward(self, ids):
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return hidden @ self.embedding.weight.T


def named(model):
    return [("decoder." + name, parameter) for name, parameter in model.named_parameters()]


def train(model, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(11, (8, 5), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()


def twins():
    torch.manual_seed(0)
    model = Toy()
    return model, copy.deepcopy(model)


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_groups_of_muonadamw_equal_torch_adamw(fused):
    ours, theirs = twins()
    config = OptimConfig(lr=0.01, weight_decay=0.1)
    groups = build_optimizer(named(ours), config, fused=fused).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
    for group in groups:
        group |= {"kind": "adamw", "fused": fused}
    train(ours, MuonAdamW(groups), 5)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.01, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-9, fused=fused,
    )  # fmt: skip
    train(theirs, reference, 5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_muon_equals_torch_muon_and_torch_adamw(dtype):
    ours, theirs = twins()
    config = OptimConfig(name="muon", lr=0.01, muon_lr=0.02, weight_decay=0.1, muon_dtype=dtype)
    optimizer = build_optimizer(named(ours), config, fused=True)
    kinds = {group["kind"]: len(group["params"]) for group in optimizer.param_groups}
    assert kinds == {"muon": 6, "adamw": 10}
    hidden = [p for name, p in named(theirs) if p.ndim == 2 and ".layers." in name]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1, momentum=0.95)
    adamw = torch.optim.AdamW(
        [{"params": [theirs.embedding.weight]}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.01, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-9,
    )  # fmt: skip
    for seed in range(3):
        ours.load_state_dict(theirs.state_dict())  # the same point each time, so that rounding does not add up
        start = copy.deepcopy(theirs.state_dict())
        # Gradients of full rank: bfloat16's rounding noise would fill the missing directions of others
        generator = torch.Generator().manual_seed(seed)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        optimizer.step()
        muon.step()
        adamw.step()
        for (name, a), (key, b) in zip(named(ours), theirs.named_parameters(), strict=True):
            step, expected = a - start[key], b - start[key]
            assert expected.norm() > 0
            # torch iterates in bfloat16, whose rounding is 0.4 %, and amplifies it in five iterations
            tolerance = 0.1 if ".layers." in name and b.ndim == 2 else 1e-3
            assert (step - expected).norm() < tolerance * expected.norm(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 64)])
def test_update_is_nearly_orthogonal_with_the_directions_of_the_svd(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    tall = orthogonalize([matrix.mT for matrix in matrices], 5, dtype)
    updates = orthogonalize(list(matrices), 5, dtype)
    assert {update.dtype for update in updates} == {dtype}
    torch.testing.assert_close(torch.stack(tall).mT, torch.stack(updates), rtol=0, atol=0.02)
    inner = u.mT @ torch.stack(updates).float() @ vh.mT  # [N, R, R]: diagonal where U and V agree
    off = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 0.05
    if shape[1] < shape[2]:  # well conditioned; a square random matrix has a singular value near 0
        assert inner.diagonal(dim1=-2, dim2=-1).min() > 0.6
    assert inner.diagonal(dim1=-2, dim2=-1).max() < 1.3


@pytest.mark.parametrize("fast", [True, False])
def test_the_device_decides_what_muon_computes_in_unless_it_is_set(monkeypatch, fast):
    monkeypatch.setattr(capabilities, "fast_bf16", lambda device: fast)
    decided, other = (torch.bfloat16, torch.float32) if fast else (torch.float32, torch.bfloat16)
    assert orthogonalize([torch.eye(4)], 1)[0].dtype == decided
    seen = []
    monkeypatch.setattr(optim, "orthogonalize", lambda found, steps, dtype: seen.append(dtype) or found)
    for muon_dtype in ("auto", str(other).removeprefix("torch.")):
        model, _ = twins()
        train(model, build_optimizer(named(model), OptimConfig(name="muon", muon_dtype=muon_dtype), fused=True), 1)
    assert set(seen) == {None, other}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_dict_continues_bit_by_bit(name, tmp_path):
    straight, broken = twins()
    config = OptimConfig(name=name, weight_decay=0.1)
    optimizer = build_optimizer(named(straight), config, fused=True)
    train(straight, optimizer, 3, seed=1)
    train(straight, optimizer, 3, seed=2)
    first = build_optimizer(named(broken), config, fused=True)
    train(broken, first, 3, seed=1)
    for state in first.state_dict()["state"].values():
        assert all(isinstance(value, torch.Tensor) for value in state.values())
    torch.save([broken.state_dict(), first.state_dict()], tmp_path / "state.pt")
    resumed = Toy()
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(weights)
    second = build_optimizer(named(resumed), config, fused=True)
    second.load_state_dict(state)
    train(resumed, second, 3, seed=2)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_and_unused_parameters_are_left_alone():
    model, _ = twins()
    model.layers[0][0].weight.requires_grad_(False)
    model.unused = nn.Parameter(torch.ones(3, 3))
    before = model.layers[0][0].weight.clone()
    optimizer = build_optimizer(named(model), OptimConfig(name="muon", weight_decay=0.1), fused=False)
    train(model, optimizer, 2)
    assert torch.equal(model.layers[0][0].weight, before) and torch.equal(model.unused, torch.ones(3, 3))


def test_step_runs_the_closure_with_gradients():
    model, _ = twins()
    optimizer = build_optimizer(named(model), OptimConfig(name="muon"), fused=True)

    def closure():
        loss = model(torch.arange(11)).logsumexp(-1).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0


def test_rates_fall_with_depth_by_hand():
    names = ["head.weight", "encoder.norm.weight"]
    names += [f"encoder.layers.{layer}.feed_forward.up.weight" for layer in (0, 1, 2)]
    names += ["encoder.embedding.weight", "encoder.ngrams.weight", "encoder.positions.weight"]
    names += ["decoder.layers.0.feed_forward.up.weight", "decoder.embedding.weight"]
    assert layer_rates(names, 0.5) == [1.0, 1.0, 0.25, 0.5, 1.0, 0.25, 0.25, 0.25, 1.0, 1.0]
    assert layer_rates(names, 1.0) == [1.0] * 10


def test_matrices_of_lower_layers_have_lower_rates_under_muon():
    model, _ = twins()
    config = OptimConfig(name="muon", lr=1e-3, muon_lr=0.02, layer_decay=0.5)
    groups = build_optimizer(named(model), config, fused=True).param_groups
    rates = {kind: {group["lr"] for group in groups if group["kind"] == kind} for kind in ("muon", "adamw")}
    assert rates == {"muon": {0.02, 0.01}, "adamw": {1e-3, 5e-4}}


def test_what_is_frozen_does_not_learn_and_something_does():
    model, _ = twins()
    assert freeze(model.named_parameters(), ["layers.0.*.bias", "embedding.*"]) == [
        *(f"layers.0.{place}.bias" for place in range(4)),
        "embedding.weight",
    ]
    assert [p.requires_grad for p in (model.embedding.weight, model.layers[1][0].bias)] == [False, True]
    with pytest.raises(ConfigError, match=r"optim\.freeze: all parameters are frozen"):
        freeze(model.named_parameters(), ["embedding.*", "*"])
    with pytest.raises(ConfigError, match=r"no parameter is named embeding\.\*; the nearest name is embedding.weight"):
        freeze(model.named_parameters(), ["embeding.*"])


def test_schedules_scale_each_group_from_its_own_peak():
    model, _ = twins()
    config = OptimConfig(name="muon", lr=1e-3, muon_lr=0.02, warmup_steps=4, schedule="constant")
    optimizer = build_optimizer(named(model), config, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config, 10, step))
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimizer.param_groups])
        train(model, optimizer, 1)
        scheduler.step()
    assert rates[0] == pytest.approx([2.5e-4, 2.5e-4, 5e-3])
    assert rates[3] == rates[4] == pytest.approx([1e-3, 1e-3, 0.02])


def test_noam_is_the_papers_formula_divided_by_its_peak():
    config = OptimConfig(schedule="noam", warmup_steps=40)

    def paper(n):
        return 512**-0.5 * min(n**-0.5, n * 40**-1.5)

    for step in range(500):
        assert lr_factor(config, 500, step) == pytest.approx(paper(step + 1) / paper(40))
    assert max(lr_factor(config, 500, step) for step in range(500)) == lr_factor(config, 500, 39) == 1.0


def test_cosine_and_wsd_and_constant():
    cosine = OptimConfig(schedule="cosine", warmup_steps=10, min_lr_ratio=0.1)
    assert [lr_factor(cosine, 110, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert lr_factor(cosine, 110, 60) == pytest.approx(0.55)
    assert lr_factor(cosine, 110, 35) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert lr_factor(cosine, 110, 110) == lr_factor(cosine, 110, 999) == pytest.approx(0.1)
    wsd = OptimConfig(schedule="wsd", warmup_steps=10, decay_share=0.2)
    assert [lr_factor(wsd, 100, step) for step in (4, 9, 50, 80, 85, 95, 100)] == pytest.approx(
        [0.5, 1, 1, 1, 0.75, 0.25, 0]
    )
    constant = OptimConfig(schedule="constant", warmup_steps=0)
    assert {lr_factor(constant, 10, step) for step in range(20)} == {1.0}


@pytest.mark.parametrize("schedule", ["noam", "cosine", "wsd", "constant"])
@pytest.mark.parametrize(("warmup", "max_steps"), [(0, 1), (1, 1), (5, 3), (3, 3), (0, 7)])
def test_schedules_stay_within_bounds_at_the_edges(schedule, warmup, max_steps):
    config = OptimConfig(schedule=schedule, warmup_steps=warmup, decay_share=1.0)
    factors = [lr_factor(config, max_steps, step) for step in range(max_steps)]
    assert all(0 < factor <= 1 for factor in factors)
