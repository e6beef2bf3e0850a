"""Exports of finished runs in environments without Multihead, beside what the run itself answers.

    python benchmarks/bare_environments.py classifier=RUN lm=RUN translator=RUN [own_code=RUN] [texts=200]
        [onnx_texts=500] [out=benchmarks/results/bare_environments]

A bare environment is a folder with links to the named packages, to what they require, and to nothing else. Python
starts there without a site (``python -S -I``), so that no other package can be imported.

- transformers and torch: ``AutoModelForSequenceClassification`` and ``pipeline("text-classification")`` on the export
  of the classifier, ``AutoModelForCausalLM`` on that of the language model (greedy continuations),
  ``AutoModelForSeq2SeqLM`` on that of the translator (greedy, and four beams; the most tokens of each output are those
  that ``predict`` allows). ``own_code`` is a language model of no published family, by ``trust_remote_code=True``.
- onnxruntime, tokenizers and numpy: the ``predict.py`` of the ONNX folder.

The other runs must have the model of a published family, for example BERT. The guide names the options for it.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rounds import split_words

import multihead
from multihead.config.verbs import ExportSettings
from multihead.exporting.formats import export
from multihead.exporting.verify import Example, Reference
from multihead.runs.run import Run
from multihead.text.inputs import is_blank

OWN = {"classifier": "", "lm": "", "translator": "", "own_code": "", "texts": 200, "onnx_texts": 500, "out": ""}
ODD = [
    "",
    " ",
    "\u200b",
    "👩‍👩‍👧‍👦 🇩🇪",
    "the dog " * 400,
    "東京は good 大きい мир",
    "مرحبا the بالعالم",
    "a\tb",
    "don't l'été ß",
    "[SEP] [CLS] <pad> <eos>",
    "x" * 500,
    "\u202etxet",
    "a\u0301 e\u0301",
    "1,234.5e-6 $%&",
    "\ufefffilm",
]

CLASSIFY = """
import json, sys, time
began = time.perf_counter()
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, texts = sys.argv[1], json.load(open(sys.argv[2]))
model = AutoModelForSequenceClassification.from_pretrained(folder)
ask = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None)
first = ask(texts[:1], truncation=True)
started = time.perf_counter() - began
found = [{each["label"]: each["score"] for each in row} for row in ask(texts, truncation=True)]
print(json.dumps({"seconds_to_first": started, "found": found}))
"""
CONTINUE = """
import json, sys, time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts = sys.argv[1], json.load(open(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
with torch.inference_mode():
    found = [
        model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=16)[0, len(ids) :].tolist()
        for ids in prompts
    ]
print(json.dumps({"found": found}))
"""
TRANSLATE = """
import json, sys
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder, given = sys.argv[1], json.load(open(sys.argv[2]))
model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
found = {}
for beams in (1, 4):
    rows = []
    for text, most in given:
        source = tokenizer(text, return_tensors="pt", truncation=True)
        made = model.generate(**source, num_beams=beams, max_new_tokens=most,
                              early_stopping="never" if beams > 1 else False)
        rows.append(tokenizer.decode(made[0], skip_special_tokens=True))
    found[str(beams)] = rows
print(json.dumps({"found": found}))
"""
ONNX = """
import json, sys, time
began = time.perf_counter()
sys.path.append(sys.argv[1])
import predict
texts = json.load(open(sys.argv[2]))
answer = lambda texts: predict.probabilities(predict.outputs(texts)).tolist()
answer(texts[:1])
started = time.perf_counter() - began
began = time.perf_counter()
found = answer(texts)
print(json.dumps({"seconds_to_first": started, "seconds": time.perf_counter() - began, "found": found}))
"""


def environment(folder: Path, packages: Sequence[str]) -> list[str]:
    """Fills a folder with links to packages and to all that they require; returns their names with versions."""
    names, waiting = {}, list(packages)
    while waiting:
        name = waiting.pop()
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # required on another platform
            continue
        key = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        if key in names:
            continue
        names[key] = f"{key} {found.version}"
        wanted = [entry for entry in found.requires or () if "extra ==" not in entry]
        waiting += [re.split(r"[\s;<>=!~\[(]", entry)[0] for entry in wanted]
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))).resolve())
    return sorted(names.values())


def inside(site: Path, program: str, *words: str) -> dict[str, Any]:
    """Runs a program in a bare environment; returns the JSON of its last line."""
    path = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    absent = "import importlib.util\nassert importlib.util.find_spec('multihead') is None\n"
    command = [sys.executable, "-S", "-I", "-c", path + absent + program, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def inputs(run: Run, count: int) -> list[str]:
    """The run's own test inputs, and odd ones in front."""
    with open(run.path / "samples.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return (ODD + list(dict.fromkeys(row["text"] for row in rows if "text" in row)) * count)[:count]


def exported(run: Run, to: str, folder: Path, *, own_code: bool = False) -> Path:
    settings = ExportSettings(run=str(run.path), to=to, out=str(folder / to), remote_code=own_code)
    return export(run, settings)[0]


def classified(run: Run, settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The classifier in both environments."""
    rows, texts = [], inputs(run, max(settings["texts"], settings["onnx_texts"]))
    (folder / "texts.json").write_text(json.dumps(texts))
    began = time.perf_counter()
    ours = [{each["label"]: each["probability"] for each in row} for row in run.task.answers(texts)]
    seconds = time.perf_counter() - began
    for title, to, program, packages, count in (
        ("transformers", "huggingface", CLASSIFY, ["transformers", "torch"], settings["texts"]),
        ("onnxruntime", "onnx", ONNX, ["onnxruntime", "tokenizers", "numpy"], settings["onnx_texts"]),
    ):
        (folder / "texts.json").write_text(json.dumps(texts[:count]))
        site = folder / f"site_{to}"
        site.mkdir()
        versions = environment(site, packages)
        found = inside(site, program, str(exported(run, to, folder)), str(folder / "texts.json"))
        labels = run.task.labels
        theirs = [row if isinstance(row, dict) else dict(zip(labels, row, strict=True)) for row in found["found"]]
        pairs = list(zip(ours, theirs, strict=False))
        row = {
            "environment": title,
            "model": "classifier",
            "inputs": count,
            "largest_difference": max(abs(a[label] - b[label]) for a, b in pairs for label in labels),
            "equal_outputs": sum(max(a, key=a.__getitem__) == max(b, key=b.__getitem__) for a, b in pairs),
            "seconds_to_first": found["seconds_to_first"],
            "packages": versions,
        }
        if "seconds" in found:
            row["pace_beside_predict"] = seconds / len(texts) * count / found["seconds"]
        rows.append(row)
    return rows


def translated(run: Run, count: int, folder: Path) -> list[dict[str, Any]]:
    """Translations, character for character. Blank inputs are left out: ``predict`` does not ask the model for them."""
    with open(run.path / "samples.jsonl", encoding="utf-8") as file:
        samples = [json.loads(line)["source"] for line in file]
    odd = [text for text in ODD if not is_blank(text)]
    texts = (odd + list(dict.fromkeys(samples)) * count)[:count]
    task = run.task
    reference, cut = Reference(task, run.config.decoding), task.limits()["source"]
    ids = [row[:cut] for row in task.tokenizers["source"].encode_batch(texts)]
    given = [(text, reference.limit(Example(row, []))) for text, row in zip(texts, ids, strict=True)]
    (folder / "texts.json").write_text(json.dumps(given))
    site = folder / "site_translator"
    site.mkdir()
    versions = environment(site, ["transformers", "torch"])
    found = inside(site, TRANSLATE, str(exported(run, "huggingface", folder)), str(folder / "texts.json"))["found"]
    rows = []
    for beams, theirs in found.items():
        ours = run.translate(texts, num_beams=int(beams))
        title = f"translator, {'greedy' if beams == '1' else beams + ' beams'}"
        row = {"environment": "transformers", "model": title, "inputs": count, "packages": versions}
        rows.append(row | {"equal_outputs": sum(a == b for a, b in zip(ours, theirs, strict=True))})
        for text, a, b in zip(texts, ours, theirs, strict=True):
            if a != b:
                print(f"{title}: {text!r}: {a!r} != {b!r}")
    return rows


def continued(run: Run, count: int, folder: Path, *, own_code: bool = False) -> dict[str, Any]:
    """Greedy continuations of a language model's prompts, token for token."""
    texts = (ODD + ["The woman", "A dog", "the old man", "He"] * count)[:count]
    most = run.config.model.max_len - 17
    prompts = [run.task._encode(text)[-most:] for text in texts]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    site = folder / "site_lm"
    site.mkdir()
    versions = environment(site, ["transformers", "torch"])
    there = str(exported(run, "huggingface", folder, own_code=own_code))
    found = inside(site, CONTINUE, there, str(folder / "prompts.json"))["found"]
    import torch

    equal = 0
    for prompt, theirs in zip(prompts, found, strict=True):
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(len(theirs)):
                hidden = run.task.hidden(torch.tensor([ids]))[:, -1]
                ids.append(int(run.model.head(hidden).argmax()))
        equal += ids[len(prompt) :] == theirs
    return {
        "environment": "transformers",
        "model": "lm, own code" if own_code else "lm",
        "inputs": count,
        "equal_outputs": equal,
        "packages": versions,
    }


def main(words: Sequence[str]) -> None:
    settings, _ = split_words(words, OWN)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for kind in ("classifier", "lm", "own_code", "translator"):
            if not settings[kind]:
                continue
            run, folder = multihead.load(settings[kind]), Path(name) / kind
            folder.mkdir()
            if kind == "classifier":
                rows += classified(run, settings, folder)
            elif kind == "translator":
                rows += translated(run, settings["texts"], folder)
            else:
                rows.append(continued(run, settings["texts"], folder, own_code=kind == "own_code"))
    head = ["environment", "model", "inputs", "equal_outputs", "largest_difference", "seconds_to_first"]
    head.append("pace_beside_predict")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = (row.get(name, "") for name in head)
        lines.append(f"| {' | '.join(f'{x:.3g}' if isinstance(x, float) else str(x) for x in cells)} |")
    table = "\n".join(lines)
    print(table)
    if settings["out"]:
        Path(settings["out"] + ".json").write_text(json.dumps(rows, indent=1) + "\n")
        Path(settings["out"] + ".md").write_text(f"# Exports in environments without Multihead\n\n{table}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
