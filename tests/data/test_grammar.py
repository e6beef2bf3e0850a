"""The built-in grammar: a function in both directions, probabilities found a second way, hard for a dictionary."""

import gc
import itertools
import math
import random
import re
from collections import Counter, defaultdict

import pytest
import sacrebleu
import torch

from multihead.config.data import SPLITS, GrammarConfig
from multihead.data import grammar
from multihead.data.grammar import inflection, lexicon, passages, rules
from multihead.data.grammar.linearise import English, German
from multihead.data.grammar.opinions import TABLE as OPINION_TABLE
from multihead.data.grammar.sampling import SHARES, Sampler, split_of
from multihead.errors import DataError

ENGLISH, GERMAN = English(), German()
SMALL = GrammarConfig(train_size=1000, val_size=100, test_size=150)


@pytest.fixture(scope="module", params=[60_000, pytest.param(200_000, marks=pytest.mark.slow)])
def drawn(request):
    """Draws: tree, log-probability, English, German."""
    sampler = Sampler(rules.TABLE, "test")
    gc.disable()  # millions of tuples, none in a cycle: collecting among them would take most of the time
    trees = (sampler.draw("Sentence") for _ in range(request.param))
    rows = [(tree, log_prob, ENGLISH.sentence(tree), GERMAN.sentence(tree)) for tree, log_prob in trees]
    gc.freeze()
    gc.enable()
    yield rows
    gc.unfreeze()


@pytest.fixture(scope="module")
def pairs():
    """Default training and test pairs."""
    config = GrammarConfig()
    return {split: grammar.columns(config, split, ["english", "german"]) for split in ("train", "test")}


# ------------------------------------------------------------------------------ a second way to trees and probability


class Parser:
    """All trees of an English sentence with their probabilities, bottom-up: enumerate, and keep what fits the sentence.

    It shares the rules and the linearisation of parts with the grammar, not the way trees and probabilities are made.
    """

    PREDICATES = {"be", "compare", "feel", "trans", "trans_at", "give", "at", "go", "with", "manner", "try", "intr"}
    FRAMES = [
        word for name in ("present", "past", "perfect", "future", "modal", "liking") for word in lexicon.WORDS[name]
    ]

    def __init__(self, sentence: str):
        self.sentence = sentence
        self.text = self.plain(sentence)
        self.memo = {}

    @staticmethod
    def plain(text: str) -> str:
        return " " + re.sub("[,.?]", "", text.lower().replace("cannot", "can not")) + " "

    def parses(self) -> list[tuple[tuple, float]]:
        return [(t, p) for t, p in self.trees("Sentence") if ENGLISH.sentence(t) == self.sentence]

    def trees(self, category: str) -> list[tuple[object, float]]:
        if category not in self.memo:
            self.memo[category] = list(self._trees(category))
        return self.memo[category]

    def _trees(self, category: str):
        for alternative in rules.TABLE[category]:
            probability = math.exp(alternative.log_prob)
            if not alternative.children and not isinstance(alternative.rule, str):
                if self.has_word(alternative.rule):
                    yield alternative.rule, probability
                continue
            for children in itertools.product(*(self.trees(child) for child in alternative.children)):
                values = [value for value, _ in children]
                tree = values[0] if alternative.rule == "-" else (alternative.rule, *values)
                if self.fits(tree):
                    yield tree, probability * math.prod(p for _, p in children)

    def has(self, text: str) -> bool:
        return self.plain(text) in self.text if text else True

    def has_word(self, word) -> bool:
        if isinstance(word, inflection.Verb):
            return (
                any(self.has(form) for form in (word.base, word.third, word.past, word.participle)) or word.base == "be"
            )
        if isinstance(word, inflection.Frame):
            return True
        if isinstance(word, inflection.Determiner) and word.english == "a":
            return self.has("a") or self.has("an")
        if isinstance(word, inflection.Noun):
            return any(self.has(form) for form in (*word.english, f"{word.english[0]}'s"))
        forms = word.english if isinstance(word.english, tuple) else (word.english,)
        if isinstance(word, inflection.Pronoun):
            forms += ("myself",) if word.agreement == "1sg" else ("ourselves",) if word.agreement == "1pl" else ()
        return any(self.has(form) for form in forms)

    def fits(self, tree) -> bool:
        if not isinstance(tree, tuple):
            return True
        rule = tree[0]
        if rule in ("one", "many", "owned", "rel"):
            return any(self.has(ENGLISH.noun_phrase(tree, which)[0]) for which in (0, 1))
        if rule in self.PREDICATES:
            return any(self.has(ENGLISH.predicate(tree, agreement)[1]) for agreement in ("3sg", "1sg", "1pl"))
        if rule in ("in_place", "to", "into"):
            return self.has(ENGLISH.complement(tree))
        if rule in ("does", "does_not", "often"):
            return any(self.has(ENGLISH.clause(f, tree, q)) for f in self.FRAMES for q in (False, True))
        if rule == "clause":
            return any(self.has(ENGLISH.clause(*tree[1:], q)) for q in (False, True))
        return True


