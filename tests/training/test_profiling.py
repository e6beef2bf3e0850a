"""debug=profile: parts sum to the whole, operations are torch's, numbers are those of a run without it."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trial import rows

import multihead
from multihead import capabilities
from multihead.config.compose import compose
from multihead.config.data import SPLITS
from multihead.data.prepare import prepare
from multihead.errors import ConfigError
from multihead.runs.checkpoint import FolderCheckpointIO
from multihead.training import profiling
from multihead.training.build import join
from multihead.training.cost import OPTIMIZER, flop_counter, optimizer_products, products
from multihead.training.profiling import DECODING, INSIDE, LOOP, Stopwatch, tables

SMALL = [
    "debug=profile",
    "model.d_model=32",
    "model.num_heads=2",
    "model.d_ff=64",
    "model.dropout=0.1",
    "data.grammar.train_size=400",
    "data.grammar.val_size=20",
    "data.grammar.test_size=20",
    "data.batch_tokens=512",
    "trainer.log_every_n_steps=1",
    "trainer.profile_steps=3",
    "trainer.max_steps=9",
]


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch):
    monkeypatch.setattr(profiling, "SECONDS", 0.01)


def built(*words):
    composition = compose([*SMALL, *words])
    task, data = join(composition, prepare(composition, SPLITS), 1)
    return task, data


@pytest.mark.parametrize(
    "words",
    [
        ["task=translation"],
        ["task=translation", "task.topology=decoder", "model.num_kv_heads=1", "model.activation=swiglu"],
        ["task=summarization", "task.copy=true"],
        ["task=lm", "model.max_len=64"],
        ["task=lm", "model.max_len=64", "model.head_size=24"],
        ["task=lm", "task.objective=masked", "model.max_len=64"],
        ["task=classification"],
        ["task=multitask", "data.part_tokens=256"],
    ],
)
@pytest.mark.unhurried
def test_operations_are_those_that_torch_counts(words, monkeypatch):
    task, data = built(*words)
    task.train()
    for batch in data.batches_of((0, 0)):
        with monkeypatch.context() as patched:  # by kernels that torch counts
            patched.setattr(capabilities, "has_onednn", lambda: False)
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as plain:
                loss = task.training_step(batch, 0)["loss"]
                forwards = plain.get_total_flops()
                loss.backward()
        with flop_counter() as fused:
            task.training_step(batch, 0)["loss"].backward()
        forward, backward = products(task, batch)
        assert sum(product.operations for product in forward) == pytest.approx(forwards, rel=0.01)
        whole = sum(product.operations for product in forward + backward)
        assert whole == pytest.approx(plain.get_total_flops(), rel=0.01)
        assert whole == pytest.approx(fused.get_total_flops(), rel=0.01)


def test_operations_of_an_update_are_those_that_torch_counts():
    task, data = built("task=translation", "optim=muon")
    optimizer = task.configure_optimizers()["optimizer"]
    task.training_step(next(data.batches_of((0, 0))), 0)["loss"].backward()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    found = optimizer_products(optimizer.param_groups)
    assert sum(product.operations for product in found) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_stopwatch_counts_what_is_inside_of_a_part_once(monkeypatch):
    ticks = iter([0, 1, 3, 6, 10, 15, 16, 16])
    watch = Stopwatch()
    monkeypatch.setattr(watch, "now", lambda: next(ticks))
    watch.start("before")
    watch.stop()
    watch.reset(True)  # 0
    watch.start("outer")  # 1
    watch.start("inner")  # 3
    watch.stop()  # 6
    watch.switch("other")  # 10
    watch.stop()  # 15
    assert watch.reset(False) == {LOOP: 1 + 1, "outer": 2 + 4, "inner": 3, "other": 5}


@pytest.mark.parametrize("task", ["translation", "lm", "classification", "multitask"])
def test_a_profile_of_every_task(tmp_path, capsys, task):
    words = [f"task={task}", *SMALL, "model.max_len=64"]
    returned = multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert returned == {**found, "run_dir": str(tmp_path / "run")}
    step, parts = found["step"], found["step"]["parts"]
    assert step["measured"] == 3
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(step["ms"], rel=0.01)
    encodes_only = "cross-attention" not in parts
    assert encodes_only == (task in ("lm", "classification"))
    assert set(INSIDE) - {"cross-attention"} <= set(parts)
    assert {LOOP, "callback Steps", "callback Progress"} <= set(parts)
    assert all(parts[name]["operations"] for name in ("self-attention", "feed-forward", "backward", OPTIMIZER))
    floor = found["floor"]
    assert floor["operations"] == pytest.approx(sum(part["operations"] for part in parts.values()))
    assert floor["ms"] > 0 and floor["ms_own_shapes"] > 0 and floor["measured_over_floor"] > 1
    assert set(found["decoding"]) == {"translation": {task}, "lm": {task}, "classification": set()}.get(
        task, {"lm", "translation"}
    )
    for decoded in found["decoding"].values():
        assert set(decoded["parts"]) - {"encoder", "reordering caches"} <= set(DECODING)
        assert sum(part["ms"] for part in decoded["parts"].values()) == pytest.approx(1e3 * decoded["seconds"], rel=0.1)
        assert 1 <= decoded["mean_rows"] <= decoded["texts"] and decoded["tokens_per_second"] > 0
    shown = capsys.readouterr().out
    for name in (*parts, *(part for one in found["decoding"].values() for part in one["parts"])):
        assert name in shown
    assert all(len({len(row) for row in table}) == 1 for table in tables(found).values())


def test_the_steps_are_those_of_a_run_without_a_profile(tmp_path):
    words = ["task=translation", *SMALL, "data.part_tokens=256", "trainer.activation_checkpointing=true"]
    profiled, plain = tmp_path / "profiled", tmp_path / "plain"
    found = multihead.train([*words, f"run_dir={profiled}"])
    multihead.train([*words, f"run_dir={plain}", "trainer.profile_steps=0"])
    assert rows(profiled) == rows(plain)
    states = [FolderCheckpointIO().load_checkpoint(run / "checkpoints" / "step_9") for run in (profiled, plain)]
    assert all(torch.equal(states[0]["state_dict"][name], value) for name, value in states[1]["state_dict"].items())
    parts = found["step"]["parts"]  # forward passes that the backward pass computes again are its own
    assert parts["backward"]["ms"] > parts["self-attention"]["ms"]


def test_what_cannot_be_profiled_is_refused(tmp_path):
    words = ["task=translation", "debug=profile", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(
        ConfigError, match=r"trainer\.profile_steps: only a run with one rank can be profiled; fix: devices=1"
    ):
        multihead.train([*words, "devices=2", "accelerator=cpu", "strategy=ddp"])
    begun = tmp_path / "begun"
    multihead.train(["task=translation", "debug=smoke", f"run_dir={begun}", "trainer.max_steps=2"])
    with pytest.raises(
        ConfigError, match=r"trainer\.profile_steps: only a new run can be profiled; fix: trainer\.profile"
    ):
        multihead.train([f"resume={begun}", "trainer.profile_steps=20", "trainer.max_steps=51"])
    with pytest.raises(ConfigError, match=r"trainer\.profile_steps: must be 0 if compile=true"):
        multihead.train([*words, "compile=true"])
    with pytest.raises(ConfigError, match=r"trainer\.profile_steps: must be at most 24 if trainer\.max_steps=51"):
        multihead.train([*words, "trainer.profile_steps=25"])
    for early in ("trainer.max_time=00:00:01:00", "trainer.early_stopping_patience=1"):
        key = early.partition("=")[0]
        what = (
            rf"trainer\.profile_steps: must be 0 if {key} may end the run before its last steps, got 20; fix: {key}=0?$"
        )
        with pytest.raises(ConfigError, match=what) as error:
            multihead.train([*words, early])
        compose([word for word in words if "run_dir" not in word] + [early, *error.value.fix.split()])
    assert compose(["task=lm", "experiment=finetune_lm", "debug=profile"]).config.trainer.profile_steps
    assert not (tmp_path / "run").exists()
