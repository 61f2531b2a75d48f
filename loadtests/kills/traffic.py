"""The endpoints, with books of their own, and the clients: one loop in a thread of its own.

Nouns: a *book* holds what came to one endpoint: when it came, when the client had sent it, and whose it was. A
*client* has one request after another to send, at instants that do not wait for answers (open loop): what cannot leave
because the one before is still open waits in the client. Half of the requests come from clients that keep their
connection, the others take a fresh one each.

A request has *failed* when no whole answer came, or one that the proxy made itself (no `x-tidegate-version`). An error
that `new` gave is none: what a bad version does is not what is looked for here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Self, cast
from weakref import WeakSet

import uvloop

from proxy.cli.demo.backend import Backend, BackendConnection

USERS = 1000
KEEPING = 16
TIMEOUT_S = 30.0
HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at an endpoint; instants in ns of CLOCK_MONOTONIC."""

    arrived_ns: int
    sent_ns: int
    user: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed: whose, when it was sent, and how (`connect`, `reset`, `timeout`, or a status).

    `port`: the client's own port of the connection, 0 where there was none.
    """

    client: str
    sent_ns: int
    how: str
    port: int


@dataclass(slots=True)
class Endpoint(Backend):
    """A backend that keeps a book; as `HUNG` it takes requests and never answers."""

    book: list[Arrival] = field(default_factory=list)

    def answer(self, head: bytes) -> tuple[bytes, float]:
        """Note a request, and answer as the mode says."""
        _, _, user = head.partition(b"session=")
        _, _, sent = head.partition(b"x-sent-ns: ")
        if sent:
            stamp = int(sent.partition(b"\r\n")[0])
            self.book.append(Arrival(time.monotonic_ns(), stamp, user.partition(b"\r\n")[0]))
        if self.mode == HUNG:
            self.requests += 1
            return b"", 3600.0
        answer = Backend.answer(self, head)
        self.arrivals.clear()  # the book has it
        return answer


class Traffic(threading.Thread):
    """Both endpoints and the clients. Whatever it counts may be read from outside at any time.

    `sent` and `answered` grow; `failures` and `waits` (seconds from the intended instant to the answer) are appended
    to. `fresh` is the share of requests that take a connection of their own; the others come from `keeping` clients.
    """

    def __init__(self, *, fresh: float = 0.5, keeping: int = KEEPING) -> None:
        super().__init__(daemon=True)
        self.stable, self.new = Endpoint("stable"), Endpoint("new")
        self.ports: dict[str, int] = {}
        self.sent = self.answered = 0
        self.failures: list[Failure] = []
        self.longest_s = 0.0
        self._fresh = fresh
        self._keeping = keeping
        self._loop = uvloop.new_event_loop()
        self._ready = threading.Event()
        self._servers: list[asyncio.AbstractServer] = []
        self._sending: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._serial = 0
        self._accepted_all: WeakSet[BackendConnection] = WeakSet()
        self._accepted_new: WeakSet[BackendConnection] = WeakSet()
        self._clients: WeakSet[Client] = WeakSet()

    def __enter__(self) -> Self:
        self.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    def run(self) -> None:
        """Serve until it is left."""
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._leave())
        self._loop.close()

    async def _listen(self) -> None:
        for endpoint in (self.stable, self.new):
            server = await self._loop.create_server(partial(self._accepted, endpoint), "127.0.0.1", 0, backlog=512)
            self._servers.append(server)
            self.ports[endpoint.name] = cast("asyncio.Server", server).sockets[0].getsockname()[1]

    async def _leave(self) -> None:
        """Leave no task, socket or timer behind."""
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._accepted_all:
            connection.abort()
        for client in self._clients:
            client.abort()
        await asyncio.sleep(0.01)  # uvloop closes handles in the turns after this

    def _accepted(self, endpoint: Endpoint) -> BackendConnection:
        connection = BackendConnection(endpoint)
        self._accepted_all.add(connection)
        if endpoint is self.new:
            self._accepted_new.add(connection)
        return connection

    def turn(self, mode: str) -> None:
        """Let `new` behave like this from now on, with an empty book; what hangs there is reset."""
        turned = threading.Event()

        def turn() -> None:
            self.new.mode = mode
            self.new.book.clear()
            for connection in list(self._accepted_new):
                connection.abort()
            turned.set()

        self._loop.call_soon_threadsafe(turn)
        turned.wait()

    # --- clients -------------------------------------------------------------------------------------------------

    def load(self, port: int, rate: float) -> None:
        """Begin to send `rate` requests per second to 127.0.0.1:`port`."""

        def begin() -> None:
            self._sending = self._loop.create_task(self._send(port, rate))

        self._loop.call_soon_threadsafe(begin)

    def rest(self, patience_s: float = TIMEOUT_S) -> None:
        """Send no more, and wait for the last answers."""
        self._loop.call_soon_threadsafe(lambda: self._sending and self._sending.cancel())
        end = time.monotonic() + patience_s
        while self.sent > self.answered + len(self.failures) and time.monotonic() < end:
            time.sleep(0.01)

    async def _send(self, port: int, rate: float) -> None:
        step_ns = int(1e9 / rate)
        next_ns = time.monotonic_ns()
        keeping = [Client(self, f"kept-{number}", port) for number in range(self._keeping)]
        turn = owed = 0.0
        try:
            while True:
                while next_ns <= time.monotonic_ns():
                    self.sent += 1
                    owed += self._fresh
                    if owed >= 1:
                        owed -= 1
                        self._serial += 1
                        Client(self, f"fresh-{self._serial}", port, once=True).due(next_ns)
                    else:
                        turn += 1
                        keeping[int(turn) % self._keeping].due(next_ns)
                    next_ns += step_ns
                await asyncio.sleep(max(0.0, (next_ns - time.monotonic_ns()) / 1e9))
        finally:
            for client in keeping:
                client.retire()

    def spawn(self, client: Client) -> None:
        """Open a connection for a client."""
        self._clients.add(client)
        task = self._loop.create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: Client) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._loop.create_connection(lambda: client, "127.0.0.1", client.port)
        except OSError:
            client.failed("connect")

    def user(self) -> bytes:
        """Return who comes next: everybody in turn, far from each other."""
        self._serial += 1
        return b"user-%d" % (self._serial * 617 % USERS)


class Client(asyncio.Protocol):
    """One client with at most one request under way; `once`: it leaves after one."""

    def __init__(self, traffic: Traffic, name: str, port: int, *, once: bool = False) -> None:
        self.name = name
        self.port = port
        self._traffic = traffic
        self._once = once
        self._retired = False
        self._transport: asyncio.Transport | None = None
        self._own_port = 0
        self._connecting = False
        self._received = b""
        self._waiting: deque[int] = deque()
        self._intended_ns = 0  # of the request under way, 0: none
        self._sent_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    def due(self, intended_ns: int) -> None:
        """Send a request as soon as none is under way."""
        self._waiting.append(intended_ns)
        self._next()

    def retire(self) -> None:
        """Close the connection once nothing is under way."""
        self._retired = True
        if not self._intended_ns and not self._waiting and self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        if self._intended_ns or self._connecting or not self._waiting:
            return
        if self._transport is None or self._transport.is_closing():
            self._connecting = True
            self._own_port = 0
            self._traffic.spawn(self)
            return
        self._intended_ns, self._sent_ns = self._waiting.popleft(), time.monotonic_ns()
        close = b"Connection: close\r\n" if self._once else b""
        self._transport.write(
            b"GET /hello HTTP/1.1\r\nHost: a\r\n%bx-sent-ns: %d\r\nCookie: session=%b\r\n\r\n"
            % (close, self._sent_ns, self._traffic.user())
        )
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S, self._give_up)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what waits."""
        self._transport = cast("asyncio.Transport", transport)
        self._own_port = transport.get_extra_info("sockname")[1]
        self._connecting = False
        self._next()

    def data_received(self, data: bytes) -> None:
        """Count the answer once it is whole."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or not self._intended_ns:
            return
        head = self._received[:end].lower()
        _, _, rest = head.partition(b"\r\ncontent-length:")
        if len(self._received) < end + 4 + int(rest.partition(b"\r\n")[0] or b"0"):
            return
        self._received = b""
        if b"\r\nx-tidegate-version:" in head:
            self._over()
            self._traffic.answered += 1
        else:
            self.failed(head[9:12].decode())
        if self._once or self._retired or b"\r\nconnection: close" in head:
            self._close()
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that will not be answered."""
        del exc
        self._transport = None
        self._received = b""
        if self._intended_ns:
            self.failed("reset")
        self._next()

    def failed(self, how: str) -> None:
        """Count the request under way, or the first that waits for a connection, as failed."""
        self._connecting = False
        if not self._intended_ns and not self._waiting:
            return  # it was connected, and answered, when its patience ended
        if not self._intended_ns:
            self._intended_ns, self._sent_ns = self._waiting.popleft(), time.monotonic_ns()
        self._traffic.failures.append(Failure(self.name, self._sent_ns, how, self._own_port))
        self._over()
        if how == "connect":
            self._next()

    def _over(self) -> None:
        waited_s = (time.monotonic_ns() - self._intended_ns) / 1e9
        self._traffic.longest_s = max(self._traffic.longest_s, waited_s)
        self._intended_ns = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._intended_ns:
            self.failed("timeout")
            self._close()

    def abort(self) -> None:
        """Leave at once, and count nothing of it."""
        self._intended_ns = 0
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
