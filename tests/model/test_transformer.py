"""The backbone against PyTorch's own layers, against formulas written by hand, and against itself."""

import itertools
import math

import pytest
import torch
from torch import nn

from multihead.config.model import NORM_PLACEMENTS, NORMS, POSITIONS, ModelConfig
from multihead.errors import ConfigError
from multihead.model.positions import alibi_bias, alibi_slopes, rotary_angles, rotate, sinusoids
from multihead.model.transformer import (
    Blocks,
    Dropout,
    FeedForward,
    MultiHeadAttention,
    Transformer,
)

ATTENTIONS = ({}, {"num_kv_heads": 2}, {"num_kv_heads": 1, "qk_norm": True}, {"qk_norm": True})
VARIANTS = [
    {"position": position, "norm": norm, "norm_placement": placement, **attention}
    for position, norm, placement, attention in itertools.product(POSITIONS, NORMS, NORM_PLACEMENTS, ATTENTIONS)
]
NGRAMS = [{"position": position, "ngram_buckets": 30, "ngram_max": 3} for position in POSITIONS]


def tiny(source=13, target=13, **changes) -> Transformer:
    """A model of random weights, biases and norms included, in evaluation mode."""
    sizes = {
        "d_model": 16,
        "num_heads": 4,
        "d_ff": 24,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "max_len": 12,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(**{**sizes, "max_len": 12, "dropout": 0.0, **changes}),
        source_vocab_size=source,
        target_vocab_size=target,
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.2)
        elif "ngrams" in name:  # they start at zero
            nn.init.normal_(parameter[1:], std=0.2)
    return model.eval()


