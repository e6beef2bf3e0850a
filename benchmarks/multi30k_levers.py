"""Trains Multi30k en-de with one lever at a time, for equal minutes or steps, and prints a ladder by validation BLEU.

    MULTIHEAD_DATA=... python benchmarks/multi30k_levers.py [levers=plain,simcut,...] [minutes=20] [steps=0] [workers=2]
        [threads=1] [seed=1] [penalties=0.6,1.0,1.4] [teacher=RUN,...] [runs=outputs/levers] [out=FILE]
        [KEY=VALUE ...]

- A lever is ``experiment=multi30k_en_de`` with its words in ``LEVERS``, with KEY=VALUE added to all. ``levers=all`` are
  all of them; ``distilled`` needs ``teacher``, a run that translates the training sources, or several that do so
  together.
- ``minutes`` are those of training steps. A probe of ``PROBE`` steps finds out how many steps they are, and the
  learning rate has this horizon. ``steps`` says so itself, and then there is no probe. Two stages have half each.
- ``workers`` levers train beside each other, with ``threads`` threads each.
- The ladder is of the validation split: the published measure and 13a of `multi30k_published.py`, at the length penalty
  of ``penalties`` whose published measure is best. The test score that each run writes is not read here.
- A lever that has a result with the same words in ``out`` is not run again, and an interrupted run is resumed.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rounds import split_words

from multihead.runs.files import replace_synced

OWN = {
    "levers": "plain",
    "minutes": 20.0,
    "steps": 0,
    "workers": 2,
    "threads": 1,
    "seed": 1,
    "penalties": "0.6,1.0,1.4",
    "teacher": "",
    "runs": "outputs/levers",
    "out": "benchmarks/results/multi30k_levers.json",
}
PROBE = 40
"""Steps of the probe that measures the pace of a lever."""
ROLES = "translation_source: en, translation_target: de, summarization_source: de, summarization_target: en"
BOTH = ["task=multitask", "task.parts=[translation,summarization]", f"data.roles={{{ROLES}}}"]
BOTH += ["task.monitor=val/translation/bleu", "task.monitor_mode=max"]
LOWER = ["tokenizer.lowercase=true", "task.monitor=val/bleu_lowercase"]


@dataclass(frozen=True)
class Lever:
    """What one rung of the ladder changes."""

    words: Sequence[str] = ()
    """Words of the run that is scored."""
    before: Sequence[str] = ()
    """Words of a run from whose weights and tokenizer it starts; none if it starts afresh."""


LEVERS = {
    "plain": Lever(),
    "simcut": Lever(["task.simcut_alpha=3"]),
    "bpe_dropout": Lever(["tokenizer.dropout=0.1"]),
    "lower_2k": Lever([*LOWER, "tokenizer.vocab_size=2000", "model.num_encoder_layers=3"]),
    "lower_4k": Lever([*LOWER, "tokenizer.vocab_size=4000"]),
    "lower_8k": Lever([*LOWER, "tokenizer.vocab_size=8000", "model.d_model=160"]),
    "lower_10k": Lever([*LOWER, "tokenizer.vocab_size=10000", "model.d_model=160", "model.d_ff=320"]),
    "narrow": Lever(
        [
            *LOWER,
            "tokenizer.vocab_size=10000",
            "model.d_model=128",
            "model.d_ff=256",
            "model.dropout=0.3",
            "model.num_encoder_layers=4",
            "model.num_decoder_layers=4",
        ]
    ),
    "deep_encoder": Lever(["model.d_model=160", "model.num_encoder_layers=5", "model.num_decoder_layers=1"]),
    "all_of_validation": Lever(["trainer.limit_val_examples=0"]),
    "average": Lever(
        ["trainer.ema_decay=0", "trainer.average_last_steps={tenth}", "trainer.average_every_n_steps={hundredth}"]
    ),
    "both_directions": Lever(["init_tokenizer=same"], BOTH),
    "distilled": Lever(["data.train=[train.en.gz, {distilled}]"]),
}
"""Each lever by its name. ``{tenth}`` and ``{hundredth}`` are of the steps, so that ten weights are averaged."""


def command(settings: dict[str, Any], *words: str) -> None:
    """Runs Python with these words in a process of its own, with the worker's threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(settings["threads"])}
    done = subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout.decode()[-2000:]}")


def train(settings: dict[str, Any], name: str, words: Sequence[str]) -> Path:
    """Trains a run, resumes it or finds it finished. The last word of a key wins, and other words are another run."""
    words = list({word.partition("=")[0]: word for word in words}.values())
    run = Path(settings["runs"], f"{name}_{hashlib.sha256(' '.join(words).encode()).hexdigest()[:8]}")
    if not (run / "result.json").is_file():
        more = ["resume=auto"] if (run / "config.yaml").is_file() else []
        command(settings, "train.py", *words, "logger=none", f"run_dir={run}", *more)
    return run


