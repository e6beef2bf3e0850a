"""What all routes share: the runs, the limits, the batches; and how a request is put to them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException
from fastapi.responses import StreamingResponse

from multihead.config.serving import ServeSettings
from multihead.errors import ConfigError
from multihead.serving.batches import Batcher, Item, Job, QueueFull
from multihead.serving.meters import Meters, resident_bytes
from multihead.serving.served import ServedRun, check_text, chosen

BUSY = {"Retry-After": "1"}
"""Header of an answer that may be different in a second."""


@dataclass
class Service:
    """What all routes share: the runs by name, the limits, the batches and the metrics."""

    runs: dict[str, ServedRun]
    settings: ServeSettings
    meters: Meters = field(default_factory=Meters)
    is_ending: bool = False
    batcher: Batcher = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.batcher = Batcher(settings.batch, settings.wait / 1000, settings.max_queue, self.meters)
        self.meters.gauge("multihead_queue_inputs", lambda: self.batcher.waiting)
        self.meters.gauge("multihead_ready", lambda: self.is_ready)
        self.meters.gauge("process_resident_memory_bytes", resident_bytes)
        self.descriptions = {"runs": [run.describe() for run in self.runs.values()]}

    @property
    def is_ready(self) -> bool:
        """Whether new requests are answered."""
        return self.batcher.alive and not self.is_ending

    def texts(self, inputs: str | list[str]) -> list[str]:
        """Inputs as a list.

        Raises:
            ConfigError: There are too many, or one is too long.
        """
        texts = [inputs] if isinstance(inputs, str) else inputs
        if len(texts) > self.settings.max_inputs:
            raise ConfigError("inputs", f"at most {self.settings.max_inputs:,} texts, got {len(texts):,}")
        for text in texts:
            if len(text) > self.settings.max_characters:
                most = self.settings.max_characters
                raise ConfigError("inputs", f"a text has at most {most:,} characters, got {len(text):,}")
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ConfigError("inputs", "a text has half of a surrogate pair, which is no character")
        return texts

    def asked(self, verb: str, name: str | None, inputs: str | list[str]) -> tuple[ServedRun, Any, list[str]]:
        """The run that a request asks, its task, and the inputs, checked.

        Raises:
            ConfigError: No run answers, or the inputs are not valid.
        """
        run = chosen(self.runs, name, verb)
        task, texts = run.tasks[verb], self.texts(inputs)
        for text in texts:
            check_text(task, text)
        return run, task, texts

    def job(self, run: ServedRun, verb: str, options: object, answer: Callable[[Sequence[Item]], list[Any]]) -> Job:
        """A request without inputs; requests with the same run, verb and options share batches."""
        deadline = time.monotonic() + self.settings.timeout
        return Job(f"{run.name} {verb} {options!r}", answer, deadline)

    def submit(self, run: ServedRun, verb: str, job: Job) -> None:
        """Queues a request.

        Raises:
            HTTPException: The server is ending (503), or too many inputs wait (503).
        """
        if not self.is_ready:
            raise HTTPException(503, "The server is ending.", BUSY)
        try:
            self.batcher.submit(job)
        except QueueFull:
            raise HTTPException(503, "Too many inputs wait for the model; try again later.", BUSY) from None
        self.meters.count("multihead_inputs_total", len(job.items), run=run.name, verb=verb)

    async def ask(self, run: ServedRun, verb: str, job: Job) -> list[Any]:
        """The answers to all inputs of a request.

        Raises:
            HTTPException: It cannot be queued (503), or it took too long (504).
        """
        self.submit(run, verb, job)
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await job.done
        except TimeoutError:
            raise HTTPException(504, f"The answer took more than {self.settings.timeout} seconds.") from None
        finally:
            job.cancelled = True  # so that what is left of it is dropped, if the client has gone away


def with_texts(job: Job, texts: Sequence[str]) -> Job:
    """The request with these texts as its inputs."""
    for text in texts:
        job.add(text, len(text))
    return job


async def stream(service: Service, run: ServedRun, job: Job, texts: Sequence[str]) -> StreamingResponse:
    """Server-sent events: each token of each continuation, and at its end the whole text.

    Raises:
        HTTPException: It cannot be queued (503), or nothing came within the limit of time (504).
    """
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # at most one event for each new token
    for text in texts:
        job.add(text, len(text), events.put_nowait)
    job.done.add_done_callback(lambda _: events.put_nowait(None))
    service.submit(run, "generate", job)

    async def next_event() -> dict[str, Any] | None:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + job.deadline - time.monotonic()):
            return await events.get()

    try:
        first = await next_event()
        if first is None:
            job.done.result()  # raises what failed
    except TimeoutError:
        raise HTTPException(504, f"The answer took more than {service.settings.timeout} seconds.") from None
    except asyncio.CancelledError:
        job.cancelled = True
        raise

    async def lines() -> AsyncIterator[str]:
        event = first
        try:
            while event is not None:
                yield _event(event)
                event = await next_event()
            for number, answer in enumerate(job.done.result()):
                yield _event({"index": number, "done": True, "text": answer["text"]})
        except TimeoutError:
            yield _event({"error": f"The answer took more than {service.settings.timeout} seconds."})
        except Exception:
            yield _event({"error": "The server could not compute this answer."})
            raise
        finally:
            job.cancelled = True

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
