"""The private parts of sacreBLEU do what `multihead.metrics.sacrebleu_private` says; other tests rely on this."""

import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF, TER

from multihead.metrics.sacrebleu_private import score_of_sums, sentence_statistics, signature

OUTPUTS = ["the cat sits on the mat", "a dog", "green ideas sleep furiously tonight"]
REFERENCES = ["the cat sat on the mat", "the dog barks", "green ideas sleep furiously"]
CHANGED = (
    f"sacreBLEU {sacrebleu.__version__} has other private methods than 2.6: correct "
    "src/multihead/metrics/sacrebleu_private.py, or ask for an older version in pyproject.toml"
)


@pytest.mark.parametrize("scorer", [BLEU, CHRF, TER])
def test_sums_of_private_statistics_give_the_public_score(scorer):
    try:
        rows = sentence_statistics(scorer(), OUTPUTS, REFERENCES)
        score = score_of_sums(scorer(), [sum(column) for column in zip(*rows, strict=True)])
        name = signature(scorer())
    except (AttributeError, TypeError) as error:
        pytest.fail(f"{CHANGED} ({error})")
    public = scorer()
    assert len(rows) == 3 and score == public.corpus_score(OUTPUTS, [REFERENCES]).score, CHANGED
    assert name == str(public.get_signature()), CHANGED
