"""Measures minutes of training until Multi30k's test_2016_flickr is translated with BLEU 35 (lower-cased).

    python benchmarks/time_to_quality.py [target=35] [who=multihead,hf,hf_linear,torch,joeynmt] [threads=2] [every=120]
        [budget=0] [precision=bf16] [steps=1100] [sentences=0] [out=FILE] [KEY=VALUE ...]

- Multihead is ``experiment=multi30k_en_de`` with a horizon of ``steps``, and KEY=VALUE added. Its minutes are those
  of training, with validations and checkpoints. Its BLEU is that of the test at the end (beam 5).
- A peer trains with the same ids, sizes, dropout and label smoothing, by its recipe in ``RECIPES``: the batches that
  are fastest for it, AdamW, and a warm-up followed by 1 / sqrt(step). This schedule needs to know no horizon.
- ``hf_linear`` has a horizon. It is the Trainer's own linear decay, to 0 after the steps that ``hf`` takes in
  Multihead's minutes at its mean pace. A tenth of them is warm-up.
- After every ``every`` seconds of training, a peer translates the test set by its own beam search (5 beams; the plain
  loop decodes greedily, as in tutorials). Only training counts, so a peer's minutes are rounded up to these moments.
- A peer stops at the target, at its horizon, or after ``budget`` minutes. 0 means three times Multihead's minutes.
- With ``threads=1`` minutes are those of the processor, and Multihead's are from start to result. So other work on
  the machine does not count, and contestants may run beside each other.
- ``sentences`` tests peers on the first sentences only, to try the command. Results are added to ``out``.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contest import Contestant, Process
from rounds import split_words
from train_against_peers import lay_out

import multihead
from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.metrics.text import CorpusBLEU

OWN = {
    "target": 35.0,
    "who": "multihead,hf,hf_linear,torch,joeynmt",
    "threads": 2,
    "every": 120.0,
    "budget": 0.0,
    "precision": "bf16",
    "steps": 1100,
    "sentences": 0,
    "out": "benchmarks/results/time_to_quality.json",
}
HF = {"batch": 64, "group_by_length": True, "lr": 1e-3}
RECIPES = {
    "hf": Contestant("Hugging Face Trainer, Marian", "hf_train.py", "huggingface", HF),
    "hf_linear": Contestant("Hugging Face Trainer, linear decay", "hf_train.py", "huggingface", HF),
    "torch": Contestant("torch.nn.Transformer, plain loop", "torch_translation.py", "own", {"batch": 64, "lr": 1e-3}),
    "joeynmt": Contestant(
        "JoeyNMT", "joeynmt_translation.py", "joeynmt", {"batch": 1024, "lr": 1e-3, "bf16": False}
    ),  # it has no bfloat16 on a CPU
}
SHARED = {"warmup": 1000, "label_smoothing": 0.1, "num_beams": 5}


def multihead_result(words: list[str], folder: Path, threads: int) -> dict[str, Any]:
    """Returns minutes and BLEU of Multihead's own run."""
    start = time.process_time()
    result = multihead.train([*words, f"run_dir={folder / 'run'}", "logger=none"])
    processor = time.process_time() - start
    about = json.loads((folder / "run" / "environment.json").read_text())
    return {
        "minutes": (processor if threads == 1 else result["seconds"]) / 60,
        "bleu": result["test/bleu_lowercase"],
        "tokens": result["tokens"],
        "versions": about["versions"],
        "hardware": about["hardware"] | {"threads": about["threads"]},
    }


def peer_result(
    contestant: Contestant, folder: Path, references: list[str], tokenizer: Any, settings: dict[str, Any]
) -> dict[str, Any]:
    """Returns the learning curve of a peer up to the target or the end of its budget."""
    process = Process(contestant, folder)
    clock = "processor_seconds" if settings["threads"] == 1 else "seconds"
    seconds, tokens, curve = 0.0, 0, []
    try:
        while seconds < 60 * settings["budget"]:
            answer = process.work(settings["every"])
            seconds, tokens = seconds + answer[clock], tokens + answer["units"]
            outputs = process.ask({"translate": str(folder / "sources.json")})["outputs"]
            bleu = CorpusBLEU(lowercase=True)
            bleu.update(tokenizer.decode_batch(outputs), references)
            curve.append({"minutes": seconds / 60, "tokens": tokens, "bleu": float(bleu.compute())})
            print(f"{contestant.name}: {seconds / 60:.1f} min, BLEU {curve[-1]['bleu']:.2f}", flush=True)
            if curve[-1]["bleu"] >= settings["target"] or answer.get("done"):
                break
    finally:
        process.end()
    return curve[-1] | {"curve": curve, "about": process.about, "recipe": SHARED | contestant.settings}


