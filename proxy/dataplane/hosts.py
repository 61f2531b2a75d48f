"""Names as endpoints: which addresses stand behind one, and which of them the next connection goes to.

The problem: a name may have several addresses, they change while the proxy runs, and the resolver may be slow or
down at the worst moment. So a name is looked up in the background (in the loop's threads), every 5 to 10 s and soon
after a connection failed, one look-up of it at a time; requests never wait for one, but for the very first.

*Answer*: the addresses of a name, of both families. The last good one stays in force when the resolver fails or
returns nothing: a resolver that is down says nothing about the endpoints. Connections are spread over all addresses;
one that failed just now is avoided for 2 s, and the next one is tried within the connect timeout, of which each has
its part (what RFC 8305 is for, without its race: only one connection is wanted). Connections to an address that is no
longer in the answer are closed, those in use after their exchange.

Literal addresses and unix sockets have nothing of this.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from proxy.routing.table import Endpoint

if TYPE_CHECKING:
    from proxy.dataplane.upstream import Upstream
    from proxy.dataplane.worker import Worker

Resolve = Callable[[str], Awaitable[Sequence[str]]]

_AGAIN_TICKS = 100  # an answer is 5 s old at least, and up to twice that, before the next look-up
_WANTING_TICKS = 20  # without an answer, and after a failed connection: 1 s
_AVOID_TICKS = 40  # 2 s


class Name:
    """One name. It stands in the timer wheel until its next look-up."""

    __slots__ = (
        "_asked",
        "_avoid",
        "_connections",
        "_hosts",
        "_looking",
        "_turn",
        "addresses",
        "due",
        "failure",
        "filed",
        "name",
    )

    def __init__(self, name: str, hosts: Hosts) -> None:
        self.name = name
        self.addresses: tuple[str, ...] = ()
        self.failure = ""  # why the last look-up gave nothing
        self.due = 0
        self.filed = 0
        self._hosts = hosts
        self._looking: asyncio.Task[None] | None = None
        self._asked = 0
        self._avoid: dict[str, int] = {}  # until which tick
        self._connections: dict[str, set[Upstream]] = {}
        self._turn = 0
        self._look_up()

    # ---------------------------------------------------------------- looking up

    def _look_up(self) -> None:
        if self._looking is None:
            worker = self._hosts.worker
            self._asked = worker.wheel.tick
            self._looking = worker.loop.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            answer = tuple(dict.fromkeys(await self._hosts.resolve(self.name)))
            failure = "" if answer else "the resolver knows no address"
        except (OSError, UnicodeError) as error:
            answer = ()
            failure = (getattr(error, "strerror", "") or str(error)).lower()
        self._looking = None
        self._told(failure)
        if answer:
            self.addresses = answer
            self._drop()
        worker = self._hosts.worker
        after = _AGAIN_TICKS + (worker.random64() * _AGAIN_TICKS >> 64) if self.addresses else _WANTING_TICKS
        worker.wheel.arm(self, after)

    def _told(self, failure: str) -> None:
        """Have the log say when looking up begins to fail, and when it is well again."""
        if bool(failure) != bool(self.failure):
            still = ": its last addresses are used" if self.addresses else ""
            text = f"does not resolve ({failure}){still}" if failure else "resolves again"
            self._hosts.worker.notice(f"the name {self.name} {text}")
        self.failure = failure

    def _drop(self) -> None:
        """Part from addresses that are in the answer no more."""
        for address in [one for one in self._connections if one not in self.addresses]:
            for upstream in list(self._connections[address]):
                if upstream.exchange is None and upstream.reusable:
                    upstream.close()
                upstream.reusable = False
        self._avoid = {address: until for address, until in self._avoid.items() if address in self.addresses}

    def expire(self, _now: int) -> None:
        """Look up again."""
        self._look_up()

    def forget(self) -> None:
        """Look up no more."""
        self._hosts.worker.wheel.drop(self)
        if self._looking is not None:
            self._looking.cancel()

    # ---------------------------------------------------------------- connecting

    async def candidates(self, patience_s: float) -> list[str]:
        """Return the addresses to try, in order; raise `socket.gaierror` while there has never been an answer."""
        if not self.addresses and self._looking is not None and not self.failure:
            await asyncio.wait([self._looking], timeout=patience_s)
        if not self.addresses:
            why = self.failure or "the resolver does not answer"
            raise socket.gaierror(socket.EAI_NONAME, f"the name {self.name} does not resolve ({why})")
        self._turn += 1
        tick = self._hosts.worker.wheel.tick
        first = self._turn % len(self.addresses)
        in_turn = self.addresses[first:] + self.addresses[:first]
        return sorted(in_turn, key=lambda one: (self._avoid.get(one, 0) > tick, len(self._connections.get(one, ()))))

    def avoid(self, address: str) -> None:
        """Take note that a connection to an address failed."""
        tick = self._hosts.worker.wheel.tick
        self._avoid[address] = tick + _AVOID_TICKS
        if tick >= self._asked + _WANTING_TICKS:
            self._look_up()

    def made(self, upstream: Upstream) -> None:
        """Count a connection in."""
        self._avoid.pop(upstream.address, None)
        self._connections.setdefault(upstream.address, set()).add(upstream)

    def lost(self, upstream: Upstream) -> None:
        """Count it out."""
        connections = self._connections.get(upstream.address)
        if connections is not None:
            connections.discard(upstream)
            if not connections:
                del self._connections[upstream.address]


class Hosts:
    """All names of a worker. `resolve` returns the addresses of a name, or raises `OSError`."""

    __slots__ = ("_names", "resolve", "worker")

    def __init__(self, worker: Worker, resolve: Resolve | None = None) -> None:
        self.worker = worker
        self.resolve = resolve or self._ask_the_system
        self._names: dict[str, Name] = {}

    async def _ask_the_system(self, name: str) -> list[str]:
        found = await self.worker.loop.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in found]

    def of(self, endpoint: Endpoint) -> Name | None:
        """Return the name of an endpoint, `None` if it is reached without one."""
        if not endpoint.named:
            return None
        name = self._names.get(endpoint.host)
        if name is None:
            name = self._names[endpoint.host] = Name(endpoint.host, self)
        return name

    def keep_only(self, names: AbstractSet[Name]) -> None:
        """Forget the names that no pool has."""
        for name in [name for name in self._names.values() if name not in names]:
            del self._names[name.name]
            name.forget()
