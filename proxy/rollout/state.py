"""Where the life of one service is: what the machine reads and returns, and what the store keeps.

Nouns: the *phase* is where a rollout's life is; the *reason* says in one stable UpperCamelCase word why the phase
is what it is; the *revision* grows by one with every change, a person's or an automatic one, and is the ETag of the
weights; an *expiry* is the end of a weight that was given for a time (`ttl`). A *rollout* is one attempt to bring
`new` to everybody by the stages of a plan; its *hold clock* runs while it is progressing and stands still while it is
paused; a *record* is how stable measured while it still had traffic.

Units: weights in 1/10,000, instants and durations in seconds of the controller's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from proxy.rollout.plan import Plan, Stage
from proxy.routing.table import FULL

IDLE = "idle"
PROGRESSING = "progressing"
PAUSED = "paused"
COMPLETED = "completed"
ROLLED_BACK = "rolled_back"
PHASES = (IDLE, PROGRESSING, PAUSED, COMPLETED, ROLLED_BACK)

OPERATOR_ROLLBACK = "OperatorRollback"
OPERATOR_PAUSE = "OperatorPause"
NO_HEALTHY_ENDPOINT = "NoHealthyEndpoint"
MAX_HOLD_OVER = "MaxHoldOver"
SHARED_FAULT = "SharedFault"
CHECK_UNREADABLE = "CheckUnreadable"
HOOK_FAILED = "HookFailed"
TAKEN_OVER = "TakenOver"
PLAN_CHANGED = "PlanChanged"
DRILL = "Drill"
LATCHED = "Latched"  # the latch was shut for a reason that this release does not know

# How stable measured, by metric: {"n", "count"} of a share, {"n", "value"} (ms) of a percentile.
Record: TypeAlias = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a weight ends (`at`), what it goes back to, and the revision that gave it."""

    at: float
    back_bp: int
    revision: int


@dataclass(frozen=True, slots=True)
class Passed:
    """A stage that was left: its number, how much of its hold had passed (s), who let it go on and why."""

    stage: int
    ran_s: float
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt. `plan` is the one that it was started with, whatever the config says by now.

    `ran_s`: what had passed of the stage's hold at the instant `since`, from which the hold clock runs (`None`: it
    stands still). `entered`: when the stage began, pauses included. `waits_s`: the hold time from which `max_hold`
    is counted. `asking`: the hook before the next stage is being asked; `go`: what it said when it said go, which
    counts until the rollout is paused. It is asked again after a restart.
    `record`: how stable measured in the last stage below 100 %, from the stage called `record_of`. `passed`: the stages
    that it has left, in order; one that was skipped is not among them.
    """

    plan: Plan
    stage: int = 0
    ran_s: float = 0.0
    since: float | None = None
    entered: float = 0.0
    waits_s: float = 0.0
    asking: bool = False
    go: Mapping[str, object] | None = None
    record: Record = field(default_factory=dict)
    record_of: str = ""
    passed: tuple[Passed, ...] = ()

    @property
    def now_at(self) -> Stage:
        """The stage that it is in."""
        return self.plan.stages[self.stage]

    @property
    def next_stage(self) -> Stage | None:
        """The stage after this one, `None` in the last."""
        return self.plan.stages[self.stage + 1] if self.stage + 1 < len(self.plan.stages) else None

    def elapsed_s(self, now: float) -> float:
        """Return how much of the stage's hold has passed, without pauses."""
        return self.ran_s if self.since is None else self.ran_s + max(0.0, now - self.since)

    def left(self, now: float, actor: str, reason: str) -> Rollout:
        """Return it with its stage among those that it has left."""
        before = [one for one in self.passed if one.stage != self.stage]  # the last one can be left again
        return replace(self, passed=(*before, Passed(self.stage, self.elapsed_s(now), actor, reason)))

    def stopped(self, now: float) -> Rollout:
        """Return it with the hold clock standing still."""
        return replace(self, ran_s=self.elapsed_s(now), since=None, asking=False, go=None)


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The state of one service. `live_since`: the weight has been above 0 since then, `None` while it is 0.

    `rollout` is there from its start until `new` is another version, a person sets a weight after a rollback, or
    `finish`; in `rolled_back` it tells where it was. `no_stable`: an automatic safety move is held back because
    `stable` has no ready endpoint, and that was said.
    """

    phase: str = IDLE
    weight_bp: int = 0
    revision: int = 1
    reason: str = ""
    salt: str = ""
    has_new: bool = False
    expiry: Expiry | None = None
    live_since: float | None = None
    no_stable: bool = False
    rollout: Rollout | None = None

    @property
    def watchdog_off(self) -> bool:
        """Whether a silent controller changes nothing: `new` is what everybody has, and stable may be gone."""
        return self.phase == COMPLETED and self.weight_bp == FULL

    @property
    def judged_since(self) -> float | None:
        """Since when the judges judge: the stage's beginning, or when the weight came above 0; `None` at 0."""
        if self.live_since is None or self.rollout is None or self.phase == ROLLED_BACK:
            return self.live_since
        return max(self.live_since, self.rollout.entered)


def percent(weight_bp: int) -> float:
    """Return a weight as a percentage with at most two decimals; a whole one is an `int`."""
    whole, rest = divmod(weight_bp, FULL // 100)
    return round(weight_bp * 100 / FULL, 2) if rest else whole


def shown(state: ServiceState) -> dict[str, object]:
    """Return what an event shows of a state before and after it."""
    found: dict[str, object] = {"new": percent(state.weight_bp), "phase": state.phase, "revision": state.revision}
    if state.rollout is not None and state.phase != IDLE:
        found |= {"plan": state.rollout.plan.name, "stage": state.rollout.now_at.name}
    return found
