"""The access log: one JSON object per request, written in batches.

A worker appends lines to a buffer (1 µs each) and hands them to a `Sink` once per sweep. No header is logged, so there
is nothing to redact but the query of the target, which stays out as well. What cannot be written (disk full, nobody
reads, not open) is dropped and counted.
"""

from __future__ import annotations

from time import monotonic_ns, time
from typing import TYPE_CHECKING

import orjson

from proxy.dataplane.sink import Sink
from proxy.http1.head import Refusal
from proxy.routing.table import VERSIONS
from proxy.routing.table import AccessLog as Settings

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange


_STDOUT = 1

# What a line says, in its order; of an answer to what never became an exchange, only what is known.
FIELDS: tuple[tuple[str, str], ...] = (
    ("time", "seconds since 1970, when the exchange was over"),
    ("service", "the name in the config; `null`: the request was refused before it had a service"),
    ("version", "`stable` or `new`: who answered, or was asked last"),
    ("label", "the label of that version"),
    ("endpoint", "its endpoint that answered, or was asked last; `null`: none was asked"),
    ("rescued", "whether `stable` answered well what `new` had failed, as `tidegate_failovers_total` counts it"),
    ("client", "the address that the connection came from, or that the PROXY protocol said; empty on a unix socket"),
    ("method", "as received"),
    ("host", "the Host, or the authority of the target"),
    ("path", "the path without its query"),
    ("status", "the status of the answer; 499: the client left before its end; 101: a tunnel that is over"),
    ("reason", "of an answer that the proxy gave itself, as in [Local replies](local-replies.md); else `null`"),
    ("bytes", "of the answer's body that were passed on"),
    ("duration_ms", "from the request's head to the end of the answer"),
    ("request_id", "the X-Request-Id that the endpoint saw, and that a local reply names"),
)


class AccessLog:
    """The log of one worker; `lost` counts lines that could not be written."""

    __slots__ = ("_lines", "_min_status", "_sample", "_sink", "_skipped", "lost", "path")

    def __init__(self, settings: Settings) -> None:
        """Make a log that is not open yet."""
        assert settings.path is not None
        self.path = settings.path
        self._sink: Sink | None = None
        self._sample = settings.sample
        self._min_status = settings.min_status
        self._lines: list[bytes] = []
        self._skipped = 0.0
        self.lost = 0

    @property
    def is_open(self) -> bool:
        """Whether there is anything to write to."""
        return self._sink is not None

    def open(self) -> None:
        """Open it; raise `OSError` where that cannot be. A pipe that nobody reads cannot, and is not waited for."""
        self._sink = Sink(_STDOUT if self.path == "-" else self.path)

    @property
    def fault(self) -> str:
        """Why lines were lost the last time, "" where it is not open."""
        return self._sink.fault if self._sink is not None else ""

    def add(self, exchange: Exchange, reason: str | None = None) -> None:
        """Note an exchange that is over; `reason`: of a local reply."""
        if not self._takes(exchange.status):
            return
        head = exchange.head
        asked = exchange.asked
        self._write(
            {
                "time": round(time(), 3),
                "service": exchange.service.name,
                "version": VERSIONS[exchange.version.index],
                "label": exchange.version.label,
                "endpoint": None if asked is None else asked.spec.url,
                "rescued": exchange.rescued,
                "client": exchange.downstream.peer.decode("latin-1"),
                "method": head.method.decode("latin-1"),
                "host": head.host.decode("latin-1"),
                "path": head.path.decode("latin-1"),
                "status": exchange.status,
                "reason": reason,
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
        self._lines = []
        self.lost += len(lines) if self._sink is None else self._sink.write(lines)

    def close(self) -> None:
        """Write the rest, as far as it is taken now, and close."""
        self.flush()
        if self._sink is not None:
            self.lost += self._sink.close()
            self._sink = None
