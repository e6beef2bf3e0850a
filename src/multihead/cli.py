"""The command line: commands, help, shell completion, and the exit status of every error.

It composes the configuration before it imports anything heavy.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.check import require_choice
from multihead.config.folder import PRIMARY, conf_dir
from multihead.config.keys import GROUPS, nearest_name
from multihead.errors import ConfigError, MachineError, Stopped, guarded, write_line
from multihead.ranks import check_numbers

if TYPE_CHECKING:
    from multihead.config.compose import Composition

VERBS = (
    "train",
    "evaluate",
    "predict",
    "export",
    "explain",
    "data",
    "runs",
    "diff",
    "compare",
    "doctor",
    "sweep",
    "study",
    "verify",
    "reproduce",
    "new",
    "serve",
    "show",
)
HELP_WORDS = ("--help", "-h", "help")
VALUE_FLAGS = {"--config-dir": "--config-dir", "-cd": "--config-dir", "--cfg": "--cfg", "-c": "--cfg",
               "--package": "--package", "-p": "--package", "--info": "--info", "-i": "--info"}  # fmt: skip
PLAIN_FLAGS = {"-m": "--multirun", "--multirun": "--multirun", "--resolve": "--resolve"}
TOPICS = {
    "--cfg": ("job", "hydra"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
"""The values of the flags that show something instead of training."""
SUBMITIT_DIR = "outputs/submitit"

atexit.register(gc.freeze)  # else the interpreter searches all objects for garbage, two thirds of the time to exit


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status (see `multihead.errors`).

    Args:
        argv: The words after the program's name; None takes them from the command line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper) and argv[:1] != ["predict"]:  # its outputs must not be changed
        sys.stdout.reconfigure(errors="backslashreplace")
    return guarded(lambda: _dispatch(argv))


# Verbs


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in HELP_WORDS:
        from multihead.help import GREETING, overview

        sys.stdout.write(overview() if argv else GREETING)
        return 0
    verb, words = argv[0], argv[1:]
    if verb == "--version":
        from multihead import __version__

        sys.stdout.write(f"multihead {__version__}\n")
        return 0
    if verb in ("-sc", "--shell-completion"):
        return _complete(argv)
    if verb not in VERBS:
        from multihead.config.synonyms import VERB_SYNONYMS

        settings = "=" in verb or verb.startswith("-")
        near = "train" if settings else VERB_SYNONYMS.get(verb) or nearest_name(verb, VERBS)
        fix = f"multihead {near} ..." if near else "multihead --help"
        raise ConfigError(verb, f"not a command; there are {', '.join(VERBS)}", fix)
    _require_directory()
    if any(word in HELP_WORDS for word in words):
        from multihead.help import verb_help

        sys.stdout.write(verb_help(verb))
        return 0
    check_numbers()
    if verb == "train":
        return _complete(words) if any(word in ("-sc", "--shell-completion") for word in words) else _train(words)
    if flags := [word for word in words if word.startswith("-")]:
        raise ConfigError(flags[0], f"{verb} takes key=value and no flags", f"multihead {verb} --help")
    return importlib.import_module(f"multihead.commands.{verb}").run(words)


def _require_directory() -> None:
    """Checks that the working directory exists. Hydra asks for it, and libraries of torch end the process without it.

    Raises:
        MachineError: The working directory was deleted.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise MachineError("working directory", f"it no longer exists ({error.strerror})", "cd ~") from error


