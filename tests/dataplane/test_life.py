"""A worker's life: generations, drain, the loss of its supervisor, handover, neighbours, the access log."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from proxy.dataplane.accesslog import FIELDS
from proxy.ipc import channel, layout
from proxy.ipc.segment import Segment
from proxy.routing.table import AccessLog, Drain, Failover, Override, RequestLimits, RoutingTable
from tests.dataplane.conftest import Gate, patient, service
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.wire import Client, answers, fails, request, response

NEVER = Failover("never")


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


def waits(release, body=b"late"):
    def script(peer):
        while True:
            peer.request()
            assert release.wait(30)
            peer.send(response(body=body))

    return script


# ---------------------------------------------------------------- generations


def test_an_exchange_ends_in_the_generation_it_began_in(gate, release):
    worker = gate.worker
    old = gate.backend(waits(release))
    gate.serve(old)
    first = worker.generation
    client = gate.client()
    client.send(request("GET", "/1") + request("GET", "/2"))
    eventually(lambda: old.requests, "the request")
    next_one = gate.backend(name="next")
    gate.serve(next_one)
    assert gate.client().request().body == b"next"
    assert {"type": "released", "generation": first} not in worker.hear()
    release.set()
    assert [client.response().body for _ in range(2)] == [b"late", b"next"]
    same(lambda: worker.count(0, layout.VERSION_ENDED, generation=first), 1)
    same(lambda: gate.ended(0), 2)
    worker.expect("released", generation=first)


@pytest.mark.slow
def test_a_shut_gate_shuts_the_old_generation_too(gate):
    """A request that waits for its connection when the table changes obeys the word of its own generation."""
    worker = gate.worker
    new = gate.backend(name="new")
    endpoint = gate.slow_to_accept(new)
    gate.serve(gate.backend(), endpoint, weight=10_000, timeouts=patient())
    first = worker.generation
    client = gate.client()
    client.send(request())
    same(lambda: gate.in_flight(1), 1)
    gate.serve(gate.backend(), weight=0)
    worker.set_weight(0, generation=first)
    gate.accept_now(new)
    assert client.response().body == b"stable"
    assert new.requests == []
    worker.expect("released", generation=first)


def test_connections_to_endpoints_that_stay_are_kept(gate):
    stays, goes = gate.backend(), gate.backend()
    gate.serve(stays, goes, weight=10_000, failover=NEVER)
    client = gate.client()
    client.request()
    gate.worker.set_weight(0)
    client.request()
    assert len(stays.peers) == len(goes.peers) == 1
    gate.serve(stays)
    assert client.request().status == 200
    assert len(stays.peers) == 1
    eventually(lambda: goes.peers[0].ended, "the end of what is not needed")


def test_generations_under_load(gate):
    """No request is lost or failed while tables change."""
    stable, other = gate.backend(), gate.backend(name="other")
    gate.serve(stable)
    stop = threading.Event()
    seen: list[tuple[int, bytes]] = []

    def load():
        client = gate.client()
        while not stop.is_set():
            client.send(request() * 5)
            for _ in range(5):
                answer = client.response()
                seen.append((answer.status, answer.body))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    generations = []
    for number in range(12):
        generations.append(gate.worker.generation)
        gate.serve(other if number % 2 else stable)
    stop.set()
    for thread in threads:
        thread.join(30)
    generations.append(gate.worker.generation)
    assert {status for status, _ in seen} == {200}
    assert {body for _, body in seen} == {b"stable", b"other"}
    same(
        lambda: sum(gate.worker.count(0, layout.VERSION_ENDED, generation=number) for number in generations), len(seen)
    )


def test_a_table_that_does_not_fit_its_segments_is_refused(gate):
    worker = gate.worker
    gate.serve(gate.backend())
    client = gate.client()
    table = RoutingTable((service(gate.backend()), service(gate.backend(), name="two")))
    _, control, counters = worker.segments[worker.generation]
    worker.offer(table, 999, control, counters)
    assert worker.expect("refused", generation=999)["why"]
    assert client.request().status == 200


def test_an_access_log_that_cannot_be_opened_is_refused(gate, tmp_path):
    worker = gate.worker
    gate.serve(gate.backend())
    other = gate.backend(name="other")
    table = RoutingTable((service(other),), access_log=AccessLog(str(tmp_path / "no" / "such")))
    _, control, counters = worker.segments[worker.generation]
    worker.offer(table, 998, control, counters)
    assert "no/such" in worker.expect("refused", generation=998)["why"]
    assert gate.client().request().body == b"stable"


def test_refused_generations_leave_no_descriptor_behind(gate, tmp_path):
    worker = gate.worker
    gate.serve(gate.backend())
    one = RoutingTable((service(gate.backend()),), access_log=AccessLog(str(tmp_path / "no" / "such")))
    two = RoutingTable((service(gate.backend()), service(gate.backend(), name="two")))
    _, control, counters = worker.segments[worker.generation]

    def refuse():
        for table in (one, two):
            worker.offer(table, 997, control, counters)
            worker.expect("refused", generation=997)

    def held():
        gate.sweeps(2)  # old generations are given back
        names = [str(entry.readlink()) for entry in Path(f"/proc/{worker.process.pid}/fd").iterdir()]
        return sum("tidegate-" in name for name in names)

    refuse()
    before = held()
    refuse()
    assert held() == before


# ---------------------------------------------------------------- drain


@pytest.mark.slow
def test_drain(lone, release):
    """Idle connections end at once, what is in flight is finished and says so, then the process ends with 0."""
    stable = lone.backend(waits(release))
    lone.serve(stable)
    idle, half, busy = lone.client(), lone.client(), lone.client()
    half.send(b"GET / HTTP/1.1\r\nHo")
    busy.send(request() + request())
    eventually(lambda: stable.requests, "the request")
    lone.worker.say({"type": "drain", "delay_s": 0, "timeout_s": 30})
    assert idle.end() == "eof"
    release.set()
    answer = busy.response()
    assert (answer.body, answer.get("Connection")) == (b"late", "close")
    assert busy.end() == "eof"
    half.send(b"st: a\r\n\r\n")
    answer = half.response()
    assert (answer.body, answer.get("Connection")) == (b"late", "close")
    assert lone.worker.process.wait(30) == 0
    assert lone.judged(0) == (2, {})


@pytest.mark.slow
def test_drain_with_a_delay_goes_on_accepting(lone):
    lone.serve(lone.backend())
    old = lone.client()
    lone.worker.say({"type": "drain", "delay_s": 2.5, "timeout_s": 30})
    lone.sweeps(2)
    for client in (old, lone.client()):
        answer = client.request()
        assert (answer.status, answer.get("Connection")) == (200, None)
        client.close()
    assert lone.worker.process.wait(30) == 0


@pytest.mark.slow
def test_drain_ends_connections_whose_answer_had_begun_before(lone, release):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        assert release.wait(30)
        peer.send(b"half")

    lone.serve(lone.backend(script))
    client = lone.client()
    client.send(request())
    assert client.head().get("Connection") is None
    lone.worker.say({"type": "drain", "delay_s": 0, "timeout_s": 60})
    lone.sweeps(3)
    lone.serve(lone.backend())  # a table that comes meanwhile gives idle connections no more time
    release.set()
    assert client.exactly(8) == b"halfhalf"
    assert client.end() == "eof"
    assert lone.worker.process.wait(30) == 0


def test_drain_gives_up_in_time(lone, release):
    stable = lone.backend(waits(release))
    lone.serve(stable)
    client = lone.client()
    client.send(request())
    eventually(lambda: stable.requests, "the request")
    lone.worker.say({"type": "drain", "delay_s": 0, "timeout_s": 0.2})
    client.drain()
    assert lone.worker.process.wait(30) == 0
    assert lone.in_flight(0) == 0
    assert lone.judged(0) == (0, {})


def test_connections_in_the_accept_queue_are_served_before_the_end(lone):
    """Stopped worker: connections with requests pile up in the queue; then it is told to drain."""
    lone.serve(lone.backend())
    worker = lone.worker
    os.kill(worker.process.pid, signal.SIGSTOP)
    clients = [lone.client() for _ in range(20)]
    for client in clients:
        client.send(request())
    worker.say({"type": "drain", "delay_s": 0, "timeout_s": 30})
    os.kill(worker.process.pid, signal.SIGCONT)
    assert [client.response().status for client in clients] == [200] * 20
    for client in clients:
        client.close()
    assert worker.process.wait(30) == 0


def test_the_queue_of_a_neighbour_is_served_before_the_end(beside):
    """Who is dead when a drain begins is not replaced any more."""
    lone, theirs = beside
    lone.worker.board.words[layout.row(1) + layout.ROW_ACCEPTING] = layout.ACCEPTING
    lone.serve(lone.backend())
    with socket.create_connection(theirs.getsockname(), timeout=30) as sock:
        client = Client(sock)
        client.send(request())
        lone.worker.say({"type": "drain", "delay_s": 0, "timeout_s": 5})
        assert client.response().status == 200
    assert lone.worker.process.wait(30) == 0


@pytest.mark.slow
def test_the_queue_of_a_neighbour_that_dies_in_the_delay_of_a_drain_is_adopted(beside):
    lone, theirs = beside
    lone.serve(lone.backend())
    lone.worker.say({"type": "drain", "delay_s": 600, "timeout_s": 5})
    with socket.create_connection(theirs.getsockname(), timeout=30) as sock:
        assert Client(sock).request().status == 200
    assert lone.client().request().status == 200
    lone.worker.say({"type": "stop"})
    assert lone.worker.process.wait(30) == 0


def test_a_worker_without_a_table_takes_nobody_with_it(monkeypatch):
    """Whoever waits in its queue is left to those that can serve."""
    monkeypatch.setattr(LoneWorker, "switch", lambda *_: None)
    monkeypatch.setattr(LoneWorker, "expect", lambda *_, **__: None)
    worker = LoneWorker(RoutingTable(()))
    try:
        with worker.connect() as sock:
            worker.say({"type": "drain", "delay_s": 0, "timeout_s": 5})
            assert worker.process.wait(30) == 0
            worker.listener.settimeout(30)
            accepted, _ = worker.listener.accept()
            assert accepted.getpeername() == sock.getsockname()
            accepted.close()
    finally:
        worker.close()


@pytest.mark.slow
def test_term_drains(lone):
    lone.serve(lone.backend(), drain=Drain(0, 5))
    client = lone.client()
    assert client.request().status == 200
    lone.worker.process.terminate()
    assert client.end() == "eof"
    assert lone.worker.process.wait(30) == 0


def test_int_is_for_the_supervisor(gate):
    gate.serve(gate.backend())
    gate.worker.process.send_signal(signal.SIGINT)
    gate.sweeps(2)
    assert gate.client().request().status == 200


def test_stop_means_now(lone, release):
    stable = lone.backend(waits(release))
    lone.serve(stable)
    client = lone.client()
    client.send(request())
    eventually(lambda: stable.requests, "the request")
    lone.worker.say({"type": "stop"})
    assert lone.worker.process.wait(30) == 0


# ---------------------------------------------------------------- without a supervisor


@pytest.fixture
def orphanage(tmp_path):
    """Play the next supervisor: a socket on which orphans call."""
    path = str(tmp_path / "handover")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)
        listener.settimeout(30)
        yield path, listener


def orphan(gate):
    """Close the worker's channel; wait until it has noticed."""
    gate.worker.phone.close()
    same(lambda: gate.worker.row(layout.ROW_STABLE_ONLY), 1)


