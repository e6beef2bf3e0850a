"""Data sets of classification: they compose, say who offers labels, and on the real files load as described (slow)."""

import os
from collections import Counter
from pathlib import Path

import pytest

from multihead.config.compose import compose
from multihead.config.data import DataConfig
from multihead.config.datasets import datasets_with
from multihead.config.folder import conf_dir
from multihead.data.corpus import load_corpus
from multihead.data.labels import class_names, encode_labels, read_labels
from multihead.errors import ConfigError

DATA = os.environ.get("MULTIHEAD_DATA", "")
CLASSES = {
    "sst2": ["negative", "positive"],
    "imdb": ["negative", "positive"],
    "ag_news": ["World", "Sports", "Business", "Sci/Tech"],
    "trec": ["abbreviation", "description", "entity", "human", "location", "number"],
    "sms_spam": ["ham", "spam"],
}
SIZES = {
    "sst2": (6920, 872, 872),
    "imdb": (22500, 2500, 12500),
    "ag_news": (19000, 1000, 3800),
    "trec": (4907, 545, 500),
    "sms_spam": (3126, 447, 893),
}
FIRST = {
    "sst2": ("a stirring , funny", "positive"),
    "imdb": ("Story of a man who has unnatural feelings for a pig.", "negative"),
    "ag_news": ("BAGHDAD, Iraq, August 24 -- A car bomb", "World"),
    "trec": ("How did serfdom develop in and then leave Russia ?", "description"),
    "sms_spam": ("Go until jurong point, crazy..", "ham"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_it_composes_with_classification_and_with_running_text(name):
    config = compose(["task=classification", f"data={name}"]).config
    assert config.data.name == name and config.data.overlong == "cut"
    assert list(config.data.labels.values()) in (CLASSES[name], [])
    assert compose(["task=lm", f"data={name}"]).config.data.roles["text"]


def test_articles_are_also_summarized():
    roles = compose(["task=summarization", "data=ag_news"]).config.data.roles
    assert (roles["source"], roles["target"]) == ("description", "title")


def test_the_data_sets_with_a_label_are_those_whose_files_say_so():
    found = datasets_with("classification", ("text", "label"))
    assert set(found) >= {*CLASSES, "grammar"} and not {"multi30k", "tatoeba"} & set(found)
    assert {"multi30k", "tatoeba"} <= set(datasets_with("translation", ("source", "target")))
    assert set(found) == {
        path.stem
        for path in (conf_dir() / "data").glob("*.yaml")
        if "label:" in path.read_text() and "text" in path.read_text()
    }


def test_a_data_set_without_labels_is_refused_with_those_that_have_them():
    message = (
        r"data=multi30k: has no text and no label for task=classification; it has source, target; "
        r"fix: choose another data set \(.*ag_news, .*imdb, .*sms_spam, sst2, .*trec.*\), or set data.roles"
    )
    with pytest.raises(ConfigError, match=message):
        compose(["task=classification", "data=multi30k"])


def test_an_empty_mapping_replaces_the_one_that_stands():
    config = compose(["task=classification", "data=trec", r"data.label_pattern=\S+", "data.labels={}"]).config
    assert config.data.labels == {} and config.data.label_pattern == r"\S+"


def test_roles_of_one_task_may_hold_an_underscore():
    assert DataConfig(roles={"classification_text_b": "title"}).roles["classification_text_b"] == "title"
    with pytest.raises(ConfigError, match=r"data.roles: must be one of source, target, .*, got 'text_c'; fix"):
        compose(["task=classification", "data.roles.text_c=title"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_the_real_files_are_as_described(name, monkeypatch):
    if not Path(DATA, name).is_dir():
        pytest.skip(f"MULTIHEAD_DATA holds no {name}")
    monkeypatch.setenv("MULTIHEAD_DATA", DATA)
    config = compose(["task=classification", f"data={name}"]).config.data
    corpus = load_corpus(config, ["text", "label"])
    assert tuple(len(rows) for rows in corpus.splits.values()) == SIZES[name]
    labels = {split: read_labels(config, rows) for split, rows in corpus.splits.items()}
    names = class_names(labels["train"], corpus.splits["train"], config.labels.values())
    assert names == CLASSES[name]
    for split, rows in corpus.splits.items():
        ids = encode_labels(labels[split], names, rows, split)
        assert set(Counter(i for (i,) in ids)) == set(range(len(names)))
    text, label = FIRST[name]
    assert corpus.splits["train"].columns["text"][0].startswith(text) and labels["train"][0] == [label]
    if name != "sst2":
        train, test = (set(corpus.splits[split].columns["text"]) for split in ("train", "val"))
        assert not train & test
