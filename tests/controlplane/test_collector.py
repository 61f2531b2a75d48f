"""The collector: what workers wrote, by name, forwards only."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.controlplane.collector import Collector
from proxy.controlplane.generations import Generation, Generations, ServiceWords
from proxy.controlplane.scales import Scale
from proxy.errors import CounterWentBack
from proxy.ipc import layout
from proxy.metrics import expose, hdr
from proxy.metrics.expose import Exposition
from proxy.metrics.snapshot import Judged, Snapshot, VersionCounts, VersionScales
from proxy.routing.table import NEW, STABLE, RoutingTable, Signal
from tests.controlplane.regions import A, B, C, Hand, service, table, version
from tests.controlplane.waiting import until_now

SECOND = 1_000_000_000
HITS, FRESH = Signal("hits", "x-cache", "^HIT"), Signal("fresh", "age", "^0$")


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 5 * SECOND

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall(self) -> float:
        return 0.0


class Bench:
    """A collector with its generations, and hands for the workers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.generations = Generations()
        self.collector = Collector(self.generations, self.clock)
        self.hands: list[Hand] = []

    def generation(self, made: RoutingTable | None = None, slots: int = 1) -> Generation:
        made = made or table()
        generation = self.generations.create(made, {one.name: ServiceWords(0, 0, 1) for one in made.services})
        for slot in range(slots):
            self.start(generation, slot)
        return generation

    def start(self, generation: Generation, slot: int) -> Hand:
        hand = Hand(generation, self.generations.counters_for(generation, slot))
        self.hands.append(hand)
        return hand

    def block(self, seconds: float = 0.25) -> Snapshot:
        self.clock.now_ns += int(seconds * SECOND)
        snapshot = self.collector.collect()
        self.collector.keep()
        return snapshot

    def scales(self, which: int = STABLE, name: str = "web") -> VersionScales:
        return self.collector.deep().services[name].versions[which]

    def close(self) -> None:
        for hand in self.hands:
            hand.close()
        self.generations.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def counts(snapshot: Snapshot, which: int = STABLE, name: str = "web") -> VersionCounts:
    return snapshot.services[name].versions[which]


def test_workers_are_added_up(bench: Bench) -> None:
    bench.generation(slots=2)
    one, two = bench.hands
    one.end(us=100_000, times=3)
    two.end(us=300_000, status=503, kind="status")
    two.end(us=100, status=404)
    two.add(two.version_at(NEW) + layout.VERSION_BAD + layout.BAD_KINDS.index("diverted"), 2)
    snapshot = bench.block()
    assert counts(snapshot).judged == Judged(5, 1, 0, 1, slow=(1,), fast=(4,))
    assert counts(snapshot, NEW).judged == Judged(0, 2, 2, 0, slow=(0,), fast=(0,))
    assert counts(snapshot, NEW).judged.requests == 2
    assert counts(snapshot).bad == dict.fromkeys(layout.BAD_KINDS, 0) | {"status": 1}
    assert bench.collector.latest is snapshot


def test_first_bytes_and_signals_are_judged_beside_the_whole(bench: Bench) -> None:
    bench.generation(table(service(first=(40_000, 100_000), signals=(HITS, FRESH))), slots=2)
    for hand in bench.hands:
        hand.end(us=60_000, times=2)
        hand.end(us=300_000)
        hand.signal(0, matched=True, times=2)
        hand.signal(0, matched=False)
        hand.add(hand.version_at() + layout.VERSION_TTFB_SLOW)  # one that hangs
    bench.hands[0].signal(1, matched=True, version=NEW)
    snapshot = bench.block()
    found = snapshot.services["web"]
    assert (found.ttfb_thresholds_us, [signal.name for signal in found.signals]) == (
        (40_000, 100_000),
        ["hits", "fresh"],
    )
    assert counts(snapshot).judged == Judged(6, 0, 0, 0, (2,), (4,), (4, 2), (4, 4), ((6, 4), (0, 0)))
    assert counts(snapshot, NEW).judged == Judged(0, 0, 0, 0, (0,), (0,), (0, 0), (0, 0), ((0, 0), (1, 1)))
    bench.hands[0].signal(0, matched=True)
    bench.block()
    window, _ = bench.collector.history.over("web", STABLE, 0.25)
    assert window.signals == ((1, 1), (0, 0))


