"""What an attempt leaves behind for the next one of the same request."""

from __future__ import annotations

import socket

import pytest

from tests.dataplane.conftest import IDLE, Gate, patient
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.wire import Client, request, response

MIB = 1024 * 1024
ALMOST = 180 * 1024  # what the kernel takes for a unix socket, less than the interim response behind it
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"a" * 60_000 + b">\r\n\r\n"


@pytest.fixture
def unix(tmp_path):
    """A gate on a worker behind a unix socket, for which the kernel holds little."""
    path = str(tmp_path / "gate.sock")
    worker = LoneWorker(IDLE, family=socket.AF_UNIX, address=path)
    gate = Gate(worker)

    def client():
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(30)
        sock.connect(path)
        client = Client(sock)
        gate.held.append(client)
        return client

    gate.client = client
    yield gate
    try:
        gate.close()
    finally:
        worker.close()


def hints_and_fails(peer):
    """Answer at length, and the next request with much of an interim response and a failure."""
    peer.request()
    peer.send(response(body=b"x" * ALMOST))
    peer.request()
    peer.send(HINT + response(500))
    peer.drain()


@pytest.mark.parametrize("pooled", [False, True])
def test_whoever_takes_over_waits_for_a_client_that_does_not_read(unix, pooled):
    def much(peer):
        while True:
            got = peer.request()
            if got.target == "/first":
                peer.send(response())
                continue
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
            for _ in range(64):
                peer.send(b"x" * MIB)

    stable = unix.backend(much)
    unix.serve(stable, unix.backend(hints_and_fails, name="new"), weight=10_000)
    if pooled:
        unix.worker.set_weight(0)
        unix.client().request("GET", "/first")
        unix.worker.set_weight(10_000)
    client = unix.client()
    before = unix.rss()
    client.send(request() + request())
    eventually(lambda: len(stable.requests) == 1 + pooled, "the rescue")
    unix.sweeps(10)  # time for all of it to come
    assert unix.rss() - before < 16 * MIB
    assert client.response().status == 200
    answer = client.response()
    assert [one.status for one in answer.interims] == [103]
    assert (answer.status, len(answer.body)) == (200, 64 * MIB)
    assert answer.get("x-tidegate-version") == "stable"
    same(unix.failovers, {"rescued": 1})
    assert len(stable.peers) == 1


def test_a_client_that_does_not_take_an_interim_answer_is_let_go(unix):
    def hints(peer):
        peer.request()
        peer.send(response(body=b"x" * ALMOST))
        peer.request()
        peer.send(HINT)
        peer.drain()

    stable = unix.backend(hints)
    unix.serve(stable, timeouts=patient(idle_s=1.0))
    client = unix.client()
    client.send(request() + request())
    eventually(lambda: stable.peers and stable.peers[0].ended, "the end of the endpoint's connection")
    same(lambda: unix.judged(0), (1, {}))
    same(unix.aborts, 1)
    del client
