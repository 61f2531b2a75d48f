"""A real worker process with a test as its supervisor: channel, board, segments and listening socket are real."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from proxy.ipc import channel, layout
from proxy.ipc.enclosure import enclose
from proxy.ipc.segment import Segment
from proxy.routing.split import seed_of
from proxy.routing.table import RoutingTable, to_plain
from proxy.tls import Pair

DEADLINE_S = 30.0
ADDRESS = "127.0.0.1:0"  # as a config says it: the name of the listener's certificates


def eventually(condition: Callable[[], Any], what: str = "the condition", within_s: float = DEADLINE_S) -> Any:
    """Return the condition's first true value; fail when there is none in time."""
    end = time.monotonic() + within_s
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not come true within {within_s} s"
        pause.wait(0.01)


def same(value: Callable[[], Any], expected: Any, within_s: float = DEADLINE_S) -> None:
    """Wait until `value()` is what is expected: counters follow the answer that they count."""
    end = time.monotonic() + within_s
    pause = threading.Event()
    while value() != expected and time.monotonic() < end:
        pause.wait(0.005)
    assert value() == expected


class LoneWorker:
    """One worker process, told what to do by a test."""

    def __init__(
        self,
        table: RoutingTable,
        *,
        weights: dict[str, int] | None = None,
        handover: str | None = None,
        family: int = socket.AF_INET,
        address: Any = ("127.0.0.1", 0),
        neighbour: socket.socket | None = None,
        pairs: Sequence[Pair] = (),
        prefaced: bool = False,
        stdout: int | None = None,
    ) -> None:
        """`pairs`: the certificates of a TLS listener; `prefaced`: it takes the PROXY protocol; `stdout`: a file's."""
        self.table = table
        self.generation = 0
        slots = 1 if neighbour is None else 2
        self.board = Segment.create("board", layout.board_words(slots), layout.board_hash(slots))
        self.listener = socket.socket(family)
        self.listener.bind(address)
        self.listener.listen(1024)
        self.port: int = 0 if family == socket.AF_UNIX else self.listener.getsockname()[1]
        self.phone, theirs = channel.pair()
        self.receiver = channel.Receiver()
        self.heard: list[dict[str, Any]] = []
        self.segments: dict[int, tuple[RoutingTable, Segment, Segment]] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy.dataplane.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONWARNINGS": "error"},
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self._beating = threading.Event()
        self._beating.set()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()
        sockets = [self.listener] if neighbour is None else [self.listener, neighbour]
        if pairs:
            self.certify(pairs)
        kind = {"tls": ADDRESS if pairs else None, "prefaced": prefaced}
        entries = [{"address": f"127.0.0.1:{self.port}", "slot": slot, **kind} for slot in range(slots)]
        start = {"type": "start", "slot": 0, "slots": slots, "handover": handover, "listeners": entries}
        channel.send(self.phone, start, [self.board.fd, *(sock.fileno() for sock in sockets)])
        self.switch(table, weights or {})
        self.expect("listening")

    def _beat(self) -> None:
        while not self._ended.wait(0.02):
            if self._beating.is_set():
                self.board.words[layout.BOARD_BEAT] += 1

    def stop_beating(self) -> None:
        """Play a controller that has gone silent."""
        self._beating.clear()

    def beat_again(self) -> None:
        """Play a controller that is back; return when the worker has seen it."""
        self._beating.set()
        begin = self.row(layout.ROW_BEAT)
        eventually(lambda: self.row(layout.ROW_BEAT) >= begin + 3, "three sweeps")

    def certify(self, pairs: Sequence[Pair]) -> None:
        """Have other certificates shown from the next connection on."""
        with enclose("certificates", {ADDRESS: [(pair.names, pair.pem) for pair in pairs]}) as file:
            channel.send(self.phone, {"type": "certificates"}, [file.fd])

    def switch(self, table: RoutingTable, weights: dict[str, int]) -> None:
        """Bring a generation into force."""
        self.generation += 1
        self.table = table
        control_layout = layout.control_layout(table)
        counters_layout = layout.counters_layout(table)
        control = Segment.create("control", control_layout.words, control_layout.hash, generation=self.generation)
        counters = Segment.create("counters", counters_layout.words, counters_layout.hash, generation=self.generation)
        for index, service in enumerate(table.services):
            at = control_layout.services[index]
            control.words[at + layout.CONTROL_WEIGHT] = weights.get(service.name, 0)
            control.words[at + layout.CONTROL_SEED] = seed_of("test")
        self.segments[self.generation] = (table, control, counters)
        self.offer(table, self.generation, control, counters)
        self.expect("ack", generation=self.generation)

    def offer(self, table: RoutingTable, number: int, control: Segment, counters: Segment) -> None:
        """Send a table."""
        with enclose("table", to_plain(table)) as file:
            message = {"type": "table", "generation": number}
            channel.send(self.phone, message, [control.fd, counters.fd, file.fd])

    def say(self, message: dict[str, Any]) -> None:
        """Send a message to the worker."""
        channel.send(self.phone, message)

    def hear(self) -> list[dict[str, Any]]:
        """Return everything that the worker has said so far."""
        self.phone.settimeout(0)
        with contextlib.suppress(EOFError):
            self.heard += [message for message, _ in self.receiver.feed(self.phone)]
        return self.heard

    def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for a message of the worker."""

        def said() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read().decode()
            wanted = {"type": kind, **fields}
            return next((one for one in self.hear() if wanted.items() <= one.items()), None)

        found: dict[str, Any] = eventually(said, f"message {kind}")
        return found

    def set_weight(self, weight: int, service: int = 0, generation: int | None = None) -> None:
        """Store a weight word in the current generation, or another one."""
        table, control, _ = self.segments[generation or self.generation]
        control.words[layout.control_layout(table).services[service] + layout.CONTROL_WEIGHT] = weight

    def open_again(self, weight: int) -> None:
        """Shut the gate and open it again, as the supervisor does."""
        table, control, _ = self.segments[self.generation]
        at = layout.control_layout(table).services[0]
        control.words[at + layout.CONTROL_WEIGHT] = 0
        control.words[at + layout.CONTROL_OPENED] += 1
        control.words[at + layout.CONTROL_WEIGHT] = weight

    def count(self, version: int, word: int, service: int = 0, generation: int | None = None) -> int:
        """Return a word of a version's counters."""
        table, _, counters = self.segments[generation or self.generation]
        return counters.words[layout.counters_layout(table).versions[service][version] + word]

    def process_count(self, word: int) -> int:
        """Return a word of the process block."""
        table, _, counters = self.segments[self.generation]
        return counters.words[layout.counters_layout(table).process + word]

    def service_count(self, word: int, service: int = 0) -> int:
        """Return a word of a service's counters."""
        table, _, counters = self.segments[self.generation]
        return counters.words[layout.counters_layout(table).services[service] + word]

    def endpoint_count(self, version: int, index: int, word: int, service: int = 0) -> int:
        """Return a word of an endpoint's counters."""
        table, _, counters = self.segments[self.generation]
        return counters.words[layout.counters_layout(table).endpoints[service][version][index] + word]

    def row(self, word: int) -> int:
        """Return a word of the worker's row on the board."""
        return self.board.words[layout.row(0) + word]

    def connect(self) -> socket.socket:
        """Return a client connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def faults(self) -> int:
        """Return how many faults of its own the worker has counted, in all generations that are still held."""
        return sum(
            counters.words[layout.counters_layout(table).process + layout.PROCESS_INTERNAL_ERRORS]
            for table, _, counters in self.segments.values()
        )

    def forget(self) -> None:
        """Give back the segments of all generations but the current one."""
        for generation in [number for number in self.segments if number != self.generation]:
            self.expect("released", generation=generation)
            _, control, counters = self.segments.pop(generation)
            control.close()
            counters.close()

    def close(self) -> None:
        """Kill the worker and give everything back; a fault of the worker's own fails the test."""
        faults = self.faults()
        self._ended.set()
        self._heart.join()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        stderr = self.process.stderr.read().decode()
        self.process.stderr.close()
        self.phone.close()
        self.receiver.close()
        self.listener.close()
        self.board.close()
        for _, control, counters in self.segments.values():
            control.close()
            counters.close()
        assert faults == 0, stderr
        assert stderr == "", stderr
