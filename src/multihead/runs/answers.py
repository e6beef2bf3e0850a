"""The answers of a run to a file of inputs, as another file: ``multihead predict file=... out=... keep=id``.

The answers are first written to ``OUT.partial.jsonl``, a line for each as it is found. At the end they become ``OUT``,
and the partial file goes. So an interruption loses nothing that was computed.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from multihead.config.data import DataConfig, column_of
from multihead.config.task import RegressionConfig, TaskConfig
from multihead.errors import ConfigError, DataError, MachineError
from multihead.tables.found import Look
from multihead.tables.opening import Unclear
from multihead.tables.roles import Needs, find_roles
from multihead.tables.sniff import format_of_name, look

if TYPE_CHECKING:
    from multihead.tasks.base import Task

log = logging.getLogger("multihead")

ENDINGS = (".csv", ".jsonl", ".parquet")
"""Formats of the answers, by the ending of their file."""
PREDICTION, PROBABILITY = "prediction", "probability"
"""Columns of the answers. Only classes have a probability."""


@dataclass(frozen=True)
class Places:
    """Where inputs come from and answers go to, checked before anything is computed."""

    table: Look
    """The input file."""
    path: Path
    """The input file's path."""
    out: Path
    """The file of the answers."""
    keep: Sequence[str]
    """Columns of the input file that stand before the answers."""


class _Typed(Protocol):
    file: str
    out: str
    keep: list[str]


def places_of(settings: _Typed, stated: Mapping[str, Any]) -> Places:
    """Looks at the input file and checks ``file``, ``out`` and ``keep``, without torch.

    Args:
        settings: What was typed.
        stated: Keys of ``data`` that the user has set, such as separator and encoding.

    Raises:
        ConfigError: If the file cannot be a table of inputs, or ``out`` or ``keep`` cannot be.
        DataError: If the input file is damaged or unclear.
    """
    path, out = Path(settings.file), Path(settings.out)
    if not path.is_file():
        raise ConfigError("file", f"{path} is {'a folder' if path.is_dir() else 'missing'}", "file=texts.csv")
    if out.suffix not in ENDINGS:
        what = f"must end in {', '.join(ENDINGS)}, got {settings.out!r}" if settings.out else "is missing"
        raise ConfigError("out", what, f"out={path.name.split('.')[0]}_answers.csv")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("out", "a .parquet file needs pyarrow", 'pip install "multihead[parquet]"')
    if not out.parent.is_dir() or out.is_dir():
        what = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise ConfigError("out", what, f"out={out.name}")
    if out.resolve() == path.resolve():
        raise ConfigError("out", "is the input file, which would be lost", f"out={path.name.split('.')[0]}_answers.csv")
    try:
        table = look(path, str(path), stated)
    except Unclear as unclear:
        raise DataError(unclear.where, unclear.what, "  or  ".join(unclear.choices)) from None
    if table.format == "text" and (format_of_name(path.name) or ".tsv" in path.suffixes):
        what = "its rows have no separator that gives all of them the same number of columns"
        raise DataError(str(path), what, "fix the file, or name the separator, such as data.separator=';'")
    for name in settings.keep:
        if name not in table.columns:
            what = f"{path} has no column {name!r}; it has {', '.join(table.columns)}"
            raise ConfigError("keep", what, f"keep={table.columns[0]}")
        if name in (PREDICTION, PROBABILITY):
            raise ConfigError("keep", f"{name!r} is the name of a column of answers", f"rename the column of {path}")
    return Places(table, path, out, list(dict.fromkeys(settings.keep)))


def inputs_of(places: Places, settings: TaskConfig, data: DataConfig, stated: Mapping[str, Any]) -> dict[str, str]:
    """Role to the column or template of the inputs: ``text`` and ``text_b``, or ``source``.

    The columns are those of the run, if the file has them, and otherwise those that their names and content suggest.
    A label or a target is not needed.

    Raises:
        DataError: If no column, or more than one, may be the input.
    """
    wanted = [role for role in (*settings.roles, *settings.optional_roles) if role in ("text", "text_b", "source")]
    typed, found = stated.get("roles") or {}, {}
    for role in wanted:
        column = typed.get(role) or column_of(data.roles, settings.name, role) or role
        known = set(_named(column)) <= {*places.table.columns}
        if known or role in typed:
            found[role] = column
    first = next(iter(wanted), "text")
    needs, given = Needs(settings.name, ("text",)), {"roles": {"text": found[first]}} if first in found else {}
    try:
        found[first] = find_roles(places.table, needs, given).roles["text"]
    except Unclear as unclear:
        columns = [name for name in places.table.columns if name not in places.keep]
        words = "  or  ".join(f"data.roles.{first}={name}" for name in columns[:3])
        raise DataError(unclear.where, unclear.what, words) from None
    if "text_b" in settings.roles and "text_b" not in found:
        what = f"no column is the second text; it has {', '.join(places.table.columns)}"
        raise DataError(str(places.path), what, "data.roles.text_b=COLUMN")
    return found


