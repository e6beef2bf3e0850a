"""Checkpoint folders: what goes in comes out, damage is found, a full disk harms nothing that was saved."""

import json
import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from multihead.errors import CheckpointError, MachineError
from multihead.runs.checkpoint import (
    DAMAGED,
    MANIFEST,
    STATE,
    TENSORS,
    FolderCheckpointIO,
    checkpoints,
    clean,
    damage,
    newest_valid,
    pack,
    random_state,
    set_random_state,
    sha256,
    unpack,
)


def state(step=1):
    weight = torch.arange(6.0).view(2, 3) * step
    return {
        "global_step": step,
        "state_dict": {"a.weight": weight, "tied.weight": weight, "half": torch.tensor([1.5], dtype=torch.bfloat16)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "param_groups": [{"lr": 1e-3}]}],
        "empty": torch.zeros(0, 4),
        "scalar": np.float64(0.1),
        "nothing": None,
        "text": "$tensor",
        "list": [1, 2.5, True, [float("inf")]],
    }


def test_pack_and_unpack():
    tensors = {}
    packed = json.loads(json.dumps(pack(state(), tensors)))
    back = unpack(packed, tensors)
    assert back["optimizer_states"][0]["state"].keys() == {0, 1}  # integer keys stay integers
    for name in ("global_step", "scalar", "nothing", "text", "list"):
        assert back[name] == state()[name]
    for name, tensor in state()["state_dict"].items():
        assert torch.equal(back["state_dict"][name], tensor)
        assert back["state_dict"][name].dtype == tensor.dtype
    assert back["empty"].shape == (0, 4)


def test_shared_tensors_are_stored_once(tmp_path):
    FolderCheckpointIO().save_checkpoint(state(), tmp_path / "step_1")
    stored = load_file(tmp_path / "step_1" / TENSORS)
    assert "/state_dict/a.weight" in stored
    assert "/state_dict/tied.weight" not in stored
    loaded = FolderCheckpointIO().load_checkpoint(tmp_path / "step_1")["state_dict"]
    assert loaded["a.weight"].data_ptr() == loaded["tied.weight"].data_ptr()


def test_code_is_refused_when_saving(tmp_path):
    with pytest.raises(TypeError, match="/x must be a tensor, number, string, list or dict, got function"):
        FolderCheckpointIO().save_checkpoint({"global_step": 1, "x": lambda: None}, tmp_path / "step_1")


def test_random_streams_come_back():
    before = random_state()
    first = torch.rand(3), np.random.rand(3)
    set_random_state(unpack(json.loads(json.dumps(pack(before, tensors := {}))), tensors))
    assert torch.equal(torch.rand(3), first[0])
    assert (np.random.rand(3) == first[1]).all()


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
def test_every_flipped_bit_is_found_or_harmless(tmp_path, name):
    path = tmp_path / "step_1"
    FolderCheckpointIO().save_checkpoint(state(), path)
    content = (path / name).read_bytes()
    harmless = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        (path / name).write_bytes(flipped)
        if damage(path):
            continue
        assert name == MANIFEST  # which says nothing but the step that the checksums do not cover
        harmless += 1
        assert torch.equal(
            FolderCheckpointIO().load_checkpoint(path)["state_dict"]["a.weight"], torch.arange(6.0).view(2, 3)
        )
    assert harmless < 30


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
def test_truncated_and_missing_files_are_found(tmp_path, name):
    path = tmp_path / "step_1"
    FolderCheckpointIO().save_checkpoint(state(), path)
    content = (path / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        (path / name).write_bytes(content[:length])
        assert "is damaged" in damage(path)
        with pytest.raises(CheckpointError, match="is damaged"):
            FolderCheckpointIO().load_checkpoint(path)
    (path / name).unlink()
    assert "is damaged" in damage(path)


@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_refused(tmp_path, other):
    FolderCheckpointIO().save_checkpoint(state(), tmp_path / "step_1")
    manifest = tmp_path / "step_1" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 2', f'"format": {other}'))
    with pytest.raises(
        CheckpointError, match=f"was written in format {other}; this version of multihead reads format 2"
    ):
        FolderCheckpointIO().load_checkpoint(tmp_path / "step_1")


def test_a_whole_checkpoint_that_cannot_be_read_says_why(tmp_path):
    """Its hashes are right: a defect, or somebody else's program, wrote it so."""
    path = tmp_path / "step_1"
    FolderCheckpointIO().save_checkpoint(state(), path)
    (path / STATE).write_text("{")
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["sha256"][STATE] = sha256(path / STATE)
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"step_1: cannot be read \(JSONDecodeError: Expecting property name"):
        FolderCheckpointIO().load_checkpoint(path)


def test_cleaning_puts_aside_what_is_newer_and_keeps_the_rest(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("step_5", "step_10", "step_20", "step_30.tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "best.json.tmp").touch()
    said = clean(tmp_path, folder / "step_10")
    assert {path.name for path in folder.iterdir()} == {"step_5", "step_10", "step_20" + DAMAGED}
    assert sorted(said) == [
        "best.json.tmp was being written when the run ended, and is removed",
        f"step_20 is kept as step_20{DAMAGED}",
        "step_30.tmp was being written when the run ended, and is removed",
    ]


def test_half_written_folders_are_never_taken(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (5, 10, 9):
        FolderCheckpointIO().save_checkpoint(state(step), folder / f"step_{step}")
    (folder / "step_20.tmp").mkdir()
    (folder / "step_x").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_10", "step_9", "step_5"]
    assert newest_valid(tmp_path) == (folder / "step_10", [])
    for step in (5, 9, 10):
        (folder / f"step_{step}" / STATE).unlink()
    with pytest.raises(CheckpointError, match="step_10 is damaged"):
        newest_valid(tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        newest_valid(tmp_path)


@pytest.fixture
def small_disk():
    """Files cannot grow beyond 1,000 bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_keeps_what_was_saved(tmp_path, request, monkeypatch):
    FolderCheckpointIO().save_checkpoint(state(), tmp_path / "step_1")
    request.getfixturevalue("small_disk")
    monkeypatch.setattr("multihead.runs.checkpoint.PAUSE_SECONDS", 0.01)
    large = {"global_step": 1, "state_dict": {"a": torch.zeros(1000)}}
    for name in ("step_1", "step_2"):
        with pytest.raises(MachineError, match=r"could not be saved .*File too large") as caught:
            FolderCheckpointIO().save_checkpoint(large, tmp_path / name)
        assert caught.value.status == 5
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    assert not damage(tmp_path / "step_1")


def test_a_checkpoint_stands_at_every_moment_of_its_replacement(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "step_1"
    io = FolderCheckpointIO()
    io.save_checkpoint(state(), path)
    calls = {"rename": os.rename, "rmtree": shutil.rmtree, "replace": os.replace}
    moments = 0

    def looked_at(name):
        def call(*arguments, **options):
            nonlocal moments
            calls[name](*arguments, **options)
            moments += 1
            assert not damage(newest_valid(tmp_path)[0])

        return call

    for module, name in ((os, "rename"), (shutil, "rmtree"), (os, "replace")):
        monkeypatch.setattr(module, name, looked_at(name))
    io.save_checkpoint(state() | {"text": "new"}, path)
    assert moments == 3  # the old one aside, the new one in place, the old one gone
    assert newest_valid(tmp_path) == (path, [])
    assert io.load_checkpoint(path)["text"] == "new"
    assert [p.name for p in path.parent.iterdir()] == ["step_1"]
