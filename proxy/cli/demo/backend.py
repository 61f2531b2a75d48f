"""An embedded backend: answers a small text, counts what it gets, and fails in the way it is told to.

It keeps its own books, so that what the proxy says about it can be checked against them: requests, bad answers, and
for every request when it came (`CLOCK_MONOTONIC`, ns) and when the client had sent it (the field `x-sent-ns`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

WELL, ERRORS, SLOW = "well", "errors", "slow"
SLOW_S = 0.4


@dataclass(slots=True)
class Backend:
    """The state of one backend. `mode` is one of `WELL`, `ERRORS` (500 at once), `SLOW` (200 after `SLOW_S`).

    `first_bad_ns`: when the first request came that was answered badly.
    """

    name: str
    mode: str = WELL
    requests: int = 0
    bad: int = 0
    first_bad_ns: int = 0
    arrivals: list[tuple[int, int]] = field(default_factory=list)

    def fail(self, mode: str) -> None:
        """Begin to fail (or, with `WELL`, end it); the books of the round start afresh."""
        self.mode = mode
        self.first_bad_ns = 0
        self.arrivals.clear()

    def after(self, instant_ns: int) -> tuple[int, int]:
        """Count what came after `instant_ns`: (sent after it as well, sent before it and under way)."""
        late = [sent for arrived, sent in self.arrivals if arrived > instant_ns]
        sent_after = sum(sent > instant_ns for sent in late)
        return sent_after, len(late) - sent_after

    def answer(self, head: bytes) -> tuple[bytes, float]:
        """Count a request and return the response and the seconds to wait before it is sent."""
        now = time.monotonic_ns()
        self.requests += 1
        self.arrivals.append((now, _sent_ns(head)))
        if self.mode == WELL:
            return self._good(), 0
        self.bad += 1
        if not self.first_bad_ns:
            self.first_bad_ns = now
        if self.mode == SLOW:
            return self._good(), SLOW_S
        return b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 0

    def _good(self) -> bytes:
        body = b"hello from %s\n" % self.name.encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class BackendConnection(asyncio.Protocol):
    """One connection from the proxy: heads without bodies, one after the other."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every complete head."""
        heads = (self._received + data).split(b"\r\n\r\n")
        self._received = heads.pop()
        for head in heads:
            response, wait_s = self._backend.answer(head)
            if wait_s:
                asyncio.get_running_loop().call_later(wait_s, self._write, response)
            else:
                self._write(response)

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, response: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)


def _sent_ns(head: bytes) -> int:
    """Return the value of `x-sent-ns`, 0 when the request has none (it is not from the load)."""
    _, found, rest = head.partition(b"\r\nx-sent-ns: ")
    return int(rest.partition(b"\r\n")[0]) if found else 0
