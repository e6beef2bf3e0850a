"""The built-in corpus (``data=grammar``): text of known probability, which this code generates without a download.

Sentence pairs come from a hand-written English-German grammar. A derivation is a tree of choices (`rules`), which is
drawn with its probability (`sampling`). Two linearisers (`linearise`) turn the same tree into English and German words
(`lexicon`, `inflection`):

    (linked, (link, past, because), (does, I, (trans, look for, the key)), (does_not, he, (intr, wake up)))
    I looked for the key because he did not wake up.
    Ich suchte den Schlüssel, weil er nicht aufwachte.

**Unambiguous.** No two trees share a string in either language. So translation is a function in both directions, and
the probability of a string is that of its tree: the product of the probabilities of its rules. Ambiguous forms are left
out for this:

- There is no `you`, and `her` is only a dative.
- The subject of an object relative clause shows its case.
- Relative clauses and adverbials never compete for a place.
- Each language has one past tense (was/war, has been/ist gewesen).

**Columns**, by family: ``english, german`` (sentence pairs); ``text`` (running text: one to six English sentences a
line, drawn independently); ``opinion, sentiment``; ``passage, gist``; ``review, rating``. The rows of two families are
independent.

**Splits.** The hash of a sentence decides its split (`split_of`): the English sentence for pairs, each sentence for
running text, the opinion, the passage, the review. Texts are drawn until they fall into the split, so within it they
follow the grammar's own probabilities. Validation and test hold every example once; training repeats what is frequent.

**The optimum** (`reference`). A split owns a share s of all sentences, and in effect that share of the probability: as
the hash knows nothing of p, the owned mass has the standard deviation sqrt(s (1 - s) sum p^2), 0.15 % of s for the
pairs of the test split. So a sentence of the split has the probability p / s, and the reference is the mean of
-log p + log s. A model cannot know the hash, so the best that can be learnt is the mean of -log p, given beside it.
With ``test_only`` or a limit of words, only the latter is right.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from multihead.config.data import GrammarConfig
from multihead.data.grammar import opinions, passages, ratings, rules
from multihead.data.grammar.linearise import English, German, Tree
from multihead.data.grammar.phenomena import admits
from multihead.data.grammar.sampling import SHARES, Sampler, read_rules, split_of
from multihead.errors import DataError

MOST_DRAWS = 2000
"""Draws for each wanted example, after which a choice of examples is too narrow."""
MOST_SENTENCES = 6
"""A line of running text has one to this many sentences, each number equally likely."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row: the texts of its columns, and the natural logarithm of its probability under the grammar."""

    texts: tuple[str, ...]
    log_prob: float
    draws: int = 1
    """Number of texts of the row that the hash had to admit to the split."""
    tree: Tree = ()
    """The derivation of a sentence or an opinion; empty for other rows."""


