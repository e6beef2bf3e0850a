"""A finished run that is loaded for use in Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from multihead import capabilities
from multihead.config.compose import compose_from_run, load_yaml
from multihead.config.effects import without_effect
from multihead.config.training import Config
from multihead.errors import CheckpointError, ConfigError
from multihead.runs.directory import load_vocab, run_directory

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from torch import Tensor

    from multihead.tasks.attention import AttentionMaps
    from multihead.tasks.base import Model, Task

T = TypeVar("T")

log = logging.getLogger("multihead")

VERBS = {
    "translation": {"translate": 1, "score": 2},
    "summarization": {"summarize": 1, "score": 2},
    "lm": {"generate": 1, "score": 1},
    "classification": {"classify": 1},
    "regression": {"regress": 1},
}
"""The methods of `Run` that each task answers, with the number of text lists that a method takes."""


class _Scores(Protocol):
    """A task that scores texts: sources and targets, or texts alone (`VERBS`)."""

    def score(self, *texts: list[str]) -> list[float]: ...


@dataclass(repr=False)
class Run:
    """A loaded run. ``model`` is a plain ``nn.Module``; which other methods work depends on the task.

    Attributes:
        path: The run directory.
        config: The run's configuration, with the overrides of `load`.
        task: The task's module.
    """

    path: Path
    config: Config
    task: Task

    @property
    def model(self) -> Model:
        """The backbone and the head."""
        return self.task.model

    @property
    def metrics(self) -> pandas.DataFrame:
        """The rows of metrics.csv by step, as a pandas frame; a row has NaN for a metric that it does not hold.

        ``run.metrics["val/loss"].dropna()`` is the validation loss by step.

        Raises:
            ConfigError: If pandas is not installed.
            CheckpointError: If the run directory has no metrics.csv.
        """
        from multihead.runs.learning_curves import frame

        return frame(self.path)

    def plot(self, *names: str) -> list[Axes]:
        """Draws learning curves with matplotlib, and returns an axes for each name.

        Args:
            *names: Columns of metrics.csv, such as ``val/bleu``, or names without a split, such as ``loss``. By
                default the loss, and the metric that chose the best checkpoint.

        Raises:
            ConfigError: If matplotlib is not installed, or if there is no such column.
            CheckpointError: If the run directory has no metrics.csv.
        """
        from multihead.runs.learning_curves import plot

        monitor = self.config.task.monitor
        return plot(self.path, names or ("loss", *([] if monitor == "val/loss" else [monitor])))

    def __repr__(self) -> str:
        from multihead.runs.notebook import in_line

        return in_line(self.path, self._facts(), self.config.task.monitor.replace("val/", "test/", 1))

    def _repr_html_(self) -> str:
        """Returns what a notebook shows, by the name under which it looks for it."""
        from multihead.runs.notebook import as_html

        return as_html(self.path, self._facts(), self._methods())

    def _facts(self) -> dict[str, str]:
        from multihead.runs.notebook import describe

        return describe(self.path, self.config, sum(p.numel() for p in self.model.parameters()))

    def predict(self, texts: str | Sequence[str], part: str = "", **decoding: Any) -> list[list[dict[str, Any]]]:
        """Returns a list of outputs for each text, the best output first.

        A blank text (spaces, tabs, zero-width characters) gets an empty translation or summary, and no class or
        number. A language model begins a document if the prompt is empty. A text that is too long for the model is
        cut, and a warning says how many texts were cut.

        Args:
            texts: The inputs. A single text is one input.
            part: The name of the task, if the run has several.
            **decoding: Values for fields of `DecodingConfig`, such as ``num_beams=5``.

        Raises:
            ConfigError: If an input is not a text, or if there is no such task or option.
        """
        task, texts = self.task.member(part), _listed("predict", texts)
        if cut := sum(task.too_long(texts)):
            log.warning("%d of %d texts were cut, because they are longer than the model reads", cut, len(texts))
        changed = replace(self.config.decoding, **decoding)
        if decoding:
            say_without_effect(replace(self.config, decoding=changed))
        return task.predict(texts, changed)

    @overload
    def translate(self, texts: str, **decoding: Any) -> str: ...
    @overload
    def translate(self, texts: Sequence[str], **decoding: Any) -> list[str]: ...
    def translate(self, texts: str | Sequence[str], **decoding: Any) -> str | list[str]:
        """Returns the best translation of a text, or a list with that of each text of a list.

        ``run.translate("A man rides a bike.")`` returns a text. ``run.translate(["A man rides a bike."], num_beams=5)``
        returns a list with one text.
        """
        return self._best("translate", texts, decoding)

    @overload
    def summarize(self, texts: str, **decoding: Any) -> str: ...
    @overload
    def summarize(self, texts: Sequence[str], **decoding: Any) -> list[str]: ...
    def summarize(self, texts: str | Sequence[str], **decoding: Any) -> str | list[str]:
        """Returns the best summary of a text, or a list with that of each text of a list."""
        return self._best("summarize", texts, decoding)

    @overload
    def generate(self, prompts: str, **decoding: Any) -> str: ...
    @overload
    def generate(self, prompts: Sequence[str], **decoding: Any) -> list[str]: ...
    def generate(self, prompts: str | Sequence[str], **decoding: Any) -> str | list[str]:
        """Continues a prompt, or each prompt of a list: ``run.generate(["Once"], do_sample=True, seed=1)``."""
        return self._best("generate", prompts, decoding)

    @overload
    def classify(self, texts: str) -> dict[str, Any]: ...
    @overload
    def classify(self, texts: Sequence[str]) -> list[dict[str, Any]]: ...
    def classify(self, texts: str | Sequence[str]) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the label and probability of a text, or of each text of a list. Both are None for a blank text."""
        found = self.predict(_listed("classify", texts), self._part("classify"))
        best = [outputs[0] if outputs else {"label": None, "probability": None} for outputs in found]
        return best[0] if isinstance(texts, str) else best

    @overload
    def regress(self, texts: str) -> float | None: ...
    @overload
    def regress(self, texts: Sequence[str]) -> list[float | None]: ...
    def regress(self, texts: str | Sequence[str]) -> float | list[float | None] | None:
        """Returns the number of a text, or of each text of a list. It is None for a blank text."""
        found = self.predict(_listed("regress", texts), self._part("regress"))
        numbers = [outputs[0]["number"] if outputs else None for outputs in found]
        return numbers[0] if isinstance(texts, str) else numbers

    @overload
    def score(self, *texts: str) -> float: ...
    @overload
    def score(self, *texts: Sequence[str]) -> list[float]: ...
    def score(self, *texts: str | Sequence[str]) -> float | list[float]:
        """Returns the log probability in nats of a text, or of each text of a list.

        ``score(sources, targets)`` scores targets given their sources (translation, summarization). ``score(texts)``
        scores texts alone (lm).

        Raises:
            ConfigError: If the task takes other arguments, or if there are not as many targets as sources.
        """
        listed = [_listed("score", each) for each in texts]
        task = cast(_Scores, self.task.member(self._part("score", len(texts))))
        if len({len(each) for each in listed}) > 1 or len({isinstance(each, str) for each in texts}) > 1:
            what = f"{len(listed[0])} sources and {len(listed[1])} targets"
            raise ConfigError("run.score", what, "give one target for each source, both as lists or both as texts")
        found = task.score(*listed)
        return found[0] if isinstance(texts[0], str) else found

    def embed(self, texts: str | Sequence[str], part: str = "") -> Tensor:
        """Returns one vector [D] for a text, or a matrix [N, D] for a list: the hidden states of its tokens, pooled.

        A classifier pools as its head does (``task.pooling``). A language model takes the mean of all tokens, a
        translator the mean of the source's tokens. The vectors are float32 and on the CPU.

        Args:
            texts: Inputs, as `predict` takes them.
            part: The name of the task, if the run has several.

        Raises:
            ConfigError: If an input is not a text, or if a plugin's task has no embeddings.
        """
        found = self._ask("embed", part, lambda task: task.embed(_listed("embed", texts)).clone())
        return found[0] if isinstance(texts, str) else found

    def attention(self, text: str, target: str = "", part: str = "") -> dict[str, AttentionMaps]:
        """Returns where each head looks in one forward pass: ``encoder_self``, ``decoder_self`` and ``decoder_cross``.

        ``run.attention("A dog runs.")["encoder_self"].weights`` has the shape [layers, heads, queries, keys].
        ``rows`` and ``columns`` are the tokens of queries and keys.

        Args:
            text: One input, as `predict` takes it.
            target: Of a translator or summarizer, the output that is read; by default its own output.
            part: The name of the task, if the run has several.

        Raises:
            ConfigError: If the input is not a text, or if a plugin has replaced the attention or the task.
        """
        from multihead.tasks.attention import attention

        if not isinstance(text, str):
            raise ConfigError("run.attention", f"takes one text, got a {type(text).__name__}", 'run.attention("...")')
        found = self._ask("attention", part, lambda task: attention(task, text, target))
        if not found:
            raise ConfigError("run.attention", "a plugin has replaced the attention of this run", "run.predict(texts)")
        return found

    def _ask(self, verb: str, part: str, answer: Callable[[Task], T]) -> T:
        try:
            return answer(self.task.member(part))
        except NotImplementedError:
            what = f"the plugin's task {self.task.settings.name} does not have it"
            raise ConfigError(f"run.{verb}", what, "run.predict(texts)") from None

    def _best(self, verb: str, texts: str | Sequence[str], decoding: Mapping[str, Any]) -> str | list[str]:
        found = self.predict(_listed(verb, texts), self._part(verb), **decoding)
        best = [outputs[0]["text"] for outputs in found]
        return best[0] if isinstance(texts, str) else best

    def _part(self, verb: str, arguments: int = 1) -> str:
        """Returns the name of the task that answers a method. A plugin's single task answers all of them.

        Raises:
            ConfigError: If no task of this run answers it.
        """
        tasks = list(self.task.members())
        fits = [name for name, verbs in VERBS.items() if verbs.get(verb) == arguments]
        found = [name for name in tasks if name in fits or (len(tasks) == 1 and name not in VERBS)]
        if found:
            return found[0]
        methods = self._methods()
        has = f"this run is task={self.task.settings.name}, which has {', '.join(methods)}"
        raise ConfigError(f"run.{verb}", has, f"run.{methods[1] if len(methods) > 3 else methods[0]}")

    def _methods(self) -> list[str]:
        """Returns the methods that take texts, with their arguments."""
        calls = [
            f"{verb}({'texts' if number == 1 else 'sources, targets'})"
            for name in self.task.members()
            for verb, number in VERBS.get(name, {}).items()
        ]
        return ["predict(texts)", *calls, "embed(texts)", "attention(text)"]


