"""The life of a service as one transition table.

`step(plan, state, event, now)` returns the next state and what has to be done, in order (`effect.py`). It is pure:
the same arguments give the same answer, `now` (seconds, monotonic) and salts are arguments. A pair of phase and
event that is not in `TABLE` is a named refusal (HTTP 409) that says which phase it is and what is allowed. The table
also says to which phases each pair can lead: the diagram in docs/rollouts.md is made from it.

Rules:

* after a rollback the weight is 0 until a person sets another one, starts a rollout, or `new` becomes another version;
* every change makes the revision one larger; what changes nothing leaves it;
* a request that lowers `new` is never refused, whatever revision its sender has seen; a progressing rollout is then
  paused, and so is one whose weight a person raises (`take_over`);
* towards safety: act, persist, announce; towards risk: persist, clear the latch, act, announce;
* a stage goes on when its hold is over (`advance: evidence`: earlier, when that is proven), it had the requests that
  it asks for, every limit that acts on `new` is PASS and every requirement is met. No data is not PASS, so that no
  time at all without traffic moves anything. The hold of the last stage is the bake: it is always held to its end;
* a pause stops the hold clock, and nothing else: breaches of a paused rollout still roll back;
* `completed` at 100 %: nothing automatic moves users any more, until `finish` has made `new` the stable version. A
  plan that ends below 100 % keeps its limits armed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isinf
from typing import Any, TypeAlias

from proxy.errors import Refused
from proxy.rollout.effect import (
    AFTER_COMPLETE,
    AFTER_ROLLBACK,
    BEFORE_STAGE,
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
from proxy.rollout.event import (
    CONTROLLER,
    KEEP,
    RESTART,
    Breach,
    Event,
    Finish,
    HookAnswered,
    NewChanged,
    NewRemoved,
    Pause,
    PlanChanged,
    Promote,
    Restarted,
    Restored,
    Resume,
    Rollback,
    SetWeight,
    Standing,
    Start,
    Tick,
    WorkerLost,
)
from proxy.rollout.plan import MANUAL, PROVEN, ROLLBACK, ServicePlan
from proxy.rollout.state import (
    COMPLETED,
    DRILL,
    HOOK_FAILED,
    IDLE,
    MAX_HOLD_OVER,
    OPERATOR_PAUSE,
    OPERATOR_ROLLBACK,
    PAUSED,
    PLAN_CHANGED,
    PROGRESSING,
    ROLLED_BACK,
    TAKEN_OVER,
    Expiry,
    Record,
    Rollout,
    ServiceState,
    percent,
    shown,
)
from proxy.routing.table import FULL

Step: TypeAlias = tuple[ServiceState, tuple[Effect, ...]]
Handler: TypeAlias = Callable[[ServicePlan, ServiceState, Any, float], Step]

# What a person can ask for, as the API calls it.
VERBS: dict[type[Event], str] = {
    Start: "start",
    Pause: "pause",
    Resume: "resume",
    Promote: "promote",
    Finish: "finish",
    SetWeight: "weights",
    Rollback: "rollback",
    NewChanged: "versions/new",
}
# The same at the command line, which has no verb for a new version.
COMMANDS: dict[str, str] = {
    "start": "rollout start",
    "pause": "rollout pause",
    "resume": "rollout resume",
    "promote": "rollout promote",
    "finish": "rollout finish",
    "weights": "weights set",
    "rollback": "rollback",
    "drill": "rollout drill",
}
DRILL_VERB = "drill"  # a breach like any other to the machine, so it is in no row

STABLE_NOT_READY = "no endpoint of stable is ready: users are sent to a version that may not answer"


def step(plan: ServicePlan, state: ServiceState, event: Event, now: float) -> Step:
    """Return the state after `event` and the effects in order; raise `Refused` when it is not carried out."""
    row = TABLE.get((state.phase, type(event)))
    if row is None:
        raise _wrong_phase(state, event)
    return row.handler(plan, state, event, now)


def allowed(state: ServiceState) -> list[str]:
    """Return what a person can ask for in this state."""
    found = [VERBS[kind] for kind in VERBS if (state.phase, kind) in TABLE and _possible(state, kind)]
    return [*found, DRILL_VERB] if state.weight_bp and not state.watchdog_off else found


def possible(state: ServiceState) -> dict[str, object]:
    """Return what a refusal says of a state: {"phase", "allowed"}."""
    return {"phase": state.phase, "allowed": allowed(state)}


def may_advance(rollout: Rollout, standing: Standing, now: float) -> bool:
    """Tell whether the stage has shown enough to go on by itself."""
    stage = rollout.now_at
    enough = standing.requests >= max(1, stage.min_requests)
    if stage.advance == MANUAL or not enough or not standing.required:
        return False
    if rollout.elapsed_s(now) >= stage.hold_s:
        return standing.passed
    return stage.advance == PROVEN and rollout.next_stage is not None and standing.passed and standing.proven


def running(state: ServiceState) -> Rollout:
    """Return the rollout of a service that must have one."""
    if state.rollout is None:
        raise ValueError(f"a service in phase {state.phase} without a rollout")
    return state.rollout


# --- breaches and rollbacks ----------------------------------------------------------------------------------------


def _breach(_plan: ServicePlan, state: ServiceState, event: Breach, now: float) -> Step:
    if not state.weight_bp or state.watchdog_off:
        return state, ()
    if event.action != ROLLBACK:
        if state.phase != PROGRESSING:
            return state, ()
        return _pause_for(state, event.reason, CONTROLLER, event.reason, now, event.evidence)
    if not event.stable_ready:
        return _held_back(state, event.reason, dict(event.evidence))
    return _roll_back(state, event.reason, CONTROLLER, event.reason, dict(event.evidence), now, drill=event.drill)


def _rollback(_plan: ServicePlan, state: ServiceState, event: Rollback, now: float) -> Step:
    evidence = _warning(state, event.stable_ready)
    return _roll_back(state, OPERATOR_ROLLBACK, event.actor, event.reason or OPERATOR_ROLLBACK, evidence, now)


def _repeated(plan: ServicePlan, state: ServiceState, event: Rollback, now: float) -> Step:
    if state.reason == DRILL:
        return _rollback(plan, state, event, now)
    # Nothing changes, but what could not be stored the first time is stored now.
    return state, (Shut(state.reason), Persist())


def _roll_back(
    state: ServiceState,
    reason: str,
    actor: str,
    said: str,
    evidence: Mapping[str, object],
    now: float,
    *,
    drill: bool = False,
) -> Step:
    reason = DRILL if drill else reason
    rollout = state.rollout if state.rollout is None else state.rollout.stopped(now)
    after = replace(
        state,
        phase=ROLLED_BACK,
        weight_bp=0,
        revision=state.revision + 1,
        reason=reason,
        expiry=None,
        live_since=None,
        no_stable=False,
        rollout=rollout,
    )
    note = Note("DrillShut" if drill else "RolledBack", actor, said, shown(state), shown(after), evidence)
    return after, (Shut(reason), Persist(note), Announce(note), *(() if drill else _hook(rollout, AFTER_ROLLBACK)))


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


def _restored(_plan: ServicePlan, state: ServiceState, event: Restored, now: float) -> Step:
    before = event.before
    if state.reason != DRILL or before.salt != state.salt or not before.weight_bp:
        raise Refused(409, "Overtaken", "something else was decided while the drill ran: that stands")
    # The stage's windows begin anew, because what was injected is in the present ones; its hold clock goes on.
    rollout = before.rollout
    if rollout is not None and state.rollout is not None:
        rollout = replace(state.rollout, since=now if before.phase == PROGRESSING else None, entered=now)
    # Who gave the weight for a time has not been overruled since: the drill is no other decision.
    expiry = before.expiry
    if expiry is not None and expiry.revision == before.revision:
        expiry = replace(expiry, revision=state.revision + 1)
    after = replace(
        before, revision=state.revision + 1, live_since=now, expiry=expiry, rollout=rollout, no_stable=False
    )
    note = Note("DrillOver", event.actor, DRILL, shown(state), shown(after), event.evidence)
    return after, (Persist(note), ClearLatch(), StoreWeight(after.weight_bp), Announce(note))


# --- weights by hand -----------------------------------------------------------------------------------------------


def _set_weight(plan: ServicePlan, state: ServiceState, event: SetWeight, now: float) -> Step:
    if event.weight_bp > state.weight_bp:
        return _raise(state, event, now)
    if event.weight_bp == state.weight_bp:
        return _keep_weight(plan, state, event, now)
    if event.weight_bp == 0:
        return _rollback(plan, state, Rollback(event.actor, event.reason, event.stable_ready), now)
    after = replace(
        handed_over(state, now),
        weight_bp=event.weight_bp,
        revision=state.revision + 1,
        expiry=_expiry(state, event, now),
        no_stable=False,
    )
    evidence = {**_warning(state, event.stable_ready), **_for_a_time(event)}
    note = Note("WeightsSet", event.actor, event.reason, shown(state), shown(after), evidence)
    return after, _moved(state, after, note)


def _raise(state: ServiceState, event: SetWeight, now: float) -> Step:
    if not state.has_new:
        raise _no_new(state)
    _match(state, event.if_match)
    _may_take_over(state, event)
    handed = state if state.phase == COMPLETED else handed_over(state, now)
    after = replace(
        handed,
        weight_bp=event.weight_bp,
        revision=state.revision + 1,
        expiry=_expiry(state, event, now),
        live_since=state.live_since if state.weight_bp else now,
    )
    note = Note("WeightsSet", event.actor, event.reason, shown(state), shown(after), _for_a_time(event))
    return after, (Persist(note), ClearLatch(), StoreWeight(event.weight_bp, after.watchdog_off), Announce(note))


def _keep_weight(plan: ServicePlan, state: ServiceState, event: SetWeight, now: float) -> Step:
    if state.phase == ROLLED_BACK:
        return _repeated(plan, state, Rollback(event.actor, event.reason, event.stable_ready), now)
    takes_over = event.take_over and state.phase == PROGRESSING
    expiry = _expiry(state, event, now)
    if not state.weight_bp or (expiry == state.expiry and not takes_over):
        return state, ()
    _match(state, event.if_match)
    _may_take_over(state, event)
    handed = handed_over(state, now) if state.phase == PROGRESSING else state
    after = replace(handed, revision=state.revision + 1, expiry=expiry)
    note = Note("WeightsSet", event.actor, event.reason, shown(state), shown(after), _for_a_time(event))
    return after, _moved(state, after, note)


def handed_over(state: ServiceState, now: float) -> ServiceState:
    """Return the state in which a person decides about the weight, and no longer a rollout."""
    if state.phase == ROLLED_BACK:
        return replace(state, phase=IDLE, reason="", rollout=None)
    if state.rollout is None or state.phase not in (PROGRESSING, COMPLETED):
        return state
    return replace(state, phase=PAUSED, reason=TAKEN_OVER, rollout=state.rollout.stopped(now))


def _may_take_over(state: ServiceState, event: SetWeight) -> None:
    if state.phase == PROGRESSING and not event.take_over:
        raise Refused(
            409,
            "RolloutProgressing",
            "a rollout is progressing and decides about the weight",
            cure="pause it first, or repeat the request with take_over=true, which pauses it",
            command="pause it first with `tidegate rollout pause`, or repeat this with --take-over, which pauses it",
            extra=possible(state),
        )


# --- rollouts ------------------------------------------------------------------------------------------------------


def _start(_plan: ServicePlan, state: ServiceState, event: Start, now: float) -> Step:
    if not state.has_new:
        raise _no_new(state)
    _match(state, event.if_match)
    if state.weight_bp:
        raise Refused(
            409,
            "WeightNotZero",
            f"the weight of new is {percent(state.weight_bp)} %: a rollout begins at 0 %, with other users first",
            cure="roll back first, then start",
            extra=possible(state),
        )
    rollout = _entered(Rollout(event.plan), 0, now)
    after = replace(
        state,
        phase=PROGRESSING,
        reason="",
        weight_bp=rollout.now_at.weight_bp,
        revision=state.revision + 1,
        salt=event.salt,
        expiry=None,
        live_since=now,
        no_stable=False,
        rollout=rollout,
    )
    note = Note("RolloutStarted", event.actor, event.reason, shown(state), shown(after), event.evidence)
    act = (StoreSalt(event.salt), StoreWeight(after.weight_bp))
    return after, (Persist(note), ClearLatch(), *act, Announce(note))


def _pause(_plan: ServicePlan, state: ServiceState, event: Pause, now: float) -> Step:
    return _pause_for(state, OPERATOR_PAUSE, event.actor, event.reason or OPERATOR_PAUSE, now, {})


def _pause_for(
    state: ServiceState, reason: str, actor: str, said: str, now: float, evidence: Mapping[str, object]
) -> Step:
    rollout = running(state).stopped(now)
    after = replace(state, phase=PAUSED, reason=reason, revision=state.revision + 1, rollout=rollout)
    note = Note("RolloutPaused", actor, said, shown(state), shown(after), evidence)
    return after, (Persist(note), Announce(note))


def _resume(_plan: ServicePlan, state: ServiceState, event: Resume, now: float) -> Step:
    _match(state, event.if_match)
    rollout = running(state)
    # Whoever resumes has seen that the hold was over: it waits as long again.
    waits_s = max(rollout.now_at.hold_s, rollout.ran_s)
    after = _at_stage(state, PROGRESSING, replace(rollout, since=now, waits_s=waits_s), now)
    warning = _warning(state, event.stable_ready) if after.weight_bp < state.weight_bp else {}
    note = Note("RolloutResumed", event.actor, event.reason, shown(state), shown(after), warning)
    return after, _moved(state, after, note)


def _promote(_plan: ServicePlan, state: ServiceState, event: Promote, now: float) -> Step:
    _match(state, event.if_match)
    rollout = running(state)
    last = len(rollout.plan.stages) - 1
    target = last if event.full else min(last, rollout.stage + 1)
    lowers = rollout.plan.stages[target].weight_bp < state.weight_bp
    warning = _warning(state, event.stable_ready) if lowers else {}
    if rollout.stage == last:
        return _complete(state, event.actor, event.reason, warning, now)
    return _advance(state, target, event.record, event.actor, event.reason, warning, now)


def _advance(
    state: ServiceState,
    target: int,
    record: Record,
    actor: str,
    reason: str,
    evidence: Mapping[str, object],
    now: float,
) -> Step:
    rollout = running(state)
    if rollout.now_at.weight_bp < FULL and record:
        rollout = replace(rollout, record=record, record_of=rollout.now_at.name)
    after = _at_stage(state, PROGRESSING, _entered(rollout.left(now, actor, reason), target, now), now)
    note = Note("StageEntered", actor, reason, shown(state), shown(after), evidence)
    return after, _moved(state, after, note)


def _complete(state: ServiceState, actor: str, reason: str, evidence: Mapping[str, object], now: float) -> Step:
    rollout = running(state).left(now, actor, reason).stopped(now)
    after = _at_stage(state, COMPLETED, rollout, now)
    note = Note("RolloutCompleted", actor, reason, shown(state), shown(after), evidence)
    if after.weight_bp < state.weight_bp:
        moved: tuple[Effect, ...] = _moved(state, after, note)
    else:
        # No silence sends anybody to stable any more: that is a risk, and stored first.
        moved = (Persist(note), StoreWeight(after.weight_bp, after.watchdog_off), Announce(note))
    return after, (*moved, *_hook(rollout, AFTER_COMPLETE))


def _finish(_plan: ServicePlan, state: ServiceState, event: Finish, _now: float) -> Step:
    _match(state, event.if_match)
    if state.weight_bp != FULL:
        raise Refused(
            409,
            "NotFull",
            f"the plan ended at {percent(state.weight_bp)} %: only a version that has 100 % becomes stable",
            cure="set the weight to 100 % and watch it, then finish; or roll back and start a plan that ends at 100 %",
            extra=possible(state),
        )
    # The words are those of the next generation: in the present one everybody stays where they are.
    after = ServiceState(revision=state.revision + 1, salt=event.salt)
    note = Note("RolloutFinished", event.actor, event.reason, shown(state), {**shown(after), "stable": event.label})
    return after, (Persist(note), Announce(note))


def _hook_answered(_plan: ServicePlan, state: ServiceState, event: HookAnswered, now: float) -> Step:
    rollout = running(state)
    if not rollout.asking or event.revision != state.revision:
        return state, ()
    if not event.ok:
        said = {**event.said, "stage": rollout.plan.stages[rollout.stage + 1].name}
        return _pause_for(state, HOOK_FAILED, CONTROLLER, HOOK_FAILED, now, said)
    # What was shown when it was asked may be so no more: the next tick lets the stage go on, or not.
    return replace(state, rollout=replace(rollout, asking=False, go=event.said)), ()


def _hook_too_late(_plan: ServicePlan, state: ServiceState, _event: HookAnswered, _now: float) -> Step:
    return state, ()


def _plan_changed(_plan: ServicePlan, state: ServiceState, event: PlanChanged, now: float) -> Step:
    rollout = running(state)
    if event.choice not in (KEEP, RESTART):
        raise Refused(
            409,
            "PlanChanged",
            f"the plan {rollout.plan.name!r} of the running rollout is another one in the config, or not there",
            cure="reload with POST /api/v1/config/reload?running_plan=keep (it goes on by the plan that it was started "
            "with) or running_plan=restart (from its first stage)",
            extra={"phase": state.phase, "allowed": [KEEP, RESTART]},
        )
    if event.choice == KEEP or event.plan is None:
        note = Note("PlanKept", event.actor, PLAN_CHANGED, shown(state), shown(state))
        return state, (Persist(note), Announce(note))
    begun = _entered(Rollout(event.plan, record=rollout.record, record_of=rollout.record_of), 0, now)
    # Never more than now: what is raised is raised by a person who resumes.
    weight_bp = min(state.weight_bp, begun.now_at.weight_bp)
    goes_on = state.phase == PROGRESSING and weight_bp == begun.now_at.weight_bp
    after = replace(
        state,
        phase=PROGRESSING if goes_on else PAUSED,
        reason="" if goes_on else PLAN_CHANGED,
        weight_bp=weight_bp,
        revision=state.revision + 1,
        rollout=begun if goes_on else begun.stopped(now),
    )
    note = Note("PlanRestarted", event.actor, PLAN_CHANGED, shown(state), shown(after))
    return after, _moved(state, after, note)


def _worker_lost(_plan: ServicePlan, state: ServiceState, event: WorkerLost, _now: float) -> Step:
    note = Note("WorkerLost", CONTROLLER, event.why, shown(state), shown(state), {"slot": event.slot})
    return state, (Persist(note), Announce(note))


# --- time ----------------------------------------------------------------------------------------------------------


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
    return after, (StoreWeight(target, after.watchdog_off), Persist(note), Announce(note))


def _progress(plan: ServicePlan, state: ServiceState, event: Tick, now: float) -> Step:
    if state.no_stable and event.stable_ready:
        return _stable_back(state)
    rollout, standing = running(state), event.standing
    if standing is None or rollout.asking:
        return state, ()
    if may_advance(rollout, standing, now):
        return _go_on(state, rollout, standing, event.record, now)
    most_s = rollout.plan.max_hold_s
    if most_s is None or rollout.elapsed_s(now) < rollout.waits_s + most_s:
        return state, ()
    evidence = {"max_hold_s": most_s, "open": list(standing.open)}
    if rollout.plan.on_max_hold == ROLLBACK:
        return _breach(plan, state, Breach(MAX_HOLD_OVER, evidence, event.stable_ready), now)
    return _pause_for(state, MAX_HOLD_OVER, CONTROLLER, MAX_HOLD_OVER, now, evidence)


def _go_on(state: ServiceState, rollout: Rollout, standing: Standing, record: Record, now: float) -> Step:
    elapsed_s = rollout.elapsed_s(now)
    early = elapsed_s < rollout.now_at.hold_s
    reason = "Proven" if early else "HoldOver"
    evidence: dict[str, object] = {
        "requests": standing.requests,
        "elapsed_s": round(elapsed_s, 3),
        "proven": standing.proven,
    }
    if standing.since is not None:
        # A drill and a restart let judging begin anew, and a pause goes on judging: it is not the time of the hold.
        evidence["judged_s"] = round(now - standing.since, 3)
    target = rollout.stage + 1
    if rollout.next_stage is None:
        return _complete(state, CONTROLLER, reason, evidence, now)
    if rollout.plan.hooks.before_stage is not None:
        if rollout.go is None:
            return replace(state, rollout=replace(rollout, asking=True)), (CallHook(BEFORE_STAGE, target),)
        evidence["hook"] = dict(rollout.go)
    return _advance(state, target, record, CONTROLLER, reason, evidence, now)


# --- what the service is -------------------------------------------------------------------------------------------


def _new_changed(_plan: ServicePlan, state: ServiceState, event: NewChanged, _now: float) -> Step:
    _may_replace(state, event.if_match)
    fresh = event.fresh or state.phase == ROLLED_BACK
    after = ServiceState(revision=state.revision + 1, salt=event.salt if fresh else state.salt, has_new=True)
    note = Note(
        "NewChanged",
        event.actor,
        event.reason,
        {**shown(state), "label": event.was},
        {**shown(after), "label": event.label},
        {"endpoints": list(event.endpoints)} if event.endpoints else {},
    )
    return after, _replaced(state, note)


def _new_removed(_plan: ServicePlan, state: ServiceState, event: NewRemoved, _now: float) -> Step:
    _may_replace(state, event.if_match)
    after = ServiceState(revision=state.revision + 1, salt=state.salt)
    note = Note("NewRemoved", event.actor, event.reason, {**shown(state), "label": event.was}, shown(after))
    return after, _replaced(state, note)


def _restarted(_plan: ServicePlan, state: ServiceState, event: Restarted, now: float) -> Step:
    if state.phase == ROLLED_BACK:
        return state, (Shut(state.reason),)
    if event.latched is None:
        return state, ()
    # Killed between the store that shut the gate and the commit, or between the commit that opens it and the
    # clearing of the latch. Both are shut: a crash never opens.
    return _roll_back(state, event.latched, CONTROLLER, event.latched, {"found": "the latch was shut"}, now)


# --- small things --------------------------------------------------------------------------------------------------


def _entered(rollout: Rollout, stage: int, now: float) -> Rollout:
    hold_s = rollout.plan.stages[stage].hold_s
    return replace(rollout, stage=stage, ran_s=0.0, since=now, entered=now, waits_s=hold_s, asking=False, go=None)


def _at_stage(state: ServiceState, phase: str, rollout: Rollout, now: float) -> ServiceState:
    """Return the state with the weight of the rollout's stage."""
    return replace(
        state,
        phase=phase,
        reason="",
        weight_bp=rollout.now_at.weight_bp,
        revision=state.revision + 1,
        expiry=None,
        live_since=state.live_since if state.weight_bp else now,
        no_stable=False,
        rollout=rollout,
    )


