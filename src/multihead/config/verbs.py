"""The settings of every command but ``train``: a default and its documentation stand in one place.

Those of some commands are in modules of their own: `many_runs`, `record` and `serving`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from multihead.config.check import require, require_choice
from multihead.config.many_runs import StudySettings, SweepSettings, VerifySettings
from multihead.config.record import ReproduceSettings
from multihead.config.serving import ServeSettings, ShowSettings
from multihead.config.settings import Settings, setting
from multihead.errors import ConfigError

EXPORT_FORMATS = ("ctranslate2", "onnx", "torch_export", "huggingface", "lora")
QUANTIZATIONS = ("float32", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16")
"""Types in which CTranslate2 stores weights."""
RUN_STATES = ("running", "finished", "failed", "stopped")
RUN_ORDERS = ("date", "metric", "time", "size", "steps", "parameters")
REPORT_FORMATS: Mapping[str, str] = {"markdown": ".md", "latex": ".tex", "html": ".html", "json": ".json"}
"""Formats of a comparison's report, each with the suffix of its files."""
DOCTOR_CHECKS = (
    *("outputs", "evaluation", "causality", "documents", "padding", "batch", "cache", "order", "lengths"),
    *("gradients", "micro_batches", "registration", "precision", "repeat", "resume", "reload", "scales"),
    *("cost", "widths", "export"),
)
"""The checks of ``doctor`` in their order."""
BLOCKS: Mapping[str, str] = {
    "attention": "task=lm model.attention=NAME",
    "causal_attention": "task=lm model.attention=NAME",
    "cross_attention": "task=translation model.attention=NAME",
    "feed_forward": "task=lm model.feed_forward=NAME",
    "norm": "task=lm model.norm=NAME",
    "position": "task=lm model.position=NAME",
    "embedding": "task=lm model.embedding=NAME",
    "layer": "task=lm model.layer=NAME",
    "stack": "task=lm model.stack=NAME",
    "optimizer": "task=lm optim.name=NAME",
    "schedule": "task=lm optim.schedule=NAME",
    "loss": "task=classification task.loss=NAME",
    "head": "task=lm task.head=NAME",
    "metric": "task=classification task.monitor=val/NAME task.monitor_mode=max",
    "report": "task=classification",
    "task": "task=NAME",
    "corpus": "task=translation data=NAME",
    "reader": "task=translation data=files data.format=NAME data.train=FILE.txt",
    "tokenizer": "task=lm tokenizer.kind=NAME",
    "callback": "task=lm",
}
"""What a new plugin can add, with the words that train with it."""
A_RUN = "run=outputs/TASK/DATA/..."
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""ORG/NAME on the Hugging Face hub."""


@dataclass(kw_only=True)
class EvaluateSettings(Settings):
    """Measures a finished run on any split or file, and calibrates classifiers.

    Translations and summaries are really decoded. The configuration is RUN/config.yaml plus what you type. The result
    is written beside result.json, never over it. A run of classification can also be calibrated, and thresholds can be
    chosen. This is done on the validation split; the outcome is kept in the run for predict and evaluate.
    """

    OTHER_KEYS: ClassVar[str] = "Every other key of the configuration can be set too."
    KEYS: ClassVar[tuple[str, ...]] = ("data.split", "data.test", "decoding.num_beams", "plugin")
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead evaluate run=outputs/translation/multi30k/... data.split=val decoding.num_beams=5",
        "multihead evaluate run=outputs/lm/grammar/... task.stride=1",
        "multihead evaluate run=outputs/classification/sms_spam/... calibrate=true",
        "multihead evaluate run=outputs/translation/grammar/... phenomena=true",
    )

    run: list[str] = setting([], takes="RUN", example=A_RUN)
    """The run's directory. Several, as run=[A,B], give one table."""
    ensemble: list[str] = setting([], takes="RUN")
    """More runs of translation or summarization, which translate together with run=, as for predict."""
    calibrate: bool | None = setting(None)
    """true fits a temperature for the probabilities of a classifier; false removes it."""
    threshold: str = setting(takes="CRITERION")
    """How the threshold of a class is chosen: f1 (the largest F1), precision:0.99, or cost:C if a false positive costs
    as much as C false negatives. none removes all thresholds."""
    threshold_label: str = setting(takes="CLASS")
    """The class that threshold= is for. A run with task.multi_label=true may leave it out; then every class gets a
    threshold of its own."""
    phenomena: bool = setting(False)
    """Whether the share of right answers is also given by what the sentences contain, such as relative clauses or
    negation. It is known for data=grammar only. A language model chooses between pairs of sentences, of which one has a
    verb that disagrees with its subject."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.threshold not in ("", "none"):
            read_criterion(self.threshold)
        elif self.threshold_label and not self.threshold:
            what = "names a class, but threshold= is missing"
            raise ConfigError("threshold_label", what, "threshold=cost:1")


def read_criterion(text: str) -> tuple[str, float]:
    """Splits ``precision:P`` or ``cost:C`` into the kind and the number; the number of ``f1`` is 0.

    Raises:
        ConfigError: It is neither, or the number is out of range.
    """
    if text == "f1":
        return text, 0.0
    match = re.fullmatch(r"(precision|cost):(\d*\.?\d+(?:[eE][+-]?\d+)?)", text)
    if match is None:
        raise ConfigError(
            "threshold", f"must be f1, precision:P, cost:C or none, got {text!r}", "threshold=precision:0.99"
        )
    kind, number = match[1], float(match[2])
    if kind == "precision":
        require(0 < number <= 1, "threshold", "a precision in (0, 1]", text)
    else:
        require(0 < number < float("inf"), "threshold", "a cost above 0 and finite", text)
    return kind, number


@dataclass(kw_only=True)
class PredictSettings(Settings):
    """Translates, summarizes, continues, classifies or rates every line of standard input, or every row of a file.

    Each line is answered by one line, in order: a translation or a summary, a continuation (its newlines as \\n),
    label TAB probability, or the number of a regression. Type a pair of texts as TEXT TAB TEXT_B. Only
    RUN/config.yaml and RUN/model/ are needed. With file= and out=, the answers of a table become a table, in order.
    It may be CSV, TSV, JSON lines, Parquet or plain text, also compressed. Columns prediction and, for classes,
    probability follow those of keep=. If that is interrupted, OUT.partial.jsonl has the answers so far.
    """

    OTHER_KEYS: ClassVar[str] = "Every other key of the configuration can be set too, above all those below decoding."
    KEYS: ClassVar[tuple[str, ...]] = (
        "decoding.num_beams",
        "decoding.num_return_sequences",
        "decoding.do_sample",
        "plugin",
    )
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'echo "A man rides a bike." | multihead predict run=outputs/translation/multi30k/...',
        "multihead predict run=outputs/classification/sst2/... file=tickets.csv out=answers.csv keep=id",
        'echo "ROMEO:" | multihead predict run=outputs/lm/wikitext2/... decoding.do_sample=true decoding.top_p=0.9',
    )

    run: str = setting(takes="RUN", example=A_RUN)
    """The run's directory."""
    ensemble: list[str] = setting([], takes="RUN")
    """More runs of translation or summarization, as ensemble=[B,C]. Their probabilities and those of run= are averaged
    at each token. All must have one vocabulary, as runs that differ in the seed or the size of the model have."""
    part: str = setting(takes="TASK")
    """The task that answers, if the run has several."""
    format: str = setting("text", choices=("text", "jsonl"))
    """jsonl prints all outputs with scores, or all classes with probabilities."""
    file: str = setting(takes="FILE")
    """A table of inputs, which is read instead of standard input."""
    out: str = setting(takes="FILE")
    """The file of the answers. Its ending gives the format: .csv, .jsonl or .parquet."""
    keep: list[str] = setting([], takes="COLUMN")
    """Columns of the input file that stand before the answers, such as keep=id or keep=[id,date]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("out", "keep"):
            if getattr(self, name) and not self.file:
                raise ConfigError(name, "needs file=, the table of inputs", f"file=texts.csv {name}=...")


@dataclass(kw_only=True)
class ExportSettings(Settings):
    """Writes a finished run's model for another runtime, and compares the two.

    The export is read back from disk. On the run's test inputs, its logits under teacher forcing and its outputs are
    compared with the run's own. The folder is put in place only if they agree: in float32, logits to 1e-3 of their
    scale and 99 % of the outputs. Otherwise the exit status is 3. verification.json holds what was measured, and
    README.md says how to use the export. ctranslate2 and onnx need: pip install "multihead[export]".
    """

    OTHER_KEYS: ClassVar[str] = "Every other key of the configuration can be set too."
    KEYS: ClassVar[tuple[str, ...]] = ("decoding.num_beams", "plugin")
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead export run=outputs/translation/multi30k/... to=ctranslate2 quantization=int8 decoding.num_beams=5",
        "multihead export run=outputs/classification/sst2/... to=onnx quantization=int8",
        "multihead export run=outputs/classification/sst2/... to=huggingface push=ORG/NAME",
    )

    run: str = setting(takes="RUN", example=A_RUN)
    """The run's directory."""
    to: str = setting(takes="FORMAT", choices=EXPORT_FORMATS, example="to=ctranslate2")
    """The format. ctranslate2 runs translation, summarization and lm; onnx and torch_export run every task
    but a plugin's. huggingface is for the Auto classes of transformers, if the model is one of a published family, such
    as BERT's or Llama's. lora is the small file of adapters of a run with lora.r, for peft."""
    out: str = setting(takes="FOLDER")
    """The folder to write; by default RUN/export/FORMAT. The new export replaces an earlier one when it is whole."""
    quantization: str = setting(takes="TYPE", choices=QUANTIZATIONS)
    """The type in which to=ctranslate2 stores weights; by default float32. to=onnx takes float32 and int8. README.md in
    its folder says what int8 costs."""
    sentences: int = setting(100, takes="N")
    """Number of inputs on which the export is compared with the run."""
    remote_code: bool = setting(False)
    """Writes to=huggingface with the model's own code in one file, for trust_remote_code=True of transformers. Use it
    for a model that no published family has."""
    push: str = setting(takes="ORG/NAME")
    """Uploads a folder of to=huggingface or lora to this repository of the Hugging Face hub. You must be logged in (hf
    auth login). A new repository is private; hf repos settings ORG/NAME --public opens it. It needs: pip install
    "multihead[hub]"."""
    part: str = setting(takes="TASK")
    """The task to export, if the run has several."""

    def __post_init__(self) -> None:
        if self.to == "safetensors":
            what = "RUN/model has this format already: model.safetensors, model.json, and the tokenizers as JSON"
            raise ConfigError("to", what, "use that folder, or to=onnx")
        Settings.__post_init__(self)
        require(self.sentences >= 1, "sentences", "at least 1", self.sentences, "sentences=100")
        if self.to == "onnx":
            require_choice("quantization", self.quantization or "float32", ("float32", "int8"))
        elif self.quantization and self.to != "ctranslate2":
            what = f"left out if to={self.to}: only ctranslate2 and onnx store weights in other types"
            require(False, "quantization", what, self.quantization)
        if self.remote_code and self.to != "huggingface":
            require(False, "remote_code", f"false if to={self.to}", True, "remote_code=false")
        if self.push:
            fits = self.to in ("huggingface", "lora")
            require(fits, "push", f"left out if to={self.to}: the hub takes huggingface and lora", self.push)
            require(REPOSITORY.fullmatch(self.push) is not None, "push", "ORG/NAME", self.push, "push=ORG/NAME")