def test_a_worker_without_a_supervisor_serves_on_stable_only(lone):
    lone.serve(lone.backend(), lone.backend(name="new"), weight=10_000)
    client = lone.client()
    assert client.request().body == b"new"
    orphan(lone)
    assert [client.request().body, lone.client().request().body] == [b"stable"] * 2
    assert lone.worker.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("adopted", [True, False])
def test_sockets_go_to_the_next_supervisor(orphanage, release, adopted):
    path, listener = orphanage
    worker = LoneWorker(RoutingTable(()), handover=path)
    lone = Gate(worker)
    try:
        stable = lone.backend(waits(release))
        lone.serve(stable)
        client = lone.client()
        client.send(request())
        eventually(lambda: stable.requests, "the request")
        orphan(lone)
        call, _ = listener.accept()
        receiver = channel.Receiver()
        message, descriptors = eventually(lambda: receiver.feed(call), "the orphan's call")[0]
        assert message["type"] == "orphan"
        assert (message["slot"], message["pid"]) == (0, worker.process.pid)
        assert message["listeners"] == [{"address": f"127.0.0.1:{worker.port}", "slot": 0}]
        (control,) = message["controls"]
        segment = Segment.attach(descriptors[1], control["hash"])
        assert control["weights"].keys() == {"web"}
        assert segment.words[control["weights"]["web"]] & layout.WEIGHT_MASK == 0
        segment.close()
        with socket.socket(fileno=descriptors[0]) as ours:
            assert ours.getsockname() == ("127.0.0.1", worker.port)
            waiting = None
            if not adopted:
                waiting = lone.client()
                waiting.send(request())
                eventually(lambda: len(stable.requests) == 2, "the second request")
            worker.listener.close()
            channel.send(call, {"type": "retire", "adopted": adopted})
            if adopted:
                lone.sweeps(3)
                # What comes from now on is for the next supervisor's workers: the queue is theirs.
                late = socket.create_connection(("127.0.0.1", worker.port), timeout=30)
                ours.settimeout(30)
                accepted, _ = ours.accept()
                accepted.close()
                late.close()
            lone.sweeps(3)
            release.set()
            for one in [client, waiting]:
                if one is not None:
                    answer = one.response()
                    assert (answer.status, answer.get("Connection")) == (200, "close")
            assert worker.process.wait(30) == 0
        call.close()
        lone.close()
    finally:
        worker.close()


