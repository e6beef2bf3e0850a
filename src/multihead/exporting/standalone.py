"""Classifies lines of text by the program beside this file: python predict.py < texts.txt

It needs onnxruntime, tokenizers and numpy, and nothing else. predict.json holds what Multihead decided after training.
"""

import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).parent
SETTINGS = json.loads((HERE / "predict.json").read_text(encoding="utf-8"))
TOKENIZER = Tokenizer.from_file(str(HERE / "tokenizer.json"))
TOKENIZER.enable_truncation(SETTINGS["max_len"])
PROGRAM = onnxruntime.InferenceSession(str(HERE / "logits.onnx"))


def probabilities(texts: Sequence[str]) -> np.ndarray:
    """The probability of each class [N, C] for each text."""
    rows = [encoding.ids for encoding in TOKENIZER.encode_batch(list(texts))]
    width = max(map(len, rows))
    tokens = np.array([row + [SETTINGS["pad_id"]] * (width - len(row)) for row in rows], dtype=np.int64)
    mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    logits = np.asarray(PROGRAM.run(None, {"tokens": tokens, "mask": mask})[0], dtype=np.float64)
    if SETTINGS["multi_label"]:
        return 1 / (1 + np.exp(-logits))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def decide(row: np.ndarray) -> list[str]:
    """The classes of a text, by its probabilities [C] and the thresholds."""
    labels, limits = SETTINGS["labels"], SETTINGS["thresholds"]
    if SETTINGS["multi_label"]:
        return [label for label, p in zip(labels, row, strict=True) if p >= limits.get(label, 0.5)]
    reached = {label: p / limits[label] for label, p in zip(labels, row, strict=True) if label in limits}
    if reached and max(reached.values()) >= 1:
        return [max(reached, key=reached.__getitem__)]
    free = [label not in limits or len(limits) == len(labels) for label in labels]
    return [labels[int(np.where(free, row, -1.0).argmax())]]


def is_blank(text: str) -> bool:
    """Whether a text shows nothing, so that it has no class: spaces, tabs and zero-width characters."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


if __name__ == "__main__":
    for line in sys.stdin:
        if is_blank(line):
            sys.stdout.write("\n")
            continue
        found = probabilities([line.rstrip("\n")])[0]
        chosen = decide(found)
        shown = ",".join(f"{found[SETTINGS['labels'].index(label)]:.4f}" for label in chosen)
        sys.stdout.write(f"{','.join(chosen)}\t{shown}\n")
