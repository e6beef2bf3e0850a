"""Checkpoints on disk: typed folders that are whole or not there.

A checkpoint is a folder ``step_N`` of ``tensors.safetensors`` (every tensor), ``state.json`` (everything else, with
references to the tensors) and ``manifest.json`` (sha256 of both). It is written beside its target, synced, renamed and
read back; nothing in it is code. When one is written, and what is in it, is `multihead.training.steps`'.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from multihead.config.words import typed_as
from multihead.data.encode import sha256
from multihead.errors import CheckpointError, MachineError
from multihead.runs.files import sync_folder, write_synced

log = logging.getLogger("multihead")

FORMAT = 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
REPLACED = ".old"  # of a checkpoint that is being written again; valid until the new one stands in its place
DAMAGED = ".damaged"  # of a checkpoint that a resume passed over
ATTEMPTS, PAUSE_SECONDS = 3, 1.0  # of a save that fails: what filled the disk may be gone a moment later
PROBE = "probe.tmp"


def pack(state: Any, tensors: dict[str, torch.Tensor], path: str = "") -> Any:
    """Splits nested state into JSON (returned) and ``tensors``; tensors that share storage are stored once."""
    if isinstance(state, torch.Tensor):
        for name, stored in tensors.items():
            same = stored.data_ptr() == state.data_ptr() and stored.shape == state.shape and stored.dtype == state.dtype
            if same and state.numel():
                return {"$tensor": name}
        tensors[path] = state.detach().contiguous()
        return {"$tensor": path}
    if isinstance(state, Mapping):
        pairs = [[key, pack(value, tensors, f"{path}/{key}")] for key, value in state.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        if all(isinstance(key, (str, int)) for key, _ in pairs):
            return {"$pairs": pairs}
    if isinstance(state, (list, tuple)):
        return [pack(value, tensors, f"{path}/{number}") for number, value in enumerate(state)]
    if isinstance(state, np.generic):
        return state.item()
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise TypeError(
        f"checkpoint state {path} is a {type(state).__name__}; tensors, numbers, strings, lists, dicts only"
    )


def unpack(state: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Inverse of `pack`."""
    if isinstance(state, dict):
        if "$tensor" in state:
            return tensors[state["$tensor"]]
        if "$pairs" in state:
            return {key: unpack(value, tensors) for key, value in state["$pairs"]}
        return {key: unpack(value, tensors) for key, value in state.items()}
    if isinstance(state, list):
        return [unpack(value, tensors) for value in state]
    return state


class FolderCheckpointIO(CheckpointIO):
    """Lightning's `CheckpointIO` over the folders described above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes beside, syncs, renames; what fails is tried again.

        Raises:
            MachineError: If the disk is full or the folder not writable; earlier checkpoints stay as they were.
        """
        path = Path(path)
        tensors: dict[str, torch.Tensor] = {}
        state = pack({key: value for key, value in checkpoint.items() if key != "loops"}, tensors)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _write(path, tensors, state, checkpoint["global_step"])
            except (OSError, SafetensorError) as error:  # the latter is how safetensors tells a full disk
                shutil.rmtree(path.with_name(path.name + ".tmp"), ignore_errors=True)
                refused = _refusal(path, tensors, error)
                if attempt == ATTEMPTS:
                    raise refused from error
                log.warning("%s; trying again (%d of %d)", refused.what, attempt, ATTEMPTS - 1)
                time.sleep(PAUSE_SECONDS)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder back after checking its hashes.

        Raises:
            CheckpointError: If a file is missing, damaged, or written by a newer version.
        """
        path = Path(path)
        problem = damage(path)
        if problem:
            raise CheckpointError(str(path), problem, "resume from another checkpoint")
        try:
            return unpack(json.loads((path / STATE).read_text()), load_file(path / TENSORS))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            raise CheckpointError(str(path), what, "resume from another checkpoint") from error

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint."""
        shutil.rmtree(path)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], state: Any, step: int) -> None:
    """One attempt at a checkpoint folder."""
    beside = path.with_name(path.name + ".tmp")
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    save_file(dict(tensors), beside / TENSORS)
    with open(beside / TENSORS, "rb") as file:
        os.fsync(file.fileno())
    write_synced(beside / STATE, json.dumps(state).encode())
    hashes = {name: sha256(beside / name) for name in (TENSORS, STATE)}
    manifest = {"format": FORMAT, "step": step, "sha256": hashes}
    write_synced(beside / MANIFEST, json.dumps(manifest, indent=1).encode())
    sync_folder(beside)
    replaced = path.with_name(path.name + REPLACED)
    if path.exists():
        if replaced.exists():
            shutil.rmtree(replaced)
        os.rename(path, replaced)
    os.rename(beside, path)
    sync_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _refusal(path: Path, tensors: Mapping[str, torch.Tensor], error: Exception) -> MachineError:
    """Why a checkpoint could not be saved, and what is there instead."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in reason:
        need = sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors.values()}.values())
        reason = f"no space left: needs {megabytes(need)}, {megabytes(free_space(path.parent))} are free"
    kept = next((other.name for other in checkpoints(path.parents[1]) if not damage(other)), "")
    what = f"could not be saved ({reason}); " + (f"kept {kept}" if kept else "there is no earlier checkpoint")
    return MachineError(str(path), what, "free space or mend permissions (trainer.keep_checkpoints=1 needs least)")


def free_space(path: Path) -> int:
    """Bytes that can still be written below ``path``; 0 where it cannot be asked."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def megabytes(size: int) -> str:
    """A number of bytes for messages."""
    return f"{size / 1e6:.1f} MB"


