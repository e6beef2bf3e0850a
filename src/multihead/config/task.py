"""What is learned: one dataclass for each task, named in `TASKS`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from multihead.config.check import require, require_choice

TOPOLOGIES = ("encoder_decoder", "decoder")
OBJECTIVES = ("causal", "masked", "both")
OWN = ("default",)
"""Our choices of task.loss and task.head."""
BLEU_TOKENIZERS = ("auto", "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores200", "none")
HEAD_ACTIVATIONS = ("none", "tanh", "relu", "gelu")
POOLINGS = ("first", "mean", "max", "last", "attention")


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """The settings that every task has."""

    METRICS: ClassVar[dict[str, str]] = {"val/loss": "min"}
    """Metrics that can be monitored, each with min or max as its better direction."""

    name: str = "???"
    """The task's name; set by the choice task=NAME."""
    monitor: str = "val/loss"
    """The metric that chooses the best checkpoint and stops early."""
    monitor_mode: str = "min"
    """min or max."""
    num_samples: int = 5
    """Examples of the validation split whose outputs go to samples.jsonl and the screen."""
    loss: str = "default"
    """default (the task's own), or the name of a loss that a plugin adds. Validation and test report the task's own."""
    head: str = "default"
    """default (the task's own), or the name of a head that a plugin adds."""

    def __post_init__(self) -> None:
        require_choice("task.monitor_mode", self.monitor_mode, ("min", "max"))
        require(self.monitor.startswith("val/"), "task.monitor", "a validation metric (val/...)", self.monitor)
        require(self.num_samples >= 0, "task.num_samples", "at least 0", self.num_samples)

    @property
    def roles(self) -> tuple[str, ...]:
        """Data roles the task needs."""
        return ()

    @property
    def optional_roles(self) -> tuple[str, ...]:
        """Data roles that the task uses if the data set has them."""
        return ()

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that the task uses: encoder, decoder or both."""
        return ("encoder", "decoder")

    def members(self) -> dict[str, TaskConfig]:
        """The single tasks of a run by name: this task, or those of a multitask run."""
        return {self.name: self}


@dataclass(kw_only=True, slots=True)
class LanguageModelingConfig(TaskConfig):
    """Predicting tokens of running text: the next one (causal), those that were masked (arXiv:1810.04805), or both."""

    METRICS: ClassVar[dict[str, str]] = {
        "val/loss": "min",
        "val/perplexity": "min",
        "val/bits_per_byte": "min",
        "val/token_accuracy": "max",
        "val/masked_loss": "min",
        "val/masked_token_accuracy": "max",
    }

    name: str = "lm"
    objective: str = "causal"
    """causal (a decoder predicts the next token), masked (an encoder predicts hidden ones), or both (one decoder learns
    both; arXiv:2410.24159)."""
    block_size: int = 0
    """Tokens of a packed block; 0 means model.max_len."""
    stride: int = 0
    """Stride of the evaluation window, in tokens: each window predicts that many new tokens, and those before them are
    context only. 0, or more than a block, means a whole block."""
    document_mask: bool = False
    """Whether attention stays within a document; each document then starts at position 0."""
    mask_share: float = 0.15
    """If objective is masked or both: the share of a masked block's positions that are predicted. Of these, 80 % show
    <mask>, 10 % a random token, and 10 % their own token."""
    masked_blocks: float = 0.9375
    """If objective=both: the share of blocks that are masked; the others are causal. 15 of 16 is the default of the
    paper's code."""
    random_windows: int = 0
    """Number of random windows whose mean loss is also reported, as nanoGPT does it (loss_random_windows)."""
    prompts: list[str] = field(default_factory=list)
    """Prompts that are continued at each validation; empty takes the first words of validation texts."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        require_choice("task.objective", self.objective, OBJECTIVES)
        for name in ("block_size", "stride", "random_windows"):
            require(getattr(self, name) >= 0, f"task.{name}", "at least 0", getattr(self, name))
        require(0 < self.mask_share < 1, "task.mask_share", "in (0, 1)", self.mask_share)
        require(0 <= self.masked_blocks <= 1, "task.masked_blocks", "in [0, 1]", self.masked_blocks)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("text",)

    @property
    def stacks(self) -> tuple[str, ...]:
        return ("decoder",) if self.continues else ("encoder",)

    @property
    def continues(self) -> bool:
        """Whether the model predicts next tokens, so that it can continue a text."""
        return self.objective != "masked"


@dataclass(kw_only=True, slots=True)
class TranslationConfig(TaskConfig):
    """Sequence to sequence with teacher forcing, decoded and scored by BLEU and chrF at each validation."""

    METRICS: ClassVar[dict[str, str]] = {
        "val/bleu": "max",
        "val/bleu_lowercase": "max",
        "val/chrf": "max",
        "val/cer": "min",
        "val/edit_similarity": "max",
        "val/exact_match": "max",
        "val/token_accuracy": "max",
        "val/loss": "min",
        "val/perplexity": "min",
        "val/bits_per_byte": "min",
    }

    name: str = "translation"
    monitor: str = "val/bleu"
    monitor_mode: str = "max"
    topology: str = "encoder_decoder"
    """encoder_decoder (the paper), or decoder: one causal stack that reads source, separator and target as one
    sequence."""
    label_smoothing: float = 0.1
    """Share of the target distribution spread over the vocabulary (section 5.4 of the paper)."""
    simcut_alpha: float = 0.0
    """Weight of SimCut (arXiv:2206.02368), such as 3; 0 turns it off. A second pass of each training step reads the
    batch without some tokens, and its distributions must agree with those of the first. A step takes twice as long."""
    simcut_cut: float = 0.05
    """If task.simcut_alpha is set: probability that the second pass does not see a token of source or target."""
    bleu_tokenize: str = "auto"
    """sacreBLEU's tokenizer for BLEU: 13a, intl, char, zh, ja-mecab, ko-mecab, flores200, none; or auto, by the script
    of the training targets: 13a, zh, ja-mecab, ko-mecab, or char for other scripts without blanks between words."""
    ter: bool = False
    """Whether test also reports TER (translation edit rate), which takes longer to compute than BLEU and chrF."""
    max_source_len: int = 0
    """Maximum number of tokens of a source; 0 means that only model.max_len limits it. data.overlong says what happens
    to longer ones."""
    copy: bool = False
    """Whether the head can copy tokens of the source: a pointer-generator (arXiv:1704.04368). It needs
    task.topology=encoder_decoder and tokenizer.joint=true."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        require_choice("task.topology", self.topology, TOPOLOGIES)
        require_choice("task.bleu_tokenize", self.bleu_tokenize, BLEU_TOKENIZERS)
        require(0 <= self.label_smoothing < 1, "task.label_smoothing", "in [0, 1)", self.label_smoothing)
        finite = 0 <= self.simcut_alpha < float("inf")
        require(finite, "task.simcut_alpha", "at least 0 and finite", self.simcut_alpha)
        require(0 <= self.simcut_cut < 1, "task.simcut_cut", "in [0, 1)", self.simcut_cut)
        require(self.max_source_len >= 0, "task.max_source_len", "at least 0", self.max_source_len)
        alone = self.topology == "decoder"
        require(not (self.copy and alone), "task.copy", "false if task.topology=decoder", self.copy)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("source", "target")

    @property
    def stacks(self) -> tuple[str, ...]:
        return ("encoder", "decoder") if self.topology == "encoder_decoder" else ("decoder",)


