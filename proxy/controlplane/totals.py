"""Adding up what the workers' regions say, by name.

A *region* is the counters segment of one worker in one generation. Its words are found by index in that generation's
table; totals are kept by name (service, version, endpoint's URL) and latency threshold (µs), so that they go on
growing when a worker dies, a generation ends or the config is reordered. The same `add` reads regions that are
still written (for a snapshot) and regions that are not any more (to keep them for good).

An *incarnation* is one life of a version: `new` labelled 2.3.0 and `new` labelled 2.4.0 are two. What is judged is
kept apart per incarnation.

Rules: gauges are taken from living regions only. Words are read as slices with `tolist()`: it unpacks each item of
a "Q" view with an 8-byte `memcpy` of its own (CPython, Objects/memoryobject.c: tolist_base → unpack_single →
UNPACK_SINGLE), which compilers make one load on x86-64 and aarch64, and an aligned 8-byte load is never torn there
(Intel SDM volume 3A, "Guaranteed Atomic Operations"; Arm ARM B2.2.1, single-copy atomicity). `bytes(view)` and
`view.tobytes()` are one `memcpy` over the whole region, which promises nothing about words: never use them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import add
from typing import TypeAlias, TypeVar

from proxy.controlplane.generation import VERSION_FROM, Generation
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.metrics.snapshot import Columns, Judged, SignalKey
from proxy.routing.table import NEW, STABLE, Service

EARLIER = 0  # the incarnation that stands for all that are over; living ones count from 1

_Key = TypeVar("_Key")

# Lists of words, in the order of `Generation.small`.
Blocks: TypeAlias = list[list[int]]

# Positions in a version's list.
BAD = layout.VERSION_BAD - VERSION_FROM
ASSIGNED = layout.VERSION_ASSIGNED - VERSION_FROM
RETRIES = layout.VERSION_RETRIES - VERSION_FROM
ENDED = layout.VERSION_ENDED - VERSION_FROM
RESCUED = layout.VERSION_RESCUED - VERSION_FROM
CLIENT_ERRORS = layout.VERSION_CLIENT_ERRORS - VERSION_FROM
OVERRIDES = layout.VERSION_OVERRIDES - VERSION_FROM
_GAUGES = layout.VERSION_GAUGES - VERSION_FROM
_IN_FLIGHT = layout.VERSION_IN_FLIGHT - VERSION_FROM
_QUEUED = layout.VERSION_QUEUED - VERSION_FROM
_TUNNELS = layout.VERSION_TUNNELS - VERSION_FROM
_OLDEST_US = layout.VERSION_OLDEST_US - VERSION_FROM
_LAST_DISPATCH_NS = layout.VERSION_LAST_DISPATCH_NS - VERSION_FROM
_SLOW = layout.VERSION_SLOW - VERSION_FROM
_WITHIN = layout.VERSION_ENDED_WITHIN - VERSION_FROM
_TTFB_SLOW = layout.VERSION_TTFB_SLOW - VERSION_FROM
_TTFB_WITHIN = layout.VERSION_TTFB_WITHIN - VERSION_FROM
_SIGNALS = layout.VERSION_SIGNALS - VERSION_FROM
_DIVERTED = layout.BAD_KINDS.index("diverted")

_PROCESS_SMALL = layout.PROCESS_OVERHEAD_HDR
_VERSION_BLOCKS = slice(1, 3)  # of what `service_words` returns


class VersionTotals:
    """The counters of one incarnation of a version, and the gauges of its living regions."""

    __slots__ = (
        "fast",
        "in_flight",
        "last_dispatch_ns",
        "oldest_us",
        "plain",
        "queued",
        "signals",
        "slow",
        "ttfb_fast",
        "ttfb_slow",
        "tunnels",
    )

    def __init__(self) -> None:
        self.plain = [0] * _GAUGES
        self.slow: dict[int, int] = {}  # threshold in µs → attempts that took longer
        self.fast: dict[int, int] = {}  # threshold in µs → attempts that ended within it
        self.ttfb_slow: dict[int, int] = {}  # the same for first bytes
        self.ttfb_fast: dict[int, int] = {}
        self.signals: dict[SignalKey, tuple[int, int]] = {}  # → responses with its header, of these: matched
        self.in_flight = 0
        self.queued = 0
        self.tunnels = 0
        self.oldest_us = 0
        self.last_dispatch_ns = 0

    def copy(self) -> VersionTotals:
        """Return an independent copy."""
        other = VersionTotals()
        other.add(self)
        return other

    def add(self, other: VersionTotals) -> None:
        """Add all of `other`."""
        self.plain = list(map(add, self.plain, other.plain))
        _add_counts(self.slow, other.slow)
        _add_counts(self.fast, other.fast)
        if other.ttfb_slow:
            _add_counts(self.ttfb_slow, other.ttfb_slow)
            _add_counts(self.ttfb_fast, other.ttfb_fast)
        for key, (seen, matched) in other.signals.items():
            self._add_signal(key, seen, matched)
        self.in_flight += other.in_flight
        self.queued += other.queued
        self.tunnels += other.tunnels
        self.oldest_us = max(self.oldest_us, other.oldest_us)
        self.last_dispatch_ns = max(self.last_dispatch_ns, other.last_dispatch_ns)

    def add_words(self, words: list[int], columns: Columns, *, alive: bool) -> None:
        """Add a version's slice of one region, whose table counted for `columns`."""
        self.plain = list(map(add, self.plain, words))  # map ends with the shorter one: at the gauges
        _add_latencies(self.slow, self.fast, columns.thresholds_us, words, _SLOW, _WITHIN)
        if columns.ttfb_thresholds_us:
            _add_latencies(self.ttfb_slow, self.ttfb_fast, columns.ttfb_thresholds_us, words, _TTFB_SLOW, _TTFB_WITHIN)
        at = _SIGNALS
        for key in columns.signals:
            self._add_signal(key, words[at + layout.SIGNAL_SEEN], words[at + layout.SIGNAL_MATCHED])
            at += layout.SIGNAL_WORDS
        self.last_dispatch_ns = max(self.last_dispatch_ns, words[_LAST_DISPATCH_NS])
        if alive:
            self.in_flight += words[_IN_FLIGHT]
            self.queued += words[_QUEUED]
            self.tunnels += words[_TUNNELS]
            self.oldest_us = max(self.oldest_us, words[_OLDEST_US])

    def _add_signal(self, key: SignalKey, seen: int, matched: int) -> None:
        have = self.signals.get(key, (0, 0))
        self.signals[key] = (have[0] + seen, have[1] + matched)

    def judged(self, columns: Columns) -> Judged:
        """Return what is judged, for these columns; what no region knew yet is at 0."""
        plain = self.plain
        slow, fast = self.slow, self.fast
        thresholds_us, ttfb_us = columns.thresholds_us, columns.ttfb_thresholds_us
        return Judged(
            ended=plain[ENDED],
            bad=sum(plain[BAD : BAD + len(layout.BAD_KINDS)]),
            diverted=plain[BAD + _DIVERTED],
            client_errors=plain[CLIENT_ERRORS],
            slow=tuple([slow.get(us, 0) for us in thresholds_us]),
            fast=tuple([fast.get(us, 0) for us in thresholds_us]),
            ttfb_slow=tuple([self.ttfb_slow.get(us, 0) for us in ttfb_us]),
            ttfb_fast=tuple([self.ttfb_fast.get(us, 0) for us in ttfb_us]),
            signals=tuple([self.signals.get(key, (0, 0)) for key in columns.signals]),
        )


