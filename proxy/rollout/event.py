"""What can happen to a service: the inputs of the machine.

`stable_ready` stands in every event that moves users to `stable`: automatic moves go only to a version that can
serve (promise 9 of the design), a person's order is obeyed with a warning. `if_match` is the revision that a person
has seen, `None` = any; what only lowers `new` does not look at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.rollout.plan import ROLLBACK, Plan
from proxy.rollout.state import Record, ServiceState

CONTROLLER = "controller"  # the actor of everything that no person asked for

KEEP, RESTART = "keep", "restart"  # what a person can say to a plan that changed under a running rollout


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit failed, or no endpoint of `new` can be reached. `reason` is one UpperCamelCase word.

    `action`: rollback | pause. `drill`: it is synthetic; no hook is called for it.
    """

    reason: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    stable_ready: bool = True
    action: str = ROLLBACK
    drill: bool = False


@dataclass(frozen=True, slots=True)
class SetWeight:
    """A person wants this weight.

    `ttl_s`: how long it lasts; `None` leaves an earlier expiry standing, infinity takes it away. `take_over`: a
    progressing rollout is paused for it (it is always when the weight is lowered).
    """

    weight_bp: int
    actor: str
    reason: str = ""
    if_match: int | None = None
    ttl_s: float | None = None
    stable_ready: bool = True
    take_over: bool = False


@dataclass(frozen=True, slots=True)
class Rollback:
    """A person wants everything on `stable`."""

    actor: str
    reason: str = ""
    stable_ready: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """How the stage stands, by all that is judged since it began.

    `requests` of `new`, counted since the instant `since` (s; `None`: not yet). `passed`: every limit that acts on
    `new` is PASS; `proven`: and proven; `required`: every requirement is PASS. `open`: what is missing, for people.
    """

    requests: int = 0
    passed: bool = False
    proven: bool = False
    required: bool = False
    open: tuple[str, ...] = ()
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: ends a weight whose time is over, and lets a stage that has shown enough go on.

    `standing`: of the stage, `None` when nobody has judged it. `record`: how stable measured in this stage.
    """

    stable_ready: bool = True
    standing: Standing | None = None
    record: Record = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """A person starts a rollout. `salt` is a fresh one: other users go first."""

    plan: Plan
    salt: str
    actor: str
    reason: str = ""
    if_match: int | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """A person stops the hold clock; the limits stay armed."""

    actor: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """A person lets a paused rollout go on, at the weight of its stage."""

    actor: str
    reason: str = ""
    if_match: int | None = None
    stable_ready: bool = True


@dataclass(frozen=True, slots=True)
class Promote:
    """A person wants the next stage now, or the last one (`full`). In the last stage: it is completed."""

    actor: str
    reason: str = ""
    full: bool = False
    if_match: int | None = None
    record: Record = field(default_factory=dict)
    stable_ready: bool = True


@dataclass(frozen=True, slots=True)
class Finish:
    """A person makes the new version the stable one. `label`: its own; `salt` is a fresh one."""

    label: str
    salt: str
    actor: str
    reason: str = ""
    if_match: int | None = None


@dataclass(frozen=True, slots=True)
class HookAnswered:
    """The hook before the next stage has answered. `said`: what it said, for people.

    `revision`: of the state that asked; an answer to a question before is none.
    """

    revision: int
    ok: bool
    said: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker has died. What it had in flight is in no count: nobody is charged for it."""

    slot: int
    why: str


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """The config has another plan under the name of the running one, or none (`plan` is `None`).

    `choice`: keep | restart, "" = nobody said it.
    """

    plan: Plan | None
    choice: str
    actor: str


@dataclass(frozen=True, slots=True)
class Restored:
    """A drill is over: everything as it was (`before`)."""

    before: ServiceState
    actor: str
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewChanged:
    """`new` is another version now (registered, or another one in a reloaded config).

    `salt` is a fresh one; it is taken when `fresh` says so, or when the version before was rolled back. `endpoints`
    are its addresses, for people.
    """

    was: str
    label: str
    salt: str
    fresh: bool
    actor: str
    reason: str = ""
    if_match: int | None = None
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewRemoved:
    """There is no new version any more."""

    was: str
    actor: str
    reason: str = ""
    if_match: int | None = None


@dataclass(frozen=True, slots=True)
class Restarted:
    """The controller begins with a stored state; `latched` is the reason in the latch, `None` while it is open."""

    latched: str | None = None


Event = (
    Breach
    | SetWeight
    | Rollback
    | Tick
    | Start
    | Pause
    | Resume
    | Promote
    | Finish
    | HookAnswered
    | WorkerLost
    | PlanChanged
    | Restored
    | NewChanged
    | NewRemoved
    | Restarted
)
