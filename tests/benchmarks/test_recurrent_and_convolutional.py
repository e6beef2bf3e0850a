"""The LSTM and the CNN that stand beside the Transformer: right at the edges of texts, cached, as large as it."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import multihead
from multihead.config.compose import compose
from multihead.config.model import ModelConfig
from multihead.config.training import DecodingConfig
from multihead.errors import ConfigError
from multihead.model.beam_search import generate
from multihead.model.heads import VocabularyHead
from multihead.model.transformer import Blocks, Scope, Transformer
from multihead.plugin import load_plugin
from multihead.tasks.base import blocks_of

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks" / "recurrent_and_convolutional.py"
PLUGIN = load_plugin(str(FILE))
KINDS = ["lstm", "conv"]
MODEL = {"d_model": 16, "num_heads": 2, "d_ff": 32, "max_len": 32, "dropout": 0.0, "position": "none"}
VOCABULARY = 11


def new_block(kind, causal, **options):
    config = ModelConfig(**MODEL)
    attention = PLUGIN.causal_attention if causal else PLUGIN.attention
    return attention[kind](config, options=PLUGIN.options[kind](**options)).double().eval()


def new_transformer(kind, encoder=True):
    torch.manual_seed(0)
    config = ModelConfig(
        **MODEL, num_encoder_layers=2, num_decoder_layers=2, tie_embeddings="none", feed_forward="none"
    )
    with_options = lambda cls: lambda config: cls(config, options=PLUGIN.options[kind]())  # noqa: E731
    blocks = Blocks(
        attention=with_options(PLUGIN.attention[kind]),
        causal_attention=with_options(PLUGIN.causal_attention[kind]),
        cross_attention=with_options(PLUGIN.cross_attention[kind]),
        feed_forward=PLUGIN.feed_forward["none"],
    )
    size = VOCABULARY if encoder else None
    return Transformer(config, source_vocab_size=size, target_vocab_size=VOCABULARY, blocks=blocks).double().eval()


@pytest.mark.parametrize("causal", [True, False])
def test_lstm_by_its_equations(causal):
    """Hochreiter and Schmidhuber's cell with forget gates, position by position."""
    block = new_block("lstm", causal, width=3)
    parameters = dict(block.lstm.named_parameters())
    x = torch.randn(2, 5, 16, dtype=torch.double)

    def run(x, suffix=""):
        hidden = cell = x.new_zeros(2, 3)
        outputs = []
        for t in range(x.size(1)):
            gates = x[:, t] @ parameters[f"weight_ih_l0{suffix}"].T + parameters[f"bias_ih_l0{suffix}"]
            gates = gates + hidden @ parameters[f"weight_hh_l0{suffix}"].T + parameters[f"bias_hh_l0{suffix}"]
            enter, forget, new, leave = gates.chunk(4, dim=1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)

    expected = run(x) if causal else torch.cat([run(x), run(x.flip(1), "_reverse").flip(1)], dim=-1)
    torch.testing.assert_close(block(x, Scope(torch.double, None, causal)), block.output(expected))
    for suffix in [""] if causal else ["", "_reverse"]:
        assert (parameters[f"bias_ih_l0{suffix}"][3:6] == 1).all()  # open forget gates


