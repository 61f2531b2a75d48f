"""Bringing another config into force while the services run; what a config comes to is `intake.py`'s."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import fields, replace

from proxy.controlplane.commits import not_stored
from proxy.controlplane.entry import Entry
from proxy.controlplane.intake import Intake, take_in
from proxy.controlplane.latch import Latch
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.services import Services
from proxy.controlplane.store import Store, Stored
from proxy.errors import Refused, StateError
from proxy.rollout.effect import Note
from proxy.rollout.plan import ServicePlan
from proxy.rollout.state import shown
from proxy.rollout.told import PROBLEMS
from proxy.routing.table import RoutingTable

SHOWN_PROBLEMS = 20  # of a config that was refused, in its event
# Where the key of the config is not the name of the field.
KEYS = {
    "block_s": "judge.block",
    "initial_weight": "split.new",
    "salt": "split.salt",
    "watchdog_s": "watchdog",
    "false_alarms": "judge.false_alarms",
    "slow_start_s": "slow_start",
    "close_tunnels_s": "on_rollback.tunnels",
}

log = logging.getLogger("tidegate.controller")


class Reloads:
    """Takes in configs, and brings one into force that comes after the first."""

    def __init__(self, services: Services, store: Store, latch: Latch) -> None:
        self._services = services
        self._commits = services.commits
        self._store = store
        self._latch = latch

    async def reload(self, plans: Sequence[ServicePlan], table: RoutingTable, order: Order) -> tuple[str, ...]:
        """Bring another config into force; return what people should know.

        What changes what `new` is sets its weight to 0 in the same generation. Refused: 503 when it cannot be stored
        and nothing had to be shut, or as the switch refuses; then the config before stays.
        """
        return await self._commits.run(self._reload(tuple(plans), table, order))

    def take_in(self, plans: Sequence[ServicePlan], table: RoutingTable, stored: Stored, order: Order) -> Intake:
        """Return what follows from a config for the services as they are (`proxy.controlplane.intake`)."""
        return take_in(
            plans,
            table,
            stored,
            {name: entry.latest for name, entry in self._services.entries.items()},
            latched=self._services.latched,
            fresh=self._services.salts,
            now=self._services.now(),
            actor=order.actor,
            reason=order.reason,
            choice=order.running_plan,
        )

    def say_refused(self, error: Refused, order: Order) -> None:
        """Tell that a config was not brought into force; of it only its mistakes are shown."""
        numbers: Json = {"what": error.what, **({"cure": error.cure} if error.cure else {})}
        if error.problems:
            numbers[PROBLEMS] = [str(problem) for problem in error.problems[:SHOWN_PROBLEMS]]
            numbers["count"] = len(error.problems)
        numbers |= {"asked": order.reason} if order.reason else {}
        self._commits.say_of("", Note("ConfigRefused", order.actor, error.title, {}, {}, numbers))

    async def _reload(self, plans: tuple[ServicePlan, ...], table: RoutingTable, order: Order) -> tuple[str, ...]:
        async with self._services.changing:
            try:
                stored = await self._commits.in_time(self._store.loading())
                if not order.dry_run:
                    await asyncio.to_thread(self._latch.prepare, [plan.name for plan in plans])
            except StateError as error:
                raise not_stored(error) from error
            await self._services.quiet(self._services.entries.values())
            taken = self.take_in(plans, table, replace(stored, versions=self._commits.versions), order)
            if order.dry_run:
                return tuple(taken.notes)
            try:
                self._latch.register(taken.begins)
            except StateError as error:
                raise not_stored(error) from error
            changed = self._changed(plans, taken.table)
            running = self._services.entries
            entries = {plan.name: running.get(plan.name) or Entry(plan, taken.begins[plan.name]) for plan in plans}
            commit = self._commits.begin(taken.moves, taken.versions, entries, risky=True)
            durable = await self._services.bring(commit, taken.table, plans)
            for name, what in changed.items():
                numbers: Json = {"changed": what}
                self._commits.say(entries[name], "ConfigChanged", order.reason, numbers, actor=order.actor)
            for name, entry in running.items():
                if name not in entries:
                    gone = Note("ServiceRemoved", order.actor, order.reason, shown(entry.state), {})
                    self._commits.say_of(name, gone)
        if not durable:
            taken.notes.append("the change is in force, but it could not be stored: a restart would not know it")
        return said(taken.notes)

    def _changed(self, plans: Sequence[ServicePlan], table: RoutingTable) -> dict[str, list[str]]:
        """Return the keys that a config changes of the services that stay, by name; `new` has its own event."""
        running = self._services.entries
        services = {service.name: service for service in table.services}
        found: dict[str, list[str]] = {}
        for plan in plans:
            if plan.name in running:
                pairs = (
                    (running[plan.name].plan, plan),
                    (self._services.service(plan.name), services[plan.name]),
                )
                what = [
                    KEYS.get(field.name, field.name)
                    for before, after in pairs
                    for field in fields(before)
                    if field.name not in ("new", "thresholds_us", "ttfb_thresholds_us")
                    and getattr(before, field.name) != getattr(after, field.name)
                ]
                if what:
                    found[plan.name] = list(dict.fromkeys(what))
        return found


def said(notes: Sequence[str]) -> tuple[str, ...]:
    """Log what people should know, and return it."""
    for note in notes:
        log.warning("%s", note)
    return tuple(notes)
