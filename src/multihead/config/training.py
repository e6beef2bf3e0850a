"""How long, how fast and on what: optimizer, trainer, decoding, and the root of the configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from multihead.config.check import require, require_choice
from multihead.config.data import FORMATS, DataConfig, SideTokenizerConfig, TokenizerConfig, column_of
from multihead.config.lora import LoraConfig
from multihead.config.model import ModelConfig
from multihead.config.task import (
    ClassificationConfig,
    RegressionConfig,
    SummarizationConfig,
    TaskConfig,
    TranslationConfig,
)
from multihead.errors import ConfigError
from multihead.tables.roles import roles_word

SEARCHING = (TranslationConfig, SummarizationConfig, ClassificationConfig, RegressionConfig)
"""Built-in tasks whose outputs are searched for and never sampled."""
SCHEDULES = ("noam", "cosine", "wsd", "constant")
OPTIMIZERS = ("adamw", "muon")
MUON_DTYPES = ("auto", "bfloat16", "float32")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed", "64-true")
PRECISION_WORDS: dict[str, str] = (
    {"bf16": "bf16-mixed", "bfloat16": "bf16-mixed"}
    | {"16": "16-mixed", "fp16": "16-mixed", "float16": "16-mixed", "half": "16-mixed"}
    | {"32": "32-true", "fp32": "32-true", "float32": "32-true", "full": "32-true"}
    | {"64": "64-true", "fp64": "64-true", "float64": "64-true", "double": "64-true"}
)
"""Words of other programs, each with the precision that it means."""
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
STRATEGIES = ("auto", "ddp", "fsdp")
ON_NAN = ("stop", "skip", "rewind")
SEARCHES = ("auto", "must")
"""Values of resume that look for a run instead of naming one."""
LOGGERS = ("auto", "none", "wandb", "tensorboard")


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Optimizer and learning-rate schedule; the horizon of the schedule is trainer.max_steps."""

    name: str = "adamw"
    """adamw (arXiv:1711.05101); muon: hidden matrices by Muon, everything else by AdamW; or the name of an optimizer
    that a plugin adds."""
    lr: float = 1e-3
    """Peak learning rate of AdamW. The paper's formula (noam) is scaled so that it peaks here too."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay rates of AdamW's moments."""
    eps: float = 1e-9
    """Number that is added to AdamW's denominator."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon, which follows the same schedule."""
    muon_momentum: float = 0.95
    """Nesterov momentum of Muon."""
    muon_steps: int = 5
    """Newton-Schulz iterations of Muon."""
    muon_dtype: str = "auto"
    """Type of Muon's iterations: bfloat16, float32, or auto: bfloat16 if the device gains by it. The run directory
    records what auto has become, and a resumed run keeps it."""
    schedule: str = "noam"
    """noam (linear warm-up, then 1/sqrt(step), section 5.3), cosine, wsd (warm-up, stable, decay), constant, or the
    name of a schedule that a plugin adds."""
    warmup_steps: int = 400
    """Steps of linear warm-up."""
    min_lr_ratio: float = 0.0
    """Final learning rate of cosine and wsd, as a share of the peak."""
    decay_share: float = 0.3
    """Share of max_steps over which wsd decays (linearly)."""
    layer_decay: float = 1.0
    """Layer-wise learning rates: a layer's rate is this multiple of the rate of the layer above it; embeddings have the
    rate of the lowest layer (arXiv:1801.06146). 1 means the same rate everywhere."""
    freeze: list[str] = field(default_factory=list)
    """Names of the parameters to freeze; * matches anything (transformer.encoder.layers.0.*)."""

    def __post_init__(self) -> None:
        require_choice("optim.muon_dtype", self.muon_dtype, MUON_DTYPES)
        for name in ("lr", "muon_lr", "eps"):
            require(0 < getattr(self, name) < float("inf"), f"optim.{name}", "above 0 and finite", getattr(self, name))
        require(0 <= self.weight_decay < 1, "optim.weight_decay", "in [0, 1)", self.weight_decay)
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "optim.betas",
            "two numbers in [0, 1)",
            self.betas,
        )
        require(0 <= self.muon_momentum < 1, "optim.muon_momentum", "in [0, 1)", self.muon_momentum)
        require(self.muon_steps >= 1, "optim.muon_steps", "at least 1", self.muon_steps)
        require(self.warmup_steps >= 0, "optim.warmup_steps", "at least 0", self.warmup_steps)
        require(0 <= self.min_lr_ratio <= 1, "optim.min_lr_ratio", "in [0, 1]", self.min_lr_ratio)
        require(0 < self.decay_share <= 1, "optim.decay_share", "in (0, 1]", self.decay_share)
        require(0 < self.layer_decay <= 1, "optim.layer_decay", "in (0, 1]", self.layer_decay)


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Length of the run and what happens along the way."""

    max_steps: int = 1000
    """Optimizer steps; also the horizon of the learning-rate schedule."""
    max_time: str = ""
    """Longest time of the run, as DD:HH:MM:SS; empty means no limit. Set the length of a run by max_steps, not by
    this."""
    val_every_n_steps: int = 250
    """Optimizer steps between validations; the last step is always validated."""
    checkpoint_every_n_steps: int = 250
    """Optimizer steps between checkpoints for resuming; the last step is always saved."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that are kept, beside the best."""
    log_every_n_steps: int = 20
    """Optimizer steps between logged training metrics."""
    accumulate_grad_batches: int = 0
    """Number of micro-batches per rank and step; 0 means the minimum that data.part_tokens allows. A step has the same
    texts, whatever this number is."""
    gradient_clip_val: float = 1.0
    """Maximum norm of the gradient; 0 turns clipping off."""
    early_stopping_patience: int = 0
    """Validations without improvement of task.monitor before the run ends; 0 turns it off."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, used for validation and test; 0 turns it off."""
    average_last_steps: int = 0
    """Number of last steps over which weights are averaged, with one sample every average_every_n_steps; 0 turns
    averaging off."""
    average_every_n_steps: int = 100
    """Steps between two samples of average_last_steps; the last steps must hold at least 2 samples."""
    limit_val_examples: int = 0
    """Maximum number of examples that each validation decodes; 0 means all. The test always decodes all."""
    on_nan: str = "stop"
    """What to do if a gradient is not finite: stop (the run), skip (that step's update), or rewind (to the newest
    checkpoint's weights, and continue after the examples that led there; arXiv:2204.02311, section 5.1)."""
    watchdog_seconds: int = 600
    """A job of several ranks is ended if no rank makes progress for this many seconds; 0 turns this off."""
    activation_checkpointing: bool = False
    """Compute each layer again in the backward pass instead of keeping what it computed (arXiv:1604.06174)."""
    overfit_examples: int = 0
    """Number of examples of the train split to train and validate on; 0 means all (debug=overfit)."""
    profile_steps: int = 0
    """Number of last steps whose parts are timed; before them, as many steps run without that, for comparison
    (debug=profile). 0 turns it off."""

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "val_every_n_steps",
            "checkpoint_every_n_steps",
            "log_every_n_steps",
            "keep_checkpoints",
            "average_every_n_steps",
        ):
            require(getattr(self, name) >= 1, f"trainer.{name}", "at least 1", getattr(self, name))
        for name in (
            "accumulate_grad_batches",
            "early_stopping_patience",
            "average_last_steps",
            "limit_val_examples",
            "overfit_examples",
            "gradient_clip_val",
            "watchdog_seconds",
            "profile_steps",
        ):
            require(0 <= getattr(self, name) < float("inf"), f"trainer.{name}", "at least 0", getattr(self, name))
        most = (self.max_steps - 2) // 2  # a warm-up step, and the last one, which validates
        what = f"at most {most} if trainer.max_steps={self.max_steps}"
        require(self.profile_steps <= most or not self.profile_steps, "trainer.profile_steps", what, self.profile_steps)
        early = ["trainer.max_time="] if self.max_time else []
        early += ["trainer.early_stopping_patience=0"] if self.early_stopping_patience else []
        what = f"0 if {' and '.join(word.partition('=')[0] for word in early)} may end the run before its last steps"
        allowed = not self.profile_steps or not early
        require(allowed, "trainer.profile_steps", what, self.profile_steps, " ".join(early))
        require_choice("trainer.on_nan", self.on_nan, ON_NAN)
        require(0 <= self.ema_decay < 1, "trainer.ema_decay", "in [0, 1)", self.ema_decay)
        require(
            not self.max_time or re.fullmatch(r"\d+:\d\d:\d\d:\d\d", self.max_time) is not None,
            "trainer.max_time",
            "DD:HH:MM:SS",
            self.max_time,
        )
        require(
            not (self.ema_decay and self.average_last_steps),
            "trainer.average_last_steps",
            "0 if trainer.ema_decay is set: a run has one average",
            self.average_last_steps,
        )
        self._check_average()

    def _check_average(self) -> None:
        """Checks that at least two samples of the weights are averaged.

        Raises:
            ConfigError: trainer.average_every_n_steps passes over the last steps.
        """
        every, last = self.average_every_n_steps, min(self.average_last_steps, self.max_steps)
        sampled = self.max_steps // every - (self.max_steps - last) // every
        if self.average_last_steps and self.max_steps > 1 and sampled < 2:
            what = (
                f"{every} steps between two samples give {sampled} of the last {last} steps, but 2 samples are needed"
            )
            fix = f"trainer.average_every_n_steps={max(1, last // 10)}" if last > 1 else "trainer.average_last_steps=0"
            raise ConfigError("trainer.average_every_n_steps", what, fix)


