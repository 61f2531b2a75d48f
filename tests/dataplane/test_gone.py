"""Clients that leave, by FIN or by RST: whatever the phase, the endpoint hears of it.

How soon is measured by `python -m loadtests.reach gone`.
"""

from __future__ import annotations

import contextlib
import socket
from errno import ECONNRESET

import pytest

from proxy.ipc import layout
from proxy.routing.table import RequestLimits, RoutingTable
from tests.dataplane.conftest import Gate, patient
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.wire import request, response

ESTABLISHED = 1
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"


def leave(client, how):
    if how == "RST":
        client.reset()
    else:
        client.close()


def seen(peer):
    """Whether the endpoint's kernel has heard of the end, whatever the endpoint reads."""
    return peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED


def silent(peer):
    """Take a request's head and do nothing more, not even read."""
    peer.head()


def half(peer):
    peer.head()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("phase", ["body", "waiting", "answer"])
def test_the_endpoint_hears_of_it(gate, phase, how):
    backend = gate.backend(half if phase == "answer" else silent)
    gate.serve(backend)
    client = gate.client()
    client.send(POST + b"x" * 1000 if phase == "body" else request())
    eventually(lambda: backend.requests, "the request")
    if phase == "answer":
        assert client.head().status == 200
        assert client.exactly(4) == b"half"
    leave(client, how)
    eventually(lambda: seen(backend.peers[0]), "the endpoint's side")
    gate.finished(0)
    same(gate.aborts, 1)
    assert gate.judged(0) == (0, {})


@pytest.mark.slow
@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("phase", ["stalled", "pipelined"])
def test_the_endpoint_hears_of_it_while_nobody_reads(gate, phase, how):
    """An end of the upstream connection must not wait behind bytes that the endpoint does not take."""
    backend = gate.backend(silent)
    gate.serve(backend)
    client = gate.client()
    client.send(POST if phase == "stalled" else request())
    eventually(lambda: backend.requests, "the request")
    gate.fill(client)
    leave(client, how)
    eventually(lambda: seen(backend.peers[0]), "the endpoint's side")
    gate.finished(0)
    same(gate.aborts, 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_the_endpoint_hears_of_it_when_reading_stopped_before_there_was_a_connection(gate, how):
    """The deadlines of an attempt do not put off the look at a client that nobody reads from."""
    backend = gate.backend(silent)
    gate.serve(gate.slow_to_accept(backend), timeouts=patient())
    client = gate.client()
    client.send(request())
    gate.fill(client)
    gate.accept_now(backend)
    eventually(lambda: backend.requests, "the request")
    leave(client, how)
    eventually(lambda: seen(backend.peers[0]), "the endpoint's side")
    gate.finished(0)
    same(gate.aborts, 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_the_endpoint_hears_of_it_when_much_waits_since_the_request_before(gate, how):
    """Reading goes on only when little waits: there may be many requests between."""

    def script(peer):
        peer.request()
        peer.send(response())
        peer.head()

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    client.send(request() * 7000)
    gate.fill(client)
    eventually(lambda: len(backend.requests) == 2, "the second request")
    leave(client, how)
    eventually(lambda: seen(backend.peers[0]), "the endpoint's side")
    gate.finished(0)
    same(gate.aborts, 1)


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_nothing_is_connected_for_who_has_left(gate, how):
    backend = gate.backend()
    gate.serve(gate.slow_to_accept(backend))
    client = gate.client()
    client.send(request())
    gate.sweeps(2)
    same(lambda: gate.in_flight(0), 1)
    leave(client, how)
    gate.finished(0)
    same(gate.aborts, 1)
    gate.accept_now(backend)
    gate.sweeps(4)
    assert not backend.requests
    assert gate.judged(0) == (0, {})


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_half_a_head_is_forgotten(gate, how):
    gate.alone()
    gate.serve(gate.backend())
    client = gate.client()
    client.send(b"GET / HTTP/1.1\r\nHo")
    gate.sweeps(2)
    leave(client, how)
    gate.alone()
    same(gate.aborts, 0)


@pytest.mark.slow
def test_a_client_that_takes_nothing_is_let_go_with_a_break(gate, release):
    """So that its kernel does not hold for minutes what it does not take."""

    def script(peer):
        peer.request()
        peer.send(response(body=b"x" * 30_000_000))
        assert release.wait(30)

    gate.serve(gate.backend(script), timeouts=patient(idle_s=1.0))
    client = gate.client(SO_RCVBUF=8192)
    client.send(request())
    eventually(lambda: seen(client), "the break")
    release.set()


@pytest.mark.slow
def test_a_tunnels_client_that_takes_nothing_is_let_go_with_a_break(gate, release):
    def script(peer):
        peer.head()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        with contextlib.suppress(OSError):
            peer.send(b"x" * 30_000_000)
        assert release.wait(30)

    limits = RequestLimits(body_idle_timeout_s=1.5)
    gate.serve(gate.backend(script), limits=limits, timeouts=patient(tunnel_idle_s=1.5))
    client = gate.client(SO_RCVBUF=8192)
    client.send(request("GET", "/", "Upgrade: x", "Connection: Upgrade"))
    eventually(lambda: client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ECONNRESET, "the break")
    same(lambda: gate.worker.row(layout.ROW_CONNECTIONS), 0)
    release.set()


@pytest.mark.slow
def test_a_client_of_a_unix_socket_that_leaves_while_nobody_reads(tmp_path):
    path = str(tmp_path / "front.sock")
    worker = LoneWorker(RoutingTable(()), family=socket.AF_UNIX, address=path)
    lone = Gate(worker)
    try:
        backend = lone.backend(silent)
        lone.serve(backend)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(POST)
            eventually(lambda: backend.requests, "the request")
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):  # nothing was taken for so long: nobody reads
                client.sendall(b"x" * 99_000_000)
        eventually(lambda: seen(backend.peers[0]), "the endpoint's side")
        lone.finished(0)
        same(lone.aborts, 1)
        lone.close()
    finally:
        worker.close()