def _listed(verb: str, texts: str | Sequence[str]) -> list[str]:
    """Returns the inputs of a method as a list of texts.

    Raises:
        ConfigError: If an input is not a text, such as the NaN of an empty cell.
    """
    listed = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            what = f"input {number} is a {type(text).__name__} ({text!r:.40}), not a text"
            raise ConfigError(f"run.{verb}", what, "give a text, or a list of texts")
    return listed


def say_without_effect(config: Config) -> None:
    """Warns of each decoding option that was set and has no effect."""
    for text in without_effect(config):
        log.warning("%s", text)


def load(run: str | os.PathLike[str], *words: str, ensemble: Sequence[str | os.PathLike[str]] = ()) -> Run:
    """Loads a finished run for prediction.

    Args:
        run: The run's directory.
        words: Overrides as on the command line, such as ``decoding.num_beams=5`` or ``plugin=variant.py``.
        ensemble: More runs of translation or summarization with the same vocabulary. Their probabilities and those of
            ``run`` are averaged at each token. ``embed``, ``attention`` and ``model`` are of ``run`` alone.

    Raises:
        ConfigError: If there is no such run, or if the runs cannot answer together.
        CheckpointError: If its model is missing or damaged, or if it needs a plugin that ``words`` do not name.
    """
    from multihead.model.kernels import keep_freed_memory
    from multihead.tasks import build_task

    keep_freed_memory()
    capabilities.limit_threads()
    path = run_directory(str(run))
    composition = compose_from_run(load_yaml(path / "config.yaml"), words, run=str(run))
    say_without_effect(composition.config)
    task = build_task(composition.config, load_vocab(path), composition.plugin)
    load_weights(task, path / "model" / "model.safetensors")
    load_calibration(task, path)
    join_ensemble(task, ensemble, words)
    task.eval()
    return Run(path, composition.config, task)


