"""The two programs that the demo starts: the traffic, and the proxy as any operator would start it."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO, Any, cast

import orjson

from proxy.cli.client import Client
from proxy.errors import TidegateError

READY_S = 60.0
STOP_S = 20.0
WORKERS = 2


class DemoFailed(TidegateError):
    """A part of the demo did not start or ended by itself."""


class Traffic:
    """The process with both backends and the load. `report` is the last one that it sent."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proxy.cli.demo.traffic"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which ends its parts in order
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        try:
            first = orjson.loads(self._lines.get(timeout=READY_S) or b"{}")
        except queue.Empty:
            first = {}
        if not first:
            self.close()
            raise DemoFailed("the backends of the demo did not start")
        self.ports: dict[str, int] = first

    def tell(self, order: dict[str, object]) -> None:
        """Give an order (see `traffic.py`)."""
        pipe = cast("IO[bytes]", self._process.stdin)
        try:
            pipe.write(orjson.dumps(order) + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise DemoFailed("the traffic of the demo has ended by itself") from None

    def update(self) -> dict[str, Any]:
        """Return the newest report."""
        while not self._lines.empty():
            if line := self._lines.get():
                self.report = orjson.loads(line)
        return self.report

    def fresh(self) -> dict[str, Any]:
        """Return a report that was made after this call."""
        asked_ns = time.monotonic_ns()
        while True:
            try:
                line = self._lines.get(timeout=STOP_S)
            except queue.Empty:
                line = b""
            if not line:
                raise DemoFailed("the traffic of the demo has ended by itself")
            self.report = orjson.loads(line)
            if self.report["now_ns"] > asked_ns:
                return self.report

    def finish(self) -> dict[str, Any]:
        """Stop the load, wait for the last answers, and return the final report."""
        self.tell({"stop": True})
        self._process.wait(STOP_S)
        self._reader.join(STOP_S)
        return self.update()

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            cast("IO[bytes]", self._process.stdin).close()
        _end(self._process)
        self._reader.join(STOP_S)
        cast("IO[bytes]", self._process.stdout).close()

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._lines.put(line)
        self._lines.put(b"")


class Proxy:
    """A real `tidegate run` in front of the two backends; `client` talks to its admin API."""

    def __init__(self, folder: Path, ports: dict[str, int], weight: int) -> None:
        self._held = [_held_port(), _held_port()]
        self.port, admin_port = (sock.getsockname()[1] for sock in self._held)
        self.admin = f"http://127.0.0.1:{admin_port}"
        self.client = Client(self.admin, timeout_s=30.0)
        self._log = folder / "tidegate.log"
        config = folder / "tidegate.yaml"
        config.write_text(f"""\
listen: 127.0.0.1:{self.port}
workers: {WORKERS}
state: tidegate.db
admin: {{listen: "127.0.0.1:{admin_port}"}}
drain: {{delay: 0s, timeout: 2s}}
services:
  - name: web
    stable: {{label: "1.0", endpoints: ["http://127.0.0.1:{ports["stable"]}"]}}
    new: {{label: "2.0", endpoints: ["http://127.0.0.1:{ports["new"]}"]}}
    split: {{new: {weight}%, sticky: {{by: cookie, name: session}}}}
    timeouts: {{connect: 5s}}
    limits:
      - {{metric: error_rate, max: 1%}}
      - {{metric: p99, max: 200ms}}
""")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_ready(self) -> None:
        """Return when `/readyz` says that traffic may come."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(TidegateError):
                self.client.get("/readyz")
                return
            time.sleep(0.05)
        if self._process.poll() is None:
            raise DemoFailed(f"tidegate run was not ready within {READY_S:.0f} s; it said:\n{self._said()}")
        raise self._ended()

    def status(self) -> dict[str, Any]:
        """Return the status of the service."""
        if self._process.poll() is not None:
            raise self._ended()
        return cast("dict[str, Any]", self.client.get("/api/v1/status")["services"]["web"])

    def events(self, since: int) -> list[dict[str, Any]]:
        """Return the events of the journal after number `since`."""
        return cast("list[dict[str, Any]]", self.client.get("/api/v1/events", {"since": since})["events"])

    def open_gate(self, weight: int, reason: str) -> None:
        """Set the weight of `new`, in percent, as an operator."""
        self.client.call("PUT", "/api/v1/services/web/weights", body={"new": weight, "reason": reason})

    def close(self) -> None:
        """Drain and end."""
        _end(self._process)
        for sock in self._held:
            sock.close()

    def _said(self) -> str:
        return self._log.read_text(errors="replace").strip()

    def _ended(self) -> DemoFailed:
        code = self._process.returncode
        return DemoFailed(f"tidegate run ended by itself with exit code {code}; it said:\n{self._said()}")


@contextmanager
def started(weight: int) -> Iterator[tuple[Traffic, Proxy]]:
    """Start both backends and the proxy in front of them; end all of it when the block is left."""
    with TemporaryDirectory(prefix="tidegate-demo-") as folder:
        traffic = Traffic()
        try:
            proxy = Proxy(Path(folder), traffic.ports, weight)
            try:
                traffic.tell({"proxy": proxy.pid})
                proxy.wait_ready()
                yield traffic, proxy
            finally:
                proxy.close()
        finally:
            traffic.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    for ask in (process.terminate, process.terminate, process.kill):
        if process.poll() is None:
            ask()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)


def _held_port() -> socket.socket:
    """Return a socket that keeps a free port from all others; who sets SO_REUSEADDR too may listen there beside it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock
