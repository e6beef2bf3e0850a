"""Reads study files and checks them before torch is imported; an error names the line.

A study compares variants with a baseline, on several tasks and over several seeds. All of its words are those of the
command line of a single run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihead.config.keys import nearest_name
from multihead.config.sweep import NOT_SWEPT, Path_, Sweep, read_parameters
from multihead.config.yaml_file import load_yaml_with_lines, scalars
from multihead.errors import CheckpointError, ConfigError

KEYS = ("question", "words", "baseline", "variants", "ablate", "add_in", "tasks", "ladder", "optimum", "compute",
        "folds", "repeats", "seeds", "max_seeds", "equal", "resize", "tune", "budget", "alpha", "power",
        "smallest_effect", "name")  # fmt: skip
EQUALS = ("none", "parameters", "tokens", "flops", "minutes")
RESIZED = ("parameters", "flops")
"""What is made equal by resizing the variants."""
RESIZES = ("d_ff", "depth")
TUNE_KEYS = ("method", "trials", "parameters")
TUNE_METHODS = ("random", "bayes")
NOT_SET = (*NOT_SWEPT, "seed", "data.folds", "data.fold")
"""Keys that the study itself sets, or that make no sense for its runs."""
LEAST_SEEDS, MOST_SEEDS = 3, 50
"""Limits of max_seeds."""
NAME = r"[A-Za-z0-9][\w.-]{0,39}"
D_FF = "model.d_ff"
LAYERS = ("model.num_encoder_layers", "model.num_decoder_layers")
COMPUTES = ("flops", "minutes")
LEAST_RUNGS, MOST_RUNGS = 3, 12
"""Limits of the number of sizes of a ladder."""
LADDER_SEEDS = [1, 2, 3]
"""The seeds of a ladder whose file lists none."""
WITHOUT, ONLY, NO_SWITCH = "without_", "only_", "no_switch"
"""How the variants of an ablation are called: all switches but one, one alone, and none."""


@dataclass(kw_only=True)
class Tune:
    """The search that every variant and the baseline get before they are compared."""

    method: str
    trials: int
    """Trials for each variant and for the baseline, on each task."""
    parameters: dict[str, Any]
    """The parameters as in a sweep file."""


@dataclass(kw_only=True)
class Study:
    """A study file, read and checked by itself; `study_check.check` compares it with the configuration."""

    path: Path
    text: str
    """The content of the file, for the ledger."""
    name: str
    question: str
    words: list[str]
    """Words of all runs."""
    baseline: str
    """Name of the baseline."""
    arms: dict[str, list[str]]
    """Name of the baseline and of each variant to its words. The baseline is the first."""
    tasks: dict[str, list[str]]
    """Name of each task to its words."""
    seeds: list[int] = field(default_factory=list)
    """The seeds, if the file lists them; empty if seeds are added until the question is decided."""
    folds: int = 0
    """Folds of a cross-validation, which take the place of seeds; 0 without one."""
    max_seeds: int = 10
    """Largest number of seeds, if the file does not list them."""
    equal: str = "none"
    """What the baseline and its variants have in common: one of `EQUALS`."""
    resize: str = "d_ff"
    """What is resized for it: one of `RESIZES`. After the depth, d_ff closes the rest."""
    tune: Tune | None = None
    budget: float = 0.0
    """Minutes of all runs together; 0 means no limit."""
    alpha: float = 0.05
    """Largest probability that any of the comparisons between equal systems is called better or worse."""
    power: float = 0.8
    """Probability with which the study should find the difference that it announces."""
    smallest_effect: dict[str, float] = field(default_factory=dict)
    """For some tasks, the smallest difference that matters, in the unit of the metric."""
    ablated: dict[Any, list[str]] = field(default_factory=dict)
    """The switches of ``ablate``, each with its words; empty if the file lists variants."""
    ladder: dict[str, list[str]] = field(default_factory=dict)
    """Name of each size of a ladder to its words; empty for other studies. Each task is trained at each size."""
    optimum: dict[str, float] = field(default_factory=dict)
    """For tasks of a ladder, the loss that no model can get below, if it is not known."""
    compute: str = "flops"
    """What the compute of a ladder is: one of `COMPUTES`."""
    add_in: bool = True
    """Whether an ablation also adds each switch alone to a baseline without any, and so sees interactions."""
    lines: Mapping[Path_, int] = field(default_factory=dict)
    scalars: Mapping[Path_, str] = field(default_factory=dict)

    def at(self, *path: str | int) -> str:
        """Returns ``file:line`` of a key, or of the nearest node above it that has a line."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.path}:{self.lines.get(path, 1)}"

    @property
    def variants(self) -> list[str]:
        """Names of the variants, without the baseline."""
        return [name for name in self.arms if name != self.baseline]

    @property
    def contrasts(self) -> dict[str, tuple[str, str]]:
        """For an ablation, the name of each comparison with its variant and its reference; otherwise empty."""
        out = {f"{WITHOUT}{name}": (f"{WITHOUT}{name}", self.baseline) for name in self.ablated}
        if not (self.ablated and self.add_in):
            return out
        alone = {f"{ONLY}{name}": f"{ONLY}{name}" for name in self.ablated}
        if len(alone) == 2:  # the only one of two is all without the other one, which runs anyhow
            first, second = self.ablated
            alone = {f"{ONLY}{first}": f"{WITHOUT}{second}", f"{ONLY}{second}": f"{WITHOUT}{first}"}
        return out | {name: (arm, NO_SWITCH) for name, arm in alone.items()}

    def run_words(self, task: str, arm: str) -> list[str]:
        """Returns the words of the runs of a variant or the baseline on a task, without seed and size."""
        folds = [f"data.folds={self.folds}"] if self.folds else []
        return [*folds, *self.words, *self.tasks[task], *self.arms[arm]]

    def tuning(self) -> Sweep:
        """Returns the search of `tune` with its parameters; the caller adds the words and the metric."""
        assert self.tune is not None
        sweep = Sweep(
            path=self.path,
            text=self.text,
            name=self.name,
            method=self.tune.method,
            metric="",
            goal="",
            parameters=[],
            words=[],
            run_cap=self.tune.trials,
            lines={path[1:]: line for path, line in self.lines.items() if path[:1] == ("tune",)},
            scalars={path[1:]: text for path, text in self.scalars.items() if path[:1] == ("tune",)},
        )
        read_parameters(sweep, self.tune.parameters)
        return sweep


