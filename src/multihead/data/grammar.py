"""The built-in bilingual grammar: English and German sentence pairs of known probability, made without any download.

A derivation is a tree of choices. `RULES` lists them: each line is a category and its weighted alternatives, an
alternative is a rule's name and the categories of its children, `-` passes its only child through, and categories that
stand in `lexicon.WORDS` are words. A tree's probability is the product of its rules' probabilities. Two linearisers
(`linearise.English`, `linearise.German`) walk the same tree:

    (linked, (link, past, because), (does, I, (trans, look for, the key)), (does_not, he, (intr, wake up)))
    I looked for the key because he did not wake up.
    Ich suchte den Schlüssel, weil er nicht aufwachte.

No two trees share a string in either language, so translation is a function in both directions and a string's
probability is its tree's. The hash of the English sentence decides the split.
"""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from multihead.config.data import GrammarConfig
from multihead.data.lexicon import WORDS
from multihead.data.linearise import English, German

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
"""The share of the sentences that each split owns."""

RULES = """
Sentence = 20 say Clause | 12 front When Fact | 9 late When Light | 12 linked Link Core Core
    | 10 linked_first Link Core Core | 12 report Matrix Subject say Clause | 3 report_not Matrix Subject say Clause
    | 3 whether Matrix Subject ask Clause | 7 join Tense join Core Core | 4 exists Matrix New Place
    | 5 question Tense Core | 2 ask why Tense Deed | 1 ask_where Matrix Subject rest | 2 ask_who Tense Predicate

Clause = 8 clause Tense Core | 3 clause modal Deed | 1 clause liking Gladly
Core = 10 - Fact | 1 often frequency Subject Short
Fact = 13 - Deed | 2 does Crowd Predicate | 2 does Subject PersonIs
    | 1 does_not Subject PersonIs | 2 does ThingSubject ThingIs | 1 does_not ThingSubject ThingIs
    | 1 does Subject Counted | 2 does AnimalSubject AnimalPredicate | 1 does_not AnimalSubject AnimalPredicate
Deed = 10 does Subject Predicate | 4 does_not Subject Predicate
Light = 10 does Subject Short | 3 does_not Subject Short
Gladly = 1 does Subject Short

Tense = 3 - present | 4 - past | 2 - perfect | 1 - future
Matrix = 1 - present | 1 - past
When = 3 when past past_time | 2 when present present_time | 2 when future future_time
Link = 5 link Matrix conjunction | 3 link Tense cause | 1 link past when | 1 link present if

Predicate = 7 - Short | 3 - Long
Short = 3 intr intransitive | 3 at rest Where | 4 go move Goal | 1 with together PersonDat | 1 manner rest manner
    | 5 trans person_verb PersonAcc | 2 trans animal_verb AnimalObject | 6 trans thing_verb ThingObject
    | 2 trans_at thing_verb ThingObject Where | 3 trans food_verb FoodObject | 3 trans dative_verb PersonDat
    | 4 give give PersonDat ThingObject | 3 trans acc_verb PersonOn | 2 trans dat_verb PersonDat
Long = 3 trans person_verb PersonLong | 5 trans thing_verb ThingLong | 1 trans dative_verb PersonLong
    | 1 trans acc_verb PersonLong | 2 give give PersonDat ThingLong | 4 try try Short

PersonIs = 5 be PersonDegree | 2 compare PersonMore PersonDef | 3 feel state
ThingIs = 5 be ThingDegree | 2 compare ThingMore ThingDef | 3 at lie Where
AnimalPredicate = 2 intr animal_act | 2 at animal_act Where | 1 be AnimalDegree | 2 trans animal_eat FoodObject

Subject = 5 - pronoun | 2 - name | 8 - PersonAny | 3 rel PersonPlain PersonRel
Crowd = 2 one every PersonAdj person | 2 one no PersonAdj person | 3 many quantifier PersonAdj person
    | 1 many all PersonAdj person
PersonAcc = 3 - pronoun_acc | 1 - name | 6 - PersonObject
PersonOn = 2 - pronoun_acc | 1 - name | 5 - PersonDef
PersonDat = 2 - pronoun_dat | 1 - name | 5 - PersonDef
ThingSubject = 6 - ThingDef | 2 rel ThingPlain ThingRel
AnimalSubject = 4 - AnimalDef | 1 - AnimalIndef
Counted = 1 trans thing_verb Number
Number = 1 many quantifier ThingAdj thing
New = 1 - PersonIndef | 1 - AnimalIndef | 1 - ThingIndef | 1 one no PersonAdj person | 1 many quantifier AnimalAdj animal

PersonRel = 5 who RelTense Short | 3 whom RelTense Agent person_verb | 1 whom RelTense Agent dative_verb
    | 1 whom RelTense Agent acc_verb | 1 whom RelTense Agent dat_verb | 1 who RelTense PersonIs
PersonRelLong = 5 - PersonRel | 1 who RelTense Nested
Nested = 1 trans thing_verb ThingLong
ThingRel = 4 whom RelTense Agent thing_verb | 2 who Matrix ThingIs
RelTense = 2 - present | 2 - past | 1 - perfect
Agent = 3 - pronoun_clear | 3 one the PersonAdj person_clear | 1 one this PersonAdj person_clear
PersonLong = 3 rel PersonPlain PersonRelLong | 1 rel PersonIndef PersonRelLong
ThingLong = 3 rel ThingPlain ThingRel | 1 rel ThingIndef ThingRel

Where = 12 in_place PlaceDef | 1 - at_home
Place = 1 in_place PlaceDef
Goal = 5 to PlaceDef | 3 into PlaceInDef | 2 - home
PlaceDef = 6 one the PlaceAdj place | 1 one this PlaceAdj place | 1 one possessive PlaceAdj place
PlaceInDef = 4 one the PlaceAdj place_in | 1 one this PlaceAdj place_in
PlaceAdj = 3 none | 1 - place_adj
"""

