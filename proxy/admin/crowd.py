"""How many connections the admin API holds at once, and who goes when there are more.

The supervisor's loop decides about the gate, and its descriptors are few: a thousand forgotten connections must neither
slow it nor keep the operator out who wants to roll back. So there are at most `MOST`. Whoever comes next is let in all
the same: the oldest connection on which nothing is being asked is closed for it, also one that has never asked. When
something is being asked on every one of them (that takes a token), it is answered 503 and let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from proxy.admin import problem

MOST = 512
MOST_REFUSED = 64  # that are being told so; who comes beyond that is cut off
LINGER_S = 1.0  # for whoever is refused to read the answer

_DETAIL = f"{MOST} connections are asking already: try again, and close what is not used"


class Crowd:
    """The connections of one application. `busy`: those on which something is being asked."""

    def __init__(self, most: int = MOST) -> None:
        self.busy: set[object] = set()
        self.refused = 0
        self._most = most

    @contextmanager
    def asking(self, request: web.Request) -> Iterator[None]:
        """Keep the connection of an admitted request while it is being answered."""
        connection = request.protocol
        self.busy.add(connection)
        try:
            yield
        finally:
            self.busy.discard(connection)

    def receive(self, server: web.Server) -> asyncio.Protocol:
        """Return what speaks with the next connection."""
        connections = server.connections
        if len(connections) < self._most:
            return server()
        idle = next((one for one in connections if one not in self.busy and one.transport is not None), None)
        if idle is None:
            return _Refusing(self)
        idle.force_close()
        return server()


CROWD: web.AppKey[Crowd] = web.AppKey("crowd", Crowd)


class Runner(web.AppRunner):
    """aiohttp's runner whose connections are received by the application's crowd."""

    __slots__ = ()

    @property
    def server(self) -> web.Server | None:
        """What a site calls for every connection; `None` before the set-up."""
        server = super().server
        if server is None:
            return None
        crowd = self.app[CROWD]
        return lambda: crowd.receive(server)  # type: ignore[return-value]  # all that a site does with it is to call it


class _Refusing(asyncio.Protocol):
    """Answers 503 to a connection, whatever it asks, and lets it go."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer, and wait a little for the other side to read it."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream is needed")
        self._crowd.refused += 1
        if self._crowd.refused > MOST_REFUSED:
            transport.abort()
            return
        transport.write(_refusal())
        transport.write_eof()
        self._end = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Count it out."""
        self._crowd.refused -= 1
        if self._end is not None:
            self._end.cancel()


def _refusal() -> bytes:
    answer = problem.response(503, "TooManyConnections", _DETAIL)
    body = answer.body
    if not isinstance(body, bytes):
        raise TypeError("a problem's body is bytes")
    fields = {
        **answer.headers,
        "Content-Type": problem.MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Retry-After": "1",
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + body
