"""Reads W&B sweep files and checks them; an error names the line.

The format is W&B's (https://docs.wandb.ai/guides/sweeps/define-sweep-configuration). Nested parameters, null, and the
distributions from which no sampler of ours draws are not supported.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihead.config.compose import composer, parse
from multihead.config.keys import GROUPS, find, leaf_keys, nearest_name
from multihead.config.merge import Composition
from multihead.config.slots import metrics_of
from multihead.config.task import TASKS
from multihead.config.words import takes_text
from multihead.config.yaml_file import load_yaml_with_lines, scalars
from multihead.errors import CheckpointError, ConfigError

PROGRAM = "train.py"
COMMAND = ["${env}", "python", "${program}", "${args_no_hyphens}"]
KEYS = ("program", "method", "metric", "parameters", "command", "name", "description", "project", "entity", "run_cap",
        "early_terminate", "kind", "apiVersion")  # fmt: skip
METHODS = ("grid", "random", "bayes")
GOALS = {"minimize": "min", "maximize": "max"}
STOPPING_KEYS = ("type", "min_iter", "max_iter", "s", "eta")
NOT_SWEPT = ("run_dir", "resume", "resume_force", "plan", "plugin", "plugin_sha256", "config_dir", "hydra/launcher",
             "hydra/sweeper")  # fmt: skip
"""Keys that the sweep itself sets, or that make no sense for a trial."""
RANGES = {
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
    "log_uniform": ("min", "max"),
}
CHOICES = {"constant": ("value",), "categorical": ("values",)}
MAX_COMBINATIONS = 100
"""Number of combinations of values that are composed before the first trial."""
Path_ = tuple[str | int, ...]


@dataclass(kw_only=True)
class Parameter:
    """A key that the trials set, and its possible values."""

    name: str
    values: list[Any] = field(default_factory=list)
    """The choices; a constant has one, a range none."""
    low: float = 0
    high: float = 0
    integer: bool = False
    """Whether a range holds whole numbers."""
    log: bool = False
    """Whether a range is uniform in the logarithm."""
    step: float = 0
    """Distance between the values of a range, counted from low; 0 means continuous."""
    line: int = 0

    @property
    def constant(self) -> bool:
        """Whether all trials have the same value."""
        return len(self.values) == 1

    def examples(self) -> list[Any]:
        """Returns every choice, or both ends of a range."""
        return self.values or [self.low, self.high]


@dataclass(kw_only=True)
class Sweep:
    """A sweep file, read and checked by itself; `check` compares it with the configuration."""

    path: Path
    text: str
    """The content of the file, for the ledger."""
    name: str
    method: str
    metric: str
    goal: str
    """minimize or maximize."""
    parameters: list[Parameter]
    words: list[str]
    """Fixed words of the command."""
    run_cap: int = 0
    """Largest number of trials; 0 if the file does not say."""
    min_iter: int = 0
    """Validations before a trial can be stopped early; 0 lets all trials run to their end."""
    eta: int = 3
    """The best 1 / eta of the trials that reach min_iter * eta**k validations continue (arXiv:1810.05934)."""
    lines: Mapping[Path_, int] = field(default_factory=dict)
    """Line of each key and entry, by its path."""
    scalars: Mapping[Path_, str] = field(default_factory=dict)
    """Values as they are written in the file, before YAML reads them as numbers."""

    def at(self, *path: str | int) -> str:
        """Returns ``file:line`` of a key, or of the nearest node above it that has a line."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.path}:{self.lines.get(path, 1)}"

    @property
    def swept(self) -> list[Parameter]:
        """The parameters that differ between trials."""
        return [parameter for parameter in self.parameters if not parameter.constant]

    def grid_size(self) -> int:
        """Number of points of a grid."""
        return math.prod(len(parameter.values) for parameter in self.parameters)

    def point(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the words of a trial: the command's fixed words, then W&B's ``${args_no_hyphens}``."""
        constants = {p.name: p.values[0] for p in self.parameters if p.constant}
        drawn = {p.name: values.get(p.name, constants.get(p.name)) for p in self.parameters}
        return [*self.words, *(f"{name}={value}" for name, value in drawn.items())]


def read_sweep(path: str) -> Sweep:
    """Reads a sweep file.

    Raises:
        ConfigError: There is no such file, or something in it is not valid; the error names the line.
    """
    if not Path(path).is_file():
        near = nearest_name(path, [str(file) for file in Path(path).parent.glob("*.yaml")])
        raise ConfigError("file", f"no such sweep file: {path}", f"file={near}" if near else "file=sweeps/NAME.yaml")
    try:
        tree, lines = load_yaml_with_lines(path)
    except CheckpointError as error:
        raise ConfigError(path, error.what) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}:1", "must be a mapping with program, method, metric and parameters")
    sweep = Sweep(
        path=Path(path),
        text=Path(path).read_text(encoding="utf-8"),
        name=str(tree.get("name") or Path(path).stem),
        method=str(tree.get("method", "")),
        metric="",
        goal="",
        parameters=[],
        words=[],
        lines=lines,
        scalars=scalars(path),
    )
    for key in tree:
        if key not in KEYS:
            near = nearest_name(key, KEYS)
            raise ConfigError(sweep.at(key), f"{key}: no such key", f"{near}:" if near else f"one of {', '.join(KEYS)}")
    _read_program(sweep, tree)
    _choose(sweep, ("method",), tree.get("method"), METHODS)
    _read_metric(sweep, tree.get("metric"))
    read_parameters(sweep, tree.get("parameters"))
    if "run_cap" in tree:
        sweep.run_cap = _whole(sweep, ("run_cap",), tree["run_cap"])
    if "early_terminate" in tree:
        _read_stopping(sweep, tree["early_terminate"])
    if not re.fullmatch(r"[\w.-]{1,100}", sweep.name) or sweep.name.startswith("."):
        raise ConfigError(
            sweep.at("name"), f"name: must be up to 100 letters, digits, '-', '_' and '.'; got {sweep.name!r}"
        )
    return sweep


def _choose(sweep: Sweep, path: Path_, value: Any, choices: Sequence[str]) -> str:
    """Returns the value after checking that it is one of ``choices``."""
    if value not in choices:
        got = "nothing" if value is None else repr(value)
        near = nearest_name(str(value), choices)
        fix = f"{path[-1]}: {near}" if near else ""
        raise ConfigError(
            sweep.at(*path), f"{'.'.join(map(str, path))}: must be one of {', '.join(choices)}; got {got}", fix
        )
    return value


def _whole(sweep: Sweep, path: Path_, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            sweep.at(*path), f"{'.'.join(map(str, path))}: must be a whole number of at least 1; got {value!r}"
        )
    return value


def _read_program(sweep: Sweep, tree: Mapping[str, Any]) -> None:
    """Checks that the command runs `train.py` and that W&B's agent gives it words of the form key=value."""
    program, command = tree.get("program"), tree.get("command")
    if program != PROGRAM:
        what = f"program: must be {PROGRAM}; got {program!r}"
        raise ConfigError(sweep.at("program"), what, "a file cannot name code to run; plugin=FILE.py adds yours")
    written = "command: [" + ", ".join(f'"{part}"' for part in COMMAND) + "]"
    if not isinstance(command, list) or "${args_no_hyphens}" not in command:
        what = "command: must hold ${args_no_hyphens}, which gives key=value; by default W&B gives --key=value"
        raise ConfigError(sweep.at("command" if "command" in tree else "program"), what, written)
    for index, part in enumerate(command):
        if part in (*COMMAND, "${interpreter}", "python3"):
            continue
        if not isinstance(part, str) or part.startswith(("-", "$")) or "=" not in part:
            raise ConfigError(sweep.at("command", index), f"command: {part!r} is not of the form key=value", written)
        sweep.words.append(part)


def _read_metric(sweep: Sweep, metric: Any) -> None:
    if not isinstance(metric, dict) or set(metric) - {"name", "goal", "target"}:
        what = f"metric: must be a mapping with name and goal; got {metric!r}"
        raise ConfigError(sweep.at("metric"), what, "metric: {name: val/loss, goal: minimize}")
    _choose(sweep, ("metric", "goal"), metric.get("goal"), tuple(GOALS))
    sweep.metric, sweep.goal = str(metric.get("name", "")), metric["goal"]
    if not sweep.metric.startswith("val/"):
        what = f"metric.name: must be a validation metric (val/...); got {sweep.metric!r}"
        raise ConfigError(
            sweep.at("metric", "name"), what, "use a metric of val/, because the test split must not choose"
        )


def _read_stopping(sweep: Sweep, stopping: Any) -> None:
    path = ("early_terminate",)
    if not isinstance(stopping, dict):
        raise ConfigError(sweep.at(*path), "early_terminate: must be a mapping", "{type: hyperband, min_iter: 2}")
    for key in stopping:
        if key not in STOPPING_KEYS:
            near = nearest_name(key, STOPPING_KEYS)
            raise ConfigError(
                sweep.at(*path, key), f"early_terminate.{key}: no such key", near or ", ".join(STOPPING_KEYS)
            )
    _choose(sweep, (*path, "type"), stopping.get("type"), ("hyperband",))
    sweep.eta = _whole(sweep, (*path, "eta"), stopping.get("eta", 3))
    if sweep.eta < 2:
        raise ConfigError(sweep.at(*path, "eta"), f"early_terminate.eta: must be at least 2; got {sweep.eta}")
    if "min_iter" in stopping:
        sweep.min_iter = _whole(sweep, (*path, "min_iter"), stopping["min_iter"])
    elif "max_iter" in stopping and "s" in stopping:
        most, rungs = (_whole(sweep, (*path, key), stopping[key]) for key in ("max_iter", "s"))
        sweep.min_iter = max(1, min(most // sweep.eta**power for power in range(1, rungs + 1)))
    else:
        raise ConfigError(sweep.at(*path), "early_terminate: needs min_iter, or max_iter and s", "min_iter: 2")


# Parameters


def read_parameters(sweep: Sweep, parameters: Any) -> None:
    """Reads the parameters of a sweep, or those over which a study tunes."""
    if not isinstance(parameters, dict) or not parameters:
        raise ConfigError(sweep.at("parameters"), "parameters: must be a mapping of at least one key to its values")
    for name, spec in parameters.items():
        path = ("parameters", name)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            raise ConfigError(sweep.at(*path), f"{name!r} is not a key of the configuration")
        if name in NOT_SWEPT:
            raise ConfigError(sweep.at(*path), f"{name}: a sweep cannot set it", "remove it from the file")
        if not isinstance(spec, dict):
            raise ConfigError(
                sweep.at(*path), f"{name}: must have value, values, or min and max; got {spec!r}", f"value: {spec}"
            )
        if "parameters" in spec:
            inner = f"{name}.{next(iter(spec['parameters'] or {}), 'key')}"
            what = f"{name}: nested parameters are not supported; W&B passes them as one text"
            raise ConfigError(sweep.at(*path), what, f"{inner}: ...")
        sweep.parameters.append(_parameter(sweep, path, spec))
    if sweep.method == "grid":
        for parameter in sweep.parameters:
            if not parameter.values:
                what = f"{parameter.name}: a grid needs values, got the range from {parameter.low} to {parameter.high}"
                raise ConfigError(
                    sweep.at("parameters", parameter.name), what, "values: [...], or method: random or bayes"
                )


def _of_text(name: str) -> bool:
    keys = leaf_keys(TASKS.values())
    return name in GROUPS or takes_text(find(name, keys), name)


def _parameter(sweep: Sweep, path: Path_, spec: Mapping[str, Any]) -> Parameter:
    """Reads one parameter."""
    name = str(path[-1])
    known = CHOICES | RANGES
    kind = _choose(sweep, (*path, "distribution"), spec.get("distribution") or _kind(spec), tuple(known))
    for key in spec:
        if key not in (*known[kind], "distribution"):
            near = nearest_name(str(key), known[kind])
            what = f"{name}.{key}: no such key of {kind}"
            raise ConfigError(sweep.at(*path, key), what, f"{near}:" if near else f"{', '.join(known[kind])}")
    line = sweep.lines.get(path, 1)
    if kind in CHOICES:
        (key,) = CHOICES[kind]
        values = spec.get(key) if key == "values" else [spec.get(key)]
        if not isinstance(values, list) or not values:
            raise ConfigError(
                sweep.at(*path, key), f"{name}.{key}: must be a list of at least one value", "values: [...]"
            )
        for index, value in enumerate(values):
            _check_value(sweep, (*path, key, index), name, value)
        if len({str(value) for value in values}) < len(values):
            raise ConfigError(sweep.at(*path, key), f"{name}.{key}: a value occurs twice in {values}")
        return Parameter(name=name, values=[v if not isinstance(v, list) else str(v) for v in values], line=line)
    return _range(sweep, path, kind, spec, line)


def _kind(spec: Mapping[str, Any]) -> str | None:
    """Returns the distribution that W&B takes if the file names none."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    ends = [spec.get("min"), spec.get("max")]
    if any(end is None for end in ends):
        return None
    return "int_uniform" if all(isinstance(end, int) for end in ends) else "uniform"


def _range(sweep: Sweep, path: Path_, kind: str, spec: Mapping[str, Any], line: int) -> Parameter:
    name = str(path[-1])
    for key in ("min", "max", *(["q"] if "q" in spec else [])):
        value = spec.get(key)
        _check_value(sweep, (*path, key), name, value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(sweep.at(*path, key), f"{name}.{key}: must be a finite number; got {value!r}")
    low, high, step = spec["min"], spec["max"], spec.get("q", 1 if kind == "q_uniform" else 0)
    if not low < high:
        raise ConfigError(sweep.at(*path), f"{name}: min must be below max; got {low} and {high}")
    if kind == "log_uniform":  # W&B's log_uniform gives the ends as natural logarithms
        low, high = math.exp(low), math.exp(high)
    log = kind.startswith("log_uniform")
    if log and low <= 0:
        fix = "distribution: uniform, or min above 0"
        raise ConfigError(sweep.at(*path, "min"), f"{name}.min: must be above 0 on a logarithmic scale; got {low}", fix)
    integer = all(isinstance(value, int) for value in (low, high, step))
    if integer and kind == "uniform":
        integer = False
    if not integer:
        low, high = float(low), float(high)  # a trial gets 2.0 or 2.7, which a key of whole numbers does not take
    return Parameter(name=name, low=low, high=high, integer=integer, log=log, step=step, line=line)


def _check_value(sweep: Sweep, path: Path_, name: str, value: Any) -> None:
    """Raises `ConfigError` for a value that would reach a trial as something else than the file says."""
    where = sweep.at(*path)
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_value(sweep, (*path, index), name, item)
        return
    written = sweep.scalars.get(path) or sweep.scalars.get(path[:-1], "")
    if written and not isinstance(value, str) and value is not None and str(value) != written and _of_text(name):
        raise ConfigError(where, f"{name}: YAML reads {written} as {value!r}, but the key takes text", f"'{written}'")
    if value is None:
        raise ConfigError(where, f"{name}: null would reach a trial as the text None", "write a value")
    if isinstance(value, dict):
        raise ConfigError(where, f"{name}: must not be a mapping; write each of its keys as a parameter")
    if isinstance(value, str):
        if re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
            fix = re.sub(r"^([+-]?\d+)", r"\1.0", value)
            raise ConfigError(where, f"{name}: YAML reads {value} as a text, not a number", f"write {fix}")
        if "${" in value:
            raise ConfigError(where, f"{name}: interpolation is not allowed: configuration is data")


# Against the configuration


def check(sweep: Sweep, typed: Sequence[str] = ()) -> Composition:
    """Composes trials of the sweep before the first one starts.

    Every choice of every parameter and both ends of every range are composed once, and then up to `MAX_COMBINATIONS` of
    their combinations.

    Args:
        sweep: The sweep that `read_sweep` returned.
        typed: Words of the command line for every trial.

    Returns:
        The first trial's configuration.

    Raises:
        ConfigError: The task has no such parameter, or a value or a combination is not valid; with the line.
    """
    names = {parameter.name for parameter in sweep.parameters}
    for override in parse(typed):
        if override.key in NOT_SWEPT and override.key not in ("plugin", "config_dir"):
            raise ConfigError(override.key, "the sweep sets it for each trial", "leave it out")
        if override.key in names and not override.is_sweep:
            name = override.key
            what = f"{name} is set by the sweep and also typed as {override.typed}"
            raise ConfigError(sweep.at("parameters", name), what, "leave one of the two out")
    first, compose = None, composer(typed)
    for point in _points(sweep.parameters):
        composed = _compose(sweep, point, typed, compose)
        first = first or composed
    assert first is not None
    _check_metric(sweep, first)
    return first


def _points(parameters: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
    """Yields the first values of all parameters, each other value alone, and then combinations."""
    base = {parameter.name: parameter.examples()[0] for parameter in parameters}
    yield base
    for parameter in parameters:
        for value in parameter.examples()[1:]:
            yield base | {parameter.name: value}
    axes = [[(parameter.name, value) for value in parameter.examples()] for parameter in parameters]
    for combination in itertools.islice(itertools.product(*axes), MAX_COMBINATIONS):
        if sum(base[name] != value for name, value in combination) > 1:
            yield dict(combination)


def _compose(
    sweep: Sweep, point: Mapping[str, Any], typed: Sequence[str], compose: Callable[[list[str]], Composition]
) -> Composition:
    words = [*sweep.words, *(f"{name}={value}" for name, value in point.items()), *typed]
    try:
        return compose(words)
    except ConfigError as error:
        where = error.where.partition("=")[0]
        found = [p.name for p in sweep.parameters if where in (p.name, f"{p.name}.name")]
        changed = [p.name for p in sweep.parameters if point[p.name] != p.examples()[0]]
        name = (found or changed or [None])[-1]
        line = sweep.at("parameters", name) if name else sweep.at("parameters")
        if name and point[name] in (values := _parameter_named(sweep, name).values):
            key = "value" if len(values) == 1 else "values"
            line = sweep.at("parameters", name, key, values.index(point[name]))
        raise ConfigError(line, f"{error.where}: {error.what}", error.fix) from error


def _parameter_named(sweep: Sweep, name: str) -> Parameter:
    return next(parameter for parameter in sweep.parameters if parameter.name == name)


def _check_metric(sweep: Sweep, composed: Composition) -> None:
    """Checks that the task logs the metric, that the goal is its better direction, and that trials can be stopped."""
    task, trainer = composed.config.task, composed.config.trainer
    if known := metrics_of(task, composed.plugin):
        _choose(sweep, ("metric", "name"), sweep.metric, tuple(known))
        better = known[sweep.metric]
        if GOALS[sweep.goal] != better:
            goal = next(goal for goal, mode in GOALS.items() if mode == better)
            what = f"metric.goal: {'lower' if better == 'min' else 'higher'} {sweep.metric} is better"
            raise ConfigError(sweep.at("metric", "goal"), what, f"goal: {goal}")
    validations = math.ceil(trainer.max_steps / trainer.val_every_n_steps)
    if sweep.min_iter >= validations:
        what = f"early_terminate: a trial has {validations} validations, so none can be stopped after {sweep.min_iter}"
        raise ConfigError(
            sweep.at("early_terminate"), what, "a smaller min_iter, or a smaller trainer.val_every_n_steps"
        )
