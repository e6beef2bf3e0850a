"""One file of Python that runs without Multihead: a module with all that it needs of our other modules.

The text is that of the sources. Of each module, only the definitions come along that are named by what came along
before. So there is one source for a model, and no second one that could differ from it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

SOURCES = Path(__file__).parents[1]
Definition = tuple[str, str]
"""A module, and a name that it defines."""


class Source:
    """A module of ours by its syntax tree.

    Args:
        module: Its name.
        leave_out: Class to the names of methods that do not come along.
    """

    def __init__(self, module: str, leave_out: Mapping[str, tuple[str, ...]]):
        path = SOURCES.joinpath(*module.split(".")[1:]).with_suffix(".py")
        self.text = path.read_text(encoding="utf-8")
        self.lines, tree = self.text.splitlines(), ast.parse(self.text)
        self.documentation = ast.get_docstring(tree) or ""
        self.statements: dict[str, list[ast.stmt]] = {}
        """Name to the statements that define it, and the text that documents it."""
        self.imported: dict[str, tuple[str, str]] = {}
        """Name to the module and the name that it stands for there; empty if it is the module itself."""
        last = ""
        for node in tree.body:
            for each in node.body if isinstance(node, ast.If) else [node]:
                self._note_import(each)
            names = _defined(node)
            documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last
            for name in [last] if documents else names:
                self.statements.setdefault(name, []).append(node)
            last = names[-1] if names else ""
        self._cut = {name: leave_out.get(name, ()) for name in self.statements}

    def _note_import(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import):
            self.imported |= {each.asname or each.name.split(".")[0]: (each.name, "") for each in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            self.imported |= {each.asname or each.name: (node.module, each.name) for each in node.names}

    def used(self, name: str) -> set[str]:
        """The names that a definition uses."""
        found = set()
        for node in self.statements[name]:
            for part in self._kept(name, node):
                found |= {each.id for each in ast.walk(part) if isinstance(each, ast.Name)}
        return found

    def _kept(self, name: str, node: ast.stmt) -> list[ast.AST]:
        """The parts of a statement that come along."""
        if not isinstance(node, ast.ClassDef):
            return [node]
        body = [each for each in node.body if getattr(each, "name", "") not in self._cut[name]]
        return [*node.decorator_list, *node.bases, *body]

    def written(self, name: str) -> str:
        """The text of a definition."""
        blocks = []
        for node in self.statements[name]:
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
            numbers = set(range(first, (node.end_lineno or first) + 1))
            if isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.FunctionDef) and each.name in self._cut[name]:
                        numbers -= set(range(each.lineno, (each.end_lineno or each.lineno) + 1))
            blocks.append("\n".join(self.lines[number - 1] for number in sorted(numbers)).rstrip())
        return "\n".join(blocks)

    def order(self, name: str) -> int:
        """The line at which a definition begins."""
        return self.statements[name][0].lineno


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement defines or changes."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return [*dict.fromkeys(names)]


def bundled(root: str, note: str, leave_out: Mapping[str, tuple[str, ...]]) -> str:
    """The text of a file that holds a module and all that it needs of ours.

    Args:
        root: Name of the module; all of it comes along.
        note: Text that is added to its documentation.
        leave_out: Class to the names of methods that do not come along.
    """
    source = functools.cache(lambda module: Source(module, leave_out))
    wanted: set[Definition] = set()
    outside: set[tuple[str, str, str]] = set()
    waiting: list[Definition] = [(root, name) for name in source(root).statements]
    while waiting:
        module, name = waiting.pop()
        if (module, name) in wanted:
            continue
        wanted.add((module, name))
        for used in source(module).used(name):
            if used in source(module).statements:
                waiting.append((module, used))
            elif used in source(module).imported:
                origin, there = source(module).imported[used]
                if origin.split(".")[0] == "multihead":
                    assert there == used and origin != "multihead", f"{module} imports {used} in another way"
                    waiting.append((origin, there))
                else:
                    outside.add((origin, there, used))
    names = [name for _, name in wanted]
    assert len(names) == len(set(names)), f"defined twice: {sorted(n for n in set(names) if names.count(n) > 1)}"
    parts = [
        f'"""{source(root).documentation}\n\n{note}\n"""',
        "from __future__ import annotations",
        *_imports(outside),
    ]
    for module in _in_order(root, {module for module, _ in wanted}, source):
        inside = sorted((source(module).order(name), name) for each, name in wanted if each == module)
        parts.append(f"# ---- from {module}" if module != root else "# ---- for the Auto classes")
        parts += dict.fromkeys(source(module).written(name) for _, name in inside)
    return "\n\n\n".join(parts) + "\n"


def _imports(outside: set[tuple[str, str, str]]) -> Iterator[str]:
    """The lines that import other packages, as one block."""
    plain = sorted(f"import {origin}" if origin == name else f"import {origin} as {name}"
                   for origin, there, name in outside if not there)  # fmt: skip
    named = sorted(f"from {origin} import {there}" + (f" as {name}" if there != name else "")
                   for origin, there, name in outside if there)  # fmt: skip
    yield "\n".join(plain + named)


def _in_order(root: str, modules: set[str], source: Callable[[str], Source]) -> list[str]:
    """The modules, each behind those that it imports."""
    found: list[str] = []

    def visit(module: str) -> None:
        for origin, _ in source(module).imported.values():
            if origin in modules and origin != module and origin not in found:
                visit(origin)
        if module not in found:
            found.append(module)

    visit(root)
    return found
