"""The route by which clients tell events.

In: ``POST /v2/models/NAME/events``, an extension of the protocol. Out: how many were taken. An
event is answered when the disk has it; see `cadc_rec.serving.http.event_log`.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter
from kserve.errors import InvalidInput, ModelNotFound
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.loaded import KeyNeeded, Loaded
from cadc_rec.serving.http.messages import sentence
from cadc_rec.serving.predict.events import AHEAD_SECONDS, Event

if TYPE_CHECKING:
    from cadc_rec.serving.predict.ids import IdMap

_MOST_EVENTS = 10_000
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")

_EVENTS = Counter(
    "cadc_rec_events", "Events that clients told, by what became of them.", ("outcome",)
)


class ToldEvent(BaseModel):
    """An item that was taken."""

    model_config = ConfigDict(strict=True, extra="forbid")
    item_id: int | str
    time: float | None = Field(
        default=None,
        description="Seconds since 1970 (UTC); default now. At most "
        f"{AHEAD_SECONDS:.0f} s in the future.",
    )
    user_id: int | str | None = Field(
        default=None, description="Who took it, known to the model or not."
    )
    id: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="A name of the event; one that was told before is not counted again.",
    )


class Told(BaseModel):
    """Events that have happened."""

    model_config = ConfigDict(strict=True, extra="forbid")
    events: list[ToldEvent] = Field(min_length=1, max_length=_MOST_EVENTS)


class Taken(TypedDict):
    """What became of events."""

    model_name: str
    taken: int
    duplicates: int
    old: int
    unknown_items: int


def event_routes(loaded: Loaded, name: str, with_key: bool) -> APIRouter:
    """The route that takes events.

    Args:
        loaded: the bundle, with its log of events.
        name: the model's name.
        with_key: whether the service has an API key; without one nothing can be changed.
    """
    router = APIRouter()

    @router.post(
        "/v2/models/{model_name}/events",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Told"}}},
            }
        },
    )
    async def events(request: HttpRequest, model_name: str) -> Taken:
        """Tell what was taken; every answer from now on is given with it."""
        if not with_key:
            raise KeyNeeded("to tell events over the network, start the service with an API key.")
        if model_name != name:
            raise ModelNotFound(f"{model_name:.80}")
        if loaded.events is None:
            raise CadcError(
                "events: this bundle comes from a store, which has no place for their journal; "
                "start the service with --events FILE."
            )
        try:
            told = Told.model_validate_json(await request.body())
        except ValidationError as error:
            _EVENTS.labels("refused").inc()
            raise InvalidInput(sentence(error.errors(include_url=False))) from None
        predictor, now = loaded.predictor, time.time()
        try:
            counted = await loaded.events.take(
                [
                    _event(n, one, predictor.items, predictor.users, now)
                    for n, one in enumerate(told.events)
                ]
            )
        except CadcError:
            _EVENTS.labels("refused").inc(len(told.events))
            raise
        answer = Taken(
            model_name=name,
            taken=counted.taken,
            duplicates=counted.duplicates,
            old=counted.old,
            unknown_items=counted.unknown,
        )
        for outcome in ("taken", "duplicates", "old", "unknown_items"):
            _EVENTS.labels(outcome).inc(answer[outcome])
        return answer

    return router


def _event(n: int, told: ToldEvent, items: IdMap, users: IdMap, now: float) -> Event:
    item, user = id_as_sent(told.item_id, items), id_as_sent(told.user_id, users)
    if user is None and told.user_id is not None:
        raise CadcError(
            f"events[{n}].user_id: user ids are whole numbers in this bundle; "
            f"got {told.user_id!r:.80}."
        )
    return Event(item, now if told.time is None else told.time, user, told.id)


def id_as_sent(value: int | str | None, ids: IdMap) -> int | str | None:
    """An id as the bundle has it; numbers may come as text, None is what no number can be."""
    if isinstance(value, str) and ids.are_integers and not ids.forms:
        return int(value) if _WHOLE.fullmatch(value) else None
    return value
