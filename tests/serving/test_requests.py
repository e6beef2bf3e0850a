"""Which requests are refused, with which status and sentence, and what every answer says about the server."""

import json
import re
import time

import pytest

from multihead.errors import ConfigError
from multihead.serving.guard import Rules

DOG = "The dog sleeps."


@pytest.mark.parametrize(
    ("verb", "body", "status", "sentence"),
    [
        ("translate", {}, 422, "inputs: Field required"),
        ("translate", {"inputs": 5}, 422, "inputs: must be a text, or a list of at least one text$"),
        ("translate", {"inputs": []}, 422, "inputs: must be a text, or a list of at least one text$"),
        ("translate", {"inputs": [DOG, None]}, 422, "inputs: must be a text, or a list of at least one text$"),
        ("translate", [DOG], 422, "The body must be a JSON object"),
        ("score", {"inputs": DOG, "targets": []}, 422, "targets: must be a text, or a list of at least one text$"),
        ("translate", {"inputs": DOG, "beams": 2}, 422, "beams: Extra inputs are not permitted"),
        ("translate", {"inputs": DOG, "num_beams": "2"}, 422, "num_beams: Input should be a valid integer"),
        ("translate", {"inputs": DOG, "num_beams": 1000}, 422, "num_beams: .*less than or equal to 16"),
        ("translate", {"inputs": DOG, "num_return_sequences": 3}, 422, "num_return_sequences: must be at most num_be"),
        ("translate", {"inputs": DOG, "prefix": [10**6]}, 422, "prefix: must be ids below"),
        ("translate", {"inputs": DOG, "run": "x"}, 422, "run: no run of this name; there are translation, lm, cl"),
        (
            "translate",
            {"inputs": DOG, "run": "lm"},
            422,
            r"run: this run does not answer translate; lm has [\w, ]+$",
        ),
        ("summarize", {"inputs": DOG}, 422, "run: no run here answers summarize; translation has"),
        ("translate", {"inputs": ["a"] * 65}, 422, "inputs: at most 64 texts, got 65"),
        ("translate", {"inputs": "a" * 10_001}, 422, "inputs: a text has at most 10,000 characters, got 10,001"),
        ("generate", {"inputs": DOG, "temperature": -1}, 422, "temperature"),
        ("generate", {"inputs": DOG, "top_p": 0}, 422, "top_p"),
        ("generate", {"inputs": DOG, "max_new_tokens": 10**6}, 422, "max_new_tokens"),
        ("score", {"inputs": DOG}, 422, "targets: give one target for each input"),
        ("score", {"inputs": DOG, "targets": [DOG]}, 422, "targets: give one target for each input"),
        ("score", {"inputs": DOG, "targets": DOG, "run": "lm"}, 422, "targets: a language model scores texts alone"),
        ("score", {"inputs": DOG * 200, "run": "lm"}, 422, "score: a text has .* but the model reads at most"),
        ("score", {"inputs": DOG, "targets": DOG * 200}, 422, "target: has .* tokens, but the model writes at most"),
        ("attention", {"input": [DOG]}, 422, "input: Input should be a valid string"),
        ("classify", {"inputs": "a " * 300, "occlusion": True}, 422, "occlusion: a text has 300 words"),
        ("none", {}, 404, "Not Found"),
    ],
)
def test_what_is_refused(client, verb, body, status, sentence):
    response = client.post(f"/v1/{verb}", json=body)
    assert response.status_code == status
    assert re.match(sentence, response.json()["detail"])


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {"content-type": "application/json"}, 400),
        (b"[" * 100_000, {"content-type": "application/json"}, 400),
        (b'{"inputs": "\xff"}', {"content-type": "application/json"}, 400),
        (b'{"inputs": "\\ud800"}', {"content-type": "application/json"}, 422),
        (b'{"inputs": "a", "length_penalty": NaN}', {"content-type": "application/json"}, 422),
        (b'{"inputs": "a"}', {"content-type": "text/plain"}, 422),
        (b'{"inputs": "a"}', {}, 422),
        (b'{"inputs": "a"}' + b" " * 1_000_000, {"content-type": "application/json"}, 413),
        (b'{"inputs": "a"}', {"content-type": "application/json", "host": "evil.example"}, 421),
        (b'{"inputs": "a"}', {"content-type": "application/json", "origin": "http://evil.example"}, 403),
        (b'{"inputs": "a"}', {"content-type": "application/json", "origin": "null"}, 403),
        (b'{"inputs": "a"}', {"content-type": "application/json", "origin": "http://["}, 403),
    ],
)
def test_bodies_and_heads_that_are_refused(client, content, headers, status):
    response = client.post("/v1/translate", content=content, headers=headers)
    assert response.status_code == status and list(response.json()) == ["detail"]
    assert "evil" not in response.text


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_is_not_sent_as_json_names_the_header(client, kind):
    """curl's -d sends a form unless a header says otherwise."""
    response = client.post("/v1/translate", content=b'{"inputs": "a"}', headers={"content-type": kind} if kind else {})
    assert response.status_code == 422 and "with the header 'Content-Type: application/json'" in response.text
    for json_kind in ("application/json; charset=utf-8", "Application/JSON", "application/ld+json"):
        response = client.post("/v1/translate", content=b"[]", headers={"content-type": json_kind})
        assert response.status_code == 422 and "must be a JSON object" in response.text


def test_a_blank_text_has_no_class(client):
    (answer,) = client.post("/v1/classify", json={"inputs": " "}).json()["outputs"]
    assert (answer["label"], answer["probability"], answer["probabilities"]) == (None, None, {})