def ragged(lengths, width, left=False, vocab_size=13) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids [B, width] and their mask, padded with zeros on the right or the left."""
    place = torch.arange(width)
    lengths = torch.tensor(lengths)[:, None]
    mask = place >= width - lengths if left else place < lengths
    ids = torch.randint(1, vocab_size, mask.shape, generator=torch.Generator().manual_seed(1))
    return ids * mask, mask


def assert_close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


# ---- against PyTorch


def copy_attention(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    theirs.out_proj.weight.copy_(ours.output.weight)
    theirs.out_proj.bias.copy_(ours.output.bias)


@torch.no_grad()
def test_swiglu_is_the_papers():
    """Shazeer 2020 (arXiv:2002.05202), equation 6: (swish(x W1) * x W3) W2, with our biases."""
    block = tiny(activation="swiglu").encoder.layers[0].feed_forward
    x = torch.randn(2, 5, 16)
    up = block.up(x)
    assert_close(block(x), block.down(up * torch.sigmoid(up) * block.gate(x)))


@pytest.mark.parametrize("placement", NORM_PLACEMENTS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@torch.no_grad()
def test_layers_agree_with_torch(placement, activation):
    model = tiny(norm_placement=placement, activation=activation)
    memory, memory_mask = torch.randn(3, 7, 16), ragged([7, 4, 1], 7)[1]
    x = torch.randn(3, 5, 16)
    for stack, kind in ((model.encoder, nn.TransformerEncoderLayer), (model.decoder, nn.TransformerDecoderLayer)):
        ours = stack.layers[0]
        theirs = kind(16, 4, 24, 0.0, activation, batch_first=True, norm_first=placement == "pre").eval()
        norms = [ours.self_attention_norm, ours.feed_forward_norm]
        copy_attention(theirs.self_attn, ours.self_attention)
        if stack is model.decoder:
            norms.insert(1, ours.cross_attention_norm)
            copy_attention(theirs.multihead_attn, ours.cross_attention)
        for theirs_norm, norm in zip((theirs.norm1, theirs.norm2, getattr(theirs, "norm3", None)), norms, strict=False):
            theirs_norm.load_state_dict(norm.state_dict())
        theirs.linear1.load_state_dict(ours.feed_forward.up.state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward.down.state_dict())
        if stack is model.encoder:
            scope = stack._scope(memory, memory_mask, None, 0)
            with torch.enable_grad():  # keeps torch off its inference fast path, which has code of its own
                expected = theirs(memory, src_key_padding_mask=~memory_mask)
            real = memory_mask[..., None]
            assert_close(ours(memory, scope) * real, expected.detach() * real)
        else:
            future = ~torch.ones(5, 5, dtype=torch.bool).tril()
            expected = theirs(x, memory, tgt_mask=future, memory_key_padding_mask=~memory_mask)
            memory_scope = model.encoder._scope(memory, memory_mask, None, 0)
            assert_close(ours(x, stack._scope(x, None, None, 0), memory, memory_scope), expected)


def test_rms_norm_agrees_with_torch():
    model = tiny(norm="rms_norm")
    theirs = nn.RMSNorm(16, eps=1e-6)
    theirs.load_state_dict(model.encoder.norm.state_dict())
    for scale in (1.0, 1e-3):  # the smaller one feels the epsilon
        x = scale * torch.randn(2, 3, 16)
        assert_close(model.encoder.norm(x), theirs(x))


def test_grouped_query_attention_is_attention_with_repeated_key_heads():
    grouped, full = tiny(num_kv_heads=2), tiny()
    state = grouped.state_dict()
    for name, weight in state.items():
        if ".key." in name or ".value." in name:
            heads = weight.unflatten(0, (2, 4))
            state[name] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    source, mask = ragged([6, 3], 6)
    target, _ = ragged([5, 5], 5)
    assert_close(grouped(source, mask, target), full(source, mask, target))


# ---- positions, by formulas written here


def test_rotation_is_a_complex_product():
    x = torch.randn(2, 7, 3, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [5, 4, 3, 2, 100, 0, 1]])
    pairs = torch.complex(x[..., :4], x[..., 4:])
    frequency = torch.tensor([10000 ** (-2 * i / 8) for i in range(4)])
    turned = pairs * torch.exp(1j * positions[:, :, None, None] * frequency)
    assert_close(rotate(x, rotary_angles(positions, 8)), torch.cat((turned.real, turned.imag), dim=-1))


@torch.no_grad()
def test_rotary_attention_depends_on_distance_only():
    model = tiny(position="rotary", target=13, source=None)
    ids = ragged([6], 6)[0]
    shifted = torch.arange(6)[None] + 40
    assert_close(model.decode(ids, positions=shifted), model.decode(ids), 1e-4)


def test_alibi_bias_is_the_papers():
    assert alibi_slopes(8).tolist() == [2**-i for i in range(1, 9)]
    assert alibi_slopes(4).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert alibi_slopes(6).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    causal = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    hidden = -math.inf
    expected = [[0.0, hidden, hidden], [-1 / 16, 0.0, hidden], [-2 / 16, -1 / 16, 0.0]]
    assert alibi_bias(alibi_slopes(4), 3, 3, causal)[0, 1].tolist() == expected
    assert alibi_bias(alibi_slopes(4), 1, 3, None)[0, 0].tolist() == [[-2 / 4, -1 / 4, 0.0]]


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_alibi_attention_agrees_with_softmax_written_out(causal):
    model = tiny(position="alibi")
    stack = model.decoder if causal else model.encoder
    attention = stack.layers[0].self_attention
    x = torch.randn(1, 5, 16)
    query, key, value = (f(x)[0].view(5, 4, 4) for f in (attention.query, attention.key, attention.value))
    heads = []
    for h in range(4):
        scores = query[:, h] @ key[:, h].T / 2.0
        for i, j in itertools.product(range(5), range(5)):
            scores[i, j] += -abs(i - j) / 4 ** (h + 1) if j <= i or not causal else -math.inf
        heads.append(scores.softmax(-1) @ value[:, h])
    assert_close(attention(x, stack._scope(x, None, None, 0))[0], attention.output(torch.cat(heads, dim=-1)))


def test_sinusoids_are_the_papers():
    table = sinusoids(7, 6)
    for place, i in itertools.product(range(7), range(3)):
        angle = place / 10000 ** (2 * i / 6)
        assert_close(table[place, 2 * i : 2 * i + 2], torch.tensor([math.sin(angle), math.cos(angle)]))


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_a_sequence_beyond_the_table_is_refused(position):
    model = tiny(position=position)
    with pytest.raises(ValueError, match=rf"13 tokens is longer than model.max_len=12, .* {position} positions"):
        model.encode(ragged([13], 13)[0])
    cache = model.new_cache(torch.randn(1, 2, 16))
    model.decode(ragged([12], 12)[0], cache=cache)
    with pytest.raises(ValueError, match=r"13 tokens is longer than model.max_len=12"):
        model.decode(torch.ones(1, 1, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("position", ["rotary", "alibi", "none"])
def test_relative_positions_have_no_longest_sequence(position):
    model = tiny(position=position)
    assert model.encode(ragged([20], 20)[0]).isfinite().all()


# ---- every variant against itself


@pytest.mark.parametrize("changes", VARIANTS + NGRAMS, ids=lambda changes: "-".join(map(str, changes.values())))
@torch.no_grad()
def test_every_variant_is_consistent(changes):
    """Cached decoding is the full pass, a padded batch is its sentences, and the future does not change the past."""
    model = tiny(**changes)
    source, source_mask = ragged([7, 4, 2], 7)
    target, _ = ragged([8, 8, 8], 8)
    full = model(source, source_mask, target)

    memory = model.encode(source, source_mask)
    cache = model.new_cache(memory, source_mask)
    steps = [model.decode(part, cache=cache) for part in target.split([1, 3, 1, 1, 2], dim=1)]
    assert_close(torch.cat(steps, dim=1), full)
    assert cache.length == 8

    for row, (length, size) in enumerate(zip((7, 4, 2), (8, 5, 1), strict=True)):
        alone = model(source[row : row + 1, :length], None, target[row : row + 1, :size])
        assert_close(full[row : row + 1, :size], alone)
        assert_close(memory[row : row + 1, :length], model.encode(source[row : row + 1, :length]))

    other = target.clone()
    other[:, 5:] = 1
    assert_close(model(source, source_mask, other)[:, :5], full[:, :5], 0)

    # prompts padded on the left, in one pass and step by step
    prompt, prompt_mask = ragged([6, 4, 1], 6, left=True)
    padded = model.decode(prompt, target_mask=prompt_mask, memory=memory, memory_mask=source_mask)
    cache = model.new_cache(memory, source_mask)
    steps = [model.decode(prompt[:, :5], target_mask=prompt_mask[:, :5], cache=cache)]
    steps.append(model.decode(prompt[:, 5:], cache=cache))
    for row, length in enumerate((6, 4, 1)):
        keep = slice(row, row + 1)
        alone = model.decode(prompt[keep, 6 - length :], memory=memory[keep], memory_mask=source_mask[keep])
        assert_close(padded[keep, 6 - length :], alone)
        assert_close(torch.cat(steps, dim=1)[keep, 6 - length :], alone)


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_rows_of_the_cache_are_chosen_by_index(position):
    """Beams share their source's memory, are reordered by index, and finished sources leave."""
    model = tiny(position=position, num_kv_heads=2, ngram_buckets=30)
    source, mask = ragged([5, 3, 4], 5)
    target, _ = ragged([6] * 6, 6)
    memory = model.encode(source, mask)
    cache = model.new_cache(memory, mask)
    model.decode(target[::2, :2], cache=cache)  # one row per source
    cache.select(torch.tensor([0, 0, 1, 1, 2, 2]))
    model.decode(target[:, 2:4], cache=cache)  # two rows per source
    cache.select(torch.tensor([1, 0, 5, 5]), torch.tensor([0, 2]))
    hidden = model.decode(target[:4, 4:], cache=cache)

    history = torch.cat((target[::2, :2].repeat_interleave(2, 0), target[:, 2:4]), dim=1)[[1, 0, 5, 5]]
    sources = torch.tensor([0, 0, 2, 2])
    full = torch.cat((history, target[:4, 4:]), dim=1)
    expected = model.decode(full, memory=memory[sources], memory_mask=mask[sources])[:, 4:]
    assert_close(hidden, expected)


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_empty_rows_and_empty_batches_stay_finite(position):
    model = tiny(position=position)
    source, mask = ragged([4, 0], 4)
    assert model(source, mask, ragged([3, 3], 3)[0]).isfinite().all()
    target, target_mask = ragged([3, 0], 3, left=True)
    assert model(source, mask, target, target_mask).isfinite().all()
    empty = torch.zeros(0, 3, dtype=torch.long)
    assert model(empty, empty.bool(), empty).shape == (0, 3, 16)
    assert model(empty, None, empty, empty.bool()).shape == (0, 3, 16)


