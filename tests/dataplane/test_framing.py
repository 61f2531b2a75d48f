"""Messages pass whole, in every framing, both ways."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from email.utils import parsedate_to_datetime

import pytest

from proxy.routing.table import RequestLimits
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import Ended, answers, request, response

BIG = bytes(range(256)) * 12_000  # 3 MB, no two neighbouring reads alike
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(body, size, tail=b"0\r\n\r\n"):
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x;ext=%d\r\n%b\r\n" % (len(part), len(part), part) for part in parts) + tail


def digest(peer):
    """Answer with the hash and size of the body that came."""
    while True:
        message = peer.request()
        peer.send(response(body=f"{hashlib.sha256(message.body).hexdigest()} {len(message.body)}".encode()))


def is_digest_of(body, answer):
    return answer.body == f"{hashlib.sha256(body).hexdigest()} {len(body)}".encode()


# ---------------------------------------------------------------- responses


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 64 * 1024 + 1, len(BIG)])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_response_bodies(gate, framing, size):
    body = BIG[:size]

    def script(peer):
        peer.request()
        if framing == "length":
            peer.send(response(body=body))
        elif framing == "chunked":
            peer.send(CHUNKED + chunks(body, 7000))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            peer.finish()
        peer.drain()

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    answer = client.request()
    assert answer.body == body
    assert answer.framing == ("length" if framing == "length" else "chunked")
    same(lambda: gate.judged(0), (1, {}))
    if framing != "close":
        gate.serve(gate.backend())
        assert client.request().body == b"stable"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_responses_to_http_1_0_clients_are_not_chunked(gate, framing, keep_alive):
    body = BIG[:100_000]

    def script(peer):
        peer.request()
        if framing == "length":
            peer.send(response(body=body))
        elif framing == "chunked":
            peer.send(CHUNKED + chunks(body, 999, b"0\r\nX-Trailer: lost\r\n\r\n"))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            peer.finish()
        peer.drain()

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(b"GET / HTTP/1.0\r\n" + (b"Connection: keep-alive\r\n" if keep_alive else b"") + b"\r\n")
    answer = client.response()
    assert answer.body == body
    assert answer.framing == ("length" if framing == "length" else "close")
    kept = keep_alive and framing == "length"
    assert answer.get("Connection") == ("keep-alive" if kept else "close")
    if not kept:
        assert client.end() == "eof"


def test_trailers_pass_both_ways_and_extensions_do_not(gate):
    def script(peer):
        message = peer.request()
        assert message.body == b"hello world"
        assert message.trailers == [("X-Sum", "1"), ("X-Sum", "2")]
        peer.send(b"HTTP/1.1 200 OK\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.send(b'5;a="q;\\"";b\r\nhello\r\n0;last\r\nX-End: yes\r\nContent-Length: 9\r\n\r\n')

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.send(head + b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\nHost: b\r\n\r\n")
    answer = client.response("POST")
    assert answer.body == b"hello"
    assert answer.trailers == [("X-End", "yes")]
    assert answer.get("Trailer") == "x-end"
    assert stable.requests[0].get("TE") == "trailers"
    assert stable.requests[0].get("Connection") == "TE"


@pytest.mark.parametrize(
    "status, lines", [(204, ()), (304, ("Content-Length: 77",)), (304, ("ETag: x",)), (204, ("Content-Length: 0",))]
)
def test_statuses_without_a_body(gate, status, lines):
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    gate.serve(gate.backend(answers(head.encode(), response())))
    client = gate.client()
    answer = client.request()
    assert (answer.status, client.buffer) == (status, b"")
    assert answer.get("Transfer-Encoding") is None
    if status == 204:
        assert answer.get("Content-Length") is None
    assert client.request().body == b"ok"


def test_an_answer_without_a_date_gets_one(gate):
    """RFC 9110 §6.6.1."""
    theirs = "Sun, 06 Nov 1994 08:49:37 GMT"
    gate.serve(gate.backend(answers(response(), response(200, f"Date: {theirs}"), response(200, f"dATE: {theirs}"))))
    client = gate.client()
    dates = [[value for name, value in client.request().fields if name.lower() == "date"] for _ in range(3)]
    assert dates[1:] == [[theirs], [theirs]]
    assert len(dates[0]) == 1
    assert parsedate_to_datetime(dates[0][0]).year > 2000


def test_205_and_other_empty_answers(gate):
    gate.serve(gate.backend(answers(response(205, body=b""), response(299, body=b""), response(700, body=b"?"))))
    client = gate.client()
    assert [client.request().status for _ in range(3)] == [205, 299, 700]
    same(lambda: gate.judged(0), (3, {"status": 1}))


@pytest.mark.parametrize("lines", ["Content-Length: 5000\r\n", "Transfer-Encoding: chunked\r\n", ""])
def test_answers_to_head_have_no_body(gate, lines):
    gate.serve(gate.backend(answers(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode())))
    client = gate.client()
    for _ in range(2):
        answer = client.request("HEAD")
        assert answer.status == 200
        assert answer.get("Content-Length") == ("5000" if "Length" in lines else None)
    client.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.sock.recv(1)


def test_an_endpoint_that_sends_a_body_to_head_is_not_used_again(gate):
    stable = gate.backend(lambda peer: (peer.request(), peer.send(response(body=b"surprise")), peer.drain()))
    gate.serve(stable)
    client = gate.client()
    assert client.request("HEAD").get("Content-Length") == "8"
    assert client.request("HEAD").get("Content-Length") == "8"
    assert len(stable.peers) == 2


@pytest.mark.parametrize("lines", ["Content-Length: 41", "Transfer-Encoding: chunked"])
def test_an_endpoint_that_announces_a_body_with_204_is_not_used_again(gate, lines):
    """What it announced may come late, as the answer to the next request."""

    def script(peer):
        peer.request()
        peer.send(f"HTTP/1.1 204 No Content\r\n{lines}\r\n\r\n".encode())
        peer.drain()

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    assert [client.request().status for _ in range(2)] == [204, 204]
    assert len(stable.peers) == 2


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    "whole", [response(body=b"abc"), CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", response(body=b"abc" * 20_000)]
)
def test_bytes_behind_an_answer_are_never_anybodys(gate, whole, later):
    def script(peer):
        peer.request()
        if later:
            peer.send(whole)
            client_got.wait(30)
            peer.send(response(500, body=b"poison"))
        else:
            peer.send(whole + response(500, body=b"poison"))
        peer.drain()

    client_got = threading.Event()
    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    assert client.request().body[:3] == b"abc"
    client_got.set()
    eventually(lambda: stable.peers[0].ended, "the upstream's end")
    assert client.request().body[:3] == b"abc"
    assert len(stable.peers) == 2
    same(lambda: gate.judged(0), (2, {}))


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("size", [1, 64 * 1024, 64 * 1024 + 1, len(BIG)])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_request_bodies(gate, framing, size):
    body = BIG[:size]
    stable = gate.backend(digest)
    gate.serve(stable)
    client = gate.client()
    for _ in range(2):  # over a fresh upstream connection, then over a reused one
        if framing == "length":
            client.send(request("POST", "/", body=body))
        else:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(body, 9000))
        assert is_digest_of(body, client.response("POST"))
    assert stable.requests[0].framing == framing
    assert len(stable.peers) == 1
    same(lambda: gate.judged(0), (2, {}))


def test_both_bodies_stream_at_the_same_time(gate):
    """An endpoint may answer while it reads: neither side waits for the other's end."""

    def script(peer):
        peer.head()
        peer.send(CHUNKED)
        while (size := int(peer.until(b"\r\n"), 16)) > 0:
            peer.send(b"%x\r\n%b" % (size, peer.exactly(size + 2)))
        peer.until(b"\r\n")
        peer.send(b"0\r\n\r\n")

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.head().status == 200
    for number in range(20):
        word = b"ping%02d" % number
        client.send(b"6\r\n" + word + b"\r\n")
        assert client.until(b"\r\n") == b"6\r\n"
        assert client.exactly(8) == word + b"\r\n"
    client.send(b"0\r\n\r\n")
    assert client.until(b"0\r\n\r\n") == b"0\r\n\r\n"
    same(lambda: gate.judged(0), (1, {}))