def probe(folder: Path, size: int) -> None:
    """Writes, syncs, reads back and deletes a file of the size of a checkpoint, before a run depends on one.

    Args:
        folder: Where the checkpoints will be; it is made.
        size: Estimated size of one, in bytes.

    Raises:
        MachineError: If that cannot be done.
    """
    file, block = folder / PROBE, os.urandom(1 << 20)
    blocks = -(-size // len(block))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(file, "wb+") as stream:
            for _ in range(blocks):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
            stream.seek(0)
            same = all(stream.read(len(block)) == block for _ in range(blocks))
    except OSError as error:
        free = f"; a checkpoint needs {megabytes(size)}, {megabytes(free_space(folder))} are free"
        what = f"checkpoints cannot be saved here ({error.strerror}{free if error.errno == errno.ENOSPC else ''})"
        raise MachineError(str(folder), what, "free space, mend permissions or choose another run_dir") from error
    finally:
        try:
            file.unlink(missing_ok=True)
        except OSError:
            log.debug("the probe %s could not be deleted", file)
    if not same:
        raise MachineError(str(folder), "what is written here does not read back the same", "check the disk")


def damage(path: Path) -> str:
    """Why a checkpoint folder cannot be used; empty if it can."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"was written in format {manifest['format']}; this version of multihead reads format {FORMAT}"
        for name, expected in manifest["sha256"].items():
            if sha256(path / name) != expected:
                return f"is damaged ({name}: sha256 differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"is damaged ({type(error).__name__}: {error})"
    return ""


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first; one that was being replaced stands behind what replaces it."""
    steps = {path: path.name[5:].removesuffix(REPLACED) for path in (run_dir / "checkpoints").glob("step_*")}
    found = [path for path, step in steps.items() if step.isdigit()]
    return sorted(found, key=lambda path: (-int(steps[path]), path.name))


def newest_valid(run_dir: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint whose hashes match, and a line for each that was passed over.

    Raises:
        CheckpointError: If there is none.
    """
    passed = []
    for path in checkpoints(run_dir):
        problem = damage(path)
        if not problem:
            return path, passed
        passed.append(f"{path.name} {problem}")
    if passed:
        raise CheckpointError(str(run_dir / "checkpoints"), "; ".join(passed), "start a new run in another run_dir")
    again = typed_as("run_dir", str(run_dir))
    what, fix = "no checkpoint in it", f"{again} resume=auto with the run's words starts it again"
    raise CheckpointError(str(run_dir / "checkpoints"), what, fix)


def clean(run_dir: Path, newest: Path) -> list[str]:
    """Takes away what a killed save left, and puts damaged checkpoints that are newer than ``newest`` aside.

    Returns:
        What was done, a line each.
    """
    folder, done = run_dir / "checkpoints", []
    for path in folder.glob("*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        done.append(f"{path.name} was being written when the run ended, and is removed")
    for path in checkpoints(run_dir):
        if path == newest:
            break
        aside = path.with_name(path.name + DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
        done.append(f"{path.name} is kept as {aside.name}")
    return done


@dataclass(kw_only=True)
class Start:
    """The checkpoint that a run goes on from."""

    name: str
    """Of its folder."""
    state: Mapping[str, Any]
    """What it holds."""

    @property
    def own(self) -> Mapping[str, Any]:
        """The part that `Steps` wrote."""
        return self.state["multihead"]


def own_stream(seed: int, rank: int, step: int) -> None:
    """Random numbers of this rank alone, for dropout: ranks with the same masks would average less noise."""
    torch.manual_seed(seed + 1_000_003 * rank + step)


def random_state() -> dict[str, Any]:
    """Every global random stream of this process, as tensors and plain lists."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],  # this rank's device alone
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"][0])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
