"""Facts about the grammar's sentences, held against the sentences themselves; minimal pairs; targeted test sets."""

import re
from types import SimpleNamespace

import pytest

from multihead.comparing.phenomena import HEAD, PAIRS, breakdown, require_breakdown
from multihead.config.compose import compose
from multihead.config.data import PHENOMENA, GrammarConfig
from multihead.data import grammar
from multihead.data.grammar.phenomena import minimal_pairs, of_row
from multihead.errors import ConfigError, DataError

SIDES, OPINIONS = ("english", "german"), ("opinion", "sentiment")
SIZES = {"train_size": 40, "val_size": 40, "test_size": 300}


@pytest.fixture(scope="module")
def sentences():
    rows = grammar.examples(GrammarConfig(**SIZES), "test")
    return [(*row.texts, of_row(row.tree, SIDES)) for row in rows]


def test_the_facts_are_those_of_the_sentences(sentences):
    """What can be seen in the words: length, question mark, negation, relative pronouns, a subordinate clause."""
    for english, german, facts in sentences:
        count = len(english.split())
        low, _, high = facts["words"].replace("+", "-999").partition("-")
        assert int(low) <= count <= int(high)
        assert facts["question"] == ("yes" if english.endswith("?") else "no")
        negated = re.search(r"\b(not|cannot)\b", english) is not None
        assert facts["negation"] == ("yes" if negated else "no"), english
        conjunction = re.search(
            r"(^|, )(dass|ob|weil|als|wenn|obwohl|nachdem|bevor|während|da|bis|sobald|solange|damit) ",
            german,
            re.IGNORECASE,
        )
        assert (facts["verb_final"] == "yes") <= (conjunction is not None), german
        relatives = len(re.findall(r", (?:\w+ )?(?:der|die|das|den|dem|denen) [^,]*", german))
        assert (facts["relative_depth"] != "0") <= (relatives > 0), german
        assert facts["agreement_distance"] == "0" or facts["relative_depth"] != "0"
        assert {name: facts[name] in PHENOMENA[name] for name in facts} == dict.fromkeys(facts, True)


def test_facts_of_sentences_by_hand(sentences):
    known = {
        "relative_depth": r"\b(who|whom|that) .*\b(who|whom|that)\b",
        "agreement_distance": r"^(The|This|These|My|His|Her|Our|Their|Its|A|An) .*\b(who|whom|that)\b",
    }
    deep = [english for english, _, facts in sentences if facts["relative_depth"] == "2"]
    far = [english for english, _, facts in sentences if facts["agreement_distance"] == "5+"]
    assert deep and all(re.search(known["relative_depth"], text) for text in deep)
    assert far and any(re.search(known["agreement_distance"], text) for text in far)


def test_facts_of_opinions():
    rows = grammar.examples(GrammarConfig(**SIZES), "test", OPINIONS)
    for row in rows:
        facts, text = of_row(row.tree, OPINIONS), row.texts[0].lower()
        said = {"but": ", but ", "although": "although", "despite": "it may be that"}
        assert [name for name, words in said.items() if words in text] == [facts["contrast"]] * (
            facts["contrast"] != "none"
        )
        negations = len(re.findall(r"\bnot (?!like|true|think)|did not|do not think|doubt|not true|nobody could", text))
        assert (facts["flips"] == "0") >= (negations == 0 and "wrong to say" not in text and "denies" not in text)


def test_a_pair_differs_in_one_verb_and_is_drawn_again_the_same():
    pairs = minimal_pairs(GrammarConfig(), "val", 20)
    assert pairs == minimal_pairs(GrammarConfig(), "val", 20) and len(pairs) == 60
    forms = {"is", "are", "was", "were", "has", "have", "does", "do"}
    for pair in pairs:
        right, wrong = pair.right.split(), pair.wrong.split()
        differ = [(ours, theirs) for ours, theirs in zip(right, wrong, strict=True) if ours != theirs]
        (ours, theirs), *others = differ
        assert not others
        ours, theirs = ours.strip(".,").lower(), theirs.strip(".,").lower()
        shared = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        assert {ours, theirs} <= forms or shared >= min(len(ours), len(theirs)) - 1  # tries and try
    assert {pair.distance for pair in pairs} == {"0", "1-4", "5+"}
    assert {pair.attractor for pair in pairs if pair.distance == "0"} == {False}
    assert {pair.attractor for pair in pairs if pair.distance == "5+"} == {True, False}


