"""Notes at the end of a run: from facts alone, one for each thing that is odd, and none for a run as it should be."""

import math
from types import SimpleNamespace

import pytest

from multihead.comparing.significance import proportion_interval
from multihead.config.compose import compose
from multihead.data.tokenizer import train_tokenizer
from multihead.metrics.text import CorpusBLEU
from multihead.tasks import build_task
from multihead.tasks.base import EvaluationData
from multihead.text.vocabulary import Vocabulary
from multihead.training.suspicions import Evaluation, Training, notes_on, of_evaluation, of_training

CURVE = [(100, 5.0), (200, 20.0), (300, 30.0), (400, 32.0)]


def training(**changed):
    return of_training(
        Training(**{"monitor": "val/bleu", "mode": "max", "validations": CURVE, "best_step": 400} | changed)
    )


def evaluation(**changed):
    texts = [f"text number {i}" for i in range(200)]
    facts = {"metrics": {"bleu": 31.0, "chrf": 50.0, "cut_outputs": 0.001}, "outputs": texts, "references": texts[::-1]}
    return of_evaluation(Evaluation(**facts | changed))


def test_a_run_as_it_should_be_has_no_note():
    assert training() == evaluation() == []
    assert training(best_step=300) == training(validations=CURVE[:1], best_step=100) == []


def test_a_monitor_that_never_moved():
    flat = [(step, 0.0) for step, _ in CURVE]
    (note,) = training(validations=flat, best_step=300)
    assert note.startswith("val/bleu was 0 at all 4 validations, so the loss chose the checkpoint")
    (note,) = training(validations=[(1, math.nan), (2, math.nan)], best_step=1)
    assert "val/bleu was nan at all 2 validations" in note


def test_the_first_or_the_last_checkpoint_won():
    falling = [(step, -value) for step, value in CURVE]
    (note,) = training(validations=falling, best_step=100)
    assert note.startswith("the first of 4 validations (step 100) was the best by val/bleu")
    rising = [(100, 5.0), (200, 10.0), (300, 15.0), (400, 20.0)]
    (note,) = training(validations=rising)
    assert note.startswith(
        "the last validation (step 400) was the best, and val/bleu still gained 5 since the validation before"
    )
    assert training(validations=rising, whole=False) == []  # who stopped it knows


def test_an_average_without_a_sample():
    words = ["max_steps=100", "average_last_steps=35", "average_every_n_steps=10"]
    config = compose(["task=lm", *(f"trainer.{word}" for word in words)]).config
    validation = SimpleNamespace(monitored=[(60, 1.0)], best={"step": 60})
    assert of_training(Training.of(config, validation, 70)) == []
    (note,) = of_training(Training.of(config, validation, 69))
    assert note.endswith("by trainer.average_last_steps=35: the run ended at step 69, the average begins at step 70")


def test_outputs_that_were_cut_and_unknown_tokens():
    (note,) = evaluation(metrics={"bleu": 3.0, "cut_outputs": 0.123})
    assert note.startswith("12.3% of the outputs were cut at the length limit")
    (note,) = evaluation(unknown={"source": 0.002, "target": 0.05})
    assert note.startswith("5.0% of the tokens in target are unknown to the vocabulary")


def test_scores_of_0_and_of_100():
    (note,) = evaluation(metrics={"bleu": 0.0, "chrf": 99.0, "exact_match": 0.97})
    assert note.startswith("test/bleu is 0: no output has four words in a row right") and note.endswith(
        "chrf 99, exact_match 0.97"
    )
    (note,) = evaluation(metrics={"chrf": 0.0})
    assert note == "test/chrf: exactly 0; nothing in the outputs is right"
    (note,) = evaluation(metrics={"accuracy": 1.0}, split="val")
    assert note == "val/accuracy: perfect; make sure that the training data do not contain these examples"
    (note,) = evaluation(metrics={"bleu": 100.0, "chrf": 100.0})
    assert note.startswith("test/bleu and test/chrf: perfect;")
    assert evaluation(metrics={"bleu": 100.00000000000004}, solvable=True) == []
    assert evaluation(metrics={"mcc": 0.0, "exact_match": 0.0, "rouge2": 0.0}) == []


