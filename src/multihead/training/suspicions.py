"""Writes notes about a finished run whose numbers may be misleading.

A run can end with status 0 and a plausible table although the score or the model is wrong. Each note is a sentence with
its figures. It is a hint, not an error. The functions are pure: they turn facts into sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multihead.metrics.selection import never_moved

if TYPE_CHECKING:
    from multihead.config.training import Config
    from multihead.tasks.base import Task
    from multihead.training.validation import Validation

LEAST_SHARE = 0.01
"""If at least this share of the outputs was cut, or of the tokens is unknown, a note says so."""
FEW_EXAMPLES = 100
"""If a split has fewer examples, a note gives the confidence interval of the score."""
SAME_SHARE = 0.5
"""If at least this share of the outputs is the same text, a note says so."""
STILL_RISING = 0.2
"""If the last validation gained more than this share of the metric's whole range in the run, a note says so."""
FULL = {"bleu": 100.0, "chrf": 100.0, "rouge1": 100.0, "accuracy": 1.0}
"""Metric to its best value. If a score is 0 or this value, a note says so."""
BESIDE_BLEU = ("chrf", "exact_match")
"""Metrics that a note adds if BLEU is 0."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the best checkpoint was chosen."""

    monitor: str
    """The metric that chose it, which is ``task.monitor``."""
    mode: str
    """Whether a smaller or a larger value is better: min or max."""
    validations: Sequence[tuple[int, float]]
    """The step of each validation and the value of the metric there."""
    best_step: int
    """The step of the best checkpoint."""
    whole: bool = True
    """Whether the run reached trainer.max_steps."""
    unsampled_average: str = ""
    """The setting of an average of weights that took no sample, and why; empty if there is no such average."""

    @classmethod
    def of(cls, config: Config, validation: Validation, last_step: int) -> Training:
        """Collects the facts of a run that ended after ``last_step``."""
        trainer = config.trainer
        every = trainer.average_every_n_steps
        first = -(-(trainer.max_steps - trainer.average_last_steps + 1) // every) * every
        empty = trainer.average_last_steps and last_step < first
        setting = f"trainer.average_last_steps={trainer.average_last_steps}"
        return cls(
            monitor=config.task.monitor,
            mode=config.task.monitor_mode,
            validations=validation.monitored,
            best_step=validation.best["step"],
            whole=last_step >= trainer.max_steps,
            unsampled_average=f"{setting}: the run ended at step {last_step}, the average begins at step {first}"
            if empty
            else "",
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores and outputs of one task on one split."""

    metrics: Mapping[str, float]
    """The metrics by their plain names, such as bleu or accuracy."""
    split: str = "test"
    """The name of the split: test or val."""
    outputs: Sequence[str] = ()
    """The texts or the classes that the model gave for all examples."""
    references: Sequence[str] = ()
    """The correct texts or classes, in the same order."""
    unknown: Mapping[str, float] = field(default_factory=dict)
    """Role to the share of its tokens that are unknown."""
    interval: tuple[str, float, float] | None = None
    """A metric with the ends of its 95 % confidence interval, if there are few examples."""
    solvable: bool = False
    """Whether a perfect score is possible, as it is on data=grammar."""
    classes: bool = False
    """Whether the outputs are classes."""
    numbers: bool = False
    """Whether the outputs are numbers."""


def of_training(run: Training) -> list[str]:
    """Returns notes on the choice of the checkpoint and on the average of the weights."""
    notes, values = [], [value for _, value in run.validations]
    if never_moved(values):
        notes.append(
            f"{run.monitor} was {values[0]:g} at all {len(values)} validations, so the loss chose the checkpoint: "
            "another task.monitor may suit these data better"
        )
    elif len(values) >= 3:
        notes += _first_or_last(run, values)
    if run.unsampled_average:
        notes.append(f"no weights were averaged by {run.unsampled_average}")
    return notes


def _first_or_last(run: Training, values: Sequence[float]) -> list[str]:
    first, last = run.validations[0][0], run.validations[-1][0]
    if run.best_step == first:
        return [
            f"the first of {len(values)} validations (step {first}) was the best by {run.monitor}: training made the "
            "model worse after it; a lower optim.lr or a smaller model may help"
        ]
    gain, spread = abs(values[-1] - values[-2]), max(values) - min(values)
    if run.best_step == last and run.whole and gain > STILL_RISING * spread:
        return [
            f"the last validation (step {last}) was the best, and {run.monitor} still gained {gain:.3g} since the "
            "validation before it: a larger trainer.max_steps may help"
        ]
    return []


def of_evaluation(found: Evaluation) -> list[str]:
    """Returns notes on the outputs and the metrics of one task."""
    notes, share = [], found.metrics.get("cut_outputs", 0.0)
    if share >= LEAST_SHARE:
        notes.append(
            f"{share:.1%} of the outputs were cut at the length limit: the model does not stop in time, or "
            "decoding.max_new_tokens is too small"
        )
    for role, unknown in found.unknown.items():
        if unknown >= LEAST_SHARE:
            notes.append(
                f"{unknown:.1%} of the tokens in {role} are unknown to the vocabulary: a larger tokenizer.vocab_size, "
                "or tokenizer.kind=bpe, may help"
            )
    notes += _extremes(found)
    notes += _lower_case(found)
    notes += _repeated(found)
    if found.interval is not None:
        name, low, high = found.interval
        value = found.metrics[name]
        notes.append(
            f"the {found.split} split has {len(found.outputs)} examples, so {found.split}/{name} {value:.3g} is "
            f"uncertain: its 95 % confidence interval is {low:.3g} to {high:.3g}"
        )
    return notes


def _extremes(found: Evaluation) -> list[str]:
    values = {name: found.metrics[name] for name in FULL if found.outputs and name in found.metrics}
    notes = []
    if values.get("bleu") == 0:
        others = ", ".join(f"{name} {found.metrics[name]:.3g}" for name in BESIDE_BLEU if name in found.metrics)
        why = "no output has four words in a row right, and texts of fewer than four words cannot have"
        notes.append(f"{found.split}/bleu is 0: {why}; {others}")
    none = [f"{found.split}/{name}" for name, value in values.items() if value == 0 and name != "bleu"]
    if none:
        notes.append(f"{' and '.join(none)}: exactly 0; nothing in the outputs is right")
    perfect = [f"{found.split}/{name}" for name, value in values.items() if value >= FULL[name] * (1 - 1e-9)]
    if perfect and not found.solvable:
        notes.append(
            f"{' and '.join(perfect)}: perfect; make sure that the training data do not contain these examples"
        )
    return notes


def _lower_case(found: Evaluation) -> list[str]:
    bleu, lower = (found.metrics.get(name, 0.0) for name in ("bleu", "bleu_lowercase"))
    if bleu >= lower or not found.outputs or any(output != output.lower() for output in found.outputs):
        return []
    return [
        f"all outputs are in lower case, and the references are not: {found.split}/bleu_lowercase {lower:.4g} is the "
        f"score to read; {found.split}/bleu {bleu:.4g} counts each capital letter as an error"
    ]


def _repeated(found: Evaluation) -> list[str]:
    if len(found.outputs) < 10:
        return []
    (output, count), outputs = Counter(found.outputs).most_common(1)[0], len(found.outputs)
    rightly = sum(reference == output for reference in found.references)
    if found.numbers:
        same = f"every prediction is {output}, as if the model did not read the text: a larger optim.lr may help"
        return [same] if count == outputs else []
    if found.classes:
        if count < outputs or rightly == len(found.references):
            return []
        return [f"every example was classified as {output!r}, which is right for {rightly / outputs:.1%} of them"]
    if count < SAME_SHARE * outputs or rightly >= count:
        return []
    shown = output if len(output) <= 40 else output[:39] + "…"
    return [f"{count / outputs:.1%} of the outputs are the same text, {shown!r}: the model hardly uses the source"]


# ---- from a run to facts


def notes_on(task: Task, metrics: Mapping[str, Any], split: str = "test") -> list[str]:
    """Returns notes on an evaluation that has just ended, for each task of the run.

    Args:
        task: The task of the run, with the samples of all examples.
        metrics: The metrics by their logged names.
        split: The split of the evaluation, with which these names begin.
    """
    notes, members = [], task.members()
    for name, member in members.items():
        prefix = f"{split}/{name}/" if len(members) > 1 else f"{split}/"
        own = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
        samples = [sample for sample in task.samples if sample.get("task", name) == name]
        found = of_evaluation(_evaluation(member, own, samples, split))
        notes += [f"{name}: {note}" for note in found] if len(members) > 1 else found
    return notes


def _evaluation(task: Task, metrics: Mapping[str, float], samples: Sequence[dict[str, Any]], split: str) -> Evaluation:
    given, truth = ("predicted", "label") if samples and "predicted" in samples[0] else ("output", "reference")
    samples = [sample for sample in samples if given in sample and truth in sample]
    outputs, references = ([_text(sample[name]) for sample in samples] for name in (given, truth))
    return Evaluation(
        metrics=metrics,
        split=split,
        outputs=outputs,
        references=references,
        unknown=task.evaluation.unknown.get("test", {}),
        interval=_interval(task, metrics, samples) if 0 < len(samples) < FEW_EXAMPLES else None,
        solvable=task.config.data.format == "grammar",
        classes=given == "predicted",
        numbers=bool(samples) and isinstance(samples[0][truth], float),
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _interval(
    task: Task, metrics: Mapping[str, float], samples: Sequence[dict[str, Any]]
) -> tuple[str, float, float] | None:
    """Returns the monitored metric and its 95 % confidence interval.

    For a share the interval is exact (Clopper and Pearson 1934); for other metrics it comes from the bootstrap.
    """
    from multihead.comparing.per_example import statistics_of
    from multihead.comparing.significance import proportion_interval, score_interval
    from multihead.metrics.text import CorpusBLEU
    from multihead.tasks.translation import TranslationTask

    name = task.settings.monitor.rpartition("/")[2]
    if name not in metrics:
        return None
    if name in ("accuracy", "exact_match"):
        return name, *proportion_interval(round(metrics[name] * len(samples)), len(samples))
    bleu = task.scores.get("bleu") if isinstance(task, TranslationTask) else None
    found = statistics_of(name, [samples], bleu.tokenize if isinstance(bleu, CorpusBLEU) else "13a")
    if found is None:
        return None
    low, high = score_interval(found.runs[0], found.score)
    return (name, low, high) if high > low else None
