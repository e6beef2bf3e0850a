"""The tokenizer of a published model: the ``tokenizers`` library runs its ``tokenizer.json`` as it is.

Special entries keep their ids, and each role is played by one of them. The file's own template says which marks stand
before, between and behind texts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from multihead.data.tokenizer import VERSION, Tokenizer
from multihead.errors import CheckpointError

KIND = "published"
ROLES = {
    "pad": ("pad_token", "eos_token", "sep_token"),
    "bos": ("cls_token", "bos_token", "eos_token", "sep_token"),
    "eos": ("eos_token", "sep_token"),
    "unk": ("unk_token", "eos_token", "sep_token"),
    "sep": ("sep_token", "eos_token"),
    "mask": ("mask_token", "unk_token", "eos_token", "sep_token"),
}
"""Role to the names of the special entries that can play it. The first one that a model has plays it."""
OF_DECODERS = ("decoder_start_token", "forced_bos_token")
"""Names of what a decoder reads before a target; they stand in ``config.json`` only."""
PROBE = "a"


class PublishedTokenizer(Tokenizer):
    """A tokenizer that others trained, with its normalisation, splitting and templates.

    Args:
        backend: The content of ``tokenizer.json``.
        special: Name of a special entry, such as ``cls_token``, to its text.
        vocab_size: Rows of the embedding, at least as many as there are entries.

    Raises:
        ValueError: The content is no tokenizer, or no special entry can end a text.
    """

    def __init__(self, backend: Mapping[str, Any], special: Mapping[str, str], vocab_size: int):
        self.kind, self.unicode_form, self.lowercase = KIND, "none", False
        self.merges, self.scores = [], []
        self.backend, self.special = dict(backend), dict(special)
        self._backend = _backend(backend)
        entries = self._backend.get_vocab(with_added_tokens=True)
        highest = max(entries.values(), default=-1)
        if highest >= vocab_size:
            raise ValueError(f"has ids up to {highest:,}, but the model has only {vocab_size:,} rows of embeddings")
        self.vocab = [f"<unused {number}>" for number in range(vocab_size)]
        for entry, number in entries.items():
            self.vocab[number] = entry
        ids = {name: entries[text] for name, text in special.items() if text in entries}
        for role, names in ROLES.items():
            found = next((ids[name] for name in names if name in ids), None)
            if found is None:
                raise ValueError("must have an eos_token or a sep_token, which ends a text")
            setattr(self, f"{role}_id", found)
        self.special_ids = tuple(sorted(set(ids.values())))
        self.has_mask = "mask_token" in ids
        self.has_unknown = "unk_token" in ids and self.unk_id != self.eos_id  # GPT-2 has one entry for both
        self.first_plain = 0
        self._read_template(ids)

    def _read_template(self, ids_of: Mapping[str, int]) -> None:
        """Finds the marks that the file puts before, between and behind texts."""
        pair = self._backend.encode(PROBE, PROBE)
        sides, ids = pair.sequence_ids, pair.ids
        if 0 not in sides or 1 not in sides:
            raise ValueError(f"encodes {PROBE!r} as nothing")
        first, second = sides.index(0), sides.index(1)
        last = len(sides) - sides[::-1].index(0)
        self.between = tuple(ids[last:second])
        self.second_type = pair.type_ids[second]
        single = self._backend.encode(PROBE)
        inside = [place for place, side in enumerate(single.sequence_ids) if side == 0]
        self.start, self.end = tuple(ids[:first]), tuple(single.ids[inside[-1] + 1 :])
        self.opening = self.source_start = self.start
        self.source_end = self.end or (self.eos_id,)
        first, forced = ids_of.get("decoder_start_token"), ids_of.get("forced_bos_token")
        more = self.start if forced is None else (forced,)
        self.target_start = (self.bos_id,) if first is None else (first, *more)

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """Text of each sequence, without special entries."""
        return self._backend.decode_batch([list(ids) for ids in batch], skip_special_tokens=True)

    def normalize(self, text: str) -> str:
        """What ``decode(encode(text))`` gives."""
        return self.decode_batch(self.encode_batch([text]))[0]

    def readable(self, token_id: int) -> str:
        """An entry as a person reads it."""
        return self.vocab[token_id] if 0 <= token_id < len(self.vocab) else str(token_id)

    def tokenizers_json(self, before: Sequence[int] = (), behind: Sequence[int] = (), *, by_line: bool = False) -> str:
        """The published file with its own marks and its own lines, without truncation and padding to its lengths."""
        return json.dumps(self.backend | {"truncation": None, "padding": None}, ensure_ascii=False)

    @property
    def tokenizers_names(self) -> dict[str, str]:
        """The special entries by the names that ``transformers`` gives them."""
        return {name: entry for name, entry in self.special.items() if name not in OF_DECODERS}

    @functools.cached_property
    def _content(self) -> str:
        content = {
            "version": VERSION,
            "kind": KIND,
            "vocab_size": self.vocab_size,
            "special": self.special,
            "tokenizer": self.backend,
        }
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"


def _backend(content: Mapping[str, Any]) -> Backend:
    """The library's tokenizer, without the truncation and padding that a file may ask for."""
    try:
        backend = Backend.from_str(json.dumps(content))
    except Exception as error:  # the library raises no class of its own
        raise ValueError(" ".join(str(error).split())[:200]) from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer of a run, ours or a published one.

    Raises:
        CheckpointError: The file is missing, damaged, or not one that `Tokenizer.save` wrote.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("kind") != KIND:
            return Tokenizer.load(path)
        return PublishedTokenizer(content["tokenizer"], content["special"], content["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(str(path), f"is not a tokenizer of Multihead ({error})", "restore the file") from error
