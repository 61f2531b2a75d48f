"""What must hold of any input: the endpoint and the client get what the model allows, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count, pairwise

import h11

from tests.conformance.wire import Seen, read_answers, status_of
from tests.fuzz.model import Meaning, Reading, read_answer, read_requests
from tests.fuzz.passage import Passage

PROBE = b"GET /--probe-- HTTP/1.1\r\nHost: a\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in pieces."""
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(marks)]


def _same(said: Meaning, seen: Seen, *, whole: bool = True) -> None:
    method, target, version = seen.start.split(b" ")
    assert (method, target, version) == (said.method, said.target, b"HTTP/1.1"), (said, seen)
    if said.host is not None:
        assert seen.values(b"host") == [said.host], (said, seen)
    assert seen.whole == whole, (said, seen)
    assert (seen.body == said.body) if whole else said.body.startswith(seen.body), (said, seen)
    if whole:
        assert seen.trailers == said.trailers, (said, seen)


def _as_h11_reads(raw: list[Seen]) -> None:
    """Prove that a third reader takes the same from the heads."""
    for seen in raw:
        peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
        peer.receive_data(b"\r\n".join([seen.start, *seen.lines, b"", b""]))
        event = peer.next_event()
        assert isinstance(event, h11.Request), event
        assert event.method + b" " + event.target + b" HTTP/1.1" == seen.start


def echo(seen: Seen) -> bytes:
    """Return what tells one request from another."""
    return seen.start + b"|" + seen.body[:64]


def echoing(mood: int) -> Callable[[Seen], tuple[list[bytes], bool]]:
    """Return an endpoint that says in its answer what it was asked, framed in ways that `mood` deals."""
    turn = count(mood)

    def reply(seen: Seen) -> tuple[list[bytes], bool]:
        body = b"" if seen.start.startswith(b"HEAD ") else echo(seen)
        kind = next(turn) % 6
        if b"Via: 1.0 tidegate" in seen.lines and kind in {1, 2}:
            kind = 0  # without a length an HTTP/1.0 client's connection ends, which the model does not know
        ok = b"HTTP/1.1 200 OK\r\n"
        if kind == 1:
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b""
            return [ok + b"Transfer-Encoding: chunked\r\n\r\n", chunks], False
        if kind == 2 and body:
            return [ok + b"\r\n", body], True
        whole = ok + b"Content-Length: %d\r\n" % len(echo(seen))
        if kind == 3:
            return [b"HTTP/1.1 103 Hints\r\n\r\n", whole + b"\r\n" + body], False
        if kind == 4:
            return [whole + b"Connection: close\r\n\r\n" + body], True
        if kind == 5:
            return [whole + b"\r\n" + body + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"], False
        return [whole + b"\r\n", body], False

    return reply


def judge_requests(passage: Passage, data: bytes, places: list[int], mood: int = 0) -> Reading:
    """Send `data` as a client; hold what the endpoint got against the model, and every answer against its request."""
    reading = read_requests(data)
    passage.begin_as(echoing(mood))
    transport = passage.send(cut(data, places))
    seen = passage.seen
    assert not passage.faults, passage.faults
    whole = [one for one in seen if one.whole]
    assert len(whole) == len(reading.messages), (reading, seen)
    for said, one in zip(reading.messages, whole, strict=True):
        _same(said, one)
    if len(seen) > len(whole):
        assert len(seen) == len(whole) + 1, seen
        assert reading.begun is not None, (reading, seen)
        _same(reading.begun, seen[-1], whole=False)
    _as_h11_reads(seen)
    last = b"HEAD" if re.match(rb"(?:\r\n)*HEAD ", reading.rest) else b"GET"
    methods = [*reading.asked, last]
    answered_here = len(reading.asked) - len(reading.messages)
    _, answers, rest = read_answers(transport.written, methods, ended=True)
    assert not rest, rest
    assert all(answer.whole for answer in answers)
    refused = [
        answer for answer in answers if b"content-type: application/problem+json" in b"\r\n".join(answer.lines).lower()
    ]
    passed_on = [answer for answer in answers if answer not in refused]
    for said, one, answer in zip(reading.messages, whole, passed_on, strict=True):
        assert answer.body == (b"" if said.method == b"HEAD" else echo(one)), (one, answer)
    assert 0 <= len(refused) - answered_here <= 1, answers
    if reading.end == "wrong":
        assert len(refused) == answered_here + 1, (reading, answers)
        assert refused[-1] is answers[-1], (reading, answers)
        assert transport.closed or transport.ended
    elif reading.end == "closed":
        assert transport.closed or transport.ended
    elif reading.end == "clean":
        assert len(refused) == answered_here, answers
        assert not transport.closed
    # An unfinished message may be known to be wrong already, or not yet.
    passage.leave(transport)
    assert not passage.faults, passage.faults
    return reading


def judge_answer(passage: Passage, data: bytes, method: bytes, places: list[int], *, old: bool = False) -> Reading:
    """Have an endpoint answer `data` and close; hold what the client got against the model."""
    reading = read_answer(data, method)
    passage.begin(cut(data, places), ends=True)
    version = b"HTTP/1.0" if old else b"HTTP/1.1"
    transport = passage.send([method + b" / " + version + b"\r\nHost: a\r\n\r\n"])
    assert not passage.faults, passage.faults
    if not passage.seen:
        raise AssertionError("nothing reached the endpoint")
    interims, answers, rest = read_answers(transport.written, [method], ended=not transport.aborted)
    assert len(answers) == 1, answers
    assert not rest or not answers[0].whole, rest
    answer = answers[0]
    if old:
        assert not interims
    if reading.end == "clean":
        said = reading.messages[0]
        assert status_of(answer) == said.status, (said, answer)
        assert answer.whole, answer
        assert answer.body == said.body, (said, answer)
        if not old:
            assert answer.trailers == said.trailers, (said, answer)
            assert len(interims) == reading.interims
    elif reading.begun is None:
        assert status_of(answer) == 502, answer
    else:
        assert status_of(answer) in {502, reading.begun.status}, answer
        if status_of(answer) == reading.begun.status != 502:
            # Whatever came of it, the client must see that it is not all.
            assert not answer.whole, answer
            assert transport.closed or transport.ended
            assert reading.begun.body.startswith(answer.body), (reading, answer)
    # Nothing of it may be left for the next one.
    if not transport.closed and not transport.ended:
        before = len(transport.written)
        passage.begin([b"HTTP/1.1 299 Fresh\r\nContent-Length: 5\r\n\r\nfresh"])
        transport.protocol.data_received(PROBE)
        passage.turn()
        assert transport.written[before:].startswith(b"HTTP/1.1 299 Fresh\r\n"), transport.written[before:]
        assert transport.written.endswith(b"\r\n\r\nfresh")
    passage.leave(transport)
    assert not passage.faults, passage.faults
    return reading
