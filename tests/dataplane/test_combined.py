"""Upgrades, early answers, expectations, pipelining and breaks together: what is no request never becomes one."""

from __future__ import annotations

import contextlib
import threading

import pytest

from proxy.ipc import layout
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import Ended, answers, ok, request, response

ASK = ("Connection: upgrade", "Upgrade: echo/1")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo/1\r\n\r\n"
SMUGGLED = request("GET", "/smuggled")


def echo(peer):
    while True:
        peer.more()
        peer.send(peer.buffer)
        peer.buffer = b""


def switches(peer):
    """Take the whole request, then switch."""
    got = peer.request()
    peer.send(SWITCH + got.body)
    echo(peer)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\nConnection: close\r\n\r\n",
    ],
)
def test_an_interim_response_that_says_that_more_comes_is_the_last_of_its_connection(gate, head):
    """RFC 9110 §8.6: with 1xx there is no Content-Length; whoever sends one may mean it."""
    stable = gate.backend(answers(head + response()))
    gate.serve(stable)
    client = gate.client()
    for _ in range(2):
        answer = client.request()
        assert (answer.status, len(answer.interims)) == (200, 1)
        assert answer.interims[0].get("Content-Length") is answer.interims[0].get("Transfer-Encoding") is None
    eventually(lambda: len(stable.peers) == 2, "a connection of its own for each")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upgrade_may_have_a_body_and_what_is_behind_it_waits(gate, framing):
    gate.serve(gate.backend(switches))
    client = gate.client()
    lines, body = {
        "length": ("Content-Length: 5", b"hello"),
        "chunked": ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    }[framing]
    client.send(request("POST", "/", *ASK, lines) + body + SMUGGLED)
    assert client.head().status == 101
    assert client.exactly(5 + len(SMUGGLED)) == b"hello" + SMUGGLED


def test_a_switch_before_the_body_is_there_is_refused(gate):
    stable = gate.backend(lambda peer: (peer.head(), peer.send(SWITCH), peer.drain()))
    gate.serve(stable)
    client = gate.client()
    client.send(request("POST", "/", *ASK, "Content-Length: 500") + b"half")
    answer = client.response()
    assert (answer.status, answer.get("Connection")) == (502, "close")
    with contextlib.suppress(OSError):
        client.send(b"x" * 496 + SMUGGLED)
    assert client.drain() == "eof"
    same(lambda: gate.bad(0), {"protocol": 1})
    assert len(stable.requests) == 1


def test_a_switch_may_come_behind_a_hint_and_with_bytes_and_the_end(gate):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCH + b"all of it")
        peer.finish()
        peer.drain()

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(request("GET", "/", *ASK))
    head = client.head()
    assert (head.status, len(head.interims)) == (101, 1)
    assert client.rest() == b"all of it"
    client.finish()
    gate.finished(0)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_leaves_an_upgrade_leaves_what_it_sent_behind_it(gate, release, how):
    def script(peer):
        peer.request()
        release.set()
        peer.drain()

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    client.send(request("GET", "/", *ASK) + SMUGGLED * 3)
    assert release.wait(30)
    getattr(client, how)()
    eventually(lambda: stable.peers[0].ended, "the end of the endpoint's connection")
    gate.finished(0)
    assert [one.target for one in stable.requests] == ["/"]
    same(gate.aborts, 1)
    assert gate.judged(0) == (0, {})


@pytest.mark.parametrize("expects", [True, False])
@pytest.mark.parametrize("status", [200, 417])
def test_what_comes_instead_of_a_body_that_was_answered_already_is_no_request(gate, expects, status):
    stable = gate.backend(lambda peer: (peer.head(), peer.send(response(status)), ok(peer)))
    gate.serve(stable)
    client = gate.client()
    lines = ("Expect: 100-continue",) if expects else ()
    client.send(request("POST", "/", *lines, f"Content-Length: {len(SMUGGLED)}"))
    answer = client.response("POST")
    assert (answer.status, answer.get("Connection")) == (status, "close")
    with contextlib.suppress(OSError):
        client.send(SMUGGLED * 2)
    assert client.drain() in {"eof", "reset"}
    eventually(lambda: stable.peers[0].ended, "the end of the endpoint's connection")
    assert [one.target for one in stable.requests] == ["/"]
    assert gate.client().request("GET", "/next").status in {200, 417}
    assert len(stable.peers) == 2


