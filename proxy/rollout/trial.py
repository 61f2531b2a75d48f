"""One service under its rule in recorded or made-up time: the machine and the judges, without anything around them.

`replay` and `simulate` give a trial what was counted in each block; it asks the very judges (`proxy.rollout.judges`)
and the very `step` (`proxy.rollout.machine`) that decide in the controller, in the same order: first the breach, then
time. What the controller also knows of the world is taken as well: stable can serve, hooks say go, every check is
within its limit. Limits that need more than counts are left out by `only_judgeable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from proxy.metrics.snapshot import Columns, Judged, nothing
from proxy.metrics.window import Window
from proxy.rollout.analysis import FAIL, PASS, Counter, Judge, Sight, Verdict, evidence, reason_of
from proxy.rollout.effect import BEFORE_STAGE, Announce, CallHook, Note
from proxy.rollout.event import Breach, Event, HookAnswered, Promote, Standing, Tick
from proxy.rollout.judges import Court, budget, judge_for
from proxy.rollout.machine import step
from proxy.rollout.plan import COUNTED, HOLD, MANUAL, PAUSE, ROLLBACK, Limit, Plan, ServicePlan, Stage
from proxy.rollout.state import PROGRESSING, SHARED_FAULT, Record, Rollout, ServiceState
from proxy.routing.table import FULL, NEW, STABLE

# The value of a failing latency limit (ms) for people, `None` = not known.
Measure = Callable[[Verdict], float | None]


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
        self.verdicts: tuple[Verdict, ...] = ()
        self._columns = columns
        self._measure = measure
        self._promotes = promotes
        self._alarm_at = alarm_at
        empty = nothing(len(columns.thresholds_us), len(columns.ttfb_thresholds_us), len(columns.signals))
        self._totals = (empty, empty)
        self._windows = (Window(columns), Window(columns))
        for window in self._windows:
            window.append(began, empty)
        self._judges: list[Judge] = []
        self._key: tuple[object, ...] = ()
        self._from = self._totals  # what was counted before the judges were made
        self._number = 0
        self._told: set[int] = set()

    def block(self, now: float, stable: Judged, new: Judged) -> list[Note]:
        """Let a block end at `now` in which so much was counted; return what was decided."""
        self._renew(now)
        self._totals = (self._totals[STABLE] + stable, self._totals[NEW] + new)
        for window, judged in zip(self._windows, self._totals, strict=True):
            window.append(now, judged)
        self._number += 1
        rollout = self.state.rollout
        sight = Sight(
            totals=self._totals,
            over=lambda version, seconds: self._windows[version].over(seconds),
            histogram=_no_histogram,
            record={} if rollout is None else rollout.record,
            record_of="" if rollout is None else rollout.record_of,
        )
        self.verdicts = tuple(judge.look(sight, now, self._number) for judge in self._judges)
        found = self._breach()
        notes = [] if found is None else self.give(found, now)
        if self.state.phase == PROGRESSING:
            notes += self._pass_time(now)
        return [*notes, *self._alerts()]

    def give(self, event: Event, now: float) -> list[Note]:
        """Let something happen; return what was decided. Hooks that are asked say go."""
        self.state, effects = step(self.plan, self.state, event, now)
        notes = [effect.note for effect in effects if isinstance(effect, Announce)]
        for effect in effects:
            if isinstance(effect, CallHook) and effect.name == BEFORE_STAGE:
                notes += self.give(HookAnswered(effect.stage, ok=True), now)
        return notes

    def _renew(self, now: float) -> None:
        rollout, since = self.state.rollout, self.state.judged_since
        limits = in_force(self.plan, rollout)
        if (limits, since) == self._key:
            return
        self._key = (limits, since)
        self._told.clear()
        began = now if since is None else since
        weight_bp = self.state.weight_bp if rollout is None else rollout.now_at.weight_bp
        level = self._alarm_at or budget(self.plan, None if rollout is None else rollout.plan)
        court = Court(self.plan, self._columns, began, level, weight_bp)
        self._judges = [judge_for(court, limit) for limit in limits]
        self._from = self._totals

    def _breach(self) -> Breach | None:
        if not self.state.weight_bp or self.state.watchdog_off:
            return None
        failing = [verdict for verdict in self.verdicts if verdict.due and _rolls_back(verdict)]
        if failing:
            shown = evidence(failing[0], self._measure(failing[0]))
            if len(failing) > 1:
                shown["also"] = [reason_of(verdict.limit) for verdict in failing[1:]]
            return Breach(reason_of(failing[0].limit), shown)
        for verdict in self.verdicts:
            if self.state.phase == PROGRESSING and verdict.due and verdict.limit.acts:
                if verdict.shared:
                    return Breach(SHARED_FAULT, evidence(verdict, self._measure(verdict)), action=PAUSE)
                if verdict.limit.action == PAUSE:
                    return Breach(reason_of(verdict.limit), evidence(verdict, self._measure(verdict)), action=PAUSE)
        return None

    def _alerts(self) -> list[Note]:
        """Return breaches that change nothing, each once until it is over."""
        found = []
        for index, verdict in enumerate(self.verdicts):
            if verdict.due and verdict.limit.action != HOLD and not _rolls_back(verdict) and index not in self._told:
                self._told.add(index)
                reason = SHARED_FAULT if verdict.shared else reason_of(verdict.limit)
                numbers = evidence(verdict, self._measure(verdict))
                found.append(Note("LimitFailed", "controller", reason, {}, {}, numbers))
            elif verdict.word == PASS:
                self._told.discard(index)
        return found

    def _pass_time(self, now: float) -> list[Note]:
        rollout = self.state.rollout
        if rollout is None:
            return []
        standing = self.standing()
        asked = self._promotes and rollout.now_at.advance == MANUAL
        enough = standing.requests >= max(1, rollout.now_at.min_requests)
        over = rollout.elapsed_s(now) >= rollout.now_at.hold_s
        if asked and over and enough and standing.passed and standing.required:
            return self.give(Promote("a person", "HoldOver", record=self._record(rollout)), now)
        return self.give(Tick(standing=standing, record=self._record(rollout)), now)

    def standing(self) -> Standing:
        """Return how the stage stands."""
        asked = [verdict for verdict in self.verdicts if verdict.limit.acts and verdict.limit.version == NEW]
        required = [verdict for verdict in self.verdicts if verdict.limit.action == HOLD]
        return Standing(
            requests=(self._totals[NEW] - self._from[NEW]).requests,
            passed=all(verdict.word == PASS for verdict in asked),
            proven=bool(asked) and all(verdict.word == PASS and verdict.proven for verdict in asked),
            required=all(verdict.word == PASS for verdict in required),
        )

    def _record(self, rollout: Rollout) -> Record:
        """Return how stable measured in this stage, for limits of stages at 100 % that compare with it."""
        if rollout.now_at.weight_bp == FULL:
            return {}
        found: dict[str, dict[str, float]] = {}
        for stage in rollout.plan.stages[rollout.stage + 1 :]:
            for limit in (*stage.limits, *stage.require) if stage.weight_bp == FULL else ():
                if limit.max_ratio is not None and limit.quantile is None and limit.version == NEW:
                    n, bad = Counter(limit, self._columns).bad(self._totals[STABLE] - self._from[STABLE])
                    if n:
                        found[limit.metric] = {"n": n, "count": bad}
        return found


def in_force(plan: ServicePlan, rollout: Rollout | None) -> tuple[Limit, ...]:
    """Return the limits in force: the service's, and those of the stage with its requirements."""
    if rollout is None:
        return plan.limits
    return (*plan.limits, *rollout.now_at.limits, *rollout.now_at.require)


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


def _rolls_back(verdict: Verdict) -> bool:
    limit = verdict.limit
    acts = limit.version == NEW and limit.action == ROLLBACK and not limit.dry_run
    return verdict.word == FAIL and acts and not verdict.shared


def _no_histogram(version: int, seconds: float | None, *, first_byte: bool) -> Mapping[int, int]:  # noqa: ARG001
    return {}
