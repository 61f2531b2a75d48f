"""Signals: shares that are read from response headers, per version, at the head."""

from __future__ import annotations

from proxy.routing.table import Override, Signal
from tests.dataplane.harness import same
from tests.dataplane.wire import answers, holding, request, response

HITS, FRESH = Signal("hits", "x-cache", "^HIT"), Signal("fresh", "age", "^[0-9]$")


def test_signals_count_the_responses_that_have_their_header(gate):
    heads = ["X-Cache: HIT", "X-Cache: MISS\r\nAge: 7", "Server: x", "x-cache:  HIT from 3\r\nAge: 70", "Age:"]
    gate.serve(gate.backend(answers(*(response(200, head) for head in heads))), signals=(HITS, FRESH))
    client = gate.client()
    for _ in heads:
        assert client.request().status == 200
    same(lambda: (gate.signal(0), gate.signal(0, 1)), ((3, 2), (3, 1)))


def test_signals_count_at_the_head(gate, release):
    head = b"HTTP/1.1 200 OK\r\nX-Cache: HIT\r\nContent-Length: 100\r\n\r\nhalf"
    gate.serve(gate.backend(holding(release, head, b"x" * 96)), signals=(HITS,))
    client = gate.client()
    client.send(request())
    same(lambda: gate.signal(0), (1, 1))
    assert gate.ended(0) == 0
    release.set()
    client.response()
    same(lambda: gate.ended(0), 1)
    assert gate.signal(0) == (1, 1)


def test_signals_are_of_the_version_that_answered(gate):
    """A rescued answer has said what it says, and a head that comes in pieces says it once."""
    pieces = response(200, "X-Cache: HIT")

    def script(peer):
        peer.request()
        for byte in pieces:
            peer.send(bytes([byte]))
        peer.drain()

    gate.serve(
        gate.backend(script), gate.backend(answers(response(500, "X-Cache: MISS"))), weight=10_000, signals=(HITS,)
    )
    assert gate.client().request().status == 200
    same(lambda: gate.ended(0), 1)
    assert [gate.signal(version) for version in (0, 1)] == [(1, 1), (1, 0)]


def test_overrides_and_interim_answers_are_no_signal(gate):
    hit = response(200, "X-Cache: HIT")
    early = b"HTTP/1.1 103 Early Hints\r\nX-Cache: HIT\r\n\r\n"
    override = Override("x-version", ("127.0.0.1/32",))
    gate.serve(
        gate.backend(answers(early + response())), gate.backend(answers(hit)), override=override, signals=(HITS,)
    )
    client = gate.client()
    assert client.request("GET", "/", "X-Version: new").status == 200
    assert client.request().status == 200
    same(lambda: gate.ended(0), 1)
    assert [gate.signal(version) for version in (0, 1)] == [(0, 0), (0, 0)]


def test_a_signal_may_be_any_regular_expression(gate):
    """Values are text: what is not UTF-8 in them is no reason to fail, and memory is bounded."""
    odd = Signal("odd", "x-cache", "(?i)é$|^a{3}\\b")
    values = ["É", "aaa b", "aaab", "x" * 2000 + "é", *map(str, range(1100)), "é"]
    heads = ["X-Cache: " + value.encode().decode("latin-1") for value in values] + ["X-Cache: \xff\xe9"]
    gate.serve(gate.backend(answers(*(response(200, head) for head in heads))), signals=(odd,))
    client = gate.client()
    for _ in heads:
        assert client.request().status == 200
    same(lambda: gate.signal(0), (len(heads), 3))
