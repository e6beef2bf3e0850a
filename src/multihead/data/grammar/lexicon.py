"""The words of the built-in grammar, English and German side by side; `inflection` says how an entry is written.

One sense per entry, so that neither language has two words for the other's one in the same place of a sentence. `WORDS`
at the end says which words each lexical category of the rules holds.
"""

from __future__ import annotations

from multihead.data.grammar.inflection import (
    CASES,
    THE,
    Determiner,
    Frame,
    Phrase,
    Pronoun,
    adjectives,
    determiner,
    irregular,
    nouns,
    phrases,
    pronoun,
    proper_name,
    uninflected,
    verb,
    verbs,
)

BE = irregular("be:was:been = sein*:ist:war:gewesen", "bin ist sind", "war war waren")
HAVE = irregular("have:had = haben:hat:hatte:gehabt", "habe hat haben", "hatte hatte hatten")
EXIST = verb("be:was:been = geben:gibt:gab:gegeben")
WILL = irregular("will = werden:wird:wurde:geworden", "werde wird werden", "wurde wurde wurden")
CAN = irregular("can = können:kann:konnte:gekonnt", "kann kann können", "konnte konnte konnten")
MUST = irregular("must = müssen:muss:musste:gemusst", "muss muss müssen", "musste musste mussten")
MAY = irregular("may = dürfen:darf:durfte:gedurft", "darf darf dürfen", "durfte durfte durften")
SHOULD = irregular("should = sollen:soll:sollte:gesollt", "soll soll sollen", "sollte sollte sollten")
WANT = irregular("want = wollen:will:wollte:gewollt", "will will wollen", "wollte wollte wollten")
LIKE = verb("like = mögen:mag:mochte:gemocht")
KNOW_THAT = irregular("know:knew:known = wissen:weiß:wusste:gewusst", "weiß weiß wissen", "wusste wusste wussten")

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
THIS, THESE = determiner("this", "dies", "der", "weak"), determiner("these", "dies", "der", "weak")
A, BARE = determiner("a", "ein", "ein", "mixed", indefinite=True), uninflected("", "", indefinite=True)
NO = determiner("no", "kein", "ein", "mixed")
POSSESSIVES = [
    determiner(english, german, "ein", "mixed")
    for english, german in (("my", "mein"), ("his", "sein"), ("our", "unser"), ("their", "ihr"))
]
QUANTIFIERS = [
    *(uninflected(*pair) for pair in (("two", "zwei"), ("three", "drei"), ("four", "vier"), ("five", "fünf"))),
    *(determiner(en, de, "der", "strong") for en, de in (("many", "viel"), ("some", "einig"), ("several", "mehrer"))),
    uninflected("a few", "ein paar"),
]

ME, HIM, HER, US, THEM = (
    pronoun("I me", "ich mich mir", "1sg"),
    pronoun("he him", "er ihn ihm", "3sg"),
    pronoun("she her", "sie sie ihr", "3sg"),
    pronoun("we us", "wir uns uns", "1pl"),
    pronoun("they them", "sie sie ihnen", "3pl"),
)
WHO = Pronoun(("who", "whom"), {"nom": "wer", "acc": "wen", "dat": "wem"}, "3sg")

