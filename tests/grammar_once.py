"""Generates rows of the built-in grammar once a process. They depend on nothing else, and take half of a tiny training.

`tests/data/test_grammar.py` tests the generator itself, without this.
"""

from multihead.data import grammar

GENERATE = grammar.columns
KNOWN = {}


def columns(config, split, names):
    """Takes the place of `grammar.columns`."""
    key = (repr(config), split, *names)
    if key not in KNOWN:
        KNOWN[key] = GENERATE(config, split, names)
    return {name: list(rows) for name, rows in KNOWN[key].items()}