def test_every_limit_on_first_bytes_is_exact_in_metrics(bench: Bench) -> None:
    """A threshold that an older table did not know is read from its histogram, to 0.8 %."""
    bench.generation(table(service(first=(50_000,))))
    bench.hands[0].end(us=2 * 40_000, times=3)
    bench.hands[0].end(us=2 * 50_050, times=5)
    assert bench.scales().ttfb_within == {50_000: 3}
    bench.generation(table(service(first=(45_000, 50_000))))
    bench.hands[1].end(us=2 * 45_010, times=7)
    assert bench.scales().ttfb_within == {45_000: 3, 50_000: 10}


def test_hung_requests_count_before_they_end(bench: Bench) -> None:
    bench.generation()
    bench.hands[0].add(bench.hands[0].version_at(NEW) + layout.VERSION_SLOW, 30)
    bench.block()
    judged = counts(bench.block(), NEW).judged
    assert (judged.ended, judged.slow) == (0, (30,))


def test_every_word_has_its_name(bench: Bench) -> None:
    bench.generation(slots=2)
    for hand in bench.hands:
        at = hand.version_at(NEW)
        for reason in range(len(layout.ASSIGNMENT_REASONS)):
            hand.add(at + layout.VERSION_ASSIGNED + reason, reason + 1)
        hand.add(at + layout.VERSION_RETRIES + 1, 4)
        hand.add(at + layout.VERSION_RESCUED, 5)
        hand.add(at + layout.VERSION_OVERRIDES, 6)
        hand.set(at + layout.VERSION_IN_FLIGHT, 7)
        hand.set(at + layout.VERSION_OLDEST_US, 8)
        hand.set(at + layout.VERSION_LAST_DISPATCH_NS, 9)
        hand.add(hand.service_at() + layout.SERVICE_CLIENT_ABORTS, 10)
        hand.add(hand.service_at() + layout.SERVICE_FAILOVERS, 11)
        hand.add(hand.places.process + layout.PROCESS_INTERNAL_ERRORS, 12)
        hand.add(hand.places.process + layout.PROCESS_LOCAL_REPLIES + 1, 13)
        hand.add(hand.places.process + layout.PROCESS_LINES_LOST, 14)
        hand.add(hand.places.process + layout.PROCESS_REFUSED + 1, 15)
        at = hand.endpoint_at(NEW)
        for word in range(layout.ENDPOINT_POOL_ACTIVE + 1):
            hand.add(at + word, word + 20)
    bench.generations.store_endpoint("web", NEW, B.url, layout.ENDPOINT_MAINTENANCE)
    snapshot = bench.block()
    new = counts(snapshot, NEW)
    assert new.assigned == {reason: 2 * at for at, reason in enumerate(layout.ASSIGNMENT_REASONS, 1)}
    assert new.by_split == 2 * (1 + 2 + 3)  # hash, mint and random; what people and failures choose is none of it
    assert new.retries == {"ok": 0, "failed": 8}
    assert (new.rescued, new.overrides) == (10, 12)
    assert (new.in_flight, new.oldest_us, new.last_dispatch_ns) == (14, 8, 9)
    assert snapshot.services["web"].client_aborts == 20
    assert snapshot.services["web"].failovers == {"rescued": 22, "failed": 0, "over_budget": 0}
    assert snapshot.internal_errors == 24
    assert snapshot.local_replies[404, "no_service"] == 26
    assert snapshot.log_lines_lost == 28
    assert snapshot.refused_connections == {"untrusted": 0, "preface": 30, "tls_handshake": 0, "tls_messages": 0}
    [endpoint] = new.endpoints
    assert (endpoint.url, endpoint.state) == (B.url, "maintenance")
    assert (endpoint.ended, endpoint.bad, endpoint.connect_failed, endpoint.connected) == (40, 42, 44, 46)
    assert (endpoint.in_flight, endpoint.pool_idle, endpoint.pool_active) == (48, 50, 52)


def test_windows_are_fed_by_blocks_only(bench: Bench) -> None:
    bench.generation()
    bench.block()
    bench.hands[0].end(times=4)
    bench.collector.read()
    bench.collector.deep()
    assert bench.collector.history.over("web", STABLE, 10.0)[0].ended == 0
    bench.block()
    assert bench.collector.history.over("web", STABLE, 10.0) == (Judged(4, slow=(0,), fast=(4,)), 0.25)


