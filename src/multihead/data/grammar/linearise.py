"""From a derivation to words: an English and a German lineariser walk the same tree.

A derivation is a nested tuple ``(rule, child, ...)`` whose leaves are words of the lexicon. `English.sentence` and
`German.sentence` turn it into a string. Agreement, case and word order are decided only here. So the tree itself is
context-free, and its probability is the product of the probabilities of its rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from multihead.data.grammar.inflection import (
    ADJECTIVE_ENDINGS,
    CONTRACTIONS,
    RELATIVE,
    Frame,
    Phrase,
    Pronoun,
    Verb,
)
from multihead.data.grammar.lexicon import BE, EXIST, HAVE, WHO

Tree = tuple
"""``(rule, child, ...)``; the children are trees or words of the lexicon."""


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _finish(text: str, mark: str) -> str:
    """Commas against the words before them and never twice; a capital; the final mark."""
    text = re.sub("( ,)+", ",", text).rstrip(",")
    return text[0].upper() + text[1:] + mark


class _Language:
    """A lineariser. Its method for each rule turns the children of the rule into words."""

    def sentence(self, tree: Tree) -> str:
        """The sentence, with its capital letter and final mark."""
        rule, *rest = tree
        mark = "?" if rule in ("question", "ask", "ask_where", "ask_who") else "."
        return _finish(getattr(self, rule)(*rest), mark)


# -------------------------------------------------------------------------------------------------------------- English

VOWELS = (*"aeiou", "honest")
"""Beginnings of words that `an` precedes."""
REFLEXIVE = {"1sg": "myself", "1pl": "ourselves"}
"""Objects that are the subject again."""


class English(_Language):
    """English sentences: do-support, particles that pronouns split, stranded prepositions."""

    # Sentences. A core is (does | does_not | often, ..., subject, predicate).

    def say(self, clause):
        _, frame, core = clause
        return self.clause(frame, core)

    def front(self, when, core):
        return _join(when[2].english, self.clause(when[1], core))

    def late(self, when, core):
        return _join(self.clause(when[1], core), when[2].english)

    def linked(self, link, main, sub):
        return _join(self.clause(link[1], main), link[2].english, self.clause(link[1], sub))

    def linked_first(self, link, sub, main):
        return _join(link[2].english, self.clause(link[1], sub), ",", self.clause(link[1], main))

    def report(self, frame, subject, verb, clause):
        return _join(self.clause(frame, ("does", subject, ("intr", verb))), "that", self.say(clause))

    def report_not(self, frame, subject, verb, clause):
        return _join(self.clause(frame, ("does_not", subject, ("intr", verb))), "that", self.say(clause))

    def whether(self, frame, subject, verb, clause):
        return _join(self.clause(frame, ("does", subject, ("intr", verb))), "whether", self.say(clause))

    def join(self, frame, word, first, second):
        return _join(self.clause(frame, first), ",", word.english, self.clause(frame, second))

    def exists(self, frame, thing, place):
        text, agreement = self.noun_phrase(thing)
        return _join("there", self.finite(BE, frame.form, agreement), text, self.complement(place))

    def question(self, frame, core):
        return self.clause(frame, core, question=True)

    def ask(self, word, frame, core):
        return _join(word.english, self.clause(frame, core, question=True))

    def ask_where(self, frame, subject, verb):
        return _join("where", self.clause(frame, ("does", subject, ("intr", verb)), question=True))

    def ask_who(self, frame, predicate):
        return self.clause(frame, ("does", WHO, predicate))

    # Clauses.

    def clause(self, frame: Frame, core: Tree, question: bool = False) -> str:
        kind, *rest = core
        adverb = rest.pop(0).english if kind == "often" else ""
        subject, predicate = rest
        text, agreement = self.noun_phrase(subject)
        verb, after = self.predicate(predicate, agreement)
        negated = kind == "does_not"
        first, second = self.verbs(frame, verb, self.agreed(agreement), question or negated, adverb)
        no = "not" if negated else ""
        if negated and first == "can":
            first, no = "cannot", ""
        return _join(first, text, no, second, after) if question else _join(text, first, no, second, after)

    def agreed(self, agreement: str) -> str:
        """The person and number of the verb of a clause whose subject has these."""
        return agreement

    def verbs(self, frame: Frame, verb: Verb, agreement: str, support: bool, adverb: str) -> tuple[str, str]:
        """Returns the auxiliary, if any, and the rest of the verbs. ``support`` asks for an auxiliary in any case."""
        form, helper = frame.form, frame.english
        if form == "participle":
            return self.finite(HAVE, "present", agreement), _join(adverb, verb.participle)
        if helper and isinstance(helper, str):
            return helper, _join(adverb, verb.base)
        to = ""
        if helper:
            verb, to, form = helper, f"to {verb.base}", frame.tense
        if verb.base == "be":
            return self.finite(verb, form, agreement), _join(adverb, to)
        if support:
            do = "did" if form == "past" else "does" if agreement == "3sg" else "do"
            return do, _join(adverb, verb.base, to)
        return "", _join(adverb, self.finite(verb, form, agreement), to)

    def finite(self, verb: Verb, form: str, agreement: str) -> str:
        if verb.base == "be":
            present, past = {"1sg": ("am", "was"), "3sg": ("is", "was")}.get(agreement, ("are", "were"))
            return past if form == "past" else present
        if form == "past":
            return verb.past
        if agreement == "3sg":
            return "has" if verb.base == "have" else verb.third
        return verb.base

    def predicate(self, tree: Tree, agreement: str = "") -> tuple[Verb, str]:
        """Returns the main verb and all that follows the verbs. ``agreement`` is that of the subject."""
        rule, *rest = tree
        if rule == "be":
            return BE, self.degree(rest[0])
        if rule == "compare":
            return BE, _join(rest[0].english, "than", self.noun_phrase(rest[1], 1)[0])
        if rule == "feel":
            return BE, rest[0].english
        verb, *rest = rest
        if rule == "trans":
            return verb, self.governed(verb, rest[0], agreement)
        if rule == "trans_at":
            return verb, _join(self.governed(verb, rest[0], agreement), self.complement(rest[1]))
        if rule == "give":
            return verb, _join(self.object(rest[0], agreement), self.object(rest[1], agreement))
        if rule in ("at", "go"):
            return verb, _join(verb.particle, self.complement(rest[0]))
        if rule == "with":
            return verb, _join("with", self.object(rest[0], agreement))
        if rule == "manner":
            return verb, _join(verb.particle, rest[0].english)
        if rule == "try":
            inner, after = self.predicate(rest[0], agreement)
            return verb, _join("to", inner.base, after)
        return verb, verb.particle

    def object(self, tree: Tree | Pronoun, agreement: str) -> str:
        if isinstance(tree, Pronoun) and tree.agreement == agreement and agreement in REFLEXIVE:
            return REFLEXIVE[agreement]
        return self.noun_phrase(tree, 1)[0]

    def governed(self, verb: Verb, tree: Tree | Pronoun, agreement: str) -> str:
        text = self.object(tree, agreement)
        if verb.splits and isinstance(tree, Pronoun) and tree.clitic:
            return _join(text, verb.particle)
        return _join(verb.particle, text)

    def complement(self, tree: Tree | Phrase) -> str:
        """Where something is or goes."""
        if isinstance(tree, Phrase):
            return tree.english
        rule, place = tree
        noun = place[3]
        return _join(noun.at[0] if rule == "in_place" else rule, self.noun_phrase(place, 1)[0])

    # Noun phrases.

    def noun_phrase(self, tree: Tree | Pronoun, which: int = 0) -> tuple[str, str]:
        """Returns the words and the agreement. ``which`` is 0 for a subject and 1 elsewhere."""
        if isinstance(tree, Pronoun):
            return tree.english[which], tree.agreement
        rule, first, *rest = tree
        if rule == "rel":
            text, agreement = self.noun_phrase(first, which)
            return _join(text, self.relative(rest[0], self.head(first), agreement)), agreement
        adjectives, noun = rest
        if rule == "owned":
            return _join("the", f"{first.english[0]}'s", self.degree(adjectives), noun.english[0]), "3sg"
        words = _join(self.degree(adjectives), noun.english[rule == "many"])
        article = "an" if first.english == "a" and words.startswith(VOWELS) else first.english
        return _join(article, words), "3pl" if rule == "many" else "3sg"

    def head(self, tree: Tree):
        return tree[3]

    def degree(self, tree) -> str:
        """Returns an adjective with the word before it, or nothing."""
        if not isinstance(tree, tuple):
            return tree.english
        rule, *rest = tree
        return "" if rule == "none" else _join(rule, rest[0].english)

    def relative(self, tree: Tree, noun, agreement: str) -> str:
        rule, frame, *rest = tree
        person = noun.kind == "person"
        if rule == "who":
            verb, after = self.predicate(rest[0])
            return _join("who" if person else "that", *self.verbs(frame, verb, agreement, False, ""), after)
        subject, verb = rest
        clause = self.clause(frame, ("does", subject, ("intr", verb)))
        return _join("whom" if person else "that", clause)


# --------------------------------------------------------------------------------------------------------------- German


@dataclass(slots=True)
class Field:
    """What a German clause holds between its verbs, in the order in which it is written out."""

    verb: Verb
    pronouns: str = ""
    objects: str = ""
    complement: str = ""
    after: str = ""
    """Relative clauses and infinitive clauses, which stand behind the last verb."""
    negated: bool = False
    """Whether `kein` has negated an object already, so that `nicht` must not."""


@dataclass(slots=True)
class NounPhrase:
    """A German noun phrase. Its relative clause is kept apart, since it may move behind the last verb."""

    text: str
    agreement: str
    relative: str = ""
    clitic: bool = False
    negated: bool = False

    @property
    def whole(self) -> str:
        return f"{self.text} {self.relative}" if self.relative else self.text


class German(_Language):
    """German sentences: case and gender, verb-second and verb-final order, separable prefixes, `nicht` and `kein`."""

    # Sentences.

    def say(self, clause):
        _, frame, core = clause
        return self.clause(frame, core, "second")

    def front(self, when, core):
        return _join(when[2].german, self.clause(when[1], core, "first"))

    def late(self, when, core):
        return self.clause(when[1], core, "second", when[2].german)

    def linked(self, link, main, sub):
        return _join(self.say(("", link[1], main)), ",", link[2].german, self.clause(link[1], sub, "final"))

    def linked_first(self, link, sub, main):
        last = self.clause(link[1], sub, "final")
        return _join(link[2].german, last, ",", self.clause(link[1], main, "first"))

    def report(self, frame, subject, verb, clause, core="does", word="dass"):
        matrix = self.clause(frame, (core, subject, ("intr", verb)), "second")
        _, said_frame, said = clause
        return _join(matrix, ",", word, self.clause(said_frame, said, "final"))

    def report_not(self, frame, subject, verb, clause):
        return self.report(frame, subject, verb, clause, "does_not")

    def whether(self, frame, subject, verb, clause):
        return self.report(frame, subject, verb, clause, word="ob")

    def join(self, frame, word, first, second):
        comma = "," if word.german == "aber" else ""
        return _join(self.clause(frame, first, "second"), comma, word.german, self.clause(frame, second, "second"))

    def exists(self, frame, thing, place):
        verb = (EXIST.preterite if frame.form == "past" else EXIST.present)["3sg"]
        return _join("es", verb, self.noun_phrase(thing, "acc").text, self.complement(place))

    def question(self, frame, core):
        return self.clause(frame, core, "first")

    def ask(self, word, frame, core):
        return _join(word.german, self.clause(frame, core, "first"))

    def ask_where(self, frame, subject, verb):
        return _join("wo", self.clause(frame, ("does", subject, ("intr", verb)), "first"))

    def ask_who(self, frame, predicate):
        return self.clause(frame, ("does", WHO, predicate), "second")

    # Clauses.

    def clause(self, frame: Frame, core: Tree, order: str, when: str = "") -> str:
        """A clause with its finite verb ``first``, ``second`` or ``final``."""
        kind, *rest = core
        often = rest.pop(0).german if kind == "often" else ""
        subject, predicate = rest
        person = self.noun_phrase(subject, "nom")
        negated = kind == "does_not"
        inside = self.predicate(predicate, person.agreement, negated)
        finite, prefix, others = self.verbs(frame, inside.verb, person.agreement, negated)
        middle = _join(inside.pronouns, when, often, "gern" if frame.gladly else "", self.middle(inside, negated))
        if order == "final":
            return _join(person.whole, middle, others, prefix + finite, inside.after)
        last = _join(middle, prefix, others, inside.after)
        return _join(finite, person.whole, last) if order == "first" else _join(person.whole, finite, last)

    def middle(self, inside: Field, negated: bool) -> str:
        no = "nicht" if negated and not inside.negated else ""
        return _join(inside.objects, no, inside.complement)

    def verbs(self, frame: Frame, verb: Verb, agreement: str, negated: bool) -> tuple[str, str, str]:
        """The finite verb, its separable prefix, and the verbs that close the clause."""
        if frame.form == "participle":
            return (BE if verb.sein else HAVE).present[agreement], "", verb.partizip
        helper = frame.negated if negated and frame.negated else frame.german
        if not helper:
            forms = verb.preterite if frame.tense == "past" else verb.present
            return forms[agreement], verb.prefix, ""
        forms = helper.preterite if frame.tense == "past" else helper.present
        return forms[agreement], "", verb.prefix + verb.infinitive

    def predicate(self, tree: Tree, agreement: str, negated: bool) -> Field:
        """The main verb with its objects; ``negated`` turns `ein` into `kein`."""
        rule, *rest = tree
        if rule == "be":
            return Field(BE, complement=self.degree(rest[0]))
        if rule == "compare":
            return Field(BE, complement=_join(rest[0].german, "als", self.noun_phrase(rest[1], "nom").text))
        if rule == "feel":
            state = rest[0].negated if negated else rest[0].german
            return Field(HAVE, objects=state, negated=negated)
        verb, *rest = rest
        inside = Field(verb)
        if verb.reflexive:
            inside.pronouns = {"1sg": "mich", "1pl": "uns"}.get(agreement, "sich")
        if rule in ("trans", "trans_at"):
            self.govern(inside, rest[0], verb.case, verb.preposition, negated)
        elif rule == "give":
            self.govern(inside, rest[0], "dat", "", False)
            self.govern(inside, rest[1], "acc", "", negated)
        elif rule == "with":
            self.govern(inside, rest[0], "dat", "mit", False)
        elif rule == "manner":
            inside.complement = rest[0].german
        elif rule == "try":
            inside.after = _join(",", self.infinitive(rest[0], agreement), ",")
        if rule in ("at", "go", "trans_at"):
            inside.complement = self.complement(rest[-1])
        return inside

    def govern(self, inside: Field, tree: Tree, case: str, preposition: str, negated: bool) -> None:
        """Puts an object into its place."""
        thing = self.noun_phrase(tree, case, negated)
        inside.after = _join(inside.after, thing.relative)
        inside.negated = inside.negated or thing.negated
        if preposition:
            inside.complement = self.contract(preposition, thing.text)
        elif thing.clitic:
            inside.pronouns = thing.text
        else:
            inside.objects = _join(inside.objects, thing.text)

    def infinitive(self, tree: Tree, agreement: str) -> str:
        """An infinitive clause with `zu`."""
        inside = self.predicate(tree, agreement, False)
        prefix, infinitive = inside.verb.prefix, inside.verb.infinitive
        to = f"{prefix}zu{infinitive}" if prefix else f"zu {infinitive}"
        return _join(inside.pronouns, self.middle(inside, False), to, inside.after)

    def complement(self, tree: Tree | Phrase) -> str:
        """Where something is or goes."""
        if isinstance(tree, Phrase):
            return tree.german
        rule, place = tree
        preposition = {"to": "zu", "into": "in"}.get(rule) or place[3].at[1]
        return self.contract(preposition, self.noun_phrase(place, "acc" if rule == "into" else "dat").text)

    def contract(self, preposition: str, text: str) -> str:
        article, _, rest = text.partition(" ")
        short = CONTRACTIONS.get((preposition, article))
        return f"{short} {rest}" if short and rest else f"{preposition} {text}"

    # Noun phrases.

    def noun_phrase(self, tree: Tree | Pronoun, case: str, negated: bool = False) -> NounPhrase:
        if isinstance(tree, Pronoun):
            return NounPhrase(tree.german[case], tree.agreement, clitic=tree.clitic)
        rule, first, *rest = tree
        if rule == "rel":
            phrase = self.noun_phrase(first, case, negated)
            plural = first[0] == "many"
            phrase.relative = self.relative(rest[0], "p" if plural else first[3].gender, phrase.agreement)
            return phrase
        adjectives, noun = rest
        if rule == "owned":
            owner = _join("der" if first.gender == "f" else "des", first.german[0]["gen"])
            ending = ADJECTIVE_ENDINGS["weak", noun.gender, case]
            article = RELATIVE[noun.gender, case]
            return NounPhrase(_join(article, self.degree(adjectives, ending), noun.german[0][case], owner), "3sg")
        plural = rule == "many"
        gender = "p" if plural else noun.gender
        declension, article = first.declension, first.german[gender, case]
        no = negated and first.indefinite
        if no:
            declension, article = "mixed", _join("k" + article if article else NO_PLURAL[case])
        ending = ADJECTIVE_ENDINGS[declension, gender, case]
        text = _join(article, self.degree(adjectives, ending), noun.german[plural][case])
        return NounPhrase(text, "3pl" if plural else "3sg", negated=no)

    def degree(self, tree, ending: str | None = None) -> str:
        """Returns an adjective, with its ending if it precedes a noun, or nothing."""
        if not isinstance(tree, tuple):
            return tree.german if ending is None else tree.stem + ending
        rule, *rest = tree
        if rule == "none":
            return ""
        return _join({"very": "sehr", "too": "zu"}[rule], self.degree(rest[0], ending))

    def relative(self, tree: Tree, gender: str, agreement: str) -> str:
        rule, frame, *rest = tree
        if rule == "who":
            inside = self.predicate(rest[0], agreement, False)
            finite, prefix, others = self.verbs(frame, inside.verb, agreement, False)
            words = _join(inside.pronouns, self.middle(inside, False), others, prefix + finite, inside.after)
            return _join(",", RELATIVE[gender, "nom"], words, ",")
        subject, verb = rest
        pronoun = _join(verb.preposition, RELATIVE[gender, verb.case])
        return _join(",", pronoun, self.clause(frame, ("does", subject, ("intr", verb)), "final"), ",")


NO_PLURAL = {"nom": "keine", "acc": "keine", "dat": "keinen"}
