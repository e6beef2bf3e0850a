"""``push=ORG/NAME``: the files and repository that the hub's library is given, and what is said if it cannot upload.

A stand-in takes the place of ``huggingface_hub.HfApi``; nothing is sent.
"""

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from multihead.config.verbs import ExportSettings
from multihead.errors import ConfigError, MachineError
from multihead.exporting import hub


class StandIn:
    """An `HfApi` that keeps what it is given."""

    calls: list = []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create", repo_id, private, exist_ok))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        self.calls.append(("upload", repo_id, files, commit_message))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An export, a stand-in for the hub, and a user who is logged in."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("config.json", "model.safetensors"):
        (out / name).write_text(name)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.setattr(huggingface_hub, "HfApi", StandIn)
    monkeypatch.setattr(StandIn, "calls", [])
    return out


def test_the_whole_folder_goes_to_a_private_repository(folder):
    assert hub.push(folder, "me/film") == "https://huggingface.co/me/film"
    files = {"config.json": b"config.json", "model.safetensors": b"model.safetensors"}
    created, uploaded = StandIn.calls
    assert created == ("create", "me/film", True, True)
    assert uploaded[:3] == ("upload", "me/film", files)


def failed(error):
    def upload_folder(self, **_):
        raise error

    return upload_folder


def test_what_helps_is_said_in_one_line_and_the_folder_stays(folder, monkeypatch, tmp_path):
    again = f"hf upload me/film {folder} --private"
    refused, absent = HfHubHTTPError.__new__(HfHubHTTPError), HfHubHTTPError.__bases__[0]("no\nroute")
    refused.args = ("403 Forbidden",)
    for error, kind, said, fix in (
        (refused, ConfigError, r"the hub refuses me/film \(.*403", f"hf auth whoami && {again}"),
        (absent, MachineError, r"the hub cannot be reached \(no route\)", again),
        (ConnectionError("offline"), MachineError, r"the hub cannot be reached \(offline\)", again),
    ):
        monkeypatch.setattr(StandIn, "upload_folder", failed(error))
        with pytest.raises(kind, match=said) as found:
            hub.push(folder, "me/film")
        assert found.value.fix == fix and "\n" not in str(found.value)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match="is written, but not uploaded: you are not logged in") as found:
        hub.push(folder, "me/film")
    assert found.value.fix == f"hf auth login && {again}"
    monkeypatch.setattr(hub, "installed", lambda package: False)
    with pytest.raises(ConfigError, match="huggingface_hub is not installed") as found:
        hub.push(folder, "me/film")
    assert found.value.fix == f'pip install "multihead[hub]" && {again}'
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"to": "onnx", "push": "me/film"}, "push: must be left out if to=onnx: the hub takes huggingface and lora"),
        ({"to": "lora", "push": "film"}, "push: must be ORG/NAME, got 'film'; fix: push=ORG/NAME"),
        ({"to": "lora", "push": "--private/x y"}, "push: must be ORG/NAME"),
    ],
)
def test_what_is_refused_before_anything_is_written(words, message):
    with pytest.raises(ConfigError) as found:
        ExportSettings(run="r", **words)
    assert message in str(found.value)
