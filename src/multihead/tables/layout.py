"""From a path to the keys of ``data``: a file, several files, a folder of splits or of classes, or parallel files."""

from __future__ import annotations

import difflib
import functools
import glob
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from multihead.errors import DataError, together
from multihead.tables.compression import COMPRESSED
from multihead.tables.found import Look
from multihead.tables.label_names import label_names
from multihead.tables.opening import Unclear
from multihead.tables.records import MOST_ROWS
from multihead.tables.roles import Found, Needs, find_roles
from multihead.tables.sniff import ENDINGS, TEXTS, look
from multihead.tables.units import segments_in
from multihead.tables.words import language

SPLITS = {
    "train": re.compile(r"(^|[._-])(train|training)([._-]|$)", re.IGNORECASE),
    "val": re.compile(r"(^|[._-])(val|valid|validation|dev|development)([._-]|$)", re.IGNORECASE),
    "test": re.compile(r"(^|[._-])(test|testing|eval)([._-]|$)", re.IGNORECASE),
}
"""Split to the words in a name that say so."""
UNLABELLED = ("unsup", "unlabeled", "unlabelled")
"""Folders of classes that hold texts without a class, as in aclImdb."""
SGML = (".sgm", ".sgml")
HELD_OUT = 0.1
"""Share of the rows that is held out for validation and for test if there is no file for them."""
LEAST_HELD_OUT, MOST_HELD_OUT = 100, 5000
"""Bounds of the number of rows that are held out."""
MOST_SHARE = 0.2
"""The lower bound holds up to this share of the rows."""


@dataclass
class Data:
    """Describes the files of a path as keys of ``data``."""

    keys: dict[str, Any]
    """Key to value, such as ``format``, ``train`` and ``roles``."""
    line: str
    """What was understood, in one line."""
    notes: list[str] = field(default_factory=list)
    """Sentences that the user should read."""
    looks: dict[str, Look] = field(default_factory=dict)
    """Split to the description of its first file."""


def find_data(paths: Sequence[str], needs: Needs, stated: Mapping[str, Any]) -> Data:
    """Finds the format of files and the column of each role.

    Args:
        paths: A file, a folder or a pattern; or several files.
        needs: What the task needs.
        stated: Keys of ``data`` that the user has set. They win and are checked.

    Raises:
        DataError: There is no such file, or it cannot be read.
        Unclear: Two readings are near each other.
    """
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _of_folder(paths[0], needs, stated)
    files = {"train": [file for path in paths for file in _expanded(path)]}
    for split in ("val", "test"):
        if named := stated.get(split):
            given = [named] if isinstance(named, str) else named
            files[split] = [file for path in given for file in _expanded(path, f"data.{split}")]
    if len(files["train"]) == 2 and _are_parallel(files["train"], needs):
        return _parallel(files, stated)
    return _of_splits(files, needs, stated)


def _expanded(path: str, key: str = "data") -> list[str]:
    """The files of a pattern, or the file itself. The key is the one that names it."""
    if Path(path).is_file():
        return [path]
    if Path(path).is_dir():
        raise DataError(path, "is a folder, not a file", f"{key}=FILE")
    if glob.has_magic(path):
        found = sorted(each for each in glob.glob(path, recursive=True) if Path(each).is_file())
        if not found:
            raise DataError(
                path, "no file fits this pattern", "give a pattern in quotes that fits, such as 'texts/*.txt'"
            )
        return found
    parent = Path(path).parent
    names = sorted(each.name for each in parent.iterdir()) if parent.is_dir() else []
    near = difflib.get_close_matches(Path(path).name, names, n=1, cutoff=0.6)
    fix = shlex.quote(f"{key}={parent / near[0] if str(parent) != '.' else near[0]}") if near else ""
    there = f"in {parent.absolute()}" if parent.is_dir() else f"and no folder {parent}"
    raise DataError(path, f"no such file {there}", fix or "give the path of a file or a folder that exists")


