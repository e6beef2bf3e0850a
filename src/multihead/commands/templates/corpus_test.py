"""Checks of my_corpus.py: pytest test_my_corpus.py"""

from pathlib import Path

import multihead
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_corpus.py")
WORDS = ["task=translation", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "data=my_corpus"]


def test_it_trains_and_translates(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.translate(["2 plus 2"])) == 1


def test_a_split_is_the_same_each_time_and_its_answers_are_right():
    corpus = load_plugin(str(FILE)).corpora["my_corpus"]
    rows = corpus(None, "val", ["source", "target"])
    assert rows == corpus(None, "val", ["source", "target"])
    for source, target in zip(rows["source"], rows["target"], strict=True):
        assert sum(map(int, source.split(" plus "))) == int(target)
