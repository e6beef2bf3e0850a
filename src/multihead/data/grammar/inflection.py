"""How the words of the built-in grammar inflect: classes of words, and entries of a table read as such words.

Regular forms are derived, irregular ones written out behind colons:

    noun: singular[:plural] gender Singular Plural [weak] [English/German preposition of being there]
        man:men m Mann Männer        market m Markt Märkte at/auf
    verb: base[:past[:participle]] [particle] = [sich] infinitive[:er-form:past:participle] [preposition] [case]
        sleep:slept = schlafen:schläft:schlief:geschlafen        look:looked forward to = sich freuen auf acc
        get:got up = auf|stehen*:steht:stand:gestanden           (| ends a separable prefix, * takes the auxiliary sein)
    adjective: English German [stem before endings]
        expensive teuer teur
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CASES = ("nom", "acc", "dat", "gen")
AGREEMENTS = ("1sg", "3sg", "1pl", "3pl")


@dataclass(frozen=True, slots=True, eq=False)
class Noun:
    """A noun of both languages; ``gender`` is m, f or n."""

    kind: str
    english: tuple[str, str]
    """Singular and plural."""
    gender: str
    german: tuple[dict[str, str], dict[str, str]]
    """Singular and plural by case."""
    at: tuple[str, str] = ("", "")
    """For places: the preposition of "being there" in English and in German."""


@dataclass(frozen=True, slots=True, eq=False)
class Adjective:
    """An adjective; ``stem`` is what German endings are added to."""

    english: str
    german: str
    stem: str


@dataclass(frozen=True, slots=True, eq=False)
class Determiner:
    """A determiner; ``german`` is its form by (gender or p, case), ``declension`` rules the adjective after it."""

    english: str
    german: dict[tuple[str, str], str]
    declension: str
    indefinite: bool = False
    """Whether German negates it to `kein`."""


@dataclass(frozen=True, slots=True, eq=False)
class Pronoun:
    """A personal pronoun or a name."""

    english: tuple[str, str]
    """Subject and object."""
    german: dict[str, str]
    agreement: str
    clitic: bool = True
    """Whether it stands early in the German clause, as pronouns do and names do not."""


@dataclass(frozen=True, slots=True, eq=False)
class Phrase:
    """Words that do not inflect."""

    english: str
    german: str
    negated: str = ""
    """German under negation, where `kein` and not `nicht` negates it."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The tense or modal verb of a clause: ``form`` of the main verb and the finite verb in front of it, if any."""

    form: str
    """present, past, participle or infinitive."""
    english: Verb | str = ""
    german: Verb | None = None
    negated: Verb | None = None
    """The German verb under negation, where it is another one (must not: nicht dürfen)."""
    tense: str = "present"
    gladly: bool = False
    """`likes to sing` is `singt gern`."""


@dataclass(frozen=True, slots=True, eq=False)
class Verb:
    """A verb of both languages with its forms, what it governs and how it splits."""

    base: str
    third: str
    past: str
    participle: str
    particle: str
    """What follows the English verb: `up`, `for`."""
    splits: bool
    """Whether a pronoun stands before the particle: `picks him up`."""
    prefix: str
    """The separable prefix."""
    infinitive: str
    """Without the prefix, as all forms below."""
    present: dict[str, str]
    preterite: dict[str, str]
    partizip: str
    sein: bool
    """Whether the perfect is made with `sein`."""
    reflexive: bool
    preposition: str
    case: str


# ---------------------------------------------------------------------------------------------------------- inflection

ENDINGS = {
    "der": {"m": "er en em es", "f": "e e er er", "n": "es es em es", "p": "e e en er"},
    "ein": {"m": "- en em es", "f": "e e er er", "n": "- - em es", "p": "e e en er"},
    "weak": {"m": "e en en en", "f": "e e en en", "n": "e e en en", "p": "en en en en"},
    "mixed": {"m": "er en en en", "f": "e e en en", "n": "es es en en", "p": "en en en en"},
    "strong": {"m": "er en em en", "f": "e e er er", "n": "es es em en", "p": "e e en er"},
}
ADJECTIVE_ENDINGS = {
    (kind, gender, case): ending
    for kind in ("weak", "mixed", "strong")
    for gender, endings in ENDINGS[kind].items()
    for case, ending in zip(CASES, endings.split(), strict=True)
}
THE = {"m": "der den dem des", "f": "die die der der", "n": "das das dem des", "p": "die die den der"}
RELATIVE = {
    (gender, case): "denen" if (gender, case) == ("p", "dat") else form
    for gender, forms in THE.items()
    for case, form in zip(CASES[:3], forms.split(), strict=False)
}
CONTRACTIONS = {
    ("in", "dem"): "im",
    ("an", "dem"): "am",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
    ("von", "dem"): "vom",
    ("in", "das"): "ins",
}


def determiner(english: str, stem: str, endings: str, declension: str, indefinite: bool = False) -> Determiner:
    """A determiner whose German form is ``stem`` and an ending of the row ``endings``."""
    table = {
        (gender, case): stem + ending.replace("-", "")
        for gender, row in ENDINGS[endings].items()
        for case, ending in zip(CASES, row.split(), strict=True)
    }
    return Determiner(english, table, declension, indefinite)