def test_an_orphan_calls_again_when_it_is_hung_up_on(orphanage):
    path, listener = orphanage
    worker = LoneWorker(RoutingTable(()), handover=path)
    lone = Gate(worker)
    try:
        lone.serve(lone.backend())
        orphan(lone)
        for _ in range(2):
            call, _ = listener.accept()
            call.close()
        assert lone.client().request().status == 200
        lone.close()
    finally:
        worker.close()


@pytest.mark.slow
def test_an_orphan_calls_again_when_its_call_was_not_taken(orphanage):
    """A killed supervisor closes one thing after the other: the orphan may still reach the dying one's handover."""
    path, listener = orphanage
    worker = LoneWorker(RoutingTable(()), handover=path)
    lone = Gate(worker)
    try:
        lone.serve(lone.backend())
        orphan(lone)
        assert select.select([listener], [], [], 30)[0]
        Path(path).unlink()
        listener.close()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(path)
            successor.listen(8)
            successor.settimeout(30)
            call, _ = successor.accept()
        receiver = channel.Receiver()
        message, descriptors = eventually(lambda: receiver.feed(call), "the orphan's call")[0]
        assert (message["type"], message["pid"]) == ("orphan", worker.process.pid)
        for descriptor in descriptors:
            os.close(descriptor)
        call.close()
        lone.close()
    finally:
        worker.close()


