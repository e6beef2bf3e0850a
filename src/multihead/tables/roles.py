"""Which column plays which role in a task, by the usual names of columns and by what the cells hold."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multihead.errors import DataError
from multihead.tables.found import Look
from multihead.tables.opening import Unclear
from multihead.tables.units import FORMATS as UNITS
from multihead.tables.words import (
    AMBIGUOUS,
    LABELS,
    MISSING,
    NUMBERS,
    PAIRS,
    STRONG_TEXTS,
    SUMMARIZED,
    TEXTS,
    TRANSLATED,
    WEAK_LABELS,
    is_number,
    language,
    normal,
)

LONGER = 1.5
"""A column of texts is the longer one if its texts have this many times the characters of the other on average."""
MOST_CLASSES = 200
MOST_GRADES = 10
"""A column of decimal numbers with more values than this is asked about: half a star to five stars are ten classes."""
MOST_READ = 1000
"""Number of rows, spread over the sample, whose words are counted."""
LONGEST_LABEL = 60
NEARLY_NUMBER = re.compile(r"[^\w\s+.-]?\s?[+-]?\d[\d,.' ]*\s?[^\w\s]?")
"""A number that may have a sign of percent or of money: 12%, $5, 1,234."""
NUMBER_WORD = shlex.quote("data.label_pattern=-?[0-9]+(?:[.,][0-9]+)?")
"""The word that takes the number out of such a label."""


@dataclass(frozen=True)
class Needs:
    """What a task needs of a table."""

    task: str
    """Name of the task."""
    roles: tuple[str, ...]
    """Roles that the task needs."""
    optional: tuple[str, ...] = ()
    """Roles that the task takes if the table has them."""
    multi_label: bool = False
    """Whether a row may have several classes."""
    numeric: bool = False
    """Whether the label is a number."""


@dataclass
class Found:
    """The roles of a table."""

    roles: dict[str, str] = field(default_factory=dict)
    """Role to column."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Other keys of ``data`` that follow from the roles."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user."""


def column_word(role: str, column: str) -> str:
    """Returns the word that gives a role to a column, as it is typed."""
    plain = re.fullmatch(r"[\w./ -]+", column) is not None
    return shlex.quote(f"data.roles.{role}=" + (column if plain else _quoted(column)))


def _quoted(text: str) -> str:
    """A text in quotation marks; of backslashes, only those before a mark are doubled."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), text)
    return f'"{escaped}"'


def roles_word(roles: Mapping[str, str]) -> str:
    """Returns the one word that gives columns to roles, as it is typed: ``'data.roles={text: a, target: b}'``."""
    if len(roles) == 1:
        return column_word(*next(iter(roles.items())))
    shown = {role: column if re.fullmatch(r"\w[\w.-]*", column) else _quoted(column) for role, column in roles.items()}
    return shlex.quote(f"data.roles={{{', '.join(f'{role}: {column}' for role, column in shown.items())}}}")


def find_roles(table: Look, needs: Needs, stated: Mapping[str, Any]) -> Found:
    """Returns the column of each role that a task needs.

    Args:
        table: The file.
        needs: What the task needs.
        stated: Keys of ``data`` that the user has set. The roles among them win, and are checked against the file.

    Raises:
        DataError: The table has no column for a role, or a stated column does not exist.
        Unclear: Several columns may play a role.
    """
    if table.first_token_is_label and {"text", "label"} <= {*needs.roles} and not needs.numeric:
        return _labelled_lines(table)
    given = dict(stated.get("roles") or {})
    _require_columns(table, needs, given)
    found = Found({role: column for role, column in given.items() if role in (*needs.roles, *needs.optional)})
    missing = [role for role in needs.roles if role not in found.roles]
    chooser = _Chooser(table, needs, found)
    steps = [chooser.number if needs.numeric else chooser.label] if "label" in missing else []
    if "target" in missing and {"text", "target"} <= {*needs.roles} and "source" not in needs.roles:
        steps += [chooser.text_and_target]
    else:
        steps += [chooser.sides] if {"source", "target"} & {*missing} else []
        steps += [chooser.text] if "text" in missing else []
    _each(steps)
    for role in needs.roles:
        if role not in found.roles:
            if role not in table.columns:
                raise chooser.none(role)
            found.roles[role] = role
    _check_cells(table, needs, found, stated)
    return found