def test_attention_is_not_written_at_any_length(client, monkeypatch):
    monkeypatch.setattr("multihead.serving.answers.MOST_WEIGHTS", 100)
    response = client.post("/v1/attention", json={"input": DOG, "target": DOG})
    assert response.status_code == 422 and response.json()["detail"].startswith("input: is too long")


def test_a_long_body_without_a_declared_length_is_refused(client):
    response = client.post("/v1/translate", content=(b" " * 1000 for _ in range(1100)))
    assert response.status_code == 413


def test_odd_texts_are_only_texts(client):
    texts = ["\x00", "\x1b[31m", "<script>alert(1)</script>", "\u202e", "\t", "🙂" * 50, "e\u0301" * 50, "\ufffe"]
    for verb in ("translate", "classify", "embed"):
        assert client.post(f"/v1/{verb}", json={"inputs": texts}).status_code == 200


def test_the_token_is_needed_where_runs_are_read(new_client):
    client = new_client(Rules(max_body=1000, token="secret"))
    for path in ("/v1/runs", "/metrics"):
        response = client.get(path)
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer", "Bearer secre", "Basic secret", "Bearer sécret".encode("latin-1")):
            assert client.get(path, headers={"authorization": wrong}).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
    for path in ("/healthz", "/readyz", "/docs"):
        assert client.get(path).status_code == 200


def test_a_token_may_have_any_letters(new_client):
    for token in ("sécret", "voilà", "密码"):
        client = new_client(Rules(max_body=1000, token=token))
        assert client.get("/v1/runs", headers={"authorization": f"Bearer {token}".encode()}).status_code == 200
        assert client.get("/v1/runs", headers={"authorization": f"Bearer {token}x".encode()}).status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_this_machine_has_several_names(client, host):
    assert client.get("/v1/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "HTTP://127.0.0.1:8000", "https://127.0.0.1:8000"])
def test_the_page_itself_may_ask(client, origin):
    assert client.get("/v1/runs", headers={"origin": origin}).status_code == 200


def test_every_answer_has_the_headers_of_a_safe_page(client):
    for path in ("/healthz", "/v1/runs", "/nothing", "/docs"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff" and "access-control-allow-origin" not in headers
    assert client.get("/v1/runs").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/server.py", "/..%2fserver.py", "/static/../../server.py", "//etc/passwd"]
)
def test_no_path_leads_out_of_the_page(client, path):
    assert client.get(path).status_code == 404


def test_the_page_and_its_files_are_there(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert page.text == client.get("/index.html").text
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/v1/translate").status_code == client.post("/app.js").status_code == 405


def test_a_full_queue_and_a_late_answer_have_their_statuses(new_client, monkeypatch):
    client = new_client(max_queue=2)
    response = client.post("/v1/translate", json={"inputs": ["a", "b", "c"]})
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    client = new_client(timeout=1)
    monkeypatch.setattr("multihead.serving.answers.translate", lambda task, items, *_: time.sleep(1.5) or items)
    response = client.post("/v1/translate", json={"inputs": DOG})
    assert response.status_code == 504 and response.json()["detail"] == "The answer took more than 1 seconds."


def test_a_server_that_ends_takes_nothing_new(client):
    client.service.is_ending = True
    assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200
    response = client.post("/v1/translate", json={"inputs": DOG})
    assert response.status_code == 503 and response.headers["retry-after"] == "1"


def test_too_many_requests_at_once_are_refused_and_health_is_still_told(new_client):
    client = new_client(Rules(max_body=1000, in_flight=0))
    response = client.get("/v1/runs")
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200


def test_a_defect_of_ours_says_nothing_about_the_machine(client, monkeypatch):
    def fail(*_):
        raise RuntimeError("in /home/me/secret")

    monkeypatch.setattr("multihead.serving.answers.translate", fail)
    response = client.post("/v1/translate", json={"inputs": DOG})
    assert response.status_code == 500
    assert response.json() == {"detail": "The server could not compute this answer; its log says why."}


def test_options_of_an_answer_that_are_not_valid_name_no_key_of_ours(client):
    detail = client.post("/v1/translate", json={"inputs": DOG, "num_return_sequences": 2}).json()["detail"]
    assert "decoding." not in detail
    with pytest.raises(ConfigError, match=r"decoding\.num_return_sequences"):
        client.service.runs["translation"].decoding(num_return_sequences=2)


def test_metrics_count_requests_inputs_and_batches(client):
    client.post("/v1/translate", json={"inputs": [DOG, "Dogs."]})
    client.post("/v1/translate", json={"inputs": 5})
    client.get("/nothing")
    lines = client.get("/metrics").text.splitlines()
    assert 'multihead_requests_total{route="/v1/translate",status="200"} 1' in lines
    assert 'multihead_requests_total{route="/v1/translate",status="422"} 1' in lines
    assert any(line.startswith("multihead_requests_total{") and 'status="404"' in line for line in lines)
    assert 'multihead_inputs_total{run="translation",verb="translate"} 2' in lines
    assert "multihead_batch_inputs_sum 2.000000" in lines and "multihead_batch_inputs_count 1" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert [line for line in lines if not line.startswith("#") and len(line.split()) != 2] == []


def test_the_api_is_described_offline(client):
    described = client.get("/openapi.json").json()
    page = client.get("/docs").text
    assert all(path in page for path in described["paths"]) and "<script" not in page and "http" not in page
    assert json.dumps(described).count("$ref") > 20
