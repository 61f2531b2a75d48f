"""The play: rounds in which `new` first works, then fails, and the gate has to shut by itself.

The decision's time is the proxy's own stamp (`decided_ns`, taken right after the weight was stored); the first bad
answer and what came to `new` later are the backend's own books; both clocks are `CLOCK_MONOTONIC` of this machine. At
the end the proxy's counters are held against the backends': they have to be equal.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console

from proxy.cli.demo import view
from proxy.cli.demo.backend import ERRORS, SLOW, WELL
from proxy.cli.demo.facts import Books, Moment, Round
from proxy.cli.demo.parts import Proxy, Traffic, started

TITLES = {ERRORS: "`new` answers 500 to everybody", SLOW: "`new` takes 400 ms (the limit is p99 200 ms)"}
LOOK_S = 0.15  # how often the demo looks
AFTERMATH_S = 4.0  # how long an interactive round goes on after the decision
HEALTHY_SHARE, HEALTHY_MOST_S = 0.4, 8.0
RATE_WINDOW_S = 1.5
SETTLE_S = 10.0
PLAIN_WIDTH = 110  # where there is no terminal to ask


def play(*, headless: bool, seconds: float, rate: int, weight: int) -> list[Round]:
    """Play one round (`headless`) or two, of at most `seconds` each, and say what happened.

    `rate`: requests per second; `weight`: percent of users on `new`. A round that does not shut the gate is the last.
    """
    console = Console(quiet=headless)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    rounds: list[Round] = []
    console.print("Starting two backends and [bold]tidegate run[/] with two workers …")
    with started(weight) as (traffic, proxy):
        console.print(f"proxy [bold]http://127.0.0.1:{proxy.port}[/]   admin [bold]{proxy.admin}[/]\n")
        traffic.tell({"load": {"host": "127.0.0.1", "port": proxy.port, "rate": rate}})
        for number, mode in enumerate((ERRORS,) if headless else (ERRORS, SLOW), start=1):
            if number > 1:
                traffic.tell({"fail": WELL})
                proxy.open_gate(weight, f"demo: round {number}")
            console.rule(f"Round {number}: {TITLES[mode]}", align="left", style="dim")
            with _screen(console, headless=headless) as show:
                act = _Act(traffic, proxy, Round(mode), number, seconds)
                act.run(show, leave_early=not headless)
            rounds.append(act.round)
            if headless:
                break
            console.print(view.story(act.round))
            if not act.round.rolled_back:
                break
        books = _settle(traffic, proxy)
        console.print(view.books(books))
    return rounds


class _Act:
    """One round while it runs."""

    def __init__(self, traffic: Traffic, proxy: Proxy, round_: Round, number: int, seconds: float) -> None:
        self.round = round_
        self._traffic, self._proxy = traffic, proxy
        self._number, self._seconds = number, seconds
        self._healthy_s = min(HEALTHY_MOST_S, HEALTHY_SHARE * seconds)
        self._failing = False
        self._decided_at: float | None = None  # our own time of hearing of it
        self._counts: deque[tuple[float, dict[str, int]]] = deque()
        last = proxy.events(0)
        self._seen = last[-1]["seq"] if last else 0
        before = traffic.fresh()
        self._clients_before = before["clients"]
        self._start_ns = before["now_ns"]
        self._rescued_before = proxy.status()["versions"]["new"]["rescued"]

    def run(self, show: Callable[[Moment], None], *, leave_early: bool) -> None:
        """Play to the end of the round; `show` gets every moment."""
        while True:
            elapsed_s = (time.monotonic_ns() - self._start_ns) / 1e9
            if elapsed_s >= self._healthy_s and not self._failing:
                self._failing = True
                self._traffic.tell({"fail": self.round.mode})
            status, report = self._proxy.status(), self._traffic.update()
            if self._failing and self._decided_at is None:
                self._look_for_decision(elapsed_s)
            show(self._moment(elapsed_s, status, report))
            if elapsed_s >= self._seconds:
                break
            if leave_early and self._decided_at is not None and elapsed_s > self._decided_at + AFTERMATH_S:
                break
            time.sleep(LOOK_S)
        self._account()

    def _look_for_decision(self, elapsed_s: float) -> None:
        for event in self._proxy.events(self._seen):
            self._seen = event["seq"]
            evidence = event.get("evidence") or {}
            if event["after"].get("phase") == "rolled_back" and "decided_ns" in evidence:
                self._decided_at = elapsed_s
                self.round.rolled_back = True
                self.round.reason = event["reason"]
                self.round.evidence = evidence
                self.round.decided_s = (evidence["decided_ns"] - self._start_ns) / 1e9
                self._traffic.tell({"decided_ns": evidence["decided_ns"]})
                break

    def _account(self) -> None:
        report, status = self._traffic.fresh(), self._proxy.status()
        while report["decided_ns"] != self.round.evidence.get("decided_ns", 0):
            report = self._traffic.fresh()
        if report["first_bad_ns"]:
            self.round.first_bad_s = (report["first_bad_ns"] - self._start_ns) / 1e9
        self.round.requests_to_new_after = report["sent_after"]
        self.round.under_way = report["under_way_at_decision"]
        clients = report["clients"]
        self.round.client_errors = clients["errors"] - self._clients_before["errors"]
        self.round.client_requests = clients["sent"] - self._clients_before["sent"]
        self.round.rescued = status["versions"]["new"]["rescued"] - self._rescued_before

    def _moment(self, elapsed_s: float, status: dict[str, Any], report: dict[str, Any]) -> Moment:
        counts = {name: version["requests"] for name, version in status["versions"].items()}
        self._counts.append((elapsed_s, counts))
        while self._counts[0][0] < elapsed_s - RATE_WINDOW_S:
            self._counts.popleft()
        then_s, then = self._counts[0]
        passed_s = elapsed_s - then_s
        rates = {name: (counts[name] - then[name]) / passed_s if passed_s else 0.0 for name in counts}
        return Moment(self.round, self._number, elapsed_s, self._failing, status, report, rates)


def _settle(traffic: Traffic, proxy: Proxy) -> Books:
    """Stop the load and return both books, once the proxy has nothing in flight."""
    report = traffic.finish()
    backends = {name: backend["requests"] for name, backend in report["backends"].items()}
    deadline = time.monotonic() + SETTLE_S
    while True:
        versions = proxy.status()["versions"]
        ours = {name: versions[name]["requests"] for name in backends}
        if ours == backends or time.monotonic() > deadline:
            return Books(ours, backends)
        time.sleep(LOOK_S)


def _screen(console: Console, *, headless: bool) -> AbstractContextManager[Callable[[Moment], None]]:
    if headless:
        return nullcontext(lambda _moment: None)
    if console.is_terminal:
        return view.Screen(console)
    return nullcontext(view.Lines(console).show)
