"""What is seen of one service, block after block: its limits' verdicts, and whether its versions can be reached.

The judges of `new` are made afresh when the weight comes above 0, when the plan changes and when the latency
thresholds do: what was before is not what is tried now.

A *block* is the service's own time step (`judge.block`). Ticks come at least as often; a tick in which no block ends
leaves the verdicts as they are. Blocks lie on a grid, so that a late tick makes one block longer and the next shorter.
"""

from __future__ import annotations

from functools import partial

from proxy.controlplane.history import History
from proxy.metrics.snapshot import ServiceCounts
from proxy.rollout.analysis import FAIL, PASS, Judge, Verdict, evidence, judge_for, reason_of
from proxy.rollout.event import Breach
from proxy.rollout.plan import ServicePlan
from proxy.rollout.reach import UNREACHABLE_S, Reach
from proxy.rollout.state import NO_HEALTHY_ENDPOINT, ServiceState
from proxy.routing.table import NEW, STABLE


class Watch:
    """The judges of one service and what they said last (`verdicts`, in the order of the plan)."""

    def __init__(self) -> None:
        self.verdicts: tuple[Verdict, ...] = ()
        self.reach = (Reach(), Reach())
        self.stable_ready = True
        self._judges: list[Judge] = []
        self._block = 0  # the number of the last block that ended
        self._place: int | None = None  # where that is on the grid; `None`: the next tick ends a block
        self._key: tuple[object, ...] = ()
        self._said: set[int] = set()  # limits in breach that were told and do not roll back

    def look(
        self, plan: ServicePlan, state: ServiceState, counts: ServiceCounts, history: History, now: float, tick_s: float
    ) -> None:
        """Take note of what was counted up to `now` (s), and judge if a block ends; `tick_s`: time between calls."""
        self._renew(plan, state, counts, now)
        for version in (STABLE, NEW):
            one = counts.versions[version]
            self.reach[version].look(one.endpoints, one.bad.get("diverted", 0), now)
        self.stable_ready = self.reach[STABLE].ready(now)
        if self._block_ends(plan.block_s, now, tick_s):
            self._block += 1
            self.verdicts = tuple(
                judge.look(partial(history.over, plan.name, judge.limit.version), now, self._block)
                for judge in self._judges
            )

    def _block_ends(self, block_s: float, now: float, tick_s: float) -> bool:
        place = int((now + tick_s / 2) / block_s)
        if block_s > tick_s and place == self._place:
            return False
        self._place = place
        return True

    def failing(self) -> list[Verdict]:
        """Return the verdicts that take `new` out, in the order of the plan."""
        return [verdict for verdict in self.verdicts if verdict.due and _rolls_back(verdict)]

    def breach(self) -> Breach | None:
        """Return the breach that takes `new` out, `None` if there is none."""
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
        return None

    def told(self) -> list[Verdict]:
        """Return breaches that only have to be told (alert, pause, dry run, stable's), each once until it is over."""
        fresh: list[Verdict] = []
        for index, verdict in enumerate(self.verdicts):
            if verdict.due and not _rolls_back(verdict) and index not in self._said:
                self._said.add(index)
                fresh.append(verdict)
            elif verdict.word == PASS:
                self._said.discard(index)
        return fresh

    def _renew(self, plan: ServicePlan, state: ServiceState, counts: ServiceCounts, now: float) -> None:
        incarnation = counts.versions[NEW].incarnation
        key = (plan, counts.thresholds_us, incarnation, state.live_since)
        if key == self._key or (state.live_since is None and key[:-1] == self._key[:-1]):
            # At weight 0 the last judges stay: what led to a rollback can be looked at as long as it is in the window.
            return
        self._key = key
        self._said.clear()
        self._place = None  # what the judges before said is over at once
        self.reach = (self.reach[STABLE], Reach())
        began = now if state.live_since is None else state.live_since
        self._judges = [
            judge_for(plan, limit, counts.thresholds_us, began if limit.version == NEW else 0.0)
            for limit in plan.limits
        ]


def _rolls_back(verdict: Verdict) -> bool:
    limit = verdict.limit
    return verdict.word == FAIL and limit.version == NEW and limit.action == "rollback" and not limit.dry_run
