"""`python -m loadtests.judge.cost`: what a tick of the controller costs, in CPU time, with everything real but time.

The real `Controller` with shared memory, SQLite, latch and block journal, and two workers' regions that are written
between the ticks. Every service runs a rollout: two limits of the service and two of the stage (two by evidence, one
`max_ratio`, one by window), and both its versions have traffic. Time is made up, so that a tick follows the last one
at once; beside the ticks only the writing is left out of the count. What SQLite and the journal do in threads of their
own counts; now and then they are given time to follow. What this printed last is in `loadtests/judge/COST.md`.

At a rate of 0 the services are idle: no rollout, no weight, no traffic. `--parts` shows which part of a tick costs
what; reading the CPU clock for it costs 1 µs for each part and service.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config.compile import compile_text
from proxy.controlplane.blocks import Blocks
from proxy.controlplane.collector import Collector
from proxy.controlplane.controller import Controller
from proxy.controlplane.generation import Generation
from proxy.controlplane.generations import Generations
from proxy.controlplane.latch import Latch
from proxy.controlplane.operations import Order
from proxy.controlplane.store import Store
from proxy.controlplane.watch import Watch
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.metrics import hdr
from proxy.routing.table import NEW, STABLE, RoutingTable

BLOCK_S = 0.25
REST_TICKS, REST_S = 20, 0.05  # after so many ticks so much real time passes
WARM_UP = 20  # ticks before anything is measured
WEIGHT = 0.1  # of the stage, and of what is written
# The parts of a tick, by the class and the method that does them.
PARTS: tuple[tuple[type, str, str], ...] = (
    (Collector, "collect", "read the counters"),
    (Watch, "look", "judge"),
    (Watch, "breach", "look for a breach"),
    (Controller, "_pass_time", "pass time"),
    (Controller, "_tell", "tell"),
    (Blocks, "add", "keep the block"),
    (Collector, "keep", "keep histograms"),
)

SERVICE = """
  - name: s{number}
    match: {{host: s{number}.example.com}}
    stable: {{label: "1", endpoints: ["http://127.0.0.1:9001"]}}
    new: {{label: "2", endpoints: ["http://127.0.0.1:9002"]}}
    limits:
      - {{metric: error_rate, max: 1%}}
      - {{metric: p99, max: 250ms}}
    rollouts:
      default:
        stages:
          - name: tenth
            weight: 10%
            hold: 100h
            limits:
              - {{metric: error_rate, max_ratio: 2, floor: 0.2%}}
              - {{metric: p95, max: 400ms, window: 30s, for: 5s}}
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds per tick: of everything, and of its parts by name."""

    tick_ms: float
    parts: dict[str, float]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000_000

    def monotonic_ns(self) -> int:
        """Return the made-up instant."""
        return self.ns

    def wall(self) -> float:
        """Return the made-up time of day."""
        return 1_700_000_000 + self.ns / 1e9


class Writer:
    """Writes a region as its worker would, through a mapping of its own."""

    def __init__(self, generation: Generation, region: Segment, chance: random.Random) -> None:
        self._places = generation.counters_layout
        self._thresholds = [service.thresholds_us for service in generation.table.services]
        self._segment = Segment.attach(os.dup(region.fd), self._places.hash)
        self._chance = chance

    def close(self) -> None:
        """Unmap."""
        self._segment.close()

    def block(self, answers: float) -> None:
        """Write what so many answers (on average) leave behind, in every service."""
        words, chance = self._segment.words, self._chance
        for index, thresholds in enumerate(self._thresholds):
            for version, mean in ((STABLE, answers * (1 - WEIGHT)), (NEW, answers * WEIGHT)):
                n = int(mean + chance.random())
                at = self._places.versions[index][version]
                end = self._places.endpoints[index][version][0]
                bad = chance.random() < n * 0.001
                words[at + layout.VERSION_ENDED] += n
                words[at + layout.VERSION_ASSIGNED] += n
                words[at + layout.VERSION_BAD] += bad
                words[at + layout.VERSION_CODES + 200] += n - bad
                words[at + layout.VERSION_CODES + 500] += bad
                words[end + layout.ENDPOINT_ENDED] += n
                words[end + layout.ENDPOINT_BAD] += bad
                words[end + layout.ENDPOINT_CONNECTED] += 1
                slow = chance.random() < n * 0.001
                words[at + layout.VERSION_ENDED_WITHIN] += n - slow
                if slow:
                    words[at + layout.VERSION_SLOW] += 1
                    words[at + layout.VERSION_ENDED_WITHIN + len(thresholds)] += 1
                for _ in range(n):
                    counter = hdr.index(int(chance.lognormvariate(9, 0.7)))
                    words[at + layout.VERSION_TOTAL_HDR + counter] += 1
                    words[at + layout.VERSION_TTFB_HDR + counter] += 1


class World:
    """A controller with everything around it."""

    def __init__(self, directory: Path, services: int, workers: int) -> None:
        listen = "listen: ['127.0.0.1:0']\nservices:"
        text = listen + "".join(SERVICE.format(number=number) for number in range(services))
        compiled = compile_text(text, {})
        path = directory / "state.db"
        self.clock = Clock()
        self.workers = workers
        self.writers: list[Writer] = []
        self.generations = Generations()
        self.collector = Collector(self.generations, self.clock)
        self.store = Store.open(path)
        self.latch = Latch.open(path.with_name("state.db.latch"))
        self.controller = Controller(
            compiled.plans,
            compiled.table,
            self.generations,
            self.collector,
            self.store,
            self.latch,
            self.clock,
            self._switch,
            blocks=Blocks(directory / "blocks"),
        )

    async def _switch(self, table: RoutingTable, words: Any) -> None:
        generation = self.generations.create(table, words)
        for slot in range(self.workers):
            region = self.generations.counters_for(generation, slot)
            self.writers.append(Writer(generation, region, random.Random(slot)))  # made-up traffic

    async def close(self) -> None:
        """Let go of everything."""
        await self.controller.close()
        for writer in self.writers:
            writer.close()
        self.generations.close()
        self.store.close()
        self.latch.close()


async def measure(services: int, workers: int, ticks: int, rate: float, *, parts: bool = False) -> Cost:
    """Return what a tick costs on average; `rate`: requests/s of each service, 0 = idle, without a rollout."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), services, workers)
        await world.controller.start()
        if rate:
            for name in world.controller.services.names():
                await world.controller.rollouts.start(name, None, Order("bench"))
        await _ticks(world, WARM_UP, rate)
        spent: dict[str, int] = defaultdict(int)
        before, written = time.process_time_ns(), 0
        with _watched(spent, on=parts):
            written = await _ticks(world, ticks, rate)
        all_ns = time.process_time_ns() - before - written
        for name in world.controller.services.names():
            shown = world.controller.status.service_status(name)
            if rate and (shown["phase"] != "progressing" or len(shown["limits"]) != 4):
                raise RuntimeError(f"what was measured is no rollout: {shown}")
        await world.close()
        return Cost(all_ns / ticks / 1e6, {name: ns / ticks / 1e6 for name, ns in spent.items()})


