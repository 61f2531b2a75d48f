"""The bench: the judges of one service in force, and what follows from what they say.

Everybody who judges block by block asks a bench: the controller about a running service (`proxy.controlplane.watch`),
`replay` and `simulate` about recorded or made-up time (`proxy.rollout.trial`). Hence they cannot differ in what rolls
back, pauses or is only told, nor in when a stage has shown enough.

Rules:

* the limits in force are the service's, and those of the stage with its requirements;
* the judges are made afresh when the weight comes above 0, when a stage begins, when the limits change and when what is
  counted does: what was before is not what is tried now. At weight 0 the last ones stay: what led to a rollback can be
  looked at as long as it is in the window;
* in every block the breach comes first (`breach`), then time (`tick`), then what only has to be told (`told`);
* what is only told is told once until it is over, and a limit that flaps is told once a minute: events are kept;
* a FAIL rolls back when its limit is on `new`, is to roll back, is no dry run, and is not stable's fault as well. A
  stable that cannot be reached fails too: then nobody is moved, and `NoStable` says why;
* a progressing rollout is paused by a limit whose action that is, by a fault that is shared, and by a check that could
  not be read several times in a row. Whoever resumes has seen that: it has to be unreadable so often again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeAlias

from proxy.metrics.snapshot import Columns, Judged
from proxy.rollout.analysis import FAIL, PASS, Counter, Judge, Sight, Verdict, bound_of, evidence, reason_of, unit_of
from proxy.rollout.event import Breach, Standing, Tick
from proxy.rollout.judges import LATE_BLOCKS, UNREADABLE, Court, budget, judge_for
from proxy.rollout.machine import may_advance
from proxy.rollout.plan import ALERT, HOLD, LEAST_SAMPLES, PAUSE, ROLLBACK, Limit, ServicePlan
from proxy.rollout.reach import UNREACHABLE_S, Reach
from proxy.rollout.state import (
    CHECK_UNREADABLE,
    NO_HEALTHY_ENDPOINT,
    PROGRESSING,
    SHARED_FAULT,
    Record,
    ServiceState,
)
from proxy.rollout.told import amount, duration
from proxy.routing.table import FULL, NEW, STABLE

# The measured percentile of a latency limit (ms), for people; `None` = not known.
Measure: TypeAlias = Callable[[Verdict], float | None]
# Stable's percentile for a limit that compares with it (ms, `None` = not known), and of how many samples.
Percentile: TypeAlias = Callable[[Limit], tuple[float | None, int]]

TOLD_EVERY_S = 60.0


class Bench:
    """The judges of one service, in the order of `limits`.

    `requests`: to `new` since the judges were made; `stable_ready`: whether stable can take everybody back.
    """

    def __init__(self) -> None:
        self.judges: tuple[Judge, ...] = ()
        self._asked: list[Judge] = []  # those of `new` that a stage asks to pass
        self._required: list[Judge] = []  # those of its requirements
        self.limits: tuple[Limit, ...] = ()
        self.court: Court | None = None
        self.requests = 0
        self._since: float | None = None  # from when on those are counted, in seconds
        self.stable_ready = True
        self._block = 0  # the number of the last block that was heard
        self._key: tuple[Hashable, ...] = ()
        self._said: set[int] = set()  # limits in breach that were told and do not roll back
        self._told: dict[int, float] = {}  # by limit: when a breach of it was told last, in seconds
        self._unread: dict[int, int] = {}  # by limit: how often its check could not be read when the ramp stood still
        self._totals: tuple[Judged, Judged] | None = None
        self._from: tuple[Judged, Judged] | None = None  # what was counted before the judges were made

    @property
    def always(self) -> int:
        """How many of the limits are the service's own: they come first."""
        return 0 if self.court is None else len(self.court.plan.limits)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the judges said last, with its numbers."""
        return tuple([judge.verdict() for judge in self.judges])

    # --- every block ---------------------------------------------------------------------------------------------

    def seat(
        self,
        plan: ServicePlan,
        state: ServiceState,
        columns: Columns,
        now: float,
        *,
        lives: tuple[int, ...] = (),
        alarm_at: float | None = None,
    ) -> bool:
        """Make the judges anew if it is time for that; tell whether it was. `now` in seconds.

        `lives`: which versions are measured. `alarm_at`: the evidence that makes an alarm, `None` = by the plan.
        """
        limits, since = limits_of(plan, state), state.judged_since
        key = (limits, plan.block_s, plan.false_alarms, columns, lives, since)
        if key == self._key or (since is None and key[:-1] == self._key[:-1]):
            return False
        self._key = key
        self._said.clear()
        self._told.clear()
        self._unread.clear()
        rollout = state.rollout if since is not None else None
        weight_bp = state.weight_bp if rollout is None else rollout.now_at.weight_bp
        level = alarm_at or budget(plan, None if rollout is None else rollout.plan)
        court = self.court = Court(plan, columns, now if since is None else since, level, weight_bp)
        self.limits = limits
        self._sit(_judges(court, limits))
        self.requests = 0
        self._since = self._from = None
        return True

    def hear(self, sight: Sight, now: float) -> None:
        """Judge a block that ends at `now`."""
        if self.court is None:
            raise ValueError("there are no judges yet")
        self._block += 1
        self._totals = stable, new = sight.totals
        if self._from is None:
            age_s = now - self.court.began
            seconds = age_s if age_s <= LATE_BLOCKS * self.court.plan.block_s else 0.0
            self._since = now - seconds
            self._from = stable - sight.over(STABLE, seconds)[0], new - sight.over(NEW, seconds)[0]
        self.requests = new.requests - self._from[NEW].requests
        for judge in self.judges:
            judge.look(sight, now, self._block)

    def forget(self) -> None:
        """Begin anew; until the next block nothing is known."""
        self._key = ()
        self.requests = 0
        self._sit(() if self.court is None else _judges(self.court, self.limits))

    def _sit(self, judges: tuple[Judge, ...]) -> None:
        self.judges = judges
        self._asked = [judge for judge in judges if judge.limit.acts and judge.limit.version == NEW]
        self._required = [judge for judge in judges if judge.limit.action == HOLD]

    # --- what follows --------------------------------------------------------------------------------------------

    def failing(self) -> list[Verdict]:
        """Return the verdicts that take `new` out, in the order of the limits."""
        return [judge.verdict() for judge in self.judges if judge.due and self._rolls_back(judge)]

    def breach(
        self, state: ServiceState, reach: Reach | None = None, measure: Measure = lambda _: None
    ) -> Breach | None:
        """Return the breach that is to be acted on in this state, `None` if there is none. `reach`: of `new`."""
        if not state.weight_bp or state.watchdog_off:
            return None
        failing = self.failing()
        if failing:
            shown = evidence(failing[0], measure(failing[0]))
            reason, *also = dict.fromkeys(reason_of(verdict.limit) for verdict in failing)
            if also:
                shown["also"] = also
            return Breach(reason, shown, self.stable_ready)
        if reach is not None and reach.unreachable_s >= UNREACHABLE_S:
            found = {"failed": reach.failures, "seconds": round(reach.unreachable_s, 3), "limit_s": UNREACHABLE_S}
            return Breach(NO_HEALTHY_ENDPOINT, found, self.stable_ready)
        if state.phase != PROGRESSING:
            self._unread = {index: judge.unreadable for index, judge in enumerate(self.judges) if judge.unreadable}
            return None
        for index, judge in enumerate(self.judges):
            if not judge.unreadable:
                self._unread.pop(index, None)
            reason = _pauses(judge, self._unread.get(index, 0))
            if reason:
                self._said.add(index)
                verdict = judge.verdict()
                return Breach(reason, evidence(verdict, measure(verdict)), self.stable_ready, action=PAUSE)
        return None

    def tick(self, state: ServiceState, now: float, percentile: Percentile = lambda _: (None, 0)) -> Tick:
        """Return what time brings to a progressing rollout.

        How stable measures is looked up only for a stage that goes on.
        """
        standing, rollout = self.standing(), state.rollout
        goes_on = rollout is not None and may_advance(rollout, standing, now)
        return Tick(self.stable_ready, standing, self.record(state, percentile) if goes_on else {})

    def told(self, state: ServiceState, now: float) -> list[Verdict]:
        """Return breaches that only have to be told: each once, and of a limit one a minute. `now` in seconds."""
        fresh: list[Verdict] = []
        for index, judge in enumerate(self.judges):
            if judge.word == PASS:
                self._said.discard(index)
            elif judge.due and judge.limit.action != HOLD and index not in self._said:
                acts = self._rolls_back(judge) and not state.watchdog_off
                if not acts and now - self._told.get(index, -TOLD_EVERY_S) >= TOLD_EVERY_S:
                    self._said.add(index)
                    self._told[index] = now
                    fresh.append(judge.verdict())
        return fresh

    def standing(self) -> Standing:
        """Return how the stage stands."""
        asked = self._asked
        missing = [judge for judge in asked if judge.word != PASS]
        lacking = [judge for judge in self._required if judge.word != PASS]
        return Standing(
            requests=self.requests,
            passed=not missing,
            proven=bool(asked) and not missing and all(judge.proven for judge in asked),
            required=not lacking,
            open=tuple([f"{named(judge.limit)} {judge.word}" for judge in (*missing, *lacking)]),
            since=self._since,
        )

    def record(self, state: ServiceState, percentile: Percentile) -> Record:
        """Return how stable measures in this stage, as far as a later one at 100 % compares with it."""
        found: dict[str, dict[str, float]] = {}
        if self.court is None or self._totals is None or self._from is None:
            return found
        for limit in compared_later(self.court.plan, state):
            if limit.quantile is not None:
                value_ms, n = percentile(limit)
                if value_ms is not None and n >= LEAST_SAMPLES:
                    found[limit.metric] = {"n": n, "value": value_ms}
            else:
                n, bad = Counter(limit, self.court.columns).bad(self._totals[STABLE] - self._from[STABLE])
                if n:
                    found[limit.metric] = {"n": n, "count": bad}
        return found

    def _rolls_back(self, judge: Judge) -> bool:
        limit = judge.limit
        acts = limit.version == NEW and limit.action == ROLLBACK and not limit.dry_run
        return judge.word == FAIL and acts and not (judge.shared and self.stable_ready)


def named(limit: Limit) -> str:
    """Return a limit in words that tell it from others on the same metric, such as `error_rate ≤ 5 % over 1m`."""
    version = " of stable" if limit.version == STABLE else ""
    sign, bound = "≤" if limit.min is None else "≥", bound_of(limit)
    told_bound = "" if bound is None else f" {sign} {amount(bound, unit_of(limit))}"
    window = "" if limit.window_s is None else f" over {duration(limit.window_s)}"
    required = "required " if limit.action == HOLD else ""
    return f"{required}{limit.metric}{version}{told_bound}{window}"


def limits_of(plan: ServicePlan, state: ServiceState) -> tuple[Limit, ...]:
    """Return the limits in force: the service's, and those of the stage with its requirements."""
    if state.rollout is None:
        return plan.limits
    stage = state.rollout.now_at
    return (*plan.limits, *stage.limits, *stage.require)


