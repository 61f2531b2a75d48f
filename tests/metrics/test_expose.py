"""/metrics as a scraper reads it: parsed by prometheus_client's own parser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from proxy.ipc import layout
from proxy.metrics import catalog, expose, hdr
from proxy.metrics.expose import Exposition, LimitStanding, ServiceStanding, WorkerStanding
from proxy.metrics.snapshot import (
    Deep,
    EndpointCounts,
    Judged,
    ServiceCounts,
    ServiceScales,
    SignalKey,
    Snapshot,
    VersionCounts,
    VersionScales,
)

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
SECOND = 1_000_000


def version(name: str) -> VersionCounts:
    return VersionCounts(
        name,
        "label",
        1,
        Judged(signals=((5, 3),)),
        bad=dict.fromkeys(layout.BAD_KINDS, 0),
        assigned=dict.fromkeys(layout.ASSIGNMENT_REASONS, 0),
        retries=dict.fromkeys(layout.RETRY_OUTCOMES, 0),
        endpoints=(EndpointCounts("http://127.0.0.1:9001", "ready"),),
    )


def exposition(
    total: Mapping[int, int] | None = None,
    within: Mapping[int, int] | None = None,
    codes: Mapping[int, int] | None = None,
    thresholds: tuple[int, ...] = (200_000,),
    standing: ServiceStanding | None = None,
) -> Exposition:
    service = ServiceCounts(
        "web",
        thresholds,
        (version("stable"), version("new")),
        failovers=dict.fromkeys(layout.FAILOVER_OUTCOMES, 0),
        signals=(SignalKey("hits", "x-cache", "^HIT"),),
    )
    scales = VersionScales(codes or {}, total or {}, {}, within or dict.fromkeys(thresholds, 0))
    return Exposition(
        "0.1.0",
        Snapshot(
            1.0,
            {"web": service},
            0,
            *(dict.fromkeys(of, 0) for of in (layout.LOCAL_REPLIES, layout.REFUSED_CONNECTIONS)),
        ),
        Deep({}, {"web": ServiceScales({}, (scales, VersionScales(within=dict.fromkeys(thresholds, 0))))}),
        {"web": standing or ServiceStanding(0.1, "idle", rollbacks={"ErrorRate": 0})},
        ("idle", "rolled_back"),
        (WorkerStanding(0, "listening", 1500, 2**20), WorkerStanding(1, "hung")),
    )


def parse(text: bytes) -> Series:
    series: Series = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in series, f"{key} twice"
            series[key] = sample.value
    return series


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def buckets(series: Series, name: str, **labels: str) -> dict[float, float]:
    wanted = set(labels.items())
    found = {
        float(dict(key)["le"]): count
        for (sample, key), count in series.items()
        if sample == f"{name}_bucket" and wanted <= key
    }
    return dict(sorted(found.items()))


def test_every_metric_of_the_catalog_is_there_from_the_start() -> None:
    standing = ServiceStanding(0.1, "idle", 0.5, {"ErrorRate": 0}, (LimitStanding("p99", "new", "ms", 150.0, "PASS"),))
    text = expose.render(exposition(codes={200: 0}, standing=standing))
    families = {family.name for family in text_string_to_metric_families(text.decode()) if family.samples}
    assert families == {metric.name.removesuffix("_total") for metric in catalog.CATALOG}


def test_signals_are_counted_by_whether_they_match() -> None:
    series = parse(expose.render(exposition()))
    for outcome, count in (("match", 3), ("other", 2)):
        labels = {"service": "web", "version": "new", "signal": "hits", "outcome": outcome}
        assert value(series, "tidegate_signal_total", **labels) == count


def test_counters_are_at_0_from_the_start_but_codes_that_nobody_saw() -> None:
    series = parse(expose.render(exposition()))
    for kind in layout.BAD_KINDS:
        assert value(series, "tidegate_bad_total", service="web", version="new", kind=kind) == 0
    for reason in layout.ASSIGNMENT_REASONS:
        assert value(series, "tidegate_assignments_total", service="web", version="new", reason=reason) == 0
    assert value(series, "tidegate_internal_errors_total") == 0
    assert value(series, "tidegate_config_reloads_total", result="ok") == 0
    assert value(series, "tidegate_rollbacks_total", service="web", reason="ErrorRate") == 0
    assert value(series, "tidegate_request_duration_seconds_count", service="web", version="new") == 0
    assert value(series, "tidegate_local_replies_total", code="400", reason="malformed") == 0
    assert value(series, "tidegate_refused_connections_total", reason="untrusted") == 0
    assert value(series, "tidegate_access_log_lost_total") == 0
    assert not [name for name, _ in series if name == "tidegate_requests_total"]


def test_codes_have_three_digits() -> None:
    series = parse(expose.render(exposition(codes={200: 5, 499: 1, 0: 2})))
    assert value(series, "tidegate_requests_total", service="web", version="stable", code="200") == 5
    assert value(series, "tidegate_requests_total", service="web", version="stable", code="000") == 2


def test_base_units() -> None:
    limits = (
        LimitStanding("p99", "new", "ms", 150.0, "PASS"),
        LimitStanding("error_rate", "new", "ratio", 0.25, "FAIL"),
    )
    series = parse(expose.render(exposition(standing=ServiceStanding(0.01, "rolled_back", None, {}, limits))))
    assert value(series, "tidegate_limit_value", service="web", metric="p99") == 0.15
    assert value(series, "tidegate_limit_value", service="web", metric="error_rate") == 0.25
    assert value(series, "tidegate_limit_verdict", service="web", metric="error_rate", verdict="FAIL") == 1
    assert value(series, "tidegate_limit_verdict", service="web", metric="error_rate", verdict="PASS") == 0
    assert value(series, "tidegate_weight_ratio", service="web", version="stable", kind="set") == 0.99
    assert value(series, "tidegate_worker_loop_lag_seconds", slot="0") == 0.0015
    assert value(series, "tidegate_worker_rss_bytes", slot="0") == 2**20
    assert value(series, "tidegate_workers", state="hung") == 1
    assert value(series, "tidegate_rollout_phase", service="web", phase="rolled_back") == 1
    assert value(series, "tidegate_rollout_phase", service="web", phase="idle") == 0
    assert value(series, "tidegate_endpoint_up", service="web", version="new", endpoint="http://127.0.0.1:9001") == 1
    assert not [key for name, key in series if name == "tidegate_weight_ratio" and ("kind", "actual") in key]


def test_an_endpoint_that_is_not_ready_is_not_up() -> None:
    made = exposition()
    service = made.snapshot.services["web"]
    drained = replace(service.versions[0], endpoints=(EndpointCounts("http://x", "drain", pool_idle=3),))
    made = replace(made, snapshot=Snapshot(1.0, {"web": replace(service, versions=(drained, service.versions[1]))}))
    series = parse(expose.render(made))
    assert value(series, "tidegate_endpoint_up", service="web", version="stable", endpoint="http://x") == 0
    labels = {"service": "web", "version": "stable", "endpoint": "http://x"}
    assert value(series, "tidegate_pool_connections", **labels, state="idle") == 3


def test_of_several_limits_on_one_metric_the_worst_is_shown() -> None:
    limits = (
        LimitStanding("p99", "new", "ms", 100.0, "PASS"),
        LimitStanding("p99", "new", "ms", 900.0, "FAIL"),
        LimitStanding("p99", "new", "ms", None, "INCONCLUSIVE"),
        LimitStanding("p99", "stable", "ms", 10.0, "PASS"),
    )
    series = parse(expose.render(exposition(standing=ServiceStanding(0.1, "idle", None, {}, limits))))
    assert value(series, "tidegate_limit_value", service="web", metric="p99") == 0.9
    assert value(series, "tidegate_limit_value", service="web", metric="stable_p99") == 0.01


def test_a_label_may_hold_anything() -> None:
    made = exposition()
    odd = 'a"b\\c\nd'
    made = replace(
        made, snapshot=replace(made.snapshot, services={odd: replace(made.snapshot.services["web"], name=odd)})
    )
    assert value(parse(expose.render(made)), "tidegate_client_aborts_total", service=odd) == 0


def test_a_latency_limit_is_an_edge_with_its_exact_count() -> None:
    # All in one counter of the histogram, on both sides of the limit: 250 ms is an edge in the same counter.
    total = {hdr.index(250_500): 100}
    assert hdr.index(250_000) == hdr.index(250_500) == hdr.index(250_600)
    text = expose.render(exposition(total, {250_600: 40}, thresholds=(250_600,)))
    found = buckets(parse(text), "tidegate_request_duration_seconds", version="stable")
    assert found[0.2506] == 40
    assert found[0.25] == 40  # not 100: an edge never counts more than the exact one above it
    assert found[0.5] == found[math.inf] == 100


def test_a_limit_on_first_bytes_is_an_edge_of_theirs_alone() -> None:
    made = exposition()
    scales = VersionScales(ttfb={hdr.index(250_500): 100}, ttfb_within={250_600: 40}, within={200_000: 0})
    made = replace(
        made,
        snapshot=Snapshot(1.0, {"web": replace(made.snapshot.services["web"], ttfb_thresholds_us=(250_600,))}, 0, {}),
        deep=Deep({}, {"web": ServiceScales({}, (scales, scales))}),
    )
    series = parse(expose.render(made))
    found = buckets(series, "tidegate_ttfb_seconds", version="stable")
    assert (found[0.25], found[0.2506], found[0.5], found[math.inf]) == (40, 40, 100, 100)
    assert 0.2506 not in buckets(series, "tidegate_request_duration_seconds", version="stable")
    assert 0.2 not in found


def test_a_limit_above_60_s_is_an_edge_only_where_it_is_exact() -> None:
    text = expose.render(exposition({hdr.OVERFLOW: 5}, {90 * SECOND: 3}, thresholds=(90 * SECOND,)))
    series = parse(text)
    found = buckets(series, "tidegate_request_duration_seconds", version="stable")
    assert (found[60.0], found[90.0], found[math.inf]) == (0, 3, 5)
    assert 90.0 not in buckets(series, "tidegate_ttfb_seconds", version="stable")
    assert value(series, "tidegate_request_duration_seconds_sum", service="web", version="stable") == 300


latencies = st.lists(st.integers(0, 70 * SECOND), max_size=60)
limits = st.sets(st.integers(1, 70 * SECOND), max_size=4).map(sorted)


def counted(values: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for us in values:
        counts[hdr.index(us)] = counts.get(hdr.index(us), 0) + 1
    return counts


@given(latencies, latencies, limits, st.integers(0, 60))
def test_buckets_never_fall_from_edge_to_edge_nor_from_scrape_to_scrape(
    first: list[int], more: list[int], thresholds: list[int], late: int
) -> None:
    edges = sorted({*catalog.LATENCY_EDGES_US, *thresholds})
    before: dict[str, float] = {}
    for values in (first, first + more):
        # The exact counts are read a little later than the histogram: they may know attempts that it does not.
        exact = {limit: sum(us <= limit for us in values) for limit in thresholds}
        found = dict(expose.buckets(counted(values[: len(values) - min(late, len(values))]), edges, exact))
        assert all(low <= high for low, high in pairwise(found.values()))
        assert all(found[edge] >= count for edge, count in before.items())
        assert all(found[repr(limit / SECOND)] == exact[limit] for limit in thresholds)
        before = found
