"""A data set is a table with roles: which rows each split has, and which column plays which role."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from multihead.config.data import SPLITS, DataConfig
from multihead.data.readers import SKIP, Table, data_root, read_split
from multihead.errors import ConfigError, DataError

__all__ = ["Corpus", "Rows", "data_root", "hold_out", "load_corpus"]

Reader = Callable[[DataConfig, str, Sequence[str]], Mapping[str, list[str]] | None]
"""A plugin's corpus: (config, split, columns) to the columns' texts, or None for a split that is held out of train."""


@dataclass
class Rows:
    """Rows of one split by role."""

    columns: dict[str, list[str]]
    """Role to its text, one entry per row."""
    files: dict[str, str]
    """Role to the file it came from."""
    lines: np.ndarray
    """Line of each row in its file."""

    def __len__(self) -> int:
        return len(self.lines)

    def origin(self, index: int, role: str = "") -> str:
        """``file:line`` of a row; of the first role's file where none is named."""
        return f"{self.files[role] if role else next(iter(self.files.values()))}:{self.lines[index]}"

    def select(self, indices: np.ndarray) -> Rows:
        """The rows of these indices, in their order."""
        columns = {role: [texts[i] for i in indices] for role, texts in self.columns.items()}
        return Rows(columns, self.files, self.lines[indices])

    def fingerprint(self) -> str:
        """Sha256 of the content: roles and texts, not where they were read from."""
        digest = hashlib.sha256()
        for role in sorted(self.columns):
            digest.update(f"{role}\0{len(self)}\0".encode())
            digest.update("\0".join(self.columns[role]).encode())  # no text holds a NUL
        return digest.hexdigest()


@dataclass
class Corpus:
    """The splits of a data set."""

    splits: dict[str, Rows]
    fingerprints: dict[str, str]
    """Sha256 of each split's content."""
    notes: list[str] = field(default_factory=list)
    """What the user should hear: lines skipped, rows dropped, splits held out."""


def load_corpus(
    config: DataConfig,
    roles: Sequence[str],
    *,
    splits: Sequence[str] = SPLITS,
    seed: int = 0,
    readers: Mapping[str, Reader] | None = None,
    may_be_empty: Sequence[str] = (),
) -> Corpus:
    """Reads the splits of a data set, holding a share of train out for those without a file.

    Args:
        config: Where the rows are and which column plays which role.
        roles: The roles needed; only their columns, and for parallel files only their files, are read.
        splits: The splits wanted.
        seed: Of the choice of held-out rows. It belongs to the data, not to the run: runs with different seeds must
            be scored on the same sentences.
        readers: Plugins' corpora by data set name.
        may_be_empty: Roles that a row need not fill, such as labels where there may be none.

    Raises:
        ConfigError: The data set has no such role, column or split.
        DataError: A file is missing or a row is not as described.
    """
    read = _Source(config, roles, readers or {}, may_be_empty)
    if "test" in splits and not read.has("test") and config.splits.get("test") == 0:
        options = {"seed": seed, "readers": readers, "may_be_empty": may_be_empty}
        return _tested_on_val(load_corpus(config, roles, splits=_with_val(splits), **options), splits)
    lacking = [split for split in ("val", "test") if not read.has(split)]
    sizes = {split: config.splits[split] for split in lacking if config.splits.get(split)}
    for split in splits:
        if split in lacking and split not in sizes:
            raise ConfigError(f"data.{split}", "no file, and data.splits holds nothing out", f"set data.{split}")
    rows = {split: read(split) for split in splits if split not in lacking}
    if sizes and ("train" in rows or any(split in sizes for split in splits)):
        rows |= hold_out(rows["train"] if "train" in rows else read("train"), sizes, seed)
        read.notes += [f"{split}: {len(rows[split]):,} rows held out of train (data.splits)" for split in sizes]
    rows = {split: rows[split] for split in splits}
    return Corpus(rows, {split: part.fingerprint() for split, part in rows.items()}, read.notes)


def _with_val(splits: Sequence[str]) -> list[str]:
    return list(dict.fromkeys("val" if split == "test" else split for split in splits))


def _tested_on_val(corpus: Corpus, splits: Sequence[str]) -> Corpus:
    """The corpus with the validation split as its test split (``data.splits.test: 0``)."""
    source = {split: "val" if split == "test" else split for split in splits}
    return Corpus(
        {split: corpus.splits[source[split]] for split in splits},
        {split: corpus.fingerprints[source[split]] for split in splits},
        [*corpus.notes, "test: the validation split (data.splits.test is 0)"],
    )


