"""The collector: reads every worker's region and says what was counted, by name.

`collect` is called in every tick (250 ms): it reads the small words, among them all that is judged. `keep` follows once
the tick has decided: it takes the histograms into the history, a quarter of them each time, so that no tick is late
for what is only shown. `deep` reads what is large, for /metrics. All only read shared memory: workers do not notice.

Cost: `python -m loadtests.judge.cost --parts`; what it printed last is in `loadtests/judge/COST.md`. A service in
which not a word has changed costs its reading and one comparison.
"""

from __future__ import annotations

from operator import add
from typing import NamedTuple

from proxy.clock import Clock
from proxy.controlplane.generation import Generation
from proxy.controlplane.generations import Generations
from proxy.controlplane.history import History
from proxy.controlplane.scales import CODES, OVERHEAD, TOTAL, TTFB, USER, Scale
from proxy.controlplane.totals import (
    ASSIGNED,
    BAD,
    IN_FLIGHT,
    LAST_DISPATCH_NS,
    OLDEST_US,
    OVERRIDES,
    QUEUED,
    RESCUED,
    RETRIES,
    TUNNELS,
    Row,
    Totals,
    joined,
    judged_of,
    process_words,
    service_row,
    summed,
)
from proxy.ipc import layout
from proxy.metrics import hdr
from proxy.metrics.snapshot import (
    Deep,
    EndpointCounts,
    Named,
    ServiceCounts,
    ServiceScales,
    Snapshot,
    VersionCounts,
    VersionScales,
)
from proxy.routing.table import NEW, STABLE, VERSIONS, Service

ENDPOINT_STATES = {
    layout.ENDPOINT_READY: "ready",
    layout.ENDPOINT_DRAIN: "drain",
    layout.ENDPOINT_MAINTENANCE: "maintenance",
    layout.ENDPOINT_DOWN: "down",
    layout.ENDPOINT_EJECTED: "ejected",
}
_PARTS = 4  # ticks in which the histograms of all versions are read once


class _Known(NamedTuple):
    """What was read of a service, and what it says."""

    seen: tuple[object, ...]
    counts: ServiceCounts


class Collector:
    """Reads the regions of `generations`; `history` has what was measured lately."""

    __slots__ = ("_clock", "_generations", "_known", "_latest", "_part", "history")

    def __init__(self, generations: Generations, clock: Clock) -> None:
        self._generations = generations
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._latest: Snapshot | None = None
        self._part = 0  # what `keep` reads next
        self.history = History()

    @property
    def latest(self) -> Snapshot:
        """The snapshot of the last `collect`; the first one is made here if there was none."""
        return self.read() if self._latest is None else self._latest

    def collect(self) -> Snapshot:
        """Read all that is judged and small, and add it to the history; a counter that shrank raises there."""
        snapshot = self._latest = self.read()
        self.history.add(snapshot)
        return snapshot

    def keep(self) -> None:
        """Take a part of the histograms into the history, and what is missing of a second that is over.

        Raises `CounterWentBack` when a histogram shrank.
        """
        now_s = self.latest.time_s
        scales, live = self._generations.scales, self._generations.live
        over = self.history.slice_due(now_s)
        upto = _PARTS if over else min(_PARTS, self._part + 1)
        for part in range(self._part, upto):
            scales.harvest_lately(live, part, _PARTS, self.history.due)
        self._part = 0 if over else upto
        if over:
            self.history.add_slice(now_s, scales.take())

    def read(self) -> Snapshot:
        """Read all that is judged and small, and leave the history alone."""
        now_s = self._clock.monotonic_ns() / 1e9
        live = self._generations.live
        if not live:
            return Snapshot(now_s, {})
        process = self._generations.totals.process
        for generation in live:
            for region in generation.counters.values():
                process = list(map(add, process, process_words(generation, region)))
        current = live[-1]
        self._known = {
            service.name: self._read(current, index, service) for index, service in enumerate(current.table.services)
        }
        return Snapshot(
            now_s,
            {name: known.counts for name, known in self._known.items()},
            process[layout.PROCESS_INTERNAL_ERRORS],
            dict(zip(layout.LOCAL_REPLIES, process[layout.PROCESS_LOCAL_REPLIES :], strict=False)),
            dict(zip(layout.REFUSED_CONNECTIONS, process[layout.PROCESS_REFUSED :], strict=False)),
            process[layout.PROCESS_LINES_LOST],
        )

    def _read(self, current: Generation, index: int, service: Service) -> _Known:
        """Return what is counted of a service; the very same object if not a word has changed."""
        words = current.control.words
        states = [words[at] for places in current.control_layout.endpoints[index] for at in places]
        generations = self._generations
        rows = [service_row(current, index, region) for region in current.counters.values()]
        older = [
            (generation, at, [service_row(generation, at, region) for region in generation.counters.values()])
            for generation in generations.live[:-1]
            if generation.counters and (at := generation.service_index.get(service.name)) is not None
        ]
        seen = (generations.changes, states, rows, older)
        known = self._known.get(service.name)
        if known is None or known.seen != seen:
            # What dead workers counted, and those of older generations.
            others = generations.totals.of_service(service)
            for generation, at, many in older:
                others.add_service(generation, at, summed(generation, at, many))
            row = summed(current, index, rows) if rows else [0] * current.parts[index].words
            known = _Known(seen, _service(current, index, service, row, others))
        return known

    def deep(self) -> Deep:
        """Read status codes and histograms since the start, of every service of the current table."""
        generations = self._generations
        scales = generations.scales
        scales.harvest(generations.live)
        totals = generations.totals.copy()
        for generation in generations.live:
            for region in generation.counters.values():
                totals.add(generation, region)
        services: dict[str, ServiceScales] = {}
        for service in generations.current.table.services if generations.live else ():
            stable, new = (self._version_scales(service, version, totals) for version in (STABLE, NEW))
            services[service.name] = ServiceScales(scales.total(Scale(USER, service.name)), (stable, new))
        return Deep(scales.total(Scale(OVERHEAD)), services)

    def _version_scales(self, service: Service, version: int, totals: Totals) -> VersionScales:
        scales = self._generations.scales
        total = Scale(TOTAL, service.name, version)
        ttfb = Scale(TTFB, service.name, version)
        lives = totals.versions.get((service.name, version), {}).values()
        # Where a table did not know a threshold, nobody counted it: there the histogram has to say it, to 0.8 %.
        within = {
            us: sum(life.fast.get(us, 0) for life in lives) + hdr.within(scales.total_without(total, us), us)
            for us in service.thresholds_us
        }
        ttfb_within = {
            us: sum(life.ttfb_fast.get(us, 0) for life in lives) + hdr.within(scales.total_without(ttfb, us), us)
            for us in service.ttfb_thresholds_us
        }
        return VersionScales(
            codes=scales.total(Scale(CODES, service.name, version)),
            total=scales.total(total),
            ttfb=scales.total(ttfb),
            within=within,
            ttfb_within=ttfb_within,
        )