def _plain(name: str) -> str:
    """A file's name without the ending of its compression."""
    return re.sub(rf"({'|'.join(map(re.escape, COMPRESSED))})$", "", name)


def _ending(name: str) -> str:
    return Path(_plain(name)).suffix.lower()


def data_name(path: str) -> str:
    """Returns the name of the data set of a path: ``tickets`` for ``my/tickets.csv.gz``."""
    stem = Path(_plain(path.rstrip("/"))).name
    stem = re.sub(r"[^\w.-]+", "_", stem.rsplit(".", 1)[0] if "." in stem[1:] else stem).strip("_.")
    return stem[:100] or "files"


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def _of_folder(folder: str, needs: Needs, stated: Mapping[str, Any]) -> Data:
    path = Path(folder)
    entries = sorted(each for each in path.iterdir() if not each.name.startswith((".", "_")))
    folders, files = [each for each in entries if each.is_dir()], [each for each in entries if each.is_file()]
    of_split = {split: each for each in folders for split in SPLITS if SPLITS[split].search(each.name)}
    if "train" in of_split:
        if any(each.is_dir() for each in of_split["train"].iterdir()):
            return _classes({split: str(each) for split, each in of_split.items()}, needs, stated)
        inside = {split: _files_in(each) for split, each in of_split.items()}
        return _of_splits({split: names for split, names in inside.items() if names}, needs, stated, folder)
    tables = [
        each for each in files if each.suffix not in (".feat", ".vocab") and each.name not in ("README", "LICENSE")
    ]
    if "label" in needs.roles and len(folders) > 1 and all(_has_texts(each) for each in folders):
        return _classes({"train": folder}, needs, stated)
    by_split = {split: [str(each) for each in tables if SPLITS[split].search(_plain(each.name))] for split in SPLITS}
    by_split = {split: _one_kind(names, folder) for split, names in by_split.items() if names}
    if "train" in by_split:
        if {"source", "target"} <= {*needs.roles} and (sides := _sides(by_split)):
            return _parallel(_two_languages(sides, folder, stated), stated)
        return _of_splits(by_split, needs, stated, folder)
    if needs.roles == ("text",) and (texts := _texts_below(path)):
        return _of_splits({"train": texts}, needs, stated, folder)
    if len({_ending(each.name) for each in tables}) == 1:
        return _of_splits({"train": [str(each) for each in tables]}, needs, stated, folder)
    listed = ", ".join(each.name for each in entries[:6]) + (" ..." if len(entries) > 6 else "")
    fix = shlex.quote(f"data={tables[0]}") if tables else "name a folder with train, val and test files"
    raise DataError(folder, f"cannot tell which files to read; the folder holds {listed or 'nothing'}", fix)


