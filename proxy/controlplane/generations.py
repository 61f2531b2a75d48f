"""All generations that live: who may still be reading or writing which shared memory.

Workers switch to the next generation one after the other, and an old one lives on until its last exchange has
ended everywhere. So a decision is one store in *every* live generation, and what an old generation or a dead worker
counted is kept (`totals`, `scales`) before its memory is let go: counters never go back.

A person's or a rollout's weight is meant for the `new` of the current generation. A generation in which `new` is
another version (another incarnation) gets 0 instead: what is still waiting there goes to stable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from proxy.controlplane.generation import Generation
from proxy.controlplane.scales import Scales
from proxy.controlplane.totals import Totals
from proxy.ipc.segment import Segment
from proxy.routing.table import FULL, NEW, STABLE, RoutingTable, Version

__all__ = ["Generation", "Generations", "ServiceWords"]


@dataclass(frozen=True, slots=True)
class ServiceWords:
    """What a service's control words begin with: weight in 1/10,000, `layout.FLAG_…` bits, 64-bit seed."""

    weight_bp: int
    flags: int
    seed: int


class Generations:
    """The live generations, oldest first; the last one is `current`.

    `changes` grows whenever other regions are read than before, or `totals` is another.
    """

    __slots__ = ("_endpoint_words", "_incarnations", "_numbers", "changes", "live", "scales", "totals")

    def __init__(self) -> None:
        self.live: list[Generation] = []
        self.totals = Totals()  # of regions that are no longer read
        self.scales = Scales()
        self.changes = 0
        self._numbers = count(1)
        self._incarnations = count(1)
        self._endpoint_words: dict[tuple[str, int, str], int] = {}

    @property
    def current(self) -> Generation:
        """The generation that workers have, or are about to get."""
        return self.live[-1]

    def create(self, table: RoutingTable, words: Mapping[str, ServiceWords]) -> Generation:
        """Make the next generation with its control words written, before anybody can see them.

        `words` has every service of the table. The words of endpoints are taken along. Older generations that no worker
        was ever given are let go.
        """
        for service in table.services:
            _check(words[service.name].weight_bp)
        generation = Generation(next(self._numbers), table, self._lives(table))
        for index, service in enumerate(table.services):
            word = words[service.name]
            generation.store_seed(index, word.seed)
            generation.store_weight(index, word.weight_bp, word.flags)
        for at, version, index, endpoint in table.endpoints():
            of_endpoint = self._endpoint_words.get((table.services[at].name, version, endpoint.url))
            if of_endpoint is not None:
                generation.store_endpoint(at, version, index, of_endpoint)
        self.live.append(generation)
        self.changes += 1
        self._let_go()
        return generation

    def counters_for(self, generation: Generation, slot: int) -> Segment:
        """Return a fresh region for the worker in `slot`; the slot's old one in that generation is folded.

        The old one's writer must be dead (waited for), or must never have been given it.
        """
        self._fold(generation, slot)
        self.changes += 1
        return generation.new_counters(slot)

    def store_weight(self, service: str, weight_bp: int, flags: int = 0) -> None:
        """Store the weight of `new` (0…10,000) in every live generation that has the service.

        One store per generation. `KeyError` when no live generation has the service.
        """
        _check(weight_bp)
        wanted = self._life(self._newest(service), service, NEW)
        for generation in self._having(service):
            same = self._life(generation, service, NEW) == wanted
            generation.store_weight(generation.service_index[service], weight_bp if same else 0, flags)

    def count_rollback(self, service: str) -> None:
        """Have what lasts on `new` closed in every live generation in which that is still the same version."""
        wanted = self._life(self._newest(service), service, NEW)
        for generation in self._having(service):
            if self._life(generation, service, NEW) == wanted:
                generation.count_rollback(generation.service_index[service])

    def store_seed(self, service: str, seed: int) -> None:
        """Store the split's seed everywhere; `ValueError` unless the weight is 0 in every live generation.

        At any other weight a new seed would deal the users anew: some would go from `new` to `stable` and back.
        """
        having = self._having(service)
        if any(generation.weight(generation.service_index[service]) for generation in having):
            raise ValueError(f"{service}: the salt changes only while the weight of new is 0")
        for generation in having:
            generation.store_seed(generation.service_index[service], seed)

    def store_endpoint(self, service: str, version: int, url: str, word: int) -> None:
        """Store an endpoint's control word in every live generation; later ones begin with it.

        `KeyError` when no live generation has the endpoint.
        """
        found = False
        for generation in self._having(service):
            at = generation.service_index[service]
            for index, endpoint in enumerate(generation.table.services[at].version(version).endpoints):
                if endpoint.url == url:
                    generation.store_endpoint(at, version, index, word)
                    found = True
        if not found:
            raise KeyError(f"{service}: no endpoint {url}")
        self._endpoint_words[service, version, url] = word

    def expect_endpoints(self, words: Mapping[tuple[str, int, str], int]) -> None:
        """Let the next generation begin with these control words, by service, version and url."""
        self._endpoint_words.update(words)

    def fold_worker(self, slot: int) -> None:
        """Keep what the worker in `slot` counted and close its regions; it must be dead and waited for."""
        for generation in list(self.live):
            self._fold(generation, slot)
        self._let_go()

    def release(self, number: int, slot: int) -> None:
        """Take note that nothing is in flight any more in an old generation of the worker in `slot`.

        Its region is folded; with the last one the generation ends. Unknown numbers and the current one are ignored.
        """
        for generation in self.live[:-1]:
            if generation.number == number:
                self._fold(generation, slot)
                self._let_go()
                return

    def close(self) -> None:
        """Keep what was counted and close all segments; every worker must be dead."""
        for generation in self.live:
            for slot in list(generation.counters):
                self._fold(generation, slot)
            generation.control.close()
        self.live.clear()

    def _fold(self, generation: Generation, slot: int) -> None:
        region = generation.counters.pop(slot, None)
        if region is None:
            return
        self.changes += 1
        self.totals.add(generation, region, alive=False)
        self.scales.fold(generation, slot, region)
        region.close()

    def _let_go(self) -> None:
        """Close old generations that no worker has."""
        gone = [generation for generation in self.live[:-1] if not generation.counters]
        if not gone:
            return
        self.changes += 1
        for generation in gone:
            self.live.remove(generation)
            generation.control.close()
        self.totals.forget_gone(self.live)
        self.scales.forget_gone(self.live)
        named = {
            (generation.table.services[at].name, version, endpoint.url)
            for generation in self.live
            for at, version, _, endpoint in generation.table.endpoints()
        }
        self._endpoint_words = {key: word for key, word in self._endpoint_words.items() if key in named}

    def _having(self, service: str) -> list[Generation]:
        having = [generation for generation in self.live if service in generation.service_index]
        if not having:
            raise KeyError(service)
        return having

    def _newest(self, service: str) -> Generation:
        return self._having(service)[-1]

    @staticmethod
    def _life(generation: Generation, service: str, version: int) -> int:
        return generation.incarnations[generation.service_index[service]][version]

    def _lives(self, table: RoutingTable) -> tuple[tuple[int, int], ...]:
        """Give the versions of a table their numbers: the ones they had if they are still the same, else new ones."""
        before = self.live[-1] if self.live else None
        lives: list[tuple[int, int]] = []
        for service in table.services:
            pair = [0, 0]
            for version in (STABLE, NEW):
                at = before.service_index.get(service.name) if before else None
                if (
                    before
                    and at is not None
                    and same(before.table.services[at].version(version), service.version(version))
                ):
                    pair[version] = before.incarnations[at][version]
                else:
                    pair[version] = next(self._incarnations)
            lives.append((pair[STABLE], pair[NEW]))
        return tuple(lives)


def same(before: Version, after: Version) -> bool:
    """Tell whether a version is still what it was: the same label, and an endpoint in common (or none at all)."""
    if before.label != after.label:
        return False
    if not before.endpoints and not after.endpoints:
        return True
    return not {endpoint.url for endpoint in before.endpoints}.isdisjoint(endpoint.url for endpoint in after.endpoints)


def _check(weight_bp: int) -> None:
    if not 0 <= weight_bp <= FULL:
        raise ValueError(f"a weight is 0 to {FULL} ten-thousandths, not {weight_bp}")
