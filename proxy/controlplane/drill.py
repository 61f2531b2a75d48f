"""The drill: proof on the running system that a breach reaches weight 0 in every worker.

Requests that nobody made and that failed are added to what the judges see of `new` (to nothing else), so that the very
limits, judges, transition table, control words and latch that a real breach would use are used. It is waited until
every worker has shown since the decision that it sends nobody to `new`. Then everything is as before: same salt, same
users, same stage, whose judging begins anew; users of `new` are on stable meanwhile. Killed in between, the gate stays
shut.

Rules:

* one that cannot succeed is refused at once (409), with what is missing: `new` has no weight, no limit that rolls back
  sees what is made up (`proxy.rollout.drill`), stable could not take its users back, nothing can be stored;
* it lasts as long as the limit needs that acts first, which a dry run says before, and `SLACK_S` more at most;
* nobody else waits for it, and what is ordered meanwhile stands. A breach by what is not made up is a real one;
* what is made up pauses and promotes nobody, and nobody is told of it as if it were so;
* when stable cannot be reached any more it is over, before it has moved anybody.

What it does not prove: that the workers would have counted a real failure (no request fails), that stable can carry the
traffic for longer than this took, that hooks work (none is called), nor how fast a failure of a few percent would be
seen. A real breach by the same limits meanwhile is seen again afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.controlplane import preflight
from proxy.controlplane.entry import Drill, Entry
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.services import Services
from proxy.controlplane.store import Store
from proxy.errors import Refused
from proxy.rollout.analysis import reason_of
from proxy.rollout.drill import Prospect, prospect
from proxy.rollout.event import Restored
from proxy.rollout.machine import possible
from proxy.rollout.state import DRILL, ROLLED_BACK, ServiceState

SLACK_S = 30.0
REACHED_MOST_S = 5.0
REACHED_EVERY_S = 0.01


class Drills:
    """Carries out drills.

    `next_tick(s)` waits for the next tick that judges every service; `reached(service, ns)` tells whether every worker
    has shown since that instant that it sends nobody to `new`.
    """

    def __init__(
        self,
        services: Services,
        store: Store,
        next_tick: Callable[[float], Awaitable[None]],
        reached: Callable[[str, int], bool],
    ) -> None:
        self.reached = reached
        self._services = services
        self._store = store
        self._next_tick = next_tick

    async def drill(self, name: str, order: Order) -> Json:
        """Shut the gate by made-up failures, and restore everything.

        Return {"drill": "passed" | "failed", "limit", "decided_s", "reached_s", "latched", "restored", "why"}: seconds
        from the first failure to the decision, and from that until every worker had it (`None`: not all did). A dry run
        returns {"limit", "limits", "expected_s", "most_s"}: what will decide it (`limits`: what may, because it acts
        about as soon), after about how long, and when it has failed.
        """
        entry = self._services.entry(name)
        found = await self._may_drill(entry)
        if order.dry_run:
            expected_s = round(found.seconds, 3)
            limits = list(dict.fromkeys(reason_of(limit) for limit in found.limits))
            return {"limit": limits[0], "limits": limits, "expected_s": expected_s, "most_s": expected_s + SLACK_S}
        return await self._services.commits.run(self._drill(entry, order))

    async def _drill(self, entry: Entry, order: Order) -> Json:
        # The store took its time. From this step on no other drill can begin.
        _has_a_gate(entry)
        found = self._limits(entry)
        drill = entry.drill = Drill()
        began = self._services.now()
        before = entry.state
        try:
            while self._undecided(entry, drill) and self._services.now() - began < found.seconds + SLACK_S:
                await self._next_tick(SLACK_S)
            drill.over = True
            entry.watch.forget()
            if drill.met is None or entry.state.phase != ROLLED_BACK or entry.state.reason != DRILL:
                return {
                    "drill": "failed",
                    "why": drill.why or self._why(entry, before, found),
                    "restored": entry.state.revision == before.revision,
                }
            return await self._shut(entry, drill, drill.met, began, order)
        finally:
            if entry.drill is drill:
                entry.drill = None

    async def _shut(self, entry: Entry, drill: Drill, met: ServiceState, began: float, order: Order) -> Json:
        """Wait until what was decided has reached every worker, and restore everything."""
        reached_s = await self._reached(entry, drill.decided_ns)
        took: Json = {
            "limit": drill.reason,
            "decided_s": round(drill.decided_ns / 1e9 - began, 4),
            "reached_s": reached_s,
            "latched": self._services.latched(entry.plan.name) is not None,
        }
        # What a person ordered while the drill had not decided yet stands: that is what the gate was shut on.
        restored = await self._restore(entry, met, order, took)
        passed = reached_s is not None and took["latched"] and restored
        why = "" if passed else "not every worker showed that it sends nobody to new" if restored else "not restored"
        return {"drill": "passed" if passed else "failed", **took, "restored": restored, "why": why}

    def _undecided(self, entry: Entry, drill: Drill) -> bool:
        return entry.drill is drill and not drill.over and entry.state.weight_bp > 0

    def _why(self, entry: Entry, before: ServiceState, found: Prospect) -> str:
        if entry.state.revision != before.revision:
            return "something else was decided meanwhile: that stands"
        waited = f"{_reason(found)} was to be decided after {found.seconds:g} s and was not after {SLACK_S:g} s more"
        return f"{waited}: the log of the supervisor says whether its ticks fail"

    async def _reached(self, entry: Entry, decided_ns: int) -> float | None:
        services = self._services
        while (took_s := services.now() - decided_ns / 1e9) < REACHED_MOST_S:
            if services.words_at_0(entry.plan.name) and self.reached(entry.plan.name, decided_ns):
                return round(took_s, 4)
            await asyncio.sleep(REACHED_EVERY_S)
        return None

    async def _restore(self, entry: Entry, before: ServiceState, order: Order, took: Json) -> bool:
        async with self._services.change(entry):
            try:
                return await self._services.carry_out(entry, Restored(before, order.actor, took))
            except Refused:
                return False

    # --- what refuses one ----------------------------------------------------------------------------------------

    async def _may_drill(self, entry: Entry) -> Prospect:
        """Return what a drill will meet; raise `Refused` if it cannot succeed."""
        _has_a_gate(entry)
        found = self._limits(entry)
        finding = await preflight.state(self._store)
        if finding["finding"] == preflight.NO_GO:
            cure = "mend the state store first: what a drill shuts it has to open again"
            raise Refused(503, "NotStored", str(finding["what"]), cure=cure)
        return found

    def _limits(self, entry: Entry) -> Prospect:
        watch, state = entry.watch, entry.state
        if watch.court is None:
            raise _busy(state)
        found = prospect(watch.court, watch.judges, self._services.now())
        if found.limit is not None:
            return found
        running = None if state.rollout is None else state.rollout
        where = "" if running is None else f" in stage {running.now_at.name!r} of plan {running.plan.name!r}"
        key = f"limits of service {entry.plan.name}"
        raise Refused(
            409,
            "NoLimit",
            f"no limit{where} would roll back for requests that fail: {'; '.join(found.blind) or 'there is none'}",
            cure=f"add one with action rollback to the {key}, or to the stage, such as {{error_rate: 5%}}",
            extra=possible(state),
        )


def _has_a_gate(entry: Entry) -> None:
    """Raise `Refused` where there is no gate to shut, or nobody could go through another."""
    state = entry.state
    extra = possible(state)
    if entry.drill is not None or entry.pending is not None:
        raise _busy(state)
    if not state.has_new:
        cure = "register one with PUT versions/new or in the config, and give it weight"
        command = "name one under `new` in the config, reload it by SIGHUP, and give it weight"
        what = "the service has no new version to drill with"
        raise Refused(409, "NoNewVersion", what, cure=cure, command=command, extra=extra)
    if not state.weight_bp:
        shut = f"was rolled back ({state.reason}) and its gate is shut" if state.phase == ROLLED_BACK else "is at 0 %"
        cure = "give new weight first: tidegate rollout start, or tidegate weights set"
        what = f"new {shut}: there is no gate to shut"
        raise Refused(409, "NothingToShut", what, cure=cure, extra=extra)
    if state.watchdog_off:
        what = "the rollout is completed at 100 %, where nothing automatic moves users"
        raise Refused(409, "WrongPhase", what, cure="drill the next rollout, after finish", extra=extra)
    if not entry.watch.stable_ready:
        what = "stable has no ready endpoint, and users of new would be sent to it"
        raise Refused(409, "NoStable", what, cure="tidegate status says why its endpoints are not ready", extra=extra)


def _busy(state: ServiceState) -> Refused:
    what = "something is being decided right now, or a drill is under way"
    extra = possible(state)
    return Refused(409, "Busy", what, cure="try again", extra=extra)


def _reason(found: Prospect) -> str:
    return "" if found.limit is None else reason_of(found.limit)