def _texts_below(folder: Path) -> list[str]:
    """The files of running text in a folder and its subfolders, folder by folder. `os.walk` is faster than a glob."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(where, name) for name in names if not name.startswith(".") and _ending(name) in TEXTS]
    return sorted(found, key=lambda name: name.split(os.sep))


def _files_in(folder: Path) -> list[str]:
    return _one_kind(
        [str(each) for each in sorted(folder.iterdir()) if each.is_file() and not each.name.startswith(".")], ""
    )


def _one_kind(names: list[str], folder: str) -> list[str]:
    """The files with the most frequent ending, so that ``dataset_info.json`` beside ``data.arrow`` does not count."""
    endings = Counter(_ending(name) for name in names if Path(name).name not in ("state.json", "dataset_info.json"))
    languages = [ending for ending in endings if language(ending.lstrip("."))]
    if not endings or len(languages) > 1:
        return names
    most = endings.most_common(1)[0][0]
    return [
        name for name in names if _ending(name) == most and Path(name).name not in ("state.json", "dataset_info.json")
    ]


def _has_texts(folder: Path) -> bool:
    return any(_ending(each.name) in TEXTS or not each.suffix for each in folder.iterdir() if each.is_file())


def _classes(folders: Mapping[str, str], needs: Needs, stated: Mapping[str, Any]) -> Data:
    """A folder for each class, each file one text."""
    if "label" not in needs.roles or needs.numeric:
        what = f"holds a folder for each class, but task={needs.task} has no classes"
        raise DataError(folders["train"], what, "task=classification")
    names: dict[str, list[str]] = {}
    notes = []
    for split, folder in folders.items():
        inside = sorted(each.name for each in Path(folder).iterdir() if each.is_dir() and not each.name.startswith("."))
        names[split] = [name for name in inside if name not in UNLABELLED]
        if len(names[split]) < len(inside):
            notes.append(f"{split}: the folder {(set(inside) - set(names[split])).pop()} has no class and is left out")
    classes = names["train"]
    if len(classes) < 2:
        what = f"has only one class, {classes}, but classification needs two"
        raise DataError(folders["train"], what, "add a folder for each class")
    for split, found in names.items():
        if extra := sorted({*found} - {*classes}):
            what = f"has classes that train does not have: {', '.join(extra)}"
            raise DataError(folders[split], what, "rename these folders")
    texts = [each for name in classes for each in Path(folders["train"], name).iterdir()]
    count = sum(not each.name.startswith(".") for each in texts)
    keys: dict[str, Any] = {
        "name": data_name(folders["train"] if len(folders) == 1 else str(Path(folders["train"]).parent)),
        "format": "folders",
        "columns": ["text", "label"],
        "roles": {"text": "text", "label": "label"},
        **{split: folders.get(split) for split in SPLITS},
    }
    _hold_out(keys, stated, count)
    listed = ", ".join(classes[:6]) + (" ..." if len(classes) > 6 else "")
    line = f"{', '.join(folders.values())}: a folder for each class ({listed}), {count:,} texts in train"
    return Data(keys, line, notes)


# ---------------------------------------------------------------------------------------------------------------------
# Parallel files


def _are_parallel(files: Sequence[str], needs: Needs) -> bool:
    """Whether two files are the two sides of a sequence-to-sequence task."""
    if not {"source", "target"} <= {*needs.roles}:
        return False
    tables = (*ENDINGS, ".tsv", ".json", ".xml")
    return not any(_ending(file) in tables for file in files)


def _sides(by_split: Mapping[str, list[str]]) -> dict[str, dict[str, str]]:
    """Split to side to file, if each split has one file for each of at least two sides; else nothing."""
    found: dict[str, dict[str, str]] = {}
    for split, names in by_split.items():
        sides = {_ending(name).lstrip("."): name for name in names}
        if len(sides) < 2 or not all(
            language(side) or side in ("src", "tgt", "trg", "source", "target") for side in sides
        ):
            return {}
        found[split] = sides
    return found


def _two_languages(
    sides: Mapping[str, Mapping[str, str]], folder: str, stated: Mapping[str, Any]
) -> dict[str, list[str]]:
    """The files of source and target of each split."""
    known = list(sides["train"])
    named = next(
        ((a, b) for a, b in (("src", "tgt"), ("src", "trg"), ("source", "target")) if {a, b} <= {*known}), None
    )
    roles = stated.get("roles") or {}
    source, target = roles.get("source"), roles.get("target")
    if named is None and not (source in known and target in known):
        pairs = [(a, b) for a in known for b in known if a != b and source in (None, a) and target in (None, b)]
        choices = [f"data.roles.source={a} data.roles.target={b}" for a, b in pairs[:6]]
        raise Unclear(folder, f"it holds {', '.join(known)}; from which language into which?", *choices)
    first, second = named or (str(source), str(target))
    return {split: [of[first], of[second]] for split, of in sides.items() if {first, second} <= {*of}}


def _parallel(files: Mapping[str, list[str]], stated: Mapping[str, Any]) -> Data:
    """Two files whose lines belong together, source first."""
    encodings, counts = [], []
    for name in files["train"]:
        found = _look(name, {"format": "text", "encoding": stated.get("encoding", "")})
        encodings.append(found.encoding)
        counts.append(found.count if found.whole else 0)
    if len({*encodings}) > 1:
        raise DataError(files["train"][1], f"is {encodings[1]}, the other file {encodings[0]}", "write both in UTF-8")
    if all(counts) and counts[0] != counts[1]:
        what = f"has {counts[1]:,} lines, {files['train'][0]} has {counts[0]:,}"
        raise DataError(files["train"][1], what, "give both files the same number of lines")
    columns = [_ending(name).lstrip(".") for name in files["train"]]
    if len({*columns}) < 2 or not all(columns) or columns[0] == "txt":
        columns = ["source", "target"]
    roles = _roles_of_sides(columns, stated)
    keys: dict[str, Any] = {
        "name": data_name(files["train"][0]),
        "format": "parallel",
        "encoding": encodings[0],
        "columns": columns,
        "roles": roles,
        **{split: files.get(split) for split in SPLITS},
    }
    _hold_out(keys, stated, counts[0])
    line = (
        f"{' and '.join(files['train'])}: line by line, {counts[0]:,} pairs, source={columns[0]}, target={columns[1]}"
    )
    return Data(keys, line)


def _segments(files: dict[str, list[str]], needs: Needs, stated: Mapping[str, Any]) -> Data:
    """Files of WMT's SGML: the two sides of a translation, or one side as text."""
    wanted = 2 if {"source", "target"} <= {*needs.roles} else 1
    if "label" in needs.roles:
        raise DataError(files["train"][0], f"is SGML of WMT, which has no label for task={needs.task}", "task=lm")
    looks = {}
    for split, names in files.items():
        if len(names) != wanted:
            what = f"is SGML of WMT, of which task={needs.task} needs {wanted} for each split, got {len(names)}"
            both = f"{names[0]},{_other_side(names[0]) or 'THE_OTHER_SIDE.sgm'}"
            raise DataError(names[0], what, shlex.quote(f"data=[{both}]" if wanted == 2 else f"data={names[0]}"))
        looks[split], files[split] = _look_at_sides(names, str(stated.get("encoding") or "utf-8"))
    train = looks["train"]
    keys: dict[str, Any] = {
        "name": data_name(files["train"][0]),
        "format": "sgm",
        "encoding": train.encoding,
        "columns": train.columns,
        "roles": _roles_of_sides(train.columns, stated) if wanted == 2 else {"text": train.columns[0]},
        **{split: files.get(split) for split in SPLITS},
    }
    _hold_out(keys, stated, train.count)
    roles = ", ".join(f"{role}={column}" for role, column in keys["roles"].items())
    return Data(keys, f"{' and '.join(files['train'])}: {train.described()}; {roles}", looks=looks)


