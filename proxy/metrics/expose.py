"""The text of /metrics.

`render` takes an *exposition*: values that were read before, so that it may run in another thread than the
controller's loop. Counters exist at 0 from the start; series appear later only for status codes.

Rules: bucket counts are cumulative and must not fall from edge to edge, nor from scrape to scrape. The exact count of
a latency limit and the histogram are read at slightly different instants, so every edge takes at least the
count of the edge before it: the maximum of numbers that only grow only grows.

Sources: Prometheus text exposition format 0.0.4; prometheus_client, "Custom Collectors" (its multiprocess mode
keeps files that have to be cleaned up after workers: our shared memory needs none).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from proxy.metrics import catalog, hdr
from proxy.metrics.snapshot import Deep, ServiceCounts, ServiceScales, Snapshot, VersionCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_US = 1_000_000
_UNIT_PER_BASE = {"ms": 1000}


@dataclass(frozen=True, slots=True)
class LimitStanding:
    """How a limit stands, as `status` shows it. `version`: "stable" | "new"; `unit`: "ratio" | "ms"."""

    metric: str
    version: str
    unit: str
    value: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class ServiceStanding:
    """What the controller knows of a service: shares 0…1 (`None` = no traffic), phase, rollbacks by reason, limits.

    `stage` counts from 1; 0 = there is no rollout. `ejections`: of endpoints of stable and new.
    """

    new_set: float
    phase: str
    new_actual: float | None = None
    rollbacks: Mapping[str, int] = field(default_factory=dict)
    limits: tuple[LimitStanding, ...] = ()
    stage: int = 0
    ejections: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class WorkerStanding:
    """One worker slot; `state` is one of `catalog.WORKER_STATES`."""

    slot: int
    state: str
    loop_lag_us: int = 0
    rss: int = 0


@dataclass(frozen=True, slots=True)
class Exposition:
    """Everything that /metrics says. `phases`: all that a service can be in; `reloads`: by result."""

    version: str
    snapshot: Snapshot
    deep: Deep
    standings: Mapping[str, ServiceStanding]
    phases: tuple[str, ...]
    workers: tuple[WorkerStanding, ...] = ()
    reloads: Mapping[str, int] = field(default_factory=dict)


def render(exposition: Exposition) -> bytes:
    """Return the text of /metrics (`CONTENT_TYPE`)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(exposition))
    return generate_latest(registry)