def _each(steps: Sequence[Callable[[], None]]) -> None:
    """Takes all steps. What they find wrong or unclear is raised together."""
    problems: list[Unclear | DataError] = []
    for step in steps:
        try:
            step()
        except (Unclear, DataError) as problem:
            problems.append(problem)
    if problems:
        first, *rest = problems
        for each in rest:
            words = "  or  ".join(each.choices) if isinstance(each, Unclear) else each.fix
            first.others = [*first.others, f"{each.where}: {each.what}" + (f"; fix: {words}" if words else "")]
        raise first


def _labelled_lines(table: Look) -> Found:
    """Lines whose first word is the label: ``__label__good I like it``, ``LOC:city Where is it?``."""
    table.columns = ["label", "text"]
    table.rows = [line.split(" ", 1) for (line,) in table.rows if " " in line]
    table.format = "tsv"
    keys: dict[str, Any] = {"separator": " ", "last_takes_rest": True}
    if table.first_token_is_label != ".*":
        keys["label_pattern"] = table.first_token_is_label
    return Found({"text": "text", "label": "label"}, keys, ["the first word of each line is the label"])


def _columns_in(role_column: str) -> list[str]:
    """The columns that a role names: itself, or those in the braces of a template such as ``{title} {body}``."""
    return re.findall(r"\{([^{}]+)\}", role_column) or [role_column]


def _require_columns(table: Look, needs: Needs, given: Mapping[str, str]) -> None:
    """Refuses roles whose columns the table lacks, and proposes columns for all of them that no other role has."""
    unknown = {
        role: [each for each in _columns_in(column) if each not in table.columns] for role, column in given.items()
    }
    unknown = {role: names for role, names in unknown.items() if names}
    if not unknown:
        return
    own = [column for role, column in given.items() if role in (*needs.roles, *needs.optional) and role not in unknown]
    taken = {each for column in own for each in _columns_in(column)}
    chooser, proposed = _Chooser(table, needs, Found()), dict[str, str]()
    order = [*needs.roles, *needs.optional, *given]
    missing = sorted(unknown, key=lambda role: (role != "label", order.index(role)))  # fewest columns can be labels
    for near_only in (True, False):
        for role in [role for role in missing if role not in proposed]:
            free = [column for column in table.columns if column not in taken and chooser.may_play(role, column)]
            near = difflib.get_close_matches(unknown[role][0], free, n=1)
            if near or (free and not near_only):
                proposed[role] = near[0] if near else free[0]
                taken.add(proposed[role])
    names = [repr(name) for role in sorted(unknown, key=order.index) for name in unknown[role]]
    plural = "s" if len(names) > 1 else ""
    header = "" if table.header or not table.dialect else " (its first line is no header)"
    what = f"has no column{plural} {' and '.join(names)}; it has {', '.join(table.columns)}{header}"
    if lacking := [role for role in missing if role not in proposed]:
        raise DataError(
            table.name,
            f"{what}, of which none is left for the {lacking[0]}",
            "let two roles not share a column, or name another file",
        )
    raise Unclear(table.name, what, roles_word({role: proposed[role] for role in sorted(proposed, key=order.index)}))


