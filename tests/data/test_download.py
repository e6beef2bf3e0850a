"""Downloads over a real server on the loopback: whole and checked, or not there at all."""

import functools
import hashlib
import http.server
import threading

import pytest

from multihead.config.data import DataConfig
from multihead.data.corpus import load_corpus
from multihead.data.download import download
from multihead.errors import ConfigError, DataError

CONTENT = b"a\tb\nc\td\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(CONTENT[:5])
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "rows.tsv").write_bytes(CONTENT)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_missing_file_is_downloaded_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_DATA", str(tmp_path))
    config = DataConfig(root="new/set", train="rows.tsv", columns=["source", "target"], splits={})
    config.url, config.sha256 = {"rows.tsv": f"{server}/rows.tsv"}, {"rows.tsv": SHA256}
    assert len(load_corpus(config, ["source"], splits=["train"]).splits["train"]) == 2
    assert (tmp_path / "new/set/rows.tsv").read_bytes() == CONTENT
    config.url = {"rows.tsv": f"{server}/not-there"}
    assert len(load_corpus(config, ["source"], splits=["train"]).splits["train"]) == 2


def test_a_file_address(tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    download((tmp_path / "x").as_uri(), tmp_path / "y", SHA256.upper(), key="data.sha256.y")
    assert (tmp_path / "y").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sha256", "error", "message"),
    [
        ("/rows.tsv", "0" * 64, DataError, f"its content has sha256 {SHA256}, expected 000"),
        ("/rows.tsv", "", ConfigError, "data.sha256.y: is missing: a file that is downloaded needs its checksum"),
        ("/gone", SHA256, DataError, r"/gone: cannot be downloaded \(.*File not found.*\)"),
        ("/short", SHA256, DataError, "its content has sha256|cannot be downloaded"),
    ],
)
def test_nothing_is_left_of_a_failed_download(server, tmp_path, path, sha256, error, message):
    with pytest.raises(error, match=message):
        download(server + path, tmp_path / "y", sha256, key="data.sha256.y")
    assert list(tmp_path.iterdir()) == []


def test_unreachable_and_strange_addresses(tmp_path):
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*refused"):
        download("http://127.0.0.1:1/x", tmp_path / "y", SHA256, key="k")
    with pytest.raises(ConfigError, match="must be an http, https or file address"):
        download("ftp://127.0.0.1/x", tmp_path / "y", SHA256, key="k")
