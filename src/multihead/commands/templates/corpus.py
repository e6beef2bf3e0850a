"""A data set of your own: TRAIN

This one makes its texts itself: sums, and what they are.
"""

import random

from multihead.plugin import Plugin

ROWS = {"train": 400, "val": 40, "test": 40}


def my_corpus(config, split, columns):
    """The texts of the columns, each a list with one text for each row; None takes the split out of train.

    Args:
        config: The node data, such as config.root.
        split: train, val or test.
        columns: Names of the columns that the task needs; data.roles gives a role another column.
    """
    draw = random.Random(split)  # not from a global stream, so that each run has the same rows
    pairs = [(draw.randrange(50), draw.randrange(50)) for _ in range(ROWS[split])]
    texts = {
        "source": [f"{a} plus {b}" for a, b in pairs],
        "target": [str(a + b) for a, b in pairs],
        "text": [f"{a} plus {b} is {a + b}" for a, b in pairs],
        "label": ["even" if (a + b) % 2 == 0 else "odd" for a, b in pairs],
    }
    return {column: texts[column] for column in columns}


PLUGIN = Plugin(corpora={"my_corpus": my_corpus})
