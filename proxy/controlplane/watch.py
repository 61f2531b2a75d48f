"""What is seen of one service, block after block: its judges (`proxy.rollout.bench`) look at what workers count.

A *block* is the service's own time step (`judge.block`). Ticks come at least as often; a tick in which no block ends
leaves the verdicts as they are. Blocks lie on a grid, so that a late tick makes one block longer and the next shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from proxy.controlplane.history import History
from proxy.controlplane.scales import TOTAL, TTFB
from proxy.metrics import hdr
from proxy.metrics.snapshot import Judged, ServiceCounts
from proxy.rollout.analysis import Reading, Sight
from proxy.rollout.bench import Bench
from proxy.rollout.drill import made_up
from proxy.rollout.plan import HOLD, TRAILING_S, Limit, ServicePlan
from proxy.rollout.reach import Reach
from proxy.rollout.state import ServiceState
from proxy.routing.table import NEW, STABLE

Sparse: TypeAlias = Mapping[int, int]
# Gives the histogram of a version since the start; the phase is "total" or "ttfb".
Total: TypeAlias = Callable[[int, str], Sparse]


class Watch(Bench):
    """The bench of a running service. `judged`: whether a block ended at the last look; `reach`: of both versions."""

    def __init__(self) -> None:
        super().__init__()
        self.reach = (Reach(), Reach())
        self.judged = False
        self._place: int | None = None  # where the last block ended on the grid; `None`: the next tick ends one
        self._seen: tuple[Judged, Judged] | None = None
        self._scales_from: dict[tuple[int, str], Sparse] = {}
        self._counts: ServiceCounts | None = None
        self._history: History | None = None
        self._injected: Judged | None = None

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
        self.follow(plan, state, counts, history, now, total)
        for version in (STABLE, NEW):
            one = counts.versions[version]
            self.reach[version].look(one.endpoints, one.bad.get("diverted", 0), now)
        self.stable_ready = self.reach[STABLE].ready(now)
        stable, new = (one.judged for one in counts.versions)
        if self._injected is not None:
            new += self._injected
        self._seen = (stable, new)
        self.judged = self._block_ends(plan.block_s, now, tick_s)
        if not self.judged:
            return
        rollout = state.rollout
        sight = Sight(
            totals=self._seen,
            over=self._over,
            histogram=lambda version, seconds, *, first_byte: self._histogram(version, seconds, total, first_byte),
            readings=readings or {},
            record={} if rollout is None else rollout.record,
            record_of="" if rollout is None else rollout.record_of,
        )
        self.hear(sight, now)

    def follow(
        self, plan: ServicePlan, state: ServiceState, counts: ServiceCounts, history: History, now: float, total: Total
    ) -> None:
        """Make the judges of a state that came into force since the last look: they know nothing of what was before."""
        lives = tuple(one.incarnation for one in counts.versions)
        if self.seat(plan, state, counts.columns, now, lives=lives):
            self._begin(total)
            history.watch_first_bytes(counts.name, watched=any(limit.first_byte for limit in self.limits))

    def percentile(self, limit: Limit) -> tuple[float | None, int]:
        """Return stable's percentile for a limit over ten minutes, in ms, and of how many responses."""
        if self._counts is None or self._history is None or limit.quantile is None:
            return None, 0
        phase = TTFB if limit.first_byte else TOTAL
        counts, _ = self._history.histogram(self._counts.name, STABLE, phase, TRAILING_S)
        us = hdr.percentile(counts, limit.quantile)
        return None if us is None else us / 1000, sum(counts.values())

    # --- drills --------------------------------------------------------------------------------------------------

    def inject(self, failures: int) -> None:
        """Let the judges see so many failures of `new` more; nothing of it is in any other number."""
        if self._seen is None:
            return
        part = made_up(failures, self._seen[NEW])
        self._injected = part if self._injected is None else self._injected + part

    def forget(self) -> None:
        """Begin anew, without what was injected; until the next block nothing is known."""
        self._injected = None
        super().forget()

    # --- small things --------------------------------------------------------------------------------------------

    def _begin(self, total: Total) -> None:
        """Begin with new judges: what those before said is over at once, and what was made up for them."""
        self._place = self._injected = None
        self.reach = (self.reach[STABLE], Reach())
        self._scales_from = {}
        if any(limit.action == HOLD and limit.max_ratio is not None for limit in self.limits):
            self._scales_from = {
                (version, phase): dict(total(version, phase)) for version in (STABLE, NEW) for phase in (TOTAL, TTFB)
            }

    def _block_ends(self, block_s: float, now: float, tick_s: float) -> bool:
        place = int((now + tick_s / 2) / block_s)
        if block_s > tick_s and place == self._place:
            return False
        self._place = place
        return True

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
