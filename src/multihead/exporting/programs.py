"""The model as programs that need none of our code: torch.export's ``.pt2`` files, and ONNX.

One program maps ids to logits. An encoder-decoder has two, so that a source is encoded once. The caller decodes. Batch
and lengths are dynamic. Shapes: B batch, T target time, S source time, D d_model, V vocabulary, C classes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from multihead.config.extras import require_package
from multihead.errors import ConfigError
from multihead.exporting.verify import BATCH, Example, Reference, Verification
from multihead.model.heads import CopyHead
from multihead.model.transformer import Transformer
from multihead.tasks.base import Task
from multihead.tasks.classification import ClassificationTask
from multihead.tasks.language_modeling import LanguageModelingTask
from multihead.tasks.pooled import PooledTask

SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx"}
LARGEST_BATCH = 1 << 16
LARGEST_FILE = 1 << 30
"""Most bytes of weights inside an .onnx file, whose format ends at 2 GiB. Larger weights are a file beside it."""
SINGLE_ROWS = ("classification", "regression")
"""Tasks that read one row for each example."""
Program = Callable[..., Tensor]
"""It is called with the inputs by name."""


class Encode(nn.Module):
    """Maps source ids [B, S] and their mask to the memory [B, S, D]."""

    def __init__(self, transformer: Transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, source: Tensor, source_mask: Tensor) -> Tensor:
        return self.transformer.encode(source, source_mask)


class Decode(nn.Module):
    """Maps target ids [B, T], the memory [B, S, D] and its mask to logits [B, T, V]."""

    def __init__(self, transformer: Transformer, head: nn.Module):
        super().__init__()
        self.transformer, self.head = transformer, head

    def forward(self, target: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        return self.head(self.transformer.decode(target, memory=memory, memory_mask=memory_mask))


class DecodeCopying(nn.Module):
    """Maps target ids [B, T], the memory [B, S, D], its mask and source ids [B, S] to log-probabilities [B, T, V]."""

    def __init__(self, transformer: Transformer, head: CopyHead):
        super().__init__()
        self.transformer, self.head = transformer, head

    def forward(self, target: Tensor, memory: Tensor, memory_mask: Tensor, source: Tensor) -> Tensor:
        hidden = self.transformer.decode(target, memory=memory, memory_mask=memory_mask)
        return self.head(hidden, self.head.source(source, memory, memory_mask))


class Logits(nn.Module):
    """Maps ids [B, T] and their mask to logits [B, T, V]. Rows of a decoder are padded on the left."""

    def __init__(self, transformer: Transformer, head: nn.Module, causal: bool):
        super().__init__()
        self.transformer, self.head, self.causal = transformer, head, causal

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.causal:
            return self.head(self.transformer.decode(tokens, target_mask=mask))
        return self.head(self.transformer.encode(tokens, mask))


class Next(nn.Module):
    """Maps ids [B, T] to logits [B, T, V] of a language model, which never sees padding on the right."""

    def __init__(self, transformer: Transformer, head: nn.Module):
        super().__init__()
        self.transformer, self.head = transformer, head

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.transformer.decode(tokens))


class Classify(nn.Module):
    """Maps ids [B, T], padded on the right, and their mask to calibrated logits [B, C] of classes."""

    def __init__(self, transformer: Transformer, head: nn.Module, causal: bool, temperature: float):
        super().__init__()
        self.transformer, self.head, self.causal, self.temperature = transformer, head, causal, temperature

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.transformer.decode(tokens) if self.causal else self.transformer.encode(tokens, mask)
        return self.head(hidden, mask, tokens) / self.temperature


class Regress(Classify):
    """Maps ids [B, T], padded on the right, and their mask to numbers [B, 1] in the units of the labels."""


def modules(reference: Reference) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """The programs of a task by name, each with inputs to trace it with.

    Args:
        reference: The run's model.
    """
    transformer, head = reference.task.model.transformer, reference.task.model.head
    causal, width = reference.task.settings.stacks == ("decoder",), reference.task.config.model.d_model
    tokens, mask = torch.full((2, 3), reference.eos), torch.tensor([[True] * 3, [False, True, True]])
    if getattr(reference.task, "typed", False):
        what = "an exported program cannot distinguish the two texts of a pair"
        raise ConfigError(f"model.segment_types={reference.task.config.model.segment_types}", what, "to=huggingface")
    if reference.pooled:
        kind = Classify if isinstance(reference.task, ClassificationTask) else Regress
        inputs = {"tokens": tokens, "mask": mask.flip(1)}
        return {"logits": (kind(transformer, head, causal, reference.temperature), inputs)}
    if reference.name == "lm" and causal:
        return {"logits": (Next(transformer, head), {"tokens": tokens})}
    if causal or not reference.searches:
        return {
            "logits": (Logits(transformer, head, causal), {"tokens": tokens, "mask": mask if causal else mask.flip(1)})
        }
    source, source_mask = torch.full((2, 5), reference.eos), torch.ones(2, 5, dtype=torch.bool)
    memory = torch.zeros(2, 5, width)
    inputs = {"target": tokens, "memory": memory, "memory_mask": source_mask}
    decode = Decode(transformer, head), inputs
    if isinstance(head, CopyHead):
        decode = DecodeCopying(transformer, head), inputs | {"source": source}
    return {"encode": (Encode(transformer), {"source": source, "source_mask": source_mask}), "decode": decode}


def write(reference: Reference, folder: Path, to: str) -> None:
    """Writes every program into an existing folder.

    Args:
        reference: The run's model, in evaluation mode.
        folder: The folder.
        to: torch_export or onnx.

    Raises:
        ConfigError: ONNX is not installed, or a plugin's block cannot be traced.
    """
    longest = reference.task.config.model.max_len
    batch, lengths = Dim("batch", max=LARGEST_BATCH), {"s": Dim("source_length", max=longest)}
    lengths["t"] = Dim("length", max=longest)
    size = sum(x.numel() * x.element_size() for x in reference.task.model.parameters())
    for name, (module, inputs) in modules(reference).items():
        kinds = {key: "s" if key.startswith(("source", "memory")) else "t" for key in inputs}
        shapes = {key: {0: batch, 1: lengths[kind]} for key, kind in kinds.items()}
        path = folder / (name + SUFFIXES[to])
        try:
            with torch.no_grad(), quiet():
                program = torch.export.export(module.eval(), (), inputs, dynamic_shapes=shapes)
                _forget_paths(program)
                if to == "torch_export":
                    torch.export.save(program, path)
                else:
                    output = "memory" if name == "encode" else "logits"
                    torch.onnx.export(
                        program,
                        (),
                        path,
                        kwargs=inputs,
                        output_names=[output],
                        external_data=size > LARGEST_FILE,
                        dynamo=True,
                        verbose=False,
                    )
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            fix = "load the run with multihead.load, whose .model is a torch.nn.Module"
            raise ConfigError("to", f"{name} cannot be traced for {to} ({reason})", fix) from error


def _forget_paths(program: torch.export.ExportedProgram) -> None:
    """Deletes the lines and files from which each operation comes, because they name this machine's folders."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, the exporter shows neither its progress nor its log nor the deprecations of torch."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="torch")
            yield
    finally:
        logging.disable(level)


