"""A controller with everything real around it but time: shared memory, SQLite, latch, and one worker's hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from proxy.controlplane.collector import Collector
from proxy.controlplane.controller import Controller
from proxy.controlplane.generations import Generations
from proxy.controlplane.latch import Latch
from proxy.controlplane.operations import Order
from proxy.controlplane.store import Store
from proxy.ipc import layout
from proxy.routing.table import NEW, RoutingTable
from tests.controlplane.regions import Hand

ANN = Order("ann")


class FakeClock:
    """Time that passes when it is told to; every reading of `monotonic_ns` is one ns later than the last."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.ns = int(seconds * 1e9)

    def monotonic_ns(self) -> int:
        self.ns += 1
        return self.ns

    def wall(self) -> float:
        return 1_700_000_000 + self.ns / 1e9

    def pass_s(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class World:
    """One life of a supervisor, from start to kill -9 (`close` lets go of files and memory, and stores nothing)."""

    def __init__(self, path: Path | None, plans, table: RoutingTable, *, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.store = Store.open(path)
        self.latch = Latch.open(None if path is None else path.with_name(path.name + ".latch"))
        self.generations = Generations()
        self.collector = Collector(self.generations, self.clock)
        self.hands: list[Hand] = []
        self.on_switch: Callable[[], None] = lambda: None
        salts = count(1)
        self.controller = Controller(
            plans,
            table,
            self.generations,
            self.collector,
            self.store,
            self.latch,
            self.clock,
            self.switch,
            salts=lambda: f"salt-{next(salts)}-{id(self)}",
        )

    async def switch(self, table, words) -> None:
        generation = self.generations.create(table, words)
        self.hands.append(Hand(generation, self.generations.counters_for(generation, 0)))
        await asyncio.sleep(0)
        self.on_switch()

    @property
    def hand(self) -> Hand:
        return self.hands[-1]

    def word(self, service: str = "web", generation: int = -1) -> int:
        one = self.generations.live[generation]
        return one.weight(one.service_index[service])

    def seed(self, service: str = "web") -> int:
        one = self.generations.current
        return one.control.words[one.control_layout.services[one.service_index[service]] + layout.CONTROL_SEED]

    def watchdog_off(self, service: str = "web") -> bool:
        one = self.generations.current
        word = one.control.words[one.control_layout.services[one.service_index[service]]]
        return bool(word & layout.FLAG_WATCHDOG_OFF)

    def state(self, service: str = "web"):
        return self.controller.services.entry(service).state

    async def tick(self, seconds: float = 0.25, times: int = 1) -> None:
        for _ in range(times):
            self.clock.pass_s(seconds)
            await self.controller.tick()

    async def answered(self) -> None:
        """Wait until the store has answered what it was given so far: a slow disk costs no time of this world."""
        await asyncio.wrap_future(self.store._thread.submit(lambda: None))
        await asyncio.sleep(0)

    async def settle(self) -> None:
        """Wait until everything that was given to the store is answered."""
        while self.controller.commits.tasks:
            await asyncio.gather(*self.controller.commits.tasks, return_exceptions=True)

    def bad(self, times: int = 50, service: str = "web") -> None:
        self.hand.end(NEW, status=500, kind="status", times=times, name=service)

    def good(self, times: int = 50, service: str = "web", version: int = NEW) -> None:
        self.hand.end(version, times=times, name=service)

    def fail_connections(self, version: int, times: int = 1, index: int = 0) -> None:
        at = self.hand.endpoint_at(version, index)
        for word in (layout.ENDPOINT_CONNECT_FAILED, layout.ENDPOINT_ENDED, layout.ENDPOINT_BAD):
            self.hand.add(at + word, times)

    def blocks(self, service: str = "web") -> int:
        """Return the number of the last block in which the service was judged."""
        return self.controller.services.entries[service].watch._block

    def types(self) -> list[str]:
        return [event["type"] for event in self.store.last_events(1000)]

    def break_store(self) -> None:
        """From now on every transaction fails, as on a disk that is full."""
        self.store._run(lambda: self.store._connection.execute("PRAGMA query_only = 1").fetchall()).result()

    def mend_store(self) -> None:
        self.store._run(lambda: self.store._connection.execute("PRAGMA query_only = 0").fetchall()).result()

    @contextmanager
    def slow_store(self) -> Iterator[None]:
        """What is given to the store inside is not answered before the end, as on a disk that hangs."""
        go_on = threading.Event()
        self.store._thread.submit(go_on.wait)
        try:
            yield
        finally:
            go_on.set()

    def close(self) -> None:
        for hand in self.hands:
            hand.close()
        self.generations.close()
        self.store.close()
        self.latch.close()


async def begun(path: Path | None, plans: Sequence[object], table: RoutingTable, **more: object) -> World:
    """Return a world that has started."""
    world = World(path, plans, table, **more)
    await world.controller.start()
    return world
