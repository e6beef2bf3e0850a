"""Summarization: translation's model under ROUGE."""

import json
import random

import pytest

import multihead
from multihead.config.compose import compose


def test_a_run_reports_rouge_and_counts_what_it_cuts(tmp_path, caplog):
    words = ["task=summarization", "debug=smoke", "task.max_source_len=20"]
    result = multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    assert {"test/rouge1", "test/rouge2", "test/rougeL", "val/rougeL", "rouge_signature"} <= set(result)
    assert not [name for name in result if "bleu" in name or "chrf" in name]
    log = (tmp_path / "run" / "train.log").read_text()
    assert "400 of 400 examples too long, cut" in log and "in source, the limit is 20" in log
    loaded = multihead.load(tmp_path / "run")
    long = "Paul is a baker from Rome. " * 30
    assert loaded.summarize([long]) == loaded.summarize([long + "Anna is a cook."])


@pytest.mark.parametrize("monitor", ["val/rouge1", "val/rouge2", "val/rougeL"])
def test_rouge_can_be_monitored(monitor):
    assert compose(["task=summarization", f"task.monitor={monitor}"]).config.task.monitor == monitor


def test_a_run_that_copies_predicts_scores_and_exports_what_it_was_tested_on(tmp_path):
    words = ["task=summarization", "debug=smoke", "task.copy=true", "decoding.num_beams=3", "trainer.ema_decay=0.5"]
    result = multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    loaded = multihead.load(tmp_path / "run")
    assert {"head.query.weight", "head.key.weight", "head.gate.weight"} <= set(loaded.model.state_dict())
    tested = [sample for sample in samples(tmp_path / "run") if sample["split"] == "test"]
    sources, outputs = [sample["source"] for sample in tested], [sample["output"] for sample in tested]
    assert loaded.summarize(sources, num_beams=3) == outputs
    references = [sample["reference"] for sample in tested]
    nats = -sum(loaded.score(sources, references))
    tokens = sum(len(row) + 1 for row in loaded.task.tokenizers["target"].encode_batch(references))
    assert nats / tokens == pytest.approx(result["test/loss"], rel=1e-4)


def samples(run):
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def test_names_that_hardly_occur_are_copied(tmp_path):
    """A gist of two words out of seven, those around "of", where a name occurs twice in all of train."""
    rng = random.Random(0)
    names = [f"n{number}" for number in range(3000)]

    def row():
        words, place = rng.sample(names, 6), rng.randrange(1, 6)
        return " ".join([*words[:place], "of", *words[place:]]) + f"\t{words[place - 1]} {words[place]}\n"

    words = ["task=summarization", "data=files", "model=tiny", "model.d_model=64", "model.d_ff=128", "logger=none"]
    for split, count in (("train", 1000), ("val", 50), ("test", 50)):
        (tmp_path / f"{split}.tsv").write_text("".join(row() for _ in range(count)))
        words.append(f"data.{split}={tmp_path / f'{split}.tsv'}")
    words += ["tokenizer.kind=word", "tokenizer.min_frequency=1", "data.batch_tokens=256", "data.cache=false"]
    words += ["trainer.max_steps=80", "optim=muon", "optim.warmup_steps=20", "model.position=rotary"]
    copying = multihead.train([*words, "task.copy=true", f"run_dir={tmp_path / 'copying'}"])
    plain = multihead.train([*words, f"run_dir={tmp_path / 'plain'}"])
    assert copying["test/rougeL"] > 80 > 40 > plain["test/rougeL"]