@dataclass(kw_only=True)
class ExplainSettings(Settings):
    """Prints a key's value, what set it, what that replaced, and what the key means.

    A node (key=model) explains every key below it.
    """

    OTHER_KEYS: ClassVar[str] = "All other words are as for train: task=translation model=small ..."
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead explain key=model.d_model task=translation model=small",
        "multihead explain key=optim run=outputs/translation/grammar/...",
    )

    key: str = setting(takes="KEY", example="key=optim.lr")
    """The key or node to explain."""
    run: str = setting(takes="RUN")
    """A run whose configuration is explained."""


@dataclass(kw_only=True)
class DiffSettings(Settings):
    """Shows what differs between two runs: configuration, environment and results.

    If a run is not finished, its last logged values are compared.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead diff a=outputs/translation/grammar/first b=outputs/translation/grammar/second",
    )

    a: str = setting(takes="RUN", example="a=outputs/...")
    """One run's directory."""
    b: str = setting(takes="RUN", example="b=outputs/...")
    """The other run's directory."""


@dataclass(kw_only=True)
class RunsSettings(Settings):
    """Lists the runs below a folder.

    The table has task, data, model (width x layers), state, the best value of the monitored metric, steps, time, size
    on disk, and when the run began (UTC). Damaged runs are named at the end.
    """

    OTHER_KEYS: ClassVar[str] = (
        "Every key of the configuration is a filter: task=lm optim.lr=1e-3 lists the runs that have these values."
    )
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead runs task=translation sort=metric",
        "multihead runs dir=outputs/sweeps state=failed",
        "multihead runs optim.lr=1e-3 model.d_model=128 format=jsonl",
    )

    dir: str = setting("outputs", takes="FOLDER")
    """The folder; all folders below it are searched."""
    state: str = setting(takes="STATE", choices=RUN_STATES)
    """Lists only the runs in this state. A stopped run continues with resume=RUN."""
    sort: str = setting("date", takes="ORDER", choices=RUN_ORDERS)
    """The order: newest, best, longest or largest first."""
    limit: int = setting(0, takes="N")
    """Lists only the first N runs; 0 lists all."""
    format: str = setting("table", choices=("table", "jsonl"))
    """jsonl prints one line of JSON for each run."""