def import_onnx() -> tuple[Any, Any, Any]:
    """onnx, onnxscript (with which the exporter writes) and onnxruntime.

    Raises:
        ConfigError: One is not installed.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        require_package(package, "to", "to=onnx")
    import onnx
    import onnxruntime
    import onnxscript

    return onnx, onnxscript, onnxruntime


def load(path: Path) -> Program:
    """A program from disk, which is called with tensors by name."""
    if path.suffix == ".pt2":
        with quiet():
            module = torch.export.load(path).module()
        return lambda **inputs: module(**inputs)
    _, _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(**inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])

    return call


def quantize(folder: Path) -> None:
    """Replaces the matrices of ONNX programs by int8, with a scale for each. Activations become int8 as they come.

    This is onnxruntime's dynamic quantization, which needs no data.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for path in sorted(folder.glob("*.onnx")):
        exact = path.with_suffix(".float32")
        path.rename(exact)
        with quiet():
            quantize_dynamic(exact, path, weight_type=QuantType.QInt8)
        exact.unlink()


def cost_of_int8(found: Verification, metric: str) -> str:
    """Markdown that says how much the int8 programs differ from the run.

    Args:
        found: The comparison.
        metric: What `multihead.exporting.accuracy.measured` says.
    """
    return f"""
## int8

The matrices of these programs are int8. On {found.inputs} inputs of the run, {found.equal_outputs:.1%} of the outputs
({found.search}) are those of the float32 model. Logits differ by up to {found.largest_difference:.3g}; the largest
logit is {found.scale:.3g}.

{metric}
"""


