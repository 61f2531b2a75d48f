"""Bodies in very many chunks: they pass whole, a bit at a time, and hold up nobody else."""

from __future__ import annotations

import contextlib
import threading

import pytest

from proxy.dataplane import turns
from proxy.dataplane.turns import Turns
from proxy.routing.table import InFlight
from tests.dataplane.conftest import patient
from tests.dataplane.harness import eventually, same
from tests.dataplane.test_framing import CHUNKED
from tests.dataplane.wire import Ended, request, response

POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = bytes(range(256)) * 100
# Every byte a chunk of its own; some lines are unusual.
CODED = b"".join(
    b"1%b\r\n%c\r\n" % ((b"", b";", b" ;a", b";" + b"a" * 20, b"\t" * 12)[number % 5], byte)
    for number, byte in enumerate(BODY)
)
BLOCK = bytes(range(255)) * 400
BLOCK_CODED = b"".join(b"f\r\n%b\r\n" % BLOCK[at : at + 15] for at in range(0, len(BLOCK), 15))
MANY = 5000  # chunks: more than are taken at once


def sizes(peer):
    """Return how large the chunks of a body are, and the body."""
    found, parts = [], []
    while size := int(peer.until(b"\r\n"), 16):
        found.append(size)
        parts.append(peer.exactly(size + 2)[:-2])
    while peer.until(b"\r\n") != b"\r\n":
        pass
    return found, b"".join(parts)


# ---------------------------------------------------------------- turns


class Loop:
    """A loop that a test turns."""

    def __init__(self):
        self.soon = []

    def call_soon(self, callback):
        self.soon.append(callback)

    def turn(self):
        callbacks, self.soon = self.soon, []
        for callback in callbacks:
            callback()


class Worker:
    """One with some turns left; a turn takes a millisecond."""

    def __init__(self, name, left, clock):
        self.name, self.left, self.clock = name, left, clock
        self.aborted = False

    def take_turn(self):
        self.clock.now += 1_000_000
        self.clock.taken.append(self.name)
        if not self.left:
            raise ValueError(self.name)
        self.left -= 1
        return self.left > 0

    def abort(self):
        self.aborted = True


class Clock:
    def __init__(self):
        self.now, self.taken, self.errors = 0, [], []


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(turns, "monotonic_ns", lambda: clock.now)
    return clock


def test_turns_are_taken_to_the_end_by_one_after_the_other(clock):
    loop = Loop()
    all_turns = Turns(loop, clock.errors.append)
    a, b = Worker("a", 3, clock), Worker("b", 2, clock)
    all_turns.add(a)
    all_turns.add(b)
    all_turns.add(a)
    while loop.soon:
        loop.turn()
    assert "".join(clock.taken) == "aaabb"


def test_a_round_of_turns_is_short_however_many_wait(clock):
    loop = Loop()
    all_turns = Turns(loop, clock.errors.append)
    for number in range(100):
        all_turns.add(Worker(str(number), 20, clock))
    rounds = 0
    while loop.soon:
        before = clock.now
        loop.turn()
        rounds += 1
        assert clock.now - before <= 6_000_000
    assert len(clock.taken) == 2000
    assert rounds >= 300


def test_who_comes_after_all_are_done_waits_for_the_next_round(clock):
    loop = Loop()
    all_turns = Turns(loop, clock.errors.append)
    for _ in range(2):
        all_turns.add(Worker("a", 1, clock))
        loop.turn()
        assert loop.soon == []
    assert clock.taken == ["a", "a"]


def test_whose_turn_raises_is_ended_and_holds_up_nobody(clock):
    loop = Loop()
    all_turns = Turns(loop, clock.errors.append)
    broken, sound = Worker("a", 0, clock), Worker("b", 2, clock)
    all_turns.add(broken)
    all_turns.add(sound)
    while loop.soon:
        loop.turn()
    all_turns.add(Worker("c", 1, clock))
    while loop.soon:
        loop.turn()
    assert "".join(clock.taken) == "abbc"
    assert [str(error) for error in clock.errors] == ["a"]
    assert (broken.aborted, sound.aborted) == (True, False)


# ---------------------------------------------------------------- requests


