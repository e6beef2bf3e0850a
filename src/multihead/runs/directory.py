"""The run directory holds everything of one run. A copy of it on another machine still predicts and resumes."""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import platform
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from multihead import __version__, capabilities
from multihead.config.compose import to_yaml
from multihead.config.training import Config
from multihead.config.words import typed_as
from multihead.data.published import load_tokenizer
from multihead.errors import CheckpointError, ConfigError, MachineError
from multihead.plugin import Plugin
from multihead.ranks import is_main_rank, world_size
from multihead.runs import lock
from multihead.runs.files import read_json, replace_synced, sync
from multihead.text.targets import TargetText

if TYPE_CHECKING:
    from torch import Tensor

    from multihead.tasks.base import Model, Task
    from multihead.text.vocabulary import Scale, Vocabulary

log = logging.getLogger("multihead")
Described = TypeVar("Described")

FORMAT = 2
VOCABULARY = "vocabulary"
"""Folder of the tokenizers and classes with which the run began. A resumed run reads it."""
ADAPTER = "adapter.safetensors"
"""File in ``model/`` with what a run with ``lora.r`` trained, under our names."""
TARGETS = "targets.json"
"""File beside the tokenizers with what the training split says about targets."""
SCALES = "scales.json"
"""File beside the tokenizers with the mean and the deviation of the labels of a regression."""
LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "tokenizers", "sacrebleu", "numpy")


def new_run_dir(config: Config) -> Path:
    """Returns the path of this run's directory, and creates nothing.

    Raises:
        ConfigError: If ``run_dir`` is a directory that is not empty. Also if it is missing and another program starts
            the ranks, because each rank would then choose its own.
    """
    if world_size() > 1:
        if not config.run_dir:
            raise ConfigError("run_dir", "must be given if torchrun or srun starts the ranks", "run_dir=outputs/NAME")
        if not is_main_rank():
            return Path(config.run_dir)  # rank 0 checks it, and may have created it already
    if not config.run_dir:
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        return Path("outputs") / config.task.name / config.data.name / f"{now}_{secrets.token_hex(2)}"
    path = Path(config.run_dir)
    if path.exists() and (not path.is_dir() or any(file.name != lock.FILE for file in path.iterdir())):
        fix = f"choose another directory, or resume=auto to go on with the run in {path}"
        raise ConfigError("run_dir", f"{path} exists already and is not empty", fix)
    return path


def run_directory(run: str, key: str = "run") -> Path:
    """Returns the directory of an existing run.

    Raises:
        ConfigError: If there is no such directory, or if it is not a run directory.
    """
    path = Path(run)
    if not path.is_dir():
        raise ConfigError(key, f"no such directory: {path}", "give the directory of a run, outputs/...")
    if not (path / "config.yaml").is_file():
        raise ConfigError(key, f"{path} is not the directory of a run: it has no config.yaml", "outputs/TASK/DATA/...")
    return path