def length_of(steps: int) -> list[str]:
    """Returns the words for a run of so many steps with seven validations, as the recipe has."""
    every = max(1, steps // 7)
    often = [f"trainer.{key}={every}" for key in ("val_every_n_steps", "checkpoint_every_n_steps")]
    return [f"trainer.max_steps={steps}", *often, f"optim.warmup_steps={max(1, min(100, steps // 10))}"]


def steps_of(settings: dict[str, Any], name: str, words: Sequence[str], stages: int) -> int:
    """Returns the number of steps of a stage, by the pace of a probe unless ``steps`` says it."""
    if settings["steps"]:
        return max(2, settings["steps"] // stages)
    cheap = ["trainer.limit_val_examples=1", "decoding.max_new_tokens=2", "decoding.num_beams=1"]
    run = train(settings, f"{name}_probe", [*filled(words, PROBE), *length_of(PROBE), *cheap])
    result = json.loads((run / "result.json").read_text())
    seconds = result["tokens"] / result["steps"] / result["tokens_per_second"]
    return max(2, round(60 * settings["minutes"] / stages / seconds))


def filled(words: Sequence[str], steps: int) -> list[str]:
    """Returns the words with the shares of the steps put in."""
    shares = {"{tenth}": max(10, steps // 10), "{hundredth}": max(1, steps // 100)}
    for mark, value in shares.items():
        words = [word.replace(mark, str(value)) for word in words]
    return list(words)


def distilled(settings: dict[str, Any]) -> str:
    """Returns the file with the teacher's translations of the training sources, which it writes if it is missing."""
    if not settings["teacher"]:
        raise SystemExit("distilled needs a teacher: teacher=RUN, or several: teacher=A,B")
    teacher, *others = (Path(run).resolve() for run in settings["teacher"].split(","))
    mark = hashlib.sha256(" ".join(map(str, others)).encode()).hexdigest()[:8] if others else ""
    file = teacher / f"multi30k_train{mark}.de"
    if not file.is_file():
        import multihead
        from multihead.config.compose import compose
        from multihead.data.corpus import load_corpus

        data = compose(["experiment=multi30k_en_de"]).config.data
        sources = load_corpus(data, ["source", "target"], splits=["train"]).splits["train"].columns["source"]
        found = multihead.load(teacher, ensemble=others).predict(sources)
        outputs = [best["text"].strip() or "." for best, *_ in found]
        replace_synced(file, "".join(f"{output}\n" for output in outputs).encode())
    return str(file)


def measured(settings: dict[str, Any], name: str, words: Sequence[str]) -> dict[str, Any]:
    """Trains a lever, chooses its length penalty on validation, and returns its rung."""
    lever, seconds, tokens = LEVERS[name], 0.0, 0
    shared = ["experiment=multi30k_en_de", f"seed={settings['seed']}"]
    stages = [lever.before, lever.words] if lever.before else [lever.words]
    own = [[*shared, *(word.replace("{distilled}", settings.get("targets", "")) for word in s), *words] for s in stages]
    run, steps = None, 0
    for number, stage in enumerate(own, start=1):
        begun = [f"init_from={run}"] if run else []
        label = f"{name}_{number}" if len(own) > 1 else name
        steps = steps_of(settings, label, [*stage, *begun], len(own))
        run = train(settings, label, [*filled(stage, steps), *length_of(steps), *words, *begun])
        result = json.loads((run / "result.json").read_text())
        seconds, tokens = seconds + result["seconds"], tokens + result["tokens"]
    assert run is not None
    found = {}
    for penalty in settings["penalties"].split(","):
        file = run / f"published_val_{penalty}.json"
        if not file.is_file():
            program = str(Path(__file__).with_name("multi30k_published.py"))
            word = f"decoding.length_penalty={penalty}"
            command(settings, program, f"run={run}", "split=val", f"out={file}", word)
        found[penalty] = json.loads(file.read_text())
    best = max(found, key=lambda penalty: found[penalty]["published"]["bleu"])
    return {
        "val": {measure: found[best][measure] for measure in ("published", "13a", "13a_lowercase")},
        "length_penalty": float(best),
        "by_length_penalty": {penalty: each["published"]["bleu"] for penalty, each in found.items()},
        "parameters": result["parameters"],
        "steps": steps,
        "tokens": tokens,
        "minutes": seconds / 60,
        "run": str(run),
    }


def ladder(results: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table of the levers, best first."""
    lines = ["| lever | val, published | val, 13a | length penalty | parameters | tokens | minutes |"]
    lines.append("| --- | --: | --: | --: | --: | --: | --: |")
    for name, found in sorted(results.items(), key=lambda item: -item[1]["val"]["published"]["bleu"]):
        scores = [f"{found['val'][measure]['bleu']:.2f}" for measure in ("published", "13a")]
        size = f"{found['parameters']:,} | {found['tokens']:,} | {found['minutes']:.1f}"
        lines.append(f"| {name} | {' | '.join(scores)} | {found['length_penalty']:g} | {size} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measures the levers of the command line that have no result yet."""
    settings, words = split_words(arguments, OWN)
    names = list(LEVERS) if settings["levers"] == "all" else settings["levers"].split(",")
    for name in names:
        if name not in LEVERS:
            raise SystemExit(f"levers={name}: there are {', '.join(LEVERS)}")
    if "distilled" in names:
        settings["targets"] = distilled(settings)
    asked = {key: settings[key] for key in ("minutes", "steps", "threads", "seed", "penalties")} | {"words": words}
    out = Path(settings["out"])
    results = json.loads(out.read_text()) if out.is_file() else {}
    wanted = {
        name: asked | {"lever": [*LEVERS[name].before, *LEVERS[name].words]}
        | ({"teacher": settings["teacher"]} if name == "distilled" else {})
        for name in names
    }  # fmt: skip
    missing = [name for name in names if results.get(name, {}).get("asked") != wanted[name]]
    with ThreadPoolExecutor(settings["workers"]) as pool:
        work = functools.partial(measured, settings, words=words)
        running = {pool.submit(work, name): name for name in missing}
        for future in as_completed(running):
            name = running[future]
            results[name] = {**future.result(), "asked": wanted[name]}
            out.parent.mkdir(parents=True, exist_ok=True)
            replace_synced(out, (json.dumps(results, indent=1) + "\n").encode())
            print(f"{name}: {results[name]['val']['published']['bleu']:.2f}", flush=True)
    print("\n" + ladder({name: results[name] for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