# ---------------------------------------------------------------- interim responses and expectations


def test_interim_responses_pass(gate):
    gate.serve(
        gate.backend(
            answers(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
                + response(body=b"final")
            )
        )
    )
    client = gate.client()
    answer = client.request()
    assert [one.status for one in answer.interims] == [103, 102]
    assert answer.interims[0].get("Link") == "</a.css>"
    assert answer.body == b"final"
    client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    answer = client.response()
    assert (answer.interims, answer.body) == ([], b"final")


def test_a_flood_of_interim_responses_is_refused(gate):
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"

    def flood(peer):
        peer.request()
        with contextlib.suppress(OSError):
            peer.send(hint * 100_000)
        peer.drain()

    gate.serve(gate.backend(flood))
    answer = gate.client().request()
    assert answer.status == 502
    assert len(answer.interims) < 100_000
    same(lambda: gate.bad(0), {"protocol": 1})


def test_tiny_interim_responses_count_for_more_than_their_size(gate):
    """Each costs microseconds, however small it is."""
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    gate.serve(gate.backend(answers(hint * 128 + response(), hint * 129 + response())))
    answer = gate.client().request()
    assert (answer.status, len(answer.interims)) == (200, 128)
    assert gate.client().request().status == 502
    same(lambda: gate.judged(0), (2, {"protocol": 1}))


