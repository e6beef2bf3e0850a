"""The requests of docs/serve.md work; a run of several tasks answers the verbs of all."""

import json
import re
import shlex
from pathlib import Path

from fastapi.testclient import TestClient

from multihead.config.serving import ServeSettings
from multihead.serving.app import create_app
from multihead.serving.served import ServedRun
from multihead.serving.service import Service

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


def requests():
    """Method, path and body of each curl command of the page."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    for command in re.findall(r"^curl (?:[^\n']|'[^']*')+", "\n".join(blocks), flags=re.MULTILINE):
        words = shlex.split(command)
        (address,) = (word for word in words if word.startswith("http://127.0.0.1:8000/"))
        body = words[words.index("--json") + 1] if "--json" in words else None
        yield address.removeprefix("http://127.0.0.1:8000"), body


def test_the_requests_of_the_page_work_with_runs_of_all_tasks(served, runs):
    several = runs.finished("task=multitask", "task.parts=[summarization,regression]")
    all_runs = {**served, "several": ServedRun.load("several", str(several), [])}
    service = Service(all_runs, ServeSettings(run=list(all_runs), wait=0))
    service.batcher.start()
    try:
        client = TestClient(create_app(service), base_url="http://127.0.0.1:8000")
        asked = set()
        for path, body in requests():
            response = client.get(path) if body is None else client.post(path, json=json.loads(body))
            assert response.status_code == 200, (path, body, response.text)
            asked.add(path)
        described = client.get("/openapi.json").json()["paths"]
        assert asked == {path for path in described if path.startswith("/v1/")} | {"/metrics"}
        named = PAGE.read_text()
        assert all(path in named for path in described)
    finally:
        service.batcher.close()
    run = all_runs["several"]
    assert list(run.tasks) == ["summarize", "score", "regress", "embed", "attention"]
    assert run.describe()["task"] == "multitask" and run.describe()["labels"] is None


def test_the_page_lists_the_metrics_and_the_limits():
    from multihead.serving.meters import HELP

    text = PAGE.read_text()
    assert [name for name in HELP if f"`{name}`" not in text] == []
    keys = list(ServeSettings.keys())
    assert [key for key in keys if f"`{key}" not in text and f"{key}=" not in text] == []