@pytest.fixture
def beside():
    """A worker whose neighbour, in slot 1, is the test itself."""
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.listen(64)
        theirs.settimeout(30)
        worker = LoneWorker(RoutingTable(()), neighbour=theirs)
        lone = Gate(worker)
        try:
            yield lone, theirs
            lone.close()
        finally:
            worker.close()


@pytest.mark.slow
def test_a_neighbours_accept_queue_is_adopted_while_it_is_absent(beside):
    lone, theirs = beside
    worker, address, row = lone.worker, theirs.getsockname(), layout.row(1)
    lone.serve(lone.backend())

    def adopted():
        with socket.create_connection(address, timeout=30) as sock:
            assert Client(sock).request().status == 200

    adopted()  # it is silent
    stop = threading.Event()

    def live():
        while not stop.wait(0.02):
            worker.board.words[row + layout.ROW_BEAT] += 1

    neighbour = threading.Thread(target=live)
    neighbour.start()
    lone.sweeps(30)
    adopted()  # it beats, but accepts nobody
    # The neighbour is back: its queue is its own again.
    worker.board.words[row + layout.ROW_ACCEPTING] = layout.ACCEPTING
    lone.sweeps(3)
    with socket.create_connection(address, timeout=30) as sock:
        accepted, _ = theirs.accept()
        assert accepted.getpeername() == sock.getsockname()
        accepted.close()
    assert lone.client().request().status == 200
    # Its connections count against the limit of all workers together.
    worker.board.words[row + layout.ROW_CONNECTIONS] = 20_000
    lone.sweeps(2)
    assert lone.client().response().status == 503
    stop.set()
    neighbour.join()


