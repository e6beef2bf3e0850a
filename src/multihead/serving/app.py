"""The routes: each checks a request, asks the batches, and returns what they answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

from multihead import __version__
from multihead.config.serving import ServeSettings
from multihead.config.training import DecodingConfig
from multihead.errors import ConfigError, MachineError, as_user_error
from multihead.serving import answers, schemas
from multihead.serving.batches import Batcher, Item, Job, QueueFull
from multihead.serving.meters import Meters, resident_bytes
from multihead.serving.reference import reference
from multihead.serving.served import ServedRun, check_prefix, check_text, chosen
from multihead.tasks.language_modeling import LanguageModelingTask

PAGE = Path(__file__).parent / "page"
"""The files of the page."""
BUSY = {"Retry-After": "1"}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": text}
    for status, text in {
        400: "The body is not JSON.",
        401: "The token is missing or wrong.",
        403: "The request comes from a page of another address.",
        408: "The body came too slowly.",
        413: "The body is too large.",
        421: "The host name is not that of this server.",
        422: "The request is not valid.",
        500: "A defect of the server.",
        503: "Too much is waiting, or the server is ending; try again after Retry-After seconds.",
        504: "The answer took too long.",
    }.items()
}


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
        return texts

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


def create_app(service: Service) -> FastAPI:
    """The application; its batches run from start to end of its lifespan.

    Args:
        service: What it serves.
    """
    app = FastAPI(
        title="Multihead",
        version=__version__,
        description="Answers of finished runs: texts, classes, scores, attention and embeddings.",
        docs_url=None,  # its page loads scripts from another server
        redoc_url=None,
        responses=PROBLEMS,
    )
    app.state.service = service
    app.exception_handler(RequestValidationError)(_not_valid)
    app.exception_handler(ConfigError)(_not_possible)
    app.exception_handler(Exception)(_defect)
    _add_state(app, service)
    _add_writers(app, service)
    _add_readers(app, service)
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


async def _not_valid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return JSONResponse({"detail": "The body is not valid JSON."}, 400)
    text = f"{where[:100]}: {first['msg']}" if where else str(first["msg"])
    return JSONResponse({"detail": text.encode("utf-8", "replace").decode()}, 422)


async def _not_possible(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ConfigError)
    where = error.where.removeprefix("decoding.").removeprefix("run.")
    return JSONResponse({"detail": f"{where}: {error.what}".replace("decoding.", "")}, 422)


async def _defect(request: Request, error: Exception) -> JSONResponse:
    if isinstance(as_user_error(error), MachineError):
        return JSONResponse({"detail": "The machine has not enough memory for this request."}, 503, BUSY)
    return JSONResponse({"detail": "The server could not compute this answer; its log says why."}, 500)


def _add_state(app: FastAPI, service: Service) -> None:
    """Adds the routes that say what the server is and how it does."""

    @app.get("/v1/runs", response_model=schemas.RunsAnswer, summary="The runs of this server")
    async def runs() -> Any:
        return service.descriptions

    @app.get("/healthz", response_model=schemas.Status, summary="Whether the process works")
    async def healthz() -> Any:
        if not service.batcher.alive:
            raise HTTPException(503, "The thread of the models has ended.")
        return {"status": "ok"}

    @app.get("/readyz", response_model=schemas.Status, summary="Whether new requests are taken")
    async def readyz() -> Any:
        if not service.is_ready:
            raise HTTPException(503, "The server is ending.", BUSY)
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics in Prometheus' text format")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.meters.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference(app.openapi()))


def _add_writers(app: FastAPI, service: Service) -> None:
    """Adds the routes that write text."""

    async def translate(verb: str, body: schemas.Translate) -> Any:
        run = chosen(service.runs, body.run, verb)
        task: Any = run.tasks[verb]
        names = ("num_beams", "length_penalty", "num_return_sequences", "max_new_tokens")
        decoding = run.decoding(**{name: getattr(body, name) for name in names})
        prefix = check_prefix(task, body.prefix)
        texts = service.texts(body.inputs)
        job = service.job(
            *(run, verb, (decoding, prefix, body.details)),
            lambda items: answers.translate(task, items, decoding, prefix, body.details),
        )
        return {"run": run.name, "outputs": await service.ask(run, verb, with_texts(job, texts))}

    @app.post("/v1/translate", response_model=schemas.WrittenAnswer, summary="Translates texts")
    async def translations(body: schemas.Translate) -> Any:
        return await translate("translate", body)

    @app.post("/v1/summarize", response_model=schemas.WrittenAnswer, summary="Summarizes texts")
    async def summaries(body: schemas.Translate) -> Any:
        return await translate("summarize", body)

    events = {
        "description": "The outputs, or with stream=true server-sent events.",
        "content": {"text/event-stream": {}},
    }

    @app.post(
        *("/v1/generate",),
        response_model=schemas.WrittenAnswer,
        responses={200: events},
        summary="Continues texts",
    )
    async def generate(body: schemas.Generate) -> Any:
        run = chosen(service.runs, body.run, "generate")
        task: Any = run.tasks["generate"]
        decoding, prefix = sampling(run, body), check_prefix(task, body.prefix)
        texts = service.texts(body.inputs)
        job = service.job(
            *(run, "generate", (decoding, prefix, body.details)),
            lambda items: answers.generate(task, items, decoding, prefix, body.details),
        )
        if body.stream:
            return await stream(service, run, job, texts)
        return {"run": run.name, "outputs": await service.ask(run, "generate", with_texts(job, texts))}


def _add_readers(app: FastAPI, service: Service) -> None:
    """Adds the routes that read text."""

    @app.post("/v1/classify", response_model=schemas.ClassifyAnswer, summary="Classifies texts")
    async def classify(body: schemas.Classify) -> Any:
        run, task, texts = asked("classify", body)
        if body.occlusion:
            for text in texts:
                answers.words_of(text)
        decoding = run.run.config.decoding
        job = service.job(
            *(run, "classify", body.occlusion),
            lambda items: answers.classify(task, items, decoding, body.occlusion),
        )
        return {"run": run.name, "outputs": await service.ask(run, "classify", with_texts(job, texts))}

    @app.post("/v1/regress", response_model=schemas.RegressAnswer, summary="Rates texts by a number")
    async def regress(body: schemas.Texts) -> Any:
        run, task, texts = asked("regress", body)
        decoding = run.run.config.decoding
        job = service.job(run, "regress", "", lambda items: answers.regress(task, items, decoding))
        return {"run": run.name, "outputs": await service.ask(run, "regress", with_texts(job, texts))}

    @app.post("/v1/score", response_model=schemas.ScoreAnswer, summary="The log probability of texts")
    async def score(body: schemas.Score) -> Any:
        run, task, texts = asked("score", body)
        job = service.job(run, "score", "", lambda items: answers.score(task, items))
        if isinstance(task, LanguageModelingTask):
            if body.targets is not None:
                raise ConfigError("targets", "a language model scores texts alone; leave targets out")
            for text in texts:
                task.document(text)  # refuses a text that is too long
                job.add(text, len(text))
        else:
            targets = [] if body.targets is None else service.texts(body.targets)
            if len(targets) != len(texts) or isinstance(body.inputs, str) is not isinstance(body.targets, str):
                raise ConfigError("targets", "give one target for each input, both as lists or both as texts")
            for text, target in zip(texts, targets, strict=True):
                job.add((text, target), len(text) + len(target))
        return {"run": run.name, "outputs": await service.ask(run, "score", job)}

    @app.post("/v1/attention", response_model=schemas.AttentionAnswer, summary="Where each head looks")
    async def attention(body: schemas.Attention) -> Any:
        run, _, (text,) = asked("attention", schemas.Texts(run=body.run, inputs=body.input))
        (target,) = service.texts(body.target or "")
        job = service.job(run, "attention", "", lambda items: answers.attention(run, items))
        job.add((text, target), len(text))
        (answer,) = await service.ask(run, "attention", job)
        return {"run": run.name, **answer}

    @app.post("/v1/embed", response_model=schemas.EmbedAnswer, summary="One vector for each text")
    async def embed(body: schemas.Texts) -> Any:
        run, _, texts = asked("embed", body)
        job = service.job(run, "embed", "", lambda items: answers.embed(run, items))
        return {"run": run.name, "embeddings": await service.ask(run, "embed", with_texts(job, texts))}

    def asked(verb: str, body: Any) -> tuple[ServedRun, Any, list[str]]:
        run = chosen(service.runs, body.run, verb)
        task, texts = run.tasks[verb], service.texts(body.inputs)
        for text in texts:
            check_text(task, text)
        return run, task, texts


def with_texts(job: Job, texts: Sequence[str]) -> Job:
    """The request with these texts as its inputs."""
    for text in texts:
        job.add(text, len(text))
    return job


def sampling(run: ServedRun, body: schemas.Generate) -> DecodingConfig:
    """The options of a continuation: one beam, and samples if the request says how to draw.

    Raises:
        ConfigError: They are not valid together.
    """
    given = {name: getattr(body, name) for name in ("temperature", "top_k", "top_p", "seed", "max_new_tokens")}
    drawn = any(given[name] is not None for name in ("temperature", "top_k", "top_p", "seed"))
    if body.temperature == 0:
        return run.decoding(do_sample=False, num_beams=1, num_return_sequences=1, max_new_tokens=body.max_new_tokens)
    one = {"num_return_sequences": 1} if body.stream or run.run.config.decoding.num_beams > 1 else {}
    return run.decoding(num_beams=1, **({"do_sample": True} if drawn else {}), **one, **given)


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
