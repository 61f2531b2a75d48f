"""A connection to an endpoint.

It is either resting in its pool (`exchange` is None), where it must be silent, or it serves one exchange (or
tunnel), to which it hands everything that arrives. What a response *is* is the exchange's business.

After the answer to a HEAD it stands *aside* for a moment before it rests: endpoints that send a body with it are not
rare, the body comes right behind the head, and would be the answer to whoever is served next (RFC 9112 §6.3).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from errno import EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM
from fcntl import ioctl
from termios import FIONREAD, TIOCOUTQ
from time import monotonic_ns
from typing import TYPE_CHECKING, cast

from proxy.aio import borrowed, break_off
from proxy.dataplane.tls import TlsLayer

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.hosts import Name
    from proxy.dataplane.pool import Pool, Trust
    from proxy.dataplane.tunnel import Tunnel
    from proxy.dataplane.worker import Worker
    from proxy.http1.head import ResponseHead


OUR_OWN = frozenset((EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM))  # we have no port, descriptor, memory left
_TO_LOOK_UP = 0.8  # of the connect timeout, for the very first look-up of a name: then there is time to say why
_READ_BYTES = 256 * 1024
_LAST_READS = 8
_FINISH_TICKS = 200  # 10 s
_ASIDE_TICKS = 2


class Upstream(asyncio.Protocol):
    """One connection; `reused` once it has served an exchange, `reusable` until something forbids it.

    `address`: which one of its endpoint's name it is, or is tried with; "" where the endpoint has no name.
    """

    __slots__ = (
        "_aside",
        "_connecting",
        "_limit",
        "_open",
        "_reading_paused",
        "_trust",
        "address",
        "began_ns",
        "due",
        "ended",
        "exchange",
        "filed",
        "interims_size",
        "last",
        "pool",
        "reusable",
        "reused",
        "transport",
        "worker",
        "writing_paused",
    )

    transport: asyncio.Transport

    def __init__(self, worker: Worker, pool: Pool, exchange: Exchange) -> None:
        self.worker = worker
        self.pool = pool
        self.exchange: Exchange | Tunnel | None = exchange
        self.reused = False
        self.reusable = True
        self.interims_size = 0  # of the interim responses to the request in progress
        self.last: ResponseHead | None = None  # the head that came here before
        self.ended = False
        self.writing_paused = False
        self.due = 0
        self.filed = 0
        self.began_ns = monotonic_ns()
        self.address = ""
        self._aside = False
        self._open = False
        self._reading_paused = False
        self._trust = pool.tls
        self._limit: asyncio.Timeout | None = None  # the time of the address that is tried
        worker.upstreams.add(self)
        self._connecting: asyncio.Task[None] | None = worker.loop.create_task(self._connect())

    async def _connect(self) -> None:
        pool = self.pool
        endpoint = pool.endpoint
        loop = self.worker.loop
        try:
            if endpoint.unix is not None:
                await loop.create_unix_connection(lambda: self, endpoint.unix)
            elif pool.name is not None:
                await self._connect_by_name(pool.name)
            else:
                await self._connect_to(endpoint.host)
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be looked up, or asked for in TLS
            self._connecting = None
            self.worker.upstreams.discard(self)
            if isinstance(error, ssl.SSLError | ValueError):
                pool.tls_failed(self.worker, error)
            elif error.errno in {EMFILE, ENFILE}:
                self.worker.no_descriptor()
            self._tell_end(error)

    async def _connect_to(self, host: str) -> None:
        if self._trust is not None:
            await self._connect_tls(self._trust, host)
        else:
            await self.worker.loop.create_connection(lambda: self, host, self.pool.endpoint.port)

    async def _connect_by_name(self, name: Name) -> None:
        """Try the addresses of a name, each for its part of what is left of the time; the last one gets the rest."""
        time = self.worker.loop.time
        until = time() + self.pool.connect_s
        addresses = await name.candidates(self.pool.connect_s * _TO_LOOK_UP)
        for left in range(len(addresses), 0, -1):
            self.address = addresses[-left]
            try:
                async with asyncio.timeout((until - time()) / left if left > 1 else None) as self._limit:
                    await self._connect_to(self.address)
            except OSError as error:
                if isinstance(error, ssl.SSLError) or error.errno in OUR_OWN:
                    raise
                name.avoid(self.address)
                if left == 1:
                    raise
            else:
                return

    async def _connect_tls(self, tls: Trust, host: str) -> None:
        """Connect and shake hands: the connection is made when both are done."""
        loop = self.worker.loop
        opened = loop.create_future()
        turns = self.worker.turns
        layer = TlsLayer(self, tls.context, turns, server_name=tls.server_name, session=tls.session, opened=opened)
        try:
            await loop.create_connection(lambda: layer, host, self.pool.endpoint.port)
            await opened
        except BaseException:
            layer.give_up()
            raise

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the exchange that asked for this connection."""
        self.transport = cast("asyncio.Transport", transport)
        if self._connecting is None or self._connecting.cancelling():
            # Given up just now, by its exchange or because its time is over.
            self.transport.abort()
            return
        self._connecting = None
        if self._limit is not None:
            self._limit.reschedule(None)  # uvloop would close what is made, and tell nobody
        self._open = True
        if self.address:
            cast("Name", self.pool.name).made(self)
        # 0: a write that the kernel does not take whole pauses the sender at once, so that what the proxy holds
        # is never more than one read (uvloop: 256,000 bytes).
        self.transport.set_write_buffer_limits(high=0)
        try:
            self.exchange.connected()  # type: ignore[union-attr]  # no tunnel is made before a connection
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(error)

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the exchange."""
        exchange = self.exchange
        if exchange is None:
            # A resting connection has nothing to say: what it says could be taken for the next answer.
            self.pool.unasked = True
            self.close()
            return
        try:
            exchange.response_received(data)
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(error)

    def take_turn(self) -> bool:
        """Have more passed on of an answer that is in very many chunks; return whether some of it waits still."""
        exchange = self.exchange
        if exchange is None:
            return False
        return exchange.answer_on()  # type: ignore[union-attr]  # what waits is no tunnel's

    def eof_received(self) -> bool:
        """Take the endpoint's FIN; only a tunnel goes on half open."""
        exchange = self.exchange
        if exchange is not None and exchange.body_left and hasattr(exchange, "endpoint_ended"):
            try:
                exchange.endpoint_ended()
            except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
                self._broken(error)
            return True
        if exchange is None:
            self.close()  # at once: until `connection_lost` comes, a request could still take it out of the pool
        else:
            self._tell_end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        if not self._open:
            return  # it had been given up before it was made
        self._open = False
        self.reusable = False
        self.worker.wheel.drop(self)
        self._leave_pool()
        if self.address:
            cast("Name", self.pool.name).lost(self)
        self.worker.upstreams.discard(self)
        self.worker.finishing.discard(self)
        if exc is not None and self.exchange is not None:
            self._take_last_words()
        self._tell_end(exc)

    def pause_writing(self) -> None:
        """Stop reading from the client: the endpoint does not take more of the request body."""
        self.writing_paused = True
        if self.exchange is not None:
            self.exchange.downstream.pause_reading()

    def resume_writing(self) -> None:
        """Go on reading from the client."""
        self.writing_paused = False
        exchange = self.exchange
        if exchange is not None:
            exchange.active_tick = self.worker.wheel.tick  # from now on it is the client who may be late
            exchange.downstream.resume_reading()

    # ---------------------------------------------------------------- for the exchange

    def pause_reading(self) -> None:
        """Stop reading the response; on a connection that is being made nothing is read anyway."""
        if self._open and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading the response."""
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def rest(self) -> None:
        """Go back to the pool."""
        pool = self.pool
        if self._trust is not None and not self.reused:
            self._trust.session = cast("TlsLayer", self.transport).session
        self.reused = True
        if self._reading_paused:
            self.resume_reading()
        wheel = self.worker.wheel
        if self.last is not None and self.last.bodiless and not self._aside:
            self._aside = True
            wheel.arm(self, _ASIDE_TICKS)
            return
        pool.idle.append(self)
        self.due = due = wheel.tick + pool.idle_ticks
        if due < self.filed or not self.filed:
            wheel.arm(self, pool.idle_ticks)

    def expire(self, _now: int) -> None:
        """Close a connection that rested for `timeouts.pool_idle`, or does not take the last of what was written."""
        if self._aside and self.reusable:
            self.rest()
            self._aside = False
        elif self.exchange is None:
            self.close()

    def abort(self) -> None:
        """Close now, and the client's connection with it."""
        if self.exchange is not None:
            self.exchange.downstream.abort()
        self.close()

    def close(self) -> None:
        """Close at once, whether connected, connecting or resting."""
        self.reusable = False
        self.due = 0
        self.exchange = None
        self._leave_pool()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
            self.worker.upstreams.discard(self)
        elif self._open:
            if self.writing_paused or self._unsent():
                # A FIN would wait behind what the endpoint does not take, and the kernel would hold that for minutes.
                break_off(self.transport)
            self.transport.abort()

    @property
    def rests_since(self) -> int:
        """The tick at which it went back to the pool, while it rests there."""
        return self.due - self.pool.idle_ticks

    @property
    def made(self) -> bool:
        """Whether the connection is made, and not lost yet."""
        return self._open

    def speaks(self) -> bool:
        """Whether something has come that the loop has not read yet."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        return ioctl(descriptor, FIONREAD, b"\0\0\0\0") != b"\0\0\0\0"

    def _unsent(self) -> bool:
        """Whether the kernel still holds something that was written here."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        return ioctl(descriptor, TIOCOUTQ, b"\0\0\0\0") != b"\0\0\0\0"

    def finish(self) -> None:
        """Close after everything written has gone out, but do not wait for that for ever."""
        self.reusable = False
        self.exchange = None
        if self._open:
            self.worker.finishing.add(self)
            self.transport.close()
            self.worker.wheel.arm(self, _FINISH_TICKS)

    def cut(self) -> None:
        """Break off: the endpoint must not take what it got for the whole."""
        if self._open:
            break_off(self.transport)
        self.close()

    def _take_last_words(self) -> None:
        """Take what the endpoint said before it broke off.

        An endpoint that refuses a body answers and closes, and the kernel resets. When that is first noticed by a
        write, the answer that explains it has not been read yet.
        """
        layer = self.transport
        receive = layer.data_received if isinstance(layer, TlsLayer) else self.data_received
        with borrowed(layer) as sock:
            for _ in range(_LAST_READS):
                try:
                    data = sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
                except OSError:
                    return
                if not data or self.exchange is None:
                    return
                receive(data)

    def _leave_pool(self) -> None:
        try:
            self.pool.idle.remove(self)
        except ValueError:
            return  # it was in use

    def _tell_end(self, error: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        try:
            exchange.upstream_ended(error)
        except Exception as fault:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(fault)

    def _broken(self, error: Exception) -> None:
        self.worker.internal_error(error)
        self.abort()
