"""Rows as integers: one flat array for each role, memory-mapped from disk. Batches are gathered without a loop.

Shapes: B examples of a batch, W width of the batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multihead.config.data import TokenizerConfig
from multihead.data.published import load_tokenizer
from multihead.data.tokenizer import Tokenizer, train_tokenizer
from multihead.errors import CheckpointError, ConfigError, DataError

TEXTS_AT_ONCE = 20_000
SUM = ".sha256"
"""Ending of the checksum file beside each tokenizer in the cache."""
Note = Callable[[str], None]


class Encoded:
    """Encoded rows of one split.

    Args:
        flat: Role to the ids of all rows in one array.
        starts: Role to the place in ``flat`` where each row begins.
        lengths: Role to the number of ids of each row.
        rows: Row of the split for each example. None stands for all rows in order.
    """

    def __init__(
        self,
        flat: Mapping[str, np.ndarray],
        starts: Mapping[str, np.ndarray],
        lengths: Mapping[str, np.ndarray],
        rows: np.ndarray | None = None,
    ):
        self._flat, self._starts, self._lengths = dict(flat), dict(starts), dict(lengths)
        count = len(next(iter(self._lengths.values())))
        self.rows = np.arange(count) if rows is None else rows
        """Row of the split for each example."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that were encoded."""
        return tuple(self._flat)

    def ids(self, role: str, index: int) -> np.ndarray:
        """Returns the ids of one example."""
        start = self._starts[role][index]
        return self._flat[role][start : start + self._lengths[role][index]]

    def lengths(self, role: str) -> np.ndarray:
        """Returns the number of ids of every example, int64 [N]."""
        return self._lengths[role]

    def share_of(self, role: str, token: int) -> float:
        """Returns the share of ``token`` among the ids of all rows of a role."""
        return float(np.mean(self._flat[role] == token)) if len(self._flat[role]) else 0.0

    def select(self, indices: np.ndarray) -> Encoded:
        """Returns the examples with these indices, in their order. The ids are not copied."""
        starts = {role: start[indices] for role, start in self._starts.items()}
        lengths = {role: length[indices] for role, length in self._lengths.items()}
        return Encoded(self._flat, starts, lengths, self.rows[indices])

    def index(self, indices: np.ndarray) -> np.ndarray:
        """Returns the row of the split for each of these examples."""
        return self.rows[indices]

    def with_role(self, role: str, ids: Sequence[Sequence[int]]) -> Encoded:
        """Returns the same examples with one more role. ``ids`` holds every row of the split, dropped ones included."""
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        flat = np.fromiter((i for row in ids for i in row), dtype=np.int32, count=int(lengths.sum()))
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        return Encoded(
            self._flat | {role: flat},
            self._starts | {role: starts[self.rows]},
            self._lengths | {role: lengths[self.rows]},
            self.rows,
        )

    def with_numbers(self, role: str, numbers: Sequence[float]) -> Encoded:
        """Returns the same examples with one number each. ``numbers`` holds every row, dropped ones included."""
        flat, one = np.array(numbers, dtype=np.float32), np.ones(len(self.rows), dtype=np.int64)
        return Encoded(
            self._flat | {role: flat}, self._starts | {role: self.rows}, self._lengths | {role: one}, self.rows
        )

    def numbers(self, role: str, indices: np.ndarray) -> Tensor:
        """Returns what `with_numbers` took, for these examples: float32 [B]."""
        return torch.from_numpy(self._flat[role][self._starts[role][indices]])

    def recut(self, count: int, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Encoded:
        """Returns all examples ``count`` times, one time after the other, with other ids for some roles.

        Args:
            count: Number of times.
            arrays: Role to the ids of all texts in one array, and the places where each begins, with the end behind
                them.
        """
        flat = self._flat | {role: ids for role, (ids, _) in arrays.items()}
        starts = {role: np.tile(start, count) for role, start in self._starts.items()}
        starts |= {role: offsets[:-1] for role, (_, offsets) in arrays.items()}
        lengths = {role: np.tile(length, count) for role, length in self._lengths.items()}
        lengths |= {role: np.diff(offsets) for role, (_, offsets) in arrays.items()}
        return Encoded(flat, starts, lengths, np.tile(self.rows, count))

    def cut(self, limits: Mapping[str, int]) -> Encoded:
        """Returns the same examples, cut to at most so many ids for each role. The ids are not copied."""
        lengths = {
            role: np.minimum(length, limits.get(role, length.max(initial=0))) for role, length in self._lengths.items()
        }
        return Encoded(self._flat, self._starts, lengths, self.rows)

    def padded(
        self,
        role: str,
        indices: np.ndarray,
        *,
        prepend: Sequence[int] = (),
        append: Sequence[int] = (),
        pad_id: int = 0,
    ) -> Tensor:
        """Returns the ids of one role as a batch, padded at the right: LongTensor [B, W]."""
        return self.joined([*prepend, role, *append], indices, pad_id=pad_id)

    def joined(self, parts: Sequence[str | int], indices: np.ndarray, *, pad_id: int = 0) -> Tensor:
        """Returns a batch, padded at the right, in which roles and single ids follow each other: LongTensor [B, W].

        ``joined([bos, "source", sep, "target", eos], indices)`` is a batch for a decoder-only model. Without indices
        the batch is empty.

        Args:
            parts: Roles and ids, in their order.
            indices: Examples of the batch, int [B].
            pad_id: Id of the padding.
        """
        indices = np.asarray(indices, dtype=np.int64)
        one = np.ones(len(indices), dtype=np.int64)
        lengths = [self._lengths[part][indices] if isinstance(part, str) else one for part in parts]
        total = np.sum([np.zeros_like(one), *lengths], axis=0)
        width = int(total.max(initial=max(1, sum(isinstance(part, int) for part in parts))))
        batch = np.full((len(indices), width), pad_id, dtype=np.int64)
        cursor = np.zeros_like(total)  # [B]
        for part, length in zip(parts, lengths, strict=True):
            if isinstance(part, str):
                steps = np.arange(int(length.max(initial=0)))
                row, step = np.nonzero(steps < length[:, None])
                batch[row, cursor[row] + step] = self._flat[part][self._starts[part][indices][row] + step]
            else:
                batch[np.arange(len(indices)), cursor] = part
            cursor = cursor + length
        return torch.from_numpy(batch)


def apply_overlong(
    encoded: Encoded,
    limits: Mapping[str, int],
    overlong: str,
    *,
    origin: Callable[[int], str] = str,
    split: str = "train",
) -> tuple[Encoded, str]:
    """Drops, cuts or refuses examples that have more ids in a role than its limit.

    Only training examples are dropped or refused. Examples of other splits are cut, so that every row is scored.

    Args:
        encoded: Encoded rows.
        limits: Role to the largest number of ids.
        overlong: drop, cut or error (``data.overlong``).
        origin: Function from a row to ``file:line``, for messages.
        split: train, or the name of a split that is scored.

    Returns:
        The remaining examples (``.rows`` holds the rows kept), and a note, which is empty if nothing was too long.

    Raises:
        DataError: An example is too long and ``overlong`` is error, or no example is left.
    """
    over = {role: encoded.lengths(role) > limit for role, limit in limits.items()}
    long = np.any(list(over.values()), axis=0) if over else np.zeros(len(encoded), dtype=bool)
    if not long.any():
        return encoded, ""
    first = int(np.flatnonzero(long)[0])
    role = next(role for role in over if over[role][first])
    what = f"{encoded.lengths(role)[first]:,} tokens in {role}, the limit is {limits[role]:,}"
    where = origin(int(encoded.rows[first]))
    kept = np.flatnonzero(~long)
    count = f"{long.sum():,} of {len(encoded):,} examples too long"
    if split != "train" or overlong == "cut":
        return encoded.cut(limits), f"{split}: {count}, cut (the first {where}: {what})"
    if overlong == "error":
        raise DataError(where, what, "data.overlong=drop, data.overlong=cut, or a larger model.max_len")
    if len(kept) == 0:
        raise DataError(
            where.rpartition(":")[0] or where,
            f"no example is left of {len(encoded):,}: {long.sum():,} are too long (the first has {what})",
            "data.overlong=cut, or a larger model.max_len",
        )
    return encoded.select(kept), f"{split}: {count}, dropped (the first {where}: {what})"


# ---------------------------------------------------------------------------------------------------------------------
# Cache


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def cached_tokenizer(
    config: TokenizerConfig,
    texts: Iterable[str],
    normalize: str,
    *,
    fingerprint: str,
    cache: Path | None,
    note: Note = lambda text: None,
    train: Callable[[TokenizerConfig, Iterable[str], str], Tokenizer] = train_tokenizer,
) -> Tokenizer:
    """Returns a trained tokenizer. It comes from the cache if the same one was trained before.

    Args:
        config: Kind and size.
        texts: Texts of the train split.
        normalize: Unicode normalisation.
        fingerprint: Fingerprint of the texts: of the data and of the roles.
        cache: `cache_root()`. None trains anew and keeps nothing.
        note: Called with a sentence if a file is damaged.
        train: What trains it.
    """
    if cache is None:
        return train(config, texts, normalize)
    settings = dataclasses.asdict(config)
    path = cache / "tokenizers" / f"{_key(fingerprint, settings, normalize)}.json"
    if path.exists():
        try:
            if _intact(path):
                return load_tokenizer(path)
        except CheckpointError:
            pass
        note(f"{path} is damaged; the tokenizer is trained again")
    tokenizer = train(config, texts, normalize)
    if writable(path.parent, note):
        tokenizer.save(path)
        path.with_suffix(SUM).write_text(tokenizer.fingerprint)
    return tokenizer


def _intact(path: Path) -> bool:
    """Returns whether a cached tokenizer has the checksum that was written beside it."""
    beside = path.with_suffix(SUM)
    return beside.is_file() and beside.read_text() == sha256(path)


def encode_corpus(
    columns: Mapping[str, Sequence[str]],
    tokenizers: Mapping[str, Tokenizer],
    *,
    fingerprint: str = "",
    cache: Path | None = None,
    note: Note = lambda text: None,
) -> Encoded:
    """Encodes the columns of a split. The ids come from the cache if the same columns were encoded before.

    Args:
        columns: Role to texts (`Rows.columns`).
        tokenizers: Role to its tokenizer. Roles without a tokenizer are left out.
        fingerprint: Fingerprint of the content of ``columns``.
        cache: `cache_root()`. None keeps the arrays in memory only.
        note: Called with a sentence if the cache is damaged.
    """
    roles = [role for role in columns if role in tokenizers]
    if not roles:
        raise ConfigError("data.roles", f"no tokenizer for any of {', '.join(columns)}")
    if cache is None:
        return _joined_arrays({role: _encode(columns[role], tokenizers[role]) for role in roles})
    folder = cache / "encoded" / _key(fingerprint, {role: tokenizers[role].fingerprint for role in roles})
    if folder.exists():
        try:
            return _read(folder, roles)
        except (OSError, ValueError, KeyError, TypeError):
            note(f"{folder} is damaged; the rows are encoded again")
            shutil.rmtree(folder, ignore_errors=True)
    arrays = {role: _encode(columns[role], tokenizers[role]) for role in roles}
    if not writable(folder.parent, note):
        return _joined_arrays(arrays)
    _write(folder, arrays)
    return _read(folder, roles)


def writable(folder: Path, note: Note) -> bool:
    """Returns whether a folder of the cache can be written. It is made if it is missing, and a note says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        note(f"{folder} cannot be written ({error.strerror}); nothing is cached")
        return False
    if not os.access(folder, os.W_OK):
        note(f"{folder} is not writable; nothing is cached")
        return False
    return True


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Returns the flat ids, and int64 offsets, of which there is one more than texts."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    flat, lengths = [], []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        batch = tokenizer.encode_batch(texts[start : start + TEXTS_AT_ONCE])
        lengths += map(len, batch)
        flat.append(np.fromiter((i for ids in batch for i in ids), dtype=dtype))
    ids = np.concatenate(flat) if flat else np.zeros(0, dtype=dtype)
    return ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _joined_arrays(arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Encoded:
    return Encoded(
        {role: flat for role, (flat, _) in arrays.items()},
        {role: offsets[:-1] for role, (_, offsets) in arrays.items()},
        {role: np.diff(offsets) for role, (_, offsets) in arrays.items()},
    )


def _write(folder: Path, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes the arrays into a folder beside the final one and then renames it."""
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.part"))
    try:
        for role, (flat, offsets) in arrays.items():
            np.save(part / f"{role}.ids.npy", flat, allow_pickle=False)
            np.save(part / f"{role}.offsets.npy", offsets, allow_pickle=False)
        sums = {path.name: sha256(path) for path in sorted(part.iterdir())}
        (part / "sums.json").write_text(json.dumps(sums))
        try:
            os.rename(part, folder)
        except OSError:
            if not folder.is_dir():  # if it is a folder, another process wrote the same content first
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(folder: Path, roles: Sequence[str]) -> Encoded:
    """Maps the arrays of a folder into memory after checking every byte.

    Raises:
        ValueError: A checksum differs.
    """
    sums = json.loads((folder / "sums.json").read_text())
    arrays = {}
    for role in roles:
        for name in (f"{role}.ids.npy", f"{role}.offsets.npy"):
            if sha256(folder / name) != sums[name]:
                raise ValueError(name)
        ids, offsets = folder / f"{role}.ids.npy", folder / f"{role}.offsets.npy"
        mapped = np.load(ids, mmap_mode="r", allow_pickle=False)
        arrays[role] = (np.asarray(mapped), np.load(offsets, allow_pickle=False))
    return _joined_arrays(arrays)


def sha256(path: Path) -> str:
    """Returns the checksum of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
