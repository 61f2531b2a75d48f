"""Upgrades: raw bytes both ways after a 101, an ordinary answer otherwise."""

from __future__ import annotations

import os
import threading

import pytest

from proxy.ipc import layout
from proxy.routing.table import AccessLog, Sticky
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import request, response

ASK = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\n"


def echo(peer):
    """Switch, then send back what comes, until the client's end; then say goodbye."""
    message = peer.request()
    assert message.get("Upgrade") == "websocket"
    assert message.get("Connection") == "upgrade"
    peer.send(SWITCH)
    while True:
        if peer.buffer:
            data, peer.buffer = peer.buffer, b""
            peer.send(data)
        try:
            peer.more()
        except Exception:
            peer.send(b"bye")
            peer.sock.close()
            raise


def open_tunnel(gate, *scripts, early=b"", **fields):
    backend = gate.backend(*scripts)
    gate.serve(backend, **fields)
    client = gate.client()
    client.send(request("GET", "/chat", *ASK) + early)
    answer = client.response()
    assert answer.status == 101
    assert answer.get("Upgrade") == "websocket"
    assert answer.get("Connection") == "upgrade"
    return backend, client


def test_bytes_pass_both_ways_and_half_close_too(gate):
    gate.alone()
    _, client = open_tunnel(gate, echo, thresholds_us=(50_000,))
    same(lambda: gate.judged(0), (1, {}))
    same(lambda: gate.code(0, 101), 1)
    for size in (1, 1000, 300_000):
        data = os.urandom(size)
        client.send(data)
        assert client.exactly(size) == data
    same(lambda: gate.worker.row(layout.ROW_TUNNELS), 1)
    same(lambda: gate.in_flight(0), 1)
    client.finish()
    assert client.rest() == b"bye"
    same(lambda: gate.worker.row(layout.ROW_TUNNELS), 0)
    gate.finished(0)
    same(gate.aborts, 0)
    same(lambda: [gate.slow(0), gate.latencies(0)], [0, []])


def test_bytes_behind_the_handshake_wait_for_the_switch(gate):
    go = threading.Event()

    def script(peer):
        peer.request()
        assert not peer.buffer
        assert go.wait(30)
        peer.send(SWITCH + b"welcome")
        peer.send(peer.exactly(5))
        peer.drain()

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    client.send(request("GET", "/chat", *ASK) + b"early")
    eventually(lambda: backend.requests, "the handshake")
    gate.sweeps(2)
    go.set()
    assert client.response().status == 101
    assert client.exactly(12) == b"welcomeearly"


def test_much_behind_the_handshake(gate):
    data = os.urandom(500_000)

    def script(peer):
        peer.request()
        peer.send(SWITCH)
        peer.send(peer.exactly(len(data)))
        peer.drain()

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    sender = threading.Thread(target=client.send, args=(request("GET", "/chat", *ASK) + data,))
    sender.start()
    assert client.response().status == 101
    assert client.exactly(len(data)) == data
    sender.join(30)


def test_the_endpoints_half_close(gate):
    def script(peer):
        peer.request()
        peer.send(SWITCH + b"last words")
        peer.finish()
        assert peer.exactly(4) == b"pong"
        assert peer.end() == "eof"

    _, client = open_tunnel(gate, script)
    assert client.rest() == b"last words"
    client.send(b"pong")
    client.close()
    gate.finished(0)


def test_nothing_is_lost_when_both_have_ended(gate):
    """The client's last megabytes are still on their way when its FIN comes behind the endpoint's."""
    size = 20_000_000
    got = []
    go = threading.Event()

    def script(peer):
        peer.request()
        peer.send(SWITCH)
        peer.finish()
        assert go.wait(30)
        got.append(len(peer.rest()))

    _, client = open_tunnel(gate, script)
    assert client.rest() == b""

    def send():
        client.send(b"x" * size)
        client.finish()

    sender = threading.Thread(target=send)
    sender.start()
    gate.sweeps(4)
    go.set()
    sender.join(30)
    eventually(lambda: got, "the end at the endpoint")
    assert got == [size]
    gate.finished(0)


@pytest.mark.slow
def test_a_slow_endpoint_and_a_client_that_has_ended(gate):
    """A FIN behind bytes that wait is no leaving."""
    got = []
    go = threading.Event()

    def script(peer):
        peer.request()
        peer.send(SWITCH)
        assert go.wait(30)
        got.append(len(peer.rest()))
        peer.send(b"thanks")
        peer.close()

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    client.send(request("GET", "/chat", *ASK))
    assert client.response().status == 101
    size = gate.fill(client)
    client.finish()
    gate.sweeps(16)  # long enough for the look at a client that is not read from
    go.set()
    assert client.rest() == b"thanks"
    assert got == [size]


@pytest.mark.slow
def test_a_client_that_breaks_off_while_the_endpoint_does_not_read(gate):
    go = threading.Event()
    backend = gate.backend(lambda peer: (peer.request(), peer.send(SWITCH), go.wait(30)))
    gate.serve(backend, half_close="allow")
    client = gate.client()
    client.send(request("GET", "/chat", *ASK))
    assert client.response().status == 101
    gate.fill(client)
    client.reset()
    gate.finished(0)
    go.set()


