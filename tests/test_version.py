"""The version stands in one place, and everything that names it agrees; the wheel says that it is typed."""

import re
import tomllib
import zipfile

import pytest
import yaml
from trial import ROOT

import multihead
from multihead.cli import main


def test_the_project_reads_its_version_from_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    source = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'^__version__ = "(.*)"$', source.read_text(), re.MULTILINE) == [multihead.__version__]


def test_the_documents_name_the_same_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    released = re.findall(r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited == released[0] == multihead.__version__


def test_the_command_line_prints_it(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"multihead {multihead.__version__}\n"


@pytest.mark.unhurried
def test_the_wheel_has_it_and_is_typed(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (built,) = wheel.build(directory=str(tmp_path), versions=["standard"])
    assert f"multihead-{multihead.__version__}-" in built
    names = zipfile.ZipFile(built).namelist()
    assert "multihead/py.typed" in names and "multihead/conf/train.yaml" in names
