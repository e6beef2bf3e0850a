"""Multiruns: the trials that ``-m`` stands for, and the words with which Hydra's sweepers and launchers run them.

The words are read once, by `words`. Hydra gets a configuration of its own (`JOB`) without our keys. For its basic
sweeper it holds the number of a trial; for another sweeper it holds the keys that this sweeper draws.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multihead.config.compose import HYDRA_WORDS, composer, named, parse, resumed_run
from multihead.config.extras import install
from multihead.config.files import Files
from multihead.config.folder import PRIMARY, conf_dir
from multihead.config.keys import GROUPS, find, leaf_keys, nearest_name
from multihead.config.merge import Composition
from multihead.config.task import TASKS
from multihead.config.words import Word, is_text, text
from multihead.config.yaml_file import load_yaml, one_line
from multihead.errors import ConfigError

JOB = "multihead_job"
"""The name of Hydra's configuration."""
TRIAL = "trial"
"""Its key for the number of the trial."""
SWEPT = "swept"
"""Its node for the keys that a sampling sweeper draws; at the top, Hydra would take ``data`` for a group."""
MAX_CHECKED_TRIALS = 200
LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""Each launcher with the package that it needs."""


@dataclass
class Multirun:
    """The trials that a command line with ``-m`` stands for."""

    trials: list[list[str]]
    """The words of each trial, in Hydra's order."""
    drawn: list[str] = field(default_factory=list)
    """Words of the keys whose values a sampling sweeper draws; if there are any, the trials are only examples."""
    fixed: list[str] = field(default_factory=list)
    """The words that all trials have in common."""

    def words_for_hydra(self) -> list[str]:
        """Returns the words over which Hydra sweeps."""
        if self.drawn:
            return [f"++{SWEPT}.{word}" for word in self.drawn]
        return [f"{TRIAL}={','.join(str(number) for number in range(len(self.trials)))}"]

    def words_of(self, overrides: Iterable[str]) -> list[str]:
        """Returns the words of the trial that Hydra describes by ``overrides``."""
        given = [word.lstrip("+").removeprefix(f"{SWEPT}.") for word in overrides]
        if self.drawn:
            return [*self.fixed, *given]
        return self.trials[int(given[-1].partition("=")[2])]


def multirun(words: Iterable[str], *, config_dir: str | None = None) -> Multirun:
    """Returns the trials that ``words`` stand for; they are not composed yet.

    Raises:
        ConfigError: A sweep cannot be read, or no sweeper here can run it.
    """
    overrides = parse(words)
    if resumed_run(overrides):
        raise ConfigError("resume", "only a single run can be resumed, not a multirun", "leave out -m")
    own = [word for word in overrides if not word.is_hydra]
    sampling = _sweeper(overrides) != "basic"
    for word in own:
        if word.is_sweep:
            _check_sweep(word, sampling)
    options: dict[str, list[str]] = {}
    axes = [_axis(word, overrides, config_dir, options) for word in own]
    found = Multirun([list(trial) for trial in itertools.product(*[axis for axis in axes if axis])])
    if sampling:
        found.drawn = [_for_sampler(word, axis) for word, axis in zip(own, axes, strict=True) if word.is_sweep]
        found.fixed = [word.typed for word in own if not word.is_sweep]
    _check_directories(found)
    return found


def compose_sweep(words: Iterable[str], *, limit: int | None = MAX_CHECKED_TRIALS) -> list[Composition]:
    """Returns the configurations of the first ``limit`` trials of a multirun, in Hydra's order.

    Raises:
        ConfigError: As for `compose`, for the first trial that is not valid.
    """
    return compose_trials(multirun(words), words, limit=limit)


def compose_trials(
    found: Multirun, words: Iterable[str], *, config_dir: str | None = None, limit: int | None = MAX_CHECKED_TRIALS
) -> list[Composition]:
    """Returns the configurations of the first ``limit`` trials.

    Raises:
        ConfigError: As for `compose`.
    """
    hydra = [word.typed for word in parse(words) if word.is_hydra]
    one = composer([*found.trials[0], *hydra], config_dir=config_dir)
    return [one(trial) for trial in found.trials[:limit]]


def _sweeper(overrides: list[Word]) -> str:
    return next((word.value or "" for word in reversed(overrides) if word.key == "hydra/sweeper"), "basic")


def _check_sweep(word: Word, sampling: bool) -> None:
    if word.key == "plugin":
        raise ConfigError("plugin", "cannot be swept over", "one plugin may hold several variants")
    if word.key in ("resume", "config_dir"):
        raise ConfigError(word.key, "cannot be swept over", f"one command for each {word.key}=")
    value, call = word.value or "", (word.value or "").partition("(")[0]
    key = find(word.key, leaf_keys(TASKS.values()))
    if call == "interval" and value.endswith(")") and not sampling:
        what = f"{value} is a range to draw from, but a multirun tries values one by one"
        fix = f"list them ({word.key}=FIRST,SECOND), or use multihead sweep file=FILE, which draws from ranges"
        raise ConfigError(word.key, what, fix)
    if call in ("sort", "shuffle", "tag") and is_text(key, key is not None and key.is_mapping):
        what = f"{call}(...) is for numbers"
        raise ConfigError(word.key, what, f"{word.key}=FIRST,SECOND in the order that you want")
    if call == "glob" and word.key not in GROUPS:
        raise ConfigError(word.key, "glob(...) is for choices of a group", f"{word.key}=FIRST,SECOND")