@dataclass(kw_only=True)
class DataSettings(Settings):
    """Shows what your files hold, what may be wrong with them, and how to train on them.

    It prints the format and the columns, the classes with their counts, repeated texts and texts that are in two
    splits, and for each task the roles of the columns. Nothing is trained. Large files are sampled.
    """

    OTHER_KEYS: ClassVar[str] = "The keys below data. can be set too: they win over what is found."
    KEYS: ClassVar[tuple[str, ...]] = ("data.roles", "data.separator", "data.header", "data.encoding", "plugin")
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead data file=tickets.csv",
        "multihead data file=tickets.csv task=classification save=my_conf/data/tickets.yaml",
    )

    file: list[str] = setting([], takes="FILE", example="file=tickets.csv")
    """A file, a folder, a pattern in quotes ('texts/*.txt'), or several files as file=[A,B]."""
    task: str = setting(
        takes="TASK", choices=("classification", "regression", "translation", "summarization", "lm"), more=True
    )
    """Looks at the files for this task only. A task of a plugin needs plugin=FILE.py."""
    save: str = setting(takes="FILE.yaml")
    """Writes what was found as a data set. To use my_conf/data/tickets.yaml, type config_dir=my_conf data=tickets."""
    format: str = setting("table", choices=("table", "json"))
    """json prints everything as JSON."""


