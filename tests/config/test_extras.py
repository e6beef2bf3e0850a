"""Every optional package that is missing is named, with the extra that installs it, in one line."""

import importlib
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from multihead import cli
from multihead.config.compose import compose
from multihead.config.extras import EXTRAS, install
from multihead.config.published import locate
from multihead.errors import ConfigError, DataError
from multihead.runs.learning_curves import frame

ROOT = Path(__file__).parents[2]
SWEEP = (
    "program: train.py\nmethod: grid\nmetric: {name: val/loss, goal: minimize}\nparameters: {seed: {values: [1, 2]}}\n"
    'command: ["python", "${program}", "${args_no_hyphens}"]\n'
)


def sweep(*words):
    Path("s.yaml").write_text(SWEEP)
    return cli.main(["sweep", "file=s.yaml", "task=lm", *words])


def rows(format_):
    from multihead.data.readers import read_hub, read_parquet

    config = compose(["task=lm", "data=files", f"data.format={format_}", "data.roles={text: a}"]).config.data
    read_parquet(config, "a.parquet", ["a"]) if format_ == "parquet" else read_hub(config, "train", ["a"])


def zst():
    from multihead.tables.opening import open_bytes

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.zst")
        file.write_bytes(b"\x28\xb5\x2f\xfd")
        open_bytes(file)


def exported(to):
    from multihead.exporting import ctranslate, programs

    ctranslate.import_ctranslate2() if to == "ctranslate2" else programs.import_onnx()


def tensorboard():
    from multihead.runs.loggers import _tensorboard

    _tensorboard(Path("x"), 0)


def attention():
    from multihead.training.job import _draw_attention

    _draw_attention(Path("x"), SimpleNamespace(device="cpu"), SimpleNamespace(example=lambda split: {"x": 1}))


WANTS = {
    "psycopg": lambda: sweep("storage=postgresql://me@host/db"),
    "optuna": lambda: sweep(),
    "matplotlib": attention,
    "pandas": lambda: frame(Path("x")),
    "tensorboard": tensorboard,
    "datasets": lambda: rows("hub"),
    "pyarrow": lambda: rows("parquet"),
    "zstandard": zst,
    "huggingface_hub": lambda: locate("hf:org/name"),
    "onnx": lambda: exported("onnx"),
    "onnxruntime": lambda: exported("onnx"),
    "onnxscript": lambda: exported("onnx"),
    "ctranslate2": lambda: exported("ctranslate2"),
    "submitit": lambda: cli.main(["train", "-m", "task=lm", "hydra/launcher=submitit_local"]),
    "joblib": lambda: cli.main(["train", "-m", "task=lm", "hydra/launcher=joblib"]),
    "fastapi": lambda: cli.main(["serve", "run=x"]),
    "uvicorn": lambda: cli.main(["serve", "run=x"]),
}


HEAVY = ("tensorboard", "matplotlib", "onnx", "onnxruntime", "onnxscript", "ctranslate2", "datasets", "pyarrow")
"""Packages that are wanted by what imports torch or Lightning."""


@pytest.mark.parametrize(
    "package", [pytest.param(name, marks=pytest.mark.unhurried if name in HEAVY else ()) for name in EXTRAS]
)
def test_a_missing_package(package, monkeypatch, tmp_path, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    if package in HEAVY:
        importlib.import_module("lightning")  # it imports what is installed, if it has not been imported before
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with caplog.at_level("INFO", "multihead"):
        try:
            told = WANTS[package]()
        except (ConfigError, DataError) as error:
            told = str(error)
    captured = capsys.readouterr()
    said = f"{told} {captured.err} {captured.out} {caplog.text}"
    assert re.search(r"pip install [\"']multihead\[" + EXTRAS[package], " ".join(said.split())), said
    assert "internal" not in said and "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"s.yaml"}, "nothing was written"


def test_the_extras_are_those_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(package in line for line in extras[extra])
        assert install(package) == f'pip install "multihead[{extra}]"'
