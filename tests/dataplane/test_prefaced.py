"""Listeners that take the PROXY protocol: who may speak it, and whose address is in force afterwards."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest

from proxy.ipc import layout
from proxy.routing.table import Override, RequestLimits, Sticky
from proxy.tls import read_pair
from tests.certificates import issue
from tests.dataplane.conftest import IDLE, Gate
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.test_preface import INET, INET6, UNIX, tlv, v2
from tests.dataplane.wire import Client, Ended, request

FROM_ALICE = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 80\r\n"
TRUSTED = ("127.0.0.1/32",)


@contextlib.contextmanager
def listening(**how):
    worker = LoneWorker(IDLE, prefaced=True, **how)
    gate = Gate(worker)
    try:
        yield gate
        gate.close()
    finally:
        worker.close()


@pytest.fixture(scope="module")
def kept():
    with listening() as gate:
        yield gate.worker


@pytest.fixture
def behind(kept):
    gate = Gate(kept)
    yield gate
    gate.close()


@pytest.mark.parametrize(
    "header,client",
    [
        (FROM_ALICE, "192.0.2.7"),
        (v2(0x11, INET), "192.0.2.7"),
        (v2(0x21, INET6 + tlv(2, b"shop.test")), "2001:db8::7"),
        (v2(0, b"", command=0x20), "127.0.0.1"),
        (v2(0, b""), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (v2(0x31, UNIX), None),
    ],
)
def test_the_client_is_whom_the_header_names(behind, header, client):
    backend = behind.backend()
    behind.serve(backend, trusted_proxies=TRUSTED)
    one = behind.client()
    one.send(header + request())
    assert one.response().status == 200
    assert one.request().status == 200
    assert [got.get("X-Forwarded-For") for got in backend.requests] == [client, client]


def test_a_header_may_come_in_pieces(behind):
    backend = behind.backend()
    behind.serve(backend, trusted_proxies=TRUSTED)
    for header in (FROM_ALICE, v2(0x11, INET)):
        client = behind.client()
        for byte in header + request():
            client.send(bytes([byte]))
        assert client.response().status == 200
    assert [got.get("X-Forwarded-For") for got in backend.requests] == ["192.0.2.7"] * 2


def test_what_the_client_says_of_itself_is_not_believed(behind):
    backend = behind.backend()
    behind.serve(backend, trusted_proxies=TRUSTED)
    client = behind.client()
    client.send(FROM_ALICE + request("GET", "/", "X-Forwarded-For: 10.9.9.9", "X-Forwarded-Proto: https"))
    assert client.response().status == 200
    assert backend.requests[0].get("X-Forwarded-For") == "192.0.2.7"
    assert backend.requests[0].get("X-Forwarded-Proto") == "http"


def test_a_trusted_proxy_behind_the_balancer_is_believed(behind):
    backend = behind.backend()
    behind.serve(backend, trusted_proxies=(*TRUSTED, "192.0.2.0/24"))
    client = behind.client()
    client.send(FROM_ALICE + request("GET", "/", "X-Forwarded-For: 203.0.113.9"))
    assert client.response().status == 200
    assert backend.requests[0].get("X-Forwarded-For") == "203.0.113.9, 192.0.2.7"


def test_override_and_stickiness_go_by_the_client(behind):
    new, stable = behind.backend(name="new"), behind.backend()
    override = Override("x-version", ("192.0.2.7/32",))
    behind.serve(stable, new, trusted_proxies=TRUSTED, sticky=Sticky("client_ip"), override=override)
    alice, balancer = behind.client(), behind.client()
    alice.send(FROM_ALICE + request("GET", "/", "x-version: new"))
    balancer.send(b"PROXY UNKNOWN\r\n" + request("GET", "/", "x-version: new"))
    assert (alice.response().body, balancer.response().body) == (b"new", b"stable")


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",)])
def test_who_is_not_trusted_is_turned_away(behind, trusted):
    behind.serve(behind.backend(), trusted_proxies=trusted)
    client = behind.client()
    with contextlib.suppress(OSError):
        client.send(FROM_ALICE + request())
    assert client.drain() in {"reset", "eof"}
    assert not client.buffer
    same(behind.refused_connections, {"untrusted": 1})
    behind.alone()


@pytest.mark.parametrize("first", [request(), b"\x16\x03\x01", b"PROXY TCP4 nobody\r\n", v2(0x11, INET[:3])])
def test_without_a_right_header_nothing_is_served(behind, first):
    behind.serve(behind.backend(), trusted_proxies=TRUSTED)
    client = behind.client()
    client.send(first)
    assert client.drain() in {"reset", "eof"}
    same(behind.refused_connections, {"preface": 1})
    behind.alone()


def test_the_log_is_told_once_a_minute_who_is_refused_and_why():
    with listening() as gate:
        gate.serve(gate.backend(), trusted_proxies=TRUSTED)
        for _ in range(3):
            client = gate.client()
            client.send(request())
            client.drain()
        gate.serve(gate.backend())
        for _ in range(3):
            gate.client().drain()
        same(gate.refused_connections, {"untrusted": 3})
        told = [one["text"] for one in gate.worker.hear() if one["type"] == "notice"]
        assert [text.partition(":")[0] for text in told] == ["a connection from 127.0.0.1 was refused"] * 2
        assert "no signature of the PROXY protocol" in told[0]
        assert "trusted_proxies" in told[1]


def test_a_header_has_the_time_of_a_head(behind):
    behind.serve(behind.backend(), trusted_proxies=TRUSTED, limits=RequestLimits(header_timeout_s=0.2))
    silent, begun = behind.client(), behind.client()
    begun.send(FROM_ALICE[:-1])
    assert silent.end() == begun.end() == "eof"
    same(behind.refused_connections, {"preface": 1})


def test_a_connection_without_its_header_counts(behind):
    behind.serve(behind.backend(), trusted_proxies=TRUSTED)
    client = behind.client()
    eventually(lambda: behind.worker.row(layout.ROW_CONNECTIONS), "the connection")
    client.close()
    behind.alone()


def test_too_many_connections_get_their_503(behind):
    behind.serve(behind.backend(), trusted_proxies=TRUSTED, limits=RequestLimits(connections=1))
    first = behind.client()
    first.send(FROM_ALICE + request())
    assert first.response().status == 200
    second = behind.client()
    second.send(FROM_ALICE + request())
    assert second.response().status == 503


def test_the_header_comes_before_tls(authority, tmp_path):
    files = issue(authority, tmp_path, "shop.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    with listening(pairs=[read_pair(files.cert, files.key)]) as gate:
        backend = gate.backend()
        gate.serve(backend, trusted_proxies=TRUSTED)
        for header in (FROM_ALICE, v2(0x11, INET)):
            client = gate.client()
            client.send(header)
            client.sock = context.wrap_socket(client.sock, server_hostname="shop.test")
            assert client.request().status == 200
        assert [got.get("X-Forwarded-For") for got in backend.requests] == ["192.0.2.7"] * 2
        assert backend.requests[0].get("X-Forwarded-Proto") == "https"
        plain = gate.client()
        plain.send(FROM_ALICE + request())
        assert plain.response().status == 400
        same(gate.local_replies, {(400, "malformed"): 1})
        first = gate.client()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(first.sock, server_hostname="shop.test")


def test_on_a_unix_socket_its_folder_says_who_may(tmp_path):
    path = str(tmp_path / "in.sock")
    with listening(family=socket.AF_UNIX, address=path) as gate:
        backend = gate.backend()
        gate.serve(backend)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        client = Client(sock)
        client.send(FROM_ALICE + request())
        assert client.response().status == 200
        assert backend.requests[0].get("X-Forwarded-For") == "192.0.2.7"
        client.close()


def test_an_end_within_the_header_is_an_end(behind):
    behind.serve(behind.backend(), trusted_proxies=TRUSTED)
    client = behind.client()
    client.send(b"PROXY ")
    client.finish()
    with pytest.raises(Ended):
        client.until(b"x")
    behind.alone()
