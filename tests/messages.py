"""Prints every message that users can read, with its file and line: ``python tests/messages.py [PART_OF_A_PATH]``.

The messages are read from the syntax trees: what errors of ours are created with, warnings and notes of the log, the
``fix`` of checks, and the documentation of settings and keys. ``{...}`` stands for a value.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "multihead"
LOGGED = ("warning", "info", "error")
CHECKS = ("require", "require_choice", "require_package", "error")
ARGUMENTS = ("what", "fix", "requirement")


def text_of(node: ast.AST | None) -> str:
    """A text as it is written, with ``{...}`` for each value; empty for what is not a text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{...}" for part in node.values)
    if isinstance(node, ast.IfExp):
        return " / ".join(part for part in (text_of(node.body), text_of(node.orelse)) if part)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return ""


def messages(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, kind and text of each message of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = [text_of(each) for each in [*node.args, *(keyword.value for keyword in node.keywords)]]
            if name.endswith("Error") or name in CHECKS:
                yield node.lineno, "error", " | ".join(text for text in texts if text)
            elif name in LOGGED and ast.unparse(node.func).startswith("log."):
                yield node.lineno, name, texts[0]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ARGUMENTS:
            yield node.lineno, node.targets[0].id, text_of(node.value)
        elif isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    yield below.lineno, "help", " ".join(text_of(below.value).split())


def all_messages(part: str = "") -> list[tuple[str, int, str, str]]:
    """File, line, kind and text of each message in the files whose path holds ``part``."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        name = str(file.relative_to(SOURCE))
        if part in name:
            lines = sorted(set(messages(ast.parse(file.read_text(encoding="utf-8")))))
            settings = name.startswith("config/")
            found += [(name, line, kind, text) for line, kind, text in lines if text and (kind != "help" or settings)]
    return found


if __name__ == "__main__":
    for name, line, kind, text in all_messages(*sys.argv[1:2]):
        print(f"{name}:{line}: {kind}: {text}")
