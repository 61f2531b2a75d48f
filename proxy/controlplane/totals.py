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

# The small words of a service in a region, one part after the other, in the order of `Generation.small`.
Row: TypeAlias = list[int]

# Positions among a version's words.
BAD = layout.VERSION_BAD - VERSION_FROM
ASSIGNED = layout.VERSION_ASSIGNED - VERSION_FROM
RETRIES = layout.VERSION_RETRIES - VERSION_FROM
ENDED = layout.VERSION_ENDED - VERSION_FROM
RESCUED = layout.VERSION_RESCUED - VERSION_FROM
CLIENT_ERRORS = layout.VERSION_CLIENT_ERRORS - VERSION_FROM
OVERRIDES = layout.VERSION_OVERRIDES - VERSION_FROM
IN_FLIGHT = layout.VERSION_IN_FLIGHT - VERSION_FROM
QUEUED = layout.VERSION_QUEUED - VERSION_FROM
TUNNELS = layout.VERSION_TUNNELS - VERSION_FROM
OLDEST_US = layout.VERSION_OLDEST_US - VERSION_FROM
LAST_DISPATCH_NS = layout.VERSION_LAST_DISPATCH_NS - VERSION_FROM
_SLOW = layout.VERSION_SLOW - VERSION_FROM
_WITHIN = layout.VERSION_ENDED_WITHIN - VERSION_FROM
_TTFB_SLOW = layout.VERSION_TTFB_SLOW - VERSION_FROM
_TTFB_WITHIN = layout.VERSION_TTFB_WITHIN - VERSION_FROM
_SIGNALS = layout.VERSION_SIGNALS - VERSION_FROM
_LATEST = (OLDEST_US, LAST_DISPATCH_NS)  # of these the greatest counts, not the sum
_DIVERTED = layout.BAD_KINDS.index("diverted")

_PROCESS_SMALL = layout.PROCESS_OVERHEAD_HDR


