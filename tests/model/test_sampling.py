"""Sampling against distributions worked out by hand, and against generation without cache and without batches."""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from multihead.config.model import POSITIONS, ModelConfig
from multihead.config.training import DecodingConfig
from multihead.errors import NumericsError
from multihead.model.beam_search import Hypothesis, generate
from multihead.model.heads import VocabularyHead
from multihead.model.sampling import (
    Filters,
    block_repeated_ngrams,
    cut_at_stop,
    divide_by_temperature,
    draw,
    forbid,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    sample,
    settled,
)
from multihead.model.transformer import Transformer

PAD, BOS, EOS = 0, 1, 2
VOCAB = 9
DRAWN = DecodingConfig(do_sample=True)


def logits_of(*weights):
    """One row of logits whose softmax is proportional to the weights."""
    return torch.tensor([[math.log(weight) if weight else -math.inf for weight in weights]])


def probabilities(logits):
    return logits.softmax(-1)[0].tolist()


def near(values):
    return pytest.approx(values, abs=1e-6)


class FixedHead(nn.Module):
    """The same logits whatever the hidden state."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, hidden):
        return self.logits.expand(len(hidden), -1)


class ScriptHead(nn.Module):
    """All but certain of one token after the other."""

    def __init__(self, *script):
        super().__init__()
        self.script = iter(script)

    def forward(self, hidden):
        return torch.full((len(hidden), VOCAB), -50.0).index_fill(1, torch.tensor(next(self.script)), 0.0)


class SharpHead(nn.Module):
    """A vocabulary head made sharper, and with a say on how likely the end mark is."""

    def __init__(self, end=0.0):
        super().__init__()
        self.head = VocabularyHead(16, VOCAB)
        self.end = torch.zeros(VOCAB)
        self.end[EOS] = end

    def forward(self, hidden):
        return self.head(hidden) * 2 + self.end


def tiny(encoder=False, seed=0, end=0.0, **changes):
    """A random model whose continuations depend on all that it sees, and its head."""
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_encoder_layers": 1, "num_decoder_layers": 2, "max_len": 40}
    model = Transformer(
        ModelConfig(**{**sizes, "position": "rotary", **changes}),
        source_vocab_size=VOCAB if encoder else None,
        target_vocab_size=VOCAB,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layers." in name and parameter.ndim == 2:
                parameter *= 2
    return model.eval(), SharpHead(end)


def padded(rows, left=True):
    """Ids and mask of lists of ids."""
    width = max(map(len, rows))
    pads = [[PAD] * (width - len(row)) for row in rows]
    ids = torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)])
    real = torch.tensor([[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p)
                         for r, p in zip(rows, pads, strict=True)])  # fmt: skip
    return ids, real.bool()


def texts(*lengths, seed=1):
    """Random rows of ids, begin mark first."""
    rng = random.Random(seed)
    return [[BOS, *rng.choices(range(3, VOCAB), k=length - 1)] for length in lengths]


def run(model, head, config, prompts=((BOS,),), sources=None, limit=8, max_len=40, **arguments):
    """`sample` of lists of ids."""
    prefix, prefix_mask = padded([list(prompt) for prompt in prompts])
    source, source_mask = padded(sources, left=False) if sources else (None, None)
    return sample(
        model,
        head,
        config,
        prefix=prefix,
        prefix_mask=prefix_mask,
        source=source,
        source_mask=source_mask,
        max_len=max_len,
        max_new_tokens=limit,
        **{"eos_id": EOS, "pad_id": PAD, **arguments},
    )


def ids_of(results):
    return [[hypothesis.ids for hypothesis in hypotheses] for hypotheses in results]


# ---- options, by hand

FIVE = logits_of(0.4, 0.3, 0.15, 0.1, 0.05)


def test_temperature():
    squared = [0.16 / 0.285, 0.09 / 0.285, 0.0225 / 0.285, 0.01 / 0.285, 0.0025 / 0.285]
    assert probabilities(divide_by_temperature(FIVE, 0.5)) == near(squared)
    assert probabilities(divide_by_temperature(logits_of(9, 4, 1), 2.0)) == near([3 / 6, 2 / 6, 1 / 6])
    assert probabilities(divide_by_temperature(FIVE, 1.0)) == near([0.4, 0.3, 0.15, 0.1, 0.05])
    assert probabilities(divide_by_temperature(FIVE, 1e9)) == near([0.2] * 5)
    assert probabilities(divide_by_temperature(FIVE, 1e-300)) == near([1, 0, 0, 0, 0])
    assert probabilities(divide_by_temperature(logits_of(1, 0, 4), 2.0)) == near([1 / 3, 0, 2 / 3])


def test_top_k():
    assert probabilities(keep_top_k(FIVE, 2)) == near([4 / 7, 3 / 7, 0, 0, 0])
    assert probabilities(keep_top_k(FIVE, 1)) == near([1, 0, 0, 0, 0])
    for k in (0, 5, 6, 1000):
        assert probabilities(keep_top_k(FIVE, k)) == near([0.4, 0.3, 0.15, 0.1, 0.05])
    # those equal to the last are kept, as in Hugging Face
    assert probabilities(keep_top_k(logits_of(0.2, 0.4, 0.2, 0.2), 2)) == near([0.2, 0.4, 0.2, 0.2])
    # where fewer are left, those
    assert probabilities(keep_top_k(logits_of(1, 0, 3, 0), 3)) == near([0.25, 0, 0.75, 0])


def test_top_p():
    assert probabilities(keep_top_p(FIVE, 0.75)) == near([8 / 17, 6 / 17, 3 / 17, 0, 0])
    assert probabilities(keep_top_p(FIVE, 0.65)) == near([4 / 7, 3 / 7, 0, 0, 0])
    assert probabilities(keep_top_p(FIVE, 0.001)) == near([1, 0, 0, 0, 0])
    assert probabilities(keep_top_p(FIVE, 0.97)) == near([0.4, 0.3, 0.15, 0.1, 0.05])
    assert torch.equal(keep_top_p(FIVE, 1.0), FIVE)
    # whatever their order
    assert probabilities(keep_top_p(logits_of(0.05, 0.3, 0.1, 0.4, 0.15), 0.75)) == near([0, 6 / 17, 0, 8 / 17, 3 / 17])
    # of equals the first, and what is forbidden stays so
    assert probabilities(keep_top_p(logits_of(0.25, 0.25, 0.25, 0.25), 0.6)) == near([1 / 3, 1 / 3, 1 / 3, 0])
    assert keep_top_p(torch.zeros(1, 1000), 0.0995).isfinite()[0].tolist() == [True] * 100 + [False] * 900
    assert probabilities(keep_top_p(logits_of(0, 0.5, 0, 0.5), 0.99)) == near([0, 0.5, 0, 0.5])
    # each row by itself
    both = keep_top_p(torch.cat((FIVE, FIVE.flip(1))), 0.65)
    assert both.isfinite().tolist() == [[True, True, False, False, False], [False, False, False, True, True]]


def test_min_p():
    assert probabilities(keep_min_p(FIVE, 0.3)) == near([8 / 17, 6 / 17, 3 / 17, 0, 0])  # at least 0.12
    assert probabilities(keep_min_p(FIVE, 0.8)) == near([1, 0, 0, 0, 0])
    assert probabilities(keep_min_p(FIVE, 0.1)) == near([0.4, 0.3, 0.15, 0.1, 0.05])
    assert torch.equal(keep_min_p(FIVE, 0.0), FIVE)
    assert probabilities(keep_min_p(logits_of(3, 1, 3), 1.0)) == near([0.5, 0, 0.5])


def test_repetition_penalty():
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0, -3.0], [2.0, -1.0, 0.5, 0.0, -3.0]])
    ids, real = (
        torch.tensor([[2, 0, 1, 1, 3], [4, 4, 4, 0, 0]]),
        torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]).bool(),
    )
    penalized = penalize_repetition(logits, ids, real, 2.0)
    assert penalized.tolist() == [[1.0, -2.0, 0.5, 0.0, -3.0], [1.0, -1.0, 0.5, 0.0, -6.0]]
    rewarded = penalize_repetition(logits, ids, real, 0.5)
    assert rewarded.tolist() == [[4.0, -0.5, 0.5, 0.0, -3.0], [4.0, -1.0, 0.5, 0.0, -1.5]]
    assert torch.equal(penalize_repetition(logits, ids, real, 1.0), logits)


@pytest.mark.parametrize(
    ("size", "history", "blocked"),
    [
        (0, [5, 5, 5], []),
        (1, [5, 3, 5], [3, 5]),
        (2, [5, 3, 4, 5], [3]),
        (2, [5, 3, 5, 4, 5], [3, 4]),
        (2, [5, 5], [5]),
        (2, [5], []),
        (3, [3, 4, 5, 6, 3, 4], [5]),
        (3, [3, 4, 5, 4, 4], []),
        (3, [3, 4], []),
    ],
)
def test_no_ngram_occurs_twice(size, history, blocked):
    other = [6, 7, 8, 7, 6, 8, 8]  # a longer row, so that the history is padded, with what would match if it counted
    ids, real = torch.tensor([[5] * (7 - len(history)) + history, other]), torch.ones(2, 7, dtype=torch.bool)
    real[0, : 7 - len(history)] = False
    row = block_repeated_ngrams(torch.zeros(2, VOCAB), ids, real, size)[0]
    assert (row == -math.inf).nonzero()[:, 0].tolist() == blocked
    alone = block_repeated_ngrams(
        torch.zeros(1, VOCAB), torch.tensor([history]), torch.ones(1, len(history)).bool(), size
    )
    assert torch.equal(alone[0], row)


def test_forbidden_tokens():
    assert probabilities(forbid(FIVE, [0, 3])) == near([0, 0.6, 0.3, 0, 0.1])
    assert FIVE.isfinite().all()  # no option changes its argument


def rules(config, logits, ids=((5, 5),), step=0, forbidden=()):
    ids = torch.tensor(ids)
    return probabilities(Filters(config, 4, forbidden).apply(logits, ids, torch.ones_like(ids).bool(), step))


def test_options_come_in_hugging_faces_order():
    """Pairs whose result depends on the order."""
    six = torch.cat((FIVE, torch.tensor([[-math.inf]])), 1)  # token 5 occurred
    # temperature, then top-p: of 0.300, 0.260, 0.184, 0.150, 0.106 three pass 0.6; before the temperature two did
    roots = [math.sqrt(p) for p in (0.4, 0.3, 0.15)]
    expected = [root / sum(roots) for root in roots]
    assert rules(replace(DRAWN, temperature=2.0, top_p=0.6), six) == near([*expected, 0, 0, 0])
    # top-k, then top-p: 8/17 + 6/17 = 0.82 pass 0.8; of all, 0.4 + 0.3 do not
    assert rules(replace(DRAWN, top_k=3, top_p=0.8), six) == near([4 / 7, 3 / 7, 0, 0, 0, 0])
    # temperature, then min-p: squares are below 0.3 of the best where the probabilities are not
    assert rules(replace(DRAWN, temperature=0.5, min_p=0.3), six) == near([0.64, 0.36, 0, 0, 0, 0])
    # penalty before the filters: token 5 leads with ln 36 = 2 ln 6, and is second to the 9 after it
    led = logits_of(9, 3, 2, 1, 1, 36)
    assert rules(replace(DRAWN, repetition_penalty=2.0, top_k=1), led) == near([1, 0, 0, 0, 0, 0])
    assert rules(replace(DRAWN, top_k=1), led) == near([0, 0, 0, 0, 0, 1])
    # what is forbidden takes no place among the k: id 0, and 4 as the end mark while tokens are missing
    early = replace(DRAWN, min_new_tokens=2, top_k=2)
    ends = logits_of(9, 3, 2, 1, 8, 0)
    assert rules(early, ends, step=1, forbidden=[0]) == near([0, 0.6, 0.4, 0, 0, 0])
    assert rules(early, ends, step=2, forbidden=[0]) == near([0, 3 / 11, 0, 0, 8 / 11, 0])
    # n-grams likewise: after 5, 2, 5 no 2
    assert rules(replace(DRAWN, no_repeat_ngram_size=2, top_k=1), logits_of(1, 2, 9, 3, 1, 1), [[5, 2, 5]]) == near(
        [0, 0, 0, 1, 0, 0]
    )


def test_greedy_search_knows_penalties_and_no_filters():
    config = DecodingConfig(temperature=3.0, top_k=1, top_p=0.1, min_p=1.0, repetition_penalty=2.0)
    assert rules(config, logits_of(4, 3, 1, 1, 1, 100)) == near([0.2, 0.15, 0.05, 0.05, 0.05, 0.5])


# ---- draws


def test_a_draw_is_the_inverse_of_the_cumulated_distribution():
    logits = logits_of(0, 0.5, 0, 0.25, 0.25, 0).expand(6, -1)
    uniform = torch.tensor([2.0**-53, 0.49, 0.51, 0.74, 0.76, 1.0], dtype=torch.float64)
    assert draw(logits, uniform).tolist() == [1, 1, 3, 3, 4, 4]
    assert draw(logits_of(0, 0, 3), torch.ones(1, dtype=torch.float64)).tolist() == [2]


def combined():
    """Options that each remove one token, with the exact distribution that they leave."""
    #        pad eos  b     a   ----- other tokens -----
    weights = (9, 7, 64, 36, 5, 5, 4, 3, 2, 1)
    config = replace(
        DRAWN,
        repetition_penalty=2.0,  # a occurred: ln 36 / 2 = ln 6
        no_repeat_ngram_size=2,  # the prompt is a b a: not b again
        min_new_tokens=1,  # no end mark
        temperature=0.5,  # squares: 36, 25, 25, 16, 9, 4, 1
        top_k=6,  # drops 1, leaves 115
        top_p=0.95,  # 111 / 115 = 0.965 pass without 4
        min_p=0.3,  # 9 < 0.3 * 36
    )
    return weights, config, {3: 36 / 102, 4: 25 / 102, 5: 25 / 102, 6: 16 / 102}


def test_frequencies_are_those_of_the_exact_distribution():
    weights, config, exact = combined()
    model, _ = tiny()
    config = replace(config, num_return_sequences=20_000)
    head = FixedHead(logits_of(*weights))
    (hypotheses,) = run(model, head, config, [[3, 2, 3]], limit=1, eos_id=1)
    counts = Counter(token for h in hypotheses for token in h.ids)
    assert counts.keys() == exact.keys()
    expected = [20_000 * p for p in exact.values()]
    assert chisquare([counts[token] for token in exact], expected).pvalue > 1e-3
    # the bound tells the distribution from one that is a tenth off in one place
    off = [expected[0] * 0.9, expected[1] + expected[0] * 0.1, *expected[2:]]
    assert chisquare([counts[token] for token in exact], off).pvalue < 1e-6
    # log_prob is the model's own, before penalties and filters
    total = sum(weights)
    for hypothesis in hypotheses[:50]:
        assert hypothesis.log_prob == near(math.log(weights[hypothesis.ids[0]] / total))


def test_tokens_samples_and_inputs_are_drawn_independently():
    model, _ = tiny()
    head = FixedHead(logits_of(0, 0, 0, 0.5, 0.3, 0.2))
    config = replace(DRAWN, num_return_sequences=4)
    rows = [[BOS]] * 2000
    results = run(model, head, config, rows, limit=2)
    weights = {3: 0.5, 4: 0.3, 5: 0.2}
    for pair in (
        [tuple(h.ids) for n in results for h in n],  # one token and the next
        [(n[0].ids[0], n[1].ids[0]) for n in results],  # one sample and the next
        [(a[0].ids[0], b[0].ids[0]) for a, b in itertools.pairwise(results)],  # one input and the next
    ):
        counts = Counter(pair)
        cells = list(itertools.product(weights, weights))
        expected = [len(pair) * weights[a] * weights[b] for a, b in cells]
        assert chisquare([counts[cell] for cell in cells], expected).pvalue > 1e-3


def test_the_seed_decides():
    model, head = tiny(end=-9.0)
    config = replace(DRAWN, num_return_sequences=3, seed=7)
    prompts = texts(3, 5)
    first = run(model, head, config, prompts, limit=12)
    state = torch.get_rng_state()
    assert run(model, head, config, prompts, limit=12) == first
    assert torch.equal(torch.get_rng_state(), state)  # the global stream is not touched
    assert ids_of(run(model, head, replace(config, seed=8), prompts, limit=12)) != ids_of(first)
    assert len({tuple(ids) for ids in ids_of(first)[0]}) == 3


def test_a_higher_limit_and_more_samples_only_add():
    model, head = tiny(end=-99.0)
    few = ids_of(run(model, head, replace(DRAWN, num_return_sequences=2), texts(3, 5), limit=6))
    many = ids_of(run(model, head, replace(DRAWN, num_return_sequences=4), texts(3, 5), limit=15))
    assert [[ids[:6] for ids in of_row[:2]] for of_row in many] == few


# ---- generation


def by_hand(model, head, config, prompt, source, limit, max_len, number, index):
    """One sample without cache, batch or tensors of options: (ids, log_prob, tokens with the end mark)."""
    rng = random.Random(f"{config.seed} {number} {index}")
    window, history, ids, total = prompt[-(max_len - 1) :], list(prompt), [], 0.0
    for length in range(1, limit + 1):
        with torch.no_grad():
            logits = head(model(source, None, torch.tensor([window]))[0, -1]).tolist()
        log_probs = torch.tensor(logits).log_softmax(-1).tolist()
        token = choose_by_hand(config, logits, history, length - 1, 1 - rng.random())
        total += log_probs[token]
        if token == EOS:
            return ids, total, length
        ids.append(token)
        history.append(token)
        if len(window) == max_len:
            window = window[-(max_len // 2) :]
        window = [*window, token]
    return ids, total, limit


def choose_by_hand(config, logits, history, step, uniform):
    for token in set(history):
        logits[token] *= config.repetition_penalty if logits[token] < 0 else 1 / config.repetition_penalty
    size = config.no_repeat_ngram_size
    grams = {tuple(history[i : i + size]) for i in range(len(history) - size + 1)} if size else set()
    for token in range(VOCAB):
        again = size and tuple([*history, token][-size:]) in grams and len(history) >= size
        if again or token == PAD or (token == EOS and step < config.min_new_tokens):
            logits[token] = -math.inf
    if not config.do_sample:
        return max(range(VOCAB), key=lambda t: logits[t])
    best = max(logits)
    weights = {t: math.exp((logit - best) / config.temperature) for t, logit in enumerate(logits)}
    order = sorted(weights, key=lambda t: -weights[t])
    order = order[: config.top_k] if config.top_k else order
    kept, mass, total = [], 0.0, sum(weights[t] for t in order)
    for token in order:
        if mass < config.top_p * total and weights[token] >= config.min_p:
            kept.append(token)
        mass += weights[token]
    target = uniform * sum(weights[t] for t in kept)
    for token in sorted(kept):
        target -= weights[token]
        if target <= 0:
            return token
    return max(kept)


OPTIONS = {
    "greedy": DecodingConfig(),
    "greedy with penalty": DecodingConfig(repetition_penalty=1.3, no_repeat_ngram_size=3, min_new_tokens=4),
    "plain": replace(DRAWN, num_return_sequences=2, seed=3),
    "all": replace(
        DRAWN,
        num_return_sequences=2,
        temperature=1.4,
        top_k=6,
        top_p=0.9,
        min_p=0.05,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        min_new_tokens=3,
    ),
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("options", ["greedy with penalty", "all"])
@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.unhurried
def test_with_cache_as_without_token_for_token(position, options, encoder):
    """Prompts of different length, some longer than the model's, and outputs that slide several times."""
    max_len, config = 10, OPTIONS[options]
    model, head = tiny(encoder, end=-3.0, position=position, max_len=max_len, num_kv_heads=1)
    prompts = texts(1, 4, 9, 10, 11, 17)
    sources = texts(5, 2, 7, 1, 4, 6, seed=2) if encoder else None
    limits = torch.tensor([25, 25, 3, 25, 18, 25])
    results = run(model, head, config, prompts, sources, limits, max_len)
    longest = 0
    for row, hypotheses in enumerate(results):
        source = torch.tensor([sources[row]]) if encoder else None
        assert len(hypotheses) == config.num_return_sequences
        for index, found in enumerate(hypotheses):
            ids, total, length = by_hand(
                model, head, config, prompts[row], source, int(limits[row]), max_len, row, index
            )
            assert found.ids == ids
            assert found.log_prob == pytest.approx(total, abs=1e-3)
            assert found.score == pytest.approx(total / length, abs=1e-3)
            longest = max(longest, length)
    assert longest > 2 * max_len


