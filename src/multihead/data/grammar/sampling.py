"""Weighted rules: read from a table, sampled with their probability, and the splits that no sentence crosses."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Share of all sentences that each split owns."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to expand a category: ``rule`` over the categories ``children``.

    The rule `-` passes its only child through. A word of the lexicon has no children.
    """

    rule: object
    children: tuple[str, ...]
    log_prob: float


Rules = dict[str, list[Alternative]]


def read_rules(words: dict[str, list], *texts: str) -> Rules:
    """Parses rules: each category with its alternatives, the lexical categories of ``words`` included.

    A line reads ``Category = weight rule Child Child | weight rule ...``. An indented line continues the line above.
    """
    rules = {
        name: [Alternative(word, (), -math.log(len(entries))) for word in entries] for name, entries in words.items()
    }
    for line in "\n".join(texts).replace("\n    ", " ").splitlines():
        if line:
            name, _, alternatives = line.partition(" = ")
            assert name not in rules, f"category {name} is defined twice"
            rules[name] = _alternatives(alternatives)
    known = {child for alternatives in rules.values() for alternative in alternatives for child in alternative.children}
    assert known <= rules.keys(), f"no such category: {sorted(known - rules.keys())}"
    return rules


def _alternatives(text: str) -> list[Alternative]:
    parsed = [part.split() for part in text.split(" | ")]
    total = sum(float(weight) for weight, *_ in parsed)
    return [Alternative(rule, tuple(children), math.log(float(weight) / total)) for weight, rule, *children in parsed]


class Sampler:
    """Draws trees from rules, with their probability.

    A tree is ``(rule, child, ...)`` or a word. A rule without children is ``(rule,)``.

    Args:
        rules: Rules that `read_rules` returned.
        seed: Any text. The draws are a pure function of it.
    """

    def __init__(self, rules: Rules, seed: str):
        self._random = random.Random(seed).random
        self._table = {}
        for category, alternatives in rules.items():
            cumulative = list(accumulate(math.exp(alternative.log_prob) for alternative in alternatives))
            self._table[category] = (cumulative, [_option(alternative) for alternative in alternatives])

    def draw(self, category: str) -> tuple[Any, float]:
        """Returns a tree of ``category`` and the natural logarithm of its probability."""
        self._log_prob = 0.0
        return self._tree(category), self._log_prob

    def _tree(self, category: str):
        cumulative, options = self._table[category]
        leaf, rule, children, log_prob = options[bisect(cumulative, self._random(), 0, len(options) - 1)]
        self._log_prob += log_prob
        if not children:
            return leaf
        if rule == "-":
            return self._tree(children[0])
        return (rule, *[self._tree(child) for child in children])


def _option(alternative: Alternative) -> tuple:
    leaf = (alternative.rule,) if isinstance(alternative.rule, str) else alternative.rule
    return leaf, alternative.rule, alternative.children, alternative.log_prob


def split_of(text: str) -> str:
    """Returns the split that owns a text. It depends on the text alone, not on seed and size."""
    point = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in SHARES.items():
        point -= share
        if point < 0:
            return split
    return "test"