def table(results: dict[str, dict[str, Any]], target: float) -> str:
    """Returns a Markdown table: who reached the target, and when."""
    lines = [f"| | minutes of training | BLEU then | to {target:g} |", "| --- | --: | --: | --- |"]
    for name, result in results.items():
        reached = "yes" if result["bleu"] >= target else "not in these minutes"
        lines.append(f"| {name} | {result['minutes']:.1f} | {result['bleu']:.2f} | {reached} |")
    return "\n".join(lines) + "\n"


def recipe(who: str, results: dict[str, dict[str, Any]], mean: float) -> Contestant:
    """Returns a peer with its settings. Targets have ``mean`` tokens."""
    peer = RECIPES[who]
    if who != "hf_linear":
        return peer
    endless = results[RECIPES["hf"].name]
    tokens = endless["tokens"] / endless["minutes"] * results["Multihead"]["minutes"]
    horizon = round(tokens / (peer.settings["batch"] * mean))
    return replace(peer, settings=peer.settings | {"horizon": horizon, "warmup": horizon // 10})


def turn(
    who: str, words: list[str], folder: Path, results: dict[str, dict[str, Any]], settings: dict[str, Any]
) -> None:
    """Adds the result of one contestant. If ``settings["budget"]`` is 0, the first peer's turn sets it."""
    if who == "multihead":
        results["Multihead"] = multihead_result(words, folder, settings["threads"])
        return
    settings["budget"] = settings["budget"] or 3 * results["Multihead"]["minutes"]
    composition = compose(words)
    lay_out(composition, folder, settings | {"task": "translation"})
    shared = json.loads((folder / "settings.json").read_text()) | SHARED
    (folder / "settings.json").write_text(json.dumps(shared))
    prepared = prepare(composition, ("train", "test"))
    rows = prepared.texts["translation"].corpus.splits["test"].columns
    tokenizers = prepared.vocab.tokenizers
    count = settings["sentences"] or len(rows["source"])
    (folder / "sources.json").write_text(json.dumps(tokenizers["source"].encode_batch(list(rows["source"][:count]))))
    peer = recipe(who, results, float((prepared.encoded["translation"]["train"].lengths("target") + 1).mean()))
    results[peer.name] = peer_result(peer, folder, list(rows["target"][:count]), tokenizers["target"], settings)


def main() -> None:
    """Trains one contestant after the other, and reports."""
    settings, words = split_words(sys.argv[1:], OWN)
    precision = "bf16-mixed" if settings["precision"] == "bf16" else "32-true"
    every = max(1, settings["steps"] // 4)
    rhythm = [f"trainer.val_every_n_steps={every}", f"trainer.checkpoint_every_n_steps={every}"]
    words = ["experiment=multi30k_en_de", f"precision={precision}", f"trainer.max_steps={settings['steps']}", *rhythm,
             *words]  # fmt: skip
    out = Path(settings["out"])
    asked = {name: settings[name] for name in ("target", "threads", "precision", "steps", "sentences")}
    asked["words"] = words
    known = json.loads(out.read_text()) if out.is_file() else {"settings": asked, "results": {}}
    if known["settings"] != asked:
        raise SystemExit(f"{out} holds results of other settings ({known['settings']}): name another out=")
    results = known["results"]
    there = set(results)
    for who in settings["who"].split(","):
        needs = {"Multihead"} if who != "multihead" and not settings["budget"] else set()
        needs |= {"Multihead", RECIPES["hf"].name} if who == "hf_linear" else set()
        if needs - there:
            raise SystemExit(f"{who} needs the results of {', '.join(sorted(needs - there))}: name them first in who=")
        there.add("Multihead" if who == "multihead" else RECIPES[who].name)
    os.environ["OMP_NUM_THREADS"] = str(settings["threads"])  # of the peers
    torch.set_num_threads(settings["threads"])
    with tempfile.TemporaryDirectory() as name:
        for who in settings["who"].split(","):
            turn(who, words, Path(name), results, settings)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps({"settings": asked, "results": results}, indent=1) + "\n")
    print("\n" + table(results, settings["target"]))


if __name__ == "__main__":
    main()
