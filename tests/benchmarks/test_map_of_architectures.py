"""The driver of the map: equal settings for all networks, points between points, and a whole tiny map."""

import json
import os
import statistics

import pytest
from scipy import stats

SMALL = ["data=grammar", "data.grammar.train_size=300", "data.grammar.val_size=20", "data.grammar.test_size=20"]
SMALL += ["model.d_model=64", "model.num_heads=2", "model.d_ff=128", "trainer.ema_decay=0", "accelerator=cpu"]
SMALL += ["precision=32-true"]
POINTS = [{"steps": s, "tokens": 10 * s, "minutes": s / 4, "bleu": b} for s, b in ((0, 0.0), (10, 4.0), (30, 10.0))]


def test_a_budget_between_two_points_is_on_their_line():
    import map_of_architectures as driver

    assert driver.at(POINTS, "steps", 5) == pytest.approx(2.0)
    assert driver.at(POINTS, "tokens", 200) == pytest.approx(7.0)  # halfway from 100 to 300
    assert driver.at(POINTS, "minutes", 2.5) == pytest.approx(4.0)
    assert driver.at(POINTS, "steps", 31) == 10.0


def test_all_networks_try_the_same_settings_and_read_as_many_tokens():
    import map_of_architectures as driver

    settings = driver.OWN | {"tokens": 40960, "points": 4}
    for number in range(8):
        found = {name: driver.words_of("multi30k", name, number, settings, []) for name in driver.ARCHITECTURES}
        own = [set(words) - set(driver.ARCHITECTURES[name]) for name, words in found.items()]
        assert all(words == own[0] for words in own)
        by_key = dict(word.split("=", 1) for word in found["lstm"])
        assert int(by_key["data.batch_tokens"]) * int(by_key["trainer.max_steps"]) == 40960
    kinds = {(words[0], words[2]) for words in map(driver.setting, range(4))}
    assert len(kinds) == 4  # both batches with both optimizers
    assert len({tuple(driver.setting(number)) for number in range(8)}) == 8
    assert driver.words_of("multi30k", "lstm", 0, settings, ["model.dropout=0.5"]).count("model.dropout=0.5") == 1


def test_the_trials_of_a_network_are_ordered_at_a_budget_on_each_axis():
    import map_of_architectures as driver

    fast = [{"steps": s, "tokens": 10 * s, "minutes": s / 10, "bleu": b} for s, b in ((0, 0.0), (40, 8.0))]
    curves = {("lstm", 0): POINTS, ("lstm", 1): fast, ("conv", 0): POINTS}
    budgets = driver.budgets_of(curves)
    assert budgets == {"steps": 30, "tokens": 300, "minutes": 4.0}
    found = driver.ranking(curves, budgets)
    assert found["conv"] == {"steps": [0], "tokens": [0], "minutes": [0]}
    assert found["lstm"] == {"steps": [0, 1], "tokens": [0, 1], "minutes": [1, 0]}  # 10 of 6, and 6 of 8


def test_differences_of_networks_have_welchs_interval():
    import map_of_architectures as driver

    bleu = {"transformer": [16.37, 18.05, 17.96], "lstm": [23.59, 22.66, 21.62], "conv": [21.0]}
    systems = {
        network: {"seeds": {"steps": [{"curve": [{"steps": 0, "bleu": 0.0}, {"steps": 4, "bleu": b}]} for b in values]}}
        for network, values in bleu.items()
    }
    lines = driver.differences({"tatoeba_10k": {"budgets": {"steps": 4}, "systems": systems}})
    welch = stats.ttest_ind(bleu["lstm"], bleu["transformer"], equal_var=False)
    low, high = welch.confidence_interval()
    difference = statistics.fmean(bleu["lstm"]) - statistics.fmean(bleu["transformer"])
    expected = f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"
    assert lines[2] == f"| tatoeba_10k | steps | lstm - transformer | {expected} |"
    assert len(lines) == 5