class _Chooser:
    """Chooses columns for the roles of one task."""

    def __init__(self, table: Look, needs: Needs, found: Found):
        self.table, self.needs, self.found = table, needs, found
        self.by_name = {normal(column.rsplit(".", 1)[-1]): column for column in reversed(table.columns)}
        self.cells = {column: table.column(column) for column in table.columns}
        step = 1 + len(table.rows) // MOST_READ
        self.some = {column: cells[::step] for column, cells in self.cells.items()}

    # The label.

    def label(self) -> None:
        """Finds the column of classes, or the columns of 0 and 1 that are classes."""
        taken = {each for column in self.found.roles.values() for each in _columns_in(column)}
        free = [column for column in self.table.columns if column not in taken]
        for names in (LABELS, WEAK_LABELS):
            named = [self.by_name[name] for name in names if self.by_name.get(name) in free]
            named = [column for column in dict.fromkeys(named) if self._may_be_label(column)]
            if named:
                self.found.roles["label"] = self._one_of(named)
                self._require_class(self.found.roles["label"])
                return
        switches = [column for column in free if {*self.cells[column]} in ({"0", "1"}, {"0", "1", ""}, {"0"})]
        switches = [column for column in switches if not re.fullmatch(r"(id|index|column1)", normal(column))]
        if self.needs.multi_label and len(switches) > 1:
            self.found.keys["label_columns"] = switches
            self.found.roles["label"] = "label"
            return
        if len(switches) > 1:
            what = f"the columns {', '.join(switches)} hold 0 and 1; can one text have several of these classes?"
            raise Unclear(self.table.name, what, "task.multi_label=true", column_word("label", switches[0]))
        found = [column for column in free if self._looks_like_label(column)]
        if not found:
            for column in self._measures(free)[:1]:
                self._require_class(column)
            raise self.none("label")
        if len(found) > 1:
            what = f"which column holds the label: {' or '.join(found[:4])}?"
            raise Unclear(self.table.name, what, *(column_word("label", column) for column in found[:4]))
        self._require_class(found[0])
        self.found.roles["label"] = found[0]

    def _require_class(self, column: str) -> None:
        """Asks about a column of decimal numbers with many values: it is rather a number to predict than a class."""
        cells = {cell.strip() for cell in self.cells[column] if cell.strip()}
        if len(cells) > MOST_GRADES and all(map(is_number, cells)) and not all(map(_is_whole, cells)):
            what = f"is {column} a number to predict, or a class?"
            raise Unclear(self.table.name, what, "task=regression", column_word("label", column))

    # The number of a regression.

    def number(self) -> None:
        """Finds the column of numbers that a regression predicts."""
        taken = {each for column in self.found.roles.values() for each in _columns_in(column)}
        measures = self._measures([column for column in self.table.columns if column not in taken])
        if not measures:
            self._refuse_nearly_numbers()
            what = f"has no column of numbers to predict; it has {', '.join(self.table.columns)}"
            raise DataError(self.table.name, what, "task=classification")
        if len(measures) > 1:
            what = f"which column holds the number to predict: {' or '.join(measures[:4])}?"
            raise Unclear(self.table.name, what, *(column_word("label", column) for column in measures[:4]))
        self._refuse_ambiguous(measures[0])
        self.found.roles["label"] = measures[0]

    def _refuse_ambiguous(self, column: str) -> None:
        """Refuses a column whose numbers may have separators of thousands or decimal commas, as training would."""
        cells = [(row, cell.strip()) for row, cell in enumerate(self.cells[column], start=1) if cell.strip()]
        unclear = [(row, cell) for row, cell in cells if AMBIGUOUS.fullmatch(cell)]
        if len(unclear) > 0.5 * len(cells):  # of a few, training names the lines
            row, cell = unclear[0]
            ways = f"{cell.replace(',', '')} or {cell.replace(',', '.')}"
            what = f"the column {column} holds numbers that may be read in two ways: {cell!r} (row {row}) is {ways}"
            raise DataError(self.table.name, what, f"write the column {column} without the comma")

    def _refuse_nearly_numbers(self) -> None:
        """Refuses a column of numbers with a sign, as ``12%``, and says how its numbers can be read."""
        taken = {each for column in self.found.roles.values() for each in _columns_in(column)}
        for column in self.table.columns:
            cells = {cell.strip(): None for cell in self.cells[column] if cell.strip()}
            nearly = [cell for cell in cells if NEARLY_NUMBER.fullmatch(cell)]
            others = [cell for cell in nearly if not is_number(cell)]
            if column in taken or len(cells) < 3 or len(nearly) < 0.9 * len(cells) or not others:
                continue
            rows = {cell: row for row, cell in reversed([*enumerate(map(str.strip, self.cells[column]), start=1)])}
            shown = ", ".join(f"{cell!r} (row {rows[cell]})" for cell in others[:3])
            what = f"the column {column} holds no plain numbers such as 12.5: {shown}"
            if any(re.search(r"\d[,' ]\d{3}(?!\d)", cell) for cell in others):  # separators of thousands
                raise DataError(self.table.name, what, f"write the column {column} without marks between the digits")
            raise Unclear(self.table.name, what, f"{column_word('label', column)} {NUMBER_WORD}")

    def _measures(self, columns: Sequence[str]) -> list[str]:
        """The columns of numbers that are not numbers of rows; only the one with a usual name if there is one."""
        found = [column for column in columns if self._is_measure(column)]
        named = [self.by_name[name] for name in NUMBERS if self.by_name.get(name) in found]
        return named[:1] or found

    def _is_measure(self, column: str) -> bool:
        cells = [cell.strip() for cell in self.cells[column] if cell.strip()]
        if len({*cells}) < 3 or not all(map(is_number, cells)):
            return False
        counted = all(map(_is_whole, cells)) and len({*cells}) == len(cells)
        return not (counted or re.fullmatch(r"(.*_)?(id|idx|index)|column1", normal(column)))

    def _one_of(self, named: Sequence[str]) -> str:
        """The first of several columns that name the classes alike, such as their numbers and their names."""
        first = named[0]
        for other in named[1:]:
            pairs = {*zip(self.cells[first], self.cells[other], strict=True)}
            if len({a for a, _ in pairs}) != len(pairs) or len({b for _, b in pairs}) != len(pairs):
                what = f"which column holds the label: {' or '.join(named)}?"
                raise Unclear(self.table.name, what, *(column_word("label", column) for column in named))
        return first

    def _may_be_label(self, column: str) -> bool:
        """Whether the cells of a column that has the name of a label may be classes."""
        cells = [cell for cell in self.cells[column] if cell]
        repeated = len({*cells}) <= max(2, 0.5 * len(cells))
        several = self.needs.multi_label or len(cells) < 8
        return bool(cells) and (repeated or several) and sum(map(len, cells)) <= LONGEST_LABEL * len(cells)

    def may_play(self, role: str, column: str) -> bool:
        """Whether a column can be proposed for a role. A column of which more than half is different is no class."""
        if role != "label" or self.needs.multi_label:
            return True
        cells = [cell for cell in self.cells[column] if cell.strip()]
        return self.needs.numeric or len(cells) < 8 or len({*cells}) <= 0.5 * len(cells)

    def _looks_like_label(self, column: str) -> bool:
        cells = [cell for cell in self.cells[column] if cell]
        different = len({*cells})
        repeated = 2 <= different <= min(MOST_CLASSES, max(2, (0.5 if len(cells) < 50 else 0.2) * len(cells)))
        return repeated and sum(map(len, cells)) <= 40 * len(cells) and not any("\n" in cell for cell in cells)

    # The texts.

    def text(self) -> None:
        """Finds the text of a classification or of a language model, and the second text of a pair."""
        if "text_b" in self.needs.optional and "text_b" not in self.found.roles:
            for first, second in PAIRS:
                if {first, second} <= self.by_name.keys() and self._is_text(self.by_name[first]):
                    self.found.roles |= {"text": self.by_name[first], "text_b": self.by_name[second]}
                    return
        texts = self._texts()
        named = [self.by_name[name] for name in TEXTS if self.by_name.get(name) in texts]
        strong = [column for column in named if normal(column.rsplit(".", 1)[-1]) in STRONG_TEXTS]
        if len(strong) == 1:
            self.found.roles["text"] = strong[0]
            return
        self.found.roles["text"] = self._longest(strong or named or texts, "text")

    def _texts(self) -> list[str]:
        """The columns that are texts and have no role yet, those of sentences alone if there are any."""
        taken = {*self.found.roles.values(), *self.found.keys.get("label_columns", ())}
        free = [column for column in self.table.columns if column not in taken]
        sentences = [column for column in free if self._is_text(column)]
        return sentences or [column for column in free if not self._is_code(column)]

    def _is_text(self, column: str) -> bool:
        cells = [cell for cell in self.some[column] if cell.strip()]
        words = sum(len(cell.split()) for cell in cells)
        unspaced = sum(any(char > "\u2e80" for char in cell) for cell in cells)
        return bool(cells) and (words >= 2 * len(cells) or unspaced > 0.5 * len(cells)) and not self._is_code(column)

    def _is_code(self, column: str) -> bool:
        """Whether the cells are numbers, dates, addresses, or all begin alike: a column that nobody reads."""
        cells = [cell for cell in self.some[column] if cell.strip()]
        codes = sum(
            is_number(cell) or re.match(r"https?://|\d{4}-\d\d-\d\d|[0-9a-f-]{32,}$", cell) is not None
            for cell in cells
        )
        first = cells[0] if cells else ""
        named = normal(column.rsplit(".", 1)[-1]) in TEXTS
        alike = len({*cells}) > 2 and len(first) >= 10 and all(cell.startswith(first[:10]) for cell in cells)
        return codes > 0.9 * len(cells) or (alike and not named)

    def _longest(self, columns: Sequence[str], role: str) -> str:
        """The column whose texts are clearly the longest."""
        if not columns:
            raise self.none(role)
        ranked = sorted(columns, key=self._length, reverse=True)
        if len(ranked) > 1 and self._length(ranked[0]) < LONGER * self._length(ranked[1]):
            what = f"which column holds the {role}: {' or '.join(ranked[:4])}?"
            both = "{" + ranked[0] + "} {" + ranked[1] + "}"
            words = [column_word(role, column) for column in ranked[:3]]
            raise Unclear(self.table.name, what, *words, column_word(role, both))
        return ranked[0]

    def _length(self, column: str) -> float:
        cells = [cell for cell in self.some[column] if cell]
        return sum(map(len, cells)) / max(1, len(cells))

    def text_and_target(self) -> None:
        """Finds the text and the target of a task that has these two and no source, such as tagging."""
        given = self.found.roles
        named = self.by_name.get("target", "")
        if named and named not in given.values():
            given["target"] = named
        elif "text" in given:
            taken = {each for column in given.values() for each in _columns_in(column)}
            given["target"] = self._longest([column for column in self._texts() if column not in taken], "target")
        else:
            raise self.none("text and target")
        if "text" not in given:
            self.text()

    # Source and target.

    def sides(self) -> None:
        """Finds the source and the target."""
        given = self.found.roles
        if "source" in given or "target" in given:
            rest = [column for column in self._texts() if column not in given.values()]
            role = "target" if "source" in given else "source"
            given[role] = self._longest(rest, role)
            return
        if self.table.format == "conllu":  # its columns are no translations of each other
            raise self.none("source and target")
        summary = self.needs.task == "summarization"
        for first, second in (*(SUMMARIZED if summary else ()), *TRANSLATED):
            if {first, second} <= self.by_name.keys():
                self.found.roles |= {"source": self.by_name[first], "target": self.by_name[second]}
                return
        languages = [column for column in self.table.columns if _language_of(column)]
        if len(languages) > 2:
            pairs = itertools.islice(itertools.permutations(languages, 2), 4)
            choices = [f"{column_word('source', a)} {column_word('target', b)}" for a, b in pairs]
            raise Unclear(self.table.name, f"which two of the languages {', '.join(languages)}?", *choices)
        columns = languages if len(languages) == 2 else self.table.columns
        if len(columns) > 2:
            columns = self._texts()
        if len(columns) != 2:
            raise self.none("source and target")
        if summary:
            long = self._longest(columns, "source")
            self.found.roles |= {"source": long, "target": next(each for each in columns if each != long)}
            return
        first, second = columns
        turned = f"{column_word('source', second)} {column_word('target', first)}"
        if not languages and self.table.header:
            straight = f"{column_word('source', first)} {column_word('target', second)}"
            raise Unclear(self.table.name, f"is the source {first} or {second}?", straight, turned)
        self.found.roles |= {"source": first, "target": second}
        self.found.notes.append(f"the columns are taken in their order; the other direction is {turned}")

    def none(self, role: str) -> Unclear | DataError:
        """What to say if no column plays a role."""
        columns = self.table.columns
        both = role.replace(" and ", " and the ")
        which = f"which columns hold the {both}?" if " and " in role else f"which column holds the {role}?"
        taken = {each for column in self.found.roles.values() for each in _columns_in(column)}
        roles = role.split(" and ")
        free = [c for c in columns if c not in taken and all(self.may_play(each, c) for each in roles)]
        if "label" not in role:
            texts = [column for column in self._texts() if column in free]
            free = [*texts, *(column for column in free if column not in texts)]
        what = f"{which} The file has: {', '.join(columns)}"
        if len(free) < len(roles):
            why = "; in each, most rows have a value of their own" if role == "label" else ", too few without a role"
            return DataError(self.table.name, f"{what}{why}", f"add a column that holds the {role}")
        chosen = sorted(free[: len(roles)], key=columns.index)
        return Unclear(self.table.name, what, roles_word(dict(zip(roles, chosen, strict=True))))


