"""Decoding speed: our beam search against a plain one that recomputes everything at each step.

    python benchmarks/decode_speed.py [run=RUN] [rounds=3] [sentences=128] [batch=32] [decoding.num_beams=5 ...]

Both search with the same weights, beams, length penalty and stopping rule over the same test sentences. The plain one
takes them in the order of the file, runs the decoder over the whole prefix of every beam, copies the source for each
beam, and keeps finished sentences in the batch until the last is done. How many outputs are equal is printed too.
Without ``run=`` a tiny model is trained for ``train_steps`` on the built-in grammar first. CPU only.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rounds import interleaved, report, split_words
from torch import Tensor

import multihead
from multihead.commands.train import prepare
from multihead.config.compose import compose_from_run, load_yaml
from multihead.config.training import DecodingConfig

OWN = {"run": "", "rounds": 3, "sentences": 128, "batch": 32, "train_steps": 200, "out": ""}


@torch.inference_mode()
def plain_translate(task: Any, texts: Sequence[str], decoding: DecodingConfig, batch: int) -> list[str]:
    """Beam search without cache."""
    ids = task.tokenizers["source"].encode_batch(list(texts))
    outputs = []
    for start in range(0, len(ids), batch):
        outputs += plain_search(task, ids[start : start + batch], decoding)
    return task.tokenizers["target"].decode_batch(outputs)


def plain_search(task: Any, rows: list[list[int]], decoding: DecodingConfig) -> list[list[int]]:
    """The best ids for each source."""
    model, beams, penalty = task.model, decoding.num_beams, decoding.length_penalty
    source, mask = padded([[*row, task.eos] for row in rows], task.pad)
    memory = model.transformer.encode(source, mask).repeat_interleave(beams, 0)
    memory_mask = mask.repeat_interleave(beams, 0)
    limits = [min(2 * len(row) + 10, task.config.model.max_len - 1) for row in rows]
    never = [task.pad, task.bos, task.sep]
    prefix = torch.full((len(rows), beams, 1), task.bos)
    running = torch.full((len(rows), beams), float("-inf"))
    running[:, 0] = 0.0
    best: list[tuple[float, list[int]]] = [(float("-inf"), [])] * len(rows)
    done = [False] * len(rows)
    for step in range(1, max(limits) + 1):
        hidden = model.transformer.decode(prefix.flatten(0, 1), memory=memory, memory_mask=memory_mask)
        log_probs = torch.log_softmax(model.head(hidden)[:, -1].float(), -1).view(len(rows), beams, -1)
        log_probs[..., never] = float("-inf")
        values, places = (running[..., None] + log_probs).flatten(1).topk(2 * beams)
        parents, tokens = places // log_probs.size(-1), places % log_probs.size(-1)
        for i in range(len(rows)):
            for rank in range(beams if not done[i] else 0):
                ended = int(tokens[i, rank]) == task.eos
                if ended or step == limits[i]:
                    score = float(values[i, rank]) / step**penalty
                    ids = prefix[i, parents[i, rank], 1:].tolist() + ([] if ended else [int(tokens[i, rank])])
                    best[i] = max(best[i], (score, ids), key=lambda pair: pair[0])
        ended = tokens == task.eos
        order = ended.byte().argsort(dim=1, stable=True)[:, :beams]
        running = values.masked_fill(ended, float("-inf")).gather(1, order)
        parents, tokens = parents.gather(1, order), tokens.gather(1, order)
        prefix = torch.cat((prefix[torch.arange(len(rows))[:, None], parents], tokens[..., None]), -1)
        for i in range(len(rows)):
            longest = limits[i] if penalty > 0 else step + 1
            done[i] |= step == limits[i] or best[i][0] >= float(running[i, 0]) / longest**penalty
            done[i] |= beams == 1 and best[i][0] > float("-inf")
        if all(done):
            break
    return [ids for _, ids in best]


def padded(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids [B, S] and the mask of real ones."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, pad_id)
    return ids, ids != pad_id


def measure(path: str, settings: dict[str, Any], words: list[str]) -> None:
    """Decodes the test sentences of a run both ways, and reports."""
    composition = compose_from_run(load_yaml(Path(path) / "config.yaml"), words, run=path)
    loaded = multihead.load(path, *words)
    texts = prepare(composition, ("test",), dict(loaded.task.tokenizers)).corpus.splits["test"].columns["source"]
    texts = texts[: settings["sentences"]]
    decoding = loaded.config.decoding
    outputs: dict[str, list[str]] = {}

    def ours() -> int:
        outputs["multihead"] = loaded.translate(texts)
        return len(texts)

    def plain() -> int:
        outputs["plain"] = plain_translate(loaded.task, texts, decoding, settings["batch"])
        return len(texts)

    speeds = interleaved({"multihead": ours, "recomputing beam search": plain}, settings["rounds"])
    equal = sum(a == b for a, b in zip(outputs["multihead"], outputs["plain"], strict=True))
    print(f"equal outputs: {equal} of {len(texts)}")
    about = {"words": words, "beams": decoding.num_beams, "sentences": len(texts), "equal": equal}
    report("sentences", speeds, about | {"batch": settings["batch"]}, settings["out"])


def main() -> None:
    """Measures and reports."""
    settings, words = split_words(sys.argv[1:], OWN)
    if not any(word.startswith("decoding.num_beams=") for word in words):
        words.append("decoding.num_beams=5")
    if settings["run"]:
        measure(settings["run"], settings, words)
        return
    with tempfile.TemporaryDirectory() as folder:
        run, steps = f"{folder}/run", settings["train_steps"]
        train = [f"run_dir={run}", f"trainer.max_steps={steps}", "trainer.limit_val_examples=20", "logger=none"]
        multihead.train(["task=translation", "model=tiny", "optim=muon", "data.grammar.test_size=200", *train])
        measure(run, settings, words)


if __name__ == "__main__":
    main()