class Runtime:
    """Programs from disk, with a greedy search around them that computes the whole target again at each step.

    Args:
        folder: The folder that `write` wrote.
        reference: The run's model, which says how inputs are arranged.
        to: torch_export or onnx.
    """

    measured = "logits"
    greedy = True

    def __init__(self, folder: Path, reference: Reference, to: str):
        self.reference, self.to = reference, to
        self.programs = {path.stem: load(path) for path in folder.glob(f"*{SUFFIXES[to]}")}

    def versions(self) -> Mapping[str, str]:
        """Versions of what runs the programs, without torch."""
        if self.to == "torch_export":
            return {}
        return {module.__name__: module.__version__ for module in import_onnx()}

    def expected(self, example: Example) -> Tensor:
        """The result that `teacher_forced` should return for an example."""
        return self.reference.logits(example) / self.reference.temperature

    def teacher_forced(self, examples: Sequence[Example]) -> list[Tensor]:
        """Logits of each example, as `Reference.logits` returns them."""
        results: list[Tensor] = []
        for start in range(0, len(examples), BATCH):
            results += self._forced(examples[start : start + BATCH])
        return results

    @torch.inference_mode()
    def _forced(self, examples: Sequence[Example]) -> list[Tensor]:
        reference = self.reference
        if not reference.searches:
            tokens, mask = reference.padded([example.source for example in examples])
            logits = self.programs["logits"](tokens=tokens, mask=mask)
            if reference.pooled:
                return list(logits)
            return [row[: len(example.source)] for row, example in zip(logits, examples, strict=True)]
        prefixes = [reference.prefix(example) for example in examples]
        rows = [[*prefix, *example.target] for prefix, example in zip(prefixes, examples, strict=True)]
        logits, left = self._step(examples)(rows)
        cut = []
        for row, prefix, tokens in zip(logits, prefixes, rows, strict=True):
            start = logits.size(1) - len(tokens) if left else 0
            cut.append(row[start + len(prefix) - 1 : start + len(tokens)])
        return cut

    def _step(self, examples: Sequence[Example]) -> Callable[[list[list[int]]], tuple[Tensor, bool]]:
        """A function from rows of tokens to logits [B, T, V] and whether they are padded on the left."""
        reference = self.reference
        if not reference.prefixed:
            source, mask = reference.padded([reference.source(example) for example in examples])
            inputs = {"memory": self.programs["encode"](source=source, source_mask=mask), "memory_mask": mask}
            if isinstance(reference.task.model.head, CopyHead):
                inputs["source"] = source
            decode = self.programs["decode"]
            return lambda rows: (decode(target=reference.padded(rows)[0], **inputs), False)
        program = self.programs["logits"]
        if reference.name == "lm":
            return lambda rows: (program(tokens=reference.padded(rows)[0]), False)

        def step(rows: list[list[int]]) -> tuple[Tensor, bool]:
            tokens, mask = reference.padded(rows, left=True)
            return program(tokens=tokens, mask=mask), True

        return step

    def outputs(self, examples: Sequence[Example]) -> list[list[int]]:
        """The greedy output of each example."""
        if not self.reference.searches:
            return [self.reference.decide(logits) for logits in self.teacher_forced(examples)]
        results: list[list[int]] = []
        for start in range(0, len(examples), BATCH):
            results += self._greedy(examples[start : start + BATCH])
        return results

    @torch.inference_mode()
    def _greedy(self, examples: Sequence[Example]) -> list[list[int]]:
        reference, step = self.reference, self._step(examples)
        prefixes = [reference.prefix(example) for example in examples]
        limits = [reference.limit(example) for example in examples]
        rows, running = [list(prefix) for prefix in prefixes], set(range(len(examples)))
        while running:
            logits, left = step(rows)
            logits[..., reference.forbidden] = -torch.inf
            for i in sorted(running):
                token = int(logits[i, -1 if left else len(rows[i]) - 1].argmax())
                if token == reference.eos:
                    running.discard(i)
                    continue
                rows[i].append(token)
                if len(rows[i]) - len(prefixes[i]) == limits[i]:
                    running.discard(i)
        return [row[len(prefix) :] for row, prefix in zip(rows, prefixes, strict=True)]


