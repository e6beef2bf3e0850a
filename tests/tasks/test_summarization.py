"""Summarization: translation's model under ROUGE."""

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
