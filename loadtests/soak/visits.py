"""What the visitors of a soak do, one connection each, and what must come of it.

A *visit* returns when all was as it must be, and raises `Wrong` when it was not.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from loadtests.soak.endpoint import EVENT, LARGE

PATIENCE_S = 30.0
EVENTS = 20
ODD = 7919  # bytes of a chunk
CHUNKS = 40


class Wrong(Exception):
    """Something else came than must come."""


class Visitors:
    """Where the visits go: the plain port and the encrypted one, all on 127.0.0.1."""

    def __init__(self, plain: int, encrypted: int, trust: ssl.SSLContext) -> None:
        self._plain = plain
        self._encrypted = encrypted
        self._trust = trust

    @asynccontextmanager
    async def _connected(self, *, tls: bool = False) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        if tls:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._encrypted, ssl=self._trust, server_hostname="localhost"
            )
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._plain)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _get(self, path: str, status: int, *, tls: bool = False) -> bytes:
        async with self._connected(tls=tls) as (reader, writer):
            writer.write(b"GET /many/%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode())
            return _body(await reader.read(-1), status)

    async def download(self) -> None:
        """Take a large body with a length."""
        _must(len(await self._get("large", 200)), LARGE)

    async def download_encrypted(self) -> None:
        """Take a large body through TLS."""
        _must(len(await self._get("large", 200, tls=True)), LARGE)

    async def pieces(self) -> None:
        """Take a large body in chunks."""
        body = await self._get("pieces", 200)
        _must(len(body) >= LARGE and body.endswith(b"\r\n\r\n"), True)  # noqa: FBT003 -- what must be

    async def encrypted(self) -> None:
        """Take a small answer through TLS."""
        _must(await self._get("small", 200, tls=True), b"ok\n")

    async def error(self) -> None:
        """Get the endpoint's own error."""
        _must(await self._get("error", 500), b"bad\n")

    async def broken(self) -> None:
        """Get half of an answer, and see that it is not whole."""
        _must(await self._get("broken", 200), b"half")

    async def malformed(self) -> None:
        """Send what is refused."""
        async with self._connected() as (reader, writer):
            writer.write(b"GET /many/ HTTP/1.1\r\nHost : a\r\n\r\n")
            _body(await reader.read(-1), 400)

    async def upload(self) -> None:
        """Send a large body with a length."""
        async with self._connected() as (reader, writer):
            writer.write(
                b"POST /many/up HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % LARGE
            )
            for _ in range(LARGE >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()
            _must(_body(await reader.read(-1), 200), b"%d" % LARGE)

    async def chunked(self) -> None:
        """Send chunks and a trailer."""
        async with self._connected() as (reader, writer):
            writer.write(
                b"POST /many/up HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(CHUNKS):
                writer.write(b"%x\r\n%b\r\n" % (ODD, bytes(ODD)))
                await writer.drain()
            writer.write(b"0\r\nx-sum: none\r\n\r\n")
            _must(_body(await reader.read(-1), 200), b"%d" % (CHUNKS * ODD))

    async def leave_download(self) -> None:
        """Leave in the middle of an answer."""
        async with self._connected() as (reader, writer):
            writer.write(b"GET /many/large HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readexactly(1 << 16)

    async def leave_upload(self) -> None:
        """Leave in the middle of a request."""
        async with self._connected() as (_, writer):
            writer.write(b"POST /many/up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
            writer.write(bytes(1 << 16))
            await writer.drain()
            await asyncio.sleep(0.05)

    async def leave_head(self) -> None:
        """Leave in the middle of a head."""
        async with self._connected() as (_, writer):
            writer.write(b"GET /many/large HTTP/1.1\r\nHos")
            await asyncio.sleep(0.05)

    async def events(self) -> None:
        """Listen to events for ten seconds, and leave."""
        async with self._connected() as (reader, writer):
            writer.write(b"GET /many/events HTTP/1.1\r\nHost: a\r\n\r\n")
            for _ in range(EVENTS):
                await reader.readuntil(EVENT)

    def every(self) -> dict[Callable[[], Awaitable[None]], float]:
        """Return all visits, and how many of each begin in a second."""
        return {
            self.download: 1.0,
            self.pieces: 0.5,
            self.download_encrypted: 0.5,
            self.encrypted: 5.0,
            self.error: 5.0,
            self.broken: 1.0,
            self.malformed: 2.0,
            self.upload: 1.0,
            self.chunked: 2.0,
            self.leave_download: 2.0,
            self.leave_upload: 2.0,
            self.leave_head: 2.0,
            self.events: 2.0,
        }


def _body(answer: bytes, status: int) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 %d " % status):
        raise Wrong(f"{status} must come, and this came: {head[:200]!r}")
    return body


def _must(found: object, expected: object) -> None:
    if found != expected:
        raise Wrong(f"{expected!r} must come, and this came: {found!r}"[:300])
