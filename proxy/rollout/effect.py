"""What the machine wants done: the outputs of `step`, in the order in which they are carried out.

The order is the safety of the whole (DESIGN §4): towards safety act, then persist, then announce; towards risk
persist, then clear the latch, then set the word, then announce. An effect that fails stops those after it, unless an
act of safety came first: a gate that is shut stays shut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BEFORE_STAGE = "before_stage"
AFTER_ROLLBACK = "after_rollback"
AFTER_COMPLETE = "after_complete"


@dataclass(frozen=True, slots=True)
class Note:
    """What an event of the journal says: who did what, why, what was before and after, and the numbers."""

    type: str
    actor: str
    reason: str
    before: Mapping[str, object]
    after: Mapping[str, object]
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shut:
    """Store 0 in the word of every live generation, and the reason in the latch."""

    reason: str


@dataclass(frozen=True, slots=True)
class StoreWeight:
    """Store this weight (1/10,000) in the words. `watchdog_off`: a silent controller changes nothing."""

    weight_bp: int
    watchdog_off: bool = False


@dataclass(frozen=True, slots=True)
class StoreSalt:
    """Deal the users anew; the weight is 0 when this is carried out."""

    salt: str


@dataclass(frozen=True, slots=True)
class ClearLatch:
    """Open the latch: a start after a crash may give `new` traffic again."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Store the new state, and the event with it, in one transaction."""

    note: Note | None = None


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell those who follow the events, and the log."""

    note: Note


@dataclass(frozen=True, slots=True)
class CallHook:
    """Call a hook of the rollout's plan, after everything else; `before_stage` is answered with `HookAnswered`.

    `stage`: the number of the stage that it is about.
    """

    name: str
    stage: int


Effect = Shut | StoreWeight | StoreSalt | ClearLatch | Persist | Announce | CallHook
