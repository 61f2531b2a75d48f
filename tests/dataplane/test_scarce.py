"""A worker whose descriptors are all taken: nobody else is charged for it, and it can still be led."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import socket
import threading
from pathlib import Path

import pytest

from proxy.ipc import layout
from proxy.routing.table import InFlight, RequestLimits
from tests.dataplane.conftest import IDLE, Gate
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.wire import LINGER_ZERO, Client, answers, holding, request, response


def taken(pid):
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def lowest_free(pid):
    open_now = taken(pid)
    return next(number for number in itertools.count() if number not in open_now)


def kept_back(pid):
    """Return the worker's spare descriptors."""
    return {number for number in taken(pid) if str(Path(f"/proc/{pid}/fd/{number}").readlink()) == "/dev/null"}


def reset(sock):
    """Close without TIME_WAIT: 10,000 of them would slow down every look into /proc/net/tcp for a minute."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    sock.close()


def cpu_s(pid):
    """Return the CPU time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def allow_many():
    """Let this process, and the worker that it starts, have 10,000 connections; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 15_000:
        pytest.skip(f"at most {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield 10_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def allow(lone):
    """Let the lone worker have so many open files; return when it knows."""
    pid = lone.worker.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def allow(count):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))
        lone.sweeps(60)  # it looks every second, and sweeps at most twice in 50 ms

    return allow


@pytest.fixture
def crowded(lone):
    """Leave the lone worker no descriptor beyond those that are open."""
    pid = lone.worker.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def crowd():
        lone.worker.expect("released", generation=lone.worker.generation - 1)  # it would give descriptors back
        # Clients fill the gaps first: what the worker gives up of its own must be below the limit.
        while (free := lowest_free(pid)) < max(kept_back(pid)):
            accepted = lone.worker.row(layout.ROW_ACCEPTED)
            lone.client()
            eventually(lambda accepted=accepted: lone.worker.row(layout.ROW_ACCEPTED) > accepted)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))

    yield crowd
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_for_an_endpoint_is_our_own_fault(lone, crowded):
    lone.serve(lone.refused(), lone.backend(answers(response())), weight=10_000)
    client = lone.client()
    eventually(lambda: lone.worker.row(layout.ROW_CONNECTIONS))
    crowded()
    answer = client.request()
    assert (answer.status, answer.get("x-tidegate-version")) == (503, None)
    same(lone.local_replies, {(503, "overload"): 1})
    assert lone.judged(0) == lone.judged(1) == (0, {})
    assert lone.in_flight(1) == 0
    eventually(lambda: [one for one in lone.worker.hear() if "requests are refused (503)" in one.get("text", "")])


@pytest.mark.slow
def test_a_worker_without_descriptors_takes_the_next_generation(lone, crowded):
    backend = lone.backend(answers(response(), response()))
    lone.serve(backend)
    client = lone.client()
    assert client.request().status == 200
    crowded()
    for _ in range(3):
        lone.serve(backend)
    beat = lone.worker.row(layout.ROW_BEAT)
    eventually(lambda: lone.worker.row(layout.ROW_BEAT) > beat + 60)  # it looks at itself every second
    assert lone.worker.process_count(layout.PROCESS_INTERNAL_ERRORS) == 0
    assert client.request().status == 200


@pytest.mark.slow
def test_an_endpoint_for_which_no_descriptor_is_left_is_called_again_when_there_is(lone, crowded):
    lone.serve(lone.backend(answers(response())))
    client = lone.client()
    eventually(lambda: lone.worker.row(layout.ROW_CONNECTIONS))
    crowded()
    assert client.request().status == 503
    pid = lone.worker.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, hard))
    assert client.request().status == 200
    lone.sweeps(60)
    assert lone.client().request().status == 200  # accepting was held for a moment


@pytest.mark.slow
def test_a_neighbours_queue_is_adopted_as_soon_as_there_is_a_descriptor_for_it():
    beat = layout.row(1) + layout.ROW_BEAT
    stop = threading.Event()
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.listen(64)
        worker = LoneWorker(IDLE, neighbour=theirs)

        worker.board.words[layout.row(1) + layout.ROW_ACCEPTING] = layout.ACCEPTING

        def live():
            while not stop.wait(0.02):
                worker.board.words[beat] += 1

        neighbour = threading.Thread(target=live)
        neighbour.start()
        gate = Gate(worker)
        try:
            gate.serve(gate.backend())
            worker.expect("released", generation=worker.generation - 1)
            pid = worker.process.pid
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free(pid), hard))
            stop.set()
            worker.expect("notice")  # it is silent for a second, and there is no descriptor to accept with
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            for port in (theirs.getsockname()[1], worker.port):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                    assert Client(sock).request().status == 200
            gate.close()
        finally:
            stop.set()
            neighbour.join()
            worker.close()


@pytest.mark.slow
def test_clients_wait_for_descriptors_and_nothing_spins(lone, allow):
    """Those that are connected are served, the others wait in the accept queue and are served when there is room."""
    # With all of them at once even the descriptors for endpoints would not do: a limit makes them wait.
    lone.serve(lone.backend(answers(response())), in_flight=InFlight(version=20, queue=200, wait_s=30.0))
    pid = lone.worker.process.pid
    allow(160)
    clients = [lone.client() for _ in range(200)]
    eventually(lambda: max(taken(pid)) >= 160 - 48)
    lone.worker.expect("notice")
    lone.sweeps(2)
    accepted = lone.worker.row(layout.ROW_ACCEPTED)
    lone.sweeps(10)
    assert lone.worker.row(layout.ROW_ACCEPTED) < accepted + 5  # not one per sweep, until there is no descriptor at all
    for client in clients:
        client.send(request())
    begin = cpu_s(pid)
    lone.sweeps(40)
    assert cpu_s(pid) - begin < 1.0  # of two seconds; a loop that spins takes them all
    assert lone.worker.row(layout.ROW_CONNECTIONS) < 120
    served = 0
    waiting = {client.sock: client for client in clients}
    while waiting:
        readable, _, _ = select.select(list(waiting), [], [], 30)
        assert readable, f"{len(waiting)} still wait"
        for sock in readable:
            client = waiting.pop(sock)
            assert client.response().status == 200
            client.close()
            served += 1
    assert served == 200
    same(lambda: lone.worker.row(layout.ROW_ACCEPTED), 200)


@pytest.mark.slow
def test_connections_that_rest_are_given_up_for_clients_who_wait(lone, allow, release):
    """Those of another endpoint have taken the upper descriptors: nobody is refused for them, nor cut off."""
    busy, other = lone.backend(holding(release)), lone.backend(answers(response()))
    lone.serve(busy, other)
    lone.worker.expect("released", generation=lone.worker.generation - 1)
    pid = lone.worker.process.pid
    allow(160)
    crowd = (160 - len(taken(pid))) // 2  # each takes a descriptor, and one for the endpoint: then none is left
    first = [lone.client() for _ in range(crowd)]
    same(lambda: lone.worker.row(layout.ROW_ACCEPTED), crowd)
    for client in first:
        client.send(request())
    same(lambda: len(busy.peers), crowd)
    lone.serve(busy, other, weight=10_000, in_flight=InFlight(version=20, queue=200, wait_s=30.0))
    release.set()
    for client in first:
        assert client.response().status == 200
    for client in first:
        client.close()
    clients = [lone.client() for _ in range(3 * crowd)]
    lone.worker.expect("notice")
    lone.sweeps(10)
    for client in clients:
        client.send(request())
    waiting = {client.sock: client for client in clients}
    while waiting:
        readable, _, _ = select.select(list(waiting), [], [], 30)
        assert readable, f"{len(waiting)} still wait"
        for sock in readable:
            client = waiting.pop(sock)
            assert client.response().status == 200
            client.close()
    same(lambda: lone.worker.row(layout.ROW_ACCEPTED), 4 * crowd)
    assert lone.local_replies() == {}


def test_too_many_connections_are_told_so(gate):
    gate.serve(gate.backend(answers(response())), limits=RequestLimits(connections=3))
    clients = [gate.client() for _ in range(3)]
    assert all(client.request().status == 200 for client in clients)
    for _ in range(5):
        extra = gate.client()
        answer = extra.response()
        assert (answer.status, answer.get("Retry-After"), answer.get("Connection")) == (503, "1", "close")
        assert extra.end() == "eof"
        extra.close()
    assert all(client.request().status == 200 for client in clients)
    clients.pop().close()
    same(lambda: gate.worker.row(layout.ROW_CONNECTIONS), 2)
    assert gate.client().request().status == 200


@pytest.mark.slow
def test_ten_thousand_slow_heads(allow_many, lone):
    """Whoever never finishes a head gets 408 in time, a steady trickle buys none, and others are served meanwhile."""
    lone.serve(lone.backend(answers(response())), limits=RequestLimits(header_timeout_s=4.0))
    good = lone.client()
    assert good.request().status == 200
    slow = []
    for _ in range(allow_many):
        slow.append(socket.create_connection(("127.0.0.1", lone.worker.port), timeout=30))
        slow[-1].sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-")
    assert good.request().status == 200
    for sock in slow:
        with contextlib.suppress(OSError):
            sock.sendall(b"a")
    for number, sock in enumerate(slow):
        assert sock.recv(65536).startswith(b"HTTP/1.1 408 ")
        reset(sock)
        if number % 1000 == 0:
            assert good.request().status == 200
    same(lone.local_replies, {(408, "head_timeout"): allow_many})
    same(lambda: lone.worker.row(layout.ROW_CONNECTIONS), 1)


@pytest.mark.slow
def test_memory_does_not_grow_with_connections_that_came_and_went(allow_many, lone):
    lone.serve(
        lone.backend(answers(response())), limits=RequestLimits(header_timeout_s=200.0, keepalive_timeout_s=200.0)
    )
    held = []
    for _ in range(3):
        socks = [socket.create_connection(("127.0.0.1", lone.worker.port), timeout=30) for _ in range(allow_many)]
        for sock in socks:
            sock.sendall(request())
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        same(lambda: lone.worker.row(layout.ROW_CONNECTIONS), allow_many)
        held.append(lone.rss())
        for sock in socks:
            reset(sock)
        same(lambda: lone.worker.row(layout.ROW_CONNECTIONS), 0)
    assert held[-1] - held[0] < 4 * 1024**2
