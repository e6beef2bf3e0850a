"""Why the numbers of a finished run may not mean what they seem to: a list of notes, each a sentence with its figures.

A run can end with status 0 and a plausible table while the score or the model is wrong. Each note is a hint and not an
error. The functions are pure: from facts to sentences.
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
"""Share of outputs that were cut, or of unknown tokens, from which it is said."""
FEW_EXAMPLES = 100
"""Examples of a split below which the interval is said that they allow."""
SAME_SHARE = 0.5
"""Share of the outputs that are one and the same text, from which it is said."""
STILL_RISING = 0.2
"""Share of all that a run gained between its validations, from which a gain in the last one is said."""
FULL = {"bleu": 100.0, "chrf": 100.0, "rouge1": 100.0, "accuracy": 1.0}
"""Metrics whose 0, or whose best value, is said."""
BESIDE_BLEU = ("chrf", "exact_match")
"""Metrics that say more where BLEU is 0."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the best checkpoint was chosen."""

    monitor: str
    """``task.monitor``."""
    mode: str
    """min or max."""
    validations: Sequence[tuple[int, float]]
    """Step of each validation, and the metric's value."""
    best_step: int
    """Step of the checkpoint that won."""
    whole: bool = True
    """Whether the run took all of trainer.max_steps."""
    unsampled_average: str = ""
    """The setting of an average that has no sample; empty if there is none."""

    @classmethod
    def of(cls, config: Config, validation: Validation, last_step: int) -> Training:
        """The facts of a run that ended after ``last_step``."""
        trainer = config.trainer
        first = trainer.max_steps - trainer.average_last_steps + 1
        samples = last_step // trainer.average_every_n_steps - (first - 1) // trainer.average_every_n_steps
        empty = trainer.average_last_steps and samples <= 0
        return cls(
            monitor=config.task.monitor,
            mode=config.task.monitor_mode,
            validations=validation.monitored,
            best_step=validation.best["step"],
            whole=last_step >= trainer.max_steps,
            unsampled_average=f"trainer.average_last_steps={trainer.average_last_steps}" if empty else "",
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a task of the run came to on a split."""

    metrics: Mapping[str, float]
    """By plain name: bleu, accuracy."""
    split: str = "test"
    """test or val."""
    outputs: Sequence[str] = ()
    """Texts, or classes, of all examples."""
    references: Sequence[str] = ()
    """What they should be."""
    unknown: Mapping[str, float] = field(default_factory=dict)
    """Role to the share of its tokens that are unknown."""
    interval: tuple[str, float, float] | None = None
    """A metric, and between what it lies with a probability of 95 %, where examples are few."""
    solvable: bool = False
    """Whether a perfect score is nothing unusual, as on data=grammar."""
    classes: bool = False
    """Whether outputs are classes."""


def of_training(run: Training) -> list[str]:
    """Notes on the choice of the checkpoint and on the average."""
    notes, values = [], [value for _, value in run.validations]
    if never_moved(values):
        notes.append(
            f"{run.monitor} was {values[0]:g} at all {len(values)} validations, so the loss chose the checkpoint: "
            "another task.monitor may fit these data better"
        )
    elif len(values) >= 3:
        notes += _first_or_last(run, values)
    if run.unsampled_average:
        notes.append(
            f"{run.unsampled_average} averaged nothing, since none of those steps is a multiple of "
            "trainer.average_every_n_steps: lower it"
        )
    return notes


def _first_or_last(run: Training, values: Sequence[float]) -> list[str]:
    first, last = run.validations[0][0], run.validations[-1][0]
    if run.best_step == first:
        return [
            f"the first of {len(values)} validations (step {first}) was the best by {run.monitor}: training made the "
            "model worse from there on; a lower optim.lr or a smaller model may help"
        ]
    gain, spread = abs(values[-1] - values[-2]), max(values) - min(values)
    if run.best_step == last and run.whole and gain > STILL_RISING * spread:
        return [
            f"the last validation (step {last}) was the best, and {run.monitor} still gained {gain:.3g} since the one "
            "before: a larger trainer.max_steps may help"
        ]
    return []


def of_evaluation(found: Evaluation) -> list[str]:
    """Notes on the outputs and the metrics of one task."""
    notes, share = [], found.metrics.get("cut_outputs", 0.0)
    if share >= LEAST_SHARE:
        notes.append(
            f"{share:.1%} of the outputs were cut at the limit on their length: the model does not stop in time, or "
            "decoding.max_new_tokens is too small"
        )
    for role, unknown in found.unknown.items():
        if unknown >= LEAST_SHARE:
            notes.append(
                f"{unknown:.1%} of the tokens in {role} are unknown to the vocabulary: a larger tokenizer.vocab_size, "
                "or tokenizer.kind=bpe, may help"
            )
    notes += _extremes(found)
    notes += _repeated(found)
    if found.interval is not None:
        name, low, high = found.interval
        value = found.metrics[name]
        notes.append(
            f"the {found.split} split has {len(found.outputs)} examples, so {found.split}/{name} {value:.3g} may as "
            f"well be anything from {low:.3g} to {high:.3g} (95 %)"
        )
    return notes


def _extremes(found: Evaluation) -> list[str]:
    values = {name: found.metrics[name] for name in FULL if found.outputs and name in found.metrics}
    notes = []
    if values.get("bleu") == 0:
        others = ", ".join(f"{name} {found.metrics[name]:.3g}" for name in BESIDE_BLEU if name in found.metrics)
        why = "no four words in a row are right, which texts of fewer words never reach"
        notes.append(f"{found.split}/bleu is 0: {why}; {others}")
    none = [f"{found.split}/{name}" for name, value in values.items() if value == 0 and name != "bleu"]
    if none:
        notes.append(f"{' and '.join(none)}: exactly 0, nothing in the outputs is right")
    perfect = [f"{found.split}/{name}" for name, value in values.items() if value >= FULL[name] * (1 - 1e-9)]
    if perfect and not found.solvable:
        notes.append(f"{' and '.join(perfect)}: perfect; make sure that no such example stands in the training data")
    return notes


def _repeated(found: Evaluation) -> list[str]:
    if len(found.outputs) < 10:
        return []
    (output, count), outputs = Counter(found.outputs).most_common(1)[0], len(found.outputs)
    rightly = sum(reference == output for reference in found.references)
    if found.classes:
        if count < outputs or rightly == len(found.references):
            return []
        return [f"every example was classified as {output!r}, which {rightly / outputs:.1%} of them are"]
    if count < SAME_SHARE * outputs or rightly >= count:
        return []
    shown = output if len(output) <= 40 else output[:39] + "…"
    return [f"{count / outputs:.1%} of the outputs are the same text, {shown!r}: the model hardly looks at the source"]


# ---- from a run to facts


def notes_on(task: Task, metrics: Mapping[str, Any], split: str = "test") -> list[str]:
    """Notes on an evaluation that has just ended, of each task of the run.

    Args:
        task: The whole task, with the samples of all examples.
        metrics: Under their logged names.
        split: What they stand under.
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
    )


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _interval(
    task: Task, metrics: Mapping[str, float], samples: Sequence[dict[str, Any]]
) -> tuple[str, float, float] | None:
    """The monitored metric and its interval: exact of a share (Clopper and Pearson 1934), else of the bootstrap."""
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
