"""Requests that no client should send, each with what the server does about it.

An outcome is an HTTP status, or ``closed`` if the server cuts the connection without an answer.
"""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass

CLOSED = "closed"
PATIENCE = 30.0
"""Seconds that a client waits for the server."""


@dataclass(frozen=True)
class Bad:
    """A bad request: what it is, the bytes or the way in which they are sent, and the outcomes that are right."""

    name: str
    send: bytes | Callable[[socket.socket], None]
    right: tuple[int | str, ...]


def outcome(address: tuple[str, int], bad: Bad) -> int | str:
    """Sends a bad request to a server; returns the status of the answer, or `CLOSED`."""
    with socket.create_connection(address, timeout=PATIENCE) as client:
        try:
            if isinstance(bad.send, bytes):
                client.sendall(bad.send)
            else:
                bad.send(client)
            head = b""
            while b"\r\n" not in head:
                received = client.recv(65536)
                if not received:
                    return CLOSED
                head += received
        except (ConnectionError, BrokenPipeError):
            return CLOSED
    return int(head.split()[1])


def post(path: str, body: bytes, *headers: str, length: int | None = None, host: str = "127.0.0.1") -> bytes:
    """The bytes of a POST request with a JSON body."""
    given = {line.partition(":")[0].lower() for line in headers}
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", *headers]
    lines += [] if "content-type" in given else ["Content-Type: application/json"]
    if "transfer-encoding" not in given and "content-length" not in given:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ask(body: object, *headers: str, path: str = "/v1/translate") -> bytes:
    """The bytes of a request with this JSON body."""
    return post(path, json.dumps(body).encode(), *headers)


def get(path: str, *headers: str) -> bytes:
    """The bytes of a GET request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers]).encode() + b"\r\n\r\n"


def slowly(data: bytes, piece: int) -> Callable[[socket.socket], None]:
    """Sends the first bytes and then nothing more."""
    return lambda client: client.sendall(data[:piece])


def trickling(data: bytes) -> Callable[[socket.socket], None]:
    """Sends one byte after the other, until the server has enough of it."""

    def send(client: socket.socket) -> None:
        client.settimeout(0.1)
        for place in range(10_000):
            client.sendall(data[place : place + 1] or b"a")
            try:
                if not client.recv(1, socket.MSG_PEEK):
                    break
                break
            except TimeoutError:
                pass
        client.settimeout(PATIENCE)

    return send


def half_closed(data: bytes) -> Callable[[socket.socket], None]:
    """Sends bytes and closes its own side of the connection."""

    def send(client: socket.socket) -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    return send


DOG = {"inputs": "The dog sleeps."}
GOOD = ask(DOG)
CHUNKED = b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"

BAD = (
    Bad("no JSON", post("/v1/translate", b"{"), (400,)),
    Bad("nested 100,000 times", post("/v1/translate", b"[" * 100_000), (400,)),
    Bad("not UTF-8", post("/v1/translate", b'{"inputs": "\xff\xfe"}'), (400,)),
    Bad("an empty body", post("/v1/translate", b""), (422,)),
    Bad("a list instead of an object", ask([1, 2]), (422,)),
    Bad("a number instead of a text", ask({"inputs": 5}), (422,)),
    Bad("null instead of a text", ask({"inputs": None}), (422,)),
    Bad("no inputs", ask({"inputs": []}), (422,)),
    Bad("a list with a number", ask({"inputs": ["a", 1]}), (422,)),
    Bad("an unknown key", ask({**DOG, "modell": "x"}), (422,)),
    Bad("half of a surrogate pair", post("/v1/translate", b'{"inputs": "\\ud800"}'), (422,)),
    Bad("NaN", post("/v1/translate", b'{"inputs": "a", "length_penalty": NaN}'), (422,)),
    Bad(
        "an integer of 5,000 digits",
        post("/v1/translate", b'{"inputs": "a", "num_beams": ' + b"9" * 5000 + b"}"),
        (400,),
    ),
    Bad("0 beams", ask({**DOG, "num_beams": 0}), (422,)),
    Bad("1,000 beams", ask({**DOG, "num_beams": 1000}), (422,)),
    Bad("beams as a text", ask({**DOG, "num_beams": "2"}), (422,)),
    Bad("more outputs than beams", ask({**DOG, "num_return_sequences": 5}), (422,)),
    Bad("a million new tokens", ask({**DOG, "max_new_tokens": 1_000_000}), (422,)),
    Bad("a prefix of unknown ids", ask({**DOG, "prefix": [9_999_999]}), (422,)),
    Bad("too many inputs", ask({"inputs": ["a"] * 1000}), (422,)),
    Bad("a text of 100,000 characters", ask({"inputs": "a" * 100_000}), (422,)),
    Bad("an unknown run", ask({**DOG, "run": "../../etc/passwd"}), (422,)),
    Bad("a verb that the runs do not have", ask(DOG, path="/v1/summarize"), (422,)),
    Bad("a body of 2 MB", ask({"inputs": "a" * 2_000_000}), (413,)),
    Bad("a body of 10 GB that is announced", post("/v1/translate", b"{", length=10**10), (413,)),
    Bad("chunks of 1.3 MB", post("/v1/translate", CHUNKED, "Transfer-Encoding: chunked"), (413,)),
    Bad("another content type", ask(DOG, "Content-Type: text/plain"), (422,)),
    Bad("a compressed body", post("/v1/translate", b"\x1f\x8b\x08\x00abc", "Content-Encoding: gzip"), (400,)),
    Bad("a foreign host", post("/v1/translate", b"{}", host="evil.example"), (421,)),
    Bad("a foreign origin", ask(DOG, "Origin: http://evil.example"), (403,)),
    Bad("a path out of the page", get("/../../../../etc/passwd"), (404,)),
    Bad("an encoded path out of the page", get("/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), (404,)),
    Bad("a path with a zero byte", get("/index.html%00.js"), (404,)),
    Bad("a route that does not exist", ask(DOG, path="/v1/none"), (404, 405)),
    Bad("a method that a route does not have", get("/v1/translate"), (405,)),
    Bad("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n", (400, CLOSED)),
    Bad("a head of 100 kB", get("/healthz", "X-A: " + "a" * 100_000), (400, 431)),
    Bad("a negative length", post("/v1/translate", b"{}", "Content-Length: -1"), (400,)),
    Bad("a length and chunks", GOOD.replace(b"Host:", b"Transfer-Encoding: chunked\r\nHost:", 1), (400,)),
    Bad("two lengths", post("/v1/translate", b"{}", "Content-Length: 2", "Content-Length: 3"), (400,)),
    Bad("a websocket", get("/v1/translate", "Connection: Upgrade", "Upgrade: websocket"), (404, 405)),
    Bad("a head that never ends", slowly(GOOD, 30), (CLOSED, 408)),
    Bad("a head byte by byte", trickling(b"GET /healthz HTTP/1.1\r\nX: "), (CLOSED, 408, 400)),
    Bad("a body that never ends", slowly(GOOD, len(GOOD) - 5), (408,)),
    Bad("half-closed before the body", half_closed(GOOD[:-5]), (CLOSED, 400, 408)),
    Bad("half-closed in the head", half_closed(GOOD[:20]), (CLOSED, 400)),
    Bad("nothing at all", lambda client: None, (CLOSED,)),
)
