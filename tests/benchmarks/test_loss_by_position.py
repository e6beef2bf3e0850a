"""The loss by position: each position has its own loss, and a whole tiny comparison."""

import json

import pytest
import torch

import multihead

SMALL = ["data=grammar", "data.grammar.train_size=200", "data.grammar.val_size=60", "data.grammar.test_size=10"]
SMALL += ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.num_decoder_layers=1", "accelerator=cpu"]
SMALL += ["precision=32-true", "trainer.max_steps=2", "trainer.val_every_n_steps=2", "data.batch_tokens=256"]
SMALL += ["trainer.checkpoint_every_n_steps=2", "data.part_tokens=256", "optim.warmup_steps=0"]


def test_positions_in_doublings():
    import loss_by_position as driver

    assert driver.octaves(8) == [(1, 1), (2, 2), (3, 4), (5, 8)]
    assert driver.octaves(10) == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 10)]


@pytest.mark.slow
def test_loss_by_position_of_tiny_networks(tmp_path, monkeypatch, capsys):
    import loss_by_position as driver
    import map_of_architectures as map_driver

    monkeypatch.setattr(map_driver, "forecast", lambda composition: {"tokens_per_second": 100.0})
    monkeypatch.setattr(driver, "TOKENS_AT_ONCE", 48)  # three windows of 16
    out = tmp_path / "positions.json"
    words = [*SMALL, "recipe=shakespeare_char_cpu", "contexts=16,8", "seeds=2", f"runs={tmp_path / 'runs'}"]
    driver.main([*words, f"out={out}"])
    found = json.loads(out.read_text())["systems"]
    assert list(found) == ["transformer", "lstm", "conv"]
    for name, of_network in found.items():
        for context, one in of_network.items():
            assert [len(seed["by_position"]) for seed in one["seeds"]] == [int(context)] * 2
            assert one["seeds"][0]["by_position"] != one["seeds"][1]["by_position"]
            assert f"| {name} | {context} | {one['parameters']:,} | 100 | " in out.with_suffix(".md").read_text()
    assert "| 9 to 16 | " in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 10_000

    (folder,) = (tmp_path / "runs" / "shakespeare_char_cpu").glob("lstm_16_*")  # by single predictions, each alone
    run = multihead.load(folder / "seed_1", f"plugin={driver.ARCHITECTURES['lstm'][0].partition('=')[2]}")
    ids = torch.arange(300) % 7 + 5
    losses = driver.loss_at(run, ids, 16)
    for position in (1, 7, 16):
        alone = []
        for start in range(0, 300 - 16, driver.EVERY):
            seen = ids[start : start + position + 1].tolist()
            alone.append(-float(run.task.next_log_probs(seen)[-1, seen[-1]]))
        assert losses[position - 1] == pytest.approx(sum(alone) / len(alone), abs=1e-5)

    with pytest.raises(SystemExit, match="architectures=gru: there are transformer, lstm"):
        driver.main(["architectures=gru"])
