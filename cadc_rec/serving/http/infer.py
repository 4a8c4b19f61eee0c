"""The handler of inference over HTTP.

In: a request whose body was read. Out: the answer, whole if it is small; a large one is encoded by
a thread and sent piece by piece, as fast as the client reads. Meanwhile others are answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kserve.errors import InvalidInput
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from cadc_rec.serving.http.about import About
from cadc_rec.serving.http.encoding import (
    LEAST_COMPRESSED,
    accepted,
    compressed,
    encode,
    encode_pieces,
)
from cadc_rec.serving.http.guard import Receive, Scope, Send
from cadc_rec.serving.http.messages import JSON_LENGTH_HEADER, decode
from cadc_rec.serving.http.recommender import Answered, Recommender
from cadc_rec.serving.http.side_models import SideAnswer, SideModel

DEADLINE_HEADER = "x-deadline-ms"
"""Milliseconds in which the answer must be there, from the end of the request."""
_LEAST_SENT = 64 << 10  # bytes at a time


class Infer:
    """An ASGI application.

    Args:
        models: that answer, by name.
        about: what they are called.
    """

    def __init__(self, models: Sequence[Recommender | SideModel], about: About) -> None:
        self.models, self.about = {model.name: model for model in models}, about

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ModelNotFound: of another model.
            InvalidInput: see `Recommender.answer`; and its other errors.
        """
        request, named = HttpRequest(scope, receive), scope["path_params"]
        name = named["model_name"]
        self.about.require(name, named.get("model_version"))
        model = self.models[name]
        headers = request.headers
        body, json_length = await request.body(), headers.get(JSON_LENGTH_HEADER)
        allowed = _allowed(headers.get(DEADLINE_HEADER))
        form = accepted(headers.get("accept-encoding"))
        async with model.answer("rest", lambda: decode(body, json_length), allowed) as found:
            if found.is_large:
                await _send_pieces(model, found, form, request, send)
                return
            content, told = encode(found.request, found.outputs(), name, found.version)
            if len(content) >= LEAST_COMPRESSED:
                told["vary"] = "accept-encoding"
                if form is not None:
                    told["content-encoding"] = form
                    whole = iter([content])
                    content = await model.off_the_loop(lambda: b"".join(compressed(whole, form)))
        await HttpResponse(content, headers=told)(scope, receive, send)


async def _send_pieces(
    model: Recommender | SideModel,
    found: Answered | SideAnswer,
    form: str | None,
    request: HttpRequest,
    send: Send,
) -> None:
    def begin() -> tuple[dict[str, str], Iterator[bytes]]:
        return encode_pieces(found.request, found.outputs(), model.name, found.version)

    told, pieces = await model.off_the_loop(begin)
    told["vary"] = "accept-encoding"
    if form is not None:
        told["content-encoding"] = form
        pieces = compressed(pieces, form)
    headers = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while part := await model.off_the_loop(lambda: _some(pieces)):
        if await request.is_disconnected():
            return
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _some(pieces: Iterator[bytes]) -> bytes:
    """Pieces to send at once; nothing after the last."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= _LEAST_SENT:
            break
    return b"".join(parts)


def _allowed(header: str | None) -> float | None:
    """Seconds that the client waits; None where it does not say.

    Raises:
        InvalidInput: the header is no positive number.
    """
    if header is None:
        return None
    if header.isascii() and header.isdigit() and len(header) < 10 and int(header):
        return int(header) / 1000
    raise InvalidInput(
        f"header {DEADLINE_HEADER}: {header!r:.40} is not a whole number of milliseconds."
    )
