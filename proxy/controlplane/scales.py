"""Histograms and status codes: large blocks of words of which few change, read by difference.

A *scale* is one such block by name: the status codes or a histogram of a version, the user histogram of a service,
the proxy's own overhead. For every block of every region the words as last seen are kept; a `harvest` takes what
was added since, as sparse deltas (index → count). Cumulative sums of the deltas are the totals: they survive the
region by themselves.

Cost: a block that did not change is found by one comparison in C (2 to 3 ns per word, each read by itself); in
one that did, only the parts of 64 words that differ are unpacked. A block in which nothing was ever counted
takes no memory. Histograms of endpoints are left out of this and are read on demand.

Rule: a version's latency histograms are kept per set of thresholds that its table knew, because only there the exact
counts of a threshold are complete (`within`). Sets are as many as latency limits were ever configured: few.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from proxy.controlplane.generation import Generation
from proxy.errors import CounterWentBack
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.metrics import hdr
from proxy.routing.table import NEW, STABLE

CODES, TOTAL, TTFB, USER, OVERHEAD = "codes", "total", "ttfb", "user", "overhead"

Sparse = dict[int, int]

_PART = 64  # words that are compared at a time
_NOTHING = memoryview(array("Q", bytes(layout.WORD * layout.HDR_WORDS)))


class Scale(NamedTuple):
    """The name of a block. `service` "" and `version` -1: it belongs to none."""

    kind: str
    service: str = ""
    version: int = -1


class Block(NamedTuple):
    """Where a scale stands in the regions of one generation, and whose it is."""

    scale: Scale
    incarnation: int  # 0: of no version
    thresholds_us: tuple[int, ...]
    start: int
    words: int


class Delta(NamedTuple):
    """What was added to a scale between two harvests by one region."""

    scale: Scale
    incarnation: int
    counts: Sparse


class Scales:
    """Cumulative scales by name, and what was last seen of every living region."""

    __slots__ = ("_blocks", "_endpoints", "_pending", "_seen", "_totals")

    def __init__(self) -> None:
        self._totals: dict[Scale, dict[tuple[int, ...], Sparse]] = {}  # per set of known thresholds
        self._endpoints: dict[tuple[str, int, str], Sparse] = {}
        self._blocks: dict[int, list[Block]] = {}  # by generation
        self._seen: dict[tuple[int, int], list[memoryview]] = {}  # (generation, slot) → per block
        self._pending: list[Delta] = []

    def harvest(self, live: Sequence[Generation], part: int = 0, parts: int = 1) -> None:
        """Read all living regions, or one of `parts` of their blocks; `take` returns what was added."""
        for generation in live:
            for slot, region in generation.counters.items():
                self._harvest(generation, slot, region, part, parts)

    def take(self) -> list[Delta]:
        """Return the deltas of all harvests and folds since the last call."""
        pending, self._pending = self._pending, []
        return pending

    def fold(self, generation: Generation, slot: int, region: Segment) -> None:
        """Read a region for the last time."""
        self._harvest(generation, slot, region)
        del self._seen[generation.number, slot]
        for index, version, at, endpoint in generation.table.endpoints():
            start = generation.counters_layout.endpoints[index][version][at] + layout.ENDPOINT_HDR
            counts = _sparse(region.words[start : start + layout.HDR_WORDS])
            if counts:
                key = (generation.table.services[index].name, version, endpoint.url)
                self._endpoints[key] = hdr.merge([self._endpoints.get(key, {}), counts])

    def forget_gone(self, live: Sequence[Generation]) -> None:
        """Drop what belongs to generations that ended, and histograms of endpoints that nobody names any more."""
        numbers = {generation.number for generation in live}
        self._blocks = {number: blocks for number, blocks in self._blocks.items() if number in numbers}
        named = {
            (generation.table.services[index].name, version, endpoint.url)
            for generation in live
            for index, version, _, endpoint in generation.table.endpoints()
        }
        self._endpoints = {key: counts for key, counts in self._endpoints.items() if key in named}

    def total(self, scale: Scale) -> Sparse:
        """Return all that was ever harvested of a scale."""
        return hdr.merge(self._totals.get(scale, {}).values())

    def total_without(self, scale: Scale, threshold_us: int) -> Sparse:
        """Return the part of `total` whose table did not know a threshold."""
        sets = self._totals.get(scale, {})
        return hdr.merge(counts for known, counts in sets.items() if threshold_us not in known)

    def endpoint(self, live: Sequence[Generation], service: str, version: int, url: str) -> Sparse:
        """Return an endpoint's histogram since the start, read now."""
        parts = [self._endpoints.get((service, version, url), {})]
        for generation in live:
            for index, at_version, at, endpoint in generation.table.endpoints():
                if (generation.table.services[index].name, at_version, endpoint.url) == (service, version, url):
                    start = generation.counters_layout.endpoints[index][version][at] + layout.ENDPOINT_HDR
                    parts += [
                        _sparse(region.words[start : start + layout.HDR_WORDS])
                        for region in generation.counters.values()
                    ]
        return hdr.merge(parts)

    def _harvest(self, generation: Generation, slot: int, region: Segment, part: int = 0, parts: int = 1) -> None:
        blocks = self._blocks.get(generation.number)
        if blocks is None:
            blocks = self._blocks[generation.number] = _blocks_of(generation)
        seen = self._seen.setdefault((generation.number, slot), [_NOTHING] * len(blocks))
        for number in range(part, len(blocks), parts):
            block = blocks[number]
            now = region.words[block.start : block.start + block.words]
            before = seen[number]
            if now == before[: block.words]:
                continue
            if before is _NOTHING:
                before = seen[number] = memoryview(array("Q", bytes(layout.WORD * block.words)))
            counts = _added(now, before)
            total = self._totals.setdefault(block.scale, {}).setdefault(block.thresholds_us, {})
            for at, added in counts.items():
                total[at] = total.get(at, 0) + added
            self._pending.append(Delta(block.scale, block.incarnation, counts))