class VersionTotals:
    """The counters of one incarnation of a version, and the gauges of its living regions."""

    __slots__ = ("fast", "signals", "slow", "small", "ttfb_fast", "ttfb_slow")

    def __init__(self) -> None:
        self.small = [0] * _SLOW  # a version's words up to those of thresholds
        self.slow: dict[int, int] = {}  # threshold in µs → attempts that took longer
        self.fast: dict[int, int] = {}  # threshold in µs → attempts that ended within it
        self.ttfb_slow: dict[int, int] = {}  # the same for first bytes
        self.ttfb_fast: dict[int, int] = {}
        self.signals: dict[SignalKey, tuple[int, int]] = {}  # → responses with its header, of these: matched

    def copy(self) -> VersionTotals:
        """Return an independent copy."""
        other = VersionTotals()
        other.add(self)
        return other

    def add(self, other: VersionTotals) -> None:
        """Add all of `other`."""
        self.small = joined(self.small, other.small)
        _add_counts(self.slow, other.slow)
        _add_counts(self.fast, other.fast)
        if other.ttfb_slow:
            _add_counts(self.ttfb_slow, other.ttfb_slow)
            _add_counts(self.ttfb_fast, other.ttfb_fast)
        for key, (seen, matched) in other.signals.items():
            self._add_signal(key, seen, matched)

    def add_words(self, words: Row, columns: Columns, *, alive: bool) -> None:
        """Add a version's part of a row, whose table counted for `columns`."""
        small = words[:_SLOW]
        if not alive:
            for at in (IN_FLIGHT, QUEUED, TUNNELS, OLDEST_US):
                small[at] = 0
        self.small = joined(self.small, small)
        _add_latencies(self.slow, self.fast, columns.thresholds_us, words, _SLOW, _WITHIN)
        _add_latencies(self.ttfb_slow, self.ttfb_fast, columns.ttfb_thresholds_us, words, _TTFB_SLOW, _TTFB_WITHIN)
        at = _SIGNALS
        for key in columns.signals:
            self._add_signal(key, words[at + layout.SIGNAL_SEEN], words[at + layout.SIGNAL_MATCHED])
            at += layout.SIGNAL_WORDS

    def _add_signal(self, key: SignalKey, seen: int, matched: int) -> None:
        have = self.signals.get(key, (0, 0))
        self.signals[key] = (have[0] + seen, have[1] + matched)

    def judged(self, columns: Columns) -> Judged:
        """Return what is judged, for these columns; what no region knew yet is at 0."""
        small = self.small
        slow, fast = self.slow, self.fast
        thresholds_us, ttfb_us = columns.thresholds_us, columns.ttfb_thresholds_us
        return Judged(
            ended=small[ENDED],
            bad=sum(small[BAD : BAD + len(layout.BAD_KINDS)]),
            diverted=small[BAD + _DIVERTED],
            client_errors=small[CLIENT_ERRORS],
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
        # (service, version, url) → the endpoint block's words, gauges of living regions
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
            self.add_service(generation, index, service_row(generation, index, region), alive=alive)

    def add_service(self, generation: Generation, index: int, row: Row, *, alive: bool = True) -> None:
        """Add what `service_row` or `summed` gave of the service at `index`."""
        service = generation.table.services[index]
        name = service.name
        parts = generation.parts[index]
        _add_block(self.services, name, row[parts.service])
        for version in (STABLE, NEW):
            lives = self.versions.setdefault((name, version), {})
            incarnation = generation.incarnations[index][version]
            totals = lives.get(incarnation)
            if totals is None:
                totals = lives[incarnation] = VersionTotals()
            totals.add_words(row[parts.versions[version]], generation.columns[index], alive=alive)
            for endpoint, part in zip(service.version(version).endpoints, parts.endpoints[version], strict=True):
                block = row[part]
                if not alive:
                    block[layout.ENDPOINT_GAUGES :] = [0] * (layout.ENDPOINT_WORDS - layout.ENDPOINT_GAUGES)
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


def service_row(generation: Generation, index: int, region: Segment) -> Row:
    """Return the small words of a service in a region: its own, those of both versions, those of every endpoint."""
    words = region.words
    row: Row = []
    for start, stop in generation.small[index]:
        row += words[start:stop].tolist()
    return row


def summed(generation: Generation, index: int, rows: Sequence[Row]) -> Row:
    """Return the sum of what the living regions of a generation (at least one) say of a service."""
    sums = rows[0]
    for row in rows[1:]:
        sums = list(map(add, sums, row))
    if len(rows) > 1:
        for part in generation.parts[index].versions:
            for at in _LATEST:
                sums[part.start + at] = max([row[part.start + at] for row in rows])
    return sums


def joined(one: Row, other: Row) -> Row:
    """Return the sum of what two say of a version, as far as the shorter one reaches (at least to the thresholds)."""
    sums = list(map(add, one, other))
    for at in _LATEST:
        sums[at] = max(one[at], other[at])
    return sums


def judged_of(words: Row, columns: Columns) -> Judged:
    """Return what is judged of a version by its part of a row."""
    bad = words[BAD : BAD + len(layout.BAD_KINDS)]
    slow, fast = _latencies(words, len(columns.thresholds_us), _SLOW, _WITHIN)
    ttfb_slow, ttfb_fast = _latencies(words, len(columns.ttfb_thresholds_us), _TTFB_SLOW, _TTFB_WITHIN)
    signals = words[_SIGNALS : _SIGNALS + layout.SIGNAL_WORDS * len(columns.signals)]
    return Judged(
        words[ENDED],
        sum(bad),
        bad[_DIVERTED],
        words[CLIENT_ERRORS],
        slow,
        fast,
        ttfb_slow,
        ttfb_fast,
        tuple(zip(signals[:: layout.SIGNAL_WORDS], signals[layout.SIGNAL_MATCHED :: layout.SIGNAL_WORDS], strict=True)),
    )


def _add_counts(into: dict[int, int], more: dict[int, int]) -> None:
    for us, count in more.items():
        into[us] = into.get(us, 0) + count


def _add_latencies(
    slow: dict[int, int],
    fast: dict[int, int],
    thresholds_us: Sequence[int],
    words: Row,
    slow_at: int,
    within_at: int,
) -> None:
    """Add the words of thresholds to what is kept by µs."""
    slower, within = _latencies(words, len(thresholds_us), slow_at, within_at)
    for us, one, other in zip(thresholds_us, slower, within, strict=True):
        slow[us] = slow.get(us, 0) + one
        fast[us] = fast.get(us, 0) + other


def _latencies(words: Row, many: int, slow_at: int, within_at: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return for each of so many thresholds how many took longer, and how many ended within it."""
    if not many:
        return (), ()
    return tuple(words[slow_at : slow_at + many]), tuple(accumulate(words[within_at : within_at + many]))


def _add_block(into: dict[_Key, list[int]], key: _Key, block: list[int]) -> None:
    have = into.get(key)
    into[key] = block if have is None else list(map(add, have, block))
