"""A contestant's side of a contest: works while the benchmark asks for it, and says what it did in what time.

Needs nothing but the standard library, since each contestant runs in an environment of its own. The benchmark writes
``{"seconds": 10}`` to standard input; the contestant works until so many seconds are over, ends the step that it is
in, and answers ``{"units": 12345, "seconds": 10.2, "processor_seconds": 20.1}``, with ``"done": true`` where its work
is at an end. One that can translate is asked to by ``{"translate": FILE}``, which holds source ids without marks, and
answers ``{"outputs": [[...]]}``. An empty line or the end of the input ends it.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Pace:
    """Reads requests and answers them; whatever else the contestant prints goes to standard error.

    Args:
        about: What the benchmark's report should say of the contestant: version, parameters, settings.
    """

    def __init__(self, **about: Any):
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._about = about
        self._started = self._processor_started = 0.0
        self._asked = 0.0
        self._units = 0
        self.translate: Callable[[list[list[int]]], list[list[int]]] | None = None
        """Target ids of source ids, both without marks and in the same order."""

    def say(self, **about: Any) -> None:
        """Adds to what the report says."""
        self._about |= about

    def ready(self) -> None:
        """Says that all is prepared, and waits for the first request."""
        print(json.dumps({"about": self._about}), file=self._out)
        self._wait()

    def step(self, units: int) -> None:
        """To be called after each step, with the units of work (say, real target tokens) that it did."""
        self._units += units
        if time.perf_counter() - self._started >= self._asked:
            self._answer()
            self._wait()

    def finish(self) -> NoReturn:
        """To be called when there is no further step to do."""
        while True:
            self._answer(done=True)
            self._wait()

    def _answer(self, done: bool = False) -> None:
        answer: dict[str, Any] = {"units": self._units, "seconds": time.perf_counter() - self._started}
        answer["processor_seconds"] = time.process_time() - self._processor_started
        if done:
            answer["done"] = True
        print(json.dumps(answer), file=self._out)

    def _wait(self) -> None:
        request: dict[str, Any] = {}
        while "seconds" not in request:
            if request:
                outputs = self.translate(json.loads(Path(request["translate"]).read_text()))
                print(json.dumps({"outputs": outputs}), file=self._out)
            line = sys.stdin.readline().strip()
            if not line:
                os._exit(0)  # a library's own cleaning up could take minutes
            request = json.loads(line)
        self._asked = float(request["seconds"])
        self._units = 0
        self._started, self._processor_started = time.perf_counter(), time.process_time()


current: Pace | None = None
"""That of the process, where its maker and its user share no other variable."""


def settings() -> tuple[dict[str, Any], Path]:
    """What the benchmark asks of this contestant, and the folder where it put the data."""
    folder = Path(sys.argv[1])
    return json.loads((folder / "settings.json").read_text()) | json.loads(sys.argv[2]), folder