def uninflected(english: str, german: str, indefinite: bool = False) -> Determiner:
    """A determiner that has one German form."""
    return Determiner(english, {(g, c): german for g in "mfnp" for c in CASES}, "strong", indefinite)


def nouns(kind: str, table: str) -> list[Noun]:
    """All nouns of a table, parted by commas and lines."""
    return [noun(kind, entry.split()) for entry in table.strip().replace("\n", ",").split(",") if entry.strip()]


def noun(kind: str, entry: list[str]) -> Noun:
    """One entry of a noun table, split at its blanks."""
    words, gender, singular, plural, *rest = entry
    one, *many = words.replace("_", " ").split(":")
    weak = "weak" in rest
    if gender == "f":
        genitive = singular
    elif weak:
        genitive = plural
    else:
        short = len(re.findall("[aeiouyäöü]+", singular.lower())) == 1 or singular[-1] in "sßxz"
        genitive = singular + ("es" if short else "s")
    oblique = plural if weak else singular
    german = (
        {"nom": singular, "acc": oblique, "dat": oblique, "gen": genitive},
        {"nom": plural, "acc": plural, "dat": plural + ("" if plural[-1] in "ns" else "n"), "gen": plural},
    )
    at_english, _, at_german = rest[-1].partition("/") if rest and "/" in rest[-1] else ("", "", "")
    return Noun(kind, (one, many[0] if many else _plural(one)), gender, german, (at_english, at_german))


def _plural(word: str) -> str:
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search("(s|x|z|ch|sh)$", word) else "s")


def _third(word: str) -> str:
    return word + "es" if word.endswith("o") else _plural(word)


def past_tense(word: str) -> str:
    """The past of a regular English verb."""
    if word.endswith("e"):
        return word + "d"
    return word[:-1] + "ied" if re.search("[^aeiou]y$", word) else word + "ed"


def verbs(table: str) -> list[Verb]:
    """All verbs of a table, one a line."""
    return [verb(line) for line in table.strip().splitlines()]


def verb(line: str) -> Verb:
    """One entry of a verb table."""
    english, german = line.split(" = ")
    words, _, particle = english.strip().partition(" ")
    base, *forms = words.split(":")
    past = forms[0] if forms else past_tense(base)
    reflexive, german = german.startswith("sich "), german.removeprefix("sich ")
    forms_de, _, governs = german.partition(" ")
    preposition, _, case = governs.rpartition(" ")
    infinitive, *forms_de = forms_de.split(":")
    prefix, _, infinitive = infinitive.rpartition("|")
    sein = infinitive.endswith("*")
    infinitive = infinitive.removesuffix("*")
    er, war, partizip = forms_de or _weak(infinitive)
    first = infinitive[:-3] + "le" if infinitive.endswith("eln") else re.sub("e?n$", "", infinitive) + "e"
    plural = war + ("n" if war.endswith("e") else "en")
    return Verb(
        base=base,
        third=_third(base),
        past=past,
        participle=forms[1] if len(forms) > 1 else past,
        particle=particle,
        splits=particle in ("up", "along", "away"),
        prefix=prefix,
        infinitive=infinitive,
        present={"1sg": first, "3sg": er, "1pl": infinitive, "3pl": infinitive},
        preterite={"1sg": war, "3sg": war, "1pl": plural, "3pl": plural},
        partizip=prefix + partizip,
        sein=sein,
        reflexive=reflexive,
        preposition=preposition,
        case=case or "acc",
    )


def _weak(infinitive: str) -> tuple[str, str, str]:
    """Third person, preterite and participle of a regular German verb."""
    stem = re.sub("e?n$", "", infinitive)
    link = "e" if re.search("(t|d|[^aeiouäöülrhmn][mn])$", stem) else ""
    no_ge = re.match("(be|ver|er|ent|zer|emp|um)", stem) or stem.endswith("ier")
    return stem + link + "t", stem + link + "te", ("" if no_ge else "ge") + stem + link + "t"


def irregular(line: str, present: str, preterite: str) -> Verb:
    """A verb whose German singular is irregular too; forms for I, he, we/they."""
    made = verb(line)
    for table, forms in ((made.present, present), (made.preterite, preterite)):
        first, third, plural = forms.split()
        table.update(zip(AGREEMENTS, (first, third, plural, plural), strict=True))
    return made


def adjectives(table: str) -> list[Adjective]:
    """All adjectives of a table, parted by commas and lines."""
    entries = [entry.split() for entry in table.replace("\n", ",").split(",") if entry.strip()]
    return [Adjective(en.replace("_", " "), de[0], de[-1]) for en, *de in entries]


def phrases(table: str) -> list[Phrase]:
    """``english = german [= german under negation]``, one a line."""
    return [Phrase(*(part.strip() for part in line.split("="))) for line in table.strip().splitlines()]


def pronoun(english: str, german: str, agreement: str) -> Pronoun:
    """A pronoun: ``subject object`` in English, nominative, accusative and dative in German."""
    subject, other = english.split()
    return Pronoun((subject, other), dict(zip(CASES[:3], german.split(), strict=True)), agreement)


def proper_name(name: str) -> Pronoun:
    """A name, the same in both languages and in every case."""
    return Pronoun((name, name), dict.fromkeys(CASES[:3], name), "3sg", clitic=False)
