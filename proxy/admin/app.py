"""The admin application: the route table, the gate before every route, problems after every error.

`build` gives the application, `runner` the way to serve it: without aiohttp's access log, which would hold the
query of `explain` (session cookies), and without its log of malformed requests, which would hold their bytes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import HttpVersion11, hdrs, web

from proxy.admin import observe, openapi, problem, report
from proxy.admin.crowd import CROWD, Crowd, Runner
from proxy.admin.events import STREAMS, Streams
from proxy.admin.gate import Caller, Gate
from proxy.admin.measured import MEASURED, Measured
from proxy.admin.route import MAX_BODY, Call, Route, read_query
from proxy.admin.routes import ROUTES
from proxy.config.compile import AdminSettings
from proxy.controlplane.operations import Operations

SHUTDOWN_S = 2.0
KEEPALIVE_S = 75.0
LINGERING_S = 1.0  # how long the rest of a refused body is read, so that the client sees the answer
OPEN = Caller("", "open")


def build(operations: Operations, settings: AdminSettings) -> web.Application:
    """Return the application that asks `operations` and admits callers by `settings`."""
    app = web.Application(middlewares=[problem.middleware], client_max_size=MAX_BODY)
    gate = Gate(settings)
    streams = Streams()
    app[STREAMS] = streams
    app[CROWD] = crowd = Crowd()
    app[observe.RENDERING] = asyncio.Lock()
    app[report.REPORTING] = asyncio.Lock()
    app[observe.OPENAPI] = observe.document(openapi.document(ROUTES))
    app.on_shutdown.append(streams.close)
    app[MEASURED] = Measured(operations)
    for route in ROUTES:
        _add(app, route, gate, operations, crowd, public=route.path == "/metrics" and settings.public_metrics)
    return app


def runner(operations: Operations, settings: AdminSettings) -> web.AppRunner:
    """Return the server of the admin API, not yet set up; the caller gives it its socket."""
    return Runner(
        build(operations, settings),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGERING_S,
        logger=_quiet_logger(),
    )


def _add(app: web.Application, route: Route, gate: Gate, operations: Operations, crowd: Crowd, *, public: bool) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        caller = OPEN if public or route.role == "open" else gate.admit(request, route.role)
        call = Call(request, operations, caller, read_query(request, route.query))
        with crowd.asking(request):
            return await route.handler(call)

    options: dict[str, Any] = {"expect_handler": _expect}
    if route.method == hdrs.METH_GET:
        app.router.add_get(route.path, handle, allow_head=route.head, **options)
    else:
        app.router.add_route(route.method, route.path, handle, **options)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect` before the body comes: 100-continue, or 417 (aiohttp does this outside of middlewares)."""
    if request.version < HttpVersion11:
        return None  # RFC 9110 section 10.1.1: an expectation in HTTP/1.0 is ignored
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        return problem.response(417, "ExpectationFailed", "the only expectation understood is 100-continue")
    if (request.content_length or 0) <= MAX_BODY:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    return None


def _quiet_logger() -> logging.Logger:
    logger = logging.getLogger("tidegate.admin.server")
    logger.addFilter(_without_traceback)
    return logger


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True
