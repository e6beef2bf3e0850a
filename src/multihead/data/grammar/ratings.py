"""Rated reviews: the sentences of `opinions`, each with a number that follows from its words and its structure.

Every word of praise or blame has a strength. Adverbs change it, negation and doubt turn it round and halve it, and a
main clause counts three times as much as the other one. This is the calculus of SO-CAL (Taboada et al. 2011, J11-2001),
simplified. The number is a function of the text.
"""

from __future__ import annotations

from multihead.data.grammar.opinions import WORDS, sentence
from multihead.data.grammar.sampling import Sampler

STRENGTHS = {
    5: "perfect superb love awful horrible loathe",
    4: "wonderful excellent delightful admire terrible dreadful hate despise",
    3: "great lovely impressive charming praise recommend bad disappointing unpleasant resent criticize",
    2: "good pleasant enjoy like poor dull mediocre annoying dislike",
}
FACTORS = {"really": 1.2, "truly": 1.2, "very": 1.3, "particularly": 1.3, "rather": 0.8, "quite": 0.9}
"""Adverbs, each with the factor of the strength of the word behind it."""
NEGATED = -0.5
"""Factor of a claim that is denied or doubted."""
MAIN = 0.75
"""Share of the main clause in the number of a sentence with two."""
STRENGTH = {word: strength for strength, words in STRENGTHS.items() for word in words.split()}
SIGNS = {
    word: sign
    for name, sign in (("good_word", 1), ("good_verb", 1), ("bad_word", -1), ("bad_verb", -1))
    for word in WORDS[name].split("|")
}


def draw(sampler: Sampler) -> tuple[str, str, float]:
    """Returns a review, its rating, and the natural logarithm of the probability of both."""
    (_, tree), log_prob = sampler.draw("Opinion")
    return sentence(tree), f"{_rating(tree):.2f}", log_prob


def _rating(tree: tuple) -> float:
    rule, *children = tree
    if rule in ("but", "although_first", "despite"):
        return (1 - MAIN) * _rating(children[0]) + MAIN * _rating(children[1])
    if rule == "although_last":
        return MAIN * _rating(children[0]) + (1 - MAIN) * _rating(children[1])
    if rule in ("say", "keep", "flip"):
        return (NEGATED if rule == "flip" else 1) * _rating(children[-1])
    words = [child[0] for child in children]
    word = next(word for word in words if word in SIGNS)
    factor = next((FACTORS[each] for each in words if each in FACTORS), 1.0)
    return SIGNS[word] * STRENGTH[word] * factor * (NEGATED if rule in ("is_not", "did_not") else 1)
