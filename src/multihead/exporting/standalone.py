"""Classifies or rates lines of UTF-8 text by the program beside this file: python predict.py < texts.txt

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
    """The classes of a text, by its probabilities [C] and the thresholds; several have falling probabilities."""
    labels, limits = SETTINGS["labels"], SETTINGS["thresholds"]
    if SETTINGS["multi_label"]:
        return [labels[i] for i in np.argsort(-row, kind="stable") if row[i] >= limits.get(labels[i], 0.5)]
    reached = {label: p / limits[label] for label, p in zip(labels, row, strict=True) if label in limits}
    if reached and max(reached.values()) >= 1:
        return [max(reached, key=reached.__getitem__)]
    free = [label not in limits or len(limits) == len(labels) for label in labels]
    return [labels[int(np.where(free, row, -1.0).argmax())]]


def is_blank(text: str) -> bool:
    """Whether a text shows nothing, so that it has no class: spaces, tabs and zero-width characters."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def decoded(lines: Sequence[bytes], before: int) -> tuple[list[str], str]:
    """The texts of lines up to the first that is not UTF-8, and a sentence about that one, or an empty text.

    Args:
        lines: The lines with their ends.
        before: Number of lines before them.
    """
    texts: list[str] = []
    for number, line in enumerate(lines, start=before + 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # a file may start with a byte-order mark
        except UnicodeDecodeError as error:
            what = f"byte 0x{error.object[error.start]:02X} is not UTF-8"
            return texts, f"line {number}: {what}; fix: iconv -f WINDOWS-1252 -t UTF-8 < texts.txt > utf8.txt"
        texts.append(text.removesuffix("\n").removesuffix("\r"))
    return texts, ""


def answers(texts: Sequence[str]) -> list[str]:
    """A line for each text: the class with its probability, or the number; empty if the text is blank."""
    shown = [i for i, text in enumerate(texts) if not is_blank(text)]
    found = [""] * len(texts)
    raw = outputs([texts[i] for i in shown])
    if SETTINGS["task"] == "regression":
        for i, row in zip(shown, raw, strict=True):
            found[i] = f"{row[0]:.6g}"
        return found
    for i, row in zip(shown, probabilities(raw) if shown else raw, strict=True):
        chosen = decide(row)
        numbers = [f"{row[SETTINGS['labels'].index(label)]:.4f}" for label in chosen]
        found[i] = "\t".join(SETTINGS["label_separator"].join(part) for part in (chosen, numbers))
    return found


def main() -> None:
    """Answers standard input line by line. It ends at a line that is not UTF-8."""
    size, done = 1 if sys.stdin.isatty() else LINES_AT_ONCE, 0
    while lines := list(itertools.islice(sys.stdin.buffer, size)):
        texts, flaw = decoded(lines, done)
        sys.stdout.buffer.write("".join(f"{line}\n" for line in answers(texts)).encode("utf-8"))
        sys.stdout.buffer.flush()
        if flaw:
            sys.exit(flaw)
        done += len(lines)


if __name__ == "__main__":
    main()
