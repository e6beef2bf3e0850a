"""The tensors in one file, with all that is needed to build the model around them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from multihead.config.compose import compose_from_run
from multihead.exporting.verify import Example, Reference
from multihead.runs.directory import TARGETS, describe_model, read_targets, save_vocab, save_weights
from multihead.runs.files import read_json
from multihead.runs.run import load_weights
from multihead.tasks import build_task
from multihead.tasks.base import Task
from multihead.text.vocabulary import Vocabulary

README = """# {name} as tensors

`model.safetensors` holds every tensor under its name in Multihead's modules. One that several modules share stands
there once; the file's metadata names its other names (`other: name`), which `safetensors.torch.load_model` puts back.
`config.json` holds the whole configuration (`config.model` is the architecture), the shapes of the tensors and the
file of each tokenizer; `labels.json` the names of the classes.

```python
from safetensors import safe_open

with safe_open("model.safetensors", "pt") as file:
    shared = file.metadata()
    tensors = {{name: file.get_tensor(name) for name in file.keys()}}
tensors |= {{other: tensors[name] for other, name in shared.items() if name in tensors}}
```
"""


def write(task: Task, run_dir: Path, folder: Path) -> None:
    """Writes ``model.safetensors``, ``config.json``, tokenizers and classes into an existing folder.

    Args:
        task: The whole task of the run, with all its parts.
        run_dir: The capsule, for its configuration.
        folder: Where to.
    """
    save_weights(task.model, folder / "model.safetensors")
    described = describe_model(run_dir)
    description = {
        "task": task.settings.name,
        "tokenizers": save_vocab(folder, task.vocab),
        "tensors": {name: list(tensor.shape) for name, tensor in task.model.state_dict().items()},
        "config": described["config"],
    }
    (folder / "config.json").write_text(json.dumps(description, indent=1) + "\n")
    (folder / "README.md").write_text(README.format(name=task.settings.name), encoding="utf-8")


def load(folder: Path, words: Sequence[str] = ()) -> Task:
    """A fresh task with the tensors of a folder, from that folder alone.

    Args:
        folder: What `write` wrote.
        words: ``plugin=FILE.py`` where the run needs one.

    Raises:
        CheckpointError: A file is missing or damaged, or does not fit.
    """
    from multihead.data.tokenizer import Tokenizer

    description = read_json(folder / "config.json", dict)
    composition = compose_from_run(description["config"], words, run=str(folder))
    files = description["tokenizers"]
    loaded = {name: Tokenizer.load(folder / name) for name in set(files.values())}
    vocab = Vocabulary(
        {role: loaded[name] for role, name in files.items()},
        read_json(folder / "labels.json", list),
        read_targets(folder / TARGETS),
    )
    task = build_task(composition.config, vocab, composition.plugin)
    load_weights(task, folder / "model.safetensors")
    return task.eval()


class Runtime:
    """A model that was built anew, run by our own code.

    Args:
        task: Of `load`, or one of its parts.
        reference: The run's model.
    """

    measured = "logits"
    greedy = False

    def __init__(self, task: Task, reference: Reference):
        self.reference, self.fresh = reference, Reference(task, reference.decoding)

    def versions(self) -> dict[str, Any]:
        """What ran it, torch apart."""
        return {}

    def expected(self, example: Example) -> Tensor:
        """What `teacher_forced` should give."""
        return self.reference.logits(example)

    def teacher_forced(self, examples: Sequence[Example]) -> list[Tensor]:
        """Logits of each example."""
        return [self.fresh.logits(example) for example in examples]

    def outputs(self, examples: Sequence[Example]) -> list[list[int]]:
        """The output of each example by the run's search."""
        return self.fresh.outputs(examples)