@pytest.mark.parametrize("max_len", [2, 3, 4, 5])
def test_the_shortest_windows_slide(max_len):
    model, head = tiny(end=-99.0, position="learned", max_len=max_len)
    prompts = texts(1, 2, 3, 6)
    for row, (found,) in enumerate(run(model, head, DRAWN, prompts, limit=11, max_len=max_len)):
        assert found.ids == by_hand(model, head, DRAWN, prompts[row], None, 11, max_len, row, 0)[0]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_batch_is_its_rows_one_by_one(options):
    model, head = tiny(end=0.5, position="alibi", max_len=12)
    prompts = texts(2, 14, 6, 3, 9)
    config = OPTIONS[options]
    together = ids_of(run(model, head, config, prompts, limit=25, max_len=12))
    for row, prompt in enumerate(prompts):
        assert ids_of(run(model, head, config, [prompt], limit=25, max_len=12, numbers=[row])) == [together[row]]
    order = [3, 0, 4, 2, 1]
    shuffled = run(model, head, config, [prompts[row] for row in order], limit=25, max_len=12, numbers=order)
    assert ids_of(shuffled) == [together[row] for row in order]


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("changes", [{}, {"no_repeat_ngram_size": 2, "min_new_tokens": 3, "length_penalty": 0.6}])
def test_greedy_is_beam_search_with_one_beam(encoder, changes):
    config, ended = DecodingConfig(**changes), 0
    limits = torch.tensor([12, 5, 0, 9])
    for seed in range(4):
        model, head = tiny(encoder, seed=seed, end=1.0)
        prefix = torch.full((4, 1), BOS)
        source, source_mask = padded(texts(6, 3, 5, 2), left=False) if encoder else (None, None)
        shared = {"prefix": prefix, "source": source, "source_mask": source_mask, "eos_id": EOS, "pad_id": PAD}
        shared |= {"max_new_tokens": limits, "forbidden": [BOS, 5]}
        searched = generate(model, head, config, **shared)
        drawn = sample(model, head, config, max_len=40, **shared)
        assert ids_of(drawn) == ids_of(searched)
        for (a,), (b,) in zip(drawn, searched, strict=True):
            assert (a.log_prob, a.score) == pytest.approx((b.log_prob, b.score), abs=1e-4)
            ended += len(a.ids) < 5
    assert ended


