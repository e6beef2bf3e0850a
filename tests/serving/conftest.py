"""A server with one run of each task, asked without a network."""

import pytest
from fastapi.testclient import TestClient

from multihead.config.serving import ServeSettings
from multihead.serving.app import create_app
from multihead.serving.guard import Guard, Rules
from multihead.serving.served import ServedRun
from multihead.serving.service import Service

TASKS = ("translation", "lm", "classification")


@pytest.fixture(scope="session")
def served(runs):
    """The runs by name."""
    return {task: ServedRun.load(task, str(runs.finished(f"task={task}")), []) for task in TASKS}


@pytest.fixture
def new_client(served):
    """Makes a client of a server with its own settings and rules."""
    services = []

    def make(rules=None, **settings):
        service = Service(served, ServeSettings(run=list(served), wait=0, **settings))
        service.batcher.start()
        services.append(service)
        app = Guard(create_app(service), rules or Rules(max_body=service.settings.max_body), service.meters)
        client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        client.service = service
        return client

    yield make
    for service in services:
        service.batcher.close()


@pytest.fixture
def client(new_client):
    """A client of a server with default settings."""
    return new_client()
