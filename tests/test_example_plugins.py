"""The plugins of docs/examples/plugins: each is its paper's formula, by loops or another implementation."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trial import ROOT

from multihead.config.data import DataConfig
from multihead.config.model import ModelConfig
from multihead.config.training import OptimConfig
from multihead.data.encode import Encoded
from multihead.errors import DataError
from multihead.model.losses import added_losses
from multihead.model.positions import alibi_slopes
from multihead.model.transformer import Blocks, FeedForward, MultiHeadAttention, Scope, Transformer
from multihead.plugin import load_plugin

FOLDER = ROOT / "docs" / "examples" / "plugins"
SIZE = {"d_model": 8, "num_heads": 2, "d_ff": 16, "num_encoder_layers": 2, "num_decoder_layers": 2, "max_len": 16}
IDS = torch.tensor([[5, 6, 7, 8, 9, 4], [3, 6, 2, 8, 1, 4]])


def file_of(name):
    """The file of a plugin."""
    return FOLDER.parent / "gated_attention.py" if name == "gated" else FOLDER / f"{name}.py"


def plugin(name):
    return load_plugin(str(file_of(name)))


def part(field, name, *arguments, file="", **options):
    """What the plugin adds, called with its options."""
    loaded = plugin(file or name)
    return getattr(loaded, field)[name](*arguments, options=loaded.options[name](**options))


def blocks(name, file="", **options):
    """The blocks of a plugin, with its options."""
    loaded = plugin(file or name)
    places = {"attention": "attention", "cross_attention": "cross_attention", "feed_forward": "feed_forward",
              "norms": "norm", "positions": "positions", "stacks": "stack"}  # fmt: skip
    given = {"options": loaded.options[name](**options)} if name in loaded.options else {}

    def of(field):
        return lambda *arguments, **named: getattr(loaded, field)[name](*arguments, **given, **named)

    return Blocks(**{place: of(field) for field, place in places.items() if name in getattr(loaded, field)})


def model(name, decoder_alone=False, file="", **options):
    torch.manual_seed(0)
    source = None if decoder_alone else 10
    config = ModelConfig(**SIZE, position="sinusoidal")
    made = Transformer(config, source_vocab_size=source, target_vocab_size=10, blocks=blocks(name, file, **options))
    return made.double().eval()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_plugin_is_short_and_says_its_command_and_source(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert re.search(
        rf'^"""[A-Z][\w -]*: multihead train task=\w+ plugin=docs/examples/plugins/{path.name} \w', lines[0]
    )
    docstring = path.read_text().split('"""')[1]
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|[A-Z]\d\d-\d{4}", docstring)


@pytest.mark.parametrize("name", ["sliding_window", "differential", "values", "experts", "dyt", "kerple", "gated"])
@torch.no_grad()
def test_blocks_are_causal_blind_for_padding_and_equal_with_a_cache(name):
    transformer = model(name, **({"window": 2} if name == "sliding_window" else {}))
    if name == "experts":
        torch.nn.init.zeros_(transformer.decoder.layers[0].feed_forward.router.weight[:1])
    source = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0]])
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    memory = transformer.encode(source, mask)
    alone = transformer.encode(source[1:, :3])
    torch.testing.assert_close(memory[1:, :3], alone)
    hidden = transformer.decode(IDS, memory=memory, memory_mask=mask)
    changed = IDS.clone()
    changed[:, 4] = 0
    torch.testing.assert_close(transformer.decode(changed, memory=memory, memory_mask=mask)[:, :4], hidden[:, :4])
    padded = F.pad(IDS, (2, 0))
    left = torch.arange(8).expand(2, 8) >= 2
    shifted = transformer.decode(padded, target_mask=left, memory=memory, memory_mask=mask)
    torch.testing.assert_close(shifted[:, 2:], hidden)
    cache = transformer.new_cache(memory, mask)
    steps = [transformer.decode(IDS[:, :3], cache=cache)]
    steps += [transformer.decode(IDS[:, i : i + 1], cache=cache) for i in range(3, 6)]
    torch.testing.assert_close(torch.cat(steps, dim=1), hidden)