# ---- precision


@pytest.mark.parametrize("true", [False, True], ids=["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_bf16_follows_fp32(position, norm, true):
    changes = {"position": position, "norm": norm, "num_kv_heads": 2, "qk_norm": True}
    source, mask = ragged([7, 4], 7)
    target, _ = ragged([8, 8], 8)
    expected = tiny(**changes)(source, mask, target)
    model = tiny(**changes)
    if true:
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not true):
        hidden = model(source, mask, target)
        memory = model.encode(source, mask)
        cache = model.new_cache(memory, mask)
        steps = torch.cat([model.decode(part, cache=cache) for part in target.split(1, dim=1)], dim=1)
    hidden.float().square().mean().backward()
    assert_close(hidden.float(), expected, 0.15)
    assert_close(steps.float(), expected, 0.15)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ---- parameters


def test_names_are_the_same_in_every_topology():
    both, encoder, decoder = tiny(), tiny(target=None), tiny(source=None)
    names = set(both.state_dict())
    assert set(encoder.state_dict()) == {name for name in names if name.startswith("encoder.")}
    crossed = {name for name in names if name.startswith("decoder.") and "cross_attention" not in name}
    assert set(decoder.state_dict()) == crossed
    for name in ("encoder.embedding.weight", "decoder.layers.1.self_attention.query.weight", "decoder.norm.weight"):
        assert name in names
    matrices = {name for name, p in both.named_parameters() if p.ndim == 2}
    assert {name for name in matrices if ".layers." not in name} == {"encoder.embedding.weight"}


def test_encoder_only_and_decoder_only_run():
    source, mask = ragged([4, 2], 4)
    assert tiny(target=None)(source, mask).shape == (2, 4, 16)
    assert tiny(source=None)(target=source).shape == (2, 4, 16)


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("a source, a target or both", lambda both, encoder, decoder, ids: both()),
        ("no encoder", lambda both, encoder, decoder, ids: decoder.encode(ids)),
        ("no decoder", lambda both, encoder, decoder, ids: encoder.decode(ids)),
        ("no decoder", lambda both, encoder, decoder, ids: encoder.new_cache()),
    ],
)
def test_a_stack_that_is_missing_is_named(missing, call):
    with pytest.raises(ValueError, match=missing):
        call(tiny(), tiny(target=None), tiny(source=None), ragged([3], 3)[0])


