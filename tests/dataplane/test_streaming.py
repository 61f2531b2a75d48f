"""Streaming: the first byte passes before the last is sent, both ways and in every framing."""

from __future__ import annotations

import threading

import pytest

from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import parse_head, request

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH, CHUNKED = b"Content-Length: 3\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS = {
    "length": (LENGTH, b"a", b"b", b"c"),
    "chunked": (CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n0\r\n\r\n"),
    "until close": (b"\r\n", b"a", b"b", b"c"),
    "events": (b"Content-Type: text/event-stream\r\n" + CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("framing", ANSWERS)
def test_every_byte_of_an_answer_passes_at_once(gate, framing):
    """The endpoint sends the next one only when the client has the one before."""
    head, *pieces = ANSWERS[framing]
    got = [threading.Event() for _ in pieces]

    def script(peer):
        peer.request()
        peer.send(HEAD + head)
        for piece, event in zip(pieces, got, strict=True):
            peer.send(piece)
            assert event.wait(30)
        peer.close()

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(request())
    answer = client.head()
    chunked = answer.get("Transfer-Encoding") == "chunked"
    for letter, event in zip(b"abc", got, strict=True):
        expected = b"1\r\n%c\r\n" % letter if chunked else b"%c" % letter
        assert client.exactly(len(expected)) == expected
        event.set()
    if chunked:
        assert client.exactly(5) == b"0\r\n\r\n"
    same(lambda: gate.judged(0), (1, {}))


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("fresh", [True, False])
def test_every_byte_of_a_request_passes_at_once(gate, framing, fresh):
    """The client sends the next one only when the endpoint has the one before."""
    head, *pieces = ANSWERS[framing]
    have = []

    def script(peer):
        if not fresh:
            peer.request()
            peer.send(b"HTTP/1.1 204 Good\r\n\r\n")
        peer.head()
        while len(have) < 3:
            data = peer.exactly(1) if framing == "length" else peer.exactly(6)[3:4]
            have.append(data)
        peer.send(HEAD + b"Content-Length: 0\r\n\r\n")

    gate.serve(gate.backend(script))
    client = gate.client()
    if not fresh:
        assert client.request().status == 204
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head)
    for number, piece in enumerate(pieces):
        client.send(piece)
        eventually(lambda number=number: len(have) > number, "the byte at the endpoint")
    assert client.response().status == 200
    assert have == [b"a", b"b", b"c"]


def test_a_head_passes_before_its_body(gate, release):
    """Each way: the endpoint sees a request of which no byte of the body has come, the client such an answer."""

    def script(peer):
        peer.head()
        peer.send(HEAD + b"Content-Length: 2\r\n\r\n")
        assert release.wait(30)
        assert peer.exactly(2) == b"xx"
        peer.send(b"yy")

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
    eventually(lambda: backend.requests, "the head")
    assert parse_head(client.until(b"\r\n\r\n")).status == 200
    release.set()
    client.send(b"xx")
    assert client.exactly(2) == b"yy"
