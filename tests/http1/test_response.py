"""What the corpus cannot say of the response parser: limits, memos, early refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


# ---------------------------------------------------------------- watched fields


def found(*lines: bytes, watch: tuple[bytes, ...] = (b"X-Cache", b"age"), status: bytes = b"200 OK") -> object:
    """What is found in a response, twice: the second time the parser knows its lines."""
    watching = ResponseParser(watch=frozenset(watch))
    data = b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])
    heads = [watching.parse(data, 0, b"GET") for _ in range(2)]
    values = [head.found for head in heads if isinstance(head, ResponseHead)]
    assert values[0] == values[1]
    return values[0]


@pytest.mark.parametrize(
    "lines, expected",
    [
        ([b"X-Cache: HIT"], {b"x-cache": b"HIT"}),
        ([b"x-CACHE:\tHit from edge 1 ", b"Content-Length: 0"], {b"x-cache": b"Hit from edge 1"}),
        ([b"Server: x", b"Age: 17", b"X-Cache:"], {b"x-cache": b"", b"age": b"17"}),
        ([b"X-Cache: MISS", b"X-Cache: HIT"], {b"x-cache": b"MISS"}),
        ([b"X-Cache : HIT"], {b"x-cache": b"HIT"}),
        ([b"X-X-Cache: HIT", b"Ages: 1", b"Y: X-Cache: HIT"], None),
        ([b"Connection: x-cache", b"X-Cache: HIT", b"Age: 1"], {b"age": b"1"}),
        ([], None),
    ],
)
def test_watched_fields_are_found(lines: list[bytes], expected: object) -> None:
    assert found(*lines) == expected


def test_any_field_can_be_watched_that_the_client_gets() -> None:
    lines = [b"Cache-Control: public", b"Content-Type: text/plain", b"Content-Length: 0", b'ETag: "1"']
    watch = (b"cache-control", b"content-type", b"content-length", b"etag", b"connection")
    values = {b"cache-control": b"public", b"content-type": b"text/plain", b"content-length": b"0", b"etag": b'"1"'}
    assert found(*lines, b"Connection: close", watch=watch) == values


def test_interim_responses_say_nothing() -> None:
    assert found(b"X-Cache: HIT", status=b"103 Early Hints") is None


def test_watching_changes_nothing_else() -> None:
    data = response(b"Content-Length: 4", b"X-Cache : HIT", b"Connection: close", b"Cache-Control: public")
    plain, watching = (
        ResponseParser(watch=watch).parse(data, 0, b"GET") for watch in (frozenset[bytes](), frozenset({b"x-cache"}))
    )
    assert isinstance(plain, ResponseHead)
    assert isinstance(watching, ResponseHead)
    assert plain.found is None
    for name in ResponseHead.__slots__:
        assert name in {"found", "parser"} or getattr(plain, name) == getattr(watching, name)


@given(st.lists(st.sampled_from([b"X-Cache: a", b"x-cache:b", b"X-Cache : c", b"Age: 1", b"Via: x", b"A: x-cache: d"])))
def test_what_is_found_is_what_a_naive_reading_finds(lines: list[bytes]) -> None:
    naive: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        naive.setdefault(name.rstrip().lower(), value.strip())
    wanted = {name: naive[name] for name in (b"x-cache", b"age") if name in naive}
    assert found(*lines) == (wanted or None)