# ---------------------------------------------------------------- gauges and log


def test_the_workers_row(lone):
    lone.serve(lone.backend())
    worker = lone.worker
    assert worker.row(layout.ROW_PID) == worker.process.pid
    same(lambda: worker.row(layout.ROW_GENERATION), worker.generation)
    accepted = worker.row(layout.ROW_ACCEPTED)
    clients = [lone.client() for _ in range(3)]
    assert clients[0].request().status == 200
    same(lambda: worker.row(layout.ROW_CONNECTIONS), 3)
    assert worker.row(layout.ROW_ACCEPTED) == accepted + 3
    eventually(lambda: worker.row(layout.ROW_RSS) > 5_000_000, "the resident size")


def test_a_sweep_comes_with_its_tick_and_not_before(gate):
    at, begin = time.monotonic(), gate.worker.row(layout.ROW_BEAT)
    eventually(lambda: gate.worker.row(layout.ROW_BEAT) >= begin + 20, "20 sweeps")
    assert time.monotonic() - at > 0.85  # the first and the last were perhaps seen late


def log_lines(path, count):
    def complete():
        text = path.read_text() if path.exists() else ""
        return text.count("\n") >= count and text

    return [json.loads(line) for line in eventually(complete, "the log's lines").splitlines()]


def test_the_access_log(gate, tmp_path):
    path = tmp_path / "access.log"
    gate.serve(
        gate.backend(answers(response(body=b"12345"), response(404, body=b""))),
        gate.backend(fails()),
        access_log=AccessLog(str(path)),
        override=Override("x-v", ("127.0.0.1/32",)),
    )
    client = gate.client()
    client.request("GET", "/a?secret=1", "X-Request-Id: id-1", "Cookie: session=secret")
    client.request("HEAD", "/b")
    client.request("POST", "/c", "X-V: new", body=b"x")
    gate.set_state(0, layout.ENDPOINT_DOWN)
    client.request("GET", "/d")
    lines = log_lines(path, 4)
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/a", 200),
        ("HEAD", "/b", 404),
        ("POST", "/c", 500),
        ("GET", "/d", 503),
    ]
    assert [line["version"] for line in lines] == ["stable", "stable", "new", "stable"]
    first = lines[0]
    assert (first["request_id"], first["bytes"], first["client"]) == ("id-1", 5, "127.0.0.1")
    assert (first["service"], first["host"], first["label"]) == ("web", "shop.test", "1")
    assert first["duration_ms"] >= 0
    assert [line["reason"] for line in lines] == [None, None, None, "no_endpoint"]
    assert all(list(line) == [name for name, _ in FIELDS] for line in lines)
    assert "secret" not in path.read_text()


