"""ROUGE against torchmetrics on ASCII, by hand elsewhere."""

import random
import string

import pytest
from languages import SENTENCES
from torchmetrics.functional.text.rouge import rouge_score

from multihead.metrics.rouge import ROUGE, rouge


@pytest.mark.parametrize("language", SENTENCES)
def test_identical_texts_of_any_script_are_perfect_and_others_are_not(language):
    text = SENTENCES[language]
    assert [rouge(key, text, text) for key in ROUGE] == [1, 1, 1, 1]
    assert all(0 < rouge(key, f"{text} {text}", text) < 1 for key in ROUGE)
    assert rouge("rouge1", "", text) == rouge("rouge1", "***", text) == 0


def test_letters_beyond_a_to_z_tell_words_apart():
    assert rouge("rouge1", "Größe", "Grüße") == 0
    assert rouge("rouge1", "Die Größe", "Die Grüße") == 0.5
    assert rouge("rouge1", "GRÖSSE", "grösse") == 1


@pytest.mark.parametrize("key", ["rouge1", "rouge2", "rougeL"])
def test_on_ascii_it_is_torchmetrics(key):
    """What the numbers of English data were before, on text with all of ASCII."""
    draw = random.Random(3)
    pieces = [*"abc", "The", "dog's", "e-mail", "3.5", "U.S.", "snake_case", *string.punctuation, "\t", "  "]
    for _ in range(60):
        output, reference = (" ".join(draw.choices(pieces, k=draw.randint(0, 12))) for _ in range(2))
        expected = rouge_score(output, reference, rouge_keys=key)[f"{key}_fmeasure"].item()
        assert rouge(key, output, reference) == pytest.approx(expected, abs=1e-6), (output, reference)


def test_lines_of_a_summary_are_compared_line_by_line():
    """Section 3.2 of the paper: reference w1 w2 w3 w4 w5, outputs w1 w2 w6 w7 w8 and w1 w3 w8 w9 w5: the union is 4."""
    output, reference = "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5"
    assert rouge("rougeLsum", output, reference) == pytest.approx(2 * 4 / (10 + 5))
    assert rouge("rougeLsum", "b\na", "a\nb") == 1 and rouge("rougeL", "b\na", "a\nb") == 0.5
    assert rouge("rougeLsum", "a a", "a\n\n") == pytest.approx(2 / 3)
