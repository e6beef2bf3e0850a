"""The data: where rows come from, the roles of columns, the tokenizer, and the sizes of batches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multihead.config.check import require, require_choice

FORMATS = ("parallel", "tsv", "csv", "jsonl", "json", "parquet", "arrow", "folders", "text", "tmx", "xliff", "wmt",
           "sgm", "conllu", "hub", "grammar")  # fmt: skip
NORMALIZATIONS = ("none", "nfc", "nfkc")
SPLITS = ("train", "val", "test")
ROLES = ("source", "target", "text", "text_b", "label")
DOCUMENTS = ("row", "file")
NAME, NAME_WORDS = r"[\w-][\w.-]{0,99}", "letters, digits, '.', '_' and '-', at most 100"
"""What the name of a data set may be, because it names a folder: a pattern, and the same in words."""
TOKENIZERS = ("bpe", "unigram", "word", "char", "byte")


PHENOMENA: dict[str, tuple[str, ...]] = {
    "words": ("0-5", "6-10", "11-15", "16+"),
    "relative_depth": ("0", "1", "2"),
    "agreement_distance": ("0", "1-4", "5+"),
    "verb_final": ("no", "yes"),
    "separable_verb": ("no", "yes"),
    "negation": ("no", "yes"),
    "question": ("no", "yes"),
    "flips": ("0", "1", "2"),
    "contrast": ("none", "but", "although", "despite"),
}
"""What sentences and opinions of the grammar contain, each with its values."""


@dataclass(kw_only=True, slots=True)
class GrammarConfig:
    """Sizes of the built-in bilingual grammar's splits (``data=grammar``)."""

    train_size: int = 20000
    """Number of examples to train on."""
    val_size: int = 500
    """Number of examples to validate on."""
    test_size: int = 1000
    """Number of examples to test on."""
    seed: int = 0
    """Seed of the sampling; the run's own seed does not change the data."""
    train_max_words: int = 0
    """Maximum number of words of an example for training and validation; 0 means no limit."""
    test_min_words: int = 0
    """Minimum number of words of a test example. With train_max_words, the test is about lengths beyond training."""
    test_only: str = ""
    """What every test example contains, as PHENOMENON=VALUE: relative_depth=2, agreement_distance=5+, verb_final=yes,
    separable_verb=yes, negation=yes, question=yes, words=16+ (sentence pairs); flips=2, contrast=but (opinions)."""

    def __post_init__(self) -> None:
        for name in ("train_size", "val_size", "test_size"):
            require(getattr(self, name) >= 1, f"data.grammar.{name}", "at least 1", getattr(self, name))
        for name in ("train_max_words", "test_min_words"):
            require(getattr(self, name) >= 0, f"data.grammar.{name}", "at least 0", getattr(self, name))
        if self.test_only:
            known = [f"{name}={value}" for name, values in PHENOMENA.items() for value in values]
            require_choice("data.grammar.test_only", self.test_only, known)


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """A table with roles, and how it is cut into steps."""

    name: str = "files"
    """The dataset's name; set by the choice data=NAME."""
    format: str = "tsv"
    """parallel (one file for each column), tsv, csv, jsonl, json (a list of objects), parquet, arrow, folders (one for
    each class, with a file for each text), text, tmx, xliff, wmt (the XML of WMT), sgm (its SGML, one file for each
    column), conllu, hub, grammar, or the name of a reader that a plugin adds. Compressed files (.gz, .bz2, .xz, .zst,
    .zip) are read as they are. data=PATH finds the format of your own files."""
    encoding: str = "utf-8"
    """Encoding of the files, such as cp1252 or latin-1. utf-8 also reads UTF-16 that begins with a byte-order mark."""
    root: str = ""
    """Folder of the files, under MULTIHEAD_DATA (default: data/); empty means the files' own paths."""
    columns: list[str] = field(default_factory=list)
    """Names of the columns in file order. Leave it empty if a header, keys or a plugin's reader name them. A key inside
    another one is named by its path, such as translation.en."""
    roles: dict[str, str] = field(default_factory=dict)
    """The column of each role (source, target, text, text_b, label); swap source and target to reverse the direction.
    TASK_ROLE (lm_text, classification_text) sets the column for that task only. A template joins several columns:
    'data.roles.text="{title} {body}"'."""
    train: Any = None
    """File of the train split, or a list of files that are read one after the other. For format=parallel
    and format=sgm it is a list with one file for each column; for format=text it may be a folder."""
    val: Any = None
    """File of the validation split; without one, a seeded share of train is held out."""
    test: Any = None
    """File of the test split; without one, a seeded share of train is held out."""
    splits: dict[str, float] = field(default_factory=lambda: {"val": 0.02, "test": 0.02})
    """Rows held out of train for each split that has no file: a share below 1, or a number of rows. With test: 0, the
    validation split is also the test split."""
    folds: int = 0
    """Number of parts for cross-validation, from 2 on; 0 means none. The test split is one part of the train file, and
    the validation split is held out of the others. No text is in two parts. compare and study test such runs."""
    fold: int = 0
    """The part that is the test split: 0 to data.folds - 1. Further numbers are parts of further random partitions."""
    split: str = "test"
    """The split that `multihead evaluate` reads: train, val or test."""
    separator: str = ""
    """Text between columns; empty means a tab for tsv and a comma for csv."""
    header: bool = False
    """Whether the first line of tsv or csv names the columns."""
    quoting: bool | None = None
    """Whether fields may stand in quotation marks. null means yes for csv and no for tsv."""
    last_takes_rest: bool = False
    """For tsv: the last column takes the rest of the line, separators included."""
    document: str = "row"
    """For task=lm: row if each row is a document; file if each file is one, and newlines belong to the text. <eos> ends
    each document."""
    labels: dict[str, str] = field(default_factory=dict)
    """Each label of the file with the name that people see; empty if the file's labels are names already."""
    label_pattern: str = ""
    """Regular expression for the label within the label column; empty takes the whole column."""
    label_separator: str = ","
    """Text between the labels of one row, if task.multi_label is on. A JSON list of labels needs none."""
    label_columns: list[str] = field(default_factory=list)
    """Columns of 0 and 1 that replace the label column, one for each class (task.multi_label)."""
    skip_lines: int = 0
    """Number of lines above the table, such as a title or comments (csv and tsv). They are left out."""
    label_names: str = ""
    """File that names the classes of numbered labels: a .txt with a name on each line, or a mapping in .json or .yaml.
    Lines without a number are counted from 0. With data=PATH, a file such as labels.txt beside the table needs no
    key. data.labels wins."""
    ignore_labels: list[str] = field(default_factory=list)
    """Labels that mean "no label", such as '-'. Their rows are dropped and counted."""
    min_class_examples: int = 1
    """Minimum number of train examples of a class. Smaller classes are left out with their rows, in every split, and
    counted."""
    train_examples: int = 0
    """Number of examples to train on, drawn by a fixed seed with classes in proportion; 0 means all."""
    train_shares: list[float] = field(default_factory=list)
    """Share of each file of data.train, if it lists several, such as [0.7, 0.3]. As many rows are drawn by a fixed seed
    as the files hold in these shares without repeating one. Empty means all rows of all files."""
    normalize: str = "none"
    """Unicode normalisation of the text: none, nfc or nfkc."""
    overlong: str = "drop"
    """Training examples longer than model.max_len tokens: drop, cut, or error. Their number is reported in each
    case."""
    on_bad_line: str = "error"
    """What to do with a line that is not UTF-8, has the wrong number of columns or lacks one side: error, or skip (it
    is left out and counted)."""
    url: dict[str, str] = field(default_factory=dict)
    """Each file name with the address from which a missing file is downloaded."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Each file name with the checksum that a download must have."""
    hub: str = ""
    """Name of a dataset on the Hugging Face hub (format=hub; needs the extra [hub]); NAME or NAME:CONFIG."""
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    """Sizes of the built-in grammar (format=grammar)."""
    batch_tokens: int = 4096
    """Target tokens per optimizer step, without padding, over all ranks and micro-batches."""
    part_tokens: int = 2048
    """Maximum number of target tokens in one micro-batch. It also decides which texts share a step. To split the same
    steps into more parts, set trainer.accumulate_grad_batches."""
    eval_tokens: int = 4096
    """Maximum number of positions in one batch of evaluation: rows times the longest row, padding included."""
    num_workers: int = 0
    """Number of processes that collate batches. 0 collates them in the training process, which is fast enough because
    the data is in memory."""
    cache: bool = True
    """Keep trained tokenizers and encoded rows on disk (under MULTIHEAD_CACHE, default ~/.cache/multihead)."""

    def __post_init__(self) -> None:
        require(re.fullmatch(NAME, self.name) is not None, "data.name", NAME_WORDS, self.name)
        require_choice("data.normalize", self.normalize, NORMALIZATIONS)
        require_choice("data.overlong", self.overlong, ("drop", "cut", "error"))
        require_choice("data.on_bad_line", self.on_bad_line, ("error", "skip"))
        require_choice("data.split", self.split, SPLITS)
        kept = self.skip_lines == 0 or (self.skip_lines > 0 and self.format in ("csv", "tsv"))
        require(kept, "data.skip_lines", "at least 0, and 0 unless data.format is csv or tsv", self.skip_lines)
        named = not self.label_names or self.label_names.lower().endswith((".txt", ".json", ".yaml", ".yml"))
        require(named, "data.label_names", "a .txt, .json or .yaml file", self.label_names)
        require_choice("data.document", self.document, DOCUMENTS)
        try:
            re.compile(self.label_pattern)
        except re.error as error:
            require(False, "data.label_pattern", f"a regular expression ({error})", self.label_pattern)
        require(self.min_class_examples >= 1, "data.min_class_examples", "at least 1", self.min_class_examples)
        require(self.train_examples >= 0, "data.train_examples", "at least 0", self.train_examples)
        if self.train_shares:
            count = len(self.train) if isinstance(self.train, list) else 1
            kept = count > 1 and self.format not in ("parallel", "sgm", "text")
            require(kept, "data.train_shares", "empty unless data.train lists tables", self.train_shares)
            fits = len(self.train_shares) == count and all(0 < share < float("inf") for share in self.train_shares)
            require(fits, "data.train_shares", f"{count} numbers above 0, one for each file", self.train_shares)
        for name in ("batch_tokens", "part_tokens", "eval_tokens"):
            require(getattr(self, name) >= 1, f"data.{name}", "at least 1", getattr(self, name))
        require(self.num_workers >= 0, "data.num_workers", "at least 0", self.num_workers)
        for split, share in self.splits.items():
            require_choice("data.splits", split, ("val", "test"))
            kept = share > 0 or (split == "test" and share == 0)
            require(kept and share < float("inf"), f"data.splits.{split}", "above 0 and finite", share)
        self._check_folds()
        for split in SPLITS:
            files = getattr(self, split)
            kinds = {"parallel": list, "sgm": list, "folders": str, "hub": str, "grammar": str}
            kinds = kinds.get(self.format, str | list)
            what = "a list of files, one for each column" if kinds is list else "one file"
            require(files is None or isinstance(files, kinds), f"data.{split}", what, files)

    def _check_folds(self) -> None:
        require(self.folds == 0 or self.folds >= 2, "data.folds", "0, or at least 2", self.folds)
        require(self.fold >= 0, "data.fold", "at least 0", self.fold)
        require(self.fold == 0 or self.folds > 0, "data.fold", "0 without data.folds", self.fold, "data.folds=5")
        if self.folds:
            table = self.format not in ("grammar", "text")
            require(table, "data.folds", "0 for the built-in grammar and for running text", self.folds, "data.folds=0")
            what = "null with data.folds, which takes the test split out of train"
            require(self.test is None, "data.test", what, self.test, "data.test=null")


