"""Checks a study against the configuration, before torch is imported; an error names the line of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multihead.config.compose import composer, parse
from multihead.config.merge import Composition
from multihead.config.study import D_FF, LAYERS, NOT_SET, ONLY, RESIZED, WITHOUT, Study
from multihead.config.sweep import Path_
from multihead.errors import ConfigError


def check(study: Study, typed: Sequence[str] = ()) -> dict[tuple[str, str], Composition]:
    """Composes the runs of every task and variant before the first one starts.

    Args:
        study: The study that `read_study` returned.
        typed: Words of the command line for every run.

    Returns:
        The configuration of each task and variant.

    Raises:
        ConfigError: A word is not valid, or the variants of a task cannot be compared; with the line.
    """
    for override in parse(typed):
        if override.key in NOT_SET and override.key not in ("plugin", "config_dir"):
            raise ConfigError(override.key, "the study sets it for each run", "leave it out")
    compose = composer(typed)
    found = {}
    for task in study.tasks:
        for arm in study.arms:
            try:
                found[task, arm] = compose([*study.run_words(task, arm), *typed])
            except ConfigError as error:
                raise _placed(study, task, arm, error) from error
        _check_alike(study, task, found)
        _check_different(study, task, found)
        if study.ladder:
            _check_optimum(study, task, found[task, study.baseline])
    return found


def _check_different(study: Study, task: str, found: Mapping[tuple[str, str], Composition]) -> None:
    """Checks that the two systems of each comparison have different configurations on a task."""
    pairs = study.contrasts or {arm: (arm, study.baseline) for arm in study.variants}
    for arm, reference in pairs.values():
        if found[task, arm].config != found[task, reference].config:
            continue
        switch = arm.removeprefix(WITHOUT).removeprefix(ONLY)
        place = ("ablate", switch) if study.ablated else ("variants", arm)
        what = f"{arm} and {reference} have the same configuration on {task}, so that their difference is 0"
        raise ConfigError(study.at(*place), what, "set the other value in words, or change the words of this line")


def _check_optimum(study: Study, task: str, composition: Composition) -> None:
    """Checks that a task of a ladder is judged by a loss whose optimum is known."""
    name, config = task.rpartition(".")[0], composition.config
    if config.task.monitor_mode != "min":
        what = f"{name}: a ladder needs a loss as task.monitor; got {config.task.monitor}"
        raise ConfigError(study.at("tasks", name), what, "task.monitor=val/loss task.monitor_mode=min")
    if name in study.optimum or known_optimum(composition):
        return
    what = f"{name}: the optimum of {config.task.monitor} is not known"
    if config.data.format == "grammar" and config.task.name == "lm":
        raise ConfigError(study.at("tasks", name), what, "task.monitor=val/bits_per_byte task.monitor_mode=min")
    raise ConfigError(study.at("tasks", name), what, f"optimum: {{{name}: ...}}, the loss that no model gets below")


def known_optimum(composition: Composition) -> str:
    """Which optimum of the built-in grammar the monitored loss has: bits_per_byte, zero, or none ("")."""
    config = composition.config
    if config.data.format != "grammar":
        return ""
    if config.task.name == "lm" and getattr(config.task, "continues", False):
        return "bits_per_byte" if config.task.monitor == "val/bits_per_byte" else ""
    return "zero" if config.task.name == "translation" and config.task.monitor == "val/loss" else ""


def _placed(study: Study, task: str, arm: str, error: ConfigError) -> ConfigError:
    """The error with the line of the word that it is about, or that of the variant."""
    kind = "baseline" if arm == study.baseline else "variants"
    places: list[tuple[Path_, list[str]]] = [
        *((path, study.ablated[path[1]]) for path in study.lines if path[:1] == ("ablate",) and len(path) == 2),
        ((kind, arm), study.arms[arm] if (kind, arm) in study.lines else []),
        *((("ladder", size), words) for size, words in study.ladder.items() if task.endswith(f".{size}")),
        (("tasks", task.rpartition(".")[0] if study.ladder else task), study.tasks[task]),
        (("words",), study.words),
    ]
    key = error.where.partition("=")[0]
    if study.folds and key in ("data.folds", "data.fold", "data.test"):
        return ConfigError(study.at("folds"), f"{error.where} (task {task}): {error.what}", error.fix)
    for path, words in places:
        for index, word in enumerate(words):
            if word.partition("=")[0].lstrip("+~") in (key, key.removesuffix(".name")):
                return ConfigError(study.at(*path, index), f"{error.where}: {error.what}", error.fix)
    return ConfigError(study.at(kind, arm), f"{error.where} (task {task}): {error.what}", error.fix)


def _check_alike(study: Study, task: str, found: Mapping[tuple[str, str], Composition]) -> None:
    """Checks that the variants of a task are judged by the same metric, and that what shall be equal can be."""
    base = found[task, study.baseline].config
    for arm in study.arms:
        kind, config = "baseline" if arm == study.baseline else "variants", found[task, arm].config
        for what, of in {
            "the task": lambda c: c.task.name,
            "task.monitor": lambda c: c.task.monitor,
            "seed": lambda c: c.seed,
        }.items():
            if of(config) != of(base):
                text = f"{arm}: {what} must be {of(base)} on {task}, as for {study.baseline}; got {of(config)}"
                raise ConfigError(study.at(kind, arm), text, "put it under tasks, or leave it out")
        tokens = [c.trainer.max_steps * c.data.batch_tokens for c in (base, config)]
        if study.equal == "tokens" and tokens[0] != tokens[1]:
            text = f"{arm}: reads {tokens[1]:,} target tokens on {task}, and {study.baseline} reads {tokens[0]:,}"
            raise ConfigError(study.at("equal"), text, "the same trainer.max_steps and data.batch_tokens")
        resized = (D_FF, *(LAYERS if study.resize == "depth" else ()))
        own = [word for word in study.arms[arm] if word.partition("=")[0] in resized]
        if study.equal in RESIZED and own and arm != study.baseline:
            text = f"{arm}: sets {own[0].partition('=')[0]}, which equal: {study.equal} sets"
            raise ConfigError(study.at(kind, arm), text, f"leave out {own[0]}")
