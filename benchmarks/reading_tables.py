"""Measures how fast ``data=PATH`` reads a large CSV, and how soon a broken file is refused.

    python benchmarks/reading_tables.py [megabytes=1000] [rounds=1] [out=FILE]

It writes a CSV of support tickets into a scratch folder: five columns, of which the text and the label are needed. The
same file is read by ``data=PATH``, by pandas and by ``datasets.load_dataset("csv")``, in turn, each in a process of its
own. A system that is not installed is left out. Seconds are those of the processor, so that other work on the machine
changes little. Memory is the largest resident memory of the process. Imports count, since a user waits for them.

``multihead data`` looks at a file of a tenth of the size, and at a folder of 10,000 texts. Then ten broken files of
`tests/files` are trained on, and the time from Enter to the first line of the error is measured.
"""

import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from multihead.capabilities import processor_name

ROOT = Path(__file__).parents[1]
OURS = """
from multihead.config.compose import compose
from multihead.data.corpus import load_corpus
from multihead.config.roles import data_of
config = compose(["task=classification", "data={path}"]).config
data = data_of(config.data, config.task)
data.splits = dict()
rows = load_corpus(data, ["text", "label"], splits=["train"]).splits["train"]
print(len(rows), sum(map(len, rows.columns["text"])))
"""
PANDAS = """
import pandas
rows = pandas.read_csv("{path}", usecols=["body", "category"])
print(len(rows), rows["body"].str.len().sum())
"""
DATASETS = """
import datasets
rows = datasets.load_dataset("csv", data_files="{path}", cache_dir="{path}.cache")["train"]
print(len(rows), sum(sum(map(len, batch["body"])) for batch in rows.select_columns("body").iter(10_000)))
"""
SYSTEMS = {"multihead": OURS, "pandas": PANDAS, "datasets": DATASETS}
BROKEN = ("18_utf8_damaged", "26_gz_damaged", "37_label_null_not_said", "48_json_bad_line", "71_xml", "73_pickle",
          "75_empty", "77_ragged", "78_unclosed", "88_wrong_column")  # fmt: skip


def write_table(path: Path, megabytes: float) -> None:
    """Writes rows of random words. Some cells hold commas and quotation marks."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abcdefghijklmnop", k=drawn.randint(2, 9))) for _ in range(5000)]
    with open(path, "w", encoding="utf-8") as file:
        file.write("id,created,subject,body,category\n")
        number = written = 0
        while written < megabytes * 1e6:
            subject, body = (" ".join(drawn.choices(words, k=count)) for count in (5, 30))
            text = f'"{body}, ""{subject}"""'
            written += file.write(f"{number},2024-01-{number % 28 + 1:02},{subject},{text},c{drawn.randrange(7)}\n")
            number += 1


def measured(command: list[str], folder: Path) -> tuple[float, float, float, str]:
    """Runs a command. Returns seconds of the processor, seconds of the clock, the largest memory in MB, and its output.

    A process of its own waits for the command, since only the largest memory of all children is known.
    """
    code = (
        "import json, resource, subprocess, sys, time; began = time.perf_counter(); "
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1024, "
        "done.stdout, done.stderr]))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, env=environment,
                           cwd=folder, check=True)  # fmt: skip
    processor, clock, memory, out, errors = json.loads(found.stdout)
    return processor, clock, memory, out or errors


def reading(path: Path, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Reads the table by each system in turn."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, code in SYSTEMS.items():
            if importlib.util.find_spec(name) is None:
                continue
            processor, clock, memory, out = measured([sys.executable, "-c", code.replace("{path}", str(path))], folder)
            best = found.get(name, {}).get("processor_s", float("inf"))
            if processor < best:
                found[name] = {"processor_s": round(processor, 2), "clock_s": round(clock, 2), "MB": round(memory)}
            print(f"{name}: {processor:.1f} s of the processor, {clock:.1f} s, {memory:,.0f} MB; {out.strip()[-200:]}")
    return found


def looking(folder: Path, megabytes: float) -> dict[str, dict[str, float]]:
    """Looks at a table and at a folder of texts by ``multihead data``."""
    write_table(folder / "table.csv", megabytes)
    for number in range(10_000):
        text = folder / "texts" / ("good", "bad")[number % 2] / f"{number}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"{number} words of a text " * 20)
    found = {}
    for name in ("table.csv", "texts"):
        processor, clock, memory, out = measured([sys.executable, "-m", "multihead", "data", f"file={name}"], folder)
        found[name] = {"processor_s": round(processor, 2), "clock_s": round(clock, 2), "MB": round(memory)}
        print(f"multihead data file={name}: {processor:.1f} s of the processor, {clock:.1f} s, {memory:,.0f} MB")
        assert "multihead train" in out, out
    return found


def refusals() -> dict[str, float]:
    """Returns the seconds from Enter to the first line of the error, for ten broken files."""
    found = {}
    for example in BROKEN:
        folder = ROOT / "tests" / "files" / example
        expected = yaml.safe_load((folder / "expected.yaml").read_text())
        words = [f"task={expected['task']}", f"data={expected['data']}", *expected.get("words", [])]
        began = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *words], cwd=folder, text=True,
                                   stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        clock = time.perf_counter() - began
        process.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert process.returncode == 2 and line.startswith("error[data]"), line
        found[example] = round(processor, 2)
        print(f"{example}: {processor:.2f} s of the processor, {clock:.2f} s; {line.strip()[:90]}")
    return found


def main() -> None:
    settings = {"megabytes": "1000", "rounds": "1", "out": ""}
    settings |= dict(word.split("=", 1) for word in sys.argv[1:])
    megabytes = float(settings["megabytes"])
    with tempfile.TemporaryDirectory(prefix="reading_tables-") as scratch:
        folder = Path(scratch)
        refused = refusals()
        looks = looking(folder, megabytes / 10)
        write_table(folder / "tickets.csv", megabytes)
        read = reading(folder / "tickets.csv", int(settings["rounds"]), folder)
    ours = read["multihead"]
    ratios = {
        name: {"time": round(ours["processor_s"] / each["processor_s"], 2), "memory": round(ours["MB"] / each["MB"], 2)}
        for name, each in read.items()
        if name != "multihead"
    }
    result = {"processor": processor_name(), "megabytes": megabytes, "reading": read, "ours_to_theirs": ratios,
              "multihead_data": looks, "seconds_to_the_error": refused}  # fmt: skip
    print(json.dumps(result))
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
