"""Who goes where: services, sticky keys, overrides, the weight word, the watchdog."""

from __future__ import annotations

import json
import re

import pytest

from proxy.ipc import layout
from proxy.routing.split import bucket, seed_of
from proxy.routing.table import FULL, Match, Override, RoutingTable, Sticky
from tests.dataplane.conftest import patient, service
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import answers, request, response

SEED = seed_of("test")  # as the harness deals
COOKIE = re.compile(r"^tidegate=([A-Za-z0-9_-]{22}); Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax$")
MINTED = "A" * 22
PATIENT = patient()  # a SYN that was dropped comes again after a second


def version_of(client, *lines, target="/"):
    """Return which version answered, and the cookie that it was told to set."""
    answer = client.request("GET", target, *lines)
    assert answer.status == 200
    set_cookie = answer.get("Set-Cookie")
    return answer.get("x-tidegate-version"), set_cookie


def expected(key, weight):
    return "new" if bucket(key.encode(), SEED) < weight else "stable"


def keys_for(weight, count=20):
    """Return keys, half of which go to new at `weight`."""
    every = [f"user-{number}" for number in range(10_000)]
    new = [key for key in every if expected(key, weight) == "new"][: count // 2]
    return new + [key for key in every if expected(key, weight) == "stable"][: count // 2]


@pytest.fixture
def both(gate):
    """Serve both versions; `gate.stable` and `gate.new` are the backends."""
    gate.stable, gate.new = gate.backend(), gate.backend(name="new")

    def serve(weight, **fields):
        gate.serve(gate.stable, gate.new, weight=weight, **fields)
        return gate.client()

    gate.both = serve
    return gate


# ---------------------------------------------------------------- services


def test_services_by_host_and_path(gate):
    names = ["any", "api", "shop", "shop-api", "suffix"]
    matches = [Match(), Match("", "/api"), Match("shop.test"), Match("shop.test", "/api/"), Match("*.shop.test")]
    backends = [gate.backend(name=name) for name in names]
    gate.serve_table(
        RoutingTable(
            tuple(
                service(backend, name=name, match=match)
                for backend, name, match in zip(backends, names, matches, strict=True)
            )
        )
    )
    client = gate.client()
    for host, path, name in [
        ("other.test", "/", "any"),
        ("other.test", "/api", "api"),
        ("other.test", "/api/x?y", "api"),
        ("other.test", "/apix", "any"),
        ("shop.test", "/", "shop"),
        ("SHOP.test:8080", "/api/1", "shop-api"),
        ("a.b.shop.test", "/api", "suffix"),
        ("ashop.test", "/", "any"),
    ]:
        client.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert client.response().body == name.encode(), (host, path)
    client.send(b"GET http://shop.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n")
    assert client.response().body == b"shop"
    same(lambda: [gate.worker.count(0, layout.VERSION_ENDED, index) for index in range(5)], [3, 2, 2, 1, 1])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_service(gate, method):
    stable = gate.backend()
    gate.serve(stable, match=Match("shop.example", "/"))
    client = gate.client()
    client.send(request(method, "/", "X-Request-Id: abc-1", body=b"x" if method == "POST" else b""))
    answer = client.response(method)
    assert (answer.status, answer.get("X-Request-Id")) == (404, "abc-1")
    if method != "HEAD":
        assert json.loads(answer.body)["reason"] == "no_service"
    assert client.drain() == "eof"
    assert stable.peers == []
    same(gate.local_replies, {(404, "no_service"): 1})


# ---------------------------------------------------------------- sticky keys


def test_a_named_cookie_is_the_key(both):
    weight = 3000
    client = both.both(weight, sticky=Sticky("cookie", "session"))
    for key in keys_for(weight):
        for line in (f"Cookie: session={key}", f"Cookie: a=b; session={key}; xsession=1", f"Cookie: session={key};x=y"):
            assert version_of(client, line) == (expected(key, weight), None)
    assert both.assigned(0)["hash"] == both.assigned(1)["hash"] == 30


def test_a_header_is_the_key(both):
    weight = 5000
    client = both.both(weight, sticky=Sticky("header", "X-User"))
    for key in keys_for(weight):
        assert version_of(client, f"x-user: {key}") == (expected(key, weight), None)


def test_the_minted_cookie_comes_first(both):
    weight = next(w for w in range(1, FULL) if expected(MINTED, w) == "new")
    other = next(key for key in keys_for(weight) if expected(key, weight) == "stable")
    for sticky in (Sticky("cookie", "session"), Sticky("header", "x-user"), Sticky("cookie")):
        client = both.both(weight, sticky=sticky)
        lines = (f"Cookie: session={other}; tidegate={MINTED}", f"X-User: {other}")
        assert version_of(client, *lines) == ("new", None)
        assert both.new.requests[-1].get("Cookie") == f"session={other}"


@pytest.mark.parametrize("cookie", ["tidegate=short", "tidegate=" + "A" * 23, "tidegate=" + "A" * 21 + "!", "x=y"])
def test_a_cookie_that_is_not_ours_is_replaced(both, cookie):
    client = both.both(5000, sticky=Sticky("cookie"))
    _, set_cookie = version_of(client, f"Cookie: {cookie}")
    assert COOKIE.match(set_cookie)


def test_a_minted_cookie_decides_this_request_and_all_later_ones(both):
    client = both.both(5000, sticky=Sticky("cookie", "session"))
    minted = set()
    for _ in range(40):
        version, set_cookie = version_of(client)
        value = COOKIE.match(set_cookie)[1]
        minted.add(value)
        assert version == expected(value, 5000)
        # An anonymous visitor keeps the version through log-in.
        assert version_of(client, f"Cookie: tidegate={value}; session=somebody") == (version, None)
    assert len(minted) == 40
    same(lambda: both.assigned(0)["mint"] + both.assigned(1)["mint"], 40)
    assert all("tidegate" not in (one.get("Cookie") or "") for one in both.stable.requests + both.new.requests)
    assert both.new.requests[0].get("Cookie") in {None, "session=somebody"}


def test_where_no_cookie_is_set(gate):
    replies = [
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        response(200, "Cache-Control: max-age=60, public"),
        response(200, "Cache-Control: private"),
    ]
    gate.serve(gate.backend(answers(*replies)), gate.backend(), weight=0, sticky=Sticky("cookie"))
    client = gate.client()
    assert [client.request().get("Set-Cookie") is not None for _ in replies] == [False, False, True]
    gate.serve(gate.refused(), gate.backend(), weight=0, sticky=Sticky("cookie"))
    assert client.request().get("Set-Cookie") is None


def test_no_cookie_without_a_new_version(gate):
    gate.serve(gate.backend(), sticky=Sticky("cookie"))
    assert gate.client().request().get("Set-Cookie") is None


def test_the_addresses_behind_trusted_proxies_are_keys(both):
    weight = 5000
    client = both.both(weight, sticky=Sticky("client_ip"), trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))
    addresses = [f"192.0.2.{number}" for number in range(1, 20)]
    for address in addresses:
        line = f"X-Forwarded-For: 203.0.113.9, {address}, 10.1.2.3"
        assert version_of(client, line) == (expected(address, weight), None)
    client = both.both(weight, sticky=Sticky("client_ip"))
    versions = {version_of(client, f"X-Forwarded-For: {address}")[0] for address in addresses}
    assert versions == {expected("127.0.0.1", weight)}


def test_chance_decides_where_nothing_else_may(both):
    client = both.both(5000, sticky=Sticky("none", mint=False))
    versions = [version_of(client) for _ in range(200)]
    assert {cookie for _, cookie in versions} == {None}
    assert 50 < sum(version == "new" for version, _ in versions) < 150
    same(lambda: both.assigned(0)["random"] + both.assigned(1)["random"], 200)
    client = both.both(0, sticky=Sticky("none", mint=False))
    assert {version_of(client)[0] for _ in range(20)} == {"stable"}


def test_labels_and_versions_may_be_hidden(both):
    client = both.both(0, expose_version=False)
    answer = client.request()
    assert (answer.get("x-tidegate-version"), answer.get("x-tidegate-label")) == (None, None)
    client = both.both(0)
    assert client.request().get("x-tidegate-label") == "1"


# ---------------------------------------------------------------- overrides


def test_only_allowed_addresses_may_override(both):
    client = both.both(0, override=Override("X-Tidegate-Version", ("192.0.2.0/24", "::1/128")))
    assert version_of(client, "X-Tidegate-Version: new")[0] == "stable"
    fields = {"override": Override("x-tidegate-version", ("192.0.2.0/24",)), "trusted_proxies": ("127.0.0.1/32",)}
    client = both.both(0, **fields)
    lines = ("X-Tidegate-Version: new", "X-Forwarded-For: 192.0.2.7")
    assert version_of(client, *lines)[0] == "new"
    assert version_of(client, *lines[:1], "X-Forwarded-For: 192.0.2.7, 198.51.100.1")[0] == "stable"
    same(lambda: both.assigned(1), {"override": 1})


def test_an_override_reaches_new_while_nobody_watches(both):
    client = both.both(5000, override=Override("x-v", ("127.0.0.1/32",)), watchdog_s=0.25)
    both.worker.stop_beating()
    try:
        same(lambda: both.worker.row(layout.ROW_STABLE_ONLY), 1)
        assert version_of(client, "X-V: new")[0] == "new"
        assert version_of(client)[0] == "stable"
    finally:
        both.worker.beat_again()


# ---------------------------------------------------------------- the weight word


def test_the_weight_word_is_read_at_every_request(both):
    client = both.both(0)
    for weight, version in [(FULL, "new"), (0, "stable"), (FULL, "new"), (0, "stable")]:
        both.worker.set_weight(weight)
        assert {version_of(client)[0] for _ in range(3)} == {version}


def test_flags_and_epoch_do_not_count_as_weight(both):
    client = both.both(0)
    both.worker.set_weight(layout.FLAG_WATCHDOG_OFF | 77 << layout.EPOCH_SHIFT)
    assert version_of(client)[0] == "stable"


def test_raising_moves_nobody_back_and_lowering_nobody_there(both):
    client = both.both(0, sticky=Sticky("header", "x-user"))
    there: set[str] = set()
    for weight in (100, 1000, 5000, FULL):
        both.worker.set_weight(weight)
        now = {key for key in map(str, range(100)) if version_of(client, f"X-User: {key}")[0] == "new"}
        assert there <= now
        there = now
    assert len(there) == 100
    both.worker.set_weight(0)
    assert {version_of(client, f"X-User: {key}", f"Cookie: tidegate={MINTED}")[0] for key in there} == {"stable"}


@pytest.mark.slow
def test_the_weight_is_read_again_when_a_request_had_to_wait(gate):
    """The connect to new takes long; when it is made, the gate is shut."""
    new = gate.backend(name="new")
    gate.serve(gate.backend(), gate.slow_to_accept(new), weight=FULL, timeouts=PATIENT)
    client = gate.client()
    client.send(request())
    same(lambda: gate.in_flight(1), 1)
    gate.worker.set_weight(0)
    gate.accept_now(new)
    assert client.response().body == b"stable"
    assert new.requests == []
    same(lambda: gate.judged(1), (0, {}))
    same(lambda: gate.judged(0), (1, {}))
    gate.finished(1)


def test_nothing_is_dispatched_to_new_after_the_store(both):
    """The dispatch stamp of the worker, and the backend's own count."""
    import time

    clients = [both.both(FULL) for _ in range(1)] + [both.client() for _ in range(3)]
    for client in clients:
        assert version_of(client)[0] == "new"
    for client in clients:
        client.send(request() * 200)
    eventually(lambda: len(both.new.requests) > 20, "some traffic")
    both.worker.set_weight(0)
    stored = time.monotonic_ns()
    versions = [[client.response().get("x-tidegate-version") for _ in range(200)] for client in clients]
    both.sweeps(2)
    last = both.worker.count(1, layout.VERSION_LAST_DISPATCH_NS)
    assert 0 < last < stored
    for answered in versions:
        # In order: once stable, never new again.
        assert answered == sorted(answered)
    assert sum(answered.count("new") for answered in versions) == len(both.new.requests) - 4


# ---------------------------------------------------------------- the watchdog


@pytest.mark.slow
def test_new_gets_traffic_only_while_somebody_watches(both):
    client = both.both(FULL, watchdog_s=1.0)
    assert version_of(client)[0] == "new"
    both.worker.stop_beating()
    try:
        same(lambda: both.worker.row(layout.ROW_STABLE_ONLY), 1)
        assert version_of(client)[0] == "stable"
    finally:
        both.worker.beat_again()
    same(lambda: both.worker.row(layout.ROW_STABLE_ONLY), 0)
    assert version_of(client)[0] == "new"


def test_the_watchdog_does_not_send_to_a_stable_that_cannot_serve(both):
    client = both.both(FULL, watchdog_s=0.25)
    both.set_state(0, layout.ENDPOINT_DOWN)
    both.worker.stop_beating()
    try:
        both.sweeps(8)
        same(lambda: both.worker.row(layout.ROW_STABLE_ONLY), 0)
        assert version_of(client)[0] == "new"
        both.set_state(0, layout.ENDPOINT_READY)
        same(lambda: both.worker.row(layout.ROW_STABLE_ONLY), 1)
        assert version_of(client)[0] == "stable"
    finally:
        both.worker.beat_again()


def test_the_watchdog_may_be_off(both):
    client = both.both(0, watchdog_s=0.25)
    both.worker.set_weight(FULL | layout.FLAG_WATCHDOG_OFF)
    both.worker.stop_beating()
    try:
        both.sweeps(8)
        assert version_of(client)[0] == "new"
        same(lambda: both.worker.row(layout.ROW_STABLE_ONLY), 0)
    finally:
        both.worker.beat_again()


@pytest.mark.slow
def test_a_request_that_waits_for_its_connection_when_the_watchdog_bites(gate):
    new = gate.backend(name="new")
    gate.serve(gate.backend(), gate.slow_to_accept(new), weight=FULL, timeouts=PATIENT, watchdog_s=1.0)
    client = gate.client()
    client.send(request())
    same(lambda: gate.in_flight(1), 1)
    gate.worker.stop_beating()
    try:
        same(lambda: gate.worker.row(layout.ROW_STABLE_ONLY), 1)
        gate.accept_now(new)
        assert client.response().body == b"stable"
    finally:
        gate.worker.beat_again()


@pytest.mark.slow
def test_a_failed_connect_makes_stable_unfit_for_the_watchdog_for_a_while(gate):
    gate.serve(gate.refused(), gate.backend(name="new"), weight=0, watchdog_s=0.25, timeouts=patient(connect_s=0.2))
    client = gate.client()
    assert client.request().status == 502
    gate.worker.set_weight(FULL)
    gate.worker.stop_beating()
    try:
        gate.sweeps(8)
        assert client.request().body == b"new"
    finally:
        gate.worker.beat_again()
