"""The gRPC side: KServe's servicer of the protocol, behind the same rules as HTTP.

In: the model and the repository. Out: a server that is not yet started. A client's mistake is
answered by a status with one sentence, and is not logged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio
from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from kserve.protocol.grpc.servicer import InferenceServicer

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.about import About
from cadc_rec.serving.http.guard import ApiKey
from cadc_rec.serving.http.load import Busy, TooLate, refused
from cadc_rec.serving.http.loaded import KeyNeeded, Repository
from cadc_rec.serving.http.recommender import ALLOWED
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.http.triton_rpc import triton_handler

_SERVICE = "/inference.GRPCInferenceService/"
_OPEN = {f"{_SERVICE}ServerLive", f"{_SERVICE}ServerReady"}
_MOST_CALLS = 4096  # under way at the same time, which bounds their memory
_AGE_MS = 30 * 60 * 1000  # age of a connection at which its client must make another

_DEFECT = StatusCode.INTERNAL, "defect"
_STATUS: tuple[tuple[type[Exception], tuple[StatusCode, str]], ...] = (
    (KeyNeeded, (StatusCode.PERMISSION_DENIED, "forbidden")),
    (InvalidInput, (StatusCode.INVALID_ARGUMENT, "invalid")),
    (InferenceError, (StatusCode.INVALID_ARGUMENT, "invalid")),
    (CadcError, (StatusCode.INVALID_ARGUMENT, "invalid")),
    (ModelNotFound, (StatusCode.NOT_FOUND, "not_found")),
    (ModelNotReady, (StatusCode.UNAVAILABLE, "not_ready")),
)


def grpc_server(
    dataplane: DataPlane,
    repository: Repository,
    about: About,
    key: ApiKey,
    limits: Limits,
    observers: Sequence[aio.ServerInterceptor] = (),
    shared: bool = False,
) -> aio.Server:
    """The server; the caller adds ports and starts it.

    Args:
        dataplane: KServe's.
        repository: answers the repository's calls.
        about: what the model is.
        key: the API key.
        limits: limits of requests.
        observers: interceptors that see every call first.
        shared: whether other processes listen at the same port.
    """
    server = aio.server(
        interceptors=(*observers, _Rules(key)),
        maximum_concurrent_rpcs=_MOST_CALLS,
        options=[
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", 64 << 20),
            ("grpc.max_concurrent_streams", 256),
            ("grpc.max_connection_age_ms", _AGE_MS),
            ("grpc.keepalive_time_ms", 60_000),  # so that a client that has gone is noticed
            ("grpc.keepalive_timeout_ms", 20_000),
            # Without other workers a second service on the same port is an error.
            ("grpc.so_reuseport", int(shared)),
        ],
    )
    servicer = _Servicer(dataplane, repository, about)
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((triton_handler(about),))
    return server


class _Servicer(InferenceServicer):
    """KServe's, which knows no versions."""

    def __init__(self, dataplane: DataPlane, repository: Repository, about: About) -> None:
        super().__init__(dataplane, repository)
        self.about = about

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(**self.about.server())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        return pb.ModelMetadataResponse(**self.about.metadata(request.name, request.version))

    async def ModelReady(self, request: Any, context: Any) -> Any:
        self.about.require(request.name, request.version)
        return await super().ModelReady(request, context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.about.require(request.model_name, request.model_version)
        return await super().ModelInfer(request, context)


class _Malformed:
    """Stands for a request that is not a protobuf message."""


class _Rules(aio.ServerInterceptor):
    """Checks the API key, and turns errors into gRPC statuses."""

    def __init__(self, key: ApiKey) -> None:
        self.key = key

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if handler is None:
            return handler
        method = details.method
        given = dict(details.invocation_metadata or ()).get("authorization", "")
        admitted = method in _OPEN or self.key.admits(
            given if isinstance(given, bytes) else given.encode()
        )
        if handler.unary_unary is None:  # streams, of which none is served
            return grpc.stream_stream_rpc_method_handler(_refusing(handler.stream_stream, admitted))
        answer = handler.unary_unary

        async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            if not admitted:
                await _refuse_key(context)
            if isinstance(request, _Malformed):
                refused("grpc", "invalid")
                await context.abort(
                    StatusCode.INVALID_ARGUMENT, "the request is not a message of the protocol."
                )
            ALLOWED.set(context.time_remaining())
            try:
                return await answer(request, context)
            except aio.AbortError:
                raise
            except Exception as error:
                code, reason = _meaning(error)
                text, more = str(error), tuple[tuple[str, str], ...]()
                if reason == "defect":
                    text = "a defect of the service."
                    log.error(
                        "a defect of cadc-rec: %s: %s", type(error).__name__, error, exc_info=error
                    )
                if isinstance(error, Busy):
                    more = (("retry-after", str(error.retry_after)),)
                refused("grpc", reason)
                await context.abort(code, text, more)

        return grpc.unary_unary_rpc_method_handler(
            guarded, _forgiving(handler.request_deserializer), handler.response_serializer
        )


async def _refuse_key(context: aio.ServicerContext[Any, Any]) -> None:
    refused("grpc", "key")
    await context.abort(
        StatusCode.UNAUTHENTICATED, "an API key is needed: metadata authorization: Bearer KEY."
    )


def _refusing(answer: Any, admitted: bool) -> Callable[..., Awaitable[None]]:
    """What refuses a stream, behind the check of the key."""

    async def refuse(requests: Any, context: aio.ServicerContext[Any, Any]) -> None:
        if not admitted:
            await _refuse_key(context)
        refused("grpc", "invalid")
        await answer(requests, context)

    return refuse


def _meaning(error: Exception) -> tuple[StatusCode, str]:
    """The status of an error, and its reason for the metrics."""
    if isinstance(error, Busy):
        late = isinstance(error, TooLate)
        code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.RESOURCE_EXHAUSTED
        return code, error.reason
    return next((found for kind, found in _STATUS if isinstance(error, kind)), _DEFECT)


def _forgiving(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A parser that returns `_Malformed` instead of raising, which would log a traceback."""

    def parsed(contents: bytes) -> Any:
        try:
            return parse(contents)
        except DecodeError:
            return _Malformed()

    return parsed