@pytest.mark.unhurried
def test_probabilities_by_a_parser_that_sums_over_all_trees(drawn):
    for tree, log_prob, english, _ in random.Random(0).sample(drawn, 60):
        if len(english.split()) <= 20:
            parses = Parser(english).parses()
            assert [parse for parse, _ in parses] == [tree], english
            assert math.log(sum(p for _, p in parses)) == pytest.approx(log_prob, abs=1e-9)


@pytest.mark.unhurried
def test_entropy_by_recursion_over_the_rules(drawn):
    def entropy(category, known={}):  # noqa: B006
        if category not in known:
            known[category] = sum(
                math.exp(a.log_prob) * (sum(map(entropy, a.children)) - a.log_prob) for a in rules.TABLE[category]
            )
        return known[category]

    log_probs = torch.tensor([log_prob for _, log_prob, _, _ in drawn], dtype=torch.float64)
    error = log_probs.std().item() / math.sqrt(len(drawn))
    assert -log_probs.mean().item() == pytest.approx(entropy("Sentence"), abs=4 * error)


@pytest.mark.parametrize("drawn", [pytest.param(200_000, marks=pytest.mark.slow)], indirect=True)
def test_probabilities_are_frequencies(drawn):
    found = Counter(english for _, _, english, _ in drawn)
    expected = {english: len(drawn) * math.exp(log_prob) for _, log_prob, english, _ in drawn}
    frequent = [english for english, count in expected.items() if count >= 4]
    assert len(frequent) > 50
    score = sum((found[e] - expected[e]) ** 2 / expected[e] for e in frequent) / len(frequent)
    assert score == pytest.approx(1, abs=5 * math.sqrt(2 / len(frequent)))


@pytest.mark.unhurried
def test_a_small_grammar_enumerated_whole():
    """Two words a category, two people a sentence: the probabilities sum to 1 and the strings are distinct."""
    words = {name: [a for a in table if not a.children][:2] or table for name, table in rules.TABLE.items()}
    small = words | {"PersonAcc": rules.TABLE["PersonDef"], "Predicate": rules.TABLE["Predicate"][:1]}
    small["Short"] = [a for a in rules.TABLE["Short"] if "person_verb" in a.children]
    small["Subject"] = [a for a in rules.TABLE["Subject"] if a.children[0] in ("pronoun", "PersonPlain")]
    small["PersonRel"] = [a for a in rules.TABLE["PersonRel"] if a.rule == "whom"]

    def trees(category):
        mass = sum(math.exp(a.log_prob) for a in small[category])
        for alternative in small[category]:
            probability = math.exp(alternative.log_prob) / mass
            if not alternative.children:
                yield (alternative.rule,) if isinstance(alternative.rule, str) else alternative.rule, probability
                continue
            for children in itertools.product(*map(list, map(trees, alternative.children))):
                values = [value for value, _ in children]
                tree = values[0] if alternative.rule == "-" else (alternative.rule, *values)
                yield tree, probability * math.prod(p for _, p in children)

    total, count, english, german = 0.0, 0, set(), set()
    for tree, probability in trees("Deed"):
        total, count = total + probability, count + 1
        for frame in (lexicon.PRESENT, lexicon.PAST):
            english.add(ENGLISH.sentence(("say", ("clause", frame, tree))))
            german.add(GERMAN.sentence(("say", ("clause", frame, tree))))
    assert total == pytest.approx(1)
    assert len(english) == len(german) == 2 * count > 10_000


