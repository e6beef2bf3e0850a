"""Whether an exported model computes what the run's own model computes: logits under teacher forcing, and outputs.

Shapes: T target tokens, S source tokens, V vocabulary, C classes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from multihead import __version__
from multihead.config.task import ClassificationConfig, RegressionConfig
from multihead.config.training import DecodingConfig
from multihead.data.tokenizer import SUBWORD
from multihead.errors import CheckpointError
from multihead.model.beam_search import generate
from multihead.model.heads import CopyHead
from multihead.tasks.base import Task
from multihead.tasks.classification import ClassificationTask
from multihead.tasks.language_modeling import NEW_TOKENS, LanguageModelingTask
from multihead.tasks.pooled import PooledTask
from multihead.tasks.translation import TranslationTask

TOLERANCE = 1e-3
"""Largest difference that is accepted in float32, relative to the largest magnitude of the numbers compared."""
EQUAL_SHARE = 0.99
"""Smallest share of equal outputs that is accepted in float32."""
LINES = "A first line.\nIts second\n\n  the last 12\n"
"""The text by which tokenizers are compared."""
BATCH = 32
"""Inputs whose outputs are searched for together."""


@dataclass
class Example:
    """An input of the run as ids, without marks except those of a prompt."""

    source: list[int]
    """The source of a translation, the prompt of a language model, or the whole row of a text that is not continued."""
    target: list[int]
    """The tokens that follow; empty for classes, numbers and masked tokens."""
    types: list[int] | None = None
    """Which of two texts each token of a row belongs to, if the model is shown it."""


class Allowed(nn.Module):
    """A head that distributes all probability among the tokens that may be emitted, as CTranslate2 does.

    Args:
        head: A head over the vocabulary.
        forbidden: Ids of the tokens that may not be emitted.
    """

    def __init__(self, head: nn.Module, forbidden: Sequence[int]):
        super().__init__()
        self.head, self.forbidden = head, torch.tensor(forbidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]; those of forbidden tokens are -inf."""
        return self.head(hidden).index_fill(-1, self.forbidden, -math.inf)


def temperature_of(task: Task) -> float:
    """The number that divides the logits of a classifier; for other tasks it is 1."""
    return task.calibration.temperature if isinstance(task, ClassificationTask) else 1.0


