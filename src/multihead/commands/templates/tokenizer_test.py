"""Checks of my_tokenizer.py: pytest test_my_tokenizer.py"""

from pathlib import Path

import multihead
from multihead.config.data import TokenizerConfig
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_tokenizer.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "tokenizer.kind=my_tokenizer"]


def test_it_trains_and_classifies(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1


def test_words_in_small_letters_and_single_digits():
    plugin = load_plugin(str(FILE))
    options = plugin.options["my_tokenizer"]()
    texts = ["Room 217 is free.", "Is room 7 free?"]
    tokenizer = plugin.tokenizers["my_tokenizer"](TokenizerConfig(), texts, "none", options=options)
    assert tokenizer.encode("ROOM 172!").tokens == ["room", "1", "7", "2", "<unk>"]
