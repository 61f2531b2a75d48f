"""What lasts on `new` and its end after a rollback: tunnels and event streams (`on_rollback`)."""

from __future__ import annotations

import threading

import pytest

from proxy.ipc import layout
from proxy.routing.table import Override
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import Ended, request, response

ASK = ("Connection: Upgrade", "Upgrade: foo")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
OVERRIDE = Override("x-version", ("127.0.0.1/32",))
FULL = 10_000


def lasting(peer):
    """Switch, stream, or answer, as asked."""
    while True:
        message = peer.request()
        if message.get("Upgrade"):
            peer.send(SWITCH)
            while True:
                peer.more()
                data, peer.buffer = peer.buffer, b""
                peer.send(data)
        if message.target == "/events":
            peer.send(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n6\r\ndata: \r\n")
            peer.drain()
            raise Ended("eof")
        peer.send(response(body=peer.backend.name.encode()))


def both(gate, *scripts, weight=FULL, **fields):
    fields.setdefault("close_tunnels_s", 0.0)
    stable, new = gate.backend(lasting), gate.backend(*(scripts or (lasting,)), name="new")
    gate.serve(stable, new, weight=weight, **fields)
    return stable, new


def tunnel(gate, *lines):
    client = gate.client()
    client.send(request("GET", "/chat", *ASK, *lines))
    assert client.response().status == 101
    return client


def events(gate, *lines):
    client = gate.client()
    client.send(request("GET", "/events", *lines))
    head = client.head()
    assert head.status == 200
    assert client.exactly(11) == b"6\r\ndata: \r\n"
    return client


def roll_back(gate):
    """As the supervisor does: the weight first, then the word that says so."""
    table, control, _ = gate.worker.segments[gate.worker.generation]
    at = layout.control_layout(table).services[0]
    control.words[at + layout.CONTROL_WEIGHT] = 0
    control.words[at + layout.CONTROL_ROLLBACKS] += 1


def alive(client):
    client.send(b"ping")
    return client.exactly(4) == b"ping"


def test_a_rollback_closes_tunnels_on_new(gate):
    both(gate)
    client = tunnel(gate)
    same(lambda: gate.worker.count(1, layout.VERSION_TUNNELS), 1)
    roll_back(gate)
    assert client.end() == "eof"
    gate.finished(1)
    assert gate.worker.count(1, layout.VERSION_TUNNELS) == 0
    again = tunnel(gate)
    assert alive(again)
    same(lambda: gate.in_flight(0), 1)


def test_a_rollback_ends_event_streams_on_new_in_good_order(gate):
    """The body ends as HTTP wants it, and the connection goes on: to stable."""
    _, new = both(gate)
    client = events(gate)
    roll_back(gate)
    assert client.exactly(5) == b"0\r\n\r\n"
    gate.finished(1)
    assert client.request().body == b"stable"
    eventually(lambda: new.peers[0].ended, "the endpoint's side")
    same(lambda: gate.judged(1), (1, {}))
    same(gate.aborts, 0)


def test_a_stream_to_an_old_client_ends_with_its_connection(gate):
    both(gate)
    client = gate.client()
    client.send(request("GET", "/events", version="1.0"))
    assert client.head().status == 200
    assert client.exactly(6) == b"data: "
    roll_back(gate)
    assert client.end() == "eof"


def test_a_stream_with_a_length_is_broken_off(gate):
    """Nobody may take what came of it for the whole."""

    def script(peer):
        peer.request()
        peer.send(EVENTS + b"Content-Length: 100\r\n\r\ndata: ")
        peer.drain()

    both(gate, script)
    client = gate.client()
    client.send(request("GET", "/events"))
    assert client.head().status == 200
    assert client.exactly(6) == b"data: "
    roll_back(gate)
    assert client.end() == "eof"
    gate.finished(1)


def test_other_answers_are_finished(gate, release):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        assert release.wait(30)
        peer.send(b"half")

    both(gate, script)
    client = gate.client()
    client.send(request())
    assert client.head().status == 200
    roll_back(gate)
    gate.sweeps(4)
    release.set()
    assert client.exactly(8) == b"halfhalf"


@pytest.mark.slow
def test_it_is_spread_over_the_time(gate):
    both(gate, close_tunnels_s=2.0)
    clients = [tunnel(gate) for _ in range(24)]
    ends = []

    def wait(client):
        client.end()
        ends.append(gate.worker.row(layout.ROW_BEAT))

    threads = [threading.Thread(target=wait, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    roll_back(gate)
    for thread in threads:
        thread.join(30)
    assert len(ends) == 24
    assert len(set(ends)) > 4  # 24 in one of five parts of the time: 1 in 10^14


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lowered", "silent", "kept", "shut without word"])
def test_what_is_no_rollback_closes_nothing(gate, what):
    both(gate, close_tunnels_s=None if what == "kept" else 0.0, watchdog_s=2.0 if what == "silent" else 60.0)
    client, stream = tunnel(gate), events(gate)
    if what == "lowered":
        gate.worker.set_weight(1)
    elif what == "silent":
        gate.worker.stop_beating()
        same(lambda: gate.worker.row(layout.ROW_STABLE_ONLY), 1)
        assert gate.client().request().body == b"stable"
    elif what == "kept":
        roll_back(gate)
    else:
        gate.worker.set_weight(0)  # an old generation, in which `new` is another version by now
    gate.sweeps(4)
    if what == "silent":
        gate.worker.beat_again()
    assert alive(client)
    assert not stream.buffer
    assert gate.in_flight(1) == 2


def test_stable_and_overrides_are_left_alone(gate):
    both(gate, weight=1, override=OVERRIDE)
    overridden = tunnel(gate, "X-Version: new")
    on_stable = tunnel(gate, "X-Version: stable")
    roll_back(gate)
    gate.sweeps(4)
    assert alive(overridden)
    assert alive(on_stable)


def test_a_handshake_that_a_rollback_overtakes_is_closed_too(gate, release):
    def script(peer):
        peer.request()
        assert release.wait(30)
        peer.send(SWITCH)
        peer.drain()

    _, new = both(gate, script)
    client = gate.client()
    client.send(request("GET", "/chat", *ASK))
    eventually(lambda: new.requests, "the handshake")
    roll_back(gate)
    gate.sweeps(3)
    release.set()
    assert client.response().status == 101
    assert client.end() == "eof"


def test_a_rollback_reaches_what_began_in_an_older_generation(gate):
    stable, new = both(gate)
    client = tunnel(gate)
    old = gate.worker.generation
    gate.serve(stable, new, weight=FULL, close_tunnels_s=0.0)
    gate.sweeps(2)
    table, control, _ = gate.worker.segments[old]
    control.words[layout.control_layout(table).services[0] + layout.CONTROL_ROLLBACKS] += 1
    assert client.end() == "eof"


@pytest.mark.slow
def test_streams_that_ended_by_themselves_are_forgotten(gate):
    """And whoever came after the rollback, by an order for instance, is asked no more than the next one."""
    both(gate)
    events(gate).close()
    gate.finished(1)
    gate.sweeps(25)
    client = tunnel(gate)
    roll_back(gate)
    assert client.end() == "eof"
