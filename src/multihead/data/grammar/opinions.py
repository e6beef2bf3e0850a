"""Labelled opinions: sentences whose sentiment follows from their structure and not from their words.

`The food was not really bad, but we doubt that the staff was pleasant.` Negation and doubt flip the sentiment of a
claim. Between two contrasted claims, the main clause decides, or the clause after `but`. Contrast puts praise and blame
under both labels, so a linear model over words and pairs of words gains little. The label is a function of the text.
"""

from __future__ import annotations

import re

from multihead.data.grammar.inflection import past_tense
from multihead.data.grammar.sampling import Sampler, read_rules

LABELS = ("positive", "negative")

RULES = """
Opinion = 1 positive PositiveText | 1 negative NegativeText
When = 2 nothing | 1 - when
Degree = 1 nothing | 2 - degree
Strength = 1 nothing | 2 - strength
"""
SIGNED_RULES = """
{0}Text = 16 say {0} | 6 but {1} {0} | 4 although_first {1} {0} | 4 although_last {0} {1} | 3 despite {1} {0}
{0} = 7 - {0}Fact | 2 keep keeper {0}Fact | 2 flip flipper {1}Fact
{0}Fact = 9 is aspect When Degree {0}Word | 4 is_not aspect When Strength {1}Word
    | 3 did person {0}Verb aspect When | 2 did_not person {1}Verb aspect When
{0}Word = 1 - {2}_word
{0}Verb = 1 - {2}_verb
"""
TEMPLATES = {
    "say": "{}",
    "but": "{}, but {}",
    "although_first": "although {}, {}",
    "although_last": "{}, although {}",
    "despite": "it may be that {}; still, {}",
    "keep": "{} that {}",
    "flip": "{} that {}",
    "is": "{} {} was {} {}",
    "is_not": "{} {} was not {} {}",
    "did": "{} {} {} {}",
    "did_not": "{} did not {} {} {}",
}


WORDS = {
    "aspect": """the food|the service|the staff|the room|the view|the film|the story|the music|the concert|the museum
the breakfast|the dessert|the coffee|the location|the tour|the guide|the bed|the bar|the acting|the ending
the pool|the menu|the wine|the soup|the show""",
    "when": "this time|yesterday|last night|on the first day|on Sunday",
    "degree": "really|very|rather|quite|truly|particularly",
    "strength": "really|very|at all|quite|truly|particularly",
    "good_word": "good|great|wonderful|excellent|pleasant|lovely|perfect|impressive|delightful|superb|charming",
    "bad_word": "bad|terrible|awful|poor|unpleasant|horrible|disappointing|dreadful|dull|mediocre|annoying",
    "good_verb": "enjoy|recommend|praise|love|admire|like",
    "bad_verb": "dislike|hate|loathe|criticize|despise|resent",
    "person": "I|we|my brother|my wife|our friends|the other guests|my parents|her sister",
    "keeper": "I think|we found|it is true|everybody could see|nobody can deny|my mother believes",
    "flipper": "I do not think|we doubt|it is not true|nobody could say|it is wrong to say|my father denies",
}


TABLE = read_rules(
    {name: text.replace("\n", "|").split("|") for name, text in WORDS.items()},
    RULES,
    SIGNED_RULES.format("Positive", "Negative", "good"),
    SIGNED_RULES.format("Negative", "Positive", "bad"),
)


def draw(sampler: Sampler) -> tuple[str, str, float, tuple]:
    """Returns an opinion, its sentiment, the natural logarithm of the probability of both, and the derivation."""
    (label, tree), log_prob = sampler.draw("Opinion")
    return sentence(tree), label, log_prob, tree


def sentence(tree: tuple) -> str:
    """Returns the sentence that a tree stands for."""
    text = re.sub(" ([,;]|$)", r"\1", re.sub(" +", " ", _fill(tree)))
    return text[0].upper() + text[1:] + "."


def _fill(tree: tuple) -> str:
    rule, *children = tree
    if not children:
        return "" if rule == "nothing" else rule
    words = [_fill(child) for child in children]
    if rule == "did":
        words[1] = past_tense(words[1])
    return TEMPLATES[rule].format(*words)
