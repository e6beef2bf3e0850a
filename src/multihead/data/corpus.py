"""A data set is a table with roles: the rows of each split, and the column that plays each role."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from multihead.config.data import SPLITS, DataConfig
from multihead.data.lines import SKIP, data_root
from multihead.data.readers import HEADER, SHARD, Table, read_split
from multihead.data.splitting import fold_out, hold_out
from multihead.errors import MOST_FINDINGS, ConfigError, DataError, together
from multihead.text.inputs import is_blank

__all__ = ["Corpus", "Rows", "data_root", "fold_out", "hold_out", "load_corpus"]

Reader = Callable[[DataConfig, str, Sequence[str]], Mapping[str, list[str]] | None]
"""A plugin's corpus: (config, split, columns) to the texts of the columns, or None to hold the split out of train."""


ROWS_AT_ONCE = 1_000


@dataclass
class Rows:
    """Rows of one split by role."""

    columns: dict[str, list[str]]
    """Role to its texts, one for each row."""
    files: dict[str, str]
    """Role to the file that it was read from."""
    lines: np.ndarray
    """Line of each row in its file, and in which of several files (`readers.SHARD`)."""
    held_out: bool = False
    """Whether these rows were taken out of the train split."""
    shards: tuple[str, ...] = ()
    """The files of the split if there are several."""
    blank: dict[str, list[int]] = field(default_factory=dict)
    """Role to the rows in which it is blank, if the reader has looked for them."""

    def __len__(self) -> int:
        return len(self.lines)

    def origin(self, index: int, role: str = "") -> str:
        """Returns ``file:line`` of a row. If no role is named, it is the file of the first one."""
        shard, line = divmod(int(self.lines[index]), SHARD)
        file = self.files[role] if role else next(iter(self.files.values()))
        return f"{self.shards[shard] if self.shards else file}:{line}"

    def select(self, indices: np.ndarray) -> Rows:
        """Returns the rows with these indices, in their order."""
        columns = {role: [texts[i] for i in indices] for role, texts in self.columns.items()}
        return Rows(columns, self.files, self.lines[indices], self.held_out, self.shards)

    def is_blank(self, role: str) -> np.ndarray:
        """Returns for each row whether the text of a role is blank."""
        if role not in self.blank:
            return np.array([is_blank(text) for text in self.columns[role]], dtype=bool)
        found = np.zeros(len(self), dtype=bool)
        found[self.blank[role]] = True
        return found

    def fingerprint(self) -> str:
        """Returns the sha256 of roles and texts. It does not depend on the files."""
        digest = hashlib.sha256()
        for role in sorted(self.columns):
            digest.update(f"{role}\0{len(self)}\0".encode())
            texts = self.columns[role]
            for first in range(0, len(texts), ROWS_AT_ONCE):  # a join of all texts would hold them twice in memory
                digest.update(b"\0" * bool(first))
                digest.update("\0".join(texts[first : first + ROWS_AT_ONCE]).encode())
        return digest.hexdigest()


