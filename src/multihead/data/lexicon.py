"""The words of the built-in grammar: English and German side by side, and how they inflect.

Words stand in plain tables, one sense per entry, so that neither language has two words for the other's one in the same
place of a sentence. Regular forms are derived, irregular ones written out behind colons:

    man:men m Mann Männer                        noun: singular[:plural], gender, singular, plural, [weak]
    sleep:slept = schlafen:schläft:schlief:geschlafen        verb: base[:past[:participle]] = infinitive[:er-form:past:participle]
    look:looked forward to = sich freuen auf acc   particles, reflexive, preposition and case
    get:got up = auf|stehen*:steht:stand:gestanden   | marks a separable prefix, * the auxiliary `sein`
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
    """A determiner; ``german`` is the inflected form by (gender or p, case), ``declension`` rules the adjective after it."""

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


def _determiner(english: str, stem: str, endings: str, declension: str, indefinite: bool = False) -> Determiner:
    table = {
        (gender, case): stem + ending.replace("-", "")
        for gender, row in ENDINGS[endings].items()
        for case, ending in zip(CASES, row.split(), strict=True)
    }
    return Determiner(english, table, declension, indefinite)


def _uninflected(english: str, german: str, indefinite: bool = False) -> Determiner:
    return Determiner(english, {(g, c): german for g in "mfnp" for c in CASES}, "strong", indefinite)


def _nouns(kind: str, table: str) -> list[Noun]:
    return [_noun(kind, entry.split()) for entry in table.strip().replace("\n", ",").split(",") if entry.strip()]


def _noun(kind: str, entry: list[str]) -> Noun:
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
    at = tuple(rest[-1].split("/")) if rest and "/" in rest[-1] else ("", "")
    return Noun(kind, (one, many[0] if many else _plural(one)), gender, german, at)


def _plural(word: str) -> str:
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search("(s|x|z|ch|sh)$", word) else "s")


def _third(word: str) -> str:
    return word + "es" if word.endswith("o") else _plural(word)


def _regular_past(word: str) -> str:
    if word.endswith("e"):
        return word + "d"
    return word[:-1] + "ied" if re.search("[^aeiou]y$", word) else word + "ed"


def _verbs(table: str) -> list[Verb]:
    return [_verb(line) for line in table.strip().splitlines()]


def _verb(line: str) -> Verb:
    english, german = line.split(" = ")
    words, _, particle = english.strip().partition(" ")
    base, *forms = words.split(":")
    past = forms[0] if forms else _regular_past(base)
    reflexive, _, german = german.rpartition("sich ")
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
        reflexive=bool(german) and "sich " in line,
        preposition=preposition,
        case=case or "acc",
    )


def _weak(infinitive: str) -> tuple[str, str, str]:
    """Third person, preterite and participle of a regular German verb."""
    stem = re.sub("e?n$", "", infinitive)
    link = "e" if re.search("(t|d|[^aeiouäöülrhmn][mn])$", stem) else ""
    no_ge = re.match("(be|ver|er|ent|zer|emp|um)", stem) or stem.endswith("ier")
    return stem + link + "t", stem + link + "te", ("" if no_ge else "ge") + stem + link + "t"


def _irregular(line: str, present: str, preterite: str) -> Verb:
    """A verb whose German singular is irregular too; forms for I, he, we/they."""
    verb = _verb(line)
    for table, forms in ((verb.present, present), (verb.preterite, preterite)):
        first, third, plural = forms.split()
        table.update(zip(AGREEMENTS, (first, third, plural, plural), strict=True))
    return verb


def _adjectives(table: str) -> list[Adjective]:
    entries = [entry.split() for entry in table.replace("\n", ",").split(",") if entry.strip()]
    return [Adjective(en.replace("_", " "), de[0], de[-1]) for en, *de in entries]


def _phrases(table: str) -> list[Phrase]:
    return [Phrase(*(part.strip() for part in line.split("="))) for line in table.strip().splitlines()]


def _pronoun(english: str, german: str, agreement: str) -> Pronoun:
    subject, other = english.split()
    return Pronoun((subject, other), dict(zip(CASES[:3], german.split(), strict=True)), agreement)


def _name(name: str) -> Pronoun:
    return Pronoun((name, name), dict.fromkeys(CASES[:3], name), "3sg", clitic=False)


# ------------------------------------------------------------------------------------------------------ the word tables

BE = _irregular("be:was:been = sein*:ist:war:gewesen", "bin ist sind", "war war waren")
HAVE = _irregular("have:had = haben:hat:hatte:gehabt", "habe hat haben", "hatte hatte hatten")
EXIST = _verb("be:was:been = geben:gibt:gab:gegeben")
WILL = _irregular("will = werden:wird:wurde:geworden", "werde wird werden", "wurde wurde wurden")
CAN = _irregular("can = können:kann:konnte:gekonnt", "kann kann können", "konnte konnte konnten")
MUST = _irregular("must = müssen:muss:musste:gemusst", "muss muss müssen", "musste musste mussten")
MAY = _irregular("may = dürfen:darf:durfte:gedurft", "darf darf dürfen", "durfte durfte durften")
SHOULD = _irregular("should = sollen:soll:sollte:gesollt", "soll soll sollen", "sollte sollte sollten")
WANT = _irregular("want = wollen:will:wollte:gewollt", "will will wollen", "wollte wollte wollten")
LIKE = _verb("like = mögen:mag:mochte:gemocht")
KNOW_THAT = _irregular("know:knew:known = wissen:weiß:wusste:gewusst", "weiß weiß wissen", "wusste wusste wussten")

PRESENT, PAST, PERFECT = Frame("present"), Frame("past", tense="past"), Frame("participle")
FUTURE = Frame("infinitive", "will", WILL)
MODALS = [
    Frame("infinitive", "can", CAN),
    Frame("infinitive", "must", MUST, MAY),
    Frame("infinitive", "should", SHOULD, tense="past"),
    Frame("infinitive", WANT, WANT),
    Frame("infinitive", "could", CAN, tense="past"),
    Frame("infinitive", HAVE, MUST, tense="past"),
    Frame("infinitive", WANT, WANT, tense="past"),
]
LIKING = [Frame("present", LIKE, gladly=True), Frame("past", LIKE, tense="past", gladly=True)]

THE_WORD = Determiner(
    "the", {(g, c): f for g, row in THE.items() for c, f in zip(CASES, row.split(), strict=True)}, "weak"
)
THIS, THESE = _determiner("this", "dies", "der", "weak"), _determiner("these", "dies", "der", "weak")
A, BARE = _determiner("a", "ein", "ein", "mixed", indefinite=True), _uninflected("", "", indefinite=True)
NO = _determiner("no", "kein", "ein", "mixed")
POSSESSIVES = [
    _determiner(english, german, "ein", "mixed")
    for english, german in (("my", "mein"), ("his", "sein"), ("our", "unser"), ("their", "ihr"))
]
QUANTIFIERS = [
    *(_uninflected(*pair) for pair in (("two", "zwei"), ("three", "drei"), ("four", "vier"), ("five", "fünf"))),
    *(_determiner(en, de, "der", "strong") for en, de in (("many", "viel"), ("some", "einig"), ("several", "mehrer"))),
    _uninflected("a few", "ein paar"),
]

I, HE, SHE, WE, THEY = (
    _pronoun("I me", "ich mich mir", "1sg"),
    _pronoun("he him", "er ihn ihm", "3sg"),
    _pronoun("she her", "sie sie ihr", "3sg"),
    _pronoun("we us", "wir uns uns", "1pl"),
    _pronoun("they them", "sie sie ihnen", "3pl"),
)
WHO = Pronoun(("who", "whom"), {"nom": "wer", "acc": "wen", "dat": "wem"}, "3sg")

PERSONS = _nouns(
    "person",
    """
