"""What an exchange becomes after a 101: raw bytes in both directions, no frames, no cap on sizes.

It takes the exchange's place on both connections and answers the same calls. Each direction ends on its own
(half-close); the tunnel is over when both have, or when one side breaks. Its connection counts as in flight on its
version and endpoint until then. What it holds is bounded by one read in each direction: whoever does not take what
was written is not read for.

How it ends: a FIN is passed on as a FIN, behind everything that came before it; a break (RST) as a break, so that
nobody takes what came for the whole. The proxy itself ends it after `timeouts.tunnel_idle` of silence and after a
rollback (`on_rollback`): with FIN to both, and what the client still sends is read and dropped for a moment, so that
nothing that is on its way to it is lost. There is no close frame (RFC 6455 §5.5.1): in the middle of another one it
would be taken for a part of that. A WebSocket client reports 1006 then, and comes again. At the end of a drain
everything is broken off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.upstream import Upstream


class Tunnel:
    """Two connections joined; `exchange` is the request that made it."""

    __slots__ = ("active_tick", "body_left", "downstream", "exchange", "upstream")

    def __init__(self, exchange: Exchange, downstream: Downstream, upstream: Upstream) -> None:
        self.exchange = exchange
        self.downstream = downstream
        self.upstream = upstream
        self.body_left = -1  # everything that comes is ours
        self.active_tick = 0

    def begin(self) -> None:
        """Pass on what the client sent behind its handshake, and watch for silence."""
        worker = self.downstream.worker
        worker.tunnels += 1
        self.exchange.version.tunnels += 1
        self.active_tick = worker.wheel.tick
        early = self.downstream.buffer
        if early:
            self.downstream.buffer = b""
            self.upstream.transport.write(early)
        if self.downstream.reading_paused and not self.upstream.writing_paused:
            self.downstream.resume_reading()
        if self.downstream.ended:
            self.client_ended()
        worker.wheel.arm(self.downstream, self.exchange.service.tunnel_idle_ticks)

    def request_received(self, data: bytes) -> None:
        """Pass bytes to the endpoint."""
        self.active_tick = self.downstream.worker.wheel.tick
        self.upstream.transport.write(data)

    def response_received(self, data: bytes) -> None:
        """Pass bytes to the client."""
        self.active_tick = self.downstream.worker.wheel.tick
        self.exchange.response_size += len(data)
        self.downstream.transport.write(data)

    def client_ended(self) -> None:
        """Pass the client's half-close on."""
        self.downstream.ended = True
        if self.upstream.ended:
            self._over()
        else:
            self.upstream.transport.write_eof()

    def endpoint_ended(self) -> None:
        """Pass the endpoint's half-close on."""
        self.upstream.ended = True
        if self.downstream.ended:
            self._over()
        else:
            self.downstream.transport.write_eof()

    def abandon(self) -> None:
        """Take the break of the client's connection."""
        self._part()
        self.upstream.cut()

    def upstream_ended(self, error: Exception | None) -> None:
        """Take the end of the endpoint's connection."""
        self._part()
        self.upstream.close()
        if error is None:
            self.downstream.close()
        else:
            self.downstream.cut()

    def hold(self) -> None:
        """Stop reading from the endpoint: the client does not take more."""
        self.upstream.pause_reading()

    def unhold(self) -> None:
        """Go on reading from the endpoint."""
        self.upstream.resume_reading()

    def expire(self, _now: int) -> None:
        """Close after `timeouts.tunnel_idle` without a byte in either direction."""
        worker = self.downstream.worker
        left = self.active_tick + self.exchange.service.tunnel_idle_ticks - worker.wheel.tick
        if left > 0:
            worker.wheel.arm(self.downstream, left)
        else:
            self._over()

    def leave(self) -> None:
        """Close after a rollback."""
        self._over()

    def _over(self) -> None:
        self._part()
        self.upstream.finish()
        if self.downstream.ended:
            self.downstream.close()
        else:
            self.downstream.linger()

    def _part(self) -> None:
        """Count the tunnel out; each connection is on its own from here on."""
        exchange = self.exchange
        endpoint = exchange.endpoint
        if endpoint is None:
            return
        exchange.endpoint = None
        exchange.upstream = None
        exchange.version.in_flight -= 1
        exchange.version.tunnels -= 1
        endpoint.in_flight -= 1
        endpoint.pool.active -= 1
        exchange.counted_out()
        worker = self.downstream.worker
        worker.tunnels -= 1
        worker.log_exchange(exchange)
        self.downstream.exchange = None
        self.upstream.exchange = None
