"""The HTTP side described for clients: KServe's description, completed.

KServe describes what is answered when all is well. Here the errors are added, and what an inference
request consists of.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cadc_rec.serving.http.guard import OPEN_PATHS
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.http.tensors import INTEGER_TYPES

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_RESPONSE = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"type": "string"},
                    "data": {"type": "array"},
                },
                "required": ["name", "shape", "datatype"],
            },
        },
    },
    "required": ["model_name", "model_version", "outputs"],
}
_TENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["user_id", "history", "candidate_id"]},
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0},
            "minItems": 1,
            "maxItems": 2,
            "description": "Elements of `data` in row-major order fill it.",
        },
        "datatype": {"type": "string", "enum": [*INTEGER_TYPES, "BYTES"]},
        "data": {"type": "array", "items": {"type": ["integer", "string", "array"]}},
    },
    "required": ["name", "shape", "datatype"],
}
_REQUEST = {
    "type": "object",
    "properties": {
        "id": {"type": ["string", "null"], "maxLength": 256},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 3},
        "parameters": {
            "type": ["object", "null"],
            "properties": {
                "k": {"type": "integer", "minimum": 1},
                "exclude_seen": {"type": "boolean"},
                "filter": {
                    "type": "string",
                    "description": "JSON: item attributes and lists of values.",
                },
                "binary_data_output": {"type": "boolean"},
            },
            "additionalProperties": False,
        },
        "outputs": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "properties": {
                    "name": {
                        "type": "string",
                        "enum": ["item_id", "score", "count", "source", "title"],
                    }
                },
                "required": ["name"],
            },
        },
    },
    "required": ["inputs"],
    "examples": [
        {
            "inputs": [{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [1]}],
            "parameters": {"k": 5},
        }
    ],
}
_REASONS = {
    "400": "The request is not one that can be answered; the text says why.",
    "401": "No API key, or a wrong one.",
    "403": "Not on a service without an API key.",
    "404": "No such model.",
    "405": "No such method.",
    "409": "Not while the service runs.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "503": "Busy, or not ready; ask again later.",
}
_OBJECT = {"application/json": {"schema": {"type": "object"}}}
_EXTRA: dict[str, Any] = {
    "/v2/repository/index": {
        "post": {
            "operationId": "index",
            "summary": "The models, and whether they are ready.",
            "responses": {
                "200": {
                    "description": "One entry a model.",
                    "content": {"application/json": {"schema": {"type": "array"}}},
                }
            },
        }
    },
    "/explore": {
        "get": {
            "operationId": "explore",
            "summary": "What the page shows of one user.",
            "parameters": [
                {"name": "user", "in": "query", "schema": {"type": "string"}, "required": True},
                {"name": "k", "in": "query", "schema": {"type": "integer", "minimum": 1}},
            ],
            "responses": {
                "200": {"description": "Recommendations and history.", "content": _OBJECT}
            },
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Metrics for Prometheus.",
            "responses": {"200": {"description": "Prometheus's text format."}},
        }
    },
}


def described_api(
    app: FastAPI, model_name: str, with_key: bool, limits: Limits, n_items: Callable[[], int]
) -> None:
    """Give `app` its description, at ``/openapi.json``.

    Args:
        app: whose routes are described.
        model_name: the only one there is.
        with_key: whether clients have to know a key.
        limits: of requests.
        n_items: of the catalogue of the moment.
    """

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(title=app.title, version=app.version, routes=app.routes),
                model_name, with_key, limits,
            )  # fmt: skip
        _, k = app.openapi_schema["paths"]["/explore"]["get"]["parameters"]
        k["schema"]["maximum"] = min(limits.k, n_items())  # another bundle, another catalogue
        return app.openapi_schema

    app.openapi = describe  # FastAPI's own way to replace it


def _complete(
    document: dict[str, Any], model_name: str, with_key: bool, limits: Limits
) -> dict[str, Any]:
    document["paths"].update(deepcopy(_EXTRA))
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(
        Error=_ERROR, InferenceRequest=_REQUEST, InferenceResponse=_RESPONSE
    )
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if with_key and path not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
            operation["responses"].pop("422", None)
            for status, reason in _REASONS.items():
                operation["responses"].setdefault(
                    status, {"description": reason, "content": _json_of("Error")}
                )
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "model_name":
                    parameter["schema"] = {"type": "string", "enum": [model_name]}
            if path.endswith("/infer") and method == "post":
                operation["requestBody"] = {
                    "required": True, "content": _json_of("InferenceRequest")
                }  # fmt: skip
                operation["responses"]["200"] = {
                    "description": f"Recommendations, for at most {limits.users} users.",
                    "content": {
                        **_json_of("InferenceResponse"),
                        "application/octet-stream": {},  # JSON, then raw tensors, if asked for
                    },
                }
    return document


def _json_of(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
