"""Every precision trains and resumes exactly; layers that are computed again have the same gradients."""

import json

import pytest
import torch
from trial import rows, train, weights

import multihead
from multihead import capabilities
from multihead.config.changes import decided, same_run
from multihead.config.compose import compose, conf_dir, load_yaml, to_yaml
from multihead.config.data import SPLITS
from multihead.config.training import PRECISIONS, Config
from multihead.data.prepare import prepare
from multihead.runs.checkpoint import FolderCheckpointIO
from multihead.training.build import join
from multihead.training.precision import cautions, settle

WORDS = [
    "trainer.max_steps=6",
    "trainer.val_every_n_steps=3",
    "trainer.checkpoint_every_n_steps=3",
    "model.dropout=0.1",
]


PROCESSORS = {"native": ("amx", 4.0), "measured": ("avx512", 1.5), "not worth it": ("avx512", 0.5), "laptop": ("", 0.1)}


@pytest.fixture
def processor(monkeypatch):
    """Puts another processor into the place of this one: its instructions, and how much it gains by bfloat16."""

    def put(name):
        instructions, gain = PROCESSORS[name]
        monkeypatch.setattr(capabilities, "bf16_instructions", lambda: instructions)
        monkeypatch.setattr(capabilities, "bf16_gain", lambda device: gain)

    return put


def settled(*words):
    composition = compose(["task=translation", "debug=smoke", "accelerator=cpu", *words])
    notes = settle(composition)
    assert to_yaml(composition.tree).count(f"precision: {composition.config.precision}\n") == 1
    assert composition.tree["optim"]["muon_dtype"] == composition.config.optim.muon_dtype
    return composition.config, notes


@pytest.mark.parametrize(
    ("name", "precision", "muon", "reason"),
    [
        ("native", "bf16-mixed", "bfloat16", "the processor multiplies bfloat16 natively (AMX)"),
        (
            "measured",
            "bf16-mixed",
            "bfloat16",
            "with AVX512-BF16, matrix products in bfloat16 are 1.5 times as fast as in",
        ),
        (
            "not worth it",
            "32-true",
            "float32",
            "with AVX512-BF16, matrix products in bfloat16 are 0.5 times as fast as in",
        ),
        ("laptop", "32-true", "float32", "the processor has no instructions that multiply bfloat16"),
    ],
)
@pytest.mark.unhurried
def test_auto_is_decided_by_the_processor_and_said(processor, name, precision, muon, reason):
    processor(name)
    config, notes = settled("precision=auto")
    assert (config.precision, config.optim.muon_dtype) == (precision, muon)
    assert len(notes) == 1 and notes[0].startswith(f"precision auto is {precision} here: {reason}")
    config, notes = settled("precision=16-mixed", "optim=adamw")
    assert (config.precision, config.optim.muon_dtype) == (precision, "auto")
    assert notes == [f"precision 16-mixed is for GPUs; a CPU computes in {precision} instead"]
    for typed in ("32-true", "bf16-mixed", "bf16-true", "64-true"):
        config, notes = settled(f"precision={typed}", "optim.muon_dtype=float32")
        assert (config.precision, config.optim.muon_dtype, notes) == (typed, "float32", [])


def test_ranks_that_others_started_do_not_measure(processor, monkeypatch):
    processor("measured")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    config, notes = settled("precision=auto")
    assert (config.precision, config.optim.muon_dtype) == ("32-true", "float32")
    assert "ranks that torchrun or srun started do not measure it" in notes[0]


@pytest.mark.parametrize(
    ("device", "native", "precision", "reason"),
    [
        ("cuda", True, "bf16-mixed", "the GPU multiplies bfloat16 natively"),
        ("cuda", False, "32-true", "the GPU does not multiply bfloat16 natively"),
        ("mps", False, "32-true", "bfloat16 was not tried on mps"),
        ("tpu", False, "32-true", "bfloat16 was not tried on tpu"),
    ],
)
@pytest.mark.unhurried
def test_auto_on_other_devices(monkeypatch, device, native, precision, reason):
    monkeypatch.setattr(capabilities, "device_counts", lambda: {device: 1, "cpu": 1})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    _, notes = settled("accelerator=auto", "precision=auto")
    assert notes == [f"precision auto is {precision} here: {reason}"]
    if device == "cuda":
        assert settled("accelerator=cuda", "precision=16-mixed")[0].precision == "16-mixed"


def test_bfloat16_that_is_emulated_is_warned_of_with_the_measured_ratio(processor):
    line = "matrix products in bfloat16 take 10.0 times as long as in float32 on this CPU; precision=32-true is faster"
    for name, warned in {"native": False, "measured": False, "laptop": True}.items():
        processor(name)
        for precision in ("bf16-mixed", "bf16-true"):
            expected = [f"precision {precision}: {line}"] if warned else []
            assert cautions(Config(accelerator="cpu", precision=precision)) == expected
        assert cautions(Config(accelerator="cpu")) == []