def test_histograms_are_sliced_by_the_second(bench: Bench) -> None:
    bench.generation(slots=2)
    bench.collector.history.watch_first_bytes("web", watched=True)
    bench.block()
    for hand in bench.hands:
        hand.end(us=1000, times=2)
    bench.collector.deep()  # a scrape in between takes nothing away
    for _ in range(4):
        bench.block()
    assert bench.collector.history.histogram("web", STABLE, "total", 10.0) == ({hdr.index(1000): 4}, 1.0)
    assert bench.collector.history.histogram("web", STABLE, "ttfb", 10.0) == ({hdr.index(500): 4}, 1.0)


def test_a_second_of_histograms_is_read_a_part_at_a_time(bench: Bench) -> None:
    bench.generation()
    bench.block()  # the first second begins
    read = []
    for _ in range(4):
        bench.hands[0].end(STABLE, times=1)
        bench.hands[0].end(NEW, times=1)
        bench.block()
        scales = bench.generations.scales
        kinds = [("total", "web", version) for version in (STABLE, NEW)] + [("user", "web", -1)]
        read.append(tuple(sum(scales.total(Scale(*kind)).values()) for kind in kinds))
    assert len(set(read)) > 1  # not all of it in the last block
    for _ in range(4):
        bench.block()
    assert bench.collector.history.histogram("web", NEW, "total", 10.0)[0] == {hdr.index(1000): 4}
    assert bench.collector.history.histogram("web", STABLE, "total", 10.0)[0] == {hdr.index(1000): 4}


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.3, 1.0, 3.0])
def test_whatever_the_ticks_nothing_is_missing_of_a_second_that_is_over(bench: Bench, seconds: float) -> None:
    bench.generation()
    bench.block(seconds)
    bench.hands[0].end(STABLE, times=3)
    bench.hands[0].end(NEW, times=3)
    for _ in range(int(2.0 / seconds) + 2):
        bench.block(seconds)
    for version_ in (STABLE, NEW):
        assert bench.collector.history.histogram("web", version_, "total", 60.0)[0] == {hdr.index(1000): 3}


def test_deep_has_everything_since_the_start(bench: Bench) -> None:
    bench.generation()
    hand = bench.hands[0]
    hand.end(us=150_000, times=3)
    hand.end(us=199_999, status=500, kind="status")
    hand.end(us=200_001, status=499)
    hand.add(hand.places.process + layout.PROCESS_OVERHEAD_HDR + 40, 2)
    deep = bench.collector.deep()
    scales = deep.services["web"].versions[STABLE]
    assert scales.codes == {200: 3, 500: 1, 499: 1}
    assert sum(scales.total.values()) == sum(scales.ttfb.values()) == 5
    assert scales.within == {200_000: 4}
    assert sum(deep.services["web"].user.values()) == 5
    assert deep.overhead == {40: 2}


def test_an_edge_that_is_new_counts_what_was_before_by_the_histogram(bench: Bench) -> None:
    bench.generation(table(service(thresholds=(100_000,))))
    bench.hands[0].end(us=50_000, times=10)
    bench.hands[0].end(us=400_000, times=10)
    bench.generation(table(service(thresholds=(100_000, 200_000))))
    bench.hands[1].end(us=150_000, times=5)
    assert bench.scales().within == {100_000: 10, 200_000: 15}


def test_without_any_generation_there_is_nothing(bench: Bench) -> None:
    assert bench.collector.latest.services == {}
    assert bench.collector.deep().services == {}


def test_a_histogram_that_shrank_is_a_bug(bench: Bench) -> None:
    bench.generation()
    bench.hands[0].end()
    bench.collector.deep()
    bench.hands[0].set(bench.hands[0].version_at() + layout.VERSION_TOTAL_HDR + hdr.index(1000), 0)
    with pytest.raises(CounterWentBack):
        bench.collector.deep()
    bench.hands[0].end(times=2)


def test_a_worker_that_is_killed_while_it_counts_loses_nothing(bench: Bench) -> None:
    """A real process writes the judged words as fast as it can, is read all the while, and is killed."""
    generation = bench.generation()
    region = generation.counters[0]
    words = range(layout.VERSION_BAD, layout.VERSION_GAUGES)
    first = generation.counters_layout.versions[0][NEW] + words.start
    writer = Path(__file__).parents[1] / "ipc" / "writer.py"
    arguments = [str(number) for number in (region.fd, first, len(words), 10_000_000)]
    process = subprocess.Popen([sys.executable, "-S", "-E", str(writer), *arguments], pass_fds=[region.fd])
    try:
        until_now(lambda: counts(bench.block(), NEW).judged.ended)
        for _ in range(500):
            judged = counts(bench.block(), NEW).judged
            assert judged.ended & 0xFFFF_FFFF == judged.ended >> 32
            bench.collector.history.over("web", NEW, 60.0)  # raises when a counter went back
    finally:
        process.kill()
        process.wait()
    last = region.words[first : first + len(words)].tolist()
    bench.generations.fold_worker(0)
    judged = counts(bench.block(), NEW).judged
    assert judged.ended == last[layout.VERSION_ENDED - words.start]
    assert judged.bad == sum(last[: len(layout.BAD_KINDS)])


