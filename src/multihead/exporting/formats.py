"""The formats: each writes a folder, reads it back, and is compared before the folder is put in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from multihead.config.check import require
from multihead.config.task import SINGLE_TASKS
from multihead.config.verbs import ExportSettings
from multihead.exporting import ctranslate, places, programs, weights
from multihead.exporting.verify import Example, Reference, Verification, equal_share, verify
from multihead.runs.directory import save_vocab
from multihead.runs.run import Run
from multihead.tasks.base import Task


def require_packages(to: str) -> None:
    """Imports what a format needs before anything else is done.

    Raises:
        ConfigError: A package is not installed; the message says how to install it.
    """
    if to == "ctranslate2":
        ctranslate.import_ctranslate2()
    if to == "onnx":
        programs.import_onnx()


def folder_of(settings: ExportSettings, run_dir: Path) -> Path:
    """The folder that an export is written to."""
    if settings.out:
        return Path(settings.out)
    kind = f"_{settings.quantization}" if settings.quantization not in ("", "float32") else ""
    return run_dir / "export" / (settings.to + kind)


def export(run: Run, settings: ExportSettings, words: Sequence[str] = ()) -> tuple[Path, Verification]:
    """Writes a run in another format; returns where, and how it compares with the run's own model.

    Args:
        run: A finished run.
        settings: What the command line asks for.
        words: ``plugin=FILE.py`` where the run needs one.

    Raises:
        ConfigError: The format has no words for the model, or a package is not installed.
        CheckpointError: What was written does not do what the run does; nothing is left of it.
        MachineError: It cannot be written.
    """
    out = folder_of(settings, run.path)
    with places.put_in_place(out) as folder:
        if settings.to == "safetensors":
            verification = _safetensors(folder, run, settings, words)
        else:
            reference = _reference(run, run.task.member(settings.part))
            examples = places.examples(reference.task, run.path, settings.sentences)
            write = _ctranslate2 if settings.to == "ctranslate2" else _programs
            verification = write(folder, reference, examples, settings)
        verification.save(folder)
    return out, verification


def _reference(run: Run, task: Task) -> Reference:
    name = task.settings.name
    require(name in SINGLE_TASKS, "run", f"a run of {', '.join(SINGLE_TASKS)} to be compared", name)
    return Reference(task, replace(run.config.decoding, do_sample=False, num_return_sequences=1))


def _ctranslate2(folder: Path, reference: Reference, examples: list[Example], settings: ExportSettings) -> Verification:
    """Refused where it finds others than our search by the library's rules; how often those of ``predict`` is told."""
    task, quantization = reference.task, settings.quantization or "float32"
    ctranslate.check(task, reference.decoding)
    ctranslate.write(task, folder, quantization)
    files = save_vocab(folder, task.vocab)
    plain = replace(reference.decoding, no_repeat_ngram_size=0, min_new_tokens=0)
    ours = Reference(task, plain, shared_out=True)
    runtime = ctranslate.Runtime(folder, ours)
    verification = verify(runtime, ours, examples, ours.outputs(examples), exact=quantization == "float32")
    predicted = reference.outputs(examples)
    told = {}
    for patience in (1.0, ctranslate.EXHAUSTIVE_PATIENCE) if plain.num_beams > 1 else (1.0,):
        found = ctranslate.Runtime(folder, reference, patience).outputs(examples)
        told[f"patience={patience:g}"] = equal_share(found, predicted)
    verification.settings = {"words": runtime.settings(), "equal_to_predict": told}
    (folder / "README.md").write_text(ctranslate.readme(reference, files, told), encoding="utf-8")
    return verification


def _programs(folder: Path, reference: Reference, examples: list[Example], settings: ExportSettings) -> Verification:
    programs.write(reference, folder, settings.to)
    files = save_vocab(folder, reference.task.vocab)
    (folder / "README.md").write_text(programs.readme(reference, files, settings.to), encoding="utf-8")
    wanted = reference.outputs(examples, greedy=True)
    return verify(programs.Runtime(folder, reference, settings.to), reference, examples, wanted, exact=True)


def _safetensors(folder: Path, run: Run, settings: ExportSettings, words: Sequence[str]) -> Verification:
    """Every task of the run is compared; what is told is the one that differs most, of all inputs together."""
    weights.write(run.task, run.path, folder)
    fresh, found = weights.load(folder, words).members(), []
    for name, task in run.task.members().items():
        reference = _reference(run, task)
        examples = places.examples(task, run.path, settings.sentences)
        wanted = reference.outputs(examples)
        found.append(verify(weights.Runtime(fresh[name], reference), reference, examples, wanted, exact=True))
    worst = max(found, key=lambda each: (1 - each.equal_outputs, each.largest_difference))
    return replace(worst, inputs=sum(each.inputs for each in found))