@dataclass(kw_only=True, slots=True)
class DecodingConfig:
    """How sequences are searched for, or drawn (do_sample); names as in Hugging Face's generation."""

    num_beams: int = 1
    """Number of beams; 1 is greedy search."""
    length_penalty: float = 1.0
    """Exponent of the length by which a finished beam's log-probability is divided."""
    no_repeat_ngram_size: int = 0
    """Forbid n-grams of this size to repeat; 0 turns it off."""
    min_new_tokens: int = 0
    """Minimum number of tokens before the end mark."""
    max_new_tokens: int = 0
    """Maximum number of tokens; for a continuation, 0 means 64. Otherwise 0 means a limit from the lengths in the
    training split (targets.json in the run directory). It is at least twice the source's tokens plus 10, and at most
    what model.max_len allows."""
    num_return_sequences: int = 1
    """Outputs per input: the best hypotheses (at most num_beams), or this number of samples."""
    forced_prefix: str = ""
    """Text that every output starts with; it has no effect on continuations."""
    do_sample: bool = False
    """Draw tokens from the model's distribution instead of searching for the most probable output."""
    temperature: float = 1.0
    """When sampling, the logits are divided by this; below 1 sharpens, above 1 flattens."""
    top_k: int = 0
    """When sampling, keep the k most probable tokens (arXiv:1805.04833); 0 keeps all."""
    top_p: float = 1.0
    """When sampling, keep the smallest set of most probable tokens whose probabilities sum to at least this (nucleus
    sampling, arXiv:1904.09751)."""
    min_p: float = 0.0
    """When sampling, keep tokens whose probability is at least this share of the most probable token's
    (arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Penalty on tokens that occurred before: their positive logits are divided by it, and their negative ones
    multiplied (arXiv:1909.05858)."""
    stop_strings: list[str] = field(default_factory=list)
    """An output ends before the first occurrence of one of these texts."""
    seed: int = 0
    """Seed of sampling; the same seed draws the same outputs."""

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_return_sequences"):
            require(getattr(self, name) >= 1, f"decoding.{name}", "at least 1", getattr(self, name))
        for name in ("no_repeat_ngram_size", "min_new_tokens", "max_new_tokens"):
            require(getattr(self, name) >= 0, f"decoding.{name}", "at least 0", getattr(self, name))
        require(abs(self.length_penalty) < float("inf"), "decoding.length_penalty", "finite", self.length_penalty)
        require(0 < self.temperature < float("inf"), "decoding.temperature", "above 0 and finite", self.temperature)
        require(self.top_k >= 0, "decoding.top_k", "at least 0", self.top_k)
        require(0 < self.top_p <= 1, "decoding.top_p", "in (0, 1]", self.top_p)
        require(0 <= self.min_p <= 1, "decoding.min_p", "in [0, 1]", self.min_p)
        penalty = self.repetition_penalty
        require(0 < penalty < float("inf"), "decoding.repetition_penalty", "above 0 and finite", penalty)
        require(all(self.stop_strings), "decoding.stop_strings", "texts that are not empty", self.stop_strings)
        require(
            not (self.do_sample and self.num_beams > 1),
            "decoding.num_beams",
            "1 if decoding.do_sample=true",
            self.num_beams,
        )
        require(
            self.do_sample or self.num_return_sequences <= self.num_beams,
            "decoding.num_return_sequences",
            f"at most decoding.num_beams={self.num_beams} unless decoding.do_sample=true",
            self.num_return_sequences,
        )
        require(
            not self.max_new_tokens or self.min_new_tokens <= self.max_new_tokens,
            "decoding.min_new_tokens",
            f"at most decoding.max_new_tokens={self.max_new_tokens}",
            self.min_new_tokens,
        )


