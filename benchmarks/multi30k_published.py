"""Scores a run on Multi30k as the published 41.02 BLEU was scored (Wu et al. 2021), beside sacreBLEU's 13a.

    pip install sacremoses
    MULTIHEAD_DATA=... python benchmarks/multi30k_published.py run=RUN [split=test] [reference=FILE] [out=FILE]
        [KEY=VALUE ...]

The published measure is BLEU on tokens. Outputs and references are lower-cased, then tokenised as Moses does for the
target's language, and sacreBLEU counts these tokens as they are (``--tokenize none``). Lower-casing comes first, as in
the script of the data set: ``Bart.`` is one token for Moses, because it may be a name before an initial, and ``bart .``
are two. Quotation marks become ``&quot;``. Punctuation is not normalised, which would change no reference of the test
split.

``reference`` is the file that was scored (github.com/LividWo/Revisit-MMT, ``data/multi30k-en-de/test.2016.de`` without
its subword marks). The program ends if one line of it is not our own tokenisation of the plain reference. By default
it is read if MULTIHEAD_DATA has it in ``multi30k_tokenised``, and none compares nothing. There is one for the test
split only.

The run decodes here, in float32, with its own ``decoding.*`` and KEY=VALUE: ``decoding.length_penalty=1.2``. So choose
with ``split=val``, and read the test split once.
"""

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rounds import split_words
from sacremoses import MosesTokenizer

import multihead
from multihead.config.roles import data_of
from multihead.data.corpus import data_root, load_corpus
from multihead.data.prepare import SPLIT_SEED
from multihead.metrics.text import CorpusBLEU
from multihead.runs.run import Run

OWN = {"run": "", "split": "test", "reference": "", "out": ""}
REFERENCE = "multi30k_tokenised/test_2016_flickr.tok.lc.de.gz"
MEASURES = {
    "published": {"lowercase": True, "tokenize": "none"},
    "13a": {"lowercase": False, "tokenize": "13a"},
    "13a_lowercase": {"lowercase": True, "tokenize": "13a"},
}
"""Each measure with what sacreBLEU does; ``published`` is of tokenised lines."""


def tokenised(lines: Sequence[str], language: str) -> list[str]:
    """Returns each line lower-cased and tokenised by Moses, with single blanks between the tokens."""
    moses = MosesTokenizer(language)
    return [" ".join(moses.tokenize(line.strip().lower())) for line in lines]


def scores(outputs: Sequence[str], references: Sequence[str], language: str) -> dict[str, dict[str, Any]]:
    """Returns BLEU and its signature by measure, for detokenised outputs."""
    found = {}
    for name, options in MEASURES.items():
        as_tokens = name == "published"
        pair = (tokenised(lines, language) if as_tokens else lines for lines in (outputs, references))
        bleu = CorpusBLEU(**options)
        bleu.update(*pair)
        found[name] = {"bleu": float(bleu.compute()), "signature": bleu.signature()}
    return found


def texts_of(run: Run, split: str) -> tuple[list[str], list[str], str]:
    """Returns sources and references of a split of the run's data, and the language of the references."""
    settings = run.task.member("translation").settings
    data = data_of(run.config.data, settings)
    rows = load_corpus(data, settings.roles, splits=[split], seed=SPLIT_SEED).splits[split].columns
    return list(rows["source"]), list(rows["target"]), data.roles["target"]


def require_equal(references: Sequence[str], theirs: Path, language: str) -> None:
    """Ends the program unless our tokenisation of the references is the file."""
    with gzip.open(theirs, "rt", encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")[:-1]
    pairs = zip(tokenised(references, language), lines, strict=True)
    wrong = [f"line {number}\n  ours   {a}\n  theirs {b}" for number, (a, b) in enumerate(pairs, 1) if a != b]
    if wrong:
        raise SystemExit("\n".join([f"{len(wrong)} references are tokenised in another way than in {theirs}", *wrong]))
    print(f"all {len(lines):,} references ({sum(len(line.split()) for line in lines):,} tokens) equal {theirs}")


def measured(run: Run, split: str, reference: str) -> dict[str, Any]:
    """Returns the scores of a run on a split, with what they were measured on.

    Args:
        run: A loaded run of translation.
        split: val or test.
        reference: A file that our tokenised references must equal; none compares nothing.
    """
    sources, references, language = texts_of(run, split)
    if reference != "none":
        require_equal(references, Path(reference), language)
    outputs = [found[0]["text"] for found in run.predict(sources, "translation")]
    return {"split": split, "sentences": len(outputs), **scores(outputs, references, language)}


def main(words: Sequence[str]) -> None:
    """Measures and reports."""
    settings, words = split_words(words, OWN)
    run = multihead.load(settings["run"], *words)
    known = Path(data_root(), REFERENCE)
    tested = run.config.data.name == "multi30k" and settings["split"] == "test"
    by_default = str(known) if tested and known.is_file() else "none"
    result = measured(run, settings["split"], settings["reference"] or by_default)
    result |= {"parameters": sum(p.numel() for p in run.model.parameters()), "words": words}
    for name in MEASURES:
        print(f"{name:14} BLEU {result[name]['bleu']:.2f}  {result[name]['signature']}")
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
