"""What a rollout of 48 hours holds in memory, beside one of an hour: the control plane's own parts, in pressed time.

The real controller with its watch, collector, history, journal, store and block journal runs a stage of 49 hours, with
every kind of limit, in time that is told to it: one block of a second after the other, as fast as they come. A worker's
region is written as a worker does. The objects and the memory are counted after some of the hours, with everything
collected that nobody holds. What must not grow with time is what a block leaves behind; blocks of 250 ms leave four
times as much.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from proxy.controlplane.blocks import Blocks
from proxy.controlplane.collector import Collector
from proxy.controlplane.controller import Controller
from proxy.controlplane.generations import Generations, ServiceWords
from proxy.controlplane.latch import Latch
from proxy.controlplane.operations import Order
from proxy.controlplane.store import Store
from proxy.ipc import layout
from proxy.metrics import hdr
from proxy.rollout.plan import Limit, ServicePlan
from proxy.routing.table import NEW, STABLE, VERSIONS, Endpoint, RoutingTable, Service, Version

HOUR_S = 3600
BLOCK_S = 1.0
PER_BLOCK = 20  # responses of each version
LIMITS = (
    Limit("error_rate", max=0.01),
    Limit("p99", max=200.0),
    Limit("error_rate", max=0.02, window_s=300.0, for_s=60.0),
    Limit("p95", max_ratio=2.0, window_s=600.0),
    Limit("error_rate", max_ratio=3.0, floor=0.01),
    Limit("p99", version=STABLE, max=500.0, action="alert"),
)
STAGE = {
    "name": "long",
    "weight": "50%",
    "hold": "49h",
    "min_requests": 1000,
    "limits": {"error_rate": "5%", "p99": "500ms"},
    "require": [{"metric": "p95", "max_ratio": 5}, {"metric": "error_rate", "max": "5%"}],
}
PLAN = {"stages": [STAGE], "progress_report": "5m"}


class Told:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.ns = 10**12

    def monotonic_ns(self) -> int:
        """Return ns that never stand still."""
        self.ns += 1
        return self.ns

    def wall(self) -> float:
        """Return seconds since the Unix epoch."""
        return 1_800_000_000 + self.ns / 1e9


@dataclass(frozen=True, slots=True)
class Held:
    """What is held after so many hours: objects of the interpreter's allocator, and resident memory."""

    hours: int
    objects: int
    resident_kib: int


@dataclass(slots=True)
class Life:
    """A controller with one worker, whose region `busy` writes."""

    controller: Controller
    generations: Generations
    clock: Told
    draw: random.Random = field(default_factory=lambda: random.Random(1))

    async def block(self) -> None:
        """Let a block pass."""
        self.busy()
        self.clock.ns += int(BLOCK_S * 1e9)
        await self.controller.tick()
        await asyncio.sleep(0)
        if len(self.controller.commits.tasks) > 2:
            await self.settle()

    async def settle(self) -> None:
        """Wait for the store."""
        await asyncio.gather(*self.controller.commits.tasks, return_exceptions=True)

    def busy(self) -> None:
        """Write what a worker writes in a block: healthy traffic, with one bad response in a thousand."""
        generation = self.generations.current
        words = generation.counters[0].words
        edges = generation.table.services[0].thresholds_us
        for version in (STABLE, NEW):
            at = generation.counters_layout.versions[0][version]
            for _ in range(PER_BLOCK):
                us = 10_000 * min(15, 1 + int(self.draw.lognormvariate(1.0, 0.5)))
                bad = self.draw.random() < 0.001
                words[at + layout.VERSION_CODES + (500 if bad else 200)] += 1
                words[at + layout.VERSION_BAD] += bad
                words[at + layout.VERSION_ASSIGNED] += 1
                words[at + layout.VERSION_ENDED] += 1
                words[at + layout.VERSION_ENDED_WITHIN + sum(us > edge for edge in edges)] += 1
                words[at + layout.VERSION_TTFB_WITHIN] += 1
                words[at + layout.VERSION_TOTAL_HDR + hdr.index(us)] += 1
                words[at + layout.VERSION_TTFB_HDR + hdr.index(us // 2)] += 1

    def held(self, hours: int) -> Held:
        """Count what is held."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Held(hours, sys.getallocatedblocks(), pages * resource.getpagesize() // 1024)


@asynccontextmanager
async def life(folder: Path) -> AsyncIterator[Life]:
    """Start a controller on a state in `folder`, with a rollout in its only stage."""
    stable, new = (
        Version(name, (Endpoint(f"http://127.0.0.1:{9001 + at}", "127.0.0.1", 9001 + at),))
        for at, name in enumerate(VERSIONS)
    )
    table = RoutingTable((Service("web", stable, new, thresholds_us=(200_000, 500_000)),))
    plan = ServicePlan("web", limits=LIMITS, block_s=BLOCK_S)
    clock, generations = Told(), Generations()
    store = Store.open(folder / "state.db")
    latch = Latch.open(folder / "state.db.latch")

    async def switch(table: RoutingTable, words: Mapping[str, ServiceWords]) -> None:
        before = generations.live[-1:]
        generations.counters_for(generations.create(table, words), 0)
        for one in before:
            generations.release(one.number, 0)

    controller = Controller(
        (plan,),
        table,
        generations,
        Collector(generations, clock),
        store,
        latch,
        clock,
        switch,
        blocks=Blocks(folder / "blocks"),
    )
    try:
        await controller.start()
        await controller.rollouts.start("web", PLAN, Order("load test"))
        yield Life(controller, generations, clock)
    finally:
        await controller.close()
        generations.close()
        store.close()
        latch.close()


async def measure(hours: int, told: tuple[int, ...]) -> list[Held]:
    """Run for so many hours of pressed time; return what was held after those of `told`."""
    found = []
    with TemporaryDirectory(prefix="tidegate-long-") as folder:
        async with life(Path(folder)) as one:
            for hour in range(1, hours + 1):
                for _ in range(round(HOUR_S / BLOCK_S)):
                    await one.block()
                if hour in told:
                    await one.settle()
                    found.append(one.held(hour))
            if one.controller.services.entry("web").state.weight_bp == 0:
                raise RuntimeError("healthy traffic was rolled back")
    return found