def columns(config: GrammarConfig, split: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Returns the rows of a split, column by column.

    Args:
        config: Sizes and seed.
        split: train, val or test.
        names: Names of columns, out of `COLUMNS`.

    Raises:
        DataError: A column does not exist.
    """
    found = {}
    for name in dict.fromkeys(names):
        if name not in found:
            family = _family(name)
            texts = zip(*(example.texts for example in examples(config, split, family)), strict=True)
            found |= dict(zip(family, map(list, texts), strict=True))
    return {name: found[name] for name in names}


def examples(config: GrammarConfig, split: str, family: Sequence[str] = ("english", "german")) -> list[Example]:
    """Returns the rows of one family of columns with their probabilities. It is a pure function of its arguments.

    Raises:
        DataError: Hardly any text is as the configuration wants those of the split.
    """
    wanted = {"train": config.train_size, "val": config.val_size, "test": config.test_size}[split]
    kept: list[Example] = []
    seen: set[str] = set()
    rows = FAMILIES[tuple(family)](f"{config.seed} {split} {' '.join(family)}", split)
    for number, example in enumerate(rows):
        if number > MOST_DRAWS * wanted:
            what = f"only {len(kept):,} of {wanted:,} {split} examples were found in {number:,} draws"
            raise DataError("data.grammar", what, f"data.grammar.{split}_size={max(1, len(kept))}, or a wider choice")
        if not admits(config, split, example.texts[0], example.tree, family):
            continue
        if split == "train" or example.texts[0] not in seen:
            seen.add(example.texts[0])
            kept.append(example)
        if len(kept) == wanted:
            break
    return kept


def reference(config: GrammarConfig, split: str, column: str) -> dict[str, float]:
    """Returns the scores that the best possible model reaches on the rows of a split.

    Args:
        config: Sizes and seed.
        split: train, val or test.
        column: Column that the model predicts, one of `COLUMNS`.

    Returns:
        For english, german and text: ``nats_per_example``, the mean of -log p + log s, below which no model can get;
        ``nats_per_word`` (blank-separated words) and ``bits_per_byte`` (UTF-8, end of line included), the same by
        length; each of them also with ``_learnable``: the mean of -log p, the best without knowing the split's hash.
        For english and german also ``bleu`` and ``chrf`` of translation from the other side, and
        ``nats_per_example_translated``: 0, as the source decides the target. For sentiment ``accuracy``, and
        ``majority``, that of always giving the more frequent label. For gist ``rouge``. For rating
        ``pearson``, ``r2``, and ``mse_of_mean``, the MSE of always giving the mean.
    """
    family = _family(column)
    rows = examples(config, split, family)
    texts = [row.texts[family.index(column)] for row in rows]
    if column == "sentiment":
        return {"accuracy": 1.0, "majority": max(texts.count(label) for label in set(texts)) / len(texts)}
    if column == "gist":
        return {"rouge": 100.0}
    if column == "rating":
        return {"pearson": 1.0, "r2": 1.0, "mse_of_mean": statistics.pvariance(map(float, texts))}
    learnable = -sum(row.log_prob for row in rows)
    least = learnable + math.log(SHARES[split]) * sum(row.draws for row in rows)
    num_words = sum(len(text.split()) for text in texts)
    num_bytes = sum(len(text.encode()) + 1 for text in texts)
    found = {}
    for nats, suffix in ((least, ""), (learnable, "_learnable")):
        found["nats_per_example" + suffix] = nats / len(rows)
        found["nats_per_word" + suffix] = nats / num_words
        found["bits_per_byte" + suffix] = nats / math.log(2) / num_bytes
    if len(family) == 2 and column in ("english", "german"):
        found |= {"bleu": 100.0, "chrf": 100.0, "nats_per_example_translated": 0.0}
    return found


def _family(column: str) -> tuple[str, ...]:
    for family in FAMILIES:
        if column in family:
            return family
    raise DataError("data.roles", f"the grammar has no column {column!r}", f"one of {', '.join(COLUMNS)}")


# ------------------------------------------------------------------------------------------ endless rows of each family


def _pairs(seed: str, split: str) -> Iterator[Example]:
    sampler, english, german = Sampler(rules.TABLE, seed), English(), German()
    while True:
        tree, log_prob = sampler.draw("Sentence")
        text = english.sentence(tree)
        if split_of(text) == split:
            yield Example((text, german.sentence(tree)), log_prob, tree=tree)


def _running_text(seed: str, split: str) -> Iterator[Example]:
    sampler, english = Sampler(rules.TABLE, seed), English()
    lengths = Sampler(read_rules({"n": list(range(1, MOST_SENTENCES + 1))}), seed)
    while True:
        count, log_prob = lengths.draw("n")
        texts: list[str] = []
        while len(texts) < count:
            tree, sentence_log_prob = sampler.draw("Sentence")
            text = english.sentence(tree)
            if split_of(text) == split:
                texts.append(text)
                log_prob += sentence_log_prob
        yield Example((" ".join(texts),), log_prob, draws=count)


def _opinions(seed: str, split: str) -> Iterator[Example]:
    return _texts(Sampler(opinions.TABLE, seed), opinions.draw, split)


def _reviews(seed: str, split: str) -> Iterator[Example]:
    return _texts(Sampler(opinions.TABLE, seed), ratings.draw, split)


def _passages(seed: str, split: str) -> Iterator[Example]:
    return _texts(Sampler(passages.TABLE, seed), passages.draw, split)


def _texts(sampler: Sampler, draw: Callable[[Sampler], tuple[Any, ...]], split: str) -> Iterator[Example]:
    while True:
        text, answer, log_prob, *tree = draw(sampler)
        if split_of(text) == split:
            yield Example((text, answer), log_prob, tree=tree[0] if tree else ())


FAMILIES: dict[tuple[str, ...], Callable[[str, str], Iterator[Example]]] = {
    ("english", "german"): _pairs,
    ("text",): _running_text,
    ("opinion", "sentiment"): _opinions,
    ("passage", "gist"): _passages,
    ("review", "rating"): _reviews,
}
"""Columns that belong together, and the endless generator of their rows."""

COLUMNS = tuple(column for family in FAMILIES for column in family)
"""Every column of the built-in corpus."""
