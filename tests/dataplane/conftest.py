"""One worker process for the whole run; every test brings its own generation, with fresh counters, into force."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.ipc import layout
from proxy.metrics import hdr
from proxy.routing.table import Endpoint, RoutingTable, Service, Sticky, Timeouts, Version
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.wire import Backend, Client, Script, deaf_endpoint, refused_endpoint

RANDOM = Sticky(by="none", mint=False)
IDLE = RoutingTable(services=(Service("idle", Version("", (Endpoint("http://127.0.0.1:9", "127.0.0.1", 9),))),))


def endpoints_of(one: Any) -> tuple[Endpoint, ...]:
    """Return the endpoints of a backend, of an endpoint, of several of them, or of nothing."""
    if one is None:
        return ()
    several = one if isinstance(one, list | tuple) else [one]
    return tuple(each if isinstance(each, Endpoint) else each.endpoint for each in several)


def patient(**fields: float) -> Timeouts:
    """Return time-outs for a busy machine: one that a test does not name is so long that it never comes."""
    return Timeouts(**{"connect_s": 30.0, "pool_idle_s": 60.0, **fields})


def service(stable: Any, new: Any = None, *, name: str = "web", **fields: Any) -> Service:
    """Return a service; its versions are labelled "1" and "2", and keys are drawn at random unless said otherwise."""
    fields.setdefault("sticky", RANDOM)
    fields.setdefault("timeouts", patient())
    fields.setdefault("watchdog_s", 60.0)
    versions = [Version(label, endpoints_of(one)) for label, one in (("1", stable), ("2", new))]
    return Service(name, versions[0], versions[1], **fields)


class Gate:
    """A worker that serves what a test tells it, with the test's backends and clients."""

    def __init__(self, worker: LoneWorker) -> None:
        self.worker = worker
        self.backends: list[Backend] = []
        self.held: list[Any] = []
        self._deaf: dict[Backend, list[socket.socket]] = {}

    def backend(self, *scripts: Script, **fields: Any) -> Backend:
        backend = Backend(*scripts, **fields)
        self.backends.append(backend)
        return backend

    def refused(self) -> Endpoint:
        endpoint, holder = refused_endpoint()
        self.held.append(holder)
        return endpoint

    def deaf(self) -> Endpoint:
        endpoint, holders = deaf_endpoint()
        self.held += holders
        return endpoint

    def slow_to_accept(self, backend: Backend) -> Endpoint:
        """Return an endpoint in front of `backend` that makes no connection until `accept_now`."""
        endpoint, holders = deaf_endpoint()
        self.held += holders
        self._deaf[backend] = holders
        return endpoint

    def accept_now(self, backend: Backend) -> None:
        """Take the connections that wait, fillers first, and hand the rest to the backend."""
        listener, *fillers = self._deaf.pop(backend)
        theirs = {filler.getsockname() for filler in fillers}

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, address = listener.accept()
                    if address in theirs:
                        sock.close()
                    else:
                        backend.take(sock)

        threading.Thread(target=accept, daemon=True).start()

    def serve(self, stable: Any, new: Any = None, *, weight: int = 0, limits: Any = None, **fields: Any) -> None:
        """Bring a generation with one service into force. `limits`: request limits; else fields of the service."""
        of_table = {key: fields.pop(key) for key in list(fields) if key in TABLE_FIELDS}
        if limits is not None:
            of_table["request_limits"] = limits
        self.worker.switch(RoutingTable((service(stable, new, **fields),), **of_table), {"web": weight})

    def serve_table(self, table: RoutingTable, **weights: int) -> None:
        self.worker.switch(table, weights)

    def client(self, **options: Any) -> Client:
        sock = socket.socket()
        for name, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", self.worker.port))
        client = Client(sock)
        self.held.append(client)
        return client

    # ------------------------------------------------------------ counters

    def code(self, version: int, status: int) -> int:
        return self.worker.count(version, layout.VERSION_CODES + status)

    def ended(self, version: int) -> int:
        return self.worker.count(version, layout.VERSION_ENDED)

    def bad(self, version: int) -> dict[str, int]:
        """Return the kinds of bad that were counted."""
        at = layout.VERSION_BAD
        counts = {kind: self.worker.count(version, at + index) for index, kind in enumerate(layout.BAD_KINDS)}
        return {kind: count for kind, count in counts.items() if count}

    def assigned(self, version: int) -> dict[str, int]:
        at = layout.VERSION_ASSIGNED
        reasons = layout.ASSIGNMENT_REASONS
        counts = {reason: self.worker.count(version, at + index) for index, reason in enumerate(reasons)}
        return {reason: count for reason, count in counts.items() if count}

    def failovers(self) -> dict[str, int]:
        at = layout.SERVICE_FAILOVERS
        outcomes = layout.FAILOVER_OUTCOMES
        counts = {outcome: self.worker.service_count(at + index) for index, outcome in enumerate(outcomes)}
        return {outcome: count for outcome, count in counts.items() if count}

    def retries(self, version: int) -> dict[str, int]:
        at = layout.VERSION_RETRIES
        counts = {outcome: self.worker.count(version, at + i) for i, outcome in enumerate(layout.RETRY_OUTCOMES)}
        return {outcome: count for outcome, count in counts.items() if count}

    def slow(self, version: int, threshold: int = 0) -> int:
        return self.worker.count(version, layout.VERSION_SLOW + threshold)

    def fast(self, version: int, threshold: int = 0) -> int:
        at = layout.VERSION_ENDED_WITHIN
        return sum(self.worker.count(version, at + index) for index in range(threshold + 1))

    def ttfb_slow(self, version: int, threshold: int = 0) -> int:
        return self.worker.count(version, layout.VERSION_TTFB_SLOW + threshold)

    def ttfb_fast(self, version: int, threshold: int = 0) -> int:
        at = layout.VERSION_TTFB_WITHIN
        return sum(self.worker.count(version, at + index) for index in range(threshold + 1))

    def signal(self, version: int, index: int = 0) -> tuple[int, int]:
        """Return how many responses had a signal's header, and how many of these matched."""
        at = layout.VERSION_SIGNALS + index * layout.SIGNAL_WORDS
        words = (layout.SIGNAL_SEEN, layout.SIGNAL_MATCHED)
        seen, matched = (self.worker.count(version, at + word) for word in words)
        return seen, matched

    def aborts(self) -> int:
        return self.worker.service_count(layout.SERVICE_CLIENT_ABORTS)

    def local_replies(self) -> dict[tuple[int, str], int]:
        at = layout.PROCESS_LOCAL_REPLIES
        counts = {pair: self.worker.process_count(at + i) for i, pair in enumerate(layout.LOCAL_REPLIES)}
        return {pair: count for pair, count in counts.items() if count}

    def refused_connections(self) -> dict[str, int]:
        at = layout.PROCESS_REFUSED
        counts = {reason: self.worker.process_count(at + i) for i, reason in enumerate(layout.REFUSED_CONNECTIONS)}
        return {reason: count for reason, count in counts.items() if count}

    def in_flight(self, version: int) -> int:
        return self.worker.count(version, layout.VERSION_IN_FLIGHT)

    def judged(self, version: int) -> tuple[int, dict[str, int]]:
        """Return (ended, bad by kind)."""
        return self.ended(version), self.bad(version)

    def endpoint(self, version: int, word: int, index: int = 0) -> int:
        return self.worker.endpoint_count(version, index, word)

    def latencies(self, version: int, at: int = layout.VERSION_TOTAL_HDR) -> list[int]:
        """Return the lowest values, in µs, of the histogram's places that were recorded, each as often as counted."""
        table, _, counters = self.worker.segments[self.worker.generation]
        begin = layout.counters_layout(table).versions[0][version] + at
        words = counters.words[begin : begin + layout.HDR_COUNTS]
        return [hdr.lowest(index) for index, count in enumerate(words) for _ in range(count)]

    def set_state(self, version: int, state: int, index: int = 0) -> None:
        """Store an endpoint's state word."""
        table, control, _ = self.worker.segments[self.worker.generation]
        control.words[layout.control_layout(table).endpoints[0][version][index]] = state

    def alone(self) -> None:
        """Wait until the connections of the tests before are gone."""
        words = (layout.ROW_CONNECTIONS, layout.ROW_TUNNELS)
        eventually(lambda: not any(map(self.worker.row, words)), "the end of all connections")

    def sweeps(self, count: int) -> None:
        """Wait until the worker has swept so often: everything that came before was seen."""
        begin = self.worker.row(layout.ROW_BEAT)
        eventually(lambda: self.worker.row(layout.ROW_BEAT) >= begin + count, "the worker's sweep")

    def fill(self, client: Client, block: bytes = b"x" * 16 * 1024) -> int:
        """Send until the worker has stopped reading; return how much that took. Less than its kernel buffer waits.

        Large blocks might wait in the client's own buffer, and its FIN behind them.
        """
        size = 0
        pause = threading.Event()
        stuck = 0
        while stuck < 5:
            if client.unread():
                stuck += 1
                pause.wait(0.01)
            else:
                stuck = 0
                client.send(block)
                size += len(block)
        return size

    def rss(self) -> int:
        """Return the worker's resident memory in bytes."""
        pages = Path(f"/proc/{self.worker.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def finished(self, version: int) -> None:
        """Wait until nothing is in flight on a version; the gauge is as old as the last sweep."""
        self.sweeps(2)
        same(lambda: self.in_flight(version), 0)

    def close(self) -> None:
        for one in self.held:
            one.close()
        errors: list[BaseException] = []
        for backend in self.backends:
            try:
                backend.close()
            except BaseException as error:  # noqa: BLE001 -- the first one is raised below
                errors.append(error)
        if errors:
            raise errors[0]


TABLE_FIELDS = ("trusted_proxies", "access_log", "drain", "via", "half_close")


HELD_GENERATIONS = 40


class Keeper:
    """Holds the worker of the run, and a fresh one after a test has used it up."""

    def __init__(self) -> None:
        self.worker: LoneWorker | None = None

    def take(self) -> LoneWorker:
        if self.worker is None:
            self.worker = LoneWorker(IDLE)
        return self.worker

    def retire(self) -> None:
        if self.worker is not None:
            worker, self.worker = self.worker, None
            worker.close()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Return the event that a `holding` backend waits for; set at the end of the test, whatever comes."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(scope="session")
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.retire()


@pytest.fixture
def gate(keeper: Keeper) -> Iterator[Gate]:
    """A gate on the run's worker. No fault of the worker's own may be left behind."""
    worker = keeper.take()
    gate = Gate(worker)
    yield gate
    try:
        gate.close()
    except BaseException:
        keeper.retire()  # its backends' scripts failed: nothing is known of what the worker still does
        raise
    if worker.process.poll() is not None or worker.faults():
        keeper.retire()  # which fails the test with what the worker wrote
        return
    if len(worker.segments) > HELD_GENERATIONS:
        worker.switch(IDLE, {})
        worker.forget()


@pytest.fixture
def lone(keeper: Keeper) -> Iterator[Gate]:
    """A gate on a worker of its own, for tests that end it."""
    worker = LoneWorker(IDLE)
    gate = Gate(worker)
    try:
        yield gate
        gate.close()
    finally:
        worker.close()
