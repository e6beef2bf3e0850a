"""Section E: checkpoints and run directories that are another's, damaged or hostile."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from faults.harness import PRLIMIT, Section, raised
from multihead.errors import CheckpointError, MultiheadError
from multihead.training.transfer import read_source

ROWS = Section("E")


class Canary:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@ROWS.row(
    "43",
    "the checkpoint of another task: resumed, and started from",
    "resume: refused, both tasks named, status 3; init_from takes what fits and says what",
    'patch("multihead.runs.resume.changes", lambda saved, wanted, force=(): ([], []))\n'
    'patch("multihead.training.steps.Steps._resume", lambda self, trainer, task, start: None)',
    defect_slow=True,
)
def another_task(bench):
    lm = bench.unfinished("lm")
    told = bench.main("train", f"resume={lm}", "task=classification").expect(3, "lm", "classification")
    assert not (lm / "result.json").exists()
    words = ["train", "task=classification", "debug=smoke", f"init_from={bench.finished('lm')}", "trainer.max_steps=2"]
    done = bench.main(*words, f"run_dir={bench.folder / 'from'}")
    assert done.status == 0, done.err
    assert "initialised" in (bench.folder / "from" / "events.jsonl").read_text()
    return told


@ROWS.row(
    "44",
    "a model of another width or vocabulary: resumed, started from",
    "one line with both numbers, status 3 (resume) or 2 (init_from)",
    'patch("multihead.config.changes.MAY_CHANGE", ("*",))\n'
    'patch("multihead.training.transfer.check_same", lambda *rest: None)',
)
def another_size(bench):
    run = bench.unfinished("lm")
    told = bench.main("train", f"resume={run}", "model.d_model=48").expect(3, "model.d_model: 32 -> 48")
    done = bench.main("train", "task=lm", "debug=smoke", f"init_from={bench.finished('lm')}", "model.d_model=48")
    done.expect(2, "init_from", "model.d_model=32", "48")
    forced = bench.main("train", f"resume={run}", "model.d_model=48", "resume_force=[model.d_model]")
    forced.expect(3, "does not fit")
    file = (whole := bench.finished("lm")) / "model" / "model.safetensors"
    state = load_file(file)
    with safe_open(file, "pt") as opened:
        shared = opened.metadata()
    words = ["train", "task=lm", "debug=smoke", f"init_from={whole}", f"run_dir={bench.folder / 'x'}"]
    for name in ("head.weight", "transformer.decoder.layers.0.feed_forward.up.weight"):
        save_file(state | {name: state[name][:-1].contiguous()}, file, shared)
        bench.main("evaluate", f"run={whole}").expect(3, "model.safetensors")
        bench.main(*words).expect(3, "model.safetensors", "the shape (")
    return told


@ROWS.row(
    "45",
    "pickles with code, named .safetensors, .ckpt, .pt, .json, in every place of a run directory",
    "status 3, nothing ran, no hint at a switch that would run it",
    "import pickle, pathlib, torch, safetensors.torch\n"
    "def load(path, *rest, **more):\n"
    "    return torch.load(path, weights_only=False)\n"
    'patch("multihead.runs.checkpoint.load_file", load)\npatch("multihead.runs.checkpoint.damage", lambda path: "")\n'
    'patch("safetensors.torch.load_model", lambda model, path: load(path))',
)
def pickles(bench):
    canary = bench.folder / "canary"
    payloads = [pickle.dumps(Canary(canary), protocol=p) for p in (0, 2, 4)]
    saved = bench.file("torch.pt", b"")
    torch.save({"state_dict": Canary(canary), "hyper_parameters": {"_instantiator": "os.system"}}, saved)
    payloads.append(saved.read_bytes())
    run, whole = bench.unfinished("lm"), bench.finished("lm")
    count = 0
    for payload in payloads:
        for place, command in (
            (run / "checkpoints" / "step_5" / "tensors.safetensors", ("train", f"resume={run}")),
            (run / "checkpoints" / "step_5" / "state.json", ("train", f"resume={run}")),
            (run / "checkpoints" / "step_5" / "manifest.json", ("train", f"resume={run}")),
            (run / "vocabulary" / "tokenizer.json", ("train", f"resume={run}")),
            (run / "vocabulary" / "roles.json", ("train", f"resume={run}")),
            (run / "config.yaml", ("train", f"resume={run}")),
            (whole / "model" / "model.safetensors", ("evaluate", f"run={whole}")),
            (whole / "model" / "model.safetensors", ("predict", f"run={whole}")),
            (whole / "model" / "model.json", ("evaluate", f"run={whole}")),
            (whole / "model" / "tokenizer.json", ("predict", f"run={whole}")),
            (whole / "model" / "labels.json", ("evaluate", f"run={whole}")),
            (whole / "model" / "model.safetensors", ("train", "task=lm", "debug=smoke", f"init_from={whole}")),
        ):
            before = place.read_bytes()
            place.write_bytes(payload)
            told = bench.main(*command).expect(3)
            assert not canary.exists(), (place, command)
            for unsafe in ("weights_only", "allow_pickle", "trust"):
                assert unsafe not in told, told
            place.write_bytes(before)
            count += 1
    for name in ("last.ckpt", "step_99.ckpt", "weights.pt", "pytorch_model.bin", "optimizer.pt"):
        shutil.copy(saved, run / "checkpoints" / name)
    forged = run / "checkpoints" / "step_99"  # its hashes are right: only the format can refuse it
    forged.mkdir()
    from multihead.runs.checkpoint import FORMAT, sha256

    (forged / "tensors.safetensors").write_bytes(payloads[2])
    (forged / "state.json").write_text('{"multihead": {}}')
    hashes = {name: sha256(forged / name) for name in ("tensors.safetensors", "state.json")}
    (forged / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": 99, "sha256": hashes}))
    bench.main("train", f"resume={run}").expect(3, "step_99")
    assert not canary.exists()
    return f"{count + 6} canaries"


HEADERS = """
import random, struct, sys, json
from pathlib import Path
from multihead.training.transfer import read_source
from multihead.errors import CheckpointError
import resource
run = Path(sys.argv[1])
file = run / "model" / "model.safetensors"
whole = file.read_bytes()
size = struct.unpack("<Q", whole[:8])[0]
header, body = json.loads(whole[8:8 + size]), whole[8 + size:]
first = next(name for name in header if name != "__metadata__")
def made(header, length=None, body=body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body
def entry(**change):
    return header | {first: header[first] | change}
cases = [made(header, 2**63), made(header, 2**40), made(header, 0), b"", whole[:7], whole[:100],
    made(header, body=b""),
    made(b"["*100000), made(b"{}"*9), made(entry(shape=[2**60])), made(entry(shape=[2**32, 2**32])),
    made(entry(shape=[-1])),
    made(entry(data_offsets=[0, 2**62])), made(entry(data_offsets=[8, 4])), made(entry(dtype="X9")),
    made(entry(shape="a")),
    made(header | {f"t{i}": header[first] for i in range(1000)}),
    made({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**5)}, body=b""),
    made(header | {"__metadata__": {"a": 1}}), made(b"\\xff\\xfe" * 50)]