class Reference:
    """The run's own model on examples, in evaluation mode.

    Args:
        task: A single task.
        decoding: How outputs are searched for.
        shared_out: Whether the probability of forbidden tokens is distributed among the others before the search.
            Otherwise it is lost.
    """

    def __init__(self, task: Task, decoding: DecodingConfig, *, shared_out: bool = False):
        self.task, self.decoding, self.shared_out = task, decoding, shared_out
        self.name = task.settings.name
        stacks, self.pooled = task.settings.stacks, isinstance(task, PooledTask)
        self.temperature = temperature_of(task)
        self.searches = not self.pooled and "decoder" in stacks
        """Whether outputs are sequences. Otherwise they are the best class, or the best token at each place. A
        regression has numbers only, which are compared as they are."""
        self.prefixed = self.searches and stacks == ("decoder",)
        """Whether decoding starts from a prompt instead of from a source."""
        marks = task.tokenizers.get("target") or task.tokenizers["text"]
        self.bos, self.eos, self.pad, self.sep = marks.bos_id, marks.eos_id, marks.pad_id, marks.sep_id
        self.start, self.around = marks.target_start, ((), (self.eos,))
        if "source" in task.tokenizers:
            source = task.tokenizers["source"]
            self.around = source.source_start, source.source_end
        self.forbidden = [marks.pad_id, marks.bos_id, marks.sep_id]
        if self.name == "lm":
            self.forbidden += [marks.unk_id, marks.mask_id]

    def prefix(self, example: Example) -> list[int]:
        """The tokens from which decoding starts: the prompt, or ``<bos> source <sep>``, or the target's mark."""
        if self.name == "lm":
            return example.source
        return [self.bos, *example.source, self.sep] if self.prefixed else [*self.start]

    def source(self, example: Example) -> list[int]:
        """The tokens that the encoder reads."""
        before, behind = self.around
        return [*before, *example.source, *behind]

    def limit(self, example: Example) -> int:
        """Largest number of tokens of the output, its end mark included."""
        task = self.task
        longest = task.target_text.limit(len(example.source)) if isinstance(task, TranslationTask) else NEW_TOKENS
        room = task.config.model.max_len - len(self.prefix(example))
        return max(1, min(self.decoding.max_new_tokens or longest, room))

    @torch.inference_mode()
    def logits(self, example: Example) -> Tensor:
        """Logits [T, V] that predict the target and its end mark.

        They are [C] for classes, [1] for a number, and [S, V] for masked tokens. A `CopyHead` gives log-probabilities.
        """
        transformer, head = self.task.model.transformer, self.task.model.head
        if not self.searches:
            row = torch.tensor([example.source])
            types = None if example.types is None else torch.tensor([example.types])
            encodes = self.task.settings.stacks == ("encoder",)
            hidden = transformer.encode(row, types=types) if encodes else transformer.decode(row)
            return (head(hidden, tokens=row) if self.pooled else head(hidden))[0]
        prefix = self.prefix(example)
        tokens = torch.tensor([[*prefix, *example.target]])
        if self.prefixed:
            return head(transformer.decode(tokens))[0, len(prefix) - 1 :]
        source = torch.tensor([self.source(example)])
        memory = transformer.encode(source)
        hidden = transformer.decode(tokens, memory=memory)  # [1, P + T - 1, D]
        copied = (head.source(source, memory, None),) if isinstance(head, CopyHead) else ()
        return head(hidden, *copied)[0, len(prefix) - 1 :]

    @torch.inference_mode()
    def outputs(self, examples: Sequence[Example], greedy: bool = False) -> list[list[int]]:
        """The best output of each example: ids, or classes, or the best token at each place.

        Args:
            examples: The inputs.
            greedy: Whether to ignore the run's beams and its rules about which tokens may be emitted.
        """
        if not self.searches:
            return [self.decide(self.logits(example)) for example in examples]
        order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].source), i))
        results: list[list[int]] = [[] for _ in examples]
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            found = self._search([examples[i] for i in chosen], DecodingConfig() if greedy else self.decoding)
            for i, ids in zip(chosen, found, strict=True):
                results[i] = ids
        return results

    def _search(self, examples: Sequence[Example], decoding: DecodingConfig) -> list[list[int]]:
        head = self.task.model.head
        prefix, prefix_mask = self.padded([self.prefix(example) for example in examples], left=True)
        source = source_mask = None
        if not self.prefixed:
            source, source_mask = self.padded([self.source(example) for example in examples])
        found = generate(
            self.task.model.transformer,
            Allowed(head, self.forbidden) if self.shared_out else head,
            decoding,
            prefix=prefix,
            prefix_mask=prefix_mask,
            source=source,
            source_mask=source_mask,
            eos_id=self.eos,
            pad_id=self.pad,
            max_new_tokens=torch.tensor([self.limit(example) for example in examples]),
            forbidden=self.forbidden,
            continues_text=self.name == "lm",
        )
        return [hypotheses[0].ids for hypotheses in found]

    def decide(self, logits: Tensor) -> list[int]:
        """The output without a search: the class [1], 0 or 1 for each of C classes, tokens [S], or nothing."""
        settings = self.task.settings
        if isinstance(settings, RegressionConfig):
            return []
        if isinstance(settings, ClassificationConfig) and settings.multi_label:
            return (logits > 0).int().tolist()
        return logits.argmax(-1).reshape(-1).tolist()

    def padded(self, rows: Sequence[Sequence[int]], left: bool = False) -> tuple[Tensor, Tensor]:
        """Ids and a mask [B, T] of rows of different length."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[number, place] = torch.tensor(row)
            mask[number, place] = True
        return ids, mask


class Runtime(Protocol):
    """An exported model, read back from disk."""

    measured: str
    """What the numbers of `teacher_forced` are."""
    greedy: bool
    """Whether `outputs` takes the most probable token at each step, and ignores the run's decoding."""

    def versions(self) -> Mapping[str, str]:
        """Versions of what runs the model, without torch."""
        ...

    def teacher_forced(self, examples: Sequence[Example]) -> list[Tensor]:
        """Numbers for each example."""
        ...

    def expected(self, example: Example) -> Tensor:
        """The numbers that `teacher_forced` should return for an example."""
        ...

    def outputs(self, examples: Sequence[Example]) -> list[list[int]]:
        """The output for each example."""
        ...


