"""What a study does before its first run: it freezes its files, sizes and tunes its variants, and fixes its plan."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from multihead.config.compose import compose
from multihead.config.data import expected_fold_ratio
from multihead.config.many_runs import StudySettings
from multihead.config.merge import Composition
from multihead.config.study import D_FF, LAYERS, RESIZED, Study
from multihead.config.study_check import known_optimum
from multihead.errors import MachineError
from multihead.studying.ledger import StudyLedger, as_sweep
from multihead.studying.outlook import paid, purchase
from multihead.studying.schedule import Plan
from multihead.studying.sizes import (
    Counter,
    Size,
    deepen,
    equalise,
    forecast,
    import_all,
    minutes_text,
    with_d_ff,
    with_layers,
)
from multihead.studying.tuning import FOLDER, Tuned, tune
from multihead.sweeping.frozen import OWN, changed, checksum, freeze_files

Cell = tuple[str, str]
"""A task and the baseline or a variant."""


def open_ledger(
    study: Study, folder: Path, typed: Sequence[str], settings: StudySettings, first: Composition
) -> StudyLedger:
    """Freezes the files of a study, and opens its ledger. If the study exists, checks that its files are the same.

    Raises:
        CheckpointError: If the study was launched with something else.
        MachineError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        freeze_files(as_sweep(study.name, study), folder, first)
    except OSError as error:
        raise MachineError(str(folder), f"cannot be written ({error.strerror})", "choose another dir=") from error
    ledger = StudyLedger(study.name, folder, settings.storage)
    known = ledger.launch.get("file")
    if known is not None and known != study.text:
        raise changed(as_sweep(study.name, study), known, "study")
    ledger.freeze(
        {
            "file": study.text,
            "words": list(typed),
            "conf": checksum(folder / "conf"),
            **({"own_conf": checksum(folder / OWN)} if first.config.config_dir else {}),
            "plugin": first.plugin.sha256 if first.plugin else "",
        }
    )
    ledger.allow(limit_of(study, settings))
    return ledger


def limit_of(study: Study, settings: StudySettings) -> float:
    """Returns the seconds that all runs together may take; 0 means no limit."""
    return settings.limits()[0] or 60 * study.budget


def draft(study: Study, compositions: Mapping[Cell, Composition], settings: StudySettings) -> Plan:
    """Returns the plan of a new study without what is measured: the words of its runs, and the time of its tuning."""
    base = compositions[next(iter(study.tasks)), study.baseline].config.seed + bool(study.tune)
    data = [composition.config.data for composition in compositions.values()]
    ratios = [expected_fold_ratio(study.folds, each.val, each.splits) for each in data] if study.folds else [0.0]
    tasks = {task: compositions[task, study.baseline].config.task for task in study.tasks}
    return Plan(
        baseline=study.baseline,
        arms=tuple(study.arms),
        tasks=tuple(study.tasks),
        metrics={name: judged_by(task.monitor, study.folds) for name, task in tasks.items()},
        better={name: task.monitor_mode for name, task in tasks.items()},
        words={},
        seeds=tuple(study.seeds) or tuple(range(base, base + study.max_seeds)),
        every_seed=not study.seeds,
        alpha=study.alpha,
        budget=limit_of(study, settings),
        smallest=study.smallest_effect,
        contrasts=study.contrasts,
        folds=study.folds,
        ratio=max(ratios),
    )


def judged_by(monitor: str, folds: int) -> str:
    """The metric by which a study judges: the monitored one, or with folds the same on the fold, which is the test."""
    return monitor.replace("val/", "test/", 1) if folds else monitor


