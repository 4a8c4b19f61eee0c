"""The HTTP side described for clients: KServe's description, completed.

KServe describes what is answered when all is well. Here the errors are added, and what an inference
request consists of.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cadc_rec.service.settings import Limits

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_REASONS = {
    "400": "The request is not one that can be answered; the text says why.",
    "401": "No API key, or a wrong one.",
    "403": "Not on a service without an API key.",
    "404": "No such model.",
    "405": "No such method.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "501": "Versions of a model are not served.",
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


def described_api(app: FastAPI, limits: Limits) -> None:
    """Give `app` its description, at ``/openapi.json``."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(title=app.title, version=app.version, routes=app.routes), limits
            )
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign] # FastAPI's own way to replace it


def _complete(document: dict[str, Any], limits: Limits) -> dict[str, Any]:
    document["paths"].update(_EXTRA)
    document.setdefault("components", {}).setdefault("schemas", {})["Error"] = _ERROR
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation.get("responses", {}).pop("422", None)
            for status, reason in _REASONS.items():
                operation["responses"].setdefault(status, {"description": reason, "content": error})
            if path.endswith("/infer") and method == "post":
                operation["requestBody"] = {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/InferenceRequest"}
                        }
                    },
                }
                operation["responses"]["200"] = {
                    "description": f"Recommendations, for at most {limits.users} users.",
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/InferenceResponse"}
                        }
                    },
                }
    return document
