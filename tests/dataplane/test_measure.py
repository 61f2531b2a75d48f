"""What is charged to a version, when, and what is not: read from shared memory."""

from __future__ import annotations

import json
import threading

import pytest

from proxy.ipc import layout
from proxy.metrics import hdr
from proxy.routing.table import FULL, Failover, Override, RequestLimits
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import answers, fails, holding, request, response

THRESHOLDS = (100_000, 200_000)  # µs
ROOMY = (400_000, 800_000)  # where an answer has to be faster, also on a busy machine
NEVER = Failover("never")
PART = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"


# ---------------------------------------------------------------- what is counted


def test_codes_errors_and_client_errors(gate):
    codes = [200, 201, 301, 404, 429, 500, 502, 599]
    gate.serve(gate.backend(answers(*(response(code) for code in codes))))
    client = gate.client()
    assert [client.request().status for _ in codes] == codes
    same(lambda: gate.judged(0), (8, {"status": 3}))
    assert all(gate.code(0, code) == 1 for code in codes)
    same(lambda: gate.worker.count(0, layout.VERSION_CLIENT_ERRORS), 2)
    same(lambda: gate.endpoint(0, layout.ENDPOINT_ENDED), 8)
    same(lambda: gate.endpoint(0, layout.ENDPOINT_BAD), 3)


def test_latencies_of_each_kind_are_recorded_once_per_request(gate, release):
    """Total and first byte of the version, and what the user waited."""
    release.set()
    gate.serve(gate.backend(holding(release)))
    client = gate.client()
    for _ in range(5):
        client.request()
    table, _, counters = gate.worker.segments[gate.worker.generation]
    places = layout.counters_layout(table)

    def recorded():
        starts = (
            places.versions[0][0] + layout.VERSION_TOTAL_HDR,
            places.versions[0][0] + layout.VERSION_TTFB_HDR,
            places.services[0] + layout.SERVICE_USER_HDR,
        )
        return [sum(counters.words[at : at + layout.HDR_WORDS]) for at in starts]

    same(recorded, [5, 5, 5])


def test_the_first_byte_and_the_last_are_told_apart(gate):
    def script(peer):
        peer.request()
        peer.send(PART)
        same(lambda: gate.slow(0), 1)
        peer.send(b"x" * 96)
        peer.drain()

    gate.serve(gate.backend(script), thresholds_us=ROOMY)
    gate.client().request()
    same(lambda: gate.ended(0), 1)
    (total,) = gate.latencies(0)
    (first,) = gate.latencies(0, layout.VERSION_TTFB_HDR)
    assert total >= ROOMY[0]
    assert first < ROOMY[0]
    same(lambda: (gate.slow(0), gate.fast(0), gate.fast(0, 2)), (1, 0, 1))


@pytest.mark.slow
def test_what_the_user_waited_has_the_rescue_in_it(gate):
    gate.serve(
        gate.backend(),
        gate.backend(lambda peer: (peer.request(), peer.drain())),
        weight=10_000,
        timeouts=patient(first_byte_s=1.5),
    )
    assert gate.client().request().status == 200
    table, _, counters = gate.worker.segments[gate.worker.generation]
    at = layout.counters_layout(table).services[0] + layout.SERVICE_USER_HDR
    same(lambda: sum(counters.words[at : at + hdr.index(1_400_000)]), 0)
    same(lambda: sum(counters.words[at : at + layout.HDR_WORDS]), 1)
    same(lambda: gate.ended(0), 1)
    assert gate.latencies(0)[0] < 1_400_000


def test_overrides_are_counted_apart(gate):
    override = Override("x-version", ("127.0.0.1/32",))
    gate.serve(gate.backend(), gate.backend(fails()), override=override)
    client = gate.client()
    assert client.request("GET", "/", "X-Version: new").status == 500
    assert client.request("GET", "/", "X-Version: stable").status == 200
    assert client.request("GET", "/", "X-Version: other").status == 200
    assert client.request().status == 200
    same(lambda: gate.judged(0), (2, {}))
    same(lambda: gate.judged(1), (0, {}))
    same(lambda: gate.code(1, 500), 1)
    same(lambda: [gate.worker.count(version, layout.VERSION_OVERRIDES) for version in (0, 1)], [1, 1])
    same(lambda: gate.assigned(1), {"override": 1})
    same(lambda: gate.latencies(1), [])