@dataclass
class Launch:
    """Builds the plan of a new study.

    Args:
        study: The study.
        folder: Its folder.
        typed: Words for every run, with the frozen copies of plugin and folders.
        settings: The settings of the command.
        console: Where steps are shown.
    """

    study: Study
    folder: Path
    typed: Sequence[str]
    settings: StudySettings
    console: Console

    def plan(self, compositions: Mapping[Cell, Composition], ledger: StudyLedger, drafted: Plan) -> Plan:
        """Sizes and tunes the variants, forecasts the time, and fixes the plan in the ledger.

        Args:
            compositions: The configuration of each task and variant.
            ledger: The ledger.
            drafted: The plan without what is measured.
        """
        study, start = self.study, import_all()
        code = [word for word in self.typed if word.partition("=")[0] in ("plugin", "config_dir")]
        plain = [word for word in self.typed if word not in code]
        words = {cell: [*study.run_words(*cell), *plain] for cell in compositions}  # what follows wins over the typed
        resized, sizes, ratio = self._sizes(compositions)
        for cell, own in resized.items():
            words[cell] += own
        forecasts = self._forecasts(words, code, start, ledger)
        if study.equal == "minutes":
            words, forecasts = self._equal_minutes(words, forecasts)
        self._say_time(forecasts, drafted)
        tuned = self._tuned(words, code)
        for cell, found in tuned.items():
            words[cell] += found.words
        plan = replace(
            drafted,
            words={"/".join(cell): [*listed, *code] for cell, listed in words.items()},
            tuning=sum(found.seconds for found in tuned.values()),
            ratio=ratio,
        )
        facts = {
            "sizes": {"/".join(cell): asdict(size) for cell, size in sizes.items()},
            "resized": {"/".join(cell): own for cell, own in resized.items()},
            "forecast": {"/".join(cell): found["seconds"] for cell, found in forecasts.items()},
            "tuned": {"/".join(cell): asdict(found) for cell, found in tuned.items()},
            "steps": {"/".join(cell): found["steps"] for cell, found in forecasts.items()},
        }
        if study.ladder:
            facts["ladder"] = self._ladder(compositions)
        return ledger.fix(plan, facts)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _sizes(self, compositions: Mapping[Cell, Composition]) -> tuple[dict[Cell, list[str]], dict[Cell, Size], float]:
        """Returns the words of the variants that are resized, the size of all, and the plan's ratio of rows."""
        study, resized, sizes, ratio = self.study, dict[Cell, list[str]](), dict[Cell, Size](), 0.0
        for task in study.tasks:
            self._say(f"{task}: preparing the data and counting the parameters")
            base = compositions[task, study.baseline]
            shared = Counter(base)
            wanted = sizes[task, study.baseline] = shared.count(base)
            for arm in study.variants:
                own = compositions[task, arm]
                alike = all(own.tree.get(node) == base.tree.get(node) for node in ("data", "tokenizer", "task"))
                counter = shared if alike else Counter(own)
                ratio = max(ratio, shared.fold_ratio, counter.fold_ratio) if study.folds else 0.0
                if study.equal not in RESIZED:
                    sizes[task, arm] = counter.count(own)
                    continue
                words, sizes[task, arm] = self._resized(own, wanted, counter, study.at("variants", arm))
                if words:
                    resized[task, arm] = words
                    before = own.config.model
                    was = {
                        D_FF: before.d_ff,
                        LAYERS[0]: before.num_encoder_layers,
                        LAYERS[1]: before.num_decoder_layers,
                    }
                    said = " and ".join(f"{word} instead of {was[word.partition('=')[0]]}" for word in words)
                    self._say(f"{task} {arm}: {said} for equal {study.equal}")
        return resized, sizes, ratio

    def _resized(self, own: Composition, wanted: Size, counter: Counter, where: str) -> tuple[list[str], Size]:
        """Returns the words that give a variant the size of the baseline, and its size then."""
        study, changed, words = self.study, own, list[str]()
        if study.resize == "depth":
            model = own.config.model
            shallowest = 1 - max(model.num_encoder_layers, model.num_decoder_layers)
            change = deepen(study.equal, wanted, lambda k: counter.count(with_layers(own, k)), shallowest)
            changed = with_layers(own, change)
            layers = (changed.config.model.num_encoder_layers, changed.config.model.num_decoder_layers)
            words = [f"{key}={number}" for key, number in zip(LAYERS, layers, strict=True)] if change else []
        before = changed.config.model.d_ff
        count = lambda width: counter.count(with_d_ff(changed, width))  # noqa: E731
        found, size = equalise(study.equal, wanted, before, count, where)
        return [*words, *([f"{D_FF}={found}"] if found != before else [])], size

    def _ladder(self, compositions: Mapping[Cell, Composition]) -> dict[str, Any]:
        """What the fit of a ladder needs beside the results: its sizes, its measure of compute, and each optimum."""
        from multihead.data.grammar import reference

        optimum = dict(self.study.optimum)
        for (task, _), composition in compositions.items():
            name = task.rpartition(".")[0]
            if name not in optimum:
                bits = known_optimum(composition) == "bits_per_byte"
                found = reference(composition.config.data.grammar, "val", "text") if bits else {}
                optimum[name] = found.get("bits_per_byte_learnable", 0.0)
        return {"sizes": list(self.study.ladder), "compute": self.study.compute, "optimum": optimum}

    def _forecasts(
        self, words: Mapping[Cell, Sequence[str]], code: Sequence[str], start: float, ledger: StudyLedger
    ) -> dict[Cell, dict[str, Any]]:
        """Forecasts a run of each. What an earlier start has measured is taken from the ledger, task by task.

        The times of a task are measured together, because ``equal: minutes`` compares them.

        Args:
            words: The words of each run.
            code: Words that name code.
            start: Seconds of the imports, which each run takes too.
            ledger: Keeps what is measured.
        """
        found, began, measured = dict[Cell, dict[str, Any]](), time.monotonic(), 0
        known = ledger.measured
        left = sum(task not in known for task, _ in words)
        if left:
            self._say(f"measuring {left} configuration{'s' * (left > 1)}, a few steps of each")
        for task in self.study.tasks:
            if task in known:
                found |= {(task, arm): row for arm, row in known[task].items()}
                continue
            for arm in self.study.arms:
                own = forecast(compose([*words[task, arm], *code]))
                row = {name: own[name] for name in ("seconds", "seconds/training", "steps")}
                found[task, arm] = row | {"seconds": own["seconds"] + start}
                measured += 1
                text = f"{task} {arm}: {minutes_text(found[task, arm]['seconds'])} a run"
                if left > measured:
                    rest = (time.monotonic() - began) / measured * (left - measured)
                    text += f"; {left - measured} more to measure, in about {minutes_text(rest)}"
                self._say(text)
            ledger.measure(task, {arm: found[task, arm] for arm in self.study.arms})
        return found

    def _equal_minutes(
        self, words: Mapping[Cell, list[str]], forecasts: Mapping[Cell, dict[str, Any]]
    ) -> tuple[dict[Cell, list[str]], dict[Cell, dict[str, Any]]]:
        """Gives each variant as many steps as the baseline's training time allows, by the measured time of a step."""
        found, times = dict(words), dict(forecasts)
        for task in self.study.tasks:
            base = forecasts[task, self.study.baseline]
            for arm in self.study.variants:
                own = forecasts[task, arm]
                step = own["seconds/training"] / own["steps"]
                steps = max(1, round(base["seconds/training"] / step))
                found[task, arm] = [*words[task, arm], f"trainer.max_steps={steps}"]
                seconds = own["seconds"] + (steps - own["steps"]) * step
                times[task, arm] = own | {"seconds": seconds, "steps": steps}
                usual = base["seconds/training"] / base["steps"]
                self._say(
                    f"{task} {arm}: trainer.max_steps={steps} instead of {own['steps']} for equal minutes, because a "
                    f"step takes {step * 1000:.1f} ms and one of the baseline {usual * 1000:.1f} ms"
                )
        return found, times

    def _say_time(self, forecasts: Mapping[Cell, dict[str, Any]], drafted: Plan) -> None:
        study = self.study
        seed = sum(found["seconds"] for found in forecasts.values())
        trials = study.tune.trials if study.tune else 0
        most = study.max_seeds * seed
        text = f"forecast: {minutes_text(seed)} of runs for one seed of all, at most {minutes_text(most)} for "
        text += f"{study.max_seeds} seeds"
        if trials:
            text += f", after {minutes_text(seed * trials)} for {trials} trial{'s' * (trials > 1)} of each"
        enough = paid(drafted, seed, seed * trials) == study.max_seeds
        if drafted.budget:
            text += f"; the budget of {minutes_text(drafted.budget)} {'pays all' if enough else 'does not pay all'}"
        self._say(text)
        if not enough:
            self._say(purchase(drafted, study.power, seed, seed * trials))

    def _tuned(self, words: Mapping[Cell, list[str]], code: Sequence[str]) -> dict[Cell, Tuned]:
        if not self.study.tune:
            return {}
        found, settings = {}, replace(self.settings, budget="")
        other = [f"seed={max(self.study.seeds) + 1}"] if self.study.seeds else []  # no run of the study has it
        for cell, listed in words.items():
            folder = self.folder / FOLDER / cell[0] / cell[1]
            self._say(f"tuning {cell[1]} on {cell[0]}: {self.study.tune.trials} trials")
            found[cell] = tune(self.study, folder, [*listed, *other], code, settings, self.console)
            self._say(f"tuned {cell[1]} on {cell[0]}: {' '.join(found[cell].words)}")
        return found
