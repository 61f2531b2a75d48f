"""What the corpus cannot say of the request parser: limits, memos, cost, and what it never tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http1 import fields
from proxy.http1.head import Refusal, RequestHead
from proxy.http1.request import RequestParser


def parser(*watch: bytes, head: int = 1000, target: int = 100, count: int = 10) -> RequestParser:
    return RequestParser(head, target, count, frozenset(watch))


def accepted(data: bytes, *watch: bytes, trusted: bool = False) -> RequestHead:
    head = parser(*watch).parse(data, 0, trusted)
    assert isinstance(head, RequestHead), head
    return head


def request(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines, b"", b""])


def test_begins_at_start_and_says_where_the_head_ends() -> None:
    data = b"junk" + request() + b"body"
    head = parser().parse(data, 4, trusted=False)
    assert isinstance(head, RequestHead)
    assert data[head.end :] == b"body"


def test_no_bytes_are_no_mistake() -> None:
    assert parser().parse(b"", 0, trusted=False) is None
    assert parser().parse(b"\r\n\r", 0, trusted=False) is None


def test_where_nothing_has_to_go_the_block_is_the_received_head() -> None:
    data = request(b"X:  a", b"y:b ", b"Cookie: a=b")
    assert accepted(data).block == data[:-2]


@pytest.mark.parametrize("size, fits", [(1000, True), (1001, False)])
def test_head_limit_is_exact(size: int, fits: bool) -> None:
    data = request(b"X: " + b"y" * (size - len(request(b"X: "))))
    assert len(data) == size
    head = parser().parse(data, 0, trusted=False)
    assert isinstance(head, RequestHead) if fits else head.status == 431


@pytest.mark.parametrize("size, fits", [(100, True), (101, False)])
def test_target_limit_is_exact(size: int, fits: bool) -> None:
    head = parser().parse(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * (size - 1)), 0, trusted=False)
    assert isinstance(head, RequestHead) if fits else head.status == 414


@pytest.mark.parametrize("count, fits", [(10, True), (11, False)])
def test_field_limit_is_exact(count: int, fits: bool) -> None:
    head = parser().parse(request(*[b"X: y"] * (count - 1)), 0, trusted=False)
    assert isinstance(head, RequestHead) if fits else head.status == 431


def test_a_head_that_never_ends_is_refused_when_it_is_too_large() -> None:
    data = request(b"X: ")[:-4]
    sizes = [size for size in range(1, 1200) if parser().parse(data + b"y" * size, 0, trusted=False) is not None]
    assert len(data) + sizes[0] == 1000


def test_a_request_line_that_never_ends_is_refused_when_its_target_is_too_long() -> None:
    assert parser().parse(b"GET /" + b"x" * 100, 0, trusted=False) is None
    refusal = parser().parse(b"GET /" + b"x" * 120, 0, trusted=False)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 414


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n",
        b"GET / HTTP/1.1\r\nHost: a\rb",
        b"GET / HTTP/1.1\r\nX: \0",
        b"GET /\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"\0",
        b"{",
        b" G",
        b"\n",
        b"\rG",
        b"G" * 65,
        b"G@",
        b"\r\n" * 5,
    ],
)
def test_what_cannot_become_a_request_is_refused_before_its_end(data: bytes) -> None:
    refusal = parser().parse(data, 0, trusted=False)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason) == (400, "malformed")


def test_details_never_repeat_what_was_received() -> None:
    for line in (b"secretname (x): 1", b"secretname", b"Content-Length: secret", b"Transfer-Encoding: secret"):
        refusal = parser().parse(request(line), 0, trusted=False)
        assert isinstance(refusal, Refusal)
        assert "secret" not in repr(refusal)


def test_the_place_of_a_bad_field_is_named() -> None:
    refusal = parser().parse(request(b"X: y", b"Y : z"), 0, trusted=False)
    assert isinstance(refusal, Refusal)
    assert refusal.detail == "Field 3 of the head has whitespace between its name and the colon."


def test_watched_names_are_found_in_any_case_and_the_first_value_counts() -> None:
    data = request(b"X-USER:  bob ", b"x-user: eve", b"Other: x")
    assert accepted(data, b"x-user", b"absent").found == {b"x-user": b"bob"}
    assert accepted(data).found is None


@pytest.mark.parametrize(
    "name, value",
    [(b"host", b"a"), (b"cookie", b"a=b"), (b"x-forwarded-for", b"1.2.3.4"), (b"authorization", b"x")],
)
def test_names_with_a_meaning_can_be_watched_too(name: bytes, value: bytes) -> None:
    data = request(b"Cookie: a=b", b"X-Forwarded-For: 1.2.3.4", b"Authorization: x")
    plain, watching = accepted(data), accepted(data, name)
    assert watching.found == {name: value}
    assert watching.block == plain.block
    assert watching.cookie == plain.cookie


def test_a_watched_field_is_found_at_every_request() -> None:
    watching = parser(b"x-user")
    for value in (b"a", b"a", b"b"):
        head = watching.parse(request(b"X-User: " + value), 0, trusted=False)
        assert isinstance(head, RequestHead)
        assert head.found == {b"x-user": value}


def test_a_line_without_colon_is_refused_even_if_its_name_is_known() -> None:
    knowing = parser()
    assert isinstance(knowing.parse(request(b"X: y"), 0, trusted=False), RequestHead)
    assert isinstance(knowing.parse(request(b"X"), 0, trusted=False), Refusal)


def test_memos_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "_NAMES_MAX", 8)
    monkeypatch.setattr(fields, "_LINES_MAX", 8)
    monkeypatch.setattr("proxy.http1.request._STARTS_MAX", 8)
    learning = parser()
    for number in range(100):
        data = b"GET /%d HTTP/1.1\r\nHost: a%d\r\nX-%d: %d\r\nConnection: c%d\r\n\r\n" % ((number,) * 5)
        assert isinstance(learning.parse(data, 0, trusted=False), RequestHead)
    assert len(learning._names.known) <= 8
    assert len(learning._lines.ordinary) <= 8
    assert len(learning._lines.known) <= 8
    assert len(learning._starts) <= 8


def test_secrets_and_long_lines_are_not_kept() -> None:
    learning = parser()
    secrets = (b"Authorization: Basic s3cret", b"X-Api-Key: s3cret", b"Cookie: a=s3cret", b"X: s3cret" + b"y" * 250)
    assert isinstance(learning.parse(request(*secrets), 0, trusted=False), RequestHead)
    assert not any(b"s3cret" in line for line in (*learning._lines.ordinary, *learning._lines.known))


def test_a_query_is_not_kept() -> None:
    learning = parser()
    learning.parse(b"GET /?token=s3cret HTTP/1.1\r\nHost: a\r\n\r\n", 0, trusted=False)
    assert not learning._starts


names = st.sampled_from([b"A", b"b", b"X-C", b"Keep-Alive", b"X-Forwarded-For", b"Cookie", b"TE"])
values = st.sampled_from([b"", b" x", b"\ty ", b" tidegate=abcdefghijklmnopqrstuv", b" trailers"])


@given(st.lists(st.tuples(names, values), max_size=8))
def test_other_fields_keep_bytes_and_order(pairs: list[tuple[bytes, bytes]]) -> None:
    lines = [name + b":" + value for name, value in pairs]
    head = accepted(request(*lines))
    kept = [line for line in lines if line.startswith((b"A:", b"b:", b"X-C:"))]
    assert [line for line in head.block.split(b"\r\n") if line in kept] == kept
