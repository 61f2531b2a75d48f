"""A client's connection.

It parses heads, hands every request to an `Exchange`, and is the place where requests of one connection stand in
line: one exchange at a time, pipelined ones wait in `buffer` (as does the rest of a body that is in very many chunks),
and reading stops when too much waits. Everything that the proxy says itself (refusals, local replies) is written here.

How a connection ends: idle (keep-alive time over, FIN), after an answer that said `Connection: close`, cut (an
answer broke), or *lingering*: when the proxy answers before it has read the whole request, it half-closes and
discards what still comes for a moment, because a close with unread input makes the kernel send RST, which can
destroy the answer on its way (RFC 9112 §9.6).
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from fcntl import ioctl
from ipaddress import IPv4Address, IPv6Address, ip_address
from termios import FIONREAD, TIOCOUTQ
from time import monotonic_ns
from typing import TYPE_CHECKING, cast

from proxy.aio import borrowed, break_off
from proxy.dataplane import record
from proxy.dataplane.exchange import Exchange, local_message
from proxy.dataplane.tunnel import Tunnel
from proxy.http1.head import REMEMBERED_HEAD, Refusal, RequestHead
from proxy.http1.reply import local_reply

if TYPE_CHECKING:
    from proxy.dataplane.worker import Worker

# Pipelined bytes that may wait behind the exchange in progress.
_WAITING_BYTES = 64 * 1024
_LINGER_TICKS = 40  # 2 s
_LINGER_BYTES = 64 * 1024 * 1024
_TURNED_AWAY_MOST = 64  # for 2 s each: with TLS they cost a handshake, and who does not begin one is let go too
_TCP_ESTABLISHED = 1
_TCP_CLOSE = 7
_PEEK_TICKS = 10  # how often a connection that is not read from is asked whether its client left: 0.5 s


class Downstream(asyncio.Protocol):
    """One client connection. `ended`: the client sent FIN and `half_close: allow` waits for its answers."""

    __slots__ = (
        "_address",
        "_forwarded",
        "_forwarded_host",
        "_last",
        "_linger_left",
        "_look",
        "_taken_tick",
        "_turned_away",
        "_unsent",
        "buffer",
        "closing",
        "due",
        "ended",
        "exchange",
        "filed",
        "lingering",
        "peer",
        "reading_paused",
        "secure",
        "transport",
        "trusted",
        "worker",
        "writing_paused",
    )

    transport: asyncio.Transport

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.exchange: Exchange | Tunnel | None = None
        self.buffer = b""
        self.due = 0
        self.filed = 0
        self.peer = b""
        self.trusted = False
        self.secure = False
        self.ended = False
        self.closing = False
        self.lingering = False
        self.reading_paused = False
        self.writing_paused = False
        self._linger_left = 0
        self._look: _Look | None = None
        self._unsent = -1
        self._taken_tick = 0
        self._turned_away = False
        self._forwarded_host = b"\x00"
        self._forwarded = b""
        self._last: RequestHead | None = None
        self._address: IPv4Address | IPv6Address | None = None

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or turn it away when there are too many."""
        self.transport = cast("asyncio.Transport", transport)
        worker = self.worker
        self.transport.set_write_buffer_limits(high=0)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = plain_address(name[0])
            if worker.trusted_networks:
                self.trusted = worker.trusts(self.peer)
        worker.accepted += 1
        worker.downstreams.add(self)
        if worker.connections() >= worker.clients_most:
            worker.hold_accepting()
        if len(worker.downstreams) - worker.turned_away + worker.connections_elsewhere > worker.connection_limit:
            self._turn_away()
            return
        worker.wheel.arm(self, worker.header_ticks)

    def _turn_away(self) -> None:
        """Say that there are too many connections; so many of those who are told are kept at once, for a moment."""
        worker = self.worker
        if worker.turned_away >= _TURNED_AWAY_MOST:
            self.abort()
            return
        worker.turned_away += 1
        self._turned_away = True
        self._answer(Refusal(503, "overload", "Too many connections."), fields=b"Retry-After: 1\r\n")

    def data_received(self, data: bytes) -> None:
        """Take bytes: of a head, of the body in progress, or of requests that must wait."""
        try:
            exchange = self.exchange
            if exchange is None:
                if self.closing:
                    self._discard(len(data))
                elif self.buffer:
                    self._serve(self.buffer + data)
                else:
                    self._serve(data)
            elif exchange.body_left:
                exchange.request_received(data)
            else:
                self.line_up(self.buffer + data)
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(error)

    def take_turn(self) -> bool:
        """Take more of a request body that is in very many chunks; return whether some of it waits still."""
        exchange = self.exchange
        if self.closing or not isinstance(exchange, Exchange):
            return False
        return exchange.read_on()

    def eof_received(self) -> bool:
        """Take the client's FIN: it left, unless `half_close: allow` or a tunnel says otherwise."""
        half_open = False
        try:
            half_open = self._client_ended()
            if half_open and self.exchange is not None:
                self._look_soon()
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(error)
        return half_open

    def _client_ended(self) -> bool:
        """Return whether the connection goes on half open."""
        while self.take_turn():
            pass  # with TLS an end comes right behind what waits its turn
        exchange = self.exchange
        if isinstance(exchange, Tunnel):
            exchange.client_ended()
            return True
        if exchange is None:
            self.ended = self.worker.half_close and bool(self.buffer) and not self.closing
            return self.ended
        if self.worker.half_close and not exchange.body_left:
            self.ended = True
            return True
        self.exchange = None
        exchange.abandon()
        self.worker.log_exchange(exchange)
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        del exc
        self.closing = True
        self.worker.wheel.drop(self)
        if self._look is not None:
            self.worker.wheel.drop(self._look)
            self._look = None
        self.worker.downstreams.discard(self)
        self.worker.turned_away -= self._turned_away
        exchange = self.exchange
        if exchange is None:
            return
        self.exchange = None
        try:
            exchange.abandon()
            self.worker.log_exchange(exchange)
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self.worker.internal_error(error)

    def pause_writing(self) -> None:
        """Let the endpoint wait, its clock standing still: the client does not take more."""
        self.writing_paused = True
        self._unsent = -1
        if self.exchange is not None:
            self.exchange.hold()

    def resume_writing(self) -> None:
        """Go on."""
        self.writing_paused = False
        if self.exchange is not None:
            self.exchange.unhold()
        elif not self.closing:
            self._go_on()

    # ---------------------------------------------------------------- requests

    def _serve(self, data: bytes) -> None:
        """Parse the next head and begin its exchange."""
        worker = self.worker
        head = worker.request_parser.parse(data, 0, self.trusted, self._last)
        if head is None:
            if not self.buffer:
                worker.wheel.arm(self, worker.header_ticks)
            self.buffer = data
            if self.ended:
                self.close()
            else:
                self.resume_reading()
            return
        if isinstance(head, Refusal):
            self.buffer = b""
            if head.end and not worker.draining:
                self._answer_and_go_on(head, data[head.end :])
            else:
                self._answer(head, head_only=_asks_head(data))
            return
        self._last = head if head.end <= REMEMBERED_HEAD else None
        now = monotonic_ns()
        plane = worker.plane
        service = plane.only
        if service is None:
            service = plane.matcher.find(head.host, head.path)
            if service is None:
                self._no_service(head)
                return
        exchange = service.exchange(worker, self, service, head, now)
        self.exchange = exchange
        if not head.length:
            if len(data) > head.end:
                self.line_up(data[head.end :])
            else:
                self.buffer = b""
            exchange.begin()
            return
        self.buffer = b""
        if service.body_limit is not None and head.length > service.body_limit:
            exchange.keep = False
            self.reply(exchange, 413, "body_too_large", f"The request body is larger than {service.body_limit} bytes.")
            return
        if len(data) > head.end:
            exchange.request_received(data[head.end :])
            if self.exchange is not exchange:
                return
        exchange.begin()

    def line_up(self, data: bytes) -> None:
        """Let requests wait behind the exchange in progress; `data` is all that waits."""
        self.buffer = data
        if self.waits_full():
            self.pause_reading()

    def waits_full(self) -> bool:
        """Whether so much waits that no more is read."""
        return len(self.buffer) > _WAITING_BYTES

    def _no_service(self, head: RequestHead) -> None:
        self.buffer = b""
        self._answer(
            Refusal(404, "no_service", "No service here has this host and path."),
            head_only=head.method == b"HEAD",
            request_id=head.request_id,
        )

    def exchange_over(self, exchange: Exchange, reason: str | None = None) -> None:
        """Go on after an exchange: with the next request in line, or to the end. `reason`: of a local reply."""
        worker = self.worker
        if worker.access_log is not None:
            worker.access_log.add(exchange, reason)
        self.exchange = None
        if exchange.body_left:
            # Answered before the body was there. The rest cannot be told from the next request in time.
            self.linger()
            return
        if not exchange.keep:
            if self.buffer or self.reading_paused:
                self.linger()
            else:
                self.close()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Wait for the next request, or serve the one that waits in line."""
        worker = self.worker
        if self.writing_paused:
            # The client has not taken all of this answer: no other one may pile up behind it.
            self.pause_reading()
            worker.wheel.arm(self, min(worker.body_idle_ticks, _PEEK_TICKS))
            return
        if self.reading_paused and len(self.buffer) <= _WAITING_BYTES:
            self.resume_reading()
        # worker.wheel.arm, without the call: usually one store.
        wheel = worker.wheel
        self.due = due = wheel.tick + worker.keepalive_ticks
        if due < self.filed or not self.filed:
            wheel.arm(self, worker.keepalive_ticks)
        if self.buffer:
            worker.loop.call_soon(self._next)
        elif self.ended:
            self.close()

    def _next(self) -> None:
        """Serve what waited in line."""
        if self.exchange is not None or self.closing or not self.buffer:
            return
        data = self.buffer
        self.buffer = b""
        try:
            self._serve(data)
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(error)

    # ---------------------------------------------------------------- the proxy's own answers

    def reply(self, exchange: Exchange, status: int, reason: str, detail: str) -> None:
        """Answer an exchange's request ourselves, and go on or close."""
        worker = self.worker
        exchange.status = status
        if not exchange.request_id:
            exchange.request_id = worker.request_id()
        record.waited(exchange, monotonic_ns())
        worker.count_local_reply(exchange.service.plane, status, reason)
        unread = bool(exchange.body_left)
        if unread or worker.draining or exchange.head.http10:
            exchange.keep = False
        self.transport.write(local_message(exchange, status, reason, detail, worker.date, close=not exchange.keep))
        self.exchange_over(exchange, reason)

    def refuse_plain(self, transport: asyncio.Transport, data: bytes) -> None:
        """Answer a client that speaks HTTP where TLS is expected; `data` begins its request."""
        self.transport = transport
        self.secure = False
        refusal = Refusal(400, "malformed", "This port takes TLS only: the URL begins with https://.")
        self._answer(refusal, head_only=data.startswith(b"HEAD "))

    def _answer(
        self, refusal: Refusal, *, head_only: bool = False, request_id: bytes = b"", fields: bytes = b""
    ) -> None:
        """Answer what is no exchange (a malformed head, no service), and close."""
        self._say(refusal, head_only=head_only, request_id=request_id, fields=fields, close=True)
        self.linger()

    def _answer_and_go_on(self, answer: Refusal, rest: bytes) -> None:
        """Answer a request that ends here, and serve what stands behind it."""
        self._say(answer, close=False)
        self.line_up(rest)
        self._go_on()

    def _say(
        self, refusal: Refusal, *, close: bool, head_only: bool = False, request_id: bytes = b"", fields: bytes = b""
    ) -> None:
        worker = self.worker
        worker.count_local_reply(worker.plane, refusal.status, refusal.reason)
        request_id = request_id or worker.request_id()
        if worker.access_log is not None:
            worker.access_log.add_refusal(refusal, self.peer, request_id)
        self.transport.write(
            local_reply(
                refusal.status,
                refusal.reason,
                refusal.detail,
                request_id,
                head_only=head_only,
                close=close,
                date=worker.date,
                fields=fields,
            )
        )

    # ---------------------------------------------------------------- the ends

    def close(self) -> None:
        """Close after everything written has gone out."""
        self.closing = True
        self.transport.close()
        # A client that does not read would keep the connection for ever.
        self._unsent = -1
        self.worker.wheel.arm(self, min(self.worker.body_idle_ticks, _PEEK_TICKS))

    def abort(self) -> None:
        """Close now, whatever has not gone out."""
        self.closing = True
        if self.writing_paused and not self.transport.is_closing():
            break_off(self.transport)  # a FIN would wait behind what the client does not take
        self.transport.abort()

    def cut(self, *, framed: bool = False) -> None:
        """End the connection in the middle of an answer, so that nobody takes what came of it for the whole."""
        exchange = self.exchange
        self.exchange = None
        if isinstance(exchange, Exchange):
            self.worker.log_exchange(exchange)
        if framed:
            # Its length or its chunks say that more was to come: the client gets what there is, then FIN.
            self.linger()
            return
        # RST: to an HTTP/1.0 client, whose body lasts until close, a FIN would say that it is complete.
        break_off(self.transport)
        self.abort()

    def linger(self) -> None:
        """Close after everything written has been taken; what still comes is dropped for a moment."""
        self.closing = True
        self.lingering = True
        self.buffer = b""
        self._linger_left = _LINGER_BYTES
        self.transport.write_eof()
        if self.reading_paused:
            self.resume_reading()
        self.worker.wheel.arm(self, _LINGER_TICKS)

    def _discard(self, size: int) -> None:
        self._linger_left -= size
        if self._linger_left < 0:
            self.transport.abort()

    def _broken(self, error: Exception) -> None:
        self.worker.internal_error(error)
        self.abort()

    # ---------------------------------------------------------------- flow and deadlines

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        if not self.reading_paused and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()
            self._look_soon()

    def resume_reading(self) -> None:
        """Go on reading from the client, unless a part of a request body waits its turn."""
        if self.reading_paused and not self.transport.is_closing():
            exchange = self.exchange
            if exchange is not None and exchange.body_left and self.buffer:
                return
            self.reading_paused = False
            self.transport.resume_reading()

    def expire(self, now: int) -> None:
        """Act on the deadline that is over."""
        try:
            exchange = self.exchange
            if exchange is not None:
                exchange.expire(now)
            elif self.closing or self.writing_paused:
                self._expire_writing()
            elif self.buffer:
                late = Refusal(408, "head_timeout", "The request head did not arrive in time.")
                self._answer(late, head_only=_asks_head(self.buffer))
            elif self._request_waits():
                self.worker.wheel.arm(self, 1)
            else:
                self.close()
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(error)

    def _request_waits(self) -> bool:
        """Whether a request has arrived since the loop last read: a close would answer it with RST."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        return ioctl(descriptor, FIONREAD, b"\0\0\0\0") != b"\0\0\0\0"

    def _look_soon(self) -> None:
        """Have the kernel asked, until reading goes on, whether the client left."""
        if self._look is None:
            self._look = _Look(self)
        if not self._look.due:
            self.worker.wheel.arm(self._look, _PEEK_TICKS)

    def look(self) -> None:
        """Let go of a client that left while nothing is read from it."""
        try:
            if not (self.reading_paused or self.ended):
                return
            if self.exchange is not None and self.client_left():
                self.abort()
            else:
                self._look_soon()
        except Exception as error:  # noqa: BLE001 -- no exception crosses a Protocol callback
            self._broken(error)

    def _expire_writing(self) -> None:
        """End a connection after its last answer, or between two, unless the client still takes what was written."""
        stalled = self.stalled_ticks()
        if self._turned_away or (self.lingering and not self._unsent):
            self.transport.abort()
        elif stalled >= self.worker.body_idle_ticks:
            break_off(self.transport)  # a FIN would wait behind what the client does not take
            self.transport.abort()
        else:
            self.worker.wheel.arm(self, min(self.worker.body_idle_ticks, _PEEK_TICKS))

    def stalled_ticks(self) -> int:
        """Return for how many ticks the client has taken nothing of what was written, as far as looked at."""
        wheel = self.worker.wheel
        # The kernel tells of free space only when a third of its buffer is free, which may be megabytes.
        descriptor = self.transport.get_extra_info("socket").fileno()
        in_kernel = ioctl(descriptor, TIOCOUTQ, b"\0\0\0\0")
        unsent = self.transport.get_write_buffer_size() + int.from_bytes(in_kernel, sys.byteorder)
        if unsent != self._unsent:
            self._unsent = unsent
            self._taken_tick = wheel.tick
        return wheel.tick - self._taken_tick

    def client_left(self) -> bool:
        """Ask the kernel: uvloop sees neither FIN nor RST while reading is paused, nor RST after FIN."""
        with borrowed(self.transport) as peek:
            if peek.family == socket.AF_UNIX:
                return not (self.worker.half_close or isinstance(self.exchange, Tunnel)) and _ended(peek)
            state = peek.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            if self.worker.half_close or isinstance(self.exchange, Tunnel):
                # FINs, theirs and ours, say nothing here; both together lead to the same state as RST.
                return state == _TCP_CLOSE and peek.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        return state != _TCP_ESTABLISHED

    # ---------------------------------------------------------------- who the client is

    def known_as(self, peer: bytes) -> None:
        """Take the client's address from a trusted proxy that said it before the first request; b"" = it has none."""
        self.peer = peer
        self.trusted = bool(peer) and self.worker.trusts(peer)

    def forwarded(self, head: RequestHead) -> bytes:
        """Return the fields that tell the endpoint about the client (INTERFACE §5), up to the request id's value."""
        if not self.trusted and head.host == self._forwarded_host and not head.http10:
            return self._forwarded
        worker = self.worker
        chain = (
            head.forwarded_for + b", " + self.peer
            if head.forwarded_for and self.peer
            else head.forwarded_for or self.peer
        )
        fields = b"X-Forwarded-For: " + chain + b"\r\n" if chain else b""
        fields += b"X-Forwarded-Proto: " + (head.forwarded_proto or (b"https" if self.secure else b"http")) + b"\r\n"
        host = head.forwarded_host or head.host
        if host:
            fields += b"X-Forwarded-Host: " + host + b"\r\n"
        if worker.via:
            # > RFC 9110 §7.6.3: The received-protocol portion indicates the protocol version of the message received.
            fields += b"Via: 1.0 tidegate\r\n" if head.http10 else b"Via: 1.1 tidegate\r\n"
        fields += b"X-Request-Id: "
        if not self.trusted and not head.http10:
            self._forwarded_host = head.host
            self._forwarded = fields
        return fields

    def client_address(self, head: RequestHead) -> IPv4Address | IPv6Address | None:
        """Return the client's address: the peer's, or the last one that is no trusted proxy's."""
        if not head.forwarded_for:
            if self._address is None and self.peer:
                self._address = ip_address(self.peer.decode())
            return self._address
        for part in reversed(head.forwarded_for.split(b",")):
            name = part.strip().decode("latin-1")
            try:
                address = ip_address(name)
            except ValueError:
                return None
            if not self.worker.trusts(name.encode()):
                return address
        return address

    def client_ip(self, head: RequestHead) -> bytes:
        """Return the client's address as text, b"" if it has none (a unix socket)."""
        if not head.forwarded_for:
            return self.peer
        address = self.client_address(head)
        return str(address).encode() if address is not None else self.peer

    def idle(self) -> bool:
        """Whether nothing is in progress here: it may be closed at a drain."""
        return self.exchange is None and not self.closing


class _Look:
    """A look at a connection that is not read from, beside the deadlines of its exchanges, which come and go."""

    __slots__ = ("_downstream", "due", "filed")

    def __init__(self, downstream: Downstream) -> None:
        self._downstream = downstream
        self.due = 0
        self.filed = 0

    def expire(self, now: int) -> None:
        """Look."""
        del now
        self._downstream.look()


def _asks_head(data: bytes) -> bool:
    """Tell whether a request that is no good is a HEAD: its answer has no body either (RFC 9110 §9.3.2)."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data.startswith(b"HEAD ")


def _ended(sock: socket.socket) -> bool:
    """Whether the other end of a unix socket sends nothing any more, or is closed."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def plain_address(name: str) -> bytes:
    """Return an address without zone, and an IPv4 one as such even on a dual-stack socket."""
    return name.removeprefix("::ffff:").partition("%")[0].encode()