def test_the_end_of_a_chunked_body_that_was_answered_already_is_not_looked_for(gate):
    stable = gate.backend(lambda peer: (peer.head(), peer.send(response()), peer.drain()))
    gate.serve(stable)
    client = gate.client()
    client.send(request("POST", "/", "Transfer-Encoding: chunked") + b"5\r\nhe")
    assert client.response("POST").get("Connection") == "close"
    with contextlib.suppress(OSError):
        client.send(b"llo\r\n0\r\n\r\n" + SMUGGLED)
    assert client.drain() in {"eof", "reset"}
    assert len(stable.requests) == 1


def test_a_body_that_ends_while_its_answer_is_coming_ends_the_connection_all_the_same(gate, release):
    def script(peer):
        message = peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        peer.body(message)
        assert release.wait(30)
        peer.send(b"done")
        ok(peer)

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    client.send(request("POST", "/", "Content-Length: 4") + b"bo")
    assert client.head().get("Connection") == "close"
    client.send(b"dy" + SMUGGLED)
    release.set()
    assert client.exactly(4) == b"done"
    assert client.drain() in {"eof", "reset"}
    assert [one.target for one in stable.requests] == ["/"]
    assert stable.requests[0].body == b"body"


def test_pipelined_requests_of_http_1_0_are_answered_in_order(gate):
    gate.serve(gate.backend())
    client = gate.client()
    keeps = request("GET", "/1", "Connection: keep-alive", version="1.0")
    client.send(keeps * 2 + request("GET", "/last", version="1.0") + SMUGGLED)
    assert [client.response().get("Connection") for _ in range(3)] == ["keep-alive", "keep-alive", "close"]
    assert client.drain() == "eof"


def test_a_break_leaves_pipelined_requests_undone(gate, release):
    def script(peer):
        peer.request()
        assert release.wait(30)
        peer.drain()

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    client.send(request("GET", "/1") + request("POST", "/2", body=b"hello") + request("GET", "/3", *ASK))
    eventually(lambda: stable.requests, "the first request")
    client.reset()
    release.set()
    eventually(lambda: stable.peers[0].ended, "the end of the endpoint's connection")
    gate.finished(0)
    assert [one.target for one in stable.requests] == ["/1"]


def test_what_connection_names_is_taken_away_but_not_what_requests_hang_on(gate):
    stable = gate.backend()
    gate.serve(stable)
    lines = ("Connection: host, content-length, cookie, x-forwarded-for, x-secret, transfer-encoding, keep-alive",)
    client = gate.client()
    client.send(request("POST", "/", *lines, "Cookie: a=b", "X-Secret: s", body=b"hello") + request("GET", "/next"))
    assert [client.response().status for _ in range(2)] == [200, 200]
    first, second = stable.requests
    assert (first.get("Host"), first.get("Cookie"), first.body) == ("shop.test", "a=b", b"hello")
    assert first.get("X-Forwarded-For") == "127.0.0.1"
    assert first.get("X-Secret") is None
    assert second.target == "/next"


def test_an_endless_answer_of_heads_ends(gate):
    """Interim responses one by one, each in time for nothing else: the time to the first byte goes on."""

    def script(peer):
        peer.request()
        with contextlib.suppress(OSError, Ended):
            while True:
                gate.sweeps(1)
                peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")

    gate.serve(gate.backend(script), timeouts=patient(first_byte_s=0.4))
    answer = gate.client().request()
    assert answer.status == 504
    same(lambda: gate.bad(0), {"timeout": 1})


def test_a_body_that_comes_behind_the_answer_to_a_head_is_nobodys_answer(gate):
    def script(peer):
        while True:
            got = peer.head()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n")
            if got.method == "HEAD":
                threading.Event().wait(0.02)  # another request would come before it
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!")

    stable = gate.backend(script)
    gate.serve(stable)
    for _ in range(5):
        assert gate.client().request("HEAD").status == 200
        assert len(gate.client().request().body) == 39


def test_a_connection_is_used_again_a_moment_after_a_head(gate):
    stable = gate.backend(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n"))
    gate.serve(stable)
    client = gate.client()
    for _ in range(3):
        assert client.request("HEAD").status == 200
        gate.sweeps(8)
        same(lambda: gate.endpoint(0, layout.ENDPOINT_POOL_IDLE), 1)
    assert len(stable.peers) == 1
