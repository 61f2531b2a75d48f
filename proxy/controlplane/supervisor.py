"""The supervisor: one process that starts the workers, judges, decides, and can be asked.

Life: check the machine · take the lock · probe every address · open the state (so far nothing was started, and any
mistake is an error with an exit code) · take over what a dead supervisor's workers hold (handover.py) · bring the
first generation into force · start the workers · tick · open the admin API · when all workers listen, retire the
orphans and announce the addresses · serve until TERM or INT · drain · end with 0.

The *tick* comes every 250 ms (more often where a service has shorter blocks) from a timer that does not drift: collect,
judge and act, beat; every 250 ms, look at the workers. One
that raises is counted and logged; without a beat for `watchdog` the workers send everything to stable by themselves.
Nothing slow runs on this loop: SQLite has its thread, reports and config files are read in others, and a worker that
does not listen is not waited for.

A *drain*: readiness turns 503 at once, workers go on accepting for `drain.delay` (whoever balances the load needs
that long to see it), then they finish what is open for up to `drain.timeout`. The limits stay armed and the admin
API answers until the end. A second signal ends everything now.

A service manager hears of all this (notify.py), and may pass the sockets (listeners.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from proxy.aio import every
from proxy.clock import Clock, SystemClock
from proxy.config.compile import AdminSettings, Compiled, Settings
from proxy.controlplane import listeners as sockets
from proxy.controlplane import platform, roster
from proxy.controlplane.blocks import blocks_beside
from proxy.controlplane.board import Board
from proxy.controlplane.certificates import LOOK_S, Certificates, Finding
from proxy.controlplane.checks import Checks
from proxy.controlplane.collector import Collector
from proxy.controlplane.controller import TICK_S, Controller
from proxy.controlplane.generations import Generation, Generations, ServiceWords
from proxy.controlplane.handover import Handover
from proxy.controlplane.latch import Latch
from proxy.controlplane.listeners import Listener, Orphaned
from proxy.controlplane.lock import Place, acquire, place_of
from proxy.controlplane.notify import Notify
from proxy.controlplane.operations import Operations, Order
from proxy.controlplane.roster import Roster
from proxy.controlplane.running import Running
from proxy.controlplane.store import Store
from proxy.controlplane.workers import Workers
from proxy.errors import ConfigError, Problem, Refused, TidegateError
from proxy.ipc.channel import MOST_FDS
from proxy.ipc.layout import CONTROL_SEED, CONTROL_WEIGHT, FLAG_WATCHDOG_OFF
from proxy.rollout.effect import Note
from proxy.rollout.event import CONTROLLER
from proxy.routing.table import NEW, RoutingTable

FLUSH_S = 1.0
NOW_S = 2.0  # what workers get to end at once
SWEEPS_SEEN = 2  # a worker that beat so often since an instant has told all that it did before
GRACE_S = 2.0  # what workers get beyond `drain.timeout`

log = logging.getLogger("tidegate.supervisor")

AdminFactory: TypeAlias = Callable[[Operations, AdminSettings], web.AppRunner]


def run(
    compiled: Compiled,
    *,
    announce: Callable[[str], None],
    admin: AdminFactory,
    worker: Sequence[str] | None = None,
    flush_log: Callable[[], None] = lambda: None,
) -> int:
    """Run the proxy until it is told to end; return the exit code.

    `announce` gets the addresses as lines when the proxy serves, `admin` makes the admin API's server, `worker` is the
    command that starts a worker (it gets a descriptor as its last argument), and `flush_log` is called every second, so
    that no line of the log waits for the next one. Before anything is started this raises
    `UnsupportedPlatform`, `StateError` (corrupt, or held by another instance), `AddressInUse` and `ConfigError`.
    """
    platform.check_this_machine()
    settings = compiled.settings
    _check_descriptors(settings, compiled.table.request_limits.connections)
    with contextlib.ExitStack() as held:
        # Two names of one file are one state: the lock and the latch stand beside the file itself.
        state = None if settings.state is None else settings.state.resolve()
        place = place_of(state, settings.listen, os.environ)
        _lock(place, state, settings.listen, held)
        left = roster.read(place.workers)
        passed = _passed((*settings.listen, settings.admin.listen), held)
        notify = Notify(os.environ, SystemClock())
        held.callback(notify.close)
        _probe(settings.listen, passed, left)
        admin_sock = _admin_socket(settings.admin.listen, passed, held)
        store = Store.open(state)
        held.callback(store.close)
        latch = Latch.open(None if state is None else state.with_name(state.name + ".latch"))
        held.callback(latch.close)
        supervisor = Supervisor(
            compiled,
            place=place,
            left=left,
            passed=passed,
            store=store,
            latch=latch,
            worker=worker or worker_command(),
            announce=announce,
            notify=notify,
            flush_log=flush_log,
            clock=SystemClock(),
        )
        return asyncio.run(supervisor.live(admin, admin_sock))


def worker_command() -> tuple[str, ...]:
    """Return the command that starts a worker."""
    return platform.python_command("proxy.dataplane.worker")


class Supervisor:
    """Everything between the first started worker and the last ended one."""

    def __init__(
        self,
        compiled: Compiled,
        *,
        place: Place,
        left: roster.Left,
        passed: Sequence[socket.socket],
        store: Store,
        latch: Latch,
        worker: Sequence[str],
        announce: Callable[[str], None],
        notify: Notify,
        flush_log: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._compiled = compiled
        self._place = place
        self._left = left
        self._passed = passed
        self._worker = worker
        self._certificates = Certificates(compiled.settings)
        self._told_certificates = self._certificates.shown  # to workers, as these learn it when they start
        self._announce = announce
        self._notify = notify
        self._flush_log = flush_log
        self._board = Board.create(compiled.settings.workers)
        self._generations = Generations()
        collector = Collector(self._generations, clock)
        self._controller = self._make_controller(collector, store, latch, clock)
        self._collector = collector
        self._drilled: tuple[int, dict[int, int]] = (0, {})  # a decision, and the workers' beats when it was made
        self.running = Running(compiled, self._controller, collector, self._board, clock, sweep_s=TICK_S)
        self.running.certificates = self._certificates
        self.running.show_certificates = self.show_certificates
        self.running.reloading = self._tell_reloading
        self.running.reloaded = self._tell_reloaded
        self._listeners: list[Listener] = []
        self._paths: dict[str, tuple[int, int] | None] = {}  # of unix listeners that are ours to remove
        self._roster: Roster | None = None
        self._handover: Handover | None = None
        self._workers: Workers | None = None
        self._serving = False  # every slot has a worker that listens, or had one
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_failure = ""

    def _make_controller(self, collector: Collector, store: Store, latch: Latch, clock: Clock) -> Controller:
        return Controller(
            self._compiled.plans,
            self._compiled.table,
            self._generations,
            collector,
            store,
            latch,
            clock,
            self.switch,
            checks=Checks(clock),
            blocks=blocks_beside(store.path),
            reached=self._reached,
        )

    # --- life ----------------------------------------------------------------------------------------------------

    async def live(self, admin: AdminFactory, admin_sock: socket.socket) -> int:
        """Start, serve, drain; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        runner = admin(self.running, self._compiled.settings.admin)
        self._spawn(self._flush_for_ever())
        try:
            starting = asyncio.create_task(self._start(runner, admin_sock))
            if await _first(starting, self._stop):
                await self._stop.wait()
            await self._drain()
        finally:
            await self._leave(runner)
        log.info("ended")
        return 0

    async def _start(self, runner: web.AppRunner, admin_sock: socket.socket) -> None:
        """Bring everything up; return when every worker listens and the orphans are retired."""
        await self._listen()
        self._roster = Roster(self._place.workers, self._left.orphans, self._listeners)
        await self._controller.start()
        self._workers = self._make_workers(self._roster)
        self._workers.start()
        self.running.workers = self._workers
        self._spawn(self._tick_for_ever())
        if self._certificates.any:
            self._spawn(self._watch_certificates())
        await runner.setup()
        await web.SockSite(runner, admin_sock, ssl_context=self._certificates.admin).start()
        await self._workers.all_listen()
        self._serving = True
        if self._handover is not None:
            self._handover.retire(self._listeners)
        self._announce_addresses(admin_sock)
        self._notify.ready(self._status())

    async def _listen(self) -> None:
        """Open every listener: kept ones of a dead supervisor, passed ones, new ones."""
        settings = self._compiled.settings
        kept: list[Listener] = []
        if self._place.handover is not None:
            self._handover = Handover(
                self._place.handover,
                orphans=self._left.orphans,
                asked=self._left.asked,
                log=log.info,
                adopt=self._controller.commits.orphaned.adopt,
            )
            self._handover.open()
            kept = await self._handover.collect()
        opened, unmatched = sockets.open_listeners(settings.listen, settings.workers, kept=kept, passed=self._passed)
        self._listeners = sockets.as_asked(opened, settings.entrances)
        for listener in unmatched:
            listener.sock.close()
        sockets.check_alone(self._listeners, _orphaned(self._left))
        passed = {sockets.inode(sock) for sock in self._passed}
        self._paths = {
            one.address: sockets.path_identity(one.address)
            for one in self._listeners
            if sockets.inode(one.sock) not in passed
        }

    def _make_workers(self, roster: Roster) -> Workers:
        return Workers(
            self._worker,
            slots=self._compiled.settings.workers,
            listeners=self._listeners,
            handover=None if self._place.handover is None else str(self._place.handover),
            board=self._board,
            generations=self._generations,
            roster=roster,
            log=log.warning,
            lost=self._controller.worker_lost,
            certificates=self._certificates,
        )

    def _announce_addresses(self, admin_sock: socket.socket) -> None:
        admin = self._compiled.settings.admin
        with contextlib.suppress(OSError):  # whoever was to read it is gone: that ends nothing
            for address in dict.fromkeys(listener.address for listener in self._listeners):
                self._announce(f"listening on {address}")
            scheme = "http" if admin.tls is None else "https"
            self._announce(f"admin API on {_url(admin_sock, admin.listen, scheme)}")

    def _status(self) -> str:
        return f"serving on {', '.join(dict.fromkeys(listener.address for listener in self._listeners))}"

    async def _watch_certificates(self) -> None:
        async with contextlib.aclosing(every(LOOK_S)) as turns:
            async for _ in turns:
                try:
                    self.show_certificates(await asyncio.to_thread(self._certificates.look))
                except OSError as error:  # no descriptor, no memory: the next look may have one
                    log.error("the certificates could not be looked at: %s", error)  # noqa: TRY400

    def show_certificates(self, found: Sequence[Finding], actor: str = CONTROLLER) -> None:
        """Tell what was `found` at the certificates, and workers what to show; `actor`: who had them looked at."""
        for one in found:
            evidence = {"file": one.file, "names": list(one.names), "shown_at": list(one.shown_at)}
            evidence |= {"why": one.why} if one.why else {}
            self._controller.say_of_all(Note(one.kind, actor, one.reason, {}, {}, evidence))
        # Not by what was found: no event tells the order of those behind the first, nor what a failed look has read.
        shown = self._certificates.shown
        if self._workers is not None and shown != self._told_certificates:
            self._told_certificates = shown
            self._workers.show_certificates()

    async def _flush_for_ever(self) -> None:
        async with contextlib.aclosing(every(FLUSH_S)) as turns:
            async for _ in turns:
                self._flush_log()

    async def _tick_for_ever(self) -> None:
        while True:
            tick_s = self._controller.tick_s
            ticks_per_sweep = max(1, round(TICK_S / tick_s))
            ticks = 0
            async with contextlib.aclosing(every(tick_s)) as turns:
                async for _ in turns:
                    ticks += 1
                    await self._tick(sweep=ticks % ticks_per_sweep == 0)
                    if self._controller.tick_s != tick_s:
                        break  # another config

    async def _tick(self, *, sweep: bool) -> None:
        """Judge; and look at the workers, if a `sweep` is due.

        The beat says that every service was judged; without it workers go to stable.
        """
        try:
            try:
                await self._controller.tick()
                self._board.beat()
                self._notify.alive()
            finally:
                # Whatever was found in the counts: workers that hang are replaced, and orphans do not stay.
                if sweep:
                    self._sweep()
        except Exception as error:  # noqa: BLE001 - the next tick must come, and without a beat users are safe
            self.running.failed_ticks += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{error!r} at {place.filename}:{place.lineno}"
            # At four lines a second nobody would find anything else in the log.
            if failure != self._last_failure:
                self._last_failure = failure
                log.error("a tick failed: %s", failure)  # noqa: TRY400 - one line says it; the place is in it
        else:
            self._last_failure = ""

    def _sweep(self) -> None:
        if self._workers is not None:
            self._workers.sweep()
        if self._handover is not None:
            self._handover.reap()

    async def _drain(self) -> None:
        self.running.draining = True
        self._board.set_draining(True)
        if self._handover is not None and not self._serving:
            # Everything is to end, orphans too; as long as our workers do not listen, nobody empties their queues.
            self._handover.retire(())
        if self._workers is None:
            return
        drain = self._generations.current.table.drain
        self._notify.stopping(f"draining: up to {drain.delay_s + drain.timeout_s:g} s")
        log.info(
            "draining: accepting for %g s more, then finishing for up to %g s; a second signal ends it now",
            drain.delay_s,
            drain.timeout_s,
        )
        self._workers.drain(drain.delay_s, drain.timeout_s)
        # From here on the workers alone hold the sockets: when the last one closes them, nobody waits in vain.
        self._close_listeners()
        ended = asyncio.create_task(self._workers.all_ended())
        if not await _first(ended, self._now, timeout_s=drain.delay_s + drain.timeout_s + GRACE_S):
            self._workers.stop()
            ended = asyncio.create_task(self._workers.all_ended())
            if not await _first(ended, asyncio.Event(), timeout_s=NOW_S):
                self._workers.kill()
                await self._workers.all_ended()

    async def _leave(self, runner: web.AppRunner) -> None:
        """Leave nothing behind: no process, no task, no socket, no path."""
        if self._workers is not None:
            self._workers.kill()
            await self._workers.all_ended()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._controller.close()
        await runner.cleanup()
        if self._handover is not None:
            self._handover.close()
        self._close_listeners()
        for address, identity in self._paths.items():
            sockets.unlink_unix(address, identity)
        if self._roster is not None:
            with contextlib.suppress(OSError):  # who is on it is dead: the next supervisor sees that by itself
                self._roster.clear()
        self._generations.close()
        self._board.close()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.sock.close()

    def _reached(self, service: str, since_ns: int) -> bool:
        """Tell whether every worker has swept twice since a decision, and none has dispatched to `new` after it."""
        alive = [row["slot"] for row in self.running.worker_rows() if row["state"] != "down"]
        beats = {slot: self._board.row(slot).beat for slot in alive}
        if self._drilled[0] != since_ns:
            self._drilled = (since_ns, beats)
        before = self._drilled[1]
        swept = all(slot in before and beat >= before[slot] + SWEEPS_SEEN for slot, beat in beats.items())
        last_ns = self._collector.read().services[service].versions[NEW].last_dispatch_ns
        return bool(alive) and swept and last_ns <= since_ns

    # --- signals -------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    def _hang_up(self) -> None:
        self._spawn(self._reload_and_log())

    async def _reload_and_log(self) -> None:
        try:
            answer = await self.running.reload(Order("SIGHUP"))
        except TidegateError as error:
            problems = error.problems if isinstance(error, Refused) else ()
            log.error("the config was not reloaded: %s", error)  # noqa: TRY400 - a mistake in a file, not in here
            for problem in problems:
                log.error("%s", problem)  # noqa: TRY400
            return
        for note in answer["notes"]:
            log.info("note: %s", note)
        for key in answer["needs_restart"]:
            log.warning("the change of %s needs a restart", key)
        log.info("the config was reloaded")

    def _tell_reloading(self) -> None:
        if self._serving:
            self._notify.reloading()

    def _tell_reloaded(self, well: bool) -> None:  # noqa: FBT001 - a callback's
        if self._serving and not self._stop.is_set():
            self._notify.ready(self._status() + ("" if well else "; the config was not reloaded"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- generations ---------------------------------------------------------------------------------------------

    async def switch(self, table: RoutingTable, words: Mapping[str, ServiceWords]) -> None:
        """Bring a table into force in every worker; return when all have it (mute ones are replaced).

        Raise `Refused` when a worker cannot use it; then the table before is brought back.
        """
        # At once, before anything is awaited: words that lie about go stale when the gate is shut meanwhile.
        try:
            generation = self._generations.create(table, words)
        except OSError as error:
            what = f"there is no memory for the new table: {error.strerror}"
            raise Refused(503, "NoMemory", what, cure="raise the limit of open files, or free memory") from error
        if self._workers is None:
            return
        before = self._generations.live[-2:-1]
        refusals = await self._workers.switch(generation)
        if refusals:
            for back in before:
                if generation is self._generations.current and back in self._generations.live:
                    await self._workers.switch(self._generations.create(back.table, _words_of(back)))
            raise Refused(500, "TableRefused", f"the workers cannot use the new table: {refusals[0]}")


def _words_of(generation: Generation) -> dict[str, ServiceWords]:
    """Return the control words in force in a generation."""
    words = generation.control.words
    found = {}
    for name, index in generation.service_index.items():
        at = generation.control_layout.services[index]
        flags = words[at + CONTROL_WEIGHT] & FLAG_WATCHDOG_OFF
        found[name] = ServiceWords(generation.weight(index), flags, words[at + CONTROL_SEED])
    return found


async def _first(task: asyncio.Task[None], event: asyncio.Event, *, timeout_s: float | None = None) -> bool:
    """Return True when `task` is done (raise what it raised), False when `event` or the timeout came first."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(waiting, task, return_exceptions=True)
    if task.cancelled():
        return False
    task.result()
    return True


def _url(sock: socket.socket, asked: str, scheme: str) -> str:
    return asked if asked.startswith(sockets.UNIX) else f"{scheme}://{sockets.shown(sock)}"


def _check_descriptors(settings: Settings, connections: int) -> None:
    if len(settings.listen) * settings.workers >= MOST_FDS:
        raise ConfigError(
            [Problem("workers", f"{settings.workers} workers × {len(settings.listen)} addresses: too many")]
        )
    allowed = platform.allow_open_files(settings.workers, len(settings.listen))
    scarce = platform.too_few_for(connections, settings.workers, len(settings.listen), allowed)
    if scarce is not None:
        log.warning("%s", scarce)


def _lock(place: Place, state: Path | None, addresses: Sequence[str], held: contextlib.ExitStack[bool | None]) -> None:
    lock = acquire(place.lock, state=state, addresses=addresses)
    held.callback(lock.release)
    if place.handover is None:
        held.callback(place.lock.unlink)  # named after this process: nobody else will ever look for it


def _passed(asked: Sequence[str], held: contextlib.ExitStack[bool | None]) -> list[socket.socket]:
    """Return the sockets that a service manager passed."""
    passed, names = sockets.inherited(os.environ)
    for sock in passed:
        held.callback(sock.close)
    sockets.check_asked(passed, names, asked)
    return passed


def _probe(addresses: Sequence[str], passed: Sequence[socket.socket], left: roster.Left) -> None:
    ours = {sockets.shown(sock) for sock in passed}
    orphaned = _orphaned(left)
    for address in addresses:
        if address not in ours:
            sockets.probe(address, orphaned)


def _orphaned(left: roster.Left) -> Orphaned:
    return Orphaned([process.pid for process in left.orphans], left.paths if left.orphans else ())


def _admin_socket(
    address: str, passed: Sequence[socket.socket], held: contextlib.ExitStack[bool | None]
) -> socket.socket:
    for sock in passed:
        if sockets.shown(sock) == address:  # its path, if it has one, is the service manager's
            passed_sock = sock.dup()
            held.callback(passed_sock.close)
            return passed_sock
    sockets.probe(address, key="admin.listen")
    opened = sockets.open_admin(address)
    held.callback(opened.close)
    held.callback(sockets.unlink_unix, address, sockets.path_identity(address))
    return opened