man:men m Mann Männer, woman:women f Frau Frauen, child:children n Kind Kinder, boy m Junge Jungen weak
girl n Mädchen Mädchen, father m Vater Väter, mother f Mutter Mütter, brother m Bruder Brüder
sister f Schwester Schwestern, son m Sohn Söhne, daughter f Tochter Töchter, uncle m Onkel Onkel, aunt f Tante Tanten
grandfather m Großvater Großväter, grandmother f Großmutter Großmütter, king m König Könige, queen f Königin Königinnen
doctor m Arzt Ärzte, teacher m Lehrer Lehrer, nurse f Krankenschwester Krankenschwestern, friend m Freund Freunde
student m Student Studenten weak, neighbour m Nachbar Nachbarn weak, cook m Koch Köche, farmer m Bauer Bauern weak
baker m Bäcker Bäcker, painter m Maler Maler, singer f Sängerin Sängerinnen, waiter m Kellner Kellner
judge f Richterin Richterinnen, guest m Gast Gäste, colleague m Kollege Kollegen weak, customer m Kunde Kunden weak
actress f Schauspielerin Schauspielerinnen
""",
)
ANIMALS = _nouns(
    "animal",
    """
dog m Hund Hunde, cat f Katze Katzen, horse n Pferd Pferde, bird m Vogel Vögel, cow f Kuh Kühe
mouse:mice f Maus Mäuse, rabbit n Kaninchen Kaninchen, bear m Bär Bären weak, duck f Ente Enten, pig n Schwein Schweine
""",
)
THINGS = _nouns(
    "thing",
    """
