"""The calls that Triton has beyond KServe's service: configuration, statistics, index, streams.

In: what `About` tells. Out: a handler for gRPC. The messages are those of Triton's
``grpc_service.proto`` and ``model_config.proto``, as far as they are filled here. They live in a
pool of their own, for a process may have Triton's client loaded, too, which has the same names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from cadc_rec.serving.http.about import About

SERVICE = "inference.GRPCInferenceService"
STREAM = "streams are not served; ask with ModelInfer, one request at a time."

# Of each message its fields: number, type, and for a list a star. Other types are messages.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Versioned": {"name": (1, "string"), "version": (2, "string")},
    "Input": {
        "name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "int64*"),
        "optional": (8, "bool"),
    },
    "Output": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (3, "int64*")},
    "ModelConfig": {
        "name": (1, "string"), "platform": (2, "string"), "max_batch_size": (4, "int32"),
        "input": (5, "Input*"), "output": (6, "Output*"), "backend": (17, "string"),
    },
    "ModelConfigResponse": {"config": (1, "ModelConfig")},
    "StatisticDuration": {"count": (1, "uint64"), "ns": (2, "uint64")},
    "InferStatistics": {
        "success": (1, "StatisticDuration"), "fail": (2, "StatisticDuration"),
        "queue": (3, "StatisticDuration"), "compute_input": (4, "StatisticDuration"),
        "compute_infer": (5, "StatisticDuration"), "compute_output": (6, "StatisticDuration"),
    },
    "ModelStatistics": {
        "name": (1, "string"), "version": (2, "string"), "last_inference": (3, "uint64"),
        "inference_count": (4, "uint64"), "execution_count": (5, "uint64"),
        "inference_stats": (6, "InferStatistics"),
    },
    "ModelStatisticsResponse": {"model_stats": (1, "ModelStatistics*")},
    "RepositoryIndexRequest": {"repository_name": (1, "string"), "ready": (2, "bool")},
    "ModelIndex": {
        "name": (1, "string"), "version": (2, "string"), "state": (3, "string"),
        "reason": (4, "string"),
    },
    "RepositoryIndexResponse": {"models": (1, "ModelIndex*")},
}  # fmt: skip
_DATA_TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "STRING",
)  # fmt: skip
_PACKAGE = "cadc_rec.triton"


def _pool() -> DescriptorPool:
    file = FileDescriptorProto(name="cadc_rec/triton.proto", package=_PACKAGE, syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = made.field.add(name=name, number=number)
            field.label = (
                FieldDescriptorProto.LABEL_REPEATED
                if kind.endswith("*")
                else FieldDescriptorProto.LABEL_OPTIONAL
            )
            kind = kind.rstrip("*")
            if kind in _MESSAGES or kind == "DataType":
                field.type_name = f".{_PACKAGE}.{kind}"
                field.type = (
                    FieldDescriptorProto.TYPE_ENUM
                    if kind == "DataType"
                    else FieldDescriptorProto.TYPE_MESSAGE
                )
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    return pool


def triton_handler(about: About) -> grpc.GenericRpcHandler:
    """Answers these calls."""
    pool = _pool()

    def message(name: str) -> Any:
        return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))

    def unary(asked: str, told: str, answer: Callable[[Any], Mapping[str, Any]]) -> Any:
        response = message(told)

        async def handle(request: Any, context: Any) -> Any:
            return ParseDict(answer(request), response(), ignore_unknown_fields=True)

        return grpc.unary_unary_rpc_method_handler(
            handle, message(asked).FromString, response.SerializeToString
        )

    async def stream(requests: Any, context: aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, STREAM)

    refuse: Callable[..., Awaitable[None]] = stream
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "ModelConfig": unary(
                "Versioned",
                "ModelConfigResponse",
                lambda asked: {"config": about.config(asked.name, asked.version)},
            ),
            "ModelStatistics": unary(
                "Versioned",
                "ModelStatisticsResponse",
                lambda asked: about.statistics(asked.name or about.model.name, asked.version),
            ),
            "RepositoryIndex": unary(
                "RepositoryIndexRequest",
                "RepositoryIndexResponse",
                lambda asked: {"models": about.index(asked.ready)},
            ),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(refuse),
        },
    )
