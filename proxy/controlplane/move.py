"""A move: one answer of the machine for one service, on its way to being acted on, stored and told."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.errors import Refused
from proxy.rollout.effect import (
    Announce,
    CallHook,
    ClearLatch,
    Effect,
    Note,
    Persist,
    Shut,
    StoreSalt,
    StoreWeight,
)
from proxy.rollout.event import Event
from proxy.rollout.machine import possible, step
from proxy.rollout.plan import ServicePlan
from proxy.rollout.state import DRILL, ROLLED_BACK, ServiceState

# What to do about an order that something else came before.
LOOK_AGAIN = "look at the status and repeat the request if it still applies"


@dataclass(frozen=True, slots=True)
class Move:
    """What a service was and is to be, and the effects in order."""

    service: str
    before: ServiceState
    after: ServiceState
    effects: tuple[Effect, ...]

    @property
    def acts(self) -> tuple[Shut | StoreWeight, ...]:
        """What is done before anything is stored: moves towards safety begin with it."""
        first = self.effects[0] if self.effects else None
        return (first,) if isinstance(first, Shut | StoreWeight) else ()

    @property
    def risks(self) -> tuple[ClearLatch | StoreSalt | StoreWeight, ...]:
        """What is done only once all is stored."""
        rest = self.effects[len(self.acts) :]
        return tuple(effect for effect in rest if isinstance(effect, ClearLatch | StoreSalt | StoreWeight))

    @property
    def hooks(self) -> tuple[CallHook, ...]:
        """Which hooks are called after it."""
        return tuple(effect for effect in self.effects if isinstance(effect, CallHook))

    @property
    def notes(self) -> tuple[Note, ...]:
        """What is stored and told of it."""
        return tuple(effect.note for effect in self.effects if isinstance(effect, Announce))

    @property
    def persists(self) -> bool:
        """Whether the state is stored."""
        return any(isinstance(effect, Persist) for effect in self.effects)

    @property
    def rolls_back(self) -> bool:
        """Whether this is the rollback (not its repetition, and no drill)."""
        return _is_back(self.after) and self.before.phase != ROLLED_BACK

    @property
    def ends_rollout(self) -> bool:
        """Whether a rollout is over with it: rolled back (by no drill), finished, or its version is another one."""
        if self.before.rollout is None or _is_back(self.before):
            return False
        return _is_back(self.after) or self.after.rollout is None

    @property
    def opens(self) -> bool:
        """Whether `new` gets weight after it had none."""
        return self.before.weight_bp == 0 < self.after.weight_bp

    @property
    def gives_more(self) -> bool:
        """Whether more users get `new`, or get it with less watching."""
        more = self.after.weight_bp > self.before.weight_bp
        return more or (self.after.watchdog_off and not self.before.watchdog_off)


def move(plan: ServicePlan, state: ServiceState, event: Event, now: float) -> Move:
    """Return the machine's answer; raise `Refused`."""
    after, effects = step(plan, state, event, now)
    return Move(plan.name, state, after, effects)


def _is_back(state: ServiceState) -> bool:
    return state.phase == ROLLED_BACK and state.reason != DRILL


def overtaken(state: ServiceState, what: str, *, cure: str = LOOK_AGAIN) -> Refused:
    """Return the refusal of an order that something else came before, which left this state."""
    extra = {**possible(state), "revision": state.revision}
    return Refused(409, "Overtaken", what, cure=cure, extra=extra)
