"""Whether a rollback has worked: nobody is sent to `new` any more, and stable serves within the limits.

A *verification* begins with the rollback and looks at every tick. It is *verified* as soon as the dispatches to `new`
have been flat for `FLAT_S` and stable has answered enough within the fixed limits that were put on `new`; if stable
gets too few requests to say so, silence about it is enough after `MOST_S`. It is *ineffective* when that is not
reached within `MOST_S`: then something else is wrong, and a person has to look.

Dispatches are those by the split (testers who choose `new` by header may go on). A rollback is verified only while it
stands: whoever gives `new` weight again ends it. A supervisor that starts before its predecessor has told begins anew.
"""

from __future__ import annotations

from typing import Any

from proxy.metrics.snapshot import Judged, ServiceCounts
from proxy.rollout.analysis import Counter, breached
from proxy.rollout.plan import COUNTED, Limit
from proxy.routing.table import NEW, STABLE

MOST_S = 30.0
FLAT_S = 2.0
VERIFIED, INEFFECTIVE = OUTCOMES = ("RollbackVerified", "RollbackIneffective")


class Verification:
    """Watches one service after its rollback at the instant `began` (s)."""

    __slots__ = ("_began", "_flat_from", "_limits", "_sent", "_stable_from")

    def __init__(self, limits: tuple[Limit, ...], began: float) -> None:
        self._began = began
        self._limits = tuple(
            limit
            for limit in limits
            if limit.version == NEW and limit.acts and limit.source == COUNTED and limit.max_ratio is None
        )
        self._sent: int | None = None
        self._flat_from = began
        self._stable_from: Judged | None = None

    def look(self, counts: ServiceCounts, now: float) -> tuple[str, dict[str, Any]] | None:
        """Return ("RollbackVerified" | "RollbackIneffective", numbers) once it is known."""
        sent = counts.versions[NEW].by_split
        if sent != self._sent:
            self._sent, self._flat_from = sent, now
        stable = counts.versions[STABLE].judged
        if self._stable_from is None or len(self._stable_from.row()) != len(stable.row()):
            self._stable_from = stable
        since = stable - self._stable_from
        counters = [(limit, Counter(limit, counts.columns)) for limit in self._limits]
        found = [(limit, counter(since)) for limit, counter in counters if counter.readable]
        over = [limit.metric for limit, counted in found if counted.n and breached(limit, counted)]
        enough = all(counted.n >= limit.min_requests for limit, counted in found)
        flat_s, age_s = now - self._flat_from, now - self._began
        numbers = {
            "seconds": round(age_s, 3),
            "flat_s": round(flat_s, 3),
            "stable": {"requests": since.requests, "bad": since.bad, "over": over},
        }
        if flat_s >= FLAT_S and not over and (enough or age_s >= MOST_S):
            return VERIFIED, numbers
        if age_s < MOST_S:
            return None
        why = "requests are still sent to new" if flat_s < FLAT_S else f"stable is over {', '.join(over)} too"
        return INEFFECTIVE, {**numbers, "why": why}
