"""The controller: collects, judges, decides and acts, in every tick; and carries out what people order.

Nouns: an *entry* is one service with its plan, its state and its watch; an *order* is what a person asks for.

Rules:

* `tick` never waits: what it decides is acted on in the same call, and stored by a task (`commits.py`);
* an order that lowers `new` never waits for another one either, and is never refused. What raises or changes tables
  goes one after the other, is stored first, and when that fails nothing has changed (503);
* an order is carried out to its end, even when the one who gave it has gone away.

The supervisor calls `tick` every `tick_s`, and beats for the workers only after a tick that returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from secrets import token_hex

from proxy.clock import Clock
from proxy.config.addresses import parse_endpoint
from proxy.controlplane import explain, registry, view
from proxy.controlplane.blocks import Blocks, Rules
from proxy.controlplane.checks import Checks
from proxy.controlplane.collector import ENDPOINT_STATES, Collector
from proxy.controlplane.commits import Commit, Commits, Versions, not_stored
from proxy.controlplane.endpoints import SAID, Endpoints
from proxy.controlplane.entry import Entry
from proxy.controlplane.generations import Generations, ServiceWords
from proxy.controlplane.health import Key
from proxy.controlplane.history import History
from proxy.controlplane.intake import Intake, salt, take_in
from proxy.controlplane.journal import Journal
from proxy.controlplane.latch import Latch
from proxy.controlplane.move import move, overtaken
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.recall import recall
from proxy.controlplane.rollouts import DRILL_BAD, Rollouts
from proxy.controlplane.scales import Scale
from proxy.controlplane.store import REGISTERED, Change, Store, Stored
from proxy.errors import Problem, Refused, StateError
from proxy.ipc.layout import FLAG_WATCHDOG_OFF
from proxy.metrics.expose import ServiceStanding
from proxy.metrics.snapshot import ServiceCounts, Snapshot
from proxy.rollout.analysis import Reading, evidence, reason_of, value
from proxy.rollout.bench import action_of, kind_of
from proxy.rollout.effect import Note
from proxy.rollout.event import Breach, Event, NewChanged, NewRemoved, Rollback, SetWeight, Tick, WorkerLost
from proxy.rollout.machine import STABLE_NOT_READY, handed_over
from proxy.rollout.plan import ROLLBACK, Plan, ServicePlan
from proxy.rollout.state import PROGRESSING, ROLLED_BACK, Record, ServiceState
from proxy.rollout.told import PROBLEMS
from proxy.routing.split import seed_of
from proxy.routing.table import FULL, NEW, STABLE, VERSIONS, Endpoint, RoutingTable, Service, Version

SALT_BYTES = 12
SHOWN_PROBLEMS = 20  # of a config that was refused, in its event
TICK_S = 0.25  # between two ticks, unless a service has shorter blocks
EARLIER_TTL = (
    "an earlier ttl still runs: when it is over, the weight of new becomes 0, because it was changed since "
    "(a weight with the ttl none stays)"
)

log = logging.getLogger("tidegate.controller")

Switch = Callable[[RoutingTable, Mapping[str, ServiceWords]], Awaitable[None]]


class Controller:
    """Decides for all services; the decision half of `Operations`."""

    def __init__(
        self,
        plans: Sequence[ServicePlan],
        table: RoutingTable,
        generations: Generations,
        collector: Collector,
        store: Store,
        latch: Latch,
        clock: Clock,
        switch: Switch,
        *,
        salts: Callable[[], str] = lambda: token_hex(SALT_BYTES),
        checks: Checks | None = None,
        blocks: Blocks | None = None,
        reached: Callable[[str, int], bool] | None = None,
    ) -> None:
        """Take what it works with; nothing is read or changed before `start`. `salts` gives random texts.

        `checks` reads numbers from elsewhere, `blocks` keeps what the judges saw; without them there is neither.
        `reached(service, ns)` tells whether every worker has shown since that instant that it sends nobody to `new`.
        """
        self.table = table
        self._checks = checks
        self._blocks = blocks
        self._reached = reached
        self._plans = tuple(plans)
        self._generations = generations
        self._collector = collector
        self._store = store
        self._latch = latch
        self._clock = clock
        self._switch = switch
        self._salts = salts
        self._entries: dict[str, Entry] = {}
        self._endpoints = Endpoints(generations)
        self._journal = Journal(store)
        self.commits = Commits(generations, store, latch, self._journal, clock)
        self.commits.opened = self._opened
        self.changing = asyncio.Lock()  # held by what raises a weight or changes the table
        self.rollouts = Rollouts(self)
        self._read_for: list[
            tuple[ServicePlan, str, str, Plan | None]
        ] = []  # by what it is known which checks are read
        self._ticked = asyncio.Event()
        self._last_tick: float | None = None
        self._silent: dict[str, float] = {}  # by service: of the silence that lasts, how long it was when it was told
        self._counts: Mapping[str, ServiceCounts] | None = None  # of the table in force, `None` until they were read

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, ...]:
        """Bring config, store and latch into force in the first generation; return what people should know.

        Raise `StateError` when the state cannot be read or stored: then there is no generation.
        """
        stored = self._store.load()
        self.commits.versions.update(stored.versions)
        self._endpoints.load(stored.endpoints)
        self._journal.begin(stored.last_seq)
        taken = self._take_in(self._plans, self.table, stored, Order("config"))
        self._latch.register(taken.begins)
        self.table = taken.table
        entries = {plan.name: Entry(plan, taken.begins[plan.name]) for plan in self._plans}
        commit = self.commits.begin(taken.moves, taken.versions, entries, risky=False)
        await asyncio.wrap_future(commit.future)
        self.commits.come_into_force(commit, stored=True)
        self._follow(entries, self._plans, taken.table)
        await self._switch(self.table, self.words())
        self._set_endpoints()
        self.commits.announce(commit)
        for owed in stored.owed.values():
            self.rollouts.call(owed)
        self.commits.verify_again(entries.values())
        # Status and metrics know every limit from the beginning; what passes until workers run is no silence.
        await self.tick()
        self._last_tick = None
        return _said(taken.notes)

    async def close(self) -> None:
        """Store what is to be kept, wait for what is being stored, and end those who follow events."""
        for entry in self._entries.values():
            entry.drilling = False
        self._ticked.set()
        self.rollouts.close()
        await self.commits.close(self._entries.values())
        self._journal.close()
        await self._endpoints.close()
        if self._checks is not None:
            await self._checks.close()
        if self._blocks is not None:
            self._blocks.close()

    def words(self) -> dict[str, ServiceWords]:
        """Return the control words of all services as they are in force."""
        return {
            name: ServiceWords(
                entry.state.weight_bp,
                FLAG_WATCHDOG_OFF if entry.state.watchdog_off else 0,
                seed_of(entry.state.salt),
            )
            for name, entry in self._entries.items()
        }

    @property
    def tick_s(self) -> float:
        """How often `tick` is to be called, in seconds: the shortest block of any service, 250 ms at most."""
        return min([TICK_S, *(plan.block_s for plan in self._plans)])

    async def tick(self) -> None:
        """Collect, judge, step, act. Anything raised means that not every service was judged: the others were."""
        snapshot = self._collector.collect()
        self._counts = snapshot.services
        now = snapshot.time_s
        tick_s = self.tick_s
        self._say_silence(now)
        self._watch_checks()
        self._look_at_endpoints(snapshot, now)
        judged: list[tuple[Entry, ServiceState]] = []
        errors: list[Exception] = []
        for name, entry in self._entries.items():
            state = entry.state
            try:
                self._judge(entry, snapshot.services[name], now, tick_s)
            except Exception as error:  # noqa: BLE001  # the first is raised when all have been judged
                errors.append(error)
            else:
                judged.append((entry, state))
        self.commits.store_again(self._entries.values(), now)
        self._collector.keep()
        self._keep_blocks(judged, snapshot)
        if errors:
            raise errors[0]
        self._end_silence(now)
        self._last_tick = now
        self._ticked.set()
        self._ticked = asyncio.Event()

    def _judge(self, entry: Entry, counts: ServiceCounts, now: float, tick_s: float) -> None:
        watch = entry.watch
        if entry.drilling:
            watch.inject(DRILL_BAD)
        watch.look(
            entry.plan,
            entry.state,
            counts,
            self._collector.history,
            now,
            tick_s,
            self.readings(entry.plan.name),
            partial(self._total, entry.plan.name),
        )
        breach = watch.breach(entry.state, watch.reach[NEW])
        if breach is not None:
            self._breach(entry, breach, now)
        self._pass_time(entry, now)
        self._tell(entry, now)
        self._report(entry, now)
        self._verify(entry, counts, now)

    # --- what is asked -------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Return the names of all services."""
        return tuple(self._entries)

    def service_name(self, name: str | None) -> str:
        """Return the checked service name; `None` means the only one. Refused: 404, or 400 if there are several."""
        known = ", ".join(self._entries)
        if name is None:
            if len(self._entries) == 1:
                return next(iter(self._entries))
            problem = Problem("service", f"is needed: there are several services ({known})")
            raise Refused(400, "RequestInvalid", "which service is meant?", problems=(problem,))
        if name not in self._entries:
            raise Refused(404, "NoSuchService", f"there is no service {name!r}", cure=f"there are: {known}")
        return name

    def state(self, name: str) -> ServiceState:
        """Return the state of a service as it is in force."""
        return self.entry(name).state

    def service_status(self, name: str) -> Json:
        """Return the service's object of `status` (INTERFACE §2)."""
        entry, counts, history, now = self.entry(name), self.counts(name), self._collector.history, self._now()
        # Between a decision and the next tick nothing of the stage before is shown.
        entry.watch.follow(entry.plan, entry.state, counts, history, now, partial(self._total, name))
        return view.service_status(
            entry.state,
            counts,
            entry.watch,
            history,
            self._journal.last(name),
            now,
            self._why,
            drilling=entry.drilling,
        )

    def standings(self) -> dict[str, ServiceStanding]:
        """Return what /metrics says of every service beside its counters."""
        history = self._collector.history
        return {
            name: view.standing(
                entry.state,
                name,
                entry.watch,
                history,
                entry.rollbacks,
                (self._endpoints.ejections(name, STABLE), self._endpoints.ejections(name, NEW)),
            )
            for name, entry in self._entries.items()
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
        return view.weights(name, self.entry(name).state, self._now())

    def explain(self, name: str, cookies: Mapping[str, str], headers: Mapping[str, str], client_ip: str | None) -> Json:
        """Return why a visitor gets the version that they get (`proxy.controlplane.explain`)."""
        state = self.entry(name).state
        return explain.explain(
            self.service(name),
            weight_bp=state.weight_bp,
            seed=seed_of(state.salt),
            cookies=cookies,
            headers=headers,
            client_ip=client_ip,
        )

    async def events(self, since: int, limit: int) -> list[Json]:
        """Return events with a number above `since`, oldest first."""
        return await self._journal.since(since, limit)

    def follow_events(self, since: int) -> AsyncIterator[Json]:
        """Yield events with a number above `since`, those to come too."""
        return self._journal.follow(since)

    async def past(self, name: str, since: float, until: float) -> list[Json]:
        """Return what the block journal has of a service, as points of a report; empty without a journal."""
        return [] if self._blocks is None else await recall(self._blocks.path(name).parent, name, since, until)

    # --- orders --------------------------------------------------------------------------------------------------

    async def set_weights(self, name: str, new_bp: int, order: Order, *, ttl_s: float | None = None) -> Json:
        """Set the weight of `new`; return `weights` plus "moves" (dry run), "paused", "warning", "durable": false."""
        entry = self.entry(name)
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
        durable = await self.commits.run(self._set_weight(entry, event))
        shown = {**self.weights(name), **view.taken_over(before, entry.state)}
        answer = self.answer(entry, shown, durable=durable, lowers=new_bp < before.weight_bp)
        expiry = entry.state.expiry
        if expiry is not None and expiry.revision != entry.state.revision:
            answer.setdefault("warning", EARLIER_TTL)
        return answer

    async def rollback(self, name: str, order: Order) -> Json:
        """Send everything to stable, in any phase; return the service's object plus "warning", "durable": false."""
        entry = self.entry(name)
        if order.dry_run:
            return self.service_status(name)
        lowers = entry.state.weight_bp > 0
        entry.asking = False  # also where it changes nothing: a start that waits for its hooks is not wanted any more
        event = Rollback(order.actor, order.reason, stable_ready=entry.watch.stable_ready)
        durable = await self.commits.run(self.carry_out(entry, event))
        return self.answer(entry, self.service_status(name), durable=durable, lowers=lowers)

    async def put_new(self, name: str, label: str, endpoints: Sequence[str], order: Order) -> Json:
        """Register the new version (weight 0, fresh salt, next generation); return the service's object."""
        entry = self.entry(name)
        new = _version(label, endpoints)
        durable = await self.commits.run(self._replace_new(entry, new, order))
        return self.answer(entry, self.service_status(name), durable=durable)

    async def delete_new(self, name: str, order: Order) -> Json:
        """Remove the new version; return the service's object."""
        entry = self.entry(name)
        durable = await self.commits.run(self._replace_new(entry, Version(), order))
        return self.answer(entry, self.service_status(name), durable=durable)

    async def set_endpoint(self, name: str, version: int, url: str, state: str, order: Order) -> Json:
        """Set an endpoint ready, to drain or to maintenance, also for later starts; return `endpoints`."""
        entry = self.entry(name)
        code = SAID.get(state)
        if code is None:
            problem = Problem("state", f"must be one of {', '.join(SAID)}")
            raise Refused(400, "RequestInvalid", "the state of the endpoint is not valid", problems=(problem,))
        urls = [endpoint.url for endpoint in self.service(name).version(version).endpoints]
        if url not in urls:
            what = f"{VERSIONS[version]} of {name} has no endpoint {url!r}"
            raise Refused(404, "NoSuchEndpoint", what, cure=f"there are: {', '.join(urls) or 'none'}")
        await self.commits.run(self._set_endpoint(entry, (name, version, url), code, order))
        return self.endpoints(name)

    async def _set_endpoint(self, entry: Entry, key: tuple[str, int, str], code: int, order: Order) -> None:
        async with self.changing:
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
                await self.commits.in_time(self._store.save(Change(endpoints={key: stored}, events=(event,))))
            except StateError as error:
                self._endpoints.not_stored((key,))  # should it be stored late: what is in force is stored after it
                self._journal.drop(event)
                raise not_stored(error) from error
            self._endpoints.say(key, code, self._now())
            self._counts = None
            self._journal.announce(event)

    def _set_endpoints(self) -> None:
        """Store the words of the endpoints of the table that came into force."""
        self._endpoints.store(self._now())
        self._counts = None

    def _look_at_endpoints(self, snapshot: Snapshot, now: float) -> None:
        """Take out and let in endpoints by what checks and requests have shown; tell it, and store who is down."""
        news, changed = self._endpoints.look(snapshot.services, now)
        for one in news:
            self._counts = None  # their states are others now
            self.commits.say(self._entries[one.service], one.kind, one.reason, one.numbers)
        if changed:
            self.commits.spawn(self._keep_endpoints(changed))

    async def _keep_endpoints(self, changed: Mapping[Key, int]) -> None:
        try:
            await asyncio.wrap_future(self._store.save(Change(endpoints=changed)))
        except StateError as error:
            log.error("%s", error)  # noqa: TRY400 - the sentence says it all
            self._endpoints.not_stored(changed)

    def _why(self, service: str, version: int, url: str) -> str:
        return self._endpoints.why((service, version, url), self._now())

    async def reload(self, plans: Sequence[ServicePlan], table: RoutingTable, order: Order) -> tuple[str, ...]:
        """Bring another config into force; return what people should know.

        What changes what `new` is sets its weight to 0 in the same generation. Refused: 503 when it cannot be stored
        and nothing had to be shut, or as the switch refuses; then the config before stays.
        """
        return await self.commits.run(self._reload(tuple(plans), table, order))

    async def _set_weight(self, entry: Entry, event: SetWeight) -> bool:
        if event.weight_bp == 0:
            entry.asking = False
            return await self.carry_out(entry, event)
        if event.weight_bp <= entry.state.weight_bp and event.weight_bp < entry.latest.weight_bp:
            return await self.carry_out(entry, event)
        async with self.change(entry):
            return await self.carry_out(entry, event)

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
        made = move(entry.plan, entry.latest, event, self._now())
        if not made.effects:
            return True
        return await self.settle(entry, self.commits.begin((made,), {}, self._entries, risky=True))

    async def settle(self, entry: Entry, commit: Commit) -> bool:
        """Wait for the store and bring a commit into force; return and raise as `carry_out`."""
        stored = await self.commits.stored(commit)
        late = self.commits.come_into_force(commit, stored=stored)
        self.commits.announce(commit)
        if late:
            raise overtaken(entry.state, "something else changed the weight while this was being stored")
        return stored

    async def _replace_new(self, entry: Entry, new: Version, order: Order) -> bool:
        name = entry.plan.name
        async with self.change(entry):
            was = self.service(name).new
            if not was.endpoints and not new.endpoints:
                return True
            changed = (
                NewChanged(
                    was.label,
                    new.label,
                    salt(entry.plan, self._salts),
                    fresh=True,
                    actor=order.actor,
                    reason=order.reason,
                    if_match=order.if_match,
                )
                if new.endpoints
                else NewRemoved(was.label, order.actor, order.reason, order.if_match)
            )
            made = move(entry.plan, entry.latest, changed, self._now())
            if order.dry_run:
                return True
            commit = self.commits.begin((made,), {(name, REGISTERED): new}, self._entries, risky=True)
            durable = await self.bring(commit, registry.with_new(self.table, name, new))
            # Also where it looks like the one before: what that did is not what this one does.
            entry.watch.forget()
            return durable

    async def _reload(self, plans: tuple[ServicePlan, ...], table: RoutingTable, order: Order) -> tuple[str, ...]:
        async with self.changing:
            try:
                stored = await self.commits.in_time(self._store.loading())
                if not order.dry_run:
                    await asyncio.to_thread(self._latch.prepare, [plan.name for plan in plans])
            except StateError as error:
                raise not_stored(error) from error
            await self.quiet(self._entries.values())
            taken = self._take_in(plans, table, replace(stored, versions=self.commits.versions), order)
            if order.dry_run:
                return tuple(taken.notes)
            try:
                self._latch.register(taken.begins)
            except StateError as error:
                raise not_stored(error) from error
            changed = self._changed(plans, taken.table)
            entries = {
                plan.name: self._entries.get(plan.name) or Entry(plan, taken.begins[plan.name]) for plan in plans
            }
            commit = self.commits.begin(taken.moves, taken.versions, entries, risky=True)
            durable = await self.bring(commit, taken.table, plans)
            for name, what in changed.items():
                numbers: Json = {"changed": what}
                self.commits.say(entries[name], "ConfigChanged", order.reason, numbers, actor=order.actor)
        if not durable:
            taken.notes.append("the change is in force, but it could not be stored: a restart would not know it")
        return _said(taken.notes)

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
        plans = self._plans if plans is None else plans
        if stored is None:
            stored = await self.commits.stored(commit)
        before = self._entries, self._plans, self.table
        self.commits.come_into_force(commit, stored=stored)
        self._follow(commit.entries, plans, table)
        try:
            # The words are read and written before anything else can happen: nobody decides in between.
            await self._switch(table, self.words())
        except Refused:
            self._follow(*before)
            self.commits.announce(commit)
            self._undo(commit, back)
            raise
        self._set_endpoints()
        self.commits.announce(commit)
        return stored

    async def bring_table(self, table: RoutingTable) -> None:
        """Bring a table to the workers that differs only in what they count."""
        before = self.table
        self._follow(self._entries, self._plans, table)
        try:
            await self._switch(table, self.words())
        except Refused:
            self._follow(self._entries, self._plans, before)
            raise
        self._set_endpoints()

    def _follow(self, entries: Mapping[str, Entry], plans: tuple[ServicePlan, ...], table: RoutingTable) -> None:
        self._entries, self._plans, self.table = dict(entries), plans, table
        self._counts = None
        for plan in plans:
            self._entries[plan.name].follow(plan)
        self._endpoints.follow(plans, table, self._now())
        self._watch_checks()

    def _watch_checks(self) -> None:
        """Read the checks of the config, and those of rollouts that go on by other ones until they are over."""
        if self._checks is None:
            return
        states = [(entry.plan, entry.state) for entry in self._entries.values()]
        read_for = [
            (plan, state.phase, state.reason, None if state.rollout is None else state.rollout.plan)
            for plan, state in states
        ]
        if read_for != self._read_for:
            self._read_for = read_for
            self._checks.watch([replace(plan, checks=registry.read_of(plan, state)) for plan, state in states])

    def _undo(self, commit: Commit, back: Versions) -> None:
        """Take back what the workers refused: what `new` was is `new` again.

        Where nothing was shut everybody stays where they are; else the weight is 0 until a person sets another one.
        """
        undone: dict[str, Entry] = {}
        lowered = {one.service for one in commit.moves if one.acts}
        for one in commit.moves:
            entry = self._entries.get(one.service)
            if entry is None or one.service in undone:
                continue
            undone[one.service] = entry
            state, before = entry.state, replace(one.before, revision=entry.state.revision + 1)
            if state.phase == ROLLED_BACK:
                before = replace(state, revision=before.revision, has_new=before.has_new, rollout=before.rollout)
            elif one.service in lowered:
                at_0 = handed_over(before, self._now())
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

    # --- what time brings ----------------------------------------------------------------------------------------

    def _breach(self, entry: Entry, breach: Breach, now: float) -> None:
        # What only has to be said, and a pause, can wait until what is being stored is in force.
        if entry.pending is not None and (not breach.stable_ready or breach.action != ROLLBACK):
            return
        if entry.drilling and breach.action == ROLLBACK:
            breach = replace(breach, drill=True)
        made = move(entry.plan, entry.latest, breach, now)
        self.commits.decide(made, self._entries, partial(self._measured, entry, breach))
        if breach.drill and entry.state.phase == ROLLED_BACK:
            entry.drilled_ns, entry.drilled_by = self._clock.monotonic_ns(), breach.reason
            entry.drilled_from = made.before
            entry.drilling = False

    def _measured(self, entry: Entry, breach: Breach) -> Json:
        """Return the value of the limit that fails: its percentile is looked up only after the gate is shut."""
        failing = entry.watch.failing()
        if failing and breach.reason == reason_of(failing[0].limit):
            verdict = failing[0]
            return {"value": value(verdict, view.percentile_ms(entry.plan.name, verdict, self._collector.history))}
        return {}

    def _pass_time(self, entry: Entry, now: float) -> None:
        state = entry.state
        if entry.pending is not None or now < entry.held_until or entry.drilling:
            return
        if state.phase == PROGRESSING and state.rollout is not None:
            event = entry.watch.tick(state, now, entry.watch.percentile)
        elif state.expiry is not None or state.no_stable:
            event = Tick(entry.watch.stable_ready)
        else:
            return
        self.commits.decide(move(entry.plan, state, event, now), self._entries)

    def record(self, entry: Entry) -> Record:
        """Return how stable measures in the present stage, as far as a later one at 100 % compares with it."""
        return entry.watch.record(entry.state, entry.watch.percentile)

    def _tell(self, entry: Entry, now: float) -> None:
        for verdict in entry.watch.told(entry.state, now):
            limit = verdict.limit
            numbers = {**evidence(verdict), "action": action_of(limit, entry.state), "dry_run": limit.dry_run}
            self.commits.say(entry, kind_of(verdict), reason_of(verdict.limit), numbers)

    def _report(self, entry: Entry, now: float) -> None:
        """Tell how far a rollout is, as often as its plan says."""
        rollout = entry.state.rollout
        if rollout is None or rollout.plan.progress_report_s is None or entry.state.phase != PROGRESSING:
            entry.reported = now
        elif now - entry.reported >= rollout.plan.progress_report_s:
            entry.reported = now
            shown = view.stage(entry.state, entry.watch, now)
            limits = [evidence(verdict) for verdict in entry.watch.verdicts]
            self.commits.say(entry, "ProgressReport", rollout.now_at.name, {"stage": shown, "limits": limits})

    def _verify(self, entry: Entry, counts: ServiceCounts, now: float) -> None:
        if entry.verification is None:
            return
        if entry.state.phase != ROLLED_BACK or entry.pending is not None:
            entry.verification = None
            return
        found = entry.verification.look(counts, now)
        if found is not None:
            kind, numbers = found
            entry.verification = None
            self.commits.say(entry, kind, entry.state.reason, numbers)

    def _opened(self, name: str) -> float:
        """Read what was counted until the gate was opened, return the instant: there a trial and its blocks begin."""
        snapshot = self._collector.collect()
        counts = snapshot.services.get(name)  # none as long as no table with the service is in force
        if self._blocks is not None and counts is not None:
            self._blocks.begin(counts, self._collector.history)
        return snapshot.time_s

    def _keep_blocks(self, judged: Sequence[tuple[Entry, ServiceState]], snapshot: Snapshot) -> None:
        """Write down the blocks that ended now, as they were judged: before what was decided on them."""
        blocks, now = self._blocks, snapshot.time_s
        if blocks is None:
            return
        wall, history = self._clock.wall(), self._collector.history
        for entry, state in judged:
            watch, counts = entry.watch, snapshot.services[entry.plan.name]
            if not state.weight_bp or watch.court is None:
                blocks.begin(counts, history)
            elif watch.judged:
                at = state.rollout if state.phase != ROLLED_BACK else None
                stage = "" if at is None else at.now_at.name
                blocks.add(counts, history, Rules(watch.court, watch.limits, stage, state.weight_bp), now, wall)
        blocks.flush(now)

    def worker_lost(self, slot: int, why: str) -> None:
        """Tell every service that has users on `new` that a worker has died."""
        for entry in self._entries.values():
            if entry.state.weight_bp and entry.pending is None:
                made = move(entry.plan, entry.state, WorkerLost(slot, why), self._now())
                self.commits.decide(made, self._entries)

    def say_everywhere(self, kind: str, reason: str, numbers: Json) -> None:
        """Tell every service something that concerns the whole and changes no state."""
        for entry in self._entries.values():
            self.commits.say(entry, kind, reason, numbers)

    def say_refused(self, error: Refused, order: Order) -> None:
        """Tell that a config was not brought into force; of it only its mistakes are shown."""
        numbers: Json = {"what": error.what, **({"cure": error.cure} if error.cure else {})}
        if error.problems:
            numbers[PROBLEMS] = [str(problem) for problem in error.problems[:SHOWN_PROBLEMS]]
            numbers["count"] = len(error.problems)
        numbers |= {"asked": order.reason} if order.reason else {}
        self.commits.say_of("", Note("ConfigRefused", order.actor, error.title, {}, {}, numbers))

    def _say_silence(self, now: float) -> None:
        """Tell once that workers had reason to send all to stable: nobody judged for longer than the watchdog."""
        if self._last_tick is None:
            return
        silent_s = now - self._last_tick
        for name, entry in self._entries.items():
            if entry.state.weight_bp and silent_s > entry.plan.watchdog_s and name not in self._silent:
                self._silent[name] = silent_s
                self.commits.say(entry, "ControllerSilent", "ControllerSilent", {"silent_s": round(silent_s, 3)})

    def _end_silence(self, now: float) -> None:
        """Tell how long it was where it went on after it was told: ticks have failed, one after the other."""
        silent_s = 0.0 if self._last_tick is None else now - self._last_tick
        for name, told_s in self._silent.items():
            if silent_s > told_s and name in self._entries:
                numbers: Json = {"silent_s": round(silent_s, 3), "over": True}
                self.commits.say(self._entries[name], "ControllerSilent", "ControllerSilent", numbers)
        self._silent.clear()

    # --- small things --------------------------------------------------------------------------------------------

    def _take_in(self, plans: Sequence[ServicePlan], table: RoutingTable, stored: Stored, order: Order) -> Intake:
        return take_in(
            plans,
            table,
            stored,
            {name: entry.latest for name, entry in self._entries.items()},
            latched=self._latched,
            fresh=self._salts,
            now=self._now(),
            actor=order.actor,
            reason=order.reason,
            choice=order.running_plan,
        )

    def _changed(self, plans: Sequence[ServicePlan], table: RoutingTable) -> dict[str, list[str]]:
        """Return what a config would change of the services that stay, by name; what `new` is has its own event."""
        services = {service.name: service for service in table.services}
        found: dict[str, list[str]] = {}
        for plan in plans:
            if plan.name in self._entries:
                pairs = ((self._entries[plan.name].plan, plan), (self.service(plan.name), services[plan.name]))
                what = [
                    field.name
                    for before, after in pairs
                    for field in fields(before)
                    if field.name not in ("new", "thresholds_us", "ttfb_thresholds_us")
                    and getattr(before, field.name) != getattr(after, field.name)
                ]
                if what:
                    found[plan.name] = what
        return found

    def _latched(self, service: str) -> str | None:
        found = self._latch.read(service)
        return None if found is None else found.reason

    def _moves(self, entry: Entry, event: SetWeight) -> Json:
        """Return what a dry run says: the weights as they would be, and how many of 10,000 buckets move."""
        before = entry.state
        after = move(entry.plan, before, event, self._now()).after
        more = after.weight_bp - before.weight_bp
        would_be = view.weights(entry.plan.name, replace(after, revision=before.revision), self._now())
        moves = {"to_new": max(0, more), "to_stable": max(0, -more), "of": FULL}
        return {**would_be, **view.taken_over(before, after), "moves": moves}

    def answer(self, entry: Entry, answer: Json, *, durable: bool, lowers: bool = False) -> Json:
        """Return the answer with what has to be said beside it."""
        if not durable:
            answer["durable"] = False
        if lowers and not entry.watch.stable_ready:
            answer["warning"] = STABLE_NOT_READY
        return answer

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All services as they are in force."""
        return self._entries

    @property
    def history(self) -> History:
        """What was measured lately."""
        return self._collector.history

    @property
    def store(self) -> Store:
        """Where the state is kept."""
        return self._store

    def now(self) -> float:
        """Return the instant of the monotonic clock, in seconds."""
        return self._now()

    def counts(self, name: str) -> ServiceCounts:
        """Return what was counted of a service, as of the last tick."""
        if self._counts is None:
            self._counts = self._collector.read().services
        return self._counts[name]

    def readings(self, name: str) -> Mapping[str, Reading]:
        """Return the last readings of the checks of a service."""
        return {} if self._checks is None else self._checks.readings(name)

    def fresh_salt(self, entry: Entry) -> str:
        """Return the salt of a new rollout."""
        return salt(entry.plan, self._salts)

    def latched(self, name: str) -> str | None:
        """Return the reason in a service's latch, `None` while it is open."""
        return self._latched(name)

    def words_at_0(self, name: str) -> bool:
        """Tell whether the weight is 0 in the words of every live generation."""
        return all(
            generation.weight(generation.service_index[name]) == 0
            for generation in self._generations.live
            if name in generation.service_index
        )

    def reached(self, name: str, since_ns: int) -> bool:
        """Tell whether every worker has shown since that instant that it sends nobody to `new`."""
        return self._reached is None or self._reached(name, since_ns)

    async def next_tick(self, timeout_s: float) -> None:
        """Wait for the end of the next tick that judges every service, for up to `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ticked.wait(), timeout_s)

    def _total(self, name: str, version: int, phase: str) -> Mapping[int, int]:
        return self._generations.scales.total(Scale(phase, name, version))

    def entry(self, name: str) -> Entry:
        """Return a service as the controller has it; raise `Refused` (404)."""
        return self._entries[self.service_name(name)]

    def service(self, name: str) -> Service:
        """Return a service of the table in force."""
        return next(service for service in self.table.services if service.name == name)

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


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


def _said(notes: Sequence[str]) -> tuple[str, ...]:
    for note in notes:
        log.warning("%s", note)
    return tuple(notes)
