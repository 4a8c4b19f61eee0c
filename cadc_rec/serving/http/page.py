"""The page for people: a user or a session of clicks, what is recommended to it, and why.

In: the model. Out: routes of the page, its script and style, and of ``/explore`` and below, which
answer what the page asks.
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
from kserve.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from typing_extensions import TypedDict

from cadc_rec.serving.http.messages import (
    DEFAULT_K,
    Input,
    Parameters,
    Request,
    RequestedOutput,
    sentence,
)
from cadc_rec.serving.http.observed import answered_by
from cadc_rec.serving.http.queries import Query as Asked
from cadc_rec.serving.http.queries import query_of
from cadc_rec.serving.http.recommender import Recommender
from cadc_rec.serving.http.side_models import SideModel
from cadc_rec.serving.predict.answers import Recommendations, Source
from cadc_rec.serving.predict.predictor import HistoryMode, Predictor

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
_SAMPLE_USERS = 6
_POPULAR = 24  # items
_MOST_CHOICES = 200  # values of an attribute; more are no list for people


class Line(TypedDict):
    """One item; of a recommended one its score, and what of the history lies nearest to it."""

    id: str
    title: str
    score: NotRequired[float]
    near: NotRequired[str]
    cosine: NotRequired[float]


class SampleUser(TypedDict):
    """A user of the bundle, and how many items the user took."""

    id: str
    taken: int


class Choices(TypedDict):
    """An attribute that a filter may name, with its values."""

    name: str
    values: list[str | int]


class Start(TypedDict):
    """What the page opens with."""

    bundle: str
    version: str
    users: int
    items: int
    reads_sessions: bool
    sample_users: list[SampleUser]
    popular: list[Line]
    filters: list[Choices]


class Explored(TypedDict):
    """What the page shows of one user or session."""

    user: str
    source: str
    why: str
    milliseconds: float
    bundle: str
    version: str
    recommended: list[Line]
    session: list[Line]
    taken: list[Line]
    taken_in_all: int


def page_routes(model: Recommender, similar_items: SideModel) -> APIRouter:
    """The routes of the page.

    Args:
        model: that recommends.
        similar_items: that answers what is similar.
    """
    router = APIRouter()
    lists: dict[str, tuple[list[SampleUser], list[Choices]]] = {}  # by the bundle's fingerprint
    for path, name in _ASSETS.items():
        router.add_route(path, _asset(name), include_in_schema=False)

    async def answer(predictor: Predictor, request: Request) -> tuple[Asked, Recommendations]:
        query = query_of(request, predictor, model.limits)
        answered_by(predictor.fingerprint[:12], 1)
        async with model.recommended(request, query, predictor) as found:
            return query, found

    @router.get("/explore/start")
    async def start() -> Start:
        """What the page opens with."""
        predictor = model.loaded.predictor
        k = min(_POPULAR, len(predictor.items), model.limits.k)
        _, popular = await answer(predictor, _request("", [], Parameters(k=k)))
        if predictor.fingerprint not in lists:  # once a bundle: of many users it takes a while
            both = await model.off_the_loop(lambda: (_sample_users(predictor), _filters(predictor)))
            lists.clear()
            lists[predictor.fingerprint] = both
        sample_users, filters = lists[predictor.fingerprint]
        return Start(
            bundle=predictor.name,
            version=predictor.fingerprint[:12],
            users=len(predictor.users),
            items=len(predictor.items),
            reads_sessions=predictor.reads_sessions,
            sample_users=sample_users,
            popular=_lines(predictor, popular.rows[0, : int(popular.counts[0])]),
            filters=filters,
        )

    @router.get("/explore")
    async def explore(
        user: str = "",
        k: Annotated[int, Query(ge=1)] = DEFAULT_K,
        history: Annotated[list[str] | None, Query()] = None,
        history_mode: HistoryMode = "append",
        filter: str = "",
    ) -> Explored:
        """What the page shows of one user or session; `filter` is JSON, as in a request."""
        predictor, session = model.loaded.predictor, history or []
        parameters = _parameters(k=k, history_mode=history_mode, filter=filter or None)
        request = _request(user, session, parameters)
        began = time.perf_counter()
        asked, found = await answer(predictor, request)
        seconds = time.perf_counter() - began
        row = int(predictor.users.rows(asked.users)[0])
        taken = predictor.known.of(row)[::-1] if row >= 0 else np.zeros(0, np.int32)
        clicked = predictor.items.rows(asked.history[0] if asked.history else [])
        clicked = clicked[clicked >= 0]
        n, source = int(found.counts[0]), Source(int(found.sources[0]))
        of_known = taken if history_mode == "append" else taken[:0]
        read = np.concatenate([clicked[::-1], of_known[:_SHOWN_HISTORY].astype(np.int64)])
        return Explored(
            user=user,
            source=source.word,
            why=_why(source, predictor.reads_sessions, len(clicked), len(taken), history_mode),
            milliseconds=1000 * seconds,
            bundle=predictor.name,
            version=predictor.fingerprint[:12],
            recommended=_recommended(predictor, found.rows[0, :n], found.scores[0, :n], read),
            session=_lines(predictor, clicked),
            taken=_lines(predictor, taken[:_SHOWN_HISTORY].astype(np.int64)),
            taken_in_all=len(taken),
        )

    @router.get("/explore/similar")
    async def similar(item: str, k: Annotated[int, Query(ge=1)] = DEFAULT_K) -> list[Line]:
        """The items whose vectors are most like an item's."""
        predictor = model.loaded.predictor
        # As a history that names it, so that an id is read as everywhere.
        named = query_of(_request("", [item], Parameters()), predictor, model.limits).history
        wanted = named[0] if named else []
        if predictor.items.rows(wanted)[0] < 0:
            raise InvalidInput(f"no item has the id {item!r:.80}.")
        request = Request(
            inputs=[Input(name="item_id", shape=[1], datatype="BYTES", data=[item])],
            outputs=[RequestedOutput(name=name) for name in ("item_id", "title", "score", "count")],
            parameters=Parameters(k=k),
        )
        async with similar_items.answer("rest", lambda: request) as found:
            ids, titles, scores, (n,) = (output.array for output in found.outputs())
            return [
                Line(id=str(id), title=title, score=score)
                for id, title, score in zip(
                    ids[0, :n].tolist(), titles[0, :n].tolist(), scores[0, :n].tolist(), strict=True
                )
            ]

    return router


