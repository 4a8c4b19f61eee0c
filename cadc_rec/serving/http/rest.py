"""The HTTP side: KServe's protocol endpoints, the page, and metrics, behind the guard.

In: the model and the repository. Out: an ASGI application. Inference itself does not go through
KServe's handler: that one parses a body twice, trusts its lengths, and logs a traceback for every
bad one.
"""

from __future__ import annotations

import time
from importlib import resources
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cadc_rec import __version__
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.guard import ApiKey, App, Guard
from cadc_rec.serving.http.loaded import Repository
from cadc_rec.serving.http.openapi import described_api
from cadc_rec.serving.http.queries import query_of
from cadc_rec.serving.http.recommender import Busy, Recommender
from cadc_rec.serving.http.rest_codec import JSON_LENGTH_HEADER, decode, encode
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.predictor import Predictor, Source

_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_SHOWN_HISTORY = 20  # items, on the page


def application(
    model: Recommender, dataplane: DataPlane, repository: Repository, key: ApiKey, limits: Limits
) -> App:
    """The ASGI application."""
    app = FastAPI(
        title="cadc-rec", version=__version__, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    models = "/v2/repository/models/{name}"
    app.router.routes[:0] = [
        Route("/v2/models/{name}/infer", _infer(model), methods=["POST"]),
        Route("/v2/repository/index", _index(repository), methods=["POST"]),
        Route(f"{models}/load", _changes(repository.load, "load", key), methods=["POST"]),
        Route(
            f"{models}/unload", _changes(repository.unload, "unload", key, 409), methods=["POST"]
        ),
        Route("/metrics", _metrics, methods=["GET"]),
        Route("/explore", _explore(model), methods=["GET"]),
        Route("/", _asset("page.html", "text/html"), methods=["GET"]),
        Route("/page.js", _asset("page.js", "text/javascript"), methods=["GET"]),
        Route("/page.css", _asset("page.css", "text/css"), methods=["GET"]),
    ]  # fmt: skip
    register_v2_endpoints(app, dataplane, repository)
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _said(status))
    app.add_exception_handler(RequestValidationError, _said(400))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    described_api(app, model.name, key.asked_for, limits, lambda: len(model.loaded.predictor.items))
    return Guard(app, key, limits)


_STATUS: dict[type[Exception], int] = {
    InvalidInput: 400,
    CadcError: 400,
    ModelNotFound: 404,
    ModelNotReady: 503,
    NotImplementedError: 404,  # KServe's word for a model's version
}


def _infer(model: Recommender) -> Any:
    async def infer(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            if name != model.name:
                raise ModelNotFound(f"{name:.80}")
            body = await request.body()
            asked = decode(body, request.headers.get(JSON_LENGTH_HEADER), name)
            answer, _ = await model(asked)
            content, headers = encode(answer, asked)
        # Handled here, not by the application's handlers: a bad request costs as little as a good
        # one, and leaves no line in the log.
        except InvalidInput as error:
            return _error(400, str(error))
        except ModelNotFound as error:
            return _error(404, str(error))
        except Busy:
            return _error(503, "too many requests wait; ask again later.")
        return Response(content, headers=headers)

    return infer


def _index(repository: Repository) -> Any:
    async def index(request: Request) -> Response:
        return JSONResponse(await repository.index())

    return index


def _changes(change: Any, word: str, key: ApiKey, refused: int = 400) -> Any:
    """Repository calls that change something: only for those who know a key."""

    async def call(request: Request) -> Response:
        name = request.path_params["name"]
        if not key.asked_for:
            return _error(403, f"to {word} a model over the network, start the service with a key.")
        try:
            await change(name)
        except InvalidInput as error:
            return _error(refused, str(error))
        except ModelNotFound as error:
            return _error(404, str(error))
        return JSONResponse({"name": name, word: True})

    return call


async def _metrics(request: Request) -> Response:
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


def _explore(model: Recommender) -> Any:
    """What the page shows of one user."""

    async def explore(request: Request) -> Response:
        predictor = model.loaded.predictor
        user = request.query_params.get("user")
        if user is None:
            return _error(400, "parameter 'user' is missing: /explore?user=ID&k=10.")
        k = request.query_params.get("k", "10")
        try:
            tensor = InferInput("user_id", [1], "BYTES", data=[user])
            count = int(k) if k.isascii() and k.isdigit() and len(k) < 10 else None
            asked = InferRequest(model.name, [tensor], parameters={"k": count})
            query = query_of(asked, predictor, model.limits)
            began = time.perf_counter()
            found = await model.batcher.recommend(predictor, query)
            seconds = time.perf_counter() - began
        except InvalidInput as error:
            return _error(400, str(error))
        except Busy:
            return _error(503, "too many requests wait; ask again later.")
        row = int(predictor.users.rows(query.users)[0])
        taken = predictor.known.of(row)[::-1] if row >= 0 else np.zeros(0, np.int32)
        n = int(found.counts[0])
        return JSONResponse(
            {
                "user": user,
                "source": Source(int(found.sources[0])).word,
                "milliseconds": 1000 * seconds,
                "bundle": predictor.name,
                "version": predictor.fingerprint[:12],
                "recommended": _listed(predictor, found.rows[0, :n], found.scores[0, :n]),
                "taken": _listed(predictor, taken[:_SHOWN_HISTORY].astype(np.int64)),
                "taken_in_all": len(taken),
            }
        )

    return explore


def _listed(
    predictor: Predictor, rows: np.ndarray, scores: np.ndarray | None = None
) -> list[dict[str, Any]]:
    titles, ids = predictor.titles_of(rows), predictor.items.of_rows(rows).tolist()
    lines = [{"id": str(item), "title": title} for item, title in zip(ids, titles, strict=True)]
    if scores is not None:
        for line, score in zip(lines, scores.tolist(), strict=True):
            line["score"] = score
    return lines


def _asset(name: str, kind: str) -> Any:
    contents = (resources.files("cadc_rec.serving.http") / "assets" / name).read_bytes()

    async def asset(request: Request) -> Response:
        return Response(contents, media_type=kind, headers=_PAGE_HEADERS)

    return asset


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


def _said(status: int) -> Any:
    async def handler(request: Request, error: Exception) -> Response:
        text = str(error)
        if isinstance(error, NotImplementedError):
            text = "models are served without versions; leave the version out."
        if isinstance(error, RequestValidationError):
            text = "; ".join(str(part.get("msg", "")) for part in error.errors())
        return _error(status, text)

    return handler


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    log.error("a defect of ours: %s: %s", type(error).__name__, error, exc_info=error)
    return _error(500, "a defect of the service; its log has more.")
