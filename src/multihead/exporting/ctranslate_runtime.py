"""An exported CTranslate2 model, read back from disk and run; and the README that says how others run it.

Shapes: T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multihead.data.tokenizer import SUBWORD
from multihead.errors import CheckpointError
from multihead.exporting.ctranslate import import_ctranslate2, vocabulary
from multihead.exporting.verify import Example, Reference
from multihead.tasks.base import Task
from multihead.tasks.language_modeling import LanguageModelingTask
from multihead.tasks.translation import TranslationTask

EXHAUSTIVE_PATIENCE = 1000.0
"""CTranslate2 stops when ``beam_size * patience`` hypotheses are finished. It never finishes so many."""


class Runtime:
    """An exported model, loaded and run by CTranslate2 on the CPU.

    Args:
        folder: The exported model.
        reference: The run's model, whose bounds of the search apply.
        patience: The patience of beam search; CTranslate2's own default is 1.

    Raises:
        CheckpointError: CTranslate2 cannot load the model.
    """

    measured = "log-probabilities of target tokens"
    greedy = False

    def __init__(self, folder: Path, reference: Reference, patience: float = EXHAUSTIVE_PATIENCE):
        library = import_ctranslate2()
        self.reference, self.patience = reference, patience
        kind = library.Generator if reference.prefixed else library.Translator
        try:
            self.model = kind(str(folder), device="cpu", inter_threads=1, intra_threads=torch.get_num_threads())
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(str(folder), f"CTranslate2 cannot load it ({error})", "to=onnx") from error
        self.compute_type = self.model.compute_type
        self._source, self._target = (vocabulary(reference.task, role) for role in ("source", "target"))
        self._ids = {name: number for number, name in enumerate(self._target)}

    def versions(self) -> dict[str, str]:
        """Versions of what runs the model."""
        return {"ctranslate2": import_ctranslate2().__version__, "compute_type": self.compute_type}

    def teacher_forced(self, examples: Sequence[Example]) -> list[Tensor]:
        """log p [T] of each example's target tokens, the end mark included."""
        targets = [[self._target[i] for i in [*example.target, self.reference.eos]] for example in examples]
        if self.reference.prefixed:
            rows = [self._prompt(example) + target for example, target in zip(examples, targets, strict=True)]
            results = self.model.score_batch(rows, max_batch_size=32, max_input_length=0)
        else:
            sources = [self._words(example) for example in examples]
            targets = [target[:-1] for target in targets]  # CTranslate2 adds the end mark itself
            results = self.model.score_batch(sources, targets, max_batch_size=32, max_input_length=0)
        scores = [torch.tensor(result.log_probs) for result in results]
        return [x[-len(example.target) - 1 :] for x, example in zip(scores, examples, strict=True)]

    def expected(self, example: Example) -> Tensor:
        """The result that `teacher_forced` should return for an example."""
        logits = self.reference.logits(example)  # [T, V]
        labels = torch.tensor([*example.target, self.reference.eos])
        return logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]

    def outputs(self, examples: Sequence[Example]) -> list[list[int]]:
        """The best output of each example. Those with the same bounds and length of prompt are one batch."""
        results: list[list[int]] = [[] for _ in examples]
        for (limit, _), indices in self._groups(examples):
            options = self.options(limit) | {"max_batch_size": 32}
            batch = [examples[i] for i in indices]
            if self.reference.prefixed:
                found = self.model.generate_batch([self._prompt(e) for e in batch], **options)
                names = [result.sequences[0] for result in found]
            else:
                found = self.model.translate_batch([self._words(e) for e in batch], **options)
                names = [result.hypotheses[0] for result in found]
            for i, hypothesis in zip(indices, names, strict=True):
                ids = [self._ids[name] for name in hypothesis]
                results[i] = ids[:-1] if ids and ids[-1] == self.reference.eos else ids
        return results

    def settings(self) -> dict[str, Any]:
        """The arguments of ``translate_batch`` or ``generate_batch``, without the upper bound of the length."""
        bounds = ("max_length", "max_decoding_length")
        return {name: value for name, value in self.options(1).items() if name not in bounds}

    def options(self, limit: int) -> dict[str, Any]:
        """The arguments of ``translate_batch`` or ``generate_batch`` for at most ``limit`` tokens."""
        decoding, prefixed = self.reference.decoding, self.reference.prefixed
        options: dict[str, Any] = {
            "beam_size": decoding.num_beams,
            "patience": self.patience if decoding.num_beams > 1 else 1,
            "length_penalty": decoding.length_penalty,
            "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
            "suppress_sequences": [[self._target[i]] for i in self.reference.forbidden],
            "return_end_token": True,  # it then counts in the length by which scores are divided
        }
        if prefixed:
            bounds = {"max_length": limit, "min_length": decoding.min_new_tokens, "include_prompt_in_result": False}
        else:
            bounds = {
                "max_decoding_length": limit,
                "min_decoding_length": decoding.min_new_tokens,
                "max_input_length": 0,
            }
        return options | bounds

    def _groups(self, examples: Sequence[Example]) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Indices of examples by the bound of their output and by the length of their prompt, if they have one."""

        def key(i: int) -> tuple[int, int]:
            prompt = len(self.reference.prefix(examples[i])) if self.reference.prefixed else 0
            return self.reference.limit(examples[i]), prompt

        for found, group in groupby(sorted(range(len(examples)), key=key), key):
            yield found, list(group)

    def _words(self, example: Example) -> list[str]:
        return [self._source[i] for i in example.source]

    def _prompt(self, example: Example) -> list[str]:
        return [self._target[i] for i in self.reference.prefix(example)]


def readme(reference: Reference, files: Mapping[str, str], equal: Mapping[str, float]) -> str:
    """Markdown that says how to run the model.

    Args:
        reference: The run's model.
        files: Role to the file of its tokenizer.
        equal: Patience to the share of outputs that equal those of ``predict``.
    """
    decoding, prefixed = reference.decoding, reference.prefixed
    forbidden = [[vocabulary(reference.task, "target")[i]] for i in reference.forbidden]
    kind, call, bound = ("Generator", "generate_batch", "max_length") if prefixed else (
        "Translator", "translate_batch", "max_decoding_length"
    )  # fmt: skip
    options = [f"beam_size={decoding.num_beams}", f"length_penalty={decoding.length_penalty}"]
    if decoding.no_repeat_ngram_size:
        options.append(f"no_repeat_ngram_size={decoding.no_repeat_ngram_size}")
    options.append(f"{bound.replace('max', 'min')}={decoding.min_new_tokens}")  # CTranslate2's default may be 1
    options += [f"suppress_sequences={forbidden}", "return_end_token=True"]
    options += ["include_prompt_in_result=False"] if prefixed else []
    role = "text" if "text" in reference.task.tokenizers and reference.name == "lm" else "source"
    prompt = "{}"
    if reference.name == "lm":
        prompt = '["<eos>", *{}]'
    elif prefixed:
        prompt = '["<bos>", *{}, "<sep>"]'
    source_file, target_file = _vocabulary_files(reference)
    field = "sequences" if prefixed else "hypotheses"
    encoded, joined = _encoding(reference.task, role)
    return f"""# {reference.name} for CTranslate2

