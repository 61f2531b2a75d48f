"""One service under its rule in recorded or made-up time: the machine and the bench, without anything around them.

`replay` and `simulate` give a trial what was counted in each block; it asks the very judges (`proxy.rollout.bench`)
and the very `step` (`proxy.rollout.machine`) that decide in the controller, in the same order: first the breach, then
time. What the controller also knows of the world is taken as well: stable can serve, hooks say go, every check is
within its limit. Limits that need more than counts are left out by `only_judgeable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from proxy.metrics.snapshot import Columns, Judged, nothing
from proxy.metrics.window import Window
from proxy.rollout.analysis import Sight, Verdict, evidence, reason_of
from proxy.rollout.bench import Bench, Measure, action_of, kind_of
from proxy.rollout.effect import BEFORE_STAGE, Announce, CallHook, Note
from proxy.rollout.event import Event, HookAnswered, Promote
from proxy.rollout.machine import step
from proxy.rollout.plan import COUNTED, MANUAL, Limit, Plan, ServicePlan, Stage
from proxy.rollout.state import PROGRESSING, SHARED_FAULT, ServiceState
from proxy.routing.table import NEW, STABLE


class Trial:
    """A service from the instant `began` (s) on. `state`: where its life is; `block` makes time pass."""

    def __init__(
        self,
        plan: ServicePlan,
        state: ServiceState,
        columns: Columns,
        began: float,
        *,
        measure: Measure = lambda _: None,
        promotes: bool = False,
        alarm_at: float | None = None,
    ) -> None:
        """Take the plan and state. `promotes`: somebody promotes manual stages as soon as all is well.

        `alarm_at`: the evidence that makes an alarm, where it was given another time than by this plan.
        """
        self.plan = plan
        self.state = state
        self._bench = Bench()
        self._columns = columns
        self._measure = measure
        self._promotes = promotes
        self._alarm_at = alarm_at
        empty = nothing(len(columns.thresholds_us), len(columns.ttfb_thresholds_us), len(columns.signals))
        self._totals = (empty, empty)
        self._windows = (Window(columns), Window(columns))
        for window in self._windows:
            window.append(began, empty)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the judges said in the last block."""
        return self._bench.verdicts

    def block(self, now: float, stable: Judged, new: Judged) -> list[Note]:
        """Let a block end at `now` in which so much was counted; return what was decided."""
        bench = self._bench
        bench.seat(self.plan, self.state, self._columns, now, alarm_at=self._alarm_at)
        self._totals = (self._totals[STABLE] + stable, self._totals[NEW] + new)
        for window, judged in zip(self._windows, self._totals, strict=True):
            window.append(now, judged)
        rollout = self.state.rollout
        sight = Sight(
            totals=self._totals,
            over=lambda version, seconds: self._windows[version].over(seconds),
            histogram=_no_histogram,
            record={} if rollout is None else rollout.record,
            record_of="" if rollout is None else rollout.record_of,
        )
        bench.hear(sight, now)
        found = bench.breach(self.state, measure=self._measure)
        notes = [] if found is None else self.give(found, now)
        if self.state.phase == PROGRESSING:
            notes += self._pass_time(now)
        return [*notes, *(self._said(verdict) for verdict in bench.told(self.state, now))]

    def give(self, event: Event, now: float) -> list[Note]:
        """Let something happen; return what was decided. Hooks that are asked say go."""
        self.state, effects = step(self.plan, self.state, event, now)
        notes = [effect.note for effect in effects if isinstance(effect, Announce)]
        for effect in effects:
            if isinstance(effect, CallHook) and effect.name == BEFORE_STAGE:
                notes += self.give(HookAnswered(self.state.revision, ok=True), now)
        return notes

    def _said(self, verdict: Verdict) -> Note:
        kind, limit = kind_of(verdict), verdict.limit
        numbers = {
            **evidence(verdict, self._measure(verdict)),
            "action": action_of(limit, self.state),
            "dry_run": limit.dry_run,
        }
        return Note(kind, "controller", kind if kind == SHARED_FAULT else reason_of(limit), {}, {}, numbers)

    def _pass_time(self, now: float) -> list[Note]:
        tick, rollout = self._bench.tick(self.state, now), self.state.rollout
        if rollout is not None and self._promotes and rollout.now_at.advance == MANUAL:
            standing = tick.standing
            over = rollout.elapsed_s(now) >= rollout.now_at.hold_s
            enough = standing is not None and standing.requests >= max(1, rollout.now_at.min_requests)
            if standing is not None and over and enough and standing.passed and standing.required:
                record = self._bench.record(self.state, lambda _: (None, 0))
                return self.give(Promote("a person", "HoldOver", record=record), now)
        return self.give(tick, now)


def judgeable(limit: Limit) -> bool:
    """Tell whether counts of requests are all that it takes to judge a limit."""
    return limit.source == COUNTED and (limit.max_ratio is None or limit.quantile is None)


def only_judgeable(plan: Plan) -> tuple[Plan, tuple[Limit, ...]]:
    """Return the plan without the limits and requirements that a trial cannot judge, and these."""
    stages: list[Stage] = []
    left_out: list[Limit] = []
    for stage in plan.stages:
        left_out += [limit for limit in (*stage.limits, *stage.require) if not judgeable(limit)]
        limits, require = (tuple(filter(judgeable, rules)) for rules in (stage.limits, stage.require))
        stages.append(replace(stage, limits=limits, require=require))
    return replace(plan, stages=tuple(stages)), tuple(left_out)


def _no_histogram(version: int, seconds: float | None, *, first_byte: bool) -> Mapping[int, int]:  # noqa: ARG001
    return {}
