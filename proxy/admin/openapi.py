"""The OpenAPI 3.1 document, made from the route table, so that it cannot say anything else than the code does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from proxy import __version__
from proxy.admin.problem import MEDIA_TYPE
from proxy.admin.route import Parameter, Route

PATH_PARAMETER = re.compile(r"\{(\w+)(?::([^}]+))?\}")
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "a stable UpperCamelCase word"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "one sentence with the cure"},
        "command_line": {"type": "string", "description": "the same where the cure at the command line is another"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["key", "message"],
                "properties": {
                    "key": {"type": "string"},
                    "message": {"type": "string"},
                    "file": {"type": "string"},
                    "line": {"type": "integer"},
                    "column": {"type": "integer"},
                },
            },
        },
    },
}
SCHEMAS = "#/components/schemas/"


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of `routes`."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Problem": PROBLEM}
    for route in routes:
        path = PATH_PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate admin API",
            "version": __version__,
            "description": "Weights are percent, shares fractions 0…1, latencies _ms, durations _s.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [*_path_parameters(route.path), *map(_query_parameter, route.query)],
        "responses": {
            "200": {
                "description": "done",
                "content": {
                    kind: {"schema": {"type": "object" if kind == "application/json" else "string"}, "x-holds": what}
                    for kind, what in (route.produces or {"application/json": "the object"}).items()
                },
            },
            "default": {
                "description": "not done; nothing was changed",
                "content": {MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS}Problem"}}},
            },
        },
        "security": [] if route.role == "open" else [{"token": []}, {}],
        "x-role": route.role,
    }
    if route.body is not None:
        schema = _schema(route.body, schemas)
        operation["requestBody"] = {"content": {kind: {"schema": schema} for kind in route.consumes}}
    return operation


def _schema(body: type[BaseModel] | Any, schemas: dict[str, Any]) -> Any:
    if not isinstance(body, type) or not issubclass(body, BaseModel):
        return body
    schema = body.model_json_schema(ref_template=SCHEMAS + "{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[body.__name__] = schema
    return {"$ref": f"{SCHEMAS}{body.__name__}"}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"} | ({"enum": words.split("|")} if words else {}),
        }
        for name, words in PATH_PARAMETER.findall(path)
    ]


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    schema = {"type": "array", "items": parameter.schema} if parameter.many else parameter.schema
    return {"name": parameter.name, "in": "query", "description": parameter.help, "schema": schema}
