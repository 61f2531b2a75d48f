"""What a client can do to a TLS listener before there is TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest

from proxy.dataplane.downstream import _TURNED_AWAY_MOST
from proxy.ipc import layout
from proxy.routing.table import RequestLimits
from proxy.tls import read_pair
from tests.certificates import issue
from tests.dataplane.conftest import IDLE
from tests.dataplane.harness import LoneWorker, same
from tests.dataplane.test_tls import TlsGate


@pytest.fixture
def tls(authority, tmp_path):
    """A gate on a worker of its own with two certificates."""
    files = [issue(authority, tmp_path, name, name=name) for name in ("shop.test", "other.test")]
    worker = LoneWorker(IDLE, pairs=[read_pair(one.cert, one.key) for one in files])
    gate = TlsGate(worker, authority)
    try:
        yield gate
        gate.close()
    finally:
        worker.close()


@pytest.mark.parametrize("name", [b"sh\xffp.test", b"sh\x00p.test", b"\xc3\xbcber.tes", b"xn--\xff\xff\xff\xff\xff"])
def test_a_server_name_that_is_none_is_refused_and_not_written_down(tls, name):
    """The worker's stderr is looked at when it ends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    begun = tls.context.wrap_bio(incoming, outgoing, server_hostname="shop.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    hello = outgoing.read()
    assert hello.count(b"shop.test") == 1
    assert len(name) == len(b"shop.test")
    client = tls.plain()
    client.send(hello.replace(b"shop.test", name))
    client.more()
    assert client.buffer[:1] == b"\x15"  # an alert
    tls.serve(tls.backend())
    assert tls.client().request().status == 200


def test_whoever_is_turned_away_is_not_kept_without_a_handshake(tls):
    tls.serve(tls.backend(), limits=RequestLimits(connections=1, body_idle_timeout_s=60.0))
    first = tls.client()
    assert first.request().status == 200
    silent = [tls.plain() for _ in range(_TURNED_AWAY_MOST + 10)]
    for client in silent:
        client.end()  # within seconds: long before the time that a client has for its body
    assert tls.local_replies()[503, "overload"] < len(silent)  # the last ones were let go at once
    same(lambda: tls.worker.row(layout.ROW_CONNECTIONS), 1)
    late = tls.client()
    assert late.response().status == 503
    assert first.request().status == 200


def test_those_who_are_turned_away_take_nobodys_room(gate):
    gate.alone()
    gate.serve(gate.backend(), limits=RequestLimits(connections=1))
    first = gate.client()
    assert first.request().status == 200
    same(lambda: gate.worker.row(layout.ROW_CONNECTIONS), 1)
    away = [gate.client() for _ in range(5)]
    assert [client.head().status for client in away] == [503] * 5
    first.sock.shutdown(socket.SHUT_RDWR)
    same(lambda: gate.worker.row(layout.ROW_CONNECTIONS), 0)
    assert gate.client().request().status == 200