@pytest.mark.parametrize("causal", [True, False])
def test_convolution_by_its_formula(causal):
    """The sum over what the kernel covers, gated (Dauphin et al. 2017, equation 1)."""
    block = new_block("conv", causal, width=4, kernel=3)
    x = torch.randn(2, 6, 16, dtype=torch.double)
    y = x.new_zeros(2, 6, 8)
    for t in range(6):
        for tap in range(3):
            place = t + tap - (2 if causal else 1)
            if 0 <= place < 6:
                y[:, t] += x[:, place] @ block.conv.weight[:, :, tap].T
    y = y + block.conv.bias
    expected = block.output(y[..., :4] * y[..., 4:].sigmoid())
    torch.testing.assert_close(block(x, Scope(torch.double, None, causal)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    """Sources padded on the right and targets padded on the left give what each gives alone."""
    model = new_transformer(kind)
    lengths = [(7, 2), (3, 6), (1, 1), (5, 4)]
    pairs = [(torch.randint(1, VOCABULARY, (s,)), torch.randint(1, VOCABULARY, (t,))) for s, t in lengths]
    source = pad_sequence([s for s, _ in pairs], batch_first=True)
    target = pad_sequence([t for _, t in pairs], batch_first=True, padding_side="left")
    source_mask = torch.arange(7) < torch.tensor(lengths)[:, :1]
    target_mask = torch.arange(5, -1, -1) < torch.tensor(lengths)[:, 1:]
    together = model(source, source_mask, target, target_mask)
    for row, (s, t) in enumerate(pairs):
        torch.testing.assert_close(together[row, 6 - len(t) :], model(s[None], None, t[None])[0])
        torch.testing.assert_close(model.encode(source, source_mask)[row, : len(s)], model.encode(s[None])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_right_changes_no_target(kind):
    model = new_transformer(kind, encoder=False)
    ids = torch.randint(VOCABULARY, (3, 6))
    mask = torch.arange(6) < torch.tensor([[2], [6], [5]])
    together = model.decode(ids, target_mask=mask)
    for row, length in enumerate([2, 6, 5]):
        torch.testing.assert_close(together[row, :length], model.decode(ids[row : row + 1, :length])[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_between_two_texts_separates_them(kind, causal):
    block, x = new_block(kind, causal), torch.randn(1, 7, 16).double()
    text = torch.tensor([0, 0, 0, -1, 1, 1, -1])  # -1 is padding
    sees = (text[:, None] == text) & (text >= 0) & (torch.ones(7, 7).tril().bool() if causal else True)
    y = block(x, Scope(x.dtype, sees[None, None]))
    for start, end in [(0, 3), (4, 6)]:
        torch.testing.assert_close(y[:, start:end], block(x[:, start:end], Scope(x.dtype, None, causal)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_with_padding_is_at_most_two_texts(kind, monkeypatch):
    """A text for every padded position would make training three times as slow."""
    import recurrent_and_convolutional as networks

    counts, cut = [], networks.pieces_of
    monkeypatch.setattr(networks, "pieces_of", lambda *args, **more: counts.append(cut(*args, **more)) or counts[-1])
    x, real = torch.randn(5, 30, 16).double(), torch.arange(30) < torch.tensor([[3], [30], [9], [1], [20]])
    for causal in (False, True):
        mask = real[:, None, None] & (torch.ones(30, 30).tril().bool() if causal else True)
        block = {"lstm": networks.Lstm, "conv": networks.GatedConvolution}[kind]
        options = PLUGIN.options[kind]()
        block(ModelConfig(**MODEL), options, causal=causal).double()(x, Scope(x.dtype, mask))
    assert [None if pieces is None else len(pieces) for pieces in counts] == [9 if kind == "lstm" else None, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stack", ["encode", "decode"])
def test_packed_documents_do_not_see_each_other(kind, stack):
    run = getattr(new_transformer(kind), stack)
    ids = torch.randint(VOCABULARY, (2, 9))
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2], [5, 6, 6, 6, 6, 6, 6, 6, 6]])
    y = run(ids, segments=segments)
    for row, start, end in [(0, 0, 4), (0, 4, 7), (0, 7, 9), (1, 0, 1), (1, 1, 9)]:
        torch.testing.assert_close(y[row, start:end], run(ids[row : row + 1, start:end])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_no_position_sees_the_future(kind):
    model = new_transformer(kind, encoder=False)
    embedding = model.decoder.embedding.weight
    ids = torch.arange(10)[None]  # each id once: the gradient of its embedding is that of its position
    for t in range(10):
        (gradient,) = torch.autograd.grad(model.decode(ids)[0, t, 0], embedding)
        assert (gradient[t + 1 :] == 0).all()
        assert (gradient[t] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 1, 3], [2, 7]])
@torch.no_grad()
def test_cached_is_uncached(kind, chunks):
    """Also with padding on the left, rows that are chosen and repeated, and several tokens at once."""
    model = new_transformer(kind)
    source, target = torch.randint(1, VOCABULARY, (3, 5)), torch.randint(1, VOCABULARY, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.bool)
    if chunks[0] > 1:
        mask[1, :1] = False
    expected = model(source, None, target, mask)
    memory = model.encode(source)
    cache, rows, start, parts = model.new_cache(memory), torch.arange(3), 0, []
    for size in chunks:
        part = slice(start, start + size)
        parts.append(model.decode(target[rows, part], target_mask=mask[rows, part], cache=cache))
        start += size
        torch.testing.assert_close(parts[-1], expected[rows, part])
        order = torch.tensor([2, 1, 0])
        cache.select(order, order)
        rows = rows[order]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_beam_search_finds_what_the_whole_sequence_scores(kind):
    """The log-probability that the search adds up from its cache is that of one pass over the whole hypothesis."""
    model = new_transformer(kind)
    head = VocabularyHead(16, VOCABULARY).double()
    source, prefix = torch.randint(3, VOCABULARY, (4, 6)), torch.ones(4, 1, dtype=torch.long)
    config = DecodingConfig(num_beams=3, num_return_sequences=2)
    found = generate(
        model,
        head,
        config,
        prefix=prefix,
        source=source,
        eos_id=2,
        pad_id=0,
        max_new_tokens=8,
    )
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 2
        for hypothesis in hypotheses:
            ids = [1, *hypothesis.ids, 2][:9]
            logits = head(model(source[row : row + 1], None, torch.tensor([ids[:-1]])))[0]
            scores = logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]]
            assert float(scores.sum()) == pytest.approx(hypothesis.log_prob, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feed_forward", ["dense", "none"])
@pytest.mark.parametrize("task", ["lm", "translation", "classification"])
@pytest.mark.parametrize("model", ["tiny", "base"])
def test_as_many_parameters_as_the_transformer(kind, feed_forward, task, model):
    """Stacks without embeddings; within 1 %."""
    words = [f"task={task}", f"model={model}"]
    plain = compose(words).config
    ours = compose([*words, f"plugin={FILE}", f"model.attention={kind}", f"model.feed_forward={feed_forward}"])
    used = {"encoder": "source_vocab_size", "decoder": "target_vocab_size"}
    sizes = {size: 3 if stack in plain.task.stacks else None for stack, size in used.items()}
    blocks = blocks_of(ours.config, PLUGIN)
    with torch.device("meta"):
        built = [Transformer(plain.model, **sizes), Transformer(ours.config.model, **sizes, blocks=blocks)]
    counts = [sum(p.numel() for name, p in model.named_parameters() if "embedding" not in name) for model in built]
    assert counts[1] == pytest.approx(counts[0], rel=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["options.conv.kernel=4"], r"options\.conv\.kernel: must be odd and at least 1, got 4"),
        (["model.position=rotary"], r"model\.position: .*none, sinusoidal"),
    ],
)
def test_bad_values_are_one_line(words, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        multihead.train(
            [
                "task=translation",
                "debug=smoke",
                f"run_dir={tmp_path / 'run'}",
                f"plugin={FILE}",
                "model.attention=conv",
                *words,
            ]
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["lm", "translation", "classification"])
def test_trains_and_predicts_in_every_task(kind, task, tmp_path):
    words = [f"plugin={FILE}", f"model.attention={kind}", "model.feed_forward=none", "model.position=none"]
    result = multihead.train([f"task={task}", "debug=smoke", f"run_dir={tmp_path / 'run'}", *words])
    assert math.isfinite(result["test/loss"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    texts = ["The cat sleeps.", "The old man has seen the dog that sleeps."]
    together = run.predict(texts)
    for text, outputs in zip(texts, together, strict=True):
        alone = run.predict([text])[0]
        if task == "classification":
            assert alone[0]["probability"] == pytest.approx(outputs[0]["probability"], abs=1e-5)
        else:
            assert alone[0]["text"] == outputs[0]["text"]
