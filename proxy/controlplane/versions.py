"""The orders that register which version is `new`, or that there is none (`registry.py` says which one wins)."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.config.addresses import parse_endpoint
from proxy.controlplane import registry
from proxy.controlplane.entry import Entry
from proxy.controlplane.move import move
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.services import Services
from proxy.controlplane.status import Status
from proxy.controlplane.store import REGISTERED
from proxy.errors import Problem, Refused
from proxy.rollout.event import NewChanged, NewRemoved
from proxy.routing.table import Endpoint, Version


class NewVersions:
    """Carries out the orders about the new version."""

    def __init__(self, services: Services, status: Status) -> None:
        self._services = services
        self._commits = services.commits
        self._status = status

    async def put_new(self, name: str, label: str, endpoints: Sequence[str], order: Order) -> Json:
        """Register the new version (weight 0, fresh salt, next generation); return the service's object."""
        entry = self._services.entry(name)
        new = _version(label, endpoints)
        durable = await self._commits.run(self._replace_new(entry, new, order))
        return self._status.answer(entry, self._status.service_status(name), durable=durable)

    async def delete_new(self, name: str, order: Order) -> Json:
        """Remove the new version; return the service's object."""
        entry = self._services.entry(name)
        durable = await self._commits.run(self._replace_new(entry, Version(), order))
        return self._status.answer(entry, self._status.service_status(name), durable=durable)

    async def _replace_new(self, entry: Entry, new: Version, order: Order) -> bool:
        name = entry.plan.name
        async with self._services.change(entry):
            was = self._services.service(name).new
            if not was.endpoints and not new.endpoints:
                return True
            changed = (
                NewChanged(
                    was.label,
                    new.label,
                    self._services.fresh_salt(entry),
                    fresh=True,
                    actor=order.actor,
                    reason=order.reason,
                    if_match=order.if_match,
                    endpoints=tuple(endpoint.url for endpoint in new.endpoints),
                )
                if new.endpoints
                else NewRemoved(was.label, order.actor, order.reason, order.if_match)
            )
            made = move(entry.plan, entry.latest, changed, self._services.now())
            if order.dry_run:
                return True
            commit = self._commits.begin((made,), {(name, REGISTERED): new}, self._services.entries, risky=True)
            durable = await self._services.bring(commit, registry.with_new(self._services.table, name, new))
            # Also where it looks like the one before: what that did is not what this one does.
            entry.watch.forget()
            return durable


def _version(label: str, urls: Sequence[str]) -> Version:
    problems: list[Problem] = []
    endpoints: list[Endpoint] = []
    for index, url in enumerate(urls):
        try:
            endpoints.append(parse_endpoint(url))
        except ValueError as error:
            problems.append(Problem(f"endpoints.{index}", str(error)))
    if not urls:
        problems.append(Problem("endpoints", "must name at least one endpoint"))
    if problems:
        raise Refused(
            400, "RequestInvalid", "the new version is not valid; nothing was changed", problems=tuple(problems)
        )
    return Version(label, tuple(endpoints))