def join_ensemble(task: Task, runs: Sequence[str | os.PathLike[str]], words: Sequence[str]) -> None:
    """Lets a task answer together with the models of other runs.

    Args:
        task: The task.
        runs: The directories of the others, none if it answers alone.
        words: The command line, whose plugin the others may need too.

    Raises:
        ConfigError: If the runs cannot answer together.
    """
    if runs:
        plugin = [word for word in words if word.startswith("plugin=")]
        task.join([load(run_directory(str(run), "ensemble"), *plugin).task for run in runs])


def load_weights(task: Task, path: Path, fix: str = "copy the run again") -> None:
    """Loads ``model.safetensors`` into a task's model.

    Args:
        task: The task that owns the model.
        path: The file.
        fix: What the message proposes if the file cannot be loaded.

    Raises:
        CheckpointError: If the file is damaged or does not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(task.model, str(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(str(path), f"cannot be loaded ({reason})", fix) from error


def load_calibration(task: Task, run_dir: Path) -> None:
    """Loads the temperature and thresholds that ``evaluate`` saved in a run directory, if the run has a classifier."""
    from multihead.metrics.calibration import FILE
    from multihead.tasks.classification import ClassificationTask

    if isinstance(classifier := task.members().get("classification"), ClassificationTask):
        classifier.load_calibration(run_dir / "model" / FILE)