@dataclass(kw_only=True, slots=True)
class Config:
    """The whole configuration of a run."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, cuda, tpu. An Apple GPU (mps) is refused: it has no float64."""
    devices: str = "1"
    """Number of devices per node, 'auto', or a list of GPUs such as '0,1'. On a CPU it is the number of processes."""
    strategy: str = "auto"
    """auto; ddp: the whole model on each device; fsdp: weights, gradients and moments are split over all."""
    num_nodes: int = 1
    """Number of machines that take part."""
    precision: str = "32-true"
    """32-true, bf16-mixed, bf16-true, 16-mixed, 64-true, or auto. auto is bf16-mixed if the device gains by it, else
    32-true; the run directory records which, and a resumed run keeps it."""
    seed: int = 1
    """Seed of initialisation, dropout and the batch plan."""
    run_dir: str = ""
    """The run's directory; empty means outputs/<task>/<data>/<date>_<time>_<id>."""
    resume: str = ""
    """A run directory to continue. auto continues the unfinished run of this configuration if there is one (in run_dir,
    otherwise the newest). must does the same, and is an error if there is none."""
    resume_force: list[str] = field(default_factory=list)
    """Keys that may differ from the checkpoint, named as in the error message."""
    plan: bool = False
    """Print what the run will take (parameters, memory, time) and end without starting it."""
    init_from: str = ""
    """A finished run of any task, or a published model. A published model is hf:FOLDER with its config.json, or
    hf:ORG/NAME[@revision] on the hub. This run starts from its embeddings and stacks, as far as they fit. A published
    model also brings its sizes and tokenizer."""
    init_tokenizer: str = "new"
    """The tokenizer if init_from is set. new trains one on this run's data and matches embeddings token by token; same
    takes the one of init_from. A published model brings its own unless new is asked for."""
    logger: str = "auto"
    """auto (W&B online if logged in, else offline), none, wandb or tensorboard. metrics.csv is always written."""
    log_model: bool = False
    """Whether the finished run (model/, configuration, results, metrics) goes to W&B as an artifact."""
    compile: bool = False
    """torch.compile the backbone's layers in place; this is seldom faster on a CPU."""
    plugin: str = ""
    """A Python file or entry point that adds parts of the model, of training, of the data, or tasks. Several are
    separated as in PATH, by a colon."""
    plugin_sha256: str = ""
    """Checksum of the plugin's file, which Multihead fills in; for several, one each, separated like their names. For
    an existing run, `plugin_sha256=` accepts a plugin that has changed."""
    config_dir: str = ""
    """A folder of your own YAML files, in folders named like the groups. model/mine.yaml there is model=mine."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of what the plugin adds, one node per name."""

    def __post_init__(self) -> None:
        require_choice("accelerator", self.accelerator, ACCELERATORS)
        require_choice("strategy", self.strategy, STRATEGIES)
        require_choice("precision", self.precision, PRECISIONS, PRECISION_WORDS)
        require_choice("logger", self.logger, LOGGERS)
        require_choice("init_tokenizer", self.init_tokenizer, ("new", "same"))
        require(0 <= self.seed < 2**32, "seed", "in [0, 2**32)", self.seed)
        require(self.num_nodes >= 1, "num_nodes", "at least 1", self.num_nodes)
        parts = self.run_dir.encode("utf-8", "replace").split(b"/")
        possible = self.run_dir.isprintable() and all(len(part) <= 255 for part in parts)
        require(possible, "run_dir", "a path without control characters, at most 255 bytes a name", self.run_dir[:300])
        require(
            re.fullmatch(r"auto|[1-9]\d*|\d+(,\d+)+,?|\d+,", self.devices) is not None,
            "devices",
            "a number of at least 1, auto, or a list such as '0,1'",
            self.devices,
        )
        self._check_pairs()

    def _check_sizes(self) -> None:
        """Checks that the blocks of running text fit the model."""
        for name, task in self.task.members().items():
            block, most = getattr(task, "block_size", 0), self.model.max_len
            key = "task.block_size" if len(self.task.members()) == 1 else f"task.{name}.block_size"
            require(block <= most, key, f"at most model.max_len={most}", block, f"model.max_len={block}")

    def _check_sides(self) -> None:
        """Checks what needs one vocabulary for source and target, if their tokenizers differ."""
        if not self.tokenizer.sides_differ:
            return
        if "source" not in self.task.roles:
            side = next(each for each in ("source", "target") if getattr(self.tokenizer, each) != SideTokenizerConfig())
            what = f"belongs to a task with a source and a target, and task={self.task.name} has one text"
            kind = getattr(self.tokenizer, side).kind or self.tokenizer.kind
            raise ConfigError(f"tokenizer.{side}", what, f"tokenizer.kind={kind}")
        tie, differ = self.model.tie_embeddings, "if tokenizer.source and tokenizer.target differ"
        what = f"none or target_output {differ}"
        require(
            tie in ("none", "target_output"), "model.tie_embeddings", what, tie, "model.tie_embeddings=target_output"
        )
        topology, copies = getattr(self.task, "topology", ""), getattr(self.task, "copy", False)
        require(topology != "decoder", "task.topology", f"encoder_decoder {differ}", topology)
        require(not copies, "task.copy", f"false {differ}", copies)

    def _check_shared_columns(self) -> None:
        """Refuses two roles of one task on one column; only a source may be its own target, which is copying."""
        for name, task in self.task.members().items():
            columns: dict[str, str] = {}
            for role in dict.fromkeys((*task.roles, *task.optional_roles)):
                column = column_of(self.data.roles, name, role)
                first = next((other for other, theirs in columns.items() if theirs == column), None)
                if column is not None and first is not None and {first, role} != {"source", "target"}:
                    free = [each for each in self.data.columns if each not in (*columns.values(), column)]
                    key = f"data.roles.{name}_{role}" if len(self.task.members()) > 1 else f"data.roles.{role}"
                    what = f"is {column}, which is the {first} of task={name} too; two roles need two columns"
                    raise ConfigError(key, what, f"{key}={free[0] if free else 'ANOTHER_COLUMN'}")
                if column is not None:
                    columns[role] = column

    def _check_roles(self) -> None:
        """Checks that the data have a column for each role of each task."""
        if self.data.format == "grammar" or not self.data.roles:
            return
        for name, task in self.task.members().items():
            missing = [role for role in task.roles if column_of(self.data.roles, name, role) is None]
            if missing:
                from multihead.config.datasets import datasets_with  # reads files

                others = datasets_with(name, task.roles)
                choose = f"choose another data set ({', '.join(others)})" if others else "choose another data set"
                own = isinstance(self.data.train, str) and self.data.name == "files"
                found = f"data={self.data.train} finds its columns by itself; or set data.roles" if own else ""
                if self.data.format not in FORMATS:  # only the plugin's reader knows its columns
                    found = roles_word({role: f"{role.upper()}_COLUMN" for role in task.roles})
                raise ConfigError(
                    f"data={self.data.name}",
                    f"has no {' and no '.join(missing)} for task={name}; it has {', '.join(self.data.roles)}",
                    found or f"{choose}, or set data.roles",
                )

    def _check_pairs(self) -> None:
        """Checks combinations of values of different nodes."""
        self._check_roles()
        self._check_shared_columns()
        require(
            self.tokenizer.joint or self.model.tie_embeddings not in ("source_target", "all"),
            "model.tie_embeddings",
            "none or target_output if tokenizer.joint=false",
            self.model.tie_embeddings,
        )
        self._check_sides()
        rows = "lm" not in self.task.members()
        what = "0 with task=lm, whose running text is cut into subwords once"
        require(rows or not self.tokenizer.dropout, "tokenizer.dropout", what, self.tokenizer.dropout)
        what = "0 if init_from is not set: adapters need weights beside which they learn"
        require(not self.lora.r or bool(self.init_from), "lora.r", what, self.lora.r, "init_from=hf:FOLDER")
        require(
            self.strategy != "fsdp" or self.precision not in ("16-mixed", "64-true"),
            "precision",
            "auto, 32-true, bf16-mixed or bf16-true if strategy=fsdp",
            self.precision,
        )
        require(
            not (self.compile and self.trainer.profile_steps),
            "trainer.profile_steps",
            "0 if compile=true: compiled layers cannot be measured apart",
            self.trainer.profile_steps,
        )
        searching = [task.name for task in self.task.members().values() if type(task) in SEARCHING]
        drawing = len(searching) < len(self.task.members()) or not self.decoding.do_sample
        what = f"false for task={', '.join(searching)}: only task=lm samples its outputs"
        require(drawing, "decoding.do_sample", what, self.decoding.do_sample, "decoding.num_beams=5")
        joint_only = len(self.task.members()) > 1 or getattr(self.task, "topology", "") == "decoder"
        require(
            self.tokenizer.joint or not joint_only,
            "tokenizer.joint",
            "true if task.topology=decoder or if several tasks share the run",
            self.tokenizer.joint,
        )
        self._check_sizes()
        copies = any(getattr(task, "copy", False) for task in self.task.members().values())
        for name in ("output_transform", "output_bias", "output_scale"):
            value = getattr(self.model, name)
            require(not (copies and value), f"model.{name}", "false if task.copy=true, whose head has none", value)
        what = "true if task.copy=true: a copied token must be in the target's vocabulary"
        require(self.tokenizer.joint or not copies, "tokenizer.joint", what, self.tokenizer.joint)
