"""The proxy's own connections, exchange and pools, on transports that only write down: thousands of cases a second.

*Passage*: one worker in this process. Everything between the two transports is the product; the loop is a real one
that is turned by hand. The endpoint reads what it gets by the letter, and answers whole requests.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from proxy.dataplane import worker as dataplane
from proxy.dataplane.downstream import Downstream
from proxy.dataplane.upstream import Upstream
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.routing.table import Endpoint, RoutingTable, Service, Sticky, Version
from tests.conformance.wire import OK, Seen, check_request, framing, read_chunks, read_head

_TURNS_MAX = 200


class Transport:
    """Writes down; `written` grows, `ended` and `closed` say how."""

    def __init__(self, passage: Passage, protocol: asyncio.Protocol) -> None:
        self.passage = passage
        self.protocol = protocol
        self.written = b""
        self.ended = False
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.ended, "a write behind the end"
        if not self.closed:
            self.written += data
            self.passage.stirred = True

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        if not self.closed:
            self.closed = self.passage.stirred = True
            self.passage.loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = not self.closed
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("192.0.2.1", 5), "socket": self.passage.socket}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class EndpointTransport(Transport):
    """The endpoint behind a transport; `seen` is what it could read, whole or not."""

    def __init__(self, passage: Passage, protocol: asyncio.Protocol) -> None:
        super().__init__(passage, protocol)
        self.unread = b""
        self.current: Seen | None = None
        self.length: int | None = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        self.unread += data
        self.passage.loop.call_soon(self.read)

    def read(self) -> None:
        """Read as much as there is, by the letter; answer what is whole."""
        while not self.closed:
            if self.current is None:
                head = read_head(self.unread)
                if head is None:
                    return
                self.current, size = head
                check_request(self.current)
                self.length = framing(self.current)
                self.passage.seen.append(self.current)
                self.unread = self.unread[size:]
            seen = self.current
            if self.length is None:
                used = read_chunks(self.unread, seen)
            else:
                size = max(self.length, 0)
                seen.body = self.unread[:size]
                used = size if len(self.unread) >= size else -1
            if used < 0:
                return
            seen.whole = True
            self.unread = self.unread[used:]
            self.current = None
            self.passage.stirred = True
            self.passage.answer(self)


class _Upstream(Upstream):
    __slots__ = ()

    async def _connect(self) -> None:
        self.connection_made(EndpointTransport(self.worker.passage, self))


class Passage:
    """See the module's text."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.socket, self.phone = socket.socketpair()
        self.worker = worker = dataplane.Worker(self.loop, self.phone)
        worker.passage = self
        worker.connect = lambda pool, exchange: _Upstream(worker, pool, exchange)
        version = Version("1", (Endpoint("http://127.0.0.1:1", "127.0.0.1", 1),))
        table = RoutingTable(services=(Service("web", version, sticky=Sticky("none")),))
        control, counters = layout.control_layout(table), layout.counters_layout(table)
        self.segments = [
            Segment.create("control", control.words, control.hash),
            Segment.create("counters", counters.words, counters.hash),
        ]
        worker.plane = dataplane.Plane(1, table, *self.segments, worker.pools)
        worker._settle(table)
        self.faults: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context.get("exception")))
        worker.internal_error = self.faults.append
        self.stirred = False
        self.begin([OK])

    def begin(self, pieces: list[bytes], *, ends: bool = False) -> None:
        """Have the endpoint answer in `pieces`, and close behind them if `ends`."""
        self.begin_as(lambda _: (pieces, ends))

    def begin_as(self, reply: Callable[[Seen], tuple[list[bytes], bool]]) -> None:
        """Have the endpoint answer a request with what `reply` says of it: pieces, and whether it closes then."""
        self.seen: list[Seen] = []
        self.reply = reply

    def answer(self, transport: EndpointTransport) -> None:
        """Answer one request."""
        pieces, ends = self.reply(self.seen[-1])
        for piece in pieces:
            self.loop.call_soon(self._deliver, transport, piece)
        if ends:
            self.loop.call_soon(self._end, transport)

    def _deliver(self, transport: EndpointTransport, piece: bytes) -> None:
        self.stirred = True
        if not transport.closed:
            transport.protocol.data_received(piece)

    def _end(self, transport: EndpointTransport) -> None:
        self.stirred = True
        if not transport.closed and not transport.protocol.eof_received():
            transport.close()

    def turn(self) -> None:
        """Run the loop until nothing happens any more."""
        for _ in range(_TURNS_MAX):
            self.stirred = False
            for _ in range(2):
                self.loop.call_soon(self.loop.stop)
                self.loop.run_forever()
            if not self.stirred:
                return
        raise AssertionError("it never comes to rest")

    def connect(self) -> tuple[Downstream, Transport]:
        """Return a client connection and what the client gets."""
        downstream = Downstream(self.worker)
        transport = Transport(self, downstream)
        downstream.connection_made(transport)
        return downstream, transport

    def send(self, pieces: list[bytes]) -> Transport:
        """Have a client send `pieces` and its FIN; return what it got."""
        downstream, transport = self.connect()
        for piece in pieces:
            if transport.closed:
                break
            downstream.data_received(piece)
            self.turn()
        self.last = downstream
        return transport

    def leave(self, transport: Transport) -> None:
        """Have the client send its FIN and go."""
        if not transport.closed and not transport.protocol.eof_received():
            transport.close()
        self.turn()
        transport.close()
        self.turn()

    def close(self) -> None:
        """Give everything back."""
        for upstream in list(self.worker.plane.services[0].stable.only.pool.idle):
            upstream.close()
        self.turn()
        self.loop.close()
        self.socket.close()
        self.phone.close()
