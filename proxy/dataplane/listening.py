"""The listening sockets of a worker.

Every worker holds the sockets of all slots and accepts on its own. When a neighbour's beat stands still for 1 s
(crashed, stopped, hung), it accepts on that one's socket too until the beat moves again: with SO_REUSEPORT the
kernel goes on dealing new connections to a socket whose owner is gone, and nobody else would ever accept them.
Sockets without a slot (unix, inherited) are shared: everybody accepts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

BACKLOG = 4096


class Listener:
    """One listening socket and, while this worker accepts on it, its server."""

    __slots__ = ("_server", "_task", "address", "slot", "sock")

    def __init__(self, address: str, slot: int | None, sock: socket.socket) -> None:
        self.address = address
        self.slot = slot
        self.sock = sock
        self._server: asyncio.AbstractServer | None = None
        self._task: asyncio.Task[None] | None = None

    def accept(self, loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.Protocol]) -> None:
        """Begin to accept."""
        if self._task is None:
            self._task = loop.create_task(self._start(loop, factory))

    async def _start(self, loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.Protocol]) -> None:
        # The server closes the descriptor it is given; ours must outlive it.
        own = self.sock.dup()
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


def own_listeners(listeners: Sequence[Listener], slot: int) -> list[Listener]:
    """Return those on which the worker in `slot` always accepts."""
    return [listener for listener in listeners if listener.slot is None or listener.slot == slot]
