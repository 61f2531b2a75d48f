"""Rollouts: what people order about them, what their hooks answer.

Rules beside those of every order (`proxy.controlplane.services`):

* the hooks before a start or a promotion are called within the request, before anything is changed: one that fails
  refuses it (409 `HookFailed`, and an event) and shows what it said. They hold up nobody else, and what is decided
  for the service meanwhile stands: then the request is refused (409 `Overtaken`). When a stage would go on by itself
  the hook before the next one is asked meanwhile, and a failure pauses the rollout; killed in between, it is asked
  again. The hooks after a rollback and completion change nothing; they are owed from the decision until they have
  answered, so that a kill in between calls them once more, never less than once. The end of the supervisor waits for
  no hook;
* a plan in a request may need latencies that the workers do not count yet: then they get a table that has them first;
* a plan that starts takes along the checks of the service that its limits name: it is judged by them to its end, also
  when a reload changes or removes them;
* `finish` is a change of the table: until every worker has it, each goes on by the words of the generation it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from proxy.config.plans import compile_plan_body
from proxy.controlplane import hooks, registry
from proxy.controlplane.entry import Entry
from proxy.controlplane.hooks import Answer
from proxy.controlplane.intake import INLINE
from proxy.controlplane.move import Move, move, overtaken
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.preflight import no_go, preflight
from proxy.controlplane.services import Services
from proxy.controlplane.status import Status
from proxy.controlplane.store import REGISTERED, STABLE_REGISTERED, Owed, Store
from proxy.errors import ConfigError, Refused
from proxy.rollout.effect import BEFORE_STAGE, CallHook
from proxy.rollout.event import Finish, HookAnswered, Pause, Promote, Resume, Start
from proxy.rollout.machine import possible, running
from proxy.rollout.plan import Hook, Plan
from proxy.rollout.state import IDLE, PROGRESSING, ROLLED_BACK, ServiceState, shown
from proxy.routing.table import VERSIONS, Version

BEFORE_START = "before_start"


class Rollouts:
    """Carries out the orders about rollouts, and calls hooks."""

    def __init__(
        self,
        services: Services,
        status: Status,
        store: Store,
    ) -> None:
        self._services = services
        self._status = status
        self._commits = services.commits
        self._store = store
        self._calls: set[asyncio.Task[Answer]] = set()  # of hooks that have not answered
        self._closed = False
        self._commits.on_hook = self._asked
        self._commits.owes = self._owes
        self._commits.on_owed = self.call

    def close(self) -> None:
        """Wait for no hook any more: those that are owed are called again after the start."""
        self._closed = True
        for call in self._calls:
            call.cancel()

    # --- orders --------------------------------------------------------------------------------------------------

    async def start(self, name: str, plan: str | Mapping[str, Any] | None, order: Order) -> Json:
        """Start a rollout by the plan of that name, or one in the notation of a file; `None` means the default one.

        A dry run returns {"go", "plan", "findings"} and changes nothing. What it would have called no-go is in the
        `warnings` of a start, which goes all the same.
        """
        entry = self._services.entry(name)
        chosen = registry.with_checks(self._plan(entry, plan), entry.plan)
        if order.dry_run:
            return await preflight(
                entry,
                chosen,
                self._services.service(entry.plan.name),
                self._services.counts(name),
                self._services.history,
                self._store,
                self._services.readings(name),
                self._services.now(),
            )
        durable, warnings = await self._commits.run(self._start(entry, chosen, order))
        answer = self._status.answer(entry, self._status.service_status(name), durable=durable)
        return {**answer, **({"warnings": warnings} if warnings else {})}

    async def pause(self, name: str, order: Order) -> Json:
        """Stop the hold clock; the limits stay armed. Return the service's object."""
        return await self._order(name, Pause(order.actor, order.reason))

    async def resume(self, name: str, order: Order) -> Json:
        """Let a paused rollout go on at the weight of its stage. Return the service's object."""
        entry = self._services.entry(name)
        ready = entry.watch.stable_ready
        return await self._order(name, Resume(order.actor, order.reason, order.if_match, stable_ready=ready))

    async def promote(self, name: str, order: Order, *, full: bool = False) -> Json:
        """Go to the next stage now, or to the last one (`full`); from the last one: completed."""
        entry = self._services.entry(name)
        before = entry.state
        durable = await self._commits.run(self._promote(entry, order, full=full))
        return self._moved(entry, before, durable=durable)

    async def finish(self, name: str, order: Order) -> Json:
        """Make the new version the stable one, in one generation. Return the service's object."""
        entry = self._services.entry(name)
        durable = await self._commits.run(self._finish(entry, order))
        return self._status.answer(entry, self._status.service_status(name), durable=durable)

    async def _order(self, name: str, event: Pause | Resume) -> Json:
        entry = self._services.entry(name)
        before = entry.state
        durable = await self._commits.run(self._changed(entry, event))
        return self._moved(entry, before, durable=durable)

    def _moved(self, entry: Entry, before: ServiceState, *, durable: bool) -> Json:
        lowers = entry.state.weight_bp < before.weight_bp
        return self._status.answer(entry, self._status.service_status(entry.plan.name), durable=durable, lowers=lowers)

    async def _changed(self, entry: Entry, event: Pause | Resume) -> bool:
        async with self._services.change(entry):
            return await self._services.carry_out(entry, event)

    async def _start(self, entry: Entry, plan: Plan, order: Order) -> tuple[bool, list[Json]]:
        services = self._services
        event = Start(plan, services.fresh_salt(entry), order.actor, order.reason, order.if_match)
        # What is refused anyway is refused before hooks are called.
        move(entry.plan, entry.latest, event, services.now())
        async with self._asked_before(entry, plan, (BEFORE_START, BEFORE_STAGE), plan.stages[0].name, order) as answers:
            warnings = self._no_go(entry, plan)
            evidence: Json = {"hooks": answers} if answers else {}
            evidence |= {"no_go": [finding["what"] for finding in warnings]} if warnings else {}
            event = replace(event, evidence=evidence)
            table = registry.counting(services.table, entry.plan, plan)
            if table == services.table:
                return await services.carry_out(entry, event), warnings
            # What the workers have to count first: a table at weight 0, and then the start.
            move(entry.plan, entry.state, event, services.now())
            entry.asking, revision = True, entry.state.revision
            try:
                await services.bring_table(table)
            finally:
                wanted, entry.asking = entry.asking, False
            if not wanted or entry.state.revision != revision:
                what = "something else was decided while the workers got their table: that stands"
                raise overtaken(entry.state, what)
            return await services.carry_out(entry, event), warnings

    def _no_go(self, entry: Entry, plan: Plan) -> list[Json]:
        services, name = self._services, entry.plan.name
        return list(no_go(entry, plan, services.counts(name), services.readings(name), services.now()))

    async def _promote(self, entry: Entry, order: Order, *, full: bool) -> bool:
        services = self._services
        event = Promote(order.actor, order.reason, full, order.if_match)
        after = move(entry.plan, entry.latest, event, services.now()).after
        names = (BEFORE_STAGE,) if after.phase == PROGRESSING else ()
        rollout = running(after)
        async with self._asked_before(entry, rollout.plan, names, rollout.now_at.name, order):
            event = replace(event, record=entry.record(), stable_ready=entry.watch.stable_ready)
            return await services.carry_out(entry, event)

    async def _finish(self, entry: Entry, order: Order) -> bool:
        services = self._services
        name = entry.plan.name
        async with services.change(entry):
            new = services.service(name).new
            event = Finish(new.label, services.fresh_salt(entry), order.actor, order.reason, order.if_match)
            made = move(entry.plan, entry.latest, event, services.now())
            if order.dry_run:
                return True
            versions = {(name, REGISTERED): Version(), (name, STABLE_REGISTERED): new}
            back = {key: self._commits.versions.get(key) for key in versions}
            commit = self._commits.begin((made,), versions, services.entries, risky=True)
            # What comes before it is in force stores what is stable again together with itself.
            entry.back = back
            stored = await self._commits.stored(commit)
            if entry.pending is not made.after:
                self._commits.announce(commit)
                self._commits.say(entry, "FinishUndone", "Overtaken", {})
                raise overtaken(entry.state, "something else changed the weight while this was being stored", cure="")
            durable = await services.bring(commit, registry.finished(services.table, name), stored=stored)
            entry.watch.forget()
            return durable

    # --- hooks ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asked_before(
        self, entry: Entry, plan: Plan, names: Sequence[str], stage: str, order: Order
    ) -> AsyncIterator[dict[str, Any]]:
        """Call hooks, and then let what was ordered be done as the only change; gives what they said by their names."""
        there = [name for name in names if getattr(plan.hooks, name) is not None]
        if not there:
            async with self._services.change(entry):
                yield {}
            return
        extra = possible(entry.state)
        if entry.asking:
            what = "the hooks of another order are being asked"
            raise Refused(409, "Busy", what, cure="wait for their answer", extra=extra)
        entry.asking, revision = True, entry.latest.revision
        try:
            answers: dict[str, Any] = {}
            for name in there:
                answers[name] = await self._ask(entry, plan, name, stage, order)
            async with self._services.change(entry):
                if not entry.asking or entry.latest.revision != revision:
                    what = "something else was decided while the hooks were asked: that stands"
                    raise overtaken(entry.state, what)
                yield answers
        finally:
            entry.asking = False

    async def _call(self, hook: Hook, name: str, about: dict[str, Any]) -> Answer:
        """Call a hook; raise `Refused` (503) when the supervisor ends before it has answered."""
        call = asyncio.create_task(hooks.call(hook, name, about))
        self._calls.add(call)
        try:
            if self._closed:
                call.cancel()
            return await call
        except asyncio.CancelledError:
            if not self._closed:
                raise
            what = f"tidegate ends: the hook {name} was not waited for; nothing was changed"
            raise Refused(503, "Ending", what, cure="repeat the request after the start") from None
        finally:
            self._calls.discard(call)

    async def _ask(self, entry: Entry, plan: Plan, name: str, stage: str, order: Order) -> dict[str, Any]:
        """Call a hook that can stop what was ordered; return what it said."""
        hook: Hook = getattr(plan.hooks, name)
        answer = await self._call(hook, name, self._about(entry, plan, stage))
        if answer.ok:
            return shown_hook(answer)
        said = shown_hook(answer)
        refused = "start" if entry.latest.phase in (IDLE, ROLLED_BACK) else "promotion"
        self._commits.say(entry, "HookFailed", name, {**said, "refused": refused}, actor=order.actor)
        if "status" in said:
            said["answered"] = said.pop("status")  # `status` of a problem is its own
        raise Refused(
            409,
            "HookFailed",
            f"the hook {name} did not say go; nothing was changed",
            cure="look at what it said, mend it, and repeat the request",
            command="mend what it said, and try again",
            extra={**possible(entry.state), **said},
        )

    def _asked(self, service: str, effect: CallHook, revision: int) -> None:
        entry = self._services.entries.get(service)
        rollout = None if entry is None else entry.state.rollout
        hook = None if rollout is None else rollout.plan.hooks.before_stage
        if entry is not None and rollout is not None and hook is not None and entry.state.revision == revision:
            self._commits.spawn(self._answered(entry, rollout.plan, hook, effect, revision))

    async def _answered(self, entry: Entry, plan: Plan, hook: Hook, effect: CallHook, revision: int) -> None:
        services = self._services
        answer = await self._call(hook, effect.name, self._about(entry, plan, plan.stages[effect.stage].name))
        # What is being stored is decided first; this only lets a stage go on.
        await services.quiet((entry,))
        if services.entries.get(entry.plan.name) is not entry:
            return
        made = move(entry.plan, entry.state, HookAnswered(revision, answer.ok, shown_hook(answer)), services.now())
        self._commits.decide(made, services.entries)

    def _owes(self, made: Move, effect: CallHook) -> Owed | None:
        rollout = made.after.rollout
        hook: Hook | None = None if rollout is None else getattr(rollout.plan.hooks, effect.name)
        if rollout is None or hook is None or effect.name == BEFORE_STAGE:
            return None
        about = self._told(made.service, made.after, rollout.plan, rollout.plan.stages[effect.stage].name)
        return Owed(made.service, effect.name, made.after.revision, hook, about)

    def call(self, owed: Owed) -> None:
        """Call a hook that is owed; one that is owed by a service that is gone is forgotten."""
        entry = self._services.entries.get(owed.service)
        if entry is None:
            self._commits.pay(owed)
        else:
            self._commits.spawn(self._paid(entry, owed))

    async def _paid(self, entry: Entry, owed: Owed) -> None:
        answer = await self._call(owed.hook, owed.name, owed.about)
        kind = "HookCalled" if answer.ok else "HookFailed"
        self._commits.say(entry, kind, owed.name, shown_hook(answer), pays=owed)

    def _about(self, entry: Entry, plan: Plan, stage: str) -> dict[str, Any]:
        return self._told(entry.plan.name, entry.state, plan, stage)

    def _told(self, name: str, state: ServiceState, plan: Plan, stage: str) -> dict[str, Any]:
        service = self._services.service(name)
        return {
            "service": name,
            "plan": plan.name,
            "stage": stage,
            "reason": state.reason,
            "labels": {VERSIONS[version]: service.version(version).label for version in (0, 1)},
            **{key: value for key, value in shown(state).items() if key in ("phase", "new", "revision")},
        }

    def _plan(self, entry: Entry, plan: str | Mapping[str, Any] | None) -> Plan:
        if plan is None or isinstance(plan, str):
            found = entry.plan.rollout(plan or "")
            if found is None:
                known = ", ".join(one.name for one in entry.plan.rollouts)
                what = f"{entry.plan.name} has no rollout plan {plan!r}" if plan else f"{entry.plan.name}: which plan?"
                there, none = f"there are: {known}", "name one under rollouts in the config"
                cure = there if known else f"{none}, or send it in the body"
                command = there if known else f"{none}, or give a FILE: its name has a / or ends in .yaml"
                raise Refused(404 if plan else 400, "NoSuchPlan", what, cure=cure, command=command)
            return found
        try:
            return compile_plan_body(dict(plan), entry.plan, self._services.service(entry.plan.name), name=INLINE)
        except ConfigError as error:
            count = len(error.problems)
            what = f"the plan has {count} problem{'' if count == 1 else 's'}; nothing was changed"
            raise Refused(400, "PlanInvalid", what, problems=tuple(error.problems)) from error


def shown_hook(answer: Answer) -> dict[str, Any]:
    """Return what people see of a hook's answer: what it said, not where it is (that may hold a secret)."""
    return {key: value for key, value in answer.said.items() if key not in ("url", "run")}