def test_more_threads_than_cores_are_warned_of(monkeypatch):
    monkeypatch.setattr(capabilities, "cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    line = "8 threads share 2 processor cores; the environment variable OMP_NUM_THREADS=2 is faster"
    assert cautions(Config(accelerator="cpu")) == [line]
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert "4 processes of 8 threads each share 2 processor cores" in cautions(Config(accelerator="cpu"))[0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert cautions(Config(accelerator="cpu")) == ["4 processes share 2 processor cores; devices=2 is as fast"]


def recorded(run):
    """What the run directory says of its precision: configuration, model and newest checkpoint."""
    config = load_yaml(run / "config.yaml")
    latest = max((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    record = FolderCheckpointIO().load_checkpoint(latest)["multihead"]["record"]
    model = json.loads((run / "model" / "model.json").read_text())["config"]
    found = {(c["precision"], c["optim"]["muon_dtype"]) for c in (config, model)}
    return found | {(record["precision"], record["optim.muon_dtype"])}


def test_a_run_keeps_what_auto_became_on_another_processor(tmp_path, processor, capsys):
    """Begun where bfloat16 pays, resumed where it is emulated, by the same words and by the run's name."""
    processor("native")
    run = tmp_path / "run"
    words = ["precision=auto", "accelerator=cpu", *WORDS]
    train(run, *words)
    assert recorded(run) == {("bf16-mixed", "bfloat16")}
    assert "precision auto is bf16-mixed here: " in (run / "train.log").read_text()
    processor("laptop")
    capsys.readouterr()
    assert train(run, *words, "resume=auto")["steps"] == 6
    assert "is finished already" in capsys.readouterr().out
    (run / "result.json").unlink()
    train(run, *words, "resume=auto")
    assert recorded(run) == {("bf16-mixed", "bfloat16")}
    said = capsys.readouterr().out
    assert "precision auto is" not in said and "precision: " not in said.partition("resume: changed")[2]
    assert "precision bf16-mixed: matrix products in bfloat16 take 10.0 times as long" in " ".join(said.split())
    multihead.train([f"resume={run}", "trainer.max_steps=7"])
    assert recorded(run) == {("bf16-mixed", "bfloat16")}
    capsys.readouterr()
    multihead.train([f"resume={run}", "trainer.max_steps=8", "precision=auto", "optim.muon_dtype=auto"])
    assert recorded(run) == {("32-true", "float32")}
    said = " ".join(capsys.readouterr().out.split())
    assert "precision auto is 32-true here: " in said
    assert "precision: bf16-mixed -> 32-true" in said and "optim.muon_dtype: bfloat16 -> float32" in said


def test_what_a_device_decided_is_the_same_run():
    saved = {"precision": "32-true", "optim": {"muon_dtype": "float32"}, "seed": 1}
    wanted = {"precision": "auto", "optim": {"muon_dtype": "auto"}, "seed": 1}
    assert same_run(saved, wanted) and decided(saved, wanted) == {"precision": "32-true", "optim.muon_dtype": "float32"}
    assert same_run({"precision": "32-true", "seed": 1}, wanted)  # made before there was muon_dtype
    assert same_run(saved, {**wanted, "precision": "16-mixed"})
    assert not same_run({**saved, "precision": "64-true"}, wanted)
    assert not same_run(saved, {**wanted, "precision": "bf16-mixed"})
    assert not same_run(saved, {**wanted, "seed": 2})


def test_recipes_leave_the_precision_to_the_device():
    named = {file.stem: load_yaml(file).get("precision") for file in (conf_dir() / "experiment").glob("*.yaml")}
    assert len(named) >= 10 and set(named.values()) == {None, "auto"}
    assert list(named.values()).count("auto") >= 7


RARE = ("64-true", "bf16-true")


@pytest.mark.parametrize(
    "precision",
    [pytest.param(p, marks=[pytest.mark.slow] * (p in RARE)) for p in PRECISIONS if p != "auto"],
)
def test_every_precision_trains_and_resumes_exactly(tmp_path, processor, capsys, precision):
    processor("native")
    words = [*WORDS, f"precision={precision}", "accelerator=cpu"]
    whole = train(tmp_path / "whole", *words)
    assert whole["test/loss"] > 0
    said = capsys.readouterr().err + (tmp_path / "whole" / "train.log").read_text()
    assert "You passed" not in said
    assert ("is for GPUs; a CPU computes in bf16-mixed instead" in said) == (precision == "16-mixed")
    first = train(tmp_path / "run", *words, "trainer.max_steps=4", "optim.schedule=constant")
    assert first["steps"] == 4
    train(tmp_path / "other", *words, "optim.schedule=constant")
    multihead.train([f"resume={tmp_path / 'run'}", "trainer.max_steps=6"])
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "other")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(tmp_path / "run")[-2:] == rows(tmp_path / "other")[-2:]


def gradients(*words):
    """Gradients of one batch of a tiny translation model, and bytes kept for the backward pass."""
    composition = compose(
        ["task=translation", "debug=smoke", "model.dropout=0.2", "model.num_decoder_layers=3", *words]
    )
    task, data = join(composition, prepare(composition, SPLITS), 1)
    batch = next(iter(data.train_dataloader()))
    kept, parameters = {}, {p.untyped_storage().data_ptr() for p in task.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.training_step(batch, 0)["loss"]
        size = sum(kept.values())
        loss.backward()
    return {name: p.grad for name, p in task.named_parameters()}, size


def test_recomputed_layers_have_the_same_gradients_and_keep_less():
    plain, much = gradients()
    again, little = gradients("trainer.activation_checkpointing=true")
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert little < 0.7 * much


def test_smaller_parts_keep_less():
    _, whole = gradients()
    _, part = gradients("data.part_tokens=128")
    assert part < 0.5 * whole
