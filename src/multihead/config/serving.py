"""The settings of ``serve``: which runs answer, at which address, and within which limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from multihead.config.check import require
from multihead.config.settings import Settings, setting
from multihead.errors import ConfigError

NAME = re.compile(r"[\w][\w.-]{0,99}")
"""The public name of a run."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine reaches."""
TOKEN = "MULTIHEAD_SERVE_TOKEN"
"""Environment variable with the bearer token that clients must send."""


@dataclass(kw_only=True)
class ServeSettings(Settings):
    """Answers over HTTP: translations, summaries, continuations, classes, scores, attention, embeddings.

    The address / is a page for the browser, and /docs describes the API. Requests that arrive together are computed
    together. Several runs can be served side by side. The server listens on this machine only. To listen on another
    address, set host= and the environment variable MULTIHEAD_SERVE_TOKEN, the token that clients must send. It needs:
    pip install "multihead[serve]".
    """

    OTHER_KEYS: ClassVar[str] = "Every other key of the configuration can be set too; it counts for all runs."
    KEYS: ClassVar[tuple[str, ...]] = ("decoding.num_beams", "plugin")
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead serve run=outputs/translation/multi30k/...",
        "multihead serve run=[outputs/baseline,outputs/variant] names=[baseline,variant] port=8080",
    )

    run: list[str] = setting([], takes="RUN", example="run=outputs/TASK/DATA/...")
    """The run's directory. Several, as run=[A,B], are served side by side."""
    names: list[str] = setting([], takes="[X,Y,...]")
    """Public names of the runs; by default the names of their directories. Answers never show a directory."""
    host: str = setting("127.0.0.1", takes="ADDRESS")
    """The address to listen on."""
    port: int = setting(8000, takes="N")
    """The port to listen on; 0 takes one that is free."""
    hosts: list[str] = setting([], takes="NAME")
    """Further names under which clients may reach a server on loopback, such as the name of a proxy before it."""
    max_body: int = setting(1_000_000, takes="BYTES")
    """Most bytes of a request (413)."""
    max_inputs: int = setting(64, takes="N")
    """Most inputs of a request (422)."""
    max_characters: int = setting(10_000, takes="N")
    """Most characters of an input (422)."""
    max_queue: int = setting(1024, takes="N")
    """Most inputs that wait for the model (503)."""
    timeout: int = setting(30, takes="SECONDS")
    """Longest time of a request, also of one that still waits (504)."""
    batch: int = setting(64, takes="N")
    """Most inputs that the model computes together."""
    wait: int = setting(3, takes="MILLISECONDS")
    """How long the first input of a batch waits for others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.port <= 65535, "port", "at most 65535", self.port, "port=8000")
        for key in ("max_body", "max_inputs", "max_characters", "max_queue", "timeout", "batch"):
            require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))
        if self.names and len(self.names) != len(self.run):
            raise ConfigError(
                "names", f"{len(self.names)} names for {len(self.run)} runs", "give one name for each run"
            )
        self.public_names()

    def public_names(self) -> list[str]:
        """The name of each run, in the order of ``run``.

        Raises:
            ConfigError: Two runs have the same name, or a name is not valid.
        """
        names = self.names or [Path(run).resolve().name for run in self.run]
        fix = f"names=[{','.join(f'run{number}' for number in range(1, len(names) + 1))}]"
        for name in names:
            if not NAME.fullmatch(name):
                what = f"must be up to 100 letters, digits, '-', '_' and '.', got {name!r}"
                raise ConfigError("names", what, fix)
            if names.count(name) > 1:
                raise ConfigError("names", f"two runs are called {name}", fix)
        return names

    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        return self.host in LOOPBACK


@dataclass(kw_only=True)
class ShowSettings(Settings):
    """Opens a page in the browser that shows what runs do: outputs, probabilities of tokens, attention.

    Type a sentence, or choose one of the run's own test data. The page answers while you type. It can show two runs
    side by side. The server behind it is that of serve, on a free port of this machine. If no browser opens, open the
    address that is printed. Ctrl-C ends it. It needs: pip install "multihead[serve]".
    """

    OTHER_KEYS: ClassVar[str] = ServeSettings.OTHER_KEYS
    KEYS: ClassVar[tuple[str, ...]] = ServeSettings.KEYS
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "multihead show run=outputs/translation/grammar/...",
        "multihead show run=[outputs/baseline,outputs/variant] names=[baseline,variant]",
    )

    run: list[str] = setting([], takes="RUN", example="run=outputs/TASK/DATA/...")
    """The run's directory. Several, as run=[A,B], can be looked at side by side."""
    names: list[str] = setting([], takes="[X,Y,...]")
    """Names of the runs on the page; by default the names of their directories."""
