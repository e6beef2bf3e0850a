"""Makes one-line mutants of Python source. Each changes one thing in one line, as a person does by mistake.

`mutmut` and `cosmic-ray` were tried first. `mutmut` mutates every function of a package at once and names a mutant by
its number. `cosmic-ray` edits the working tree and starts a process for each mutant. Neither drops a mask, and neither
draws by a seed what stays the same while other lines move. The standard `ast` needs fewer lines than their
configuration.

Kinds: ``comparison`` (an operator at its edge, a negated condition), ``constant`` (n + 1, twice a float, not a bool),
``term`` (one side of a sum, product or condition is left out), ``mask`` (a mask is not applied), ``argument`` (two are
swapped, or a keyword is left out), ``statement`` (it is skipped), ``named`` (written by hand).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import re
import types
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

EDGES = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: (r"is\b", "is not"),
    ast.IsNot: (r"is\s+not\b", "is"),
    ast.In: (r"in\b", "not in"),
    ast.NotIn: (r"not\s+in\b", "in"),
}
"""Comparison operators of the source, and what replaces each."""
MASKING = {"masked_fill", "masked_fill_", "tril", "triu"}
DROPPED = {"clamp", "clamp_", "clip", "abs", "float", "double", "detach", "flip"}
"""Methods that are taken away so that their receiver alone is left: those of a mask, and others."""
SAID = {"log", "logging", "warnings", "isinstance", "hasattr", "getattr", "super", "print", "require"}
"""Calls that stay as they are: their arguments are messages or names, or they check types."""
HARMLESS = {"strict", "ensure_ascii", "encoding", "indent", "exist_ok", "missing_ok", "ignore_errors", "device"}
"""Keywords that stay as they are. Without them nothing changes that a test on this machine can see."""
SYMMETRIC = {"max", "min", "maximum", "minimum", "equal"}
"""Functions whose arguments are not swapped."""


@dataclass(frozen=True)
class Mutant:
    """A change of one line."""

    file: str
    """Path of the file below the package."""
    function: str
    """Qualified name of the function or class around the line. At the top of a file it is empty."""
    kind: str
    line: str
    """The line as it is, without indentation."""
    becomes: str
    """The line as it will be."""
    occurrence: int = 1
    """Number of this line among the equal lines of the function, from 1."""

    @property
    def identity(self) -> str:
        """Text that names the mutant, to whatever line or file its line has moved."""
        return " | ".join((self.function or "(module)", self.kind, self.line, self.becomes, str(self.occurrence)))


@dataclass(frozen=True)
class Place:
    """The place of a mutant in the source as it is now."""

    number: int
    """Number of the line, from 1."""
    first: int
    """First line of the body of the function around it, or of the file."""
    last: int

    def apply(self, source: str, mutant: Mutant) -> str:
        """Returns the source with the mutant in it."""
        lines = source.split("\n")
        line = lines[self.number - 1]
        lines[self.number - 1] = line[: len(line) - len(line.lstrip())] + mutant.becomes
        return "\n".join(lines)


class _Finder(ast.NodeVisitor):
    """Collects (kind, line number, first column, last column, replacement, function, its first and last line)."""

    def __init__(self, source: str):
        self.lines = [line.encode() for line in source.split("\n")]
        self.found: list[tuple[str, int, int, int, str, str, int, int]] = []
        self.around: list[str] = []
        self.span = (1, len(self.lines))
        self.bound: set[str] = set()

    def text(self, node: ast.AST) -> str:
        return self.between(node.lineno, node.col_offset, node.end_col_offset)

    def between(self, number: int, start: int, end: int) -> str:
        return self.lines[number - 1][start:end].decode()

    def add(self, kind: str, node: ast.AST, replacement: str) -> None:
        if node.lineno == node.end_lineno:
            self.put(kind, node.lineno, node.col_offset, node.end_col_offset, replacement)

    def put(self, kind: str, number: int, start: int, end: int, replacement: str) -> None:
        self.found.append((kind, number, start, end, replacement, ".".join(self.around), *self.span))

    # ---- what is left alone

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    visit_JoinedStr = visit_Import = visit_ImportFrom = visit_Assert

    def visit_Raise(self, node: ast.Raise) -> None:
        self.add("statement", node, "pass")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
        if isinstance(node.target, ast.Name):
            self.bound.add(node.target.id)

    # ---- where things stand

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self.span, self.bound
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        self.span, self.bound = (node.body[0].lineno, node.end_lineno), {argument.arg for argument in arguments}
        self._inside(node)
        self.span, self.bound = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node)

    def _inside(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self.around.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.around.pop()

    # ---- statements

    def visit_Expr(self, node: ast.Expr) -> None:
        called = node.value.func if isinstance(node.value, ast.Call) else None
        while isinstance(called, ast.Attribute):
            called = called.value
        if isinstance(node.value, ast.Call) and not (isinstance(called, ast.Name) and called.id in SAID):
            self.add("statement", node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        plain = any(isinstance(part, ast.Name | ast.Tuple) for part in node.targets)
        if not plain or names <= self.bound:  # otherwise the following lines would not find its name
            self.add("statement", node, "pass")
        if plain:
            self.bound |= names
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add("statement", node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue | ast.Break) -> None:
        self.add("statement", node, "pass")

    visit_Break = visit_Continue

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self._negate(node.test)
            self.generic_visit(node)

    visit_While = visit_IfExp = visit_If

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        single = isinstance(test, ast.Compare) and len(test.ops) == 1
        if not single and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self.add("comparison", test, f"(not ({self.text(test)}))")

    # ---- expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        right = node.comparators[0]
        if len(node.ops) == 1 and node.left.end_lineno == right.lineno:
            self._operator("comparison", node.left, right, *EDGES[type(node.ops[0])])
        self.generic_visit(node)

    def _operator(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        between = self.between(left.end_lineno, left.end_col_offset, right.col_offset)
        changed = re.sub(old, new, between, count=1)
        self.put(kind, right.lineno, left.end_col_offset, right.col_offset, changed)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add("constant", node, str(not node.value))
        elif isinstance(node.value, int):
            self.add("constant", node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.add("constant", node, repr(2 * node.value or 1.0))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = not any(isinstance(side, ast.JoinedStr) for side in (node.left, node.right))
        if texts and not (isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant)):
            kind = "mask" if isinstance(node.op, ast.BitAnd | ast.BitOr) else "term"
            for side in (node.left, node.right):
                if side.lineno == side.end_lineno:
                    self.add(kind, node, f"({self.text(side)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for kept in (node.values[:-1], node.values[1:]):
            if all(value.lineno == value.end_lineno == node.lineno for value in kept):
                inside = self.between(node.lineno, kept[0].col_offset, kept[-1].end_col_offset)
                if inside.count("(") == inside.count(")"):
                    self.add("term", node, f"({inside})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Invert):
            self.add("mask", node, f"({self.text(node.operand)})")
        elif not isinstance(node.operand, ast.Constant) and node.operand.lineno == node.operand.end_lineno:
            self.add("comparison" if isinstance(node.op, ast.Not) else "term", node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        root = node.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in SAID:
            return
        if isinstance(node.func, ast.Attribute):
            name, receiver = node.func.attr, node.func.value
            if name in MASKING | DROPPED and receiver.lineno == receiver.end_lineno:
                self.add("mask" if name in MASKING else "term", node, self.text(receiver))
            if name == "where" and len(node.args) == 3:
                for side in node.args[1:]:
                    self.add("mask", node, self.text(side))
        self._masks(node)
        self._arguments(node)
        for part in (node.func, *node.args, *(k.value for k in node.keywords if k.arg not in HARMLESS)):
            self.visit(part)

    def _masks(self, node: ast.Call) -> None:
        for value in (*node.args, *(keyword.value for keyword in node.keywords)):
            if isinstance(value, ast.Name) and "mask" in value.id:
                self.add("mask", value, "None")

    def _arguments(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if (
            len(node.args) >= 2
            and name not in SYMMETRIC
            and not any(isinstance(value, ast.Starred) for value in node.args[:2])
        ):
            first, second = node.args[:2]
            one_line = first.lineno == second.end_lineno
            if one_line and self.text(first) != self.text(second):
                between = self.between(first.lineno, first.end_col_offset, second.col_offset)
                swapped = self.text(second) + between + self.text(first)
                self.put("argument", first.lineno, first.col_offset, second.end_col_offset, swapped)
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in HARMLESS and keyword.lineno == keyword.end_lineno:
                line = self.lines[keyword.lineno - 1]
                end, start = keyword.end_col_offset, keyword.col_offset
                if line[end : end + 2] == b", ":
                    end += 2
                elif line[:start].endswith(b", "):
                    start -= 2
                self.put("argument", keyword.lineno, start, end, "")


def mutants_of(file: str, source: str) -> Iterator[tuple[Mutant, Place]]:
    """Returns every mutant of a module. Some cannot be compiled, or are the same program (`is_other_program`)."""
    finder, lines = _Finder(source), source.split("\n")
    finder.visit(ast.parse(source))
    seen: Counter[tuple[str, ...]] = Counter()
    for kind, number, start, end, replacement, function, first, last in finder.found:
        line, raw = lines[number - 1], finder.lines[number - 1]
        changed = (raw[:start] + replacement.encode() + raw[end:]).decode()
        if changed != line:
            key = (function, kind, line.strip(), changed.strip())
            seen[key] += 1
            yield Mutant(file, *key, occurrence=seen[key]), Place(number, first, last)


def is_other_program(source: str, mutant: Mutant, place: Place) -> bool:
    """Says whether the mutant can be compiled, and to something else."""
    try:
        return _meaning(place.apply(source, mutant)) != _original(source)
    except SyntaxError:
        return False


def _meaning(source: str) -> tuple[Any, ...]:
    """Returns what is compiled, without places in the source."""

    def of(code: types.CodeType) -> tuple[Any, ...]:
        constants = (of(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts)
        return code.co_code, code.co_names, code.co_varnames, *constants

    return of(compile(source, "", "exec"))


_original = functools.cache(_meaning)


def named(entry: Mapping[str, Any], source: str) -> tuple[Mutant, Place]:
    """Returns a mutant written by hand: ``file``, ``line``, ``becomes``. Its line occurs once in the module."""
    lines = source.split("\n")
    numbers = [number for number, line in enumerate(lines, 1) if line.strip() == entry["line"]]
    if len(numbers) != 1:
        raise LookupError(f"{entry['file']}: {len(numbers)} lines are {entry['line']!r}")
    function, span = "", (1, len(lines))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.lineno <= numbers[0] <= node.end_lineno:
            function, span = node.name, (node.body[0].lineno, node.end_lineno)
    mutant = Mutant(entry["file"], function, "named", entry["line"], entry["becomes"])
    return mutant, Place(numbers[0], *span)


def draw(
    sources: Mapping[str, str], number: int, seed: int, known: Collection[str] = (), least: int = 6
) -> dict[Mutant, Place]:
    """Draws some mutants of each module: their number grows with its size and is at least ``least``, with the kinds in
    turn.

    What is drawn depends on the seed and on the mutants themselves. So it stays the same while lines move.

    Args:
        sources: Sources of the modules, by their paths.
        number: Number of mutants, about.
        seed: Seed of the order.
        known: Identities of mutants that come first, whatever the seed is.
        least: Fewest mutants of each module.
    """
    found = {file: dict(mutants_of(file, source)) for file, source in sources.items()}
    total = sum(map(len, found.values()))
    drawn: dict[Mutant, Place] = {}
    for places in found.values():
        kept = [mutant for mutant in places if mutant.identity in known]
        kinds: defaultdict[str, list[Mutant]] = defaultdict(list)
        for mutant in sorted(places, key=lambda one: hashlib.sha256(f"{seed} {one.identity}".encode()).digest()):
            if mutant.identity not in known:
                kinds[mutant.kind].append(mutant)
        good = [
            filter(lambda m: is_other_program(sources[m.file], m, places[m]), kinds[kind]) for kind in sorted(kinds)
        ]
        turns = (mutant for turn in itertools.zip_longest(*good) for mutant in turn if mutant is not None)
        wanted = max(least, round(number * len(places) / total)) - len(kept)
        drawn |= {mutant: places[mutant] for mutant in (*kept, *itertools.islice(turns, max(0, wanted)))}
    return drawn
