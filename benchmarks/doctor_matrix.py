"""Checks the checks of ``multihead doctor``: python benchmarks/doctor_matrix.py out=FILE

Our own variants of the backbone and the example plugin must raise no alarm, and each seeded defect of
`tests/checking/defects.py` must be found by the check that it names. All models are tiny. It prints a line for each
model that is not as it should be, and how long a model took. The status is 1 if there is such a line.

Settings: part=defects,options,tasks,example,plugins,grid (what is run) limit=N (models of a part; 0 is all) out=FILE.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
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
SETTINGS = {"part": "defects,options,tasks,example,plugins,grid", "limit": 0, "out": ""}
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
PLUGINS = {
    **{"cooldown": {"optim.schedule": "one_minus_sqrt"}, "lion": {"optim.name": "lion"}, "dyt": {"norm": "dyt"}},
    **{name: {"attention": name} for name in ("differential", "sliding_window")},
    **{"experts": {"feed_forward": "experts"}, "kerple": {"position": "kerple"}},
    **{"values": {"attention": "values", "stack": "values"}, "r_drop": {"task.loss": "r_drop", "dropout": 0.1}},
}
"""Plugins in `docs/examples/plugins` with the options that choose their parts."""
LEFT_OUT = ("widths", "export", "cost")
"""Checks that only inform."""


Case = tuple[str, dict[str, Any], str, str]
"""Task, options of the model, the plugin (none, example or defects), and the check that must find something."""


def grid() -> Iterator[Case]:
    """Translation with all positions, norms, their places, and kinds of attention."""
    for position, norm, placement, attention in itertools.product(POSITIONS, NORMS, NORM_PLACEMENTS, ATTENTIONS):
        yield TASKS[0], {"position": position, "norm": norm, "norm_placement": placement, **attention}, "none", ""


def tasks() -> Iterator[Case]:
    """The other tasks, and options of tasks, with all positions; norms and attentions in turn."""
    for number, (task, position) in enumerate(itertools.product(TASKS[1:], POSITIONS)):
        norm, placement = NORMS[number % 2], NORM_PLACEMENTS[number // 2 % 2]
        options = {"position": position, "norm": norm, "norm_placement": placement, **ATTENTIONS[number % 4]}
        yield task, options, "none", ""


def options() -> Iterator[Case]:
    """Translation with the other options of the backbone, one at a time."""
    for each in OPTIONS:
        yield TASKS[0], each, "none", ""


def example() -> Iterator[Case]:
    """The plugin of the guide in all tasks; it has no mask for each query, so packed texts are not for it."""
    for task in TASKS:
        if task not in ("lm task.objective=masked", "lm task.document_mask=true"):
            yield task, {"attention": "linear"}, "example", ""


def plugins() -> Iterator[Case]:
    """The example plugins that change a translation model or how it is trained."""
    for name, chosen in PLUGINS.items():
        yield TASKS[0], chosen, name, ""


def defects(models: Models) -> Iterator[Case]:
    """Each seeded defect."""
    module = sys.modules[models.plugins["defects"].attention["plain"].__module__]
    for key, name, _, check in module.all_defects():
        yield TASKS[0], {key: name} | ({"position": "none"} if name == "wrong_places" else {}), "defects", check


class Models:
    """Models that share the data and tokenizers of their task."""

    def __init__(self) -> None:
        self.of_task: dict[str, Subject] = {}
        examples = ROOT / "docs" / "examples"
        files = {"example": examples / "linear_attention.py", "defects": ROOT / "tests" / "checking" / "defects.py"}
        files |= {name: examples / "plugins" / f"{name}.py" for name in PLUGINS}
        self.plugins: dict[str, Any] = {name: load_plugin(str(file)) for name, file in files.items()} | {"none": None}

    def get(self, task: str, options: dict[str, Any], name: str) -> tuple[Subject, Subject | None]:
        """The model of a task with these options and the plugin of this name, and its baseline."""
        plugin = self.plugins[name]
        if task not in self.of_task:
            self.of_task[task] = subjects(compose([f"task={task.split()[0]}", *task.split()[1:], *SIZES]))[0]
        base = self.of_task[task]
        config = copy.deepcopy(base.config)
        dotted = {key: value for key, value in options.items() if "." in key}
        for key, value in dotted.items():
            node, _, field = key.partition(".")
            setattr(getattr(config, node), field, value)
        config.model = dataclasses.replace(config.model, **{k: v for k, v in options.items() if k not in dotted})
        for name in (name for name in options.values() if plugin and name in plugin.options):
            config.options[name] = plugin.options[name]()
        theirs = without_parts(config)
        subject = Subject(config, plugin, base.prepared)
        return subject, None if theirs is None else Subject(theirs, plugin, base.prepared)


def main(words: list[str]) -> int:
    """Runs all models; the status is 1 if one is not as it should be."""
    settings, rest = split_words(words, SETTINGS)
    if rest:
        raise SystemExit(f"settings are {', '.join(SETTINGS)}")
    models = Models()
    kinds: dict[str, Iterable[Case]] = {"defects": defects(models), "options": options(), "tasks": tasks()}
    kinds |= {"example": example(), "plugins": plugins(), "grid": grid()}
    found: dict[str, list[dict[str, Any]]] = {}
    for part in settings["part"].split(","):
        found[part] = []
        for case in itertools.islice(kinds[part], settings["limit"] or None):
            found[part].append(judged(models, case))
            if settings["out"]:
                Path(settings["out"]).write_text(json.dumps(found, indent=1) + "\n")
        seconds = sorted(case["seconds"] for case in found[part])
        right = sum(case["right"] for case in found[part])
        sys.stdout.write(f"{part}: {right} of {len(seconds)} as they should be; processor seconds of a model "
                         f"{seconds[0]:.1f} to {seconds[-1]:.1f}\n")  # fmt: skip
        sys.stdout.flush()
    return int(not all(case["right"] for cases in found.values() for case in cases))


def judged(models: Models, case: Case) -> dict[str, Any]:
    """What the doctor says of a model, and whether that is right."""
    task, options, plugin, check = case
    began = time.process_time()
    outcomes = list(examine(*models.get(task, options, plugin), [name for name in CHECKS if name not in LEFT_OUT]))
    seconds = round(time.process_time() - began, 2)
    findings = {each.name: each.text for each in outcomes if each.status == FINDING}
    right = check in findings if check else not findings
    if not right:
        sys.stdout.write(f"NOT RIGHT: task={task} {options}: wanted {check or 'nothing'}, {findings}\n")
        sys.stdout.flush()
    skipped = [each.name for each in outcomes if each.status == SKIPPED]
    shown = {"task": task, "options": options, "wanted": check, "findings": findings, "skipped": skipped}
    return {**shown, "right": right, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