# ---------------------------------------------------------------- hung requests


def test_hung_requests_count_while_they_hang(gate, release):
    gate.serve(gate.backend(holding(release)), thresholds_us=THRESHOLDS)
    client = gate.client()
    client.send(request())
    same(lambda: gate.slow(0, 0), 1)
    same(lambda: gate.slow(0, 1), 1)
    same(lambda: gate.ended(0), 0)
    same(lambda: gate.in_flight(0), 1)
    assert gate.worker.count(0, layout.VERSION_OLDEST_US) >= 100_000
    release.set()
    assert client.response().status == 200
    same(lambda: gate.ended(0), 1)
    same(lambda: [gate.slow(0, 0), gate.slow(0, 1)], [1, 1])
    same(lambda: [gate.fast(0, 0), gate.fast(0, 1), gate.fast(0, 2)], [0, 0, 1])
    same(lambda: gate.worker.count(0, layout.VERSION_OLDEST_US), 0)


@pytest.mark.parametrize("code", [200, 500])
def test_what_was_dispatched_before_the_gate_opened_again_is_judged_no_more(gate, release, code):
    """Requests of a trial that is over end in the next one: no threshold, no error, no latency of them counts."""
    new = gate.backend(holding(release, then=response(code)), name="new")
    gate.serve(gate.backend(), new, weight=FULL, thresholds_us=THRESHOLDS, failover=NEVER)
    before = gate.client()
    before.send(request())
    eventually(lambda: new.requests, "the request at the endpoint")
    gate.worker.open_again(FULL)
    gate.sweeps(6)
    assert gate.slow(1) == 0
    release.set()
    assert before.response().status == code
    assert gate.client().request().status == code
    same(lambda: gate.judged(1), (1, {"status": 1} if code == 500 else {}))
    assert (gate.slow(1), len(gate.latencies(1))) == (0, 1)
    same(lambda: gate.worker.count(1, layout.VERSION_OVERRIDES), 1)
    assert gate.code(1, code) == 2


def test_users_are_rescued_from_a_trial_that_is_over(gate, release):
    new = gate.backend(holding(release, then=response(500)), name="new")
    gate.serve(gate.backend(), new, weight=FULL)
    client = gate.client()
    client.send(request())
    eventually(lambda: new.requests, "the request at the endpoint")
    gate.worker.open_again(FULL)
    release.set()
    assert client.response().body == b"stable"
    same(lambda: gate.judged(1), (0, {}))
    same(lambda: gate.judged(0), (1, {}))


def test_the_oldest_of_an_old_generation_is_its_own(gate, release):
    gate.serve(gate.backend(holding(release)))
    first = gate.worker.generation
    client = gate.client()
    client.send(request())
    same(lambda: gate.in_flight(0), 1)
    gate.serve(gate.backend())
    oldest = lambda generation: gate.worker.count(0, layout.VERSION_OLDEST_US, generation=generation)
    gate.sweeps(2)
    assert oldest(first) > 0
    assert oldest(gate.worker.generation) == 0
    release.set()
    assert client.response().status == 200