rng = random.Random(0)
while len(cases) < int(sys.argv[2]):
    damaged = bytearray(whole)
    for _ in range(rng.randrange(1, 5)):
        damaged[rng.randrange(8 + size)] = rng.randrange(256)
    cases.append(bytes(damaged))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for case in cases:
    file.write_bytes(case)
    try:
        read_source(run)
    except CheckpointError:
        refused += 1
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(len(cases), refused, round(grown))
"""


@ROWS.row(
    "46",
    "safetensors with absurd headers: 2^63 bytes long, 2^60 elements, overlaps, 10^5 tensors, 500 random damages",
    "status 3, at most 100 MB more memory, never another error",
    'import torch\npatch("multihead.errors.CheckpointError.__init__", lambda self, *rest: exec("raise MemoryError"))',
    needs=PRLIMIT,
    defect_slow=True,
)
def headers(bench):
    run = bench.finished("lm")
    command = ["prlimit", f"--as={6 << 30}", sys.executable, "-c", HEADERS, str(run), "500"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | bench.environment(), timeout=100, cwd=bench.folder
    )
    assert done.returncode == 0, done.stderr[-1500:]
    cases, refused, grown = map(int, done.stdout.split())
    assert cases == 500 and refused >= 100 and grown <= 100, done.stdout
    return f"{refused} of {cases} refused, {grown} MB more"


@ROWS.row(
    "47",
    "a checkpoint or a run directory of a newer version",
    "both versions named, status 3",
    'patch("multihead.runs.checkpoint.FORMAT", 99)\npatch("multihead.runs.directory.FORMAT", 99)',
)
def newer(bench):
    run, whole = bench.unfinished("lm"), bench.finished("lm")
    for file in (run / "checkpoints" / "step_5" / "manifest.json", whole / "model" / "model.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"format": 99}))
    bench.main("evaluate", f"run={whole}").expect(3, "format 99", "reads")
    return bench.main("train", f"resume={run}").expect(3, "format 99", "reads format")


@ROWS.row(
    "48",
    "a module or class renamed between versions",
    "a checkpoint names none of our modules, nor of another's: nothing to rename",
    'patch("multihead.training.steps.Steps.state_key", "multihead.training.steps.Steps")\n'
    "import multihead.training.steps as s\nsave = s.Steps.on_save_checkpoint\n"
    "def named(self, trainer, module, checkpoint):\n"
    "    save(self, trainer, module, checkpoint)\n"
    '    checkpoint["multihead"]["made_by"] = "multihead.training.steps.Steps"\n'
    'patch("multihead.training.steps.Steps.on_save_checkpoint", named)',
)
def renamed(bench):
    run = bench.folder / "run"
    done = bench.main("train", "task=lm", "debug=smoke", "trainer.max_steps=1", f"run_dir={run}")
    assert done.status == 0, done.err
    text = (run / "checkpoints" / "step_1" / "state.json").read_text()
    state = json.loads(text)
    assert state["multihead"]["step"] == 1
    for word in ("multihead.", "lightning.", "__main__", "$class", "builtins"):
        assert word not in text.replace('"multihead.', "", 0), word
    assert set(load_file(run / "checkpoints" / "step_1" / "tensors.safetensors"))


def damaged_copies(content: bytes):
    """Ways in which a small file is no longer itself."""
    middle = len(content) // 2
    yield from (b"", content[:middle], b"null", b"[]", b"{}", b"7", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}')


@ROWS.row(
    "E1",
    "model.json, labels.json, tokenizer.json, roles.json and the weights damaged: evaluate, init_from, resume",
    "status 3 and the file's name each time",
    'import json\npatch("multihead.runs.directory.read_json", lambda path, kind: json.loads(path.read_text()))',
)
def damaged_run_directories(bench):
    from multihead.runs.directory import load_vocab, starting_vocab

    whole, run, count = bench.finished("classification"), bench.unfinished("classification"), 0
    init = ("train", "task=classification", "debug=smoke", f"init_from={whole}", "trainer.max_steps=2")
    commands = {whole: [("evaluate", f"run={whole}"), init], run: [("train", f"resume={run}")]}
    for place, names in ((whole, ("model.json", "labels.json", "tokenizer.json", "model.safetensors")),
                         (run, ("roles.json", "labels.json", "tokenizer.json"))):  # fmt: skip
        folder, read = (place / "model", read_source) if place == whole else (place / "vocabulary", starting_vocab)
        for name in names:
            file = folder / name
            before = file.read_bytes()
            for number, content in enumerate(damaged_copies(before)):
                if (name, content) == ("labels.json", b"[]"):
                    continue  # as of a task without classes
                file.write_bytes(content)
                told = raised(CheckpointError, lambda read=read, place=place: read(place), folder.name)
                if number == 2:
                    for command in commands[place]:
                        told = bench.main(*command).expect(3, folder.name)
                count += 1
            file.write_bytes(before)
    (whole / "model" / "labels.json").write_text("[]")
    bench.main("evaluate", f"run={whole}").expect(3, "labels.json", "names no class")
    assert load_vocab(whole).labels == []
    return f"{count} damages; {told}"


@ROWS.row(
    "E2",
    "calibration.json with a temperature of 0, NaN, infinity, text; a threshold that is none",
    "refused, status 3",
    'patch("multihead.metrics.calibration._flaw", lambda *rest: "")',
)
def bad_calibration(bench):
    from multihead.metrics.calibration import FILE, Calibration

    path, told = bench.folder / FILE, ""
    for temperature in (0, -1, "NaN", "Infinity", '"x"', "null", "true", "[]", "1e400"):
        path.write_text(f'{{"format": 1, "temperature": {temperature}, "thresholds": {{}}}}')
        told = raised(MultiheadError, lambda: Calibration.load(path), "is damaged")
    for threshold in ('{"value": "x"}', "7", "[]", '{"value": NaN, "criterion": "x"}'):
        path.write_text(f'{{"format": 1, "temperature": 1.0, "thresholds": {{"a": {threshold}}}}}')
        raised(MultiheadError, lambda: Calibration.load(path), "is damaged")
    for content in damaged_copies(b'{"format": 1}'):
        path.write_bytes(content)
        raised(MultiheadError, lambda: Calibration.load(path), "is damaged")
    return told


@ROWS.row(
    "16",
    "the newest checkpoint cut short: every file, to 0, 1 byte, half, one byte less",
    "named, the one before is used, bit for bit as after its own step; status 3 if there is none",
    'patch("multihead.runs.checkpoint.sha256", lambda path: '
    '__import__("json").loads((path.parent / "manifest.json").read_text())["sha256"][path.name])',
)
def cut_checkpoint(bench):
    from multihead.runs.checkpoint import newest_valid

    run = bench.finished("lm")
    for file in sorted((run / "checkpoints" / "step_10").iterdir()):
        content = file.read_bytes()
        for size in (0, 1, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:size])
            path, passed = newest_valid(run)
            assert path.name == "step_5" and "step_10 is damaged" in passed[0], (file.name, size)
        file.unlink()
        assert newest_valid(run)[0].name == "step_5"
        file.write_bytes(content)
    assert newest_valid(run)[0].name == "step_10"
    (run / "checkpoints" / "step_10" / "state.json").write_bytes(b"{}")
    shutil.rmtree(run / "model")
    (run / "result.json").unlink()
    done = bench.main("train", f"resume={run}")
    assert done.status == 0 and "step_10 is damaged" in (run / "train.log").read_text(), done.err
    for step in (5, 10):
        (run / "checkpoints" / f"step_{step}" / "state.json").write_bytes(b"{}")
    return bench.main("train", f"resume={run}").expect(3, "step_10 is damaged", "step_5 is damaged")


@ROWS.row(
    "17",
    "one bit flipped in a checkpoint, at 200 random places",
    "found each time",
    'patch("multihead.runs.checkpoint.sha256", lambda path: '
    '__import__("json").loads((path.parent / "manifest.json").read_text())["sha256"][path.name])',
)
def one_bit(bench):
    from multihead.runs.checkpoint import damage

    folder, rng = bench.finished("lm") / "checkpoints" / "step_10", random.Random(0)
    files = [folder / "tensors.safetensors", folder / "state.json"]
    for _ in range(200):
        file = rng.choice(files)
        content = bytearray(file.read_bytes())
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
        whole = file.read_bytes()
        file.write_bytes(content)
        assert "is damaged" in damage(folder), (file.name, place)
        file.write_bytes(whole)
    assert not damage(folder)
    return "200 of 200"
