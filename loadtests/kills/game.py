"""The kill game: a rollout under load whose supervisor is killed (-9) again and again, each time at another instant.

A *round* brings the rollout to a place, kills the supervisor there (one time in eight its workers too), starts it on
the same state and looks. Which place, which instant: drawn from the seed.

* `running`: some time after it serves; often `new` has turned bad (errors, or slow) some time before
* `starting`: before it serves
* `order`: right after a person has ordered something (start, promote, pause, resume, rollback, a weight by hand)
* `shutting`: the gate is shut, by a limit or a person, and the commit of that hangs: the game holds SQLite's
  write lock through a connection of its own, as a slow disk would
* `raising`: the same for what gives `new` more: the order hangs in its commit
* `hook`: a hook after the rollback is running
* `completed`: `new` has 100 % and nothing automatic shuts the gate; the next supervisor is told to roll back as soon
  as it can be asked, while workers of the one before still serve

What is checked all the time is in `watch.py`; what is checked after a start is here: the weight is not above the
stored one and 0 if the latch was shut; what was answered is stored; the stage is the stored one, its elapsed time has
gone on from the stored one; its windows have begun anew; within one life no counter has gone back; every rollback
has called its hook, once at least.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.kills.proxy import Json, Proxy
from loadtests.kills.traffic import Failure, Traffic
from loadtests.kills.watch import Stored, Violation, Watch
from proxy.cli.demo.backend import ERRORS, SLOW, WELL

RATE = 120.0
KINDS = {"running": 34, "starting": 14, "order": 16, "shutting": 18, "raising": 12, "hook": 6, "completed": 6}
EVERYBODY = 1 / 8  # so often the workers are killed too
BAD = 0.4  # so often `new` turns bad in a round of the kind `running`
RUNS_S = 1.0
START_S = 1.5
SHUTS_S = 6.0
CLOCK_S = 5.0  # each second is stored how long a stage has run, and later on a busy machine
HOOKS_S = 30.0
WEB = "/api/v1/services/web"

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
    split: {new: 0%, sticky: {by: cookie, name: session}}
    rollouts:
      default:
        stages:
          - {name: quarter, weight: 25%, hold: 1s, min_requests: 20, limits: {error_rate: 1%, p99: 250ms}}
          - {name: half, weight: 50%, hold: 2s, limits: {error_rate: 1%, p99: 250ms}, advance: evidence}
          - {name: full, weight: 100%, hold: 1s, min_requests: 20, limits: {error_rate: 1%, p99: 250ms}}
        hooks:
          before_stage: {run: [sleep, "0.05"]}
          after_rollback: {run: [sh, -c, 'sleep 0.1; cat > "$(mktemp "$0/XXXXXXXX")"', "{hooks}"]}
"""


@dataclass(slots=True)
class Round:
    """What happened in one round.

    `everybody`: the workers were killed too. `restart_s`: from the start of the process until it served.
    """

    kind: str
    everybody: bool
    restart_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """What an order was answered in a thread of its own; `body` is `None` until then."""

    status: int = 0
    body: Json | None = None


