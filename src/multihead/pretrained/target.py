"""Our tensors under a published family's names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from multihead.config.published import Described
from multihead.pretrained.names import NAMES, Names, Stored, stored


def published_state(described: Described, state: Mapping[str, Tensor], *, prefixed: bool) -> dict[str, Tensor]:
    """The tensors as the family stores them.

    Args:
        described: The model.
        state: Tensors under our names, ``transformer.STACK....`` and ``head....``, each tensor under one name.
        prefixed: Whether the names of the body have what stands before them in a model with a head.
    """
    names = NAMES[described.model_type]
    prefix = f"{names.prefix}." if prefixed else ""
    groups: dict[str, list[tuple[Stored, Tensor]]] = {}
    for name, tensor in state.items():
        entry, is_body = _entry(names, name, described.family.stack)
        groups.setdefault((prefix if is_body else "") + entry.name, []).append((entry, tensor))
    heads = described.fixed["num_heads"]
    found = {}
    for name, members in groups.items():
        members.sort(key=lambda pair: pair[0].part)
        found[name] = members[0][0].put([tensor for _, tensor in members], heads)
    return found


def _entry(names: Names, name: str, stack: str) -> tuple[Stored, bool]:
    """Where a tensor of ours goes, and whether it is one of the body."""
    if name.startswith("head."):
        tail = name.removeprefix("head.")
        entry = stored(names.classes, tail) or stored(names.vocabulary, tail)
    else:
        entry = stored(names.body, name.removeprefix(f"transformer.{stack}."))
    assert entry is not None, f"no name for {name}"
    return entry, not name.startswith("head.")
