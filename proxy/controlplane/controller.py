"""The controller: collects, judges, decides and acts, in every tick; and puts together who carries out orders.

`tick` never waits: what it decides is acted on in the same call, and stored by a task (`commits.py`). What people order
meets the same services in force (`services.py`): about weights (`weights.py`), the new version (`versions.py`),
endpoints (`endpoint_changes.py`), rollouts (`rollouts.py`) and the config (`reload.py`).

The supervisor calls `tick` every `tick_s`, and beats for the workers only after a tick that returned.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from secrets import token_hex

from proxy.clock import Clock
from proxy.controlplane import view
from proxy.controlplane.blocks import Blocks, Rules
from proxy.controlplane.checks import Checks
from proxy.controlplane.collector import Collector
from proxy.controlplane.commits import Commits
from proxy.controlplane.drill import Drills
from proxy.controlplane.endpoint_changes import EndpointChanges
from proxy.controlplane.endpoints import Endpoints
from proxy.controlplane.entry import Entry
from proxy.controlplane.generations import Generations
from proxy.controlplane.journal import Journal
from proxy.controlplane.latch import Latch
from proxy.controlplane.move import move
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.reload import Reloads, said
from proxy.controlplane.rollouts import Rollouts
from proxy.controlplane.services import Services, Switch
from proxy.controlplane.silence import Silence
from proxy.controlplane.status import Status
from proxy.controlplane.store import Store
from proxy.controlplane.versions import NewVersions
from proxy.controlplane.weights import Weights
from proxy.metrics.snapshot import ServiceCounts, Snapshot
from proxy.rollout.analysis import FAIL, Verdict, at_least, bound_of, evidence, reason_of, value
from proxy.rollout.bench import action_of, kind_of
from proxy.rollout.drill import FAILURES, made_up_by, sees
from proxy.rollout.effect import Note
from proxy.rollout.event import Breach, Tick, WorkerLost
from proxy.rollout.plan import ROLLBACK, ServicePlan
from proxy.rollout.state import PROGRESSING, ROLLED_BACK, ServiceState
from proxy.routing.table import NEW, VERSIONS, RoutingTable

SALT_BYTES = 12
TICK_S = 0.25  # between two ticks, unless a service has shorter blocks


class Controller:
    """Decides for all services.

    `services` are those in force, `status` shows them; `weights`, `versions`, `endpoint_changes`, `rollouts`, `drills`
    and `reloads` carry out orders about them.
    """

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
        reached: Callable[[str, int], bool] = lambda _service, _ns: True,
    ) -> None:
        """Take what it works with; nothing is read or changed before `start`. `salts` gives random texts.

        `checks` reads numbers from elsewhere, `blocks` keeps what the judges saw; without them there is neither.
        `reached(service, ns)` tells whether every worker has shown since that instant that it sends nobody to `new`.
        """
        self._blocks = blocks
        self._collector = collector
        self._store = store
        self._latch = latch
        self._clock = clock
        self._endpoints = endpoints = Endpoints(generations)
        self._journal = journal = Journal(store)
        self.commits = commits = Commits(generations, store, latch, journal, clock)
        self.commits.opened = self._opened
        self.services = services = Services(
            plans, table, commits, endpoints, generations, collector, latch, clock, switch, salts, checks
        )
        self.status = status = Status(services, endpoints, journal, blocks)
        commits.kept = status.rollout
        self.weights = Weights(services, status)
        self.versions = NewVersions(services, status)
        self.endpoint_changes = EndpointChanges(services, status, endpoints, store, journal, clock)
        self.reloads = Reloads(services, store, latch)
        self.rollouts = Rollouts(services, status, store)
        self.drills = Drills(services, store, self.next_tick, reached)
        self._silence = Silence(services)
        self._ticked = asyncio.Event()

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, ...]:
        """Bring config, store and latch into force in the first generation; return what people should know.

        Raise `StateError` when the state cannot be read or stored: then there is no generation.
        """
        stored = self._store.load()
        self.commits.versions.update(stored.versions)
        self._endpoints.load(stored.endpoints)
        self._journal.begin(stored.last_seq)
        taken = self.reloads.take_in(self.services.plans, self.services.table, stored, Order("config"))
        self._latch.register(taken.begins)
        self.services.table = taken.table
        entries = {plan.name: Entry(plan, taken.begins[plan.name]) for plan in self.services.plans}
        commit = self.commits.begin(taken.moves, taken.versions, entries, risky=False)
        await asyncio.wrap_future(commit.future)
        self.commits.come_into_force(commit, stored=True)
        self.services.follow(entries, self.services.plans, taken.table)
        await self.services.switch(self.services.table, self.services.words())
        self.services.endpoints_in_force()
        self.commits.announce(commit)
        for owed in stored.owed.values():
            self.rollouts.call(owed)
        self.commits.verify_again(entries.values())
        # Status and metrics know every limit from the beginning; what passes until workers run is no silence.
        await self.tick()
        self._silence.forget()
        return said(taken.notes)

    async def close(self) -> None:
        """Store what is to be kept, wait for what is being stored, and end those who follow events."""
        for entry in self.services.entries.values():
            entry.drill = None
        self._ticked.set()
        self.rollouts.close()
        await self.commits.close(self.services.entries.values())
        self._journal.close()
        await self._endpoints.close()
        if self.services.checks is not None:
            await self.services.checks.close()
        if self._blocks is not None:
            self._blocks.close()

    @property
    def tick_s(self) -> float:
        """How often `tick` is to be called, in seconds: the shortest block of any service, 250 ms at most."""
        return min([TICK_S, *(plan.block_s for plan in self.services.plans)])

    async def tick(self) -> None:
        """Collect, judge, step, act. Anything raised means that not every service was judged: the others were."""
        snapshot = self.services.collect()
        now = snapshot.time_s
        tick_s = self.tick_s
        self._silence.say(now)
        self.services.watch_checks()
        self.endpoint_changes.look(snapshot, now)
        judged: list[tuple[Entry, ServiceState]] = []
        errors: list[Exception] = []
        for name, entry in self.services.entries.items():
            state = entry.state
            try:
                self._judge(entry, snapshot.services[name], now, tick_s)
            except Exception as error:  # noqa: BLE001  # the first is raised when all have been judged
                errors.append(error)
            else:
                judged.append((entry, state))
        self.commits.store_again(self.services.entries.values(), now)
        self._collector.keep()
        self._keep_blocks(judged, snapshot)
        if errors:
            raise errors[0]
        self._silence.end(now)
        self._ticked.set()
        self._ticked = asyncio.Event()

    def _judge(self, entry: Entry, counts: ServiceCounts, now: float, tick_s: float) -> None:
        watch = entry.watch
        if entry.drill is not None and not entry.drill.over:
            watch.inject(FAILURES)
        watch.look(
            entry.plan,
            entry.state,
            counts,
            self._collector.history,
            now,
            tick_s,
            self.services.readings(entry.plan.name),
            partial(self.services.total, entry.plan.name),
        )
        breach = watch.breach(entry.state, watch.reach[NEW])
        if breach is not None:
            self._breach(entry, breach, now)
        self._pass_time(entry, now)
        self._tell(entry, now)
        self._report(entry, now)
        self._verify(entry, counts, now)

    # --- what time brings ----------------------------------------------------------------------------------------

    def _breach(self, entry: Entry, breach: Breach, now: float) -> None:
        drill = None if entry.drill is None or entry.drill.over else entry.drill
        made_up = drill is not None and made_up_by(breach, entry.watch.limits)
        if drill is not None and made_up and not breach.stable_ready:
            drill.end("stable could not be reached any more, and users of new would have been sent to it")
            entry.watch.forget()  # before anybody takes it for real
            return
        # What only has to be said, and a pause, can wait until what is being stored is in force.
        if entry.pending is not None and (not breach.stable_ready or breach.action != ROLLBACK):
            return
        if made_up:
            if breach.action != ROLLBACK:
                return
            breach = replace(breach, drill=True)
        made = move(entry.plan, entry.latest, breach, now)
        self.commits.decide(made, self.services.entries, partial(self._measured, entry, breach))
        if entry.drill is not None and breach.drill and entry.state.phase == ROLLED_BACK:
            entry.drill.decided(self._clock.monotonic_ns(), breach.reason, made.before)

    def _measured(self, entry: Entry, breach: Breach) -> Json:
        """Return the value of the limit that fails: its percentile is looked up only after the gate is shut."""
        shown = breach.evidence
        for verdict in (*entry.watch.failing(), *entry.watch.verdicts):
            limit = verdict.limit
            one = {"metric": limit.metric, "version": VERSIONS[limit.version], "limit": bound_of(limit)}
            if verdict.word == FAIL and one.items() <= shown.items():
                measured_ms = self._percentile_ms(entry, verdict)
                return {"value": value(verdict, measured_ms), "at_least": at_least(verdict, measured_ms)}
        return {}

    def _percentile_ms(self, entry: Entry, verdict: Verdict) -> float | None:
        return view.percentile_ms(entry.plan.name, verdict, self._collector.history)

    def _pass_time(self, entry: Entry, now: float) -> None:
        state = entry.state
        if entry.pending is not None or now < entry.held_until:
            return
        if state.phase == PROGRESSING and state.rollout is not None:
            if entry.drill is not None:
                return
            event = entry.watch.tick(state, now, entry.watch.percentile)
        elif state.expiry is not None or state.no_stable:
            event = Tick(entry.watch.stable_ready)
        else:
            return
        self.commits.decide(move(entry.plan, state, event, now), self.services.entries)

    def _tell(self, entry: Entry, now: float) -> None:
        for verdict in entry.watch.told(entry.state, now):
            limit = verdict.limit
            if entry.drill is not None and sees(limit):
                continue
            numbers = evidence(verdict, self._percentile_ms(entry, verdict))
            numbers |= {"action": action_of(limit, entry.state), "dry_run": limit.dry_run}
            self.commits.say(entry, kind_of(verdict), reason_of(verdict.limit), numbers)

    def _report(self, entry: Entry, now: float) -> None:
        """Tell how far a rollout is, as often as its plan says."""
        rollout = entry.state.rollout
        if rollout is None or rollout.plan.progress_report_s is None or entry.state.phase != PROGRESSING:
            entry.reported = now
        elif entry.drill is None and now - entry.reported >= rollout.plan.progress_report_s:
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
            entry = self.services.entries.get(name)
            drilled = entry is not None and entry.drill is not None
            self._blocks.begin(counts, self._collector.history, goes_on=drilled)
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
                blocks.begin(counts, history, goes_on=bool(state.weight_bp) or entry.drill is not None)
            elif watch.judged:
                at = state.rollout if state.phase != ROLLED_BACK else None
                stage = "" if at is None else at.now_at.name
                blocks.add(counts, history, Rules(watch.court, watch.limits, stage, state.weight_bp), now, wall)
        blocks.flush(now)

    def worker_lost(self, slot: int, why: str) -> None:
        """Tell every service that has users on `new` that a worker has died."""
        for entry in self.services.entries.values():
            if entry.state.weight_bp and entry.pending is None:
                made = move(entry.plan, entry.state, WorkerLost(slot, why), self.services.now())
                self.commits.decide(made, self.services.entries)

    def say_of_all(self, note: Note) -> None:
        """Tell something that concerns no single service and changes no state."""
        self.commits.say_of("", note)

    async def next_tick(self, timeout_s: float) -> None:
        """Wait for the end of the next tick that judges every service, for up to `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ticked.wait(), timeout_s)
