"""Starts the server. After SIGTERM or Ctrl-C, it answers the requests that it has begun, and then it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from multihead.config.serving import LOOPBACK, TOKEN, ServeSettings
from multihead.errors import ConfigError, MachineError
from multihead.serving.app import create_app
from multihead.serving.guard import HEAD_BYTES, Guard, Rules
from multihead.serving.served import ServedRun
from multihead.serving.service import Service

HEAD_SECONDS = 10.0
"""A client must have sent the head of a request within this time, and must read what it is sent."""
CONNECTIONS = 900
"""Most connections. Many systems let a process open 1,024 files."""
BACKLOG = 1024
"""Most connections that wait to be accepted."""


class Connection(H11Protocol):
    """A connection that is cut if its client is too slow.

    uvicorn 0.54 limits only the time between two requests. Here, the head of a request must come in time, and what is
    sent must be read in time.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEAD_SECONDS, self._cut)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._limit.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # a request that waited in the connection may begin here
        self._limit_client()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit.cancel()
        self._limit = self.loop.call_later(HEAD_SECONDS, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._limit_client()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _limit_client(self) -> None:
        """Limits the time until the next request, unless one is in work."""
        self._limit.cancel()
        if not self._is_answering():
            self._limit = self.loop.call_later(self.timeout_keep_alive + HEAD_SECONDS, self._cut)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit.cancel()
        super().connection_lost(exc)

    def _cut(self) -> None:
        self.transport.abort()


class Server(uvicorn.Server):
    """A server that ends with status 0 after a signal; uvicorn's own raises the signal again."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]):
        super().__init__(config)
        self.service, self._on_ready = service, on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """Handles SIGINT and SIGTERM while the server runs; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to end; a second signal does not wait for requests."""
        self.service.is_ending = True
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        self._on_ready()


def bind(settings: ServeSettings) -> socket.socket:
    """Takes the address before anything is loaded.

    Raises:
        ConfigError: There is no such address, or another program has it.
        MachineError: It may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        return bound
    except (socket.gaierror, UnicodeError):  # the second one comes from a name with two dots in a row
        raise ConfigError("host", f"no such address: {settings.host}", "host=127.0.0.1") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = f"{settings.port} is taken by another program"
            raise ConfigError("port", what, f"port={settings.port + 1}, or port=0 for any") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError("host", f"{settings.host} is not an address of this machine", "host=127.0.0.1") from None
        raise MachineError(f"port {settings.port}", str(error.strerror), "port=8000") from None


def rules_of(settings: ServeSettings) -> Rules:
    """What the guard checks.

    Raises:
        ConfigError: Others could reach the server without a token.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not settings.is_local() and not token:
        what = f"{settings.host} can be reached from other machines, so that clients need a token"
        raise ConfigError("host", what, f"export {TOKEN}=SECRET, or host=127.0.0.1")
    local = (*LOOPBACK, *(name.lower() for name in settings.hosts))
    hosts = local if settings.is_local() or settings.hosts else None
    return Rules(max_body=settings.max_body, token=token, hosts=hosts)


def new_server(service: Service, rules: Rules, on_ready: Callable[[], None]) -> Server:
    """A server of a service; ``run`` takes the sockets to listen on.

    Args:
        service: What it serves.
        rules: What is checked of each request.
        on_ready: Called as soon as the server listens.
    """
    app = Guard(create_app(service), rules, service.meters)
    service.meters.gauge("multihead_requests_in_flight", lambda: app.in_flight)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="error",  # a bad request is not an event of the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=service.settings.timeout + 5,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return Server(config, service, on_ready)


def serve(
    settings: ServeSettings,
    words: Sequence[str],
    say: Callable[[str], None],
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Loads runs and serves them until a signal comes.

    Args:
        settings: What is served, and how.
        words: Overrides of the runs' configurations.
        say: Shows a line to the user.
        on_ready: Called with the address as soon as the server listens.
    """
    rules = rules_of(settings)
    with bind(settings) as bound:
        runs = {}
        for name, path in zip(settings.public_names(), settings.run, strict=True):
            runs[name] = ServedRun.load(name, path, words)
        service = Service(runs, settings)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{shown}:{bound.getsockname()[1]}/"

        def ready() -> None:
            for run in runs.values():
                say(f"serving {run.name} ({run.run.config.task.name}): {', '.join(run.tasks)}")
            say(f"the API is described at {url}docs")
            say(f"Ctrl-C ends the server; the page is {url}")
            on_ready(url)

        service.batcher.start()
        try:
            new_server(service, rules, ready).run([bound])
        finally:
            service.batcher.close()
        say("the server has ended")
