"""`GET /openapi.json`: what clients may ask of this platform, made from the routes that it really has.

The shapes of bodies come from the models that check them, wherever there is a model; what the gateway only looks into
and passes on is described by hand, open for more. What each operation is called and takes stands in `operations.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import cupola
from cupola.api.operations import OPERATIONS, Operation
from cupola.api.sessions import NewSession
from cupola.api.stopping import StopAll
from cupola.web.definitions import WireDefinition
from cupola.web.reply import json_reply

OPENAI_LAYOUTS = re.compile(
    r"^(/api/projects/\{project\}(?:/agents/\{agent\}/endpoint/protocols)?)/openai(?:/v1)?(?=/)"
)
"""The four bases of one and the same operation (control-plane.md §1.1)."""

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


class OpenApi:
    """The handler; the document is made at the first request."""

    def __init__(self) -> None:
        self._document: Mapping[str, Any] | None = None

    async def get(self, request: Request) -> Response:
        if self._document is None:
            self._document = document(request.scope["router"].routes)
        return json_reply(self._document)


def operation_of(method: str, path: str) -> Operation | None:
    """What stands in the table about a route; all four base layouts share one entry."""
    return OPERATIONS.get(f"{method} {OPENAI_LAYOUTS.sub('{openai}', path)}")


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the routes that stand in the table of operations."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if not isinstance(route, Route):
            continue
        for method in sorted(set(route.methods or ()) - {"HEAD"}):
            operation = operation_of(method, route.path)
            if operation is not None:
                path = _PARAMETER.sub(r"{\1}", route.path)
                paths.setdefault(path, {})[method.lower()] = _described(operation, route.path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cupola",
            "version": cupola.__version__,
            "description": "Azure AI Foundry hosted agents, anywhere: what clients may ask of this platform.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR, **_models()},
            "responses": {
                "Error": {
                    "description": "Why not: one sentence, the field at fault, and a code.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
            },
        },
    }


def _described(operation: Operation, path: str) -> dict[str, Any]:
    layout = "" if "/openai" not in path else ".agent" if "{agent}" in path else ".project"
    layout += ".v1" if "/openai/v1/" in path else ""
    described: dict[str, Any] = {
        "operationId": operation.id + layout,
        "summary": operation.summary,
        "tags": [operation.id.rpartition(".")[0]],
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": _TEXT} for name in _PARAMETER.findall(path)),
            *({"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()),
        ],
        "responses": {
            **{str(status): _succeeded(operation, status) for status in operation.success},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if operation.bodies:
        described["requestBody"] = {
            "content": {kind: {"schema": schema} for kind, schema in operation.bodies.items()},
        }
    return described


def _succeeded(operation: Operation, status: int) -> dict[str, Any]:
    if status in (101, 204):
        return {"description": "Done."}
    return {"description": "Done.", "content": {kind: {} for kind in operation.reply}}


def _models() -> dict[str, Any]:
    """The models that check bodies, under the names by which the table of operations refers to them."""
    named: dict[str, type[BaseModel]] = {"Definition": WireDefinition, "NewSession": NewSession, "StopAll": StopAll}
    _, schemas = models_json_schema(
        [(model, "validation") for model in named.values()], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = schemas["$defs"]
    return {**found, **{name: found[model.__name__] for name, model in named.items()}}


_TEXT = {"type": "string", "minLength": 1}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "type": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
                "additionalInfo": {"type": "object"},
            },
        }
    },
}
