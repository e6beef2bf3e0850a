"""The search against searches written without cache, without batches and without stopping early."""

import itertools
import math
import random
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from multihead.config.model import POSITIONS, ModelConfig
from multihead.config.training import DecodingConfig
from multihead.errors import NumericsError
from multihead.model import beam_search
from multihead.model.beam_search import Beams, Candidates, Hypothesis, generate, side_by_side
from multihead.model.heads import CopyHead, VocabularyHead
from multihead.model.sampling import sample
from multihead.model.transformer import Transformer

PAD, BOS, EOS = 0, 1, 2
VOCAB = 9


class Head(nn.Module):
    """A vocabulary head made sharper, and with a say on how likely the end mark is."""

    def __init__(self, head: VocabularyHead, sharpness: float, end: float):
        super().__init__()
        self.head, self.sharpness = head, sharpness
        self.end = torch.zeros(head.weight.size(0))
        self.end[EOS] = end

    def forward(self, hidden):
        return self.head(hidden) * self.sharpness + self.end


def score(model, head, *, target, target_mask=None, **source):
    """log p [B, T - 1] of every target token but the first, given the tokens before it; 0 at padding."""
    log_probs = beam_search.next_log_probs(model, head, target=target, target_mask=target_mask, **source)
    log_probs = log_probs.gather(-1, target[:, 1:, None])[..., 0]
    return log_probs if target_mask is None else log_probs.masked_fill(~(target_mask[:, :-1] & target_mask[:, 1:]), 0.0)


def tiny(vocab_size=VOCAB, encoder=True, seed=0, sharpness=2.0, end=0.0, **changes):
    """A random model whose continuations depend on the source and on all tokens before, and its head."""
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_encoder_layers": 1, "num_decoder_layers": 2, "max_len": 40}
    torch.manual_seed(seed)
    model = Transformer(
        ModelConfig(**{**sizes, "position": "rotary", **changes}),
        source_vocab_size=vocab_size if encoder else None,
        target_vocab_size=vocab_size,
    )
    head = VocabularyHead(16, vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layers." in name and parameter.ndim == 2:
                parameter *= 2
    return model.eval(), Head(head, sharpness, end)


def sources(lengths, vocab_size=VOCAB):
    ids = torch.randint(3, vocab_size, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids * mask, mask


def search(model, head, config, source=None, mask=None, limit=8, prefix=None, **arguments):
    """`generate` from the begin mark."""
    if prefix is None:
        prefix = torch.full((len(source), 1), BOS)
    return generate(
        model,
        head,
        config,
        prefix=prefix,
        source=source,
        source_mask=mask,
        eos_id=EOS,
        pad_id=PAD,
        max_new_tokens=limit,
        **arguments,
    )


def ids_of(results):
    return [[hypothesis.ids for hypothesis in hypotheses] for hypotheses in results]


@torch.no_grad()
def next_log_probs(model, head, prefix, ids, source):
    """log p of every next token, by a full pass over one sentence."""
    hidden = model(source, None, torch.tensor([[*prefix, *ids]]))
    return head(hidden[0, -1]).log_softmax(-1).tolist()


def greedy_by_hand(model, head, source, limit, prefix=(BOS,)):
    ids, total = [], 0.0
    while len(ids) < limit:
        log_probs = next_log_probs(model, head, prefix, ids, source)
        token = max((t for t in range(VOCAB) if t != PAD), key=lambda t: log_probs[t])
        total += log_probs[token]
        if token == EOS:
            return ids, total, len(ids) + 1
        ids.append(token)
    return ids, total, len(ids)


def beams_by_hand(model, head, config, source, limit):
    """Beam search of one sentence that never stops early: (score, ids) of all that finished, best first."""

    def allowed(ids, token):
        size = config.no_repeat_ngram_size
        grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)] if size else []
        repeats = size and tuple([*ids, token][-size:]) in grams
        return token != PAD and not repeats and not (token == EOS and len(ids) < config.min_new_tokens)

    beams, finished = [(0.0, [])], []
    for length in range(1, limit + 1):
        candidates = []
        for total, ids in beams:
            log_probs = next_log_probs(model, head, [BOS], ids, source)
            tokens = [t for t in range(len(log_probs)) if allowed(ids, t)]
            candidates += [(total + log_probs[t], ids, t) for t in tokens]
        candidates.sort(key=lambda c: -c[0])
        for total, ids, token in candidates[: config.num_beams]:
            if token == EOS or length == limit:
                finished.append((total / length**config.length_penalty, ids if token == EOS else [*ids, token]))
        beams = [(total, [*ids, token]) for total, ids, token in candidates if token != EOS][: config.num_beams]
    return sorted(finished, key=lambda f: -f[0])[: config.num_return_sequences]


