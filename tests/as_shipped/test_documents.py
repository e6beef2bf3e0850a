"""Runs every fenced command of the README and the documents, as it is typed, in a folder as after a clone.

Only the size is different: trainings take few steps, and the data sets are small. Everything else is what a reader
has: the default logger without an account, default intervals, the precision of the recipe. ``pytest -m as_shipped``
runs all of them.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import published_folders
import pytest
import stand_in_data
import yaml

import multihead
from multihead.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.as_shipped]

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHORT = ["trainer.max_steps=4", "data.grammar={train_size: 400, val_size: 24, test_size: 24}"]
"""Words that are appended to a training. A key that the command itself sets is left out."""
NOT_RUN = {
    "pip install": "the set-up, which continuous integration runs",
    "pytest": "the tests themselves",
    "python benchmarks/": "benchmarks against peers need environments of their own",
    "createdb": "needs a PostgreSQL server",
    "export PGPASSWORD": "needs a PostgreSQL server",
    "multihead sweep file=sweeps/translation.yaml storage=postgresql": "needs a PostgreSQL server",
    "wandb sweep": "needs an account",
    "torchrun --nnodes 2": "needs two machines",
    "sphinx-build": "the site, which continuous integration builds",
    "multihead reproduce record=": "trains for minutes at full size; a record is not shortened",
    "multihead serve": "answers until it is ended; tests/serving starts it",
    "multihead show": "shows a page until it is ended; tests/serving starts it",
    "MULTIHEAD_SERVE_TOKEN=": "starts a server too",
    "curl": "asks a server, which tests/serving does",
    '"num_return_sequences"': "the second line of a request",
    "MULTIHEAD_GUIDE=full": "takes minutes; the workflow that publishes the site runs it",
}
GPU = ("hardware=gpu", "accelerator=gpu", "hydra/launcher=submitit_slurm", "--nproc-per-node 8", "hardware=slurm")
"""Words of commands that need what few test machines have. tests/test_docs.py composes these commands."""


@dataclass(frozen=True)
class Command:
    """One command of a fenced block."""

    document: str
    heading: str
    line: str


def commands() -> list[Command]:
    """The commands of all documents, in order. A command that stands in several places comes once."""
    found: dict[str, Command] = {}
    for document in DOCUMENTS:
        heading, language = "", None
        text = re.sub(r" \\\n\s*", " ", document.read_text())  # a command that continues after a backslash is one line
        for line in text.splitlines():
            if line.startswith("```"):
                language = line.removeprefix("```") if language is None else None
            elif language is None and line.startswith("#"):
                heading = line.lstrip("# ")
            elif language == "bash" and line.strip():
                found.setdefault(line.strip(), Command(document.name, heading, line.strip()))
    return list(found.values())


def reason_not_to_run(command: Command) -> str | None:
    """Returns the reason why this machine does not run a command, or None."""
    for start, reason in NOT_RUN.items():
        if command.line.startswith(start):
            return reason
    if word := next((word for word in GPU if word in command.line), None):
        return f"needs what {word} asks for"
    if "| jq" in command.line and not shutil.which("jq"):
        return "needs jq"
    if command.line.startswith("eval") and not shutil.which("bash"):
        return "needs bash"
    return None


def run_for(command: Command) -> str:
    """Returns the task of the run for which RUN stands in a command."""
    line = command.line
    if "part=" in line:
        return "multitask"
    if "# lm" in line:
        return "lm"
    if any(word in line for word in ("# classification", "calibrate=", "threshold=")):
        return "classification"
    return "translation"


def shortened(line: str) -> str:
    """Changes a training command so that it takes few steps on little data."""
    typed = line.partition("  #")[0]
    keys = {word.partition("=")[0] for word in shlex.split(typed)}
    words = [word for word in SHORT if word.partition("=")[0] not in keys]
    if "debug=profile" in typed:  # it sets its own number of steps
        words = words[1:]
    return " ".join([typed, *map(shlex.quote, words)])


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Gives a folder as after a clone, with the reader's files, small data sets, and finished runs of four tasks."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("train.py", "conf", "docs", "benchmarks", "src"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "sweeps").mkdir()
    for file in (ROOT / "sweeps").glob("*.yaml"):
        tree = yaml.safe_load(file.read_text())
        tree["parameters"] |= {"trainer.max_steps": {"value": 4}, "trainer.val_every_n_steps": {"value": 2}}
        tree["run_cap"] = 2
        (folder / "sweeps" / file.name).write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "sweeps" / "studies").mkdir()
    for file in (ROOT / "sweeps" / "studies").glob("*.yaml"):
        tree = yaml.safe_load(file.read_text())
        tree["words"] += ["trainer.max_steps=4", "trainer.val_every_n_steps=2", SHORT[1]]
        if "ladder" in tree:
            tree["seeds"] = [1, 2]
            tree["ladder"] = {n: [w for w in own if not w.startswith("trainer.")] for n, own in tree["ladder"].items()}
        else:
            tree["max_seeds"] = 3
        (folder / "sweeps" / "studies" / file.name).write_text(yaml.safe_dump(tree, sort_keys=False))
    stand_in_data.write_all(folder / "data")
    published_folders.write(folder / "FOLDER", max_position_embeddings=128)
    write_files_of_the_reader(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MULTIHEAD_CACHE", str(folder / "cache"))
        for number, name in enumerate(("translation", "translation", "lm", "classification", "multitask")):
            words = ["data=sms_spam", "data.batch_tokens=512"] if name == "classification" else [SHORT[1]]
            words += ["task.parts=[lm,translation,classification]"] if name == "multitask" else []
            run_dir = folder / "runs" / (f"{name}2" if number == 1 else name)
            multihead.train([f"task={name}", f"run_dir={run_dir}", f"seed={number}", SHORT[0], *words])
    return folder


def write_files_of_the_reader(folder: Path) -> None:
    """Writes the files that the documents call the reader's own."""
    pairs = stand_in_data.grammar.columns(stand_in_data.GrammarConfig(train_size=300), "train", ["english", "german"])
    english, german = pairs["english"], pairs["german"]
    (folder / "my_conf" / "model").mkdir(parents=True)
    (folder / "my_conf" / "model" / "mine.yaml").write_text("d_model: 64\n")
    for name, texts in (("my.en", english), ("my.de", german), ("dev.en", english[:30]), ("dev.de", german[:30])):
        (folder / name).write_text("\n".join(texts) + "\n")
    stand_in_data.write_tickets(folder / "tickets.csv")
    (folder / "book.txt").write_text("\n".join(english) + "\n")
    (folder / "later.txt").write_text("\n".join(german[:40]) + "\n")
    (folder / "books").mkdir()
    for number in range(3):
        (folder / "books" / f"{number}.txt").write_text("\n".join(english[number::3]) + "\n")
    rows = list(zip(english, german, strict=True))
    with gzip.open(folder / "my.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{en}\t{de}\n" for en, de in rows)
    (folder / "my.jsonl").write_text("".join(json.dumps({"en": en, "de": de}) + "\n" for en, de in rows))
    with open(folder / "my.csv", "w", newline="") as file:
        csv.writer(file).writerows([("en", "de"), *rows])
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "plugins.md").read_text(), re.MULTILINE | re.DOTALL)
    (folder / "squared_relu.py").write_text(next(block for block in blocks if "PLUGIN = " in block))
    (folder / "data" / "tatoeba" / "eng-fra.tsv.gz").write_bytes(
        (folder / "data" / "tatoeba" / "eng-deu.tsv.gz").read_bytes()
    )