def test_interim_responses_are_counted_for_each_request_alone(gate):
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"a" * 30_000 + b">\r\n\r\n"
    stable = gate.backend(answers(hint + response()))
    gate.serve(stable)
    client = gate.client()
    for _ in range(4):
        answer = client.request()
        assert (answer.status, len(answer.interims)) == (200, 1)
    assert len(stable.peers) == 1


def test_a_100_by_the_endpoint_lets_the_body_come(gate):
    def script(peer):
        message = peer.head()
        assert message.get("Expect") == "100-continue"
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.body(message)
        peer.send(response(body=message.body))

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    client.send(b"hello")
    assert client.response("POST").body == b"hello"


def test_an_early_final_answer_to_an_expectation(gate):
    stable = gate.backend(lambda peer: (peer.head(), peer.send(response(417, body=b"no")), peer.drain()))
    gate.serve(stable)
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    answer = client.response("POST")
    assert (answer.status, answer.body, answer.get("Connection")) == (417, b"no", "close")
    assert client.end() == "eof"
    eventually(lambda: stable.peers[0].ended, "the upstream's end")


def test_an_endpoint_that_ignores_the_expectation(gate):
    stable = gate.backend(digest)
    gate.serve(stable)
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    eventually(lambda: stable.requests, "the head")
    client.send(b"hello")
    assert is_digest_of(b"hello", client.response("POST"))


EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n%b\r\n\r\n"
FRAMINGS = [b"Content-Length: 5", b"Transfer-Encoding: chunked"]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_an_endpoint_that_leaves_an_expectation_unanswered_is_charged(gate, framing, said):
    gate.serve(
        gate.backend(lambda peer: (peer.head(), peer.send(said), peer.drain())),
        limits=RequestLimits(body_idle_timeout_s=30),
        timeouts=patient(first_byte_s=0.3),
    )
    client = gate.client()
    client.send(EXPECTING % framing)
    answer = client.response("POST")
    assert (answer.status, json.loads(answer.body)["reason"]) == (504, "timeout")
    assert client.end() == "eof"
    same(lambda: gate.judged(0), (1, {"timeout": 1}))


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_expectation_that_has_most_of_the_total_time_is_charged(gate, framing):
    gate.serve(
        gate.backend(lambda peer: (peer.head(), peer.drain())),
        limits=RequestLimits(body_idle_timeout_s=30),
        timeouts=patient(total_s=0.5),
    )
    client = gate.client()
    client.send(EXPECTING % framing)
    assert client.response("POST").status == 504
    same(lambda: gate.judged(0), (1, {"timeout": 1}))