book n Buch Bücher, car n Auto Autos, bicycle n Fahrrad Fahrräder, key m Schlüssel Schlüssel, picture n Bild Bilder
table m Tisch Tische, chair m Stuhl Stühle, lamp f Lampe Lampen, clock f Uhr Uhren, letter m Brief Briefe
newspaper f Zeitung Zeitungen, pen m Stift Stifte, shirt n Hemd Hemden, coat m Mantel Mäntel, hat m Hut Hüte
umbrella m Regenschirm Regenschirme, camera f Kamera Kameras, ring m Ring Ringe, gift n Geschenk Geschenke
suitcase m Koffer Koffer, bag f Tasche Taschen, box:boxes f Kiste Kisten, map f Karte Karten, flower f Blume Blumen
cup f Tasse Tassen, bottle f Flasche Flaschen, knife:knives n Messer Messer, plate m Teller Teller
mirror m Spiegel Spiegel, guitar f Gitarre Gitarren, computer m Computer Computer, blanket f Decke Decken
""",
)
FOODS = _nouns(
    "food",
    """
apple m Apfel Äpfel, pear f Birne Birnen, egg n Ei Eier, potato:potatoes f Kartoffel Kartoffeln, cake m Kuchen Kuchen
sausage f Wurst Würste, cookie m Keks Kekse, tomato:tomatoes f Tomate Tomaten, orange f Orange Orangen
soup f Suppe Suppen, salad m Salat Salate, banana f Banane Bananen
""",
)
PLACES = _nouns(
    "place",
    """
