"""Taking in a config: what the services begin with, from the config, the store and the latch.

The same rules at start and at a reload (INTERFACE §1, DESIGN §4): the latch wins over the store, a stored weight wins
over the config's, a registered version over the config's until the config changes; and when what `new` *is* has
changed (its label, or endpoints disjoint from before) its weight is 0. Whatever wins over the config is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.controlplane import registry
from proxy.controlplane.generations import same
from proxy.controlplane.move import Move, move
from proxy.controlplane.store import Stored, from_row
from proxy.errors import Refused
from proxy.rollout.effect import Announce, Note, Persist
from proxy.rollout.event import KEEP, NewChanged, NewRemoved, PlanChanged, Restarted
from proxy.rollout.plan import ServicePlan
from proxy.rollout.state import PAUSED, PROGRESSING, ROLLED_BACK, ServiceState, percent, shown
from proxy.routing.table import MAX_SIGNALS, MAX_THRESHOLDS, RoutingTable, Version

INLINE = "(inline)"  # the name of a plan that came in a request's body: no config knows it
FRESH_SALT = "rollout"  # the plan's word for "a fresh one per rollout"


@dataclass(slots=True)
class Intake:
    """What is to become of a config: `moves` in order (a service may have several), the table with what is registered.

    `begins`: the states of services that are not running yet, before their moves.
    """

    table: RoutingTable
    begins: dict[str, ServiceState] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    versions: dict[tuple[str, str], Version | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def salt(plan: ServicePlan, fresh: Callable[[], str]) -> str:
    """Return the salt of a new rollout."""
    return fresh() if plan.salt == FRESH_SALT else plan.salt


def take_in(
    plans: Sequence[ServicePlan],
    table: RoutingTable,
    stored: Stored,
    running: Mapping[str, ServiceState],
    *,
    latched: Callable[[str], str | None],
    fresh: Callable[[], str],
    now: float,
    actor: str,
    reason: str,
    choice: str = "",
) -> Intake:
    """Return what follows from a config. `latched` gives the reason in a service's latch, `fresh` a random salt.

    `choice`: what becomes of a running rollout whose plan has changed: keep | restart, "" = refused (409). Refused as
    well: a config beside which the workers could not count what a running rollout needs, or that reads something else
    for limits of the service under the name of a check that it needs.
    """
    taken = Intake(table)
    services = {service.name: service for service in table.services}
    for plan in plans:
        stable = registry.choose_stable(plan.name, services[plan.name].stable, stored.versions)
        taken.versions.update(stable.stored)
        if stable.note:
            taken.notes.append(stable.note)
        taken.table = registry.with_stable(taken.table, plan.name, stable.stable)
        config = services[plan.name].new
        version = registry.choose(plan.name, config, stored.versions)
        taken.versions.update(version.stored)
        if version.note:
            taken.notes.append(version.note)
        if version.new != config:
            taken.table = registry.with_new(taken.table, plan.name, version.new)
        was = version.new if version.was is None else version.was
        state = running.get(plan.name)
        if state is None:
            state = _begin(taken, plan, stored, was, latched(plan.name), fresh, now, actor, reason)
        state = _change(taken, plan, state, was, version.new, salt(plan, fresh), now, actor, reason)
        state = _follow_plan(taken, plan, state, KEEP if plan.name not in running else choice, now, actor)
        if state.rollout is not None:
            # A plan that came with a request, or that was kept, may need more than the config says.
            taken.table = registry.counting(taken.table, plan, state.rollout.plan)
            _all_counted(taken, plan, state, running=plan.name in running)
            _all_read(taken, plan, state, running=plan.name in running)
        _fix_salt(taken, plan, state)
    for name in running.keys() - {plan.name for plan in plans}:
        taken.notes.append(_gone(name, running[name]))
    return taken


def _gone(name: str, state: ServiceState) -> str:
    """Say what is forgotten of a service, and what is not."""
    kept = [f"its weight of new, {percent(state.weight_bp)} %,"] if state.weight_bp else []
    if state.rollout is not None and state.phase in (PROGRESSING, PAUSED):
        kept.append(f"its rollout by {state.rollout.plan.name!r}, {state.phase},")
    said = f": {' and '.join(kept)} is kept and applies again when the service comes back" if kept else ""
    return f"{name}: is no longer served{said}"


def _begin(
    taken: Intake,
    plan: ServicePlan,
    stored: Stored,
    was: Version,
    latched: str | None,
    fresh: Callable[[], str],
    now: float,
    actor: str,
    reason: str,
) -> ServiceState:
    row = stored.rows.get(plan.name)
    has_new = bool(was.endpoints)
    if row is None:
        weight = plan.initial_weight if has_new and latched is None else 0
        state = ServiceState(
            weight_bp=weight, salt=salt(plan, fresh), has_new=has_new, live_since=now if weight else None
        )
        note = Note("ServiceAdded", actor, reason, {}, shown(state))
        taken.moves.append(Move(plan.name, ServiceState(), state, (Persist(note), Announce(note))))
    else:
        state = from_row(row, now, has_new=has_new)
    taken.begins[plan.name] = state
    restarted = move(plan, state, Restarted(latched), now)
    if restarted.effects:
        taken.moves.append(restarted)
    state = restarted.after
    if state.phase == ROLLED_BACK:
        taken.notes.append(f"{plan.name}: rolled back before ({state.reason}): the weight of new stays at 0 %")
    elif state.rollout is not None:
        taken.notes.append(
            f"{plan.name}: a rollout by {state.rollout.plan.name!r} is {state.phase} in stage "
            f"{state.rollout.now_at.name!r}, weight {percent(state.weight_bp)} %"
        )
    elif row is not None and has_new and state.weight_bp != plan.initial_weight:
        taken.notes.append(
            f"{plan.name}: the stored weight of new, {percent(state.weight_bp)} %, wins over the config's "
            f"{percent(plan.initial_weight)} %"
        )
    return state


def _change(
    taken: Intake,
    plan: ServicePlan,
    state: ServiceState,
    was: Version,
    new: Version,
    fresh_salt: str,
    now: float,
    actor: str,
    reason: str,
) -> ServiceState:
    if same(was, new):
        return state
    if new.endpoints:
        urls = tuple(endpoint.url for endpoint in new.endpoints)
        event = NewChanged(was.label, new.label, fresh_salt, fresh=False, actor=actor, reason=reason, endpoints=urls)
        changed = move(plan, state, event, now)
        weight = (
            f"its weight is set from {percent(state.weight_bp)} % to 0 %" if state.weight_bp else "its weight is 0 %"
        )
        taken.notes.append(f"{plan.name}: new was {registry.named(was)} and is now {registry.named(new)}: {weight}")
    else:
        changed = move(plan, state, NewRemoved(was.label, actor, reason), now)
        taken.notes.append(f"{plan.name}: there is no new version any more (it was {registry.named(was)})")
    taken.moves.append(changed)
    return changed.after


def _follow_plan(
    taken: Intake, plan: ServicePlan, state: ServiceState, choice: str, now: float, actor: str
) -> ServiceState:
    rollout = state.rollout
    if rollout is None or state.phase not in (PROGRESSING, PAUSED) or rollout.plan.name == INLINE:
        return state
    wanted = next((one for one in plan.rollouts if one.name == rollout.plan.name), None)
    if wanted is not None:
        wanted = registry.with_checks(wanted, plan)
    if wanted == rollout.plan:
        return state
    made = move(plan, state, PlanChanged(wanted, choice, actor), now)
    kept = choice == KEEP or wanted is None
    does = "goes on by the plan that it was started with" if kept else "begins again with the first stage"
    taken.notes.append(f"{plan.name}: the plan {rollout.plan.name!r} has changed: the running rollout {does}")
    taken.moves.append(made)
    return made.after


def _all_counted(taken: Intake, plan: ServicePlan, state: ServiceState, *, running: bool) -> None:
    rollout = state.rollout
    if rollout is None or state.phase not in (PROGRESSING, PAUSED):
        return
    lacking = ", ".join(registry.uncounted(taken.table, plan, rollout.plan))
    if not lacking:
        return
    what = (
        f"{plan.name}: with this config the workers cannot count all that the running rollout by "
        f"{rollout.plan.name!r} needs ({lacking}): a service has room for {MAX_THRESHOLDS} latencies and "
        f"{MAX_SIGNALS} signals, and a signal means one thing"
    )
    if running:
        cure = "reload when the rollout is over, or let the config use the bounds and signals that it uses"
        raise Refused(409, "NotCounted", what, cure=cure, extra={"phase": state.phase})
    taken.notes.append(f"{what}; its stage is held")


def _all_read(taken: Intake, plan: ServicePlan, state: ServiceState, *, running: bool) -> None:
    rollout = state.rollout
    if rollout is None or state.phase not in (PROGRESSING, PAUSED):
        return
    other = ", ".join(registry.other_checks(plan, rollout.plan))
    if not other:
        return
    what = (
        f"{plan.name}: in this config the check {other} of the service's own limits is another one than the running "
        f"rollout by {rollout.plan.name!r} is judged by, and a check means one thing"
    )
    if running:
        cure = "reload when the rollout is over, or with running_plan=restart, or give the other check another name"
        raise Refused(409, "OtherCheck", what, cure=cure, extra={"phase": state.phase})
    taken.notes.append(f"{what}: until it is over, that of the rollout is read")


def _fix_salt(taken: Intake, plan: ServicePlan, state: ServiceState) -> None:
    if plan.salt in (FRESH_SALT, state.salt):
        return
    if state.weight_bp:
        taken.notes.append(
            f"{plan.name}: the config's salt comes into force when it is read again while the weight of new is 0 %"
        )
        return
    taken.moves.append(Move(plan.name, state, replace(state, salt=plan.salt), (Persist(),)))