class Totals:
    """Everything that is counted but the histograms and status codes (`proxy.controlplane.scales`), by name."""

    __slots__ = ("endpoints", "process", "services", "versions")

    def __init__(self) -> None:
        self.process = [0] * _PROCESS_SMALL
        self.services: dict[str, list[int]] = {}
        # (service, version) → incarnation → totals
        self.versions: dict[tuple[str, int], dict[int, VersionTotals]] = {}
        # (service, version, url) → the endpoint block's words before its histogram, gauges of living regions
        self.endpoints: dict[tuple[str, int, str], list[int]] = {}

    def copy(self) -> Totals:
        """Return an independent copy."""
        other = Totals()
        other.process = self.process
        other.services = dict(self.services)
        other.versions = {
            name: {incarnation: totals.copy() for incarnation, totals in lives.items()}
            for name, lives in self.versions.items()
        }
        other.endpoints = dict(self.endpoints)
        return other

    def of_service(self, service: Service) -> Totals:
        """Return an independent copy of what is kept of one service and its present endpoints."""
        other = Totals()
        name = service.name
        if name not in self.services:  # all regions that knew it are still read
            return other
        other.services[name] = self.services[name]
        for version in (STABLE, NEW):
            lives = self.versions.get((name, version))
            if lives:
                other.versions[name, version] = {number: totals.copy() for number, totals in lives.items()}
            for endpoint in service.version(version).endpoints:
                key = (name, version, endpoint.url)
                if key in self.endpoints:
                    other.endpoints[key] = self.endpoints[key]
        return other

    def add(self, generation: Generation, region: Segment, *, alive: bool = True) -> None:
        """Add one region's counters, and its gauges when the worker that writes it is alive."""
        self.process = list(map(add, self.process, process_words(generation, region)))
        for index in range(len(generation.table.services)):
            self.add_service(generation, index, service_words(generation, index, region), alive=alive)

    def add_service(self, generation: Generation, index: int, blocks: Blocks, *, alive: bool = True) -> None:
        """Add what `service_words` or `summed` gave of the service at `index`."""
        service = generation.table.services[index]
        name = service.name
        _add_block(self.services, name, blocks[0])
        rest = iter(blocks[_VERSION_BLOCKS.stop :])
        for version in (STABLE, NEW):
            lives = self.versions.setdefault((name, version), {})
            incarnation = generation.incarnations[index][version]
            totals = lives.get(incarnation)
            if totals is None:
                totals = lives[incarnation] = VersionTotals()
            totals.add_words(blocks[_VERSION_BLOCKS.start + version], generation.columns[index], alive=alive)
            for endpoint in service.version(version).endpoints:
                block = next(rest)
                if not alive:
                    block[layout.ENDPOINT_GAUGES :] = [0] * (layout.ENDPOINT_HDR - layout.ENDPOINT_GAUGES)
                _add_block(self.endpoints, (name, version, endpoint.url), block)

    def forget_gone(self, live: Sequence[Generation]) -> None:
        """Keep this bounded: drop endpoints that no live generation names, join incarnations that are over."""
        endpoints: set[tuple[str, int, str]] = set()
        incarnations: set[int] = set()
        for generation in live:
            services = generation.table.services
            endpoints.update(
                (services[at].name, version, end.url) for at, version, _, end in generation.table.endpoints()
            )
            for pair in generation.incarnations:
                incarnations.update(pair)
        self.endpoints = {key: block for key, block in self.endpoints.items() if key in endpoints}
        for lives in self.versions.values():
            for incarnation in [number for number in lives if number not in incarnations and number != EARLIER]:
                lives.setdefault(EARLIER, VersionTotals()).add(lives.pop(incarnation))