def read_study(path: str) -> Study:
    """Reads a study file.

    Raises:
        ConfigError: There is no such file, or something in it is not valid; the error names the line.
    """
    if not Path(path).is_file():
        near = nearest_name(path, [str(file) for file in Path(path).parent.glob("*.yaml")])
        raise ConfigError("file", f"no such study file: {path}", f"file={near or 'sweeps/studies/attention.yaml'}")
    try:
        tree, lines = load_yaml_with_lines(path)
    except CheckpointError as error:
        raise ConfigError(path, error.what) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}:1", "must be a mapping with question, baseline, variants and tasks")
    reader = _Reader(Path(path), lines, tree)
    for key in tree:
        if key not in KEYS:
            near = nearest_name(key, KEYS)
            raise reader.error(f"{key}: no such key", f"{near}:" if near else f"one of {', '.join(KEYS)}", key)
    return reader.study()


class _Reader:
    """Takes the values of a study file one by one, and checks each."""

    def __init__(self, path: Path, lines: Mapping[Path_, int], tree: dict[str, Any]):
        self.path, self.lines, self.tree = path, lines, tree

    def error(self, what: str, fix: str = "", *where: str | int) -> ConfigError:
        while where and where not in self.lines:
            where = where[:-1]
        return ConfigError(f"{self.path}:{self.lines.get(where, 1)}", what, fix)

    def study(self) -> Study:
        tree = self.tree
        baseline = self._named_words("baseline")
        if len(baseline) != 1:
            raise self.error(
                f"baseline: must be one name with its words; got {len(baseline)}", "baseline: {plain: []}", "baseline"
            )
        (name,) = baseline
        if "ablate" in tree:
            baseline, variants = self._ablated(name, baseline[name])
        else:
            variants = self._named_words("variants")
        tasks = self._named_words("tasks")
        ladder = self._ladder()
        if ladder:
            tasks = {
                f"{task}.{size}": [*of_task, *own] for task, of_task in tasks.items() for size, own in ladder.items()
            }
        if name in variants:
            raise self.error(f"variants.{name}: the baseline has this name", "another name", "variants", name)
        folds, repeats = self._folds()
        seeds = self._seeds() or (LADDER_SEEDS if ladder else list(range(1, folds * repeats + 1)))
        study = Study(
            path=self.path,
            text=self.path.read_text(encoding="utf-8"),
            name=self._text("name", self.path.stem),
            question=self._text("question", ""),
            words=self._words(("words",), tree.get("words", [])),
            baseline=name,
            arms={**baseline, **variants},
            tasks=tasks,
            seeds=seeds,
            folds=folds,
            max_seeds=len(seeds) or self._whole("max_seeds", 10, LEAST_SEEDS, MOST_SEEDS),
            equal=self._choice(("equal",), tree.get("equal", "none"), EQUALS),
            resize=self._choice(("resize",), tree.get("resize", "d_ff"), RESIZES),
            tune=self._tune(),
            budget=self._number("budget", 0.0, 0.0, float("inf")),
            alpha=self._number("alpha", 0.05, 0.0, 0.5),
            power=self._number("power", 0.8, 0.0, 1.0),
            smallest_effect=self._smallest(tasks),
            ablated=tree.get("ablate", {}),
            add_in=self._flag("add_in", True),
            ladder=ladder,
            optimum=self._optimum(),
            compute=self._choice(("compute",), tree.get("compute", "flops"), COMPUTES),
            lines=self.lines,
            scalars=scalars(self.path),
        )
        if not re.fullmatch(NAME, study.name):
            raise self.error(f"name: must match {NAME}; got {study.name!r}", "name: attention", "name")
        if not study.question:
            raise self.error("question: is missing", "question: Is the variant better than the baseline?", "question")
        if "resize" in tree and study.equal not in RESIZED:
            raise self.error("resize: only with equal: parameters or flops", "leave it out", "resize")
        if study.seeds and "max_seeds" in tree:
            raise self.error("max_seeds: only with seeds: auto", "leave it out", "max_seeds")
        if study.tune:
            study.tuning()
        return study

    def _text(self, key: str, default: str) -> str:
        value = self.tree.get(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key}: must be text; got {value!r}", f"{key}: '...'", key)
        return value.strip()

    def _choice(self, where: Path_, value: Any, choices: Sequence[str]) -> str:
        if value not in choices:
            near = nearest_name(str(value), choices)
            what = f"{'.'.join(map(str, where))}: must be one of {', '.join(choices)}; got {value!r}"
            raise self.error(what, f"{where[-1]}: {near}" if near else "", *where)
        return value

    def _whole(self, key: str, default: int, low: int, high: int) -> int:
        value = self.tree.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(f"{key}: must be a whole number from {low} to {high}; got {value!r}", "", key)
        return value

    def _number(self, key: str, default: float, low: float, high: float) -> float:
        """A number between two others; the default may be the lower one."""
        value = self.tree.get(key, default)
        if key in self.tree and not self._is_number(value, low, high):
            limit = f" and below {high:g}" if high < float("inf") else ""
            raise self.error(f"{key}: must be a number above {low:g}{limit}; got {value!r}", "", key)
        return float(value)

    @staticmethod
    def _is_number(value: Any, low: float, high: float) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low < value < high

    def _seeds(self) -> list[int]:
        value = self.tree.get("seeds", "auto")
        if value == "auto":
            return []
        good = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
        if not good or not 2 <= len(set(value)) == len(value) <= MOST_SEEDS:
            what = f"seeds: must be auto, or a list of 2 to {MOST_SEEDS} different whole numbers; got {value!r}"
            raise self.error(what, "seeds: auto", "seeds")
        return value

    def _named_words(self, key: str) -> dict[str, list[str]]:
        value = self.tree.get(key)
        example = "{lm: [task=lm]}" if key == "tasks" else "{plain: []}"
        example = "{rms: [model.norm=rms_norm]}" if key in ("variants", "ablate") else example
        if not isinstance(value, dict) or not value:
            raise self.error(f"{key}: must be a mapping of names to words; got {value!r}", f"{key}: {example}", key)
        for name in value:
            if not isinstance(name, str) or not re.fullmatch(NAME, name):
                what = f"{key}: a name has up to 40 letters, digits, '-', '_' and '.'; got {name!r}"
                raise self.error(what, "", key, name)
        return {name: self._words((key, name), words) for name, words in value.items()}

    def _ablated(self, baseline: str, words: list[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The baseline with all switches of ``ablate``, and the variants: without one, with one alone, with none."""
        if "variants" in self.tree:
            raise self.error("ablate: takes the place of variants", "leave one of the two out", "ablate")
        switches = self._named_words("ablate")
        if len(switches) < 2:
            raise self.error("ablate: must have at least 2 switches", "variants: for one", "ablate")

        def having(chosen: Callable[[str], bool]) -> list[str]:
            return [*words, *(word for name, listed in switches.items() if chosen(name) for word in listed)]

        variants = {f"{WITHOUT}{name}": having(lambda other, name=name: other != name) for name in switches}
        if self._flag("add_in", True):
            variants[NO_SWITCH] = list(words)
            if len(switches) > 2:
                variants |= {f"{ONLY}{name}": having(lambda other, name=name: other == name) for name in switches}
        return {baseline: having(lambda _: True)}, variants

    def _folds(self) -> tuple[int, int]:
        """The number of folds, and of random partitions into them; no folds without ``folds``."""
        if "folds" not in self.tree:
            if "repeats" in self.tree:
                raise self.error("repeats: only with folds", "leave it out", "repeats")
            return 0, 1
        for key in ("seeds", "max_seeds", "ladder", "tune"):
            if key in self.tree:
                why = (
                    "the trials would see rows that other folds test" if key == "tune" else "each fold has its own seed"
                )
                raise self.error(f"{key}: not with folds ({why})", "leave it out", key)
        folds = self._whole("folds", 0, 2, MOST_SEEDS)
        repeats = self._whole("repeats", 1, 1, MOST_SEEDS // folds)
        if folds * repeats < LEAST_SEEDS:
            raise self.error(f"folds: {folds} in {repeats} partition are too few", "repeats: 2", "folds")
        return folds, repeats

    def _ladder(self) -> dict[str, list[str]]:
        """The sizes of ``ladder``, each with its words."""
        if "ladder" not in self.tree:
            for key in ("optimum", "compute"):
                if key in self.tree:
                    raise self.error(f"{key}: only with ladder", "leave it out", key)
            return {}
        for key in ("ablate", "smallest_effect", "max_seeds"):
            if key in self.tree:
                raise self.error(f"{key}: not with ladder", "leave it out", key)
        sizes = self._named_words("ladder")
        for name in sizes:
            if "." in name:
                raise self.error(f"ladder.{name}: the name of a size has no '.'", "", "ladder", name)
        if not LEAST_RUNGS <= len(sizes) <= MOST_RUNGS:
            what = f"ladder: must have {LEAST_RUNGS} to {MOST_RUNGS} sizes; got {len(sizes)}"
            raise self.error(what, "ladder: {s1: [model.d_model=32], s2: [model.d_model=64], ...}", "ladder")
        return sizes

    def _optimum(self) -> dict[str, float]:
        """The known optimum of the tasks of a ladder that the file states."""
        value, tasks = self.tree.get("optimum", {}), self.tree.get("tasks", {})
        if not isinstance(value, dict):
            raise self.error(f"optimum: must be a mapping of tasks to losses; got {value!r}", "", "optimum")
        for task, number in value.items():
            if task not in tasks or not isinstance(number, int | float) or isinstance(number, bool):
                what = f"optimum.{task}: must be a task of the file and a number; got {number!r}"
                raise self.error(what, f"optimum: {{{next(iter(tasks))}: 0.8}}", "optimum", task)
        return {task: float(number) for task, number in value.items()}

    def _flag(self, key: str, default: bool) -> bool:
        value = self.tree.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key}: must be true or false; got {value!r}", f"{key}: {str(default).lower()}", key)
        if key in self.tree and "ablate" not in self.tree:
            raise self.error(f"{key}: only with ablate", "leave it out", key)
        return value

    def _words(self, where: Path_, value: Any) -> list[str]:
        """Words of the command line, which set no key that the study sets itself."""
        place = ".".join(map(str, where))
        if not isinstance(value, list):
            raise self.error(f"{place}: must be a list of words; got {value!r}", f"{where[-1]}: [key=value]", *where)
        for index, word in enumerate(value):
            if not isinstance(word, str) or not re.match(r"[A-Za-z_+~][\w./@+-]*=", word):
                raise self.error(
                    f"{place}: must have words of the form key=value; got {word!r}", "key=value", *where, index
                )
            key = word.partition("=")[0].lstrip("+~")
            if key in NOT_SET:
                fix = "type plugin=FILE.py on the command line" if key == "plugin" else "leave it out"
                fix = "folds: 5, as a key of the study" if key.startswith("data.fold") else fix
                raise self.error(f"{place}: a study file cannot set {key}", fix, *where, index)
        return value

    def _tune(self) -> Tune | None:
        value = self.tree.get("tune")
        if value is None:
            return None
        example = "tune: {method: random, trials: 8, parameters: {optim.lr: {values: [0.001, 0.003]}}}"
        if not isinstance(value, dict):
            raise self.error(f"tune: must be a mapping; got {value!r}", example, "tune")
        for key in value:
            if key not in TUNE_KEYS:
                near = nearest_name(str(key), TUNE_KEYS)
                raise self.error(f"tune.{key}: no such key", near or ", ".join(TUNE_KEYS), "tune", key)
        trials = value.get("trials")
        if type(trials) is not int or trials < 1:
            raise self.error(f"tune.trials: must be a whole number of at least 1; got {trials!r}", "", "tune", "trials")
        method = self._choice(("tune", "method"), value.get("method", "random"), TUNE_METHODS)
        return Tune(method=method, trials=trials, parameters=value.get("parameters") or {})

    def _smallest(self, tasks: Mapping[str, Any]) -> dict[str, float]:
        value = self.tree.get("smallest_effect", {})
        if not isinstance(value, dict):
            what = f"smallest_effect: must be a mapping of tasks to numbers; got {value!r}"
            raise self.error(what, f"smallest_effect: {{{next(iter(tasks))}: 0.5}}", "smallest_effect")
        for task, number in value.items():
            if task not in tasks:
                near = nearest_name(str(task), tasks)
                raise self.error(
                    f"smallest_effect.{task}: no such task", near or ", ".join(tasks), "smallest_effect", task
                )
            if not self._is_number(number, 0, float("inf")):
                what = f"smallest_effect.{task}: must be a number above 0; got {number!r}"
                raise self.error(what, "", "smallest_effect", task)
        return {task: float(number) for task, number in value.items()}
