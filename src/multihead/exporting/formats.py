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
    task, quantization = reference.task, request.quantization or "float32"
    ctranslate.check(task, reference.decoding)
    ctranslate.write(task, folder, quantization)
    files = save_vocab(folder, task.vocab)
    runtime, wanted = ctranslate.Runtime(folder, reference), reference.outputs(examples)
    verification = verify(runtime, reference, examples, wanted, exact=quantization == "float32")
    usual = equal_share(ctranslate.Runtime(folder, reference, patience=1.0).outputs(examples), wanted)
    verification.settings = {**runtime.settings(), "equal_outputs_with_patience_1": usual}
    (folder / "README.md").write_text(ctranslate.readme(reference, files, usual), encoding="utf-8")
    return verification