def test_a_request_passes_whole_and_a_bit_at_a_time(gate):
    seen = []

    def script(peer):
        while True:
            if peer.head().get("Transfer-Encoding"):
                seen.append(sizes(peer))
            peer.send(response())

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    for _ in range(2):  # over a fresh upstream connection, then over a reused one
        client.send(POST + CODED + b"0\r\nX: y\r\n\r\n" + request("GET", "/next"))
        assert client.response().status == 200
        assert client.response().status == 200
    assert [whole for _, whole in seen] == [BODY, BODY]
    assert max(max(found) for found, _ in seen) <= MANY
    assert [one.target for one in backend.requests] == ["/", "/next"] * 2
    assert len(backend.peers) == 1
    same(lambda: gate.judged(0), (4, {}))


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [True, False])
def test_a_request_waits_for_an_endpoint_that_does_not_take_it(gate, release, deaf):
    seen = []

    def script(peer):
        peer.head()
        assert deaf or release.wait(30)
        seen.append(sizes(peer)[1])
        peer.send(response())

    backend = gate.backend(script)
    gate.serve(gate.slow_to_accept(backend) if deaf else backend, timeouts=patient())
    client = gate.client()
    client.send(POST)
    blocks = gate.fill(client, BLOCK_CODED) // len(BLOCK_CODED)
    assert blocks
    if deaf:
        gate.accept_now(backend)
    release.set()
    client.send(b"0\r\n\r\n")
    assert client.response().status == 200
    assert seen == [BLOCK * blocks]
    same(lambda: gate.judged(0), (1, {}))


def test_a_request_waits_in_the_queue_before_a_limit(gate, release):
    seen = []

    def script(peer):
        while True:
            if peer.head().get("Transfer-Encoding"):
                seen.append(sizes(peer)[1])
            assert release.wait(30)
            peer.send(response())

    gate.serve(gate.backend(script), in_flight=InFlight(version=1, queue=5, wait_s=30))
    first, second = gate.client(), gate.client()
    first.send(request())
    eventually(lambda: gate.in_flight(0), "a request in flight")
    second.send(POST)
    blocks = gate.fill(second, BLOCK_CODED) // len(BLOCK_CODED)
    release.set()
    second.send(b"0\r\n\r\n" + request("GET", "/next"))
    assert first.response().status == 200
    assert [second.response().status for _ in range(2)] == [200, 200]
    assert seen == [BLOCK * blocks]
    same(lambda: gate.judged(0), (3, {}))


def test_a_fault_far_behind_ends_the_exchange_and_is_nobodys(gate):
    def script(peer):
        peer.head()
        peer.drain()

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    client.send(POST + CODED + b"x\r\n")
    assert client.response().status == 400
    assert client.end() == "eof"
    same(lambda: (backend.open, gate.judged(0)), (0, (0, {})))


def test_a_client_that_leaves_while_a_part_waits_is_gone_for_the_endpoint(gate):
    def script(peer):
        peer.head()
        peer.drain()

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    client.send(POST + CODED)
    client.reset()
    same(lambda: (len(backend.peers) - backend.open, gate.code(0, 499)), (1, 1))


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"])
def test_an_answer_passes_whole_and_a_bit_at_a_time(gate, end):
    def script(peer):
        while True:
            peer.request()
            peer.send(CHUNKED + CODED + end)

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    for _ in range(3):
        client.send(request())
        assert client.head().status == 200
        found, body = sizes(client)
        assert body == BODY
        assert max(found) <= MANY
    assert len(backend.peers) == 1
    same(lambda: gate.judged(0), (3, {}))


def test_an_answer_waits_for_a_client_that_does_not_take_it(gate):
    sent = []
    stuck = threading.Event()

    def script(peer):
        peer.request()
        peer.send(CHUNKED)
        peer.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                sent.append(peer.sock.send(BLOCK_CODED[sum(sent) % len(BLOCK_CODED) :]))
        stuck.set()
        peer.sock.settimeout(30)
        peer.send(BLOCK_CODED[sum(sent) % len(BLOCK_CODED) :] + b"0\r\n\r\n")

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(request())
    client.head()
    assert stuck.wait(30)
    found, body = sizes(client)
    assert body == BLOCK * (sum(sent) // len(BLOCK_CODED) + 1)
    assert max(found) <= 15 * MANY
    same(lambda: gate.judged(0), (1, {}))


def test_an_answer_that_breaks_far_behind_is_cut_and_charged(gate):
    def script(peer):
        peer.request()
        peer.send(CHUNKED + CODED + b"x\r\n")
        peer.drain()

    gate.serve(gate.backend(script))
    client = gate.client()
    client.send(request())
    client.head()
    with pytest.raises(Ended):
        sizes(client)
    same(lambda: gate.judged(0), (1, {"protocol": 1}))


def test_an_event_stream_in_very_many_chunks_ends_with_its_client(gate):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + CODED)
        peer.drain()

    backend = gate.backend(script)
    gate.serve(backend)
    client = gate.client()
    client.send(request())
    client.head()
    client.reset()
    same(lambda: len(backend.peers) - backend.open, 1)
    gate.finished(0)