def test_a_hung_request_counts_while_much_waits_behind_it(gate, release):
    """Also when reading from the client stopped."""
    gate.serve(gate.backend(holding(release)), thresholds_us=THRESHOLDS)
    client = gate.client()
    client.send(request() + request("POST", "/", body=b"x" * 300_000))
    same(lambda: gate.slow(0, 1), 1)
    release.set()
    assert [client.response().status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("end", ["close", "reset", "finish"])
def test_leaving_after_a_threshold_takes_nothing_back(gate, release, end):
    stable = gate.backend(holding(release))
    gate.serve(stable, thresholds_us=(50_000, 10_000_000))
    client = gate.client()
    client.send(request())
    same(lambda: gate.slow(0), 1)
    getattr(client, end)()
    same(gate.aborts, 1)
    same(lambda: gate.code(0, 499), 1)
    same(lambda: [gate.slow(0, 0), gate.slow(0, 1), gate.fast(0, 2), gate.ended(0)], [1, 0, 0, 0])


# ---------------------------------------------------------------- clients that leave


def upstream_sees_the_end(backend):
    eventually(lambda: backend.peers and backend.peers[-1].ended, "the upstream's end")


@pytest.mark.parametrize("end", ["close", "reset", "finish"])
@pytest.mark.parametrize("phase", ["waiting", "in the body", "in the answer", "before the last chunk"])
def test_a_client_that_leaves_ends_the_upstream_request(gate, phase, end):
    def script(peer):
        message = peer.head()
        if phase == "in the body":
            peer.drain()
            return
        peer.body(message)
        if phase == "in the answer":
            peer.send(PART)
        elif phase == "before the last chunk":
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        peer.drain()

    stable = gate.backend(script)
    gate.serve(stable, thresholds_us=(10_000_000,))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    if phase != "in the body":
        client.send(b"defghij")
    if phase in {"in the answer", "before the last chunk"}:
        assert client.head().status == 200
    else:
        eventually(lambda: stable.requests, "the head")
    getattr(client, end)()
    upstream_sees_the_end(stable)
    same(gate.aborts, 1)
    same(lambda: gate.code(0, 499), 1)
    same(lambda: gate.judged(0), (0, {}))
    same(lambda: [gate.slow(0), gate.fast(0, 1)], [0, 0])
    gate.finished(0)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_leaves_while_the_endpoint_does_not_read(gate, release, end):
    """uvloop sees neither FIN nor RST while reading is paused."""

    def script(peer):
        peer.head()
        assert release.wait(30)
        peer.drain()

    stable = gate.backend(script)
    gate.serve(stable)
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
    gate.fill(client)
    getattr(client, end)()
    same(gate.aborts, 1)
    gate.finished(0)
    release.set()
    upstream_sees_the_end(stable)
    same(lambda: gate.judged(0), (0, {}))


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_leaves_with_much_waiting(gate, release, end):
    stable = gate.backend(holding(release))
    gate.serve(stable)
    client = gate.client()
    client.send(request() + request("POST", "/", body=b"x" * 100_000))
    eventually(lambda: stable.requests, "the head")
    same(client.unread, 0)
    getattr(client, end)()
    same(gate.aborts, 1)


def test_half_close_may_be_allowed(gate, release):
    stable = gate.backend(holding(release))
    gate.serve(stable, half_close="allow")
    client = gate.client()
    client.send(request("GET", "/1") + request("GET", "/2") + request("GET", "/3"))
    client.finish()
    eventually(lambda: stable.requests, "the first request")
    gate.sweeps(2)
    release.set()
    assert [client.response().status for _ in range(3)] == [200] * 3
    assert client.end() == "eof"
    same(gate.aborts, 0)


def test_half_close_between_two_answers(gate):
    gate.serve(gate.backend(), half_close="allow")
    for _ in range(20):
        client = gate.client()
        client.send(request() * 5)
        client.finish()
        assert [client.response().status for _ in range(5)] == [200] * 5
        assert client.end() == "eof"


@pytest.mark.slow
@pytest.mark.parametrize("tunnel", [False, True])
def test_a_reset_behind_an_allowed_half_close_is_leaving(gate, release, tunnel):
    """uvloop does not see it: it polls no connection from which there is nothing more to read."""

    def script(peer):
        peer.request()
        if tunnel:
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
        peer.drain()
        release.wait(30)

    stable = gate.backend(script)
    gate.serve(stable, half_close="allow")
    client = gate.client()
    client.send(request("GET", "/", *(("Connection: upgrade", "Upgrade: chat") if tunnel else ())))
    eventually(lambda: stable.requests, "the head")
    if tunnel:
        assert client.head().status == 101
    client.finish()
    gate.sweeps(2)
    client.reset()
    gate.finished(0)
    assert not release.is_set()


def test_half_close_in_the_middle_of_a_body_is_leaving(gate):
    stable = gate.backend(lambda peer: (peer.head(), peer.drain()))
    gate.serve(stable, half_close="allow")
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    eventually(lambda: stable.requests, "the head")
    client.finish()
    same(gate.aborts, 1)
    upstream_sees_the_end(stable)


# ---------------------------------------------------------------- deadlines


def test_no_first_byte_in_time(gate):
    stable = gate.backend(lambda peer: (peer.request(), peer.drain()))
    gate.serve(stable, timeouts=patient(first_byte_s=0.15), thresholds_us=THRESHOLDS)
    answer = gate.client().request()
    assert (answer.status, json.loads(answer.body)["reason"]) == (504, "timeout")
    upstream_sees_the_end(stable)
    same(lambda: gate.judged(0), (1, {"timeout": 1}))
    same(lambda: gate.code(0, 504), 1)
    (waited,) = gate.latencies(0)
    assert waited >= 149_000
    same(lambda: [gate.slow(0, 0), gate.fast(0, 0), gate.fast(0, 2)], [1, 0, 1])


@pytest.mark.slow
def test_the_first_byte_is_awaited_from_the_end_of_the_body(gate):
    stable = gate.backend(lambda peer: (peer.request(), peer.drain()))
    gate.serve(stable, timeouts=patient(first_byte_s=0.15))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n")
    for byte in b"abcde":
        gate.sweeps(2)
        client.send(bytes([byte]))
    same(lambda: gate.ended(0), 0)
    client.send(b"f")
    assert client.response("POST").status == 504
    same(lambda: gate.judged(0), (1, {"timeout": 1}))


def test_an_answer_that_stops_is_cut_and_charged(gate):
    stable = gate.backend(lambda peer: (peer.request(), peer.send(PART), peer.drain()))
    gate.serve(stable, timeouts=patient(idle_s=0.1))
    client = gate.client()
    client.send(request())
    client.head()
    assert client.drain() == "eof"
    same(lambda: gate.judged(0), (1, {"timeout": 1}))
    same(lambda: gate.code(0, 200), 1)
    upstream_sees_the_end(stable)


def test_total_time(gate):
    def trickle(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            gate.sweeps(1)
            peer.send(b"x")

    gate.serve(gate.backend(trickle), timeouts=patient(total_s=0.8))
    client = gate.client()
    client.send(request())
    client.head()
    assert client.drain() == "eof"
    same(lambda: gate.judged(0), (1, {"timeout": 1}))
    gate.serve(gate.backend(lambda peer: (peer.request(), peer.drain())), timeouts=patient(total_s=0.1))
    assert gate.client().request().status == 504
    same(lambda: gate.judged(0), (1, {"timeout": 1}))


def test_total_time_taken_by_the_client_is_not_charged(gate):
    gate.serve(gate.backend(), timeouts=patient(total_s=0.15))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    assert client.response("POST").status == 504
    same(lambda: gate.judged(0), (0, {}))


def test_an_upload_that_the_endpoint_does_not_take(gate, release):
    gate.serve(
        gate.backend(lambda peer: (peer.head(), release.wait(30))),
        timeouts=patient(idle_s=0.8),
        limits=RequestLimits(body_idle_timeout_s=0.6),
    )
    client = gate.client()
    whole = request("POST", "/", body=b"x" * 50_000_000)
    uploader = threading.Thread(target=_send_all, args=(client, whole))
    uploader.start()
    answer = client.response("POST")
    assert answer.status == 504
    same(lambda: gate.judged(0), (1, {"timeout": 1}))
    client.drain()
    uploader.join(30)


def _send_all(client, data):
    try:
        client.send(data)
    except OSError:
        return


# ---------------------------------------------------------------- slow clients


@pytest.mark.slow
def test_a_slow_reader_is_never_charged(gate):
    size = 12 * 1024 * 1024
    gate.serve(gate.backend(answers(response(body=b"x" * size))), thresholds_us=(2_000_000, 4_000_000))
    client = gate.client(SO_RCVBUF=64 * 1024)
    client.send(request())
    client.head()
    threading.Event().wait(2.2)  # longer than the threshold
    same(lambda: gate.in_flight(0), 1)
    same(lambda: gate.slow(0), 0)
    client.exactly(size)
    same(lambda: gate.judged(0), (1, {}))
    same(lambda: [gate.slow(0), gate.fast(0)], [0, 1])
    assert gate.latencies(0)[0] < 2_000_000


@pytest.mark.slow
def test_a_client_that_stops_reading_is_let_go_and_nobody_charged(gate):
    stable = gate.backend(answers(response(body=b"x" * 24 * 1024 * 1024)))
    gate.serve(stable, timeouts=patient(idle_s=1.0))
    client = gate.client(SO_RCVBUF=64 * 1024)
    client.send(request())
    client.head()
    same(gate.aborts, 1)
    same(lambda: gate.judged(0), (0, {}))
    upstream_sees_the_end(stable)


@pytest.mark.slow
def test_a_steady_slow_reader_is_not_let_go(gate):
    size = 12 * 1024 * 1024
    gate.serve(gate.backend(answers(response(body=b"x" * size))), timeouts=patient(idle_s=1.2))
    client = gate.client(SO_RCVBUF=16 * 1024)
    client.send(request())
    client.head()
    size -= len(client.buffer)
    pause = threading.Event()
    while size > 0:
        piece = client.sock.recv(48 * 1024)
        assert piece, f"cut {size} bytes before the end"
        size -= len(piece)
        pause.wait(0.006)
    same(lambda: gate.judged(0), (1, {}))


@pytest.mark.slow
def test_a_slow_uploader_is_never_charged(gate):
    gate.serve(gate.backend(), thresholds_us=ROOMY, timeouts=patient(first_byte_s=1.0, idle_s=1.0))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n")
    for byte in b"hello, world":
        gate.sweeps(2)
        client.send(bytes([byte]))
    assert client.response("POST").status == 200
    same(lambda: gate.judged(0), (1, {}))
    same(lambda: [gate.slow(0), gate.fast(0)], [0, 1])


def test_a_slow_uploader_of_an_exchange_that_is_answered_already_is_not_charged(gate):
    """Head of the answer first, then the client's body stalls: the endpoint can do nothing about it."""

    def script(peer):
        message = peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.body(message)

    gate.serve(gate.backend(script), timeouts=patient(idle_s=2.0), limits=RequestLimits(body_idle_timeout_s=0.6))
    client = gate.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    assert client.head().status == 200
    client.drain()
    gate.sweeps(2)
    same(lambda: gate.judged(0), (0, {}))


# ---------------------------------------------------------------- event streams


def test_event_streams_are_left_out_of_the_latencies(gate, release):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n"
    gate.serve(gate.backend(holding(release, head, b"data: 2\n\n")), thresholds_us=THRESHOLDS)
    client = gate.client()
    client.send(request())
    client.head()
    gate.sweeps(6)
    same(lambda: gate.slow(0), 0)
    client.close()
    same(gate.aborts, 1)
    same(lambda: [gate.slow(0), gate.fast(0, 2), gate.latencies(0)], [0, 0, []])


# ---------------------------------------------------------------- memory


@pytest.mark.slow
def test_neither_side_makes_the_worker_hold_much(gate, release):
    """64 MB down to a client that does not read, 64 MB up to an endpoint that does not."""
    gate.alone()
    size = 64 * 1024 * 1024

    def script(peer):
        message = peer.head()
        if message.method == "POST":
            assert release.wait(30)
            peer.body(message)
            peer.send(response())
        else:
            peer.send(response(body=b"x" * size))

    gate.serve(gate.backend(script))
    before = gate.rss()
    down = gate.client(SO_RCVBUF=64 * 1024)
    down.send(request())
    down.head()
    up = gate.client()
    uploader = threading.Thread(target=_send_all, args=(up, request("POST", "/", body=b"x" * size)))
    uploader.start()
    gate.sweeps(6)
    assert gate.rss() - before < 8 * 1024 * 1024
    release.set()
    uploader.join(30)
    assert up.response("POST").status == 200
    assert len(down.exactly(size)) == size
    assert gate.rss() - before < 8 * 1024 * 1024


@pytest.mark.slow
def test_answers_to_pipelined_requests_do_not_pile_up(gate):
    """An answer waits until the client has taken the one before."""
    gate.alone()
    size, count = 100_000, 400
    stable = gate.backend(answers(response(body=b"x" * size)))
    gate.serve(stable, thresholds_us=ROOMY)
    before = gate.rss()
    client = gate.client(SO_RCVBUF=16 * 1024)
    client.send(request() * count)
    client.head()
    gate.sweeps(10)
    assert gate.rss() - before < 8 * 1024 * 1024
    assert len(client.exactly(size)) == size
    for _ in range(count - 1):
        assert len(client.response().body) == size
    same(lambda: gate.judged(0), (count, {}))
    same(lambda: gate.slow(0), 0)
    assert client.request().status == 200


def test_a_client_that_does_not_take_an_answer_gets_no_other(gate):
    """And is let go in the end."""
    gate.alone()
    stable = gate.backend(answers(response(body=b"x" * 100_000)))
    gate.serve(stable, limits=RequestLimits(body_idle_timeout_s=0.2))
    client = gate.client(SO_RCVBUF=16 * 1024)
    client.send(request() * 400)
    client.head()
    eventually(lambda: gate.worker.row(layout.ROW_CONNECTIONS) == 0, "the end of the connection")
    assert len(stable.requests) < 200