@torch.no_grad()
def test_kerple_by_hand():
    scheme = part("positions", "kerple", ModelConfig(**SIZE), True, power=0.5, scale=2.0)
    scheme.initialise()
    mask = torch.ones(3, 4, dtype=torch.bool).tril(1)[None, None]  # 3 queries, the last of 4 positions
    found = scheme.add_to_scores(mask, 3, 4, torch.float32)
    assert found.shape == (1, 2, 3, 4)
    for head, scale in enumerate((2.0, 1.0)):
        for query in range(3):
            for key in range(4):
                distance = abs(query + 1 - key)
                expected = -0.5 * math.log(1 + scale * distance) if key <= query + 1 else -math.inf
                assert found[0, head, query, key].item() == pytest.approx(expected, rel=1e-5)
    with torch.enable_grad():
        scheme.add_to_scores(None, 4, 4, torch.float32).sum().backward()
    assert scheme.power.grad.abs().min() > 0 and scheme.scale.grad.abs().min() > 0


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("numbers", [True, False])
@torch.no_grad()
def test_a_sliding_window_by_hand(causal, numbers):
    """Each query by itself, among the keys that it sees; with the numbers of ALiBi too."""
    attention = part("attention", "sliding_window", ModelConfig(**SIZE), window=3).double()
    x = torch.randn(1, 6, 8, dtype=torch.double)
    bias = torch.zeros(2, 6, 6, dtype=torch.double)
    place = torch.arange(6)
    if numbers:
        bias = -alibi_slopes(2).double()[:, None, None] * (place[:, None] - place).abs()
    if numbers and causal:
        bias = bias.masked_fill(place > place[:, None], -torch.inf)
    found = attention(x, Scope(torch.double, bias[None] if numbers else None, causal and not numbers))
    query, key, value = (m(x)[0].unflatten(-1, (2, 4)) for m in (attention.query, attention.key, attention.value))
    rows = torch.zeros(6, 2, 4, dtype=torch.double)
    for t in range(6):
        seen = [s for s in range(6) if abs(t - s) < 3 and not (causal and s > t)]
        for h in range(2):
            scores = torch.stack([query[t, h] @ key[s, h] / 2 + bias[h, t, s] for s in seen])
            rows[t, h] = sum(w * value[s, h] for w, s in zip(scores.softmax(0), seen, strict=True))
    torch.testing.assert_close(found[0], attention.output(rows.flatten(1)))


@torch.no_grad()
def test_gated_attention_by_hand():
    """An open gate is the plain attention; otherwise each number of the heads has its factor."""
    attention = plugin("gated").attention["gated"](ModelConfig(**SIZE)).double()
    plain = MultiHeadAttention(ModelConfig(**SIZE)).double()
    plain.load_state_dict({n: x for n, x in attention.state_dict().items() if n in plain.state_dict()}, strict=False)
    x, scope = torch.randn(2, 5, 8, dtype=torch.double), Scope(torch.double, None, True)
    gated = plain.attended(x, scope) / (1 + torch.exp(-x @ attention.gate.weight.T))
    torch.testing.assert_close(attention(x, scope), attention.project(gated))


@torch.no_grad()
def test_differential_attention_by_hand():
    """Equations 1 to 3 in the third layer, head by head; the norm of a head is RMSNorm."""
    attention = plugin("differential").attention["differential"](ModelConfig(**SIZE)).double()
    attention.at_depth(3, 6)
    start = 0.8 - 0.6 * math.exp(-0.3 * 2)
    attention.head_norm.weight.copy_(torch.rand(4) + 0.5)
    x = torch.randn(2, 5, 8, dtype=torch.double)
    q, k = attention.query_lambda, attention.key_lambda
    weight = math.exp(q[0] @ k[0]) - math.exp(q[1] @ k[1]) + start
    heads, hidden = [], torch.ones(5, 5, dtype=torch.bool).triu(1)
    for h in range(2):
        own = slice(4 * h, 4 * h + 4)
        query, key, value = (m(x)[..., own] for m in (attention.query, attention.key, attention.value))
        maps = [(query[..., half] @ key[..., half].mT / math.sqrt(2)).masked_fill(hidden, -torch.inf).softmax(-1)
                for half in (slice(2), slice(2, 4))]  # fmt: skip
        y = (maps[0] - weight * maps[1]) @ value
        y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.head_norm.weight
        heads.append(y * (1 - start))
    found = attention(x, Scope(torch.double, None, True))
    torch.testing.assert_close(found, attention.output(torch.cat(heads, dim=-1)), atol=1e-6, rtol=1e-6)