# ----------------------------------------------------------------------------------------------- sentences and splits


@pytest.mark.unhurried
def test_translation_is_a_function_both_ways_and_each_string_has_one_tree(drawn):
    by_english, by_german = {}, {}
    for tree, _, english, german in drawn:
        assert by_english.setdefault(english, tree) == tree, english
        assert by_german.setdefault(german, tree) == tree, german
    assert len(by_english) == len(by_german) > 0.95 * len(drawn)


@pytest.mark.unhurried
def test_sentences_are_well_written(drawn):
    for _, _, english, german in drawn[:50_000]:
        for text in (english, german):
            assert re.fullmatch(r"[A-ZÄÖÜ][\w']*(,? [\w']+)*[.?]", text), text


GOLD = """
They tried to taste their oranges. | Sie versuchten, ihre Orangen zu probieren.
Yesterday the small dog ran into the house. | Gestern lief der kleine Hund ins Haus.
We do not call the colleague. | Wir rufen den Kollegen nicht an.
She picks him up. | Sie holt ihn ab.
They did not buy an umbrella. | Sie kauften keinen Regenschirm.
I have not eaten apples. | Ich habe keine Äpfel gegessen.
Anna has returned home. | Anna ist nach Hause zurückgekehrt.
He must not help this woman. | Er darf dieser Frau nicht helfen.
He must help this woman. | Er muss dieser Frau helfen.
Our old uncle remembers the queen. | Unser alter Onkel erinnert sich an die Königin.
The child whom the doctor thanks is older than my son. | Das Kind, dem der Arzt dankt, ist älter als mein Sohn.
Why do these nurses not wait for us? | Warum warten diese Krankenschwestern nicht auf uns?
The boy who lost the key waited at the station. | Der Junge, der den Schlüssel verlor, wartete am Bahnhof.
He has seen the man who sold the car. | Er hat den Mann gesehen, der das Auto verkaufte.
Because she is in a hurry, we send the student the book. | Weil sie es eilig hat, schicken wir dem Studenten das Buch.
They know that I have invited the neighbours. | Sie wissen, dass ich die Nachbarn eingeladen habe.
Tomorrow his daughters will clean a white shirt. | Morgen werden seine Töchter ein weißes Hemd putzen.
My sisters like to go to the market. | Meine Schwestern gehen gern zum Markt.
When Peter fell asleep, the teachers laughed about him. | Als Peter einschlief, lachten die Lehrer über ihn.
Every polite guest speaks with the children. | Jeder höfliche Gast spricht mit den Kindern.
No cook repaired the expensive clock. | Kein Koch reparierte die teure Uhr.
Many happy aunts have brought along flowers. | Viele glückliche Tanten haben Blumen mitgebracht.
The teacher's new book is too heavy. | Das neue Buch des Lehrers ist zu schwer.
I do not understand myself. | Ich verstehe mich nicht.
I am not hungry. | Ich habe keinen Hunger.
The cake that we ordered was not sweet. | Der Kuchen, den wir bestellten, war nicht süß.
"""


@pytest.mark.parametrize("line", GOLD.strip().splitlines())
def test_german_as_a_speaker_would_write_it(line):
    english, german = line.split(" | ")
    ((tree, _),) = Parser(english).parses()
    assert GERMAN.sentence(tree) == german


@pytest.mark.unhurried
def test_splits_are_disjoint_deterministic_and_unseen():
    for family in grammar.FAMILIES:
        texts = {split: grammar.columns(SMALL, split, family) for split in SPLITS}
        assert texts == {split: grammar.columns(SMALL, split, family) for split in SPLITS}
        first = {split: set(columns[family[0]]) for split, columns in texts.items()}
        assert len(first["val"]) == SMALL.val_size and len(first["test"]) == SMALL.test_size
        assert len(texts["train"][family[0]]) == SMALL.train_size
        assert (
            not first["train"] & first["val"]
            and not first["train"] & first["test"]
            and not first["val"] & first["test"]
        )
        other = GrammarConfig(train_size=1000, seed=1)
        assert grammar.columns(other, "train", family) != texts["train"]
    for split in SPLITS:
        for text in grammar.columns(SMALL, split, ["text"])["text"][:100]:
            assert all(
                split_of(sentence) == split for sentence in re.findall(r"[^.?]+[.?]", text.replace(". ", "."))
            ) or (all(split_of(sentence.strip()) == split for sentence in re.findall(r"[^.?]+[.?]", text)))


