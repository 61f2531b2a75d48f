"""The listening sockets of a worker, and what stands between one and the connections that it accepts.

Every worker holds the sockets of all slots and accepts on its own. While a neighbour is absent for 1 s or
more (crashed, stopped, hung, starting), it accepts on that one's socket too: with SO_REUSEPORT the
kernel goes on dealing new connections to a socket whose owner is gone, and nobody else would ever accept them.
`neighbours.py` says whose turn it is. Sockets without a slot (unix, inherited) are shared: everybody accepts.

A connection of a plain listener is a `Downstream` and nothing else. Before it may stand a `Prefaced` (the PROXY
protocol) and a `TlsLayer`, in this order: the balancer speaks first, then the client, encrypted or not. Both tell the
`Downstream` of the connection at once, so that it is counted and its time for the first head is running.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from proxy.dataplane.downstream import Downstream
from proxy.dataplane.preface import Malformed, parse
from proxy.dataplane.tls import TlsLayer
from proxy.tls import by_server_name, server_context

if TYPE_CHECKING:
    from proxy.dataplane.worker import Worker

BACKLOG = 4096


class Certificates:
    """What a TLS listener shows: the `context` for connections that are accepted from now on."""

    __slots__ = ("_contexts", "context")

    def __init__(self, pairs: Sequence[tuple[Sequence[str], str]]) -> None:
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.show(pairs)

    def show(self, pairs: Sequence[tuple[Sequence[str], str]]) -> None:
        """Show these pairs, in order, each given as (names, PEM text); raise `OSError` where one cannot be loaded.

        What was shown before is not loaded again: it takes a millisecond, in which nobody is served.
        """
        contexts = {pem: self._contexts.get(pem) or server_context(pem) for _, pem in pairs}
        self.context = by_server_name([(names, contexts[pem]) for names, pem in pairs])
        self._contexts = contexts


class Listener:
    """One listening socket and, while this worker accepts on it, its server.

    `certificates`: those of a TLS listener. `prefaced`: every connection begins with a PROXY protocol header.
    """

    __slots__ = ("_server", "_task", "address", "certificates", "prefaced", "slot", "sock")

    def __init__(
        self,
        address: str,
        slot: int | None,
        sock: socket.socket,
        certificates: Certificates | None = None,
        *,
        prefaced: bool = False,
    ) -> None:
        self.address = address
        self.slot = slot
        self.sock = sock
        self.certificates = certificates
        self.prefaced = prefaced
        self._server: asyncio.AbstractServer | None = None
        self._task: asyncio.Task[None] | None = None

    def accept(
        self, loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.Protocol], scarce: Callable[[], None]
    ) -> None:
        """Begin to accept; where there is no descriptor for that, rest and tell `scarce`."""
        if self._task is not None:
            return
        try:
            # The server closes the descriptor it is given; ours must outlive it.
            own = self.sock.dup()
        except OSError:
            scarce()
            return
        self._task = loop.create_task(self._start(loop, factory, own))

    async def _start(
        self, loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.Protocol], own: socket.socket
    ) -> None:
        own.settimeout(0)
        if own.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(factory, sock=own, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(factory, sock=own, backlog=BACKLOG)

    @property
    def serving(self) -> bool:
        """Whether accepting has really begun."""
        return self._server is not None

    @property
    def accepting(self) -> bool:
        """Whether this worker accepts here."""
        return self._task is not None

    def rest(self) -> None:
        """Stop accepting; the socket stays open."""
        if self._task is None:
            return
        self._task.cancel()
        self._task = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def take_queue(self) -> list[socket.socket]:
        """Return the connections that wait in the accept queue now."""
        waiting: list[socket.socket] = []
        self.sock.settimeout(0)
        while True:
            try:
                accepted, _ = self.sock.accept()
            except OSError:
                return waiting
            accepted.settimeout(0)
            waiting.append(accepted)

    def close(self) -> None:
        """Stop accepting and give the socket up."""
        self.rest()
        self.sock.close()


class Prefaced(asyncio.Protocol):
    """The beginning of a connection on which a balancer says who its client is, before anything else.

    Only trusted proxies may: whoever else connects here is turned away. On a unix socket its folder says who may.
    """

    __slots__ = ("_buffer", "_downstream", "_inner", "_known", "_peer", "_raw", "_refused")

    def __init__(self, downstream: Downstream, inner: asyncio.Protocol) -> None:
        self._downstream = downstream
        self._inner = inner
        self._buffer = b""
        self._known = False
        self._refused = False
        self._peer = "the balancer"
        self._raw: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a trusted proxy's connection."""
        self._raw = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self._peer = name[0]
            if not self._downstream.worker.trusts_peer(self._peer):
                self._refuse("untrusted", "it is not in trusted_proxies, and so may not say who its clients are")
                return
        self._known = True
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Wait until the preface is whole; then leave the connection to the client."""
        if self._refused:
            return
        self._buffer += data
        try:
            preface = parse(self._buffer)
        except Malformed as error:
            self._refuse("preface", f"{error}: it must send a header, or this listener go without proxy_protocol")
            return
        if preface is None:
            return
        rest = self._buffer[preface.end :]
        self._raw.set_protocol(self._inner)
        if preface.source is not None:
            self._downstream.known_as(preface.source)
        if rest:
            self._inner.data_received(rest)

    def eof_received(self) -> bool:
        """Take an end before the beginning."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        if self._buffer and not self._refused:
            self._refuse("preface", "it ended within the header of the PROXY protocol")
        if self._known:
            self._inner.connection_lost(exc)

    def _refuse(self, reason: str, why: str) -> None:
        self._refused = True
        self._downstream.worker.count_refused(reason, f"a connection from {self._peer} was refused: {why}")
        self._raw.abort()

    def pause_writing(self) -> None:
        """Hand it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand it on."""
        self._inner.resume_writing()


def entrance(worker: Worker, listener: Listener) -> Callable[[], asyncio.Protocol]:
    """Return what makes the protocol of a connection that `listener` accepts."""
    certificates = listener.certificates

    def plain() -> asyncio.Protocol:
        return Downstream(worker)

    def layer(downstream: Downstream) -> TlsLayer:
        assert certificates is not None
        context, plain, refused = certificates.context, downstream.refuse_plain, worker.count_refused
        return TlsLayer(downstream, context, worker.turns, plain=plain, refused=refused)

    def encrypted() -> asyncio.Protocol:
        downstream = Downstream(worker)
        downstream.secure = True
        return layer(downstream)

    def prefaced() -> asyncio.Protocol:
        downstream = Downstream(worker)
        if certificates is None:
            return Prefaced(downstream, downstream)
        downstream.secure = True
        return Prefaced(downstream, layer(downstream))

    if listener.prefaced:
        return prefaced
    return plain if certificates is None else encrypted


def own_listeners(listeners: Sequence[Listener], slot: int) -> list[Listener]:
    """Return those on which the worker in `slot` always accepts."""
    return [listener for listener in listeners if listener.slot is None or listener.slot == slot]
