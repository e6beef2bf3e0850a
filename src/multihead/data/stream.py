"""Running text as one array of token ids on disk, read in blocks. Memory does not grow with the text.

A `Stream` is the concatenation of the documents of a split. Each document ends with ``<eos>`` (`DataConfig.document`).
The token at position i is predicted from the tokens before it. An ``<eos>`` stands before position 0, so that the first
document starts like all others. A block is named by the position of its first label. Positions outside are padding.

Shapes: N tokens of the stream, B blocks, T block size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multihead.config.data import DataConfig
from multihead.data.encode import Note, sha256, writable
from multihead.data.lines import find, folder_of, is_hidden, open_lines
from multihead.data.plan import Step
from multihead.data.tokenizer import Tokenizer
from multihead.errors import ConfigError, DataError
from multihead.tables.sniff import TEXTS

LINES_AT_ONCE = 2_000
OUTSIDE = -1
"""Value at the positions of a window that lie outside the stream."""
HELD_OUT = ("val", "test")


class Stream:
    """Token ids of a split.

    Args:
        ids: The ids, or their file. The file is mapped anew for each read, so that it does not stay in memory.
        eos_id: Id of the token that ends a document.
        num_bytes: Number of UTF-8 bytes of the text, ends of line included.
        block_size: Number of tokens of a block.
        stride: Number of tokens by which the window of evaluation moves.
        document_bytes: Number of UTF-8 bytes of each document, or None if they were not counted.
    """

    def __init__(
        self,
        ids: np.ndarray | Path,
        eos_id: int,
        num_bytes: int,
        *,
        block_size: int = 0,
        stride: int = 0,
        document_bytes: np.ndarray | None = None,
    ):
        self._ids = ids
        self.eos_id, self.num_bytes = eos_id, num_bytes
        self.block_size, self.stride = block_size, stride
        self.document_bytes = document_bytes
        self._length = len(self._array())

    def __len__(self) -> int:
        return self._length

    def _array(self) -> np.ndarray:
        return np.load(self._ids, mmap_mode="r", allow_pickle=False) if isinstance(self._ids, Path) else self._ids

    def blocked(self, block_size: int, stride: int) -> Stream:
        """Returns the same stream with blocks of this size."""
        return Stream(
            self._ids,
            self.eos_id,
            self.num_bytes,
            block_size=block_size,
            stride=stride,
            document_bytes=self.document_bytes,
        )

    def index(self, starts: np.ndarray) -> np.ndarray:
        """Returns what names these blocks in a batch: their positions."""
        return starts

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the ids from ``start`` to ``stop``. Both lie within the stream."""
        return np.array(self._array()[start:stop])

    def share_of(self, token: int) -> float:
        """Returns the share of ``token`` among the ids."""
        array = self._array()
        size = 1 << 22
        found = sum(int((array[first : first + size] == token).sum()) for first in range(0, len(array), size))
        return found / max(1, len(array))

    def windows(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the inputs and the labels of blocks, int64 [B, T].

        A label outside the stream is -1, and so is its input. The input of position 0 is ``<eos>``.
        """
        array = self._array()
        labels = np.full((len(starts), self.block_size), OUTSIDE, dtype=np.int64)
        inputs = labels.copy()
        for row, start in enumerate(starts.tolist()):
            first, last = max(start, 0), min(start + self.block_size, self._length)
            if first >= last:
                continue
            labels[row, first - start : last - start] = array[first:last]
            if first == 0:
                inputs[row, -start] = self.eos_id
            before = max(first, 1)
            inputs[row, before - start : last - start] = array[before - 1 : last - 1]
        return inputs, labels

    def evaluation(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the blocks that score every token once: their positions, and the place in each from which it scores.

        The first block scores all its tokens. Every other block scores its last ``stride`` tokens.
        """
        size, stride = self.block_size, self.stride or self.block_size
        count = 1 + max(0, math.ceil((self._length - size) / stride))
        starts = np.arange(count, dtype=np.int64) * stride
        return starts, np.where(starts == 0, 0, size - stride)

    def random_starts(self, count: int, seed: int) -> np.ndarray:
        """Returns positions of blocks that are drawn with replacement, as nanoGPT does it."""
        last = max(1, self._length - self.block_size)
        return np.random.default_rng([seed, 0xB10C]).integers(0, last, size=count)

    def document_starts(self) -> np.ndarray:
        """Returns the position of the first token of every document, int64. Without ``<eos>`` there is one document."""
        ends = np.flatnonzero(self._array()[:-1] == self.eos_id) + 1
        return np.concatenate([[0], ends]).astype(np.int64)


class BlockPlan:
    """The steps of every epoch over a stream: blocks in random order, which are cut at another place in each epoch.

    It is a pure function of (seed, epoch) with the interface of `BatchPlan`. All blocks have the same width. Only the
    two ends of the stream are padded.

    Args:
        stream: Stream that has a block size.
        batch_tokens: Largest number of tokens of a step.
        part_tokens: Largest number of tokens of a micro-batch.
        seed: Seed of the order of every epoch.
        targets: Function from the tokens of blocks and their positions, each int [N], to their terms of the loss. If
            whole blocks differ in it, each kind is spread evenly over the steps of an epoch.

    Raises:
        ConfigError: One block exceeds a limit.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        batch_tokens: int,
        part_tokens: int,
        seed: int,
        targets: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda tokens, starts: tokens,
    ):
        self.length, self.block_size, self.seed, self.targets = len(stream), stream.block_size, seed, targets
        for key, limit in (("data.batch_tokens", batch_tokens), ("data.part_tokens", part_tokens)):
            if self.block_size > limit:
                raise ConfigError(key, f"must be at least {self.block_size}, the tokens of a block, got {limit}")
        self.blocks_per_step = batch_tokens // self.block_size
        self._num_micro_batches = -(-self.blocks_per_step // (part_tokens // self.block_size))
        self.num_blocks = -(-self.length // self.block_size) + 1
        # The last block starts at (num_blocks - 1) * block_size - shift. This position must lie within the stream.
        self._least_shift = (self.num_blocks - 1) * self.block_size - self.length + 1
        if self._least_shift >= self.block_size:  # one token beyond a whole block: nothing to shift by
            self.num_blocks, self._least_shift = self.num_blocks - 1, 0
        self._num_steps = -(-self.num_blocks // self.blocks_per_step)
        self._last: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))

    def num_steps(self, epoch: int) -> int:
        """Returns the number of optimizer steps of an epoch."""
        return self._num_steps

    def steps(self, epoch: int) -> Sequence[Step]:
        """Returns the steps of an epoch. Every token belongs to exactly one block."""
        if self._last[0] != epoch:
            rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            shift = int(rng.integers(self._least_shift, self.block_size))
            order = np.arange(self.num_blocks, dtype=np.int32)
            rng.shuffle(order)  # in place, since a second copy of a large corpus would cost memory
            starts = order.astype(np.int64) * self.block_size - shift
            order = spread(order, self.targets(np.full(len(order), self.block_size), starts))
            self._last = (epoch, order)
            self._shift = shift
        return _BlockSteps(self, *self._last, self._shift)

    def num_micro_batches(self) -> int:
        """Returns the least number of micro-batches per step so that none exceeds ``part_tokens``."""
        return self._num_micro_batches

    def micro_batches(self, step: Step, count: int) -> list[np.ndarray]:
        """Cuts a step into ``count`` micro-batches of whole blocks, the largest first. The last ones may be empty."""
        return np.array_split(step.indices, count)

    def padding(self, count: int) -> float:
        """Returns the share of positions without a token in the blocks of the first epoch."""
        return 1 - self.length / (self.num_blocks * self.block_size)


class _BlockSteps(Sequence):
    """The steps of one epoch of a `BlockPlan`."""

    def __init__(self, plan: BlockPlan, epoch: int, order: np.ndarray, shift: int):
        self.plan, self.order, self.shift = plan, order, shift

    def __len__(self) -> int:
        return self.plan.num_steps(0)

    def __getitem__(self, number: int) -> Step:
        if not 0 <= number < len(self):
            raise IndexError(number)
        plan = self.plan
        first, rest = divmod(plan.num_blocks, len(self))  # as np.array_split cuts
        start = number * first + min(number, rest)
        chosen = self.order[start : start + first + (number < rest)].astype(np.int64)
        starts = chosen * plan.block_size - self.shift
        tokens = np.minimum(starts + plan.block_size, plan.length) - np.maximum(starts, 0)
        tokens = np.maximum(tokens, 0)
        return Step((starts,), int(tokens.sum()), int(plan.targets(tokens, starts).sum()))


def spread(order: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Returns the elements of ``order`` with those of each kind at equal distances; a kind keeps its own order.

    Args:
        order: The elements [N].
        kinds: The kind of each element [N].
    """
    places = np.zeros(len(order))
    for kind in np.unique(kinds) if (kinds != kinds[0]).any() else ():
        own = kinds == kind
        places[own] = (np.arange(own.sum()) + 0.5) / own.sum()
    return order[np.argsort(places, kind="stable")] if places.any() else order


# ---------------------------------------------------------------------------------------------------------------------
# Text files, a line at a time


@dataclass
class TextFiles:
    """The running text of the splits of ``format: text``. It is read line by line and never held as a whole.

    Args:
        config: Files, shares that are held out, and the meaning of a document.
    """

    config: DataConfig

    def __post_init__(self) -> None:
        self._size = -1
        if not self.files("train"):
            raise ConfigError("data.train", "names no file", "data.train=FILE or a folder of .txt files")
        self.notes: list[str] = []
        self.skipped: dict[str, tuple[int, int]] = {}
        """Split to the number of lines that ``data.on_bad_line=skip`` left out of its files, and of all their lines."""

    def files(self, split: str) -> list[str]:
        """Returns the files of a split: one, those listed, or all below a folder in the order of their names.

        In a folder the ``.txt`` files count. If there are none, those with another ending of running text do.
        """
        named = getattr(self.config, split)
        if named is None:
            return []
        names = []
        for name in named if isinstance(named, list) else [named]:
            folder = folder_of(self.config) / name
            if not folder.is_dir():
                names.append(name)
                continue
            paths = [path for path in folder.rglob("*") if path.is_file() and not is_hidden(path.relative_to(folder))]
            texts = [path for path in paths if path.name.endswith((".txt", ".txt.gz"))]
            texts = texts or [path for path in paths if path.suffix in TEXTS]
            if not texts:
                what = "holds no .txt file, nor one with another ending of running text"
                raise DataError(str(folder), what, f"data.{split}=FILE or another folder")
            names += sorted(str(Path(name) / path.relative_to(folder)) for path in texts)
        return names

    def lines(self, split: str) -> Iterator[str]:
        """Yields the lines of a split as the tokenizer reads them.

        If a file is one document, the lines keep their newline, and an empty text stands between two files. It becomes
        ``<eos>``.
        """
        held_out = any(not self.files(name) and self.config.splits.get(name) for name in HELD_OUT)
        if split == "test" and not self.files("test") and self.config.splits.get("test") == 0:
            yield from self.lines("val")
        elif not self.files(split) or (split == "train" and held_out):
            yield from self._cut(*self._bounds(split))
        else:
            yield from self._all_lines(split)

    def _all_lines(self, split: str) -> Iterator[str]:
        skipped = total = 0
        files = self.files(split)
        full = [name for name in files if len(files) == 1 or find(self.config, name).stat().st_size > 0]
        if len(full) < len(files):
            empty = next(name for name in files if name not in full)
            note = f"{split}: left out {len(files) - len(full):,} empty files, the first is {empty}"
            self.notes += [note] if note not in self.notes else []
        for number, name in enumerate(full):
            if number and self.config.document == "file":
                yield ""
            lines = open_lines(self.config, name)
            for line in lines:
                total += 1
                if line is not None:
                    yield line + "\n" if self.config.document == "file" else line
            skipped += len(lines.skipped)
            if skipped:
                self.skipped[split] = (skipped, total)
            self.notes += [note for note in lines.summary() if note not in self.notes]

    def _measure(self, line: str) -> int:
        """Returns the size of a line in the unit of shares: characters if a file is one document, otherwise rows."""
        return len(line) if self.config.document == "file" else 1

    def _bounds(self, split: str) -> tuple[int, int]:
        """Returns the start and the end of a split in the train files, which hold train, then val, then test."""
        if self._size < 0:
            self._size = sum(self._measure(line) for line in self._all_lines("train"))
        held = {}
        for name in HELD_OUT:
            size = 0 if self.files(name) else self.config.splits.get(name, 0)
            held[name] = size if size >= 1 else size * self._size
        first = int(self._size - held["val"] - held["test"])
        second = int(self._size - held["test"])
        bounds = {"train": (0, first), "val": (first, second), "test": (second, self._size)}[split]
        if bounds[0] >= bounds[1]:
            what = f"nothing is left for the {split} split of {self._size:,} " + (
                "characters" if self.config.document == "file" else "lines"
            )
            raise ConfigError("data.splits", what, f"data.{split}=FILE, or other shares in data.splits")
        return bounds

    def _cut(self, start: int, stop: int) -> Iterator[str]:
        """Yields the lines between two positions. A line across a position is cut there."""
        at = 0
        for line in self._all_lines("train"):
            size = self._measure(line)
            if at + size > start and at < stop:
                whole = self.config.document == "row" or (at >= start and at + size <= stop)
                yield line if whole else line[max(0, start - at) : stop - at]
            elif size == 0 and start < at < stop:
                yield line
            at += size
            if at >= stop:
                return


# ---------------------------------------------------------------------------------------------------------------------
# Encoding


def fingerprint(lines: Iterable[str]) -> str:
    """Returns the sha256 of running text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "replace"))
        digest.update(b"\0")
    return digest.hexdigest()


def encode_stream(
    lines: Callable[[], Iterable[str]],
    tokenizer: Tokenizer,
    *,
    document: str,
    mark: str,
    cache: Path | None,
    count_documents: bool,
    note: Note = lambda text: None,
) -> Stream:
    """Encodes running text. The ids come from the cache if the same text was encoded before.

    Args:
        lines: Function that returns the text anew each time it is called.
        tokenizer: Tokenizer of the text.
        document: row: each line is a document. file: only an empty line ends a document.
        mark: Fingerprint of the text.
        cache: Folder of the cache. None takes a folder that is deleted at the end of the process.
        count_documents: Whether to keep the number of bytes of each document, for scores by document.
        note: Takes a sentence if the cache cannot be written.
    """
    parent = cache / "streams" if cache is not None else Path(_scratch().name)
    key = hashlib.sha256(f"{mark} {tokenizer.fingerprint} {document} {count_documents}".encode()).hexdigest()[:32]
    folder = parent / key
    if _damaged(folder, count_documents):
        if cache is not None and not writable(parent, note):
            parent = Path(_scratch().name)
            folder = parent / key
        parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=parent, prefix=f"{key}.part"))
        try:
            _write(part, lines(), tokenizer, document, count_documents)
            shutil.rmtree(folder, ignore_errors=True)  # the folder may hold damaged files
            os.rename(part, folder)
        except OSError:
            if _damaged(folder, count_documents):  # if it is whole, another process wrote the same content first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    facts = json.loads((folder / "sums.json").read_text())
    sizes = np.load(folder / "documents.npy", allow_pickle=False) if count_documents else None
    return Stream(folder / "ids.npy", tokenizer.eos_id, facts["bytes"], document_bytes=sizes)


def _damaged(folder: Path, count_documents: bool) -> bool:
    """Returns whether a folder of the cache is missing or differs from its checksums."""
    try:
        facts = json.loads((folder / "sums.json").read_text())
        names = ("ids.npy", "documents.npy") if count_documents else ("ids.npy",)
        return type(facts["bytes"]) is not int or any(sha256(folder / name) != facts["sha256"][name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return True


_scratch_folder: list[tempfile.TemporaryDirectory] = []


def _scratch() -> tempfile.TemporaryDirectory:
    if not _scratch_folder:
        _scratch_folder.append(tempfile.TemporaryDirectory(prefix="multihead-"))
    return _scratch_folder[0]


def _write(folder: Path, lines: Iterable[str], tokenizer: Tokenizer, document: str, count_documents: bool) -> None:
    """Writes ``ids.npy`` batch by batch. The header in front of it is written last, when the length is known."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32)
    count, num_bytes, sizes = 0, 0, []
    body = folder / "ids.body"
    with open(body, "wb") as file:
        for texts in _chunks(lines):
            size = [len(text.encode("utf-8", "replace")) for text in texts]
            if document == "row":
                size = [each + 1 for each in size]  # <eos> stands for the end of the line
            num_bytes += sum(size)
            ids, lengths = tokenizer.encode_flat(texts)
            ends = [document == "row" or not text for text in texts]
            ids = np.insert(ids, np.cumsum(lengths)[ends], tokenizer.eos_id)
            if count_documents:
                sizes += size if document == "row" else []
            ids.astype(dtype).tofile(file)
            count += len(ids)
    if count == 0:
        raise DataError("data", "the text is empty", "check data.train, data.val and data.test")
    with open(folder / "ids.npy", "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_2_0(file, header)
        with open(body, "rb") as source:
            shutil.copyfileobj(source, file, 1 << 22)
    body.unlink()
    if count_documents:
        np.save(folder / "documents.npy", np.asarray(sizes or [num_bytes], dtype=np.int64), allow_pickle=False)
    sums = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    facts = {"bytes": num_bytes, "tokens": count, "sha256": sums}
    (folder / "sums.json").write_text(json.dumps(facts))


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == LINES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