@pytest.mark.parametrize(("tie", "shared"), [("none", False), ("target_output", False), ("source_target", True)])
def test_source_and_target_share_storage_where_tied(tie, shared):
    model = tiny(tie_embeddings=tie)
    assert (model.encoder.embedding.weight is model.decoder.embedding.weight) == shared


def test_tying_different_vocabularies_is_refused():
    with pytest.raises(ConfigError, match=r"model.tie_embeddings: must be none or target_output .*13 and 14"):
        tiny(source=13, target=14)
    tiny(source=13, target=14, tie_embeddings="target_output")


def test_parameters_of_the_papers_base_model():
    """The paper says 65 million with "about 37,000" tokens (table 3); its equations give 63 million for just 37,000."""
    d, f, v = 512, 2048, 37000
    attention, norm, feed_forward = 4 * (d * d + d), 2 * d, d * f + f + f * d + d
    by_hand = v * d + 6 * (attention + feed_forward + 2 * norm) + 6 * (2 * attention + feed_forward + 3 * norm)
    assert by_hand == 63_082_496
    with torch.device("meta"):
        config = ModelConfig(norm_placement="post")
        model = Transformer(config, source_vocab_size=v, target_vocab_size=v)
    assert sum(p.numel() for p in model.parameters()) == by_hand


def test_initialisation():
    sizes = {"source": 200, "target": 200, "d_model": 128, "d_ff": 256, "tie_embeddings": "none"}
    xavier = tiny(**sizes, num_encoder_layers=4, num_decoder_layers=8)
    scaled = tiny(**sizes, num_encoder_layers=4, num_decoder_layers=8, init="depth_scaled")
    for model in (xavier, scaled):
        assert model.decoder.embedding.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
        for name, p in model.named_parameters():
            if ".layers." in name and p.ndim == 2:
                into_residual = name.endswith(("output.weight", "down.weight")) and model is scaled
                layers = 4 if name.startswith("encoder") else 8
                std = (2 / sum(p.shape)) ** 0.5 / ((2 * layers) ** 0.5 if into_residual else 1)
                assert p.std().item() == pytest.approx(std, rel=0.05), name


@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "learned", "activation": "swiglu", "qk_norm": True}, {"bias": False}, {"ngram_buckets": 9}],
    ids=str,
)
def test_gradients_reach_every_parameter(changes):
    model = tiny(**changes)
    source, mask = ragged([5, 3], 5)
    model(source, mask, ragged([12, 12], 12)[0]).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    names = [name for name, p in model.named_parameters() if not p.grad.any() and not name.endswith("key.bias")]
    assert not names  # a bias of the keys shifts all scores alike: its gradient is rounding
    assert not any(name.endswith("bias") for name, _ in model.named_parameters()) or changes.get("bias", True)