def _other_side(name: str) -> str:
    """The file beside ``newstest-src.en.sgm`` that holds the references, or the other way round; empty if none does."""
    path = Path(name)
    for here, there in (("-src", "-ref"), ("-ref", "-src")):
        if here in path.name:
            beside = sorted(path.parent.glob(glob.escape(path.name.partition(here)[0] + there) + "*"))
            return next((str(each) for each in beside if _ending(each.name) in SGML), "")
    return ""


def _look_at_sides(names: Sequence[str], encoding: str) -> tuple[Look, list[str]]:
    """What one or two files of segments are together, and the files with the source first."""
    sides = [(name, segments_in(Path(name), name, encoding)) for name in names]
    sides.sort(key=lambda each: not each[1].source)
    columns = []
    for name, side in sides:
        ending = _ending(Path(_plain(name)).stem).lstrip(".")  # de of newstest-ref.de.sgm
        columns.append(side.language or (ending if language(ending) else "source" if side.source else "target"))
    if len({*columns}) < len(columns):
        what = f"has the same language as {names[0]}: {columns[0]}"
        raise DataError(names[1], what, "name a source and a reference")
    texts = [side.texts for _, side in sides]
    rows = [[side[key][1] for side in texts] for key in texts[0] if all(key in side for side in texts)]
    if not rows:
        what = f"has no segment with the document and the id of one in {names[0]}"
        raise DataError(names[1], what, "name the two sides of one test set")
    found = Look(sides[0][0], "sgm", encoding, columns=columns, rows=rows[:MOST_ROWS], count=len(rows))
    return found, [name for name, _ in sides]