garden m Garten Gärten in/in, station m Bahnhof Bahnhöfe at/an, market m Markt Märkte at/auf, park m Park Parks in/in
office n Büro Büros in/in, kitchen f Küche Küchen in/in, beach m Strand Strände on/an, street f Straße Straßen on/auf
hospital n Krankenhaus Krankenhäuser in/in, restaurant n Restaurant Restaurants in/in, lake m See Seen at/an
library f Bibliothek Bibliotheken in/in, bridge f Brücke Brücken on/auf, mountain m Berg Berge on/auf
village n Dorf Dörfer in/in, forest m Wald Wälder in/in, city f Stadt Städte in/in, school f Schule Schulen at/in
church f Kirche Kirchen in/in, museum n Museum Museen in/in, hotel n Hotel Hotels in/in, room n Zimmer Zimmer in/in
house n Haus Häuser in/in, castle n Schloss Schlösser in/in, roof n Dach Dächer on/auf
""",
)

PERSON_ADJECTIVES = _adjectives("""
tired müde müd, happy glücklich, sad traurig, ill krank, rich reich, poor arm, young jung, old alt, tall groß
strong stark, clever klug, brave mutig, friendly freundlich, famous berühmt, lazy faul, angry wütend, polite höflich
honest ehrlich, proud stolz, lonely einsam, curious neugierig, patient geduldig
""")
THING_ADJECTIVES = _adjectives("""
old alt, new neu, big groß, small klein, expensive teuer teur, cheap billig, heavy schwer, light leicht, red rot
blue blau, green grün, black schwarz, white weiß, yellow gelb, clean sauber, dirty schmutzig, beautiful schön
ugly hässlich, strange seltsam, broken kaputt
""")
FOOD_ADJECTIVES = _adjectives("""
fresh frisch, hot heiß, cold kalt, sweet süß, delicious köstlich, salty salzig, big groß, small klein
""")
PLACE_ADJECTIVES = _adjectives("""
old alt, new neu, big groß, small klein, quiet ruhig, beautiful schön, dark dunkel dunkl, clean sauber
""")
ANIMAL_ADJECTIVES = _adjectives("""
old alt, young jung, big groß, small klein, hungry hungrig, black schwarz, white weiß, brown braun, wild wild
""")
PERSON_COMPARATIVES = _phrases("""
older = älter
younger = jünger
taller = größer
stronger = stärker
richer = reicher
poorer = ärmer
friendlier = freundlicher
more polite = höflicher
happier = glücklicher
""")
THING_COMPARATIVES = _phrases("""
older = älter
newer = neuer
bigger = größer
smaller = kleiner
more expensive = teurer
cheaper = billiger
heavier = schwerer
lighter = leichter
more beautiful = schöner
""")
STATES = _phrases("""
hungry = Hunger = keinen Hunger
thirsty = Durst = keinen Durst
afraid = Angst = keine Angst
lucky = Glück = kein Glück
in a hurry = es eilig = es nicht eilig
right = recht = nicht recht
""")

RESTING = _verbs("""
sleep:slept = schlafen:schläft:schlief:geschlafen
work = arbeiten
sing:sang:sung = singen:singt:sang:gesungen
dance = tanzen
sit:sat = sitzen:sitzt:saß:gesessen
wait = warten
play = spielen
swim:swam:swum = schwimmen*:schwimmt:schwamm:geschwommen
""")
INTRANSITIVE = RESTING + _verbs("""
laugh = lachen
cry = weinen
smile = lächeln
get:got up = auf|stehen*:steht:stand:gestanden
fall:fell:fallen asleep = ein|schlafen*:schläft:schlief:geschlafen
wake:woke:woken up = auf|wachen*
arrive = an|kommen*:kommt:kam:gekommen
leave:left = weg|gehen*:geht:ging:gegangen
""")
MOVING = _verbs("""
go:went:gone = gehen*:geht:ging:gegangen
run:ran:run = laufen*:läuft:lief:gelaufen
drive:drove:driven = fahren*:fährt:fuhr:gefahren
come:came:come = kommen*:kommt:kam:gekommen
return = zurück|kehren*
hurry = eilen*
""")
PERSON_VERBS = _verbs("""
see:saw:seen = sehen:sieht:sah:gesehen
know:knew:known = kennen:kennt:kannte:gekannt
love = lieben
visit = besuchen
invite = ein|laden:lädt:lud:geladen
call = an|rufen:ruft:rief:gerufen
pick up = ab|holen
meet:met = treffen:trifft:traf:getroffen
hear:heard = hören
hug:hugged = umarmen
greet = grüßen
watch = beobachten
understand:understood = verstehen:versteht:verstand:verstanden
look for = suchen
find:found = finden:findet:fand:gefunden
admire = bewundern
ask = fragen
wake:woke:woken up = auf|wecken
get:got to know = kennen|lernen
forget:forgot:forgotten = vergessen:vergisst:vergaß:vergessen
""")
ANIMAL_VERBS = _verbs("""
see:saw:seen = sehen:sieht:sah:gesehen
hear:heard = hören
feed:fed = füttern
love = lieben
look for = suchen
find:found = finden:findet:fand:gefunden
watch = beobachten
catch:caught = fangen:fängt:fing:gefangen
""")
THING_VERBS = _verbs("""
buy:bought = kaufen
sell:sold = verkaufen
find:found = finden:findet:fand:gefunden
lose:lost = verlieren:verliert:verlor:verloren
look for = suchen
carry = tragen:trägt:trug:getragen
repair = reparieren
clean = putzen
need = brauchen
forget:forgot:forgotten = vergessen:vergisst:vergaß:vergessen
bring:brought along = mit|bringen:bringt:brachte:gebracht
throw:threw:thrown away = weg|werfen:wirft:warf:geworfen
take:took:taken = nehmen:nimmt:nahm:genommen
hide:hid:hidden = verstecken
steal:stole:stolen = stehlen:stiehlt:stahl:gestohlen
pack = ein|packen
choose:chose:chosen = aus|wählen
""")
FOOD_VERBS = _verbs("""
eat:ate:eaten = essen:isst:aß:gegessen
cook = kochen
order = bestellen
taste = probieren
prepare = vor|bereiten
buy:bought = kaufen
""")
DATIVE_VERBS = _verbs("""
help = helfen:hilft:half:geholfen dat
thank = danken dat
follow = folgen* dat
trust = vertrauen dat
congratulate = gratulieren dat
listen to = zu|hören dat
answer = antworten dat
""")
GIVING = _verbs("""
give:gave:given = geben:gibt:gab:gegeben
show:showed:shown = zeigen
send:sent = schicken
lend:lent = leihen:leiht:lieh:geliehen
offer = an|bieten:bietet:bot:geboten
bring:brought = bringen:bringt:brachte:gebracht
""")
ACCUSATIVE_PREPOSITION = _verbs("""
wait for = warten auf acc
think:thought of = denken:denkt:dachte:gedacht an acc
laugh about = lachen über acc
write:wrote:written to = schreiben:schreibt:schrieb:geschrieben an acc
remember = sich erinnern an acc
look forward to = sich freuen auf acc
take:took:taken care of = sich kümmern um acc
complain about = sich beschweren über acc
""")
DATIVE_PREPOSITION = _verbs("""
speak:spoke:spoken with = sprechen:spricht:sprach:gesprochen mit dat
dream of = träumen von dat
argue with = streiten:streitet:stritt:gestritten mit dat
""")
TRYING = _verbs("""
try = versuchen
begin:began:begun = beginnen:beginnt:begann:begonnen
promise = versprechen:verspricht:versprach:versprochen
decide = beschließen:beschließt:beschloss:beschlossen
hope = hoffen
""")
SAYING = [
    *_verbs("""
