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


@pytest.mark.parametrize("name", [*in_folder("config"), "cli.py", "errors.py", "help.py", "plugin.py", "__init__.py"])
def test_light_modules_import_nothing_heavy_at_their_top(name):
    tops = {n.names[0].name for n in tree(name).body if isinstance(n, ast.Import)}
    tops |= {n.module for n in tree(name).body if isinstance(n, ast.ImportFrom)}
    assert not {top for top in tops if top.split(".")[0] in LIGHT}


@pytest.mark.parametrize("name", in_folder("config"))
def test_config_knows_no_torch_and_nothing_above(name):
    assert not uses(name, *LIGHT)
    above = {
        found for found in uses(name, "multihead") if not found.startswith(("multihead.config", "multihead.errors"))
    }
    assert above <= {"multihead.plugin", "multihead.plugin.Plugin", "multihead.plugin.load_plugin"}


@pytest.mark.parametrize("name", FILES)
def test_only_the_door_knows_hydra(name):
    door = ("cli.py", "config/words.py", "config/files.py", "config/multirun.py")
    assert not uses(name, "hydra") or name in door
    assert not uses(name, "omegaconf") or name in ("config/files.py", "config/merge.py", "config/multirun.py")


@pytest.mark.parametrize("name", ["transformer.py", "cache.py", "ngrams.py", "heads.py", "decoding.py", "sampling.py"])
def test_the_backbone_knows_torch_and_its_configuration(name):
    ours = {found.split(".")[1] if found.count(".") else found for found in uses(name, "multihead")}
    assert ours <= {"config", "errors", "transformer", "cache", "heads", "ngrams", "decoding", "kernels"}
    allowed = ("multihead.config.model", "multihead.config.training", "multihead.config.check")
    assert all(found.startswith(allowed) for found in uses(name, "multihead.config"))
    assert not uses(name, "lightning", "tokenizers", "wandb")


def test_tasks_and_data_do_not_know_each_other():
    assert [uses(name, "multihead.data") for name in in_folder("tasks") if uses(name, "multihead.data")] == []
    assert [uses(name, "multihead.tasks") for name in in_folder("data") if uses(name, "multihead.tasks")] == []


def test_nothing_below_imports_the_commands_or_the_door():
    allowed = ("cli.py", "__init__.py", "__main__.py", "launch.py", "commands/", "sweeping/worker.py")
    for name in FILES:
        if not name.startswith(allowed):
            assert not uses(name, "multihead.commands", "multihead.cli"), name


def test_no_cycles():
    """Imports at the top of modules form no cycle."""
    modules = {
        "multihead." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): name for name in FILES
    }
    graph = {}
    for module, name in modules.items():
        tops = [node for node in tree(name).body if isinstance(node, ast.ImportFrom)]
        named = {(node.module, f"{node.module}.{alias.name}") for node in tops for alias in node.names}
        graph[module] = {below if below in modules else above for above, below in named} & set(modules)

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        for below in graph.get(module, ()):
            visit(below, (*path, module))

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("name", FILES)
def test_no_code_from_data(name):
    """No instantiation by name, no pickle, no unsafe loading, no ``print``."""
    assert not uses(name, "pickle", "dill", "joblib", "shelve", "marshal")
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "eval", "exec", "torch.load", "yaml.unsafe_load", "yaml.full_load"), called
            assert not called.endswith("instantiate"), called
            if called == "yaml.load":
                assert name == "config/yaml_file.py"
            for keyword in node.keywords:
                assert keyword.arg != "weights_only" and not (
                    keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                ), f"{called}({keyword.arg}=...)"
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
    doors = {"cli.py", "plugin.py", "commands/train.py", "launch.py", "tracking.py"}  # W&B may raise what it likes
    doors |= {"side_outputs.py", "progress.py"}  # a picture or a line on the screen costs no result
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            broad = caught == "everything" or {"Exception", "BaseException"} & set(caught.strip("()").split(", "))
            reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            assert not broad or reraises or name in doors, f"line {node.lineno}: except {caught}"
