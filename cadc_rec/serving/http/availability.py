"""The route by which items are withheld and released: sold out, back in store.

In: ``POST /v2/models/NAME/availability``, an extension of the protocol. Out: how many items are
withheld. From then on no answer of this process has them, and within half a second none of any
process that serves the bundle; see `cadc_rec.serving.http.withheld`.
"""

from __future__ import annotations

from fastapi import APIRouter
from kserve.errors import InvalidInput, ModelNotFound
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.loaded import KeyNeeded, Loaded
from cadc_rec.serving.http.messages import sentence
from cadc_rec.serving.http.withheld import Id

_MOST_ITEMS = 10_000  # of a request


class Availability(BaseModel):
    """What became of items."""

    model_config = ConfigDict(strict=True, extra="forbid")
    withhold: list[Id] = Field(
        default=[], max_length=_MOST_ITEMS, description="Items that are no answer from now on."
    )
    release: list[Id] = Field(
        default=[], max_length=_MOST_ITEMS, description="Items that may be answers again."
    )


class WithheldNow(TypedDict):
    """What a service withholds."""

    model_name: str
    withheld: int
    unknown_items: int


def availability_routes(loaded: Loaded, name: str, with_key: bool) -> APIRouter:
    """The route that takes what is withheld.

    Args:
        loaded: the bundle, with what is withheld of it.
        name: the model's name.
        with_key: whether the service has an API key; without one nothing can be changed.
    """
    router = APIRouter()

    @router.post(
        "/v2/models/{model_name}/availability",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Availability"}}
                },
            }
        },
    )
    async def availability(request: HttpRequest, model_name: str) -> WithheldNow:
        """Withhold items from all answers, or release them."""
        if not with_key:
            raise KeyNeeded(
                "to withhold items over the network, start the service with an API key."
            )
        if model_name != name:
            raise ModelNotFound(f"{model_name:.80}")
        if loaded.withheld is None:
            raise CadcError(
                "availability: this bundle comes from a store, which has no place for a journal; "
                "start the service with --events FILE."
            )
        try:
            told = Availability.model_validate_json(await request.body())
        except ValidationError as error:
            raise InvalidInput(sentence(error.errors(include_url=False))) from None
        count, unknown = await loaded.withheld.tell(told.withhold, told.release)
        return WithheldNow(model_name=name, withheld=count, unknown_items=unknown)

    return router
