"""Reads YAML that a stranger may have written: plain data of limited size and depth, without aliases or equal keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from multihead.errors import CheckpointError

MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 20


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also raises errors for duplicate keys, aliases and too much depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        self.depth += 1
        if self.depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"deeper than {MAX_YAML_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = [key.value for key, _ in node.value]
        twice = sorted({name for name in seen if seen.count(name) > 1}, key=str)
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key {twice[0]!r} occurs twice")
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path) -> Any:
    """Reads a YAML file as plain data: a dict with text keys, or a list.

    Raises:
        CheckpointError: The file is missing, too large, neither a mapping nor a list, or holds anything but plain data.
    """
    return load_yaml_with_lines(path)[0]


def load_yaml_with_lines(path: str | Path) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    """Reads as `load_yaml`, and returns also the line of each key and entry, by its path of keys and indices."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(str(path), "no such file") from error
    if len(content) > MAX_YAML_BYTES:
        raise CheckpointError(str(path), f"larger than {MAX_YAML_BYTES} bytes")
    try:
        loader = _StrictLoader(content.decode("utf-8"))
        root = loader.get_single_node()
        tree = loader.construct_document(root) if root is not None else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(str(path), f"not readable as YAML: {one_line(error)}") from error
    if not isinstance(tree, list) and not (isinstance(tree, dict) and all(isinstance(key, str) for key in tree)):
        raise CheckpointError(str(path), "must be a mapping of keys to values, or a list")
    return tree, dict(_lines(root, ()))


def _lines(node: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))


def scalars(path: str | Path) -> dict[tuple[str | int, ...], str]:
    """Returns each unquoted value as it is written in the file: ``1.10`` and not 1.1."""
    return dict(_scalars(_StrictLoader(Path(path).read_text(encoding="utf-8")).get_single_node(), ()))


def _scalars(node: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        yield path, node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _scalars(value, (*path, index))


def one_line(error: BaseException) -> str:
    """Returns an error's message in one line of at most 300 characters."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())[:300]