@pytest.mark.slow
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_client_that_was_told_to_send_its_body_and_does_not_is_at_fault(gate, framing):
    gate.serve(
        gate.backend(lambda peer: (peer.head(), peer.send(b"HTTP/1.1 100 Continue\r\n\r\n"), peer.drain())),
        limits=RequestLimits(body_idle_timeout_s=1.4),
        timeouts=patient(first_byte_s=1.0),
    )
    client = gate.client()
    client.send(EXPECTING % framing)
    answer = client.response("POST")
    assert (answer.status, [one.status for one in answer.interims]) == (408, [100])
    same(lambda: gate.judged(0), (0, {}))


def test_so_is_one_that_began_to_send_without_being_told(gate):
    backend = gate.backend(lambda peer: (peer.head(), peer.drain()))
    gate.serve(backend, limits=RequestLimits(body_idle_timeout_s=0.5), timeouts=patient(first_byte_s=30))
    client = gate.client()
    client.send(EXPECTING % FRAMINGS[1] + b"5\r\n")
    assert client.response("POST").status == 408
    same(lambda: gate.judged(0), (0, {}))


def test_another_expectation_is_refused(gate):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    client.send(request("GET", "/", "Expect: 200-maybe"))
    assert client.response().status == 417
    assert stable.peers == []


def test_an_expectation_of_an_http_1_0_client_is_ignored(gate):
    stable = gate.backend(digest)
    gate.serve(stable)
    client = gate.client()
    client.send(b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
    assert is_digest_of(b"hello", client.response("POST"))
    assert stable.requests[0].get("Expect") is None


def test_an_answer_before_the_end_of_the_body(gate):
    """The client gets it whole, though it is still sending; nothing of what it sends then is a request."""
    stable = gate.backend(lambda peer: (peer.head(), peer.send(response(401, body=b"who?")), peer.drain()))
    gate.serve(stable)
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 100)
    answer = client.response("POST")
    assert (answer.status, answer.body, answer.get("Connection")) == (401, b"who?", "close")
    client.send(request() * 100)
    assert client.end() == "eof"
    assert len(stable.requests) == 1
    same(lambda: gate.judged(0), (1, {}))


def test_an_endpoint_that_answers_early_and_closes_with_rst(gate):
    """Its answer counts, also when a write of the body meets the reset first."""

    def script(peer):
        peer.until(b"\r\n\r\n")
        peer.send(response(413, "Connection: close", body=b"no"))
        peer.close()

    gate.serve(gate.backend(script))
    for _ in range(40):
        client = gate.client()
        with contextlib.suppress(OSError):
            client.send(request("POST", "/", body=b"x" * 600_000))
        assert client.response("POST").status == 413
    same(lambda: gate.judged(0), (40, {}))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_malformed_heads_never_reach_an_endpoint(gate, head):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    client.send(head)
    answer = client.response()
    assert answer.status == 400
    assert answer.get("Content-Type") == "application/problem+json"
    assert answer.get("Connection") == "close"
    problem = json.loads(answer.body)
    assert (problem["status"], problem["reason"]) == (400, "malformed")
    assert problem["request_id"] == answer.get("X-Request-Id")
    assert client.end() == "eof"
    assert stable.peers == []
    same(lambda: gate.judged(0), (0, {}))
    same(gate.local_replies, {(400, "malformed"): 1})


@pytest.mark.parametrize(
    "head, status, reason",
    [
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501, "connect"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "coding"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "http_version"),
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "head_too_large"),
    ],
)
def test_other_refusals(gate, head, status, reason):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    client.send(head)
    answer = client.response()
    assert (answer.status, json.loads(answer.body)["reason"]) == (status, reason)
    assert client.drain() == "eof"
    assert stable.peers == []
    same(gate.local_replies, {(status, reason): 1})


def test_a_malformed_chunk_ends_the_exchange_and_is_nobodys_fault(gate):
    stable = gate.backend(lambda peer: (peer.head(), peer.drain()))
    gate.serve(stable)
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    eventually(lambda: stable.requests, "the head")
    client.send(b"zz\r\n")
    assert client.response("POST").status == 400
    assert client.end() == "eof"
    eventually(lambda: stable.peers[0].ended, "the upstream's end")
    same(lambda: gate.judged(0), (0, {}))


