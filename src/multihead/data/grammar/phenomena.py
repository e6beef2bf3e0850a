"""What the sentences of the grammar contain, and minimal pairs: where a model is right, and where it is wrong.

A fact of a sentence follows from its derivation, so it is exact. `facts` gives those of every row of a split, so that
scores can be averaged over the rows that share one. `minimal_pairs` gives sentences with a twin in which the verb
disagrees with its subject. A language model should prefer the right one (Linzen et al. 2016, arXiv:1611.01368; BLiMP,
Warstadt et al. 2020, arXiv:1912.00582).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from multihead.config.data import PHENOMENA, GrammarConfig
from multihead.data.grammar.inflection import Frame, Pronoun, Verb
from multihead.data.grammar.linearise import English, Tree
from multihead.data.grammar.rules import TABLE
from multihead.data.grammar.sampling import Sampler, split_of

SUBORDINATE = ("linked", "linked_first", "report", "report_not", "whether")
"""Rules of sentences with a subordinate clause, whose German verb comes last."""
CONTRASTS = {"but": "but", "although_first": "although", "although_last": "although", "despite": "despite"}
"""Rules of opinions in which one of two claims decides."""
DISTANCES = (0, 4)
"""The tops of the ranges of ``agreement_distance``."""
NUMBERS = {"3sg": "3pl", "3pl": "3sg"}


def of_sentence(tree: Tree) -> dict[str, str]:
    """The facts of a sentence: those of `PHENOMENA` that are about sentences."""
    nodes = list(_nodes(tree))
    named = [node[0] for node in nodes]
    return {
        "words": _range(len(English().sentence(tree).split()), (5, 10, 15)),
        "relative_depth": str(min(2, _relative_depth(tree))),
        "agreement_distance": _range(max((_distance(node) for node in nodes), default=0), DISTANCES),
        "verb_final": _yes(tree[0] in SUBORDINATE),
        "separable_verb": _yes(any(isinstance(leaf, Verb) and leaf.prefix for node in nodes for leaf in node[1:])),
        "negation": _yes("does_not" in named or "report_not" in named),
        "question": _yes(tree[0] in ("question", "ask", "ask_where", "ask_who")),
    }


def of_opinion(tree: Tree) -> dict[str, str]:
    """The facts of an opinion: those of `PHENOMENA` that are about opinions."""
    named = [node[0] for node in _nodes(tree)]
    flips = sum(name in ("is_not", "did_not", "flip") for name in named)
    return {"flips": str(min(2, flips)), "contrast": next((CONTRASTS[n] for n in named if n in CONTRASTS), "none")}


def _nodes(tree: Any) -> Iterator[Tree]:
    """Every inner node of a tree, from the top."""
    if isinstance(tree, tuple) and tree and isinstance(tree[0], str):
        yield tree
        for child in tree[1:]:
            yield from _nodes(child)


def _relative_depth(tree: Any) -> int:
    """How many relative clauses stand inside each other."""
    if not (isinstance(tree, tuple) and tree and isinstance(tree[0], str)):
        return 0
    return (tree[0] == "rel") + max((_relative_depth(child) for child in tree[1:]), default=0)


def _distance(node: Tree) -> int:
    """Words between the noun of a subject and its verb: those of the subject's relative clause."""
    if node[0] not in ("does", "does_not", "often") or not isinstance(node[-2], tuple) or node[-2][0] != "rel":
        return 0
    _, noun, relative = node[-2]
    english = English()
    return len(english.relative(relative, english.head(noun), english.noun_phrase(noun)[1]).split())


def _range(number: int, tops: Sequence[int]) -> str:
    """The range that holds a number: 0 to the first top, from there to the next, ..., more than the last."""
    least = 0
    for top in tops:
        if number <= top:
            return f"{least}-{top}" if least < top else str(top)
        least = top + 1
    return f"{least}+"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def of_row(tree: Tree, family: Sequence[str]) -> dict[str, str]:
    """The facts of a row of a family of columns; none if its text has several sentences."""
    if tuple(family) == ("english", "german"):
        return of_sentence(tree)
    return of_opinion(tree) if tuple(family) == ("opinion", "sentiment") else {}


def admits(config: GrammarConfig, split: str, text: str, tree: Tree, family: Sequence[str]) -> bool:
    """Whether a row belongs to a split by its length and by what it contains."""
    words = len(text.split())
    if split != "test":
        return not config.train_max_words or words <= config.train_max_words
    if words < config.test_min_words:
        return False
    name, _, value = config.test_only.partition("=")
    return not name or of_row(tree, family).get(name, value) == value


# ------------------------------------------------------------------------------------------------------- minimal pairs


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence, and its twin in which the verb of the main clause disagrees with its subject."""

    right: str
    wrong: str
    distance: str
    """Words between the noun and its verb, as a range of ``agreement_distance``."""
    attractor: bool
    """Whether the noun nearest before the verb has the other number than the subject."""


class _Disagreeing(English):
    """English whose main verb has the number that its subject has not."""

    def __init__(self) -> None:
        self.depth = 0

    def clause(self, frame: Frame, core: Tree, question: bool = False) -> str:
        self.depth += 1
        try:
            return super().clause(frame, core, question)
        finally:
            self.depth -= 1

    def agreed(self, agreement: str) -> str:
        return NUMBERS[agreement] if self.depth == 1 else agreement


def minimal_pairs(config: GrammarConfig, split: str, count: int) -> list[Pair]:
    """Pairs of sentences that the split owns, ``count`` for each range of ``agreement_distance``.

    Each is one statement with a noun as its subject. A pure function of its arguments.
    """
    sampler, right, wrong = Sampler(TABLE, f"{config.seed} {split} pairs"), English(), _Disagreeing()
    found: dict[str, dict[str, Pair]] = {distance: {} for distance in PHENOMENA["agreement_distance"]}
    while True:
        if all(len(pairs) >= count for pairs in found.values()):
            return [pair for pairs in found.values() for pair in pairs.values()]
        clause, _ = sampler.draw("Clause")
        core, tree = clause[2], ("say", clause)
        distance = _range(_distance(core), DISTANCES)
        if len(found[distance]) >= count or isinstance(core[-2], Pronoun):
            continue
        text, twin = right.sentence(tree), wrong.sentence(tree)
        if text != twin and split_of(text) == split:
            found[distance][text] = Pair(text, twin, distance, _attracted(right, core[-2]))


def _attracted(english: English, subject: Tree) -> bool:
    """Whether the last noun of the subject's relative clause has the other number than the subject."""
    if subject[0] != "rel":
        return False
    number = english.noun_phrase(subject)[1]
    nouns = [node for node in _nodes(subject[2]) if node[0] in ("one", "many", "owned")]
    return bool(nouns) and english.noun_phrase(nouns[-1])[1] != number
