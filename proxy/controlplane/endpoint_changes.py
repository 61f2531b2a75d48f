"""Changes of endpoints: what people order, and what checks and requests have shown; told and stored.

`endpoints.py` knows what follows for the control word.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from proxy.clock import Clock
from proxy.controlplane.collector import ENDPOINT_STATES
from proxy.controlplane.commits import not_stored
from proxy.controlplane.endpoints import SAID, Endpoints
from proxy.controlplane.entry import Entry
from proxy.controlplane.health import Key
from proxy.controlplane.journal import Journal
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.services import Services
from proxy.controlplane.status import Status
from proxy.controlplane.store import Change, Store
from proxy.errors import Problem, Refused, StateError
from proxy.ipc.layout import ENDPOINT_READY
from proxy.metrics.snapshot import Snapshot
from proxy.rollout.effect import Note
from proxy.routing.table import STABLE, VERSIONS

log = logging.getLogger("tidegate.controller")

READY = ENDPOINT_STATES[ENDPOINT_READY]
NO_STABLE = (
    "no endpoint of stable is ready: its users are answered 503, or by new where fallback_to_new is set, until one is "
    "(`tidegate undrain URL` lets one in)"
)


class EndpointChanges:
    """Carries out, tells and stores what becomes of endpoints."""

    def __init__(
        self,
        services: Services,
        status: Status,
        endpoints: Endpoints,
        store: Store,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._services = services
        self._commits = services.commits
        self._status = status
        self._endpoints = endpoints
        self._store = store
        self._journal = journal
        self._clock = clock

    async def set_endpoint(self, name: str, version: int, url: str, state: str, order: Order) -> Json:
        """Set an endpoint ready, to drain or to maintenance, also for later starts; return `endpoints`, "warning"."""
        entry = self._services.entry(name)
        code = SAID.get(state)
        if code is None:
            problem = Problem("state", f"must be one of {', '.join(SAID)}")
            raise Refused(400, "RequestInvalid", "the state of the endpoint is not valid", problems=(problem,))
        urls = [endpoint.url for endpoint in self._services.service(name).version(version).endpoints]
        if url not in urls:
            what = f"{VERSIONS[version]} of {name} has no endpoint {url!r}"
            raise Refused(404, "NoSuchEndpoint", what, cure=f"there are: {', '.join(urls) or 'none'}")
        await self._commits.run(self._set(entry, (name, version, url), code, order))
        answer = self._status.endpoints(name)
        states = {one["state"] for one in answer["endpoints"] if one["version"] == VERSIONS[STABLE]}
        if version == STABLE and code != ENDPOINT_READY and READY not in states:
            answer["warning"] = NO_STABLE
        return answer

    def look(self, snapshot: Snapshot, now: float) -> None:
        """Take out and let in endpoints by what checks and requests have shown; tell it, and store who is down."""
        news, changed = self._endpoints.look(snapshot.services, now)
        for one in news:
            self._services.forget_counts()  # their states are others now
            self._commits.say(self._services.entries[one.service], one.kind, one.reason, one.numbers)
        if changed:
            self._commits.spawn(self._keep(changed))

    async def _set(self, entry: Entry, key: tuple[str, int, str], code: int, order: Order) -> None:
        async with self._services.changing:
            before = self._endpoints.said(key)
            if before == code:
                return
            where = {"version": VERSIONS[key[1]], "url": key[2]}
            note = Note(
                "EndpointSet",
                order.actor,
                order.reason,
                {**where, "state": ENDPOINT_STATES[before]},
                {**where, "state": ENDPOINT_STATES[code]},
            )
            event = self._journal.make(entry.plan.name, note, self._clock.wall())
            try:
                stored = self._endpoints.stored(key, code)
                await self._commits.in_time(self._store.save(Change(endpoints={key: stored}, events=(event,))))
            except StateError as error:
                self._endpoints.not_stored((key,))  # should it be stored late: what is in force is stored after it
                self._journal.drop(event)
                raise not_stored(error) from error
            self._endpoints.say(key, code, self._services.now())
            self._services.forget_counts()
            self._journal.announce(event)

    async def _keep(self, changed: Mapping[Key, int]) -> None:
        try:
            await asyncio.wrap_future(self._store.save(Change(endpoints=changed)))
        except StateError as error:
            log.error("%s", error)  # noqa: TRY400 - the sentence says it all
            self._endpoints.not_stored(changed)