async def _ticks(world: World, ticks: int, rate: float) -> int:
    """Let time pass; return the CPU time (ns) that writing took."""
    written = 0
    for tick in range(ticks):
        before = time.thread_time_ns()
        if rate:
            for writer in world.writers:
                writer.block(rate * BLOCK_S / world.workers)
        world.clock.ns += int(BLOCK_S * 1e9)
        written += time.thread_time_ns() - before
        await world.controller.tick()
        await asyncio.sleep(0 if tick % REST_TICKS else REST_S)
    return written


@contextmanager
def _watched(spent: dict[str, int], *, on: bool) -> Iterator[None]:
    """Add up the CPU time of the parts of a tick."""
    originals = [(owner, method, getattr(owner, method)) for owner, method, _ in PARTS]
    if on:
        for owner, method, name in PARTS:
            setattr(owner, method, _timed(getattr(owner, method), spent, name))
    try:
        yield
    finally:
        for owner, method, original in originals:
            setattr(owner, method, original)


def _timed(call: Callable[..., Any], spent: dict[str, int], name: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(*arguments: Any, **more: Any) -> Any:
        before = time.thread_time_ns()
        try:
            return call(*arguments, **more)
        finally:
            spent[name] += time.thread_time_ns() - before

    return timed


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the report."""
    counts = [int(count) for count in arguments.services.split(",")]
    rates = [float(rate) for rate in arguments.rates.split(",")]

    def cost(services: int, rate: float, *, parts: bool = False) -> Cost:
        return asyncio.run(measure(services, arguments.workers, arguments.ticks, rate, parts=parts))

    yield f"{arguments.workers} workers, {arguments.ticks} ticks of {BLOCK_S * 1000:g} ms, least of {arguments.rounds}:"
    yield ""
    yield "| services | requests/s of each, all in a rollout | CPU ms per tick | of a core |"
    yield "|---|---|---|---|"
    for services in counts:
        for rate in rates:
            found = min(cost(services, rate).tick_ms for _ in range(arguments.rounds))
            shown = f"{rate:g}" if rate else "idle, no rollout"
            yield f"| {services} | {shown} | {found:.2f} | {found / BLOCK_S / 10:.2f} % |"
    if arguments.parts:
        yield ""
        yield f"| part of a tick, {counts[-1]} services with {rates[-1]:g} requests/s | CPU ms |"
        yield "|---|---|"
        found_parts = cost(counts[-1], rates[-1], parts=True)
        for name, ms in found_parts.parts.items():
            yield f"| {name} | {ms:.2f} |"
        yield f"| the rest (and reading the CPU clock) | {found_parts.tick_ms - sum(found_parts.parts.values()):.2f} |"


def main(argv: list[str]) -> int:
    """Print the table; return 0."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.judge.cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", default="1,5,20", help="numbers of services (1,5,20)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ticks", type=int, default=400)
    parser.add_argument("--rates", default="0,100,400", help="requests/s of each service; 0 = idle (0,100,400)")
    parser.add_argument("--rounds", type=int, default=3, help="the least counts: neighbours make CPU time longer (3)")
    parser.add_argument("--parts", action="store_true", help="show the parts of a tick")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    for line in report(arguments):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
