"""A head that repeats the one before it on its connection, or its fields, is judged as if it were the first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http1.head import RequestHead, ResponseHead
from proxy.http1.request import RequestParser
from proxy.http1.response import ResponseParser
from tests.http1.reading import FIELD_LIMIT, HEAD_LIMIT, TARGET_LIMIT, WATCH, Case, attributes, corpus, is_response

REQUESTS = [case for verdict in ("accept", "reject") for case in corpus(verdict) if not is_response(case)]
RESPONSES = [case for verdict in ("accept", "reject") for case in corpus(verdict) if is_response(case)]
STARTS = (
    b"GET / HTTP/1.1",
    b"POST /other HTTP/1.1",
    b"GET /with?a=query HTTP/1.1",
    b"GET / HTTP/1.0",
    b"OPTIONS * HTTP/1.1",
    b"GET http://elsewhere.example:81/path HTTP/1.1",
    b"GET  / HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"GET /\x01 HTTP/1.1",
    b"",
)


def parser():
    return RequestParser(HEAD_LIMIT, TARGET_LIMIT, FIELD_LIMIT, WATCH)


def judged(found):
    if found is None:
        return None
    if isinstance(found, RequestHead | ResponseHead):
        return found.end, attributes(found)
    return (found.status, found.reason, found.detail)


def same(first: bytes, second: bytes, trusted: bool) -> bool:
    """Judge `second` behind `first` and alone; return whether there was a head to remember."""
    shared = parser()
    last = shared.parse(first, 0, trusted)
    if not isinstance(last, RequestHead):
        return False
    assert judged(shared.parse(second, 0, trusted, last)) == judged(parser().parse(second, 0, trusted))
    return True


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.name)
def test_the_same_fields_under_any_start_line(case: Case) -> None:
    line, _, rest = case.send.partition(b"\r\n")
    for start in (line, *STARTS):
        same(case.send, start + b"\r\n" + rest, case.trusted)


@settings(max_examples=4 * settings().max_examples)
@given(st.sampled_from(REQUESTS), st.sampled_from(REQUESTS), st.booleans())
def test_any_two_messages(first: Case, second: Case, trusted: bool) -> None:
    same(first.send, second.send, trusted)


def test_a_repeated_head_is_remembered_at_all() -> None:
    first = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nCookie: tidegate=x; b=c\r\nX-User: u\r\n\r\n"
    shared = parser()
    last = shared.parse(first, 0, False)
    again = shared.parse(first.replace(b"/a", b"/b?c"), 0, False, last)
    assert isinstance(again, RequestHead)
    assert again.fields is last.fields
    assert again.block == b"GET /b?c HTTP/1.1\r\nHost: a\r\nCookie: b=c\r\nX-User: u\r\n"


def test_another_parser_judges_anew() -> None:
    """After a reload other fields may be watched."""
    message = b"GET / HTTP/1.1\r\nHost: a\r\nX-Other: u\r\n\r\n"
    last = parser().parse(message, 0, False)
    watching = RequestParser(HEAD_LIMIT, TARGET_LIMIT, FIELD_LIMIT, frozenset({b"x-other"}))
    assert watching.parse(message, 0, False, last).found == {b"x-other": b"u"}


def test_the_head_limit_holds() -> None:
    fields = b"\r\nHost: a\r\nX: " + b"x" * 100 + b"\r\n\r\n"
    small = RequestParser(len(fields) + 20, 100, 10)
    last = small.parse(b"GET / HTTP/1.1" + fields, 0, False)
    assert small.parse(b"GET /" + b"y" * 50 + b" HTTP/1.1" + fields, 0, False, last).status == 431


def test_the_whole_head_again_is_the_same_head() -> None:
    message = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
    shared = parser()
    last = shared.parse(message, 0, False)
    assert shared.parse(message + message, 0, False, last) is last


def test_a_head_behind_an_empty_line_is_not_where_the_next_one_is() -> None:
    message = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
    assert same(b"\r\n" + message, message, False)


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def same_response(first: bytes, second: bytes, methods: tuple[bytes, bytes], start: int = 0) -> None:
    shared = ResponseParser()
    last = shared.parse(first, start, methods[0])
    if isinstance(last, ResponseHead):
        again = shared.parse(second, 0, methods[1], last)
        assert judged(again) == judged(ResponseParser().parse(second, 0, methods[1]))


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.name)
def test_the_same_response_head_again(case: Case) -> None:
    for methods in ((b"GET", b"GET"), (b"GET", b"HEAD"), (b"HEAD", b"GET"), (b"HEAD", b"HEAD")):
        same_response(case.send, case.send, methods)
        same_response(case.send, case.send + b"x", methods)
        same_response(INTERIM + case.send, case.send, methods, len(INTERIM))


@settings(max_examples=2 * settings().max_examples)
@given(st.sampled_from(RESPONSES), st.sampled_from(RESPONSES))
def test_any_two_responses(first: Case, second: Case) -> None:
    same_response(first.send, second.send, (b"GET", b"GET"))


def test_a_repeated_response_head_is_remembered_at_all() -> None:
    message = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    shared = ResponseParser()
    last = shared.parse(message, 0, b"GET")
    assert shared.parse(message, 0, b"GET", last) is last
    assert ResponseParser().parse(message, 0, b"GET", last) is not last
