"""Checkpoints on disk: a folder is either complete or absent, and holds no code.

A checkpoint is a folder ``step_N`` with three files: ``tensors.safetensors`` has every tensor, ``state.json``
everything else with references to the tensors, and ``manifest.json`` the sha256 of both. It is written under another
name, synced and renamed. `multihead.training.steps` decides when a checkpoint is written and what it holds.
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
from multihead.runs.files import sync, write_synced

log = logging.getLogger("multihead")

FORMAT = 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
REPLACED = ".old"
"""Suffix of a checkpoint while it is written again. It stays valid until the new one has its name."""
DAMAGED = ".damaged"
"""Suffix of a checkpoint that a resume did not use."""
ATTEMPTS, PAUSE_SECONDS = 3, 1.0
"""How often a save is tried, and the pause between. A full disk may have space again a moment later."""
PROBE = "probe.tmp"


def pack(state: Any, tensors: dict[str, torch.Tensor], path: str = "") -> Any:
    """Returns nested state as JSON and adds its tensors to ``tensors``. Tensors that share storage are stored once."""
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
        f"checkpoint state {path} must be a tensor, number, string, list or dict, got {type(state).__name__}"
    )


def unpack(state: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Returns the nested state that `pack` split."""
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
        """Writes a checkpoint folder, and tries again if that fails.

        Raises:
            MachineError: If the disk is full or the folder cannot be written. Earlier checkpoints stay as they were.
        """
        path = Path(path)
        tensors: dict[str, torch.Tensor] = {}
        state = pack({key: value for key, value in checkpoint.items() if key != "loops"}, tensors)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _write(path, tensors, state, checkpoint["global_step"])
            except (OSError, SafetensorError) as error:  # safetensors raises its own error if the disk is full
                shutil.rmtree(path.with_name(path.name + ".tmp"), ignore_errors=True)
                failure = _refusal(path, tensors, error)
                if attempt == ATTEMPTS:
                    raise failure from error
                log.warning("%s; trying again (%d of %d)", failure.what, attempt, ATTEMPTS - 1)
                time.sleep(PAUSE_SECONDS)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Checks the hashes of a folder and reads it.

        Raises:
            CheckpointError: If a file is missing, damaged or written by a newer version.
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
    """Writes a checkpoint folder under another name and renames it."""
    beside = path.with_name(path.name + ".tmp")
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    save_file(dict(tensors), beside / TENSORS)
    sync(beside / TENSORS)
    write_synced(beside / STATE, json.dumps(state).encode())
    hashes = {name: sha256(beside / name) for name in (TENSORS, STATE)}
    manifest = {"format": FORMAT, "step": step, "sha256": hashes}
    write_synced(beside / MANIFEST, json.dumps(manifest, indent=1).encode())
    sync(beside)
    replaced = path.with_name(path.name + REPLACED)
    if path.exists():
        if replaced.exists():
            shutil.rmtree(replaced)
        os.rename(path, replaced)
    os.rename(beside, path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _refusal(path: Path, tensors: Mapping[str, torch.Tensor], error: Exception) -> MachineError:
    """Returns the error that says why a checkpoint could not be saved and which one is kept."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in reason:
        need = sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors.values()}.values())
        reason = f"no space left: needs {megabytes(need)}, {megabytes(free_space(path.parent))} are free"
    kept = next((other.name for other in checkpoints(path.parents[1]) if not damage(other)), "")
    what = f"could not be saved ({reason}); " + (
        f"the newest whole checkpoint is {kept}" if kept else "there is no earlier checkpoint"
    )
    return MachineError(
        str(path), what, "free space or fix the permissions (trainer.keep_checkpoints=1 needs the least space)"
    )


def free_space(path: Path) -> int:
    """Returns the bytes that can still be written below ``path``, or 0 if the system does not say."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def megabytes(size: int) -> str:
    """Returns a number of bytes as text for messages."""
    return f"{size / 1e6:.1f} MB"


def probe(folder: Path, size: int) -> None:
    """Checks that a checkpoint can be saved: writes, reads back and deletes a file of its size.

    Args:
        folder: The folder of the checkpoints, which is created.
        size: Estimated size of a checkpoint in bytes.

    Raises:
        MachineError: If the file cannot be written or does not read back the same.
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
        fix = "free space, fix the permissions or choose another run_dir"
        raise MachineError(str(folder), what, fix) from error
    finally:
        try:
            file.unlink(missing_ok=True)
        except OSError:
            log.debug("the probe %s could not be deleted", file)
    if not same:
        raise MachineError(str(folder), "the disk returns other bytes than were written", "check the disk")


def damage(path: Path) -> str:
    """Says why a checkpoint folder cannot be used. Returns an empty text if it can."""
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
    """Returns a run's checkpoint folders, newest first. A replaced one comes after the one that replaces it."""
    steps = {path: path.name[5:].removesuffix(REPLACED) for path in (run_dir / "checkpoints").glob("step_*")}
    found = [path for path, step in steps.items() if step.isdigit()]
    return sorted(found, key=lambda path: (-int(steps[path]), path.name))


def newest_valid(run_dir: Path) -> tuple[Path, list[str]]:
    """Returns the newest checkpoint whose hashes match, and a line for each newer one that is damaged.

    Raises:
        CheckpointError: If no checkpoint can be used.
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
    what, fix = "has no checkpoint", f"{again} resume=auto with the run's words starts it again"
    raise CheckpointError(str(run_dir / "checkpoints"), what, fix)


def clean(run_dir: Path, newest: Path) -> list[str]:
    """Removes what a killed save left, and renames the damaged checkpoints that are newer than ``newest``.

    Returns:
        A line for each file or folder that was removed or renamed.
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
    """The checkpoint from which a run goes on."""

    name: str
    """Name of the checkpoint's folder."""
    state: Mapping[str, Any]
    """Content of the checkpoint."""

    @property
    def own(self) -> Mapping[str, Any]:
        """The entry that `Steps` wrote."""
        return self.state["multihead"]


def own_stream(seed: int, rank: int, step: int) -> None:
    """Seeds this rank's random numbers. If ranks had the same dropout masks, their average would have more noise."""
    torch.manual_seed(seed + 1_000_003 * rank + step)


def random_state() -> dict[str, Any]:
    """Returns the state of every global random generator of this process, as tensors and plain lists."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],  # this rank's device alone
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"][0])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