class _Once(Collector):
    """A custom collector for one rendering."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def collect(self) -> Iterator[Family]:
        exposition = self._exposition
        families = _Families()
        _process(families, exposition)
        for name, service in exposition.snapshot.services.items():
            scales = exposition.deep.services.get(name)
            _service(families, service)
            if scales is not None:
                _scales(families, service, scales)
            standing = exposition.standings.get(name)
            if standing is not None:
                _standing(families, name, standing, exposition.phases)
        yield from families.all()

    def describe(self) -> Iterator[Family]:
        """Say nothing beforehand: the registry lives for one rendering only."""
        yield from ()


class _Families:
    """All metrics of the catalog, to be filled."""

    def __init__(self) -> None:
        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        self._numbers = {
            metric: kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
            for metric in catalog.CATALOG
            if metric.kind in kinds
        }
        self._histograms = {
            metric: HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in catalog.CATALOG
            if metric.kind == "histogram"
        }

    def add(self, metric: catalog.Metric, labels: Sequence[str], value: float) -> None:
        self._numbers[metric].add_metric(labels, value)

    def add_histogram(
        self,
        metric: catalog.Metric,
        labels: Sequence[str],
        counts: Mapping[int, int],
        edges_us: Iterable[int],
        exact: Mapping[int, int] | None = None,
    ) -> None:
        self._histograms[metric].add_metric(labels, buckets(counts, edges_us, exact or {}), hdr.sum_us(counts) / _US)

    def all(self) -> Iterator[Family]:
        for metric in catalog.CATALOG:
            yield self._numbers.get(metric) or self._histograms[metric]


def _process(families: _Families, exposition: Exposition) -> None:
    snapshot = exposition.snapshot
    families.add(catalog.BUILD_INFO, [exposition.version], 1)
    families.add(catalog.INTERNAL_ERRORS, [], snapshot.internal_errors)
    for (code, reason), count in snapshot.local_replies.items():
        families.add(catalog.LOCAL_REPLIES, [str(code), reason], count)
    for reason, count in snapshot.refused_connections.items():
        families.add(catalog.REFUSED_CONNECTIONS, [reason], count)
    families.add(catalog.ACCESS_LOG_LOST, [], snapshot.log_lines_lost)
    for result in catalog.RELOAD_RESULTS:
        families.add(catalog.CONFIG_RELOADS, [result], exposition.reloads.get(result, 0))
    for worker in exposition.workers:
        families.add(catalog.LOOP_LAG, [str(worker.slot)], worker.loop_lag_us / _US)
        families.add(catalog.WORKER_RSS, [str(worker.slot)], worker.rss)
    for state in catalog.WORKER_STATES:
        families.add(catalog.WORKERS, [state], sum(worker.state == state for worker in exposition.workers))
    families.add_histogram(catalog.OVERHEAD, [], exposition.deep.overhead, catalog.OVERHEAD_EDGES_US)


def _service(families: _Families, service: ServiceCounts) -> None:
    name = service.name
    families.add(catalog.CLIENT_ABORTS, [name], service.client_aborts)
    for outcome, count in service.failovers.items():
        families.add(catalog.FAILOVERS, [name, outcome], count)
    for version in service.versions:
        _version(families, [name, version.name], version)
        for signal, (n, matched) in zip(service.signals, version.judged.signals, strict=True):
            families.add(catalog.SIGNAL, [name, version.name, signal.name, "match"], matched)
            families.add(catalog.SIGNAL, [name, version.name, signal.name, "other"], n - matched)


def _version(families: _Families, labels: list[str], version: VersionCounts) -> None:
    for metric, by_name in (
        (catalog.BAD, version.bad),
        (catalog.ASSIGNMENTS, version.assigned),
        (catalog.RETRIES, version.retries),
    ):
        for value, count in by_name.items():
            families.add(metric, [*labels, value], count)
    families.add(catalog.IN_FLIGHT, labels, version.in_flight)
    families.add(catalog.QUEUED, labels, version.queued)
    families.add(catalog.TUNNELS, labels, version.tunnels)
    for endpoint in version.endpoints:
        families.add(catalog.ENDPOINT_UP, [*labels, endpoint.url], endpoint.state == "ready")
        families.add(catalog.POOL, [*labels, endpoint.url, "idle"], endpoint.pool_idle)
        families.add(catalog.POOL, [*labels, endpoint.url, "active"], endpoint.pool_active)


def _scales(families: _Families, service: ServiceCounts, scales: ServiceScales) -> None:
    edges = sorted({*catalog.LATENCY_EDGES_US, *service.thresholds_us})
    ttfb_edges = sorted({*catalog.LATENCY_EDGES_US, *service.ttfb_thresholds_us})
    families.add_histogram(catalog.USER_DURATION, [service.name], scales.user, edges)
    for version, of_version in zip(service.versions, scales.versions, strict=True):
        labels = [service.name, version.name]
        for code, count in sorted(of_version.codes.items()):
            families.add(catalog.REQUESTS, [*labels, f"{code:03}"], count)
        families.add_histogram(catalog.REQUEST_DURATION, labels, of_version.total, edges, of_version.within)
        families.add_histogram(catalog.TTFB, labels, of_version.ttfb, ttfb_edges, of_version.ttfb_within)


def _standing(families: _Families, name: str, standing: ServiceStanding, phases: tuple[str, ...]) -> None:
    shares = {"set": standing.new_set, "actual": standing.new_actual}
    for kind, share in shares.items():
        if share is not None:
            families.add(catalog.WEIGHT, [name, "stable", kind], round(1 - share, 6))
            families.add(catalog.WEIGHT, [name, "new", kind], share)
    for phase in phases:
        families.add(catalog.ROLLOUT_PHASE, [name, phase], phase == standing.phase)
    families.add(catalog.ROLLOUT_STAGE, [name], standing.stage)
    for version, count in zip(("stable", "new"), standing.ejections, strict=True):
        families.add(catalog.EJECTIONS, [name, version], count)
    for reason, count in standing.rollbacks.items():
        families.add(catalog.ROLLBACKS, [name, reason], count)
    for metric, limit in _worst(standing.limits).items():
        if limit.value is not None:
            families.add(catalog.LIMIT_VALUE, [name, metric], limit.value / _UNIT_PER_BASE.get(limit.unit, 1))
        for verdict in catalog.VERDICTS:
            families.add(catalog.LIMIT_VERDICT, [name, metric, verdict], verdict == limit.verdict)


def _worst(limits: Iterable[LimitStanding]) -> dict[str, LimitStanding]:
    """Return one limit per metric: two series of the same name and labels would make the whole text invalid."""
    worst: dict[str, LimitStanding] = {}
    for limit in limits:
        metric = limit.metric if limit.version == "new" else f"{limit.version}_{limit.metric}"
        known = worst.get(metric)
        if known is None or catalog.VERDICTS.index(limit.verdict) < catalog.VERDICTS.index(known.verdict):
            worst[metric] = limit
    return worst


def buckets(counts: Mapping[int, int], edges_us: Iterable[int], exact: Mapping[int, int]) -> list[tuple[str, float]]:
    """Return Prometheus' cumulative buckets (edge in seconds as text, count) for ascending edges in µs.

    An edge in `exact` has its count from there. One above 60 s that is not is left out: the histogram cannot tell.
    """
    edges = [edge for edge in edges_us if edge <= hdr.HIGHEST_US or edge in exact]
    values = _counted(counts, edges)
    # The histogram counts up to 0.8 % too far: never beyond the exact count of an edge above.
    most = sum(counts.values())
    cap = max([most, *exact.values()])
    for at in reversed(range(len(edges))):
        values[at] = min(exact.get(edges[at], values[at]), cap)
        if edges[at] in exact:
            cap = values[at]
    result: list[tuple[str, float]] = []
    shown = 0
    for edge, value in zip(edges, values, strict=True):
        shown = max(shown, value)
        result.append((repr(edge / _US), shown))
    result.append(("+Inf", max(shown, most)))
    return result


def _counted(counts: Mapping[int, int], edges_us: Iterable[int]) -> list[int]:
    """Return for ascending edges how many are in the histogram up to each, its own counter included."""
    values: list[int] = []
    places = sorted(counts)
    place = 0
    counted = 0
    for edge in edges_us:
        last = hdr.index(edge)
        while place < len(places) and places[place] <= last:
            counted += counts[places[place]]
            place += 1
        values.append(counted)
    return values
