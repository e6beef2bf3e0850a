"""Text to ids and back: bpe, unigram, word, char and byte, all through the `tokenizers` library.

bpe (arXiv:1508.07909) and unigram (arXiv:1804.10959) work on the bytes of words. So no text is unknown, and
``decode(encode(text)) == text`` holds after normalisation. A word includes the space before it. So the decoded text is
detokenised: spaces and punctuation are as they were. Each digit is a token, and letters never join punctuation.

A file holds only the vocabulary and three settings. This module fixes what each kind of tokenizer does with text.
"""

from __future__ import annotations

import codecs
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
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from multihead.config.check import require
from multihead.config.data import NORMALIZATIONS, TOKENIZERS, TokenizerConfig
from multihead.data.unigram import train_unigram
from multihead.errors import CheckpointError, DataError

# Without a value the library warns in every forked worker of a DataLoader, although workers tokenise nothing.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<sep>", "<mask>")
NUM_SPECIALS = len(SPECIALS)
ESCAPE = "\0"
"""Precedes the names of special entries in the vocabulary of the library, so that no text can spell them."""
SUBWORD = ("bpe", "unigram")
# A piece is a word or a run of punctuation with the space before it, a digit, or one blank. Bounds keep time linear.
PIECES = r" ?[\p{L}\p{M}]{1,64}| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]{1,16}|\s"
VERSION = 2


