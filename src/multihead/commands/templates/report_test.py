"""Checks of my_report.py: pytest test_my_report.py"""

from pathlib import Path

import multihead
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_report.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}"]


def test_it_trains_classifies_and_writes_the_report(tmp_path):
    result = multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1
    assert f"accuracy & {result['test/accuracy']:.3f}" in (tmp_path / "run" / "my_report.tex").read_text()


def test_a_row_for_each_metric_of_the_test(tmp_path):
    (tmp_path / "result.json").write_text('{"test/loss": 0.5, "test/token_accuracy": 1.0, "seed": 1, "val/loss": 2.0}')
    load_plugin(str(FILE)).reports["my_report"](tmp_path)
    rows = (tmp_path / "my_report.tex").read_text().splitlines()[1:-1]
    assert rows == ["loss & 0.500 \\\\", "token accuracy & 1.000 \\\\"]
