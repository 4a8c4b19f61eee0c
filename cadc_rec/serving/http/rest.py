"""The HTTP side: KServe's protocol endpoints, inference, the page, metrics, and their description.

In: the model and the repository. Out: an ASGI application behind the guard. Inference itself does
not go through KServe's handler: that one parses a body twice, trusts its lengths, and logs a
traceback for every bad one. The OpenAPI description, at ``/openapi.json``, is FastAPI's, made of
the types of `cadc_rec.serving.http.messages`; only what depends on the service is added here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from cadc_rec import __version__
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.about import About
from cadc_rec.serving.http.availability import Availability, availability_routes
from cadc_rec.serving.http.events import Told, event_routes
from cadc_rec.serving.http.guard import OPEN_PATHS, ApiKey, App, Guard
from cadc_rec.serving.http.infer import Infer
from cadc_rec.serving.http.items import ItemsTold, item_routes
from cadc_rec.serving.http.load import Busy, TooLate, refused
from cadc_rec.serving.http.loaded import KeyNeeded, NotUnloaded, Repository
from cadc_rec.serving.http.messages import (
    Error,
    Request,
    Response,
    sentence,
)
from cadc_rec.serving.http.page import page_routes
from cadc_rec.serving.http.recommender import Recommender
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.http.shared_metrics import exposition
from cadc_rec.serving.http.side_models import SideModel

_INFER = "/v2/models/{model_name}/infer"
_INFER_VERSION = "/v2/models/{model_name}/versions/{model_version}/infer"
_TOLD = ("/events", "/availability", "/items")  # of the recommender alone
_STATUS: dict[type[Exception], tuple[int, str]] = {  # and the reason, for the metrics
    InvalidInput: (400, "invalid"),
    CadcError: (400, "invalid"),
    RequestValidationError: (400, "invalid"),
    KeyNeeded: (403, "forbidden"),
    ModelNotFound: (404, "not_found"),
    NotUnloaded: (409, "forbidden"),
    ModelNotReady: (503, "not_ready"),
    TooLate: (429, "deadline"),  # the client named it, and another may be kept
    Busy: (503, "busy"),
}
_REASONS = {
    400: "The request cannot be answered; the text says why.",
    401: "The API key is missing or wrong.",
    403: "Not allowed on a service without an API key.",
    404: "No such model.",
    405: "No such method.",
    408: "The body did not come in time.",
    409: "Not allowed while the service runs.",
    413: "The body is too large.",
    415: "The body is compressed in another way than gzip or deflate.",
    429: "It would come later than the client allows; `Retry-After` says when to ask again.",
    503: "Busy, or not ready; `Retry-After` says when to ask again.",
}


def application(
    model: Recommender,
    beside: Sequence[SideModel],
    dataplane: DataPlane,
    repository: Repository,
    key: ApiKey,
    limits: Limits,
    ready: Callable[[], bool],
) -> App:
    """The ASGI application of a model and those beside it.

    `ready` says whether requests are answered.
    """
    app = FastAPI(
        title="cadc-rec", version=__version__, docs_url=None, redoc_url=None,
        redirect_slashes=False,
        responses={n: {"model": Error, "description": why} for n, why in _REASONS.items()},
    )  # fmt: skip

    @app.post(
        _INFER,
        operation_id="infer",
        responses={
            200: {
                "model": Response,
                "description": f"Recommendations, for at most {limits.users} users.",
                "content": {"application/octet-stream": {}},  # JSON, then raw tensors, if asked for
            }
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Request"}}
                },
            }
        },
    )
    async def infer(model_name: str) -> None:
        """Recommend items to users."""

    # FastAPI's way to a handler takes a tenth of a request's time: its route only describes.
    about = About(model, beside)
    for path in (_INFER, _INFER_VERSION):
        route = Route(path, Infer([model, *beside], about), methods=["POST"])
        app.router.routes.insert(0, route)

    app.include_router(about_routes(about))

    @app.get("/metrics", response_model=None, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> HttpResponse:
        """Metrics for Prometheus."""
        return HttpResponse(exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    app.include_router(page_routes(model, beside[0]))
    for routes in (event_routes, availability_routes, item_routes):
        app.include_router(routes(model.loaded, model.name, key.exists))
    register_v2_endpoints(app, dataplane, repository)
    for kind in _STATUS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    described: dict[str, Any] = {}

    def describe() -> dict[str, Any]:
        described.update(
            described or _described(app, [model.name, *(one.name for one in beside)], key.exists)
        )
        for path in ("/explore", "/explore/similar"):
            asked = described["paths"][path]["get"]["parameters"]
            (k,) = (parameter for parameter in asked if parameter["name"] == "k")
            k["schema"]["maximum"] = min(limits.k, len(model.loaded.predictor.items))
        return described

    app.openapi = describe  # FastAPI's own way to replace it
    return Guard(app, key, limits, ready)


def about_routes(about: About) -> APIRouter:
    """What the protocol tells of the model; these come before KServe's, which know no versions."""
    router = APIRouter()

    @router.get("/v2")
    async def server() -> dict[str, Any]:
        """The server's metadata."""
        return about.server()

    async def metadata(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        """The model's inputs and outputs."""
        return about.metadata(model_name, model_version)

    async def ready(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        """Whether the model answers."""
        about.require(model_name, model_version)
        return {"name": model_name, "ready": bool(about.model.ready)}

    async def config(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        """The model's configuration, as Triton has it."""
        return about.config(model_name, model_version)

    async def stats(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        """What has been answered since the service began, by the worker that answers this."""
        return about.statistics(model_name, model_version)

    @router.get("/v2/models/stats")
    async def all_stats() -> dict[str, Any]:
        """What has been answered since the service began, by the worker that answers this."""
        return about.statistics(about.model.name)

    calls: dict[str, Any] = {"": metadata, "/ready": ready, "/config": config, "/stats": stats}
    for ending, call in calls.items():
        for version in ("", "/versions/{model_version}"):
            path = "/v2/models/{model_name}" + version + ending
            router.get(path, operation_id=f"{call.__name__}{'_of_version' if version else ''}")(
                call
            )

    @router.post("/v2/repository/index")
    async def index(request: HttpRequest) -> list[dict[str, str]]:
        """The models, and whether they are ready; with `{"ready": true}` those that are."""
        return about.index(_ready_only(await request.body()))

    return router


def _described(app: FastAPI, names: Sequence[str], with_key: bool) -> dict[str, Any]:
    """FastAPI's description, with the request's type, the models' names and the key."""
    # Of two routes of one path the first answers and the last is described: KServe's come first.
    document = get_openapi(title=app.title, version=app.version, routes=app.routes[::-1])
    components = document["components"]
    _, models = models_json_schema(
        [(one, "validation") for one in (Request, Told, Availability, ItemsTold)],
        ref_template="#/components/schemas/{model}",
    )
    components["schemas"].update(models["$defs"])
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if with_key and path not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
            operation["responses"].pop("422", None)
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "model_name":
                    every = path.startswith("/v2/models/") and not path.endswith(_TOLD)
                    enum = list(names) if every else list(names[:1])
                    parameter["schema"] = {"type": "string", "enum": enum}
    return document


def _ready_only(body: bytes) -> bool:
    """What a request for the index asks; nothing asks for all.

    Raises:
        InvalidInput: it is no such request.
    """
    try:
        asked = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        asked = None
    ready = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(ready, bool):
        raise InvalidInput('the body of a request for the index is JSON such as {"ready": true}.')
    return ready


async def _refused(request: HttpRequest, error: Exception) -> HttpResponse:
    status, reason = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    text, headers = str(error), {}
    if isinstance(error, Busy):
        headers = {"retry-after": str(error.retry_after)}
    refused("rest", reason)
    if isinstance(error, RequestValidationError):
        text = sentence(error.errors())
    return JSONResponse({"error": text}, status, headers)


async def _http_error(request: HttpRequest, error: HTTPException) -> HttpResponse:
    refused("rest", "not_found" if error.status_code == 404 else "invalid")
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _defect(request: HttpRequest, error: Exception) -> HttpResponse:
    log.error("a defect of cadc-rec: %s: %s", type(error).__name__, error, exc_info=error)
    return JSONResponse({"error": "a defect of the service; its log says more."}, 500)
