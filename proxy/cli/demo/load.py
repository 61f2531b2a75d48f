"""An open-loop load: requests leave at a constant rate, whether or not the earlier ones were answered.

A closed loop waits for the answer before it sends again, and so sends least while the server is slow: its latencies
leave out exactly the bad moments ("coordinated omission"). Here every request has an *intended* send time on a fixed
grid, and its latency counts from that time, so waiting for a free connection or a late timer is inside the figure.
A request is never repeated: what the client would have seen is what is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import cast

TIMEOUT_S = 5.0
RECENT_S = 1.0
FIRST_ERROR_STATUS = 500


class Load:
    """The users of the demo: `rate` requests per second to `host`:`port`, each from one of `users` cookies.

    A request is given up after `timeout_s`.
    """

    def __init__(self, host: str, port: int, rate: float, users: int = 2000, *, timeout_s: float = TIMEOUT_S) -> None:
        self.sent = 0
        self.answered = 0
        self.errors = 0
        self._address = (host, port)
        self._step_ns = int(1e9 / rate)
        self._users = users
        self._timeout_s = timeout_s
        self._draw = random.Random(1)  # noqa: S311  (which user comes next is no secret)
        self._next_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = self._closed = False
        self._quiet = asyncio.Event()
        self._idle: list[ClientConnection] = []
        self._open: set[ClientConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._recent: deque[tuple[int, float]] = deque()  # (when it ended in ns, latency in ms)

    def start(self) -> None:
        """Begin now."""
        self._next_ns = time.monotonic_ns()
        self._due()

    async def finish(self, patience_s: float) -> None:
        """Send no more, wait for the last answers, but not longer than `patience_s`, and close every connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopping = True
        self._say_when_quiet()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), patience_s)
        self._closed = True
        for connection in list(self._open):
            connection.abort()

    def quantiles(self) -> tuple[float, float]:
        """Return p50 and p99 of the last second in ms, 0 without requests."""
        horizon = time.monotonic_ns() - int(RECENT_S * 1e9)
        while self._recent and self._recent[0][0] < horizon:
            self._recent.popleft()
        latencies = sorted(latency for _, latency in self._recent)
        if not latencies:
            return 0.0, 0.0
        return latencies[len(latencies) // 2], latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]

    def ended(self, intended_ns: int, status: int) -> None:
        """Count a response; status 0 means that none came."""
        now = time.monotonic_ns()
        self._recent.append((now, (now - intended_ns) / 1e6))
        if 0 < status < FIRST_ERROR_STATUS:
            self.answered += 1
        else:
            self.errors += 1
        self._say_when_quiet()

    def back(self, connection: ClientConnection) -> None:
        """Take a connection that is free again."""
        self._idle.append(connection)

    def gone(self, connection: ClientConnection) -> None:
        """Forget a connection that was closed."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _say_when_quiet(self) -> None:
        if self._stopping and self.sent == self.answered + self.errors:
            self._quiet.set()

    def _due(self) -> None:
        now = time.monotonic_ns()
        while self._next_ns <= now:
            self._send(self._next_ns)
            self._next_ns += self._step_ns
        for connection in list(self._open):
            connection.expire(now - int(self._timeout_s * 1e9))
        wait_s = max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._due)

    def _send(self, intended_ns: int) -> None:
        self.sent += 1
        if self._idle:
            self._idle.pop().send(self._request(), intended_ns)
            return
        task = asyncio.get_running_loop().create_task(self._connect(intended_ns))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, intended_ns: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await loop.create_connection(lambda: ClientConnection(self), *self._address)
        except OSError:
            self.ended(intended_ns, 0)
            return
        if self._closed:
            connection.abort()
            self.ended(intended_ns, 0)
            return
        self._open.add(connection)
        connection.send(self._request(), intended_ns)

    def _request(self) -> bytes:
        return (
            b"GET /hello HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: tidegate-demo\r\nAccept: */*\r\n"
            b"Cookie: session=user-%d\r\nx-sent-ns: %d\r\n\r\n"
        ) % (self._draw.randrange(self._users), time.monotonic_ns())


class ClientConnection(asyncio.Protocol):
    """A keep-alive connection of the load with at most one request under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._intended_ns = 0  # 0: nothing under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, intended_ns: int) -> None:
        """Send a request whose place on the grid is `intended_ns`."""
        self._intended_ns = intended_ns
        if self._transport is None or self._transport.is_closing():
            self.connection_lost(None)
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count the response once all of it is there."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or not self._intended_ns:
            return
        head = self._received[:end].lower()
        _, _, rest = head.partition(b"\r\ncontent-length:")
        length = int(rest.partition(b"\r\n")[0] or b"0")
        if len(self._received) < end + 4 + length:
            return
        intended_ns, self._intended_ns, self._received = self._intended_ns, 0, b""
        self._load.ended(intended_ns, int(head[9:12]))
        if b"\r\nconnection: close" in head:
            self.abort()
        else:
            self._load.back(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that will not be answered."""
        del exc
        self._load.gone(self)
        if self._intended_ns:
            intended_ns, self._intended_ns = self._intended_ns, 0
            self._load.ended(intended_ns, 0)

    def expire(self, before_ns: int) -> None:
        """Give up a request whose place on the grid is before an instant."""
        if self._intended_ns and self._intended_ns < before_ns:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
