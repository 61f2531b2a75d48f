"""The endpoint of the mixed traffic: every kind of body, both ways, and answers that go wrong.

`/large` is `LARGE` bytes with a length, `/pieces` as many in chunks, `/events` an event every half second until the
client leaves, `/error` a 500, `/broken` ends in the middle of its body. Whatever has a body of its own is read to
its end and answered with the number of its bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter

LARGE = 4 << 20
EVENT = b"data: tick\n\n"
EVERY_S = 0.5
_PIECE = bytes(64 << 10)
_OK = b"HTTP/1.1 200 OK\r\n"


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer what comes on one connection."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            path = head.split(b" ", 2)[1].removeprefix(b"/many/")
            if head.startswith(b"get "):
                if not await _give(path, writer):
                    break
            else:
                await _take(head, reader, writer)
    writer.transport.abort()


async def _give(path: bytes, writer: StreamWriter) -> bool:
    """Answer a GET; return whether the connection goes on."""
    if path == b"large":
        writer.write(_OK + b"Content-Length: %d\r\n\r\n" % LARGE)
        for _ in range(LARGE // len(_PIECE)):
            writer.write(_PIECE)
            await writer.drain()
    elif path == b"pieces":
        writer.write(_OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(LARGE // len(_PIECE)):
            writer.write(b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE))
            await writer.drain()
        writer.write(b"0\r\nx-sum: none\r\n\r\n")
    elif path == b"events":
        writer.write(_OK + b"Content-Type: text/event-stream\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(EVENT)
            await writer.drain()
            await asyncio.sleep(EVERY_S)
        return False
    elif path == b"error":
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nbad\n")
    elif path == b"broken":
        writer.write(_OK + b"Content-Length: 1000\r\n\r\nhalf")
        await writer.drain()
        return False
    else:
        writer.write(_OK + b"Content-Length: 3\r\n\r\nok\n")
    return True


async def _take(head: bytes, reader: StreamReader, writer: StreamWriter) -> None:
    """Read a body to its end and say how much it was."""
    taken = 0
    if b"\r\ntransfer-encoding: chunked" in head:
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            taken += len(await reader.readexactly(size))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            continue
    else:
        left = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        while taken < left:
            data = await reader.read(min(left - taken, 64 << 10))
            if not data:
                raise EOFError
            taken += len(data)
    text = b"%d" % taken
    writer.write(_OK + b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
