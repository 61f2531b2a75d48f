"""GET …/report: what became of the last rollout, as JSON, Markdown or HTML by `Accept`.

Put together here and rendered in a thread, one at a time: the supervisor's loop also decides about the gate.
"""

from __future__ import annotations

import asyncio
import time

import orjson
from aiohttp import web

from proxy.admin.measured import MEASURED
from proxy.admin.problem import HEADERS
from proxy.admin.route import Call
from proxy.controlplane.operations import Json
from proxy.errors import Refused
from proxy.rollout import report, told

REPORTING: web.AppKey[asyncio.Lock] = web.AppKey("reporting", asyncio.Lock)
JSON, MARKDOWN, HTML = "application/json", "text/markdown", "text/html"
# What a media range means here; a plain text is Markdown.
_RANGES = {
    JSON: JSON,
    "application/*": JSON,
    "*/*": JSON,
    HTML: HTML,
    MARKDOWN: MARKDOWN,
    "text/plain": MARKDOWN,
    "text/*": MARKDOWN,
}


async def get_report(call: Call) -> web.StreamResponse:
    """GET …/report."""
    name = call.service
    kind = accepted(call.request.headers.getall("Accept", []))
    async with call.request.app[REPORTING]:
        events = await _events(call, name)
        item = call.operations.service(name)
        now = time.time()
        points = await call.request.app[MEASURED].of(name, report.span(name, events, now))
        body = await asyncio.to_thread(_rendered, kind, name, item, events, points, now)
    headers = {**HEADERS, "Vary": "Accept"}
    return web.Response(body=body, content_type=kind, charset=None if kind == JSON else "utf-8", headers=headers)


def accepted(values: list[str]) -> str:
    """Return the media type for the `Accept` fields of a request: the acceptable one with the largest q.

    # > A sender that wishes to specify a preference uses a weight (RFC 9110 section 12.4.2)
    Of equal weights the more specific range counts, then the one that stands first. Refused: 406.
    """
    ranges = [part for value in values for part in value.split(",") if part.strip()] or ["*/*"]
    found: list[tuple[float, int, int, str]] = []
    for place, part in enumerate(ranges):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = _weight(parameters)
        if name in _RANGES and weight > 0:
            found.append((weight, -name.count("*"), -place, _RANGES[name]))
    if not found:
        kinds = f"{JSON}, {MARKDOWN}, {HTML}"
        raise Refused(406, "NotAcceptable", f"a report is {kinds}", cure="set Accept to one of these")
    return max(found)[3]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


async def _events(call: Call, name: str) -> list[Json]:
    """Return the newest events up to this service's last one, in order."""
    last = call.operations.service(name).get("last_event")
    if last is None:
        return []
    found: list[Json] = []
    for since, until in told.pages_back(last["seq"]):
        found = [*told.of_page(await call.operations.events(since, told.PAGE), name, until), *found]
    return found


def _rendered(kind: str, name: str, item: Json, events: list[Json], points: list[Json], now: float) -> bytes:
    found = report.build(name, item, events, points, round(now, 3))
    if kind == JSON:
        return orjson.dumps(found)
    return (report.html(found) if kind == HTML else report.markdown(found)).encode()
