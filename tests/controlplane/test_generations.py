"""Generations: words are written before anybody sees them, in all that live, and nothing counted is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.controlplane.generation import columns_of
from proxy.controlplane.generations import Generation, Generations, ServiceWords, same
from proxy.controlplane.scales import CODES, TOTAL, Scale
from proxy.controlplane.totals import EARLIER, IN_FLIGHT
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.metrics import hdr
from proxy.metrics.snapshot import Columns
from proxy.routing.table import NEW, STABLE, RoutingTable, Signal, Version
from tests.controlplane.regions import A, B, C, Hand, service, table, version


@pytest.fixture
def generations() -> Iterator[Generations]:
    made = Generations()
    yield made
    made.close()


def words(made: RoutingTable, weight: int = 0, seed: int = 7, flags: int = 0) -> dict[str, ServiceWords]:
    return {one.name: ServiceWords(weight, flags, seed) for one in made.services}


def create(generations: Generations, made: RoutingTable | None = None, weight: int = 0) -> Generation:
    made = made or table()
    return generations.create(made, words(made, weight))


def weight_word(generation: Generation, name: str = "web") -> int:
    return generation.control.words[generation.control_layout.services[generation.service_index[name]]]


def ended(generations: Generations, which: int = STABLE, name: str = "web") -> int:
    """All incarnations, all regions."""
    totals = generations.totals.copy()
    for generation in generations.live:
        for region in generation.counters.values():
            totals.add(generation, region)
    lives = totals.versions[name, which].values()
    return sum(life.judged(Columns()).ended for life in lives)


def test_a_generation_begins_with_its_words(generations: Generations) -> None:
    made = table(service("web"), service("api"))
    generation = generations.create(
        made, {"web": ServiceWords(1000, 0, 2**64 - 1), "api": ServiceWords(0, layout.FLAG_WATCHDOG_OFF, 5)}
    )
    # As a worker maps it.
    seen = Segment.attach(os.dup(generation.control.fd), layout.control_layout(made).hash)
    web, api = layout.control_layout(made).services
    assert seen.words[web + layout.CONTROL_WEIGHT] & layout.WEIGHT_MASK == 1000
    assert seen.words[web + layout.CONTROL_SEED] == 2**64 - 1
    assert seen.words[api + layout.CONTROL_WEIGHT] & layout.FLAG_WATCHDOG_OFF
    assert seen.words[layout.HEADER_GENERATION] == generation.number == 1
    seen.close()


def test_a_bad_weight_creates_nothing(generations: Generations) -> None:
    with pytest.raises(ValueError, match="10001"):
        create(generations, weight=10_001)
    assert generations.live == []


def test_a_weight_is_stored_in_every_live_generation_and_the_epoch_grows(generations: Generations) -> None:
    old = create(generations, weight=1000)
    generations.counters_for(old, 0)
    current = create(generations, weight=1000)
    epochs = [weight_word(one) >> layout.EPOCH_SHIFT for one in (old, current)]
    generations.store_weight("web", 0)
    assert [weight_word(one) & layout.WEIGHT_MASK for one in (old, current)] == [0, 0]
    generations.store_weight("web", 2500, layout.FLAG_WATCHDOG_OFF)
    assert [weight_word(one) & 0xFFFF_FFFF for one in (old, current)] == [2500 | layout.FLAG_WATCHDOG_OFF] * 2
    assert [weight_word(one) >> layout.EPOCH_SHIFT for one in (old, current)] == [epoch + 2 for epoch in epochs]


def test_every_opening_of_the_gate_is_counted_in_every_live_generation(generations: Generations) -> None:
    """An attempt of a trial before is told by it, whatever generation it began in."""
    old = create(generations, weight=0)
    generations.counters_for(old, 0)
    current = create(generations, weight=0)

    def openings() -> list[int]:
        at = layout.CONTROL_OPENED
        return [one.control.words[one.control_layout.services[0] + at] for one in (old, current)]

    begin = openings()
    for weight, opened in ((1000, 1), (2500, 1), (0, 1), (0, 1), (2500, 2)):
        generations.store_weight("web", weight)
        assert openings() == [before + opened for before in begin]


def test_the_epoch_wraps_without_touching_the_weight(generations: Generations) -> None:
    generation = create(generations)
    at = generation.control_layout.services[0]
    generation.control.words[at] = 0xFFFF_FFFF << layout.EPOCH_SHIFT
    generations.store_weight("web", 42)
    assert generation.control.words[at] == 42


def test_a_weight_for_another_new_is_not_given_to_the_old_one(generations: Generations) -> None:
    old = create(generations, weight=1000)
    generations.counters_for(old, 0)
    current = create(generations, table(service(new=version("3", C))))
    assert weight_word(old) & layout.WEIGHT_MASK == 1000  # until the workers have switched
    generations.store_weight("web", 2500)
    assert weight_word(old) & layout.WEIGHT_MASK == 0
    assert weight_word(current) & layout.WEIGHT_MASK == 2500


def test_a_service_that_only_an_old_generation_has_can_be_shut(generations: Generations) -> None:
    old = create(generations, table(service("web"), service("api")), weight=1000)
    generations.counters_for(old, 0)
    create(generations, table(service("web")))
    generations.store_weight("api", 0)
    assert weight_word(old, "api") & layout.WEIGHT_MASK == 0
    with pytest.raises(KeyError):
        generations.store_weight("shop", 0)


@pytest.mark.parametrize("weight", [-1, 10_001])
def test_a_weight_out_of_range_is_refused(generations: Generations, weight: int) -> None:
    generation = create(generations, weight=5)
    with pytest.raises(ValueError, match="ten-thousandths"):
        generations.store_weight("web", weight)
    assert generation.weight(0) == 5


def test_a_rollback_is_counted_where_new_is_still_the_same(generations: Generations) -> None:
    """Else a rollback of the next version would close what lasts on one that has become stable since."""

    def rollbacks(generation: Generation) -> int:
        at = generation.control_layout.services[generation.service_index["web"]]
        return generation.control.words[at + layout.CONTROL_ROLLBACKS]

    first = create(generations)
    generations.counters_for(first, 0)
    second = create(generations)
    generations.counters_for(second, 0)
    generations.count_rollback("web")
    other = create(generations, table(service(new=version("9.9", C))))
    generations.counters_for(other, 0)
    generations.count_rollback("web")
    assert [rollbacks(one) for one in (first, second, other)] == [1, 1, 1]


def test_a_seed_changes_only_at_weight_0_everywhere(generations: Generations) -> None:
    old = create(generations, weight=1000)
    generations.counters_for(old, 0)
    current = create(generations, weight=0)
    with pytest.raises(ValueError, match="salt"):
        generations.store_seed("web", 9)
    generations.store_weight("web", 0)
    generations.store_seed("web", 9)
    for generation in (old, current):
        assert generation.control.words[generation.control_layout.services[0] + layout.CONTROL_SEED] == 9


def test_an_endpoint_state_is_stored_everywhere_and_taken_along(generations: Generations) -> None:
    made = table(service(new=version("2", B, C)))
    old = create(generations, made)
    generations.counters_for(old, 0)
    generations.store_endpoint("web", NEW, C.url, layout.ENDPOINT_DRAIN)
    current = create(generations, table(service(new=version("2", C, B))))
    assert old.control.words[old.control_layout.endpoints[0][NEW][1]] == layout.ENDPOINT_DRAIN
    assert current.control.words[current.control_layout.endpoints[0][NEW][0]] == layout.ENDPOINT_DRAIN
    assert current.control.words[current.control_layout.endpoints[0][NEW][1]] == layout.ENDPOINT_READY
    with pytest.raises(KeyError, match="no endpoint"):
        generations.store_endpoint("web", STABLE, C.url, layout.ENDPOINT_DRAIN)


def test_what_a_dead_worker_counted_is_kept(generations: Generations) -> None:
    generation = create(generations)
    with Hand(generation, generations.counters_for(generation, 0)) as worker:
        worker.end(times=5)
        worker.set(worker.version_at() + layout.VERSION_IN_FLIGHT, 3)
    generations.fold_worker(0)
    assert generation.counters == {}
    assert ended(generations) == 5
    with Hand(generation, generations.counters_for(generation, 0)) as worker:
        worker.end(times=2)
        assert ended(generations) == 7
    [life] = generations.totals.versions["web", STABLE].values()
    assert life.small[IN_FLIGHT] == 0  # a gauge of the dead says nothing


def test_a_fresh_region_folds_the_slots_old_one(generations: Generations) -> None:
    generation = create(generations)
    with Hand(generation, generations.counters_for(generation, 0)) as worker:
        worker.end()
    generations.counters_for(generation, 0)
    assert ended(generations) == 1
    assert list(generation.counters) == [0]


def test_an_old_generation_ends_when_every_slot_released_it(generations: Generations) -> None:
    old = create(generations)
    for slot in (0, 1):
        with Hand(old, generations.counters_for(old, slot)) as worker:
            worker.end(times=slot + 1)
    current = create(generations)
    generations.release(old.number, 0)
    assert generations.live == [old, current]
    assert ended(generations) == 3
    generations.release(old.number, 1)
    assert generations.live == [current]
    assert ended(generations) == 3
    generations.release(old.number, 1)  # said twice
    generations.release(99, 0)  # never heard of


def test_the_current_generation_is_never_released(generations: Generations) -> None:
    generation = create(generations)
    generations.counters_for(generation, 0)
    generations.release(generation.number, 0)
    assert list(generation.counters) == [0]


def test_a_dead_workers_old_generations_end_too(generations: Generations) -> None:
    old = create(generations)
    generations.counters_for(old, 0)
    current = create(generations)
    generations.counters_for(current, 0)
    generations.fold_worker(0)
    assert generations.live == [current]


def test_a_generation_that_no_worker_got_ends_with_the_next(generations: Generations) -> None:
    create(generations)
    current = create(generations)
    assert generations.live == [current]


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_segments_leave_no_descriptor_behind() -> None:
    before = descriptors()
    generations = Generations()
    for _ in range(3):
        generations.counters_for(create(generations), 0)
    generations.close()
    assert descriptors() == before
    assert generations.live == []


def test_totals_are_by_name_not_by_place(generations: Generations) -> None:
    old = create(generations, table(service("web", stable=version("1", A, C)), service("api")))
    with Hand(old, generations.counters_for(old, 0)) as worker:
        worker.end(name="web", endpoint=1, times=2)
        worker.end(name="api", times=10)
    current = create(generations, table(service("api"), service("web", stable=version("1", C, A))))
    with Hand(current, generations.counters_for(current, 0)) as worker:
        worker.end(name="web", endpoint=0, times=3)
    generations.release(old.number, 0)
    generations.fold_worker(0)
    assert ended(generations, name="web") == 5
    assert ended(generations, name="api") == 10
    assert generations.totals.endpoints["web", STABLE, C.url][layout.ENDPOINT_ENDED] == 5


def test_another_new_is_another_incarnation_and_the_version_goes_on_growing(generations: Generations) -> None:
    for label, endpoint in (("2", B), ("3", C), ("4", B)):
        generation = create(generations, table(service(new=version(label, endpoint))))
        with Hand(generation, generations.counters_for(generation, 0)) as worker:
            worker.end(NEW, times=10, status=500, kind="status")
        assert generations.current.incarnations[0][STABLE] == 1
        for old in generations.live[:-1]:
            generations.release(old.number, 0)
    generations.fold_worker(0)
    assert ended(generations, NEW) == 30
    lives = generations.totals.versions["web", NEW]
    assert lives[EARLIER].judged(Columns()).ended == 20  # bounded: what is over is one
    assert lives[generations.current.incarnations[0][NEW]].judged(Columns()).bad == 10
    assert generations.scales.total(Scale(CODES, "web", NEW)) == {500: 30}


def test_thresholds_are_kept_by_value(generations: Generations) -> None:
    old = create(generations, table(service(thresholds=(100_000, 200_000))))
    with Hand(old, generations.counters_for(old, 0)) as worker:
        worker.end(us=50_000)
        worker.end(us=150_000)
    current = create(generations, table(service(thresholds=(200_000, 300_000))))
    with Hand(current, generations.counters_for(current, 0)) as worker:
        worker.end(us=250_000)
    generations.release(old.number, 0)
    generations.fold_worker(0)
    [life] = generations.totals.versions["web", STABLE].values()
    judged = life.judged(Columns((100_000, 200_000, 300_000)))
    assert judged.slow == (1, 1, 0)
    assert judged.fast == (1, 2, 1)


def test_signals_are_kept_by_what_they_read(generations: Generations) -> None:
    """And not by their place, nor by their name alone."""
    hits, fresh, other = (
        Signal(name, header, matches)
        for name, header, matches in (("hits", "x-cache", "^HIT"), ("fresh", "age", "^0$"), ("hits", "x-cache", "HIT"))
    )
    old = create(generations, table(service(signals=(hits, fresh))))
    with Hand(old, generations.counters_for(old, 0)) as worker:
        worker.signal(0, matched=True, times=3)
        worker.signal(0, matched=False, times=2)
        worker.signal(1, matched=True, times=7)
    current = create(generations, table(service(signals=(fresh, other))))
    with Hand(current, generations.counters_for(current, 0)) as worker:
        worker.signal(0, matched=False, times=10)
        worker.signal(1, matched=True, times=20)
    generations.release(old.number, 0)
    generations.fold_worker(0)
    [life] = generations.totals.versions["web", STABLE].values()
    keys = tuple(columns_of(service(signals=(signal,))).signals[0] for signal in (hits, fresh, other))
    assert life.judged(Columns(signals=keys)).signals == ((5, 3), (17, 7), (20, 20))


def test_histograms_know_which_thresholds_were_counted_beside_them(generations: Generations) -> None:
    old = create(generations, table(service(thresholds=(100_000,))))
    with Hand(old, generations.counters_for(old, 0)) as worker:
        worker.end(us=50_000)
    current = create(generations, table(service(thresholds=(200_000,))))
    with Hand(current, generations.counters_for(current, 0)) as worker:
        worker.end(us=250_000)
    generations.scales.harvest(generations.live)
    scale = Scale(TOTAL, "web", STABLE)
    assert generations.scales.total(scale) == {hdr.index(50_000): 1, hdr.index(250_000): 1}
    assert generations.scales.total_without(scale, 200_000) == {hdr.index(50_000): 1}


def test_latencies_that_are_met_later_take_no_memory(generations: Generations) -> None:
    current = create(generations, table(service()))
    met = range(0, 2500, 2)
    with Hand(current, generations.counters_for(current, 0)) as worker:
        worker.end(us=1)
        generations.scales.harvest(generations.live)
        generations.scales.take()
        before = sys.getallocatedblocks()
        for place in met:
            worker.end(us=hdr.lowest(place), times=300)
        generations.scales.harvest(generations.live)
        generations.scales.take()
        assert sys.getallocatedblocks() - before < len(met) // 4
    assert generations.scales.total(Scale(TOTAL, "web", STABLE)) == {1: 1, **dict.fromkeys(met, 300)}


@pytest.mark.parametrize(
    "before, after, expected",
    [
        (version("1", A), version("1", A), True),
        (version("1", A), version("1", A, B), True),
        (version("1", A, B), version("1", B, C), True),
        (version("1", A), version("1", B), False),
        (version("1", A), version("2", A), False),
        (Version(), Version(), True),
        (Version(), version("", A), False),
        (version("1", A), Version(), False),
    ],
)
def test_when_a_version_is_still_the_same(before: Version, after: Version, expected: bool) -> None:
    assert same(before, after) is expected