def process_words(generation: Generation, region: Segment) -> list[int]:
    """Return the words of a region that belong to no service."""
    at = generation.counters_layout.process
    return region.words[at : at + _PROCESS_SMALL].tolist()


def service_words(generation: Generation, index: int, region: Segment) -> Blocks:
    """Return the small words of a service in a region: its own, those of both versions, those of every endpoint."""
    words = region.words
    return [words[start:stop].tolist() for start, stop in generation.small[index]]


def summed(many: Sequence[Blocks]) -> Blocks:
    """Return the sum of what several living regions of one generation say of a service."""
    sums = many[0]
    for more in many[1:]:
        sums = [list(map(add, block, other)) for block, other in zip(sums, more, strict=True)]
    if len(many) > 1:
        for block in range(len(sums))[_VERSION_BLOCKS]:
            for at in (_OLDEST_US, _LAST_DISPATCH_NS):
                sums[block][at] = max([one[block][at] for one in many])
    return sums


def _add_counts(into: dict[int, int], more: dict[int, int]) -> None:
    for us, count in more.items():
        into[us] = into.get(us, 0) + count


def _add_latencies(
    slow: dict[int, int],
    fast: dict[int, int],
    thresholds_us: Sequence[int],
    words: list[int],
    slow_at: int,
    within_at: int,
) -> None:
    """Add the words of thresholds to what is kept by µs."""
    many = len(thresholds_us)
    ended = accumulate(words[within_at : within_at + many])
    for us, slower, within in zip(thresholds_us, words[slow_at : slow_at + many], ended, strict=True):
        slow[us] = slow.get(us, 0) + slower
        fast[us] = fast.get(us, 0) + within


def _add_block(into: dict[_Key, list[int]], key: _Key, block: list[int]) -> None:
    have = into.get(key)
    into[key] = block if have is None else list(map(add, have, block))
