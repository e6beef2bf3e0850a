"""From the configuration to ids: reads the splits of every task of a run, gets the tokenizers, encodes the text."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from multihead.capabilities import cache_root
from multihead.config.check import require
from multihead.config.compose import Composition
from multihead.config.data import SPLITS, DataConfig
from multihead.config.roles import data_of
from multihead.config.task import (
    ClassificationConfig,
    LanguageModelingConfig,
    RegressionConfig,
    TaskConfig,
    TranslationConfig,
)
from multihead.config.training import Config
from multihead.data.added import readers_of, trainer_of
from multihead.data.bpe_dropout import recut
from multihead.data.corpus import Corpus, Rows, load_corpus
from multihead.data.encode import Encoded, Note, cached_tokenizer, encode_corpus
from multihead.data.labels import class_names, encode_labels, read_labels, read_numbers, subset
from multihead.data.lines import find
from multihead.data.stream import Stream, TextFiles, encode_stream, fingerprint
from multihead.data.tokenizer import Tokenizer
from multihead.errors import CheckpointError, DataError
from multihead.tables.label_names import label_names
from multihead.tables.opening import Unclear
from multihead.text.targets import TargetText, require_tokenizer, usable_tokenizer

if TYPE_CHECKING:
    from multihead.text.vocabulary import Scale, Vocabulary

log = logging.getLogger("multihead")

SPLIT_SEED = 0
"""Seed of held-out rows and of subsets. It belongs to the data, so that runs with other seeds use the same rows."""


@dataclass
class TaskText:
    """The text of one task: rows with roles, or running text that is read line by line."""

    settings: TaskConfig
    data: DataConfig
    corpus: Corpus = field(default_factory=lambda: Corpus({}, {}))
    """Rows by split. Running text from files has no rows."""
    lines: dict[str, Callable[[], Iterable[str]]] = field(default_factory=dict)
    """For a language model: split to a function that returns its lines."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Split to the sha256 of its content."""
    labels: dict[str, list[list[str]]] = field(default_factory=dict)
    """For a classification: split to the classes of each row."""
    numbers: dict[str, list[float]] = field(default_factory=dict)
    """For a regression: split to the number of each row."""
    skipped: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Split to the rows that ``data.on_bad_line=skip`` left out of its file, and all rows of that file."""

    def texts(self, role: str) -> Iterable[str]:
        """Returns the training texts of a role."""
        return self.lines["train"]() if self.lines else self.corpus.splits["train"].columns[role]

    def rename(self, split: str, name: str) -> None:
        """Gives a split another name. Evaluation calls the split that it reads ``test``."""
        by_split: dict[str, Any]
        for by_split in (self.lines, self.fingerprints, self.labels, self.numbers, self.skipped, self.corpus.splits):
            if split in by_split:
                by_split[name] = by_split.pop(split)

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several classes."""
        return isinstance(self.settings, ClassificationConfig) and self.settings.multi_label

    @property
    def text_roles(self) -> list[str]:
        """The roles whose text is encoded."""
        if self.lines:
            return ["text"]
        rows = next(iter(self.corpus.splits.values()))
        return [role for role in rows.columns if role != "label"]