def test_tokens_are_told_as_they_come():
    model, head = tiny(end=0.5)
    config = replace(DRAWN, num_return_sequences=2)
    told = []
    results = run(model, head, config, texts(2, 4, 3), on_token=lambda *event: told.append(event[:3]))
    for row, index in itertools.product(range(3), range(2)):
        ids, cut = results[row][index].ids, results[row][index].cut
        assert [token for r, i, token in told if (r, i) == (row, index)] == (ids if cut else [*ids, EOS])
    steps = [sum(earlier[:2] == event[:2] for earlier in told[:place]) for place, event in enumerate(told)]
    assert steps == sorted(steps)  # all first tokens, then all second ones


def test_forced_ids_begin_a_sample_and_its_own_change_nothing():
    model, head = tiny(end=-99.0)
    ((free,),) = run(model, head, DRAWN, limit=9)
    for count in (1, 3, len(free.ids)):
        ((forced,),) = run(model, head, DRAWN, limit=9, forced=[free.ids[:count]])
        assert forced.ids == free.ids and forced.log_prob == pytest.approx(free.log_prob)
    other = next(i for i in range(3, VOCAB) if i != free.ids[1])
    ((forced,),) = run(model, head, DRAWN, limit=9, forced=[[free.ids[0], other]])
    assert forced.ids[:2] == [free.ids[0], other]
    assert run(model, head, DRAWN, limit=9, forced=[[3, EOS]])[0][0].ids == [3]


