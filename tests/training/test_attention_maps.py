"""The maps are the weights of the very layers: against torch.nn's own, and by their product with the values."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from trial import SMOKE

import multihead
from multihead.config.model import ModelConfig
from multihead.model.transformer import MultiHeadAttention, Scope, Transformer
from multihead.tasks.attention import AttentionMaps, _tokens, attention_weights, watched
from multihead.tasks.attention_picture import draw


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_they_are_those_of_torch(masked, cross):
    torch.manual_seed(0)
    ours = MultiHeadAttention(ModelConfig(d_model=16, num_heads=4))
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    context = memory if cross else x
    shown = torch.arange(context.size(1)) < torch.tensor([[2], [4], [5]]) if masked else None
    scope = Scope(torch.float32, None if shown is None else shown[:, None, None, :])
    expected = theirs(
        x, context, context, key_padding_mask=None if shown is None else ~shown, average_attn_weights=False
    )
    torch.testing.assert_close(attention_weights(ours, x, scope, memory if cross else None), expected[1])


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{}, {"num_kv_heads": 2}, {"qk_norm": True}, {"position": "rotary"}, {"position": "alibi"}, {"position": "none"}],
    ids=str,
)
def test_their_product_with_the_values_is_what_the_layer_gives(options):
    torch.manual_seed(0)
    sizes = {
        "d_model": 16,
        "num_heads": 4,
        "d_ff": 32,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "dropout": 0.0,
    }
    config = ModelConfig(**{**sizes, "tie_embeddings": "all"}, **options)
    model = Transformer(config, source_vocab_size=11, target_vocab_size=11).eval()
    given = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadAttention):
            module.register_forward_hook(lambda m, i, o, name=name: given.update({name: (m, i, o)}))
    source, target = torch.randint(3, 11, (2, 6)), torch.randint(3, 11, (2, 4))
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    with watched(model) as seen:
        model(source, mask, target)
    assert len(given) == 5 and given.keys() < seen.keys()
    for name, (module, (x, _, *rest), output) in given.items():
        memory = rest[0] if rest and rest[0] is not None else x
        value = module.value(memory).unflatten(-1, (-1, module.head_dim))
        value = value.repeat_interleave(4 // value.size(2), dim=2)
        mixed = torch.einsum("hts,shk->thk", seen[name][0], value[0]).flatten(1)
        torch.testing.assert_close(module.output(mixed), output[0], atol=1e-5, rtol=1e-5)


@pytest.mark.pictures
@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        ("translation", {"encoder_self", "decoder_self", "decoder_cross"}),
        ("lm", {"decoder_self"}),
        ("classification", {"encoder_self"}),
    ],
)
def test_a_run_leaves_its_pictures(tmp_path, task, kinds):
    words = [word for word in SMOKE if not word.startswith("task=")]
    multihead.train([f"task={task}", *words, f"run_dir={tmp_path / 'run'}"])
    pictures = {
        path.stem.removeprefix("attention_") for path in (tmp_path / "run" / "pictures").glob("attention_*.png")
    }
    assert pictures == kinds
    assert all(path.stat().st_size < 400_000 for path in (tmp_path / "run" / "pictures").iterdir())


def test_a_picture_names_words_as_they_are_written(runs):
    """A word of more than ASCII stood there as the library's letters for its bytes."""
    task = multihead.load(runs.finished("task=translation")).task
    target = task.tokenizers["target"]
    (ids,) = target.encode_batch(["Die Köchin hört die Gäste."])
    shown = _tokens(task, "model.transformer.decoder", torch.tensor([target.bos_id, *ids, target.pad_id]))
    assert "".join(shown) == "<bos>▁Die▁Köchin▁hört▁die▁Gäste."


def test_the_tokens_of_a_stack_are_those_that_it_reads():
    """An encoder of ``text`` beside a ``target`` was named by the target's entries, and by numbers beyond them."""
    text, target = (
        SimpleNamespace(pad_id=0, readable_all=lambda ids, name=name: [f"{name}{i}" for i in ids])
        for name in ("text", "target")
    )
    member = SimpleNamespace(tokenizers={"text": text, "target": target})
    assert _tokens(member, "transformer.encoder", torch.tensor([7, 9, 0])) == ["text7", "text9", ""]
    assert _tokens(member, "transformer.decoder", torch.tensor([7, 0])) == ["target7", ""]
    assert _tokens(SimpleNamespace(tokenizers={}), "transformer.encoder", torch.tensor([7, 0])) == ["7", "0"]


@pytest.mark.pictures
def test_maps_of_a_sentence_are_drawn_with_their_characters(runs):
    """A tokenizer of bytes cuts ``ö`` in two, and the labels were escapes of bytes."""
    run = multihead.load(runs.finished("task=lm", "tokenizer.kind=byte"))
    maps = run.attention("König")["decoder_self"]
    assert "".join(maps.rows).endswith("K…önig")
    plt.switch_backend("Agg")
    axes = maps.plot()
    assert axes.get_title(loc="left") == "decoder, self-attention"
    assert [label.get_text() for label in axes.get_yticklabels()][: len(maps.rows)] == maps.rows
    shown = axes.images[0].get_array()
    first = 2, len(maps.columns) + 1  # below the caption, beside the first head
    drawn = shown[first[0] : first[0] + len(maps.rows), first[1] : first[1] + len(maps.columns)]
    torch.testing.assert_close(torch.tensor(drawn), maps.weights[0, 1])
    plt.close("all")


@pytest.mark.pictures
def test_a_picture_says_what_it_leaves_out():
    maps = AttentionMaps(torch.rand(5, 2, 30, 30), ["a$"] * 28 + [""] * 2, ["b"] * 30, "decoder_cross")
    axes = draw(Figure(), maps)
    assert axes.get_title(loc="left").splitlines() == [
        "decoder, attention to the encoder",
        "the first 4 of 5 layers, 24 of 30 tokens",
    ]
    assert len(axes.get_yticklabels()) == 4 * 24 and len(axes.get_xticklabels()) == 2 * 24