@dataclass
class Corpus:
    """The splits of a data set."""

    splits: dict[str, Rows]
    fingerprints: dict[str, str]
    """Sha256 of each split's content."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user about skipped lines, dropped rows and held-out splits."""
    skipped: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Split to the number of rows that ``data.on_bad_line=skip`` left out of its file, and of all rows of that file."""


def load_corpus(
    config: DataConfig,
    roles: Sequence[str],
    *,
    splits: Sequence[str] = SPLITS,
    seed: int = 0,
    readers: Mapping[str, Reader] | None = None,
    may_be_empty: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> Corpus:
    """Reads the splits of a data set. Rows of train are held out for splits without a file.

    Args:
        config: Files, columns and roles.
        roles: Roles that are needed. Only their columns are read, and of parallel files only their files.
        splits: Names of the splits.
        seed: Seed of the choice of held-out rows. It belongs to the data and not to the run, since runs with
            different seeds must be scored on the same rows.
        readers: Corpora of plugins by the name of the data set.
        may_be_empty: Roles that may be empty in a row, such as the labels if a row may have none.
        numbers: Roles that hold numbers instead of classes.

    Raises:
        ConfigError: The data set lacks a role, a column or a split.
        DataError: A file is missing, or a row is not as described.
    """
    read = _Source(config, roles, readers or {}, may_be_empty)
    if "test" in splits and not read.has("test") and config.splits.get("test") == 0 and not config.folds:
        options = {"seed": seed, "readers": readers, "may_be_empty": may_be_empty, "numbers": numbers}
        return _tested_on_val(load_corpus(config, roles, splits=_with_val(splits), **options), splits)
    lacking = [split for split in ("val", "test") if not read.has(split)]
    sizes = {split: config.splits[split] for split in lacking if config.splits.get(split)}
    if config.folds:
        sizes["test"] = 1 / config.folds  # `fold_out` takes it
    for split in splits:
        if split in lacking and split not in sizes:
            raise ConfigError(
                f"data.{split}",
                "names no file, and data.splits holds out no rows for it",
                f"data.{split}=FILE, or data.splits.{split}=0.1",
            )
    rows = {split: read(split) for split in splits if split not in lacking}
    unclassed = (*may_be_empty, *numbers)
    rows |= _left_out(config, read, rows, lacking, unclassed)
    if sizes and ("train" in rows or any(split in sizes for split in splits)):
        whole = rows["train"] if "train" in rows else read("train")
        if config.folds:
            rows |= _with_fold(config, whole, sizes, seed, unclassed)
        else:
            rows |= hold_out(whole, sizes, seed, _classes(config, whole, unclassed))
        fold = f"data.fold={config.fold} of data.folds={config.folds}"
        why = {split: fold if config.folds and split == "test" else "data.splits" for split in sizes}
        read.notes += [f"{split}: {len(rows[split]):,} rows held out of train ({why[split]})" for split in sizes]
        for split in sizes:
            read.notes += _without_class(config, split, rows[split], whole, unclassed)
    rows = {split: rows[split] for split in splits}
    if "label" not in numbers:
        read.notes += [note for split in splits if split != "train" for note in _too_few(config, split, rows[split])]
    return Corpus(rows, {split: part.fingerprint() for split, part in rows.items()}, read.notes, read.skipped)


def _with_fold(
    config: DataConfig, whole: Rows, sizes: Mapping[str, float], seed: int, unclassed: Sequence[str]
) -> dict[str, Rows]:
    """The rows of a fold as test split; the other held-out splits are taken out of the rest."""
    rest, test = fold_out(whole, config.folds, config.fold, seed, _classes(config, whole, unclassed))
    others = {split: size for split, size in sizes.items() if split != "test"}
    found = hold_out(rest, others, seed, _classes(config, rest, unclassed)) if others else {"train": rest}
    return {**found, "test": test}


def _left_out(
    config: DataConfig, read: _Source, rows: Mapping[str, Rows], lacking: Sequence[str], unclassed: Sequence[str]
) -> dict[str, Rows]:
    """The splits without the rows of classes that are rare in train, and of classes that train does not have.

    Rare ones are left out if ``data.min_class_examples`` says so, unseen ones also if bad lines are skipped. Train is
    read for this even if it is not among the splits.
    """
    unseen = config.on_bad_line == "skip" or config.min_class_examples > 1
    given = [split for split in rows if split != "train"]
    if not ("label" in read.columns and unseen and (config.min_class_examples > 1 or given)):
        return {}
    train = rows["train"] if "train" in rows else read("train")
    counts = Counter(_classes(config, train, unclassed) or [])
    kept = {name for name, count in counts.items() if count >= config.min_class_examples}
    found = {}
    for split, part in {"train": train, **rows}.items():
        classes = _classes(config, part, unclassed)
        if classes is None:
            return {}
        out = Counter(name for name in classes if name not in kept)
        if out:
            named = ", ".join(f"{name!r} ({count})" for name, count in out.most_common(5))
            more = f" and {len(out) - 5} more" if len(out) > 5 else ""
            why = f"fewer than {config.min_class_examples} examples of their class in train"
            read.notes.append(f"{split}: left out {sum(out.values()):,} rows with {why}: {named}{more}")
        if out or split == "train":
            found[split] = part.select(np.array([i for i, name in enumerate(classes) if name in kept], dtype=np.int64))
        if len(found.get(split, part)) == 0:
            raise DataError(
                part.files["label"], f"no class of {split} has enough examples", "a smaller data.min_class_examples"
            )
    return {split: part for split, part in found.items() if split in rows or lacking}


FEW_ROWS = 100
"""If a split has fewer rows, the interval of its scores is said."""


def _too_few(config: DataConfig, split: str, rows: Rows) -> list[str]:
    """A sentence about the interval of a score on few rows: 1.96 standard deviations of a share of one half."""
    if "label" not in rows.columns or len(rows) >= FEW_ROWS:
        return []
    points = 98 / len(rows) ** 0.5
    fix = f"data.splits.{split}=0.2 holds out more" if rows.held_out else "add rows"
    what = f"an accuracy on so few rows has a 95 % interval of up to {points:.0f} points either way"
    return [f"{split} has {len(rows)} rows: {what}; {fix}"]


def _with_val(splits: Sequence[str]) -> list[str]:
    return list(dict.fromkeys("val" if split == "test" else split for split in splits))


def _tested_on_val(corpus: Corpus, splits: Sequence[str]) -> Corpus:
    """Returns the corpus with the validation split as its test split (``data.splits.test: 0``)."""
    source = {split: "val" if split == "test" else split for split in splits}
    return Corpus(
        {split: corpus.splits[source[split]] for split in splits},
        {split: corpus.fingerprints[source[split]] for split in splits},
        [*corpus.notes, "test: the validation split (data.splits.test is 0)"],
        {split: corpus.skipped[source[split]] for split in splits if source[split] in corpus.skipped},
    )


def _classes(config: DataConfig, rows: Rows, unclassed: Sequence[str]) -> list[str] | None:
    """Returns the class of each row, or None if the rows have no label, several labels, or numbers."""
    if "label" not in rows.columns or "label" in unclassed:
        return None
    pattern = re.compile(config.label_pattern or "(?s:.*)")
    found = [pattern.search(text.strip()) for text in rows.columns["label"]]  # what does not fit is refused later
    names = ["" if match is None else match.group(min(1, pattern.groups)) or "" for match in found]
    return [config.labels.get(name, name) for name in names]


MOST_LISTED = 5
"""Number of classes that a message lists."""


def _without_class(config: DataConfig, split: str, part: Rows, whole: Rows, unclassed: Sequence[str]) -> list[str]:
    """Returns a sentence about classes of which a held-out split has no row."""
    classes = _classes(config, whole, unclassed) or []
    lacking = sorted(set(classes) - set(_classes(config, part, unclassed) or []))
    if not lacking:
        return []
    listed = ", ".join(map(repr, lacking[:MOST_LISTED]))
    listed += f" and {len(lacking) - MOST_LISTED} more" if len(lacking) > MOST_LISTED else ""
    what = f"{split}: {len(lacking)} of the {len(set(classes))} classes have no row in it ({listed})"
    return [f"{what}; a larger share may help: data.splits.{split}=0.2"]


class _Source:
    """Reads one split at a time into rows by role, in any format."""

    def __init__(
        self, config: DataConfig, roles: Sequence[str], readers: Mapping[str, Reader], may_be_empty: Sequence[str]
    ):
        self.config, self.may_be_empty = config, may_be_empty
        self.reader = readers.get(config.name)
        self._given: dict[str, Mapping[str, list[str]] | None] = {}
        self.columns = {role: _column(config, role) for role in roles}
        """Role to its column, or to the template that joins several."""
        self.notes: list[str] = []
        self.skipped: dict[str, tuple[int, int]] = {}

    def has(self, split: str) -> bool:
        """Returns whether the split has rows of its own. The others are held out of train."""
        if self.reader is not None:
            return self._of_plugin(split, self._names()) is not None
        if self.config.format == "grammar" or split == "train":
            return True
        return getattr(self.config, split) is not None

    def _names(self) -> list[str]:
        """The columns to read."""
        found = [name for column in self.columns.values() for name in TEMPLATE.findall(column) or [column]]
        if self.config.label_columns and "label" in self.columns:
            found = [name for name in found if name != self.columns["label"]] + self.config.label_columns
        return list(dict.fromkeys(found))

    def _texts(self, table: Table, role: str) -> list[str]:
        """The texts of a role: a column, a template filled in, or the names of the columns that hold 1 as a list."""
        column = self.columns[role]
        if role == "label" and self.config.label_columns:
            names = self.config.label_columns
            switches = zip(*(table.columns[name] for name in names), strict=True)
            return [json.dumps([name for name, on in zip(names, row, strict=True) if _is_on(on)]) for row in switches]
        if not TEMPLATE.search(column):
            return table.columns[column]
        names, form = TEMPLATE.findall(column), TEMPLATE.sub("{}", column)
        cells = zip(*(table.columns[name] for name in names), strict=True)
        return [form.format(*row) for row in cells]

    def __call__(self, split: str) -> Rows:
        table = self._table(split, self._names())
        self.notes += table.notes
        if table.skipped:
            self.skipped[split] = (table.skipped, table.skipped + len(table))
        rows = Rows(
            {role: self._texts(table, role) for role in self.columns},
            {role: table.files.get(column, next(iter(table.files.values()))) for role, column in self.columns.items()},
            np.asarray(table.lines, dtype=np.int64),
            shards=table.shards,
            blank={role: table.blank[column] for role, column in self.columns.items() if column in table.blank},
        )
        rows = self._complete(self._with_label(rows, split), split)
        if len(rows) == 0:
            raise DataError(rows.files[next(iter(rows.files))], "no usable row", "check data.format and data.columns")
        return rows

    def _of_plugin(self, split: str, names: list[str]) -> Mapping[str, list[str]] | None:
        """The columns of a split that a plugin's corpus returns; it is asked once."""
        if self.reader is not None and split not in self._given:
            self._given[split] = self.reader(self.config, split, names)
        return self._given.get(split)

    def _table(self, split: str, names: list[str]) -> Table:
        config = self.config
        if self.reader is not None:
            columns = self._of_plugin(split, names)
            if columns is None:
                raise ConfigError(f"data={config.name}", f"the plugin's corpus has no {split} split")
        elif config.format == "grammar":
            from multihead.data import grammar

            columns = grammar.columns(config.grammar, split, names)
        else:
            if getattr(config, split) is None and config.format != "hub":
                raise ConfigError(f"data.{split}", "names no file", f"data.{split}=FILE")
            return read_split(config, split, names)
        count = len(columns[names[0]])
        return Table(dict(columns), dict.fromkeys(names, f"{config.name} {split}"), np.arange(1, count + 1))

    def _with_label(self, rows: Rows, split: str) -> Rows:
        """The rows without those whose label means that there is none (``data.ignore_labels``)."""
        ignored = {*self.config.ignore_labels} | ({""} if "null" in self.config.ignore_labels else set())
        if not ignored or "label" not in rows.columns:
            return rows
        kept = [i for i, label in enumerate(rows.columns["label"]) if label.strip() not in ignored]
        if len(kept) < len(rows):
            count = f"{len(rows) - len(kept):,} rows whose label is one of data.ignore_labels"
            self.notes.append(f"{split}: left out {count}")
            rows = rows.select(np.array(kept, dtype=np.int64))
        return rows

    def _complete(self, rows: Rows, split: str) -> Rows:
        """Drops rows that are empty in every role, and refuses or skips those that lack one. Running text keeps all."""
        if len(rows.columns) == 1:
            return rows
        empty = {role: rows.is_blank(role) for role in rows.columns}
        all_empty = np.all(list(empty.values()), axis=0)
        lacking = np.any([empty[role] for role in empty if role not in self.may_be_empty], axis=0)
        if not lacking.any():
            return rows
        partly = np.flatnonzero(lacking & ~all_empty)
        if len(partly):
            if self.config.on_bad_line == "error":
                findings = [self._lacks_one(rows, row, empty) for row in partly[:MOST_FINDINGS]]
                raise together(findings, len(partly) - len(findings))
            row = partly[0]
            bad = next(role for role in empty if empty[role][row] and role not in self.may_be_empty)
            self.notes.append(
                f"{rows.files[bad]}: skipped {len(partly)} rows that lack one side, the first {rows.origin(row, bad)}"
            )
            skipped, total = self.skipped.get(split, (0, len(rows)))
            self.skipped[split] = (skipped + len(partly), total)
        if all_empty.any():
            first = rows.origin(np.flatnonzero(all_empty)[0])
            self.notes.append(f"{first.rpartition(':')[0]}: dropped {all_empty.sum()} empty rows, the first {first}")
        return rows.select(np.flatnonzero(~lacking))

    def _lacks_one(self, rows: Rows, row: int, empty: Mapping[str, np.ndarray]) -> DataError:
        """The error of a row that is empty in one role."""
        bad = next(role for role in empty if empty[role][row] and role not in self.may_be_empty)
        good = next(role for role in empty if not empty[role][row])
        what = f"the {bad} is empty, the {good} ({rows.origin(row, good)}) is not"
        return DataError(rows.origin(row, bad), what, SKIP)


TEMPLATE = re.compile(r"\{([^{}]+)\}")
"""A column in a template such as ``{title} {body}``."""


def _is_on(cell: str) -> bool:
    """Whether a cell of a column of 0 and 1 says that the row has the class."""
    return cell.strip().lower() in ("1", "1.0", "true", "yes")


def _column(config: DataConfig, role: str) -> str:
    """Returns the column that plays a role, or the template. A column of the name of the role needs no mapping."""
    if role in config.roles:
        column = config.roles[role]
    elif role == "label" and config.label_columns:
        column = role
    elif config.roles or (config.columns and role not in config.columns):
        have = ", ".join(config.roles or config.columns)
        raise ConfigError(f"data={config.name}", f"has no {role}; it has {have}", f"set data.roles.{role}")
    else:
        column = role
    if role == "label" and config.label_columns:
        return column
    unknown = [name for name in TEMPLATE.findall(column) or [column] if name not in config.columns]
    if config.columns and unknown and not config.header and config.format != "hub":
        what = f"no column {unknown[0]!r}; there are {', '.join(config.columns)}"
        raise ConfigError(f"data.roles.{role}", what, HEADER if config.format in ("csv", "tsv") else "")
    return column
