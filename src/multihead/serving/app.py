"""The application: the routes, what its errors look like, and the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse

from multihead import __version__
from multihead.errors import ConfigError, MachineError, as_user_error
from multihead.serving import schemas
from multihead.serving.routes import router
from multihead.serving.service import BUSY, Service
from multihead.serving.static_page import FOLDER

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
"""Statuses other than 200, which any route may answer."""
NO_JSON = "Send the body as JSON with the header 'Content-Type: application/json'."
NO_OBJECT = 'The body must be a JSON object, such as {"inputs": "A text."}.'


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
    app.include_router(router)
    for file in sorted(FOLDER.rglob("*")):  # a route for each file: no path of a request becomes a path of the disk
        if file.is_file():
            name = file.relative_to(FOLDER).as_posix()
            app.add_route(f"/{name}", page_of(file), ["GET"], include_in_schema=False)
            if name == "index.html":
                app.add_route("/", page_of(file), ["GET"], include_in_schema=False)
    return app


def page_of(file: Path) -> Callable[[Request], Awaitable[FileResponse]]:
    """A route that answers with a file of the page."""

    async def answer(request: Request) -> FileResponse:
        return FileResponse(file, headers={"cache-control": "no-cache"})

    return answer


async def _not_valid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return JSONResponse({"detail": "The body is not valid JSON."}, 400)
    if first["loc"] == ("body",):
        return JSONResponse({"detail": NO_OBJECT if _says_json(request) else NO_JSON}, 422)
    if first["loc"][2:3] == ("str",):  # not a text; what is wrong with it as a list comes second
        where, first = str(first["loc"][1]), {"msg": "must be a text, or a list of at least one text"}
    text = f"{where[:100]}: {first['msg']}"
    return JSONResponse({"detail": text.encode("utf-8", "replace").decode()}, 422)


def _says_json(request: Request) -> bool:
    """Whether the header names JSON; otherwise FastAPI does not read the body as such."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def _not_possible(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ConfigError)
    where = error.where.removeprefix("decoding.").removeprefix("run.")
    return JSONResponse({"detail": f"{where}: {error.what}".replace("decoding.", "")}, 422)


async def _defect(request: Request, error: Exception) -> JSONResponse:
    if isinstance(as_user_error(error), MachineError):
        return JSONResponse({"detail": "The machine has not enough memory for this request."}, 503, BUSY)
    return JSONResponse({"detail": "The server could not compute this answer; its log says why."}, 500)
