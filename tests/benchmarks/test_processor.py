"""The table of what this processor does fast: names what auto is here, and times both answers to every choice."""

import json

import pytest

from multihead.model import kernels


@pytest.mark.unhurried
def test_both_answers_are_timed_and_auto_is_named(tmp_path, capsys):
    import processor

    short = kernels.SHORT
    words = ["task=translation", "debug=smoke", "seconds=0", "repeats=1", f"out={tmp_path / 'found.json'}"]
    processor.main(words)
    found = json.loads((tmp_path / "found.json").read_text())
    auto = processor.decided(words[:2])
    assert sorted(found["medians"]) == sorted({"32-true", "bf16-mixed"} - {auto} | {f"{auto} (auto)"})
    assert all(speed > 0 for speed in found["medians"].values())
    assert len(found["about"]["choices"]) >= 9 and all(ratio > 0 for ratio in found["about"]["choices"].values())
    assert f"{auto} (auto)" in capsys.readouterr().out
    assert short == kernels.SHORT