def test_outputs_in_lower_case_are_scored_by_another_metric():
    metrics = {"bleu": 7.948, "bleu_lowercase": 40.234}
    (note,) = evaluation(metrics=metrics)
    assert note.startswith(
        "all outputs are in lower case, and the references are not: test/bleu_lowercase 40.23 is the"
    )
    assert evaluation(metrics=metrics, outputs=["A dog", *[f"text {i}" for i in range(199)]]) == []
    assert evaluation(metrics=metrics | {"bleu": 40.234}) == evaluation(metrics=metrics, outputs=()) == []


def test_outputs_that_repeat():
    outputs = ["the same"] * 120 + [f"other {i}" for i in range(80)]
    (note,) = evaluation(outputs=outputs)
    assert note.startswith("60.0% of the outputs are the same text, 'the same'")
    assert evaluation(outputs=outputs, references=outputs) == []  # as it should be
    labels = ["ham"] * 180 + ["spam"] * 20
    (note,) = evaluation(metrics={"accuracy": 0.9}, outputs=["ham"] * 200, references=labels, classes=True)
    assert note == "every example was classified as 'ham', which is right for 90.0% of them"
    assert evaluation(metrics={"accuracy": 0.9}, outputs=labels, references=["ham"] * 200, classes=True) == []


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(12, 12, 0.735, 1), (0, 12, 0, 0.265), (5, 10, 0.187, 0.813)]
)
def test_exact_interval_of_a_share(hits, count, low, high):
    assert proportion_interval(hits, count) == pytest.approx((low, high), abs=0.001)


def test_few_examples_come_with_their_interval():
    samples = [{"label": "a" if i % 2 else "b", "predicted": "a" if i % 2 else "b"} for i in range(12)]
    config = SimpleNamespace(data=SimpleNamespace(format="csv"))
    settings = SimpleNamespace(monitor="val/accuracy")
    member = SimpleNamespace(evaluation=EvaluationData(), config=config, settings=settings)
    task = SimpleNamespace(samples=samples, members=lambda: {"classification": member})
    perfect, few = notes_on(task, {"test/accuracy": 1.0, "parameters": 7})
    assert perfect.startswith("test/accuracy: perfect")
    assert few == (
        "the test split has 12 examples, so test/accuracy 1 is uncertain: its 95 % confidence interval is 0.735 to 1"
    )
    task.samples = samples * 10
    assert len(notes_on(task, {"test/accuracy": 1.0})) == 1
    texts = [{"output": f"a b c {i} e", "reference": f"a b c {i % 7} e"} for i in range(20)]
    translation = SimpleNamespace(
        evaluation=EvaluationData(), config=config, settings=SimpleNamespace(monitor="val/translation/bleu")
    )
    task = SimpleNamespace(
        samples=[{"task": "translation", **sample} for sample in texts] + [{"task": "lm", "nats": 1.0}],
        members=lambda: {"translation": translation, "lm": member},
    )
    (note,) = notes_on(task, {"test/translation/bleu": 60.0, "test/lm/loss": 1.0})
    assert note.startswith("translation: the test split has 20 examples, so test/bleu 60 is uncertain: its 95 %")


def test_the_interval_of_bleu_is_for_the_tokenizer_of_the_score():
    config = compose(
        ["task=translation", "model=tiny", "model.d_model=32", "model.d_ff=32", "tokenizer.kind=char"]
    ).config
    tokenizer = train_tokenizer(config.tokenizer, ["a b"])
    task = build_task(config, Vocabulary({"source": tokenizer, "target": tokenizer}))
    task.samples = [{"output": f"{i}日我们去公园", "reference": f"{i % 7}日我们去公园"} for i in range(20)]
    for tokenize, said in (("13a", []), ("char", ["the test split has 20 examples, so test/bleu 60 is uncertain"])):
        task.scores["bleu"] = CorpusBLEU(tokenize=tokenize)
        notes = notes_on(task, {"test/bleu": 60.0})
        assert [note.partition(":")[0] for note in notes] == said
