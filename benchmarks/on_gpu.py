"""Measures everything for which a GPU is needed, in one command.

    python benchmarks/on_gpu.py folder=DIR [parts=rate,waits,...] [minutes=8] [accelerator=gpu] [small=0]

- ``rate``: operations per second of large products in bfloat16, and of copies.
- ``waits``: how often, and in which lines, training steps of each task wait for the GPU (`waits.py`). 0 is right.
- ``precision``: bf16-mixed beside 32-true on the same steps: tokens per second, memory and test loss.
- ``resume``: test losses of a run that is killed after its first checkpoint and resumed, beside one that is not.
- ``lm``: GPT-2's size (12 layers, width 768, context 1,024, 50,257 words; Radford et al. 2019) in bf16-mixed, by
  ``train.py`` on made-up words. It shows tokens per second and the share of the device's peak. A token has
  6 N + 12 L D T operations (PaLM, arXiv:2204.02311, appendix B; N without the positions, T the context). This is
  done for some sizes of a micro-batch, compiled or not. Then ``debug=profile`` shows where the time of a step goes.
- ``translation``: ``experiment=multi30k_en_de`` (MULTIHEAD_DATA) with the words behind it: BLEU and minutes.
- ``decoding``: the test set with 5 beams by that run, beside ``generate`` with the same weights.

Each of these writes DIR/NAME.json at once, so a call that is cut short loses only one of them. A single command may
take ``minutes``. ``accelerator=cpu small=1`` tries everything in small, in ten minutes. MULTIHEAD_PEERS=own takes
transformers from this environment.
"""

import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rounds import split_words

ROOT = Path(__file__).parents[1]
ALL = "rate,waits,precision,resume,lm,translation,decoding"
OWN = {"folder": "", "parts": ALL, "minutes": 8.0, "accelerator": "gpu", "small": 0}
WIDTH, LAYERS, CONTEXT, WORDS = 768, 12, 1024, 50257
SMALL = {WIDTH: 64, LAYERS: 2, CONTEXT: 64, WORDS: 500}
PARTS_OF_A_STEP = (16, 32, 64)
"""Number of contexts that are computed at once. A step has 64."""


class Bench:
    """Gives all measurements what they need.

    Args:
        settings: Settings as in ``OWN``.
        words: Words of the configuration, for the translation.
    """

    def __init__(self, settings: dict[str, Any], words: list[str]):
        self.folder = Path(settings["folder"]).absolute()
        self.small, self.words = bool(settings["small"]), words
        self.device = torch.device("cuda" if settings["accelerator"] == "gpu" else "cpu")
        self.placed = [f"accelerator={settings['accelerator']}", "devices=1", "logger=none"]
        self.seconds = 60 * settings["minutes"]

    def size(self, whole: int) -> int:
        """Returns a size, or its small replacement."""
        return SMALL[whole] if self.small else whole

    def run(self, *command: str) -> None:
        """Runs a command in a process of its own, within the minutes that one command may take.

        Raises:
            RuntimeError: It fails or takes too long.
        """
        print("$ python", " ".join(command), flush=True)
        try:
            done = subprocess.run([sys.executable, *command], cwd=ROOT, timeout=self.seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"took more than {self.seconds:.0f} s: {' '.join(command)}") from None
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}: {' '.join(command)}")

    def train(self, name: str, *words: str, precision: str = "bf16-mixed") -> dict[str, Any]:
        """Runs train.py in the folder, and returns its result.json, or with ``debug=profile`` its profile.json."""
        run_dir = self.folder / name
        shutil.rmtree(run_dir, ignore_errors=True)
        self.run("train.py", *self.placed, f"precision={precision}", *words, f"run_dir={run_dir}")
        left = run_dir / ("profile.json" if "debug=profile" in words else "result.json")
        return json.loads(left.read_text())


def rate(bench: Bench) -> dict[str, Any]:
    """Measures the device at its best."""
    from multihead.training.profiling import copy_bandwidth, matmul_rate

    return {
        "operations_per_second": matmul_rate(bench.device, torch.bfloat16),
        "bytes_per_second": copy_bandwidth(bench.device),
    }


