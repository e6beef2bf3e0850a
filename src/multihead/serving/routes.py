"""The routes: each checks a request, puts it to the batches, and returns what they answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse

from multihead.config.training import DecodingConfig
from multihead.errors import ConfigError
from multihead.serving import answers, schemas
from multihead.serving.reference import reference
from multihead.serving.served import ServedRun, check_prefix, chosen
from multihead.serving.service import BUSY, Service, stream, with_texts
from multihead.tasks.language_modeling import LanguageModelingTask

router = APIRouter()


async def service_of(request: Request) -> Service:
    """The service of the application that got the request."""
    return request.app.state.service


Asked = Annotated[Service, Depends(service_of)]


# ---- what the server is, and how it does


@router.get("/v1/runs", response_model=schemas.RunsAnswer, summary="The runs of this server")
async def runs(service: Asked) -> Any:
    """What each run is and answers."""
    return service.descriptions


@router.get("/healthz", response_model=schemas.Status, summary="Whether the process works")
async def healthz(service: Asked) -> Any:
    """Status 503 if the thread of the models has ended."""
    if not service.batcher.alive:
        raise HTTPException(503, "The thread of the models has ended.")
    return {"status": "ok"}


@router.get("/readyz", response_model=schemas.Status, summary="Whether new requests are taken")
async def readyz(service: Asked) -> Any:
    """Status 503 while the server ends."""
    if not service.is_ready:
        raise HTTPException(503, "The server is ending.", BUSY)
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse, summary="Metrics in Prometheus' text format")
async def metrics(service: Asked) -> PlainTextResponse:
    """What docs/serve.md lists."""
    return PlainTextResponse(service.meters.text(), media_type="text/plain; version=0.0.4")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The description of the API as a page without scripts."""
    return HTMLResponse(reference(request.app.openapi()))


# ---- verbs that write


@router.post("/v1/translate", response_model=schemas.WrittenAnswer, summary="Translates texts")
async def translate(body: schemas.Translate, service: Asked) -> Any:
    """Beam search, or greedy search with one beam."""
    return await _written("translate", body, service)


@router.post("/v1/summarize", response_model=schemas.WrittenAnswer, summary="Summarizes texts")
async def summarize(body: schemas.Translate, service: Asked) -> Any:
    """Beam search, or greedy search with one beam."""
    return await _written("summarize", body, service)


async def _written(verb: str, body: schemas.Translate, service: Service) -> Any:
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


EVENTS = {
    "description": "The outputs, or with stream=true server-sent events, whose data are JSON.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
                "required": ["data"],
            }
        }
    },
}


@router.post("/v1/generate", response_model=schemas.WrittenAnswer, responses={200: EVENTS}, summary="Continues texts")
async def generate(body: schemas.Generate, service: Asked) -> Any:
    """Whole, or token by token with stream=true."""
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


def sampling(run: ServedRun, body: schemas.Generate) -> DecodingConfig:
    """The options of a continuation: one beam, and samples if the request says how to draw.

    Raises:
        ConfigError: They are not valid together.
    """
    given = {name: getattr(body, name) for name in ("temperature", "top_k", "top_p", "seed", "max_new_tokens")}
    drawn = any(given[name] is not None for name in ("temperature", "top_k", "top_p", "seed"))
    if body.temperature == 0:
        greedy = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
        return run.decoding(body.plain, **greedy, max_new_tokens=body.max_new_tokens)
    one = {"num_return_sequences": 1} if body.stream or run.run.config.decoding.num_beams > 1 else {}
    return run.decoding(body.plain, num_beams=1, **({"do_sample": True} if drawn else {}), **one, **given)


# ---- verbs that read


@router.post("/v1/classify", response_model=schemas.ClassifyAnswer, summary="Classifies texts")
async def classify(body: schemas.Classify, service: Asked) -> Any:
    """Calibrated as ``predict`` does it."""
    run, task, texts = service.asked("classify", body.run, body.inputs)
    if body.occlusion:
        for text in texts:
            answers.words_of(text)  # refuses a text of too many words
    decoding = run.run.config.decoding
    job = service.job(
        *(run, "classify", body.occlusion), lambda items: answers.classify(task, items, decoding, body.occlusion)
    )
    return {"run": run.name, "outputs": await service.ask(run, "classify", with_texts(job, texts))}


@router.post("/v1/regress", response_model=schemas.RegressAnswer, summary="Rates texts by a number")
async def regress(body: schemas.Texts, service: Asked) -> Any:
    """In the units of the training data."""
    run, task, texts = service.asked("regress", body.run, body.inputs)
    decoding = run.run.config.decoding
    job = service.job(run, "regress", "", lambda items: answers.regress(task, items, decoding))
    return {"run": run.name, "outputs": await service.ask(run, "regress", with_texts(job, texts))}


@router.post("/v1/score", response_model=schemas.ScoreAnswer, summary="The log probability of texts")
async def score(body: schemas.Score, service: Asked) -> Any:
    """In nats, with the end mark."""
    run, _, texts = service.asked("score", body.run, body.inputs)
    task: Any = run.scorer(has_targets=body.targets is not None)
    job = service.job(run, "score", task.settings.name, lambda items: answers.score(task, items))
    if isinstance(task, LanguageModelingTask):
        if body.targets is not None:
            raise ConfigError("targets", "a language model scores texts alone; leave targets out")
        for text in texts:
            task.document(text)  # refuses a text that is too long
        with_texts(job, texts)
    else:
        targets = [] if body.targets is None else service.texts(body.targets)
        if len(targets) != len(texts) or isinstance(body.inputs, str) is not isinstance(body.targets, str):
            raise ConfigError("targets", "give one target for each input, both as lists or both as texts")
        for text, target in zip(texts, targets, strict=True):
            task.target_ids(target)  # refuses a target that is too long
            job.add((text, target), len(text) + len(target))
    return {"run": run.name, "outputs": await service.ask(run, "score", job)}


@router.post("/v1/attention", response_model=schemas.AttentionAnswer, summary="Where each head looks")
async def attention(body: schemas.Attention, service: Asked) -> Any:
    """In one forward pass over a text."""
    run, _, (text,) = service.asked("attention", body.run, body.input)
    (target,) = service.texts(body.target or "")
    job = service.job(run, "attention", "", lambda items: answers.attention(run, items))
    job.add((text, target), len(text))
    (answer,) = await service.ask(run, "attention", job)
    return {"run": run.name, **answer}


@router.post("/v1/embed", response_model=schemas.EmbedAnswer, summary="One vector for each text")
async def embed(body: schemas.Texts, service: Asked) -> Any:
    """The hidden states of its tokens, pooled."""
    run, _, texts = service.asked("embed", body.run, body.inputs)
    job = service.job(run, "embed", "", lambda items: answers.embed(run, items))
    return {"run": run.name, "embeddings": await service.ask(run, "embed", with_texts(job, texts))}
