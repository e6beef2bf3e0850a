"""torch.export and ONNX programs: logits at every place and greedy outputs are ours, for any batch and length."""

import sys

import pytest
import torch
from tiny import ALIBI, OPTIONS, drawn, ids, new_task, reference

from multihead.config.task import POOLINGS
from multihead.errors import ConfigError
from multihead.exporting import programs
from multihead.exporting.verify import verify

pytestmark = pytest.mark.unhurried

NGRAMS = ["model.ngram_buckets=30", "model.ngram_max=3", "task.ngram_buckets=90"]
SMALL = ["model.num_encoder_layers=1", "model.num_decoder_layers=1"]
TASKS = [["task=translation"], ["task=translation", "task.topology=decoder"], ["task=lm"],
         ["task=lm", "task.objective=masked"], ["task=classification"],
         ["task=classification", "task.stack=decoder"]]  # fmt: skip
COPYING = ["task=summarization", "task.copy=true"]
TRACED = [
    (TASKS[0], ["model.position=alibi", "model.norm_placement=post", "model.qk_norm=true"]),
    (TASKS[1], OPTIONS[4]),
    (TASKS[2], OPTIONS[5]),
    (TASKS[3], OPTIONS[8]),
    (COPYING, OPTIONS[3]),
    (TASKS[4], NGRAMS),
]
MORE_TRACED = [
    (TASKS[0], OPTIONS[3]),
    (TASKS[1], OPTIONS[7]),
    (TASKS[0], ["model.max_len=256"]),  # lengths on both sides of kernels.SHORT
    (TASKS[0], NGRAMS[:2]),
    (TASKS[1], NGRAMS[:2]),
]
ONNX = [(TASKS[1], [*OPTIONS[3], "model.position=learned"]),
        (TASKS[5], ["task.pooling=last", "model.position=alibi", *NGRAMS])]  # fmt: skip
MORE_ONNX = [(TASKS[0], OPTIONS[7]), (COPYING, ["model.position=rotary"])]
ALL = [(task, words) for task in TASKS for words in OPTIONS + ALIBI]


def exported(task, folder, to):
    """The comparison of a fresh export."""
    ours = reference(task)
    programs.write(ours, folder, to)
    examples = drawn(task, 6)
    return verify(programs.Runtime(folder, ours, to), ours, examples, ours.outputs(examples, greedy=True), exact=True)


def check(to, task, words, folder):
    found = exported(new_task(*task, *SMALL, *words), folder, to)
    assert found.largest_difference < 1e-5 * found.scale
    assert found.equal_outputs == 1.0


def cases(default, more):
    """Parameters of which some are slow: each traces a model, which takes seconds."""
    return [
        pytest.param(task, words, id=ids(task + words), marks=[pytest.mark.slow] * slow)
        for slow, rows in ((False, default), (True, more))
        for task, words in rows
    ]


@pytest.mark.parametrize(("task", "words"), cases(TRACED, MORE_TRACED))
def test_torch_export(task, words, tmp_path):
    check("torch_export", task, words, tmp_path)


@pytest.mark.parametrize(
    "pooling",
    [name if name in ("max", "attention") else pytest.param(name, marks=pytest.mark.slow) for name in POOLINGS],
)
def test_classes_by_every_pooling(pooling, tmp_path):
    check("torch_export", TASKS[4], [f"task.pooling={pooling}"], tmp_path)


@pytest.mark.parametrize(("task", "words"), cases(ONNX, MORE_ONNX))
def test_onnx(task, words, tmp_path, capfd):
    check("onnx", task, words, tmp_path)
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("to", programs.SUFFIXES)
@pytest.mark.parametrize(("task", "words"), ALL, ids=[ids(task + words) for task, words in ALL])
def test_every_option(to, task, words, tmp_path):
    check(to, task, words, tmp_path)


def test_one_row_of_one_token_and_the_longest(tmp_path):
    task = new_task("task=lm", *SMALL)
    programs.write(reference(task), tmp_path, "torch_export")
    program = programs.load(tmp_path / "logits.pt2")
    for shape in ((1, 1), (1, 40), (7, 2)):
        tokens = torch.randint(6, 12, shape)
        with torch.no_grad():
            assert torch.allclose(program(tokens=tokens), task.model.head(task.hidden(tokens)), atol=1e-5)


def test_no_program_names_the_folders_of_this_machine(tmp_path):
    task = new_task("task=lm", *SMALL)
    for to in programs.SUFFIXES:
        programs.write(reference(task), tmp_path, to)
    assert not [file for file in tmp_path.iterdir() if b"transformer.py" in file.read_bytes()]


def test_what_cannot_be_traced(tmp_path):
    task = new_task("task=lm", *SMALL)
    layer = task.model.transformer.decoder.layers[0]
    layer.feed_forward.forward = lambda x: x * float(x.sum()) if float(x.sum()) > 0 else x
    with pytest.raises(ConfigError, match="to: logits cannot be traced for torch_export"):
        programs.write(reference(task), tmp_path, "torch_export")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_package_is_missing(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'onnx needs {package}, .*pip install "multihead\[export\]"'):
        programs.import_onnx()


@pytest.mark.parametrize("words", [*TASKS, COPYING], ids=ids)
@pytest.mark.parametrize("to", programs.SUFFIXES)
def test_the_readme_names_every_file_and_input(words, to):
    ours = reference(new_task(*words, *SMALL))
    text = programs.readme(ours, {"text": "tokenizer.json"}, to)
    for name, (_, inputs) in programs.modules(ours).items():
        assert all(f"`{key}`" in text for key in [*inputs, name + programs.SUFFIXES[to]])