def test_lambda_of_differential_attention_starts_by_depth():
    """0.8 - 0.6 exp(-0.3 (l - 1)) for l = 1 and 2, in both stacks and in cross-attention (section 2.1)."""
    transformer = model("differential")
    for stack in (transformer.encoder, transformer.decoder):
        assert [layer.self_attention.start.item() for layer in stack.layers] == pytest.approx([0.2, 0.355509], abs=1e-6)
    assert transformer.decoder.layers[1].cross_attention.start.item() == pytest.approx(0.355509, abs=1e-6)
    assert not any("start" in name for name in transformer.state_dict())


@torch.no_grad()
def test_value_residuals_by_hand():
    """What is mixed in each layer is s V_1 + (1 - s) V_n, with V_n of the layer's own input."""
    transformer = model("values", share=0.3)
    seen, inputs = [], []
    for layer in transformer.decoder.layers:
        attention = layer.self_attention
        attention.register_forward_pre_hook(lambda module, given: inputs.append(module.value(given[0])))
        attention.mix = lambda *heads, before=attention.mix: (seen.append(heads[2]), before(*heads))[1]
    memory = torch.randn(2, 3, 8, dtype=torch.double)
    transformer.decode(IDS, memory=memory)
    own = [values.unflatten(-1, (2, 4)).transpose(1, 2) for values in inputs]
    assert len(seen) == len(own) == 2 and not torch.allclose(own[0], own[1])
    torch.testing.assert_close(seen[0], own[0])
    share = transformer.decoder.layers[1].self_attention.share
    assert float(share) == pytest.approx(0.3) and transformer.decoder.layers[0].self_attention.share is None
    torch.testing.assert_close(seen[1], share * own[0] + (1 - share) * own[1])
    assert type(transformer.decoder.layers[0].cross_attention).__name__ == "MultiHeadAttention"


def test_experts_by_hand():
    """Each token by itself, and the balancing loss by its definition."""
    torch.manual_seed(1)
    experts = part("feed_forward", "experts", ModelConfig(**SIZE), num=3, used=2, balance=0.5).double()
    x = torch.randn(2, 3, 8, dtype=torch.double)
    with added_losses() as added:
        found = experts(x)
    tokens, chosen, probabilities = x.flatten(0, 1), [], []
    for n, token in enumerate(tokens):
        scores = experts.router(token)
        probabilities.append(scores.softmax(-1))
        best = sorted(range(3), key=lambda e: -scores[e])[:2]
        chosen += best
        weights = scores[best].softmax(-1)
        expected = sum(weight * experts.experts[e](token) for weight, e in zip(weights, best, strict=True))
        torch.testing.assert_close(found.flatten(0, 1)[n], expected)
    mean = torch.stack(probabilities).mean(0)
    loss = 0.5 * 3 * sum(chosen.count(e) / len(chosen) * mean[e] for e in range(3))
    assert len(added) == 1
    torch.testing.assert_close(added[0].double(), loss, atol=1e-6, rtol=1e-6)
    added[0].backward()
    assert experts.router.weight.grad.abs().sum() > 0
    with added_losses() as added:
        experts.eval()(x)
    assert added == []


def test_one_expert_is_the_plain_feed_forward():
    config = ModelConfig(**SIZE)
    experts, plain = part("feed_forward", "experts", config, num=1, used=1), FeedForward(config)
    experts.experts[0].load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(experts(x), plain(x))


@torch.no_grad()
def test_dyt_by_hand():
    norm = part("norms", "dyt", ModelConfig(), 3, alpha=0.25)
    norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    x = [4.0, -2.0, 100.0]
    expected = [math.tanh(1.0), 2 * math.tanh(-0.5) + 1, 3 * math.tanh(25.0) - 1]
    assert norm(torch.tensor(x)).tolist() == pytest.approx(expected)
    assert norm(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@torch.no_grad()
def test_soft_capped_logits_by_hand():
    transformer = model("dyt", decoder_alone=True).float()
    vocab = SimpleNamespace(tokenizers={"text": SimpleNamespace(vocab_size=10)})
    settings = SimpleNamespace(name="lm", continues=True)
    config = SimpleNamespace(model=ModelConfig(**SIZE, output_bias=True))
    head = part("heads", "soft_cap", config, settings, transformer, vocab, cap=2.0)
    assert head.weight is transformer.decoder.embedding.weight
    head.bias.copy_(torch.arange(10.0))
    hidden, labels = torch.randn(4, 8), torch.tensor([1, 2, 3, 4])
    logits = 2 * torch.tanh((hidden @ head.weight.T + head.bias) / 2)
    torch.testing.assert_close(head(hidden), logits)
    nats = [-math.log(row.softmax(-1)[label]) for row, label in zip(logits, labels, strict=True)]
    assert float(head.loss(hidden, labels)) == pytest.approx(sum(nats), rel=1e-5)
    assert head.evaluate(hidden, labels)[0].tolist() == pytest.approx(nats, rel=1e-5)
    smooth = 0.9 * sum(nats) - 0.1 * float(logits.log_softmax(-1).mean(-1).sum())
    assert float(head.loss(hidden, labels, 0.1)) == pytest.approx(smooth, rel=1e-5)


def test_lion_by_hand():
    """Algorithm 2 of the paper, number by number."""
    weight, draw = nn.Parameter(torch.tensor([0.5, -1.0])), np.random.default_rng(0)
    groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.2, "hidden": False}]
    optimizer = plugin("lion").optimizers["lion"](groups, OptimConfig(betas=[0.9, 0.99]))
    values, momentum = [0.5, -1.0], [0.0, 0.0]
    for _ in range(5):
        gradient = draw.normal(size=2)
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        for i in range(2):
            update = np.sign(0.9 * momentum[i] + 0.1 * gradient[i])
            values[i] -= 0.1 * (update + 0.2 * values[i])
            momentum[i] = 0.99 * momentum[i] + 0.01 * gradient[i]
        assert weight.tolist() == pytest.approx(values, rel=1e-5)
    assert optimizer.step(lambda: torch.ones(())) == 1


