"""The run directory: what is in it, and that it moves, predicts, scores and is never overwritten."""

import io
import json
import math
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_model
from trial import train, weights

import multihead
from multihead.cli import main
from multihead.commands.evaluate import evaluate
from multihead.errors import CheckpointError, ConfigError
from multihead.runs.directory import save_weights
from multihead.runs.run import load_weights

LEARNT = [
    "trainer.max_steps=150",
    "trainer.val_every_n_steps=150",
    "optim=muon",
    "optim.warmup_steps=5",
    "model.d_model=64",
]
"""Enough for outputs that are words and for a BLEU above 0."""


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    """A finished run that was copied to another folder, and its result."""
    words = ["task=translation", *LEARNT, "tokenizer.vocab_size=400"]
    return runs.copy(tmp_path_factory.mktemp("runs") / "copied", *words), runs.result(*words)


def predict(monkeypatch, capsys, run, text, *words):
    """What ``multihead predict`` prints for an input."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False))
    capsys.readouterr()
    assert main(["predict", f"run={run}", *words]) == 0
    return capsys.readouterr().out


def test_what_is_in_it(finished):
    run, _ = finished
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files >= {
        *("config.yaml", "overrides.yaml", "environment.json", "metrics.csv", "events.jsonl", "samples.jsonl"),
        *("result.json", "train.log", "checkpoints/latest.json", "checkpoints/best.json"),
        *("model/model.safetensors", "model/model.json", "model/tokenizer.json", "model/labels.json"),
    }
    assert not [name for name in files if name.endswith((".pt", ".ckpt", ".pkl", ".tmp"))]
    assert not (run / "crash.txt").exists()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 1
    assert set(environment["data"]) >= {"data_train", "data_val", "data_test"}
    assert all(len(mark) == 64 for name, mark in environment["data"].items() if name.startswith("data_"))
    assert environment["rows"].keys() == {"train", "val", "test"} and environment["rows"]["test"] == len(
        [line for line in (run / "samples.jsonl").read_text().splitlines() if json.loads(line)["split"] == "test"]
    )
    assert environment["versions"]["torch"] == torch.__version__
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {"split", "step", "index", "source", "reference", "output"} <= samples[0].keys()


def test_result(finished):
    run, result = finished
    assert json.loads((run / "result.json").read_text()) | {"run_dir": result["run_dir"]} == result
    assert all(isinstance(value, int | float | str) for name, value in result.items() if name != "notes")
    assert all(isinstance(note, str) for note in result["notes"])
    assert {"test/bleu", "test/chrf", "test/loss", "test/perplexity", "test/token_accuracy", "val/bleu"} <= set(result)
    assert result["test/perplexity"] == pytest.approx(math.exp(result["test/loss"]))
    assert result["parameters"] == sum(tensor.numel() for tensor in weights(run).values())
    assert result["steps"] == 150
    assert result["tokens"] > 150 * 300
    assert result["seconds"] > 0
    assert result["tokens_per_second"] > 0
    assert 0 <= result["padding"] < 0.2
    assert result["seed"] == 1
    assert result["best_checkpoint"] == "checkpoints/step_150"
    assert result["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert {"git_commit"} <= set(result)


def test_evaluate_gives_the_same_numbers_and_never_writes_over_the_result(finished, capsys):
    run, result = finished
    before = (run / "result.json").read_bytes()
    assert main(["evaluate", f"run={run}"]) == 0
    again = json.loads((run / "evaluate_test.json").read_text())
    assert result["test/bleu"] > 0
    for name in ("test/bleu", "test/chrf", "test/bleu_lowercase", "test/loss", "signature"):
        assert again[name] == result[name], name
    assert main(["evaluate", f"run={run}", "data.split=val", "decoding.num_beams=3"]) == 0
    (beams,) = [json.loads(path.read_text()) for path in run.glob("evaluate_val_*.json")]
    assert beams["val/loss"] == pytest.approx(result["val/loss"], rel=1e-6)
    assert (run / "result.json").read_bytes() == before


def test_evaluate_warns_of_rows_that_are_not_the_runs(finished, tmp_path, caplog):
    run = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    known = json.loads((run / "environment.json").read_text())
    known["data"]["data_val"] = "0" * 64
    (run / "environment.json").write_text(json.dumps(known))
    what = "the rows of val are not those that the run had"
    evaluate(str(run), ["data.split=val", "trainer.limit_val_examples=1"])
    assert what in caplog.text
    caplog.clear()
    evaluate(str(run), ["data.split=val", "data.grammar.val_size=3"])  # asked for
    assert what not in caplog.text


def test_evaluate_on_a_file_of_ones_own(finished, tmp_path, capsys):
    run, _ = finished
    (tmp_path / "mine.tsv").write_text("the dog sleeps\tder Hund schläft\nthe cat sleeps\tdie Katze schläft\n")
    assert main(["evaluate", f"run={run}", "data=files", f"data.test={tmp_path / 'mine.tsv'}"]) == 0
    (mine,) = [path for path in run.glob("evaluate_test_*.json") if "mine.tsv" in path.read_text()]
    assert json.loads(mine.read_text())["examples"] == 2


def test_every_line_is_answered_in_order(finished, monkeypatch, capsys):
    run, _ = finished
    lines = [
        b"Paul sees the dog.",
        b"",
        b"the dog " * 5000,
        "\N{PILE OF POO}\N{ZERO WIDTH JOINER} \u2028 \u0085 \x0b \x0c \x00 \x1b[31m".encode(),
        b" \t  ",
        "\u3000\xa0\u200b".encode(),
        b"<eos> <pad> <bos>",
        b"The cat sleeps.\r",
    ]
    answers = predict(monkeypatch, capsys, run, b"\n".join(lines) + b"\n")
    assert answers.endswith("\n")
    answers = answers[:-1].split("\n")
    assert len(answers) == len(lines)
    assert answers[1] == answers[4] == answers[5] == ""
    loaded = multihead.load(run)
    assert answers[0] == loaded.translate(["Paul sees the dog."])[0]
    assert answers[7] == loaded.translate(["The cat sleeps."])[0]
    assert predict(monkeypatch, capsys, run, b"") == ""


def test_several_runs_answer_and_are_evaluated_together(finished, tmp_path, monkeypatch, capsys):
    run, result = finished
    other = shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("evaluate_*"))
    task = multihead.load(run).task
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(parameter.std() * torch.randn(parameter.shape, generator=generator) * 0.3)
    save_weights(task.model, other / "model" / "model.safetensors")
    text = b"Paul sees the dog.\nThe cat sleeps.\n"
    alone = [predict(monkeypatch, capsys, each, text, "format=jsonl") for each in (run, other)]
    together = predict(monkeypatch, capsys, run, text, "format=jsonl", f"ensemble=[{other}]")
    assert together not in alone
    assert predict(monkeypatch, capsys, other, text, "format=jsonl", f"ensemble={run}") == together
    assert predict(monkeypatch, capsys, run, text, "format=jsonl", f"ensemble=[{run},{run}]") == alone[0]
    loaded = multihead.load(run, ensemble=[other])
    found = [best["text"] for best, *_ in loaded.predict(text.decode().splitlines())]
    assert found == [json.loads(line)["outputs"][0]["text"] for line in together.splitlines()]
    assert main(["predict", f"run={run}", "ensemble=nowhere"]) == 2
    assert "error[config] ensemble: no such directory: nowhere" in capsys.readouterr().err
    assert main(["evaluate", f"run={other}", f"ensemble={run}"]) == 0
    (found,) = [json.loads(path.read_text()) for path in other.glob("evaluate_test_*.json")]
    assert found["test/loss"] != result["test/loss"]
    assert str(run) in found["overrides"]


def test_json_lines_with_n_best(finished, monkeypatch, capsys):
    run, _ = finished
    words = ["format=jsonl", "decoding.num_beams=4", "decoding.num_return_sequences=3"]
    answers = predict(monkeypatch, capsys, run, b"Paul sees the dog.\n\nThe cat sleeps.", *words).splitlines()
    first, empty, last = (json.loads(line) for line in answers)
    assert first["input"] == "Paul sees the dog."
    assert [output["text"] for output in empty["outputs"]] == [""]
    scores = [output["score"] for output in last["outputs"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_scores_are_those_of_the_search(finished):
    run, _ = finished
    loaded = multihead.load(run)
    sources = ["Paul sees the dog.", "The cat sleeps."]
    found = loaded.task.translate(
        sources, replace(loaded.config.decoding, num_beams=4, num_return_sequences=4, max_new_tokens=40)
    )
    tokenizer = loaded.task.tokenizers["target"]
    compared = 0
    for source, hypotheses in zip(sources, found, strict=True):
        for text, hypothesis in hypotheses:
            if len(hypothesis.ids) < 40 and tokenizer.encode_batch([text])[0] == hypothesis.ids:  # ended, and cut so
                compared += 1
                assert loaded.score([source], [text])[0] == pytest.approx(hypothesis.log_prob, abs=1e-4)
    assert compared


def test_explain_and_diff_answer(finished, tmp_path, capsys):
    run, _ = finished
    other = shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("evaluate_*"))
    (other / "config.yaml").write_text((run / "config.yaml").read_text().replace("d_ff: 64", "d_ff: 65"))
    assert main(["explain", f"run={run}", "key=model.d_ff"]) == 0
    assert "64" in capsys.readouterr().out
    assert main(["diff", f"a={run}", f"b={other}"]) == 0
    assert "model.d_ff" in capsys.readouterr().out


def test_a_second_run_into_the_same_directory_is_refused(finished):
    run, _ = finished
    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*"))
    with pytest.raises(ConfigError, match=r"run_dir: .* exists already and is not empty") as caught:
        train(run)
    assert caught.value.status == 2
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*")) == before


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="is not the directory of a run"):
        multihead.load(tmp_path)
    with pytest.raises(ConfigError, match="no such directory"):
        multihead.load(tmp_path / "nowhere")
    assert main(["evaluate", f"run={tmp_path}"]) == 2
    assert main(["predict", f"run={tmp_path}"]) == 2
    assert main(["train", f"resume={tmp_path}"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer.json"])
def test_a_damaged_model_is_refused(finished, tmp_path, name):
    run = shutil.copytree(finished[0], tmp_path / "run")
    file = run / "model" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        multihead.load(run)
    assert len(str(caught.value).splitlines()) == 1
    file.unlink()
    with pytest.raises(CheckpointError):
        multihead.load(run)


def test_averaged_weights_are_the_mean_of_the_last_steps(tmp_path):
    words = ["trainer.checkpoint_every_n_steps=1", "trainer.keep_checkpoints=10", "trainer.val_every_n_steps=10"]
    train(tmp_path, *words, "trainer.average_last_steps=6", "trainer.average_every_n_steps=2", "optim.lr=1e-2")
    states = [load_file(tmp_path / f"checkpoints/step_{step}/tensors.safetensors") for step in (6, 8, 10)]
    for name, averaged in weights(tmp_path).items():
        key = f"/current_model_state/model.{name}"
        if key in states[0]:
            mean = torch.stack([state[key] for state in states]).mean(0)
            torch.testing.assert_close(averaged, mean, rtol=1e-5, atol=1e-7)
            assert not torch.equal(averaged, states[-1][key])


def test_a_decoder_alone_trains_and_translates(tmp_path):
    train(tmp_path, "task.topology=decoder", "model.tie_embeddings=target_output", "model.num_decoder_layers=2")
    loaded = multihead.load(tmp_path)
    texts = ["Paul sees the dog.", "the dog " * 500, "The cat sleeps where the old man has seen a dog."]
    together = loaded.translate(texts, num_beams=2)
    assert together == [loaded.translate([text], num_beams=2)[0] for text in texts]
    assert all(score < 0 for score in loaded.score(texts, ["Der Hund schläft."] * 3))


def test_batches_are_searched_side_by_side_to_the_same_outputs(finished):
    words = ["data.eval_tokens=16", "decoding.num_beams=2", "decoding.max_new_tokens=8"]
    task = multihead.load(finished[0], *words).task
    texts, threads, before = ["Paul sees the dog.", "The cat sleeps."] * 4, set(), torch.get_num_threads()
    task.model.transformer.encoder.register_forward_hook(lambda *_: threads.add(threading.get_ident()))
    try:
        torch.set_num_threads(2)
        together = task.translate(texts, task.config.decoding)
        assert threading.get_ident() not in threads
        task.config.trainer.profile_steps = 1  # its clock follows one pass at a time
        threads.clear()
        assert [found[0][0] for found in task.translate(texts, task.config.decoding)] == [n[0][0] for n in together]
        assert threads == {threading.get_ident()}
        task.config.trainer.profile_steps, task.config.strategy = 0, "fsdp"  # its hooks do so too
        task.translate(texts, task.config.decoding)
        assert threads == {threading.get_ident()}
    finally:
        torch.set_num_threads(before)


def test_examples_learnt_by_heart_reach_the_floor_of_label_smoothing(tmp_path):
    words = ["task=translation", "model=tiny", "debug=overfit", "model.num_encoder_layers=1", "optim.warmup_steps=20"]
    sizes = ["model.num_decoder_layers=1", "model.d_model=64", "model.d_ff=128", "trainer.overfit_examples=8"]
    more = ["optim.lr=5e-3", "data.grammar.train_size=400", "trainer.max_steps=120", "trainer.val_every_n_steps=120"]
    result = multihead.train([*words, *sizes, *more, f"run_dir={tmp_path / 'run'}"])
    size = multihead.load(tmp_path / "run").task.tokenizers["target"].vocab_size
    keep = 0.9 + 0.1 / size
    floor = -keep * math.log(keep) - (size - 1) * 0.1 / size * math.log(0.1 / size)
    assert floor <= result["train/loss"] < floor + 0.1
    assert result["val/bleu"] > 99
    assert main(["evaluate", f"run={tmp_path / 'run'}"]) == 0
    assert Path(tmp_path / "run" / "evaluate_test.json").exists()


def test_init_from_starts_from_the_weights_and_tokenizer_of_a_run(finished, tmp_path):
    first = finished[0]
    still = ["optim.lr=1e-30", "optim.muon_lr=1e-30", "model.d_model=64"]
    train(tmp_path / "second", f"init_from={first}", "init_tokenizer=same", "seed=7", *still)
    before, after = weights(first), weights(tmp_path / "second")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ConfigError, match=r"has model\.d_model=64, this run has 16; fix: model\.d_model=64"):
        train(tmp_path / "third", f"init_from={first}", "model.d_model=16")
    assert not (tmp_path / "third").exists()


def test_sampling_is_refused_where_outputs_are_searched_for(finished):
    with pytest.raises(ConfigError, match=r"decoding\.do_sample: must be false for task=translation: only task=lm"):
        multihead.load(finished[0]).translate(["A dog."], do_sample=True)


def test_equal_weights_give_equal_bytes(tmp_path):
    """The order in which safetensors writes the names of tied tensors changes from file to file."""
    shared = torch.nn.Linear(2, 2)
    model = torch.nn.ModuleDict({f"layer{number}": shared for number in range(8)})
    files = [tmp_path / f"{number}.safetensors" for number in range(10)]
    for file in files:
        save_weights(model, file)
    assert len({file.read_bytes() for file in files}) == 1
    fresh = torch.nn.ModuleDict({f"layer{number}": layer for number, layer in enumerate([torch.nn.Linear(2, 2)] * 8)})
    load_weights(SimpleNamespace(model=fresh), files[0])
    assert torch.equal(fresh["layer7"].weight, shared.weight)
    for file in files:
        save_model(model, str(file))
    assert len({file.read_bytes() for file in files}) > 1, "safetensors sorts by itself now: save_weights can go"
