"""The model card of a run is what the hub reads, and a card that fails never ends a run."""

import json
from types import SimpleNamespace

import pytest

import multihead
from multihead.config.compose import compose
from multihead.runs import card
from multihead.runs.card import Facts

RESULT = {
    "val/bleu": 1.0,
    "test/bleu": 97.9,
    "test/rouge1": 12.5,
    "test/f1/spam": 0.5,
    "parameters": 1234,
    "steps": 10,
    "tokens": 4000,
    "seconds": 12.3,
    "git_commit": "abc",
    "signature": "nrefs:1",
    "notes": ["the model is small"],
}
KNOWN = {"command": "python train.py task=lm", "data": {"data_train": "00ff"}, "versions": {"torch": "2"}, "threads": 2}


def facts(*words, result=RESULT, known=KNOWN):
    return Facts(compose(["data=grammar", *words]).config, result, known)


def read(text):
    """What the hub's own library reads."""
    return pytest.importorskip("huggingface_hub").ModelCard(text).data


def test_the_head_is_a_model_index_with_the_scores_of_the_test_split():
    found = read(card.run_card(facts("task=translation")))
    names = ("library_name", "pipeline_tag", "model_name")
    assert [found.get(name) for name in names] == ["multihead", "translation", "grammar: translation"]
    scores = {each.metric_name: (each.metric_type, each.metric_value) for each in found.eval_results}
    assert scores == {
        "test/bleu": ("bleu", 97.9),
        "test/rouge1": ("rouge", 12.5),
        "test/f1/spam": ("f1", 0.5),
    }
    assert {(each.task_type, each.dataset_type, each.dataset_split) for each in found.eval_results} == {
        ("translation", "grammar", "test")
    }


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["task=lm"], "text-generation"),
        (["task=lm", "task.objective=masked"], "fill-mask"),
        (["task=lm", "task.objective=both"], "text-generation"),
        (["task=summarization"], "summarization"),
        (["task=classification"], "text-classification"),
        (["task=regression"], "text-classification"),
    ],
)
def test_the_hub_knows_the_kind_of_task(words, kind):
    assert read(card.run_card(facts(*words))).pipeline_tag == kind


def test_a_run_of_several_tasks_has_the_scores_of_each():
    result = RESULT | {"test/lm/perplexity": 3.0, "test/translation/bleu": 50.0}
    found = read(card.run_card(facts("task=multitask", "task.parts=[lm,translation]", result=result)))
    assert "pipeline_tag" not in found.to_dict()
    scores = [(each.task_type, each.metric_name) for each in found.eval_results]
    assert scores == [("text-generation", "test/lm/perplexity"), ("translation", "test/translation/bleu")]


def test_the_body_has_recipe_data_command_and_limits():
    text = card.run_card(facts("task=translation", "optim.lr=0.02", "run_dir=somewhere"))
    for part in ("1,234 parameters", "\noptim.lr=0.02\n", "- train: sha256 `00ff`", "python train.py task=lm"):
        assert part in text
    for part in ("built-in grammar", "seed 1", "- Note: the model is small.", "`nrefs:1`", "at most 256 tokens"):
        assert part in text
    assert "somewhere" not in text
    assert "It began from" not in text


def test_the_bar_in_the_name_of_a_class_starts_no_cell():
    text = card.run_card(facts("task=classification", result=RESULT | {"test/f1/yes|no": 0.25}))
    assert "\n| test/f1/yes\\|no | 0.25 |\n" in text
    scores = {each.metric_name: each.metric_value for each in read(text).eval_results}
    assert scores["test/f1/yes|no"] == 0.25


def test_a_run_that_is_not_finished_has_a_card_without_scores():
    text = card.run_card(facts("task=lm", result={}, known={}))
    assert "model-index" not in text
    assert "there are none" in text


def test_a_finished_run_has_a_card_and_a_card_that_fails_does_not_end_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "cache"))
    words = ["task=classification", "debug=smoke", "logger=none", "trainer.max_steps=1"]
    result = multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    text = (tmp_path / "run" / "model" / "README.md").read_text()
    shown = {each.metric_name: each.metric_value for each in read(text).eval_results}
    assert shown["test/accuracy"] == result["test/accuracy"]
    assert set(shown) == {name for name in result if name.startswith("test/")}
    monkeypatch.setattr(card, "run_card", lambda facts: SimpleNamespace().no_such_name)
    multihead.train([*words, f"run_dir={tmp_path / 'second'}"])
    assert json.loads((tmp_path / "second" / "result.json").read_text())["steps"] == 1
    assert not (tmp_path / "second" / "model" / "README.md").exists()
    log = (tmp_path / "second" / "train.log").read_text()
    assert "the model card failed, and the run goes on without it: AttributeError" in log
