"""What the supervisor of many services costs: 20 of them on a real `tidegate run`, each with a rollout under way.

Every service has two limits of its own and two of its stage, `new` has a tenth of the users, and each gets the same
few requests per second. Measured is the CPU time of the supervisor's process, all its threads together: collecting,
judging, history, block journal, store, and whatever else it does. What has to be reached: judge and collector cost
less than 2 % of one core with 20 services; this counts more than them.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.kills.proxy import Proxy
from loadtests.kills.traffic import Traffic

SETTLED_S = 15.0
_SCHEDULED = 2  # what the clock of a process counts: clock_getcpuclockid(3)
CONFIG = """
listen: 127.0.0.1:{port}
workers: 2
state: tidegate.db
admin: {listen: "127.0.0.1:{admin}"}
drain: {delay: 0s, timeout: 1s}
services:
"""
SERVICE = """
  - name: s{number}
    match: {{host: s{number}.example.com}}
    stable: {{label: "1.0", endpoints: ["http://127.0.0.1:{stable}"]}}
    new: {{label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}}
    limits: {{error_rate: 1%, p99: 250ms}}
    rollouts:
      default:
        stages:
          - {{name: tenth, weight: 10%, hold: 1h, limits: {{error_rate: 2%, p95: 200ms}}}}
          - {{name: full, weight: 100%, hold: 1h}}
"""


def cost(services: int, rate: float, seconds: float, settled_s: float = SETTLED_S) -> float:
    """Return which share of a core the supervisor takes, looked at for so many seconds after `settled_s` of the same.

    `rate`: requests/s of each service; at 0 no rollout is under way.
    """
    with TemporaryDirectory(prefix="tidegate-many-") as folder, Traffic() as traffic:
        places = {"stable": traffic.ports["stable"], "new": traffic.ports["new"]}
        proxy = Proxy(Path(folder), CONFIG + "".join(SERVICE.format(number=n, **places) for n in range(services)))
        try:
            proxy.begin()
            proxy.wait_ready()
            for number in range(services if rate else 0):
                status, answer = proxy.call("POST", f"/api/v1/services/s{number}/rollout", {})
                if status != 200:
                    raise RuntimeError(f"a rollout cannot start: {answer}")
            _load(proxy.port, services, rate, settled_s)
            before = _cpu_s(proxy.pid)
            begin = time.monotonic()
            _load(proxy.port, services, rate, seconds)
            return (_cpu_s(proxy.pid) - before) / (time.monotonic() - begin)
        finally:
            proxy.sweep_up()


def _load(port: int, services: int, rate: float, seconds: float) -> None:
    """Ask the services in turn, each over a connection of its own, every time as another user."""
    if not rate:
        time.sleep(seconds)
        return
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(services)]
    begin = time.monotonic()
    for number in range(int(seconds * rate * services)):
        time.sleep(max(0.0, begin + number / (rate * services) - time.monotonic()))
        client = clients[number % services]
        client.sendall(b"GET / HTTP/1.1\r\nHost: s%d.example.com\r\n\r\n" % (number % services))
        if not client.recv(4096).startswith(b"HTTP/1.1 200 "):
            raise RuntimeError("a request failed")
    for client in clients:
        client.close()


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process with all its threads, ended ones too; /proc counts in steps of 10 ms."""
    return time.clock_gettime(~pid << 3 | _SCHEDULED)