@pytest.mark.slow
def test_a_log_that_cannot_be_opened_keeps_nobody_from_being_served(tmp_path):
    """A worker that replaces another must serve, whatever has become of the log's directory."""
    path = tmp_path / "logs" / "access.log"
    log = AccessLog(str(path))
    worker = LoneWorker(RoutingTable((), access_log=log))
    lone = Gate(worker)
    try:
        text = worker.expect("notice")["text"]
        assert f"the access log {path} cannot be opened (no such file or directory): its lines are lost" in text
        for _ in range(2):
            lone.serve(lone.backend(), access_log=log)  # nor does another table with the same log matter
            assert lone.client().request().status == 200
        lone.sweeps(2)
        path.parent.mkdir()
        eventually(path.exists, "the log")
        assert lone.client().request().status == 200
        assert len(log_lines(path, 1)) == 1
        said = [one["text"] for one in worker.hear() if one["type"] == "notice"]
        assert said == [text, f"the access log {path} is open; 2 lines were lost"]
        lone.close()
    finally:
        worker.close()


def test_the_access_log_has_what_went_wrong(gate, tmp_path, release):
    path = tmp_path / "access.log"
    stable = gate.backend(waits(release))
    gate.serve(stable, access_log=AccessLog(str(path)))
    client = gate.client()
    client.send(request("GET", "/left"))
    eventually(lambda: stable.requests, "the request")
    client.close()
    (line,) = log_lines(path, 1)
    assert (line["path"], line["status"]) == ("/left", 499)


def test_the_access_log_shows_who_answered_and_what_was_rescued(gate, tmp_path):
    path = tmp_path / "access.log"
    stable, new, gone = gate.backend(), gate.backend(fails()), gate.refused()
    bad = gate.backend(fails())
    both = {"access_log": AccessLog(str(path)), "override": Override("x-v", ("127.0.0.1/32",))}
    client = gate.client()
    gate.serve(stable, **both)
    assert client.request().status == 200
    gate.serve(stable, new, weight=10_000, **both)
    assert client.request("GET", "/rescued").status == 200
    assert client.request("POST", "/not-safe").status == 500
    gate.serve(bad, new, weight=10_000, **both)
    assert client.request("GET", "/in-vain").status == 500
    gate.serve(stable, gone, weight=10_000, **both)
    assert client.request("POST", "/gone").status == 502
    gate.set_state(0, layout.ENDPOINT_DOWN)
    gate.set_state(1, layout.ENDPOINT_DOWN)
    assert client.request("GET", "/nobody").status == 503
    lines = log_lines(path, 6)
    assert [(line["path"], line["version"], line["endpoint"], line["rescued"]) for line in lines] == [
        ("/", "stable", stable.endpoint.url, False),
        ("/rescued", "stable", stable.endpoint.url, True),
        ("/not-safe", "new", new.endpoint.url, False),
        ("/in-vain", "stable", bad.endpoint.url, False),
        ("/gone", "new", gone.url, False),
        ("/nobody", "stable", None, False),
    ]


def test_the_access_log_has_what_was_refused(gate, tmp_path):
    path = tmp_path / "access.log"
    gate.serve(gate.backend(), access_log=AccessLog(str(path)))
    client = gate.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    answer = client.response()
    (line,) = log_lines(path, 1)
    assert (line["status"], line["reason"], line["service"]) == (400, "malformed", None)
    assert line["request_id"] == answer.get("X-Request-Id")
    assert list(line) == [name for name, _ in FIELDS if name in line]


def test_the_access_log_may_be_thinned(gate, tmp_path):
    path = tmp_path / "access.log"
    replies = [response(200 if number % 2 else 500) for number in range(40)]
    gate.serve(gate.backend(answers(*replies)), access_log=AccessLog(str(path), sample=0.25, min_status=500))
    client = gate.client()
    for _ in range(40):
        client.request()
    gate.serve(gate.backend())  # closes the log
    assert [line["status"] for line in log_lines(path, 5)] == [500] * 5


