"""The services in force: each with its plan, state and watch, and the table; and how they become others.

Nouns: an *entry* is one service with its plan, its state and its watch; an *order* is what a person asks for.

Rules:

* an order that lowers `new` waits for no other one, and is never refused. What raises or changes tables goes one after
  the other (`change`), is stored first, and when that fails nothing has changed (503);
* an order is carried out to its end, even when the one who gave it has gone away (`Commits.run`);
* a table comes into force in every worker or in none: what workers refuse is taken back.

Decisions (`controller.py`) and orders (`weights.py`, `versions.py`, `rollouts.py`, `reload.py`, `endpoint_changes.py`)
stand upon this; it knows none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

from proxy.clock import Clock
from proxy.controlplane import registry
from proxy.controlplane.checks import Checks
from proxy.controlplane.collector import Collector
from proxy.controlplane.commits import Commit, Commits, Versions
from proxy.controlplane.endpoints import Endpoints
from proxy.controlplane.entry import Entry
from proxy.controlplane.generations import Generations, ServiceWords
from proxy.controlplane.history import History
from proxy.controlplane.intake import salt
from proxy.controlplane.latch import Latch
from proxy.controlplane.move import move, overtaken
from proxy.controlplane.scales import Scale
from proxy.errors import Problem, Refused
from proxy.ipc.layout import FLAG_WATCHDOG_OFF
from proxy.metrics.snapshot import ServiceCounts, Snapshot
from proxy.rollout.analysis import Reading
from proxy.rollout.event import Event
from proxy.rollout.machine import handed_over
from proxy.rollout.plan import Plan, ServicePlan
from proxy.rollout.state import ROLLED_BACK
from proxy.routing.split import seed_of
from proxy.routing.table import RoutingTable, Service

Switch = Callable[[RoutingTable, Mapping[str, ServiceWords]], Awaitable[None]]


class Services:
    """All services as they are in force: `entries` by name, their `plans`, their `table`.

    `changing` is held by what raises a weight or changes the table. `switch` brings a table to the workers, `salts`
    gives random texts, `checks` reads numbers from elsewhere (`None`: there are none).
    """

    def __init__(
        self,
        plans: Sequence[ServicePlan],
        table: RoutingTable,
        commits: Commits,
        endpoints: Endpoints,
        generations: Generations,
        collector: Collector,
        latch: Latch,
        clock: Clock,
        switch: Switch,
        salts: Callable[[], str],
        checks: Checks | None,
    ) -> None:
        self.plans = tuple(plans)
        self.table = table
        self.entries: dict[str, Entry] = {}
        self.commits = commits
        self.changing = asyncio.Lock()
        self.switch = switch
        self.salts = salts
        self.checks = checks
        self._endpoints = endpoints
        self._generations = generations
        self._collector = collector
        self._latch = latch
        self._clock = clock
        self._counts: Mapping[str, ServiceCounts] | None = None  # of the table in force, `None` until they were read
        # By what it is known which checks are read.
        self._read_for: list[tuple[ServicePlan, str, str, Plan | None]] = []

    def collect(self) -> Snapshot:
        """Read what was counted, as every tick does."""
        snapshot = self._collector.collect()
        self._counts = snapshot.services
        return snapshot

    def forget_counts(self) -> None:
        """Have the counts read anew where they are asked for: endpoints have other states now."""
        self._counts = None

    def words(self) -> dict[str, ServiceWords]:
        """Return the control words of all services as they are in force."""
        return {
            name: ServiceWords(
                entry.state.weight_bp,
                FLAG_WATCHDOG_OFF if entry.state.watchdog_off else 0,
                seed_of(entry.state.salt),
            )
            for name, entry in self.entries.items()
        }

    def names(self) -> tuple[str, ...]:
        """Return the names of all services."""
        return tuple(self.entries)

    def service_name(self, name: str | None) -> str:
        """Return the checked service name; `None` means the only one. Refused: 404, or 400 if there are several."""
        known = ", ".join(self.entries)
        if name is None:
            if len(self.entries) == 1:
                return next(iter(self.entries))
            problem = Problem("service", f"is needed: there are several services ({known})")
            raise Refused(400, "RequestInvalid", "which service is meant?", problems=(problem,))
        if name not in self.entries:
            raise Refused(404, "NoSuchService", f"there is no service {name!r}", cure=f"there are: {known}")
        return name

    def entry(self, name: str) -> Entry:
        """Return a service as the controller has it; raise `Refused` (404)."""
        return self.entries[self.service_name(name)]

    def service(self, name: str) -> Service:
        """Return a service of the table in force."""
        return next(service for service in self.table.services if service.name == name)

    def counts(self, name: str) -> ServiceCounts:
        """Return what was counted of a service, as of the last tick."""
        if self._counts is None:
            self._counts = self._collector.read().services
        return self._counts[name]

    def readings(self, name: str) -> Mapping[str, Reading]:
        """Return the last readings of the checks of a service."""
        return {} if self.checks is None else self.checks.readings(name)

    @property
    def history(self) -> History:
        """What was measured lately."""
        return self._collector.history

    def latched(self, service: str) -> str | None:
        """Return the reason in a service's latch, `None` while it is open."""
        found = self._latch.read(service)
        return None if found is None else found.reason

    def fresh_salt(self, entry: Entry) -> str:
        """Return the salt of a new rollout."""
        return salt(entry.plan, self.salts)

    def words_at_0(self, name: str) -> bool:
        """Tell whether the weight is 0 in the words of every live generation."""
        return all(
            generation.weight(generation.service_index[name]) == 0
            for generation in self._generations.live
            if name in generation.service_index
        )

    def total(self, name: str, version: int, phase: str) -> Mapping[int, int]:
        """Return the histogram of a version since the start: index → count."""
        return self._generations.scales.total(Scale(phase, name, version))

    def now(self) -> float:
        """Return the instant of the monotonic clock, in seconds."""
        return self._clock.monotonic_ns() / 1e9

    # --- carrying out ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def change(self, entry: Entry) -> AsyncIterator[None]:
        """Let nothing else be ordered that raises or changes tables, and wait for what is being stored of the service.

        What is ordered meets the state in force then: what it does and what it refuses is by that.
        """
        async with self.changing:
            await self.quiet((entry,))
            yield

    async def quiet(self, entries: Collection[Entry]) -> None:
        """Wait until nothing is being stored that comes into force after that."""
        while waiting := [entry for entry in entries if entry.pending is not None]:
            await waiting[0].quiet.wait()

    async def carry_out(self, entry: Entry, event: Event) -> bool:
        """Return whether it was stored; raise `Refused` when nothing has changed.

        What acts first may be carried out at any time, all else only inside `change`.
        """
        made = move(entry.plan, entry.latest, event, self.now())
        if not made.effects:
            return True
        return await self.settle(entry, self.commits.begin((made,), {}, self.entries, risky=True))

    async def settle(self, entry: Entry, commit: Commit) -> bool:
        """Wait for the store and bring a commit into force; return and raise as `carry_out`."""
        stored = await self.commits.stored(commit)
        late = self.commits.come_into_force(commit, stored=stored)
        self.commits.announce(commit)
        if late:
            raise overtaken(entry.state, "something else changed the weight while this was being stored")
        return stored

    # --- another table --------------------------------------------------------------------------------------------

    async def bring(
        self,
        commit: Commit,
        table: RoutingTable,
        plans: tuple[ServicePlan, ...] | None = None,
        *,
        stored: bool | None = None,
    ) -> bool:
        """Bring a table to the workers once its moves are stored (`stored`: they are); return whether they were."""
        back = {key: self.commits.versions.get(key) for key in commit.versions}
        plans = self.plans if plans is None else plans
        if stored is None:
            stored = await self.commits.stored(commit)
        before = self.entries, self.plans, self.table
        self.commits.come_into_force(commit, stored=stored)
        self.follow(commit.entries, plans, table)
        try:
            # The words are read and written before anything else can happen: nobody decides in between.
            await self.switch(table, self.words())
        except Refused:
            self.follow(*before)
            self.commits.announce(commit)
            self._undo(commit, back)
            raise
        self.endpoints_in_force()
        self.commits.announce(commit)
        return stored

    async def bring_table(self, table: RoutingTable) -> None:
        """Bring a table to the workers that differs only in what they count."""
        before = self.table
        self.follow(self.entries, self.plans, table)
        try:
            await self.switch(table, self.words())
        except Refused:
            self.follow(self.entries, self.plans, before)
            raise
        self.endpoints_in_force()

    def follow(self, entries: Mapping[str, Entry], plans: tuple[ServicePlan, ...], table: RoutingTable) -> None:
        """Take other services; `endpoints_in_force` has to follow once the workers have the table."""
        self.entries, self.plans, self.table = dict(entries), plans, table
        self._counts = None
        for plan in plans:
            self.entries[plan.name].follow(plan)
        self._endpoints.follow(plans, table, self.now())
        self.watch_checks()

    def endpoints_in_force(self) -> None:
        """Store the words of the endpoints of the table that came into force."""
        self._endpoints.store(self.now())
        self._counts = None

    def watch_checks(self) -> None:
        """Read the checks of the config, and those of rollouts that go on by other ones until they are over."""
        if self.checks is None:
            return
        states = [(entry.plan, entry.state) for entry in self.entries.values()]
        read_for = [
            (plan, state.phase, state.reason, None if state.rollout is None else state.rollout.plan)
            for plan, state in states
        ]
        if read_for != self._read_for:
            self._read_for = read_for
            self.checks.watch([replace(plan, checks=registry.read_of(plan, state)) for plan, state in states])

    def _undo(self, commit: Commit, back: Versions) -> None:
        """Take back what the workers refused: what `new` was is `new` again.

        Where nothing was shut everybody stays where they are; else the weight is 0 until a person sets another one.
        """
        undone: dict[str, Entry] = {}
        lowered = {one.service for one in commit.moves if one.acts}
        for one in commit.moves:
            entry = self.entries.get(one.service)
            if entry is None or one.service in undone:
                continue
            undone[one.service] = entry
            state, before = entry.state, replace(one.before, revision=entry.state.revision + 1)
            if state.phase == ROLLED_BACK:
                before = replace(state, revision=before.revision, has_new=before.has_new, rollout=before.rollout)
            elif one.service in lowered:
                at_0 = handed_over(before, self.now())
                before = replace(at_0, weight_bp=0, expiry=None, live_since=None)
            entry.enter(before)
        for name, entry in undone.items():
            state = entry.state
            self._generations.store_weight(name, state.weight_bp, FLAG_WATCHDOG_OFF if state.watchdog_off else 0)
            if not state.weight_bp:
                self.commits.deal(name, state.salt)
            if state.phase == ROLLED_BACK:
                self._latch.shut(name, state.reason, self._clock.wall())
            self.commits.say(entry, "NewRefused", "TableRefused", {})
        self.commits.remember(back)
        self.commits.save(undone.values(), back)
