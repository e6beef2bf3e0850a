"""The documents name files, functions and commands that exist."""

import ast
import inspect
import itertools
import os
import re
import shlex
import sys
from pathlib import Path

import published_folders
import pytest
import stand_in_data
from test_imports import room
from torch.optim.optimizer import register_optimizer_step_post_hook

import multihead
from multihead.cli import main
from multihead.config.compose import compose
from multihead.config.multirun import compose_sweep
from multihead.config.task import SINGLE_TASKS
from multihead.runs.run import Run

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [path.name for path in DOCUMENTS]
PAGES = [*DOCUMENTS, ROOT / "CHANGELOG.md", *sorted((ROOT / ".github").rglob("*.md"))]
PAGE_IDS = [path.name for path in PAGES]
PROGRAMS = [*sorted((ROOT / "docs").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
PATH = ROOT / "docs" / "path_of_a_sentence.md"


def fenced(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block; a command that continues after a backslash is one line."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(language, re.sub(r" \\\n\s*", " ", block)) for language, block in blocks]


def backticked(text: str) -> list[str]:
    """Inline code outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def definitions() -> set[str]:
    """Names of modules' functions and classes, `Class.member` and bare members, and fields of configuration nodes."""
    names: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef):
                        names |= {f"{node.name}.{member.name}"}
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
    return names


@pytest.mark.unhurried
def test_the_path_names_files_and_definitions_that_exist():
    known, text = definitions(), PATH.read_text()
    called = [name for name in backticked(text) if re.fullmatch(r"_?[A-Za-z]\w*(\.\w+)*", name)]
    words = {"source", "target", "labels", "places", "source_mask", "tokens_of_step", "parts", "index", "collate"}
    words |= {"log_softmax", "model.d_model", "data.format", "data.batch_tokens", "train.en.gz", "train.de.gz"}
    words |= {"config", "hydra.main", "train.py", "job.py", "steps.py", "samples.jsonl", "result.json"}
    unknown = sorted({name for name in called if name not in known | words})
    assert not unknown, f"{PATH.name} names what is not defined: {unknown}"
    assert len({name for name in called if name in known}) > 60


def test_a_name_stands_in_the_file_that_the_path_says():
    """``name`` in ``file.py``: the file defines the name."""
    pairs = re.findall(r"`([\w.]+)`(?: \([^)]*\))?,? (?:in|of)\s+`(src/[\w/]+\.py)`", PATH.read_text())
    assert len(pairs) > 20
    for name, file in pairs:
        tree = ast.parse((ROOT / file).read_text())
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        assert name.rpartition(".")[2] in found, f"{file} does not define {name}"


def places() -> list[tuple[str, list[str]]]:
    """File and functions of each place from the command line to the first step, in the order of the page."""
    section = " ".join(PATH.read_text().partition("## 1. ")[2].partition("## 2. ")[0].split())
    found = re.findall(r"\d+\. `src/multihead/([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)\.", section)
    return [(file, backticked(names)) for file, names in found]


def first_calls(tmp_path: Path) -> list[tuple[str, str]]:
    """File and name of each function that a run calls up to its first optimizer step, in the order of first calls."""
    package, found = str(ROOT / "src" / "multihead") + os.sep, {}

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            found.setdefault((frame.f_code.co_filename.removeprefix(package), frame.f_code.co_qualname))

    stop = register_optimizer_step_post_hook(lambda *_: sys.setprofile(None))
    sys.setprofile(note)
    try:
        words = ["debug=smoke", "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}"]
        assert main(["train", "task=translation", *words]) == 0
    finally:
        sys.setprofile(None)
        stop.remove()
    return list(found)


@pytest.mark.unhurried
def test_a_run_calls_the_functions_of_the_path_in_its_order(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "cache"))  # so that the tokenizer is trained here
    named = [(file, name) for file, names in places() for name in names]
    called = first_calls(tmp_path)
    assert [place for place in named if place not in called] == []
    assert sorted(named, key=called.index) == named


def test_the_path_counts_its_places_and_climbs():
    """A climb is a place in a room that stands above the room of the place before."""
    files = [file for file, _ in places()]
    climbs = sum(room(after) < room(before) for before, after in itertools.pairwise(files))
    text = " ".join(PATH.read_text().split())
    assert f"There are {len(files)} places in {len(set(files))} files. {climbs} times, the path goes from" in text


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_a_line_has_at_most_120_columns(page):
    """A line may be longer by the address of a link, which cannot be broken."""
    lines = enumerate(page.read_text().splitlines(), start=1)
    assert [(number, line) for number, line in lines if len(re.sub(r"\]\(\S+\)", "]", line)) > 120] == []


@pytest.mark.parametrize("document", PAGES, ids=PAGE_IDS)
def test_files_exist(document):
    text = document.read_text()
    for name in backticked(text):
        if re.fullmatch(r"(src|conf|tests|docs|sweeps|benchmarks)/[\w./-]+", name) and "*" not in name:
            assert (ROOT / name).exists(), f"{document.name}: {name}"
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in link:
            assert (document.parent / link).exists(), f"{document.name}: {link}"


@pytest.mark.parametrize("document", PAGES, ids=PAGE_IDS)
def test_headings_that_are_linked_to_exist(document):
    for target, heading in re.findall(r"\]\(([^)#]*)#([^)]+)\)", document.read_text()):
        other = (document.parent / target).read_text() if target else document.read_text()
        slugs = {
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in other.splitlines()
            if line.startswith("#")
        }
        assert heading in slugs, f"{document.name}: {target}#{heading}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the documents speak of as the reader's."""
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "mine.yaml").write_text("d_model: 64\n")
    plugins = [block for _, block in fenced((ROOT / "docs" / "plugins.md").read_text()) if "PLUGIN = " in block]
    (tmp_path / "squared_relu.py").write_text(plugins[0])
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    published_folders.write(tmp_path / "FOLDER")
    stand_in_data.write_tickets(tmp_path / "tickets.csv")
    stand_in_data.write_scores(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.unhurried
@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_training_commands_compose(document, folder):
    text = document.read_text()
    lines = [line for language, block in fenced(text) if language == "bash" for line in block.splitlines()]
    commands = [re.sub(r"^(\w+=\S+ )*", "", line) for line in [*lines, *backticked(text)]]
    for command in (c for c in commands if c.startswith(("python train.py ", "multihead train "))):
        words = shlex.split(command, comments=True)[2:]
        if any(word in ("-sc", "--help") or word.startswith("resume=") for word in words):
            continue
        run = compose_sweep if "-m" in words else compose
        run([w for w in words if "=" in w])


def test_every_metric_that_can_be_monitored_is_explained():
    """The page of all metrics once had none of a regression's."""
    explained = set(backticked((ROOT / "docs" / "metrics.md").read_text()))
    known = {name.partition("/")[2] for config in SINGLE_TASKS.values() for name in config.METRICS}
    assert known - {"loss"} <= explained and "val/loss" in explained


def calls(code: str) -> list[ast.Call]:
    """Calls of `multihead.NAME` and `run.NAME` in code, or none if it does not parse."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return []
    functions = [(node, node.func) for node in nodes if isinstance(node, ast.Call)]
    owned = [(call, f) for call, f in functions if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)]
    return [call for call, f in owned if f.value.id in ("multihead", "run")]


@pytest.mark.parametrize("document", [*DOCUMENTS, *PROGRAMS], ids=lambda path: path.name)
def test_calls_in_python_have_the_arguments_of_the_functions(document):
    """`multihead.load` once had no ``ensemble``, which a page and a benchmark gave it."""
    text = document.read_text()
    is_page = document.suffix == ".md"
    pieces = [*backticked(text), *(block for language, block in fenced(text) if language == "python")]
    for call in itertools.chain.from_iterable(map(calls, pieces if is_page else [text])):
        owner = multihead if call.func.value.id == "multihead" else Run
        if owner is Run and not is_page and not hasattr(owner, call.func.attr):
            continue  # a program may call something else `run`
        signature = inspect.signature(getattr(owner, call.func.attr))
        own = [None] if owner is Run else []
        starred = any(isinstance(each, ast.Starred) for each in call.args) or any(k.arg is None for k in call.keywords)
        bind = signature.bind_partial if starred else signature.bind
        given = [each for each in call.args if not isinstance(each, ast.Starred)]
        try:
            bind(*own, *given, **{keyword.arg: None for keyword in call.keywords if keyword.arg})
        except TypeError as error:
            pytest.fail(f"{ast.unparse(call)}: {error}")
