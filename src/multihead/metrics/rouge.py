"""ROUGE (Lin 2004, W04-1013) of one text against one reference, for any script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from multihead.text.scripts import words

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SIGNATURE = "words:unicode|case:lc|stem:no|mean F-measure"
"""How the scores are computed, to be quoted with them."""


def rouge(key: str, output: str, reference: str) -> float:
    """F-measure in [0, 1]. Words are those of `multihead.text.scripts.words`, without stemming.

    Identical texts score 1 if they hold a word (for rouge2, two). On ASCII text the scores are those of the package
    ``rouge-score``.

    Args:
        key: rouge1 and rouge2 count n-grams. rougeL counts the longest common subsequence of both texts. rougeLsum
            does so for each line of the reference with each line of the output, and counts the union.
        output: A text.
        reference: The text that it should be.
    """
    if key == "rougeLsum" and ("\n" in output.strip() or "\n" in reference.strip()):
        return _of_lines(*([words(line) for line in text.split("\n")] for text in (output, reference)))
    mine, theirs = words(output), words(reference)
    if key in ("rougeL", "rougeLsum"):
        hits, size = len(_common_places(theirs, mine)), len(mine) + len(theirs)
    else:
        n = int(key[-1])
        grams = [Counter(tuple(each[i : i + n]) for i in range(len(each) - n + 1)) for each in (mine, theirs)]
        hits, size = (grams[0] & grams[1]).total(), grams[0].total() + grams[1].total()
    return 2 * hits / size if hits else 0.0


def _of_lines(output: Sequence[list[str]], reference: Sequence[list[str]]) -> float:
    """Summary-level ROUGE-L (section 3.2). As in ``rouge-score``, a word counts at most as often as in each text."""
    left = [Counter(word for line in lines for word in line) for lines in (output, reference)]
    hits, size = 0, left[0].total() + left[1].total()
    for line in reference:
        found = sorted({place for other in output for place in _common_places(line, other)})
        for word in (line[place] for place in found):
            if left[0][word] > 0 and left[1][word] > 0:
                left[0][word] -= 1
                left[1][word] -= 1
                hits += 1
    return 2 * hits / size if hits else 0.0


def _common_places(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Places in ``first`` of a longest common subsequence with ``second``."""
    table = [[0] * (len(second) + 1)]
    for word in first:
        above, row = table[-1], [0]
        for j, other in enumerate(second):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        table.append(row)
    places, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            places.append(i - 1)
            i, j = i - 1, j - 1
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]
