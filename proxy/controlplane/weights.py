"""The orders that move the weight of `new`: set it, and roll back.

What lowers it never waits for another order and is never refused; what raises it goes alone (`Services.change`).
"""

from __future__ import annotations

from dataclasses import replace

from proxy.controlplane import view
from proxy.controlplane.entry import Entry
from proxy.controlplane.move import move
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.services import Services
from proxy.controlplane.status import Status
from proxy.errors import Problem, Refused
from proxy.rollout.event import Rollback, SetWeight
from proxy.routing.table import FULL

EARLIER_TTL = (
    "an earlier ttl still runs: when it is over, the weight of new becomes 0, because it was changed since "
    "(a weight with the ttl none stays)"
)


class Weights:
    """Carries out the orders about weights."""

    def __init__(self, services: Services, status: Status) -> None:
        self._services = services
        self._commits = services.commits
        self._status = status

    async def set_weights(self, name: str, new_bp: int, order: Order, *, ttl_s: float | None = None) -> Json:
        """Set the weight of `new`; return `weights` plus "moves" (dry run), "paused", "warning", "durable": false."""
        entry = self._services.entry(name)
        if not 0 <= new_bp <= FULL:
            problem = Problem("new", "must be from 0 to 100 percent")
            raise Refused(400, "RequestInvalid", "the weight is out of range", problems=(problem,))
        event = SetWeight(
            new_bp,
            order.actor,
            order.reason,
            order.if_match,
            ttl_s,
            stable_ready=entry.watch.stable_ready,
            take_over=order.take_over,
        )
        if order.dry_run:
            return self._moves(entry, event)
        before = entry.state
        durable = await self._commits.run(self._set_weight(entry, event))
        shown = {**self._status.weights(name), **view.taken_over(entry.state)}
        answer = self._status.answer(entry, shown, durable=durable, lowers=new_bp < before.weight_bp)
        expiry = entry.state.expiry
        if expiry is not None and expiry.revision != entry.state.revision:
            answer.setdefault("warning", EARLIER_TTL)
        return answer

    async def rollback(self, name: str, order: Order) -> Json:
        """Send everything to stable, in any phase; return the service's object plus "warning", "durable": false."""
        entry = self._services.entry(name)
        if order.dry_run:
            return self._status.service_status(name)
        lowers = entry.state.weight_bp > 0
        entry.asking = False  # also where it changes nothing: a start that waits for its hooks is not wanted any more
        event = Rollback(order.actor, order.reason, stable_ready=entry.watch.stable_ready)
        durable = await self._commits.run(self._services.carry_out(entry, event))
        return self._status.answer(entry, self._status.service_status(name), durable=durable, lowers=lowers)

    async def _set_weight(self, entry: Entry, event: SetWeight) -> bool:
        if event.weight_bp == 0:
            entry.asking = False
            return await self._services.carry_out(entry, event)
        if event.weight_bp <= entry.state.weight_bp and event.weight_bp < entry.latest.weight_bp:
            return await self._services.carry_out(entry, event)
        async with self._services.change(entry):
            return await self._services.carry_out(entry, event)

    def _moves(self, entry: Entry, event: SetWeight) -> Json:
        """Return what a dry run says: the weights as they would be, and how many of 10,000 buckets move."""
        before = entry.state
        after = move(entry.plan, before, event, self._services.now()).after
        more = after.weight_bp - before.weight_bp
        would_be = view.weights(entry.plan.name, replace(after, revision=before.revision), self._services.now())
        moves = {"to_new": max(0, more), "to_stable": max(0, -more), "of": FULL}
        return {**would_be, **view.taken_over(after), "moves": moves}