def _named(column: str) -> list[str]:
    """The columns that a column or a template names."""
    from multihead.data.corpus import TEMPLATE

    return TEMPLATE.findall(column) or [column]


def _filled(column: str, columns: Mapping[str, list[str]]) -> list[str]:
    """The texts of a column, or of a template with the columns that it names filled in."""
    from multihead.data.corpus import TEMPLATE

    form = TEMPLATE.sub("{}", column) if TEMPLATE.search(column) else "{}"
    return [form.format(*row) for row in zip(*(columns[name] for name in _named(column)), strict=True)]


def read(places: Places, roles: Mapping[str, str], on_bad_line: str) -> tuple[list[str], dict[str, list[str]]]:
    """The inputs of all rows, pairs with a tab between them, and the columns that are kept.

    Raises:
        DataError: If a row is not as the others, or there is none.
    """
    from multihead.data.readers import READERS

    table, form = places.table, {}
    if table.dialect:
        form = {"separator": table.dialect.separator, "quoting": table.dialect.quoting, "header": table.header}
        form |= {"skip_lines": table.skip_lines} if table.skip_lines else {}
        form["columns"] = table.columns
    config = DataConfig(
        name="file", format=table.format, encoding=table.encoding, root="", on_bad_line=on_bad_line, **form
    )
    wanted = list(dict.fromkeys([name for column in roles.values() for name in _named(column)] + [*places.keep]))
    rows = READERS[table.format](config, str(places.path), wanted)
    for note in rows.notes:
        log.warning("%s", note)
    if not len(rows):
        raise DataError(str(places.path), "has no rows", "give a file with at least one row")
    sides = [_filled(column, rows.columns) for column in roles.values()]
    texts = sides[0]
    if len(sides) > 1:  # a pair is one line with a tab between its texts
        texts = ["\t".join(text.replace("\t", " ") for text in pair) for pair in zip(*sides, strict=True)]
    return texts, {name: rows.columns[name] for name in places.keep}


def answers(task: Task, found: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The columns of each answer, from the outputs of `Task.predict`; a blank text has no class."""
    for outputs in found:
        if outputs and "text" in outputs[0]:
            yield {PREDICTION: outputs[0]["text"]}
            continue
        label, tab, _ = task.line(outputs).partition("\t")
        probability = outputs[0].get(PROBABILITY) if outputs else None
        numeric = isinstance(task.settings, RegressionConfig)
        yield {PREDICTION: label or None, **({PROBABILITY: probability} if tab or not (outputs or numeric) else {})}


def write(places: Places, rows: Iterable[Mapping[str, Any]], count: int) -> None:
    """Writes the answers as they come, and puts the whole file in place at the end.

    Raises:
        MachineError: If a file cannot be written.
    """
    partial = places.out.with_name(places.out.name + ".partial.jsonl")
    done = 0
    try:
        try:
            with open(partial, "w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    file.flush()
                    done += 1
        except BaseException:
            log.warning("interrupted: the first %d of %d answers are in %s", done, count, partial)
            raise
        beside = places.out.with_name(places.out.name + ".tmp")
        _FORMS[places.out.suffix](partial, beside)
        os.replace(beside, places.out)
        partial.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(str(places.out), f"cannot be written ({error.strerror})") from error
    log.info("wrote %d answers to %s", done, places.out)


def _records(partial: Path) -> Iterator[dict[str, Any]]:
    with open(partial, encoding="utf-8") as file:
        yield from map(json.loads, file)


def _as_csv(partial: Path, out: Path) -> None:
    with open(out, "w", encoding="utf-8", newline="") as file:
        names = list(next(_records(partial)))
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        table.writerows(_records(partial))


def _as_parquet(partial: Path, out: Path) -> None:
    import pyarrow  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]

    records = list(_records(partial))
    kinds = {name: pyarrow.float64() if name == PROBABILITY else pyarrow.string() for name in records[0]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, pyarrow.schema(list(kinds.items()))), out)


_FORMS = {".csv": _as_csv, ".jsonl": os.replace, ".parquet": _as_parquet}