def _service(current: Generation, index: int, service: Service, row: Row, others: Totals) -> ServiceCounts:
    """Return the counts of a service: what the workers of the current generation say in `row`, and all `others`."""
    words = row[current.parts[index].service]
    if service.name in others.services:
        words = list(map(add, words, others.services[service.name]))
    return ServiceCounts(
        name=service.name,
        thresholds_us=service.thresholds_us,
        versions=(
            _version(current, index, service, STABLE, row, others),
            _version(current, index, service, NEW, row, others),
        ),
        client_aborts=words[layout.SERVICE_CLIENT_ABORTS],
        failovers=Named(layout.FAILOVER_OUTCOMES, words, layout.SERVICE_FAILOVERS),
        ttfb_thresholds_us=service.ttfb_thresholds_us,
        signals=current.columns[index].signals,
    )


def _version(
    current: Generation, index: int, service: Service, version: int, row: Row, others: Totals
) -> VersionCounts:
    columns = current.columns[index]
    incarnation = current.incarnations[index][version]
    words = row[current.parts[index].versions[version]]
    judged = judged_of(words, columns)
    for number, life in others.versions.get((service.name, version), {}).items():
        words = joined(words, life.small)
        if number == incarnation:
            judged += life.judged(columns)
    return VersionCounts(
        name=VERSIONS[version],
        label=service.version(version).label,
        incarnation=incarnation,
        judged=judged,
        bad=Named(layout.BAD_KINDS, words, BAD),
        assigned=Named(layout.ASSIGNMENT_REASONS, words, ASSIGNED),
        retries=Named(layout.RETRY_OUTCOMES, words, RETRIES),
        by_split=sum(words[ASSIGNED : ASSIGNED + len(layout.BY_SPLIT)]),
        rescued=words[RESCUED],
        overrides=words[OVERRIDES],
        in_flight=words[IN_FLIGHT],
        queued=words[QUEUED],
        tunnels=words[TUNNELS],
        oldest_us=words[OLDEST_US],
        last_dispatch_ns=words[LAST_DISPATCH_NS],
        endpoints=_endpoints(current, index, service, version, row, others),
    )


def _endpoints(
    current: Generation, index: int, service: Service, version: int, row: Row, others: Totals
) -> tuple[EndpointCounts, ...]:
    control = current.control.words
    counts: list[EndpointCounts] = []
    places = current.control_layout.endpoints[index][version]
    parts = current.parts[index].endpoints[version]
    for endpoint, at, part in zip(service.version(version).endpoints, places, parts, strict=True):
        words = row[part]
        more = others.endpoints.get((service.name, version, endpoint.url))
        if more is not None:
            words = list(map(add, words, more))
        counts.append(
            EndpointCounts(
                url=endpoint.url,
                state=ENDPOINT_STATES[control[at] & layout.ENDPOINT_STATE_MASK],
                ended=words[layout.ENDPOINT_ENDED],
                bad=words[layout.ENDPOINT_BAD],
                connect_failed=words[layout.ENDPOINT_CONNECT_FAILED],
                connected=words[layout.ENDPOINT_CONNECTED],
                in_flight=words[layout.ENDPOINT_IN_FLIGHT],
                pool_idle=words[layout.ENDPOINT_POOL_IDLE],
                pool_active=words[layout.ENDPOINT_POOL_ACTIVE],
            )
        )
    return tuple(counts)
