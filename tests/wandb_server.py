"""A stand-in for W&B's server: takes what the real client sends, over HTTP, and keeps it; can die or fall silent.

It answers the requests that the client of wandb 0.31 makes for a run (GraphQL), takes its file stream (history,
console, exit) and its files, and knows nothing else. ``python wandb_server.py PORT`` serves until it is killed.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "somebody"


class WandbServer:
    """Serves on a free port of this machine, in threads.

    Attributes:
        address: What ``WANDB_BASE_URL`` has to say.
        asked: Names of the GraphQL operations that came.
        history: Rows of the history, by run id.
        exits: Exit status by run id.
        files: Contents of uploaded files by name.
        config: Configuration by run id.
    """

    def __init__(self, port: int = 0):
        self.asked: list[str] = []
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.exits: dict[str, int] = {}
        self.files: dict[str, bytes] = {}
        self.config: dict[str, Any] = {}
        self.silent = threading.Event()
        """Once set, requests are read and never answered."""
        self.gone = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if owner.silent.is_set():
                    owner.gone.wait()
                    return
                answer = json.dumps(owner.answer(self.path, body, self.headers.get("Content-Encoding", ""))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = handle_any

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.http = _Quiet(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def die(self) -> None:
        """From here on connections are refused."""
        self.gone.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: bytes, encoding: str) -> Any:
        """What is said to one request."""
        if path.endswith("/file_stream"):
            return self._stream(path.split("/")[-2], json.loads(body))
        if "graphql" not in path:
            self.files[path.rpartition("/upload/")[2]] = body
            return {}
        asked = json.loads(body)
        operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        name = operation[1] if operation else asked["query"][:60]
        self.asked.append(name)
        return {"data": self._graphql(name, asked.get("variables") or {})}

    def _stream(self, run: str, told: dict[str, Any]) -> dict[str, Any]:
        for name, part in (told.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                rows = self.history.setdefault(run, [])
                del rows[part["offset"] :]
                rows += [json.loads(line) for line in part["content"]]
        if told.get("complete"):
            self.exits[run] = told.get("exitcode")
        return {}

    def _graphql(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        if name == "UpsertBucket":
            run = told.get("name") or ""
            if told.get("config"):
                self.config[run] = json.loads(told["config"])
            project = {"name": told.get("project"), "entity": {"name": ENTITY}}
            bucket = {"id": run, "name": run, "displayName": told.get("displayName") or run, "description": None}
            bucket |= {"config": None, "sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.address}/upload/{n}"} for n in told["files"]]
            return {"createRunFiles": {"runID": told["run"], "uploadHeaders": [], "files": files}}
        if name == "ArtifactType":
            return {"project": None}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "CreateArtifact":  # says that it has the content already
            sequence = {"id": "1", "latestArtifact": {"id": "1", "versionIndex": 0}}
            return {"createArtifact": {"artifact": {"id": "1", "state": "COMMITTED", "artifactSequence": sequence}}}
        if name == "Viewer":
            return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            bucket = self._bucket(told["name"]) if told["name"] in self.config else None
            return {"model": {"id": "1", "name": told.get("project"), "entity": {"name": ENTITY}, "bucket": bucket}}
        return {}

    def _bucket(self, run: str) -> dict[str, Any]:
        """What a run that goes on is told of itself."""
        rows = self.history.get(run, [])
        tail, config = [json.dumps(row) for row in rows[-1:]], json.dumps(self.config[run])
        known = {"id": run, "name": run, "displayName": run, "config": config, "tags": [], "notes": None}
        known |= {"historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0, "summaryMetrics": "{}"}
        return known | {"historyTail": json.dumps(tail), "eventsTail": "[]", "wandbConfig": json.dumps({"t": 1})}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed hangs up."""


if __name__ == "__main__":
    server = WandbServer(int(sys.argv[1]))
    server.gone.wait()