PERSONS = nouns(
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
ANIMALS = nouns(
    "animal",
    """
dog m Hund Hunde, cat f Katze Katzen, horse n Pferd Pferde, bird m Vogel Vögel, cow f Kuh Kühe
mouse:mice f Maus Mäuse, rabbit n Kaninchen Kaninchen, bear m Bär Bären weak, duck f Ente Enten, pig n Schwein Schweine
""",
)
THINGS = nouns(
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
FOODS = nouns(
    "food",
    """
apple m Apfel Äpfel, pear f Birne Birnen, egg n Ei Eier, potato:potatoes f Kartoffel Kartoffeln, cake m Kuchen Kuchen
sausage f Wurst Würste, cookie m Keks Kekse, tomato:tomatoes f Tomate Tomaten, orange f Orange Orangen
soup f Suppe Suppen, salad m Salat Salate, banana f Banane Bananen
""",
)
PLACES = nouns(
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

PERSON_ADJECTIVES = adjectives("""
tired müde müd, happy glücklich, sad traurig, ill krank, rich reich, poor arm, young jung, old alt, tall groß
strong stark, clever klug, brave mutig, friendly freundlich, famous berühmt, lazy faul, angry wütend, polite höflich
honest ehrlich, proud stolz, lonely einsam, curious neugierig, patient geduldig
""")
THING_ADJECTIVES = adjectives("""
old alt, new neu, big groß, small klein, expensive teuer teur, cheap billig, heavy schwer, light leicht, red rot
blue blau, green grün, black schwarz, white weiß, yellow gelb, clean sauber, dirty schmutzig, beautiful schön
ugly hässlich, strange seltsam, broken kaputt
""")
FOOD_ADJECTIVES = adjectives("""
fresh frisch, hot heiß, cold kalt, sweet süß, delicious köstlich, salty salzig, big groß, small klein
""")
PLACE_ADJECTIVES = adjectives("""
old alt, new neu, big groß, small klein, quiet ruhig, beautiful schön, dark dunkel dunkl, clean sauber
""")
ANIMAL_ADJECTIVES = adjectives("""
old alt, young jung, big groß, small klein, hungry hungrig, black schwarz, white weiß, brown braun, wild wild
""")
PERSON_COMPARATIVES = phrases("""
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
THING_COMPARATIVES = phrases("""
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
STATES = phrases("""
hungry = Hunger = keinen Hunger
thirsty = Durst = keinen Durst
afraid = Angst = keine Angst
lucky = Glück = kein Glück
in a hurry = es eilig = es nicht eilig
right = recht = nicht recht
""")

RESTING = verbs("""
sleep:slept = schlafen:schläft:schlief:geschlafen
work = arbeiten
sing:sang:sung = singen:singt:sang:gesungen
dance = tanzen
sit:sat = sitzen:sitzt:saß:gesessen
wait = warten
play = spielen
""")
SWIM = verb("swim:swam:swum = schwimmen*:schwimmt:schwamm:geschwommen")
INTRANSITIVE = [
    SWIM,
    *verbs("""
laugh = lachen
cry = weinen
smile = lächeln
get:got up = auf|stehen*:steht:stand:gestanden
fall:fell:fallen asleep = ein|schlafen*:schläft:schlief:geschlafen
wake:woke:woken up = auf|wachen*
arrive = an|kommen*:kommt:kam:gekommen
leave:left = weg|gehen*:geht:ging:gegangen
"""),
]
MOVING = verbs("""
go:went:gone = gehen*:geht:ging:gegangen
run:ran:run = laufen*:läuft:lief:gelaufen
drive:drove:driven = fahren*:fährt:fuhr:gefahren
come:came:come = kommen*:kommt:kam:gekommen
return = zurück|kehren*
hurry = eilen*
""")
PERSON_VERBS = verbs("""
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
ANIMAL_VERBS = verbs("""
see:saw:seen = sehen:sieht:sah:gesehen
hear:heard = hören
feed:fed = füttern
love = lieben
look for = suchen
find:found = finden:findet:fand:gefunden
watch = beobachten
catch:caught = fangen:fängt:fing:gefangen
""")
THING_VERBS = verbs("""
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
FOOD_VERBS = verbs("""
eat:ate:eaten = essen:isst:aß:gegessen
cook = kochen
order = bestellen
taste = probieren
prepare = vor|bereiten
buy:bought = kaufen
""")
DATIVE_VERBS = verbs("""
help = helfen:hilft:half:geholfen dat
thank = danken dat
follow = folgen* dat
trust = vertrauen dat
congratulate = gratulieren dat
listen to = zu|hören dat
answer = antworten dat
""")
GIVING = verbs("""
give:gave:given = geben:gibt:gab:gegeben
show:showed:shown = zeigen
send:sent = schicken
lend:lent = leihen:leiht:lieh:geliehen
offer = an|bieten:bietet:bot:geboten
bring:brought = bringen:bringt:brachte:gebracht
""")
ACCUSATIVE_PREPOSITION = verbs("""
wait for = warten auf acc
think:thought of = denken:denkt:dachte:gedacht an acc
laugh about = lachen über acc
write:wrote:written to = schreiben:schreibt:schrieb:geschrieben an acc
remember = sich erinnern an acc
look forward to = sich freuen auf acc
take:took:taken care of = sich kümmern um acc
complain about = sich beschweren über acc
""")
DATIVE_PREPOSITION = verbs("""
speak:spoke:spoken with = sprechen:spricht:sprach:gesprochen mit dat
dream of = träumen von dat
argue with = streiten:streitet:stritt:gestritten mit dat
""")
TRYING = verbs("""
try = versuchen
begin:began:begun = beginnen:beginnt:begann:begonnen
promise = versprechen:verspricht:versprach:versprochen
decide = beschließen:beschließt:beschloss:beschlossen
hope = hoffen
""")
SAYING = [
    *verbs("""
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
ASKING = [verb("ask = fragen")]
LYING = verbs("""
lie:lay:lain = liegen:liegt:lag:gelegen
""")
ANIMAL_ACTS = verbs("""
sleep:slept = schlafen:schläft:schlief:geschlafen
run:ran:run = laufen*:läuft:lief:gelaufen
drink:drank:drunk = trinken:trinkt:trank:getrunken
play = spielen
""")
ANIMAL_EATING = verbs("eat:ate:eaten = fressen:frisst:fraß:gefressen\nfind:found = finden:findet:fand:gefunden")

PAST_TIMES = phrases("""
yesterday = gestern
last week = letzte Woche
last year = letztes Jahr
two days ago = vor zwei Tagen
last summer = letzten Sommer
this morning = heute Morgen
""")
PRESENT_TIMES = phrases("""
today = heute
every day = jeden Tag
on Mondays = montags
in the evening = am Abend
in winter = im Winter
at night = in der Nacht
""")
FUTURE_TIMES = phrases("""
tomorrow = morgen
next week = nächste Woche
soon = bald
next month = nächsten Monat
tonight = heute Abend
""")
FREQUENCIES = phrases("""
often = oft
always = immer
never = nie
sometimes = manchmal
rarely = selten
""")
MANNERS = phrases("""
quietly = leise
alone = allein
again = wieder
late = spät
early = früh
""")
CAUSES = phrases("""
because = weil
although = obwohl
""")
CONJUNCTIONS = phrases("""
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
    "every": [determiner("every", "jed", "der", "weak")],
    "all": [determiner("all", "all", "der", "weak")],
    "possessive": POSSESSIVES,
    "quantifier": QUANTIFIERS,
    "pronoun": [ME, HIM, HER, US, THEM],
    "pronoun_acc": [ME, HIM, US, THEM],
    "pronoun_dat": [ME, HIM, HER, US, THEM],
    "pronoun_clear": [ME, HIM, US],
    "name": [proper_name(name) for name in ("Anna", "Peter", "Maria", "Paul", "Julia")],
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
    "together": [SWIM, *(rest for rest in RESTING if rest.base not in ("sleep", "sit"))],
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
    "animal_move": [moving for moving in MOVING if moving.base in ("run", "come")],
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
