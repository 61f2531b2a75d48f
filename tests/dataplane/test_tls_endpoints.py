"""`https://` endpoints: who is trusted, who is asked for, and what happens when TLS fails there."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest
import trustme

from proxy.routing.table import Endpoint, EndpointTls, Service, Version, server_name
from proxy.tls import read_pair
from tests.certificates import ca_file, issue
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.test_framing import CHUNKED
from tests.dataplane.test_small_chunks import BODY, CODED
from tests.dataplane.test_tls import BIG
from tests.dataplane.wire import LINGER_ZERO, Ended, answers, request, response


@pytest.fixture
def trusted(authority, tmp_path):
    return EndpointTls(ca=ca_file(authority, tmp_path).read_text())


def context_of(authority, *names, client_ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def local(authority):
    return context_of(authority, "127.0.0.1")


def test_an_https_endpoint_is_verified_by_its_own_ca(gate, local, trusted):
    backend = gate.backend(tls=local)
    gate.serve(backend, endpoint_tls=trusted)
    client = gate.client()
    for _ in range(3):
        assert client.request().body == b"stable"
    assert len(backend.peers) == 1
    same(lambda: gate.judged(0), (3, {}))


def test_bodies_pass_whole_both_ways(gate, local, trusted):
    def mirror(peer):
        while True:
            peer.send(response(body=peer.request().body))

    gate.serve(gate.backend(mirror, tls=local), endpoint_tls=trusted)
    client = gate.client()
    sender = threading.Thread(target=client.send, args=(request("POST", "/", body=BIG),))
    sender.start()
    assert client.response().body == BIG
    sender.join()


@pytest.mark.parametrize(
    "fields,why",
    [
        ({}, "certificate"),  # signed by nobody that the system knows
        ({"server_name": "other.test"}, "not valid for 'other.test'"),
    ],
)
def test_a_certificate_that_does_not_fit_is_a_failed_connect(lone, local, trusted, fields, why):
    spec = EndpointTls(ca=trusted.ca if fields else None, **fields)
    lone.serve(lone.backend(tls=local), endpoint_tls=spec)
    answer = lone.client().request()
    assert answer.status == 502
    assert b"TLS with it failed" in answer.body
    assert b"certificate" not in answer.body
    same(lambda: lone.judged(0), (1, {"connect": 1}))
    text = lone.worker.expect("notice")["text"].lower()
    assert why in text
    assert "https://127.0.0.1:" in text
    lone.client().request()
    assert len([one for one in lone.worker.hear() if one["type"] == "notice"]) == 1


def test_verify_false_takes_any_certificate(gate, local):
    gate.serve(gate.backend(tls=local), endpoint_tls=EndpointTls(verify=False))
    assert gate.client().request().status == 200


def test_plain_http_at_an_https_endpoint_is_a_failed_connect(lone, trusted):
    def plain(peer):
        peer.more()
        peer.send(b"HTTP/1.1 400 Bad\r\n\r\n")
        peer.finish()

    backend = lone.backend(plain)
    endpoint = backend.endpoint
    secure = Endpoint(endpoint.url.replace("http", "https"), endpoint.host, endpoint.port, tls=True)
    lone.serve(secure, endpoint_tls=trusted)
    assert lone.client().request().status == 502
    same(lambda: lone.bad(0), {"connect": 1})


def test_mixed_endpoints_serve_one_version(gate, local, trusted):
    secure, plain = gate.backend(tls=local, name="s"), gate.backend(name="p")
    gate.serve([secure, plain], endpoint_tls=trusted)
    client = gate.client()
    assert {client.request().body for _ in range(60)} == {b"s", b"p"}


def test_a_client_certificate_is_shown(gate, authority, tmp_path, trusted):
    theirs = trustme.CA()
    files = issue(theirs, tmp_path, "proxy.test", name="client-")
    backend = gate.backend(tls=context_of(authority, "127.0.0.1", client_ca=theirs))
    gate.serve(backend, endpoint_tls=EndpointTls(ca=trusted.ca, pair=read_pair(files.cert, files.key).pem))
    assert gate.client().request().status == 200
    assert ("DNS", "proxy.test") in backend.peers[0].sock.getpeercert()["subjectAltName"]


def test_without_the_client_certificate_that_is_asked_for_nothing_passes(lone, authority, trusted):
    lone.serve(lone.backend(tls=context_of(authority, "127.0.0.1", client_ca=trustme.CA())), endpoint_tls=trusted)
    assert lone.client().request().status == 502


def test_the_endpoint_is_asked_for_the_fixed_host(gate, authority, trusted):
    asked = []
    context = context_of(authority, "app.internal")
    context.sni_callback = lambda _connection, name, _context: asked.append(name)
    backend = gate.backend(tls=context)
    gate.serve(backend, endpoint_tls=trusted, host="app.internal:8443")
    assert gate.client().request().status == 200
    assert asked == ["app.internal"]
    assert backend.requests[0].get("Host") == "app.internal:8443"


@pytest.mark.parametrize(
    "host,tls,expected",
    [
        ("preserve", EndpointTls(), "e.test"),
        ("endpoint", EndpointTls(), "e.test"),
        ("app.internal", EndpointTls(), "app.internal"),
        ("app.internal:443", EndpointTls(), "app.internal"),
        ("[::1]:443", EndpointTls(), "::1"),
        ("[::1]", EndpointTls(), "::1"),
        ("app.internal", EndpointTls(server_name="x.test"), "x.test"),
    ],
)
def test_who_is_asked_for(host, tls, expected):
    endpoint = Endpoint("https://e.test", "e.test", 443, tls=True)
    assert server_name(Service("web", Version("", (endpoint,)), host=host, endpoint_tls=tls), endpoint) == expected


def test_the_host_towards_an_endpoint_leaves_the_schemes_own_port_out(gate, local, trusted):
    backend = gate.backend(tls=local)
    gate.serve(backend, endpoint_tls=trusted, host="endpoint")
    assert gate.client().request().status == 200
    assert backend.requests[0].get("Host") == backend.endpoint.url.removeprefix("https://")


def test_a_session_makes_the_next_handshake_short(gate, local, trusted):
    first = gate.backend(answers(response()), tls=local)
    gate.serve(first, endpoint_tls=trusted, timeouts=patient(pool_idle_s=0.1))
    client = gate.client()
    client.request()
    eventually(lambda: first.peers[0].ended, "the end of the resting connection")
    client.request()
    assert [peer.sock.session_reused for peer in first.peers] == [False, True]


def test_the_handshake_is_within_the_time_to_connect(gate, trusted, release):
    def silent(peer):
        assert release.wait(30)

    backend = gate.backend(silent)
    secure = Endpoint(backend.endpoint.url.replace("http", "https"), "127.0.0.1", backend.endpoint.port, tls=True)
    gate.serve(secure, endpoint_tls=trusted, timeouts=patient(connect_s=0.2))
    assert gate.client().request().status == 504
    same(lambda: gate.bad(0), {"connect": 1})
    assert eventually(lambda: backend.peers, "the connection")[0].sock.recv(1 << 16)


def test_a_client_that_leaves_within_the_handshake_ends_it(gate, trusted):
    def watch(peer):
        peer.drain()

    backend = gate.backend(watch)
    secure = Endpoint(backend.endpoint.url.replace("http", "https"), "127.0.0.1", backend.endpoint.port, tls=True)
    gate.serve(secure, endpoint_tls=trusted, timeouts=patient())
    client = gate.client()
    client.send(request())
    eventually(lambda: backend.peers, "the connection")
    client.close()
    eventually(lambda: backend.peers[0].ended, "its end")
    same(gate.aborts, 1)


@pytest.mark.parametrize("goodbye", [True, False])
def test_an_answer_until_close_is_whole_only_with_close_notify(gate, local, trusted, goodbye):
    def until_close(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it?")
        if goodbye:
            peer.sock.unwrap()
        else:
            socket.socket.shutdown(peer.sock, socket.SHUT_WR)

    gate.serve(gate.backend(until_close, tls=local), endpoint_tls=trusted)
    client = gate.client()
    client.send(request())
    if goodbye:
        assert client.response().body == b"all of it?"
        same(lambda: gate.judged(0), (1, {}))
    else:
        client.head()
        with pytest.raises(Ended):
            client.until(b"0\r\n\r\n")
        same(lambda: gate.judged(0), (1, {"reset": 1}))


def test_what_an_endpoint_said_before_it_broke_off_is_heard(gate, local, trusted):
    def refuses(peer):
        peer.head()
        peer.send(response(413, "Connection: close", body=b"too large"))
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)

    gate.serve(gate.backend(refuses, tls=local), endpoint_tls=trusted)
    client = gate.client()
    client.send(request("POST", "/", "Content-Length: 100000"))
    assert client.response().status == 413


def test_a_tunnel_to_a_tls_endpoint(gate, local, trusted):
    def tunnel(peer):
        peer.request()
        peer.send(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        peer.send(peer.exactly(5).upper())
        assert peer.end() == "eof"
        peer.send(b"bye")
        peer.sock.unwrap()

    gate.serve(gate.backend(tunnel, tls=local), endpoint_tls=trusted)
    client = gate.client()
    client.send(request("GET", "/", "Connection: upgrade", "Upgrade: echo") + b"hello")
    assert client.head().status == 101
    assert client.exactly(5) == b"HELLO"
    client.finish()
    assert client.rest() == b"bye"
    gate.alone()


def test_a_reload_with_another_ca_takes_another_pool(lone, authority, local, trusted, tmp_path):
    (tmp_path / "strangers").mkdir()
    stranger = ca_file(trustme.CA(), tmp_path / "strangers").read_text()
    backend = lone.backend(tls=local)
    lone.serve(backend, endpoint_tls=trusted)
    client = lone.client()
    assert client.request().status == 200
    lone.serve(backend, endpoint_tls=EndpointTls(ca=stranger))
    assert client.request().status == 502
    lone.serve(backend, endpoint_tls=trusted)
    assert client.request().status == 200


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".test", ".test", "xn--\xfc.test"])
def test_a_name_that_tls_cannot_ask_for_is_a_failed_connect(lone, local, name):
    lone.serve(lone.backend(tls=local), endpoint_tls=EndpointTls(verify=False, server_name=name))
    answer = lone.client().request()
    assert answer.status == 502
    assert b"TLS with it failed" in answer.body
    same(lambda: lone.judged(0), (1, {"connect": 1}))
    assert name in lone.worker.expect("notice")["text"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_that_says_its_end_is_whole_without_close_notify(gate, local, trusted, framing):
    """RFC 9112 §9.8: only an answer that lasts until close may have been cut by somebody on the way."""
    body = {
        "length": b"Content-Length: 4\r\n\r\nwhol",
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n4\r\nwhol\r\n0\r\n\r\n",
    }

    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + body[framing])
        peer.close()

    backend = gate.backend(script, tls=local)
    gate.serve(backend, endpoint_tls=trusted)
    client = gate.client()
    for _ in range(3):
        answer = client.request()
        assert (answer.status, answer.body) == (200, b"whol")
        gate.sweeps(2)  # the idle connection ends, which is nobody's fault
    same(lambda: gate.judged(0), (3, {}))
    assert len(backend.peers) == 3


@pytest.mark.parametrize("goodbye", [True, False])
def test_an_answer_in_very_many_chunks_is_whole_whose_connection_ends_right_behind_it(gate, local, trusted, goodbye):
    def script(peer):
        peer.request()
        peer.send(CHUNKED + CODED + b"0\r\n\r\n")
        if goodbye:
            peer.sock.unwrap()
        peer.close()

    gate.serve(gate.backend(script, tls=local), endpoint_tls=trusted)
    client = gate.client()
    for _ in range(2):
        assert client.request().body == BODY
    same(lambda: gate.judged(0), (2, {}))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_that_ends_before_it_says_so_is_cut_short(gate, local, trusted, framing):
    part = {"length": b"Content-Length: 9\r\n\r\nhalf", "chunked": b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"}

    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + part[framing])
        peer.close()

    gate.serve(gate.backend(script, tls=local), endpoint_tls=trusted)
    client = gate.client()
    client.send(request())
    with pytest.raises(Ended):
        client.response()
    same(lambda: gate.judged(0), (1, {"reset": 1}))
