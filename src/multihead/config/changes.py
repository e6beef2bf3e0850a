"""What may differ between a run and the command that continues it."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multihead.config.keys import leaf_keys
from multihead.config.task import TASKS
from multihead.tables.records import flatten

OF_THE_COMMAND = ("run_dir", "resume", "resume_force", "plan", "logger", "log_model", "plugin", "config_dir",
                  "trainer.profile_steps")  # fmt: skip
"""Keys about one command and not about what is learned. They may differ, and nothing is reported."""
OF_THE_MACHINE = ("accelerator", "devices", "strategy", "num_nodes", "data.num_workers", "trainer.watchdog_seconds")
"""Keys about the machine on which the run is computed."""
MAY_CHANGE = (
    *OF_THE_MACHINE,
    *("precision", "compile", "trainer.*", "decoding.*", "optim.*"),
    *("init_from", "init_tokenizer"),  # these had their effect when the run began
    *("model.*dropout", "task.*dropout", "task.*label_smoothing", "task.*class_weights", "task.*focal_gamma"),
    *("task.*simcut_*", "task.*monitor*", "task.*num_samples", "task.*prompts", "task.*stride", "task.*random_windows"),
    *("data.eval_tokens", "data.root", "data.train", "data.val", "data.test", "data.url*"),  # content has fingerprints
    *(
        "data.encoding",
        "data.quoting",
        "data.label_columns",
        "data.label_names",
        "data.skip_lines",
        "data.ignore_labels",
    ),
    *("data.min_class_examples", "data.train_shares"),
)
"""Keys that may differ in a resumed run. All other keys must have the same values."""
DECIDED = {
    "precision": {"auto": ("bf16-mixed", "32-true"), "16-mixed": ("bf16-mixed", "32-true")},
    "optim.muon_dtype": {"auto": (None, "bfloat16", "float32")},  # None: the run is older than the key
}
"""Keys that a device may decide, with each value that leaves it to the device and the possible outcomes."""
MUST_STAY = ("optim.name", "optim.freeze")
"""Keys that must not change although a pattern of `MAY_CHANGE` matches them."""


def same_run(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two configurations describe the same run, wherever it is computed."""
    kept = decided(saved, wanted)
    return all(name in (*OF_THE_MACHINE, *kept) for name, _, _ in _differences(saved, wanted))


def decided(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a device has decided for a run, by key, if ``wanted`` leaves it to the device."""
    before, after = flatten(dict(saved)), flatten(dict(wanted))
    return {
        name: before.get(name)
        for name, outcomes in DECIDED.items()
        if before.get(name) in outcomes.get(after.get(name), ())
    }


def changes(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], force: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Compares the configuration of a checkpoint with the one that continues from it.

    Args:
        saved: The checkpoint's configuration, as a tree or as leaves.
        wanted: The configuration to continue with.
        force: Names whose difference is accepted.

    Returns:
        The differences that are not allowed, and those that take effect, as ``name: 1 -> 2``.
    """
    forbidden, taken = [], []
    for name, before, after in _differences(saved, wanted):
        may = any(fnmatch.fnmatchcase(name, pattern) for pattern in MAY_CHANGE) and name not in MUST_STAY
        (taken if may or name in force else forbidden).append(f"{name}: {_short(before)} -> {_short(after)}")
    return forbidden, taken


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"sha256 {text[:12]}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def joined_sum(sums: Iterable[str]) -> str:
    """The checksum of the checksums of several files."""
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _of_all(sums: Any) -> Any:
    """One checksum for all plugins of a run, which is what runs from before 2026-11-27 have."""
    several = sums.split(os.pathsep) if isinstance(sums, str) else []
    return joined_sum(several) if len(several) > 1 else sums


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ. A key that the saved configuration is too old to have counts as its default."""
    before, after = flatten(dict(saved)), flatten(dict(wanted))
    task = [TASKS[name] for name in [after.get("task.name")] if name in TASKS]
    before |= {name: key.default for name, key in leaf_keys(task).items() if name in after and name not in before}
    for values in (before, after):
        values["plugin_sha256"] = _of_all(values.get("plugin_sha256"))
    names = [name for name in dict.fromkeys([*before, *after]) if name not in OF_THE_COMMAND]
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
