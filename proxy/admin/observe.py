"""Calls that only look: status, explain, histograms, metrics, probes.

The supervisor's loop also decides about the gate, so nothing here may hold it: the text of /metrics is rendered in
a thread, and one render at a time, so that impatient scrapers cannot fill the threads.
"""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from proxy.admin import parse
from proxy.admin.problem import HEADERS, response
from proxy.admin.route import Call, reply
from proxy.metrics import encode, expose
from proxy.routing.table import VERSIONS

RENDERING: web.AppKey[asyncio.Lock] = web.AppKey("rendering", asyncio.Lock)
OPENAPI: web.AppKey[bytes] = web.AppKey("openapi", bytes)
DEFAULT_WINDOW_S = 60.0


async def get_status(call: Call) -> web.StreamResponse:
    """GET /api/v1/status."""
    return reply(call.operations.status())


async def get_service(call: Call) -> web.StreamResponse:
    """GET /api/v1/services/{service}."""
    return reply(call.operations.service(call.service))


async def get_explain(call: Call) -> web.StreamResponse:
    """GET /api/v1/explain."""
    cookies = parse.mapping(call.query.get("cookie", []), "cookie")
    fields = [(name.lower(), value) for name, value in call.query.get("header", [])]
    headers = parse.mapping(fields, "header")
    return reply(call.operations.explain(call.service, cookies, headers, call.query.get("client_ip")))


async def get_histogram(call: Call) -> web.StreamResponse:
    """GET …/histograms/{version}: HdrHistogram V2 as JSON, or percentiles as text."""
    name = call.service
    version = VERSIONS.index(call.request.match_info["version"])
    phase = call.query.get("phase", "total")
    counts, seconds = call.operations.histogram(name, version, call.query.get("window", DEFAULT_WINDOW_S), phase)
    if _prefers_text(call.request):
        return web.Response(text=encode.hgrm(counts), content_type="text/plain", headers=HEADERS)
    return reply({"encoding": "V2", "payload": encode.v2(counts), "seconds": seconds})


async def get_config(call: Call) -> web.StreamResponse:
    """GET /api/v1/config: what is in force, secrets redacted."""
    return reply(call.operations.config())


async def get_metrics(call: Call) -> web.StreamResponse:
    """GET /metrics."""
    async with call.request.app[RENDERING]:
        text = await asyncio.to_thread(expose.render, call.operations.exposition())
    return web.Response(body=text, headers={**HEADERS, "Content-Type": expose.CONTENT_TYPE})


async def get_livez(_: Call) -> web.StreamResponse:
    """GET /livez: this process answers."""
    return web.Response(text="ok\n", headers=HEADERS)


async def get_readyz(call: Call) -> web.StreamResponse:
    """GET /readyz: traffic should come here. Why it should not is told by `status`, to those with a token."""
    ready, _ = call.operations.ready()
    if ready:
        return web.Response(text="ok\n", headers=HEADERS)
    return response(503, "NotReady", "no traffic should come here now", headers={"Retry-After": "1"})


async def get_openapi(call: Call) -> web.StreamResponse:
    """GET /openapi.json."""
    return web.Response(body=call.request.app[OPENAPI], content_type="application/json", headers=HEADERS)


def document(description: dict[str, object]) -> bytes:
    """Return the OpenAPI document as it is served."""
    return orjson.dumps(description, option=orjson.OPT_INDENT_2)


def _prefers_text(request: web.Request) -> bool:
    accept = request.headers.get("Accept", "").lower()
    text, plain = accept.find("text/plain"), accept.find("application/json")
    return text >= 0 and (plain < 0 or text < plain)
