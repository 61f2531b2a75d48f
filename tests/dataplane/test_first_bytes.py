"""Limits on first bytes: slow ones count while nothing comes, the others as soon as something does."""

from __future__ import annotations

from proxy.ipc import layout
from tests.dataplane.conftest import patient
from tests.dataplane.harness import same
from tests.dataplane.wire import fails, holding, request

THRESHOLDS = (100_000, 200_000)  # µs
ROOMY = (400_000, 800_000)  # where an answer has to be faster, also on a busy machine
PART = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"


def first_bytes(gate, version=0):
    """Attempts slower than each threshold of first bytes, those within each, and those beyond the last."""
    slow = [gate.ttfb_slow(version, index) for index in range(2)]
    within = [gate.worker.count(version, layout.VERSION_TTFB_WITHIN + index) for index in range(3)]
    return slow, within


def test_a_hung_first_byte_counts_while_it_hangs(gate, release):
    gate.serve(gate.backend(holding(release)), ttfb_thresholds_us=THRESHOLDS)
    client = gate.client()
    client.send(request())
    same(lambda: gate.ttfb_slow(0), 1)
    same(lambda: first_bytes(gate), ([1, 1], [0, 0, 0]))
    assert gate.ended(0) == 0
    release.set()
    assert client.response().status == 200
    same(lambda: gate.ended(0), 1)
    assert first_bytes(gate) == ([1, 1], [0, 0, 1])
    assert [gate.slow(0), gate.fast(0)] == [0, 1]  # no limit on the whole: the first class takes all
    assert len(gate.latencies(0, layout.VERSION_TTFB_HDR)) == 1


def test_a_first_byte_within_its_limit_counts_before_a_long_answer_ends(gate, release):
    gate.serve(gate.backend(holding(release, PART, b"x" * 96)), ttfb_thresholds_us=ROOMY, thresholds_us=THRESHOLDS)
    client = gate.client()
    client.send(request())
    same(lambda: first_bytes(gate), ([0, 0], [1, 0, 0]))
    same(lambda: gate.slow(0, 1), 1)
    assert len(gate.latencies(0, layout.VERSION_TTFB_HDR)) == 1
    assert gate.ended(0) == 0
    release.set()
    client.response()
    same(lambda: gate.ended(0), 1)
    assert first_bytes(gate) == ([0, 0], [1, 0, 0])
    assert len(gate.latencies(0, layout.VERSION_TTFB_HDR)) == 1


def test_a_late_first_byte_of_a_long_answer_is_in_its_class(gate, release):
    gate.serve(gate.backend(holding(release, b"", PART)), ttfb_thresholds_us=(50_000, 10_000_000))
    client = gate.client()
    client.send(request())
    same(lambda: first_bytes(gate), ([1, 0], [0, 0, 0]))
    release.set()
    client.head()
    same(lambda: first_bytes(gate), ([1, 0], [0, 1, 0]))
    client.close()
    same(gate.aborts, 1)
    assert first_bytes(gate) == ([1, 0], [0, 1, 0])


def test_leaving_before_the_first_byte_takes_nothing_back(gate, release):
    gate.serve(gate.backend(holding(release)), ttfb_thresholds_us=(50_000, 10_000_000))
    client = gate.client()
    client.send(request())
    same(lambda: gate.ttfb_slow(0), 1)
    client.close()
    same(gate.aborts, 1)
    assert first_bytes(gate) == ([1, 0], [0, 0, 0])


def test_a_timeout_before_the_first_byte_is_a_first_byte_at_its_value(gate):
    stable = gate.backend(lambda peer: (peer.request(), peer.drain()))
    gate.serve(stable, timeouts=patient(first_byte_s=0.15), ttfb_thresholds_us=(100_000, 2_000_000))
    assert gate.client().request().status == 504
    same(lambda: first_bytes(gate), ([1, 0], [0, 1, 0]))
    (waited,) = gate.latencies(0, layout.VERSION_TTFB_HDR)
    assert waited >= 149_000


def test_a_failure_without_a_first_byte_is_none(gate):
    gate.serve(gate.refused(), ttfb_thresholds_us=THRESHOLDS)
    assert gate.client().request().status == 502
    same(lambda: gate.judged(0), (1, {"connect": 1}))
    assert first_bytes(gate) == ([0, 0], [0, 0, 0])
    assert gate.latencies(0, layout.VERSION_TTFB_HDR) == []


def test_a_rescued_answer_had_a_first_byte_and_the_rescue_its_own(gate):
    gate.serve(gate.backend(), gate.backend(fails()), weight=10_000, ttfb_thresholds_us=ROOMY)
    assert gate.client().request().status == 200
    same(lambda: gate.ended(0), 1)
    assert [first_bytes(gate, version) for version in (0, 1)] == [([0, 0], [1, 0, 0])] * 2


def test_event_streams_are_left_out_of_the_first_bytes(gate, release):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
    gate.serve(gate.backend(holding(release, head, b"data: 2\n\n")), ttfb_thresholds_us=THRESHOLDS)
    client = gate.client()
    client.send(request())
    client.head()
    gate.sweeps(6)
    assert first_bytes(gate) == ([0, 0], [0, 0, 0])