@pytest.mark.slow
def test_a_tiny_map(tmp_path, monkeypatch, capsys):
    import map_of_architectures as driver

    monkeypatch.setattr(driver, "forecast", lambda composition: {"tokens_per_second": 100.0})
    out = tmp_path / "map.json"
    words = [*SMALL, "architectures=transformer,conv", "trials=4", "kept=1", "seeds=2", "tokens=32768", "points=4"]
    words += ["rounds=1", f"runs={tmp_path / 'runs'}", f"out={out}"]
    driver.main(words)
    found = json.loads(out.read_text())["grammar"]
    assert found["budgets"]["minutes"] == pytest.approx(found["budgets"]["tokens"] / 6000)
    sizes = [system["parameters"] for system in found["systems"].values()]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    reached_ends = set()
    for name, system in found["systems"].items():
        ends = [trial["curve"][-1]["steps"] for trial in system["trials"]]
        whole = [trial for trial, end in zip(system["trials"], ends, strict=True) if end in (8, 32)]
        assert set(ends) - {8, 32} <= {2, 8} and 1 <= len(whole) <= len(driver.AXES)  # the others have a quarter
        reached_ends |= set(ends) & {8, 32}
        for axis, budget in found["budgets"].items():
            reached = [driver.at(trial["curve"], axis, budget) for trial in whole]
            (best,) = [trial for trial in system["trials"] if axis in trial["chosen"]]
            assert driver.at(best["curve"], axis, budget) == max(reached)
            assert [seed["seed"] for seed in system["seeds"][axis]] == [2, 3]  # not the seed that chose
        folders = [path for path in (tmp_path / "runs" / "grammar").iterdir() if path.name.startswith(name)]
        assert len(folders) == 4
    assert found["budgets"]["steps"] == min(reached_ends)
    text = capsys.readouterr().out
    seeds = found["systems"]["conv"]["seeds"]["tokens"]
    mean = statistics.fmean(driver.at(seed["curve"], "tokens", found["budgets"]["tokens"]) for seed in seeds)
    assert f"{mean:.1f} (" in text and "| grammar | tokens | conv - transformer | " in text
    assert out.with_suffix(".png").stat().st_size > 10_000
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}
    driver.main(words)
    assert {path: os.stat(path).st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")} == before
    with pytest.raises(SystemExit, match="architectures=gru: there are transformer, lstm"):
        driver.main(["architectures=gru"])
    monkeypatch.setattr(driver, "EQUAL", 1.0)
    with pytest.raises(SystemExit, match="the numbers of parameters differ by more than 1 %"):
        driver.main(words)


@pytest.mark.slow
def test_networks_by_one_recipe(tmp_path, monkeypatch, capsys):
    import map_of_architectures as map_driver
    import networks_by_one_recipe as driver

    monkeypatch.setattr(map_driver, "forecast", lambda composition: {"tokens_per_second": 100.0})
    out = tmp_path / "recipe.json"
    steps = ["trainer.max_steps=4", "optim.warmup_steps=1", "trainer.val_every_n_steps=2"]
    words = [
        *SMALL,
        *steps,
        "trainer.checkpoint_every_n_steps=2",
        f"runs={tmp_path / 'runs'}",
        f"out={out}",
        "rounds=2",
    ]
    driver.main(words)
    found = json.loads(out.read_text())["systems"]
    assert list(found) == ["transformer", "lstm", "conv"]
    for name, system in found.items():
        (folder,) = [path for path in (tmp_path / "runs" / "multi30k_en_de").iterdir() if path.name.startswith(name)]
        result = json.loads((folder / "seed_1" / "result.json").read_text())
        (seed,) = system["seeds"]
        assert [point["steps"] for point in seed["curve"]] == [0, 2, 4]
        assert seed["curve"][-1]["minutes"] == pytest.approx(result["tokens"] / 6000)
        assert seed["test/bleu"] == result["test/bleu"] and system["tokens_per_second"] == [100.0, 100.0]
        assert f"| {name} | {result['parameters']:,} | 100 | " in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="architectures=gru: there are transformer, lstm"):
        driver.main(["architectures=gru"])
    monkeypatch.setattr(map_driver, "EQUAL", 1.0)
    with pytest.raises(SystemExit, match="the numbers of parameters differ by more than 1 %"):
        driver.main(words)
