"""Gathers inputs of many requests into batches, which one thread computes: it owns the models.

A batch holds inputs of the same question: the same run, verb and options. The oldest input that waits chooses the
question, so that none waits for ever. If more inputs of that question wait than a batch holds, those whose lengths are
nearest to the oldest one's are taken. So a batch has little padding.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from multihead.errors import MultiheadError
from multihead.serving.meters import Meters

log = logging.getLogger("multihead")

Event = dict[str, Any]


class QueueFull(Exception):
    """As many inputs wait as may wait."""


@dataclass(eq=False)
class Job:
    """One request: its inputs are answered one by one, and together they are the request's answer."""

    question: str
    """What is asked. Inputs of equal questions share batches."""
    answer: Callable[[Sequence[Item]], list[Any]]
    """Computes the answers to inputs of the same question."""
    deadline: float
    """When nobody waits any more, by `time.monotonic`."""
    cancelled: bool = False
    """Whether the client has gone away."""
    items: list[Item] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    missing: int = 0
    done: asyncio.Future[list[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.done.add_done_callback(lambda future: future.cancelled() or future.exception())  # never "not retrieved"

    def add(self, content: Any, length: int, emit: Callable[[Event], None] | None = None) -> None:
        """Adds an input.

        Args:
            content: What the answer is about.
            length: Its length, in any unit that all inputs of the question share.
            emit: Takes events while the answer grows. It is called in the loop of the request.
        """
        send = None if emit is None else lambda event: self._in_loop(emit, event)
        self.items.append(Item(self, len(self.items), content, length, send))
        self.answers.append(None)
        self.missing += 1

    def settle(self, number: int, answer: Any) -> None:
        """Stores the answer to an input; the request is answered with the last one, or by the first error."""
        self._in_loop(self._settle, number, answer)

    def _settle(self, number: int, answer: Any) -> None:
        if self.done.done():
            return
        if isinstance(answer, BaseException):
            self.cancelled = True  # the other inputs are of no use
            self.done.set_exception(answer)
            return
        self.answers[number] = answer
        self.missing -= 1
        if not self.missing:
            self.done.set_result(self.answers)

    def _in_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call, *arguments)


@dataclass(eq=False)
class Item:
    """One input of a request."""

    job: Job
    number: int
    """Place among the inputs of the request."""
    content: Any
    length: int
    emit: Callable[[Event], None] | None = None
    arrived: float = field(default_factory=time.monotonic)

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer."""
        return self.job.cancelled or time.monotonic() > self.job.deadline


class Batcher:
    """The queue, and the thread that empties it.

    Args:
        size: Most inputs of a batch.
        wait: Seconds that the first input of a batch waits for others.
        room: Most inputs that wait.
        meters: What is counted.
    """

    def __init__(self, size: int, wait: float, room: int, meters: Meters):
        self.size, self.wait, self.room, self.meters = size, wait, room, meters
        self._queue: list[Item] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="multihead-batches", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the inputs that still wait."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of inputs that wait."""
        return len(self._queue)

    def submit(self, job: Job) -> None:
        """Adds the inputs of a request to the queue.

        Raises:
            QueueFull: They do not fit.
        """
        with self._changed:
            if len(self._queue) + len(job.items) > self.room:
                self._drop_gone()
            if len(self._queue) + len(job.items) > self.room:
                raise QueueFull
            self._queue += job.items
            self._changed.notify()

    def _work(self) -> None:
        while batch := self._next():
            self.meters.observe("multihead_batch_inputs", len(batch))
            began = time.monotonic()
            for item in batch:
                self.meters.observe("multihead_queue_seconds", began - item.arrived)
            self._answer(batch)
            self.meters.observe("multihead_batch_seconds", time.monotonic() - began)

    def _next(self) -> list[Item]:
        """Waits for inputs; returns the next batch, or an empty one if there will be none."""
        with self._changed:
            while True:
                self._drop_gone()
                if not self._queue:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                first = self._queue[0]
                same = [item for item in self._queue if item.job.question == first.job.question]
                left = first.arrived + self.wait - time.monotonic()
                if len(same) >= self.size or left <= 0 or self._closed:
                    break
                self._changed.wait(left)
            chosen = sorted(same, key=lambda item: (abs(item.length - first.length), item.arrived))[: self.size]
            taken = set(map(id, chosen))
            self._queue = [item for item in self._queue if id(item) not in taken]
            return chosen

    def _drop_gone(self) -> None:
        gone = sum(item.gone for item in self._queue)
        if gone:
            self._queue = [item for item in self._queue if not item.gone]
            self.meters.count("multihead_inputs_dropped_total", gone)

    def _answer(self, batch: Sequence[Item]) -> None:
        """Computes a batch. If it fails, each input is computed alone, so that one bad input harms no other."""
        try:
            answers = batch[0].job.answer(batch)
            assert len(answers) == len(batch), f"{len(answers)} answers"
        except Exception as error:
            if not isinstance(error, MultiheadError):
                log.exception("a batch of %d inputs failed", len(batch))
            for item in batch:
                if len(batch) == 1 or item.emit:  # events that were sent cannot be taken back
                    item.job.settle(item.number, error)
                elif not item.gone:
                    self._answer([item])
            return
        for item, answer in zip(batch, answers, strict=True):
            if not item.gone:  # else the answer may have been cut short
                item.job.settle(item.number, answer)
