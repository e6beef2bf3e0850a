"""Each family against ``transformers``: one random model here, twenty of each in the slow tests."""

import sys
from pathlib import Path

import pytest

from multihead.config.families import FAMILIES

pytest.importorskip("transformers")
SAME_AS_ROBERTA = ("xlm-roberta", "camembert")
MEASURED = [name for name in FAMILIES if name not in SAME_AS_ROBERTA]


def check(family, draws, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import pretrained_equal

    try:
        found = pretrained_equal.measured(family, draws)
    finally:
        sys.modules.pop("pretrained_equal", None)
    assert found.draws == found.back == draws
    assert max(found.hidden, found.logits, found.cached) < 2e-5
    assert found.gradients < 1e-4
    assert found.same == found.continuations


@pytest.mark.unhurried
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", MEASURED)
def test_a_random_model_gives_the_same(family, monkeypatch):
    check(family, 1, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", MEASURED)
def test_twenty_random_models_give_the_same(family, monkeypatch):
    check(family, 20, monkeypatch)