def test_a_body_over_the_limit(gate):
    stable = gate.backend(lambda peer: (peer.head(), peer.drain()))
    gate.serve(stable, limits=RequestLimits(body=1000))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)
    assert client.response("POST").status == 413
    assert client.end() == "eof"
    assert stable.peers == []
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b"x" * 1001, 501))
    assert client.response("POST").status == 413
    assert client.end() == "eof"
    same(lambda: gate.judged(0), (0, {}))
    same(lambda: gate.in_flight(0), 0)
    same(gate.local_replies, {(413, "body_too_large"): 2})


def test_a_client_that_sends_all_of_a_refused_body_gets_the_answer(gate):
    """A close with unread input would reset the connection, and the answer with it."""
    gate.serve(gate.backend(), limits=RequestLimits(body=1000))
    client = gate.client()
    client.send(request("POST", "/", body=b"x" * 16_000_000))
    assert client.response("POST").status == 413
    assert client.end() == "eof"


@pytest.mark.slow
def test_a_slow_reader_gets_all_of_an_answer_that_came_early(gate):
    size = 6_000_000

    def script(peer):
        peer.head()
        peer.send(response(body=b"x" * size))
        peer.drain()

    gate.serve(gate.backend(script))
    client = gate.client(SO_RCVBUF=16 * 1024)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    client.head()
    left = size - len(client.buffer)
    pause = threading.Event()
    while left > 0:
        piece = client.sock.recv(24 * 1024)
        assert piece, f"cut {left} bytes before the end"
        left -= len(piece)
        pause.wait(0.004)


# ---------------------------------------------------------------- what endpoints get wrong


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
def test_malformed_answers(gate, answer):
    stable = gate.backend(lambda peer: (peer.request(), peer.send(answer), peer.drain()))
    gate.serve(stable)
    client = gate.client()
    reply = client.request()
    assert reply.status == 502
    assert json.loads(reply.body)["reason"] == "protocol"
    eventually(lambda: stable.peers[0].ended, "the upstream's end")
    same(lambda: gate.judged(0), (1, {"protocol": 1}))
    same(lambda: gate.code(0, 502), 1)
    gate.serve(gate.backend())
    assert client.request().status == 200


@pytest.mark.parametrize("http10", [False, True])
@pytest.mark.parametrize(
    "part, kind",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "reset"),
        (CHUNKED + b"4\r\nhalf\r\n", "reset"),
        (CHUNKED + b"4\r\nhalf\r\nzz\r\n", "protocol"),
        (CHUNKED + b"4\r\nhalf\r\n0\r\n", "reset"),
    ],
)
@pytest.mark.parametrize("pause", [False, True])
def test_a_body_cut_short_is_seen_as_cut(gate, part, kind, http10, pause):
    def script(peer):
        peer.request()
        if pause:
            peer.send(part[:-2])
            head_there.wait(30)
            peer.send(part[-2:])
        else:
            peer.send(part)
        peer.close()

    head_there = threading.Event()
    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n" if http10 else request())
    if pause:
        head = client.head()
        head_there.set()
        end = client.drain()
    else:
        try:
            head = client.head()
            end = client.drain()
        except Ended as early:  # a reset may take the head with it
            head, end = None, early.how
    if http10 and b"chunked" in part:
        assert end == "reset"  # a FIN would say that this was all
    else:
        assert head is not None
        assert head.get("Content-Length") or head.get("Transfer-Encoding")
        assert end == "eof"
    same(lambda: gate.judged(0), (1, {kind: 1}))
    same(lambda: gate.code(0, 200), 1)


def test_an_endpoint_that_closes_within_the_head(gate):
    gate.serve(gate.backend(lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 O"), peer.close())))
    answer = gate.client().request()
    assert answer.status == 502
    same(lambda: gate.judged(0), (1, {"protocol": 1}))
