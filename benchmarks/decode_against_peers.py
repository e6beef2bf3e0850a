"""Compares decoding speed with peers that have the same weights, in sentences per second of a beam search.

    python benchmarks/decode_against_peers.py run=RUN [beams=5] [rounds=3] [threads=2] [sentences=0] [peers=all]
        [device=cpu] [out=FILE]

RUN is a finished run of translation with the paper's layers, which all peers can hold: norms before the sub-layers,
sinusoids, ReLU, LayerNorm, shared embeddings. All search over the test set with the same beams and source ids. There is
no length penalty, because JoeyNMT's is another formula, and nobody emits marks.

The report counts how many outputs are those of Multihead, token for token. Other outputs differ by rounding, or by
another rule of when to stop. CTranslate2 has the model that ``multihead export`` writes, in fp32 and in int8 with its
BLEU. Peers take the sentences sorted by length, in the batch of ``TRIED`` that is fastest on every fifth sentence. With
``device=cuda peers=hf``, Multihead and Hugging Face decode on the GPU.
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

import multihead
from multihead.config.compose import compose_from_run, load_yaml
from multihead.data.prepare import prepare
from multihead.metrics.text import CorpusBLEU

OWN = {"run": "", "beams": 5, "rounds": 3, "threads": 2, "sentences": 0, "peers": "all", "device": "cpu",
       "out": ""}  # fmt: skip
TRIED = {"hf_decode.py": (32, 64, 128), "joeynmt_decode.py": (32, 64), "ctranslate2_decode.py": (16, 32, 64)}
TRIED_ON_GPU = (64, 128, 256, 512)


def lay_out(loaded: Any, settings: dict[str, Any], folder: Path) -> list[str]:
    """Writes sources, weights and settings, and returns the references."""
    run, task = settings["run"], loaded.task
    composition = compose_from_run(load_yaml(Path(run) / "config.yaml"), [], run=run)
    rows = prepare(composition, ("test",), task.vocab).texts["translation"].corpus.splits["test"].columns
    count = settings["sentences"] or len(rows["source"])
    sources = task.tokenizers["source"].encode_batch(list(rows["source"][:count]))
    (folder / "sources.json").write_text(json.dumps(sources))
    state = {name: value.numpy() for name, value in task.model.transformer.state_dict().items()}
    state["decoder.embedding.weight"] = state["encoder.embedding.weight"]
    np.savez(folder / "weights.npz", **state, sinusoids=task.model.transformer.encoder.positions.weight.numpy())
    model, tokenizer = loaded.config.model, task.tokenizers["target"]
    names = ("d_model", "num_heads", "d_ff", "num_encoder_layers", "num_decoder_layers", "max_len", "dropout")
    shared = {name: getattr(model, name) for name in names} | {"vocab_size": tokenizer.vocab_size}
    shared |= {"pad": task.pad, "bos": task.bos, "eos": task.eos, "unk": tokenizer.unk_id}
    shared |= {"forbidden": [task.pad, task.bos, task.sep], "num_beams": settings["beams"], "length_penalty": 0.0}
    shared |= {name: settings[name] for name in ("threads", "device")}
    (folder / "settings.json").write_text(json.dumps(shared))
    return list(rows["target"][:count])


def export(run: str, folder: Path, quantization: str) -> str:
    """Writes the run as CTranslate2 reads it."""
    from multihead.cli import main as command

    target = folder / f"ctranslate2_{quantization}"
    words = ["export", f"run={run}", "to=ctranslate2", f"out={target}", f"quantization={quantization}"]
    if command(words):
        raise SystemExit("the export failed")
    return str(target)


def with_best_batch(contestant: Contestant, folder: Path, device: str) -> Contestant:
    """Returns the contestant with the batch size that is fastest on every fifth sentence."""
    few = folder / "few"
    few.mkdir(exist_ok=True)
    for name in ("settings.json", "tokens.json", "weights.npz"):
        if (folder / name).is_file() and not (few / name).exists():
            (few / name).symlink_to(folder / name)
    (few / "sources.json").write_text(json.dumps(json.loads((folder / "sources.json").read_text())[::5]))
    tries = [
        Contestant(
            f"{contestant.name} {size}",
            contestant.script,
            contestant.environment,
            contestant.settings | {"batch": size},
        )
        for size in (TRIED[contestant.script] if device == "cpu" else TRIED_ON_GPU)
    ]
    found = contest(tries, few, 1, 0.0, 0.0)
    print(contestant.name, {name.rsplit(" ", 1)[1]: round(one["median"], 1) for name, one in found.items()}, flush=True)
    fastest = max(tries, key=lambda one: found[one.name]["median"])
    return Contestant(contestant.name, contestant.script, contestant.environment, fastest.settings)


def main() -> None:
    """Measures and reports."""
    settings, words = split_words(sys.argv[1:], OWN)
    if settings["device"] != "cpu" and settings["peers"] != "hf":
        raise SystemExit("device=cuda wants peers=hf: the others have no part in it")
    os.environ["OMP_NUM_THREADS"] = str(settings["threads"])
    settings["run"] = os.path.abspath(settings["run"])
    loaded = multihead.load(settings["run"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references = lay_out(loaded, settings, folder)
        decoding = [f"decoding.num_beams={settings['beams']}", "decoding.length_penalty=0.0", *words]
        ours = Contestant("Multihead", "multihead_decode.py", "own", {"run": settings["run"], "words": decoding})
        peers = [
            Contestant("Hugging Face generate", "hf_decode.py", "huggingface"),
            Contestant("JoeyNMT", "joeynmt_decode.py", "joeynmt"),
        ]
        if settings["peers"] == "all" or "ctranslate2" in settings["peers"]:
            models = {name: export(settings["run"], folder, name) for name in ("float32", "int8")}
            for kind, model in models.items():
                peers.append(
                    Contestant(f"CTranslate2 {kind}", "ctranslate2_decode.py", "ctranslate2", {"model": model})
                )
            (folder / "tokens.json").write_text(json.dumps(tokens_of(folder)))
        if settings["peers"] != "all":
            peers = [peer for peer in peers if any(chosen in peer.script for chosen in settings["peers"].split(","))]
        chosen = [with_best_batch(peer, folder, settings["device"]) for peer in peers]
        results = contest([ours, *chosen], folder, settings["rounds"], 0.0, 0.0)
        compare_outputs(results, loaded, references, folder)
    print("\n" + table(f"beam {settings['beams']}", "sentences", results), flush=True)
    if settings["out"]:
        settings["run"] = Path(settings["run"]).name
        Path(settings["out"]).write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


def tokens_of(folder: Path) -> list[str]:
    """Returns the vocabulary of the exported model, in the order of ids."""
    return json.loads((folder / "ctranslate2_float32" / "shared_vocabulary.json").read_text())


def compare_outputs(results: dict[str, dict[str, Any]], loaded: Any, references: list[str], folder: Path) -> None:
    """Adds the share of outputs that are Multihead's, and BLEU."""
    tokenizer, first = loaded.task.tokenizers["target"], None
    for name, result in results.items():
        ids = json.loads((folder / f"{name.replace(' ', '_')}.outputs.json").read_text())
        first = first or ids
        bleu = CorpusBLEU()
        bleu.update(tokenizer.decode_batch(ids), references)
        result["equal"] = sum(a == b for a, b in zip(first, ids, strict=True)) / len(ids)
        result["bleu"] = float(bleu.compute())
        result["search"] += f"; {result['equal']:.1%} of the outputs equal, BLEU {result['bleu']:.2f}"


if __name__ == "__main__":
    main()