def same(hypotheses: list[Hypothesis], expected: list[tuple[float, list[int]]]):
    assert [h.ids for h in hypotheses] == [ids for _, ids in expected]
    assert [h.score for h in hypotheses] == pytest.approx([value for value, _ in expected], abs=1e-4)


# ---- what is found


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.unhurried
def test_one_beam_is_greedy(position, encoder):
    ended = 0
    for seed in range(4):
        model, head = tiny(encoder=encoder, seed=seed, end=0.5, position=position, num_kv_heads=1)
        source, mask = sources([6, 3, 5]) if encoder else (None, None)
        prefix = torch.tensor([[BOS], [BOS], [BOS]])
        if not encoder:
            prefix = torch.tensor([[PAD, PAD, BOS], [BOS, 4, 5], [PAD, BOS, 7]])
        results = search(model, head, DecodingConfig(), source, mask, 9, prefix, prefix_mask=prefix != PAD)
        for i, (best,) in enumerate(results):
            alone = source[i : i + 1][mask[i : i + 1]][None] if encoder else None
            ids, total, length = greedy_by_hand(model, head, alone, 9, prefix[i][prefix[i] != PAD].tolist())
            assert best.ids == ids
            assert best.log_prob == pytest.approx(total, abs=1e-4)
            assert best.score == pytest.approx(total / length, abs=1e-4)
            ended += length <= 9 and len(ids) < length
    assert ended  # some were ended by their end mark


@torch.no_grad()
def all_targets(log_probs, limit, length_penalty=1.0):
    """Scores and ids of all targets of two letters, best first; ``log_probs`` maps a target [1, T] to log p [T, V]."""
    every = []
    for length in range(limit + 1):
        for ids in itertools.product((3, 4), repeat=length):
            full = [BOS, *ids] if length == limit else [BOS, *ids, EOS]
            found = log_probs(torch.tensor([full]))
            total = sum(found[i, token].item() for i, token in enumerate(full[1:]))
            every.append((total / (len(full) - 1) ** length_penalty, list(ids)))
    return sorted(every, key=lambda e: -e[0])


@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 0.6, 1.0, 1.5])
@pytest.mark.unhurried
def test_beam_search_with_beams_enough_is_exhaustive_search(length_penalty):
    limit = 4
    for seed, sharpness in itertools.product(range(2), (1.0, 4.0)):
        model, head = tiny(5, seed=seed, sharpness=sharpness)
        source = torch.tensor([[3, 4, 3]])
        log_probs = lambda target: head(model(source, None, target))[0].log_softmax(-1)  # noqa: B023, E731
        every = all_targets(log_probs, limit, length_penalty)
        assert len(every) == 31
        for count in (1, 5, 31):
            config = DecodingConfig(num_beams=32, num_return_sequences=count, length_penalty=length_penalty)
            same(search(model, head, config, source, None, limit, forbidden=[BOS])[0], every[:count])


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("changes", [{}, {"no_repeat_ngram_size": 2, "min_new_tokens": 3}], ids=["plain", "ruled"])
@pytest.mark.unhurried
def test_stopping_early_loses_nothing(length_penalty, changes):
    """Batched search equals a search of one sentence at a time that always goes on to the longest length."""
    for seed, beams in ((0, 2), (1, 3), (2, 5)):
        model, head = tiny(seed=seed, end=1.0)
        source, mask = sources([6, 3, 5, 1])
        limits = torch.tensor([8, 7, 3, 6])
        config = DecodingConfig(num_beams=beams, num_return_sequences=2, length_penalty=length_penalty, **changes)
        for i, hypotheses in enumerate(search(model, head, config, source, mask, limits)):
            same(
                hypotheses, beams_by_hand(model, head, config, source[i : i + 1][mask[i : i + 1]][None], int(limits[i]))
            )


