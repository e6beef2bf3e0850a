"""Compares training speed with peers on the same ids: real target tokens per second, with optimizer and loader.

    python benchmarks/train_against_peers.py [task=translation] [sizes=tiny,small] [precision=fp32] [rounds=3]
        [seconds=10] [threads=2] [peers=all] [out=FILE]

Translation is of Multi30k (MULTIHEAD_DATA), by ``model=tiny`` and ``model=small``. Language modelling (``task=lm``) is
of tiny Shakespeare's characters, in nanoGPT's CPU setting (``sizes=nanogpt_cpu``) and with 10 million parameters
(``sizes=10m``). All have the same sizes (parameters within 1 %), dropout in the same places, cross-entropy without
label smoothing, AdamW and clipping.

Multihead is ``python train.py`` with Lightning's loop, metrics.csv and progress. Peers have the batches that their
users would set, and their best: the fastest of the sizes in ``TRIED`` in a short try. Every contestant is a process in
an environment of its own, and only one works at a time.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from contest import Contestant, contest, table
from rounds import split_words

from multihead.config.compose import Composition, compose
from multihead.data.prepare import prepare

OWN = {"task": "translation", "sizes": "", "precision": "fp32", "rounds": 3, "seconds": 10.0, "threads": 2,
       "peers": "all", "out": ""}  # fmt: skip
SIZES = {
    "tiny": ["task=translation", "data=multi30k", "model=tiny", "model.dropout=0.1"],
    "small": ["task=translation", "data=multi30k", "model=small"],
    "nanogpt_cpu": ["task=lm", "data=tinyshakespeare", "model.d_model=128", "model.num_heads=4", "model.d_ff=512",
                    "model.num_decoder_layers=4", "model.max_len=64", "data.batch_tokens=768"],
    "10m": ["task=lm", "data=tinyshakespeare", "model.d_model=384", "model.num_heads=6", "model.d_ff=1536",
            "model.num_decoder_layers=6", "model.max_len=256", "data.batch_tokens=1024"],
}  # fmt: skip
LM = ["model.dropout=0.0", "model.position=learned", "model.activation=gelu", "tokenizer.kind=char"]
TRIED = {"hf": (16, 32, 64, 128), "joeynmt": (1024, 2048, 4096)}
"""Batches that are tried for a peer: numbers of sentences, and tokens with padding."""


def words_of(size: str, precision: str) -> list[str]:
    """Multihead's words for a size."""
    words = SIZES[size] + (LM if size in ("nanogpt_cpu", "10m") else ["task.label_smoothing=0.0"])
    return [
        *words,
        "optim=adamw",
        "trainer.gradient_clip_val=1.0",
        f"precision={'bf16-mixed' if precision == 'bf16' else '32-true'}",
    ]


def lay_out(composition: Composition, folder: Path, settings: dict[str, Any]) -> None:
    """Writes the ids, and what all contestants have to know, into a folder."""
    prepared = prepare(composition, ("train",))
    config, encoded = composition.config, prepared.encoded[settings["task"]]["train"]
    tokenizer = next(iter(prepared.vocab.tokenizers.values()))
    shared = {name: getattr(config.model, name) for name in ("d_model", "num_heads", "d_ff", "num_encoder_layers",
              "num_decoder_layers", "max_len", "dropout")}  # fmt: skip
    shared |= {"task": settings["task"], "vocab_size": tokenizer.vocab_size, "pad": tokenizer.pad_id}
    shared |= {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "lr": config.optim.lr, "clip": 1.0}
    shared |= {"bf16": settings["precision"] == "bf16", "threads": settings["threads"]}
    if settings["task"] == "lm":
        shared |= {"block": config.model.max_len, "batch": config.data.batch_tokens // config.model.max_len}
        np.save(folder / "ids.npy", np.array(encoded.read(0, len(encoded))))
    else:
        mean = float((encoded.lengths("target") + 1).mean())
        shared["batch"] = round(config.data.batch_tokens / mean)
        arrays = {}
        for role in ("source", "target"):
            arrays[role] = np.concatenate([encoded.ids(role, i) for i in range(len(encoded))])
            arrays[role + "_ends"] = np.cumsum(encoded.lengths(role))
        np.savez(folder / "pairs.npz", **arrays)
    (folder / "settings.json").write_text(json.dumps(shared))


def field_of(size: str, folder: Path, settings: dict[str, Any]) -> list[Contestant]:
    """Returns the contestants with their chosen batches."""
    ours = Contestant("Multihead", "multihead_train.py", "own", {"words": words_of(size, settings["precision"])})
    if settings["task"] == "lm":
        peers = [
            Contestant("Hugging Face Trainer, GPT-2", "hf_train.py", "huggingface"),
            Contestant("x-transformers, plain loop", "x_transformers_lm.py", "x_transformers"),
        ]
    else:
        peers = [
            Contestant("torch.nn.Transformer, plain loop", "torch_translation.py", "own"),
            Contestant("Hugging Face Trainer, as its example", "hf_train.py", "huggingface", {"batch": 8}),
            best("Hugging Face Trainer, best batches", "hf", folder, settings),
        ]
        if settings["precision"] == "fp32":  # on a CPU JoeyNMT has nothing else
            peers.append(best("JoeyNMT, best batches", "joeynmt", folder, settings))
    chosen = settings["peers"]
    return [
        ours,
        *(peer for peer in peers if peer and (chosen == "all" or any(c in peer.script for c in chosen.split(",")))),
    ]


def best(name: str, peer: str, folder: Path, settings: dict[str, Any]) -> Contestant | None:
    """Returns a peer with the batch size that is fastest in a try of half a round."""
    script, environment = {"hf": ("hf_train.py", "huggingface"), "joeynmt": ("joeynmt_translation.py", "joeynmt")}[peer]
    if settings["peers"] != "all" and not any(chosen in script for chosen in settings["peers"].split(",")):
        return None
    extra = {"group_by_length": True} if peer == "hf" else {}
    tries = [Contestant(f"{name} {size}", script, environment, {"batch": size} | extra) for size in TRIED[peer]]
    found = contest(tries, folder, 1, settings["seconds"] / 2, settings["seconds"] / 4)
    fastest = max(tries, key=lambda one: found[one.name]["median"])
    print(name, {key.rsplit(" ", 1)[1]: round(value["median"]) for key, value in found.items()}, flush=True)
    return Contestant(name, script, environment, fastest.settings)


def main() -> None:
    """Measures and reports."""
    settings, words = split_words(sys.argv[1:], OWN)
    if words:
        raise SystemExit(f"unknown words: {' '.join(words)}")
    sizes = settings["sizes"] or ("nanogpt_cpu,10m" if settings["task"] == "lm" else "tiny,small")
    os.environ["OMP_NUM_THREADS"] = str(settings["threads"])  # of all contestants
    results = {}
    for size in sizes.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            lay_out(compose(words_of(size, settings["precision"])), folder, settings)
            contestants = field_of(size, folder, settings)
            results[size] = contest(
                contestants, folder, settings["rounds"], settings["seconds"], settings["seconds"] / 2
            )
        print(
            "\n" + table(f"{settings['task']}, {size}, {settings['precision']}", "real target tokens", results[size]),
            flush=True,
        )
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
