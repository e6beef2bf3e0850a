"""Opens a folder in Hugging Face's layout without trusting it: names and shapes first, then one tensor at a time."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from multihead.errors import CheckpointError

MOST_TENSORS = 100_000
MOST_BYTES = 200_000_000
"""Largest JSON file that is read."""
AGAIN = "download the model again"


class Weights(Protocol):
    """The tensors of a folder."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor by its name."""
        ...

    def tensor(self, name: str) -> Tensor:
        """Loads one tensor."""
        ...


class SafeWeights:
    """Tensors of one or more safetensors files; `tensor` reads one of them.

    Args:
        files: The files.
        stack: It closes the files.

    Raises:
        CheckpointError: A file is damaged.
    """

    def __init__(self, files: list[Path], stack: contextlib.ExitStack):
        from safetensors import SafetensorError, safe_open

        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Any] = {}
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    self._files[name] = file
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
            except (OSError, SafetensorError) as error:
                raise CheckpointError(str(path), f"cannot be loaded ({error})", AGAIN) from None
            _check_count(path, len(self.shapes))

    def tensor(self, name: str) -> Tensor:
        """As in `Weights`."""
        return self._files[name].get_tensor(name)


class PickledWeights:
    """Tensors of ``pytorch_model.bin`` files. The files may hold only tensors and plain containers.

    Args:
        files: The files.

    Raises:
        CheckpointError: A file is damaged, or holds more than tensors.
    """

    def __init__(self, files: list[Path]):
        self._state: dict[str, Tensor] = {}
        for path in files:
            state = _unpickled(path)
            if not isinstance(state, dict) or not all(
                isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
            ):
                raise CheckpointError(str(path), "holds no state dict of tensors", AGAIN)
            self._state |= state
            _check_count(path, len(self._state))
        self.shapes = {name: tuple(value.shape) for name, value in self._state.items()}

    def tensor(self, name: str) -> Tensor:
        """As in `Weights`."""
        return self._state[name]


def _unpickled(path: Path) -> Any:
    """Reads the content of a file, and never runs code in it."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"  # what is older than torch 1.6 is no archive, and cannot be mapped
        with warnings.catch_warnings(action="ignore"):  # on protocols of pickle: what it cannot read, it refuses
            return torch.load(path, map_location="cpu", mmap=zipped, weights_only=True)
    except Exception as error:  # pickle, zip and torch raise what they like
        first = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        what = f"cannot be loaded as tensors only ({first}); it is damaged, or it holds code, which is never run"
        raise CheckpointError(str(path), what, "use a model.safetensors of the model") from None


def _check_count(path: Path, count: int) -> None:
    if count > MOST_TENSORS:
        raise CheckpointError(str(path), f"names {count:,} tensors, above the limit of {MOST_TENSORS:,}", AGAIN)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Weights]:
    """The weights of a folder, in one file or in shards; ``pytorch_model.bin`` counts if there is no safetensors file.

    Raises:
        CheckpointError: There are none, or they are damaged.
    """
    with contextlib.ExitStack() as stack:
        for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
            single, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
            files = [single] if single.is_file() else _shards(index, suffix) if index.is_file() else []
            if files:
                yield SafeWeights(files, stack) if suffix == "safetensors" else PickledWeights(files)
                return
        what = "has neither model.safetensors nor pytorch_model.bin"
        raise CheckpointError(str(folder), what, "download the whole model")


def _shards(index: Path, suffix: str) -> list[Path]:
    """The files that an index names. They must be in its folder.

    Raises:
        CheckpointError: The index is damaged, or names a file that is elsewhere or missing.
    """
    content = read_json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise CheckpointError(str(index), "must hold a weight_map, which names the file of each tensor", AGAIN)
    files = []
    for name in dict.fromkeys(named.values()):
        path = index.parent / name
        if Path(name).name != name or not name.endswith(f".{suffix}"):
            raise CheckpointError(str(index), f"names {name!r}, which is not a {suffix} file in the same folder", AGAIN)
        if not path.is_file():
            raise CheckpointError(str(index), f"names {name}, which is missing", "download the whole model")
        files.append(path)
    return files


def read_json(path: Path) -> Any:
    """Reads a JSON file of a folder.

    Raises:
        CheckpointError: It is missing, too large or damaged.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(str(path), f"is larger than {MOST_BYTES:,} bytes", AGAIN)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(str(path), "is missing", "download the whole model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(str(path), f"cannot be read ({error})", AGAIN) from None


def as_stored(weights: Weights, name: str) -> Tensor:
    """Loads a tensor and converts it to float32."""
    return weights.tensor(name).to(torch.float32)
