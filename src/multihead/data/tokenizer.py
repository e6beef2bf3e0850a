"""Text to ids and back: bpe, unigram, word, char and byte, all through the `tokenizers` library.

bpe (arXiv:1508.07909) and unigram (arXiv:1804.10959) work on the bytes of words, so that no text is unknown and
``decode(encode(text)) == text`` after normalisation. A word takes the space before it along, so the decoded text is
detokenised: spaces and punctuation come back as they were. Digits stand alone; letters never join punctuation.

A file holds the vocabulary and three settings only; what a kind of tokenizer does with text is fixed in this module.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from multihead.config.check import require
from multihead.config.data import NORMALIZATIONS, TOKENIZERS, TokenizerConfig
from multihead.data.unigram import train_unigram
from multihead.errors import CheckpointError, DataError

# Without a value the library warns in every forked worker of a DataLoader; workers tokenise nothing.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<sep>", "<mask>")
NUM_SPECIALS = len(SPECIALS)
ESCAPE = "\0"
"""Stands before a special entry's name in the library's vocabulary: no text can spell it."""
SUBWORD = ("bpe", "unigram")
# A word or a run of punctuation with the space before it, a digit, or one blank. The bounds keep the time linear.
PIECES = r" ?[\p{L}\p{M}]{1,64}| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]{1,16}|\s"
VERSION = 2


class Tokenizer:
    """A trained vocabulary.

    Args:
        kind: bpe, unigram, word, char or byte.
        normalize: Unicode normalisation before everything else: none, nfc or nfkc.
        lowercase: Whether text is lower-cased after it.
        vocab: The entries in the order of their ids, special entries first.
        merges: Of bpe: pairs of entries, first merge first.
        scores: Of unigram: the log-probability of each entry.
    """

    pad_id, bos_id, eos_id, unk_id, sep_id, mask_id = range(NUM_SPECIALS)

    def __init__(
        self,
        kind: str,
        normalize: str,
        lowercase: bool,
        vocab: Sequence[str],
        merges: Sequence[tuple[str, str]] = (),
        scores: Sequence[float] = (),
    ):
        self.kind, self.unicode_form, self.lowercase = kind, normalize, lowercase
        self.vocab, self.merges, self.scores = list(vocab), [(left, right) for left, right in merges], list(scores)
        self._backend = _pipeline(_model(kind, self.vocab, self.merges, self.scores), kind, normalize, lowercase)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special entries included."""
        return len(self.vocab)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special entries."""
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # half a surrogate pair somewhere
            texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in one array, and how many each has: `encode_batch` for many texts.

        Plain bytes need no library: they are looked up in a table.
        """
        if self.kind == "byte" and self.unicode_form == "none" and not self.lowercase:
            encoded = [text.encode("utf-8", "replace") for text in texts]
            joined = b"".join(encoded)
            if b"\0" not in joined:
                return self._byte_ids[np.frombuffer(joined, dtype=np.uint8)], np.array([len(each) for each in encoded])
        batch = self.encode_batch(texts)
        lengths = np.array([len(ids) for ids in batch], dtype=np.int64)
        return np.fromiter(itertools.chain.from_iterable(batch), np.int32, int(lengths.sum())), lengths

    @functools.cached_property
    def _byte_ids(self) -> np.ndarray:
        """Byte to id."""
        ids = {entry: number for number, entry in enumerate(self.vocab)}
        return np.array([ids[letter] for letter in _byte_letters()], dtype=np.int32)

    def readable(self, token_id: int) -> str:
        """An entry as a person reads it: a blank as ``▁``, bytes that are no whole letter as ``\\xc3``."""
        if not 0 <= token_id < len(self.vocab):
            return str(token_id)
        entry = self.vocab[token_id]
        if token_id >= NUM_SPECIALS and self.kind in (*SUBWORD, "byte"):
            byte_of = {letter: byte for byte, letter in enumerate(_byte_letters())}
            entry = bytes(byte_of[letter] for letter in entry).decode("utf-8", "backslashreplace")
        return entry.replace(" ", "▁").replace("\n", "\\n").replace("\t", "\\t")

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """Detokenised text of each sequence. Special entries are left out, except that word and char show <unk>."""
        if self.kind in ("word", "char"):
            joint = " " if self.kind == "word" else ""
            return [joint.join(self.vocab[i] for i in ids if i >= NUM_SPECIALS or i == self.unk_id) for ids in batch]
        texts = self._backend.decode_batch([[i for i in ids if i >= NUM_SPECIALS] for ids in batch], False)
        return [text.removeprefix(" ") for text in texts] if self.kind in SUBWORD else texts

    def normalize(self, text: str) -> str:
        """What ``decode(encode(text))`` gives: Unicode form, case, and for words single blanks."""
        text = self._backend.normalizer.normalize_str(text)
        if self.kind == "word":
            return " ".join(piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text))
        return text.removeprefix(" ") if self.kind in SUBWORD else text

    def unk_rate(self, ids: Iterable[Sequence[int]]) -> float:
        """Share of unknown entries in encoded text; always 0 for bpe, unigram and byte."""
        total = unknown = 0
        for sequence in ids:
            total += len(sequence)
            unknown += sum(1 for i in sequence if i == self.unk_id)
        return unknown / max(1, total)

    @property
    def fingerprint(self) -> str:
        """Sha256 of the content."""
        return hashlib.sha256(self._content().encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON, in place of an older file only when it is whole."""
        part = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.part")
        part.write_text(self._content(), encoding="utf-8", newline="\n")
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: The file is missing, damaged, or not one of ours.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(str(path), f"is no tokenizer of ours ({error})", "restore the file") from error
        wrong = _flaw(content)
        if wrong:
            raise CheckpointError(str(path), f"is no tokenizer of ours ({wrong})", "restore the file")
        names = ("kind", "normalize", "lowercase", "vocab", "merges", "scores")
        return cls(*(content[name] for name in names))

    def _content(self) -> str:
        content = {
            "version": VERSION,
            "kind": self.kind,
            "normalize": self.unicode_form,
            "lowercase": self.lowercase,
            "vocab": self.vocab,
            "merges": self.merges,
            "scores": self.scores,
        }
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"


def _flaw(content: object) -> str:
    """What is wrong with a file's content; empty where nothing is."""
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return f"no version {VERSION}"
    if content.get("kind") not in TOKENIZERS or content.get("normalize") not in NORMALIZATIONS:
        return "unknown kind or normalize"
    vocab, merges, scores = (content.get(name) for name in ("vocab", "merges", "scores"))
    if not isinstance(vocab, list) or not all(isinstance(entry, str) and ESCAPE not in entry for entry in vocab):
        return "vocab must be a list of strings"
    plain = vocab[NUM_SPECIALS:]
    if vocab[:NUM_SPECIALS] != list(SPECIALS) or len(set(plain)) != len(plain):
        return "vocab must start with the special entries and repeat none"
    entries = set(plain)
    if not isinstance(merges, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and {*pair, "".join(pair)} <= entries for pair in merges
    ):
        return "merges must be pairs of entries"
    if not isinstance(scores, list) or not all(_is_finite(score) for score in scores):
        return "scores must be finite numbers"
    if len(scores) != (len(vocab) if content["kind"] == "unigram" else 0) or not isinstance(
        content.get("lowercase"), bool
    ):
        return "scores or lowercase do not fit"
    return ""


def _is_finite(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


@functools.cache
def _byte_letters() -> list[str]:
    """The letter by which the library names each byte: itself if that can be seen, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(256)
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _keys(vocab: Sequence[str]) -> list[str]:
    """The library's names of the entries: special ones escaped."""
    return [ESCAPE + entry for entry in vocab[:NUM_SPECIALS]] + list(vocab[NUM_SPECIALS:])


def _model(kind: str, vocab: Sequence[str], merges: Sequence[tuple[str, str]], scores: Sequence[float]) -> models.Model:
    keys = _keys(vocab)
    if kind == "unigram":
        return models.Unigram(list(zip(keys, scores, strict=True)), unk_id=Tokenizer.unk_id, byte_fallback=False)
    ids = {key: i for i, key in enumerate(keys)}
    if kind in ("bpe", "byte"):
        return models.BPE(vocab=ids, merges=merges)
    return models.WordLevel(vocab=ids, unk_token=ESCAPE + SPECIALS[Tokenizer.unk_id])


def _pipeline(model: models.Model, kind: str, normalize: str, lowercase: bool) -> Backend:
    """The steps of one kind of tokenizer around its model."""
    backend = Backend(model)
    steps: list[normalizers.Normalizer] = [normalizers.Replace(ESCAPE, "\N{REPLACEMENT CHARACTER}")]
    if normalize != "none":
        steps.append({"nfc": normalizers.NFC, "nfkc": normalizers.NFKC}[normalize]())
    if lowercase:
        steps.append(normalizers.Lowercase())
    if kind in SUBWORD:
        steps.append(normalizers.Prepend(" "))
    backend.normalizer = normalizers.Sequence(steps)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind in SUBWORD:
        split = pre_tokenizers.Split(Regex(PIECES), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    elif kind == "byte":
        backend.pre_tokenizer = to_bytes
    elif kind == "word":
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?m)."), "isolated")
    if kind in (*SUBWORD, "byte"):
        backend.decoder = decoders.ByteLevel()
    return backend


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], normalize: str = "none") -> Tokenizer:
    """Trains a tokenizer; the same texts give the same bytes, whatever the number of threads.

    Args:
        config: Kind and size.
        texts: Of the train split only. Whether source and target share one vocabulary is the caller's choice.
        normalize: Unicode normalisation: none, nfc or nfkc.

    Raises:
        ConfigError: The vocabulary cannot hold the alphabet.
        DataError: There is no text.
    """
    kind = config.kind
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind in SUBWORD:
        least = NUM_SPECIALS + len(alphabet)
        what = f"at least {least} for {kind} ({NUM_SPECIALS} special entries and an alphabet of {len(alphabet)} bytes)"
        require(
            config.vocab_size >= least, "tokenizer.vocab_size", what, config.vocab_size, f"tokenizer.vocab_size={least}"
        )
    if kind == "byte":
        return Tokenizer(kind, normalize, config.lowercase, [*SPECIALS, *alphabet])
    if kind == "unigram":
        return _train_unigram(config, texts, normalize, alphabet)
    keys = _keys(SPECIALS)
    if kind == "bpe":
        model: models.Model = models.BPE()
        trainer: trainers.Trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=keys,
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        model = models.WordLevel(unk_token=keys[Tokenizer.unk_id])
        word = kind == "word"
        trainer = trainers.WordLevelTrainer(
            vocab_size=config.vocab_size if word else 0x110000 + NUM_SPECIALS,
            min_frequency=config.min_frequency if word else 0,
            special_tokens=keys,
            show_progress=False,
        )
    backend = _pipeline(model, kind, normalize, config.lowercase)
    backend.train_from_iterator(texts, trainer)
    learned = json.loads(backend.to_str())["model"]
    vocab = sorted(learned["vocab"], key=learned["vocab"].__getitem__)[NUM_SPECIALS:]
    if not vocab:
        raise DataError("tokenizer", "no text to train on", "see data.train and tokenizer.min_frequency")
    return Tokenizer(kind, normalize, config.lowercase, [*SPECIALS, *vocab], learned.get("merges", []))


def _train_unigram(config: TokenizerConfig, texts: Iterable[str], normalize: str, alphabet: list[str]) -> Tokenizer:
    blank = Tokenizer("bpe", normalize, config.lowercase, [*SPECIALS, *alphabet])._backend
    words: Counter[str] = Counter()
    for text in texts:
        normalised = blank.normalizer.normalize_str(text)
        words.update(word for word, _ in blank.pre_tokenizer.pre_tokenize_str(normalised))
    pieces = train_unigram(words, alphabet, config.vocab_size - NUM_SPECIALS)
    scores = [0.0] * NUM_SPECIALS + [round(score, 6) for _, score in pieces]
    vocab = [*SPECIALS, *(piece for piece, _ in pieces)]
    return Tokenizer("unigram", normalize, config.lowercase, vocab, scores=scores)
