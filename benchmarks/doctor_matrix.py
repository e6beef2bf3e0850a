"""Checks the checks of ``multihead doctor``: python benchmarks/doctor_matrix.py out=FILE

Our own variants of the backbone and the example plugins must raise no alarm, and each seeded defect of
`tests/checking/defects.py` must be found by the check that it names. All models are tiny. It prints a line for each
model that is not as it should be, and how long a model took. The status is 1 if there is such a line.

Settings: part=defects,plugins,example,tasks,options,grid (what is run) limit=N (models of a part; 0 is all) out=FILE.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rounds import split_words

from multihead.checking.examination import CHECKS, examine
from multihead.checking.outcome import FINDING, SKIPPED
from multihead.checking.subject import Subject, subjects, without_parts
from multihead.config.compose import compose
from multihead.config.model import NORM_PLACEMENTS, NORMS, POSITIONS
from multihead.plugin import load_plugin

ROOT = Path(__file__).parent.parent
SETTINGS = {"part": "defects,plugins,example,tasks,options,grid", "limit": 0, "out": ""}
SIZES = ["model.d_model=16", "model.num_heads=2", "model.d_ff=32", "model.max_len=96", "tokenizer.vocab_size=300"]
TASKS = (
    *("translation", "lm", "classification", "regression", "summarization", "multitask"),
    *("lm task.objective=masked", "lm task.document_mask=true", "translation task.topology=decoder"),
    *("classification task.stack=decoder", "summarization task.copy=true", "classification task.pooling=attention"),
)
ATTENTIONS = ({}, {"num_kv_heads": 1}, {"num_kv_heads": 1, "qk_norm": True}, {"qk_norm": True})
OPTIONS = (
    *({"activation": name} for name in ("gelu", "swiglu", "relu2")),
    *({"share_layers": True}, {"embedding_width": 8, "tie_embeddings": "source_target"}, {"embedding_norm": True}),
    *({"ngram_buckets": 30}, {"head_size": 4}, {"attention_scale": False}, {"attention_bias": "qkv"}, {"bias": False}),
    *({"output_bias": True}, {"output_scale": True}, {"output_transform": True}, {"tie_embeddings": "none"}),
    *({"init": "depth_scaled"}, {"dropout": 0.1, "attention_dropout": 0.1, "ff_dropout": 0.1}),
    *(
        {"position": "rotary", "rotary_share": 0.5},
        {"position": "rotary", "rope_scaling": "linear", "rope_factor": 2.0},
    ),
    *({"num_encoder_layers": 1, "num_decoder_layers": 1}, {"segment_types": 2}),
)
EXAMPLES = ROOT / "docs" / "examples"
OF_BLOCKS = ("translation", "lm", "lm task.document_mask=true", "classification")
"""Tasks with which an example plugin's block is checked."""
QUIET = "options.simcut.cut=0"
"""The loss that draws draws nothing, which the check of micro-batches needs."""
PLUGINS = {
    **{"cooldown": ("task=translation optim.schedule=one_minus_sqrt",), "lion": ("task=translation optim.name=lion",)},
    **{name: tuple(f"task={task} {words}" for task in OF_BLOCKS) for name, words in (
        ("differential", "model.attention=differential"),
        ("dyt", "model.norm=dyt"),
        ("experts", "model.feed_forward=experts"),
        ("gated_attention", "model.attention=gated"),
        ("kerple", "model.position=kerple"),
        ("sliding_window", "model.attention=sliding_window options.sliding_window.window=3"),
        ("values", "model.attention=values model.stack=values"),
    )},
    "r_drop": tuple(f"task={task} task.loss=r_drop model.dropout=0.1" for task in OF_BLOCKS),
    "simcut": tuple(f"task={task} task.loss=simcut {quiet}" for task in OF_BLOCKS for quiet in ("", QUIET)),
    "soft_cap": tuple(f"task={task} task.head=soft_cap" for task in ("translation", "lm", "summarization")),
    "spacing": ("task=spacing tokenizer.kind=char",),
    "tagging": (
        "task=tagging data=tagged.tsv data.roles={text:words,target:tags} tokenizer.kind=word tokenizer.joint=false "
        "model.tie_embeddings=none",
    ),
}  # fmt: skip
"""The example plugins, each with the words that choose what it adds. Each is a file of the folder, and none lacks."""
DEFECTS = ROOT / "tests" / "checking" / "defects.py"
LEFT_OUT = ("widths", "export", "cost")
"""Checks that only inform."""


Case = tuple[str, dict[str, Any], Path | None, str]
"""Words that choose the task; values of keys, of the model if the key has no dot; the plugin's file; and the check that
must find something."""


def grid() -> Iterator[Case]:
    """Translation with all positions, norms, their places, and kinds of attention."""
    for position, norm, placement, attention in itertools.product(POSITIONS, NORMS, NORM_PLACEMENTS, ATTENTIONS):
        chosen = {"position": position, "norm": norm, "norm_placement": placement, **attention}
        yield f"task={TASKS[0]}", chosen, None, ""


