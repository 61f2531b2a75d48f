"""The route: one row of the table from which the application and its OpenAPI document are built.

A handler gets a `Call`: who asks, the parsed query parameters, the operations. It reads its body, asks the
operations and returns the reply; refusals are exceptions (`proxy.errors.Refused`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import hdrs, web
from pydantic import BaseModel

from proxy.admin import parse
from proxy.admin.gate import Caller
from proxy.admin.problem import HEADERS
from proxy.controlplane.operations import Json, Operations, Order
from proxy.errors import Problem, Refused

MAX_BODY = 64 * 1024
BODY_TIMEOUT_S = 10.0
JSON_TYPES = frozenset({"application/json"})
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/plain", "application/json"})


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter. `parse` raises `ValueError` with what the value must be; `many` = may be repeated."""

    name: str
    parse: Callable[[str], Any]
    help: str
    schema: Mapping[str, Any]
    many: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One admitted request."""

    request: web.Request
    operations: Operations
    caller: Caller
    query: Mapping[str, Any]

    @property
    def service(self) -> str:
        """The checked name of the service in the path, in `?service=`, or the only one."""
        return self.operations.service_name(self.request.match_info.get("service") or self.query.get("service"))

    def order(self, reason: str = "", *, revision: int | None = None) -> Order:
        """Return who asks for what, with the flags of the query. `revision`: the one now, if If-Match applies."""
        tags: Sequence[str] = self.request.headers.getall(hdrs.IF_MATCH, []) if revision is not None else []
        return Order(
            actor=self.caller.name,
            reason=reason,
            if_match=None if revision is None else parse.if_match(tags, revision),
            dry_run=self.query.get("dry_run", False),
            take_over=self.query.get("take_over", False),
            running_plan=self.query.get("running_plan", ""),
        )

    async def body(self, types: frozenset[str] = JSON_TYPES) -> parse.Body:
        """Read the whole body (at most 64 KiB, within 10 s)."""
        if (self.request.content_length or 0) > MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, self.request.content_length or 0)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                raw = await self.request.read()
        except TimeoutError:
            raise Refused(408, "BodyTimeout", f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
        return parse.Body(raw, not raw or self.request.content_type in types)

    async def typed_body(self, types: frozenset[str] = JSON_TYPES) -> parse.Body:
        """Read the body; refuse 415 if it is not empty and of another type."""
        body = await self.body(types)
        if not body.typed:
            raise wrong_type(types)
        return body


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One call of the API.

    `role`: read | operator | open (no token, no Host rule). `body`: the model of a JSON body, or a schema.
    `produces`: media type → what it holds. `head`: whether HEAD is answered too.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    role: str = "read"
    query: tuple[Parameter, ...] = ()
    body: type[BaseModel] | Mapping[str, Any] | None = None
    consumes: tuple[str, ...] = ("application/json",)
    produces: Mapping[str, str] | None = None
    tag: str = "service"
    head: bool = True


def reply(value: Json, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return `value` as JSON."""
    return web.Response(
        body=orjson.dumps(value), content_type="application/json", headers={**HEADERS, **(headers or {})}
    )


def wrong_type(types: frozenset[str]) -> Refused:
    """Return the 415 that names the accepted types."""
    names = ", ".join(sorted(types))
    return Refused(415, "UnsupportedMediaType", f"a body here is {names}", cure="set Content-Type")


def read_query(request: web.Request, known: tuple[Parameter, ...]) -> dict[str, Any]:
    """Return the parsed query parameters; refuse 400 with all unknown, repeated and malformed ones."""
    parameters = {parameter.name: parameter for parameter in known}
    found: dict[str, Any] = {}
    problems = []
    for name, text in request.query.items():
        parameter = parameters.get(name)
        if parameter is None:
            problems.append(Problem(name, parse.unknown(name, parameters)))
            continue
        if name in found and not parameter.many:
            problems.append(Problem(name, "is given twice"))
            continue
        try:
            value = parameter.parse(text)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
            continue
        if parameter.many:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    if problems:
        parse.refuse(problems)
    return found