def test_the_cooldown_by_hand():
    config = OptimConfig(warmup_steps=10, decay_share=0.2, min_lr_ratio=0.1)
    factor = [plugin("cooldown").schedules["one_minus_sqrt"](config, 100, step) for step in range(101)]
    assert factor[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(factor[9:81]) == {1.0}
    assert factor[85] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(5 / 20))) and factor[100] == pytest.approx(0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_r_drop_by_hand(smoothing):
    """Half of equation 4: by probabilities, not by log-softmax."""
    draw = torch.Generator().manual_seed(0)
    passes = [torch.randn(4, 3, generator=draw) for _ in range(2)]
    labels, left = torch.tensor([0, 1, 2, 1]), list(passes)
    settings = SimpleNamespace(label_smoothing=smoothing)
    task = SimpleNamespace(logits_and_labels=lambda batch: (left.pop(0), labels), settings=settings)
    loss = part("losses", "r_drop", task, {}, alpha=3.0)
    expected = 0.0
    for n in range(4):
        p, q = (np.exp(logits[n].numpy()) / np.exp(logits[n].numpy()).sum() for logits in passes)
        target = (1 - smoothing) * np.eye(3)[labels[n]] + smoothing / 3
        expected += sum(-(target * np.log(each)).sum() for each in (p, q)) / 2
        expected += 3.0 / 4 * ((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum())
    assert left == [] and float(loss) == pytest.approx(expected, rel=1e-5)


def test_simcut_by_hand():
    """Cross-entropy and alpha times KL(whole, cut), whose second pass has rows of zeros in both embeddings."""
    transformer, ids = model("dyt"), torch.randint(0, 10, (4, 11), generator=torch.Generator().manual_seed(0))
    seen, labels = [], torch.randint(0, 10, (44,), generator=torch.Generator().manual_seed(1))
    for stack in (transformer.encoder, transformer.decoder):
        stack.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        stack.positions.add_to_embeddings = lambda x, *rest: x

    def logits_and_labels(batch):
        return transformer.decode(ids, memory=transformer.encode(ids))[..., :5].flatten(0, 1), labels % 5

    task = SimpleNamespace(model=SimpleNamespace(transformer=transformer), logits_and_labels=logits_and_labels,
                           settings=SimpleNamespace(), training=True)  # fmt: skip
    torch.manual_seed(0)
    loss = part("losses", "simcut", task, {}, alpha=2.0, cut=0.3)
    zero = [(x == 0).all(-1).double().mean().item() for x in seen]
    assert zero[:2] == [0, 0] and all(0.1 < share < 0.5 for share in zero[2:]) and zero[2] != zero[3]
    assert not transformer.encoder.embedding._forward_hooks

    torch.manual_seed(0)
    draws = iter([torch.rand(4, 11) >= 0.3 for _ in range(2)])
    whole = logits_and_labels({})[0].softmax(-1)
    for stack in (transformer.encoder, transformer.decoder):
        stack.embedding.register_forward_hook(lambda module, given, x: x * next(draws)[..., None])
    cut = logits_and_labels({})[0].softmax(-1)
    nats = -sum(whole[n, labels[n] % 5].log() for n in range(44))
    assert loss.item() == pytest.approx((nats + 2 * (whole * (whole / cut).log()).sum()).item())
    loss.backward()
    assert transformer.encoder.embedding.weight.grad.abs().sum() > 0
    for stack in (transformer.encoder, transformer.decoder):
        stack.embedding._forward_hooks.clear()
    task.training = False
    assert part("losses", "simcut", task, {}, alpha=2.0, cut=0.3).item() == pytest.approx(nats.item())


def encoded(**roles):
    """Rows of ids by role."""
    flat = {role: np.array([i for row in rows for i in row]) for role, rows in roles.items()}
    lengths = {role: np.array([len(row) for row in rows]) for role, rows in roles.items()}
    return Encoded(flat, {role: np.cumsum(n) - n for role, n in lengths.items()}, lengths)


def new_task(name, classes=10, **vocab):
    config_class, new = plugin(name).tasks[name]
    transformer = model("dyt").float()
    tokenizers = {role: SimpleNamespace(vocab_size=classes, pad_id=0, eos_id=2, vocab=entries)
                  for role, entries in vocab.items()}  # fmt: skip
    config = SimpleNamespace(model=ModelConfig(**SIZE))
    every = SimpleNamespace(tokenizers=tokenizers, labels=[])
    head = new().new_head(config, config_class(), transformer, every)
    made = nn.Module()
    made.transformer, made.head = transformer, head
    return new()(config, config_class(), made, every)


def loss_of(task, data, indices):
    batch = task.collate(data, np.array(indices, dtype=np.int64))
    return float(task.training_step(batch | {"parts": 1, "targets_of_step": 1}, 0)["sum"])


@torch.no_grad()
def test_tagging_by_hand():
    task = new_task("tagging", text="abc", target="xyz")
    data = encoded(text=[[3, 4, 5], [6, 7], [8]], target=[[1, 2, 3], [4, 5], [6]])
    assert task.limits() == {"text": 16, "target": 16}
    assert [x.tolist() for x in task.lengths(data)] == [[3, 2, 1], [[3], [2], [1]]]
    nats = 0.0
    for words, tags in (([3, 4, 5], [1, 2, 3]), ([6, 7], [4, 5]), ([8], [6])):
        logits = task.model.head(task.model.transformer.encode(torch.tensor([words])))[0]
        nats -= sum(math.log(row.softmax(-1)[tag]) for row, tag in zip(logits, tags, strict=True))
    assert loss_of(task, data, [0, 1, 2]) == pytest.approx(nats, rel=1e-4)
    assert loss_of(task, data, [0]) + loss_of(task, data, [1, 2]) == pytest.approx(nats, rel=1e-4)
    assert loss_of(task, data, []) == 0
    what = "data: a row has words=2, tags=1: b c; fix: give each word one tag; tokenizer.kind=word keeps words whole"
    with pytest.raises(DataError, match=what):
        task.lengths(encoded(text=[[0], [1, 2], [1]], target=[[1], [1], [1, 2]]))


def test_sentences_with_a_word_on_each_line(tmp_path):
    read, file = load_plugin(str(FOLDER.parent / "conll.py")).readers["conll"], tmp_path / "tagged.conll"
    file.write_text("\nthe\tD\ndog\tN\n\n\nU.N. NNP I-NP I-ORG\nsaw VBD I-VP O\n")  # no empty line at the end
    expected = {"words": ["the dog", "U.N. saw"], "tags": ["D N", "I-ORG O"]}
    assert read(file, ["words", "tags"], DataConfig()) == expected
    file.write_text("the\tD\ndog\n")
    with pytest.raises(ValueError, match="not enough values"):
        read(file, ["words", "tags"], DataConfig())


@torch.no_grad()
def test_spacing_by_hand():
    task = new_task("spacing", text=["<pad>", "<bos>", "<eos>", " ", "a", "b", "c"])
    data = encoded(text=[[4, 5, 3, 6], [5, 3, 3, 4]])  # "ab c" and "b  a"
    batch = task.collate(data, np.array([0, 1]))
    assert batch["text"][batch["mask"]].tolist() == [4, 5, 6, 5, 4]
    assert batch["labels"][batch["labels"] >= 0].tolist() == [1, 0, 1, 1, 1]
    assert task.lengths(data)[0].tolist() == [3, 2]
    assert loss_of(task, data, [0, 1]) == pytest.approx(loss_of(task, data, [0]) + loss_of(task, data, [1]), rel=1e-4)
    assert loss_of(task, data, []) == 0
