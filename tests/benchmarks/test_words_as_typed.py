"""Every text and path key x what a program likes to read as something else: used as typed, or a fix that works."""

import pytest

from multihead.config.compose import composer
from multihead.config.keys import leaf_keys
from multihead.config.task import TASKS
from multihead.config.words import leaves, split

KEYS = leaf_keys(TASKS.values())


def read_alone(word):
    """The value of a word, without the configuration around it."""
    (value,) = leaves(split(word), KEYS).values()
    return value


def test_every_text_and_path_key():
    import words_as_typed as table

    wrong = {}
    for name, (_, key) in table.text_keys().items():
        cells = [table.cell(name, key, text, read_alone) for text in table.TEXTS]
        wrong |= {(name, cell): text for text, cell in zip(table.TEXTS, cells, strict=True) if cell.startswith("WRONG")}
    assert len(table.text_keys()) > 60 and wrong == {}


@pytest.mark.parametrize("name", ["run_dir", "data.train", "data.root", "decoding.forced_prefix", "data.columns"])
def test_in_a_whole_configuration(name, tmp_path, monkeypatch):
    import words_as_typed as table

    monkeypatch.chdir(tmp_path)
    use = table.composed(composer([]), "translation", name)
    cells = [table.cell(name, KEYS[name], text, use) for text in table.TEXTS]
    assert not [cell for cell in cells if cell.startswith("WRONG")]
    assert cells[:4] == [table.SAME] * 4 and cells[5] == (table.EXPANDED if name in table.PATHS else table.SAME)


def test_paths_of_commands():
    import words_as_typed as table

    for name in (*table.WORDS, *table.VERB_PATHS):
        assert not [text for text in table.TEXTS if table.of_a_command(name, text).startswith("WRONG")]
