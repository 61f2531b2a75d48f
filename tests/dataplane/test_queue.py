"""Limits of what is in flight: who waits, in which order, for how long, and what becomes of them."""

from __future__ import annotations

import threading

import pytest

from proxy.dataplane.queue import share
from proxy.ipc import layout
from proxy.metrics import hdr
from proxy.routing.table import Failover, InFlight, Override
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import Ended, answers, holding, request, response

ONE = InFlight(version=1, wait_s=30.0)


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
@pytest.mark.parametrize("limit", [1, 2, 5, 100, 128])
def test_shares_add_up_to_the_limit(limit, slots):
    shares = [share(limit, slot, slots, 0) for slot in range(slots)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


def test_a_limit_below_the_number_of_workers_leaves_one_to_each():
    assert [share(2, slot, 4, 1) for slot in range(4)] == [1, 1, 1, 1]


class Stage:
    """A backend that answers one request for every `step`."""

    def __init__(self, gate, name="stable"):
        self.steps = threading.Semaphore(0)
        self.targets = []
        self.backend = gate.backend(self._script, name=name)

    def _script(self, peer):
        while True:
            got = peer.request()
            self.targets.append(got.target)
            assert self.steps.acquire(timeout=30)
            peer.send(response(body=got.target.encode()))

    def step(self):
        self.steps.release()

    def has(self, *targets):
        same(lambda: self.targets, list(targets))


@pytest.fixture
def stage(gate):
    made = []

    def make(name="stable"):
        made.append(Stage(gate, name))
        return made[-1]

    yield make
    for one in made:
        one.steps.release(100)


def queued(gate, version=0):
    return gate.worker.count(version, layout.VERSION_QUEUED)


def ask(gate, target):
    """Send a request and leave it in the air."""
    client = gate.client()
    client.send(request("GET", target))
    return client


def ask_all(gate, *targets, version=0):
    """Send requests one after the other, each when the one before waits."""
    clients = []
    begin = queued(gate, version)
    for number, target in enumerate(targets, 1):
        clients.append(ask(gate, target))
        same(lambda number=number: queued(gate, version), begin + number)
    return clients


def test_what_is_above_the_limit_waits_and_goes_on_in_order(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    others = ask_all(gate, "/2", "/3", "/4")
    assert gate.in_flight(0) == 1
    for number, client in enumerate([first, *others], 1):
        one.has(*(f"/{place}" for place in range(1, number + 1)))
        one.step()
        assert client.response().body == b"/%d" % number
    gate.finished(0)
    assert gate.judged(0) == (4, {})
    assert queued(gate) == 0
    assert gate.local_replies() == {}


@pytest.mark.slow
def test_waiting_is_the_users_time_and_not_the_versions(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    (second,) = ask_all(gate, "/2")
    threading.Event().wait(1.6)
    one.step()
    assert first.response().status == 200
    one.has("/1", "/2")
    one.step()
    assert second.response().status == 200
    gate.finished(0)
    assert sorted(us >= 1_500_000 for us in gate.latencies(0)) == [False, True]
    at = layout.SERVICE_USER_HDR
    waited = {index: gate.worker.service_count(at + index) for index in range(layout.HDR_COUNTS)}
    assert sum(waited.values()) == 2
    assert min(hdr.lowest(index) for index, count in waited.items() if count) >= 1_500_000


@pytest.mark.slow
def test_the_total_time_that_the_queue_has_taken_is_not_charged(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    # In the same queue, but with a time of its own.
    gate.serve(one.backend, in_flight=ONE, timeouts=patient(total_s=4.0))
    (second,) = ask_all(gate, "/2")
    threading.Event().wait(2.2)  # more than half of it
    one.step()
    assert first.response().status == 200
    one.has("/1", "/2")
    assert second.response().status == 504
    assert gate.judged(0) == (0, {})
    assert gate.code(0, 504) == 1
    assert gate.latencies(0) == []


def test_the_total_time_ends_the_waiting_too(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    gate.serve(one.backend, in_flight=ONE, timeouts=patient(total_s=0.2))
    answer = gate.client().request("GET", "/2")
    assert (answer.status, answer.get("Retry-After")) == (503, "1")
    same(gate.local_replies, {(503, "overload"): 1})
    assert gate.judged(0) == (0, {})
    one.step()
    assert first.response().status == 200


@pytest.mark.slow
def test_the_total_time_that_a_version_has_taken_itself_is_charged_behind_a_queue_too(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    gate.serve(one.backend, in_flight=ONE, timeouts=patient(total_s=4.0))
    (second,) = ask_all(gate, "/2")
    one.step()
    assert first.response().status == 200
    one.has("/1", "/2")
    assert second.response().status == 504
    same(lambda: gate.judged(0), (1, {"timeout": 1}))


def test_a_full_queue_turns_away_at_once(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=InFlight(version=1, queue=1, wait_s=30.0))
    ask(gate, "/1")
    one.has("/1")
    ask_all(gate, "/2")
    answer = gate.client().request("GET", "/3")
    assert (answer.status, answer.get("Retry-After")) == (503, "1")
    assert b'"reason": "overload"' in answer.body
    same(gate.local_replies, {(503, "overload"): 1})
    assert gate.judged(0) == (0, {})
    assert gate.code(0, 503) == 0


def test_no_queue(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=InFlight(version=1, queue=0))
    ask(gate, "/1")
    one.has("/1")
    assert gate.client().request("GET", "/2").status == 503


def test_whoever_waited_for_too_long_is_turned_away(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=InFlight(version=1, wait_s=0.1))
    first = ask(gate, "/1")
    one.has("/1")
    client = gate.client()
    answer = client.request("GET", "/2")
    assert (answer.status, answer.get("Retry-After")) == (503, "1")
    one.step()
    assert first.response().status == 200
    one.step()
    assert client.request("GET", "/3").body == b"/3"  # the connection goes on
    assert gate.judged(0)[1] == {}


def test_the_limit_of_an_endpoint_fills_the_other_one(gate, stage):
    one, other = stage("one"), stage("other")
    gate.serve([one.backend, other.backend], in_flight=InFlight(endpoint=2, wait_s=30.0))
    for number in range(4):
        ask(gate, f"/{number}")
    same(lambda: (len(one.targets), len(other.targets)), (2, 2))
    (waits,) = ask_all(gate, "/4")
    other.step()
    same(lambda: (len(one.targets), len(other.targets)), (2, 3))
    other.step()
    other.step()
    assert waits.response().body == b"/4"


def test_a_limit_holds_across_a_reload(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    (second,) = ask_all(gate, "/2")
    gate.serve(one.backend, in_flight=ONE)
    third = ask(gate, "/3")
    same(lambda: queued(gate), 1)
    for number, client in enumerate([first, second, third], 1):
        one.step()
        assert client.response().body == b"/%d" % number
    assert one.targets == ["/1", "/2", "/3"]
    gate.worker.expect("released", generation=gate.worker.generation - 1)


def test_a_reload_without_limits_leaves_nobody_behind(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    (second,) = ask_all(gate, "/2")
    gate.serve(one.backend)
    gate.client().send(request("GET", "/3"))
    one.has("/1", "/3")
    for _ in range(3):
        one.step()
    assert first.response().status == second.response().status == 200
    gate.worker.expect("released", generation=gate.worker.generation - 1)


def test_a_client_that_left_is_not_sent_for(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    gone, stays = ask_all(gate, "/2", "/3")
    gone.reset()
    same(lambda: queued(gate), 1)
    one.step()
    one.step()
    assert first.response().status == stays.response().status == 200
    assert one.targets == ["/1", "/3"]
    same(gate.aborts, 1)
    assert gate.judged(0)[1] == {}


def test_a_client_that_leaves_with_a_large_body_is_not_sent_for(gate, stage):
    # Its body waits unread, so that nothing but the kernel knows that it has left.
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    first = ask(gate, "/1")
    one.has("/1")
    client = gate.client()
    client.send(b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    gate.fill(client)
    same(lambda: queued(gate), 1)
    client.reset()
    one.step()
    assert first.response().status == 200
    same(gate.aborts, 1)
    assert one.targets == ["/1"]


def test_a_body_that_came_while_waiting_is_sent_whole(gate, stage):
    one = stage()
    bodies = []

    def script(peer):
        while True:
            bodies.append(peer.request().body)
            assert one.steps.acquire(timeout=30)
            peer.send(response())

    gate.serve(gate.backend(script), in_flight=ONE)
    first = ask(gate, "/1")
    same(lambda: bodies, [b""])
    client = gate.client()
    client.send(b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n", b"x" * 150_000)
    same(lambda: queued(gate), 1)
    one.step()
    assert first.response().status == 200
    client.send(b"x" * 150_000)
    one.step()
    assert client.response().status == 200
    assert bodies == [b"", b"x" * 300_000]


def test_a_malformed_body_ends_the_waiting(gate, stage):
    one = stage()
    gate.serve(one.backend, in_flight=ONE)
    ask(gate, "/1")
    one.has("/1")
    client = gate.client()
    client.send(b"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    same(lambda: queued(gate), 1)
    client.send(b"nonsense\r\n")
    assert client.response().status == 400
    same(lambda: queued(gate), 0)


# ---------------------------------------------------------------- two versions


def test_whoever_waits_for_new_goes_to_stable_after_a_rollback(gate, stage):
    stable, new = stage(), stage("new")
    gate.serve(stable.backend, new.backend, weight=10_000, in_flight=ONE)
    held = ask(gate, "/1")
    new.has("/1")
    second, third = ask_all(gate, "/2", "/3", version=1)
    gate.worker.set_weight(0)
    stable.has("/2")
    same(lambda: queued(gate), 1)  # and stable has its own limit
    assert queued(gate, 1) == 0
    stable.step()
    stable.step()
    assert second.response().get("x-tidegate-version") == third.response().get("x-tidegate-version") == "stable"
    new.step()
    assert held.response().get("x-tidegate-version") == "new"
    assert new.targets == ["/1"]


@pytest.mark.slow
def test_new_that_went_down_leaves_its_queue_to_stable(gate, stage):
    stable, new = stage(), stage("new")
    gate.serve(stable.backend, new.backend, weight=10_000, in_flight=ONE)
    ask(gate, "/1")
    new.has("/1")
    (waits,) = ask_all(gate, "/2", version=1)
    threading.Event().wait(1.6)
    gate.set_state(1, layout.ENDPOINT_DOWN)
    stable.step()
    assert waits.response().get("x-tidegate-version") == "stable"
    same(lambda: gate.bad(1), {"diverted": 1})
    gate.finished(0)
    assert max(gate.latencies(0)) < 1_500_000  # what it waited for `new` is not the time of `stable`


def test_a_failover_waits_for_stable_too(gate, stage):
    stable = stage()
    new = gate.backend(answers(response(500)), name="new")
    override = Override("x-version", ("127.0.0.0/8",))
    gate.serve(stable.backend, new, weight=10_000, in_flight=ONE, override=override)
    holder = gate.client()
    holder.send(request("GET", "/1", "x-version: stable"))
    stable.has("/1")
    rescued = ask(gate, "/2")
    same(lambda: queued(gate), 1)
    stable.step()
    stable.step()
    assert rescued.response().get("x-tidegate-version") == "stable"
    assert holder.response().status == 200
    same(gate.failovers, {"rescued": 1})
    assert gate.bad(1) == {"status": 1}


# ---------------------------------------------------------------- room comes back, however an attempt ends


def test_every_end_makes_room(gate, stage):
    def close(peer):
        peer.request()
        peer.reset()

    def half(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        peer.reset()

    def junk(peer):
        peer.request()
        peer.send(b"junk\r\n\r\n")

    def silent(peer):
        peer.request()
        peer.end()

    def switch(peer):
        peer.request()
        peer.send(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        peer.until(b"bye")

    backend = gate.backend(close, half, junk, silent, switch, answers(response()))
    gate.serve(backend, in_flight=ONE, timeouts=patient(first_byte_s=1.0), failover=Failover("never"))
    assert gate.client().request().status == 502
    with pytest.raises(Ended):
        gate.client().request()
    assert gate.client().request().status == 502
    assert gate.client().request().status == 504
    tunnel = gate.client()
    assert tunnel.request("GET", "/", "Connection: upgrade", "Upgrade: x").status == 101
    (waits,) = ask_all(gate, "/waits")
    tunnel.send(b"bye")
    tunnel.reset()
    assert waits.response().status == 200
    assert gate.client().request().status == 200


def test_a_repeated_attempt_keeps_its_room(gate, stage):
    # The endpoint closes an idle connection just as it is used: the request goes once more, before those who wait.
    one = stage()
    begun = threading.Event()
    go_on = threading.Event()

    def once(peer):
        peer.request()
        peer.send(response())
        peer.request()
        begun.set()
        assert go_on.wait(30)
        peer.reset()

    backend = gate.backend(once, one._script)
    gate.serve(backend, in_flight=ONE)
    client = gate.client()
    assert client.request().status == 200
    client.send(request("GET", "/again"))
    assert begun.wait(30)
    (waits,) = ask_all(gate, "/waits")
    go_on.set()
    one.has("/again")
    one.step()
    assert client.response().status == 200
    one.step()
    assert waits.response().status == 200
    same(lambda: gate.retries(0), {"ok": 1})


def test_a_drain_answers_whoever_waits(lone, stage):
    steps = threading.Semaphore(0)

    def script(peer):
        while True:
            peer.request()
            assert steps.acquire(timeout=30)
            peer.send(response())

    lone.serve(lone.backend(script), in_flight=ONE)
    first = ask(lone, "/1")
    same(lambda: lone.in_flight(0), 1)
    (second,) = ask_all(lone, "/2")
    lone.worker.say({"type": "drain", "delay_s": 0.0, "timeout_s": 30.0})
    lone.sweeps(3)
    steps.release(2)
    assert first.response().get("Connection") == second.response().get("Connection") == "close"
    eventually(lambda: lone.worker.process.poll() == 0)


# ---------------------------------------------------------------- no amplification


def test_a_failing_new_in_an_overload_does_not_multiply_requests(gate, stage):
    """All of `new` fails at once: rescues stay within their budget, the other clients get the failure."""
    gate.alone()
    fail_now = threading.Event()
    stable = stage()
    new = gate.backend(holding(fail_now, then=response(500)), name="new")
    gate.serve(stable.backend, new, weight=10_000, in_flight=InFlight(version=40, wait_s=30.0))
    clients = [ask(gate, f"/{number}") for number in range(30)]
    same(lambda: gate.in_flight(1), 30)
    fail_now.set()
    same(lambda: gate.failovers().get("over_budget", 0) + len(stable.targets), 30)
    assert len(new.requests) == 30
    assert 3 <= len(stable.targets) <= 6  # a fifth of what was in flight
    for _ in stable.targets:
        stable.step()
    assert sorted({client.response().status for client in clients}) == [200, 500]
    same(lambda: gate.failovers().get("rescued"), len(stable.targets))


def test_an_endpoint_that_breaks_every_connection_gets_no_request_more_than_twice(gate):
    """What failed on a used connection is made again once, on a fresh one: each of them costs a used connection."""
    served = []

    def breaks(peer):
        peer.request()
        served.append(1)
        peer.send(response())
        peer.request()
        served.append(1)
        peer.reset()

    gate.serve(gate.backend(breaks), in_flight=InFlight(version=4, wait_s=30.0))
    client = gate.client()
    statuses = [client.request().status for _ in range(20)]
    assert set(statuses) == {200}
    assert len(served) <= 2 * len(statuses)
    same(lambda: gate.retries(0), {"ok": len(served) - len(statuses)})