def test_a_callback_sees_what_the_token_was_drawn_from_and_can_end_its_sample():
    model, head = tiny(end=-99.0)
    config = replace(DRAWN, temperature=0.5, top_k=3)

    def on_token(row, sample, token, logits):
        assert int((logits > -math.inf).sum()) == 3 and logits[token] > -math.inf
        ids[row].append(token)
        return row == 1 and len(ids[row]) == 2

    ids = [[], []]
    (first,), (second,) = run(model, head, config, texts(2, 4), limit=9, on_token=on_token)
    alone = run(model, head, config, texts(2, 4), limit=9)
    assert first.ids == alone[0][0].ids and second.ids == alone[1][0].ids[:2]


def test_where_nothing_may_follow_a_sample_ends():
    model, head = tiny()
    config = replace(DRAWN, no_repeat_ngram_size=1, min_new_tokens=8, temperature=2.0, top_k=3, top_p=0.9, min_p=0.01)
    ((found,),) = run(model, head, config, limit=12, forbidden=[5, 6, 7, 8])
    assert sorted(found.ids) == [3, 4]
    assert math.isfinite(found.log_prob)
    nothing = run(model, head, config, limit=12, forbidden=range(VOCAB))
    assert nothing == [[Hypothesis([], 0.0, 0.0)]]