def compared_later(plan: ServicePlan, state: ServiceState) -> tuple[Limit, ...]:
    """Return the limits of the stages at 100 % that are to come: they need a record of stable."""
    if state.rollout is None or state.rollout.now_at.weight_bp == FULL:
        return ()
    later = state.rollout.plan.stages[state.rollout.stage + 1 :]
    there = [limit for stage in later if stage.weight_bp == FULL for limit in (*stage.limits, *stage.require)]
    return tuple(limit for limit in (*plan.limits, *there) if limit.max_ratio is not None and limit.version == NEW)


def action_of(limit: Limit, state: ServiceState) -> str:
    """Return what a breach of a limit does: in completed nothing automatic moves users, and it only alerts."""
    return ALERT if state.watchdog_off and limit.action in (ROLLBACK, PAUSE) else limit.action


def kind_of(verdict: Verdict) -> str:
    """Return the type of the event that tells a breach which changes nothing."""
    if verdict.limit.dry_run:
        return "LimitWouldFail"
    return SHARED_FAULT if verdict.shared else "LimitFailed"


def _judges(court: Court, limits: tuple[Limit, ...]) -> tuple[Judge, ...]:
    # Stable is what it is, whatever is tried with `new`.
    of_stable = replace(court, began=0.0)
    return tuple([judge_for(court if limit.version == NEW else of_stable, limit) for limit in limits])


def _pauses(judge: Judge, unread: int) -> str:
    """Return why a judge stops the ramp, "" if it does not. `unread`: so often a check could not be read before."""
    limit = judge.limit
    if not (judge.due or judge.unreadable) or not limit.acts:
        return ""
    if judge.unreadable - unread >= UNREADABLE:
        return CHECK_UNREADABLE
    if judge.due and judge.word == FAIL and judge.shared:
        return SHARED_FAULT
    return reason_of(limit) if judge.due and judge.word == FAIL and limit.action == PAUSE else ""
