"""Connections of clients: keep-alive, pipelining, HTTP/1.0, input in pieces, and how they end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest

from proxy.ipc import layout
from proxy.routing.table import RequestLimits
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import answers, request, response


def echo(peer):
    """Answer with the target and the body."""
    while True:
        message = peer.request()
        body = message.target.encode() + b" " + message.body
        peer.send(response(body=b"" if message.method == "HEAD" else body))


def test_requests_of_one_connection_share_an_upstream_connection(gate):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    for number in range(5):
        answer = client.request("GET", f"/{number}")
        assert (answer.status, answer.body) == (200, b"stable")
        assert answer.get("Connection") is None
    assert [one.target for one in stable.requests] == [f"/{number}" for number in range(5)]
    assert len(stable.peers) == 1
    same(lambda: gate.judged(0), (5, {}))
    same(lambda: gate.code(0, 200), 5)


def test_close_asked_by_the_client_is_granted(gate):
    gate.serve(gate.backend())
    client = gate.client()
    answer = client.request("GET", "/", "Connection: close")
    assert answer.get("Connection") == "close"
    assert client.end() == "eof"


@pytest.mark.parametrize("size", [1_000, 10_000_000])
def test_what_comes_behind_the_last_request_does_not_destroy_its_answer(gate, size):
    """A close with unread input makes the kernel send RST, which takes the answer with it."""
    stable = gate.backend(answers(response(body=b"x" * 500_000)))
    gate.serve(stable)
    client = gate.client(SO_RCVBUF=16 * 1024)
    whole = request("GET", "/", "Connection: close") + request("POST", "/", body=b"y" * size)
    sender = threading.Thread(target=client.send, args=(whole,))
    sender.start()
    assert len(client.response().body) == 500_000
    sender.join(30)
    assert client.end() == "eof"
    assert len(stable.requests) == 1


def test_pipelined_requests_of_all_kinds_are_answered_in_order(gate):
    gate.serve(gate.backend(echo))
    client = gate.client()
    chunked = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n2\r\n..\r\n0\r\n\r\n"
    client.send(
        request("GET", "/a")
        + request("POST", "/b", body=b"first")
        + chunked
        + request("GET", "/d")
        + request("PUT", "/e", body=b"last")
        + request("GET", "/f")
    )
    bodies = [client.response().body for _ in range(6)]
    assert bodies == [b"/a ", b"/b first", b"/c xyz..", b"/d ", b"/e last", b"/f "]
    same(lambda: gate.judged(0), (6, {}))


def test_a_head_request_among_pipelined_ones_keeps_the_framing(gate):
    def script(peer):
        while True:
            message = peer.request()
            if message.method == "HEAD":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            else:
                peer.send(response(body=message.target.encode()))

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(request("GET", "/1") + request("HEAD", "/2") + request("GET", "/3"))
    assert client.response().body == b"/1"
    assert client.response("HEAD").get("Content-Length") == "1000"
    assert client.response().body == b"/3"


def test_more_pipelined_requests_than_may_wait_are_answered(gate):
    gate.serve(gate.backend(echo))
    client = gate.client()
    count = 1500
    whole = b"".join(request("GET", f"/{number:0100}") for number in range(count))
    assert len(whole) > 128 * 1024
    client.send(whole)
    for number in range(count):
        assert client.response().body == f"/{number:0100} ".encode()


def test_nothing_is_read_while_many_pipelined_requests_wait(gate, release):
    go_on = threading.Event()

    def script(peer):
        for number in range(30):
            peer.request()
            assert number or go_on.wait(30)
            peer.send(response())
        peer.request()
        assert release.wait(30)

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    sent = [0]
    sender = threading.Thread(target=flood, args=(client, request() * 1000, sent), daemon=True)
    sender.start()
    before = -1
    while sent[0] != before or not before:
        before = sent[0]
        gate.sweeps(4)
    go_on.set()
    eventually(lambda: len(backend.requests) == 31, "the answers")
    gate.sweeps(4)
    assert sent[0] < before + 1_000_000
    client.sock.shutdown(socket.SHUT_RDWR)
    sender.join(30)


def flood(client, data, sent):
    """Send until the connection ends, and say how much that was."""
    with contextlib.suppress(OSError):
        while True:
            client.send(data)
            sent[0] += len(data)


def test_requests_that_end_here_stand_in_line_with_others_and_before_a_fin(gate):
    gate.serve(gate.backend(echo), half_close="allow")
    client = gate.client()
    here = request("OPTIONS", "*", "Max-Forwards: 0")
    client.send(here + here + request("GET", "/a") + here + request("GET", "/b"))
    client.sock.shutdown(socket.SHUT_WR)
    answers = [client.response() for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 5
    assert [answers[2].body, answers[4].body] == [b"/a ", b"/b "]
    assert client.end() == "eof"
    same(gate.local_replies, {(200, "max_forwards"): 3})


def test_a_pipelined_malformed_request_is_refused_after_the_answers_before_it(gate):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    client.send(request() + request() + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + request())
    assert [client.response().status for _ in range(3)] == [200, 200, 400]
    assert client.end() == "eof"
    assert len(stable.requests) == 2


def test_byte_by_byte(gate):
    stable = gate.backend(echo)
    gate.serve(stable)
    client = gate.client()
    message = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
    for byte in message + request("GET", "/y") + request("POST", "/z", body=b"end"):
        client.send(bytes([byte]))
    assert [client.response().body for _ in range(3)] == [b"/x hello", b"/y ", b"/z end"]
    assert stable.requests[0].trailers == [("X-T", "1")]


def test_an_answer_that_comes_byte_by_byte(gate):
    def script(peer):
        peer.request()
        for (
            byte
        ) in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nX-T: 1\r\n\r\n":
            peer.send(bytes([byte]))

    gate.serve(gate.backend(script))
    answer = gate.client().request()
    assert (answer.body, answer.trailers) == (b"abcde", [("X-T", "1")])


def test_empty_lines_before_a_request_are_skipped(gate):
    gate.serve(gate.backend())
    client = gate.client()
    client.send(b"\r\n" + request("POST", "/", body=b"abc") + b"\r\n\r\n" + request())
    assert [client.response().status for _ in range(2)] == [200, 200]


def test_http_1_0_closes_unless_keep_alive_is_asked_for(gate):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = client.response()
    assert (answer.line.split()[0], answer.get("Connection"), answer.body) == ("HTTP/1.1", "keep-alive", b"stable")
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    answer = client.response()
    assert answer.get("Connection") == "close"
    assert client.end() == "eof"
    assert len(stable.peers) == 1
    assert stable.requests[0].line == "GET / HTTP/1.1"
    assert stable.requests[0].get("Host") == stable.endpoint.url.removeprefix("http://")


def test_a_local_reply_ends_an_http_1_0_connection(gate):
    """It does not say `Connection: keep-alive`, so the client waits for the end (RFC 9112 §9.3)."""
    gate.serve(gate.refused())
    client = gate.client()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = client.response()
    assert (answer.status, answer.get("Connection")) == (502, "close")
    assert client.end() == "eof"


def test_an_http_1_0_endpoint(gate):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert peer.end() in {"eof", "reset"}

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    for _ in range(2):
        assert client.request().line.startswith("HTTP/1.1 200")
    assert len(stable.peers) == 2


def test_an_idle_connection_is_closed_in_silence(gate):
    gate.serve(gate.backend(), limits=RequestLimits(keepalive_timeout_s=0.1, header_timeout_s=0.8))
    fresh = gate.client()
    used = gate.client()
    assert used.request().status == 200
    assert used.end() == "eof"
    assert fresh.end() == "eof"
    same(gate.local_replies, {})


def test_a_head_that_does_not_come_in_time(gate):
    gate.serve(gate.backend(), limits=RequestLimits(header_timeout_s=0.8))
    client = gate.client()
    client.send(b"GET / HTTP/1.1\r\nHo")
    answer = client.response()
    assert answer.status == 408
    assert answer.get("Content-Type") == "application/problem+json"
    assert json.loads(answer.body)["reason"] == "head_timeout"
    assert client.end() == "eof"
    same(gate.local_replies, {(408, "head_timeout"): 1})


def test_dribbling_a_head_does_not_buy_time(gate):
    gate.serve(gate.backend(), limits=RequestLimits(header_timeout_s=0.8))
    client = gate.client()
    client.send(b"GET / HTTP/1.1\r\n")
    client.sock.settimeout(0.02)
    answered = b""

    def dribble():
        nonlocal answered
        try:
            answered = client.sock.recv(65536)
        except TimeoutError:
            client.send(b"X")
        return answered

    assert eventually(dribble, "an answer").startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
def test_a_body_that_does_not_come_in_time_is_the_clients_fault(gate):
    stable = gate.backend()
    gate.serve(stable, limits=RequestLimits(body_idle_timeout_s=0.1))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    answer = client.response()
    assert answer.status == 408
    assert json.loads(answer.body)["reason"] == "body_timeout"
    assert client.end() == "eof"
    same(lambda: gate.judged(0), (0, {}))
    eventually(lambda: stable.peers[0].ended, "the upstream's end")


def test_more_connections_than_allowed_are_turned_away(gate):
    gate.alone()
    gate.serve(gate.backend(), limits=RequestLimits(connections=2))
    clients = [gate.client() for _ in range(2)]
    assert [client.request().status for client in clients] == [200, 200]
    extra = gate.client()
    answer = extra.response()
    assert (answer.status, answer.get("Retry-After"), answer.get("Connection")) == (503, "1", "close")
    assert extra.end() == "eof"
    extra.close()
    clients.pop().close()

    def again():
        client = gate.client()
        return client.request().status == 200

    eventually(again, "a free place")
    assert clients[0].request().status == 200


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\nHost"])
def test_a_client_that_leaves_before_its_head_is_complete_counts_nowhere(gate, head):
    gate.alone()
    gate.serve(gate.backend())
    client = gate.client()
    client.send(head)
    other = gate.client()
    assert other.request().status == 200
    client.close()
    assert other.request().status == 200
    eventually(lambda: gate.worker.row(layout.ROW_CONNECTIONS) == 1, "one connection less")
    same(gate.aborts, 0)


@pytest.mark.slow
def test_a_slow_reader_of_a_last_answer_gets_all_of_it(gate):
    """The worker closes only after everything is out, however long a steady reader takes."""
    size = 6 * 1024 * 1024
    gate.serve(gate.backend(answers(response(body=b"x" * size))), limits=RequestLimits(body_idle_timeout_s=1.2))
    client = gate.client(SO_RCVBUF=16 * 1024)
    client.send(request("GET", "/", "Connection: close"))
    client.head()
    size -= len(client.buffer)
    pause = threading.Event()
    while size > 0:
        piece = client.sock.recv(24 * 1024)
        assert piece, f"cut {size} bytes before the end"
        size -= len(piece)
        pause.wait(0.012)  # in all several times the limit


@pytest.mark.slow
def test_a_client_that_takes_nothing_of_a_last_answer_is_let_go(gate):
    gate.alone()
    gate.serve(
        gate.backend(answers(response(body=b"x" * 8 * 1024 * 1024))),
        limits=RequestLimits(body_idle_timeout_s=0.1),
        timeouts=patient(idle_s=0.2),
    )
    client = gate.client(SO_RCVBUF=16 * 1024)
    client.send(request("GET", "/", "Connection: close"))
    client.head()
    eventually(lambda: gate.worker.row(layout.ROW_CONNECTIONS) == 0, "the end of the connection")
