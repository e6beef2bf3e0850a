"""What may differ between a run and the command that goes on with it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from multihead.config.keys import flatten, leaf_keys
from multihead.config.task import TASKS

OF_THE_COMMAND = ("run_dir", "resume", "resume_force", "plan", "logger", "log_model", "plugin", "config_dir",
                  "trainer.profile_steps")  # fmt: skip
"""Keys about one command and not about what is learned: they may differ without a word."""
OF_THE_MACHINE = ("accelerator", "devices", "strategy", "num_nodes", "data.num_workers", "trainer.watchdog_seconds")
"""Keys about where the run is computed."""
MAY_CHANGE = (
    *OF_THE_MACHINE,
    *("precision", "compile", "trainer.*", "decoding.*", "optim.*"),
    *("init_from", "init_tokenizer"),  # done already
    *("model.*dropout", "task.*dropout", "task.*label_smoothing", "task.*class_weights", "task.*focal_gamma"),
    *("task.*monitor*", "task.*num_samples", "task.*prompts", "task.*stride", "task.*random_windows"),
    *("data.eval_tokens", "data.root", "data.train", "data.val", "data.test", "data.url*"),  # content has fingerprints
    *("data.encoding", "data.quoting", "data.label_columns", "data.ignore_labels", "data.min_class_examples"),
)
"""Keys that a resumed run may have otherwise; everything else has to be as it was."""
DECIDED = {
    "precision": {"auto": ("bf16-mixed", "32-true"), "16-mixed": ("bf16-mixed", "32-true")},
    "optim.muon_dtype": {"auto": (None, "bfloat16", "float32")},  # None: a run that was made before there was the key
}
"""Keys that a device may decide: a value that is typed, and what a run directory may hold for it."""
MUST_STAY = ("optim.name", "optim.freeze")
"""Keys that `MAY_CHANGE` names and that may not."""


def same_run(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two configurations describe the same run, wherever it is computed."""
    kept = decided(saved, wanted)
    may = (*OF_THE_MACHINE, *kept)
    return all(name in may or _is_new(name, before, after) for name, before, after in _differences(saved, wanted))


def decided(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What a device has decided for a run, by key, where ``wanted`` leaves it to the device."""
    before, after = flatten(dict(saved)), flatten(dict(wanted))
    return {
        name: before.get(name)
        for name, outcomes in DECIDED.items()
        if before.get(name) in outcomes.get(after.get(name), ())
    }


def changes(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], force: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """What differs between the configuration of a checkpoint and the one that goes on from it.

    Args:
        saved: The checkpoint's, as a tree or as leaves.
        wanted: The one to go on with.
        force: Names whose difference is accepted.

    Returns:
        The differences that are refused and those that are taken over, as ``name: 1 -> 2``.
    """
    refused, taken = [], []
    for name, before, after in _differences(saved, wanted):
        may = any(fnmatch.fnmatchcase(name, pattern) for pattern in MAY_CHANGE) and name not in MUST_STAY
        may = may or name in force or _is_new(name, before, after)
        (taken if may else refused).append(f"{name}: {_short(before)} -> {_short(after)}")
    return refused, taken


def _is_new(name: str, before: Any, after: Any) -> bool:
    """Whether a run lacks the key because it began before the key existed, and the key has its default now."""
    if before is not None:
        return False
    return any(name in keys and keys[name].default == after for keys in (leaf_keys([task]) for task in TASKS.values()))


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"sha256 {text[:12]}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    before, after = flatten(dict(saved)), flatten(dict(wanted))
    task = [TASKS[name] for name in [after.get("task.name")] if name in TASKS]
    for name, key in leaf_keys(task).items():  # a checkpoint that is older than an option was written with its default
        if name.startswith(("model.", "task.")) and name in after:
            before.setdefault(name, key.default)
    names = [name for name in dict.fromkeys([*before, *after]) if name not in OF_THE_COMMAND]
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
