"""An entry: one service as the controller has it."""

from __future__ import annotations

from proxy.controlplane.watch import Watch
from proxy.rollout.analysis import reason_of
from proxy.rollout.plan import ServicePlan
from proxy.rollout.state import NO_HEALTHY_ENDPOINT, OPERATOR_ROLLBACK, ServiceState


class Entry:
    """One service. `pending`: the state that is being stored before it comes into force."""

    __slots__ = ("dirty", "pending", "plan", "rollbacks", "state", "watch")

    def __init__(self, plan: ServicePlan, state: ServiceState) -> None:
        self.state = state
        self.pending: ServiceState | None = None
        self.dirty = False  # the state in force is not the stored one
        self.watch = Watch()
        self.rollbacks: dict[str, int] = {}
        self.follow(plan)

    def follow(self, plan: ServicePlan) -> None:
        """Take a plan; rollbacks for each of its reasons are counted from 0."""
        self.plan = plan
        for reason in (OPERATOR_ROLLBACK, NO_HEALTHY_ENDPOINT, *map(reason_of, plan.limits)):
            self.rollbacks.setdefault(reason, 0)

    @property
    def latest(self) -> ServiceState:
        """The state that the next event meets."""
        return self.state if self.pending is None else self.pending


def keeps_time(entry: Entry) -> bool:
    """Tell whether time changes what is stored: a `ttl` that runs, or an `after` that does."""
    warms_up = any(limit.after_s for limit in entry.plan.limits)
    return entry.state.expiry is not None or (entry.state.live_since is not None and warms_up)
