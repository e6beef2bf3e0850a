"""Checks of my_reader.py: pytest test_my_reader.py"""

from pathlib import Path

import pytest

import multihead
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_reader.py")
WORDS = ["task=translation", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "data=files"]
WORDS += ["data.format=my_reader", f"data.train={FILE.with_suffix('.txt')}"]


def test_it_trains_and_translates(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.translate(["21"])) == 1


def test_pairs_are_read_in_order_and_a_source_without_a_target_is_an_error(tmp_path):
    read, file = load_plugin(str(FILE)).readers["my_reader"], tmp_path / "pairs.txt"
    file.write_text("# numbers\n> 1\n< one\n> 2\n< two\n")
    assert read(file, ["source", "target"], None) == {"source": ["1", "2"], "target": ["one", "two"]}
    file.write_text("> 1\n> 2\n< two\n")
    with pytest.raises(ValueError, match=r"pairs\.txt:2: a source and a target must take turns"):
        read(file, ["source", "target"], None)
