"""A server on a socket: bad requests harm nobody, clients may go away, and a signal ends it when all is answered."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import bad_requests
import pytest
import uvicorn
from bad_requests import BAD, GOOD, outcome
from uvicorn.server import ServerState

from multihead.config.serving import TOKEN, ServeSettings
from multihead.errors import ConfigError
from multihead.serving import server as servers
from multihead.serving.guard import Rules
from multihead.serving.server import bind, new_server, rules_of
from multihead.serving.service import Service

DOG = json.dumps({"inputs": "The dog sleeps."})


@contextlib.contextmanager
def running(served, **settings):
    """Runs a server in a thread; yields its service and its address."""
    service = Service(served, ServeSettings(run=list(served), port=0, wait=0, **settings))
    service.batcher.start()
    ready = threading.Event()
    with bind(service.settings) as bound:
        address = bound.getsockname()
        server = new_server(service, Rules(max_body=1_000_000, body_seconds=1.0), ready.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            assert ready.wait(10)
            yield service, address
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            service.batcher.close()


def ask(address, verb="translate", body=DOG):
    client = http.client.HTTPConnection(*address, timeout=30)
    with contextlib.closing(client):
        client.request("POST", f"/v1/{verb}", body, {"Content-Type": "application/json"})
        response = client.getresponse()
        return response.status, json.loads(response.read())


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_bad_requests_have_their_outcomes_and_harm_nobody(served, monkeypatch):
    monkeypatch.setattr(servers, "HEAD_SECONDS", 1.0)
    with running(served) as (service, address), ThreadPoolExecutor(len(BAD) + 1) as pool:
        found = list(pool.map(lambda bad: outcome(address, bad), BAD))
        assert [(bad.name, got) for bad, got in zip(BAD, found, strict=True) if got not in bad.right] == []
        status, answer = ask(address)
        assert status == 200 and answer["outputs"][0]["text"]
        until(lambda: "multihead_requests_in_flight 0" in service.meters.text())


@contextlib.asynccontextmanager
async def connected(monkeypatch, app: Any = None):
    """A connection without a socket, which gives its client 0.1 s; yields it and its transport."""
    monkeypatch.setattr(servers, "HEAD_SECONDS", 0.1)
    config = uvicorn.Config(app, timeout_keep_alive=0, log_config=None)
    connection, transport = servers.Connection(config, ServerState(), {}), Mock()
    transport.get_extra_info.return_value = None
    transport.is_closing.return_value = False
    connection.connection_made(transport)
    yield connection, transport
    connection.connection_lost(None)


def test_a_request_that_waited_in_the_connection_is_not_cut(monkeypatch):
    async def app(scope, receive, send):
        await asyncio.sleep(0.3 if scope["path"] == "/slow" else 0)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def test():
        async with connected(monkeypatch, app) as (connection, transport):
            connection.data_received(bad_requests.get("/quick") + bad_requests.get("/slow"))
            await asyncio.sleep(0.35)
            sent = b"".join(call.args[0] for call in transport.write.call_args_list)
            assert b"/quick" in sent and b"/slow" in sent and not transport.abort.called
            await asyncio.sleep(0.15)
            assert transport.abort.called

    asyncio.run(test())


def test_a_client_that_has_read_an_answer_must_still_send_its_next_head_in_time(monkeypatch):
    async def test():
        async with connected(monkeypatch) as (connection, transport):
            connection.pause_writing()
            connection.resume_writing()
            connection.data_received(GOOD[:20])
            await asyncio.sleep(0.15)
            assert transport.abort.called

    asyncio.run(test())


def test_a_client_that_goes_away_leaves_no_work(served, monkeypatch):
    with running(served) as (service, address):
        gate = threading.Event()
        monkeypatch.setattr(
            "multihead.serving.answers.embed", lambda run, items: gate.wait(20) and [[0.0] for _ in items]
        )
        with ThreadPoolExecutor(1) as pool:
            blocking = pool.submit(ask, address, "embed", json.dumps({"inputs": "a", "run": "lm"}))
            until(lambda: 'verb="embed"' in service.meters.text() and not service.batcher.waiting)
            with socket.create_connection(address) as client:
                client.sendall(GOOD)
                until(lambda: service.batcher.waiting == 1)
            until(lambda: 'route="/v1/translate",status="499"} 1' in service.meters.text())
            gate.set()
            assert blocking.result()[0] == 200
        until(lambda: "multihead_inputs_dropped_total 1" in service.meters.text())


def test_a_stream_that_nobody_reads_ends_early(served):
    body = json.dumps({"inputs": "The", "stream": True, "max_new_tokens": 512, "temperature": 100.0}).encode()
    with running(served) as (service, address):
        for _ in range(3):
            with socket.create_connection(address) as client:
                client.sendall(bad_requests.post("/v1/generate", body))
                assert b"200 OK" in client.recv(1000)
        until(lambda: "multihead_requests_in_flight 0" in service.meters.text())
        assert ask(address)[0] == 200


def test_many_clients_share_batches_and_get_their_own_answers(served):
    texts = ["The dog sleeps.", "A woman buys the book.", "Dogs", "The old man has read it."] * 6
    alone = {text: served["translation"].run.translate(text) for text in set(texts)}
    with running(served) as (service, address), ThreadPoolExecutor(len(texts)) as pool:
        found = list(pool.map(lambda text: ask(address, body=json.dumps({"inputs": text})), texts))
        assert [answer["outputs"][0]["text"] for _, answer in found] == [alone[text] for text in texts]
        batches = next(line for line in service.meters.text().splitlines() if "batch_inputs_count" in line)
        assert int(batches.split()[1]) < len(texts)


def test_others_need_a_token_and_an_address_must_be_free(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(
        ConfigError, match=r"host: 0\.0\.0\.0 can be reached from other machines.*export MULTIHEAD_SERV"
    ):
        rules_of(ServeSettings(run=["A"], host="0.0.0.0"))
    monkeypatch.setenv(TOKEN, "secret")
    assert rules_of(ServeSettings(run=["A"], host="0.0.0.0")).hosts is None
    monkeypatch.setenv(TOKEN, " secret\n")
    assert rules_of(ServeSettings(run=["A"])).token == "secret"
    assert "models.example" in (rules_of(ServeSettings(run=["A"], hosts=["models.example"])).hosts or ())
    with bind(ServeSettings(run=["A"], port=0)) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port: {port} is taken by another program; fix: port={port + 1}"):
            bind(ServeSettings(run=["A"], port=port))
    with pytest.raises(ConfigError, match=r"host: no such address: nowhere\.invalid"):
        bind(ServeSettings(run=["A"], host="nowhere.invalid"))
    with pytest.raises(ConfigError, match=r"host: no such address: 0\.0\.\.0\.0; fix: host=127\.0\.0\.1"):
        bind(ServeSettings(run=["A"], host="0.0..0.0"))
    with pytest.raises(ConfigError, match=r"host: 192\.0\.2\.1 is not an address of this machine"):
        bind(ServeSettings(run=["A"], host="192.0.2.1"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"run": ["a/x", "b/x"]}, r"names: two runs are called x; fix: names=\[run1,run2\]"),
        ({"run": ["A", "B"], "names": ["x"]}, "names: 1 names for 2 runs"),
        ({"run": ["A"], "names": ["a b"]}, "names: must be up to 100 letters, .*got 'a b'"),
        ({"run": ["A"], "port": 70000}, "port: must be at most 65535, got 70000"),
        ({"run": ["A"], "timeout": 0}, "timeout: must be at least 1, got 0"),
        ({}, "run: is missing"),
    ],
)
def test_settings_that_are_not_valid(settings, message):
    with pytest.raises(ConfigError, match=message):
        ServeSettings(**settings)


@pytest.mark.slow
def test_a_signal_ends_the_command_when_all_is_answered(runs, tmp_path):
    run = runs.finished("task=lm")
    command = [sys.executable, "-m", "multihead", "serve", f"run={run}", "names=mine", "port=0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving mine (lm): generate, score, embed, attention\n"
        address = "127.0.0.1", int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
        body = json.dumps({"inputs": ["The"] * 64, "max_new_tokens": 300, "temperature": 100.0})
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, address, "generate", body)
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            status, answer = asked.result()
        assert status == 200 and len(answer["outputs"]) == 64
        assert process.wait(60) == 0 and process.stdout.read().endswith("\nthe server has ended\n")
    assert list(Path(tmp_path).iterdir()) == []
