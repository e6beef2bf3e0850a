"""Classifies or rates lines of text by the program beside this file: python predict.py < texts.txt

It needs onnxruntime, tokenizers and numpy, and nothing else. predict.json holds what Multihead decided after training.
"""

import itertools
import json
import os
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
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))  # 0 takes all cores
OPTIONS.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the core to others
PROGRAM = onnxruntime.InferenceSession(str(HERE / "logits.onnx"), OPTIONS)
BATCH_TOKENS = 4096
"""Most tokens of a batch, padding included."""
LINES_AT_ONCE = 1024
"""Lines that are read before they are answered, if no person types them."""


def outputs(texts: Sequence[str]) -> np.ndarray:
    """The logits of the classes [N, C], or the number [N, 1], of each text. Texts of similar length share a batch."""
    rows = [encoding.ids for encoding in TOKENIZER.encode_batch(list(texts))]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    while order:
        width = len(rows[order[0]])
        many = max(1, BATCH_TOKENS // width)
        chosen, order = order[:many], order[many:]
        tokens = np.full((len(chosen), width), SETTINGS["pad_id"], dtype=np.int64)
        for place, i in enumerate(chosen):
            tokens[place, : len(rows[i])] = rows[i]
        mask = np.arange(width) < np.array([len(rows[i]) for i in chosen])[:, None]
        results = np.asarray(PROGRAM.run(None, {"tokens": tokens, "mask": mask})[0], dtype=np.float64)
        for i, result in zip(chosen, results, strict=True):
            found[i] = result
    return np.array(found)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The probability of each class [N, C]."""
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


def answers(lines: Sequence[str]) -> list[str]:
    """A line for each line: the class with its probability, or the number; empty if the line is blank."""
    texts = [line.rstrip("\n") for line in lines]
    shown = [i for i, text in enumerate(texts) if not is_blank(text)]
    found = [""] * len(texts)
    raw = outputs([texts[i] for i in shown])
    if SETTINGS["task"] == "regression":
        for i, row in zip(shown, raw, strict=True):
            found[i] = f"{row[0]:.6g}"
        return found
    for i, row in zip(shown, probabilities(raw) if shown else raw, strict=True):
        chosen = decide(row)
        numbers = ",".join(f"{row[SETTINGS['labels'].index(label)]:.4f}" for label in chosen)
        found[i] = f"{','.join(chosen)}\t{numbers}"
    return found


if __name__ == "__main__":
    while lines := list(itertools.islice(sys.stdin, 1 if sys.stdin.isatty() else LINES_AT_ONCE)):
        sys.stdout.write("".join(f"{line}\n" for line in answers(lines)))
        sys.stdout.flush()