@dataclass
class Prepared:
    """What the data room prepares for a run: text, tokenizers and ids of every task."""

    texts: dict[str, TaskText]
    vocab: Vocabulary
    encoded: dict[str, dict[str, Encoded | Stream]]
    """Name of each task to split to ids."""
    notes: list[str]
    """Sentences for the user about skipped lines, held-out splits and damaged caches."""
    unknown: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Name of each task to split to role to the share of its tokens that are unknown."""

    @property
    def skipped(self) -> dict[str, tuple[int, int]]:
        """Split to the rows that ``data.on_bad_line=skip`` left out and all rows: the largest counts of any task."""
        found: dict[str, tuple[int, int]] = {}
        for text in self.texts.values():
            for split, counts in text.skipped.items():
                found[split] = max(counts, found.get(split, (0, 0)))
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        """Checksums that a resumed run must find unchanged."""
        marks = {f"tokenizer_{role}": tokenizer.fingerprint for role, tokenizer in self.vocab.tokenizers.items()}
        splits = next(iter(self.texts.values())).fingerprints
        found = {split: [text.fingerprints[split] for text in self.texts.values()] for split in splits}
        return {f"data_{split}": _joint(of_tasks) for split, of_tasks in found.items()} | marks

    @property
    def rows(self) -> dict[str, int]:
        """Split to its number of rows, all tasks together. Running text from files has no rows."""
        found: dict[str, int] = {}
        for text in self.texts.values():
            for split, rows in text.corpus.splits.items():
                found[split] = found.get(split, 0) + len(rows)
        return found


def prepare(composition: Composition, splits: Sequence[str], vocab: Vocabulary | None = None) -> Prepared:
    """Reads, tokenizes and encodes the splits for every task of the run. A second time the ids come from the cache.

    Args:
        composition: The configuration and the user's plugin.
        splits: Names of the splits to prepare.
        vocab: Tokenizers and classes of a run. None trains tokenizers on the train split and finds its classes.
    """
    from multihead.text.vocabulary import Vocabulary

    config = composition.config
    notes = list(composition.notes)
    texts = {name: _read(composition, settings, splits, notes) for name, settings in config.task.members().items()}
    tokenizers = dict(vocab.tokenizers) if vocab else train_tokenizers(composition, texts, notes)
    labels = list(vocab.labels) if vocab else []
    for text in texts.values():
        if text.labels:
            if not labels and "train" not in text.labels:
                raise CheckpointError("labels.json", "names no class", "copy the run again")
            if not labels:
                rows = text.corpus.splits["train"]
                labels = class_names(text.labels["train"], rows, text.data.labels.values(), text.multi_label)
    targets, scales = (dict(vocab.targets), dict(vocab.scales)) if vocab else ({}, {})
    scales |= {name: _scale(text) for name, text in texts.items() if text.numbers and name not in scales}
    vocab = Vocabulary(tokenizers, labels, targets, scales)
    encoded = {name: _encode(config, text, vocab, notes) for name, text in texts.items()}
    for name, text in texts.items():
        if not isinstance(text.settings, TranslationConfig):
            continue
        ids = encoded[name].get("train")
        if name not in targets and isinstance(ids, Encoded):
            columns = text.corpus.splits["train"].columns
            targets[name] = TargetText.measured(ids.lengths("source"), ids.lengths("target"), columns["target"])
        require_tokenizer(text.settings.bleu_tokenize)
        _, note = usable_tokenizer(text.settings.bleu_tokenize, targets.get(name, TargetText()))
        notes += [note] if note else []
    unknown = {name: unknown_shares(ids, vocab.tokenizers) for name, ids in encoded.items()}
    notes += [note for shares in unknown.values() for note in unknown_notes(shares, vocab.tokenizers)]
    return Prepared(texts, vocab, encoded, notes, unknown)


def recut_train(config: Config, prepared: Prepared) -> None:
    """Cuts the texts of the train split into subwords in several ways, if ``tokenizer.dropout`` asks for it."""
    own = config.tokenizer
    for name, text in prepared.texts.items() if own.dropout else ():
        encoded = prepared.encoded[name]
        ids, columns = encoded["train"], text.corpus.splits["train"].columns
        assert isinstance(ids, Encoded), "tokenizer.dropout is refused for running text"
        options = {"dropout": own.dropout, "copies": own.dropout_copies, "seed": config.seed}
        encoded["train"] = recut(ids, columns, prepared.vocab.tokenizers, **options)
        prepared.notes.append(f"train: BPE-dropout cuts each of {len(ids):,} rows in {own.dropout_copies} ways")


def _scale(text: TaskText) -> Scale:
    """Returns the mean and the deviation of the training labels of a regression.

    Raises:
        CheckpointError: The training split is not read, since the run has it already.
        DataError: All labels are equal.
    """
    from multihead.text.vocabulary import Scale

    if "train" not in text.numbers:
        raise CheckpointError("scales.json", "is missing", "copy the run again")
    numbers = np.array(text.numbers["train"])
    if np.ptp(numbers) == 0:
        what = f"every label of train is {numbers[0]:g}, so there is nothing to learn"
        rows = text.corpus.splits["train"]
        raise DataError(rows.files["label"], what, "let data.roles.label name the column of numbers")
    return Scale(float(numbers.mean()), float(numbers.std()))


def _read(composition: Composition, settings: TaskConfig, splits: Sequence[str], notes: list[str]) -> TaskText:
    """Reads the text of one task."""
    config = composition.config
    few = config.trainer.overfit_examples
    text = TaskText(settings, data_of(config.data, settings))
    wanted = ("train",) if few else tuple(splits)
    is_lm = isinstance(settings, LanguageModelingConfig)
    if is_lm and config.data.format == "text":
        require(not config.data.train_examples, "data.train_examples", "0 for running text", config.data.train_examples)
        files = TextFiles(text.data)
        source = dict.fromkeys(splits, "train") if few else {split: split for split in splits}
        for split in splits:
            lines = functools.partial(_first_lines, functools.partial(files.lines, source[split]), few)
            text.lines[split], text.fingerprints[split] = lines, fingerprint(lines())
        notes += files.notes
        text.skipped = files.skipped
        return text
    readers = readers_of(config, composition.plugin)
    roles = list(text.data.roles) or list(settings.roles)
    optional = ("label",) if text.multi_label else ()
    numbers = ("label",) if isinstance(settings, RegressionConfig) else ()
    how = {"readers": readers, "may_be_empty": optional, "numbers": numbers}
    text.corpus = load_corpus(text.data, roles, splits=wanted, seed=SPLIT_SEED, **how)
    notes += [note for note in text.corpus.notes if note not in notes]
    text.skipped = text.corpus.skipped
    if numbers:
        _read_numbers(text, wanted, notes)
    if few:
        rows = text.corpus.splits["train"]
        rows = rows.select(_first_rows(text, rows, min(few, len(rows))))
        text.corpus = Corpus(dict.fromkeys(splits, rows), dict.fromkeys(splits, rows.fingerprint()))
    if isinstance(settings, ClassificationConfig):
        _name_classes(text)
        _read_labels(text, text.corpus.splits)
    if config.data.train_examples and "train" in text.corpus.splits:
        rows = text.corpus.splits["train"]
        rows = rows.select(subset(rows, config.data.train_examples, text.labels.get("train"), SPLIT_SEED))
        text.corpus.splits["train"], text.corpus.fingerprints["train"] = rows, rows.fingerprint()
        if text.labels:
            _read_labels(text, ("train",))
    if numbers:
        text.numbers = {split: list(map(float, rows.columns["label"])) for split, rows in text.corpus.splits.items()}
    text.fingerprints = text.corpus.fingerprints
    if is_lm:
        text.lines = {split: functools.partial(_column, rows) for split, rows in text.corpus.splits.items()}
    return text


def _first_rows(text: TaskText, rows: Rows, count: int) -> np.ndarray:
    """Returns the first rows. A classification takes some of each class, since files are often sorted by class."""
    if not isinstance(text.settings, ClassificationConfig):
        return np.arange(count)
    return subset(rows, count, read_labels(text.data, rows, text.multi_label), SPLIT_SEED)


def _first_lines(lines: Callable[[], Iterable[str]], count: int) -> Iterable[str]:
    return itertools.islice(lines(), count) if count else lines()


def _column(rows: Rows) -> list[str]:
    return rows.columns["text"]


def warn_of_skipped(skipped: Mapping[str, tuple[int, int]], splits: Sequence[str] = SPLITS) -> None:
    """Warns of each of these splits whose file lost rows to ``data.on_bad_line=skip``."""
    for split, (count, total) in skipped.items():
        if split in splits:
            scored = f"; every score on {split} is of the other {total - count:,}" if split != "train" else ""
            share = f"{count:,} of {total:,} rows ({count / total:.1%})"
            log.warning("data: %s: %s were skipped, since data.on_bad_line=skip%s", split, share, scored)


def _name_classes(text: TaskText) -> None:
    """Reads ``data.label_names`` if ``data=PATH`` has not done so, and so the configuration has no names yet."""
    if not text.data.label_names or text.data.labels:
        return
    rows = text.corpus.splits.get("train")
    file = find(text.data, text.data.label_names)
    labels = [label.strip() for label in rows.columns["label"]] if rows else ["0"]
    try:
        names, _ = label_names(file, rows.files["label"] if rows else "", labels, str(file))
    except Unclear as unclear:
        raise DataError(unclear.where, unclear.what, "  or  ".join(unclear.choices)) from None
    text.data = replace(text.data, labels=names)


def _read_labels(text: TaskText, splits: Iterable[str]) -> None:
    """Reads the classes of the rows of these splits."""
    for split in splits:
        text.labels[split] = read_labels(text.data, text.corpus.splits[split], text.multi_label)


def _read_numbers(text: TaskText, splits: Iterable[str], notes: list[str]) -> None:
    """Reads the labels of a regression, and leaves out the rows that have none if ``data.on_bad_line=skip``."""
    corpus = text.corpus
    for split in splits:
        _, rows, left_out = read_numbers(text.data, corpus.splits[split])
        if left_out:
            first, total = corpus.splits[split].origin(left_out[0], "label"), len(corpus.splits[split])
            notes.append(f"{split}: skipped {len(left_out):,} rows whose label is not a number, the first {first}")
            skipped, all_rows = corpus.skipped.get(split, (0, total))
            corpus.skipped[split] = (skipped + len(left_out), all_rows)
            corpus.fingerprints[split] = rows.fingerprint()
        if len(rows) == 0:
            raise DataError(rows.files["label"], f"no label of {split} is a number", "task=classification")
        corpus.splits[split] = rows


def train_tokenizers(composition: Composition, texts: dict[str, TaskText], notes: list[str]) -> dict[str, Tokenizer]:
    """Returns the tokenizer of each role, trained on the train split: one for all, or one for each role and task."""
    config, plugin = composition.config, composition.plugin
    uses = [(text, role) for text in texts.values() for role in text.text_roles]
    together = config.tokenizer.joint and not config.tokenizer.sides_differ
    groups = [uses] if together else [[use] for use in uses]
    trained: dict[str, Tokenizer] = {}
    for group in groups:
        settings = config.tokenizer.of(group[0][1])
        train, mark = trainer_of(config, plugin, settings.kind)
        marks = [*dict.fromkeys(text.fingerprints["train"] for text, _ in group), *mark]
        tokenizer = cached_tokenizer(
            settings,
            itertools.chain.from_iterable(text.texts(role) for text, role in group),
            config.data.normalize,
            fingerprint=f"{' '.join(marks)} {' '.join(sorted(role for _, role in group))}",
            cache=cache_root() if config.data.cache else None,
            note=notes.append,
            train=train,
        )
        trained |= {role: tokenizer for _, role in group}
    return trained


def _encode(config: Config, text: TaskText, vocab: Vocabulary, notes: list[str]) -> dict[str, Encoded | Stream]:
    """Returns the ids of every split of one task."""
    cache = cache_root() if config.data.cache else None
    if isinstance(text.settings, LanguageModelingConfig):
        return {split: _stream(config, text.settings, text, split, vocab, cache, notes.append) for split in text.lines}
    encoded: dict[str, Encoded | Stream] = {}
    for split, rows in text.corpus.splits.items():
        columns = {role: column for role, column in rows.columns.items() if role != "label"}
        mark = text.fingerprints[split]
        ids = encode_corpus(columns, vocab.tokenizers, fingerprint=mark, cache=cache, note=notes.append)
        if text.labels:
            numbers = encode_labels(text.labels[split], vocab.labels, rows, split, text.multi_label)
            ids = ids.with_role("label", numbers)
        if text.numbers:
            standardised = vocab.scales[text.settings.name].standardised(np.array(text.numbers[split]))
            ids = ids.with_numbers("label", standardised.tolist())
        encoded[split] = ids
    return encoded


def _stream(
    config: Config,
    settings: LanguageModelingConfig,
    text: TaskText,
    split: str,
    vocab: Vocabulary,
    cache: Path | None,
    note: Note,
) -> Stream:
    stream = encode_stream(
        text.lines[split],
        vocab.tokenizers["text"],
        document=config.data.document,
        mark=text.fingerprints[split],
        cache=cache,
        count_documents=split != "train",
        note=note,
    )
    block_size = settings.block_size or config.model.max_len
    return stream.blocked(block_size, min(settings.stride, block_size))


def unknown_shares(
    encoded: Mapping[str, Encoded | Stream], tokenizers: Mapping[str, Tokenizer]
) -> dict[str, dict[str, float]]:
    """Returns the share of unknown tokens by split and role, for tokenizers that have an unknown token."""
    with_unknown = {role: each.unk_id for role, each in tokenizers.items() if each.has_unknown}
    shares: dict[str, dict[str, float]] = {}
    for split, ids in encoded.items():
        if isinstance(ids, Encoded):
            shares[split] = {role: ids.share_of(role, unk) for role, unk in with_unknown.items() if role in ids.roles}
        elif "text" in with_unknown:
            shares[split] = {"text": ids.share_of(with_unknown["text"])}
    return {split: found for split, found in shares.items() if found}


def unknown_notes(shares: Mapping[str, Mapping[str, float]], tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """Returns a sentence for each role in which some split has unknown tokens."""
    roles = list(dict.fromkeys(role for found in shares.values() for role in found))
    notes = []
    for role in roles:
        of_splits = {split: found[role] for split, found in shares.items() if role in found}
        if any(of_splits.values()):
            listed = ", ".join(f"{split} {share:.2%}" for split, share in of_splits.items())
            published = tokenizers[role].kind == "published"
            advice = "the published tokenizer does not know these texts" if published else "tokenizer.kind=bpe has none"
            notes.append(f"unknown tokens in {role}: {listed}; {advice}")
    return notes


def _joint(marks: Sequence[str]) -> str:
    """Returns one fingerprint for several. A single one stays as it is."""
    return marks[0] if len(marks) == 1 else hashlib.sha256(" ".join(marks).encode()).hexdigest()
