"""What stands before every route: who may ask, how much and how slowly, and what happens if a client goes away.

It reads the whole body before the application starts, within a limit of bytes and of time, so that a slow client holds
nothing but its own connection.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from multihead.config.serving import LOOPBACK
from multihead.serving.meters import Meters

log = logging.getLogger("multihead")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEAD_BYTES = 16_384
"""Most bytes of the headers of a request."""
BODY_SECONDS = 10.0
"""A client must have sent its body within this time."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer. The page may load from this server only, and no other page may embed or read it."""
PROTECTED = ("/v1/", "/metrics")
"""Beginnings of the paths that need the token. The page, /docs and the health checks do not."""


@dataclass
class Refusal(Exception):
    """An answer that the guard gives itself."""

    status: int
    detail: str
    headers: tuple[tuple[str, str], ...] = ()


class ClientGone(Exception):
    """The client closed the connection before it had sent its request."""


@dataclass(frozen=True)
class Rules:
    """What the guard checks."""

    max_body: int
    """Most bytes of a body."""
    token: str = ""
    """The token that clients must send; empty if they need none."""
    hosts: tuple[str, ...] | None = LOOPBACK
    """Names that the Host header may have; None allows all."""
    in_flight: int = 512
    """Most requests in work at the same time; those whose bodies still arrive do not count."""
    body_seconds: float = BODY_SECONDS


class Guard:
    """An ASGI application around another one.

    Args:
        app: The application.
        rules: What is checked.
        meters: Where requests are counted.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], rules: Rules, meters: Meters):
        self.app, self.rules, self.meters = app, rules, meters
        self.in_flight = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.monotonic(), 499  # no status was sent: the client has gone away

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = dict(HEADERS)
                if scope["path"].startswith("/v1/"):
                    extra["cache-control"] = "no-store"
                own = [(name.encode(), value.encode()) for name, value in extra.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "") or "other"
            self.meters.count("multihead_requests_total", route=route, status=str(status))
            self.meters.observe("multihead_request_seconds", time.monotonic() - began, route=route)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._check(scope, headers)
            body = await self._body(receive, headers)
            if self.in_flight >= self.rules.in_flight and scope["path"].startswith("/v1/"):
                raise Refusal(503, "Too many requests are in work; try again later.", (("retry-after", "1"),))
        except ClientGone:
            return
        except Refusal as refusal:
            return await _refuse(refusal, send)
        self.in_flight += 1
        try:
            await self._run(scope, body, receive, send)
        finally:
            self.in_flight -= 1

    def _check(self, scope: Message, headers: dict[str, str]) -> None:
        """Checks the head of a request.

        Raises:
            Refusal: Its head is too large or ambiguous, or its host, origin or token is wrong.
        """
        rules, host = self.rules, headers.get("host", "")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            raise Refusal(431, f"The headers of a request have at most {HEAD_BYTES:,} bytes.")
        if "content-length" in headers and "transfer-encoding" in headers:
            raise Refusal(400, "A request has a length or chunks, not both.", (("connection", "close"),))
        if rules.hosts is not None and _name(host) not in rules.hosts:
            raise Refusal(421, "This server does not answer under this host name.")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise Refusal(403, "Pages of other addresses may not use this server.")
        if rules.token and scope["path"].startswith(PROTECTED):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            raw = given.strip(" \t").encode("latin-1")  # the bytes of the header; clients send UTF-8
            right = hmac.compare_digest(raw, rules.token.encode("utf-8", "surrogateescape"))
            if scheme.lower() != "bearer" or not right:
                detail = "Send the header 'Authorization: Bearer TOKEN' with the token of this server."
                raise Refusal(401, detail, (("www-authenticate", "Bearer"),))

    async def _body(self, receive: Receive, headers: dict[str, str]) -> bytes:
        """The whole body.

        Raises:
            Refusal: It is too large or comes too slowly.
            ClientGone: The client went away.
        """
        most = self.rules.max_body
        too_large = Refusal(413, f"A request has at most {most:,} bytes.")
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared[:20]) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.rules.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            seconds = f"{self.rules.body_seconds:g}"
            detail = f"The body of a request must arrive within {seconds} seconds."
            raise Refusal(408, detail, (("connection", "close"),)) from None

    async def _run(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Runs the application, and cancels it if the client goes away."""
        given = False
        gone = asyncio.Event()

        async def receive_again() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        app = asyncio.ensure_future(self.app(scope, receive_again, send))
        watcher = asyncio.ensure_future(watch())
        try:
            await asyncio.wait((app, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not app.done():
                app.cancel()
            await app
        except asyncio.CancelledError:
            if not gone.is_set():
                raise
        except Exception:  # its answer has been sent already
            log.exception("a request failed")
        finally:
            watcher.cancel()
            app.cancel()


def _name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address; empty if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps({"detail": refusal.detail}).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), *refusal.headers]
    raw = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
