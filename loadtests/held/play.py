"""Moments of change under load: reloads, killed workers, killed supervisors, and at last a drain.

Nouns: a *change* is one of `hup` (the file changed, SIGHUP), `api` (the file changed, a reload by the API), `worker`
(kill -9 of one of them) and `supervisor` (kill -9, and the start of another on the same state). They come in an order
drawn from the seed, with a pause after each.

What may fail: a request on a connection that lived on a killed worker, once, and that worker's tunnels. Which those
are is read from /proc while the worker is stopped, just before it is killed: what it has not accepted by then waits
in a queue that its neighbours hold as well, and is no excuse. A tunnel may also end with a drain: of the workers of a
killed supervisor, which the next one retires, and of everybody after TERM; in both cases not before `drain.timeout`
has passed since that could begin. Everything else is a failure.

TERM comes while requests still do, as from a balancer that needs a moment to see that `/readyz` is 503: they stop
when half of `drain.delay` is over.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.held.sight import clients_of, rows
from loadtests.held.tunnels import Ended, HeldTraffic
from loadtests.kills.proxy import Proxy
from loadtests.kills.traffic import Failure

WORKERS = 2
PATIENCE_S = 45.0
WARM_S = 2.0
CONFIG = """
listen: 127.0.0.1:{port}
workers: 2
state: tidegate.db
admin: {listen: "127.0.0.1:{admin}"}
drain: {delay: {delay}s, timeout: {timeout}s}
services:
  - name: web
    stable: {label: "1.0", endpoints: ["http://127.0.0.1:{stable}"]}
    new: {label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}
    split: {new: 50%, sticky: {by: cookie, name: session}}
    timeouts: {first_byte: {first_byte}s}
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything; `rate` in requests per second, times in seconds."""

    rate: float = 2000.0
    connections: int = 800
    tunnels: int = 200
    reloads: int = 20
    worker_kills: int = 5
    supervisor_kills: int = 3
    pause_s: float = 2.0
    delay_s: int = 4
    timeout_s: int = 15
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What came of it. `imbalance`: connections of the most loaded worker over the mean, before the first change.

    Afterwards it may be anything: connections that are kept stay where they are, and a new worker begins with none.
    """

    failed: list[Failure] = field(default_factory=list)
    excused: list[Failure] = field(default_factory=list)
    dropped: list[Ended] = field(default_factory=list)
    killed_tunnels: int = 0
    drained_tunnels: int = 0
    sent: int = 0
    answered: int = 0
    rate: float = 0.0
    longest_s: float = 0.0
    echoes: int = 0
    late_echoes: int = 0
    imbalance: float = 0.0
    internal_errors: int = 0
    exit_code: int = -1


