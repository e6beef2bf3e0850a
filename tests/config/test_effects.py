"""Options of decoding that change nothing are said, each with what gives it an effect; impossible ones are refused."""

import logging

import pytest

from multihead.config.compose import compose
from multihead.config.effects import without_effect
from multihead.config.training import DecodingConfig
from multihead.errors import ConfigError
from multihead.runs.run import say_without_effect

BEAMS = {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2, "min_new_tokens": 2, "max_new_tokens": 9,
         "num_return_sequences": 2}  # fmt: skip
SAMPLING = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 3}
REST = {"forced_prefix": "Ein", "do_sample": "true", "repetition_penalty": 1.5, "stop_strings": "[x]"}
OTHER = BEAMS | SAMPLING | REST


def silent(words, names):
    """Which of these options pass without a word in a configuration."""
    values = [f"decoding.{name}={OTHER[name]}" for name in sorted(names)]
    said = without_effect(compose([*words, *values]).config)
    return {name for name in names if not any(text.startswith(f"decoding.{name}=") for text in said)}


def test_every_option_is_looked_at():
    assert set(OTHER) == set(DecodingConfig.__slots__)
    assert without_effect(compose(["task=classification"]).config) == []


@pytest.mark.parametrize("task", ["translation", "summarization"])
def test_translations_are_searched_for(task):
    rest = set(OTHER) - {"do_sample"}
    assert silent([f"task={task}"], rest) == {*BEAMS, "forced_prefix"}
    assert silent([f"task={task}"], {"length_penalty"}) == set()  # without beams
    with pytest.raises(ConfigError, match=r"decoding.do_sample: must be false for .*; fix: decoding.num_beams=5"):
        compose([f"task={task}", "decoding.do_sample=true"])


def test_continuations_are_drawn_or_searched_for():
    beams = {*BEAMS, "stop_strings"}
    assert silent(["task=lm"], {*beams, "forced_prefix", "repetition_penalty"}) == beams
    assert silent(["task=lm"], SAMPLING) == set()
    sampling = {*SAMPLING, "do_sample", "repetition_penalty"}
    assert silent(["task=lm"], sampling) == sampling


@pytest.mark.parametrize("words", [["task=classification"], ["task=lm", "task.objective=masked"]])
def test_where_nothing_is_decoded_nothing_has_an_effect(words):
    assert silent(words, set(OTHER) - {"do_sample"}) == set()


def test_of_several_tasks_one_suffices():
    options = {*SAMPLING, "forced_prefix", "stop_strings"}
    assert silent(["task=multitask", "decoding.do_sample=true"], options) == options


def test_it_is_said_in_a_line_that_works_when_it_is_followed(caplog):
    config = compose(["task=lm", "decoding.top_p=0.9"]).config
    with caplog.at_level(logging.WARNING, "multihead"):
        say_without_effect(config)
    assert caplog.messages == ["decoding.top_p=0.9 has no effect: it needs decoding.do_sample=true"]
    assert without_effect(compose(["task=lm", "decoding.top_p=0.9", "decoding.do_sample=true"]).config) == []