def test_no_input_and_no_room_have_no_output():
    model, head = tiny()
    empty = torch.zeros(0, 3, dtype=torch.long)
    assert sample(model, head, DRAWN, prefix=empty, eos_id=EOS, pad_id=PAD, max_new_tokens=5, max_len=9) == []
    assert run(model, head, replace(DRAWN, num_return_sequences=2), limit=0) == [[Hypothesis([], 0.0, 0.0)] * 2]


def test_logits_that_are_not_finite_are_refused():
    model, _ = tiny()
    for value, config in itertools.product((math.nan, math.inf), (DecodingConfig(), DRAWN, OPTIONS["all"])):
        head = FixedHead(torch.tensor([[0.0, 0.0, 0.0, value, 1.0]]))
        with pytest.raises(NumericsError, match=r"input 0: the model's logits are not finite after 0 tokens; fix: .*"):
            run(model, head, config)


def test_generation_runs_in_bf16():
    model, head = tiny(True, max_len=8, end=-99.0)
    with torch.autocast("cpu", torch.bfloat16):
        results = run(model, head, OPTIONS["all"], texts(1, 5), texts(3, 2), limit=20, max_len=8)
    assert all(len(h.ids) == 20 and math.isfinite(h.log_prob) for n in results for h in n)


# ---- stop strings