def create(
    run_dir: Path, tree: Mapping[str, Any], words: Sequence[str], environment: Mapping[str, Any], vocab: Vocabulary
) -> None:
    """Creates the directory and writes what is known before the first step.

    Raises:
        MachineError: If the directory cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        describe(run_dir, tree, words)
        (run_dir / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
        (run_dir / VOCABULARY).mkdir(exist_ok=True)
        files = save_vocab(run_dir / VOCABULARY, vocab)
        (run_dir / VOCABULARY / "roles.json").write_text(json.dumps(files) + "\n")
    except OSError as error:
        raise MachineError(str(run_dir), f"cannot be written ({error.strerror})", "choose another run_dir") from error


def describe(run_dir: Path, tree: Mapping[str, Any], words: Sequence[str]) -> None:
    """Writes the configuration and the words of the command line. A resumed run may add to both."""
    replace_synced(run_dir / "config.yaml", to_yaml(dict(tree)).encode())
    replace_synced(run_dir / "overrides.yaml", to_yaml(list(words)).encode())


def environment(
    config: Config,
    fingerprints: Mapping[str, str],
    plugin: Plugin | None,
    words: Sequence[str] = (),
    rows: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the content of environment.json, which has neither environment variables nor host names.

    The command is the one that started the run. If a resume adds words to it, overrides.yaml has them.
    """
    import torch

    commit, dirty = git_state()
    cuda = torch.cuda.is_available()
    falling = sorted(name for name, metric in plugin.metrics.items() if metric.better == "min") if plugin else []
    return {
        "command": shlex.join(["python", "train.py", *words]),
        "versions": {"python": platform.python_version(), "multihead": __version__}
        | {name: metadata.version(name) for name in LIBRARIES},
        "git_commit": commit,
        "git_dirty": dirty,
        "hardware": {
            "processor": capabilities.processor_name(),
            "cores": capabilities.cores(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        },
        "threads": torch.get_num_threads(),
        "data": dict(fingerprints),
        "rows": dict(rows),
        "seed": config.seed,
        "plugin": {"name": plugin.name, "sha256": config.plugin_sha256} if plugin else None,
        **({"lower_is_better": falling} if falling else {}),
    }


def git_state() -> tuple[str | None, bool | None]:
    """Returns the commit of the package's checkout, and whether files differ from it. Both are None without git."""
    try:
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def has_commit(commit: str) -> bool:
    """Whether the package's checkout has a commit."""
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _git(*words: str) -> str:
    """Returns what git prints about the package's checkout."""
    here = Path(__file__).parent
    done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def git_commit_label(commit: str | None, dirty: bool | None) -> str:
    """Returns the commit as result.json shows it."""
    return "" if commit is None else commit + ("-dirty" if dirty else "")


def copy_plugin(run_dir: Path, plugin: Plugin | None) -> None:
    """Copies the plugin's files into the run directory. They are loaded from there only if the user names them."""
    for file in plugin.files if plugin else ():
        (run_dir / "plugin").mkdir(exist_ok=True)
        shutil.copyfile(file, run_dir / "plugin" / file.name)


def export_model(
    run_dir: Path, task: Task, tree: Mapping[str, Any], step: int, adapter: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Writes ``model/``, which has all that prediction needs, under another name first and then renames it.

    Args:
        run_dir: The run directory.
        task: The task with the weights to write; adapters are merged into them.
        tree: The configuration.
        step: The step of the weights.
        adapter: What `multihead.model.lora.merge` returned, which is written beside the weights.
    """
    target, beside = run_dir / "model", run_dir / "model.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    save_weights(task.model, beside / "model.safetensors")
    if adapter:
        from safetensors.torch import save_file

        save_file(dict(adapter), beside / ADAPTER)
    description = {
        "format": FORMAT,
        "step": step,
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "tokenizers": save_vocab(beside, task.vocab),
        "config": dict(tree),
    }
    (beside / "model.json").write_text(json.dumps(description, indent=1) + "\n")
    for path in (*beside.iterdir(), beside):
        sync(path)
    if target.exists():
        shutil.rmtree(target)
    os.rename(beside, target)
    sync(run_dir)


def save_vocab(folder: Path, vocab: Vocabulary) -> dict[str, str]:
    """Writes tokenizers, classes and what is known about targets; returns the name of each role's tokenizer file.

    tokenizer.json is the target's tokenizer, or the only one; another role's is tokenizer_ROLE.json. labels.json
    names the classes. targets.json holds the limit on the length of outputs and BLEU's tokenizer. scales.json holds
    the mean and the deviation of the labels of a regression.
    """
    main = vocab.tokenizers.get("target", next(iter(vocab.tokenizers.values())))
    files = {}
    for role, tokenizer in vocab.tokenizers.items():
        files[role] = "tokenizer.json" if tokenizer is main else f"tokenizer_{role}.json"
        tokenizer.save(folder / files[role])
    (folder / "labels.json").write_text(json.dumps(vocab.labels, ensure_ascii=False) + "\n", encoding="utf-8")
    if vocab.targets:
        described = {name: text.as_dict() for name, text in vocab.targets.items()}
        (folder / TARGETS).write_text(json.dumps(described) + "\n")
    if vocab.scales:
        (folder / SCALES).write_text(json.dumps({name: asdict(scale) for name, scale in vocab.scales.items()}) + "\n")
    return files


def load_vocab(run_dir: Path) -> Vocabulary:
    """Loads the tokenizers and class names of a finished run, which ``model/model.json`` lists.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    return _vocab(run_dir / "model", describe_model(run_dir)["tokenizers"])


def starting_vocab(run_dir: Path) -> Vocabulary:
    """Loads the tokenizers and class names with which the run began.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    return _vocab(run_dir / VOCABULARY, read_json(run_dir / VOCABULARY / "roles.json", dict))


def _vocab(folder: Path, files: Mapping[str, str]) -> Vocabulary:
    from multihead.text.vocabulary import Vocabulary

    if not files or not all(isinstance(name, str) and Path(name).name == name for name in files.values()):
        what = f"must name tokenizers in this folder, but has {str(files)[:100]}"
        raise CheckpointError(str(folder), what, "copy the run again")
    labels = read_json(folder / "labels.json", list)
    if not all(isinstance(label, str) for label in labels):
        raise CheckpointError(str(folder / "labels.json"), "must be a list of texts", "copy the run again")
    loaded = {name: load_tokenizer(folder / name) for name in set(files.values())}
    tokenizers = {role: loaded[name] for role, name in files.items()}
    return Vocabulary(tokenizers, labels, read_targets(folder / TARGETS), read_scales(folder / SCALES))


def read_targets(file: Path) -> dict[str, TargetText]:
    """Returns what is known about targets, by task. The result is empty for runs of versions that did not write it.

    Raises:
        CheckpointError: If the file is damaged.
    """
    return _read_by_task(file, TargetText.of)


def read_scales(file: Path) -> dict[str, Scale]:
    """Returns the scale of each regression's labels. The result is empty if there is no file.

    Raises:
        CheckpointError: If the file is damaged.
    """
    from multihead.text.vocabulary import Scale

    def scale_of(said: Mapping[str, Any]) -> Scale:
        scale = Scale(float(said["mean"]), float(said["deviation"]))
        if not (math.isfinite(scale.mean) and 0 < scale.deviation < math.inf):
            raise ValueError("a number is not finite, or a deviation is not above 0")
        return scale

    return _read_by_task(file, scale_of)


def _read_by_task(file: Path, read: Callable[[Any], Described]) -> dict[str, Described]:
    """Reads what a file describes for each task; nothing if there is no file."""
    if not file.is_file():
        return {}
    content = read_json(file, dict)
    try:
        return {name: read(described) for name, described in content.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(str(file), f"is damaged ({error})", "copy the run again") from None


def describe_model(run_dir: Path) -> dict[str, Any]:
    """Returns the content of ``model/model.json``.

    Raises:
        CheckpointError: If the file is missing, damaged or written by a newer version.
    """
    path = run_dir / "model" / "model.json"
    if not path.is_file():
        if path.parent.is_dir() or (run_dir / "result.json").is_file():
            raise CheckpointError(str(path), "is missing, though the run is finished", "copy the run again")
        fix = f"finish it first: {typed_as('resume', str(run_dir))}"
        raise CheckpointError(str(run_dir), "has no model/, because the run is not finished", fix)
    description = read_json(path, dict)
    config = description.get("config")
    whole = isinstance(description.get("format"), int) and isinstance(description.get("tokenizers"), dict)
    if not whole or not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        what = "is damaged (it must hold format, tokenizers and config)"
        raise CheckpointError(str(path), what, "copy the run again")
    if description["format"] > FORMAT:
        raise CheckpointError(str(path), f"was written in format {description['format']}; this version reads {FORMAT}")
    return description


def save_weights(model: Model, path: Path) -> None:
    """Writes ``model.safetensors``. Equal weights give equal bytes.

    A tensor with several names is written once, and the header's metadata lists its other names. Their order differs
    from process to process in safetensors, so this function sorts them.
    """
    from safetensors.torch import save_model

    save_model(model, str(path))
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
            assert len(written) == size, f"{path}: the sorted header has another length"
            file.seek(8)
            file.write(written)


def write_result(run_dir: Path, result: Mapping[str, Any], name: str = "result.json") -> dict[str, Any]:
    """Writes a result file and returns what was read back from it."""
    path = run_dir / name
    replace_synced(path, (json.dumps(result, indent=1) + "\n").encode())
    return json.loads(path.read_text())