def _is_whole(cell: str) -> bool:
    """Whether a number has no decimals: 3, or 3.0."""
    return re.fullmatch(r"[+-]?\d+([.,]0*)?", cell.strip()) is not None


def _language_of(column: str) -> str:
    return language(column) or language(re.split(r"[_\s-]", column)[-1])


def _check_cells(table: Look, needs: Needs, found: Found, stated: Mapping[str, Any]) -> None:
    """Looks at the cells of the roles that were found: texts that are numbers, labels that may mean none."""
    _each([functools.partial(_require_texts, table, found, role) for role in ("text", "source", "target")])
    if stated.get("on_bad_line") != "skip" and table.format not in UNITS:  # a unit may lack a language
        _require_whole_rows(table, needs, found, {*(stated.get("ignore_labels") or ())})
    if "source" in found.roles and found.roles["source"] == found.roles.get("target"):
        what = f"the source and the target are one column, {found.roles['source']}: the model learns to copy"
        found.notes.append(what)
    label = found.roles.get("label")
    if label in table.columns and not needs.multi_label and not needs.numeric:
        cells = [cell.strip() for cell in table.column(label)]
        none = sorted({cell for cell in cells if cell.lower() in MISSING and cell.lower() != "unknown"})
        others = {*cells} - {*none}
        if "-1" in none and others <= {"0", "1"}:
            none.remove("-1")
        for cell in none:
            if cell and len(others) > 1:
                word = shlex.quote(f"data.ignore_labels=[{cell}]")
                what = f'the label {cell!r} ({cells.count(cell):,} rows) may mean "no label"'
                found.notes.append(f"{what}; {word} leaves these rows out")