class Play:
    """One run of a plan. `changes` says what was done, in order."""

    def __init__(self, folder: Path, plan: Plan, tell: Callable[[str], None] = lambda _: None) -> None:
        self.plan = plan
        self._tell = tell
        self._draw = random.Random(plan.seed)
        self._killed: set[int] = set()
        self._drains: list[float] = []  # when a drain could begin
        self._serial = 0
        self._folder = folder
        self._traffic: HeldTraffic
        self._proxy: Proxy

    def run(self) -> Outcome:
        """Play, and return what came of it."""
        plan = self.plan
        with HeldTraffic(fresh=0.0, keeping=plan.connections) as self._traffic:
            self._proxy = Proxy(self._folder, self._config())
            try:
                self._proxy.begin()
                self._proxy.wait_ready()
                self._traffic.open_all(self._proxy.port, plan.tunnels)
                self._traffic.load(self._proxy.port, plan.rate)
                began, before = time.monotonic(), self._traffic.answered
                self._wait("all tunnels", lambda: self._traffic.open_tunnels == plan.tunnels)
                self._wait("all clients", lambda: self._traffic.sent > plan.connections)
                time.sleep(WARM_S)
                connections = [row.connections for row in rows(self._proxy.pid)]
                imbalance = max(connections) * len(connections) / sum(connections)
                for change in self._changes():
                    self._tell(f"{change}: {self._traffic.answered} answered, {len(self._traffic.failures)} failed")
                    getattr(self, f"_{change}")()
                    time.sleep(plan.pause_s)
                rate = (self._traffic.answered - before) / (time.monotonic() - began)
                exit_code = self._term()
                outcome = self._judge()
                outcome.imbalance, outcome.rate, outcome.exit_code = imbalance, rate, exit_code
                outcome.internal_errors = self._proxy.said().count("internal error")
            finally:
                self._proxy.sweep_up()
        return outcome

    def _changes(self) -> list[str]:
        plan = self.plan
        changes = ["hup", "api"] * (plan.reloads // 2) + ["hup"] * (plan.reloads % 2)
        changes += ["worker"] * plan.worker_kills + ["supervisor"] * plan.supervisor_kills
        self._draw.shuffle(changes)
        return changes

    def _config(self) -> str:
        self._serial += 1
        places: dict[str, int] = {
            "{stable}": self._traffic.ports["stable"],
            "{new}": self._traffic.ports["new"],
            "{delay}": self.plan.delay_s,
            "{timeout}": self.plan.timeout_s,
            "{first_byte}": 30 + self._serial,
        }
        config = CONFIG
        for place, value in places.items():
            config = config.replace(place, str(value))
        return config

    # --- changes -------------------------------------------------------------------------------------------------

    def _hup(self) -> None:
        self._reload(lambda: os.kill(self._proxy.pid, signal.SIGHUP))

    def _api(self) -> None:
        self._reload(self._ask_to_reload)

    def _ask_to_reload(self) -> None:
        status, answer = self._proxy.call("POST", "/api/v1/config/reload", {})
        if status != 200:
            raise RuntimeError(f"a reload was answered {status}: {answer}")

    def _reload(self, ask: Callable[[], None]) -> None:
        before = max(row.generation for row in rows(self._proxy.pid))
        self._proxy.configure(self._config())
        ask()
        self._wait("the next generation", lambda: min(row.generation for row in rows(self._proxy.pid)) > before)

    def _worker(self) -> None:
        victim = self._draw.choice([row.pid for row in rows(self._proxy.pid)])
        os.kill(victim, signal.SIGSTOP)
        self._killed |= clients_of(victim, self._proxy.port)
        os.kill(victim, signal.SIGKILL)
        self._wait("another worker", lambda: self._listening() and victim not in self._pids())

    def _supervisor(self) -> None:
        self._proxy.kill()
        self._drains.append(time.monotonic())
        self._proxy.begin()
        self._proxy.wait_ready()

    def _term(self) -> int:
        self._tell("TERM")
        os.kill(self._proxy.pid, signal.SIGTERM)
        self._drains.append(time.monotonic() + self.plan.delay_s)
        self._wait("readiness to go", lambda: self._proxy.call("GET", "/readyz")[0] == 503)
        self._traffic.last_tunnels()
        time.sleep(self.plan.delay_s / 2)
        self._traffic.rest()
        exit_code = self._proxy.end()
        # Workers of a supervisor that was killed before may still be draining.
        self._wait("the end of all tunnels", lambda: self._traffic.open_tunnels == 0)
        return exit_code

    # --- judgement -----------------------------------------------------------------------------------------------

    def _judge(self) -> Outcome:
        traffic = self._traffic
        outcome = Outcome(
            sent=traffic.sent,
            answered=traffic.answered,
            longest_s=traffic.longest_s,
            echoes=traffic.echoes,
            late_echoes=traffic.late_echoes,
        )
        for failure in traffic.failures:
            (outcome.excused if failure.port in self._killed else outcome.failed).append(failure)
        for tunnel in traffic.ended:
            if tunnel.port in self._killed:
                outcome.killed_tunnels += 1
            elif self._drained(tunnel):
                outcome.drained_tunnels += 1
            else:
                outcome.dropped.append(tunnel)
        return outcome

    def _drained(self, tunnel: Ended) -> bool:
        """Return whether it was open when a drain began, and stayed until the drain's end."""
        return tunnel.opened > 0 and any(
            tunnel.opened < began + PATIENCE_S and 0 <= tunnel.ended - began - self.plan.timeout_s < PATIENCE_S
            for began in self._drains
        )

    def _pids(self) -> set[int]:
        return {row.pid for row in rows(self._proxy.pid)}

    def _listening(self) -> bool:
        workers = self._proxy.call("GET", "/api/v1/status")[1]["workers"]
        return len(workers) == WORKERS and all(worker["state"] == "listening" for worker in workers)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise RuntimeError(f"no {what} within {PATIENCE_S:g} s; it said:\n{self._proxy.said()[-4000:]}")
            time.sleep(0.02)