@dataclass(kw_only=True, slots=True)
class SummarizationConfig(TranslationConfig):
    """Translation from long to short: the same model, scored by ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin 2004)."""

    METRICS: ClassVar[dict[str, str]] = {
        "val/rouge1": "max",
        "val/rouge2": "max",
        "val/rougeL": "max",
        "val/rougeLsum": "max",
        "val/exact_match": "max",
        "val/token_accuracy": "max",
        "val/loss": "min",
        "val/perplexity": "min",
        "val/bits_per_byte": "min",
    }

    name: str = "summarization"
    monitor: str = "val/rougeL"

    def __post_init__(self) -> None:
        TranslationConfig.__post_init__(self)
        bleu, scored = self.bleu_tokenize, "left as it is: summaries are scored by ROUGE"
        require(bleu == "auto", "task.bleu_tokenize", scored, bleu, "task.bleu_tokenize=auto")
        require(not self.ter, "task.ter", scored, self.ter, "task.ter=false")


@dataclass(kw_only=True, slots=True)
class PooledConfig(TaskConfig):
    """What tasks share that make one vector of a text, or of a pair of texts."""

    stack: str = "encoder"
    """encoder (sees the whole text), or decoder: a causal stack such as a language model trained."""
    pooling: str = "mean"
    """What represents the text: the hidden state of the first or last position, the mean or max over positions, or
    attention (an attention-weighted mean)."""
    head_activation: str = "none"
    """none, or the activation of a dense layer between the pooled state and the outputs: tanh (BERT's pooler), relu or
    gelu."""
    head_bias: bool = True
    """Whether the outputs have a bias; published decoders with a head over classes have none."""
    head_dropout: float = 0.1
    """Dropout between the pooled state and the outputs."""
    token_dropout: float = 0.0
    """In training, the probability that a token is shown as <mask> (word dropout, Iyyer et al. 2015, P15-1162)."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        require_choice("task.stack", self.stack, ("encoder", "decoder"))
        require_choice("task.pooling", self.pooling, POOLINGS)
        require_choice("task.head_activation", self.head_activation, HEAD_ACTIVATIONS)
        require(0 <= self.head_dropout < 1, "task.head_dropout", "in [0, 1)", self.head_dropout)
        require(0 <= self.token_dropout < 1, "task.token_dropout", "in [0, 1)", self.token_dropout)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("text", "label")

    @property
    def optional_roles(self) -> tuple[str, ...]:
        return ("text_b",)

    @property
    def stacks(self) -> tuple[str, ...]:
        return (self.stack,)


@dataclass(kw_only=True, slots=True)
class ClassificationConfig(PooledConfig):
    """Text, or a pair of texts, to one class or several."""

    METRICS: ClassVar[dict[str, str]] = {
        "val/accuracy": "max",
        "val/macro_f1": "max",
        "val/micro_f1": "max",
        "val/mcc": "max",
        "val/auroc": "max",
        "val/loss": "min",
    }

    name: str = "classification"
    monitor: str = "val/accuracy"
    monitor_mode: str = "max"
    multi_label: bool = False
    """Each example has any number of classes, separated by data.label_separator."""
    label_smoothing: float = 0.0
    """Share of the target distribution spread over the classes."""
    class_weights: str = "none"
    """none, or balanced: the loss of an example is weighted by the inverse frequency of its class."""
    focal_gamma: float = 0.0
    """Exponent of the focal loss (arXiv:1708.02002), which weakens easy examples; 0 is cross-entropy."""
    ngram_buckets: int = 0
    """Number of rows of a table of hashed n-grams, which is a second classifier beside the stack (NB-SVM, P12-2018;
    arXiv:1606.07792); 0 means none. Each row has a log-count ratio of the training split and a learned weight for each
    class."""
    ngram_max: int = 2
    """Maximum length, in tokens, of the n-grams of task.ngram_buckets."""
    ngram_share: float = 0.7
    """Weight of the n-gram classifier in the weighted mean of its logits and the stack's. Each of the two has its own
    loss."""

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        micro, alone = (
            self.monitor == "val/micro_f1",
            "another one if task.multi_label=false, because micro-F1 is the accuracy there",
        )
        require(self.multi_label or not micro, "task.monitor", alone, self.monitor, "task.monitor=val/accuracy")
        require_choice("task.class_weights", self.class_weights, ("none", "balanced"))
        require(0 <= self.label_smoothing < 1, "task.label_smoothing", "in [0, 1)", self.label_smoothing)
        require(
            self.ngram_buckets == 0 or self.ngram_buckets >= 2,
            "task.ngram_buckets",
            "0, or at least 2",
            self.ngram_buckets,
        )
        require(1 <= self.ngram_max <= 8, "task.ngram_max", "in [1, 8]", self.ngram_max)
        require(0 <= self.ngram_share <= 1, "task.ngram_share", "in [0, 1]", self.ngram_share)
        require(0 <= self.focal_gamma < float("inf"), "task.focal_gamma", "at least 0", self.focal_gamma)
        require(
            not (self.focal_gamma and self.label_smoothing),
            "task.label_smoothing",
            "0 if task.focal_gamma is set",
            self.label_smoothing,
        )


@dataclass(kw_only=True, slots=True)
class RegressionConfig(PooledConfig):
    """Text, or a pair of texts, to one number, by the mean squared error."""

    METRICS: ClassVar[dict[str, str]] = {
        "val/mse": "min",
        "val/mae": "min",
        "val/r2": "max",
        "val/pearson": "max",
        "val/spearman": "max",
        "val/loss": "min",
    }

    name: str = "regression"
    monitor: str = "val/mse"


SINGLE_TASKS: dict[str, type[TaskConfig]] = {
    "lm": LanguageModelingConfig,
    "translation": TranslationConfig,
    "summarization": SummarizationConfig,
    "classification": ClassificationConfig,
    "regression": RegressionConfig,
}


@dataclass(kw_only=True, slots=True)
class MultitaskConfig(TaskConfig):
    """Several tasks at once on one backbone, each with a head of its own; a step of training belongs to one of them."""

    METRICS: ClassVar[dict[str, str]] = {"val/loss": "min"} | {
        f"val/{part}/{metric.partition('/')[2]}": better
        for part, config in SINGLE_TASKS.items()
        for metric, better in config.METRICS.items()
    }

    name: str = "multitask"
    parts: list[str] = field(default_factory=lambda: ["lm", "translation", "classification"])
    """The tasks: some of lm, translation, summarization, classification and regression."""
    temperature: float = 1.0
    """Temperature for sampling tasks: a task's share of the steps is proportional to size ** (1 / temperature)."""
    lm: LanguageModelingConfig = field(default_factory=LanguageModelingConfig)
    translation: TranslationConfig = field(default_factory=TranslationConfig)
    summarization: SummarizationConfig = field(default_factory=SummarizationConfig)
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    regression: RegressionConfig = field(default_factory=RegressionConfig)

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        require(
            len(self.parts) == len(set(self.parts)) > 0,
            "task.parts",
            "a list of one or more different tasks",
            self.parts,
        )
        for part in self.parts:
            require_choice("task.parts", part, SINGLE_TASKS)
        for part, config in self.members().items():
            require(config.name == part, f"task.{part}.name", part, config.name)
        require(0 < self.temperature < float("inf"), "task.temperature", "above 0 and finite", self.temperature)
        part = self.monitor.split("/")[1]
        require(part == "loss" or part in self.parts, "task.monitor", "a metric of one of task.parts", self.monitor)

    @property
    def stacks(self) -> tuple[str, ...]:
        used = {stack for config in self.members().values() for stack in config.stacks}
        return tuple(stack for stack in ("encoder", "decoder") if stack in used)

    def members(self) -> dict[str, TaskConfig]:
        return {part: getattr(self, part) for part in self.parts}


TASKS: dict[str, type[TaskConfig]] = SINGLE_TASKS | {"multitask": MultitaskConfig}