PIECES = ["", "", "", "a", "b", "ab", "ba", "xabx", "c"]


def spell(ids):
    return "".join(PIECES[i] for i in ids)


def spelt(row, ids):
    return spell(ids)


@pytest.mark.parametrize(
    ("script", "stops", "ids", "text"),
    [
        ([8, 3, 4, 8], ["ab"], [8, 3, 4], "c"),  # across tokens
        ([8, 5, 8, 8], ["ab"], [8, 5], "c"),  # one token
        ([8, 7, 8, 8], ["ab"], [8, 7], "cx"),  # inside one
        ([3, 6, 6, 8], ["aba"], [3, 6], ""),  # begins in one, ends inside another
        ([8, 3, 3, 6], ["caba", "aab"], [8, 3, 3, 6], "c"),  # nearly the first, then the second
        ([8, 7, 8, 8], ["bx", "xa"], [8, 7], "c"),  # two at once: the earlier one
        ([8, 3, 3, 3], ["zz", "ab"], [8, 3, 3, 3], "caaa"),  # none
        ([8, 3, EOS, 4], ["ab"], [8, 3], "ca"),  # not beyond the end
    ],
)
def test_a_stop_string_ends_a_sample(script, stops, ids, text):
    model, _ = tiny()
    config = DecodingConfig(stop_strings=stops)
    ((found,),) = run(model, ScriptHead(*script), config, [[BOS, 3]], limit=4, decode=spelt)
    assert found.ids == ids
    assert cut_at_stop(spell(found.ids), stops) == text
    assert found.log_prob == pytest.approx(0, abs=1e-6)