def _roles_of_sides(columns: Sequence[str], stated: Mapping[str, Any]) -> dict[str, str]:
    """The roles of two columns: those that the user has stated, and otherwise the source first."""
    given = dict(stated.get("roles") or {})
    rest = [column for column in columns if column not in given.values()]
    return {role: given.get(role) or rest.pop(0) for role in ("source", "target") if role in given or rest}


# ---------------------------------------------------------------------------------------------------------------------
# Tables and running text


def _of_splits(files: Mapping[str, list[str]], needs: Needs, stated: Mapping[str, Any], folder: str = "") -> Data:
    """Files of one kind: one or several for each split."""
    if all(_ending(file) in SGML for file in files["train"]):
        return _segments(dict(files), needs, stated)
    looks: dict[str, Look] = {}
    empty: list[str] = []
    kept: dict[str, list[str]] = {}
    errors: list[DataError] = []
    for split, names in [(split, files[split]) for split in SPLITS if split in files]:
        kept[split] = [name for name in names if len(names) == 1 or not _is_empty(name)]
        empty += [name for name in names if name not in kept[split]]
        if not kept[split]:
            raise DataError(names[0], "is empty, as are all files of this split", "name files that hold text")
        try:
            looks[split] = _look(kept[split][0], _as_train(stated, looks.get("train")))
        except DataError as error:
            errors.append(error)
    if errors:
        raise together(errors)
    train = looks["train"]
    notes = [f"{len(empty)} empty files are left out, the first is {empty[0]}"] if empty else []
    for split, other in looks.items():
        _require_same_kind(train, other, split)
    if train.format == "text" and not train.first_token_is_label and needs.roles != ("text",):
        what = f"is running text without columns, and task={needs.task} needs {' and '.join(needs.roles)}"
        raise DataError(train.name, what, "task=lm, or name a file with columns (CSV, TSV, JSON lines, Parquet)")
    names = {split: name[0] if len(name) == 1 else name for split, name in kept.items()}
    keys: dict[str, Any] = {"name": data_name(folder or kept["train"][0])}
    keys |= {split: names.get(split) for split in SPLITS}
    if train.format == "text" and not train.first_token_is_label:
        return _running_text(train, keys, kept, stated, notes)
    found = find_roles(train, needs, stated)
    for split in [split for split in looks if split != "train"]:
        _require_columns(looks[split], found)
    count = train.count * len(kept["train"])
    keys |= {"format": train.format, "encoding": train.encoding, "columns": train.columns, "roles": found.roles}
    if train.dialect:
        keys |= {"separator": train.dialect.separator, "quoting": train.dialect.quoting, "header": train.header}
        keys |= {"skip_lines": train.skip_lines} if train.skip_lines else {}
    elif not train.first_token_is_label:
        keys["columns"] = []  # the file itself names them
    keys |= found.keys
    notes += _name_classes(train, found, keys, stated)
    _hold_out(keys, stated, count)
    unused = [column for column in train.columns if column not in _used(found)]
    roles = ", ".join(f"{role}={column}" for role, column in found.roles.items())
    if columns := found.keys.get("label_columns"):
        roles = roles.replace("label=label", f"label={'+'.join(columns)}")
    more = f" and {len(kept['train']) - 1} more files" if len(kept["train"]) > 1 else ""
    line = f"{kept['train'][0]}{more}: {train.described()}; {roles}" + (
        f"; not used: {_listed(unused)}" if unused else ""
    )
    return Data(keys, line, [*notes, *found.notes], looks)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _name_classes(train: Look, found: Found, keys: dict[str, Any], stated: Mapping[str, Any]) -> list[str]:
    """Sets ``data.labels`` if a file names the numbered classes of the table. Returns a sentence about it."""
    column = found.roles.get("label", "")
    if column not in train.columns or {"labels", "label_pattern"} & {*stated}:
        return []
    ignored = {*(stated.get("ignore_labels") or ())}
    labels = [label for label in train.column(column) if label.strip() not in ignored]
    names, note = label_names(Path(train.name), train.name, labels, str(stated.get("label_names") or ""))
    if names:
        keys["labels"] = names
    return [note] if note else []