def test_a_standard_output_that_nobody_reads_holds_up_nobody():
    reading, writing = os.pipe()
    worker = LoneWorker(RoutingTable(()), stdout=writing)
    lone = Gate(worker)
    try:
        lone.serve(lone.backend(), access_log=AccessLog("-"))
        client = lone.client()
        while not worker.process_count(layout.PROCESS_LINES_LOST):
            assert client.request("GET", "/" + "x" * 3000).status == 200
        assert "lines of the access log were lost: its reader does not keep up" in worker.expect("notice")["text"]
        lone.close()
    finally:
        worker.close()
        os.close(writing)
    with os.fdopen(reading, "rb") as read:
        assert all(json.loads(line)["status"] == 200 for line in read)


def test_a_log_that_was_moved_goes_on_where_it_was(gate, tmp_path):
    """As logrotate does it: move, then have the config read again."""
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    stable = gate.backend()
    gate.serve(stable, access_log=AccessLog(str(path)))
    client = gate.client()
    client.request("GET", "/first")
    log_lines(path, 1)
    path.rename(moved)
    client.request("GET", "/second")
    gate.serve(stable, access_log=AccessLog(str(path)))
    client.request("GET", "/third")
    assert [line["path"] for line in log_lines(path, 1)] == ["/third"]
    assert [line["path"] for line in log_lines(moved, 2)] == ["/first", "/second"]


def test_an_ipv6_and_a_unix_listener(tmp_path):
    path = str(tmp_path / "front.sock")
    for family, address in [(socket.AF_INET6, ("::1", 0)), (socket.AF_UNIX, path)]:
        worker = LoneWorker(RoutingTable(()), family=family, address=address)
        lone = Gate(worker)
        try:
            stable = lone.backend()
            lone.serve(stable)
            sock = socket.socket(family)
            sock.settimeout(30)
            sock.connect(worker.listener.getsockname())
            client = Client(sock)
            lone.held.append(client)
            assert client.request().status == 200
            assert stable.requests[0].get("X-Forwarded-For") == ("::1" if family == socket.AF_INET6 else None)
            client.send(request("GET", "/", "Connection: close"))
            assert client.response().status == 200
            assert client.end() == "eof"
            lone.close()
        finally:
            worker.close()


@pytest.mark.slow
def test_a_request_that_has_just_arrived_is_no_idle_connection(lone):
    """The worker is stopped while a deadline passes and a request comes: it looks at the deadline first."""
    lone.serve(lone.backend(), limits=RequestLimits(keepalive_timeout_s=1.0))
    client = lone.client()
    assert client.request().status == 200
    process = lone.worker.process
    os.kill(process.pid, signal.SIGSTOP)
    try:
        client.send(request())
        over = time.monotonic() + 1.5
        eventually(lambda: time.monotonic() > over, "the deadline")
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert client.response().status == 200
    assert client.end() == "eof"


@pytest.mark.slow
def test_what_a_worker_looks_at_every_second_is_not_missed_when_it_was_held_up(lone):
    """It goes over several ticks at once then, and over those that begin a second."""
    lone.serve(None)
    pid = lone.worker.process.pid
    os.kill(pid, signal.SIGSTOP)
    begin = time.time()
    eventually(lambda: time.time() > begin + 2.5)
    held_up_until = int(time.time())
    os.kill(pid, signal.SIGCONT)
    lone.sweeps(1)
    answer = lone.client().request()
    assert answer.status == 503
    assert parsedate_to_datetime(answer.get("Date")).timestamp() >= held_up_until


def test_a_worker_of_another_release_than_its_supervisor_says_so_and_ends():
    phone, theirs = channel.pair()
    board = Segment.create("board", layout.board_words(1), layout.board_hash(1) + 1)
    command = [sys.executable, "-m", "proxy.dataplane.worker", str(theirs.fileno())]
    with contextlib.closing(board), phone, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        channel.send(phone, {"type": "start", "slot": 0, "slots": 1, "listeners": []}, [board.fd])
        assert process.wait(30) == 0
        said = channel.Receiver().feed(phone)
    assert [message["type"] for message, _ in said] == ["notice"]
    assert "cannot start: " in said[0][0]["text"]
    assert "files of another release" in said[0][0]["text"]
    assert "restart the supervisor" in said[0][0]["text"]
