"""An entry: one service as the controller has it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from proxy.controlplane.verify import Verification
from proxy.controlplane.watch import Watch
from proxy.rollout.analysis import reason_of
from proxy.rollout.bench import limits_of
from proxy.rollout.plan import ROLLBACK, ServicePlan
from proxy.rollout.state import (
    MAX_HOLD_OVER,
    NO_HEALTHY_ENDPOINT,
    OPERATOR_ROLLBACK,
    PAUSED,
    PROGRESSING,
    Record,
    ServiceState,
)
from proxy.routing.table import NEW, Version


@dataclass(slots=True)
class Drill:
    """A drill under way: failures are made up until it is `over`.

    `decided_ns`, `reason`: the instant (CLOCK_MONOTONIC) and reason of the decision that they led to; `met`: the state
    that it met, `None` before. `why`: it was over without one.
    """

    over: bool = False
    decided_ns: int = 0
    reason: str = ""
    met: ServiceState | None = None
    why: str = ""

    def decided(self, decided_ns: int, reason: str, met: ServiceState) -> None:
        """Take note of the decision: no more failures are needed."""
        self.over, self.decided_ns, self.reason, self.met = True, decided_ns, reason, met

    def end(self, why: str) -> None:
        """End it without a decision."""
        self.over, self.why = True, why


class Entry:
    """One service. `pending`: the state that is being stored before it comes into force; `quiet` is set without one.

    `back`: what is stored again of versions if something that acts at once comes before a `finish` that is pending.
    `held_until`: nothing that gives `new` more is tried before, because storing it failed. `verification`: of the last
    rollback, while it lasts. `reported`: when progress was last told. `drill`: the one under way.
    `asking`: hooks are being asked before something is ordered; a rollback ends that.
    """

    __slots__ = (
        "asking",
        "back",
        "dirty",
        "drill",
        "held_until",
        "pending",
        "plan",
        "quiet",
        "reported",
        "rollbacks",
        "state",
        "verification",
        "watch",
    )

    def __init__(self, plan: ServicePlan, state: ServiceState) -> None:
        self.state = state
        self.pending: ServiceState | None = None
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.back: Mapping[tuple[str, str], Version | None] = {}
        self.dirty = False  # the state in force is not the stored one
        self.asking = False
        self.drill: Drill | None = None
        self.held_until = 0.0
        self.reported = 0.0
        self.verification: Verification | None = None
        self.watch = Watch()
        self.rollbacks: dict[str, int] = {}
        self.follow(plan)

    def follow(self, plan: ServicePlan) -> None:
        """Take a plan; rollbacks for each of its reasons are counted from 0."""
        self.plan = plan
        reasons = [
            reason_of(limit) for limit in plan.every_limit() if limit.version == NEW and limit.action == ROLLBACK
        ]
        if any(rollout.on_max_hold == ROLLBACK for rollout in plan.rollouts):
            reasons.append(MAX_HOLD_OVER)
        for reason in (OPERATOR_ROLLBACK, NO_HEALTHY_ENDPOINT, *reasons):
            self.rollbacks.setdefault(reason, 0)

    def rolled_back(self, reason: str, now: float) -> None:
        """Count a rollback, and begin to verify its effect."""
        self.rollbacks[reason] = self.rollbacks.get(reason, 0) + 1
        self.verify(now)

    def verify(self, now: float) -> None:
        """Begin to verify the effect of the last rollback."""
        self.verification = Verification(limits_of(self.plan, self.state), now)

    @property
    def latest(self) -> ServiceState:
        """The state that the next event meets.

        It is what is being stored, but for a `finish`: users are on `new` until the table is another one, so that what
        comes before that meets the state in force.
        """
        if self.pending is None:
            return self.state
        if self.state.weight_bp and not self.pending.has_new:
            return replace(self.state, revision=self.pending.revision)
        return self.pending

    def record(self) -> Record:
        """Return how stable measures in the present stage, as far as a later one at 100 % compares with it."""
        return self.watch.record(self.state, self.watch.percentile)

    def store_first(self, state: ServiceState) -> None:
        """Take a state that comes into force once it is stored."""
        self.pending = state
        self.quiet.clear()

    def enter(self, state: ServiceState) -> None:
        """Bring a state into force; what was being stored first does not come into force any more."""
        self.state = state
        self.give_up()

    def give_up(self) -> None:
        """Forget what was being stored first."""
        self.pending, self.back = None, {}
        self.quiet.set()


def keeps_time(entry: Entry) -> bool:
    """Tell whether time changes what is stored: a rollout's clock, a `ttl` that runs, or an `after` that does."""
    if entry.state.phase in (PROGRESSING, PAUSED):
        return True
    warms_up = any(limit.after_s for limit in entry.plan.limits)
    return entry.state.expiry is not None or (entry.state.live_since is not None and warms_up)