def _require_texts(table: Look, found: Found, role: str) -> None:
    """Refuses a column of texts that holds none."""
    column = found.roles.get(role)
    if column in table.columns and table.rows and not any(cell.strip() for cell in table.column(column)):
        others = ", ".join(each for each in table.columns if each != column)
        raise DataError(table.name, f"the column {column!r} is empty", f"let data.roles.{role} name another: {others}")


def _require_whole_rows(table: Look, needs: Needs, found: Found, ignored: set[str]) -> None:
    """Refuses rows that lack one role of several, unless the user has said what becomes of them."""
    roles = [role for role in needs.roles if found.roles.get(role) in table.columns]
    roles = [role for role in roles if not (role == "label" and (needs.multi_label or "null" in ignored))]
    if len(roles) < 2:
        return
    columns = {role: table.column(found.roles[role]) for role in roles}
    empty = {role: [not cell.strip() for cell in cells] for role, cells in columns.items()}
    whole = [all(row) for row in zip(*empty.values(), strict=True)]

    def require(role: str) -> None:
        cells = empty[role]
        lacking = sum(is_empty and not all_are for is_empty, all_are in zip(cells, whole, strict=True))
        if lacking:
            count = f"{lacking:,} of {len(cells):,} rows {'has' if lacking == 1 else 'have'} no {role}"
            choices = ["'data.ignore_labels=[null]'"] if role == "label" else []
            raise Unclear(table.name, f"{count} (column {found.roles[role]})", *choices, "data.on_bad_line=skip")

    _each([functools.partial(require, role) for role in empty])
