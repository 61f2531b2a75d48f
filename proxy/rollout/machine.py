"""The life of a service as one transition table.

`step(plan, state, event, now)` returns the next state and what has to be done, in order (`effect.py`). It is pure:
the same arguments give the same answer, `now` (seconds, monotonic) and salts are arguments. A pair of phase and
event that is not in `TABLE` is a named refusal (HTTP 409) that says which phase it is and what is allowed.

Rules:

* after a rollback the weight is 0 until a person sets another one (or `new` becomes another version, at 0);
* every change makes the revision one larger; what changes nothing leaves it;
* a request that lowers `new` is never refused, whatever revision its sender has seen;
* towards safety: act, persist, announce; towards risk: persist, clear the latch, act, announce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isinf
from typing import Any, TypeAlias

from proxy.errors import Refused
from proxy.rollout.effect import Announce, ClearLatch, Effect, Note, Persist, Shut, StoreWeight
from proxy.rollout.event import (
    CONTROLLER,
    Breach,
    Event,
    NewChanged,
    NewRemoved,
    Restarted,
    Rollback,
    SetWeight,
    Tick,
)
from proxy.rollout.plan import ServicePlan
from proxy.rollout.state import IDLE, OPERATOR_ROLLBACK, ROLLED_BACK, Expiry, ServiceState, shown

Step: TypeAlias = tuple[ServiceState, tuple[Effect, ...]]
Handler: TypeAlias = Callable[[ServicePlan, ServiceState, Any, float], Step]

# What a person can ask for, as the API calls it.
VERBS: dict[type[Event], str] = {SetWeight: "weights", Rollback: "rollback", NewChanged: "versions/new"}

STABLE_NOT_READY = "no endpoint of stable is ready: users are sent to a version that may not answer"


def step(plan: ServicePlan, state: ServiceState, event: Event, now: float) -> Step:
    """Return the state after `event` and the effects in order; raise `Refused` when it is not carried out."""
    handler = TABLE.get((state.phase, type(event)))
    if handler is None:
        raise _wrong_phase(state, event)
    return handler(plan, state, event, now)


def allowed(state: ServiceState) -> list[str]:
    """Return what a person can ask for in this state."""
    verbs = [verb for kind, verb in VERBS.items() if (state.phase, kind) in TABLE]
    return verbs if state.has_new else [verb for verb in verbs if verb != VERBS[SetWeight]]


def _breach(_plan: ServicePlan, state: ServiceState, event: Breach, _now: float) -> Step:
    if not state.weight_bp:
        return state, ()
    if not event.stable_ready:
        return _held_back(state, event.reason, dict(event.evidence))
    return _roll_back(state, event.reason, CONTROLLER, event.reason, dict(event.evidence))


def _rollback(_plan: ServicePlan, state: ServiceState, event: Rollback, _now: float) -> Step:
    return _roll_back(
        state, OPERATOR_ROLLBACK, event.actor, event.reason or OPERATOR_ROLLBACK, _warning(state, event.stable_ready)
    )


def _repeated(_plan: ServicePlan, state: ServiceState, _event: Rollback, _now: float) -> Step:
    # Nothing changes, but what could not be stored the first time is stored now.
    return state, (Shut(state.reason), Persist())


def _set_weight(plan: ServicePlan, state: ServiceState, event: SetWeight, now: float) -> Step:
    if event.weight_bp > state.weight_bp:
        return _raise(state, event, now)
    if event.weight_bp == state.weight_bp:
        return _keep_weight(plan, state, event, now)
    if event.weight_bp == 0:
        return _rollback(plan, state, Rollback(event.actor, event.reason, event.stable_ready), now)
    after = replace(
        state,
        weight_bp=event.weight_bp,
        revision=state.revision + 1,
        expiry=_expiry(state, event, now),
        no_stable=False,
    )
    warning = _warning(state, event.stable_ready)
    note = Note("WeightsSet", event.actor, event.reason, shown(state), shown(after), warning)
    return after, (StoreWeight(event.weight_bp), Persist(note), Announce(note))


def _raise(state: ServiceState, event: SetWeight, now: float) -> Step:
    if not state.has_new:
        raise Refused(
            409,
            "NoNewVersion",
            "the service has no new version",
            cure="register one with PUT versions/new, or in the config",
            extra={"phase": state.phase, "allowed": allowed(state)},
        )
    _match(state, event.if_match)
    after = replace(
        state,
        phase=IDLE,
        reason="",
        weight_bp=event.weight_bp,
        revision=state.revision + 1,
        expiry=_expiry(state, event, now),
        live_since=state.live_since if state.weight_bp else now,
    )
    note = Note("WeightsSet", event.actor, event.reason, shown(state), shown(after))
    return after, (Persist(note), ClearLatch(), StoreWeight(event.weight_bp), Announce(note))


def _keep_weight(_plan: ServicePlan, state: ServiceState, event: SetWeight, now: float) -> Step:
    if state.phase == ROLLED_BACK:
        return state, (Shut(state.reason), Persist())
    expiry = _expiry(state, event, now)
    if expiry == state.expiry or not state.weight_bp:
        return state, ()
    _match(state, event.if_match)
    after = replace(state, revision=state.revision + 1, expiry=expiry)
    note = Note("WeightsSet", event.actor, event.reason, shown(state), shown(after))
    return after, (Persist(note), Announce(note))


def _tick(_plan: ServicePlan, state: ServiceState, event: Tick, now: float) -> Step:
    expiry = state.expiry
    if expiry is None or now < expiry.at:
        return _stable_back(state) if state.no_stable and event.stable_ready else (state, ())
    if not event.stable_ready:
        return _held_back(state, "TtlOver", {})
    # Somebody decided something else since: there is no weight that all of them wanted, but 0.
    unchanged = state.revision == expiry.revision and expiry.back_bp < state.weight_bp
    target = expiry.back_bp if unchanged else 0
    after = replace(
        state,
        weight_bp=target,
        revision=state.revision + 1,
        expiry=None,
        live_since=state.live_since if target else None,
        no_stable=False,
    )
    note = Note("WeightsSet", CONTROLLER, "TtlOver", shown(state), shown(after))
    return after, (StoreWeight(target), Persist(note), Announce(note))


def _new_changed(_plan: ServicePlan, state: ServiceState, event: NewChanged, _now: float) -> Step:
    _match(state, event.if_match)
    fresh = event.fresh or state.phase == ROLLED_BACK
    after = ServiceState(revision=state.revision + 1, salt=event.salt if fresh else state.salt, has_new=True)
    note = Note(
        "NewChanged",
        event.actor,
        event.reason,
        {**shown(state), "label": event.was},
        {**shown(after), "label": event.label},
    )
    return after, _replaced(state, note)


def _new_removed(_plan: ServicePlan, state: ServiceState, event: NewRemoved, _now: float) -> Step:
    _match(state, event.if_match)
    after = ServiceState(revision=state.revision + 1, salt=state.salt)
    note = Note("NewRemoved", event.actor, event.reason, {**shown(state), "label": event.was}, shown(after))
    return after, _replaced(state, note)


def _restarted(_plan: ServicePlan, state: ServiceState, event: Restarted, _now: float) -> Step:
    if state.phase == ROLLED_BACK:
        return state, (Shut(state.reason),)
    if event.latched is None:
        return state, ()
    # Killed between the store that shut the gate and the commit, or between the commit that opens it and the
    # clearing of the latch. Both are shut: a crash never opens.
    return _roll_back(state, event.latched, CONTROLLER, event.latched, {"found": "the latch was shut"})


def _roll_back(state: ServiceState, reason: str, actor: str, said: str, evidence: dict[str, object]) -> Step:
    after = replace(
        state,
        phase=ROLLED_BACK,
        weight_bp=0,
        revision=state.revision + 1,
        reason=reason,
        expiry=None,
        live_since=None,
        no_stable=False,
    )
    note = Note("RolledBack", actor, said, shown(state), shown(after), evidence)
    return after, (Shut(reason), Persist(note), Announce(note))


def _held_back(state: ServiceState, wanted: str, evidence: dict[str, object]) -> Step:
    if state.no_stable:
        return state, ()
    after = replace(state, no_stable=True)
    note = Note("NoStable", CONTROLLER, wanted, shown(state), shown(after), evidence)
    return after, (Persist(note), Announce(note))


def _stable_back(state: ServiceState) -> Step:
    after = replace(state, no_stable=False)
    note = Note("StableReady", CONTROLLER, "", shown(state), shown(after))
    return after, (Persist(note), Announce(note))


def _replaced(state: ServiceState, note: Note) -> tuple[Effect, ...]:
    act = (StoreWeight(0),) if state.weight_bp else ()
    opened = (ClearLatch(),) if state.phase == ROLLED_BACK else ()
    return (*act, Persist(note), *opened, Announce(note))


def _match(state: ServiceState, if_match: int | None) -> None:
    if if_match is not None and if_match != state.revision:
        raise Refused(
            412,
            "RevisionStale",
            f"the service was changed since: its revision is {state.revision}",
            cure="read the weights again and repeat the request with their ETag",
            extra={"revision": state.revision},
        )


def _expiry(state: ServiceState, event: SetWeight, now: float) -> Expiry | None:
    if event.ttl_s is None:
        return state.expiry
    if isinf(event.ttl_s):
        return None
    # What was given for a time is not "the weight before": it would stay for ever.
    back = state.expiry.back_bp if state.expiry else state.weight_bp
    return Expiry(now + event.ttl_s, back, state.revision + 1)


def _warning(state: ServiceState, stable_ready: bool) -> dict[str, object]:  # noqa: FBT001
    return {"warning": STABLE_NOT_READY} if state.weight_bp and not stable_ready else {}


def _wrong_phase(state: ServiceState, event: Event) -> Refused:
    verbs = allowed(state)
    verb = VERBS.get(type(event), type(event).__name__)
    return Refused(
        409,
        "WrongPhase",
        f"{verb} is not possible in phase {state.phase}",
        cure=f"possible now: {', '.join(verbs)}",
        extra={"phase": state.phase, "allowed": verbs},
    )


TABLE: dict[tuple[str, type[Event]], Handler] = {
    (IDLE, Breach): _breach,
    (IDLE, SetWeight): _set_weight,
    (IDLE, Rollback): _rollback,
    (IDLE, Tick): _tick,
    (IDLE, NewChanged): _new_changed,
    (IDLE, NewRemoved): _new_removed,
    (IDLE, Restarted): _restarted,
    (ROLLED_BACK, SetWeight): _set_weight,
    (ROLLED_BACK, Rollback): _repeated,
    (ROLLED_BACK, NewChanged): _new_changed,
    (ROLLED_BACK, NewRemoved): _new_removed,
    (ROLLED_BACK, Restarted): _restarted,
}