say:said = sagen
believe = glauben
think:thought = denken:denkt:dachte:gedacht
hear:heard = hören
hope = hoffen
write:wrote:written = schreiben:schreibt:schrieb:geschrieben
explain = erklären
"""),
    KNOW_THAT,
]
ASKING = [_verb("ask = fragen")]
LYING = _verbs("""
lie:lay:lain = liegen:liegt:lag:gelegen
""")
ANIMAL_ACTS = _verbs("""
sleep:slept = schlafen:schläft:schlief:geschlafen
run:ran:run = laufen*:läuft:lief:gelaufen
drink:drank:drunk = trinken:trinkt:trank:getrunken
play = spielen
""")
ANIMAL_EATING = _verbs("eat:ate:eaten = fressen:frisst:fraß:gefressen\nfind:found = finden:findet:fand:gefunden")

PAST_TIMES = _phrases("""
yesterday = gestern
last week = letzte Woche
last year = letztes Jahr
two days ago = vor zwei Tagen
last summer = letzten Sommer
this morning = heute Morgen
""")
PRESENT_TIMES = _phrases("""
today = heute
every day = jeden Tag
on Mondays = montags
in the evening = am Abend
in winter = im Winter
at night = in der Nacht
""")
FUTURE_TIMES = _phrases("""
tomorrow = morgen
next week = nächste Woche
soon = bald
next month = nächsten Monat
tonight = heute Abend
""")
FREQUENCIES = _phrases("""
often = oft
always = immer
never = nie
sometimes = manchmal
rarely = selten
""")
MANNERS = _phrases("""
quietly = leise
alone = allein
again = wieder
late = spät
early = früh
""")
CAUSES = _phrases("""
because = weil
although = obwohl
""")
CONJUNCTIONS = CAUSES + _phrases("""
while = während
before = bevor
until = bis
as soon as = sobald
""")

WORDS: dict[str, list] = {
    "present": [PRESENT],
    "past": [PAST],
    "perfect": [PERFECT],
    "future": [FUTURE],
    "modal": MODALS,
    "liking": LIKING,
    "the": [THE_WORD],
    "a": [A],
    "bare": [BARE],
    "no": [NO],
    "this": [THIS],
    "these": [THESE],
    "every": [_determiner("every", "jed", "der", "weak")],
    "all": [_determiner("all", "all", "der", "weak")],
    "possessive": POSSESSIVES,
    "quantifier": QUANTIFIERS,
    "pronoun": [I, HE, SHE, WE, THEY],
    "pronoun_acc": [I, HE, WE, THEY],
    "pronoun_dat": [I, HE, SHE, WE, THEY],
    "pronoun_clear": [I, HE, WE],
    "name": [_name(name) for name in ("Anna", "Peter", "Maria", "Paul", "Julia")],
    "person": PERSONS,
    "person_clear": [noun for noun in PERSONS if noun.gender == "m"],
    "animal": ANIMALS,
    "thing": THINGS,
    "food": FOODS,
    "place": PLACES,
    "place_in": [noun for noun in PLACES if noun.at == ("in", "in")],
    "person_adj": PERSON_ADJECTIVES,
    "animal_adj": ANIMAL_ADJECTIVES,
    "thing_adj": THING_ADJECTIVES,
    "food_adj": FOOD_ADJECTIVES,
    "place_adj": PLACE_ADJECTIVES,
    "person_more": PERSON_COMPARATIVES,
    "thing_more": THING_COMPARATIVES,
    "state": STATES,
    "rest": RESTING,
    "together": [verb for verb in RESTING if verb.base not in ("sleep", "sit")],
    "intransitive": INTRANSITIVE,
    "move": MOVING,
    "person_verb": PERSON_VERBS,
    "animal_verb": ANIMAL_VERBS,
    "thing_verb": THING_VERBS,
    "food_verb": FOOD_VERBS,
    "dative_verb": DATIVE_VERBS,
    "give": GIVING,
    "acc_verb": ACCUSATIVE_PREPOSITION,
    "dat_verb": DATIVE_PREPOSITION,
    "try": TRYING,
    "say": SAYING,
    "ask": ASKING,
    "lie": LYING,
    "animal_act": ANIMAL_ACTS,
    "animal_eat": ANIMAL_EATING,
    "past_time": PAST_TIMES,
    "present_time": PRESENT_TIMES,
    "future_time": FUTURE_TIMES,
    "frequency": FREQUENCIES,
    "manner": MANNERS,
    "cause": CAUSES,
    "conjunction": CONJUNCTIONS,
    "when": [Phrase("when", "als")],
    "if": [Phrase("if", "wenn")],
    "join": [Phrase("and", "und"), Phrase("but", "aber")],
    "home": [Phrase("home", "nach Hause"), Phrase("to Berlin", "nach Berlin"), Phrase("to London", "nach London")],
    "at_home": [Phrase("at home", "zu Hause"), Phrase("in Berlin", "in Berlin"), Phrase("in London", "in London")],
    "why": [Phrase("why", "warum"), Phrase("when", "wann")],
}
"""Every lexical category of the grammar with its words, all equally likely within their category."""