def _as_train(stated: Mapping[str, Any], train: Look | None) -> Mapping[str, Any]:
    """What is known of a file: what the user has stated, and that it is like the file of train."""
    if train is None or not train.dialect:
        return stated
    known = {"separator": train.dialect.separator, "quoting": train.dialect.quoting, "header": train.header}
    known |= {} if train.header else {"columns": train.columns}
    known |= {"skip_lines": train.skip_lines} if train.skip_lines else {}
    return {**known, **stated}


@functools.lru_cache(maxsize=8)
def _look_once(name: str, mark: int, known: str, stated: _Known) -> Look:
    return look(Path(name), name, stated)


class _Known(dict[str, Any]):
    """What is known of a file. The cache compares it by the text beside it."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known)


def _look(name: str, stated: Mapping[str, Any]) -> Look:
    """What a file is; several tasks look at it once."""
    known = {key: value for key, value in stated.items() if key not in ("roles", "splits", "name")}
    mark = Path(name).stat().st_mtime_ns if Path(name).exists() else 0
    return replace(_look_once(name, mark, repr(sorted(known.items())), _Known(known)))


def _is_empty(name: str) -> bool:
    return Path(name).stat().st_size == 0


def _require_same_kind(train: Look, other: Look, split: str) -> None:
    if (other.format, other.encoding) != (train.format, train.encoding):
        what = f"is {other.described()}, but {train.name} is {train.described()}"
        raise DataError(
            other.name, what, f"use one format and encoding for both, or leave {split} out: data.{split}=null"
        )


def _require_columns(table: Look, found: Found) -> None:
    for column in _used(found):
        if column not in table.columns:
            what = f"has no column {column!r}, which train has; it has {', '.join(table.columns)}"
            raise DataError(table.name, what, "use the same column names in all files")


def _used(found: Found) -> set[str]:
    switches = found.keys.get("label_columns", ())
    named = [column for role, column in found.roles.items() if not (role == "label" and switches)]
    return {each for column in named for each in re.findall(r"\{([^{}]+)\}", column) or [column]} | {*switches}


def _running_text(
    train: Look, keys: dict[str, Any], files: Mapping[str, list[str]], stated: Mapping[str, Any], notes: list[str]
) -> Data:
    document = str(stated.get("document") or "file")
    keys |= {
        "format": "text",
        "encoding": train.encoding,
        "columns": [],
        "roles": {"text": "text"},
        "document": document,
    }
    if keys["val"] is None or keys["test"] is None:
        keys["splits"] = {"val": 0.05, "test": 0.05}
    count = len(files["train"])
    what = f"{count} files" if count > 1 else f"{train.count:,} lines"
    unit = "each file is a document" if document == "file" else "each line is a document"
    return Data(keys, f"{files['train'][0]}: running text, {what}, {train.encoding}; {unit}", notes, {"train": train})


def _hold_out(keys: dict[str, Any], stated: Mapping[str, Any], count: int) -> None:
    """Sets how many rows are held out for the splits that have no file, unless the user has said so."""
    if "splits" in stated or count == 0:
        return
    size = min(max(LEAST_HELD_OUT, int(HELD_OUT * count)), MOST_HELD_OUT, max(1, int(MOST_SHARE * count)))
    keys["splits"] = {split: float(size) for split in ("val", "test")}  # a file of the split wins over its number