@pytest.mark.unhurried
def test_each_split_owns_its_share_of_the_probability(drawn):
    def collision(category, known={}):  # noqa: B006
        """The probability that two draws are equal: the sum of p^2."""
        if category not in known:
            known[category] = sum(
                math.exp(2 * a.log_prob) * math.prod(map(collision, a.children)) for a in rules.TABLE[category]
            )
        return known[category]

    found = Counter(split_of(english) for _, _, english, _ in drawn)
    for split, share in SHARES.items():
        deviation = math.sqrt(share * (1 - share) * collision("Sentence"))
        assert deviation / share < 2e-3
        assert found[split] / len(drawn) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(drawn)))


@pytest.mark.unhurried
def test_size_and_variety(pairs):
    for column in ("english", "german"):
        sentences = pairs["train"][column]
        words = {word.lower() for sentence in sentences for word in re.findall(r"[\w']+", sentence)}
        assert len(words) >= 600
        assert 10 <= sum(len(sentence.split()) for sentence in sentences) / len(sentences) <= 12
    unseen = set(pairs["test"]["english"]) - set(pairs["train"]["english"])
    assert len(unseen) == len(pairs["test"]["english"])


def test_every_category_is_reached():
    reached, todo = set(), ["Sentence"]
    while todo:
        category = todo.pop()
        if category not in reached:
            reached.add(category)
            todo += [child for alternative in rules.TABLE[category] for child in alternative.children]
    assert reached == set(rules.TABLE)


def test_reference_is_the_mean_of_the_very_sentences():
    examples = grammar.examples(SMALL, "test")
    found = grammar.reference(SMALL, "test", "german")
    nats = [-example.log_prob + math.log(0.1) for example in examples]
    assert found["nats_per_example"] == pytest.approx(sum(nats) / len(nats))
    assert found["nats_per_example_learnable"] == pytest.approx(sum(nats) / len(nats) + math.log(10))
    assert found["nats_per_word"] == pytest.approx(sum(nats) / sum(len(e.texts[1].split()) for e in examples))
    assert found["bleu"] == 100
    text = grammar.reference(SMALL, "val", "text")
    assert text["nats_per_word_learnable"] == pytest.approx(found["nats_per_word_learnable"], rel=0.1)
    assert grammar.reference(SMALL, "test", "gist") == {"rouge": 100.0}
    with pytest.raises(DataError, match="no column 'french'"):
        grammar.columns(SMALL, "test", ["french"])


# -------------------------------------------------------------------------------------------------------- not trivial


@pytest.mark.unhurried
def test_the_best_dictionary_stays_below_40_bleu(pairs):
    """Word by word in source order, with the translation that IBM model 1 (three rounds) finds most likely."""

    def split(sentence):
        return re.findall(r"\w+|[^\w\s]", sentence[0].lower() + sentence[1:])

    train = [tuple(map(split, pair)) for pair in zip(pairs["train"]["english"], pairs["train"]["german"], strict=True)]
    table = defaultdict(lambda: 1.0)
    for _ in range(3):
        counts, totals = defaultdict(float), defaultdict(float)
        for source, target in train[:3000]:
            for word in target:
                weights = [(other, table[word, other]) for other in source]
                norm = sum(weight for _, weight in weights)
                for other, weight in weights:
                    counts[word, other] += weight / norm
                    totals[other] += weight / norm
        table = defaultdict(lambda: 1e-9, {key: value / totals[key[1]] for key, value in counts.items()})
    best = {}
    for (word, other), weight in table.items():
        best[other] = max(best.get(other, (0.0, "")), (weight, word))
    hypotheses = []
    for sentence in pairs["test"]["english"]:
        text = " ".join(best.get(word, (0.0, word))[1] for word in split(sentence))
        hypotheses.append(re.sub(" ([,.?])", r"\1", text[0].upper() + text[1:]))
    score = sacrebleu.corpus_bleu(hypotheses, [pairs["test"]["german"]]).score
    print(f"dictionary: {score:.1f} BLEU")
    assert score < 40