class Chain(nn.Module):
    """The next token depends on the place and the last one; as sharp as real models, so that long outputs may win."""

    def __init__(self, seed: int, sharpness: float, places: int):
        super().__init__()
        self.table = torch.randn(places * VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * sharpness

    def forward(self, source, mask, target):
        return self.decode(target)

    def decode(self, target, target_mask=None, cache=None):
        past = 0 if cache is None else cache.length
        if cache is not None:
            cache.length += target.size(1)
        rows = (past + torch.arange(target.size(1))) * VOCAB + target
        return F.one_hot(rows, len(self.table)).float()

    def new_cache(self, memory, mask):
        return SimpleNamespace(length=0, select=lambda rows, sources: None)

    def head(self, hidden):
        return hidden @ self.table


@pytest.mark.parametrize("length_penalty", [-1.0, -0.3, 0.0, 0.4, 1.0, 2.0])
@pytest.mark.unhurried
def test_stopping_early_is_exact_for_any_penalty_and_bounds(length_penalty):
    """A running beam may win as long as it can still get better, however far behind it is now."""
    draw = random.Random(1)
    for seed in range(60):
        beams, limit = draw.randint(2, 4), draw.randint(2, 12)
        model = Chain(seed, draw.uniform(1, 5), limit)
        config = DecodingConfig(
            num_beams=beams,
            num_return_sequences=draw.randint(1, beams),
            length_penalty=length_penalty,
            min_new_tokens=draw.randint(0, min(3, limit - 1)),
        )
        found = search(model, model.head, config, limit=limit, prefix=torch.tensor([[BOS]]))
        same(found[0], beams_by_hand(model, model.head, config, None, limit))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("beams", [1, 4])
def test_a_batch_is_its_sentences_one_by_one(position, beams):
    model, head = tiny(position=position, end=1.0)
    source, mask = sources([7, 1, 4, 3])
    limits = torch.tensor([10, 4, 9, 1])
    config = DecodingConfig(num_beams=beams, num_return_sequences=beams, length_penalty=0.6)
    together = search(model, head, config, source, mask, limits)
    for i, hypotheses in enumerate(together):
        (alone,) = search(model, head, config, source[i : i + 1][mask[i : i + 1]][None], None, int(limits[i]))
        same(hypotheses, [(h.score, h.ids) for h in alone])


def test_prompts_of_a_decoder_alone_may_differ_in_length():
    model, head = tiny(encoder=False, end=1.0, position="learned")
    prefix = torch.tensor([[PAD, PAD, BOS, 5], [BOS, 3, 4, 5], [PAD, PAD, PAD, BOS]])
    config = DecodingConfig(num_beams=3, num_return_sequences=3)
    together = search(model, head, config, prefix=prefix, prefix_mask=prefix != PAD)
    for i, hypotheses in enumerate(together):
        (alone,) = search(model, head, config, prefix=prefix[i][prefix[i] != PAD][None])
        same(hypotheses, [(h.score, h.ids) for h in alone])


# one part, parts that the vocabulary does not fill, and parts that it does
@pytest.mark.parametrize("vocab_size", [9, 101, 900, 1000])
@pytest.mark.parametrize("beams", [1, 3])
def test_candidates_are_the_best_of_all(vocab_size, beams):
    torch.manual_seed(vocab_size)
    log_probs = torch.randn(2 * beams, vocab_size)
    log_probs[:, : vocab_size // 2] = -math.inf
    running = Beams(torch.arange(2), torch.tensor([9, 9]), torch.randn(2, beams), torch.zeros(2, beams, 1))
    found = Candidates.of(running, log_probs, 2 * beams)
    sums = (log_probs.view(2, beams, -1) + running.log_probs[..., None]).flatten(1)
    values, places = sums.topk(2 * beams)
    assert torch.equal(found.log_probs, values)
    assert torch.equal(found.parents * vocab_size + found.tokens, places)


def test_candidates_are_of_the_vocabulary_where_fewer_exist_than_are_asked_for():
    """201 tokens are looked through in two parts of 200: the rest of the second holds no token."""
    log_probs = torch.full((1, 201), -math.inf)
    log_probs[0, 200] = -1.0
    found = Candidates.of(Beams.start(torch.tensor([0]), torch.tensor([9])), log_probs, 300)
    assert found.tokens[0, 0] == 200 and found.log_probs[0, 0] == -1.0
    assert found.tokens.max() == 200 and not found.parents.any()


# ---- ensembles


def test_an_ensemble_searches_by_the_mean_of_the_probabilities():
    """Exhaustive search over all targets; the second model has another size, and its head copies."""
    model, head = tiny(5, seed=0, sharpness=4.0)
    other, _ = tiny(5, seed=1, d_model=32, num_decoder_layers=1)
    torch.manual_seed(2)
    copier = CopyHead(32, 5)
    source = torch.tensor([[3, 4, 3]])

    def log_probs(target):
        first = head(model(source, None, target))[0].softmax(-1)
        second = copier(other(source, None, target), copier.source(source, other.encode(source), None))[0].exp()
        return ((first + second) / 2).log()

    config = DecodingConfig(num_beams=32, num_return_sequences=31)
    found = search(model, head, config, source, None, 4, forbidden=[BOS], others=[(other, copier)])
    same(found[0], all_targets(log_probs, 4))


@pytest.mark.parametrize("beams", [1, 3])
def test_an_ensemble_of_a_model_and_itself_is_the_model(beams):
    """The sentences end at different steps, so the others' caches and sources must follow."""
    model, head, _ = copying()
    source, mask = sources([6, 3, 5, 1])
    config, limits = DecodingConfig(num_beams=beams, num_return_sequences=beams), torch.tensor([8, 7, 3, 6])
    alone = search(model, head, config, source, mask, limits)
    for found, expected in zip(
        search(model, head, config, source, mask, limits, others=[(model, head)] * 2), alone, strict=True
    ):
        same(found, [(each.score, each.ids) for each in expected])


# ---- copying


def copying(seed=0):
    """A random model with a head that copies, sharpened, and that head for one source at a time."""
    model, _ = tiny(seed=seed)
    head = CopyHead(16, VOCAB)
    with torch.no_grad():
        head.weight *= 2
        head.query.weight *= 4
        head.weight[EOS] += 0.5

    def over(source):
        return lambda hidden: head(hidden[None], head.source(source, model.encode(source), None))[0]

    return model, head, over


@pytest.mark.parametrize("beams", [1, 3])
def test_searches_that_copy_are_those_by_hand(beams):
    """Beams share a source's keys, and sources leave with their sentences, which end at different steps."""
    lengths = set()
    for seed in range(3):
        model, head, over = copying(seed)
        source, mask = sources([6, 3, 5, 1])
        limits = torch.tensor([8, 7, 3, 6])
        config = DecodingConfig(num_beams=beams, num_return_sequences=beams, no_repeat_ngram_size=2)
        for i, hypotheses in enumerate(search(model, head, config, source, mask, limits)):
            alone = source[i : i + 1][mask[i : i + 1]][None]
            if beams == 1:
                config = replace(config, no_repeat_ngram_size=0)
                (hypotheses,) = search(model, head, config, alone, None, int(limits[i]))
                ids, total, length = greedy_by_hand(model, over(alone), alone, int(limits[i]))
                same(hypotheses, [(total / length, ids)])
            else:
                same(hypotheses, beams_by_hand(model, over(alone), config, alone, int(limits[i])))
            lengths.add(len(hypotheses[0].ids))
    assert len(lengths) > 2


@torch.no_grad()
def test_the_score_of_what_is_copied_is_that_of_a_full_pass():
    model, head, over = copying()
    source, mask = sources([6, 3])
    target = torch.tensor([[BOS, 5, 4, EOS], [BOS, 7, EOS, PAD]])
    result = score(model, head, target=target, target_mask=target != PAD, source=source, source_mask=mask)
    for i, length in enumerate([4, 3]):
        alone, row = source[i : i + 1][mask[i : i + 1]][None], target[i].tolist()
        for place in range(1, length):
            log_probs = next_log_probs(model, over(alone), row[:1], row[1:place], alone)
            assert result[i, place - 1].item() == pytest.approx(log_probs[row[place]], abs=1e-5)
    assert result[1, 2] == 0


# ---- rules


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("beams", [1, 4])
def test_the_ngrams_of_text_that_is_continued_are_not_repeated(size, beams):
    """As greedy continuation has it, and Hugging Face; where the prefix is a begin mark, the output counts alone."""
    model, head = tiny(encoder=False, end=-9.0)
    texts = torch.randint(3, VOCAB, (6, 14), generator=torch.Generator().manual_seed(2))
    config = DecodingConfig(num_beams=beams, no_repeat_ngram_size=size)

    def repeats(ids):
        grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        return len(grams) - len(set(grams))

    before = [repeats(row) for row in texts.tolist()]
    apart = ids_of(search(model, head, config, limit=8, prefix=texts))
    assert sum(repeats(row + found[0]) for row, found in zip(texts.tolist(), apart, strict=True)) > sum(before)
    found = ids_of(search(model, head, config, limit=8, prefix=texts, continues_text=True))
    assert [repeats(row + ids[0]) for row, ids in zip(texts.tolist(), found, strict=True)] == before
    if beams == 1:
        greedy = sample(
            model, head, config, prefix=texts, eos_id=EOS, pad_id=PAD, max_new_tokens=8, max_len=40
        )  # fmt: skip
        assert ids_of(greedy) == found


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("beams", [1, 4])
def test_no_ngram_repeats(size, beams):
    model, head = tiny(end=-9.0)
    source, mask = sources([6, 3])

    def repeats(results):
        grams = [tuple(h.ids[i : i + size]) for n in results for h in n for i in range(len(h.ids) - size + 1)]
        return len(grams) - sum(
            len({tuple(h.ids[i : i + size]) for i in range(len(h.ids) - size + 1)}) for n in results for h in n
        )

    config = DecodingConfig(num_beams=beams, num_return_sequences=beams)
    assert repeats(search(model, head, config, source, mask, 20)) > 0
    assert repeats(search(model, head, replace(config, no_repeat_ngram_size=size), source, mask, 20)) == 0


@pytest.mark.parametrize("beams", [1, 3])
def test_length_bounds(beams):
    config = DecodingConfig(num_beams=beams, num_return_sequences=beams)
    source, mask = sources([6, 3, 2])
    eager, reluctant = tiny(end=9.0), tiny(end=-99.0)
    assert [n[0].ids for n in search(*eager, config, source, mask)] == [[], [], []]
    longer = search(*eager, replace(config, min_new_tokens=3), source, mask)
    assert [len(n[0].ids) for n in longer] == [3, 3, 3]
    limited = search(*reluctant, config, source, mask, torch.tensor([5, 1, 0]))
    assert [{len(h.ids) for h in n} for n in limited] == [{5}, {1}, {0}]
    assert limited[2] == [Hypothesis([], 0.0, 0.0)]
    # with fewer allowed than asked for, the bound above wins
    both = search(*eager, replace(config, min_new_tokens=7), source, mask, 4)
    assert {len(h.ids) for n in both for h in n} == {4}


@pytest.mark.parametrize("beams", [1, 3])
def test_forced_ids_come_first_and_count(beams):
    model, head = tiny(end=1.0)
    source, mask = sources([6, 3, 5])
    config = DecodingConfig(num_beams=beams, num_return_sequences=beams, no_repeat_ngram_size=1, min_new_tokens=1)
    forced = [[4, 4, 4], [], [8]]
    results = search(model, head, config, source, mask, 7, forced=forced)
    for hypotheses, start in zip(results, forced, strict=True):
        assert len(hypotheses) == beams
        assert all(h.ids[: len(start)] == start for h in hypotheses)
    free = search(model, head, config, source, mask, 7)
    same(results[1], [(h.score, h.ids) for h in free[1]])
    for hypothesis in results[0]:
        assert hypothesis.log_prob == pytest.approx(
            log_prob_of(model, head, hypothesis, source[:1], mask[:1], 7), abs=1e-4
        )


def test_special_ids_are_never_emitted():
    model, head = tiny(end=-99.0, sharpness=0.1)
    source, mask = sources([6, 3])
    config = DecodingConfig(num_beams=6, num_return_sequences=6)
    results = search(model, head, config, source, mask, 12, forbidden=[BOS, 5, 6])
    assert {token for n in results for h in n for token in h.ids} <= {3, 4, 7, 8}
    free = search(model, head, config, source, mask, 12)
    assert not {token for n in free for h in n for token in h.ids} <= {3, 4, 7, 8}
    assert PAD not in {token for n in free for h in n for token in h.ids}


def test_where_nothing_may_follow_the_beams_end_as_they_are():
    model, head = tiny()
    config = DecodingConfig(num_beams=2, num_return_sequences=2, no_repeat_ngram_size=1, min_new_tokens=8)
    (hypotheses,) = search(model, head, config, *sources([4]), limit=12, forbidden=[BOS, 5, 6, 7, 8])
    assert sorted(h.ids for h in hypotheses) == [[3, 4], [4, 3]]
    (hypotheses,) = search(model, head, config, *sources([4]), limit=12, forbidden=range(VOCAB))
    assert hypotheses == [Hypothesis([], 0.0, 0.0)]


def test_log_probabilities_that_are_not_finite_are_refused():
    model, head = tiny()
    for value, beams in itertools.product((math.nan, math.inf), (1, 3)):
        head.end[4] = value
        with pytest.raises(NumericsError, match=r"input 0: the model's logits are not finite after 0 tokens; fix: .*"):
            search(model, head, DecodingConfig(num_beams=beams), *sources([4]), limit=12)


def test_the_end_mark_of_a_text_that_is_continued_does_not_forbid_the_end():
    model, head = tiny(encoder=False, end=50.0)
    config = DecodingConfig(num_beams=2, no_repeat_ngram_size=1)
    options = {"eos_id": EOS, "pad_id": PAD, "max_new_tokens": 6, "continues_text": True}
    ((found, *_),) = generate(model, head, config, prefix=torch.tensor([[EOS, 3]]), **options)
    assert found.ids == []


def test_no_input_has_no_output():
    model, head = tiny()
    none = torch.zeros(0, 3, dtype=torch.long)
    assert search(model, head, DecodingConfig(num_beams=2), none, none.bool()) == []


# ---- scores


def log_prob_of(model, head, hypothesis, source, mask, limit):
    """By `score`, with the end mark unless the search stopped before it."""
    end = [EOS] if len(hypothesis.ids) < limit else []
    target = torch.tensor([[BOS, *hypothesis.ids, *end]])
    return float(score(model, head, target=target, source=source, source_mask=mask).sum())


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
def test_hypotheses_are_sorted_distinct_and_scored_as_documented(length_penalty):
    model, head = tiny(end=1.0)
    source, mask = sources([6, 3])
    config = DecodingConfig(num_beams=5, num_return_sequences=5, length_penalty=length_penalty)
    results = search(model, head, config, source, mask, 6)
    for i, hypotheses in enumerate(results):
        assert len(hypotheses) == len({tuple(h.ids) for h in hypotheses}) == 5
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for h in hypotheses:
            keep = slice(i, i + 1)
            assert h.log_prob == pytest.approx(log_prob_of(model, head, h, source[keep], mask[keep], 6), abs=1e-4)
            assert h.score == pytest.approx(h.log_prob / min(len(h.ids) + 1, 6) ** length_penalty)
    best = search(model, head, replace(config, num_return_sequences=1), source, mask, 6)
    assert ids_of(best) == [hypotheses[:1] for hypotheses in ids_of(results)]


@pytest.mark.parametrize("left", [False, True])
@torch.no_grad()
def test_score_is_the_log_softmax_of_a_full_pass(left):
    model, head = tiny(position="sinusoidal")
    source, source_mask = sources([6, 3, 5])
    lengths = [5, 2, 4]
    place = torch.arange(5)
    target = torch.randint(3, VOCAB, (3, 5), generator=torch.Generator().manual_seed(2))
    columns = torch.tensor(lengths)[:, None]
    mask = place >= 5 - columns if left else place < columns
    result = score(model, head, target=target * mask, target_mask=mask, source=source, source_mask=source_mask)
    assert result.shape == (3, 4)
    for i, length in enumerate(lengths):
        row = target[i][mask[i]]
        logits = head(model(source[i : i + 1, : source_mask[i].sum()], None, row[None, :-1]))[0]
        expected = [math.log(logits[t].softmax(-1)[row[t + 1]]) for t in range(length - 1)]
        kept = result[i, 5 - length :] if left else result[i, : length - 1]
        assert kept.tolist() == pytest.approx(expected, abs=1e-5)
        assert result[i].count_nonzero() == length - 1


# ---- what it costs


def test_finished_sentences_leave_and_the_source_is_projected_once(monkeypatch):
    model, head = tiny(end=1.5)
    source, mask = sources([6, 3, 5, 2])
    limits = torch.tensor([9, 2, 5, 3])
    rows, projected = [], []
    decode = model.decode

    def counted(target, **arguments):
        rows.append(len(target))
        return decode(target, **arguments)

    monkeypatch.setattr(model, "decode", counted)
    for layer in model.decoder.layers:
        layer.cross_attention.key.register_forward_hook(lambda _, args, output: projected.append(args[0].shape))
    config = DecodingConfig(num_beams=3, length_penalty=0.0)
    search(model, head, config, source, mask, limits)
    assert projected == [(4, 6, 16)] * 2  # once per layer, one row per source, not per beam
    assert rows[0] == 4
    assert rows[1:] == sorted(rows[1:], reverse=True)
    assert all(count % 3 == 0 for count in rows[1:])
    assert len(rows) <= 9
    assert rows[-1] < 12


def test_the_search_stops_when_nothing_can_win_any_more(monkeypatch):
    model, head = tiny(end=6.0)
    calls = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda *a, **k: calls.append(1) or decode(*a, **k))
    search(model, head, DecodingConfig(num_beams=2, length_penalty=0.0), *sources([6]), limit=30)
    assert len(calls) <= 3


@pytest.mark.parametrize("beams", [1, 3])
def test_the_search_runs_in_bf16(beams):
    model, head = tiny()
    config = DecodingConfig(num_beams=beams)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = search(model, head, config, *sources([6, 3]))
    assert all(math.isfinite(h.score) for n in mixed for h in n)
    with pytest.raises(ValueError, match=r"41 tokens is longer than model.max_len=40"):
        search(*tiny(position="sinusoidal", end=-99.0), config, *sources([6, 3]), limit=50)


# ---- side by side


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.unhurried
def test_batches_side_by_side_are_those_one_after_the_other(two_threads):
    model, head = tiny(end=1.0)
    config, batches = DecodingConfig(num_beams=3, num_return_sequences=2), [[7, 4], [5], [3, 2, 1], [2, 2]]
    apart = [search(model, head, config, *sources(lengths)) for lengths in batches]
    together = side_by_side(lambda lengths: search(model, head, config, *sources(lengths)), batches, 2)
    for found, expected in zip(together, apart, strict=True):
        for hypotheses, wanted in zip(found, expected, strict=True):
            same(hypotheses, [(h.score, h.ids) for h in wanted])


def test_modes_go_along_to_the_threads_and_two_work_at_a_time(two_threads):
    both = threading.Barrier(2, timeout=20)

    def work(item):
        both.wait()
        modes = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        return item, torch.get_num_threads(), *modes

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert side_by_side(work, range(4), 2) == [(i, 1, True, True, torch.bfloat16) for i in range(4)]
    assert [found[2:4] for found in side_by_side(work, range(2), 2)] == [(False, False)] * 2
    assert torch.get_num_threads() == 2


def test_an_error_in_a_thread_is_raised_and_nothing_further_begins(two_threads):
    begun = []

    def work(item):
        begun.append(item)
        if item == 0:
            raise ValueError("item 0")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="item 0"):
        side_by_side(work, range(100), 2)
    assert len(begun) < 100
    assert torch.get_num_threads() == 2


def test_one_at_a_time_starts_no_thread(two_threads):
    main = threading.current_thread()
    assert side_by_side(lambda item: threading.current_thread() is main, [1], 2) == [True]
    assert side_by_side(lambda item: threading.current_thread() is main, [1, 2], 1) == [True, True]


def test_a_search_ends_before_its_next_step_when_it_is_told_to():
    model, head = tiny(end=-9.0)
    source, mask = sources([3, 5])
    asked = []
    config = DecodingConfig(num_beams=2)
    found = search(model, head, config, source, mask, stop=lambda: asked.append(1) or len(asked) > 3)
    assert len(asked) == 4 and found == [[Hypothesis([], 0.0, 0.0)]] * 2