def tasks() -> Iterator[Case]:
    """The other tasks, and options of tasks, with all positions; norms and attentions in turn."""
    for number, (task, position) in enumerate(itertools.product(TASKS[1:], POSITIONS)):
        norm, placement = NORMS[number % 2], NORM_PLACEMENTS[number // 2 % 2]
        options = {"position": position, "norm": norm, "norm_placement": placement, **ATTENTIONS[number % 4]}
        yield f"task={task}", options, None, ""


def options() -> Iterator[Case]:
    """Translation with the other options of the backbone, one at a time."""
    for each in OPTIONS:
        yield f"task={TASKS[0]}", each, None, ""


def example() -> Iterator[Case]:
    """The plugin of the guide in all tasks; it has no mask for each query, so packed texts are not for it."""
    for task in TASKS:
        if task != "lm task.document_mask=true":
            yield f"task={task} model.attention=linear", {}, EXAMPLES / "linear_attention.py", ""


def plugins() -> Iterator[Case]:
    """The example plugins, each with all its words.

    Raises:
        AssertionError: If the folder has other plugins than `PLUGINS` has.
    """
    files = {file.stem: file for file in (EXAMPLES / "gated_attention.py", *(EXAMPLES / "plugins").glob("*.py"))}
    assert files.keys() == PLUGINS.keys(), f"PLUGINS is not as the folder: {files.keys() ^ PLUGINS.keys()}"
    for name, several in PLUGINS.items():
        yield from ((words, {}, files[name], "") for words in several)


def defects() -> Iterator[Case]:
    """Each seeded defect."""
    module = sys.modules[load_plugin(str(DEFECTS)).attention["plain"].__module__]
    for key, name, _, check in module.all_defects():
        options = {key: name} | ({"position": "none"} if name == "wrong_places" else {})
        yield f"task={TASKS[0]}", options, DEFECTS, check


PARTS: dict[str, Callable[[], Iterator[Case]]] = {
    each.__name__: each for each in (defects, plugins, example, tasks, options, grid)
}


class Models:
    """Builds models. Those that only differ in options of the model share the data and tokenizers of their task."""

    def __init__(self) -> None:
        self.of_task: dict[str, Subject] = {}
        self.plugin = load_plugin(str(DEFECTS))

    def get(self, words: str, options: dict[str, Any], file: Path | None) -> tuple[Subject, Subject | None]:
        """The model of a case, and its baseline."""
        if not options:
            return subjects(compose([*([f"plugin={file}"] if file else []), *words.split(), *SIZES]))[:2]
        if words not in self.of_task:
            self.of_task[words] = subjects(compose([*words.split(), *SIZES]))[0]
        base = self.of_task[words]
        config = copy.deepcopy(base.config)
        for key, value in options.items():
            node, _, field = key.rpartition(".")
            setattr(getattr(config, node or "model"), field, value)
        config.model.__post_init__()
        plugin = self.plugin if file else None
        theirs = without_parts(config)
        return Subject(config, plugin, base.prepared), theirs and Subject(theirs, plugin, base.prepared)


def write_tagged(file: Path) -> None:
    """Writes rows of words and their tags, the data of the plugin that tags."""
    tags = {"the": "D", "a": "D", "dog": "N", "cat": "N", "sees": "V", "likes": "V", "old": "A", "small": "A"}
    rows = [words for count in (1, 2, 3) for words in itertools.product(tags, repeat=count)]
    lines = [f"{' '.join(words)}\t{' '.join(tags[word] for word in words)}" for words in rows]
    file.write_text("\n".join(["words\ttags", *lines]) + "\n")


def main(words: list[str]) -> int:
    """Runs all models; the status is 1 if one is not as it should be."""
    settings, rest = split_words(words, SETTINGS)
    if rest:
        raise SystemExit(f"settings are {', '.join(SETTINGS)}")
    out = Path(settings["out"]).absolute() if settings["out"] else None
    models = Models()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_tagged(Path("tagged.tsv"))
        for part in settings["part"].split(","):
            found[part] = []
            for case in itertools.islice(PARTS[part](), settings["limit"] or None):
                found[part].append(judged(models, case))
                if out:
                    out.write_text(json.dumps(found, indent=1) + "\n")
            seconds = [case["seconds"] for case in found[part]]
            right = sum(case["right"] for case in found[part])
            print(f"{part}: {right} of {len(seconds)} as they should be; processor seconds of a model "
                  f"{min(seconds):.1f} to {max(seconds):.1f}, median {statistics.median(seconds):.1f}",
                  flush=True)  # fmt: skip
    return int(not all(case["right"] for cases in found.values() for case in cases))


def judged(models: Models, case: Case) -> dict[str, Any]:
    """What the doctor says of a model, and whether that is right."""
    words, options, file, check = case
    began = time.process_time()
    outcomes = list(examine(*models.get(words, options, file), [name for name in CHECKS if name not in LEFT_OUT]))
    seconds = round(time.process_time() - began, 2)
    findings = {each.name: each.text for each in outcomes if each.status == FINDING}
    right = check in findings if check else not findings
    plugin = file.name if file else ""
    if not right:
        print(f"NOT RIGHT: {plugin} {words} {options}: wanted {check or 'nothing'}, {findings}", flush=True)
    skipped = [each.name for each in outcomes if each.status == SKIPPED]
    shown = {"plugin": plugin, "words": words, "options": options, "wanted": check}
    return {**shown, "findings": findings, "skipped": skipped, "right": right, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
