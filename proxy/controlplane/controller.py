"""The controller: collects, judges, decides and acts, every block; and carries out what people order.

Nouns: an *entry* is one service with its plan, its state and its watch; a *move* is one answer of the machine for one
service (`proxy.controlplane.move`); a *commit* carries out moves in the order of their effects and stores them in one
transaction.

Rules:

* towards safety: act (words of every live generation, latch), then persist, then announce. A gate that is shut stays
  shut when storing fails; what was not stored is tried again every second;
* towards risk: persist, then clear the latch, then set the word. When storing fails nothing has changed (503). When
  something lowers the weight while a raise is being stored, the raise is overtaken and no word is set (409);
* `tick` never waits: what it decides is acted on in the same call, and stored by a task;
* lowering never waits for anything either. What raises or changes tables goes one after the other;
* the instant of a decision (`decided_ns`) is read right after the store of the weight.

The supervisor calls `tick` every block, and beats for the workers only after a tick that returned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar

from proxy.clock import Clock
from proxy.config.addresses import parse_endpoint
from proxy.controlplane import explain, registry, view
from proxy.controlplane.collector import ENDPOINT_STATES, Collector
from proxy.controlplane.generations import Generations, ServiceWords
from proxy.controlplane.intake import Intake, salt, take_in
from proxy.controlplane.journal import Journal
from proxy.controlplane.latch import Latch
from proxy.controlplane.move import Move, move
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.store import REGISTERED, Change, Store, Stored, to_row
from proxy.controlplane.watch import Watch
from proxy.errors import Problem, Refused, StateError
from proxy.ipc.layout import ENDPOINT_DOWN, ENDPOINT_READY
from proxy.metrics.expose import ServiceStanding
from proxy.metrics.snapshot import ServiceCounts
from proxy.rollout.analysis import evidence, reason_of, value
from proxy.rollout.effect import ClearLatch, Note, Shut, StoreWeight
from proxy.rollout.event import CONTROLLER, Breach, NewChanged, NewRemoved, Rollback, SetWeight, Tick
from proxy.rollout.machine import STABLE_NOT_READY
from proxy.rollout.plan import ServicePlan
from proxy.rollout.state import NO_HEALTHY_ENDPOINT, OPERATOR_ROLLBACK, ROLLED_BACK, ServiceState, shown
from proxy.routing.split import seed_of
from proxy.routing.table import FULL, VERSIONS, Endpoint, RoutingTable, Service, Version

SALT_BYTES = 12
RETRY_S = 1.0  # so often is tried to store what could not be stored
EARLIER_TTL = "an earlier ttl still runs: when it is over, the weight of new becomes 0, because it was changed since"
KEEP_S = 5.0  # so often what is left of a `ttl` and what has passed of an `after` is stored

# What people can say of an endpoint; that one is down is found out, not said.
ENDPOINT_CODES = {word: code for code, word in ENDPOINT_STATES.items() if code != ENDPOINT_DOWN}

log = logging.getLogger("tidegate.controller")

Switch = Callable[[RoutingTable, Mapping[str, ServiceWords]], Awaitable[None]]
Versions = Mapping[tuple[str, str], Version | None]
T = TypeVar("T")


class _Entry:
    """One service. `pending`: the state that is being stored before it comes into force."""

    __slots__ = ("dirty", "pending", "plan", "rollbacks", "state", "watch")

    def __init__(self, plan: ServicePlan, state: ServiceState) -> None:
        self.state = state
        self.pending: ServiceState | None = None
        self.dirty = False  # the state in force is not the stored one
        self.watch = Watch()
        self.rollbacks: dict[str, int] = {}
        self.follow(plan)

    def follow(self, plan: ServicePlan) -> None:
        """Take a plan; rollbacks for each of its reasons are counted from 0."""
        self.plan = plan
        for reason in (OPERATOR_ROLLBACK, NO_HEALTHY_ENDPOINT, *map(reason_of, plan.limits)):
            self.rollbacks.setdefault(reason, 0)

    @property
    def latest(self) -> ServiceState:
        """The state that the next event meets."""
        return self.state if self.pending is None else self.pending


@dataclass(frozen=True, slots=True)
class _Commit:
    """Moves that are being stored. `risky`: what does not act first is in force only once it is stored."""

    moves: tuple[Move, ...]
    events: tuple[Json, ...]
    versions: Versions
    entries: Mapping[str, _Entry]
    future: Future[None]
    risky: bool

    @property
    def shuts(self) -> bool:
        """Whether anything was done already: then there is no way back."""
        return any(one.acts for one in self.moves)


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
    ) -> None:
        """Take what it works with; nothing is read or changed before `start`. `salts` gives random texts."""
        self.table = table
        self._plans = tuple(plans)
        self._generations = generations
        self._collector = collector
        self._store = store
        self._latch = latch
        self._clock = clock
        self._switch = switch
        self._salts = salts
        self._entries: dict[str, _Entry] = {}
        self._versions: dict[tuple[str, str], Version] = {}  # as they are stored
        self._endpoints: dict[tuple[str, int, str], int] = {}  # what people said of them
        self._journal = Journal(store)
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unstored_events: list[Json] = []
        self._unstored_versions: dict[tuple[str, str], Version | None] = {}
        self._tried = self._kept = 0.0
        self._last_tick: float | None = None
        self._block = 0
        self._counts: Mapping[str, ServiceCounts] | None = None  # of the table in force, `None` until they were read

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, ...]:
        """Bring config, store and latch into force in the first generation; return what people should know.

        Raise `StateError` when the state cannot be read or stored: then there is no generation.
        """
        stored = self._store.load()
        self._versions.update(stored.versions)
        self._endpoints.update(stored.endpoints)
        self._journal.begin(stored.last_seq)
        taken = self._take_in(self._plans, self.table, stored, Order("config"))
        self._latch.register(taken.begins)
        entries = {plan.name: _Entry(plan, taken.begins[plan.name]) for plan in self._plans}
        commit = self._begin(taken.moves, taken.versions, entries, risky=False)
        await asyncio.wrap_future(commit.future)
        self._come_into_force(commit, stored=True)
        self._follow(entries, self._plans, taken.table)
        await self._switch(self.table, self.words())
        self._set_endpoints()
        self._announce(commit)
        # Status and metrics know every limit from the beginning; what passes until workers run is no silence.
        await self.tick()
        self._last_tick = None
        return _said(taken.notes)

    async def close(self) -> None:
        """Store what is to be kept, wait for what is being stored, and end those who follow events."""
        self._save([entry for entry in self._entries.values() if entry.dirty or _keeps_time(entry)])
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._journal.close()

    def words(self) -> dict[str, ServiceWords]:
        """Return the control words of all services as they are in force."""
        return {
            name: ServiceWords(entry.state.weight_bp, 0, seed_of(entry.state.salt))
            for name, entry in self._entries.items()
        }

    async def tick(self) -> None:
        """Collect, judge, step, act: one block. Anything raised means that not every service was judged."""
        snapshot = self._collector.collect()
        self._counts = snapshot.services
        now = snapshot.time_s
        self._block += 1
        self._say_silence(now)
        for name, entry in self._entries.items():
            watch = entry.watch
            watch.look(entry.plan, entry.state, snapshot.services[name], self._collector.history, now, self._block)
            breach = watch.breach()
            if breach is not None and entry.state.weight_bp:
                self._breach(entry, breach, now)
            if entry.state.expiry is not None or entry.state.no_stable:
                self._pass_time(entry, now)
            for verdict in watch.told():
                kind = "LimitWouldFail" if verdict.limit.dry_run else "LimitFailed"
                numbers = {**evidence(verdict), "action": verdict.limit.action, "dry_run": verdict.limit.dry_run}
                self._say(entry, kind, reason_of(verdict.limit), numbers)
        self._store_again(now)
        self._last_tick = now

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
        return self._entry(name).state

    def service_status(self, name: str) -> Json:
        """Return the service's object of `status` (INTERFACE §2)."""
        entry = self._entry(name)
        if self._counts is None:
            self._counts = self._collector.read().services
        return view.service_status(
            entry.state,
            self._counts[name],
            entry.watch,
            self._collector.history,
            self._journal.last(name),
            self._now(),
        )

    def standings(self) -> dict[str, ServiceStanding]:
        """Return what /metrics says of every service beside its counters."""
        history = self._collector.history
        return {
            name: view.standing(entry.state, name, entry.watch, history, entry.rollbacks)
            for name, entry in self._entries.items()
        }

    def weights(self, name: str) -> Json:
        """Return {"service", "stable", "new", "revision", "expires_in_s"?}; percent."""
        return view.weights(name, self._entry(name).state, self._now())

    def explain(self, name: str, cookies: Mapping[str, str], headers: Mapping[str, str], client_ip: str | None) -> Json:
        """Return why a visitor gets the version that they get (`proxy.controlplane.explain`)."""
        state = self._entry(name).state
        return explain.explain(
            self._service(name),
            weight_bp=state.weight_bp,
            seed=seed_of(state.salt),
            cookies=cookies,
            headers=headers,
            client_ip=client_ip,
        )

    def events(self, since: int, limit: int) -> list[Json]:
        """Return events with a number above `since`, oldest first."""
        return self._journal.since(since, limit)

    def follow_events(self, since: int) -> AsyncIterator[Json]:
        """Yield events with a number above `since`, those to come too."""
        return self._journal.follow(since)

    # --- orders --------------------------------------------------------------------------------------------------

    async def set_weights(self, name: str, new_bp: int, order: Order, *, ttl_s: float | None = None) -> Json:
        """Set the weight of `new`; return `weights` plus "moves" (dry run), "warning", and "durable": false."""
        entry = self._entry(name)
        if not 0 <= new_bp <= FULL:
            problem = Problem("new", "must be from 0 to 100 percent")
            raise Refused(400, "RequestInvalid", "the weight is out of range", problems=(problem,))
        event = SetWeight(
            new_bp, order.actor, order.reason, order.if_match, ttl_s, stable_ready=entry.watch.stable_ready
        )
        if order.dry_run:
            return self._moves(entry, event)
        lowers = new_bp < entry.state.weight_bp
        durable = await self._run(self._set_weight(entry, event))
        answer = self._answer(entry, self.weights(name), durable=durable, lowers=lowers)
        expiry = entry.state.expiry
        if expiry is not None and expiry.revision != entry.state.revision:
            answer.setdefault("warning", EARLIER_TTL)
        return answer

    async def rollback(self, name: str, order: Order) -> Json:
        """Send everything to stable, in any phase; return the service's object plus "warning", "durable": false."""
        entry = self._entry(name)
        if order.dry_run:
            return self.service_status(name)
        lowers = entry.state.weight_bp > 0
        event = Rollback(order.actor, order.reason, stable_ready=entry.watch.stable_ready)
        durable = await self._run(self._carry_out(entry, event))
        return self._answer(entry, self.service_status(name), durable=durable, lowers=lowers)

    async def put_new(self, name: str, label: str, endpoints: Sequence[str], order: Order) -> Json:
        """Register the new version (weight 0, fresh salt, next generation); return the service's object."""
        entry = self._entry(name)
        new = _version(label, endpoints)
        durable = await self._run(self._replace_new(entry, new, order))
        return self._answer(entry, self.service_status(name), durable=durable)

    async def delete_new(self, name: str, order: Order) -> Json:
        """Remove the new version; return the service's object."""
        entry = self._entry(name)
        durable = await self._run(self._replace_new(entry, Version(), order))
        return self._answer(entry, self.service_status(name), durable=durable)

    async def set_endpoint(self, name: str, version: int, url: str, state: str, order: Order) -> Json:
        """Set an endpoint ready, to drain or to maintenance, also for later starts; return the service's object."""
        entry = self._entry(name)
        code = ENDPOINT_CODES.get(state)
        if code is None:
            problem = Problem("state", f"must be one of {', '.join(ENDPOINT_CODES)}")
            raise Refused(400, "RequestInvalid", "the state of the endpoint is not valid", problems=(problem,))
        urls = [endpoint.url for endpoint in self._service(name).version(version).endpoints]
        if url not in urls:
            what = f"{VERSIONS[version]} of {name} has no endpoint {url!r}"
            raise Refused(404, "NoSuchEndpoint", what, cure=f"there are: {', '.join(urls) or 'none'}")
        await self._run(self._set_endpoint(entry, (name, version, url), code, order))
        return self.service_status(name)

    async def _set_endpoint(self, entry: _Entry, key: tuple[str, int, str], code: int, order: Order) -> None:
        async with self._changing:
            before = self._endpoints.get(key, ENDPOINT_READY)
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
                await asyncio.wrap_future(self._store.save(Change(endpoints={key: code}, events=(event,))))
            except StateError as error:
                self._journal.drop(event)
                raise _not_stored(error) from error
            self._endpoints[key] = code
            self._set_endpoints()
            self._journal.announce(event)

    def _set_endpoints(self) -> None:
        """Store what people said of endpoints in the words of those that the table has."""
        for service, version, url in self._endpoints:
            if any(one.name == service for one in self.table.services) and any(
                endpoint.url == url for endpoint in self._service(service).version(version).endpoints
            ):
                self._generations.store_endpoint_state(service, version, url, self._endpoints[service, version, url])
        self._counts = None

    async def reload(self, plans: Sequence[ServicePlan], table: RoutingTable, order: Order) -> tuple[str, ...]:
        """Bring another config into force; return what people should know.

        What changes what `new` is sets its weight to 0 in the same generation. Refused: 503 when it cannot be stored
        and nothing had to be shut, or as the switch refuses; then the config before stays.
        """
        return await self._run(self._reload(tuple(plans), table, order))

    async def _set_weight(self, entry: _Entry, event: SetWeight) -> bool:
        if event.weight_bp <= entry.state.weight_bp:
            return await self._carry_out(entry, event)
        async with self._changing:
            return await self._carry_out(entry, event)

    async def _carry_out(self, entry: _Entry, event: SetWeight | Rollback) -> bool:
        """Return whether it was stored; raise `Refused` when nothing has changed."""
        made = move(entry.plan, entry.latest, event, self._now())
        if not made.effects:
            return True
        commit = self._begin((made,), {}, self._entries, risky=True)
        stored = await self._stored(commit)
        overtaken = self._come_into_force(commit, stored=stored)
        self._announce(commit)
        if overtaken:
            state = entry.state
            raise Refused(
                409,
                "Overtaken",
                "something else changed the weight while this was being stored",
                cure="look at the status and repeat the request if it still applies",
                extra={"phase": state.phase, "revision": state.revision},
            )
        return stored

    async def _replace_new(self, entry: _Entry, new: Version, order: Order) -> bool:
        name = entry.plan.name
        async with self._changing:
            was = self._service(name).new
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
            commit = self._begin((made,), {(name, REGISTERED): new}, self._entries, risky=True)
            return await self._bring(commit, self._plans, registry.with_new(self.table, name, new))

    async def _reload(self, plans: tuple[ServicePlan, ...], table: RoutingTable, order: Order) -> tuple[str, ...]:
        async with self._changing:
            stored = await asyncio.to_thread(self._store.load)
            taken = self._take_in(plans, table, replace(stored, versions=self._versions), order)
            if order.dry_run:
                return tuple(taken.notes)
            try:
                self._latch.register(taken.begins)
            except StateError as error:
                raise _not_stored(error) from error
            entries = {
                plan.name: self._entries.get(plan.name) or _Entry(plan, taken.begins[plan.name]) for plan in plans
            }
            commit = self._begin(taken.moves, taken.versions, entries, risky=True)
            durable = await self._bring(commit, plans, taken.table)
        if not durable:
            taken.notes.append("the change is in force, but it could not be stored: a restart would not know it")
        return _said(taken.notes)

    async def _bring(self, commit: _Commit, plans: tuple[ServicePlan, ...], table: RoutingTable) -> bool:
        """Bring a table to the workers once its moves are stored; return whether they were."""
        back = {key: self._versions.get(key) for key in commit.versions}
        stored = await self._stored(commit)
        before = self._entries, self._plans, self.table
        self._come_into_force(commit, stored=stored)
        self._follow(commit.entries, plans, table)
        try:
            # The words are read and written before anything else can happen: nobody decides in between.
            await self._switch(table, self.words())
        except Refused:
            self._follow(*before)
            self._announce(commit)
            self._undo(commit, back)
            raise
        self._set_endpoints()
        self._announce(commit)
        return stored

    def _follow(self, entries: Mapping[str, _Entry], plans: tuple[ServicePlan, ...], table: RoutingTable) -> None:
        self._entries, self._plans, self.table = dict(entries), plans, table
        self._counts = None
        for plan in plans:
            self._entries[plan.name].follow(plan)

    def _undo(self, commit: _Commit, back: Versions) -> None:
        """Take back what the workers refused: what `new` was is `new` again, with the weight at 0."""
        undone: dict[str, _Entry] = {}
        for one in reversed(commit.moves):
            entry = self._entries.get(one.service)
            if entry is not None:
                entry.state = replace(
                    one.before,
                    revision=entry.state.revision + (one.service not in undone),
                    weight_bp=0,
                    expiry=None,
                    live_since=None,
                )
                undone[one.service] = entry
        for name, entry in undone.items():
            if entry.state.phase == ROLLED_BACK:
                self._latch.shut(name, entry.state.reason, self._clock.wall())
            self._say(entry, "NewRefused", "TableRefused", {})
        self._remember(back)
        self._save(undone.values(), back)

    # --- commits -------------------------------------------------------------------------------------------------

    def _begin(
        self,
        moves: Sequence[Move],
        versions: Versions,
        entries: Mapping[str, _Entry],
        *,
        risky: bool,
        more: Callable[[], Json] = dict,
    ) -> _Commit:
        """Act where safety acts first, and give everything to the store. `more` adds to the evidence afterwards."""
        decided: dict[str, Json] = {}
        for one in moves:
            entry = entries[one.service]
            for effect in one.acts:
                decided[one.service] = {"decided_ns": self._act(one.service, effect)}
            if one.acts or not risky:
                entry.state, entry.pending = one.after, None
            else:
                entry.pending = one.after
            if one.rolls_back:
                entry.rollbacks[one.after.reason] = entry.rollbacks.get(one.after.reason, 0) + 1
        wall = self._clock.wall()
        events = [
            self._journal.make(one.service, note, wall, {**more(), **decided.get(one.service, {})})
            for one in moves
            for note in one.notes
        ]
        now = self._now()
        rows = {one.service: to_row(entries[one.service].latest, now) for one in moves if one.persists}
        future = self._store.save(Change(rows, versions, events=tuple(events)))
        return _Commit(tuple(moves), tuple(events), versions, entries, future, risky)

    async def _stored(self, commit: _Commit) -> bool:
        """Wait for the store; return False when what was done could not be stored, raise `Refused` if nothing was."""
        try:
            await asyncio.wrap_future(commit.future)
        except StateError as error:
            log.error("%s", error)  # noqa: TRY400  # the sentence says it all
            if commit.risky and not commit.shuts:
                for one in commit.moves:
                    _forget(commit.entries[one.service], one)
                for event in commit.events:
                    self._journal.drop(event)
                raise _not_stored(error) from error
            for one in commit.moves:
                commit.entries[one.service].dirty = True
            self._unstored_events += commit.events
            self._unstored_versions.update(commit.versions)
            self._tried = self._now()
            return False
        return True

    def _come_into_force(self, commit: _Commit, *, stored: bool) -> bool:
        """Do what waits for the store; return whether something else was decided meanwhile, which stands."""
        self._remember(commit.versions)
        overtaken = {
            one.service
            for one in {one.service: one for one in commit.moves}.values()
            if commit.risky and not one.acts and commit.entries[one.service].pending is not one.after
        }
        for one in commit.moves:
            if one.service in overtaken:
                continue
            entry = commit.entries[one.service]
            if entry.pending is one.after:
                entry.state, entry.pending = one.after, None
            if stored:
                for effect in one.risks:
                    self._act(one.service, effect)
        return bool(overtaken)

    def _announce(self, commit: _Commit) -> None:
        for event in commit.events:
            self._journal.announce(event)

    async def _settle(self, commit: _Commit) -> None:
        """Finish what `tick` decided."""
        self._come_into_force(commit, stored=await self._stored(commit))
        self._announce(commit)

    def _act(self, service: str, effect: Shut | StoreWeight | ClearLatch) -> int:
        """Do it; return the instant (CLOCK_MONOTONIC ns) right after the store of the weight."""
        if isinstance(effect, ClearLatch):
            self._latch.clear(service)
        elif any(service in generation.service_index for generation in self._generations.live):
            self._generations.store_weight(service, effect.weight_bp if isinstance(effect, StoreWeight) else 0)
        stored_ns = self._clock.monotonic_ns()
        if isinstance(effect, Shut):
            # After the words: a store into a mapped file may have to wait for the disk, users must not.
            self._latch.shut(service, effect.reason, self._clock.wall())
        return stored_ns

    # --- what time brings ----------------------------------------------------------------------------------------

    def _breach(self, entry: _Entry, breach: Breach, now: float) -> None:
        if entry.pending is not None and not breach.stable_ready:
            return
        made = move(entry.plan, entry.latest, breach, now)
        if made.effects:
            measured = partial(self._measured, entry)
            commit = self._begin((made,), {}, self._entries, risky=False, more=measured)
            self._spawn(self._settle(commit))

    def _measured(self, entry: _Entry) -> Json:
        """Return the value of the limit that fails: its percentile is looked up only after the gate is shut."""
        for verdict in entry.watch.failing():
            return {"value": value(verdict, view.percentile_ms(entry.plan.name, verdict, self._collector.history))}
        return {}

    def _pass_time(self, entry: _Entry, now: float) -> None:
        if entry.pending is not None:
            return
        made = move(entry.plan, entry.state, Tick(entry.watch.stable_ready), now)
        if made.effects:
            self._spawn(self._settle(self._begin((made,), {}, self._entries, risky=False)))

    def _say_silence(self, now: float) -> None:
        """Tell that workers had reason to send everything to stable: nobody judged for longer than the watchdog."""
        if self._last_tick is None:
            return
        silent_s = now - self._last_tick
        for entry in self._entries.values():
            if entry.state.weight_bp and silent_s > entry.plan.watchdog_s:
                self._say(entry, "ControllerSilent", "ControllerSilent", {"silent_s": round(silent_s, 3)})

    def _say(self, entry: _Entry, kind: str, reason: str, numbers: Json) -> None:
        """Tell something that changes no state."""
        as_it_is = shown(entry.state)
        note = Note(kind, CONTROLLER, reason, as_it_is, as_it_is, numbers)
        event = self._journal.make(entry.plan.name, note, self._clock.wall())
        self._unstored_events.append(event)
        self._save(())
        self._journal.announce(event)

    def _store_again(self, now: float) -> None:
        dirty = [entry for entry in self._entries.values() if entry.dirty]
        if (dirty or self._unstored_events or self._unstored_versions) and now - self._tried >= RETRY_S:
            self._save(dirty)
        if now - self._kept >= KEEP_S:
            self._kept = now
            timed = [entry for entry in self._entries.values() if _keeps_time(entry)]
            if timed:
                self._save(timed)

    def _save(self, entries: Iterable[_Entry], versions: Versions | None = None) -> None:
        """Store states as they are in force, and what could not be stored before."""
        # A state that is being stored already is newer than the one in force.
        chosen = [entry for entry in entries if entry.pending is None]
        events, self._unstored_events = self._unstored_events, []
        kept, self._unstored_versions = {**self._unstored_versions, **(versions or {})}, {}
        if not (chosen or events or kept):
            return
        now = self._tried = self._now()
        rows = {entry.plan.name: to_row(entry.state, now) for entry in chosen}
        for entry in chosen:
            entry.dirty = False
        self._spawn(self._saved(chosen, events, kept, self._store.save(Change(rows, kept, events=tuple(events)))))

    async def _saved(
        self,
        entries: Sequence[_Entry],
        events: list[Json],
        versions: dict[tuple[str, str], Version | None],
        future: Future[None],
    ) -> None:
        try:
            await asyncio.wrap_future(future)
        except StateError as error:
            log.error("%s", error)  # noqa: TRY400  # the sentence says it all
            for entry in entries:
                entry.dirty = True
            self._unstored_events = events + self._unstored_events
            self._unstored_versions = versions | self._unstored_versions

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
        )

    def _latched(self, service: str) -> str | None:
        found = self._latch.read(service)
        return None if found is None else found.reason

    def _remember(self, versions: Versions) -> None:
        for key, version in versions.items():
            if version is None:
                self._versions.pop(key, None)
            else:
                self._versions[key] = version

    def _moves(self, entry: _Entry, event: SetWeight) -> Json:
        """Return what a dry run says: the weights as they would be, and how many of 10,000 buckets move."""
        before = entry.state
        after = move(entry.plan, before, event, self._now()).after
        more = after.weight_bp - before.weight_bp
        would_be = view.weights(entry.plan.name, replace(after, revision=before.revision), self._now())
        return {**would_be, "moves": {"to_new": max(0, more), "to_stable": max(0, -more), "of": FULL}}

    def _answer(self, entry: _Entry, answer: Json, *, durable: bool, lowers: bool = False) -> Json:
        if not durable:
            answer["durable"] = False
        if lowers and not entry.watch.stable_ready:
            answer["warning"] = STABLE_NOT_READY
        return answer

    def _entry(self, name: str) -> _Entry:
        return self._entries[self.service_name(name)]

    def _service(self, name: str) -> Service:
        return next(service for service in self.table.services if service.name == name)

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry an order out to its end, even if the one who waits for the answer goes away."""
        return await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Refused):
            log.error("a decision could not be finished", exc_info=error)


def _forget(entry: _Entry, refused: Move) -> None:
    if entry.pending is refused.after:
        entry.pending = None
    elif entry.pending is None and entry.state.revision > refused.before.revision:
        # Something was decided upon a state that never came to be: what `new` is has not changed.
        entry.state = replace(entry.state, has_new=refused.before.has_new, salt=refused.before.salt)


def _keeps_time(entry: _Entry) -> bool:
    warms_up = any(limit.after_s for limit in entry.plan.limits)
    return entry.state.expiry is not None or (entry.state.live_since is not None and warms_up)


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


def _not_stored(error: StateError) -> Refused:
    return Refused(
        503, "NotStored", f"nothing was changed, because it could not be stored: {error.what}", cure=error.cure
    )


def _said(notes: Sequence[str]) -> tuple[str, ...]:
    for note in notes:
        log.warning("%s", note)
    return tuple(notes)
