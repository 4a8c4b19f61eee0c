"""The route by which items come, change and go while a bundle is served.

In: ``POST /v2/models/NAME/items``, an extension of the protocol. Out: how many items there are
beside the bundle's. From then on every answer of this process has them, and within half a second
those of any process that serves the bundle; see `cadc_rec.serving.http.item_log`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from kserve.errors import InvalidInput, ModelNotFound
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.events import id_as_sent
from cadc_rec.serving.http.loaded import KeyNeeded, Loaded
from cadc_rec.serving.http.messages import sentence
from cadc_rec.serving.predict.new_items import Id, PutItem

if TYPE_CHECKING:
    from cadc_rec.serving.predict.ids import IdMap

_MOST_ITEMS = 10_000  # of a request

_CHANGES = Counter(
    "cadc_rec_item_changes", "Items that clients told of, by what became of them.", ("outcome",)
)


class ToldItem(BaseModel):
    """An item that came, or what changed of one."""

    model_config = ConfigDict(strict=True, extra="forbid")
    id: Id = Field(description="As the bundle's ids are.")
    attributes: dict[str, Any] = Field(
        default={},
        description="Values by attribute: text or a whole number, a list of them where an "
        "attribute has several, a number, or a vector; null is unknown. What is not named stays.",
    )
    vector: list[float] | None = Field(
        default=None, description="In the space of the bundle's item vectors."
    )
    title: str | None = Field(default=None, description="For answers that show one.")


class ItemsTold(BaseModel):
    """What became of items."""

    model_config = ConfigDict(strict=True, extra="forbid")
    put: list[ToldItem] = Field(
        default=[],
        max_length=_MOST_ITEMS,
        description="New items, with attributes or a vector, and what changed of others.",
    )
    remove: list[Id] = Field(
        default=[], max_length=_MOST_ITEMS, description="Items that are none from now on."
    )


class ItemsBesideBundle(TypedDict):
    """The items that a service has beside its bundle's."""

    model_name: str
    new_items: int
    changed_items: int
    removed_items: int
    unknown_items: int


def item_routes(loaded: Loaded, name: str, with_key: bool) -> APIRouter:
    """The route that takes items.

    Args:
        loaded: the bundle, with its log of items.
        name: the model's name.
        with_key: whether the service has an API key; without one nothing can be changed.
    """
    router = APIRouter()

    @router.post(
        "/v2/models/{model_name}/items",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ItemsTold"}}
                },
            }
        },
    )
    async def items(request: HttpRequest, model_name: str) -> ItemsBesideBundle:
        """Put items beside the bundle's, change or remove some; every answer is given with it."""
        if not with_key:
            raise KeyNeeded("to tell items over the network, start the service with an API key.")
        if model_name != name:
            raise ModelNotFound(f"{model_name:.80}")
        if loaded.items is None:
            raise CadcError(
                "items: this bundle comes from a store, which has no place for a journal; "
                "start the service with --events FILE."
            )
        try:
            told = ItemsTold.model_validate_json(await request.body())
        except ValidationError as error:
            _CHANGES.labels("refused").inc()
            raise InvalidInput(sentence(error.errors(include_url=False))) from None
        ids = loaded.predictor.items
        put = [PutItem(_id(one.id, ids), one.attributes, one.vector, one.title) for one in told.put]
        remove = list(dict.fromkeys(_id(one, ids) for one in told.remove))  # each counts once
        try:
            found = await loaded.items.tell(put, remove)
        except CadcError:
            _CHANGES.labels("refused").inc(len(put) + len(remove))
            raise
        _CHANGES.labels("put").inc(len(put))
        _CHANGES.labels("removed").inc(len(remove) - found.unknown)
        _CHANGES.labels("unknown_items").inc(found.unknown)
        return ItemsBesideBundle(
            model_name=name,
            new_items=found.new,
            changed_items=found.changed,
            removed_items=found.removed,
            unknown_items=found.unknown,
        )

    return router


def _id(value: Id, ids: IdMap) -> Id:
    """An id as the bundle has it; one that it cannot have stays, and is refused."""
    found = id_as_sent(value, ids)
    return value if found is None else found
