"""What is seen of one service, block after block: its limits' verdicts, and whether its versions can be reached.

The judges of `new` are made afresh when the weight comes above 0, when a stage begins, when the limits change and when
what the workers count does: what was before is not what is tried now.

A *block* is the service's own time step (`judge.block`). Ticks come at least as often; a tick in which no block ends
leaves the verdicts as they are. Blocks lie on a grid, so that a late tick makes one block longer and the next shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from proxy.controlplane.history import History
from proxy.controlplane.scales import TOTAL, TTFB
from proxy.metrics import hdr
from proxy.metrics.snapshot import Judged, ServiceCounts
from proxy.rollout.analysis import FAIL, PASS, Counter, Judge, Reading, Sight, Verdict, evidence, reason_of
from proxy.rollout.event import Breach, Standing
from proxy.rollout.judges import LATE_BLOCKS, LEAST_SAMPLES, TRAILING_S, UNREADABLE, Court, budget, judge_for
from proxy.rollout.plan import HOLD, PAUSE, ROLLBACK, Limit, ServicePlan
from proxy.rollout.reach import UNREACHABLE_S, Reach
from proxy.rollout.state import (
    CHECK_UNREADABLE,
    NO_HEALTHY_ENDPOINT,
    PROGRESSING,
    SHARED_FAULT,
    Record,
    ServiceState,
)
from proxy.routing.table import FULL, NEW, STABLE

Sparse: TypeAlias = Mapping[int, int]
# Gives the histogram of a version since the start; the phase is "total" or "ttfb".
Total: TypeAlias = Callable[[int, str], Sparse]


class Watch:
    """The judges of one service and what they said last (`verdicts`, in the order of the limits in force)."""

    def __init__(self) -> None:
        self.verdicts: tuple[Verdict, ...] = ()
        self.reach = (Reach(), Reach())
        self.stable_ready = True
        self.requests = 0  # to `new` since the judges were made
        self.judged = False  # whether a block ended at the last look
        self.court: Court | None = None  # of the judges, with the limits in force
        self.limits: tuple[Limit, ...] = ()
        self._judges: list[Judge] = []
        self._block = 0  # the number of the last block that ended
        self._place: int | None = None  # where that is on the grid; `None`: the next tick ends a block
        self._key: tuple[object, ...] = ()
        self._said: set[int] = set()  # limits in breach that were told and do not roll back
        self._began = 0.0
        self._stable_from: Judged | None = None
        self._new_from: Judged | None = None
        self._totals: tuple[Judged, Judged] | None = None
        self._scales_from: dict[tuple[int, str], Sparse] = {}
        self._counts: ServiceCounts | None = None
        self._history: History | None = None
        self._injected: Judged | None = None

    # --- every block ---------------------------------------------------------------------------------------------

    def look(
        self,
        plan: ServicePlan,
        state: ServiceState,
        counts: ServiceCounts,
        history: History,
        now: float,
        tick_s: float,
        readings: Mapping[str, Reading] | None = None,
        total: Total = lambda _version, _phase: {},
    ) -> None:
        """Take note of what was counted up to `now` (s), and judge if a block ends; `tick_s`: time between two calls.

        `readings`: of checks; `total`: histograms since the start.
        """
        self._counts, self._history = counts, history
        self._renew(plan, state, counts, total, now)
        for version in (STABLE, NEW):
            one = counts.versions[version]
            self.reach[version].look(one.endpoints, one.bad.get("diverted", 0), now)
        self.stable_ready = self.reach[STABLE].ready(now)
        stable, new = (one.judged for one in counts.versions)
        if self._injected is not None:
            new += self._injected
        self._totals = (stable, new)
        self.judged = self._block_ends(plan.block_s, now, tick_s)
        if not self.judged:
            return
        self._block += 1
        sight = Sight(
            totals=self._totals,
            over=self._over,
            histogram=lambda version, seconds, *, first_byte: self._histogram(version, seconds, total, first_byte),
            readings=readings or {},
            record={} if state.rollout is None else state.rollout.record,
            record_of="" if state.rollout is None else state.rollout.record_of,
        )
        if self._new_from is None:
            age_s = now - self._began
            part, _ = self._over(NEW, age_s if age_s <= LATE_BLOCKS * plan.block_s else 0.0)
            self._new_from = new - part
        self.requests = new.requests - self._new_from.requests
        self.verdicts = tuple(judge.look(sight, now, self._block) for judge in self._judges)

    def _block_ends(self, block_s: float, now: float, tick_s: float) -> bool:
        place = int((now + tick_s / 2) / block_s)
        if block_s > tick_s and place == self._place:
            return False
        self._place = place
        return True

    def standing(self) -> Standing:
        """Return how the stage stands."""
        asked = [verdict for verdict in self.verdicts if verdict.limit.acts and verdict.limit.version == NEW]
        required = [verdict for verdict in self.verdicts if verdict.limit.action == HOLD]
        return Standing(
            requests=self.requests,
            passed=all(verdict.word == PASS for verdict in asked),
            proven=bool(asked) and all(verdict.word == PASS and verdict.proven for verdict in asked),
            required=all(verdict.word == PASS for verdict in required),
            open=tuple(
                f"{verdict.limit.metric} {verdict.word}" for verdict in (*asked, *required) if verdict.word != PASS
            ),
        )

    def record(self, limits: tuple[Limit, ...]) -> Record:
        """Return how stable measures in this stage, for those of `limits` that compare with it."""
        found: dict[str, dict[str, float]] = {}
        if self._counts is None or self._totals is None or self._history is None:
            return found
        for limit in limits:
            if limit.quantile is not None:
                phase = TTFB if limit.first_byte else TOTAL
                counts, _ = self._history.histogram(self._counts.name, STABLE, phase, TRAILING_S)
                us, n = hdr.percentile(counts, limit.quantile), sum(counts.values())
                if us is not None and n >= LEAST_SAMPLES:
                    found[limit.metric] = {"n": n, "value": us / 1000}
            elif self._stable_from is not None:
                n, bad = Counter(limit, self._counts.columns).bad(self._totals[STABLE] - self._stable_from)
                if n:
                    found[limit.metric] = {"n": n, "count": bad}
        return found

    # --- what follows --------------------------------------------------------------------------------------------

    def failing(self) -> list[Verdict]:
        """Return the verdicts that take `new` out, in the order of the limits."""
        return [verdict for verdict in self.verdicts if verdict.due and self._rolls_back(verdict)]

    def breach(self, state: ServiceState) -> Breach | None:
        """Return the breach that is to be acted on in this state, `None` if there is none."""
        if not state.weight_bp or state.watchdog_off:
            return None
        failing = self.failing()
        if failing:
            shown = evidence(failing[0])
            if len(failing) > 1:
                shown["also"] = [reason_of(verdict.limit) for verdict in failing[1:]]
            return Breach(reason_of(failing[0].limit), shown, self.stable_ready)
        reach = self.reach[NEW]
        if reach.unreachable_s >= UNREACHABLE_S:
            found = {"failed": reach.failures, "seconds": round(reach.unreachable_s, 3), "limit_s": UNREACHABLE_S}
            return Breach(NO_HEALTHY_ENDPOINT, found, self.stable_ready)
        if state.phase != PROGRESSING:
            return None
        for index, verdict in enumerate(self.verdicts):
            reason = _pauses(verdict)
            if reason:
                self._said.add(index)
                return Breach(reason, evidence(verdict), self.stable_ready, action=PAUSE)
        return None

    def told(self, state: ServiceState) -> list[Verdict]:
        """Return breaches that only have to be told, each once until it is over."""
        fresh: list[Verdict] = []
        for index, verdict in enumerate(self.verdicts):
            acts = self._rolls_back(verdict) and not state.watchdog_off
            if verdict.due and verdict.limit.action != HOLD and not acts and index not in self._said:
                self._said.add(index)
                fresh.append(verdict)
            elif verdict.word == PASS:
                self._said.discard(index)
        return fresh

    def _rolls_back(self, verdict: Verdict) -> bool:
        limit = verdict.limit
        acts = limit.version == NEW and limit.action == ROLLBACK and not limit.dry_run
        # A stable that cannot be reached fails as well: then nobody is moved, and `NoStable` says why.
        return verdict.word == FAIL and acts and not (verdict.shared and self.stable_ready)

    # --- drills --------------------------------------------------------------------------------------------------

    def inject(self, bad: int) -> None:
        """Let the judges see so many bad and slow responses of `new` more; nothing of it is in any other number."""
        if self._totals is None:
            return
        seen = self._totals[NEW]
        part = Judged(
            ended=bad,
            bad=bad,
            client_errors=bad,
            slow=(bad,) * len(seen.slow),
            fast=(0,) * len(seen.fast),
            ttfb_slow=(bad,) * len(seen.ttfb_slow),
            ttfb_fast=(0,) * len(seen.ttfb_fast),
            signals=((0, 0),) * len(seen.signals),
        )
        self._injected = part if self._injected is None else self._injected + part

    def forget(self) -> None:
        """Begin anew, without what was injected."""
        self._injected = None
        self._key = ()

    # --- small things --------------------------------------------------------------------------------------------

    def _over(self, version: int, seconds: float) -> tuple[Judged, float]:
        if self._history is None or self._counts is None:
            raise ValueError("nothing was looked at yet")
        judged, covered = self._history.over(self._counts.name, version, seconds)
        if version == NEW and self._injected is not None:
            judged += self._injected
        return judged, covered

    def _histogram(self, version: int, seconds: float | None, total: Total, first_byte: bool) -> Sparse:  # noqa: FBT001
        phase = TTFB if first_byte else TOTAL
        if seconds is not None and self._history is not None and self._counts is not None:
            return self._history.histogram(self._counts.name, version, phase, max(1.0, float(round(seconds))))[0]
        before = self._scales_from.get((version, phase), {})
        now = total(version, phase)
        return {index: count - before.get(index, 0) for index, count in now.items() if count > before.get(index, 0)}

    def _renew(self, plan: ServicePlan, state: ServiceState, counts: ServiceCounts, total: Total, now: float) -> None:
        lives = tuple(one.incarnation for one in counts.versions)
        limits = limits_of(plan, state)
        since = state.judged_since
        key = (limits, plan.block_s, plan.false_alarms, counts.columns, lives, since)
        if key == self._key or (since is None and key[:-1] == self._key[:-1]):
            # At weight 0 the last judges stay: what led to a rollback can be looked at as long as it is in the window.
            return
        self._key = key
        self._said.clear()
        self._place = None  # what the judges before said is over at once
        self.reach = (self.reach[STABLE], Reach())
        began = self._began = now if since is None else since
        rollout = state.rollout if state.judged_since is not None else None
        weight_bp = state.weight_bp if rollout is None else rollout.now_at.weight_bp
        level = budget(plan, None if rollout is None else rollout.plan)
        court = self.court = Court(plan, counts.columns, began, level, weight_bp)
        self.limits = limits
        self._judges = [
            judge_for(court if limit.version == NEW else replace(court, began=0.0), limit) for limit in limits
        ]
        self._stable_from = counts.versions[STABLE].judged
        self._new_from = None
        self._scales_from = {}
        if any(limit.action == HOLD and limit.max_ratio is not None for limit in limits):
            self._scales_from = {
                (version, phase): dict(total(version, phase)) for version in (STABLE, NEW) for phase in (TOTAL, TTFB)
            }


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


def _pauses(verdict: Verdict) -> str:
    """Return why a verdict stops the ramp, "" if it does not."""
    limit = verdict.limit
    if not limit.acts:
        return ""
    if verdict.unreadable >= UNREADABLE:
        return CHECK_UNREADABLE
    if verdict.due and verdict.word == FAIL and verdict.shared:
        return SHARED_FAULT
    return reason_of(limit) if verdict.due and verdict.word == FAIL and limit.action == PAUSE else ""
