"""The access log: one JSON object per request, written in batches.

A worker appends lines to a buffer (1 µs each) and hands the buffer to the kernel once per sweep with O_APPEND, so
that lines of several workers never mix within a write. No header is logged, so there is nothing to redact but the
query of the target, which stays out as well. What cannot be written (disk full, not open) is dropped and counted.
"""

from __future__ import annotations

import os
from time import monotonic_ns, time
from typing import TYPE_CHECKING

import orjson

from proxy.http1.head import Refusal
from proxy.routing.table import VERSIONS
from proxy.routing.table import AccessLog as Settings

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange

_STDOUT = 1
_CLOSED = -1


class AccessLog:
    """The log of one worker; `lost` counts lines that could not be written."""

    __slots__ = ("_descriptor", "_lines", "_min_status", "_sample", "_skipped", "lost", "path")

    def __init__(self, settings: Settings) -> None:
        """Make a log that is not open yet."""
        assert settings.path is not None
        self.path = settings.path
        self._descriptor = _CLOSED
        self._sample = settings.sample
        self._min_status = settings.min_status
        self._lines: list[bytes] = []
        self._skipped = 0.0
        self.lost = 0

    @property
    def is_open(self) -> bool:
        """Whether there is anything to write to."""
        return self._descriptor != _CLOSED

    def open(self) -> None:
        """Open it; raise `OSError` where that cannot be. A pipe that nobody reads cannot, and is not waited for."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.dup(_STDOUT) if self.path == "-" else os.open(self.path, flags, 0o640)

    def add(self, exchange: Exchange) -> None:
        """Note an exchange that is over."""
        if not self._takes(exchange.status):
            return
        head = exchange.head
        self._write(
            {
                "time": round(time(), 3),
                "service": exchange.service.name,
                "version": VERSIONS[exchange.version.index],
                "label": exchange.version.label,
                "client": exchange.downstream.peer.decode("latin-1"),
                "method": head.method.decode("latin-1"),
                "host": head.host.decode("latin-1"),
                "path": head.path.decode("latin-1"),
                "status": exchange.status,
                "bytes": exchange.response_size,
                "duration_ms": (monotonic_ns() - exchange.arrived_ns) // 1000 / 1000,
                "request_id": exchange.request_id.decode("latin-1"),
            }
        )

    def add_refusal(self, refusal: Refusal, client: bytes, request_id: bytes) -> None:
        """Note an answer to what never became an exchange: a malformed head, no service, too many connections."""
        if not self._takes(refusal.status):
            return
        self._write(
            {
                "time": round(time(), 3),
                "service": None,
                "client": client.decode("latin-1"),
                "status": refusal.status,
                "reason": refusal.reason,
                "request_id": request_id.decode("latin-1"),
            }
        )

    def _takes(self, status: int) -> bool:
        if status < self._min_status:
            return False
        # Even thinning: every line adds its share, a whole share is a line.
        self._skipped += self._sample
        if self._skipped < 1.0:
            return False
        self._skipped -= 1.0
        return True

    def _write(self, entry: dict[str, object]) -> None:
        self._lines.append(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write what has come together."""
        lines = self._lines
        if not lines:
            return
        self._lines = []
        block = b"".join(lines)
        try:
            written = os.write(self._descriptor, block)
        except OSError:
            written = 0
        if written < len(block):
            self.lost += block.count(b"\n", written)

    def close(self) -> None:
        """Write the rest and close."""
        self.flush()
        if self.is_open:
            os.close(self._descriptor)
            self._descriptor = _CLOSED