def expected_fold_ratio(folds: int, val: Any, splits: Mapping[str, float]) -> float:
    """Returns about how many rows a fold has for each training row, before the rows are read.

    Args:
        folds: ``data.folds``.
        val: ``data.val``; with a file, no validation rows are held out of the other folds.
        splits: ``data.splits``. If val is a number of rows there, their share is not known and counts as 0.
    """
    share = 0.0 if val is not None else splits.get("val", 0.0)
    return 1 / ((folds - 1) * (1 - (share if share < 1 else 0.0)))


@dataclass(kw_only=True, slots=True)
class SideTokenizerConfig:
    """In what the tokenizer of a source or of a target differs from ``tokenizer.*``."""

    kind: str = ""
    """As tokenizer.kind, which empty takes."""
    vocab_size: int = 0
    """As tokenizer.vocab_size, which 0 takes."""
    lowercase: bool | None = None
    """As tokenizer.lowercase, which null takes."""
    min_frequency: int = 0
    """As tokenizer.min_frequency, which 0 takes."""


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """How text becomes ids; trained on the train split only."""

    kind: str = "bpe"
    """bpe (arXiv:1508.07909), unigram (arXiv:1804.10959), word, char, byte, or the name of a tokenizer that a plugin
    adds."""
    vocab_size: int = 8000
    """Maximum number of entries, special tokens included (bpe, unigram, word)."""
    joint: bool = True
    """Whether source and target share one vocabulary. If not, each has its own."""
    lowercase: bool = False
    """Lower-case the text before everything else; the outputs are then lower-case too."""
    min_frequency: int = 2
    """Minimum number of occurrences for a merge (bpe) or a word (word) to get an entry."""
    dropout: float = 0.0
    """BPE-dropout (arXiv:1910.13267): probability, such as 0.1, that a possible merge is left out while a training text
    is cut into subwords. It needs tokenizer.kind=bpe, and a task that reads rows. 0 cuts a text in one way only."""
    dropout_copies: int = 10
    """If tokenizer.dropout is set: number of ways in which each training text is cut. An epoch passes over all of
    them."""
    source: SideTokenizerConfig = field(default_factory=SideTokenizerConfig)
    """What is different for the source. If source and target differ, each has its own vocabulary."""
    target: SideTokenizerConfig = field(default_factory=SideTokenizerConfig)
    """What is different for the target."""

    def __post_init__(self) -> None:
        for name, side in (("source", self.source), ("target", self.target)):
            for key, value, least in (("vocab_size", side.vocab_size, 8), ("min_frequency", side.min_frequency, 1)):
                require(value == 0 or value >= least, f"tokenizer.{name}.{key}", f"0, or at least {least}", value)
        require(self.vocab_size >= 8, "tokenizer.vocab_size", "at least 8", self.vocab_size)
        require(self.min_frequency >= 1, "tokenizer.min_frequency", "at least 1", self.min_frequency)
        require(0 <= self.dropout < 1, "tokenizer.dropout", "in [0, 1)", self.dropout)
        require(self.dropout_copies >= 1, "tokenizer.dropout_copies", "at least 1", self.dropout_copies)
        kinds = {self.kind, self.source.kind or self.kind, self.target.kind or self.kind}
        only = "0 unless tokenizer.kind=bpe, because the other kinds have no merges"
        require(not self.dropout or kinds == {"bpe"}, "tokenizer.dropout", only, self.dropout, "tokenizer.kind=bpe")

    def of(self, role: str) -> TokenizerConfig:
        """The settings of the tokenizer of a role, with those of its side."""
        own = {"source": self.source, "target": self.target}.get(role, SideTokenizerConfig())
        return TokenizerConfig(
            kind=own.kind or self.kind,
            vocab_size=own.vocab_size or self.vocab_size,
            joint=self.joint,
            lowercase=self.lowercase if own.lowercase is None else own.lowercase,
            min_frequency=own.min_frequency or self.min_frequency,
        )

    @property
    def sides_differ(self) -> bool:
        """Whether source and target need tokenizers of their own."""
        return self.of("source") != self.of("target")


def column_of(roles: dict[str, str], task: str, role: str) -> str | None:
    """The column that plays ``role`` in ``task``, if ``data.roles`` names one."""
    return roles.get(f"{task}_{role}", roles.get(role))
