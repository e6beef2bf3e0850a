"""The drivers: Transformers beside linear baselines, and beside an LSTM and a CNN; on rows that are the same."""

import json
import os
import statistics

import pytest

import multihead

SMALL = ["data.grammar.train_size=300", "data.grammar.val_size=60", "data.grammar.test_size=80"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a classifier."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["task=classification", "debug=smoke", *SMALL]
    return folder, [multihead.train([*words, f"seed={s}", f"run_dir={folder / f'seed_{s}'}"]) for s in (1, 2)]


def test_classification_table(runs, tmp_path, capsys):
    import classification_table
    import linear_baselines

    folder, results = runs
    linear = tmp_path / "linear.json"
    linear_baselines.main(["data=grammar", f"out={linear}", *SMALL])
    baseline = json.loads(linear.read_text())["grammar"]
    capsys.readouterr()
    classification_table.main([f"runs={folder}", f"linear={linear}", f"out={tmp_path / 'table.md'}"])
    values = [100 * result["test/accuracy"] for result in results]
    best = max(model["test/accuracy"] for model in baseline["models"].values())
    line = capsys.readouterr().out.splitlines()[2]
    assert line.startswith("| grammar | accuracy |")
    assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" in line
    assert line.endswith(f"| 2 | {statistics.mean(values) - best:+.2f} |")
    assert line in (tmp_path / "table.md").read_text()

    baseline["fingerprints"]["data_train"] = "0" * 64
    linear.write_text(json.dumps({"grammar": baseline}))
    with pytest.raises(SystemExit, match="other rows of train than the baselines of grammar"):
        classification_table.main([f"runs={folder}", f"linear={linear}"])
    linear.write_text("{}")
    with pytest.raises(SystemExit, match=r"has no grammar; fix: python benchmarks/linear_baselines\.py data=grammar"):
        classification_table.main([f"runs={folder}", f"linear={linear}"])


@pytest.mark.slow
def test_transformers_against_others(tmp_path, capsys):
    import transformers_against_others as driver

    out = tmp_path / "results.json"
    words = ["tasks=classification", "architectures=transformer,conv", "seeds=2", "candidates=2", "steps=4"]
    words += [f"runs={tmp_path / 'runs'}", f"out={out}", "data=grammar", "debug=smoke", "model.d_model=64", *SMALL]
    driver.main(words)
    result = json.loads(out.read_text())["classification"]
    assert set(result["architectures"]) == {"transformer", "conv"}
    for name, found in result["architectures"].items():
        folders = [path for path in (tmp_path / "runs" / "classification").iterdir() if path.name.startswith(name)]
        assert len(folders) == 2  # one for each candidate; the better one has both seeds
        chosen = max(folders, key=lambda path: len(list(path.iterdir())))
        seeds = [json.loads((chosen / f"seed_{seed}" / "result.json").read_text()) for seed in (1, 2)]
        assert found["values"] == [seed["test/accuracy"] for seed in seeds]
        assert max(found["candidates"].values()) == seeds[0]["val/accuracy"]
    sizes = [found["parameters"] for found in result["architectures"].values()]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    assert len(result["pairs"]) == 1
    assert result["pairs"][0]["statement"] in out.with_suffix(".md").read_text()

    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}
    driver.main(words)
    assert {path: os.stat(path).st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")} == before
    with pytest.raises(SystemExit, match="architectures=gru: there are transformer, lstm"):
        driver.main(["architectures=gru"])


def test_a_label_names_the_run_and_not_its_folder():
    from classification_table import without_folders

    assert without_folders("init_from=/home/me/runs/mlm, seed=1") == "init_from=mlm, seed=1"
    assert without_folders("no init_from") == "no init_from"


@pytest.mark.slow
def test_finetune_table(tmp_path, capsys, monkeypatch):
    """One run by adapters of a tiny folder, beside linear models of the same rows."""
    import finetune_table
    import published_folders

    folder = published_folders.write(tmp_path / "bert", max_position_embeddings=160)
    few = ("optim.warmup_steps=1", "logger=none", "accelerator=cpu")
    monkeypatch.setattr(finetune_table, "SETS", {"small": finetune_table.Set("grammar", 2, 99.0, 1, (*SMALL,), few)})
    out, runs = tmp_path / "table.json", tmp_path / "runs"
    finetune_table.main([f"model={folder}", f"runs={runs}", f"out={out}"])
    found = json.loads(out.read_text())["small"]
    test = {kind: round(100 * result_of(runs / f"small_{kind}_1")["test/accuracy"], 2) for kind in ("whole", "lora")}
    assert {kind: found[kind][0]["test"] for kind in test} == test
    adapters = 2 * 8 * (4 * (16 + 16) + 2 * (16 + 24))
    assert found["lora"][0]["trained_parameters"] == adapters + 17 * 2 < found["whole"][0]["trained_parameters"]
    best = max(model["test/accuracy"] for model in found["linear"]["models"].values())
    line = out.with_suffix(".md").read_text().splitlines()[2]
    assert line.startswith(f"| small | accuracy | 300 | {best:.2f} | {test['whole']:.2f} | 1 |") and line.endswith(
        "| 99 |"
    )
    before = out.read_text()
    finetune_table.main([f"model={folder}", f"runs={runs}", f"out={out}", "train=no"])
    assert out.read_text() == before
    with pytest.raises(SystemExit, match=r"usage: python benchmarks/finetune_table.py model=FOLDER \[only=small\]"):
        finetune_table.main(["only=large", f"model={folder}"])


def result_of(run):
    return json.loads((run / "result.json").read_text())
