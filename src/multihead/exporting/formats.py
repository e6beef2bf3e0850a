"""The formats: each writes a folder, reads it back, and is compared before the folder is put in place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from multihead.config.check import require, require_choice
from multihead.errors import ConfigError
from multihead.exporting import ctranslate, places
from multihead.exporting.verify import Example, Reference, Verification, equal_share, verify
from multihead.run import Run, save_vocab

FORMATS = ("ctranslate2",)


@dataclass(kw_only=True)
class Request:
    """What is asked for on the command line."""

    to: str
    """One of `FORMATS`."""
    out: str = ""
    """The folder; by default RUN/export/FORMAT, with the quantization in its name where there is one."""
    quantization: str = ""
    """Of ctranslate2: how weights are stored; float32 where it is empty."""
    sentences: int = 100
    """Inputs that are compared."""
    part: str = ""
    """The task, of a run of several."""

    def check(self) -> None:
        """Refuses what cannot be, before anything heavy happens.

        Raises:
            ConfigError: A word, or a package that is not installed.
        """
        if not self.to:
            raise ConfigError("to", f"is missing; there are {', '.join(FORMATS)}", "to=ctranslate2")
        require_choice("to", self.to, FORMATS)
        if self.quantization:
            what = "left out: weights are stored in other types by to=ctranslate2 only"
            require(self.to == "ctranslate2", "quantization", what, self.quantization)
            require_choice("quantization", self.quantization, ctranslate.QUANTIZATIONS)
        if self.to == "ctranslate2":
            ctranslate.import_ctranslate2()

    def folder(self, run_dir: Path) -> Path:
        """Where the export goes."""
        if self.out:
            return Path(self.out)
        kind = f"_{self.quantization}" if self.quantization not in ("", "float32") else ""
        return run_dir / "export" / (self.to + kind)


def export(run: Run, request: Request) -> tuple[Path, Verification]:
    """Writes a run in another format; returns where, and how it compares with the run's own model.

    Raises:
        ConfigError: The format has no words for the model, or a package is not installed.
        CheckpointError: What was written does not do what the run does; nothing is left of it.
        MachineError: It cannot be written.
    """
    task = run.task.member(request.part)
    reference = Reference(task, replace(run.config.decoding, do_sample=False, num_return_sequences=1))
    examples = places.examples(task, run.path, request.sentences)
    out = request.folder(run.path)
    with places.put_in_place(out) as folder:
        verification = _ctranslate2(folder, reference, examples, request)
        verification.save(folder)
    return out, verification


def _ctranslate2(folder: Path, reference: Reference, examples: list[Example], request: Request) -> Verification:
    """Refused where it finds others than our search by the library's rules; how often those of ``predict`` is told."""
    task, quantization = reference.task, request.quantization or "float32"
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