def write_tokenizers(task: Task, folder: Path, files: Mapping[str, str]) -> None:
    """Writes the tokenizers in the format of the ``tokenizers`` library, with the marks that a row or source has.

    Args:
        task: The task.
        folder: The folder.
        files: Role to file. Roles that share a file share a tokenizer.
    """
    for role, file in reversed(list(files.items())):  # the source's marks count where source and target share a file
        marks, pooled = task.tokenizers[role], isinstance(task, PooledTask)
        before = marks.start if pooled else marks.opening if task.settings.name == "lm" else ()
        behind = marks.end if pooled else ()
        if role == "source":
            before, behind = marks.source_start, marks.source_end
            if task.settings.stacks == ("decoder",):  # a row of both starts with the source
                before, behind = (marks.bos_id,), (marks.sep_id,)
        by_line = isinstance(task, LanguageModelingTask) and task.by_line
        (folder / file).write_text(marks.tokenizers_json(before, behind, by_line=by_line), encoding="utf-8")


def write_script(task: Task, folder: Path) -> None:
    """Writes ``predict.py``, which answers single texts without Multihead, and what it has to know."""
    if not isinstance(task, PooledTask) or task.pairs:
        return
    known: dict[str, Any] = {"task": task.settings.name, "max_len": task.config.model.max_len, "pad_id": task.pad}
    if isinstance(task, ClassificationTask):
        thresholds = {name: each.value for name, each in task.calibration.thresholds.items()}
        known |= {"labels": task.labels, "multi_label": task.multi_label, "thresholds": thresholds}
        known["label_separator"] = task.config.data.label_separator
    (folder / "predict.json").write_text(json.dumps(known, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("standalone.py"), folder / "predict.py")


def readme(reference: Reference, files: Mapping[str, str], to: str) -> str:
    """Markdown that says how to run the programs.

    Args:
        reference: The run's model.
        files: Role to the file of its tokenizer.
        to: torch_export or onnx.
    """
    lines = []
    for name, (module, inputs) in modules(reference).items():
        shapes = {"memory": "[B, S, D] float32", "source": "[B, S] int64"}
        described = [f"`{key}` {shapes.get(key, '[B, T] int64')}" for key in inputs if "mask" not in key]
        described += [f"`{key}` bool, True where a token is real" for key in inputs if "mask" in key]
        lines.append(f"- `{name}{SUFFIXES[to]}`: {', '.join(described)}. {(module.__doc__ or '').strip()}")
    first = next(iter(modules(reference)))
    script = ""
    if to == "onnx" and reference.pooled and "text_b" not in files:
        script = "\n`predict.py` answers lines of text: `python predict.py < texts.txt`."
        if isinstance(reference.task, ClassificationTask):
            script += " Logits are calibrated. The script applies thresholds too."
    inputs = next(iter(modules(reference).values()))[1]
    file = next(iter(files.values()))
    read = f"""from tokenizers import Tokenizer

ids = Tokenizer.from_file("{file}").encode("A text.").ids
"""
    tensors = [f'"{name}": torch.{"ones(1, len(ids), dtype=torch.bool)" if "mask" in name else "tensor([ids])"}'
               for name in inputs]  # fmt: skip
    arrays = [f'"{name}": np.{"ones((1, len(ids)), bool)" if "mask" in name else "array([ids], np.int64)"}'
              for name in inputs]  # fmt: skip
    run = f"""import torch
{read}
program = torch.export.load("{first}.pt2").module()
output = program(**{{{", ".join(tensors)}}})"""
    if to == "onnx":
        run = f"""import numpy as np
import onnxruntime
{read}
program = onnxruntime.InferenceSession("{first}.onnx")
output = program.run(None, {{{", ".join(arrays)}}})[0]"""
    whole = "A source ends with `<eos>`; decoding starts from `<bos>`."
    if reference.prefixed:
        whole = "A row is `<bos> source <sep>`, as the tokenizer of the source writes it, and then the target so far."
    rows = {
        **dict.fromkeys(SINGLE_ROWS, "A row is `<bos> text <eos>`, or `<bos> text <sep> text_b <eos>`."),
        "lm": "A row starts with `<eos>`." if reference.searches else "A row is running text with `<mask>` in it.",
    }.get(reference.name, whole)
    tokenizers = ", ".join(f"{role}: `{name}`" for role, name in files.items())
    return f"""# {reference.name} as {"ONNX" if to == "onnx" else "torch.export"} programs

{chr(10).join(lines)}

Batch and lengths can be chosen freely, up to {reference.task.config.model.max_len} tokens. {rows}
Tokenizers, in the format of the `tokenizers` library: {tokenizers}. Padding has the id {reference.pad}; the mask tells
what is real. `verification.json` says how the programs were compared.{script}

```python
{run}
```
"""
