"""What a sweep consists of is frozen when it is launched: its file, the configuration's files and the plugin.

The copies are in the sweep's folder, and the ledger has their checksums. So later changes of the files reach no trial.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from multihead.config.compose import named, parse
from multihead.config.folder import conf_dir
from multihead.config.many_runs import SweepSettings
from multihead.config.merge import Composition
from multihead.config.sweep import Sweep
from multihead.config.words import write
from multihead.errors import CheckpointError, MachineError
from multihead.sweeping.ledger import Ledger

OWN = "own_conf"
"""Folder with the frozen copy of the user's own YAML files."""


@contextlib.contextmanager
def frozen_conf(folder: Path) -> Iterator[None]:
    """Inside, a sweep that was launched before reads the configuration's files as they were then."""
    before = os.environ.get("MULTIHEAD_CONF")
    if (folder / "conf").is_dir():
        os.environ["MULTIHEAD_CONF"] = str((folder / "conf").resolve())
    try:
        yield
    finally:
        os.environ.pop("MULTIHEAD_CONF", None)
        if before is not None:
            os.environ["MULTIHEAD_CONF"] = before


def launch(
    sweep: Sweep,
    folder: Path,
    typed: Sequence[str],
    settings: SweepSettings,
    first: Composition,
    ledger_options: Mapping[str, Any],
) -> Ledger:
    """Freezes what the trials are built from. If the sweep exists, checks that it was launched with the same.

    Raises:
        CheckpointError: If the sweep was launched with something else.
        MachineError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        freeze_files(sweep, folder, first)
    except OSError as error:
        raise MachineError(str(folder), f"cannot be written ({error.strerror})", "choose another dir=") from error
    ledger = Ledger(sweep, folder, **ledger_options)
    known = ledger.launch.get("file")
    if known is not None and known != sweep.text:
        raise changed(sweep, known)
    ledger.freeze(
        {
            "file": sweep.text,
            "words": list(typed),
            "seeds": settings.seeds,
            "conf": checksum(folder / "conf"),
            **({"own_conf": checksum(folder / OWN)} if first.config.config_dir else {}),
            "plugin": first.plugin.sha256 if first.plugin else "",
        }
    )
    return ledger


def freeze_files(sweep: Sweep, folder: Path, first: Composition) -> None:
    """Copies the configuration's files and the plugin into the sweep's folder. A copy is complete or absent."""
    if not (folder / "conf").is_dir():
        beside = folder / f"conf.{os.getpid()}.tmp"
        shutil.copytree(conf_dir(), beside)
        with contextlib.suppress(OSError):  # another process of the same sweep was faster
            beside.rename(folder / "conf")
        shutil.rmtree(beside, ignore_errors=True)
        (folder / sweep.path.name).write_text(sweep.text)
    if first.config.config_dir and not (folder / OWN).is_dir():
        beside = folder / f"{OWN}.{os.getpid()}.tmp"
        shutil.copytree(first.config.config_dir, beside, ignore=_all_but_yaml)
        with contextlib.suppress(OSError):
            beside.rename(folder / OWN)
        shutil.rmtree(beside, ignore_errors=True)
    for file in first.plugin.files if first.plugin else ():
        if not (target := _plugin_copy(folder, file)).is_file():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)


def _all_but_yaml(folder: str, names: list[str]) -> list[str]:
    """Returns the names in a folder that are not copied."""
    return [name for name in names if not (name.endswith(".yaml") or Path(folder, name).is_dir())]


def _plugin_copy(folder: Path, path: Path) -> Path:
    return folder.resolve() / "plugin" / path.name


def trial_words(typed: Sequence[str], folder: Path) -> list[str]:
    """Returns the typed words. The frozen copies replace the plugin and the user's folder of YAML files."""
    words = []
    for word, override in zip(typed, parse(typed), strict=True):
        if override.key == "plugin":
            paths = named([override], "plugin").split(os.pathsep)
            copies = {path: _plugin_copy(folder, Path(path)) for path in paths}
            word = write("plugin", os.pathsep.join(str(copies[p] if copies[p].is_file() else p) for p in paths))
        if override.key == "config_dir":
            word = write("config_dir", str(folder.resolve() / OWN))
        words.append(word)
    return words


def checksum(folder: Path) -> str:
    """Returns a checksum of the names and contents of all YAML files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.yaml")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def changed(sweep: Sweep, known: str, kind: str = "sweep") -> CheckpointError:
    """The error of a file that has changed since the launch, with the first line that differs."""
    lines = [known.split("\n"), sweep.text.split("\n")]
    longest = max(len(part) for part in lines)
    before, now = ([*part, *[""] * (longest - len(part))] for part in lines)
    number = next((i for i in range(longest) if before[i] != now[i]), 0)
    what = f"must be {before[number].strip()!r}, as when the {kind} was launched, got {now[number].strip()!r}"
    fix = f"put it back, or give the new {kind} another name="
    return CheckpointError(f"{sweep.path}:{number + 1}", what, fix)