@pytest.mark.parametrize("only", ["agreement_distance=5+", "relative_depth=1", "verb_final=yes", "question=yes"])
def test_a_test_split_of_one_phenomenon(only):
    name, _, value = only.partition("=")
    config = GrammarConfig(test_size=20, test_only=only, val_size=5)
    rows = grammar.examples(config, "test")
    assert len(rows) == 20 and {of_row(row.tree, SIDES)[name] for row in rows} == {value}
    plain = {row.texts for row in grammar.examples(GrammarConfig(test_size=400), "test")}
    assert len({row.texts for row in rows} & plain) >= 10  # the same sentences, in the same order
    assert grammar.examples(config, "val") == grammar.examples(GrammarConfig(val_size=5), "val")


def test_lengths_beyond_training():
    config = GrammarConfig(train_size=30, test_size=20, val_size=10, train_max_words=6, test_min_words=14)
    longest = max(len(row.texts[0].split()) for split in ("train", "val") for row in grammar.examples(config, split))
    assert longest <= 6 and min(len(row.texts[0].split()) for row in grammar.examples(config, "test")) >= 14


def test_a_choice_that_nothing_meets_ends():
    config = GrammarConfig(test_size=1, test_min_words=500)
    with pytest.raises(DataError, match=r"only 0 of 1 test examples were found in 2,001 draws; fix: "):
        grammar.examples(config, "test")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("test_only=depth=2", r"data\.grammar\.test_only: must be one of words=0-5, .*, got 'depth=2'"),
        ("train_max_words=-1", r"data\.grammar\.train_max_words: must be at least 0, got -1"),
    ],
)
def test_what_is_wrong_is_said(word, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=translation", f"data.grammar.{word}"])


class Scores:
    """A language model that takes the right sentence, unless an attractor stands before the verb."""

    settings = SimpleNamespace(name="lm")
    causal = True

    def score(self, texts):
        pairs = {pair.right: 1.0 - 2 * pair.attractor for pair in minimal_pairs(GrammarConfig(), "val", PAIRS)}
        return [pairs.get(text, 0.0) for text in texts]


def test_a_breakdown_of_a_language_model():
    config = compose(["task=lm"]).config
    require_breakdown(config)
    head, *rows = breakdown(config, Scores(), "val")
    found = {(name, value): share for name, value, _, share, _, _ in rows}
    assert head == HEAD and found["agreement_distance", "0"] == 1.0
    assert found["attractor", "no"] == 1.0 and found["attractor", "yes"] == 0.0
    assert 0 < found["agreement_distance", "5+"] < 1


def test_a_breakdown_of_a_translator():
    """One that is right for all but questions; the interval is scipy's (Clopper and Pearson)."""
    stats = pytest.importorskip("scipy.stats")
    config = compose(["task=translation", "data.grammar.test_size=300"]).config
    rows = grammar.examples(config.data.grammar, "test")
    samples = [
        {"index": i, "reference": row.texts[1], "output": "" if row.texts[0].endswith("?") else row.texts[1]}
        for i, row in enumerate(rows)
    ]
    task = SimpleNamespace(settings=SimpleNamespace(name="translation"), samples=samples)
    found = {(name, value): rest for name, value, *rest in breakdown(config, task, "test")[1:]}
    assert found["question", "yes"][1] == 0.0 and found["question", "no"][1] == 1.0
    count, share, low, high = found["negation", "no"]
    exact = stats.binomtest(round(share * count), count).proportion_ci(0.95)
    assert (low, high) == pytest.approx(exact, abs=1e-4)
    assert sum(rest[0] for (name, _), rest in found.items() if name == "words") == 300


@pytest.mark.parametrize("words", [["task=summarization"], ["task=lm", "task.objective=masked"]])
def test_a_task_without_a_breakdown(words):
    config = compose(words).config
    with pytest.raises(ConfigError, match="phenomena: is known for translation, classification and causal language"):
        require_breakdown(config)
    config.data.format = "tsv"
    with pytest.raises(ConfigError, match="phenomena: is known for data=grammar only"):
        require_breakdown(config)