@dataclass
class _Line:
    """The words and Hydra's flags of one command line."""

    words: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, argv: list[str]) -> _Line:
        line, rest = cls(), iter(argv)
        for word in rest:
            name, equals, value = word.partition("=")
            if not word.startswith("-"):
                line.words.append(word)
            elif word in PLAIN_FLAGS:
                line.flags[PLAIN_FLAGS[word]] = ""
            elif name in VALUE_FLAGS:
                value = value if equals else next(rest, "")
                if not value:
                    raise ConfigError(name, "needs a value", f"{name} VALUE")
                line.flags[VALUE_FLAGS[name]] = value
                if VALUE_FLAGS[name] in TOPICS:
                    topics = TOPICS[VALUE_FLAGS[name]]
                    require_choice(name, value, topics, otherwise=f"{name} {topics[0]}")
            else:
                allowed = "-m, --config-dir DIR, --cfg job, --info TOPIC, --package NODE, --help, -sc install=bash"
                raise ConfigError(name, f"no such flag; settings are key=value, flags are {allowed}")
        return line

    def settings(self) -> list[str]:
        """The words without hydra.mode, and with ``--config-dir`` as a word."""
        from multihead.config.words import write

        folder = self.flags.get("--config-dir")
        typed = [word for word in self.words if word and not word.startswith("hydra.mode=")]
        return [*([write("config_dir", os.path.expanduser(folder))] if folder else []), *typed]

    def is_multirun(self) -> bool:
        """Whether the user typed ``-m``, or ``hydra.mode=MULTIRUN``, which means the same.

        Raises:
            ConfigError: hydra.mode has another value, or contradicts ``-m``.
        """
        modes = [word.partition("=")[2].upper() for word in self.words if word.startswith("hydra.mode=")]
        flag = "--multirun" in self.flags
        if any(mode not in ("RUN", "MULTIRUN") or (mode == "RUN" and flag) for mode in modes):
            what = f"must be MULTIRUN, or RUN without -m, got {modes[-1]}"
            raise ConfigError("hydra.mode", what, "leave it out; -m starts a multirun")
        return flag or "MULTIRUN" in modes[-1:]

    def argv(self) -> list[str]:
        """The flags that Hydra parses."""
        ours = ("--multirun", "--resolve", "--config-dir")
        flags = {name: value for name, value in self.flags.items() if name not in ours}
        return [part for name, value in flags.items() for part in ([name, value] if value else [name])]


