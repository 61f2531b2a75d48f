"""The journal of events: pages of it as JSON, or the same events as they happen (server-sent events).

A stream gives each event its `seq` as `id:`, so that a client that lost the connection comes back with
`Last-Event-ID` and misses nothing (WHATWG HTML, section 9.2). A comment every 15 s shows both sides that the
other is still there; a client that left is noticed within a second, one that does not read for 30 s is dropped.
Streams are counted and bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
from aiohttp import web

from proxy.admin import parse
from proxy.admin.problem import HEADERS
from proxy.admin.route import Call, reply
from proxy.controlplane.operations import Json
from proxy.errors import Problem, Refused

PAGE = 1000
MAX_STREAMS = 64
HEARTBEAT_S = 15.0
LOOK_S = 1.0
WRITE_TIMEOUT_S = 30.0


class Streams:
    """The open event streams of one application; `close` ends them all."""

    def __init__(self) -> None:
        self.open = 0
        self.closing = asyncio.Event()

    async def close(self, _: web.Application) -> None:
        """End every stream (the application's on_shutdown)."""
        self.closing.set()


STREAMS: web.AppKey[Streams] = web.AppKey("streams", Streams)


async def get_events(call: Call) -> web.StreamResponse:
    """GET /api/v1/events."""
    since = call.query.get("since", 0)
    follow = call.query.get("follow", "text/event-stream" in call.request.headers.get("Accept", ""))
    if not follow:
        return reply({"events": await call.operations.events(since, call.query.get("limit", PAGE))})
    if last := call.request.headers.get("Last-Event-ID"):
        try:
            since = parse.integer(last)
        except ValueError as error:
            parse.refuse([Problem("Last-Event-ID", str(error))])
    streams = call.request.app[STREAMS]
    if streams.open >= MAX_STREAMS:
        raise Refused(503, "TooManyStreams", f"{MAX_STREAMS} event streams are open already", cure="close one of them")
    streams.open += 1
    try:
        return await _stream(call.request, streams, call.operations.follow_events(since))
    finally:
        streams.open -= 1


async def _stream(request: web.Request, streams: Streams, events: AsyncIterator[Json]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
    await answer.prepare(request)
    closing = asyncio.ensure_future(streams.closing.wait())
    coming = asyncio.ensure_future(_next(events))
    loop = asyncio.get_running_loop()
    try:
        await _write(answer, b": events\n\n")
        written = loop.time()
        while (transport := request.transport) is not None and not transport.is_closing():
            done, _ = await asyncio.wait({closing, coming}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if closing in done:
                break
            if not done:
                if loop.time() - written >= HEARTBEAT_S:
                    await _write(answer, b": still here\n\n")
                    written = loop.time()
                continue
            event = coming.result()
            if event is None:
                break
            await _write(answer, b"id: %d\ndata: %s\n\n" % (event["seq"], orjson.dumps(event)))
            written = loop.time()
            coming = asyncio.ensure_future(_next(events))
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    finally:
        closing.cancel()
        coming.cancel()
        await asyncio.gather(closing, coming, return_exceptions=True)
        if (close := getattr(events, "aclose", None)) is not None:
            await close()
    return answer


async def _next(events: AsyncIterator[Json]) -> Json | None:
    return await anext(events, None)


async def _write(answer: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await answer.write(text)