NOUN_PHRASES = """
{0}Plain = 5 one the {0}Adj {1} | 1 one this {0}Adj {1} | 2 many the {0}Adj {1}
{0}Def = 6 one the {0}Adj {1} | 1 one this {0}Adj {1} | 3 one possessive {0}Adj {1} | 2 many the {0}Adj {1}
    | 1 many these {0}Adj {1} | 1 many possessive {0}Adj {1} | 1 owned person {0}Adj {1}
{0}Indef = 1 one a {0}Adj {1}
{0}Any = 5 - {0}Def | 1 - {0}Indef
{0}Object = 5 - {0}Def | 2 - {0}Indef | 1 many bare {0}Adj {1}
{0}Adj = 12 none | 4 - {1}_adj | 1 very {1}_adj
{0}Degree = 3 - {1}_adj | 2 very {1}_adj | 1 too {1}_adj
{0}More = 1 - {1}_more
"""
"""The noun phrases that each kind of noun has alike."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to expand a category: ``rule`` (or `-`) over the categories ``children``; a word has no children."""

    rule: object
    children: tuple[str, ...]
    log_prob: float


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence pair and the natural logarithm of its probability under the whole grammar."""

    english: str
    german: str
    log_prob: float


def read_rules(*texts: str, words: dict[str, list] = WORDS) -> dict[str, list[Alternative]]:
    """The rule table as data: every category with its alternatives, words included."""
    table = {
        name: [Alternative(word, (), -math.log(len(entries))) for word in entries] for name, entries in words.items()
    }
    for text in texts:
        for line in text.strip().replace("\n    ", " ").splitlines():
            if line:
                name, _, alternatives = line.partition(" = ")
                assert name not in table, f"category {name} is defined twice"
                table[name] = _alternatives(alternatives)
    return table


def _alternatives(text: str) -> list[Alternative]:
    parsed = [part.split() for part in text.split(" | ")]
    total = sum(float(weight) for weight, *_ in parsed)
    return [Alternative(rule, tuple(children), math.log(float(weight) / total)) for weight, rule, *children in parsed]


# ------------------------------------------------------------------------------------------------------------- sampling


class Sampler:
    """Draws trees from a rule table, with their probability.

    Args:
        rules: Every category with its alternatives, as `read_rules` gives them.
        seed: Any text; the draws are a pure function of it.
    """

    def __init__(self, rules: dict[str, list[Alternative]], seed: str):
        self._random = random.Random(seed).random
        self._table = {}
        for category, alternatives in rules.items():
            cumulative = list(accumulate(math.exp(alternative.log_prob) for alternative in alternatives))
            self._table[category] = ([c / cumulative[-1] for c in cumulative], [_option(a) for a in alternatives])

    def draw(self, category: str) -> tuple[object, float]:
        """A tree of ``category`` and the natural logarithm of its probability."""
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


def split_of(english: str) -> str:
    """The one split that owns a sentence: a function of its text alone, the same for every seed and size."""
    point = int.from_bytes(hashlib.blake2b(english.encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in SHARES.items():
        point -= share
        if point < 0:
            return split
    return "test"


def sentences(seed: int, split: str, purpose: str = "pairs") -> Iterator[Sentence]:
    """Sentence pairs of ``split``, drawn independently without end."""
    sampler = Sampler(TABLE, f"grammar {seed} {split} {purpose}")
    english, german = English(), German()
    while True:
        tree, log_prob = sampler.draw("Sentence")
        text = english.sentence(tree)
        if split_of(text) == split:
            yield Sentence(text, german.sentence(tree), log_prob)


TABLE = read_rules(
    RULES,
    *(NOUN_PHRASES.format(kind, kind.lower()) for kind in ("Person", "Animal", "Thing", "Food")),
)


def parallel(config: GrammarConfig, split: str) -> list[Sentence]:
    """The sentence pairs of a split. Validation and test hold each sentence once; training repeats what is frequent."""
    wanted, found = size_of(config, split), {}
    kept: list[Sentence] = []
    for sentence in sentences(config.seed, split):
        if split == "train" or sentence.english not in found:
            found[sentence.english] = True
            kept.append(sentence)
        if len(kept) == wanted:
            return kept
    raise AssertionError("the draws never end")


def size_of(config: GrammarConfig, split: str) -> int:
    """How many examples ``split`` has."""
    return {"train": config.train_size, "val": config.val_size, "test": config.test_size}[split]


def columns(config: GrammarConfig, split: str, names: list[str]) -> dict[str, list[str]]:
    pairs = parallel(config, split)
    return {"english": [p.english for p in pairs], "german": [p.german for p in pairs]}
