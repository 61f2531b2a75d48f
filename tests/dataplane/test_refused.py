"""A generation that a worker cannot use changes nothing in it."""

from __future__ import annotations

from proxy.ipc import layout
from proxy.routing.table import AccessLog, InFlight, RequestLimits, RoutingTable
from tests.dataplane.conftest import patient, service
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import holding, request


def refuse(gate, table, number):
    """Have the worker refuse a table, and return why. It gets the segments in force: what it needs is alike in both."""
    _, control, counters = gate.worker.segments[gate.worker.generation]
    gate.worker.offer(table, number, control, counters)
    return gate.worker.expect("refused", generation=number)["why"]


def test_neither_log_nor_limits_are_those_of_a_refused_generation(gate, tmp_path):
    stable = gate.backend()
    log, other = tmp_path / "log", tmp_path / "other"
    gate.serve(stable, access_log=AccessLog(str(log)))
    small = RequestLimits(head=1024, target=1024)
    table = RoutingTable(
        (service(stable),), request_limits=small, trusted_proxies=("no network",), access_log=AccessLog(str(other))
    )
    assert "no network" in refuse(gate, table, 901)
    target = "/" + "a" * 2000
    assert gate.client().request("GET", target).status == 200
    eventually(lambda: target in log.read_text(), "the log in force")
    assert not other.exists()


def test_queues_keep_the_limits_in_force(gate, release, tmp_path):
    stable = gate.backend(holding(release))
    gate.serve(stable, in_flight=InFlight(version=1, wait_s=30.0))
    wide = service(stable, in_flight=InFlight(version=100))
    table = RoutingTable((wide,), access_log=AccessLog(str(tmp_path / "no" / "such")))
    assert "no/such" in refuse(gate, table, 902)
    first, second = gate.client(), gate.client()
    first.send(request())
    eventually(lambda: stable.requests, "the first request")
    second.send(request())
    same(lambda: gate.worker.count(0, layout.VERSION_QUEUED), 1)
    release.set()
    assert [client.response().status for client in (first, second)] == [200, 200]


def test_pools_keep_the_time_in_force(gate, tmp_path):
    gate.serve(gate.deaf(), timeouts=patient(connect_s=0.2))
    (endpoint,) = gate.worker.table.services[0].stable.endpoints
    waits = service(endpoint, timeouts=patient(connect_s=60.0))
    refuse(gate, RoutingTable((waits,), access_log=AccessLog(str(tmp_path / "no" / "such"))), 903)
    assert gate.client().request().status == 504
