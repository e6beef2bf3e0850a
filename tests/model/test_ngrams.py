"""Hashed n-grams against a loop by hand, and what they must never cross."""

import itertools

import pytest
import torch
from test_transformer import assert_close, ragged, tiny
from torch import nn

from multihead.config.model import ModelConfig
from multihead.config.task import ClassificationConfig
from multihead.errors import ConfigError
from multihead.model.cache import Cache
from multihead.model.ngrams import MULTIPLIER, NOTHING, PRIME, NGramClasses, NGramEmbedding


def table(buckets=40, most=3, width=4) -> NGramEmbedding:
    """Random rows, but for the one that stands for no n-gram."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=width, num_heads=1, ngram_buckets=buckets, ngram_max=most)
    ngrams = NGramEmbedding(config)
    assert not ngrams.weight.any()  # what training does not see adds nothing
    with torch.no_grad():
        nn.init.normal_(ngrams.weight[1:])
    return ngrams


def by_hand(ngrams: NGramEmbedding, documents: list[list[int]]) -> torch.Tensor:
    """The sums [T, D] of documents that stand one after the other."""
    sums = []
    for ids in documents:
        for end in range(len(ids)):
            total = torch.zeros(ngrams.weight.size(1))
            for size in range(2, ngrams.num_before + 2):
                if end + 1 < size:
                    continue
                key = size
                for token in ids[end + 1 - size : end + 1]:
                    key = (key * MULTIPLIER + token) % PRIME
                total += ngrams.weight[1 + key % (ngrams.weight.size(0) - 1)].detach()
            sums.append(total)
    return torch.stack(sums)


@pytest.mark.parametrize("most", [2, 3, 4])
def test_sums_are_those_of_a_loop(most):
    ngrams = table(most=most)
    ids = torch.randint(0, 13, (3, 7))
    sums = ngrams(ids)
    for row in range(3):
        assert_close(sums[row], by_hand(ngrams, [ids[row].tolist()]))


def test_padding_and_documents_are_not_crossed():
    ngrams = table()
    ids, mask = ragged([6, 4, 1], 6, left=True)
    sums = ngrams(ids, mask)
    for row, length in enumerate((6, 4, 1)):
        assert_close(sums[row, 6 - length :], by_hand(ngrams, [ids[row, 6 - length :].tolist()]))
        assert not sums[row, : 6 - length].any()
    ids = torch.randint(0, 13, (1, 7))
    packed = ngrams(ids, segments=torch.tensor([[0, 0, 0, 1, 2, 2, 2]]))
    assert_close(packed[0], by_hand(ngrams, [ids[0, :3].tolist(), ids[0, 3:4].tolist(), ids[0, 4:].tolist()]))


def test_the_end_of_what_was_read_is_kept():
    ngrams = table()
    ids = torch.randint(0, 13, (2, 9))
    whole = ngrams(ids)
    cache = Cache(1, None, None)
    parts = [ngrams(part, cache=cache) for part in ids.split([1, 1, 4, 2, 1], dim=1)]
    assert_close(torch.cat(parts, 1), whole)
    assert torch.equal(cache.recent, ids[:, -2:])


def test_no_ngram_learns_nothing():
    ngrams = table()
    ngrams(torch.tensor([[1, 2, 3]])).sum().backward()
    assert not ngrams.weight.grad[0].any()
    assert ngrams.weight.grad.abs().sum() == 3 * 4  # two pairs and a triple, of width 4


def test_classes_by_a_loop():
    """Each n-gram of a text counts once, and the features of a text have norm 1."""
    torch.manual_seed(0)
    classes = NGramClasses(50, 2, 3)
    with torch.no_grad():
        nn.init.normal_(classes.weight)
        nn.init.normal_(classes.ratio[1:])
    ids, mask = ragged([7, 4, 1], 7, vocab_size=4)
    logits = classes(ids, mask)
    for row, length in enumerate((7, 4, 1)):
        text = ids[row, :length].tolist()
        found = {1 + _key([word]) % 49 for word in text} | {1 + _key(pair) % 49 for pair in itertools.pairwise(text)}
        assert row or len(found) < 2 * length - 1  # some occur twice
        votes = (classes.weight * classes.ratio)[list(found)].sum(0)
        expected = NGramClasses.GAIN * votes / len(found) ** 0.5
        assert_close(logits[row], expected.detach())
        assert_close(logits[row], classes(ids[row : row + 1, :length])[0])
    assert not classes(ids, torch.zeros_like(mask)).any()


def _key(ids) -> int:
    key = len(ids)
    for token in ids:
        key = (key * MULTIPLIER + token) % PRIME
    return key


def test_classes_start_from_log_count_ratios():
    classes = NGramClasses(5, 1, 2)
    classes.start_from(torch.tensor([[0.0, 0.0], [3.0, 1.0], [0.0, 2.0], [0.0, 0.0], [1.0, 1.0]]))
    inside, outside = [4 / 7, 1 / 7, 2 / 7], [2 / 7, 3 / 7, 2 / 7]  # each count plus one, over their sum
    ratio = torch.tensor([p / q for p, q in zip(inside, outside, strict=True)]).log()
    assert_close(classes.ratio[[1, 2, 4], 0], ratio)
    assert_close(classes.ratio[[1, 2, 4], 1], -ratio)  # of two classes one is the other's rest
    assert not classes.ratio[[0, 3]].any()
    assert [name for name, p in classes.named_parameters() if p.requires_grad] == ["weight"]


def test_buckets_are_used_evenly():
    ngrams = table(buckets=101, most=2)
    ids = torch.cartesian_prod(torch.arange(100), torch.arange(100))
    key = 2
    for place in range(2):
        key = (key * MULTIPLIER + ids[:, place]) % PRIME
    counts = torch.bincount(key % 100, minlength=100).float()
    assert counts.std() < 3 * 10  # of 100 balls a bucket, thrown at random: 10
    assert ngrams.weight.size(0) == 101


def test_a_model_without_them_is_as_it_was():
    plain, with_ngrams = tiny(), tiny(ngram_buckets=20)
    added = set(with_ngrams.state_dict()) - set(plain.state_dict())
    assert added == {"encoder.ngrams.weight", "decoder.ngrams.weight"}
    source, target = ragged([5], 5)[0], ragged([6], 6)[0]
    with_ngrams.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for stack in (with_ngrams.encoder, with_ngrams.decoder):
            stack.ngrams.weight.zero_()
    assert_close(with_ngrams(source, None, target), plain(source, None, target), 0)


def test_rows_of_a_cache_that_are_replaced_keep_their_ngrams():
    model = tiny(source=None, ngram_buckets=20, ngram_max=3)
    ids, mask = ragged([6, 4], 6, left=True)
    cache, shorter = model.new_cache(), model.new_cache()
    model.decode(ids, target_mask=mask, cache=cache)
    model.decode(ids[:1, -1:], cache=shorter)
    cache.replace(torch.tensor([0]), shorter)
    new = torch.tensor([[3, 4], [5, 6]])
    hidden = model.decode(new, cache=cache)
    assert_close(hidden[:1], model.decode(torch.cat((ids[:1, -1:], new[:1]), 1))[:, 1:])
    assert_close(hidden[1:], model.decode(torch.cat((ids[1:, 2:], new[1:]), 1))[:, 4:])
    assert NOTHING not in cache.recent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ngram_buckets": -1}, r"model.ngram_buckets: must be 0, or at least 2"),
        ({"ngram_buckets": 1}, r"model.ngram_buckets: must be 0, or at least 2"),
        ({"ngram_max": 1}, r"model.ngram_max: must be in \[2, 8\]"),
        ({"ngram_max": 9}, r"model.ngram_max: must be in \[2, 8\]"),
    ],
)
def test_values_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ngram_buckets": 1}, r"task.ngram_buckets: must be 0, or at least 2"),
        ({"ngram_max": 0}, r"task.ngram_max: must be in \[1, 8\]"),
        ({"ngram_max": 9}, r"task.ngram_max: must be in \[1, 8\]"),
        ({"ngram_share": 1.1}, r"task.ngram_share: must be in \[0, 1\]"),
    ],
)
def test_values_of_a_classification_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        ClassificationConfig(**changes)