def sentiment(opinion: str) -> str:
    """The label by reading the opinion from its text alone, a second way."""
    text = opinion.rstrip(".").lower()
    for mark, main in ((", but ", 1), ("; still, ", 1), (", although ", 0)):
        if mark in text:
            text = text.split(mark)[main]
    if text.startswith("although "):
        text = text.split(", ", 1)[1]
    flips = len(
        re.findall("do not think that|doubt that|not true that|could say that|wrong to say that|denies that", text)
    )
    claim = re.sub(".* that ", "", text)
    flips += " not " in claim
    stems = "enjoy|recommend|prais|lov|admir|lik|" + "|".join(a.rule for a in OPINION_TABLE["good_word"])
    good = re.search(rf"\b({stems})", claim.replace("dislike", "")) is not None
    return "positive" if good == (flips % 2 == 0) else "negative"


@pytest.mark.unhurried
def test_opinions_have_one_label_that_no_bag_of_words_finds():
    config = GrammarConfig()
    train, test = (grammar.columns(config, split, ["opinion", "sentiment"]) for split in ("train", "test"))
    for columns in (train, test):
        for opinion, label in zip(columns["opinion"], columns["sentiment"], strict=True):
            assert sentiment(opinion) == label, opinion

    def features(opinion):
        words = re.findall(r"[\w']+|[^\w\s]", opinion.lower())
        return set(words) | set(itertools.pairwise(words))

    index = {feature: i for i, feature in enumerate(dict.fromkeys(f for o in train["opinion"] for f in features(o)))}
    bags = [[[index[f] for f in features(o) if f in index] for o in c["opinion"]] for c in (train, test)]
    labels = [torch.tensor([float(label == "positive") for label in c["sentiment"]]) for c in (train, test)]
    torch.manual_seed(0)
    weights = torch.nn.EmbeddingBag(len(index), 1, mode="sum", include_last_offset=False)
    torch.nn.init.zeros_(weights.weight)
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.01)

    def logits(bag):
        offsets = torch.tensor([0, *itertools.accumulate(map(len, bag[:-1]))])
        return weights(torch.tensor(list(itertools.chain.from_iterable(bag))), offsets)[:, 0]

    for step in range(6 * 40):
        rows = slice(500 * (step % 40), 500 * (step % 40 + 1))
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits(bags[0][rows]), labels[0][rows]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = ((logits(bags[1]) > 0) == labels[1].bool()).float().mean().item()
    print(f"linear model over words and pairs of words: {accuracy:.3f}")
    assert 0.5 < accuracy < 0.85


@pytest.mark.unhurried
def test_the_gist_follows_from_the_passage():
    columns = grammar.columns(GrammarConfig(), "train", ["passage", "gist"])
    seen = {}
    for passage, gist in zip(columns["passage"], columns["gist"], strict=True):
        assert seen.setdefault(passage, gist) == gist
        sentences = passage.split(". ")
        name, job, town = re.match(r"(\w+), the (\w+) from (\w+), ", gist).groups()
        assert re.search(rf"\b{name} is a (\w+ )?{job} from {town}\b", passage)
        assert re.search(rf"\b{name}\b", sentences[1])
        assert gist not in passage and "{" not in passage + gist
    lead = sacrebleu.corpus_chrf(
        [p.split(". ")[0] + "." for p in columns["passage"][:500]], [columns["gist"][:500]]
    ).score
    assert lead < 60


@pytest.mark.unhurried
def test_opinions_and_passages_have_one_derivation():
    found = {}
    for example in grammar.examples(GrammarConfig(), "train", ("opinion", "sentiment")):
        assert found.setdefault(example.texts[0], example.log_prob) == pytest.approx(example.log_prob)
    for plot in (plot.rule for name in ("lost", "wanted", "broken") for plot in passages.TABLE[name]):
        assert plot.count(";") == 2
        assert all(word in plot.rpartition(";")[0] for word in ("{here}", "{there}", "{thing}")), plot