@pytest.fixture
def reader(clone, tmp_path):
    """Runs a line in a shell as a reader does. The test keeps the files that it writes."""
    for path in clone.iterdir():
        if path.name not in ("runs", "outputs"):
            (tmp_path / path.name).symlink_to(path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MULTIHEAD", "HYDRA"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "MULTIHEAD_CACHE": str(clone / "cache"),
    }

    def run(line: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=900
        )

    run.folder = tmp_path
    return run


def ids(command: Command) -> str:
    return f"{command.document}:{command.line[:70]}"


@pytest.mark.parametrize("command", commands(), ids=ids)
def test_a_documented_command_ends_with_status_0(command, clone, reader):
    if reason := reason_not_to_run(command):
        pytest.skip(reason)
    prepare_for(command, clone, reader.folder)
    line = command.line
    line = re.sub(r"\bbudget=\d+", "budget=2", line)
    if re.search(r"(^|\s)(python train\.py|multihead train|train\.py) ", line) and "-sc" not in line:
        line = shortened(line)
    done = reader(line)
    assert done.returncode == 0, f"$ {line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr and "error[" not in done.stderr


def prepare_for(command: Command, clone: Path, folder: Path) -> None:
    """Writes what earlier commands of the document would have written: the runs that a command names."""
    own = re.search(r"run_dir=(RUN)\b", command.line)
    if not own and re.search(r"\bRUN\b", command.line):
        shutil.copytree(clone / "runs" / run_for(command), folder / "RUN")
    if re.search(r"\bRUN2\b", command.line):
        shutil.copytree(clone / "runs" / "translation2", folder / "RUN2")
    if "my.tsv " in command.line:
        columns = re.search(r"data.columns=\[(.*?)\]", command.line).group(1).split(",")
        rows = [f"{'neg' if n % 2 else 'pos'}" + f"\tText number {n}." * (len(columns) - 1) for n in range(400)]
        (folder / "my.tsv").write_text("\n".join(rows) + "\n")
    outputs = folder / "outputs"
    for name in ("outputs/pretrained", "outputs/first", "outputs/finetuned"):
        if f"init_from={name}" in command.line or f"run={name}" in command.line:
            words = [word for word in shlex.split(earlier(name))[2:] if "=" in word]
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                multihead.train([*words, SHORT[0]])
    if command.line.startswith("multihead verify"):
        (group,) = re.findall(r"group=([\w/]+)", command.line)
        for name, place in (("translation", "first"), ("translation2", "second")):
            shutil.copytree(clone / "runs" / name, folder / group / place)
        if "claim=comparison.json" in command.line:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                assert main(["compare", f"group={group}", "out=comparison.json"]) == 0
    if command.line.startswith(("multihead runs", "multihead compare")) and not outputs.exists():
        groups = re.findall(r"outputs/([\w/*]+)", command.line) or ["lm"]
        for group in groups:
            target = outputs / group.replace("*", "1")
            runs = [target / "first", target / "second"] if "_" not in group else [target]
            for number, run in enumerate(runs):
                name = "classification" if "sms_spam" in group else "lm" if "lm" in group else "translation"
                shutil.copytree(clone / "runs" / name, run, dirs_exist_ok=True)
                give_seed(run, 10 + number)


def earlier(run_dir: str) -> str:
    """Returns the documented command that writes a run directory."""
    return next(command.line for command in commands() if f"run_dir={run_dir}" in command.line)


def give_seed(run: Path, seed: int) -> None:
    """Turns a copy of a run into another run of the same system."""
    for file in (run / "config.yaml", run / "result.json"):
        file.write_text(re.sub(r'("?seed"?: )\d+', rf"\g<1>{seed}", file.read_text(), count=1))


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "sweeps").glob("*.yaml")))
def test_two_trials_of_a_sweep_file(name, reader):
    done = reader(f"multihead sweep file=sweeps/{name}.yaml budget=2 {shlex.quote(SHORT[1])}")
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_the_python_of_the_pages_and_of_the_readme(reader):
    """The page about prediction trains a short run, which the README then loads."""
    pages = "".join((ROOT / name).read_text() for name in ("docs/predict.md", "docs/python.md", "README.md"))
    blocks = re.findall(r"^```python\n(.*?)^```", pages, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    (reader.folder / "readme.py").write_text("".join(blocks))
    done = reader("python readme.py")
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_sample_sentences_of_the_readme(reader):
    """The model of the README's first command answers its sample inputs rightly, and so does its classifier."""
    for task in ("translation", "classification"):
        assert reader(f"python train.py task={task} run_dir={task}").returncode == 0
    shown = re.search(r"run.translate\((\[.*?\])", (ROOT / "README.md").read_text()).group(1)
    assert json.loads(shown) == ["The dog sleeps.", "A woman buys the book."]
    sentences = "printf 'The dog sleeps.\\nA woman buys the book.\\n'"
    for beams in (1, 5):
        answer = reader(f"{sentences} | multihead predict run=translation decoding.num_beams={beams}")
        assert answer.stdout.splitlines() == ["Der Hund schläft.", "Eine Frau kauft das Buch."]
    answer = reader("echo 'The film was not bad.' | multihead predict run=classification")
    assert answer.stdout.startswith("positive\t")