SHORT = ("data=grammar", "trainer.max_steps=60", "trainer.val_every_n_steps=60", "trainer.limit_val_examples=20",
         "trainer.log_every_n_steps=1000000")  # fmt: skip
"""Words of a run on built-in data whose speed is that of its steps."""
TASKS = ("lm", "lm task.objective=masked", "translation", "translation task.copy=true", "summarization",
         "classification", "multitask")  # fmt: skip


def waits(bench: Bench) -> dict[str, Any]:
    """Finds where training steps wait for the device."""
    found: dict[str, Any] = {}
    counts = bench.folder / "waits_of_a_task.json"
    os.environ["WAITS"] = str(counts)
    for words in TASKS[: 1 if bench.small else None]:
        name = f"waits_{words.replace(' ', '_')}"
        more = ("trainer.checkpoint_every_n_steps=60", "trainer.ema_decay=0.9", "plugin=benchmarks/waits.py")
        bench.train(name, f"task={words.split()[0]}", *words.split()[1:], *SHORT, *more)
        found[words] = json.loads(counts.read_text())
    return found


def precision(bench: Bench) -> dict[str, Any]:
    """Measures bf16-mixed beside 32-true."""
    wanted = ("test/loss", "test/bleu", "tokens_per_second", "peak_memory")
    found = {}
    for kind in ("bf16-mixed", "32-true"):
        result = bench.train(f"precision_{kind}", "task=translation", *SHORT, precision=kind)
        found[kind] = {name: result[name] for name in wanted}
    return found


def resume(bench: Bench) -> dict[str, Any]:
    """Kills a run after its first checkpoint and resumes it, beside a run without a break."""
    words = ["task=translation", *SHORT, "trainer.checkpoint_every_n_steps=20"]
    whole = bench.train("resume_whole", *words)
    run_dir = bench.folder / "resume_killed"
    shutil.rmtree(run_dir, ignore_errors=True)
    placed = [*bench.placed, "precision=bf16-mixed", f"run_dir={run_dir}"]
    process = subprocess.Popen([sys.executable, "train.py", *placed, *words], cwd=ROOT)
    while process.poll() is None and not (run_dir / "checkpoints" / "latest.json").exists():
        time.sleep(0.01)
    process.kill()
    status = process.wait()
    bench.run("train.py", f"resume={run_dir}")
    resumed = json.loads((run_dir / "result.json").read_text())
    return {
        "status of the killed run": status,
        "test/loss": {"through": whole["test/loss"], "killed and resumed": resumed["test/loss"]},
        "steps": {"through": whole["steps"], "killed and resumed": resumed["steps"]},
    }


def lm(bench: Bench) -> dict[str, Any]:
    """Trains at GPT-2's size, as fast as possible."""
    from multihead.training.profiling import matmul_rate
    from multihead.training.telemetry import peak_flops

    context, layers, width = (bench.size(size) for size in (CONTEXT, LAYERS, WIDTH))
    corpus = made_up_words(bench)
    words = ["task=lm", "data=text", f"data.train={corpus}", "tokenizer.kind=word", "tokenizer.min_frequency=1",
             f"tokenizer.vocab_size={bench.size(WORDS) + 100}", f"model.d_model={width}", f"model.d_ff={4 * width}",
             f"model.num_heads={width // 64}", f"model.num_decoder_layers={layers}", f"model.max_len={context}",
             "model.dropout=0.0", "model.position=learned", "model.activation=gelu", "optim=adamw",
             f"data.batch_tokens={64 * context}"]  # fmt: skip
    short = ["trainer.max_steps=60", "trainer.log_every_n_steps=10", "trainer.val_every_n_steps=1000000",
             "trainer.checkpoint_every_n_steps=1000000", "trainer.limit_val_examples=8"]  # fmt: skip
    peaks = {"data sheet": peak_flops(torch.cuda.get_device_name(), "bf16-mixed") if bench.device.type == "cuda" else 0}
    peaks["measured"] = matmul_rate(bench.device, torch.bfloat16)
    found: dict[str, Any] = {"context": context, "peaks": peaks, "tries": {}}
    for at_once in PARTS_OF_A_STEP[: 1 if bench.small else None]:
        for compiled in ("false", "true"):
            name = f"lm_{at_once}_compile_{compiled}"
            tokens = [f"data.part_tokens={at_once * context}", f"data.eval_tokens={at_once * context}"]
            try:
                result = bench.train(name, *words, *short, *tokens, f"compile={compiled}")
            except RuntimeError as error:  # for example out of memory: the others are still useful
                found["tries"][name] = {"failed": str(error)}
                continue
            speed = last_speed(bench.folder / name / "metrics.csv")
            operations = 6 * (result["parameters"] - context * width) + 12 * layers * width * context
            found["parameters"] = result["parameters"]
            found["tries"][name] = {
                "tokens_per_second": speed,
                **{f"share of {peak}": speed * operations / value for peak, value in peaks.items() if value},
                "peak_memory": result["peak_memory"],
            }
    usual = f"data.part_tokens={PARTS_OF_A_STEP[0] * context}"
    return found | {"profile": bench.train("lm_profile", *words, "debug=profile", usual)}


