"""Options of the backbone that published families need: each does what its documentation says."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from multihead.config.model import ModelConfig
from multihead.errors import ConfigError
from multihead.model.heads import VocabularyHead
from multihead.model.output import OutputTransform, new_output_transform
from multihead.model.positions import relative_buckets, rope_stretch, rotary_angles, rotate, sinusoids
from multihead.model.transformer import (
    Blocks,
    FeedForward,
    Layer,
    Scope,
    Transformer,
    new_norm,
)

SMALL = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_encoder_layers": 2, "num_decoder_layers": 2, "dropout": 0.0}


def encoder(**options):
    torch.manual_seed(0)
    return Transformer(ModelConfig(**SMALL | options), source_vocab_size=11, target_vocab_size=None).eval()


def test_the_default_model_has_no_new_parameter():
    names = {name.split(".")[0] for name, _ in encoder().encoder.named_parameters()}
    assert names == {"embedding", "layers", "norm"}


def test_embeddings_unscaled_with_types_a_norm_and_another_width():
    stack = encoder(embedding_width=8, embedding_scale=False, embedding_norm=True, segment_types=2, position="learned",
                    position_offset=2, max_len=5, num_encoder_layers=0, norm_placement="post").encoder  # fmt: skip
    assert stack.positions.weight.shape == (7, 8)
    ids, types = torch.tensor([[3, 4, 5]]), torch.tensor([[0, 1, 1]])
    x = stack.embedding.weight[ids[0]] + stack.positions.weight[2:5] + stack.types.weight[types[0]]
    assert_close(stack(ids, types=types)[0], stack.widen(F.layer_norm(x, (8,))))
    assert_close(stack(ids), stack(ids, types=torch.zeros_like(ids)))


def test_a_shared_layer_is_one_layer():
    shared = encoder(share_layers=True).encoder
    assert sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in encoder().encoder.parameters())
    assert shared.layers[0] is shared.layers[1] and len(shared.layers) == 2


def test_parallel_sub_layers_read_the_same_stream():
    layer = Layer(ModelConfig(**SMALL, parallel=True), Blocks(), causal=False, cross=False).eval()
    x, scope = torch.randn(1, 3, 16), Scope(torch.float32)
    attended = layer.self_attention(layer.self_attention_norm(x), scope)
    forward = layer.feed_forward(layer.feed_forward_norm(x))
    assert_close(layer(x, scope), x + attended + forward)
    layer = Layer(ModelConfig(**SMALL, parallel=True), Blocks(), causal=True, cross=True).eval()
    memory = torch.randn(1, 5, 16)
    crossed = layer.cross_attention(layer.cross_attention_norm(x), scope, memory)
    attended = layer.self_attention(layer.self_attention_norm(x), scope)
    forward = layer.feed_forward(layer.feed_forward_norm(x))
    assert_close(layer(x, scope, memory, scope), x + attended + crossed + forward)


def test_rotary_positions_turn_a_share_of_a_head():
    x = torch.randn(1, 4, 1, 8)
    angles = rotary_angles(torch.arange(4), 4, 500.0)
    assert_close(rotate(x, angles)[..., 4:], x[..., 4:])
    assert_close(rotate(x, angles)[..., :4], rotate(x[..., :4], angles))
    assert_close(angles[0][3, 0], torch.tensor([3.0, 3 / math.sqrt(500.0)]).cos())


def test_rotary_positions_are_stretched():
    rotary = SMALL | {"position": "rotary", "head_size": 8}
    assert rope_stretch(ModelConfig(**rotary)) is None
    linear = ModelConfig(**rotary, rope_scaling="linear", rope_factor=4.0)
    assert rope_stretch(linear).tolist() == [4.0] * 4
    here = rotary_angles(torch.tensor([8]), 8, stretch=rope_stretch(linear))
    assert_close(here[1], rotary_angles(torch.tensor([2]), 8)[1])
    original = 40  # wavelengths are 6.3, 63, 628 and 6283 positions: 6.4 turns are kept, 0.6 and fewer stretched
    llama3 = ModelConfig(**rotary, rope_scaling="llama3", rope_factor=4.0, rope_original_len=original)
    assert_close(rope_stretch(llama3), torch.tensor([1.0, 4.0, 4.0, 4.0]))
    between = ModelConfig(**rotary, rope_scaling="llama3", rope_factor=4.0, rope_original_len=16)
    kept = (16 / (2 * math.pi) - 1) / 3
    assert_close(rope_stretch(between)[0], torch.tensor(1 / ((1 - kept) / 4 + kept)))


@pytest.mark.parametrize("places, expected", [("auto", "qkvo"), ("none", ""), ("qkv", "qkv"), ("all", "qkvo")])
def test_biases_in_attention_by_place(places, expected):
    attention = encoder(attention_bias=places, head_size=4).encoder.layers[0].self_attention
    named = {"q": attention.query, "k": attention.key, "v": attention.value, "o": attention.output}
    assert "".join(name for name, linear in named.items() if linear.bias is not None) == expected
    assert attention.query.weight.shape == (8, 16) and attention.output.weight.shape == (16, 8)


@pytest.mark.parametrize(
    "name, function",
    [
        ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("silu", F.silu),
        ("relu2", lambda x: F.relu(x) ** 2),
    ],
)
def test_activations(name, function):
    layer, x = FeedForward(ModelConfig(**SMALL, activation=name)), torch.randn(3, 16)
    assert_close(layer(x), layer.down(function(layer.up(x))))


@pytest.mark.parametrize("name, approximate", [("geglu", "none"), ("geglu_tanh", "tanh")])
def test_a_gate_of_gelu(name, approximate):
    layer, x = FeedForward(ModelConfig(**SMALL, activation=name)), 3 * torch.randn(3, 16)
    expected = layer.down(F.gelu(layer.up(x), approximate=approximate) * layer.gate(x))
    assert_close(layer(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_norms_add_what_is_asked_for(norm):
    x = torch.full((1, 16), 1e-3) * torch.arange(16)
    small, large = (new_norm(ModelConfig(**SMALL, norm=norm, norm_eps=eps), 16)(x) for eps in (1e-12, 0.5))
    assert large.abs().max() < 0.05 < small.abs().max()


def test_a_head_with_transform_and_bias():
    config = ModelConfig(**SMALL, activation="gelu", embedding_width=8)
    head = VocabularyHead(8, 11, bias=True, transform=OutputTransform(config))
    torch.nn.init.normal_(head.bias)
    hidden, labels = torch.randn(5, 16), torch.tensor([1, 2, 3, 4, 5])
    expected = F.cross_entropy(head(hidden), labels, reduction="sum")
    assert_close(head.loss(hidden, labels), expected)
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in head.named_parameters()}
    head.zero_grad()
    head.loss(hidden, labels).backward()
    for name, parameter in head.named_parameters():
        assert_close(parameter.grad, wanted[name])


def test_sinusoids_in_halves_are_all_sines_before_all_cosines():
    table = sinusoids(5, 6, "halves")
    for place in range(5):
        angles = [place / 10000 ** (2 * i / 6) for i in range(3)]
        wanted = [*map(math.sin, angles), *map(math.cos, angles)]
        assert_close(table[place], torch.tensor(wanted))
    assert_close(encoder(sinusoid_order="halves", max_len=5).encoder.positions.weight, sinusoids(5, 16, "halves"))


def test_buckets_of_distances_grow_and_are_apart_on_both_sides():
    """Worked by hand: of 8 buckets, 4 are for keys before the query: 0, 1, 2 to 3 and from 4 on."""
    distances = torch.tensor([-9, -8, -4, -3, -2, -1, 0, 1, 2, 3, 4, 9])
    both = relative_buckets(distances, 8, 8, causal=False)
    assert both.tolist() == [3, 3, 3, 2, 2, 1, 0, 5, 6, 6, 7, 7]
    before = relative_buckets(torch.arange(-20, 1), 8, 16, causal=True)  # 0 to 3 apart; 4-5, 6-7, 8-11, 12 and more
    assert before.tolist() == [7] * 9 + [6] * 4 + [5] * 2 + [4] * 2 + [3, 2, 1, 0]


def test_relative_positions_add_the_bias_of_the_bucket_to_the_scores():
    stack = encoder(position="relative", relative_buckets=8, relative_max_distance=16).encoder
    mask = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    mask[..., 4] = False
    bias = stack.positions.add_to_scores(mask, 5, 5, torch.float32)
    assert bias.shape == (1, 2, 5, 5) and bool((bias[..., 4] == -math.inf).all())
    bucket = relative_buckets(torch.tensor(3 - 1), 8, 16, causal=False)
    assert_close(bias[0, :, 1, 3], stack.positions.weight[bucket])
    stack(torch.tensor([[1, 2, 3]]))[0, :, 0].sum().backward()
    assert stack.positions.weight.grad.abs().sum() > 0


def test_attention_without_a_scale_and_a_scaled_output():
    plain, unscaled = (encoder(attention_scale=scaled, num_encoder_layers=1).encoder for scaled in (True, False))
    unscaled.layers[0].self_attention.query.weight.data *= 8**-0.5
    unscaled.layers[0].self_attention.query.bias.data *= 8**-0.5
    ids = torch.tensor([[3, 4, 5]])
    assert_close(plain(ids), unscaled(ids))
    head = VocabularyHead(16, 11, transform=new_output_transform(ModelConfig(**SMALL, output_scale=True)))
    hidden = torch.randn(2, 16)
    assert_close(head(hidden), F.linear(hidden / 4, head.weight))
    loss = F.cross_entropy(head(hidden), torch.tensor([1, 2]), reduction="sum")
    assert_close(head.loss(hidden, torch.tensor([1, 2])), loss)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sinusoid_order": "x"}, "model.sinusoid_order: must be one of alternating, halves, got 'x'"),
        ({"relative_buckets": 5}, "model.relative_buckets: must be an even number from 4, got 5"),
        ({"relative_max_distance": 16}, "must be more than half of model.relative_buckets=32, got 16"),
        ({"output_scale": True, "output_transform": True}, "must be false if model.output_transform is true"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**SMALL | options)
