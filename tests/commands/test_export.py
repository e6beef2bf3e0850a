"""``export``: end to end on a run, what is refused, and that nothing is left where the comparison fails."""

import json
import re

import pytest
from trial import ROOT, train

from multihead.cli import main
from multihead.config.verbs import ExportSettings
from multihead.errors import ConfigError
from multihead.exporting import ctranslate
from multihead.exporting.formats import folder_of


@pytest.fixture
def run(runs, tmp_path):
    """A translation run of a few steps that a test may write into."""
    return runs.copy(tmp_path / "run", "task=translation")


@pytest.mark.parametrize(
    ("words", "folder", "files"),
    [
        (["to=ctranslate2", "decoding.num_beams=2"], "ctranslate2", ["model.bin", "config.json"]),
        (["to=ctranslate2", "quantization=int8"], "ctranslate2_int8", ["model.bin", "config.json"]),
        (["to=onnx", "quantization=int8"], "onnx_int8", ["encode.onnx", "decode.onnx"]),
        (["to=torch_export"], "torch_export", ["encode.pt2", "decode.pt2"]),
        (["to=huggingface", "remote_code=true"], "huggingface", ["modeling_multihead.py", "model.safetensors"]),
    ],
)
def test_every_format(words, folder, files, run, capsys):
    assert main(["export", f"run={run}", "sentences=8", *words]) == 0
    out = run / "export" / folder
    assert {*files, "README.md", "verification.json", "tokenizer.json"} <= {file.name for file in out.iterdir()}
    verification = json.loads((out / "verification.json").read_text())
    assert verification["inputs"] == 8
    if "int8" not in folder:
        assert verification["equal_outputs"] == 1.0
        assert verification["largest_difference"] <= 1e-4 * verification["scale"]
    if folder == "onnx_int8":
        import onnx

        cost = f"On 8 inputs of the run, {verification['equal_outputs']:.1%} of the outputs"
        text = (out / "README.md").read_text()
        assert cost in text and not list(out.glob("*.float32"))
        assert re.search(r"The loss on the targets of 8 inputs is \d\.\d{4} nats a token; the run's is \d", text)
        kinds = {each.data_type for file in out.glob("*.onnx") for each in onnx.load(file).graph.initializer}
        assert onnx.TensorProto.INT8 in kinds
    said = capsys.readouterr().out
    assert "largest difference" in said and f"wrote {out}" in said.replace("\n", "")


def test_it_is_written_again_where_it_was(run, tmp_path):
    for _ in range(2):
        assert main(["export", f"run={run}", "to=ctranslate2", "sentences=2", f"out={tmp_path / 'there'}"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "there"]


def test_a_difference_is_refused_and_nothing_is_left(run, monkeypatch, capsys):
    fill = ctranslate._fill_linear

    def doubled(spec, *layers):
        fill(spec, *layers)
        spec.weight *= 1.5

    monkeypatch.setattr(ctranslate, "_fill_linear", doubled)
    assert main(["export", f"run={run}", "to=ctranslate2", "sentences=4"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error[checkpoint] export: the exported model does not compute what the run computes: its")
    assert "outputs are equal (greedy)" in error and error.count("\n") == 1
    assert not list((run / "export").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=tflite"], "to: must be one of ctranslate2, onnx, torch_export, huggingface, lora, got 'tflite'"),
        ([], "to: is missing"),
        (["to=torch_export", "quantization=int8"], "quantization: must be left out if to=torch_export"),
        (["to=onnx", "quantization=int16"], "quantization: must be one of float32, int8, got 'int16'"),
        (["to=ctranslate2", "quantization=int3"], "quantization: must be one of float32, int8"),
        (["to=safetensors"], "to: RUN/model has this format already: model.safetensors, model.json"),
        (["to=onnx", "remote_code=true"], "remote_code: must be false if to=onnx"),
        (["to=huggingface"], "fix: remote_code=true, which writes the model's code beside its weights; or to=onnx"),
        (["to=ctranslate2", "sentences=none"], "sentences: must be a whole number"),
        (["to=ctranslate2", "part=lm"], "part: must be one of translation"),
    ],
)
def test_words_that_are_refused(words, message, run, capsys):
    assert main(["export", f"run={run}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "export").exists() or not list((run / "export").iterdir())


def test_the_names_of_folders(tmp_path):
    assert folder_of(ExportSettings(run="r", to="ctranslate2", quantization="float32"), tmp_path).name == "ctranslate2"
    assert folder_of(ExportSettings(run="r", to="onnx", out="there"), tmp_path).name == "there"
    with pytest.raises(ConfigError, match="only ctranslate2 and onnx store weights in other types"):
        ExportSettings(run="r", to="huggingface", quantization="int8")


def test_a_part_of_several_tasks(tmp_path, capsys):
    run = tmp_path / "run"
    train(run, "task=multitask", "task.parts=[lm,translation]")
    assert main(["export", f"run={run}", "to=ctranslate2", "sentences=4"]) == 2
    assert "part: is missing" in capsys.readouterr().err
    for part in ("lm", "translation"):
        words = [f"run={run}", "to=ctranslate2", f"part={part}", "sentences=4", f"out={tmp_path / part}"]
        assert main(["export", *words]) == 0


def test_a_plugins_attention_is_traced_and_refused_by_ctranslate2(tmp_path, capsys):
    plugin = f"plugin={ROOT / 'docs' / 'examples' / 'linear_attention.py'}"
    run = tmp_path / "run"
    train(run, "task=lm", plugin, "model.attention=linear", "trainer.max_steps=2")
    assert main(["export", f"run={run}", "to=ctranslate2", plugin]) == 2
    assert "model.attention=linear: CTranslate2 runs its own blocks" in capsys.readouterr().err
    assert main(["export", f"run={run}", "to=torch_export", "sentences=2", plugin]) == 0