class _Source:
    """Reads one split at a time into rows by role, whatever the format."""

    def __init__(
        self, config: DataConfig, roles: Sequence[str], readers: Mapping[str, Reader], may_be_empty: Sequence[str]
    ):
        self.config, self.may_be_empty = config, may_be_empty
        self.reader = readers.get(config.name)
        self.columns = {role: _column(config, role) for role in roles}
        self.notes: list[str] = []

    def has(self, split: str) -> bool:
        """Whether the split has rows of its own; the others are held out of train."""
        if self.reader is not None or self.config.format == "grammar" or split == "train":
            return True
        return getattr(self.config, split) is not None

    def __call__(self, split: str) -> Rows:
        names = list(dict.fromkeys(self.columns.values()))
        table = self._table(split, names)
        self.notes += table.notes
        rows = Rows(
            {role: table.columns[column] for role, column in self.columns.items()},
            {role: table.files[column] for role, column in self.columns.items()},
            np.asarray(table.lines, dtype=np.int64),
        )
        rows = self._complete(rows)
        if len(rows) == 0:
            raise DataError(rows.files[next(iter(rows.files))], "no usable row", "see data.format and data.columns")
        return rows

    def _table(self, split: str, names: list[str]) -> Table:
        config = self.config
        if self.reader is not None:
            columns = self.reader(config, split, names)
        elif config.format == "grammar":
            from multihead.data import grammar

            columns = grammar.columns(config.grammar, split, names)
        else:
            if getattr(config, split) is None and config.format != "hub":
                raise ConfigError(f"data.{split}", "names no file", f"data.{split}=FILE")
            return read_split(config, split, names)
        count = len(columns[names[0]])
        return Table(dict(columns), dict.fromkeys(names, f"{config.name} {split}"), np.arange(1, count + 1))

    def _complete(self, rows: Rows) -> Rows:
        """Drops rows that are empty in every role; refuses or skips those that lack one. Running text keeps all."""
        if len(rows.columns) == 1:
            return rows
        empty = {role: np.array([not text.strip() for text in texts]) for role, texts in rows.columns.items()}
        all_empty = np.all(list(empty.values()), axis=0)
        lacking = np.any([empty[role] for role in empty if role not in self.may_be_empty], axis=0)
        if not lacking.any():
            return rows
        partly = np.flatnonzero(lacking & ~all_empty)
        if len(partly):
            row = partly[0]
            bad = next(role for role in empty if empty[role][row] and role not in self.may_be_empty)
            good = next(role for role in empty if not empty[role][row])
            what = f"the {bad} is empty, the {good} ({rows.origin(row, good)}) is not"
            if self.config.on_bad_line == "error":
                raise DataError(rows.origin(row, bad), what, SKIP)
            self.notes.append(
                f"{rows.files[bad]}: skipped {len(partly)} rows that lack one side, the first {rows.origin(row, bad)}"
            )
        if all_empty.any():
            first = rows.origin(np.flatnonzero(all_empty)[0])
            self.notes.append(f"{first.rpartition(':')[0]}: dropped {all_empty.sum()} empty rows, the first {first}")
        return rows.select(np.flatnonzero(~lacking))


def _column(config: DataConfig, role: str) -> str:
    """The column that plays a role; a column of the role's own name needs no mapping."""
    if role in config.roles:
        column = config.roles[role]
    elif config.roles or (config.columns and role not in config.columns):
        have = ", ".join(config.roles or config.columns)
        raise ConfigError(f"data={config.name}", f"has no {role}; it has {have}", f"set data.roles.{role}")
    else:
        column = role
    if config.columns and column not in config.columns and not config.header and config.format != "hub":
        raise ConfigError(f"data.roles.{role}", f"no column {column!r}; there are {', '.join(config.columns)}")
    return column


def hold_out(rows: Rows, sizes: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Cuts rows into train and held-out splits so that no text of any role stands on both sides.

    Rows joined by an identical text, directly or through others, stay together; groups are drawn in a random order
    that depends on the seed only, and one too large for what a split still lacks stays in train.

    Args:
        rows: All rows.
        sizes: Split to a share (below 1) or a number of rows.
        seed: Of the draw.

    Returns:
        The rows of each split of ``sizes``, and of "train", each in the original order.
    """
    groups = _groups([texts for role, texts in rows.columns.items() if role != "label"], len(rows))
    roots, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 0x5B117]).permutation(len(roots))
    split_of_group = np.zeros(len(roots), dtype=np.int64)
    position = 0
    for number, (split, size) in enumerate(sizes.items(), start=1):
        lacking = max(1, round(size * len(rows))) if size < 1 else int(size)
        passed_over = []
        while lacking and position < len(order):
            group = order[position]
            position += 1
            if counts[group] <= lacking:
                split_of_group[group] = number
                lacking -= counts[group]
            else:
                passed_over.append(group)
        order = np.concatenate([order[:position], passed_over, order[position:]]).astype(np.int64)
        if not (split_of_group == number).any():
            raise DataError(rows.origin(0), f"too few different rows to hold {split} out", f"set data.{split}")
    parts = split_of_group[inverse]
    if not (parts == 0).any():
        raise DataError(
            rows.origin(0), f"data.splits leaves nothing of {len(rows)} rows to train on", "lower data.splits"
        )
    names = ["train", *sizes]
    return {name: rows.select(np.flatnonzero(parts == number)) for number, name in enumerate(names)}


def _groups(columns: Sequence[list[str]], count: int) -> np.ndarray:
    """For each row the smallest row that it is joined to by identical texts in a column (union-find)."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for texts in columns:
        first: dict[str, int] = {}
        for row, text in enumerate(texts):
            other = first.setdefault(text, row)
            if other != row:
                a, b = root(other), root(row)
                parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(count)], dtype=np.int64)
