"""What was counted, at one instant: plain values, made by the collector and read by everybody else.

*Judged* integers of one version decide; everything beside them is for people. An *attempt* is one request sent
(or meant to be sent) to one version; *ended* ones have an outcome; *diverted* ones were assigned to `new` and
answered by `stable` because no endpoint of `new` was ready.

Rules (DESIGN §3, §6): totals only grow, and a difference of two of them that is negative raises, because it can
only be a bug. The words of a region are written without any order between them, so that a snapshot may hold an
attempt in one word and not yet in another: `bad` may be one more than `requests` for an instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import add, sub
from typing import NamedTuple

from proxy.errors import CounterWentBack


class Judged(NamedTuple):
    """The exact integers of one version: totals, or (as a difference of totals) those of a window.

    `ended`: judged attempts with an outcome, diverted ones not included. `bad`: all that is charged to the version,
    diverted ones included. `client_errors`: ended with 4xx. For threshold i of the service: `slow[i]` attempts
    took longer (counted when they pass it, in flight too), `fast[i]` ended within it. The number of attempts that
    threshold i can judge is `slow[i] + fast[i]`; it is not `ended`, because slow ones count before they end.
    `ttfb_slow` and `ttfb_fast`: the same for first bytes and their thresholds; `fast` as soon as the first byte came.
    `signals[i]` is how many responses had the header of signal i, and in how many of these its value matched.
    """

    ended: int = 0
    bad: int = 0
    diverted: int = 0
    client_errors: int = 0
    slow: tuple[int, ...] = ()
    fast: tuple[int, ...] = ()
    ttfb_slow: tuple[int, ...] = ()
    ttfb_fast: tuple[int, ...] = ()
    signals: tuple[tuple[int, int], ...] = ()

    @property
    def requests(self) -> int:
        """Requests that were assigned to the version and have an outcome."""
        return self.ended + self.diverted

    def __add__(self, other: Judged) -> Judged:  # type: ignore[override]  # a sum of counts, not of tuples
        """Return the sum; both must have the same thresholds and signals."""
        return self._with(other, add)

    def __sub__(self, earlier: Judged) -> Judged:
        """Return what was counted since `earlier`; `CounterWentBack` when any number shrank."""
        if self == earlier:  # a version that had no request since
            return nothing(len(self.slow), len(self.ttfb_slow), len(self.signals))
        result = self._with(earlier, sub)
        if min(result.row()) < 0:
            raise CounterWentBack(f"a counter shrank from {earlier} to {self}")
        return result

    def _with(self, other: Judged, both: Callable[[int, int], int]) -> Judged:
        ended, bad, diverted, client_errors, slow, fast, ttfb_slow, ttfb_fast, signals = other
        if len(slow) != len(self.slow) or len(ttfb_slow) != len(self.ttfb_slow) or len(signals) != len(self.signals):
            raise ValueError(f"{self} and {other} are not of the same thresholds and signals")
        return Judged(
            both(self.ended, ended),
            both(self.bad, bad),
            both(self.diverted, diverted),
            both(self.client_errors, client_errors),
            tuple(map(both, self.slow, slow)),
            tuple(map(both, self.fast, fast)),
            tuple(map(both, self.ttfb_slow, ttfb_slow)) if ttfb_slow else (),
            tuple(map(both, self.ttfb_fast, ttfb_fast)) if ttfb_fast else (),
            tuple([(both(a, c), both(b, d)) for (a, b), (c, d) in zip(self.signals, signals, strict=True)])
            if signals
            else (),
        )

    def row(self) -> list[int]:
        """Return all numbers in the order of the fields."""
        row = [self.ended, self.bad, self.diverted, self.client_errors, *self.slow, *self.fast]
        if self.ttfb_slow:
            row += [*self.ttfb_slow, *self.ttfb_fast]
        for pair in self.signals:
            row += pair
        return row


@lru_cache(maxsize=1024)
def nothing(thresholds: int = 0, ttfb_thresholds: int = 0, signals: int = 0) -> Judged:
    """Return the `Judged` of a version with so many thresholds and signals that nobody was sent to."""
    total, first = (0,) * thresholds, (0,) * ttfb_thresholds
    return Judged(slow=total, fast=total, ttfb_slow=first, ttfb_fast=first, signals=((0, 0),) * signals)


class SignalKey(NamedTuple):
    """Which signal a pair of `Judged.signals` is of; one whose header or pattern changed is another one."""

    name: str
    header: str
    matches: str


@dataclass(frozen=True, slots=True)
class Columns:
    """What the tuples of a `Judged` are of, in their order; thresholds in µs."""

    thresholds_us: tuple[int, ...] = ()
    ttfb_thresholds_us: tuple[int, ...] = ()
    signals: tuple[SignalKey, ...] = ()


# One object for each: it is asked for in every block, and compared.
_columns = lru_cache(maxsize=1024)(Columns)


class Named(Mapping[str, int]):
    """Numbers by name, as they stand in `words` from `at` on. Most are never asked for: nothing is copied."""

    __slots__ = ("_at", "_names", "_words")

    def __init__(self, names: tuple[str, ...], words: Sequence[int], at: int) -> None:
        self._names = names
        self._words = words
        self._at = at

    def __getitem__(self, name: str) -> int:
        """Return the number of this name."""
        if name not in self._names:
            raise KeyError(name)
        return self._words[self._at + self._names.index(name)]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._names)


# The three that follow are made for every service in every block: nobody changes one, but freezing triples its cost.


@dataclass(slots=True)
class EndpointCounts:
    """One address of a version. `state`: ready | drain | maintenance | down | ejected.

    `in_flight`, `pool_idle` and `pool_active` are gauges, the others totals.
    """

    url: str
    state: str
    ended: int = 0
    bad: int = 0
    connect_failed: int = 0
    connected: int = 0
    in_flight: int = 0
    pool_idle: int = 0
    pool_active: int = 0


@dataclass(slots=True)
class VersionCounts:
    """One version of a service.

    `judged` begins at 0 when the version becomes another one (`incarnation` grows: a new label, or endpoints none
    of which it had before), so that what its predecessor did is never charged to it. The totals below go on growing.
    `by_split`: requests that the split itself assigned; what people and failures choose is no share of the weight.
    Gauges: `in_flight`; `queued`, requests that wait until they may be in flight; `tunnels`; `oldest_us`, age of the
    oldest judged attempt in flight; `last_dispatch_ns`, the latest CLOCK_MONOTONIC at which a worker read the weight
    word for a dispatch to this version.
    """

    name: str
    label: str
    incarnation: int
    judged: Judged
    bad: Mapping[str, int] = field(default_factory=dict)
    assigned: Mapping[str, int] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    by_split: int = 0
    rescued: int = 0
    overrides: int = 0
    in_flight: int = 0
    queued: int = 0
    tunnels: int = 0
    oldest_us: int = 0
    last_dispatch_ns: int = 0
    endpoints: tuple[EndpointCounts, ...] = ()


@dataclass(slots=True)
class ServiceCounts:
    """One service; `versions` are stable and new, in this order.

    `thresholds_us`, `ttfb_thresholds_us` and `signals` say what the tuples of `judged` are of.
    """

    name: str
    thresholds_us: tuple[int, ...]
    versions: tuple[VersionCounts, VersionCounts]
    client_aborts: int = 0
    failovers: Mapping[str, int] = field(default_factory=dict)
    ttfb_thresholds_us: tuple[int, ...] = ()
    signals: tuple[SignalKey, ...] = ()

    @property
    def columns(self) -> Columns:
        """What the tuples of `judged` are of."""
        return _columns(self.thresholds_us, self.ttfb_thresholds_us, self.signals)

    def signal(self, name: str) -> int | None:
        """Return the place of the signal `name` in `Judged.signals`, or `None`."""
        return next((at for at, signal in enumerate(self.signals) if signal.name == name), None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All services of the current generation at `time_s` (monotonic seconds), and what belongs to none of them."""

    time_s: float
    services: Mapping[str, ServiceCounts]
    internal_errors: int = 0
    local_replies: Mapping[tuple[int, str], int] = field(default_factory=dict)
    refused_connections: Mapping[str, int] = field(default_factory=dict)
    log_lines_lost: int = 0


@dataclass(frozen=True, slots=True)
class VersionScales:
    """Status codes (code → count) and histograms (`proxy.metrics.hdr` index → count) of a version since the start.

    `within`: for each of the service's thresholds (µs) how many attempts ended within it, exactly; `ttfb_within`: for
    each of those of first bytes how many of these came within it.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    total: Mapping[int, int] = field(default_factory=dict)
    ttfb: Mapping[int, int] = field(default_factory=dict)
    within: Mapping[int, int] = field(default_factory=dict)
    ttfb_within: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceScales:
    """The histogram of what users waited, and the scales of stable and new, in this order."""

    user: Mapping[int, int]
    versions: tuple[VersionScales, VersionScales]


@dataclass(frozen=True, slots=True)
class Deep:
    """Everything that is too large to be read in every block."""

    overhead: Mapping[int, int]
    services: Mapping[str, ServiceScales]