def test_dropout_acts_where_it_is_asked_for():
    source, target = ragged([5], 5)[0], ragged([6], 6)[0]
    for name in ("dropout", "attention_dropout", "ff_dropout"):
        model = tiny(**{name: 0.5})
        expected = model(source, None, target)
        assert_close(model(source, None, target), expected, 0)
        model.train()
        assert not torch.equal(model(source, None, target), expected)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(300, 1001, requires_grad=True)
    for p in (0.1, 0.5, 0.9):
        y = Dropout(p)(x)
        assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
        assert_close(y[y != 0].unique(), torch.tensor([1 / (1 - p)]))
        assert (y.mean(dim=1).std().item()) == pytest.approx((p / (1 - p) / 1001) ** 0.5, rel=0.2)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, y)
    for p in (1 - 2**-17, 1 - 1e-12):  # more than 16 bits can tell
        assert Dropout(p)(x).count_nonzero() <= 30
    dropout = Dropout(0.1)
    torch.manual_seed(0)
    first = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), first)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("p", [0.1, 0.5, 1 - 2**-16])
def test_dropout_zeroes_exactly_its_share_of_all_random_numbers(p, monkeypatch):
    """Each of the 65,536 numbers of 16 bits once."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    monkeypatch.setattr(torch.Tensor, "random_", lambda bits, *limits: bits.copy_(every.view(torch.int64)))
    assert (Dropout(p)(torch.ones(2**16)) == 0).sum() == round(p * 2**16)


def test_each_layer_is_compiled_for_any_length(monkeypatch):
    model, compiled = tiny(), []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append((module, options)))
    model.compile_layers()
    assert [module for module, _ in compiled] == [*model.encoder.layers, *model.decoder.layers]
    assert all(options == {"dynamic": True} for _, options in compiled)


# ---- seams


class Doubled(MultiHeadAttention):
    """An attention of a plugin."""

    def forward(self, x, scope, memory=None, cache=None):
        return 2 * super().forward(x, scope, memory, cache)


def test_blocks_replace_a_class():
    model = Transformer(
        ModelConfig(d_model=8, num_heads=2, d_ff=8, num_encoder_layers=1, num_decoder_layers=1, max_len=8),
        source_vocab_size=5,
        target_vocab_size=5,
        blocks=Blocks(attention=Doubled),
    )
    assert isinstance(model.decoder.layers[0].cross_attention, Doubled)
    assert isinstance(model.decoder.layers[0].feed_forward, FeedForward)
    ids = torch.ones(1, 3, dtype=torch.long)
    assert model(ids, None, ids).shape == (1, 3, 8)


class Deep(MultiHeadAttention):
    """An attention that depends on its depth."""

    def at_depth(self, number, total):
        self.depth = (number, total)

    def initialise(self):
        assert self.depth  # it is known before the first values are given


@pytest.mark.parametrize("shared", [False, True])
def test_a_part_of_a_layer_gets_its_depth(shared):
    sizes = {"d_model": 8, "num_heads": 2, "d_ff": 8, "max_len": 8, "share_layers": shared}
    config = ModelConfig(**sizes, num_encoder_layers=3, num_decoder_layers=2)
    model = Transformer(config, source_vocab_size=5, target_vocab_size=5, blocks=Blocks(attention=Deep))
    depths = [(1, 3)] * 3 if shared else [(1, 3), (2, 3), (3, 3)]
    assert [layer.self_attention.depth for layer in model.encoder.layers] == depths
    depths = [(1, 2)] * 2 if shared else [(1, 2), (2, 2)]
    for name in ("self_attention", "cross_attention"):
        assert [getattr(layer, name).depth for layer in model.decoder.layers] == depths


def test_blocks_by_what_attends_to_what():
    config = ModelConfig(d_model=8, num_heads=2, d_ff=8, num_encoder_layers=1, num_decoder_layers=1, max_len=8)
    roles = [type(role, (MultiHeadAttention,), {}) for role in ("ToItself", "ToThePast", "ToTheMemory")]
    model = Transformer(config, source_vocab_size=5, target_vocab_size=5, blocks=Blocks(*roles))
    attentions = [model.encoder.layers[0].self_attention, model.decoder.layers[0].self_attention]
    assert [type(x) for x in [*attentions, model.decoder.layers[0].cross_attention]] == roles
