"""How soon a hung `new` is out: an endpoint that takes requests and never answers, in a stage judged by evidence.

20 requests/s come to `new` (half of 40), the time-out is 30 s, the limit p99 at 250 ms. A request counts as soon as it
hangs for longer than that (its *crossing*), and enough of them shut the gate, long before the first time-out. Measured
is the time from the first hung request's crossing (its arrival at the endpoint + 250 ms) to the store of weight 0.
What has to be reached: 250 ms + 5 blocks of 250 ms.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.kills.proxy import Proxy
from loadtests.kills.traffic import HUNG, Traffic
from proxy.cli.demo.backend import WELL

RATE = 40.0
LIMIT_S = 0.25
GOOD_S = 3.0
DECIDED_S = 60.0
CONFIG = """
listen: 127.0.0.1:{port}
workers: 2
state: tidegate.db
admin: {listen: "127.0.0.1:{admin}"}
drain: {delay: 0s, timeout: 1s}
services:
  - name: web
    stable: {label: "1.0", endpoints: ["http://127.0.0.1:{stable}"]}
    new: {label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}
    split: {new: 0%, sticky: {by: cookie, name: session}}
    timeouts: {first_byte: 30s}
    rollouts:
      default:
        advance: evidence
        stages:
          - {name: half, weight: 50%, hold: 1h, min_requests: 100, limits: {error_rate: 1%, p99: {limit}ms}}
          - {name: full, weight: 100%, hold: 1h, min_requests: 100, limits: {error_rate: 1%, p99: {limit}ms}}
"""
ROLLOUT = "/api/v1/services/web/rollout"


def delays(rounds: int, seed: int = 1, limit_s: float = LIMIT_S) -> list[float]:
    """Return the seconds from the first crossing to weight 0, round by round."""
    draw = random.Random(seed)
    with TemporaryDirectory(prefix="tidegate-hung-") as folder, Traffic() as traffic:
        places = {
            "{stable}": traffic.ports["stable"],
            "{new}": traffic.ports["new"],
            "{limit}": round(limit_s * 1000),
        }
        config = CONFIG
        for place, value in places.items():
            config = config.replace(place, str(value))
        proxy = Proxy(Path(folder), config)
        try:
            proxy.begin()
            proxy.wait_ready()
            traffic.load(proxy.port, RATE)
            found = [_delay(proxy, traffic, draw) - limit_s for _ in range(rounds)]
            traffic.rest()
        finally:
            proxy.sweep_up()
    return found


def _delay(proxy: Proxy, traffic: Traffic, draw: random.Random) -> float:
    status, answer = proxy.call("POST", ROLLOUT, {})
    if status != 200:
        raise RuntimeError(f"a rollout cannot start: {answer}")
    # Blocks lie on a grid of their own: the failure begins anywhere within one.
    time.sleep(GOOD_S + draw.uniform(0.0, 1.0))
    traffic.turn(HUNG)
    end = time.monotonic() + DECIDED_S
    decided_ns = 0
    while not decided_ns:
        if time.monotonic() > end:
            raise RuntimeError(f"not decided within {DECIDED_S:g} s")
        time.sleep(0.05)
        if proxy.web()["phase"] == "rolled_back":
            events = proxy.call("GET", "/api/v1/events?since=0")[1]["events"]
            rolled_back = [one for one in events if one["type"] == "RolledBack"]
            # The event of this round comes once it is stored.
            decided_ns = max((one["evidence"]["decided_ns"] for one in rolled_back), default=0)
            if decided_ns < traffic.new.book[0].arrived_ns:
                decided_ns = 0
    first_ns = traffic.new.book[0].arrived_ns
    traffic.turn(WELL)
    return (decided_ns - first_ns) / 1e9