def made_up_words(bench: Bench) -> Path:
    """Writes a text of words without meaning, each word at least once."""
    draw, count = random.Random(1), bench.size(WORDS)
    words = [f"w{number}" for number in range(count)]
    path = bench.folder / "words.txt"
    with open(path, "w") as file:
        for _ in range(200 if bench.small else 60):
            draw.shuffle(words)
            file.writelines(" ".join(words[start : start + 20]) + "\n" for start in range(0, count, 20))
    return path


def last_speed(metrics: Path) -> float:
    """Returns the median of the tokens per second in a run's last four logs."""
    with open(metrics, newline="") as file:
        rates = [row["system/tokens_per_second"] for row in csv.DictReader(file)]
    return statistics.median([float(value) for value in rates if value][-4:])


def translation(bench: Bench) -> dict[str, Any]:
    """Trains Multi30k to its score."""
    small = ["trainer.max_steps=20", "trainer.val_every_n_steps=20", "trainer.limit_val_examples=20",
             "trainer.checkpoint_every_n_steps=20"]  # fmt: skip
    start = time.perf_counter()
    words = [*(small if bench.small else []), *bench.words]
    result = bench.train("multi30k", "experiment=multi30k_en_de", "data.part_tokens=4096", *words)
    wanted = ("test/bleu", "test/bleu_lowercase", "steps", "seconds", "tokens_per_second", "parameters", "signature")
    found = {name: value for name, value in result.items() if name in wanted}
    return found | {"words": words, "minutes": (time.perf_counter() - start) / 60}


def decoding(bench: Bench) -> dict[str, Any]:
    """Decodes beside ``generate``."""
    out = bench.folder / "decode_against_peers.json"
    few = ["sentences=40", "rounds=1"] if bench.small else []
    words = [f"run={bench.folder / 'multi30k'}", "peers=hf", f"device={bench.device.type}", f"out={out}", *few]
    bench.run("benchmarks/decode_against_peers.py", *words)
    return json.loads(out.read_text())


PARTS = dict(zip(ALL.split(","), (rate, waits, precision, resume, lm, translation, decoding), strict=True))


def main() -> None:
    """Takes one measurement after the other."""
    settings, words = split_words(sys.argv[1:], OWN)
    if not settings["folder"]:
        raise SystemExit("folder=DIR: where the results go")
    unknown = set(settings["parts"].split(",")) - set(PARTS)
    if unknown:
        raise SystemExit(
            f"parts={settings['parts']}: no part {', '.join(sorted(unknown))}; there are {','.join(PARTS)}"
        )
    if settings["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise SystemExit("no GPU is at hand; accelerator=cpu small=1 tries the script")
    bench = Bench(settings, words)
    bench.folder.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    about = {"device": name, "torch": torch.__version__, "python": sys.version.split()[0]}
    failed = False
    for part in settings["parts"].split(","):
        start = time.perf_counter()
        try:
            found = PARTS[part](bench)
        except RuntimeError as error:  # the other measurements are still useful
            found, failed = {"failed": str(error)}, True
        found |= {"about": about | {"minutes": (time.perf_counter() - start) / 60}}
        (bench.folder / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(part, json.dumps({key: value for key, value in found.items() if key != "profile"}, indent=1), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
