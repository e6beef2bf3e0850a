"""The edit distance of Levenshtein (1966): the least number of characters to insert, to delete or to replace."""

from __future__ import annotations

EDITS = ("cer", "edit_similarity")
"""Metrics of `edits`: the character error rate, and the mean similarity."""


def edit_distance(output: str, reference: str) -> int:
    """Computes the distance by columns of bits (Myers 1999, doi:10.1145/316542.316550; Hyyrö 2003).

    A column of the usual table has differences of -1, 0 or 1 only, so that two integers hold it.
    """
    if not output or not reference:
        return len(output) + len(reference)
    places: dict[str, int] = {}
    for place, char in enumerate(output):
        places[char] = places.get(char, 0) | 1 << place
    mask, last = (1 << len(output)) - 1, 1 << (len(output) - 1)
    up, down, distance = mask, 0, len(output)
    for char in reference:
        same = places.get(char, 0)
        vertical = same | down
        horizontal = (((same & up) + up) ^ up) | same
        right, left = (down | ~(horizontal | up)) & mask, up & horizontal
        distance += ((right & last) != 0) - ((left & last) != 0)
        right, left = right << 1 | 1, left << 1
        up, down = (left | ~(vertical | right)) & mask, right & vertical & mask
    return distance


def edits(key: str, output: str, reference: str) -> tuple[float, float]:
    """Returns two numbers of a text; their sums over texts, divided by each other, are the metric.

    Args:
        key: ``cer`` counts edits for each character of the references. ``edit_similarity`` is the mean of
            1 - edits / characters of the longer text.
        output: A text.
        reference: The text that it should be.
    """
    distance, longer = edit_distance(output, reference), max(len(output), len(reference))
    if key == "cer":
        return float(distance), float(len(reference))
    return 1 - distance / longer if longer else 1.0, 1.0