def test_only_the_sample_that_meets_a_stop_string_stops():
    model, head = tiny(end=-99.0)
    prompts = texts(2, 5, 3)
    config = replace(DRAWN, num_return_sequences=4)
    free = ids_of(run(model, head, config, prompts, limit=15))
    stopped = ids_of(run(model, head, replace(config, stop_strings=["abc", "ca"]), prompts, limit=15, decode=spelt))
    for ids, cut in zip(itertools.chain(*free), itertools.chain(*stopped), strict=True):
        holds = [n for n in range(16) if "abc" in spell(ids[:n]) or "ca" in spell(ids[:n])]
        assert cut == ids[: min(holds, default=15)]
    lengths = {len(cut) for cut in itertools.chain(*stopped)}
    assert 15 in lengths
    assert len(lengths) > 2


def test_stop_strings_need_a_way_to_text():
    with pytest.raises(AssertionError, match="stop strings need `decode`"):
        run(*tiny(), DecodingConfig(stop_strings=["a"]))


@pytest.mark.parametrize(
    ("text", "stops", "cut", "shown"),
    [
        ("one two", [], "one two", "one two"),
        ("one two", ["two"], "one ", "one "),
        ("one two one", ["two", "ne"], "o", "o"),
        ("one tw", ["two"], "one tw", "one "),
        ("one t", ["two", " to"], "one t", "one"),
        ("aab", ["aabaac", "bb"], "aab", ""),
        ("one \ufffd", ["x"], "one \ufffd", "one "),
        ("one t\ufffd", ["tö"], "one t\ufffd", "one "),
        ("", ["two"], "", ""),
    ],
)
def test_cutting_and_showing(text, stops, cut, shown):
    assert cut_at_stop(text, stops) == cut
    assert settled(text, stops) == shown