def _train(argv: list[str]) -> int:
    """Composes and checks everything first; then Hydra runs one job, or all jobs of a multirun."""
    from multihead.config.compose import compose
    from multihead.config.multirun import Multirun, check_hydra, compose_trials, multirun

    line = _Line.parse(argv)
    words = line.settings()
    hydra = check_hydra(words)
    several: Multirun | None = None
    if line.is_multirun():
        several = multirun(words)
        compositions = compose_trials(several, words)
    else:
        compositions = [compose(words)]
    if "--cfg" in line.flags or "--info" in line.flags:
        return _show(line, compositions[0], hydra)
    statuses: list[int] = []
    launcher = next((word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")), "basic")

    def job(_: object) -> None:
        from hydra.core.hydra_config import HydraConfig

        composition = compositions[0]
        if several:
            composition = compose(several.words_of(HydraConfig.get().overrides.task))
        statuses.append(_run_job(composition))
        if statuses[-1] > 128:  # a signal ends the multirun too
            raise Stopped(statuses[-1] - 128)
        if statuses[-1] and launcher != "basic":  # another process ran the job, so this list stays empty here
            raise JobFailed(statuses[-1])

    flags = ["--multirun", *several.words_for_hydra()] if several else []
    with _sweep_dir(hydra, several is not None, launcher) as extra, _argv([*flags, *hydra, *extra]):
        if launcher == "basic":
            _hydra_main(job)
            return max(statuses, default=0)
        return _elsewhere(job, launcher)


def _show(line: _Line, composition: Composition, hydra: list[str]) -> int:
    """Prints what ``--cfg`` or ``--info`` asks for. The composed configuration is printed here, the rest by Hydra."""
    from multihead.config.compose import to_yaml, tree_of
    from multihead.config.found_data import named_paths
    from multihead.config.words import split

    if line.flags.get("--cfg") == "job":
        tree: Any = tree_of(composition.config)
        node = line.flags.get("--package", "")
        for part in node.split(".") if node else ():
            if not isinstance(tree, dict) or part not in tree:
                raise ConfigError(
                    "--package",
                    f"the configuration has no node {node}",
                    f"--package {next(iter(tree_of(composition.config)))}",
                )
            tree = tree[part]
        sys.stdout.write(to_yaml(tree) if isinstance(tree, dict | list) else f"{tree}\n")
        return 0
    words = [word for word in composition.words if word.partition("=")[0] in GROUPS]
    words = ["data=files" if named_paths(split(word), []) else word for word in words]  # Hydra knows no paths
    choices = [word for word in words if not word.lower().endswith("=null")]  # Hydra's default is null
    folder = ["--config-dir", composition.config.config_dir] if composition.config.config_dir else []
    with _argv([*line.argv(), *folder, *choices, *hydra]):
        _hydra_main(lambda _: None, PRIMARY)
    return 0


class JobFailed(Exception):
    """A job that a launcher ran in another process has failed; that process has reported the error."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


def _elsewhere(job: Callable[[object], None], launcher: str) -> int:
    """Runs a multirun in a launcher's processes; returns the status of the first job that failed, or 0."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what a job raised, instead of printing it and exiting
    if launcher.startswith("submitit"):
        sys.stdout.write(f"{launcher} runs the jobs; their logs are in {SUBMITIT_DIR}/.submitit\n")
        sys.stdout.flush()
    try:
        _hydra_main(job)
    except JobFailed as failed:
        where = f"; its log is in {SUBMITIT_DIR}/.submitit" if launcher.startswith("submitit") else ""
        write_line(f"a job of the multirun failed with status {failed.status}{where}")
        return failed.status
    return 0


def _run_job(composition: Composition) -> int:
    """Runs one training and reports its errors, so that the other jobs of a multirun continue."""
    return guarded(lambda: importlib.import_module("multihead.commands.train").run(composition))


def _hydra_main(job: Callable[[object], None], config: str = "") -> None:
    """Runs ``job`` under ``@hydra.main``.

    Args:
        job: What Hydra calls, once for each job.
        config: Name of a configuration in our folder; if empty, Hydra reads a configuration without any key of ours.
    """
    import hydra

    from multihead.config.multirun import JOB, register_job

    register_job()
    hydra.main(version_base="1.3", config_path=str(conf_dir()) if config else None, config_name=config or JOB)(job)()


@contextlib.contextmanager
def _sweep_dir(words: list[str], multirun: bool, launcher: str) -> Iterator[list[str]]:
    """Yields the words that place the file which Hydra's sweeper always writes, unless the user has placed it.

    It goes into a temporary folder. Only submitit gets a lasting one: its jobs write logs there, and they may run on
    other machines.
    """
    if not multirun or any(word.startswith("hydra.sweep.dir=") for word in words):
        yield []
        return
    if launcher.startswith("submitit"):
        yield [f"hydra.sweep.dir={SUBMITIT_DIR}", "hydra.sweep.subdir=."]
        return
    with tempfile.TemporaryDirectory(prefix="multihead-multirun-") as folder:
        yield [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=."]


@contextlib.contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    """Puts arguments into ``sys.argv`` inside this context, because Hydra reads them there."""
    before = sys.argv
    sys.argv = [before[0] if before else "multihead", *arguments]
    try:
        yield
    finally:
        sys.argv = before


# Shell completion


def _complete(argv: list[str]) -> int:
    """Completes words in bash, zsh and fish.

    The commands and their settings are completed here. Hydra completes the words of ``train``, without its own groups.
    """
    from multihead.config.files import register_schema
    from multihead.config.verbs import SETTINGS
    from multihead.help import offers

    register_schema()
    if not any(word.startswith("query=") for word in argv):
        with _argv(argv):
            _hydra_main(lambda _: None, PRIMARY)
        return 0
    line = os.environ.get("COMP_LINE", "")
    program, *typed = line.split() or [""]
    if not (Path(program).name.startswith("python") or program.endswith(".py")):
        if not typed or (len(typed) == 1 and not line.endswith(" ")):
            sys.stdout.write(" ".join(verb for verb in VERBS if verb.startswith("".join(typed))) + "\n")
            return 0
        if typed[0] in SETTINGS:
            sys.stdout.write(" ".join(offers(typed[0], "" if line.endswith(" ") else typed[-1])) + "\n")
            return 0
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]]) + " " * line.endswith(" ")
    answer = io.StringIO()
    with contextlib.redirect_stdout(answer), _argv(argv), contextlib.suppress(SystemExit):
        _hydra_main(lambda _: None, PRIMARY)
    offered = [word for word in answer.getvalue().split() if not word.startswith(("hydra", "schema"))]
    sys.stdout.write(" ".join(offered) + "\n")
    return 0
