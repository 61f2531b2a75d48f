"""A table crosses the process border as JSON and comes out the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.table import (
    NEW,
    STABLE,
    AccessLog,
    Drain,
    Endpoint,
    Failover,
    Match,
    Override,
    RequestLimits,
    RoutingTable,
    Service,
    Sticky,
    Timeouts,
    Version,
    from_plain,
    to_plain,
)

TEXT = st.text(max_size=8)
SECONDS = st.floats(0.001, 1e6)
ENDPOINTS = st.builds(Endpoint, TEXT, TEXT, st.integers(1, 65535), st.none() | TEXT)
VERSIONS = st.builds(Version, TEXT, st.lists(ENDPOINTS, max_size=3).map(tuple))
SERVICES = st.builds(
    Service,
    name=TEXT,
    stable=VERSIONS,
    new=VERSIONS,
    match=st.builds(Match, TEXT, TEXT),
    sticky=st.builds(Sticky, st.sampled_from(["cookie", "header", "client_ip", "none"]), TEXT, st.booleans()),
    override=st.none() | st.builds(Override, TEXT, st.lists(TEXT, max_size=2).map(tuple)),
    timeouts=st.builds(Timeouts, SECONDS, SECONDS, SECONDS, st.none() | SECONDS),
    failover=st.builds(Failover, TEXT, st.lists(TEXT, max_size=2).map(tuple), st.floats(0, 1)),
    thresholds_us=st.lists(st.integers(1, 10**9), max_size=16).map(tuple),
    fallback_to_new=st.booleans(),
)
TABLES = st.builds(
    RoutingTable,
    services=st.lists(SERVICES, max_size=3).map(tuple),
    trusted_proxies=st.lists(TEXT, max_size=2).map(tuple),
    request_limits=st.builds(RequestLimits, body=st.none() | st.integers(0, 10**12)),
    access_log=st.builds(AccessLog, st.none() | TEXT),
    drain=st.builds(Drain, SECONDS, SECONDS),
    via=st.booleans(),
)


@given(TABLES)
def test_there_and_back(table):
    assert from_plain(json.loads(json.dumps(to_plain(table)))) == table


@given(TABLES)
def test_endpoints_come_in_the_order_of_the_layout(table):
    listed = list(table.endpoints())
    assert [one[:3] for one in listed] == sorted(one[:3] for one in listed)
    for service, version, index, endpoint in listed:
        assert table.services[service].version(version).endpoints[index] is endpoint
    assert {version for _, version, _, _ in listed} <= {STABLE, NEW}


def test_unknown_keys_are_refused():
    plain = to_plain(RoutingTable(()))
    with pytest.raises(TypeError):
        from_plain({**plain, "surprise": 1})