def test_what_is_shown_is_never_taken_back():
    for letters in itertools.product("ab", repeat=7):
        stops, text = ["abba", "bb"], "".join(letters)
        ends = [n for n in range(8) if any(stop in text[:n] for stop in stops)]
        shown = [settled(text[:n], stops) for n in range(min(ends, default=7) + 1)]
        final = cut_at_stop(text[: min(ends, default=7)], stops)
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise([*shown, final]))


# ---- what it costs


def test_finished_samples_leave_and_sliding_reads_half_a_window(monkeypatch):
    model, head = tiny(end=-3.0, max_len=8)
    shapes = []
    inner = model.decode
    monkeypatch.setattr(model, "decode", lambda target, **k: shapes.append(tuple(target.shape)) or inner(target, **k))
    prompts, config = texts(3, 6), replace(DRAWN, num_return_sequences=3)
    results = run(model, head, config, prompts, limit=20, max_len=8)
    assert shapes[0] == (2, 6)  # a prompt is read once for all its samples
    steps = [shape[0] for shape in shapes[1:] if shape[1] == 1]
    lengths = [len(h.ids) for n in results for h in n]
    assert steps == [sum(length > step for length in lengths) for step in range(len(steps))]
    assert max(lengths) > 12
    slides = [shape for shape in shapes[1:] if shape[1] > 1]
    assert {shape[1] for shape in slides} == {4}
    due = 0  # a prompt of n tokens is full after 8 - n more, and then after every 4
    for prompt, hypotheses in zip(prompts, results, strict=True):
        read = [min(19, len(h.ids)) for h in hypotheses]  # the last token is not read
        due += sum(len(range(9 - len(prompt), count + 1, 4)) for count in read)
    assert sum(shape[0] for shape in slides) == due


def test_the_cache_stays_as_wide_as_the_window():
    model, head = tiny(end=-99.0, max_len=8)
    widths = []
    attention = model.decoder.layers[0].self_attention
    inner = attention.forward

    def forward(x, scope, memory=None, cache=None):
        y = inner(x, scope, memory, cache)
        widths.append(cache.length)
        return y

    attention.forward = forward
    run(model, head, DRAWN, texts(1, 3, 6), limit=100, max_len=8)
    assert max(widths) <= 8


def test_the_end_mark_of_a_prompt_does_not_forbid_the_end():
    """A prompt may begin with the end mark, which then is an n-gram of size 1 that has occurred."""
    model, _ = tiny()
    script = ScriptHead(4, EOS, 3, 3)
    ((found,),) = run(model, script, DecodingConfig(no_repeat_ngram_size=1), [[EOS, 3]], limit=4)
    assert found.ids == [4]