```python
import json, ctranslate2
from multihead.data.tokenizer import Tokenizer  # imports no torch

model = ctranslate2.{kind}(".")
source_names, target_names = json.load(open("{source_file}")), json.load(open("{target_file}"))
ids = Tokenizer.load("{files[role]}"){encoded}
tokens = [source_names[i] for i in ids]
found = model.{call}([{prompt.format("tokens")}], {bound}={_longest(reference)}, {", ".join(options)})
index = {{name: i for i, name in enumerate(target_names)}}
target = Tokenizer.load("{files["target" if role == "source" else role]}")
print(target.decode_batch([[index[name] for name in found[0].{field}[0]]])[0]{joined})
```

The outputs were compared with those of `multihead predict` (`verification.json` says on how many inputs). This share
was equal: {", ".join(f"{share:.1%} (`{word}`)" for word, share in equal.items())}.
With `return_end_token`, the end mark counts in the length by which scores are divided, as in Multihead.
`suppress_sequences` keeps special entries out of the output. CTranslate2 stops when `beam_size * patience` hypotheses
are finished. Multihead stops when no hypothesis can get better, so a large patience finds the same outputs. A patience
of 1 is faster.
"""


def _longest(reference: Reference) -> str:
    """Python that computes how many tokens an output has at most, from the ids of the input."""
    task, limit, max_len = reference.task, "64", reference.task.config.model.max_len
    if reference.decoding.max_new_tokens:
        limit = str(reference.decoding.max_new_tokens)
    elif isinstance(task, TranslationTask):
        limit = f"int({task.target_text.slope:g} * len(ids)) + {task.target_text.extra}"
    marks = 1 if reference.name == "lm" or not reference.prefixed else 2
    return f"min({limit}, {max_len - marks}{' - len(ids)' if reference.prefixed else ''})"


def _encoding(task: Task, role: str) -> tuple[str, str]:
    """Python behind a tokenizer that encodes a text as the run does, and Python behind a decoded text."""
    if not isinstance(task, LanguageModelingTask) or not task.by_line:
        cut = f"[:{task.limits()['source']}]" if role == "source" else ""
        return f'.encode_batch(["A text."])[0]{cut}', ""
    lines = r'"A text.".replace("\n", "\n\0").split("\0")'
    joined = r'.replace("\n ", "\n")' if task.tokenizer.kind in SUBWORD else ""
    return f".encode_batch({lines})\nids = [i for line in ids for i in line]  # each line by itself", joined


def _vocabulary_files(reference: Reference) -> tuple[str, str]:
    """Names of the vocabularies of source and target, as CTranslate2 writes them."""
    if reference.prefixed:
        return "vocabulary.json", "vocabulary.json"
    if vocabulary(reference.task, "source") == vocabulary(reference.task, "target"):
        return "shared_vocabulary.json", "shared_vocabulary.json"
    return "source_vocabulary.json", "target_vocabulary.json"
