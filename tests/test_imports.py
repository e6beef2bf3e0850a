"""The shape of the code, read from its syntax trees: dependencies point down, and nothing can name code to run."""

import ast
import functools
from pathlib import Path

import pytest

import multihead

PACKAGE = Path(multihead.__file__).parent
FILES = {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}
LIGHT = ("torch", "lightning", "wandb", "torchmetrics", "tokenizers", "sacrebleu", "safetensors", "numpy")
FORBIDDEN_NAMES = {"_target_", "_partial_", "instantiate"}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports(name: str) -> set[str]:
    """Modules that a file imports, at the top or inside functions; without those for type checkers only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found.add(node.module)
            if node.module.split(".")[0] == "multihead":
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree(name))
    return found


def uses(name: str, *modules: str) -> set[str]:
    return {found for found in imports(name) for module in modules if f"{found}.".startswith(f"{module}.")}


def in_folder(folder: str) -> list[str]:
    return [name for name in FILES if name.startswith(f"{folder}/")]


TOP = ["cli.py", "errors.py", "help.py", "plugin.py", "__init__.py"]


@pytest.mark.parametrize("name", [*in_folder("config"), *in_folder("tables"), *TOP])
def test_light_modules_import_nothing_heavy_at_their_top(name):
    tops = {n.names[0].name for n in tree(name).body if isinstance(n, ast.Import)}
    tops |= {n.module for n in tree(name).body if isinstance(n, ast.ImportFrom)}
    assert not {top for top in tops if top.split(".")[0] in LIGHT}


@pytest.mark.parametrize("name", [*in_folder("config"), *in_folder("tables")])
def test_config_knows_no_torch_and_nothing_above(name):
    assert not uses(name, *LIGHT)
    above = {
        found
        for found in uses(name, "multihead")
        if not found.startswith(("multihead.config", "multihead.errors", "multihead.tables"))
    }
    assert {name.removeprefix("multihead.plugin") for name in above} <= {"", ".Plugin", ".load_plugins", ".names_of"}


@pytest.mark.parametrize("name", FILES)
def test_only_the_door_knows_hydra(name):
    door = ("cli.py", *(f"config/{name}.py" for name in ("words", "files", "multirun", "hydra_private")))
    assert not uses(name, "hydra") or name in door
    assert not uses(name, "omegaconf") or name in ("config/files.py", "config/merge.py", "config/multirun.py")


BACKBONE = ["transformer", "cache", "ngrams", "heads", "beam_search", "sampling"]


@pytest.mark.parametrize("name", [f"model/{name}.py" for name in BACKBONE])
def test_the_backbone_knows_torch_and_its_configuration(name):
    ours = {found.split(".")[1] if found.count(".") else found for found in uses(name, "multihead")}
    assert ours <= {"config", "errors", "model"}
    allowed = ("multihead.config.model", "multihead.config.training", "multihead.config.check")
    assert all(found.startswith(allowed) for found in uses(name, "multihead.config"))
    assert not uses(name, "lightning", "tokenizers", "wandb")


def test_tasks_and_data_do_not_know_each_other():
    assert [uses(name, "multihead.data") for name in in_folder("tasks") if uses(name, "multihead.data")] == []
    assert [uses(name, "multihead.tasks") for name in in_folder("data") if uses(name, "multihead.tasks")] == []


ROOMS = (
    ("__main__", "__init__", "cli", "help"),
    ("commands",),
    ("serving",),
    ("studying",),
    ("sweeping",),
    ("checking",),
    ("exporting",),
    ("training",),
    ("pretrained",),
    ("comparing",),
    ("runs",),
    ("tasks",),
    ("model",),
    ("data",),
    ("metrics",),
    ("text",),
    ("config", "plugin"),
    ("tables",),
    ("ranks", "capabilities", "torch_private"),
    ("errors",),
)
"""The rooms of the house from top to bottom: an import points down, or stays in its room."""


def room(name: str) -> int:
    first = name.split("/")[0].removesuffix(".py")
    return next(level for level, rooms in enumerate(ROOMS) if first in rooms)


def modules_imported(name: str) -> set[str]:
    """Files of the package that a file imports, at the top or inside functions."""
    files = {"multihead." + f.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): f for f in FILES}
    return {files[module] for module in imports(name) if module in files and module != "multihead"} - {name}


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    assert [below for below in modules_imported(name) if room(below) < room(name)] == []


def test_a_command_imports_no_other_command():
    for name in in_folder("commands"):
        assert [other for other in modules_imported(name) if other.startswith("commands/")] == [], name


def test_no_circles():
    """No file imports, by whatever way and inside functions too, a file that imports it."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for below in modules_imported(name):
                visit(below, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", FILES)
def test_no_code_from_data(name):
    """No instantiation by name, no pickle, no unsafe loading, no ``print``."""
    assert not uses(name, "pickle", "dill", "joblib", "shelve", "marshal")
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "eval", "exec", "yaml.unsafe_load", "yaml.full_load"), called
            if called == "torch.load":  # of tensors alone, and in one place
                words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert name == "pretrained/folder.py" and words["weights_only"] == "True"
            assert not called.endswith("instantiate"), called
            if called == "yaml.load":
                assert name == "config/yaml_file.py"
            for keyword in node.keywords:
                allowed = {"allow_pickle": "False", "weights_only": "True"}.get(keyword.arg)
                assert allowed in (None, ast.unparse(keyword.value)), f"{called}({keyword.arg}=...)"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            assert node.value not in FORBIDDEN_NAMES


@pytest.mark.parametrize("name", FILES)
def test_sizes(name):
    """Files of at most 600 lines, functions under 60, constructors under 10 arguments, one level of inheritance."""
    assert len(FILES[name].read_text().splitlines()) <= 600
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
            if node.name == "__init__":
                count = len(node.args.args) + len(node.args.kwonlyargs)
                assert count <= 10, f"{count - 1} arguments"  # self counts as one
                assert node.args.kwarg is None


@pytest.mark.parametrize("name", FILES)
def test_broad_excepts_stand_at_the_doors(name):
    doors = {"errors.py", "plugin.py", "training/job.py", "training/rank.py"}
    doors |= {"serving/batches.py", "serving/guard.py", "serving/service.py"}  # an error ends one request only
    doors |= {"checking/examination.py"}  # the user's model may raise anything, which is a finding
    doors |= {"data/published.py", "pretrained/folder.py"}  # libraries that raise plain Exceptions
    doors |= {"runs/wandb.py", "runs/console.py"}  # W&B may raise what it likes; a line costs no result
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            broad = caught == "everything" or {"Exception", "BaseException"} & set(caught.strip("()").split(", "))
            reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            assert not broad or reraises or name in doors, f"line {node.lineno}: except {caught}"