def _blocks_of(generation: Generation) -> list[Block]:
    places = generation.counters_layout
    blocks = [Block(Scale(OVERHEAD), 0, (), places.process + layout.PROCESS_OVERHEAD_HDR, layout.HDR_WORDS)]
    for index, service in enumerate(generation.table.services):
        name = service.name
        start = places.services[index] + layout.SERVICE_USER_HDR
        blocks.append(Block(Scale(USER, name), 0, (), start, layout.HDR_WORDS))
        for version in (STABLE, NEW):
            at = places.versions[index][version]
            life = generation.incarnations[index][version]
            thresholds, first = service.thresholds_us, service.ttfb_thresholds_us
            blocks += [
                Block(Scale(CODES, name, version), life, (), at + layout.VERSION_CODES, layout.CODES),
                Block(Scale(TOTAL, name, version), life, thresholds, at + layout.VERSION_TOTAL_HDR, layout.HDR_WORDS),
                Block(Scale(TTFB, name, version), life, first, at + layout.VERSION_TTFB_HDR, layout.HDR_WORDS),
            ]
    return blocks


def _added(now: memoryview, before: memoryview) -> Sparse:
    """Return what the words of a block grew by, and bring `before` up to date."""
    counts: Sparse = {}
    for start in range(0, len(now), _PART):
        part = now[start : start + _PART]
        known = before[start : start + _PART]
        if part == known:
            continue
        for at, (new, old) in enumerate(zip(part.tolist(), known.tolist(), strict=True)):
            if new == old:
                continue
            if new < old:
                raise CounterWentBack(f"word {start + at} of a block shrank from {old} to {new}")
            counts[start + at] = new - old
            known[at] = new
    return counts


def _sparse(words: memoryview) -> Sparse:
    if words == _NOTHING[: len(words)]:
        return {}
    return {at: value for at, value in enumerate(words.tolist()) if value}