@pytest.mark.slow
def test_a_half_closed_tunnel_waits_for_an_endpoint_that_does_not_read(gate):
    """The worker's own FIN is not the client's end."""
    size = 12_000_000
    go = threading.Event()
    got = []

    def script(peer):
        peer.request()
        peer.send(SWITCH)
        peer.finish()
        assert go.wait(30)
        got.append(len(peer.rest()))

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(request("GET", "/chat", *ASK))
    assert client.response().status == 101
    assert client.end() == "eof"
    filled = gate.fill(client)
    gate.sweeps(25)  # the client was looked at
    sender = threading.Thread(target=lambda: (client.send(b"x" * (size - filled)), client.finish()))
    sender.start()
    go.set()
    sender.join(30)
    gate.finished(0)
    eventually(lambda: got, "the end at the endpoint")
    assert got == [size]


def test_the_end_of_either_side_ends_the_tunnel(gate):
    backend, client = open_tunnel(gate, echo, lambda peer: (peer.request(), peer.send(SWITCH), peer.reset()))
    client.reset()
    eventually(lambda: backend.peers[0].ended, "the endpoint's side")
    client = gate.client()
    client.send(request("GET", "/chat", *ASK))
    client.drain()
    gate.finished(0)


def test_a_silent_tunnel_is_closed(gate):
    _, client = open_tunnel(gate, echo, timeouts=patient(tunnel_idle_s=0.2))
    client.drain()
    gate.finished(0)


@pytest.mark.slow
def test_a_tunnel_outlives_all_other_timeouts(gate):
    fields = {"timeouts": patient(first_byte_s=1.0, idle_s=1.0, total_s=1.0)}
    _, client = open_tunnel(gate, echo, **fields)
    gate.sweeps(24)
    client.send(b"still here")
    assert client.exactly(10) == b"still here"


def test_a_tunnel_does_not_make_the_worker_hold_much(gate):
    gate.alone()
    go = threading.Event()
    size = 48 * 1024 * 1024

    def script(peer):
        peer.request()
        peer.send(SWITCH)
        peer.send(b"x" * size)
        go.wait(30)
        got.append(len(peer.rest()))

    got = []
    _, client = open_tunnel(gate, script)
    before = gate.rss()
    sender = threading.Thread(target=client.send, args=(b"y" * 10_000_000,))
    sender.start()
    gate.sweeps(4)
    assert gate.rss() - before < 8 * 1024 * 1024
    assert len(client.exactly(size)) == size
    go.set()
    sender.join(30)
    client.finish()
    eventually(lambda: got, "the end at the endpoint")
    assert got == [10_000_000]


@pytest.mark.parametrize("status", [200, 400, 426])
def test_a_refused_upgrade_is_an_ordinary_answer(gate, status):
    def script(peer):
        while True:
            peer.request()
            peer.send(response(status, body=b"no"))

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    for _ in range(2):
        answer = client.request("GET", "/chat", *ASK)
        assert (answer.status, answer.body) == (status, b"no")
    assert len(backend.peers) == 1
    same(lambda: gate.judged(0), (2, {}))


def test_what_waits_behind_a_refused_upgrade_is_a_request(gate):
    gate.serve(gate.backend())
    client = gate.client()
    client.send(request("GET", "/chat", *ASK) + request("GET", "/next"))
    assert [client.response().status for _ in range(2)] == [200, 200]


def test_tunnels_stand_in_the_access_log(gate, tmp_path):
    path = tmp_path / "access.log"
    _, client = open_tunnel(gate, echo, access_log=AccessLog(str(path)))
    client.send(b"12345")
    assert client.exactly(5) == b"12345"
    client.finish()
    client.rest()
    same(lambda: path.read_text().count('"status":101'), 1)


# ---------------------------------------------------------------- the ends, as each side sees them


def test_a_break_of_the_client_is_a_break_for_the_endpoint(gate):
    backend, client = open_tunnel(gate, echo)
    client.reset()
    eventually(lambda: backend.peers[0].ended, "the endpoint's side")
    assert backend.peers[0].ended == "reset"


def test_a_break_of_the_endpoint_is_a_break_for_the_client(gate, release):
    def script(peer):
        peer.request()
        peer.send(SWITCH)
        assert release.wait(30)
        peer.reset()

    _, client = open_tunnel(gate, script)
    release.set()
    assert client.end() == "reset"


def test_a_silent_tunnel_ends_in_good_order_on_both_sides(gate):
    """With FIN; and what the client is just sending does not destroy what it has not read yet."""
    backend, client = open_tunnel(gate, echo, timeouts=patient(tunnel_idle_s=0.2))
    gate.finished(0)
    client.send(b"on its way")
    assert client.end() == "eof"
    eventually(lambda: backend.peers[0].ended, "the endpoint's side")
    assert backend.peers[0].ended == "eof"


def test_a_minted_cookie_comes_with_the_switch(gate):
    def script(peer):
        peer.request()
        peer.send(SWITCH)
        peer.drain()

    backend = gate.backend(script)
    gate.serve(backend, gate.backend(script, name="new"), weight=5_000, sticky=Sticky(by="cookie", name="session"))
    client = gate.client()
    client.send(request("GET", "/chat", *ASK))
    answer = client.response()
    assert answer.status == 101
    cookie = answer.get("Set-Cookie").partition(";")[0]
    assert cookie.startswith("tidegate=")
    # With it every further handshake comes to the same version.
    for _ in range(5):
        other = gate.client()
        other.send(request("GET", "/chat", *ASK, f"Cookie: {cookie}"))
        again = other.response()
        assert again.get("Set-Cookie") is None
        assert again.get("x-tidegate-version") == answer.get("x-tidegate-version")


def test_a_failed_upgrade_is_charged_like_any_failure(gate):
    def breaks(peer):
        peer.request()
        peer.reset()

    gate.serve(gate.backend(breaks))
    client = gate.client()
    assert client.request("GET", "/chat", *ASK).status == 502
    same(lambda: gate.judged(0), (1, {"reset": 1}))
