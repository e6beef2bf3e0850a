"""Models of sentencepiece, converted to the `tokenizers` library, against ``sentencepiece`` itself.

    python benchmarks/sentencepiece_equal.py [lines=10000] [model ...] [show=20]

Every model is trained here by ``sentencepiece`` on lines of all data sets. Then both sides encode ``lines`` lines of
each language of the data, ``lines`` hostile ones (code points of every script in random order, and real lines with
marks, blanks and controls put in), and the sentences of the test's list of languages. The table counts lines with other
ids, by cause: a tie (both cuts have the same score to rounding), or the normalisation of characters.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer

from multihead.data.lines import data_root
from multihead.data.sentencepiece import read_pieces, t5_tokenizer

ROOT = Path(__file__).parents[1]
FILES = {
    "English": ("multi30k/train.en.gz", "tinyshakespeare/input.txt.gz", "wikitext-2"),
    "German": ("multi30k/train.de.gz",),
    "French": ("multi30k/train.fr.gz",),
    "Japanese": ("small_parallel_enja/train.ja.gz",),
}
KINDS: dict[str, dict[str, Any]] = {
    "nmt_nfkc": {"normalization_rule_name": "nmt_nfkc"},
    "nmt_nfkc_cf": {"normalization_rule_name": "nmt_nfkc_cf"},
    "identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no prefix": {"add_dummy_prefix": False, "split_by_whitespace": False},
    "as T5": {"character_coverage": 0.98, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "bytes": {"byte_fallback": True, "character_coverage": 0.98},
}
PUT_IN = "\u0301\u0308\u3099\u309a\uff9e\uff9f\u0651\u093c\u0e31\u200d\ufe0f\u00a0\u3000\t▁ \u200b\ufeff\u00ad~〜"


def real(language: str, count: int) -> list[str]:
    """Lines of the data sets in a language, no line twice."""
    found: dict[str, None] = {}
    for name in FILES[language]:
        path = data_root() / name
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as file:
                found |= dict.fromkeys(line.rstrip("\n") for line in file)
    lines = list(found)
    random.Random(0).shuffle(lines)
    return lines[:count]


def hostile(count: int, lines: list[str]) -> list[str]:
    """Lines that were made to differ."""
    rng = random.Random(1)
    points = [chr(i) for i in range(0x20, 0x30000) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]
    marks = [char for char in points if unicodedata.category(char).startswith("M")] + list(PUT_IN)
    wide = [chr(i) for i in range(0xFF00, 0xFFF0)] + [chr(i) for i in range(0x1100, 0x1200)]
    made = []
    for number in range(count):
        if number % 4 == 0:
            made.append("".join(rng.choices(points, k=rng.randint(1, 20))))
        elif number % 4 == 1:
            made.append("".join(rng.choice(rng.choice((points, marks, wide))) for _ in range(rng.randint(1, 20))))
        elif number % 4 == 2:
            start = rng.randrange(0x20, 0x2FE00)
            made.append("".join(chr(start + rng.randrange(96)) for _ in range(12) if not 0xD7A0 < start < 0xE000))
        else:
            text = list(rng.choice(lines))
            for _ in range(rng.randint(1, 4)):
                text.insert(rng.randint(0, len(text)), rng.choice(rng.choice((marks, PUT_IN))))
            made.append("".join(text))
    return made


def trained(options: dict[str, Any], lines: list[str]) -> tuple[Any, bytes]:
    """A model of sentencepiece."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, vocab_size=4000, hard_vocab_limit=False, minloglevel=2,
        num_threads=1, **options,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=file.getvalue()), file.getvalue()


def differing(theirs: Any, ours: Tokenizer, lines: list[str]) -> Iterator[tuple[str, str]]:
    """The lines with other ids, each with the cause."""
    for line, found in zip(lines, ours.encode_batch(lines, add_special_tokens=False), strict=True):
        wanted = theirs.encode(line)
        if wanted == found.ids:
            continue
        plain = ours.normalizer.normalize_str(line)
        normal = theirs.normalize(line)
        same_text = normal.replace(" ", "▁").lstrip("▁") == plain.lstrip("▁")
        scores = [sum(theirs.get_score(i) for i in ids) for ids in (wanted, found.ids)]
        tie = same_text and abs(scores[0] - scores[1]) <= 1e-5 * abs(scores[0])
        yield line, "tie" if tie else "other cut" if same_text else "normalisation"


def main(words: list[str]) -> None:
    """The table."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    kinds = [word for word in words if "=" not in word] or list(KINDS)
    count, show = int(given.get("lines", 10_000)), int(given.get("show", 0))
    sys.path.insert(0, str(ROOT / "tests"))
    from languages import SENTENCES

    sets = {language: real(language, count) for language in FILES}
    sets["languages"] = list(SENTENCES.values())
    everything = [line for lines in sets.values() for line in lines]
    sets["hostile"] = hostile(count, everything)
    corpus = [line for language in FILES for line in sets[language][:5000]] + sets["languages"] * 20
    print(f"lines: {', '.join(f'{name} {len(lines):,}' for name, lines in sets.items())}")
    for kind in kinds:
        theirs, content = trained(KINDS[kind], corpus)
        ours = Tokenizer.from_str(json.dumps(t5_tokenizer(read_pieces(content), 0)))
        for name, lines in sets.items():
            found = list(differing(theirs, ours, lines))
            causes = {cause: sum(other == cause for _, other in found) for cause in sorted({c for _, c in found})}
            print(f"{kind:12} {name:10} {len(found):5} of {len(lines):,} {causes or ''}", flush=True)
            for line, cause in found[:show]:
                print("   ", cause, ascii(line[:80]), len(line))


if __name__ == "__main__":
    main(sys.argv[1:])
