"""Adapters against the formula of the paper, by hand and on the backbone: what is trained, and what merging keeps."""

import pytest
import torch
from torch import nn

from multihead.config.lora import LoraConfig
from multihead.config.model import ModelConfig
from multihead.errors import ConfigError
from multihead.model.heads import PooledClassifier, VocabularyHead
from multihead.model.lora import LoraLinear, adapt, is_adapted, merge
from multihead.model.transformer import Transformer
from multihead.tasks.base import Model

D, FF, CLASSES, SIZE = 8, 12, 3, 11
ALL = ["*"]


def new_model(source=SIZE, target=None, **options):
    """A backbone with a head over classes, or over the vocabulary if it has a decoder."""
    torch.manual_seed(0)
    sizes = {"d_model": D, "num_heads": 2, "d_ff": FF, "num_encoder_layers": 2, "num_decoder_layers": 2, "max_len": 16}
    transformer = Transformer(ModelConfig(**sizes | options), source_vocab_size=source, target_vocab_size=target)
    if target is None:
        return Model(transformer, PooledClassifier(D, CLASSES, "mean", 0.0)).eval()
    return Model(transformer, VocabularyHead(D, target, transformer.decoder.embedding.weight, True)).eval()


def stirred(model):
    """The same model with an effect of its adapters."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.lora_B, std=0.1)
    return model


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_one_layer_by_hand():
    base = nn.Linear(2, 1)
    base.weight.data, base.bias.data = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])
    layer = LoraLinear(base, LoraConfig(r=1, alpha=3.0))
    layer.lora_A.data, layer.lora_B.data = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0]])
    x = torch.tensor([[4.0, 1.0]])
    assert layer(x).item() == (4 + 2 + 0.5) + 3 * 2 * (4 - 1)
    plain = layer.merged()
    assert type(plain) is nn.Linear and plain.weight.tolist() == [[1 + 6, 2 - 6]] and plain(x).item() == 24.5


def test_a_new_adapter_changes_nothing_and_keeps_the_names():
    ids = torch.arange(10).view(2, 5)
    plain, model = new_model(), new_model()
    adapt(model, LoraConfig(r=2, target_modules=ALL))
    assert torch.equal(model.transformer.encode(ids), plain.transformer.encode(ids))
    names = dict(model.named_parameters())
    assert {name for name in names if "lora_" not in name} == set(dict(plain.named_parameters()))
    assert not any(bool(names[name].any()) for name in names if name.endswith("lora_B"))


@pytest.mark.parametrize(
    "stacks, options",
    [
        ((SIZE, None), {}),
        ((None, SIZE), {"activation": "swiglu", "bias": False, "num_kv_heads": 1, "position": "rotary"}),
        ((SIZE, SIZE), {"norm_placement": "post"}),
        ((SIZE, None), {"share_layers": True, "embedding_width": 4}),
    ],
)
def test_merging_keeps_the_output_and_the_ordinary_names(stacks, options):
    ids = torch.arange(10).view(2, 5)
    plain, model = new_model(*stacks, **options), new_model(*stacks, **options)
    adapt(model, LoraConfig(r=3, alpha=3.0, target_modules=ALL))
    stirred(model)
    inputs = {"source": ids if stacks[0] else None, "target": ids if stacks[1] else None}
    before = model.transformer(**inputs)
    assert (before - plain.transformer(**inputs)).abs().max() > 1e-2
    merge(model)
    torch.testing.assert_close(model.transformer(**inputs), before, rtol=1e-6, atol=1e-6)
    assert not is_adapted(model)
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("targets, per_layer", [
    (["query", "value"], 2 * (D + D)),
    (["self_attention.output"], D + D),
    (["up", "down"], 2 * (D + FF)),
    (ALL, 4 * (D + D) + 2 * (D + FF)),
])  # fmt: skip
def test_the_number_of_trained_parameters(targets, per_layer):
    model = new_model()
    adapt(model, LoraConfig(r=5, target_modules=targets))
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert count == 2 * 5 * per_layer + (D + 1) * CLASSES
    assert sum(tensor.numel() for tensor in merge(model).values()) == count


def test_layers_that_share_weights_share_one_adapter():
    model = new_model(share_layers=True)
    adapt(model, LoraConfig(r=1))
    assert len([name for name in trained(model) if name.endswith("lora_A")]) == 2  # query and value, once


def test_a_head_over_the_vocabulary_and_what_it_shares_stay():
    model = new_model(None, SIZE)
    adapt(model, LoraConfig(r=1, also_train=["*.layers.*norm*"]))
    kinds = {name.rpartition(".")[2] if "lora" in name else name.split(".")[-2] for name in trained(model)}
    assert kinds == {"lora_A", "lora_B", "self_attention_norm", "feed_forward_norm"}
    assert model.head.weight is model.transformer.decoder.embedding.weight and not model.head.weight.requires_grad


def test_only_the_adapters_learn_what_a_gradient_says():
    model = new_model()
    adapt(model, LoraConfig(r=2))
    stirred(model).train()
    model.head.output(model.transformer.encode(torch.arange(10).view(2, 5)).mean(1)).square().sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained(model)
    layer = model.transformer.encoder.layers[0].self_attention.query
    x, grad = torch.randn(4, D), torch.randn(4, D)
    wanted_a = layer.scale * layer.lora_B.T @ grad.T @ x  # of y = (alpha / r) B A x
    wanted_b = layer.scale * grad.T @ (x @ layer.lora_A.T)
    found = torch.autograd.grad(layer(x), (layer.lora_A, layer.lora_B), grad)
    torch.testing.assert_close(found, (wanted_a, wanted_b))


def test_dropout_is_on_the_adapter_alone_and_in_training_alone():
    model = new_model(dropout=0.0)
    adapt(model, LoraConfig(r=2, dropout=0.5))
    layer = model.transformer.encoder.layers[0].self_attention.query
    x = torch.ones(64, D)
    assert torch.equal(layer.train()(x), layer.eval()(x))  # B is 0
    nn.init.normal_(layer.lora_B)
    assert not torch.equal(layer.train()(x), layer.eval()(x)) and torch.equal(layer(x), layer(x))


def test_nothing_happens_without_a_rank():
    model = new_model()
    adapt(model, LoraConfig())
    assert not is_adapted(model) and merge(model) == {} and len(trained(model)) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"target_modules": ["quary"]},
            r"lora.target_modules: no linear layer is named \*.quary; the nearest name is t",
        ),
        ({"also_train": ["*norms*"]}, r"lora.also_train: no parameter is named \*norms\*; the nearest name is "),
        ({"target_modules": []}, r"lora.target_modules: must be a list of names, got \[\]"),
        ({"r": -1}, "lora.r: must be at least 0, got -1"),
        ({"alpha": 0.0}, "lora.alpha: must be above 0 and finite, got 0.0"),
        ({"dropout": 1.0}, r"lora.dropout: must be in \[0, 1\), got 1.0"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ConfigError, match=message):
        adapt(new_model(), LoraConfig(**{"r": 2} | options))


@pytest.mark.unhurried
def test_a_compiled_layer_with_adapters_gives_the_same_outputs_and_gradients():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(LoraLinear(torch.nn.Linear(6, 5), LoraConfig(r=2, alpha=3.0)), torch.nn.Tanh())
    torch.nn.init.normal_(layers[0].lora_B)
    compiled = torch.compile(layers, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (3, 7):
        x = torch.randn(2, length, 6)
        found = []
        for module in (layers, compiled):
            layers.zero_grad()
            y = module(x)
            y.square().sum().backward()
            found.append([y.detach(), *(p.grad.clone() for p in (layers[0].lora_A, layers[0].lora_B))])
        for plain, other in zip(*found, strict=True):
            torch.testing.assert_close(other, plain)
