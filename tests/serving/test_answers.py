"""Answers over HTTP are those of `predict`; details and streams agree with them."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from multihead.serving.answers import classify
from multihead.serving.served import ServedRun

TEXTS = ["The dog sleeps.", "", "A woman buys the book that the old man has read.", "Dogs"]


def ask(client, verb, **body):
    response = client.post(f"/v1/{verb}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(client, **body):
    response = client.post("/v1/generate", json={"stream": True, **body})
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}])
def test_translations_are_those_of_predict(client, served, options):
    found = ask(client, "translate", inputs=TEXTS, **options)
    expected = served["translation"].run.predict(TEXTS, **options)
    assert found["run"] == "translation"
    for output, outputs in zip(found["outputs"], expected, strict=True):
        assert [candidate["text"] for candidate in output["candidates"]] == [each["text"] for each in outputs]
        scores = [candidate["score"] for candidate in output["candidates"]]
        assert scores == pytest.approx([each["score"] for each in outputs], abs=1e-4)
        assert output["text"] == outputs[0]["text"] and output["tokens"] is None


@pytest.mark.parametrize(
    ("given", "options"),
    [({}, {}), ({"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 3}, {"do_sample": True, "top_k": 20})],
)
def test_continuations_are_those_of_predict(client, served, given, options):
    prompts = ["The woman", "", "A dog that"]
    options = {**given, **options, "max_new_tokens": 8}
    expected = served["lm"].run.predict(prompts, **options)
    found = ask(client, "generate", inputs=prompts, max_new_tokens=8, **given)
    assert [output["text"] for output in found["outputs"]] == [outputs[0]["text"] for outputs in expected]
    told = events(client, inputs=prompts, max_new_tokens=8, **given)
    done = {event["index"]: event["text"] for event in told if event.get("done")}
    assert [done[i] for i in range(3)] == [outputs[0]["text"] for outputs in expected]


@pytest.mark.parametrize("given", [{}, {"seed": 1}, {"temperature": 0}])
def test_fewer_tokens_than_the_smallest_number_of_the_run_can_be_asked_for(client, runs, given):
    path = str(runs.finished("task=lm"))
    client.service.runs = {"long": ServedRun.load("long", path, ["decoding.min_new_tokens=5"])}
    end = client.service.runs["long"].run.task.tokenizer.eos_id
    for count in (1, 3, 7):
        (output,) = ask(client, "generate", inputs="The woman", max_new_tokens=count, details=True, **given)["outputs"]
        assert len(output["tokens"]) >= min(count, 5)
        for token in output["tokens"][:5]:  # the end mark stays impossible before the fifth token
            assert end not in [candidate["id"] for candidate in token["next"]]


def test_fewer_tokens_than_the_smallest_number_can_be_translated(client, runs):
    path = str(runs.finished("task=translation"))
    client.service.runs = {"long": ServedRun.load("long", path, ["decoding.min_new_tokens=5"])}
    (output,) = ask(client, "translate", inputs="The dog sleeps.", max_new_tokens=2, details=True)["outputs"]
    assert len(output["tokens"]) == 2


@pytest.mark.parametrize(
    "option", ["top_k=2", "min_p=0.5", "repetition_penalty=3", "no_repeat_ngram_size=1", "min_new_tokens=5"]
)
def test_a_plain_request_gets_the_distribution_of_the_model(client, runs, option):
    path = str(runs.finished("task=lm"))
    client.service.runs = {"own": ServedRun.load("own", path, [])}
    text = "The woman that the woman sees"
    prefix = client.service.runs["own"].run.task.encode("The woman that the")[1:]
    body = {"inputs": text, "prefix": prefix, "max_new_tokens": len(prefix) + 1, "temperature": 1.0, "details": True}
    (own,) = ask(client, "generate", **body)["outputs"]
    client.service.runs = {"own": ServedRun.load("own", path, [f"decoding.{option}"])}
    (plain,) = ask(client, "generate", plain=True, **body)["outputs"]
    assert [token["next"] for token in plain["tokens"]] == [token["next"] for token in own["tokens"]]
    (chosen,) = ask(client, "generate", **body)["outputs"]
    assert chosen["tokens"] != own["tokens"]


def test_a_run_says_whether_its_options_change_the_distribution(served, runs):
    assert not served["lm"].describe()["filtered"]
    path = str(runs.finished("task=lm"))
    assert ServedRun.load("own", path, ["decoding.min_p=0.1"]).describe()["filtered"]
    assert not ServedRun.load("own", path, ["decoding.temperature=0.5", "decoding.do_sample=true"]).describe()[
        "filtered"
    ]


def test_a_stream_tells_each_token_and_its_text(client):
    body = {"inputs": ["The woman", "Dogs"], "max_new_tokens": 6, "seed": 1}
    told = events(client, **body)
    whole = ask(client, "generate", details=True, **body)["outputs"]
    for number, output in enumerate(whole):
        tokens = [event["token"] for event in told if event["index"] == number and "token" in event]
        assert tokens == output["tokens"]
        text = "".join(event["text"] for event in told if event["index"] == number and "token" in event)
        assert output["text"].startswith(text.rstrip("\ufffd"))


def test_classes_are_those_of_predict(client, served):
    found = ask(client, "classify", inputs=TEXTS)["outputs"]
    for output, outputs in zip(found, served["classification"].run.predict(TEXTS), strict=True):
        assert output["probabilities"] == pytest.approx({each["label"]: each["probability"] for each in outputs})
        assert output["label"] == (outputs[0]["label"] if outputs else None)
        assert output["words"] is None


def test_an_effect_is_what_the_probability_loses_without_the_word(client, served):
    (output,) = ask(client, "classify", inputs="The film was bad.", occlusion=True)["outputs"]
    assert [word["text"] for word in output["words"]] == ["The", "film", "was", "bad."]
    (outputs,) = served["classification"].run.predict(["The film  bad."])
    without = next(each["probability"] for each in outputs if each["label"] == output["label"])
    assert output["words"][2]["effect"] == pytest.approx(output["probability"] - without, abs=1e-5)


def test_words_are_not_left_out_if_nobody_waits(served):
    items: Any = [SimpleNamespace(content="The film was bad.", gone=gone) for gone in (True, False)]
    run = served["classification"]
    first, second = classify(run.tasks["classify"], items, run.run.config.decoding, occlusion=True)
    assert first["words"] is None and len(second["words"]) == 4


def test_the_probabilities_of_tokens_make_the_score(client, served):
    options = {"num_beams": 2, "max_new_tokens": 40}
    (output,) = ask(client, "translate", inputs="The dog sleeps.", details=True, **options)["outputs"]
    (best, *_), *_ = served["translation"].run.predict(["The dog sleeps."], **options)
    task = served["translation"].run.task
    nats = sum(math.log(each["probability"]) for each in output["tokens"])
    assert nats == pytest.approx(best["log_prob"], abs=0.02)  # probabilities are rounded
    assert task.tokenizers["target"].decode_batch([[each["id"] for each in output["tokens"]]]) == [output["text"]]
    for each in output["tokens"]:
        likely = [candidate["probability"] for candidate in each["next"]]
        assert len(likely) == 8 and likely == sorted(likely, reverse=True) and sum(likely) <= 1 + 1e-4


@pytest.mark.parametrize(("verb", "text"), [("translate", "The dog sleeps."), ("generate", "The woman")])
def test_a_prefix_begins_the_output_and_its_own_changes_nothing(client, verb, text):
    options = {"inputs": text, "details": True, "max_new_tokens": 6} | ({"seed": 4} if verb == "generate" else {})
    (free,) = ask(client, verb, **options)["outputs"]
    ids = [each["id"] for each in free["tokens"]]
    (same,) = ask(client, verb, prefix=ids[:3], **options)["outputs"]
    assert same["text"] == free["text"]
    other = next(each["id"] for each in free["tokens"][2]["next"] if each["id"] != ids[2])
    (forced,) = ask(client, verb, prefix=[*ids[:2], other], **options)["outputs"]
    assert [each["id"] for each in forced["tokens"]][:3] == [*ids[:2], other]


def test_scores_are_those_of_the_run(client, served):
    sources, targets = ["The dog sleeps.", "A man"], ["Der Hund schläft.", "Ein"]
    outputs = ask(client, "score", inputs=sources, targets=targets)["outputs"]
    expected = served["translation"].run.score(sources, targets)
    assert [output["log_probability"] for output in outputs] == pytest.approx(expected, abs=1e-5)
    (output,) = ask(client, "score", run="lm", inputs="The woman")["outputs"]
    assert output["log_probability"] == pytest.approx(served["lm"].run.score("The woman"), abs=1e-5)
    assert len(output["tokens"]) == len(served["lm"].run.task.document("The woman")) - 1


def test_a_run_of_several_tasks_scores_texts_alone_and_targets(client, runs):
    path = runs.finished("task=multitask", "task.parts=[lm,translation]")
    several = ServedRun.load("several", str(path), [])
    client.service.runs = {"several": several}
    (alone,) = ask(client, "score", inputs="The woman")["outputs"]
    assert alone["log_probability"] == pytest.approx(several.run.score("The woman"), abs=1e-5)
    (given,) = ask(client, "score", inputs="The dog sleeps.", targets="Der Hund")["outputs"]
    assert given["log_probability"] == pytest.approx(several.run.score("The dog sleeps.", "Der Hund"), abs=1e-5)


def test_attention_and_embeddings_are_those_of_the_run(client, served):
    found = ask(client, "attention", input="The dog sleeps.", target="Der Hund")
    maps = served["translation"].run.attention("The dog sleeps.", "Der Hund")
    assert found["source_tokens"] == maps["encoder_self"].rows and found["target_tokens"] == maps["decoder_self"].rows
    for name, kind in (("encoder", "encoder_self"), ("decoder", "decoder_self"), ("cross", "decoder_cross")):
        flat = [weight for layer in found[name] for head in layer for query in head for weight in query]
        assert flat == pytest.approx(maps[kind].weights.flatten().tolist(), abs=1e-4)
    assert ask(client, "attention", run="lm", input="The woman")["encoder"] is None
    rows = ask(client, "embed", run="classification", inputs=["Good.", "Bad."])["embeddings"]
    assert rows[1] == pytest.approx(served["classification"].run.embed("Bad.").tolist(), abs=1e-4)


def test_runs_are_described_without_their_directories(client, served):
    response = client.get("/v1/runs")
    by_name = {run["name"]: run for run in response.json()["runs"]}
    assert by_name["translation"]["verbs"] == ["translate", "score", "embed", "attention"]
    assert by_name["translation"]["attention"] == ["encoder", "decoder", "cross"]
    assert by_name["lm"]["attention"] == ["decoder"]
    assert by_name["classification"]["labels"] == ["negative", "positive"]
    assert by_name["translation"]["examples"] and all(by_name["translation"]["examples"])
    for run in served.values():
        assert str(run.run.path) not in response.text and run.run.path.name not in response.text