def everything(bench: Bench) -> dict[str, float]:
    """Every counter of /metrics, by series."""
    made = Exposition("0", bench.block(), bench.collector.deep(), {}, ())
    series = [line.rsplit(" ", 1) for line in expose.render(made).decode().splitlines() if not line.startswith("#")]
    gauges = ("tidegate_in_flight", "tidegate_pool", "tidegate_endpoint", "tidegate_worker")
    return {name: float(number) for name, number in series if not name.startswith(gauges)}


@pytest.mark.slow
def test_no_counter_of_metrics_ever_goes_back(bench: Bench) -> None:
    """Whatever happens to workers, generations and labels, with traffic all the time."""
    chance = random.Random(7)
    slots = 2
    thresholds = [(200_000,), (100_000, 200_000), (200_000, 300_000), ()]
    current = bench.generation(slots=slots)
    living = {slot: bench.hands[slot] for slot in range(slots)}

    def traffic() -> None:
        for hand in living.values():
            hand.end(chance.choice((STABLE, NEW)), chance.randrange(400_000), times=chance.randrange(20))

    def worker_dies() -> None:
        slot = chance.randrange(slots)
        bench.generations.fold_worker(slot)
        living[slot] = bench.start(current, slot)

    def reload() -> None:
        nonlocal current
        label = chance.choice(["2", "3"])
        endpoints = chance.choice([(B,), (B, C), (C,)])
        first = chance.choice(thresholds)
        made = table(service(new=version(label, *endpoints), thresholds=chance.choice(thresholds), first=first))
        current = bench.generation(made, 0)
        for slot in range(slots):
            living[slot].end(NEW, 5)  # the old generation's last exchange
            living[slot] = bench.start(current, slot)

    def release() -> None:
        for generation in bench.generations.live[:-1]:
            bench.generations.release(generation.number, chance.randrange(slots))

    events: list[Callable[[], None]] = [traffic, traffic, traffic, worker_dies, reload, release]
    before = everything(bench)
    for _ in range(150):
        chance.choice(events)()
        now = everything(bench)
        gone = {name for name in before.keys() - now.keys() if 'le="' not in name}
        assert not gone
        assert {name: (count, now[name]) for name, count in before.items() if now.get(name, count) < count} == {}
        before |= now  # an edge that is gone and comes back is where it was, or further
    assert sum(number for name, number in before.items() if name.startswith("tidegate_requests_total")) > 1000


def test_counts_in_which_no_word_has_changed_are_the_very_same(bench: Bench) -> None:
    generation = bench.generation(table(service("web"), service("shop")), slots=2)
    for hand in bench.hands:
        hand.end(us=1000)
    before = bench.collector.collect().services
    bench.clock.now_ns += SECOND
    bench.hands[1].end(NEW, us=1000)
    after = bench.collector.collect().services
    assert after["shop"] is before["shop"]
    assert after["web"].versions[NEW].judged.requests == 1
    # What a worker counted is not forgotten with its region, and what people say of endpoints is seen at once.
    bench.generations.store_endpoint("shop", STABLE, A.url, layout.ENDPOINT_DRAIN)
    bench.generations.fold_worker(0)
    last = bench.collector.collect().services
    assert last["shop"].versions[STABLE].endpoints[0].state == "drain"
    assert last["web"].versions[STABLE].judged == after["web"].versions[STABLE].judged
    assert bench.generations.current is generation


def test_a_latency_far_from_all_others_is_found(bench: Bench) -> None:
    bench.generation()
    [hand] = bench.hands
    for us in (20_000, 30_000_000, 1, 20_001):
        hand.end(us=us)
        bench.generations.scales.harvest_lately(bench.generations.live, 0, 1)
    found = bench.generations.scales.total(Scale("total", "web", STABLE))
    assert found == hdr.merge({hdr.index(us): 1} for us in (20_000, 30_000_000, 1, 20_001))