@dataclass
class Verification:
    """The result of a comparison."""

    inputs: int
    """Number of examples."""
    measured: str
    """What the numbers are that were compared under teacher forcing."""
    largest_difference: float
    """Largest difference between the numbers of the two models."""
    scale: float
    """Largest magnitude of the numbers."""
    tolerance: float | None
    """Largest accepted difference, relative to the scale; None if every difference is accepted."""
    equal_outputs: float
    """Share of outputs that are equal."""
    search: str
    """How outputs were searched for."""
    versions: dict[str, str]
    """Versions of what ran the exported model."""
    seconds: float
    """Time of the exported model for all outputs."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of the runtime that give the run's outputs, if the runtime has arguments of its own."""

    def save(self, folder: Path) -> None:
        """Writes ``verification.json``."""
        (folder / "verification.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    def table(self) -> list[list[str]]:
        """Rows for the screen; the first one is the head."""
        size = f"of at most {self.scale:.4g}"
        size += f"; up to {self.tolerance:g} of it is accepted" if self.tolerance else ""
        return [
            ["", "", ""],
            ["inputs", str(self.inputs), "of the run"],
            ["largest difference", f"{self.largest_difference:.3g}", f"{self.measured}, {size}"],
            ["equal outputs", f"{self.equal_outputs:.1%}", self.search],
            ["seconds", f"{self.seconds:.2f}", ", ".join(f"{k} {v}" for k, v in self.versions.items())],
        ]


def verify(
    runtime: Runtime, reference: Reference, examples: Sequence[Example], wanted: Sequence[list[int]], *, exact: bool
) -> Verification:
    """Compares an exported model with the run's own.

    Args:
        runtime: The exported model.
        reference: The run's model.
        examples: The inputs, at least one.
        wanted: The run's outputs for them, as ``Reference.outputs`` finds them.
        exact: Whether a difference is an error. Otherwise it is only reported.

    Raises:
        CheckpointError: Logits differ by more than `TOLERANCE`, or less than `EQUAL_SHARE` of the outputs are equal.
    """
    expected = [runtime.expected(example) for example in examples]
    found = runtime.teacher_forced(examples)
    largest = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
    scale = max(float(x.abs().max()) for x in expected)
    start = time.perf_counter()
    outputs = runtime.outputs(examples)
    seconds = time.perf_counter() - start
    share = equal_share(outputs, wanted)
    beams = 1 if runtime.greedy else reference.decoding.num_beams
    search = ("greedy" if beams == 1 else f"{beams} beams") if reference.searches else "largest logit"
    if exact and not (largest <= TOLERANCE * scale and share >= EQUAL_SHARE):
        what = (
            f"the exported model does not compute what the run computes: its {runtime.measured} differ by up to "
            f"{largest:.3g} (largest magnitude {scale:.3g}), and {share:.1%} of {len(examples)} outputs are equal "
            f"({search}); no export was written"
        )
        raise CheckpointError("export", what, "another to=FORMAT")
    return Verification(
        inputs=len(examples),
        measured=runtime.measured,
        largest_difference=largest,
        scale=scale,
        tolerance=TOLERANCE if exact else None,
        equal_outputs=share,
        search=search,
        versions={**runtime.versions(), "torch": torch.__version__, "multihead": __version__},
        seconds=round(seconds, 3),
    )


def verify_tokenizer(task: Task, path: Path) -> None:
    """Checks that a written tokenizer reads and writes a text of several lines as the run's language model does.

    Other tasks read single lines, and a published tokenizer is written as it was.

    Args:
        task: The task.
        path: The file, in the format of the ``tokenizers`` library.

    Raises:
        CheckpointError: It does not.
    """
    if not isinstance(task, LanguageModelingTask) or task.tokenizer.kind not in (*SUBWORD, "byte"):
        return
    written, ids = Tokenizer.from_file(str(path)), task.encode(LINES)
    found = written.encode(LINES, add_special_tokens=task.causal).ids
    wanted = ids if task.causal else ids[len(task.tokenizer.opening) :]
    if found != wanted or written.decode(found) != task.decode(ids):
        what = f"the exported tokenizer reads {LINES!r} as {found}, but the run reads it as {wanted}"
        raise CheckpointError("export", what, "another to=FORMAT")


def equal_share(a: Sequence[list[int]], b: Sequence[list[int]]) -> float:
    """Share of places at which two lists of outputs are equal."""
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite if the shapes differ or a number is not finite."""
    if a.shape != b.shape or not bool(torch.isfinite(a).all()):
        return math.inf
    return float((a.float() - b.float()).abs().max())