@dataclass(kw_only=True)
class CompareSettings(Settings):
    """Says which run is better, by how much, and whether that may be chance.

    The runs are compared on the test split, and all runs of a task must have the same test data. If there are runs of
    several tasks, a table over all tasks is added, and p is corrected for all of them together. Runs that differ only
    in their seed are one system: its mean, deviation and interval are taken over its seeds. BLEU, chrF, TER and ROUGE
    are tested by approximate randomisation, and accuracy by McNemar's test. Other metrics of classification and
    language modelling are tested by paired permutation. Systems with several seeds get a t-test over seeds and
    examples. p is corrected by Holm's method.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead compare group=outputs/translation/multi30k out=comparison.html",
        "multihead compare 'runs=[runs/scratch_*,runs/pretrained_*]' names=[scratch,pretrained] metric=test/accuracy",
    )

    runs: list[str] = setting([], takes="[A,B,...]")
    """Run directories, folders of runs, or globs ('runs=[outputs/lm/*]', quoted)."""
    group: list[str] = setting([], takes="FOLDER")
    """Compares all runs below this folder."""
    names: list[str] = setting([], takes="[X,Y,...]")
    """Names of the systems, or of the entries of runs=. By default a name says what differs."""
    baseline: str = setting(takes="A")
    """A system's name or one of its runs. All others are compared with it, instead of all pairs."""
    metric: str = setting(takes="KEY")
    """A key of result.json, such as test/bleu. By default it is the test metric that the runs were monitored by."""
    smallest: list[str] = setting([], takes="NUMBER")
    """The smallest difference that matters, in the unit of the metric; for one of several tasks smallest=lm:0.01. If
    the runs could not have shown it, the verdict is underpowered."""
    smallest_effect: list[str] = setting([], takes="NUMBER")
    """The same as smallest, by the name that it has in the file of a study."""
    format: list[str] = setting([], takes="FORMAT", choices=tuple(REPORT_FORMATS))
    """Format of the report on standard output. With out= there can be several: format=[markdown,html]."""
    out: str = setting(takes="FILE")
    """File for the report; its suffix gives the format. The HTML page also holds the learning curves."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not self.runs and not self.group:
            raise ConfigError("runs", "is missing: which runs should be compared?", "group=FOLDER or runs=[A,B]")
        self.limits()

    def limits(self) -> dict[str, float]:
        """Task to the smallest difference that matters; "" stands for every task."""
        found = {}
        for entry in (*self.smallest, *self.smallest_effect):
            task, _, number = entry.rpartition(":")
            good = re.fullmatch(r"\d*\.?\d+(?:[eE][+-]?\d+)?", number) and float(number) > 0
            require(bool(good), "smallest", "a number above 0, or TASK:NUMBER", entry, "smallest=0.5")
            found[task] = float(number)
        return found


@dataclass(kw_only=True)
class DoctorSettings(Settings):
    """Checks whether a model with your plugin's parts still is a Transformer.

    A model of your configuration is built on small built-in data, and nothing is trained to an end. The checks are:
    causality, padding, batches, the cache, the order of tokens, lengths, gradients, micro-batches and ranks,
    registered tensors, precision, determinism, resume, reload, scales by depth and width, export and cost. A finding
    says what was expected, what was found, the smallest input that shows it, and where to look. Exit status 2 means
    that there are findings, or that every check was skipped.
    """

    OTHER_KEYS: ClassVar[str] = "All other words are as for train. Without task= it is task=translation."
    KEYS: ClassVar[tuple[str, ...]] = ("plugin", "model.attention", "model.feed_forward")
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead doctor plugin=docs/examples/linear_attention.py",
        "multihead doctor plugin=docs/examples/linear_attention.py model.attention=linear task=lm model=small",
        "multihead doctor task=translation model.position=rotary checks=[causality,cache]",
    )

    checks: list[str] = setting([], takes="CHECK", choices=DOCTOR_CHECKS)
    """Runs only these checks, such as checks=[causality,cache]; by default all run."""
    seconds: int = setting(60, takes="N")
    """No check starts after this many seconds; 0 means no limit."""
    format: str = setting("table", choices=("table", "json"))
    """json prints everything as JSON."""


@dataclass(kw_only=True)
class NewSettings(Settings):
    """Writes a plugin that works and its test, for you to change.

    The plugin adds one part of your own: a block of the model, an optimizer, a task, data. It has about 30 lines, with
    comments that say what the part gets and returns. The test trains three steps with it, predicts, and checks one
    property of the part. No file is overwritten. docs/plugins.md lists all parts, with further examples.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead new block=attention",
        "multihead new block=optimizer file=variants/signum.py",
    )

    block: str = setting(takes="BLOCK", choices=tuple(BLOCKS), example="block=attention")
    """What the plugin adds."""
    file: str = setting(takes="FILE.py")
    """The file to write; by default my_BLOCK.py. The part gets its name. The test is test_FILE.py beside it."""


SETTINGS: dict[str, type[Settings]] = {
    cls.verb(): cls
    for cls in (
        *(EvaluateSettings, PredictSettings, ExportSettings, ExplainSettings),
        *(DataSettings, RunsSettings, DiffSettings, CompareSettings, DoctorSettings),
        *(SweepSettings, StudySettings, VerifySettings, ReproduceSettings, NewSettings),
        *(ServeSettings, ShowSettings),
    )
}
"""Command to what it takes."""
