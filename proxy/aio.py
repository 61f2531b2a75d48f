"""What asyncio does not have: a timer that neither drifts nor catches up, and an end that is seen as a break."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

_LINGER_ZERO = struct.pack("ii", 1, 0)


def break_off(transport: asyncio.BaseTransport) -> None:
    """Have the transport's close send RST, whatever it is closed by: the other side must not take this for an end."""
    with borrowed(transport) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


@contextmanager
def borrowed(transport: asyncio.BaseTransport) -> Iterator[socket.socket]:
    """Give a transport's socket, which stays the transport's. No descriptor is needed: there may be none left."""
    sock = socket.socket(fileno=transport.get_extra_info("socket").fileno())
    try:
        yield sock
    finally:
        sock.detach()


async def every(period_s: float) -> AsyncGenerator[int]:
    """Yield at the multiples of `period_s` since the first call; the value is how many were missed just before.

    Whoever takes longer than a period, or is stopped for a while, gets one late turn and then the next
    multiple: no turn is made up for, and the phase stays.
    """
    loop = asyncio.get_running_loop()
    start, turn = loop.time(), 0
    while True:
        due = max(turn + 1, int((loop.time() - start) / period_s))
        await asyncio.sleep(start + due * period_s - loop.time())
        yield due - turn - 1
        turn = due
