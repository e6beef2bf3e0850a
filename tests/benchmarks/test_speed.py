"""The benchmarks of the loop's cost and of growth, tiny: they run and measure what they say."""

import json

import pytest


def test_both_loops_take_their_turns(tmp_path, monkeypatch, capsys):
    import loop_overhead

    words = ["debug=smoke", "data.batch_tokens=128", "threads=1", f"out={tmp_path / 'out.json'}"]
    result = loop_overhead.main(["rounds=2", "steps=3", "save_every=3", *words])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    ours, bare = result["rounds"].values()
    assert len(ours) == len(bare) == 2 and result["about"]["batch_tokens"] == 128
    told = result["about"]["ms_per_step"]
    assert result["about"]["overhead"] == pytest.approx(told["multihead's loop"] / told["bare loop"] - 1)
    assert "ms a step over all rounds" in capsys.readouterr().out


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path):
    import growth

    words = ["widths=32,64", "lengths=16,32", "rows=200,400", "beams=1,2", "seconds=0.01", "tokens=128", "threads=1"]
    found = growth.main([*words, f"out={tmp_path / 'out.json'}", f"picture={tmp_path / 'out.png'}"])
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert (tmp_path / "out.png").stat().st_size > 10_000
    for name in ("width", "length", "beams"):
        assert len(found[name]) == 2 and all(point["cost"] > 0 for point in found[name])
    small, large = found["corpus"]
    assert (small["size"], large["size"]) == (200, 400) and small["tokens_per_second"] > 0 and large["memory_mb"] > 50
    with pytest.raises(SystemExit, match="settings are widths"):
        growth.main(["width=3"])


def test_a_peer_with_a_horizon_needs_the_minutes_and_the_pace_of_others(tmp_path, monkeypatch):
    import time_to_quality

    results = {
        "Multihead": {"minutes": 8.0},
        time_to_quality.RECIPES["hf"].name: {"minutes": 12.0, "tokens": 3_840_000},
    }
    settings = time_to_quality.recipe("hf_linear", results, mean=10.0).settings
    assert (settings["horizon"], settings["warmup"]) == (4000, 400)  # 320,000 tokens a minute, 640 a step
    assert "horizon" not in time_to_quality.recipe("hf", results, mean=10.0).settings
    monkeypatch.setattr(
        "sys.argv", ["time_to_quality.py", "who=torch,hf_linear", "budget=1", f"out={tmp_path / 'out'}"]
    )
    with pytest.raises(SystemExit, match="hf_linear needs the results of Hugging Face Trainer, Marian, Multihead"):
        time_to_quality.main()
    assert not (tmp_path / "out").exists()