def _parameters(**given: Any) -> Parameters:
    try:
        return Parameters(**given)
    except ValidationError as error:
        raise InvalidInput(sentence(error.errors())) from None


def _request(user: str, session: list[str], parameters: Parameters) -> Request:
    """A request for one user, as the protocol has it; ids come as text."""
    inputs = [Input(name="user_id", shape=[1], datatype="BYTES", data=[user])]
    if session:
        history = Input(name="history", shape=[1, len(session)], datatype="BYTES", data=session)
        inputs.append(history)
    return Request(inputs=inputs, parameters=parameters)


def _why(source: Source, sessions: bool, clicked: int, taken: int, mode: HistoryMode) -> str:
    """A sentence on what the answer is based on."""
    if source is Source.POPULARITY:
        return "What most people took: this user is unknown, and there is no session."
    session = f"the session of {clicked} item{'s' if clicked != 1 else ''}"
    if source is Source.HISTORY:
        return f"Made of {session} alone: this user is unknown."
    if not clicked:
        return f"By this user's own vector, of {taken} items taken before."
    if not sessions:
        return (
            f"By this user's own vector, of {taken} items taken before. This model reads no "
            "sessions: the session's items are only left out."
        )
    if mode == "replace":
        return f"Made anew of {session} alone, in place of what this user took."
    return f"Made anew of {session} behind the {taken} items taken before."


def _recommended(
    predictor: Predictor, rows: NDArray[np.int64], scores: NDArray[Any], read: NDArray[np.int64]
) -> list[Line]:
    """Recommended items, each with the item of the history whose vector is most like its own."""
    lines = _lines(predictor, rows, scores)
    if not len(read) or not len(rows):
        return lines
    vectors = predictor.item_vectors.vectors
    cosines = _directions(vectors[rows]) @ _directions(vectors[read]).T
    nearest = cosines.argmax(axis=1)
    near = _lines(predictor, read[nearest])
    for line, other, cosine in zip(lines, near, cosines.max(axis=1).tolist(), strict=True):
        line["near"], line["cosine"] = other["title"] or other["id"], cosine
    return lines


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def _sample_users(predictor: Predictor) -> list[SampleUser]:
    """Users from one with few items to one with many, always the same ones."""
    counts = np.diff(predictor.known.indptr)
    some = np.flatnonzero(counts)
    order = some[np.argsort(counts[some], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(_SAMPLE_USERS, len(order))).astype(int))
    rows = order[places]
    ids = predictor.users.of_rows(rows).tolist()
    return [
        SampleUser(id=str(user), taken=int(counts[row]))
        for user, row in zip(ids, rows, strict=True)
    ]


def _filters(predictor: Predictor) -> list[Choices]:
    """What a person can choose from; an attribute without a list of values is not among it."""
    found = []
    for name, attribute in predictor.attributes.items():
        code_of = getattr(attribute, "code_of", ())
        values = list(code_of) if 0 < len(code_of) <= _MOST_CHOICES else []
        if values and all(isinstance(value, str | int) for value in values):
            found.append(Choices(name=name, values=values))
    return found


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
