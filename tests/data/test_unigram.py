"""The vectorised EM against sums over all segmentations, one by one."""

import itertools
import math
import random

import numpy as np
import pytest

from multihead.data.unigram import _Lattice, _prune, train_unigram


def segmentations(word, scores, whole=True):
    """Every way to write a word in pieces, and its probability."""
    for marks in itertools.product((0, 1), repeat=len(word) - 1):
        cuts = [0, *(i + 1 for i, mark in enumerate(marks) if mark), len(word)]
        pieces = [word[a:b] for a, b in itertools.pairwise(cuts)]
        if all(piece in scores for piece in pieces) and (whole or len(pieces) > 1):
            yield pieces, math.exp(sum(scores[piece] for piece in pieces))


@pytest.fixture
def problem():
    rng = random.Random(0)
    words = ["".join(rng.choices("abc", k=rng.randint(1, 7))) for _ in range(12)]
    words = sorted(set(words))
    substrings = sorted({w[i:j] for w in words for i in range(len(w)) for j in range(i + 2, len(w) + 1)})
    pieces = ["a", "b", "c", *rng.sample(substrings, 25)]
    scores = np.log(np.random.default_rng(0).dirichlet(np.ones(len(pieces))))
    return words, pieces, scores


def test_expected_counts(problem):
    words, pieces, scores = problem
    weights = np.arange(1.0, len(words) + 1)
    named = dict(zip(pieces, scores, strict=True))
    expected = dict.fromkeys(pieces, 0.0)
    for word, weight in zip(words, weights, strict=True):
        ways = list(segmentations(word, named))
        total = sum(probability for _, probability in ways)
        for parts, probability in ways:
            for piece in parts:
                expected[piece] += weight * probability / total
    lattice = _Lattice(words, pieces)
    np.testing.assert_allclose(lattice.expected(scores, weights, len(pieces)), list(expected.values()), rtol=1e-9)
    kept = np.array([0, 1, 2, 5, 9, 20])
    lattice.keep(kept, len(pieces))
    fewer = _Lattice(words, [pieces[i] for i in kept])
    np.testing.assert_array_equal(lattice.expected(scores[kept], weights, 6), fewer.expected(scores[kept], weights, 6))


def test_best_segmentation_and_pruning(problem):
    _, pieces, scores = problem
    named = dict(zip(pieces, scores, strict=True))
    longer = pieces[3:]
    best = [max(math.log(p) for _, p in segmentations(piece, named, whole=False)) for piece in longer]
    np.testing.assert_allclose(_Lattice(longer, pieces, whole=False).best(scores), best, rtol=1e-9)
    counts = np.arange(1.0, len(pieces) + 1)
    kept = _prune(pieces, counts, scores, 3, 10)
    loss = counts[3:] * (scores[3:] - np.array(best))
    assert set(kept) == {0, 1, 2, *(3 + np.argsort(-loss)[:7])}


def test_training_finds_the_words_and_raises_the_likelihood():
    rng = random.Random(1)
    stems, endings = ["walk", "talk", "jump", "look"], ["", "s", "ed", "ing"]
    words = {stem + ending: rng.randint(20, 60) for stem in stems for ending in endings}
    alphabet = sorted(set("".join(words)))
    pieces = train_unigram(words, alphabet, len(alphabet) + 7)
    assert len({*stems} & {piece for piece, _ in pieces}) >= 3
    assert set(alphabet) <= {piece for piece, _ in pieces}
    assert len(pieces) == len(alphabet) + 7
    assert sum(math.exp(score) for _, score in pieces) == pytest.approx(1)
    assert [score for _, score in pieces] == sorted((score for _, score in pieces), reverse=True)

    def likelihood(pieces):
        named = dict(pieces)
        return sum(n * math.log(sum(p for _, p in segmentations(word, named))) for word, n in words.items())

    letters = train_unigram(words, alphabet, len(alphabet))
    assert likelihood(pieces) > likelihood(letters)
    assert train_unigram(dict(reversed(words.items())), alphabet, len(alphabet) + 7) == pieces


def test_no_words():
    assert {piece for piece, _ in train_unigram({}, ["a", "b"], 9)} == {"a", "b"}
