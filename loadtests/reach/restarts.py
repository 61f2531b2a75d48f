"""What clients see of a supervisor that dies and is started again, 20 times, at 500 requests/s.

Once all clients keep their connections, once every request takes a fresh one. `kill -9` of the supervisor leaves its
workers, which serve on and hand their sockets to the next one's. (`TERM` is a drain: it ends the workers too.)
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.kills.proxy import Proxy
from loadtests.kills.traffic import Traffic

RATE = 500.0
PAUSE_S = 1.0
CONFIG = """
listen: 127.0.0.1:{port}
workers: 2
state: tidegate.db
admin: {listen: "127.0.0.1:{admin}"}
drain: {delay: 0s, timeout: 5s}
services:
  - name: web
    stable: {label: "1.0", endpoints: ["http://127.0.0.1:{stable}"]}
    new: {label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}
    split: {new: 50%, sticky: {by: cookie, name: session}}
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What clients saw: requests sent, how many failed and how, and the longest wait for an answer (s)."""

    sent: int
    failed: dict[str, int]
    longest_s: float
    restart_s: float


def killed(restarts: int, *, fresh: float, rate: float = RATE) -> Seen:
    """Kill -9 the supervisor and start it again, so many times; `fresh`: share of requests with a connection each."""
    with TemporaryDirectory(prefix="tidegate-restarts-") as folder, Traffic(fresh=fresh) as traffic:
        config = CONFIG
        for place, port in {"{stable}": traffic.ports["stable"], "{new}": traffic.ports["new"]}.items():
            config = config.replace(place, str(port))
        proxy = Proxy(Path(folder), config)
        took_s = []
        try:
            proxy.begin()
            proxy.wait_ready()
            traffic.load(proxy.port, rate)
            time.sleep(PAUSE_S)
            for _ in range(restarts):
                proxy.kill()
                proxy.begin()
                proxy.wait_ready()
                took_s.append(time.monotonic() - proxy.began)
                time.sleep(PAUSE_S)
            traffic.rest()
        finally:
            proxy.sweep_up()
    failed = Counter(one.how for one in traffic.failures)
    return Seen(traffic.sent, dict(failed), traffic.longest_s, max(took_s, default=0.0))