class Game:
    """Everything of one run. `seed` decides what is played; chance in the machine decides the rest.

    `rate`: requests per second.
    """

    def __init__(self, folder: Path, traffic: Traffic, seed: int, rate: float = RATE) -> None:
        self.rounds: list[Round] = []
        self._traffic = traffic
        self._rate = rate
        self._draw = random.Random(seed)
        self._hooks = folder / "hooks"
        self._hooks.mkdir()
        places = {"{stable}": str(traffic.ports["stable"]), "{new}": str(traffic.ports["new"])}
        config = CONFIG.replace("{hooks}", str(self._hooks))
        for place, value in places.items():
            config = config.replace(place, value)
        self.proxy = Proxy(folder, config)
        self.watch = Watch(self.proxy, traffic)
        self._failures_read = 0
        self._counted: dict[str, int] = {}
        self._asking = threading.Thread()
        self._holding: sqlite3.Connection | None = None
        self._life = 0.0
        self._elapsed: dict[int, float] = {}

    @property
    def violations(self) -> list[Violation]:
        """What may never be and was."""
        return self.watch.violations

    # --- the whole -----------------------------------------------------------------------------------------------

    def draw_kinds(self, rounds: int) -> Iterator[str]:
        """Yield the kinds of so many rounds."""
        for _ in range(rounds):
            yield self._draw.choices(tuple(KINDS), tuple(KINDS.values()))[0]

    def play(self, kinds: Iterable[str], told: int = 0) -> None:
        """Play a round of each of these kinds; say every `told` rounds how far it is."""
        try:
            self.proxy.begin()
            self.proxy.wait_ready()
            self._traffic.load(self.proxy.port, self._rate)
            for number, kind in enumerate(kinds, 1):
                self._round(kind)
                if told and number % told == 0:
                    failed = sum(len(one.failures) for one in self.rounds)
                    print(f"{number} rounds, {len(self.violations)} violations, {failed} failed", flush=True)
            self._wait_for_hooks()
            self._traffic.rest()
            self.watch.sample()
            self._keep_failures(self.rounds[-1])
            if self.proxy.end() != 0:
                self.watch.wrong("a drain did not end with 0")
            self.watch.check_events()
        finally:
            self.proxy.sweep_up()
        if "internal error" in self.proxy.said() or "Traceback" in self.proxy.said():
            self.watch.wrong(f"an error of the proxy's own:\n{self.proxy.said()}")

    def _round(self, kind: str) -> None:
        played = Round(kind, self._draw.random() < EVERYBODY)
        self.rounds.append(played)
        before = len(self.violations)
        answer: Answer | None = getattr(self, f"_{kind}")()
        if kind != "starting":
            self._look_again()
        found = self._kill(played)
        self._check_answer(answer, found)
        self.proxy.begin()
        if kind == "starting":
            self.watch.pass_time(self._draw.uniform(0.0, START_S))
            found = self._kill(played)
            self.proxy.begin()
        began_with = self._traffic.new.requests
        if kind == "completed":
            self.watch.until(self._roll_back_at_once, 30.0)
        if not self.watch.until(lambda: self.proxy.ready, 30.0):
            raise RuntimeError(f"not ready again:\n{self.proxy.said()[-4000:]}")
        played.restart_s = time.monotonic() - self.proxy.began
        self._check_started(found, began_with)
        self._traffic.new.mode = WELL
        self._keep_failures(played)
        for one in self.violations[before:]:
            print(f"round {len(self.rounds)} ({kind}, everybody={played.everybody}): {one.what}", flush=True)

    def _kill(self, played: Round) -> Stored:
        """Kill, look at what is left, and return what is stored."""
        self.proxy.kill(workers=played.everybody)
        self.watch.forget_words()
        self._release()
        self.watch.check_events()
        return self.watch.stored()

    # --- kinds ---------------------------------------------------------------------------------------------------

    def _running(self) -> None:
        self._go_on()
        runs_s = self._draw.uniform(0.0, RUNS_S)
        if self._draw.random() < BAD:
            well_s = runs_s * self._draw.random()
            self.watch.pass_time(well_s)
            self._traffic.new.mode = self._draw.choice((ERRORS, SLOW))
            # Long enough that some are killed before the judge has decided, and some after.
            runs_s = well_s + self._draw.uniform(0.0, 2 * RUNS_S)
            self.watch.pass_time(runs_s - well_s)
        else:
            self.watch.pass_time(runs_s)

    def _starting(self) -> None:
        self._go_on()

    def _order(self) -> Answer:
        shown = self.proxy.web()
        if shown["phase"] in ("idle", "rolled_back"):
            answer = self._ask(f"{WEB}/rollout", {})
        else:
            choice = self._draw.choice(("promote", "pause", "rollback", "weights", "resume"))
            if choice == "weights":
                answer = self._ask(f"{WEB}/weights?take_over=true", {"new": self._draw.randrange(0, 101, 5)}, "PUT")
            elif choice == "rollback":
                answer = self._ask(f"{WEB}/rollback", {})
            else:
                answer = self._ask(f"{WEB}/rollout/{choice}", {})
        self.watch.pass_time(0.0)
        time.sleep(self._draw.uniform(0.0, 0.03))
        return answer

    def _shutting(self) -> Answer | None:
        self._go_on()
        if self.watch.shut:
            return None
        self.watch.pass_time(self._draw.uniform(0.0, 0.3))
        self._hold()
        answer = None
        if self._draw.random() < 0.5:
            answer = self._ask(f"{WEB}/rollback", {})
        else:
            self._traffic.new.mode = ERRORS
        self.watch.until(lambda: self.watch.shut, SHUTS_S)
        self.watch.pass_time(self._draw.uniform(0.0, 0.1))
        return answer

    def _raising(self) -> Answer:
        shown = self.proxy.web()
        if shown["phase"] == "completed":
            self._order_now(f"{WEB}/rollback")
        self.watch.pass_time(0.0)
        self._hold()
        if self.watch.stored().phase in ("progressing", "paused"):
            answer = self._ask(f"{WEB}/rollout/promote", {"full": True})
        else:
            answer = self._ask(f"{WEB}/rollout", {})
        self.watch.pass_time(self._draw.uniform(0.0, 0.2))
        return answer

    def _hook(self) -> None:
        self._go_on()
        if not self.watch.shut:
            self._order_now(f"{WEB}/rollback")
        self.watch.pass_time(self._draw.uniform(0.0, 0.12))

    def _completed(self) -> None:
        self._go_on()
        for body in ({"full": True}, {}):
            self.proxy.call("POST", f"{WEB}/rollout/promote", body)
        self.watch.pass_time(self._draw.uniform(0.0, 0.3))

    def _roll_back_at_once(self) -> bool:
        with contextlib.suppress(OSError):
            return self.proxy.call("POST", f"{WEB}/rollback", {})[0] == 200
        return False

    def _go_on(self) -> None:
        """See that a rollout is progressing."""
        phase = self.proxy.web()["phase"]
        if phase == "completed":
            self._order_now(f"{WEB}/rollback")
            phase = "rolled_back"
        if phase == "paused":
            status, _ = self.proxy.call("POST", f"{WEB}/rollout/resume", {})
            if status == 409:
                self._order_now(f"{WEB}/rollback")
                phase = "rolled_back"
        if phase == "idle" and self.watch.stored().weight_bp:
            self._order_now(f"{WEB}/rollback")
            phase = "rolled_back"
        if phase in ("idle", "rolled_back"):
            self._wait_for_hooks()
            self._order_now(f"{WEB}/rollout")

    def _order_now(self, path: str) -> None:
        status, answer = self.proxy.call("POST", path, {})
        # The phase may have changed meanwhile: that is no mistake of anybody.
        if status not in (200, 409):
            self.watch.wrong(f"POST {path} was answered {status}: {answer}")
        self.watch.sample()

    def _ask(self, path: str, body: Json, method: str = "POST") -> Answer:
        """Order something without waiting for the answer."""
        answer = Answer()

        def ask() -> None:
            with contextlib.suppress(OSError, ValueError):
                answer.status, answer.body = self.proxy.call(method, path, body)

        self._asking = threading.Thread(target=ask, daemon=True)
        self._asking.start()
        return answer

    # --- the lock ------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        self._holding = sqlite3.connect(self.proxy.state, timeout=30.0, isolation_level=None)
        self._holding.execute("BEGIN IMMEDIATE")

    def _release(self) -> None:
        if self._holding is not None:
            self._holding.execute("ROLLBACK")
            self._holding.close()
            self._holding = None

    # --- checks --------------------------------------------------------------------------------------------------

    def _check_answer(self, answer: Answer | None, found: Stored) -> None:
        if answer is None:
            return
        self._asking.join(30.0)
        if answer.status == 200 and answer.body is not None and answer.body.get("durable", True):
            revision = answer.body.get("revision") or answer.body["weights"]["revision"]
            if revision > found.revision:
                self.watch.wrong(f"answered with revision {revision}, stored is {found.revision}")

    def _check_started(self, found: Stored, began_with: int) -> None:
        """Compare the status after a start with what was stored before."""
        came = self._traffic.new.requests - began_with
        shown = self.proxy.web()
        now = self.watch.stored()
        passed_s = (time.monotonic_ns() - found.at_ns) / 1e9
        self.watch.sample()
        at = f"{found.phase} at {found.weight_bp} (latch shut: {found.shut}), now {shown['phase']} {shown['weights']}"
        # A stage may have gone on by itself since it was started, and then that is stored.
        allowed = max(0 if found.shut else found.weight_bp, now.weight_bp if now.revision > found.revision else 0)
        if shown["weights"]["new"] * 100 > allowed:
            self.watch.wrong(f"more weight than stored: {at}")
        if (found.shut or found.phase == "rolled_back") and (shown["phase"], shown["weights"]["new"]) != (
            "rolled_back",
            0,
        ):
            self.watch.wrong(f"open again: {at}")
        self._check_stage(found, shown, passed_s, came)
        self._counted = _counters(shown)
        self._life = self.proxy.began

    def _check_stage(self, found: Stored, shown: Json, passed_s: float, came: int) -> None:
        stage = shown["stage"]
        if found.phase not in ("progressing", "paused") or shown["weights"]["revision"] != found.revision:
            return
        rollout = found.rollout
        if stage is None or rollout is None or stage["index"] != rollout["stage"]:
            self.watch.wrong(f"stage {rollout and rollout['stage']} was stored, it is in {stage}")
            return
        least = rollout["ran_s"]
        if not least - 0.001 <= stage["elapsed_s"] <= least + passed_s + 0.001:
            self.watch.wrong(f"{least} s of the stage were stored {passed_s} s ago, it shows {stage['elapsed_s']}")
        if stage["elapsed_s"] < self._elapsed.get(found.revision, 0.0) - CLOCK_S:
            self.watch.wrong(f"{self._elapsed[found.revision]} s of the stage were seen, it shows {stage['elapsed_s']}")
        if stage["requests"] > came:
            self.watch.wrong(f"the stage has {stage['requests']} requests, {came} came since the start")

    def _look_again(self) -> None:
        """Look a last time before the kill: no counter has gone back in this life; the stage has this age."""
        with contextlib.suppress(OSError):
            shown = self.proxy.web()
            if shown["stage"] is not None:
                self._elapsed = {shown["weights"]["revision"]: shown["stage"]["elapsed_s"]}
            if self._life == self.proxy.began:
                for name, count in _counters(shown).items():
                    if count < self._counted.get(name, 0):
                        self.watch.wrong(f"{name} went from {self._counted[name]} to {count}")

    def _wait_for_hooks(self) -> None:
        self.watch.read_events()
        if not self.watch.until(lambda: not self._missing_hooks(), HOOKS_S):
            self.watch.wrong(f"no hook was called for the rollbacks {sorted(self._missing_hooks())}")
            self.watch.rollbacks -= self._missing_hooks()

    def _missing_hooks(self) -> set[int]:
        return self.watch.rollbacks - self._called()

    def _called(self) -> set[int]:
        found = set()
        for path in self._hooks.iterdir():
            with contextlib.suppress(ValueError):
                found.add(json.loads(path.read_bytes())["revision"])
        return found

    def _keep_failures(self, played: Round) -> None:
        failures = self._traffic.failures
        played.failures += failures[self._failures_read :]
        self._failures_read = len(failures)


def _counters(shown: Json) -> dict[str, int]:
    return {
        f"{version}.{name}": counts[name]
        for version, counts in shown["versions"].items()
        for name in ("requests", "bad", "rescued")
    }
