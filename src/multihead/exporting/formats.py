"""An export from start to end: written, read back from disk, compared, and only then put in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from multihead.config.task import OWN, SINGLE_TASKS
from multihead.config.verbs import ExportSettings
from multihead.errors import ConfigError
from multihead.exporting import accuracy, ctranslate, ctranslate_runtime, huggingface, lora, places, programs, remote
from multihead.exporting.verify import Example, Reference, Verification, equal_share, verify, verify_tokenizer
from multihead.runs.directory import save_vocab
from multihead.runs.run import Run
from multihead.tasks.base import Task
from multihead.text.vocabulary import Vocabulary

TRACED = ("onnx", "torch_export")
"""Formats that hold any model, because they record what it computes."""


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


def export(run: Run, settings: ExportSettings) -> tuple[Path, Verification]:
    """Writes a run in another format.

    Args:
        run: A finished run.
        settings: What the command line asks for.

    Returns:
        The folder, and how it compares with the run's own model.

    Raises:
        ConfigError: The format cannot hold the model.
        CheckpointError: The export does not compute what the run computes; nothing of it is left.
        MachineError: The folder cannot be written.
    """
    out, task = folder_of(settings, run.path), run.task.member(settings.part)
    name = task.settings.name
    if name not in SINGLE_TASKS:
        what = f"task={name} is a plugin's; only our own tasks are exported, because an export is compared with its run"
        raise ConfigError("run", what, "multihead.load(RUN, 'plugin=FILE.py').model is a plain nn.Module")
    if task.settings.head not in OWN and settings.to not in TRACED:
        what = f"to={settings.to} has no place for a plugin's head"
        raise ConfigError(f"task.head={task.settings.head}", what, f"to={' or '.join(TRACED)}")
    reference = Reference(task, replace(run.config.decoding, do_sample=False, num_return_sequences=1))
    examples = places.examples(task, run.path, settings.sentences)
    with places.put_in_place(out) as folder:
        if settings.to in ("huggingface", "lora"):
            layout = lora if settings.to == "lora" else remote if settings.remote_code else huggingface
            layout.write(task, folder, run.path)
            verify_tokenizer(task, folder / "tokenizer.json")
            wanted = reference.outputs(examples)
            verification = verify(layout.read_back(folder, reference), reference, examples, wanted, exact=True)
        else:
            write = _ctranslate2 if settings.to == "ctranslate2" else _programs
            verification = write(folder, reference, examples, settings, run.path)
        verification.save(folder)
    return out, verification


def own_vocab(task: Task) -> Vocabulary:
    """The vocabulary with the tokenizers of the task's own roles. The other tasks of the run read other marks."""
    roles = (*task.settings.roles, *task.settings.optional_roles)
    own = {role: tokenizer for role, tokenizer in task.vocab.tokenizers.items() if role in roles}
    return replace(task.vocab, tokenizers=own)


def _ctranslate2(
    folder: Path, reference: Reference, examples: list[Example], settings: ExportSettings, _: Path
) -> Verification:
    """CTranslate2 searches by rules of its own.

    By these rules, its outputs must be those of our own search. How many are those of ``predict`` is only measured.
    """
    task, quantization = reference.task, settings.quantization or "float32"
    ctranslate.check(task, reference.decoding)
    ctranslate.write(task, folder, quantization)
    files = save_vocab(folder, own_vocab(task))
    plain = replace(reference.decoding, no_repeat_ngram_size=0, min_new_tokens=0)
    ours = Reference(task, plain, shared_out=True)
    runtime = ctranslate_runtime.Runtime(folder, ours)
    verification = verify(runtime, ours, examples, ours.outputs(examples), exact=quantization == "float32")
    predicted = reference.outputs(examples)
    equal = {}
    for patience in (1.0, ctranslate_runtime.EXHAUSTIVE_PATIENCE) if plain.num_beams > 1 else (1.0,):
        found = ctranslate_runtime.Runtime(folder, reference, patience).outputs(examples)
        equal[f"patience={patience:g}"] = equal_share(found, predicted)
    verification.settings = {"words": runtime.settings(), "equal_to_predict": equal}
    (folder / "README.md").write_text(ctranslate_runtime.readme(reference, files, equal), encoding="utf-8")
    return verification


def _programs(
    folder: Path, reference: Reference, examples: list[Example], settings: ExportSettings, run_dir: Path
) -> Verification:
    programs.write(reference, folder, settings.to)
    exact = settings.quantization != "int8"
    if not exact:
        programs.quantize(folder)
    files = save_vocab(folder, own_vocab(reference.task))
    programs.write_tokenizers(reference.task, folder, files)
    verify_tokenizer(reference.task, folder / next(iter(files.values())))
    if settings.to == "onnx" and reference.pooled:
        programs.write_script(reference.task, folder)
    wanted = reference.outputs(examples, greedy=True)
    runtime = programs.Runtime(folder, reference, settings.to)
    verification = verify(runtime, reference, examples, wanted, exact=exact)
    text = programs.readme(reference, files, settings.to)
    if not exact:
        text += programs.cost_of_int8(verification, accuracy.measured(runtime, reference, run_dir, examples))
    (folder / "README.md").write_text(text, encoding="utf-8")
    return verification
