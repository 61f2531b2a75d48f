"""What the corpus cannot say of the response parser: limits, memos, early refusals."""

from __future__ import annotations

import pytest

from proxy.http1 import fields
from proxy.http1.head import Refusal, ResponseHead
from proxy.http1.response import ResponseParser


def response(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])


def test_begins_at_start_and_says_where_the_head_ends() -> None:
    data = b"junk" + response(b"Content-Length: 4") + b"body"
    head = ResponseParser().parse(data, 4, b"GET")
    assert isinstance(head, ResponseHead)
    assert data[head.end :] == b"body"


def test_where_nothing_has_to_go_the_block_is_the_received_head() -> None:
    data = response(b"Content-Length: 4", b"X:  a", b"y:b ", b"Cache-Control: public")
    head = ResponseParser().parse(data, 0, b"GET")
    assert isinstance(head, ResponseHead)
    assert head.block == data[:-2]


@pytest.mark.parametrize("size, fits", [(1000, True), (1001, False)])
def test_head_limit_is_exact(size: int, fits: bool) -> None:
    data = response(b"X: " + b"y" * (size - len(response(b"X: "))))
    assert isinstance(ResponseParser(1000).parse(data, 0, b"GET"), ResponseHead) is fits


@pytest.mark.parametrize("count, fits", [(10, True), (11, False)])
def test_field_limit_is_exact(count: int, fits: bool) -> None:
    head = ResponseParser(field_limit=10).parse(response(*[b"X: y"] * count), 0, b"GET")
    assert isinstance(head, ResponseHead) is fits


@pytest.mark.parametrize("data", [b"h", b"HTTP/2", b"\r\n", b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 OK\r\nX: a\rb"])
def test_what_cannot_become_a_response_is_refused_before_its_end(data: bytes) -> None:
    refusal = ResponseParser().parse(data, 0, b"GET")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason) == (502, "protocol")


def test_unfinished_heads_wait_up_to_their_limits() -> None:
    assert ResponseParser().parse(b"", 0, b"GET") is None
    assert ResponseParser().parse(b"HTTP/1.1 200 OK\r\nX: y\r", 0, b"GET") is None
    assert isinstance(ResponseParser(100).parse(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100, 0, b"GET"), Refusal)
    assert isinstance(ResponseParser(field_limit=3).parse(response(*[b"X: y"] * 5)[:-2], 0, b"GET"), Refusal)


def test_what_marks_a_response_is_seen_at_every_response() -> None:
    learning = ResponseParser()
    for shared in (True, False, True, False, False, True):
        value = b"public" if shared else b"no-cache"
        head = learning.parse(response(b"Cache-Control: " + value, b"Content-Length: 0"), 0, b"GET")
        assert isinstance(head, ResponseHead)
        assert head.shared is shared
    for stream in (True, False, True, False):
        value = b"text/event-stream" if stream else b"text/plain"
        head = learning.parse(response(b"Content-Type: " + value), 0, b"GET")
        assert isinstance(head, ResponseHead)
        assert head.event_stream is stream


def test_memos_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "_NAMES_MAX", 8)
    monkeypatch.setattr(fields, "_LINES_MAX", 8)
    monkeypatch.setattr("proxy.http1.response._STATUS_LINES_MAX", 8)
    learning = ResponseParser()
    for number in range(100):
        data = b"HTTP/1.1 200 %d\r\nX-%d: %d\r\nContent-Length: %d\r\n\r\n" % ((number,) * 4)
        assert isinstance(learning.parse(data, 0, b"GET"), ResponseHead)
    assert len(learning._names.known) <= 8
    assert len(learning._lines.ordinary) <= 8
    assert len(learning._lines.known) <= 8
    assert len(learning._starts) <= 8


def test_a_line_without_colon_is_refused_even_if_its_name_is_known() -> None:
    knowing = ResponseParser()
    for name in (b"ETag", b"X", b"Content-Length", b"Connection"):
        assert isinstance(knowing.parse(response(name + b": 1"), 0, b"GET"), ResponseHead)
        assert isinstance(knowing.parse(response(name), 0, b"GET"), Refusal)
