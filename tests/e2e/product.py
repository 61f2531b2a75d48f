"""The whole product as an operator runs it: `tidegate run --config`, real workers, real backends, a real load."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from proxy.cli.demo.backend import Backend, BackendConnection
from proxy.cli.demo.load import Load
from proxy.controlplane.roster import read
from tests.controlplane.waiting import until_now
from tests.ports import held_port

ROOT = Path(__file__).parents[2]


HUNG = "hung"
SLOW_S = 3.0
PATIENCE_S = 30.0
AT_ONCE = 50


class Stubborn(Backend):
    """A backend that can also take requests and never answer (`HUNG`), and is slower than a busy machine."""

    def answer(self, head):
        if self.mode != HUNG:
            response, wait_s = super().answer(head)
            return response, SLOW_S if wait_s else 0
        self.requests += 1
        return b"", 3600.0


class Visitors(Load):
    """A load that sends no more while `at_once` requests are open: a busy machine gets less, and does not drown."""

    at_once = AT_ONCE

    def _send(self, intended_ns):
        if self.sent - self.answered - self.errors < self.at_once:
            super()._send(intended_ns)


class Backends(threading.Thread):
    """`stable` and `new`, and on demand an open-loop load, in one thread with a loop of its own."""

    def __init__(self):
        super().__init__(daemon=True)
        self.loop = asyncio.new_event_loop()
        self.stable = Backend("stable")
        self.new = Stubborn("new")
        self.ports = {}
        self._ready = threading.Event()
        self._servers = []
        self._connections = []

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._listen())
        self._ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _listen(self):
        for backend in (self.stable, self.new):
            server = await self.loop.create_server(lambda backend=backend: self._connection(backend), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports[backend.name] = server.sockets[0].getsockname()[1]

    def _connection(self, backend):
        self._connections.append(BackendConnection(backend))
        return self._connections[-1]

    async def _end(self):
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection._transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self):
        self.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(30)

    @contextlib.contextmanager
    def load(self, port, rate, *, at_once=AT_ONCE, patience_s=PATIENCE_S):
        """Send `rate` requests per second while the block lasts; yields the load, whose counts are final after it."""
        load = Visitors("127.0.0.1", port, rate, timeout_s=PATIENCE_S)
        load.at_once = at_once
        self.loop.call_soon_threadsafe(load.start)
        try:
            yield load
        finally:
            asyncio.run_coroutine_threadsafe(load.finish(patience_s), self.loop).result(2 * PATIENCE_S)


# 10 s are more than a busy machine ever adds; where a test is about slowness, it says `QUICK`.
CONFIG = """
listen: 127.0.0.1:{port}
workers: 2
state: tidegate.db
admin: {{listen: "127.0.0.1:{admin}"}}
drain: {{delay: 0s, timeout: 5s}}
services:
  - name: web
    stable: {{label: "1.0", endpoints: ["http://127.0.0.1:{stable}"]}}
    new: {{label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}}
    split: {{new: 0%, sticky: {{by: cookie, name: session}}}}
    limits:
      - {{metric: error_rate, max: 1%}}
      - {{metric: p99, max: 10s}}
    timeouts: {{connect: 10s}}
    {more}
"""
QUICK = CONFIG.replace("max: 10s", "max: 1s")


class Product:
    """A supervisor and its workers in a folder of their own; may be killed and started again on the same state."""

    def __init__(self, folder, backends, more="", config=CONFIG):
        self.folder = folder
        self._held = [held_port(), held_port()]
        self.port, self.admin = (sock.getsockname()[1] for sock in self._held)
        self.config = folder / "tidegate.yaml"
        self.config.write_text(config.format(port=self.port, admin=self.admin, more=more, **backends.ports))
        self.log = folder / "log"
        self.process = None

    def start(self):
        """Start and wait until it is announced."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run", "--config", str(self.config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until_now(self._ready, 120)
        return self

    def _ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.call("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def call(self, method, path, body=None):
        """Return status and JSON (or text) of the admin API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {} if data is None else {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(raw) if raw[:1] in b"{[" else raw.decode()

    def web(self):
        """Return the service's part of the status."""
        return self.call("GET", "/api/v1/status")[1]["services"]["web"]

    def set_weight(self, percent):
        """Set the weight of `new` as an operator."""
        status, answer = self.call("PUT", "/api/v1/services/web/weights", {"new": percent})
        assert status == 200, answer
        return answer

    def events(self, kind=None):
        """Return the journal's events, of one type if given."""
        events = self.call("GET", "/api/v1/events?since=0")[1]["events"]
        return [event for event in events if kind in (None, event["type"])]

    def metric(self, line):
        """Return the value of one series of /metrics, `None` if it is not there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.call("GET", "/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else None

    @property
    def workers(self):
        """The live workers' pids by slot."""
        return {process.slot: process.pid for process in read(self.folder / "tidegate.db.workers").orphans}

    def ask(self, cookie="session=one", path="/hello"):
        """Return (status, version that answered) of one request on a fresh connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Cookie": cookie})
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("x-tidegate-version")
        finally:
            connection.close()

    def kill_everything(self):
        """Kill supervisor and workers at once, as a power cut would."""
        workers = list(self.workers.values())
        self.process.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))

    def end(self, number=signal.SIGTERM):
        """Signal the supervisor and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def sweep_up(self):
        """End whatever is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        for process in read(self.folder / "tidegate.db.workers").orphans:
            process.kill()
        for sock in self._held:
            sock.close()


def instant():
    """Return CLOCK_MONOTONIC in ns, the clock of every stamp in the product."""
    return time.monotonic_ns()
