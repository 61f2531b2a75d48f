"""Carrying out moves: act, store and tell, in the order that is safe, with a store that may be slow or fail.

Nouns: a *move* is one answer of the machine for one service (`proxy.controlplane.move`); a *commit* carries out some
moves and stores them in one transaction.

Rules:

* what acts first (towards safety) is done and in force before anything is given to the store. If storing fails it
  stays in force, and is tried again every second;
* what does not is in force only once it is stored, when somebody ordered it (`risky`). If storing fails, nothing
  has changed. What acts first meanwhile stands, and this is *overtaken*; all else waits until it is in force, so that
  state, words, seed and flags of a service are one whenever nothing is being stored;
* the instant of a decision (`decided_ns`) is read right after the store of the weight;
* a trial begins at the instant in which the gate is opened: what ended before that is read right then (`opened`), and
  is in no block of the new trial;
* the store answers in the order in which it was asked, so that the last decision is what a restart finds;
* a store that hangs is one that fails: after `PATIENCE_S` an order is answered, a shut gate as not durable, all else as
  refused. What such a store stores late is stored once more as it is in force (`ChangeUndone`);
* of events that cannot be stored the newest `MOST_EVENTS` wait, and it is told how many are lost (`EventsLost`);
* a hook that a decision owes is stored with it and forgotten with its answer: a restart calls it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

from proxy.clock import Clock
from proxy.controlplane.entry import Entry, keeps_time
from proxy.controlplane.generations import Generations
from proxy.controlplane.journal import Journal
from proxy.controlplane.latch import Latch
from proxy.controlplane.move import Move
from proxy.controlplane.operations import Json
from proxy.controlplane.orphaned import Orphaned
from proxy.controlplane.store import Change, Owed, Store, to_row
from proxy.controlplane.verify import OUTCOMES
from proxy.errors import Refused, StateError
from proxy.ipc.layout import FLAG_WATCHDOG_OFF
from proxy.rollout.effect import CallHook, ClearLatch, Note, Shut, StoreSalt, StoreWeight
from proxy.rollout.event import CONTROLLER
from proxy.rollout.state import ROLLED_BACK, shown
from proxy.routing.split import seed_of
from proxy.routing.table import Version

RETRY_S = 1.0  # so often is tried to store what could not be stored
PATIENCE_S = 3.0  # so long is waited for the disk before an order is answered without it
MOST_EVENTS = 1000  # that wait to be stored
MOST_SAVING = 8  # that the store is given before it has answered, beside what is decided
KEEP_S = 1.0  # so often what is left of a `ttl` and what has passed of a stage or an `after` is stored

ROLLED_BACK_EVENT = "RolledBack"

log = logging.getLogger("tidegate.controller")

Versions: TypeAlias = Mapping[tuple[str, str], Version | None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Commit:
    """Moves that are being stored. `risky`: what does not act first is in force only once it is stored."""

    moves: tuple[Move, ...]
    events: tuple[Json, ...]
    versions: Versions
    owed: tuple[Owed, ...]
    entries: Mapping[str, Entry]
    future: Future[None]
    risky: bool

    @property
    def shuts(self) -> bool:
        """Whether anything was done already: then there is no way back."""
        return any(one.acts for one in self.moves)


class Commits:
    """Acts on words and latch, and gives to the store.

    `versions`: what is stored of them, by (service, source); `orphaned`: what workers of a supervisor before read;
    `tasks`: what is under way. After a move that is in force `on_hook(service, hook, revision)` is told which hooks are
    to be asked by which state, and `on_owed(owed)` which are to be called and paid; `owes(move, hook)` says which those
    are (`None`: it is asked). `opened(service)` is called when `new` has got weight after it had none, and gives the
    instant (s) from which it is judged. `kept(move)` is what the event of a move that ends a rollout keeps of it.
    """

    def __init__(self, generations: Generations, store: Store, latch: Latch, journal: Journal, clock: Clock) -> None:
        self.versions: dict[tuple[str, str], Version] = {}
        self.orphaned = Orphaned()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._generations = generations
        self._store = store
        self._latch = latch
        self._journal = journal
        self._clock = clock
        self._unstored_events: list[Json] = []
        self._unstored_versions: set[tuple[str, str]] = set()
        self._unstored_owed: dict[tuple[str, str, int], Owed | None] = {}
        self._lost_events = 0
        self._saving = 0
        self._tried = self._kept = 0.0
        self.on_hook: Callable[[str, CallHook, int], None] = lambda _service, _hook, _revision: None
        self.on_owed: Callable[[Owed], None] = lambda _owed: None
        self.owes: Callable[[Move, CallHook], Owed | None] = lambda _made, _hook: None
        self.opened: Callable[[str], float] = lambda _service: self._now()
        self.kept: Callable[[Move], Json] = lambda _made: {}

    def begin(
        self,
        moves: Sequence[Move],
        versions: Versions,
        entries: Mapping[str, Entry],
        *,
        risky: bool,
        more: Callable[[], Json] = dict,
    ) -> Commit:
        """Act where safety acts first, and give everything to the store. `more` adds to the evidence afterwards."""
        decided: dict[str, Json] = {}
        back: Versions = {}
        for one in moves:
            entry = entries[one.service]
            for effect in one.acts:
                decided[one.service] = {"decided_ns": self._act(one.service, effect)}
            if one.acts and entry.pending is not None:
                back = {**back, **entry.back}
                if not one.after.weight_bp:
                    # The salt that was being stored is that of the state now; at 0 users may be dealt anew.
                    self.deal(one.service, one.after.salt)
            if one.acts or not risky:
                entry.enter(one.after)
            else:
                entry.store_first(one.after)
            if one.rolls_back:
                entry.rolled_back(one.after.reason, self._now())
        wall, found = self._clock.wall(), _found(more)
        events = [
            self._journal.make(one.service, note, wall, {**found, **decided.get(one.service, {}), **kept})
            for one in moves
            for kept in [_found(partial(self.kept, one)) if one.ends_rollout else {}]
            for note in one.notes
        ]
        now = self._now()
        versions = {**back, **versions}
        self._unstored_versions -= versions.keys()
        rows = {one.service: to_row(one.after, now) for one in moves if one.persists}
        owed = tuple(debt for one in moves for hook in one.hooks if (debt := self.owes(one, hook)) is not None)
        future = self._store.save(Change(rows, versions, owed={one.key: one for one in owed}, events=tuple(events)))
        return Commit(tuple(moves), tuple(events), versions, owed, entries, future, risky)

    async def stored(self, commit: Commit) -> bool:
        """Wait for the store; return False when what was done could not be stored, raise `Refused` if nothing was."""
        try:
            await self.in_time(commit.future, keep=commit.shuts or not commit.risky)
        except StateError as error:
            hangs = not commit.future.done()
            log.error("%s", error)  # noqa: TRY400  # the sentence says it all
            if commit.risky and not commit.shuts:
                for one in commit.moves:
                    self._forget(commit.entries[one.service], one)
                for event in commit.events:
                    self._journal.drop(event)
                self._unstored_versions.update(commit.versions)
                if hangs:
                    self.spawn(self._undone(commit))
                raise not_stored(error) from error
            if hangs:
                self.spawn(self._late(commit))
            else:
                self._not_stored(commit)
            return False
        return True

    async def in_time(self, future: Future[T], *, keep: bool = False) -> T:
        """Wait for the store; raise `StateError` when it fails, or does not answer within `PATIENCE_S`.

        Then it is not done any more, should it not have begun, but for what is to `keep`.
        """
        waiting = asyncio.wrap_future(future)
        if not (await asyncio.wait((waiting,), timeout=PATIENCE_S))[0]:
            waiting.add_done_callback(lambda one: one.cancelled() or one.exception())  # nobody else looks at it
            if not keep:
                future.cancel()
            raise self._store.silent(PATIENCE_S)
        return waiting.result()

    async def _late(self, commit: Commit) -> None:
        """Wait for the store to say whether it has what was done without it."""
        try:
            await asyncio.wrap_future(commit.future)
        except StateError as error:
            log.error("%s", error)  # noqa: TRY400  # the sentence says it all
            self._not_stored(commit)

    async def _undone(self, commit: Commit) -> None:
        """Store what is in force once more when a change is stored after it was refused."""
        with contextlib.suppress(StateError):
            await asyncio.wrap_future(commit.future)
            entries = {one.service: commit.entries[one.service] for one in commit.moves}
            self._unstored_owed.update({one.key: None for one in commit.owed})
            self.save(entries.values(), {key: self.versions.get(key) for key in commit.versions})
            for entry in entries.values():
                entry.dirty = entry.pending is not None
                self.say(entry, "ChangeUndone", "NotStored", {})

    def _not_stored(self, commit: Commit) -> None:
        for one in commit.moves:
            commit.entries[one.service].dirty = True
        self._wait_to_be_stored(commit.events)
        self._unstored_versions.update(commit.versions)
        self._unstored_owed.update({one.key: one for one in commit.owed})
        self._tried = self._now()

    def _wait_to_be_stored(self, events: Sequence[Json]) -> None:
        waiting = sorted([*events, *self._unstored_events], key=itemgetter("seq"))
        self._unstored_events = waiting[-MOST_EVENTS:]
        self._lost_events += len(waiting) - len(self._unstored_events)

    def come_into_force(self, commit: Commit, *, stored: bool) -> bool:
        """Do what waits for the store; return whether something else was decided meanwhile, which stands."""
        self.remember(commit.versions)
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
                entry.enter(one.after)
            if stored:
                for effect in one.risks:
                    self._act(one.service, effect)
                if one.opens:
                    entry.state = replace(entry.state, live_since=self.opened(one.service))
        return bool(overtaken)

    def announce(self, commit: Commit) -> None:
        """Tell its events, and which hooks are to be asked or called."""
        for event in commit.events:
            self._journal.announce(event)
        owed = {(one.service, one.revision): one for one in commit.owed}
        for one in commit.moves:
            # What was overtaken never came to be.
            came = commit.entries[one.service].state.revision >= one.after.revision
            debt = owed.get((one.service, one.after.revision))
            if debt is not None and came:
                self.on_owed(debt)
            elif debt is not None:
                self.pay(debt)
            elif came:
                for hook in one.hooks:
                    self.on_hook(one.service, hook, one.after.revision)

    def decide(self, made: Move, entries: Mapping[str, Entry], more: Callable[[], Json] = dict) -> None:
        """Carry out what nobody asked for: act now, and let a task do what has to wait for the store.

        What gives `new` more is in force only once it is stored; it is asked for again when that fails.
        """
        if made.effects or made.after is not made.before:
            self.spawn(self._settle(self.begin((made,), {}, entries, risky=made.gives_more, more=more)))

    async def _settle(self, commit: Commit) -> None:
        try:
            stored = await self.stored(commit)
        except Refused:
            for one in commit.moves:
                commit.entries[one.service].held_until = self._now() + RETRY_S
            return
        self.come_into_force(commit, stored=stored)
        self.announce(commit)

    def _act(self, service: str, effect: Shut | StoreWeight | StoreSalt | ClearLatch) -> int:
        """Do it; return the instant (CLOCK_MONOTONIC ns) right after the store of the weight."""
        if isinstance(effect, ClearLatch):
            self._latch.clear(service)
        elif self._is_served(service):
            if isinstance(effect, StoreWeight):
                flags = FLAG_WATCHDOG_OFF if effect.watchdog_off else 0
                self._generations.store_weight(service, effect.weight_bp, flags)
            else:
                self._generations.store_weight(service, 0)
            if isinstance(effect, Shut) or (isinstance(effect, StoreWeight) and not effect.weight_bp):
                self._generations.count_rollback(service)
            if isinstance(effect, StoreSalt):
                self._generations.store_seed(service, seed_of(effect.salt))
        if isinstance(effect, StoreWeight):
            self.orphaned.keep_below(service, effect.weight_bp, FLAG_WATCHDOG_OFF if effect.watchdog_off else 0)
        elif isinstance(effect, Shut):
            self.orphaned.keep_below(service, 0)
        stored_ns = self._clock.monotonic_ns()
        if isinstance(effect, Shut):
            # After the words: a store into a mapped file may have to wait for the disk, users must not.
            self._latch.shut(service, effect.reason, self._clock.wall())
        return stored_ns

    def _forget(self, entry: Entry, refused: Move) -> None:
        if entry.pending is refused.after:
            entry.give_up()
        elif entry.pending is None and entry.state.revision > refused.before.revision:
            # Something was decided upon a state that never came to be: what `new` is has not changed.
            entry.state = replace(entry.state, has_new=refused.before.has_new)

    def deal(self, service: str, salt: str) -> None:
        """Deal the users of a service by this salt; the weight is 0 then."""
        if self._is_served(service):
            self._generations.store_seed(service, seed_of(salt))

    def _is_served(self, service: str) -> bool:
        return any(service in generation.service_index for generation in self._generations.live)

    def verify_again(self, entries: Iterable[Entry]) -> None:
        """Begin anew to verify the rollbacks of which a supervisor before has not told whether they worked."""
        for entry in entries:
            newest = self._journal.newest(entry.plan.name, (ROLLED_BACK_EVENT, *OUTCOMES))
            if entry.state.phase == ROLLED_BACK and newest == ROLLED_BACK_EVENT:
                entry.verify(self._now())

    def pay(self, owed: Owed) -> None:
        """Forget that a hook is owed."""
        self._unstored_owed[owed.key] = None
        self.save(())

    def say(
        self,
        entry: Entry,
        kind: str,
        reason: str,
        numbers: Json,
        *,
        actor: str = CONTROLLER,
        pays: Owed | None = None,
    ) -> None:
        """Tell something that changes no state. `pays`: the hook that is not owed any more with this."""
        if pays is not None:
            self._unstored_owed[pays.key] = None
        as_it_is = shown(entry.state)
        self.say_of(entry.plan.name, Note(kind, actor, reason, as_it_is, as_it_is, numbers))

    def say_of(self, service: str, note: Note) -> None:
        """Tell something of a service, or ("") of the whole."""
        event = self._journal.make(service, note, self._clock.wall())
        self._wait_to_be_stored((event,))
        if self._saving < MOST_SAVING:
            self.save(())
        self._journal.announce(event)

    def store_again(self, entries: Iterable[Entry], now: float) -> None:
        """Store what could not be stored, and what time has changed: both every second."""
        if self._saving >= MOST_SAVING:
            return
        every = list(entries)
        dirty = [entry for entry in every if entry.dirty]
        unstored = self._unstored_events or self._unstored_versions or self._unstored_owed
        if (dirty or unstored) and now - self._tried >= RETRY_S:
            self.save(dirty)
        if now - self._kept >= KEEP_S:
            self._kept = now
            timed = [entry for entry in every if keeps_time(entry)]
            if timed:
                self.save(timed)

    def save(self, entries: Iterable[Entry], versions: Versions | None = None) -> None:
        """Store states as they are in force, and what could not be stored before."""
        # A state that is being stored already is newer than the one in force.
        chosen = [entry for entry in entries if entry.pending is None]
        events, self._unstored_events = self._unstored_events, []
        # Of versions what is stored late is what is in force now: a newer one may have been stored meanwhile.
        late, self._unstored_versions = self._unstored_versions, set()
        kept = {**{key: self.versions.get(key) for key in late}, **(versions or {})}
        owed, self._unstored_owed = self._unstored_owed, {}
        if not (chosen or events or kept or owed):
            return
        now = self._tried = self._now()
        rows = {entry.plan.name: to_row(entry.state, now) for entry in chosen}
        for entry in chosen:
            entry.dirty = False
        change = Change(rows, kept, owed=owed, events=tuple(events))
        self._saving += 1
        self.spawn(self._saved(chosen, change, self._store.save(change)))

    async def _saved(self, entries: Sequence[Entry], change: Change, future: Future[None]) -> None:
        failed: StateError | None = None
        try:
            await asyncio.wrap_future(future)
        except StateError as error:
            failed = error
        self._saving -= 1
        if failed is not None:
            log.error("%s", failed)
            for entry in entries:
                entry.dirty = True
            self._wait_to_be_stored(change.events)
            self._unstored_versions.update(change.versions)
            self._unstored_owed = {**change.owed, **self._unstored_owed}
        elif self._lost_events:
            lost, self._lost_events = self._lost_events, 0
            self.say_of("", Note("EventsLost", CONTROLLER, "NotStored", {}, {}, {"lost": lost}))
        elif self._unstored_events:
            self.save(())

    def remember(self, versions: Versions) -> None:
        """Take note of what is stored of versions."""
        for key, version in versions.items():
            if version is None:
                self.versions.pop(key, None)
            else:
                self.versions[key] = version

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry an order out to its end, even if the one who waits for the answer goes away."""
        return await asyncio.shield(self.spawn(work))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that `close` waits for."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Refused):
            log.error("a decision could not be finished", exc_info=error)

    async def close(self, entries: Iterable[Entry]) -> None:
        """Store what is to be kept and wait for all that is being stored."""
        self.save([entry for entry in entries if entry.dirty or keeps_time(entry)])
        while self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)
        self.orphaned.close()

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


def _found(more: Callable[[], Json]) -> Json:
    """Return what is said beside; what was done is stored and told also where that cannot be found."""
    try:
        return more()
    except Exception:
        log.exception("the numbers of an event could not be found")
        return {}


def not_stored(error: StateError) -> Refused:
    """Return the 503 for a change that could not be stored."""
    return Refused(
        503, "NotStored", f"nothing was changed, because it could not be stored: {error.what}", cure=error.cure
    )
