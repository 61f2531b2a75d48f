"""Connections to endpoints: pools, the keep-alive race, failed connects, other endpoints, failover."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from proxy.ipc import layout
from proxy.routing.table import Failover, Override
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.test_tunnel import ASK, SWITCH
from tests.dataplane.wire import fails, holding, ok, request, response

NEVER = Failover("never")
IDEMPOTENT = Failover("idempotent")
OVERRIDE = Override("x-version", ("127.0.0.1/32",))


def dies_in_second(how, said=b""):
    """Answer one request; at the next, say what is `said` and end."""

    def script(peer):
        peer.request()
        peer.send(response(body=b"first"))
        peer.head()
        peer.send(said)
        getattr(peer, how)()

    return script


# ---------------------------------------------------------------- the keep-alive race


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_lost_race_is_made_good_and_not_charged(gate, how):
    stable = gate.backend(dies_in_second(how), ok)
    gate.serve(stable)
    client = gate.client()
    assert [client.request().body for _ in range(2)] == [b"first", b"stable"]
    same(lambda: gate.judged(0), (2, {}))
    same(lambda: gate.retries(0), {"ok": 1})
    assert len(stable.peers) == 2
    same(gate.failovers, {})


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_lost_race_of_a_post_is_told_and_not_charged(gate, how):
    stable = gate.backend(dies_in_second(how), ok)
    gate.serve(stable)
    client = gate.client()
    assert client.request().body == b"first"
    answer = client.request("POST", "/", body=b"pay")
    assert (answer.status, json.loads(answer.body)["reason"]) == (502, "reset")
    assert client.request().body == b"stable"
    same(lambda: gate.judged(0), (2, {}))
    same(lambda: gate.code(0, 502), 1)
    same(lambda: gate.retries(0), {})
    same(gate.local_replies, {(502, "reset"): 1})


def test_a_put_is_made_again_with_its_body(gate):
    stable = gate.backend(dies_in_second("close"), ok)
    gate.serve(stable)
    client = gate.client()
    client.request()
    assert client.request("PUT", "/", body=b"x" * 64 * 1024).body == b"stable"
    assert stable.requests[-1].body == b"x" * 64 * 1024
    same(lambda: gate.judged(0), (2, {}))


def test_a_put_is_made_again_while_its_body_is_still_coming(gate):
    stable = gate.backend(dies_in_second("close"), ok)
    gate.serve(stable)
    client = gate.client()
    client.request()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    eventually(lambda: len(stable.peers) == 2, "the fresh connection")
    client.send(b"def")
    gate.sweeps(1)
    client.send(b"ghi")
    assert client.response().body == b"stable"
    assert stable.requests[-1].body == b"abcdefghi"
    same(lambda: gate.judged(0), (2, {}))


def test_the_second_failure_in_a_row_is_charged(gate):
    stable = gate.backend(dies_in_second("close"), lambda peer: (peer.request(), peer.close()))
    gate.serve(stable)
    client = gate.client()
    client.request()
    assert client.request().status == 502
    same(lambda: gate.judged(0), (2, {"reset": 1}))
    same(lambda: gate.retries(0), {"failed": 1})
    assert len(stable.peers) == 2


def test_a_race_that_ends_in_a_tunnel_is_made_good_too(gate):
    gate.serve(gate.backend(dies_in_second("close"), lambda peer: (peer.request(), peer.send(SWITCH), peer.drain())))
    client = gate.client()
    client.request()
    client.send(request("GET", "/", *ASK))
    assert client.response().status == 101
    same(lambda: gate.retries(0), {"ok": 1})


def test_each_version_may_lose_a_race_once(gate):
    """The failover is no second race; and whose race was lost in vain, counts it."""
    stable = gate.backend(dies_in_second("close"), ok)
    new = gate.backend(dies_in_second("close"), fails())
    gate.serve(stable, new, weight=10_000, override=OVERRIDE)
    client = gate.client()
    client.request("GET", "/", "X-Version: stable")
    assert client.request().body == b"first"
    assert client.request().body == b"stable"
    same(lambda: (gate.retries(0), gate.retries(1)), ({"ok": 1}, {"failed": 1}))
    same(gate.failovers, {"rescued": 1})
    same(lambda: gate.bad(1), {"status": 1})
    same(lambda: gate.bad(0), {})


def test_an_end_after_an_interim_response_is_no_race(gate):
    stable = gate.backend(dies_in_second("close", b"HTTP/1.1 103 Early Hints\r\n\r\n"), ok)
    gate.serve(stable)
    client = gate.client()
    client.request()
    assert client.request().status == 502
    same(lambda: gate.judged(0), (2, {"reset": 1}))
    assert len(stable.peers) == 1


def test_an_end_within_the_head_is_no_race(gate):
    gate.serve(gate.backend(dies_in_second("close", b"HTTP/1.1 200 OK\r\nContent-"), ok))
    client = gate.client()
    client.request()
    assert client.request().status == 502
    same(lambda: gate.judged(0), (2, {"protocol": 1}))


def test_an_endpoint_that_closes_idle_connections_is_never_charged(gate):
    stable = gate.backend(lambda peer: (peer.request(), peer.send(response()), peer.close()))
    gate.serve(stable)
    client = gate.client()
    for _ in range(4):
        assert client.request("POST", "/", body=b"x").status == 200
        gate.sweeps(2)
        same(lambda: gate.endpoint(0, layout.ENDPOINT_POOL_IDLE), 0)
    same(lambda: gate.judged(0), (4, {}))


# ---------------------------------------------------------------- pools


def test_an_idle_connection_is_given_up_in_time(gate):
    stable = gate.backend()
    gate.serve(stable, timeouts=patient(pool_idle_s=0.1))
    client = gate.client()
    client.request()
    eventually(lambda: stable.peers[0].ended, "the end of the idle connection")
    assert client.request().status == 200
    assert len(stable.peers) == 2
    same(lambda: gate.judged(0), (2, {}))


def test_connections_are_shared_and_the_last_one_is_taken_first(gate):
    release = threading.Event()

    def script(peer):
        while True:
            message = peer.request()
            if message.target == "/wait":
                assert release.wait(30)
            peer.send(response(body=b"%d" % peer.number))

    stable = gate.backend(script)
    gate.serve(stable)
    clients = [gate.client() for _ in range(3)]
    for client in clients:
        client.send(request("GET", "/wait"))
    eventually(lambda: len(stable.requests) == 3, "three requests in flight")
    same(lambda: gate.endpoint(0, layout.ENDPOINT_POOL_ACTIVE), 3)
    release.set()
    for client in clients:
        client.response()
    same(lambda: gate.endpoint(0, layout.ENDPOINT_POOL_IDLE), 3)
    bodies = {client.request().body for client in clients for _ in range(5)}
    assert len(bodies) == 1
    assert len(stable.peers) == 3


@pytest.mark.parametrize("said", [b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n", b"x"])
def test_a_resting_connection_that_speaks_is_given_up(gate, said):
    speak = threading.Event()

    def script(peer):
        peer.request()
        peer.send(response(body=b"first"))
        assert speak.wait(30)
        peer.send(said)
        peer.drain()

    stable = gate.backend(script, ok)
    gate.serve(stable)
    client = gate.client()
    client.request()
    speak.set()
    eventually(lambda: stable.peers[0].ended, "the upstream's end")
    assert client.request("POST", "/", body=b"x").body == b"stable"
    same(lambda: gate.judged(0), (2, {}))


@pytest.mark.parametrize("before", ["at rest", "behind an answer"])
def test_what_is_said_in_the_instant_in_which_it_is_taken_is_nobodys(gate, before):
    """Once an endpoint has said something unasked, its connections are listened to before they are taken."""
    speak, spoken = threading.Event(), threading.Event()

    def first(peer):
        peer.request()
        peer.send(response(body=b"first") + (b"x" if before == "behind an answer" else b""))
        if before == "at rest":
            peer.send(b"x")
        peer.drain()

    def second(peer):
        peer.request()
        peer.send(response(body=b"second"))
        assert speak.wait(30)
        peer.send(response(body=b"nobody's"))
        spoken.set()
        peer.drain()

    stable = gate.backend(first, second, ok)
    gate.serve(stable)
    client = gate.client()
    assert client.request().body == b"first"
    eventually(lambda: stable.peers[0].ended, "the end of the first connection")
    assert client.request().body == b"second"
    gate.sweeps(2)
    os.kill(gate.worker.process.pid, signal.SIGSTOP)
    try:
        client.send(request("POST", "/", body=b"mine"))
        eventually(client.unread, "the request, of which the worker will hear first")
        speak.set()
        assert spoken.wait(30)
    finally:
        os.kill(gate.worker.process.pid, signal.SIGCONT)
    assert client.response().body == b"stable"
    assert len(stable.peers) == 3
    same(lambda: gate.judged(0), (3, {}))


def test_a_connection_whose_endpoint_did_not_read_the_body_is_not_used_again(gate):
    """The unsent rest of the body must not stand before the next request."""
    whole = threading.Event()

    def script(peer):
        peer.head()
        peer.send(response(body=b"early"))
        assert whole.wait(30)
        peer.drain()

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 1000)
    assert client.response("POST").body == b"early"
    whole.set()
    eventually(lambda: stable.peers[0].ended, "the upstream's end")


def test_connect_counts(gate):
    gate.serve(gate.backend())
    client = gate.client()
    for _ in range(3):
        client.request()
    same(lambda: gate.endpoint(0, layout.ENDPOINT_CONNECTED), 1)
    same(lambda: gate.endpoint(0, layout.ENDPOINT_CONNECT_FAILED), 0)
    same(lambda: gate.endpoint(0, layout.ENDPOINT_ENDED), 3)


# ---------------------------------------------------------------- connects that fail


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connect(gate, method):
    gate.serve(gate.refused())
    client = gate.client()
    for _ in range(2):
        answer = client.request(method, "/", body=b"x" if method == "POST" else b"")
        assert (answer.status, json.loads(answer.body)["reason"]) == (502, "connect")
    same(lambda: gate.judged(0), (2, {"connect": 2}))
    same(lambda: gate.code(0, 502), 2)
    same(lambda: gate.endpoint(0, layout.ENDPOINT_CONNECT_FAILED), 2)
    same(lambda: gate.endpoint(0, layout.ENDPOINT_BAD), 2)
    same(lambda: gate.in_flight(0), 0)


def test_a_connect_that_takes_too_long(gate):
    gate.serve(gate.deaf(), timeouts=patient(connect_s=0.1))
    answer = gate.client().request()
    assert (answer.status, json.loads(answer.body)["reason"]) == (504, "timeout")
    same(lambda: gate.judged(0), (1, {"connect": 1}))
    same(lambda: gate.endpoint(0, layout.ENDPOINT_CONNECT_FAILED), 1)
    same(lambda: gate.code(0, 504), 1)


def test_a_client_that_leaves_while_connecting(gate):
    gate.serve(gate.deaf())
    client = gate.client()
    client.send(request())
    same(lambda: gate.in_flight(0), 1)
    client.close()
    same(gate.aborts, 1)
    gate.finished(0)
    same(lambda: gate.code(0, 499), 1)
    same(lambda: gate.judged(0), (0, {}))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_endpoint_of_the_version_takes_over(gate, method):
    stable = gate.backend()
    gate.serve([gate.refused(), stable])
    client = gate.client()
    began = time.monotonic()
    for _ in range(20):
        assert client.request(method, "/", body=b"x" * 1000 if method == "POST" else b"").status == 200
    # Two seconds long the endpoint that refused is not asked again.
    same(lambda: gate.ended(0) - gate.bad(0).get("connect", 0), 20)
    assert set(gate.bad(0)) <= {"connect"}
    took_s = time.monotonic() - began
    assert gate.bad(0).get("connect", 0) <= 2 + took_s  # drawn anew at each request, it would be asked ten times
    assert all(len(one.body) == (1000 if method == "POST" else 0) for one in stable.requests)


def test_no_other_endpoint_takes_over_when_it_must_not_be_used(gate):
    stable = gate.backend()
    gate.serve([gate.refused(), stable])
    gate.set_state(0, layout.ENDPOINT_MAINTENANCE, 1)
    assert gate.client().request().status == 502
    assert stable.peers == []


@pytest.mark.slow
def test_another_endpoint_of_new_is_not_tried_after_the_gate_was_shut(gate):
    """The connect took its time: what was decided before it no longer holds."""
    new = gate.backend(name="new")
    gate.serve(gate.backend(), [gate.deaf(), new], weight=10_000, timeouts=patient(connect_s=1.0), failover=NEVER)
    client = gate.client()
    gate.set_state(1, layout.ENDPOINT_DRAIN, 0)
    assert client.request().body == b"new"
    gate.set_state(1, layout.ENDPOINT_READY, 0)
    gate.set_state(1, layout.ENDPOINT_DRAIN, 1)
    client.send(request())
    same(lambda: gate.in_flight(1), 1)
    gate.set_state(1, layout.ENDPOINT_READY, 1)
    gate.worker.set_weight(0)
    assert client.response().body == b"stable"
    assert len(new.requests) == 1
    same(lambda: gate.judged(1), (2, {"connect": 1}))


def test_every_endpoint_refuses(gate):
    gate.serve([gate.refused(), gate.refused()])
    answer = gate.client().request()
    assert answer.status == 502
    same(lambda: gate.judged(0), (2, {"connect": 2}))


# ---------------------------------------------------------------- failover


def breaks(how):
    return lambda peer: (peer.request(), getattr(peer, how)())


def hangs(peer):
    peer.request()
    peer.drain()


CAUSES = {
    "5xx": ("status", fails(503)),
    "reset": ("reset", breaks("reset")),
    "closed": ("reset", breaks("close")),
    "timeout": ("timeout", hangs),
    "connect": ("connect", None),
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "POST"])
def test_stable_answers_for_new(gate, cause, method):
    kind, script = CAUSES[cause]
    stable = gate.backend()
    new = gate.backend(script) if script else gate.refused()
    gate.serve(stable, new, weight=10_000, timeouts=patient(first_byte_s=0.8) if cause == "timeout" else patient())
    client = gate.client()
    answer = client.request(method, "/x")
    rescued = method in {"GET", "HEAD", "OPTIONS"}
    same(lambda: gate.judged(1), (1, {kind: 1}))
    assert answer.get("x-tidegate-version") == ("stable" if rescued else "new" if cause == "5xx" else None)
    if rescued:
        assert answer.status == 200
        same(lambda: gate.judged(0), (1, {}))
        same(gate.failovers, {"rescued": 1})
        same(lambda: gate.assigned(0), {"failover": 1})
        same(lambda: gate.worker.count(1, layout.VERSION_RESCUED), 1)
        assert [one.target for one in stable.requests] == ["/x"]
    else:
        assert answer.status == {"5xx": 503, "timeout": 504}.get(cause, 502)
        same(lambda: gate.judged(0), (0, {}))
        same(gate.failovers, {})
    assert client.request("OPTIONS", "/y").status in {200, 502, 503, 504}


def test_idempotent_methods_fail_over_where_that_is_wanted(gate):
    stable = gate.backend()
    gate.serve(stable, gate.backend(fails()), weight=10_000, failover=IDEMPOTENT)
    client = gate.client()
    assert client.request("DELETE").status == 200
    assert client.request("PUT", "/", body=b"x" * 64 * 1024).status == 200
    assert stable.requests[-1].body == b"x" * 64 * 1024
    assert client.request("PUT", "/", body=b"x" * (64 * 1024 + 1)).status == 500
    assert client.request("POST", "/", body=b"x").status == 500
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n")
    assert client.response().status == 200
    assert (stable.requests[-1].body, stable.requests[-1].trailers) == (b"abc", [("X-T", "1")])
    same(gate.failovers, {"rescued": 3})


def test_never_means_never(gate):
    gate.serve(gate.backend(), gate.backend(fails()), weight=10_000, failover=NEVER)
    answer = gate.client().request()
    assert (answer.status, answer.body) == (500, b"bad")


def test_only_the_causes_that_are_named(gate):
    stable = gate.backend()
    new = gate.backend(fails(), breaks("reset"))
    gate.serve(stable, new, weight=10_000, failover=Failover("safe", when=("reset",)))
    assert gate.client().request().status == 500
    same(lambda: gate.endpoint(1, layout.ENDPOINT_POOL_IDLE), 1)
    gate.serve(stable, gate.backend(breaks("reset")), weight=10_000, failover=Failover("safe", when=("reset",)))
    assert gate.client().request().status == 200


@pytest.mark.parametrize("status", [501, 505])
def test_what_the_request_is_does_not_fail_over(gate, status):
    stable = gate.backend()
    gate.serve(stable, gate.backend(fails(status)), weight=10_000)
    assert gate.client().request().status == status
    assert stable.requests == []
    same(lambda: gate.judged(1), (1, {"status": 1}))


def test_no_failover_after_the_head_was_passed_on(gate):
    stable = gate.backend()
    part = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    gate.serve(stable, gate.backend(lambda peer: (peer.request(), peer.send(part), peer.close())), weight=10_000)
    client = gate.client()
    client.send(request())
    assert client.head().get("x-tidegate-version") == "new"
    client.drain()
    assert stable.requests == []
    same(lambda: gate.judged(1), (1, {"reset": 1}))
    same(gate.failovers, {})


def test_no_failover_before_all_of_the_body_is_there(gate):
    stable = gate.backend()
    new = gate.backend(lambda peer: (peer.head(), peer.send(response(500, body=b"bad")), peer.drain()))
    gate.serve(stable, new, weight=10_000, failover=IDEMPOTENT)
    client = gate.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    assert client.response("PUT").status == 500
    assert stable.requests == []


def test_a_request_fails_over_once(gate):
    stable = gate.backend(fails(503))
    new = gate.backend(fails(500))
    gate.serve(stable, new, weight=10_000)
    client = gate.client()
    answer = client.request()
    assert (answer.status, answer.get("x-tidegate-version")) == (503, "stable")
    assert (len(stable.requests), len(new.requests)) == (1, 1)
    same(gate.failovers, {"failed": 1})
    same(lambda: gate.judged(0), (1, {"status": 1}))


def test_no_failover_to_a_stable_that_must_not_be_used(gate):
    stable = gate.backend()
    gate.serve(stable, gate.backend(fails()), weight=10_000)
    gate.set_state(0, layout.ENDPOINT_MAINTENANCE)
    assert gate.client().request().status == 500
    assert stable.peers == []
    same(gate.failovers, {})


def test_the_budget(gate):
    gate.alone()
    release = threading.Event()

    def slow(peer):
        while True:
            peer.request()
            assert release.wait(30)
            peer.send(response(body=b"stable"))

    stable = gate.backend(slow)
    gate.serve(stable, gate.backend(fails()), weight=10_000, failover=Failover(budget=0.0))
    rescued = [gate.client() for _ in range(3)]
    for client in rescued:
        client.send(request())
    eventually(lambda: len(stable.requests) == 3, "three requests being rescued")
    assert gate.client().request().status == 500
    same(gate.failovers, {"over_budget": 1})
    release.set()
    assert [client.response().status for client in rescued] == [200, 200, 200]
    same(gate.failovers, {"over_budget": 1, "rescued": 3})
    assert rescued[0].request().status == 200


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"


@pytest.mark.parametrize("first", [SWITCH, EVENTS])
def test_what_lasts_makes_the_budget_no_larger(gate, release, first):
    gate.alone()

    def script(peer):
        while True:
            if peer.request().target == "/lasts":
                peer.send(first)
                peer.drain()
                peer.close()
                return
            assert release.wait(30)
            peer.send(response())

    stable = gate.backend(script)
    gate.serve(stable, gate.backend(fails()), weight=10_000, failover=Failover(budget=0.2), override=OVERRIDE)
    lasting = [gate.client() for _ in range(40)]
    for client in lasting:
        client.send(request("GET", "/lasts", "X-Version: stable", *ASK))
        assert client.head().status in {101, 200}
    rescued = [gate.client() for _ in range(3)]
    for client in rescued:
        client.send(request())
    eventually(lambda: len(stable.requests) == 43, "three requests being rescued")
    assert gate.client().request().status == 500
    same(gate.failovers, {"over_budget": 1})
    for client in lasting:
        client.close()
    same(lambda: gate.in_flight(0), 3)
    busy = [gate.client() for _ in range(40)]
    for client in busy:
        client.send(request("GET", "/", "X-Version: stable"))
    eventually(lambda: len(stable.requests) == 83, "requests in flight")
    client = gate.client()
    client.send(request())
    eventually(lambda: len(stable.requests) == 84, "one more rescue")
    release.set()
    assert client.response().status == 200


@pytest.mark.parametrize("end", ["upgrade", "events", "abort", "cut", "refuse"])
def test_the_budget_gets_back_what_a_rescue_took(gate, end):
    """However it ends, a rescue is no longer under way then."""

    gate.alone()

    def script(peer):
        message = peer.request()
        if message.target == "/fine":
            peer.send(response(body=b"fine"))
        elif end == "upgrade":
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        elif end == "events":
            peer.send(EVENTS)
        elif end == "cut":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        if end not in {"cut", "refuse"} or message.target == "/fine":
            peer.drain()
        peer.close()

    stable = gate.backend(script)
    gate.serve(stable, gate.backend(fails()), weight=10_000, failover=Failover(budget=0.0))
    for number in range(4):
        client = gate.client()
        client.send(request("GET", "/", "Connection: upgrade", "Upgrade: x"))
        if end == "upgrade":
            assert client.response().status == 101
        elif end == "refuse":
            assert client.response().status == 502
        elif end == "events":
            assert client.head().status == 200
            continue  # it lasts, and is no rescue under way any more
        elif end == "cut":
            client.head()
            client.drain()
        else:
            eventually(lambda seen=number: len(stable.requests) == seen + 1, "the rescue")
        client.close()
    if end != "events":
        gate.finished(0)
    assert gate.client().request("GET", "/fine").body == b"fine"
    same(lambda: sum(gate.failovers().values()), 5)
    assert "over_budget" not in gate.failovers()


# ---------------------------------------------------------------- endpoint states and balance


def test_the_balance_knows_what_came_before_a_reload(gate, release):
    busy, idle = gate.backend(holding(release)), gate.backend(name="idle")
    gate.serve(busy)
    held = [gate.client() for _ in range(5)]
    for client in held:
        client.send(request())
    eventually(lambda: len(busy.requests) == 5, "requests in flight")
    gate.serve([busy, idle])
    client = gate.client()
    assert {client.request().body for _ in range(20)} == {b"idle"}
    release.set()
    assert [client.response().status for client in held] == [200] * 5


@pytest.mark.parametrize(
    "state",
    [layout.ENDPOINT_DRAIN, layout.ENDPOINT_MAINTENANCE, layout.ENDPOINT_DOWN, layout.ENDPOINT_EJECTED],
)
def test_new_without_a_ready_endpoint_is_answered_by_stable_and_charged(gate, state):
    new = gate.backend(name="new")
    gate.serve(gate.backend(), new, weight=10_000)
    client = gate.client()
    assert client.request().body == b"new"
    gate.set_state(1, state)
    assert client.request("POST", "/", body=b"x").body == b"stable"
    same(lambda: gate.judged(1), (1, {"diverted": 1}))
    same(lambda: gate.assigned(1), {"random": 1, "diverted": 1})
    same(lambda: gate.judged(0), (1, {}))
    gate.set_state(1, layout.ENDPOINT_READY)
    assert client.request().body == b"new"


def lacking(percent):
    """Return the control word of an endpoint in its slow start."""
    return layout.ENDPOINT_READY | percent * 100 << layout.ENDPOINT_LACKS_SHIFT


def test_an_endpoint_in_its_slow_start_gets_its_part_of_the_requests(gate):
    several = [gate.backend() for _ in range(3)]
    gate.serve(several)
    client = gate.client()
    gate.set_state(0, lacking(80), index=1)
    for _ in range(900):
        client.request()
    counts = [len(backend.requests) for backend in several]
    # Without anything in flight each of those that take part is as likely as another: 7, 1 and 7 of 15.
    assert 30 < counts[1] < 100
    assert min(counts[0], counts[2]) > 350
    # Where the others are out, it is all there is.
    gate.set_state(0, layout.ENDPOINT_DOWN, index=0)
    gate.set_state(0, layout.ENDPOINT_EJECTED, index=2)
    for _ in range(50):
        client.request()
    assert len(several[1].requests) == counts[1] + 50
    # Of several, in proportion.
    gate.set_state(0, lacking(90), index=0)
    gate.set_state(0, lacking(20), index=1)
    before = [len(backend.requests) for backend in several]
    for _ in range(400):
        client.request()
    assert len(several[2].requests) == before[2]
    assert 5 < len(several[0].requests) - before[0] < 60


def test_the_watchdog_takes_a_stable_in_its_slow_start_for_one_that_serves(gate):
    new = gate.backend(name="new")
    gate.serve([gate.backend(), gate.backend(name="returning")], new, weight=10_000, watchdog_s=0.2)
    gate.set_state(0, layout.ENDPOINT_DOWN)
    gate.set_state(0, lacking(50), index=1)
    gate.worker.stop_beating()
    try:
        same(lambda: gate.worker.row(layout.ROW_STABLE_ONLY), 1)
        assert gate.client().request().body == b"returning"
    finally:
        gate.worker.beat_again()


def test_stable_without_a_ready_endpoint(gate):
    new = gate.backend(name="new")
    gate.serve(gate.backend(), new)
    gate.set_state(0, layout.ENDPOINT_DRAIN)
    client = gate.client()
    answer = client.request()
    assert (answer.status, answer.get("Retry-After")) == (503, "1")
    assert json.loads(answer.body)["reason"] == "no_endpoint"
    same(lambda: gate.judged(0), (0, {}))
    gate.serve(gate.backend(), new, fallback_to_new=True)
    gate.set_state(0, layout.ENDPOINT_DRAIN)
    assert [client.request().body for _ in range(3)] == [b"new"] * 3


@pytest.mark.slow
def test_two_endpoints_share_the_load(gate):
    one, other = gate.backend(), gate.backend()
    gate.serve([one, other])
    client = gate.client()
    for _ in range(200):
        client.request()
    assert len(one.requests) + len(other.requests) == 200
    assert min(len(one.requests), len(other.requests)) > 50


def test_a_busy_endpoint_gets_less(gate):
    release = threading.Event()

    def stuck(peer):
        peer.request()
        release.wait(30)
        peer.send(response())
        peer.drain()

    busy, free = gate.backend(stuck), gate.backend()
    gate.serve([busy, free])
    client = gate.client()
    gate.set_state(0, layout.ENDPOINT_DRAIN, 1)
    waiting = gate.client()
    waiting.send(request())
    eventually(lambda: busy.requests, "a request in flight")
    gate.set_state(0, layout.ENDPOINT_READY, 1)
    for _ in range(50):
        assert client.request().body == b"stable"
    assert len(busy.requests) == 1
    release.set()
    assert waiting.response().status == 200


# ---------------------------------------------------------------- where endpoints may live


def test_a_unix_socket(gate, tmp_path):
    stable = gate.backend(unix=str(tmp_path / "backend.sock"))
    gate.serve(stable)
    client = gate.client()
    assert [client.request().status for _ in range(3)] == [200] * 3
    assert len(stable.peers) == 1


def test_a_unix_socket_that_is_not_there(gate, tmp_path):
    stable = gate.backend(unix=str(tmp_path / "backend.sock"))
    gate.serve(stable)
    client = gate.client()
    client.request()
    gate.backends.remove(stable)
    stable.close()
    assert client.request().status == 502
    same(lambda: gate.judged(0), (2, {"connect": 1}))


def test_ipv6(gate):
    stable = gate.backend(host="::1")
    gate.serve(stable, host="endpoint")
    assert gate.client().request().status == 200
    assert stable.requests[0].get("Host") == f"[::1]:{stable.endpoint.port}"


def test_a_name_that_does_not_resolve(gate):
    from proxy.routing.table import Endpoint

    gate.serve(Endpoint("http://nowhere.invalid:80", "nowhere.invalid", 80))
    assert gate.client().request().status in {502, 504}
    same(lambda: gate.judged(0), (1, {"connect": 1}))