def _axis(word: Word, overrides: list[Word], config_dir: str | None, options: dict[str, list[str]]) -> list[str]:
    """Returns the words that a sweep over one key stands for; none for a range from which a sampler draws."""
    if not word.is_sweep:
        return [word.typed]
    before = f"{word.sign}{word.key}{'@' + word.package if word.package else ''}"
    if (word.value or "").startswith("glob("):
        if word.key not in options:
            options[word.key] = _group_options(word.key, overrides, config_dir)
        elements = _globbed(word, options[word.key])
    else:
        elements = word.elements()
    return [f"{before}={element}" for element in elements or ()]


def _group_options(group: str, overrides: list[Word], config_dir: str | None) -> list[str]:
    hydra = [word.typed for word in overrides if word.key == "hydra.searchpath"]
    files = Files(hydra, named(overrides, "config_dir") or config_dir, None)
    return files.options(group)


def _globbed(word: Word, options: list[str]) -> list[str]:
    try:
        pattern = OverridesParser.create().parse_override(f"value={word.value}").value()
    except HydraException as error:
        raise ConfigError(word.key, f"cannot read {word.value!r}", f"'{word.key}=glob(*)'") from error
    assert isinstance(pattern, Glob)
    if not (found := pattern.filter(options)):
        raise ConfigError(word.key, f"{word.value} matches none of {', '.join(options)}", f"'{word.key}=glob(*)'")
    return found


def _for_sampler(word: Word, axis: list[str]) -> str:
    """Returns a swept word for a sweeper other than Hydra's basic one; texts are quoted so that they stay as typed."""
    if not axis:
        return f"{word.key}={word.value}"
    texts = is_text(find(word.key, leaf_keys(TASKS.values()))) or word.key in GROUPS
    values = [element.partition("=")[2] for element in axis]
    return f"{word.key}=" + ",".join(f'"{text(value, word.key)}"' if texts else value for value in values)


def _check_directories(found: Multirun) -> None:
    """Raises `ConfigError` if several trials would write into one directory."""
    places = [named(parse(trial), "run_dir") for trial in found.trials]
    given = [place for place in places if place]
    if len(set(given)) < len(given) or (given and found.drawn):
        twice = next((place for place in given if given.count(place) > 1), given[0])
        count = "all" if found.drawn else given.count(twice)
        fix = "leave run_dir out: each run gets a directory of its own below outputs/"
        raise ConfigError("run_dir", f"{count} runs of the multirun would be written to {twice}", fix)


# ---- Hydra


def register_job() -> None:
    """Registers Hydra's configuration of a job: its section of train.yaml, and the number of a trial."""
    primary = load_yaml(conf_dir() / f"{PRIMARY}.yaml")
    own = [entry for entry in primary["defaults"] if isinstance(entry, dict) and "hydra/" in next(iter(entry))]
    node = {"defaults": [*own, "_self_"], TRIAL: -1, "hydra": primary["hydra"]}
    ConfigStore.instance().store(name=JOB, node=OmegaConf.create(node))


def check_hydra(words: Iterable[str]) -> list[str]:
    """Returns the words for Hydra after checking that Hydra can read them.

    Raises:
        ConfigError: Hydra cannot read one of them.
    """
    chosen = [word for word in parse(words) if word.is_hydra and word.key not in ("hydra.mode", "hydra.searchpath")]
    chosen.sort(key=lambda word: "/" not in word.key)  # launchers and sweepers before their settings
    given: list[str] = []
    for word in chosen:
        if not HYDRA_WORDS.fullmatch(word.key):
            continue  # `compose` reports it
        value = word.value or ""
        if word.key == "hydra/launcher" and (package := LAUNCHERS.get(value)):
            missing = importlib.util.find_spec(package) is None
            if missing or importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is None:
                raise ConfigError(
                    "hydra/launcher", f"{value} needs {package}, which is not installed", install(package)
                )
        given.append(f'{word.key}="{text(value, word.key)}"' if word.key == "hydra.sweep.dir" else word.typed)
        _try(word, given)
    return given


def _try(word: Word, given: list[str]) -> None:
    register_job()
    loader = Files([], None, None).loader
    try:
        loader.load_configuration(JOB, given, run_mode=RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException) as error:
        if word.key in ("hydra/launcher", "hydra/sweeper"):
            there = loader.get_group_options(word.key)
            near = nearest_name(word.value or "", there) or "basic"
            what = f"no such {word.key.partition('/')[2]}: {word.value}; there are {', '.join(there)}"
            raise ConfigError(word.key, what, f"{word.key}={near}") from error
        group = word.key.split(".")[1]
        what = f"not a setting of the chosen {group} ({one_line(error).partition(';')[0]})"
        raise ConfigError(
            word.key, what, f"choose a {group} that has it (hydra/{group}=NAME), or leave it out"
        ) from error
