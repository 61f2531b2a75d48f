"""WebSockets that are kept open: the endpoints' side that echoes, and clients that send and count what comes back.

Only what RFC 6455 asks of peers that are sure of each other: a handshake (§4), then text frames of one size that come
back as they are, and pings that are answered (§5.5.2). A client masks (§5.1) with a key of zeros.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha1
from typing import cast

from loadtests.kills.traffic import Endpoint, Traffic
from proxy.cli.demo.backend import BackendConnection

TEXT, PING, PONG = 0x81, 0x89, 0x8A
SIZE = 32
_HEAD = 2
_KEY = bytes(4)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: session=%b\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A tunnel that ended, or that was refused (`opened` is 0): the client's port, instants of CLOCK_MONOTONIC."""

    port: int
    opened: float
    ended: float
    how: str


class Quiet(Endpoint):
    """An endpoint without a book."""

    def answer(self, head: bytes) -> tuple[bytes, float]:
        """Answer, and count it."""
        del head
        self.requests += 1
        return self._good(), 0.0


class Echo(BackendConnection):
    """A connection of an endpoint, which answers requests until one asks for a WebSocket."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._frames: bytearray | None = None

    def data_received(self, data: bytes) -> None:
        """Answer requests, accept a handshake, and echo."""
        if self._frames is None:
            _, asked, rest = data.partition(b"\r\nSec-WebSocket-Key: ")
            if not asked:
                super().data_received(data)
                return
            accept = b64encode(sha1(rest.partition(b"\r\n")[0] + _GUID).digest())  # noqa: S324 -- as the RFC says
            self._write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
            self._frames = bytearray()
            return
        frames = self._frames
        frames += data
        while len(frames) >= _HEAD + len(_KEY) + SIZE:
            kind = PONG if frames[0] == PING else frames[0]
            payload = frames[_HEAD + len(_KEY) : _HEAD + len(_KEY) + SIZE]
            del frames[: _HEAD + len(_KEY) + SIZE]
            self._write(bytes((kind, SIZE)) + payload)


class Tunnel(asyncio.Protocol):
    """A client's WebSocket. It opens another one when it ends, until it is left."""

    def __init__(self, traffic: HeldTraffic, number: int, port: int) -> None:
        self._traffic = traffic
        self._number = number
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._own_port = 0
        self._opened = 0.0
        self._expected = b""
        self._serial = 0
        self.left = False

    async def open(self) -> None:
        """Connect; try again while there is nobody."""
        while not self.left:
            try:
                await self._traffic.loop.create_connection(lambda: self, "127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return

    def send(self) -> None:
        """Send a text, or a ping every other time; what was sent before must have come back."""
        if not self._opened or self._transport is None:
            return
        if self._expected:
            self._traffic.late_echoes += 1
            return
        self._serial += 1
        kind, back = ((TEXT, TEXT), (PING, PONG))[self._serial % 2]
        payload = b"%032d" % self._serial
        self._expected = bytes((back, SIZE)) + payload
        self._transport.write(bytes((kind, 0x80 | SIZE)) + _KEY + payload)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        self._transport = cast("asyncio.Transport", transport)
        self._own_port = transport.get_extra_info("sockname")[1]
        self._received.clear()
        self._expected = b""
        key = b64encode(b"%016d" % self._number)
        self._transport.write(_HANDSHAKE % (b"user-%d" % self._number, key))

    def data_received(self, data: bytes) -> None:
        """Take the answer to the handshake, then what comes back."""
        self._received += data
        if not self._opened:
            head, whole, _ = self._received.partition(b"\r\n\r\n")
            if not whole:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._over(head[9:12].decode())
                self.leave()
                return
            self._opened = time.monotonic()
            self._received.clear()
            return
        if len(self._received) < len(self._expected):
            return
        if self._received != self._expected:
            self._over("garbled")
            self.leave()
            return
        self._received.clear()
        self._expected = b""
        self._traffic.echoes += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, and open another one."""
        self._transport = None
        if not self.left:
            self._over("end" if exc is None else "reset")
            self._traffic.reopen(self)

    def _over(self, how: str) -> None:
        self._traffic.ended.append(Ended(self._own_port, self._opened, time.monotonic(), how))
        self._opened = 0.0

    @property
    def open_now(self) -> bool:
        """Whether the handshake is done and nothing has ended."""
        return self._opened > 0

    def leave(self) -> None:
        """Close, and count nothing of it."""
        self.left = True
        if self._transport is not None:
            self._transport.abort()


class HeldTraffic(Traffic):
    """The traffic of the kill game with WebSockets beside the requests.

    `ended`: every tunnel that ended, as it happens. `echoes`: what came back. `late_echoes`: what had not come back
    when the next was due, a second later.
    """

    def __init__(self, *, fresh: float, keeping: int) -> None:
        super().__init__(fresh=fresh, keeping=keeping)
        self.stable, self.new = Quiet("stable"), Quiet("new")
        self.ended: list[Ended] = []
        self.echoes = self.late_echoes = 0
        self._tunnels: list[Tunnel] = []
        self._reopening = True
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the traffic's thread."""
        return self._loop

    @property
    def open_tunnels(self) -> int:
        """How many are open."""
        return sum(tunnel.open_now for tunnel in self._tunnels)

    def open_all(self, port: int, count: int) -> None:
        """Open so many tunnels, and let each of them speak once a second."""

        def begin() -> None:
            self._tunnels = [Tunnel(self, number, port) for number in range(count)]
            for tunnel in self._tunnels:
                self.reopen(tunnel)
            self._opening.add(self._loop.create_task(self._speak()))

        self._loop.call_soon_threadsafe(begin)

    async def _speak(self) -> None:
        turn = 0
        while True:
            for tunnel in self._tunnels[turn % 10 :: 10]:
                tunnel.send()
            turn += 1
            await asyncio.sleep(0.1)

    def reopen(self, tunnel: Tunnel) -> None:
        """Open a tunnel, unless the end has come."""
        if self._reopening:
            task = self._loop.create_task(tunnel.open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def last_tunnels(self) -> None:
        """Open no more of them."""
        self._reopening = False

    def leave_tunnels(self) -> None:
        """Close what is open, and count nothing of it."""
        self._reopening = False
        for tunnel in self._tunnels:
            self._loop.call_soon_threadsafe(tunnel.leave)

    def _accepted(self, endpoint: Endpoint) -> BackendConnection:
        connection = Echo(endpoint)
        self._accepted_all.add(connection)
        return connection
