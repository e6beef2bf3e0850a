"""The vocabulary head: a product with its own matrix or with the embedding; the classifier: pooling by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from multihead.config.model import ModelConfig
from multihead.model import heads
from multihead.model.heads import CopyHead, CopySource, PooledClassifier, VocabularyHead
from multihead.model.transformer import Transformer


def test_a_tied_head_shares_storage_and_gradient_with_the_embedding():
    config = ModelConfig(d_model=8, num_heads=2, d_ff=8, num_decoder_layers=1, max_len=8)
    model = Transformer(config, source_vocab_size=None, target_vocab_size=11)
    head = VocabularyHead(8, 11, model.decoder.embedding.weight)
    assert head.weight is model.decoder.embedding.weight
    assert head.weight.data_ptr() == model.decoder.embedding.weight.data_ptr()
    hidden = torch.randn(2, 3, 8)
    torch.testing.assert_close(head(hidden), hidden @ model.decoder.embedding.weight.T)
    head(hidden).sum().backward()
    assert model.decoder.embedding.weight.grad.any()


def test_an_untied_head_has_a_matrix_of_its_own():
    torch.manual_seed(0)
    head = VocabularyHead(64, 200)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert head(torch.randn(5, 64)).shape == (5, 200)
    assert head.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)


def test_a_tied_weight_of_another_shape_is_a_defect():
    with pytest.raises(AssertionError, match=r"tied weight is \(4, 8\), not \(5, 8\)"):
        VocabularyHead(8, 5, torch.nn.Parameter(torch.zeros(4, 8)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [0, 5, 700])
def test_the_chunked_loss_and_its_gradients_are_torchs(count, smoothing, monkeypatch):
    monkeypatch.setattr(heads, "_chunk_rows", lambda *size: 300)
    head = VocabularyHead(16, 50)
    hidden, labels = torch.randn(count, 16, requires_grad=True), torch.randint(50, (count,))
    loss = head.loss(hidden, labels, smoothing)
    ours = torch.autograd.grad(loss * 3, (hidden, head.weight))
    expected = F.cross_entropy(head(hidden), labels, reduction="sum", label_smoothing=smoothing)
    torchs = torch.autograd.grad(expected * 3, (hidden, head.weight))
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.loss(hidden, labels, smoothing), expected, atol=0.1, rtol=1e-2)


def test_a_label_of_no_probability_costs_what_its_logit_says():
    head = VocabularyHead(1, 3, torch.nn.Parameter(torch.tensor([[0.0], [200.0], [-100.0]])))
    hidden = torch.ones(1, 1, requires_grad=True)
    loss = head.loss(hidden, torch.tensor([2]))
    loss.backward()
    assert loss.item() == 300.0  # exp(-300) is 0 in float32
    assert hidden.grad.item() == pytest.approx(300.0)


def test_chunks_hold_a_fixed_number_of_bytes():
    assert heads._chunk_rows("cpu", 8000, torch.bfloat16) == 1048
    assert heads._chunk_rows("cuda", 8000, torch.float32) == 8388
    assert heads._chunk_rows("cpu", 10**9, torch.float32) == 1


def copying(batch=3, length=4, places=5, width=8, vocab_size=11, dtype=torch.float64):
    """A copy head in its default state, hidden states, a memory, ids and mask of its sources, and labels."""
    torch.manual_seed(0)
    head = CopyHead(width, vocab_size).to(dtype)
    hidden = torch.randn(batch, length, width, dtype=dtype, requires_grad=True)
    memory = torch.randn(batch, places, width, dtype=dtype, requires_grad=True)
    ids = torch.randint(vocab_size, (batch, places))
    ids[:, 1] = ids[:, 0]  # a token that stands there twice
    mask = torch.arange(places) < torch.tensor([places - i % 3 for i in range(batch)])[:, None]
    return head, hidden, memory, ids, mask, torch.randint(vocab_size, (batch * length,))


def flat(head, hidden, memory, ids, mask):
    """What `loss` and `evaluate` take of every position, labels apart."""
    shares = head.shares(hidden, head.source(ids, memory, mask)).flatten(0, 1)
    return hidden.flatten(0, 1), shares, ids.repeat_interleave(hidden.size(1), 0)


def test_a_mixture_worked_out_by_hand():
    head = CopyHead(2, 4)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(2), 0.0], [0.0, 0.0]]))  # p: 1/5 1/5 2/5 1/5
        head.query.weight.copy_(torch.eye(2) * 2**0.5), head.query.bias.zero_()  # which the scale takes back
        head.gate.weight.zero_(), head.gate.bias.fill_(math.log(3))  # g = 3/4
    keys = torch.tensor([[[math.log(3), 9.0], [0.0, 9.0], [math.log(6), 9.0], [99.0, 9.0]]])  # attention 3/10 1/10 6/10
    source = CopySource(torch.tensor([[2, 3, 2, 1]]), keys, torch.tensor([[True, True, True, False]]))
    found = head(torch.tensor([[[1.0, 0.0]]]), source).exp()
    copied = torch.tensor([0.0, 0.0, 0.9, 0.1])  # the third place holds the token of the first, the fourth is padding
    torch.testing.assert_close(found[0, 0], 0.75 * torch.tensor([0.2, 0.2, 0.4, 0.2]) + 0.25 * copied)


def test_a_mixture_is_that_of_explicit_loops_and_sums_to_one():
    head, hidden, memory, ids, mask, _ = copying()
    found = head(hidden, head.source(ids, memory, mask))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, 4, dtype=torch.float64))
    for row in range(3):
        real = [torch.zeros(8, dtype=torch.float64), *memory[row][mask[row]]]
        keys = torch.stack([head.key(torch.cat(pair)) for pair in itertools.pairwise(real)])
        for place in range(4):
            state = hidden[row, place]
            attention = (keys @ head.query(state) / 8**0.5).softmax(0)
            gate = head.gate(torch.cat((state, attention @ keys))).sigmoid()
            expected = gate * (head.weight @ state).softmax(0)
            for token, share in zip(ids[row], attention, strict=False):
                expected[token] = expected[token] + (1 - gate) * share
            torch.testing.assert_close(found[row, place], expected.log())


def test_a_new_head_points_behind_the_token_that_it_sees():
    torch.manual_seed(0)
    head, memory = CopyHead(64, 11), F.layer_norm(torch.randn(1, 9, 64), (64,))
    with torch.no_grad():
        shares = head.shares(memory, head.source(torch.arange(9)[None], memory, None))[0]  # each place is a query
    assert shares[:8, 1:].argmax(-1).tolist() == list(range(1, 9))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_open_gate_is_the_plain_head(smoothing):
    head, hidden, memory, ids, mask, labels = copying()
    plain = VocabularyHead(8, 11, head.weight)
    with torch.no_grad():
        head.gate.bias.fill_(100.0)
    torch.testing.assert_close(head(hidden, head.source(ids, memory, mask)), plain(hidden).log_softmax(-1))
    states, shares, tokens = flat(head, hidden, memory, ids, mask)
    loss = head.loss(states, labels, shares, tokens, smoothing)
    torch.testing.assert_close(loss, plain.loss(states, labels, smoothing))
    for mine, theirs in zip(head.evaluate(states, labels, shares, tokens), plain.evaluate(states, labels), strict=True):
        torch.testing.assert_close(mine, theirs, check_dtype=False)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [0, 5, 160])
def test_the_chunked_loss_of_a_mixture_is_that_of_its_log_probabilities(count, smoothing, monkeypatch):
    monkeypatch.setattr(heads, "_chunk_rows", lambda *size: 60)
    head, hidden, memory, ids, mask, labels = copying(batch=40)
    states, shares, tokens, labels = (x[:count] for x in (*flat(head, hidden, memory, ids, mask), labels))
    loss = head.loss(states, labels, shares, tokens, smoothing)
    log_probs = head(hidden, head.source(ids, memory, mask)).flatten(0, 1)[:count]
    nats = -log_probs[torch.arange(count), labels]
    expected = (1 - smoothing) * nats.sum() - smoothing * log_probs.mean(-1).sum()
    torch.testing.assert_close(loss, expected)
    inputs = (hidden, memory, *head.parameters())  # of no position the gradients are zeros, which ranks wait for
    ours, torchs = (torch.autograd.grad(x * 3, inputs, retain_graph=True) for x in (loss, expected))
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, theirs)
    found, hits = head.evaluate(states, labels, shares, tokens)
    torch.testing.assert_close(found, nats)
    assert torch.equal(hits, log_probs.argmax(-1) == labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head.loss(states.float(), labels, shares.float(), tokens, smoothing)
    torch.testing.assert_close(rounded, expected.float(), atol=0.1, rtol=1e-2)


def test_a_label_that_neither_generates_nor_copies_has_a_finite_loss():
    head, hidden, memory, ids, mask, labels = copying(dtype=torch.float32)
    with torch.no_grad():
        head.gate.bias.fill_(-200.0)
    ids[:] = 3
    labels[:] = 4
    loss = head.loss(hidden.flatten(0, 1), labels, *flat(head, hidden, memory, ids, mask)[1:], 0.1)
    assert loss.isfinite()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_beams_of_a_source_share_it():
    head, hidden, memory, ids, mask, _ = copying(batch=6)
    source = head.source(ids[:2], memory[:2], mask[:2])
    beams = head(hidden[:, -1], source)  # three of each
    for row in range(6):
        alone = source.select(torch.tensor([row // 3]))
        torch.testing.assert_close(beams[row], head(hidden[row : row + 1], alone)[0, -1])


@pytest.mark.parametrize("count", [0, 5, 700])
def test_evaluation_in_chunks_is_torchs_at_once(count, monkeypatch):
    monkeypatch.setattr(heads, "_chunk_rows", lambda *size: 300)
    head = VocabularyHead(16, 50)
    hidden, labels = torch.randn(count, 16), torch.randint(50, (count,))
    nats, hits = head.evaluate(hidden, labels)
    logits = head(hidden)
    torch.testing.assert_close(nats, F.cross_entropy(logits, labels, reduction="none"))
    assert torch.equal(hits, logits.argmax(1) == labels)


# PooledClassifier

HIDDEN = torch.tensor([[[1.0, -1.0], [3.0, 5.0], [99.0, 99.0]], [[2.0, 2.0], [4.0, 0.0], [0.0, 1.0]]])
MASK = torch.tensor([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("first", [[1.0, -1.0], [2.0, 2.0]]),
        ("last", [[3.0, 5.0], [0.0, 1.0]]),
        ("mean", [[2.0, 2.0], [2.0, 1.0]]),
        ("max", [[3.0, 5.0], [4.0, 2.0]]),
        ("attention", [[2.0, 2.0], [2.0, 1.0]]),  # an untrained query is zero: the mean
    ],
)
def test_pooling_by_hand_without_the_padding(pooling, expected):
    head = PooledClassifier(2, 3, pooling, 0.0)
    torch.testing.assert_close(head.pool(HIDDEN, MASK), torch.tensor(expected))
    torch.testing.assert_close(head.pool(HIDDEN[1:]), torch.tensor(expected[1:]))
    torch.testing.assert_close(head(HIDDEN, MASK), head.output(torch.tensor(expected)))
    assert head(HIDDEN, MASK).shape == (2, 3)


def test_attention_pooling_is_a_softmax_of_scaled_products_with_the_query():
    """Products with (sqrt 2 ln 3, 0) / sqrt 2 are ln 3 times the first coordinate: weights 3 : 27 of 1 and 3."""
    head = PooledClassifier(2, 3, "attention", 0.0)
    with torch.no_grad():
        head.query[:] = torch.tensor([2**0.5 * torch.log(torch.tensor(3.0)), 0.0])
    expected = torch.tensor([[(3 * 1 + 27 * 3) / 30, (3 * -1 + 27 * 5) / 30]])
    torch.testing.assert_close(head.pool(HIDDEN[:1], MASK[:1]), expected)


@pytest.mark.parametrize("pooling", ["first", "last", "mean", "max", "attention"])
def test_padding_gets_no_gradient_and_real_positions_do(pooling):
    hidden = HIDDEN.clone().requires_grad_()
    PooledClassifier(2, 3, pooling, 0.0)(hidden, MASK).square().sum().backward()
    assert not hidden.grad[0, 2].any() and hidden.grad.any(-1).any(-1).all()


def test_dropout_acts_on_the_pooled_vector_in_training_only():
    head = PooledClassifier(400, 2, "mean", 0.5)
    hidden = torch.ones(1, 3, 400)
    torch.testing.assert_close(head.eval()(hidden), head(hidden))
    assert not torch.allclose(head.train()(hidden), head(hidden))