class Tokenizer:
    """A trained vocabulary.

    Args:
        kind: bpe, unigram, word, char or byte.
        normalize: Unicode normalisation that comes first: none, nfc or nfkc.
        lowercase: Whether text is lower-cased after normalisation.
        vocab: Entries in the order of their ids, special entries first.
        merges: For bpe, pairs of entries in the order in which they are merged.
        scores: For unigram, the log-probability of each entry.
    """

    pad_id, bos_id, eos_id, unk_id, sep_id, mask_id = range(NUM_SPECIALS)
    special_ids: Sequence[int] = range(NUM_SPECIALS)
    first_plain = NUM_SPECIALS
    """The first id from which random tokens are drawn."""
    start, between, end = (bos_id,), (sep_id,), (eos_id,)
    """Marks before a text that is classified, between the two texts of a pair, and behind."""
    second_type = 1
    """Type of the second text of a pair, where a model tells them apart."""
    opening = (eos_id,)
    """What a language model reads before a document."""
    source_start, source_end = (), (eos_id,)
    """Marks before and behind a source text, which an encoder reads."""
    target_start = (bos_id,)
    """What a decoder reads before the target of a source."""
    has_mask = True
    """Whether there is an entry that hides a token."""

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

    @functools.cached_property
    def has_unknown(self) -> bool:
        """Whether there is text that the vocabulary cannot spell."""
        return self.kind in ("word", "char")

    @property
    def vocab_size(self) -> int:
        """Number of ids, special entries included."""
        return len(self.vocab)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without special entries."""
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # some text holds half a surrogate pair
            texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def pieces(self, text: str) -> list[str]:
        """Returns the words of a text, each with the blank before it, in the letters of the vocabulary."""
        text = self._backend.normalizer.normalize_str(text.encode("utf-8", "replace").decode("utf-8"))
        return [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all texts in one array, and the number of ids of each text.

        Plain bytes are looked up in a table without the library.
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
        """Id of each byte."""
        ids = {entry: number for number, entry in enumerate(self.vocab)}
        return np.array([ids[character] for character in _byte_characters()], dtype=np.int32)

    def readable(self, token_id: int) -> str:
        """Returns an entry as people read it: a blank as ``▁``, bytes of an incomplete character as ``\\xc3``."""
        if not 0 <= token_id < len(self.vocab):
            return str(token_id)
        content = self._bytes_of(token_id)
        return _visible(self.vocab[token_id] if content is None else content.decode("utf-8", "backslashreplace"))

    def readable_all(self, ids: Iterable[int]) -> list[str]:
        """Returns each entry of a text as people read it, as `readable` does for one.

        If the bytes of a character are in several entries, the last of them is the character, and the others are
        ``…``.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        texts: list[str] = []

        def end() -> None:  # bytes at the end of a run of entries that make no character
            if rest := decoder.decode(b"", final=True):
                texts[-1] += rest
            decoder.reset()

        for token_id in ids:
            content = self._bytes_of(token_id)
            if content is None:
                end()
                texts.append(self.readable(token_id))
            else:
                texts.append(_visible(decoder.decode(content)))
        end()
        return [text or "…" for text in texts]

    def _bytes_of(self, token_id: int) -> bytes | None:
        """The bytes that an entry stands for; None if entries are no bytes, or if this one is special or unknown."""
        if not NUM_SPECIALS <= token_id < len(self.vocab) or self.kind not in (*SUBWORD, "byte"):
            return None
        return bytes(self._byte_of[character] for character in self.vocab[token_id])

    @functools.cached_property
    def _byte_of(self) -> dict[str, int]:
        """The byte that each of the library's letters for bytes stands for."""
        return {character: byte for byte, character in enumerate(_byte_characters())}

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """Returns the detokenised text of each sequence. Special entries are left out, but word and char show <unk>."""
        if self.kind in ("word", "char"):
            joint = " " if self.kind == "word" else ""
            return [joint.join(self.vocab[i] for i in ids if i >= NUM_SPECIALS or i == self.unk_id) for ids in batch]
        texts = self._backend.decode_batch([[i for i in ids if i >= NUM_SPECIALS] for ids in batch], False)
        return [text.removeprefix(" ") for text in texts] if self.kind in SUBWORD else texts

    def normalize(self, text: str) -> str:
        """Returns what ``decode(encode(text))`` would: with the Unicode form, the case, and single blanks for words."""
        text = self._backend.normalizer.normalize_str(text)
        if self.kind == "word":
            return " ".join(piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text))
        return text.removeprefix(" ") if self.kind in SUBWORD else text

    def unk_rate(self, ids: Iterable[Sequence[int]]) -> float:
        """Returns the share of unknown entries in encoded text. It is 0 for bpe, unigram and byte."""
        total = unknown = 0
        for sequence in ids:
            total += len(sequence)
            unknown += sum(1 for i in sequence if i == self.unk_id)
        return unknown / max(1, total)

    def tokenizers_json(self, before: Sequence[int] = (), behind: Sequence[int] = (), *, by_line: bool = False) -> str:
        """The tokenizer in the format of the ``tokenizers`` library, where special entries keep their escape.

        Args:
            before: Marks that it puts before a text.
            behind: Marks that it puts behind a text, or behind the second of a pair; between the two stands ``<sep>``.
            by_line: Whether it gives the ids of the lines, each encoded by itself, instead of those of the whole text.
        """
        backend, names = Backend.from_str(self._backend.to_str()), _keys(SPECIALS)
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        first, last = [names[i] for i in before], [names[i] for i in behind]
        backend.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", names[self.sep_id], "$B:1", *(f"{name}:1" for name in last)],
            special_tokens=list(zip(names, range(NUM_SPECIALS), strict=True)),
        )
        if self.kind in SUBWORD:
            steps: list[decoders.Decoder] = [decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]
            if by_line:  # each line begins with a blank, as a text does
                blanks = normalizers.Replace(Regex(r"\n(?!\z)"), "\n ")
                backend.normalizer = normalizers.Sequence([backend.normalizer, blanks])
                steps.append(decoders.Replace("\n ", "\n"))
            backend.decoder = decoders.Sequence(steps)
        elif self.kind == "char":
            backend.decoder = decoders.Fuse()
        return backend.to_str()

    @property
    def tokenizers_names(self) -> dict[str, str]:
        """The special entries there by the names that ``transformers`` gives them."""
        names = _keys(SPECIALS)
        words = ("pad_token", "bos_token", "eos_token", "unk_token", "sep_token", "mask_token")
        return dict(zip(words, names, strict=True)) | {"cls_token": names[self.bos_id]}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 of the content of the file."""
        return hashlib.sha256(self._content.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON. It replaces an older file only after it is complete."""
        part = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.part")
        part.write_text(self._content, encoding="utf-8", newline="\n")
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a file that `save` wrote.

        Raises:
            CheckpointError: The file is missing, damaged, or of another program.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                str(path), f"is not a tokenizer of Multihead ({error})", "restore the file"
            ) from error
        wrong = _flaw(content)
        if wrong:
            raise CheckpointError(str(path), f"is not a tokenizer of Multihead ({wrong})", "restore the file")
        names = ("kind", "normalize", "lowercase", "vocab", "merges", "scores")
        return cls(*(content[name] for name in names))

    @functools.cached_property
    def _content(self) -> str:
        """The file. To write it as JSON takes a tenth of a second, and a run asks for it many times."""
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
    """Returns what is wrong with the content of a file, or an empty text."""
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


def _visible(text: str) -> str:
    """Returns a text in which blanks, line breaks and tabs can be seen."""
    return text.replace(" ", "▁").replace("\n", "\\n").replace("\t", "\\t")


@functools.cache
def _byte_characters() -> list[str]:
    """Returns the character by which the library names each byte: itself if it is visible, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(256)
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _keys(vocab: Sequence[str]) -> list[str]:
    """Returns the names of the entries in the library. Special entries are escaped."""
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
    """Builds the steps of one kind of tokenizer around its model."""
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
    """Trains a tokenizer. The same texts give the same bytes with any number of threads.

    Args:
        config: Kind and size.
        texts: Texts of the train split only. The caller decides whether source and target share one vocabulary.
        normalize: Unicode normalisation: none, nfc or nfkc.

    Raises:
        ConfigError: The vocabulary cannot hold the alphabet.
        DataError: The texts are empty.
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
        raise DataError("tokenizer", "no text to train on", "check data.train and tokenizer.min_frequency")
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
