"""What small requests cost beside 10,000 idle connections and a long download, and what the download holds in memory.

Two products of two workers each run side by side. One of them has the idle connections (each had an answer once) and
the download, which its client takes at 1 MiB/s; the other has nothing but small requests. The same load goes to one
and to the other in turn, so that both see the same neighbours on the machine. Measured is the CPU time of the workers
per request, all that they do counted, and how much the workers grew at most while the download ran.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from loadtests.bench.measure import cpu, tree
from loadtests.kills.proxy import Proxy
from loadtests.kills.traffic import Traffic

IDLE = 10_000
SIZE = 512 << 20
PER_SECOND = 1 << 20
RATE = 1000.0
CLIENTS = 64
ROUNDS = 9
ROUND_S = 5.0
WARM_S = 2.0
_STEPS = 16  # reads per second
CONFIG = """
listen: 127.0.0.1:{port}
workers: 2
state: tidegate.db
admin: {listen: "127.0.0.1:{admin}"}
request_limits: {keepalive_timeout: 1h}
services:
  - name: web
    stable: {label: "1.0", endpoints: ["http://127.0.0.1:{stable}"]}
    new: {label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}
    split: {new: 50%, sticky: {by: cookie, name: session}}
  - name: large
    match: {path: /large}
    stable: {endpoints: ["http://127.0.0.1:{large}"]}
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU per request (µs) without and with the others, by round; the growth in KiB; the bytes that the client took."""

    without_us: list[float]
    with_us: list[float]
    growth_kib: int
    taken: int
    took_s: float
    failed: int

    @property
    def ratio(self) -> float:
        """The ratio of the medians."""
        return statistics.median(self.with_us) / statistics.median(self.without_us)


def measure(large: int, size: int = SIZE) -> Measured:
    """Measure with `large` as the port of the endpoint for the download, of which `size` bytes are taken."""
    with TemporaryDirectory(prefix="tidegate-idle-") as folder, Traffic(fresh=0.0, keeping=CLIENTS) as traffic:
        with (
            _started(Path(folder) / "alone", traffic, large) as alone,
            _started(Path(folder) / "beside", traffic, large) as beside,
        ):
            idle = [_answered(beside.port, number) for number in range(IDLE)]
            for proxy in (alone, beside):
                _cost(traffic, proxy, WARM_S)
            with Download(beside, size) as download:
                without_us, with_us = [], []
                for _ in range(ROUNDS):
                    without_us.append(_cost(traffic, alone, ROUND_S))
                    with_us.append(_cost(traffic, beside, ROUND_S))
                download.join()
            for client in idle:
                client.close()
        return Measured(
            without_us, with_us, download.growth_kib, download.taken, download.took_s, len(traffic.failures)
        )


class Download(threading.Thread):
    """A client that takes `size` bytes at 1 MiB/s, and looks at the memory of the workers meanwhile."""

    def __init__(self, proxy: Proxy, size: int) -> None:
        super().__init__(daemon=True)
        self.taken = 0
        self.growth_kib = 0
        self.took_s = 0.0
        self._port = proxy.port
        self._size = size
        self._pids = [worker.pid for worker in proxy.workers()]
        self._left = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self.join()

    def run(self) -> None:
        """Take it all."""
        began, before = time.monotonic(), self._resident_kib()
        piece = bytearray(PER_SECOND // _STEPS)
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while self.taken < self._size and not self._left.is_set():
                size = client.recv_into(piece)
                if not size:
                    break
                self.taken += size
                self.growth_kib = max(self.growth_kib, self._resident_kib() - before)
                self._left.wait(max(0.0, began + self.taken / PER_SECOND - time.monotonic()))
        self.took_s = time.monotonic() - began

    def _resident_kib(self) -> int:
        found = 0
        for pid in self._pids:
            found += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4
        return found


@contextlib.contextmanager
def _started(folder: Path, traffic: Traffic, large: int) -> Iterator[Proxy]:
    folder.mkdir()
    config = CONFIG
    for name, port in {**traffic.ports, "large": large}.items():
        config = config.replace("{" + name + "}", str(port))
    proxy = Proxy(folder, config)
    try:
        proxy.begin()
        proxy.wait_ready()
        yield proxy
    finally:
        proxy.sweep_up()


def _answered(port: int, number: int) -> socket.socket:
    """Return a connection that had an answer, and rests."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: session=%d\r\n\r\n" % number)
    client.recv(4096)
    return client


def _cost(traffic: Traffic, proxy: Proxy, seconds: float) -> float:
    """Return the CPU time of the workers per request in µs, under the load for so long."""
    pids = [pid for pid in tree(proxy.pid) if pid != proxy.pid]
    answered, before = traffic.answered, cpu(pids)
    traffic.load(proxy.port, RATE)
    time.sleep(seconds)
    traffic.rest()
    used = cpu(pids) - before
    return (used.user + used.system) * 1e6 / (traffic.answered - answered)
