"""Local replies are responses that every reader understands."""

from __future__ import annotations

import json

import h11
import pytest

from proxy.http1.head import ResponseHead
from proxy.http1.reply import MEANINGS, TITLES, local_reply
from proxy.http1.response import ResponseParser
from proxy.ipc.layout import LOCAL_REPLIES

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def test_every_local_reply_is_explained() -> None:
    assert set(MEANINGS) == set(LOCAL_REPLIES)


@pytest.mark.parametrize("status, reason", LOCAL_REPLIES)
def test_every_local_reply_is_a_problem(status: int, reason: str) -> None:
    data = local_reply(status, reason, "What is wrong.", b"id-1", date=DATE, head_only=False, close=True)
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(data)
    head = peer.next_event()
    assert isinstance(head, h11.Response)
    fields = dict(head.headers)
    assert head.status_code == status
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"date"] == DATE
    assert fields[b"x-request-id"] == b"id-1"
    assert fields[b"connection"] == b"close"
    body = peer.next_event()
    assert isinstance(body, h11.Data)
    assert json.loads(body.data) == {
        "type": "about:blank",
        "title": TITLES[status],
        "status": status,
        "detail": "What is wrong.",
        "reason": reason,
        "request_id": "id-1",
    }
    assert isinstance(peer.next_event(), h11.EndOfMessage)


def test_the_answer_to_head_has_the_length_but_not_the_body() -> None:
    whole = local_reply(503, "overload", "x", b"", date=DATE, head_only=False, close=False)
    head_only = local_reply(503, "overload", "x", b"", date=DATE, head_only=True, close=False)
    assert whole.startswith(head_only)
    assert head_only.endswith(b"\r\n\r\n")
    parsed = ResponseParser().parse(head_only, 0, b"HEAD")
    assert isinstance(parsed, ResponseHead)
    assert parsed.keep_alive
    assert b"Content-Length: %d\r\n" % (len(whole) - len(head_only)) in head_only


def test_more_fields_can_be_added() -> None:
    data = local_reply(503, "overload", "x", b"", date=DATE, head_only=True, close=False, fields=b"Retry-After: 1\r\n")
    assert data.endswith(b"\r\nRetry-After: 1\r\n\r\n")


def test_details_are_escaped() -> None:
    data = local_reply(400, "malformed", 'a "b"\r\n\x00é', b"", date=DATE, head_only=False, close=True)
    assert json.loads(data.partition(b"\r\n\r\n")[2])["detail"] == 'a "b"\r\n\x00é'
