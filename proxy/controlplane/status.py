"""What people are shown: status, weights, endpoints, standings, why a visitor goes where, events and what is past.

The services in force know it, the pure `view.py` gives it its form; nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial

from proxy.controlplane import explain, view
from proxy.controlplane.blocks import Blocks
from proxy.controlplane.endpoints import Endpoints
from proxy.controlplane.entry import Entry
from proxy.controlplane.journal import Journal
from proxy.controlplane.move import Move
from proxy.controlplane.operations import Json
from proxy.controlplane.recall import recall
from proxy.controlplane.services import Services
from proxy.metrics.expose import ServiceStanding
from proxy.rollout import told
from proxy.rollout.machine import STABLE_NOT_READY
from proxy.routing.split import seed_of
from proxy.routing.table import NEW, STABLE

WRITTEN_S = 1.0  # so long is waited for blocks that are being written


class Status:
    """Shows the services in force."""

    def __init__(self, services: Services, endpoints: Endpoints, journal: Journal, blocks: Blocks | None) -> None:
        self._services = services
        self._endpoints = endpoints
        self._journal = journal
        self._blocks = blocks

    def service_status(self, name: str) -> Json:
        """Return the service's object of `status` (INTERFACE §2)."""
        services = self._services
        entry, counts, history, now = services.entry(name), services.counts(name), services.history, services.now()
        # Between a decision and the next tick nothing of the stage before is shown.
        entry.watch.follow(entry.plan, entry.state, counts, history, now, partial(services.total, name))
        return view.service_status(
            entry.state,
            counts,
            entry.watch,
            history,
            self._journal.last(name),
            now,
            self._why,
            drilling=entry.drill is not None,
        )

    def standings(self) -> dict[str, ServiceStanding]:
        """Return what /metrics says of every service beside its counters."""
        history = self._services.history
        return {
            name: view.standing(
                entry.state,
                name,
                entry.watch,
                history,
                entry.rollbacks,
                (self._endpoints.ejections(name, STABLE), self._endpoints.ejections(name, NEW)),
            )
            for name, entry in self._services.entries.items()
        }

    def endpoints(self, name: str) -> Json:
        """Return {"service", "endpoints"}: those of `status`, each with its "version"."""
        versions = self.service_status(name)["versions"].items()
        return {
            "service": name,
            "endpoints": [{"version": version, **one} for version, shown in versions for one in shown["endpoints"]],
        }

    def weights(self, name: str) -> Json:
        """Return {"service", "stable", "new", "revision", "expires_in_s"?}; percent."""
        return view.weights(name, self._services.entry(name).state, self._services.now())

    def explain(self, name: str, cookies: Mapping[str, str], headers: Mapping[str, str], client_ip: str | None) -> Json:
        """Return why a visitor gets the version that they get (`proxy.controlplane.explain`)."""
        state = self._services.entry(name).state
        visitor = explain.Visitor(cookies, headers, client_ip)
        service = self._services.service(name)
        return explain.explain(service, visitor, weight_bp=state.weight_bp, seed=seed_of(state.salt))

    async def events(self, since: int, limit: int) -> list[Json]:
        """Return events with a number above `since`, oldest first."""
        return await self._journal.since(since, limit)

    def follow_events(self, since: int) -> AsyncIterator[Json]:
        """Yield events with a number above `since`, those to come too."""
        return self._journal.follow(since)

    def rollout(self, made: Move) -> Json:
        """Return what the event of a move that ends a rollout keeps of it: {"rollout": …}; {} before the start."""
        services = self._services
        entry = services.entries.get(made.service)
        if entry is None:
            return {}
        counts, now = services.counts(made.service), services.now()
        return {told.ROLLOUT: view.rollout(made.before, counts, entry.watch, services.history, now)}

    async def past(self, name: str, since: float, until: float) -> list[Json]:
        """Return what the block journal has of a service, as points of a report; empty without a journal."""
        if self._blocks is None:
            return []
        # What is being written, and then what was gathered meanwhile. A disk that hangs has only what was before.
        for _ in range(2):
            writing = self._blocks.write()
            if writing is not None:
                await asyncio.wait((asyncio.wrap_future(writing),), timeout=WRITTEN_S)
        return await recall(self._blocks.path(name).parent, name, since, until)

    def answer(self, entry: Entry, answer: Json, *, durable: bool, lowers: bool = False) -> Json:
        """Return the answer with what has to be said beside it."""
        if not durable:
            answer["durable"] = False
        if lowers and not entry.watch.stable_ready:
            answer["warning"] = STABLE_NOT_READY
        return answer

    def _why(self, service: str, version: int, url: str) -> str:
        return self._endpoints.why((service, version, url), self._services.now())