def _moved(before: ServiceState, after: ServiceState, note: Note) -> tuple[Effect, ...]:
    """Return the effects of a change of weight in the order that is safe."""
    act = StoreWeight(after.weight_bp, after.watchdog_off)
    if after.weight_bp < before.weight_bp:
        return act, Persist(note), Announce(note)
    if after.weight_bp > before.weight_bp:
        return Persist(note), act, Announce(note)
    return Persist(note), Announce(note)


def _hook(rollout: Rollout | None, name: str) -> tuple[Effect, ...]:
    if rollout is None or getattr(rollout.plan.hooks, name) is None:
        return ()
    return (CallHook(name, rollout.stage),)


def _replaced(state: ServiceState, note: Note) -> tuple[Effect, ...]:
    act = (StoreWeight(0),) if state.weight_bp else ()
    opened = (ClearLatch(),) if state.phase == ROLLED_BACK else ()
    return (*act, Persist(note), *opened, Announce(note))


def _may_replace(state: ServiceState, if_match: int | None) -> None:
    # It takes `new` out, whatever comes instead: the way out of an incident is open to everybody.
    if not state.weight_bp:
        _match(state, if_match)


def _match(state: ServiceState, if_match: int | None) -> None:
    if if_match is not None and if_match != state.revision:
        raise Refused(
            412,
            "RevisionStale",
            f"the service was changed since: its revision is {state.revision}",
            cure="read the weights again and repeat the request with their ETag",
            command=f"look at `tidegate status`, and repeat this with --if-match {state.revision} if it still applies",
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


def _for_a_time(event: SetWeight) -> dict[str, object]:
    return {} if event.ttl_s is None or isinf(event.ttl_s) else {"ttl_s": event.ttl_s}


def _warning(state: ServiceState, stable_ready: bool) -> dict[str, object]:  # noqa: FBT001
    return {"warning": STABLE_NOT_READY} if state.weight_bp and not stable_ready else {}


def _no_new(state: ServiceState) -> Refused:
    return Refused(
        409,
        "NoNewVersion",
        "the service has no new version",
        cure="register one with PUT versions/new, or name the next one under `new` in the config and reload it",
        command="name the next one under `new` in the config and reload it by SIGHUP, or register it through the API",
        extra=possible(state),
    )


def _possible(state: ServiceState, kind: type[Event]) -> bool:
    if kind is Start:
        return state.has_new and not state.weight_bp
    if kind is Finish:
        return state.weight_bp == FULL
    return state.has_new or kind is not SetWeight


def _wrong_phase(state: ServiceState, event: Event) -> Refused:
    verbs = allowed(state)
    verb = VERBS.get(type(event), type(event).__name__)
    return Refused(
        409,
        "WrongPhase",
        f"{verb} is not possible in phase {state.phase}",
        cure=f"possible now: {', '.join(verbs)}",
        command=f"possible now: {', '.join(COMMANDS[one] for one in verbs if one in COMMANDS)}",
        extra={"phase": state.phase, "allowed": verbs},
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A pair of the table: what answers it, and the phases that it can lead to."""

    handler: Handler
    to: tuple[str, ...]


TABLE: dict[tuple[str, type[Event]], Row] = {
    (IDLE, Start): Row(_start, (PROGRESSING,)),
    (IDLE, Breach): Row(_breach, (IDLE, ROLLED_BACK)),
    (IDLE, SetWeight): Row(_set_weight, (IDLE, ROLLED_BACK)),
    (IDLE, Rollback): Row(_rollback, (ROLLED_BACK,)),
    (IDLE, Tick): Row(_tick, (IDLE,)),
    (IDLE, WorkerLost): Row(_worker_lost, (IDLE,)),
    (IDLE, HookAnswered): Row(_hook_too_late, (IDLE,)),
    (IDLE, NewChanged): Row(_new_changed, (IDLE,)),
    (IDLE, NewRemoved): Row(_new_removed, (IDLE,)),
    (IDLE, Restarted): Row(_restarted, (IDLE, ROLLED_BACK)),
    (PROGRESSING, Breach): Row(_breach, (PROGRESSING, PAUSED, ROLLED_BACK)),
    (PROGRESSING, SetWeight): Row(_set_weight, (PROGRESSING, PAUSED, ROLLED_BACK)),
    (PROGRESSING, Rollback): Row(_rollback, (ROLLED_BACK,)),
    (PROGRESSING, Tick): Row(_progress, (PROGRESSING, PAUSED, COMPLETED, ROLLED_BACK)),
    (PROGRESSING, Pause): Row(_pause, (PAUSED,)),
    (PROGRESSING, Promote): Row(_promote, (PROGRESSING, COMPLETED)),
    (PROGRESSING, HookAnswered): Row(_hook_answered, (PROGRESSING, PAUSED)),
    (PROGRESSING, WorkerLost): Row(_worker_lost, (PROGRESSING,)),
    (PROGRESSING, PlanChanged): Row(_plan_changed, (PROGRESSING, PAUSED)),
    (PROGRESSING, NewChanged): Row(_new_changed, (IDLE,)),
    (PROGRESSING, NewRemoved): Row(_new_removed, (IDLE,)),
    (PROGRESSING, Restarted): Row(_restarted, (PROGRESSING, ROLLED_BACK)),
    (PAUSED, Breach): Row(_breach, (PAUSED, ROLLED_BACK)),
    (PAUSED, SetWeight): Row(_set_weight, (PAUSED, ROLLED_BACK)),
    (PAUSED, Rollback): Row(_rollback, (ROLLED_BACK,)),
    (PAUSED, Tick): Row(_tick, (PAUSED,)),
    (PAUSED, Resume): Row(_resume, (PROGRESSING,)),
    (PAUSED, Promote): Row(_promote, (PROGRESSING, COMPLETED)),
    (PAUSED, HookAnswered): Row(_hook_too_late, (PAUSED,)),
    (PAUSED, WorkerLost): Row(_worker_lost, (PAUSED,)),
    (PAUSED, PlanChanged): Row(_plan_changed, (PAUSED,)),
    (PAUSED, NewChanged): Row(_new_changed, (IDLE,)),
    (PAUSED, NewRemoved): Row(_new_removed, (IDLE,)),
    (PAUSED, Restarted): Row(_restarted, (PAUSED, ROLLED_BACK)),
    (COMPLETED, Breach): Row(_breach, (COMPLETED, ROLLED_BACK)),
    (COMPLETED, SetWeight): Row(_set_weight, (COMPLETED, PAUSED, ROLLED_BACK)),
    (COMPLETED, Rollback): Row(_rollback, (ROLLED_BACK,)),
    (COMPLETED, Tick): Row(_tick, (COMPLETED,)),
    (COMPLETED, Finish): Row(_finish, (IDLE,)),
    (COMPLETED, HookAnswered): Row(_hook_too_late, (COMPLETED,)),
    (COMPLETED, WorkerLost): Row(_worker_lost, (COMPLETED,)),
    (COMPLETED, NewChanged): Row(_new_changed, (IDLE,)),
    (COMPLETED, NewRemoved): Row(_new_removed, (IDLE,)),
    (COMPLETED, Restarted): Row(_restarted, (COMPLETED, ROLLED_BACK)),
    (ROLLED_BACK, Start): Row(_start, (PROGRESSING,)),
    (ROLLED_BACK, SetWeight): Row(_set_weight, (IDLE, ROLLED_BACK)),
    (ROLLED_BACK, Rollback): Row(_repeated, (ROLLED_BACK,)),
    (ROLLED_BACK, Restored): Row(_restored, (IDLE, PROGRESSING, PAUSED, COMPLETED)),
    (ROLLED_BACK, HookAnswered): Row(_hook_too_late, (ROLLED_BACK,)),
    (ROLLED_BACK, WorkerLost): Row(_worker_lost, (ROLLED_BACK,)),
    (ROLLED_BACK, NewChanged): Row(_new_changed, (IDLE,)),
    (ROLLED_BACK, NewRemoved): Row(_new_removed, (IDLE,)),
    (ROLLED_BACK, Restarted): Row(_restarted, (ROLLED_BACK,)),
}
