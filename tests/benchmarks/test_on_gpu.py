"""The script for a GPU: its parts stand alone, and one that fails leaves the others their time."""

import csv
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    import on_gpu

    monkeypatch.setattr(sys, "argv", ["on_gpu.py", *words])
    with pytest.raises(SystemExit) as ended:
        on_gpu.main()
    return ended.value.code


def test_words_are_checked_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "folder=DIR" in call(monkeypatch)
    assert "no part speed; there are rate,waits,precision,resume,lm,translation,decoding" in call(
        monkeypatch, "folder=x", "parts=rate,speed"
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no GPU is at hand" in call(monkeypatch, f"folder={tmp_path / 'x'}")
    assert not (tmp_path / "x").exists()


def test_a_part_that_fails_is_told_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import on_gpu

    def fails(bench: on_gpu.Bench) -> dict:
        bench.run("-c", "raise SystemExit(3)")
        return {}

    monkeypatch.setitem(on_gpu.PARTS, "lm", fails)
    monkeypatch.setitem(on_gpu.PARTS, "rate", lambda bench: {"operations_per_second": 1.0})
    assert call(monkeypatch, f"folder={tmp_path}", "parts=lm,rate", "accelerator=cpu", "small=1") == 1
    assert json.loads((tmp_path / "lm.json").read_text())["failed"].startswith("exit status 3")
    assert json.loads((tmp_path / "rate.json").read_text())["operations_per_second"] == 1.0


def test_a_part_has_its_minutes(tmp_path: Path) -> None:
    import on_gpu

    settings = on_gpu.OWN | {"folder": str(tmp_path), "minutes": 0.001, "accelerator": "cpu"}
    with pytest.raises(RuntimeError, match="took more than"):
        on_gpu.Bench(settings, []).run("-c", "import time; time.sleep(9)")


def test_every_word_is_in_the_text_and_speeds_are_the_last_ones(tmp_path: Path) -> None:
    import on_gpu

    bench = on_gpu.Bench(on_gpu.OWN | {"folder": str(tmp_path), "accelerator": "cpu", "small": 1}, [])
    assert len(set(on_gpu.made_up_words(bench).read_text().split())) == on_gpu.SMALL[on_gpu.WORDS]
    with open(tmp_path / "metrics.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, ["step", "system/tokens_per_second"])
        rows.writeheader()
        rows.writerows({"step": i, "system/tokens_per_second": speed} for i, speed in enumerate([1, 9, "", 5, 6, 7, 8]))
    assert on_gpu.last_speed(tmp_path / "metrics.csv") == 6.5


def test_what_waits_in_the_middle_steps_is_counted_by_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import waits

    modes = []
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", modes.append)
    monkeypatch.setattr("warnings.showwarning", lambda *told: None)
    monkeypatch.setattr("warnings.filters", [])
    monkeypatch.setenv("WAITS", str(tmp_path / "waits.json"))
    counter = waits.Waits()
    trainer = SimpleNamespace(max_steps=7, strategy=SimpleNamespace(root_device=torch.device("cuda")))
    for trainer.global_step in range(7):
        counter.on_train_batch_start(trainer, None, None, 0)
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    counter.on_train_end(trainer, None)
    found = json.loads((tmp_path / "waits.json").read_text())
    assert found["batches"] == 3 and list(found["waits"].values()) == [3]
    assert next(iter(found["waits"])).startswith(__file__)
    assert modes == ["default"] * 2 + ["warn"] * 3 + ["default"] * 2
