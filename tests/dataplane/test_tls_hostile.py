"""What a client can do to a TLS listener, and an endpoint to whoever asks it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest

from proxy.dataplane.downstream import _TURNED_AWAY_MOST
from proxy.ipc import layout
from proxy.routing.table import EndpointTls, RequestLimits
from proxy.tls import client_context, read_pair
from tests.certificates import issue
from tests.dataplane.conftest import IDLE
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.records import CLIENT, HANDSHAKE, SERVER, Writer, keyed
from tests.dataplane.test_tls import TlsGate
from tests.dataplane.wire import LINGER_ZERO, holding, request, response


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


# ---------------------------------------------------------------- messages without data


@pytest.fixture
def written(authority, tmp_path):
    """Return a function that connects, and returns the client with the writer of what it sends from here on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    secrets = keyed(context, tmp_path)

    def connect(gate):
        client = gate.client(context=context)
        return client, Writer(secrets, CLIENT, client.sock.cipher()[0])

    return connect


def send_records(stream, *records):
    """Send what is encrypted already."""
    socket.socket.sendall(stream.sock, b"".join(records))


def ended(stream):
    """Wait for the end; how it comes depends on what was on its way."""
    assert stream.drain() in {"reset", "cut", "eof"}


@pytest.mark.parametrize("asks", [True, False])
def test_a_client_that_sends_key_updates_without_end_is_let_go(tls, written, asks):
    tls.serve(tls.backend())
    client, writer = written(tls)
    send_records(client, writer.record(request()))
    assert client.response().status == 200
    with contextlib.suppress(ConnectionError):
        send_records(client, *(writer.key_update(asks=asks) for _ in range(1000)))
    ended(client)
    same(tls.refused_connections, {"tls_messages": 1})
    tls.alone()


def test_it_does_not_help_to_mix_them_with_a_little_data(tls, written):
    tls.serve(tls.backend())
    client, writer = written(tls)
    send_records(client, writer.record(request("POST", "/", "Content-Length: 100000")))
    with contextlib.suppress(ConnectionError):
        send_records(client, *(writer.key_update(asks=False) + writer.record(b"x" * 10) for _ in range(1000)))
    ended(client)
    same(tls.refused_connections, {"tls_messages": 1})
    tls.alone()


def test_nor_to_leave_the_answers_unread(tls, written, release):
    """Data pays for messages, but not while they pile up."""
    tls.serve(tls.backend(holding(release, b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + bytes(8_000_000))))
    client, writer = written(tls)
    send_records(client, writer.record(request()))
    client.head()

    def flood():
        for _ in range(5000):
            send_records(client, writer.key_update(asks=True), *(writer.record(b"x") for _ in range(64)))

    with pytest.raises(ConnectionError):
        flood()


@pytest.mark.parametrize("size,taken", [(16, True), (1, False)])
def test_a_hello_may_come_in_some_records_but_not_in_hundreds(tls, size, taken):
    tls.serve(tls.backend())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    begun = tls.context.wrap_bio(incoming, outgoing, server_hostname="shop.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    hello = outgoing.read()[5:]
    assert len(hello) < 64 * 16
    client = tls.plain()
    for at in range(0, len(hello), size):
        part = hello[at : at + size]
        with contextlib.suppress(OSError):
            client.send(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
    if taken:
        client.more()
        assert client.buffer[:1] == b"\x16"
    else:
        ended(client)
        same(tls.refused_connections, {"tls_messages": 1})


def test_a_key_update_now_and_then_is_nothing_special(tls, written):
    tls.serve(tls.backend())
    client, writer = written(tls)
    for _ in range(200):
        update = writer.key_update(asks=True)
        send_records(client, update, *(writer.record(bytes([byte])) for byte in request("GET", "/" + "x" * 40)))
        assert client.response().status == 200


def test_records_may_come_in_any_pieces(tls, written):
    tls.serve(tls.backend())
    client, writer = written(tls)
    stream = b"".join(writer.key_update(asks=False) + writer.record(request()) for _ in range(3))
    for size in (1, 2, 3, 4, 5, 7, 26, 27, 28, 31):
        for at in range(0, len(stream), size):
            send_records(client, stream[at : at + size])
        assert [client.response().status for _ in range(3)] == [200] * 3
        stream = b"".join(writer.record(request()[:9]) + writer.record(request()[9:]) for _ in range(3))


@pytest.mark.parametrize("kind", ["key_update", "ticket"])
def test_an_endpoint_that_answers_with_messages_of_tls_alone_is_left(gate, authority, tmp_path, kind):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    authority.issue_cert("127.0.0.1").configure_cert(context)
    secrets = keyed(context, tmp_path)
    ticket = b"\x04\0\0\x0f" + b"\0\0\x0e\x10" + b"\0\0\0\0" + b"\x01\0" + b"\0\x01t" + b"\0\0"

    def flood(peer):
        peer.request()
        writer = Writer(secrets, SERVER, peer.sock.cipher()[0])
        while True:
            if kind == "key_update":
                send_records(peer, writer.key_update(asks=True))
            else:
                send_records(peer, writer.record(ticket * 100, HANDSHAKE))

    gate.serve(gate.backend(flood, tls=context), endpoint_tls=EndpointTls(verify=False))
    assert gate.client().request().status == 502
    same(lambda: gate.judged(0), (1, {"reset": 1}))


def test_an_endpoint_is_not_followed_into_a_renegotiation():
    assert client_context().options & ssl.OP_NO_RENEGOTIATION


# ---------------------------------------------------------------- very small records


def test_very_small_records_are_taken_a_bit_at_a_time_and_whole(tls, written):
    def mirror(peer):
        while True:
            peer.send(response(body=peer.request().body))

    tls.serve(tls.backend(mirror))
    client, writer = written(tls)
    body = bytes(range(256)) * 40
    for _ in range(2):
        stream = [writer.record(bytes([byte])) for byte in request("POST", "/", body=body)]
        send_records(client, *stream)
        assert client.response().body == body


def test_very_small_records_that_nobody_takes_are_not_read(tls, written, release):
    def stalls(peer):
        peer.head()
        assert release.wait(30)
        peer.body(peer.backend.requests[-1])
        peer.send(response())

    backend = tls.backend(stalls)
    tls.serve(backend)
    client, writer = written(tls)
    size = 12_000_000
    send_records(client, writer.record(request("POST", "/", f"Content-Length: {size}")))
    eventually(lambda: backend.requests, "the request")
    big = [writer.record(bytes(16_000)) for _ in range(size // 16_000 - 1)]
    small = [writer.record(b"x") for _ in range(16_000)]
    sender = threading.Thread(target=send_records, args=(client, *big, *small))
    sender.start()
    before = tls.rss()
    tls.sweeps(10)
    assert tls.rss() - before < 12 * 1024 * 1024
    release.set()
    assert client.response().status == 200
    sender.join()


def test_the_last_words_of_an_endpoint_are_heard_whole(gate, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    body = b"y" * 3000

    def refuses(peer):
        peer.head()
        for byte in response(413, "Connection: close", body=body):
            peer.send(bytes([byte]))
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)

    gate.serve(gate.backend(refuses, tls=context), endpoint_tls=EndpointTls(verify=False))
    client = gate.client()
    client.send(request("POST", "/", "Content-Length: 100000"))
    answer = client.response()
    assert (answer.status, answer.body) == (413, body)
