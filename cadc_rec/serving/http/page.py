"""The page for people: type a user's id, see the recommendations and what the user took.

In: the model. Out: routes of the page, its script and style, and of ``/explore``, which answers
what the page asks.
"""

from __future__ import annotations

import time
from importlib import resources
from typing import (
    Annotated,
    Any,
    NotRequired,  # Pydantic wants these before Python 3.12
)

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from typing_extensions import TypedDict

from cadc_rec.serving.http.messages import DEFAULT_K, Input, Parameters, Request
from cadc_rec.serving.http.observed import answered_by
from cadc_rec.serving.http.queries import query_of
from cadc_rec.serving.http.recommender import Recommender
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.predictor import Predictor

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_ASSETS = {
    "/": "page.html",
    "/page.js": "page.js",
    "/page.css": "page.css",
    "/docs": "docs.html",
    "/docs.js": "docs.js",
}
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_SHOWN_HISTORY = 20  # items


class Line(TypedDict):
    """One item."""

    id: str
    title: str
    score: NotRequired[float]


class Explored(TypedDict):
    """What the page shows of one user."""

    user: str
    source: str
    milliseconds: float
    bundle: str
    version: str
    recommended: list[Line]
    taken: list[Line]
    taken_in_all: int


def page_routes(model: Recommender) -> APIRouter:
    """The routes of the page."""
    router = APIRouter()
    for path, name in _ASSETS.items():
        router.add_route(path, _asset(name), include_in_schema=False)

    @router.get("/explore")
    async def explore(user: str, k: Annotated[int, Query(ge=1)] = DEFAULT_K) -> Explored:
        """What the page shows of one user."""
        predictor = model.loaded.predictor
        wanted = Input(name="user_id", shape=[1], datatype="BYTES", data=[user])
        request = Request(inputs=[wanted], parameters=Parameters(k=k))
        query = query_of(request, predictor, model.limits)
        answered_by(predictor.fingerprint[:12], 1)
        began = time.perf_counter()
        async with model.recommended(request, query, predictor) as found:
            seconds = time.perf_counter() - began
        row = int(predictor.users.rows(query.users)[0])
        taken = predictor.known.of(row)[::-1] if row >= 0 else np.zeros(0, np.int32)
        n = int(found.counts[0])
        return Explored(
            user=user,
            source=Source(int(found.sources[0])).word,
            milliseconds=1000 * seconds,
            bundle=predictor.name,
            version=predictor.fingerprint[:12],
            recommended=_lines(predictor, found.rows[0, :n], found.scores[0, :n]),
            taken=_lines(predictor, taken[:_SHOWN_HISTORY].astype(np.int64)),
            taken_in_all=len(taken),
        )

    return router


def _lines(predictor: Predictor, rows: np.ndarray, scores: np.ndarray | None = None) -> list[Line]:
    titles, ids = predictor.titles_of(rows), predictor.items.of_rows(rows).tolist()
    lines = [Line(id=str(item), title=title) for item, title in zip(ids, titles, strict=True)]
    if scores is not None:
        for line, score in zip(lines, scores.tolist(), strict=True):
            line["score"] = score
    return lines


def _asset(name: str) -> Any:
    contents = (resources.files("cadc_rec.serving.http") / "assets" / name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    async def asset(request: HttpRequest) -> HttpResponse:
        return HttpResponse(contents, media_type=kind, headers=_HEADERS)

    return asset
