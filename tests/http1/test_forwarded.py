"""What goes to the next hop has one reading: ours, h11's, and ours again."""

from __future__ import annotations

import random
import re

import h11
import pytest

from proxy.http1.fields import FIELD_BYTES
from proxy.http1.head import CHUNKED, Refusal, RequestHead, ResponseHead
from proxy.http1.request import RequestParser
from proxy.http1.response import ResponseParser
from tests.http1.mutation import mutate
from tests.http1.reading import (
    FIELD_LIMIT,
    HEAD_LIMIT,
    REQUESTS,
    RESPONSES,
    TARGET_LIMIT,
    WATCH,
    Case,
    corpus,
    is_response,
)

ALL = [case for case in [*corpus("accept"), *corpus("reject")] if len(case.send) < 1500]
REQUEST_CASES = [case for case in ALL if not is_response(case)]
RESPONSE_CASES = [case for case in ALL if is_response(case)]
NEVER_FORWARDED = {
    b"expect",
    b"forwarded",
    b"http2-settings",
    b"keep-alive",
    b"proxy-connection",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"x-request-id",
}


def fields_of(block: bytes) -> list[tuple[bytes, bytes]]:
    lines = block.split(b"\r\n")[1:-1]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]


def with_host(head: RequestHead) -> bytes:
    return head.block + (b"" if head.host_line else b"Host: a\r\n") + b"\r\n"


def check_request(head: RequestHead) -> None:
    block = head.block
    count = block.count(b"\r\n")
    assert block.translate(None, FIELD_BYTES) == b"\r\n" * count
    assert block.startswith(head.method + b" " + head.target + b" HTTP/1.1\r\n")
    fields = fields_of(block)
    names = [name for name, _ in fields]
    assert not NEVER_FORWARDED & set(names)
    assert names.count(b"host") == (1 if head.host_line else 0)
    assert head.host_line in block
    assert not head.host_line or head.host_line[5:].strip(b" \t\r\n") == head.host
    assert [value for name, value in fields if name == b"content-length"] == (
        [b"%d" % head.length] if b"content-length" in names else []
    )
    assert [value for name, value in fields if name == b"transfer-encoding"] == (
        [b"chunked"] if head.length == CHUNKED else []
    )
    assert head.length <= 0 or b"content-length" in names
    assert [value for name, value in fields if name == b"upgrade"] == ([head.upgrade] if head.upgrade else [])
    connection = [value for name, value in fields if name == b"connection"]
    assert connection in ([], [b"TE"], [b"upgrade"], [b"upgrade, TE"])
    assert (b"upgrade" in b"".join(connection)) == (head.upgrade != b"")

    # Max-Forwards is the one field that every reading counts down.
    counted = re.sub(rb"(?i)\r\nmax-forwards:", b"\r\nX-Counted:", with_host(head))
    again = REQUESTS.parse(counted, 0, trusted=False)
    assert isinstance(again, RequestHead)
    assert again.block == counted[:-2]
    for name in ("method", "target", "path", "length", "upgrade", "cookie"):
        assert getattr(again, name) == getattr(head, name)
    assert again.minted == b""

    theirs = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
    theirs.receive_data(with_host(head))
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (head.method, head.target)
    assert list(event.headers) == fields_of(with_host(head)[:-2])


def check_response(head: ResponseHead, method: bytes) -> None:
    block = head.block
    assert block.translate(None, FIELD_BYTES) == b"\r\n" * block.count(b"\r\n")
    assert block.startswith(b"HTTP/1.1 %d " % head.status)
    fields = fields_of(block)
    names = [name for name, _ in fields]
    assert not {b"transfer-encoding", b"keep-alive", b"proxy-connection"} & set(names)
    assert (b"upgrade" in names) <= (head.status in {101, 426})
    assert names.count(b"content-length") <= 1
    assert head.length <= 0 or (b"content-length", b"%d" % head.length) in fields
    framing = b"Transfer-Encoding: chunked\r\n" if head.length == CHUNKED else b""
    again = RESPONSES.parse(block + framing + b"\r\n", 0, method)
    assert isinstance(again, ResponseHead)
    assert again.block == block
    assert (again.status, again.length, again.shared, again.event_stream, again.upgrade) == (
        head.status,
        head.length,
        head.shared,
        head.event_stream,
        head.upgrade,
    )
    if head.status != 101:
        theirs = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 17)
        theirs.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        theirs.send(h11.EndOfMessage())
        theirs.receive_data(block + framing + b"\r\n")
        event = theirs.next_event()
        assert isinstance(event, h11.InformationalResponse | h11.Response)
        assert event.status_code == head.status
        assert list(event.headers) == fields_of(block + framing)


@pytest.mark.parametrize("case", [case for case in REQUEST_CASES if case.heads], ids=lambda case: case.name)
def test_every_accepted_request_is_forwarded_unambiguously(case: Case) -> None:
    head = REQUESTS.parse(case.send, 0, trusted=False)
    assert isinstance(head, RequestHead)
    check_request(head)


@pytest.mark.parametrize("case", [case for case in RESPONSE_CASES if case.heads], ids=lambda case: case.name)
def test_every_accepted_response_is_forwarded_unambiguously(case: Case) -> None:
    head = RESPONSES.parse(case.send, 0, case.to)
    assert isinstance(head, ResponseHead)
    check_response(head, case.to)


def forward_mutations(count: int, seed: int) -> None:
    chance = random.Random(seed)
    requests, responses = ([case.send for case in cases] for cases in (REQUEST_CASES, RESPONSE_CASES))
    for _ in range(count):
        data = mutate(chance.choice(requests), chance, requests)
        request = REQUESTS.parse(data, 0, trusted=False)
        if isinstance(request, RequestHead):
            check_request(request)
        case = chance.choice(RESPONSE_CASES)
        data = mutate(case.send, chance, responses)
        response = RESPONSES.parse(data, 0, case.to)
        if isinstance(response, ResponseHead):
            check_response(response, case.to)


def test_mutated_messages_are_forwarded_unambiguously() -> None:
    forward_mutations(5_000, seed=3)


@pytest.mark.slow
def test_many_mutated_messages_are_forwarded_unambiguously() -> None:
    forward_mutations(80_000, seed=4)


def opinion(head: RequestHead | ResponseHead | Refusal | None) -> object:
    if isinstance(head, RequestHead | ResponseHead):
        return [getattr(head, name) for name in head.__slots__ if name != "parser"]
    return head and head.detail


def test_what_was_learned_changes_no_judgement() -> None:
    """Parsers that have seen the whole corpus and its mutations say the same as fresh ones."""
    chance = random.Random(5)
    requests, responses = ([case.send for case in cases] for cases in (REQUEST_CASES, RESPONSE_CASES))
    for number in range(4_000):
        case = chance.choice(REQUEST_CASES)
        data = mutate(case.send, chance, requests) if number % 2 else case.send
        fresh_requests = RequestParser(HEAD_LIMIT, TARGET_LIMIT, FIELD_LIMIT, WATCH)
        trusted = chance.random() < 0.5
        assert opinion(fresh_requests.parse(data, 0, trusted)) == opinion(REQUESTS.parse(data, 0, trusted))
        case = chance.choice(RESPONSE_CASES)
        data = mutate(case.send, chance, responses) if number % 2 else case.send
        assert opinion(ResponseParser().parse(data, 0, case.to)) == opinion(RESPONSES.parse(data, 0, case.to))
