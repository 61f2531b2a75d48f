"""The worker processes: started, watched, replaced, told what to do.

Nouns: a *slot* is a place for one worker; whoever is in it accepts on the slot's own sockets and on the shared ones.
A worker is started by exec with one end of a channel as its only property; everything else (board, sockets, table)
comes through the channel. It runs in a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone,
and nothing ties its life to the supervisor's: it is meant to outlive it (handover.py).

Rules:
* A worker that ends is replaced: the first time at once, then after 100 ms, 200 ms … 5 s; one that has
  listened for 10 s starts afresh. What it has counted is folded into the totals.
* A worker is killed (-9) and replaced when its beat does not change for 5 s, or when it does not acknowledge a table
  within 5 s; until it has said that it listens it has 30 s for both. The waiting is counted in our own sweeps and not
  by a clock: after the whole machine was stopped for a while, everybody starts counting again where they were.
* A worker that refuses its first table serves nobody: it is killed and replaced like one that ends. Where none has ever
  listened, that is the end of the start (`all_listen`): the next one would refuse it as well.
* A new process is on the roster before it is given a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.controlplane.board import Board
from proxy.controlplane.certificates import Certificates
from proxy.controlplane.generation import Generation
from proxy.controlplane.generations import Generations
from proxy.controlplane.listeners import Listener
from proxy.controlplane.roster import Roster
from proxy.errors import TidegateError
from proxy.ipc import channel
from proxy.ipc.enclosure import enclose
from proxy.routing.table import to_plain

HUNG_SWEEPS = 20  # of 250 ms
STARTING_SWEEPS = 120
STEADY_SWEEPS = 40
BACKOFF_S = 0.1
BACKOFF_MOST_S = 5.0


@dataclass(slots=True)
class _Awaited:
    """A table that a worker has not acknowledged yet. `answer`: `None` = in force, or why it was refused."""

    answer: asyncio.Future[str | None]
    sweeps: int = 0


@dataclass(slots=True)
class _Worker:
    """One worker process and what is known of it."""

    slot: int
    process: subprocess.Popen[bytes]
    sock: socket.socket
    pidfd: int
    beat: int
    receiver: channel.Receiver = field(default_factory=channel.Receiver)
    listening: bool = False
    serves: bool = False  # it has a table
    doomed: bool = False  # killed by us, not yet gone
    mute: bool = False  # it closed its channel: it is about to end, or could not be led any more
    sweeps: int = 0  # since it listens
    silent_sweeps: int = 0
    awaited: dict[int, _Awaited] = field(default_factory=dict)


class Workers:
    """All slots. Belongs to one event loop."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        slots: int,
        listeners: Sequence[Listener],
        handover: str | None,
        board: Board,
        generations: Generations,
        roster: Roster,
        log: Callable[[str], None],
        lost: Callable[[int, str], None] = lambda _slot, _how: None,
        certificates: Certificates | None = None,
    ) -> None:
        """`lost(slot, how)` is told of every worker that ends when nobody has asked it to."""
        self._argv = tuple(argv)
        self._slots = slots
        self._listeners = tuple(listeners)
        self._handover = handover
        self._board = board
        self._generations = generations
        self._roster = roster
        self._log = log
        self._lost = lost
        self._certificates = certificates
        self._alive: dict[int, _Worker] = {}
        self._failures = [0] * slots  # ends in a row without having listened steadily
        self._restarts: dict[int, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()
        self._ending = False
        self._listened = False  # whether any worker ever did
        self._refused = ""  # why the first table of all was, if it was

    # --- what the supervisor asks for ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start a worker in every slot; the current generation's table is what they get."""
        for slot in range(self._slots):
            self._start(slot)

    @property
    def listening(self) -> int:
        """How many workers listen."""
        return sum(worker.listening for worker in self._alive.values())

    async def all_listen(self) -> None:
        """Return when every slot has a worker that listens.

        Raise `TidegateError` when one refuses the table before any has ever listened.
        """
        while self.listening < self._slots:
            if self._refused and not self._listened:
                raise TidegateError(self._refused)
            await self._next_change()

    async def all_ended(self) -> None:
        """Return when no worker is left."""
        while self._alive:
            await self._next_change()

    async def switch(self, generation: Generation) -> list[str]:
        """Send a generation to all workers and wait until each has it in force or was replaced.

        Return why workers refused it; a refusing worker stays with the table before.
        """
        loop = asyncio.get_running_loop()
        answers = []
        for worker in list(self._alive.values()):
            if not worker.doomed:
                answer: asyncio.Future[str | None] = loop.create_future()
                self._send_table(worker, generation, answer)
                answers.append(answer)
        return [why for why in await asyncio.gather(*answers) if why is not None]

    def show_certificates(self) -> None:
        """Tell all workers to show the certificates in force from the next connection on."""
        for worker in list(self._alive.values()):
            self._send_certificates(worker)

    def drain(self, delay_s: float, timeout_s: float) -> None:
        """Tell all workers to accept for `delay_s` more and to finish within `timeout_s`; replace none from now on."""
        self._end()
        for worker in list(self._alive.values()):
            self._send(worker, {"type": "drain", "delay_s": delay_s, "timeout_s": timeout_s})

    def stop(self) -> None:
        """Tell all workers to end now."""
        self._end()
        for worker in list(self._alive.values()):
            self._send(worker, {"type": "stop"})

    def kill(self) -> None:
        """End whoever is left without asking."""
        self._end()
        for worker in self._alive.values():
            self._kill(worker)

    def sweep(self) -> None:
        """Look at every worker once. Call it every 250 ms; what is waited for is counted in these calls."""
        for worker in list(self._alive.values()):
            if worker.doomed:
                continue
            patience = HUNG_SWEEPS if worker.listening else STARTING_SWEEPS
            beat = self._board.row(worker.slot).beat
            worker.silent_sweeps = worker.silent_sweeps + 1 if worker.mute or beat == worker.beat else 0
            worker.beat = beat
            worker.sweeps += worker.listening
            if worker.sweeps == STEADY_SWEEPS:
                self._failures[worker.slot] = 0
            for awaited in worker.awaited.values():
                awaited.sweeps += 1
            if worker.silent_sweeps >= patience:
                self._give_up(worker, "hangs: no beat")
            elif any(awaited.sweeps >= patience for awaited in worker.awaited.values()):
                self._give_up(worker, "does not acknowledge its table")

    def rows(self, sweep_s: float) -> list[dict[str, Any]]:
        """Return each slot as `status` shows it; `sweep_s` is the time between two calls of `sweep`."""
        rows: list[dict[str, Any]] = []
        for slot in range(self._slots):
            worker = self._alive.get(slot)
            if worker is None:
                rows.append({"slot": slot, "pid": None, "state": "down", "beat_age_s": None})
                continue
            if worker.doomed:
                state = "hung"
            elif self._ending:
                state = "draining"
            else:
                state = "listening" if worker.listening else "starting"
            age_s = round(worker.silent_sweeps * sweep_s, 3)
            rows.append({"slot": slot, "pid": worker.process.pid, "state": state, "beat_age_s": age_s})
        return rows

    # --- starting and ending -------------------------------------------------------------------------------------

    def _start(self, slot: int) -> None:
        self._restarts.pop(slot, None)
        try:
            worker = self._launch(slot)
        except OSError as error:
            self._log(f"worker {slot} cannot be started: {error}")
            self._start_later(slot)
            return
        self._alive[slot] = worker
        loop = asyncio.get_running_loop()
        loop.add_reader(worker.pidfd, self._ended, worker)
        loop.add_reader(worker.sock, self._read, worker)
        with self._reported("the list of workers cannot be written"):
            self._roster.add(slot, worker.process.pid)
        start = {
            "type": "start",
            "slot": slot,
            "slots": self._slots,
            "handover": self._handover,
            "listeners": [listener.describe() for listener in self._listeners],
        }
        self._send_certificates(worker)
        self._send(worker, start, [self._board.segment.fd, *(listener.sock.fileno() for listener in self._listeners)])
        self._send_table(worker, self._generations.current, loop.create_future())

    def _launch(self, slot: int) -> _Worker:
        """Start a process with one end of a channel; raise `OSError` when the machine does not let us."""
        ours, theirs = channel.pair()
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                process = subprocess.Popen(
                    [*self._argv, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            undo.callback(process.wait)
            undo.callback(process.kill)
            ours.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            pidfd = os.pidfd_open(process.pid)
            undo.pop_all()
        return _Worker(slot, process, ours, pidfd, self._board.row(slot).beat)

    def _start_later(self, slot: int) -> None:
        failures = self._failures[slot]
        self._failures[slot] += 1
        delay_s = min(BACKOFF_MOST_S, BACKOFF_S * 2 ** (failures - 1)) if failures else 0.0
        self._restarts[slot] = asyncio.get_running_loop().call_later(delay_s, self._start, slot)

    def _ended(self, worker: _Worker) -> None:
        """Clean up after a worker whose process is gone, and see to the next one."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.pidfd)
        loop.remove_reader(worker.sock)
        code = worker.process.wait()
        os.close(worker.pidfd)
        worker.sock.close()
        worker.receiver.close()
        del self._alive[worker.slot]
        with self._reported("what the worker counted is not whole", TidegateError):
            self._generations.fold_worker(worker.slot)
        self._board.clear(worker.slot)
        with self._reported("the list of workers cannot be written"):
            self._roster.remove(worker.slot)
        for awaited in worker.awaited.values():
            if not awaited.answer.done():
                awaited.answer.set_result(None)  # its successor starts with the current table
        if not self._ending:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            self._log(f"worker {worker.slot} (pid {worker.process.pid}) {how}: starting another")
            self._lost(worker.slot, how)
            self._start_later(worker.slot)
        self._change()

    def _end(self) -> None:
        self._ending = True
        for restart in self._restarts.values():
            restart.cancel()
        self._restarts.clear()
        self._change()

    def _give_up(self, worker: _Worker, why: str) -> None:
        self._log(f"worker {worker.slot} (pid {worker.process.pid}) {why}: killed")
        self._kill(worker)

    def _kill(self, worker: _Worker) -> None:
        worker.doomed = True
        worker.listening = False
        worker.process.kill()  # not yet waited for: the pid is still its own

    # --- the channel ---------------------------------------------------------------------------------------------

    def _send_table(self, worker: _Worker, generation: Generation, answer: asyncio.Future[str | None]) -> None:
        number = generation.number
        worker.awaited[number] = _Awaited(answer)
        try:
            counters = generation.counters.get(worker.slot) or self._generations.counters_for(generation, worker.slot)
            table = enclose("table", to_plain(generation.table))
        except OSError as error:
            self._give_up(worker, f"cannot be given memory ({error})")
            return
        with table:
            self._send(worker, {"type": "table", "generation": number}, [generation.control.fd, counters.fd, table.fd])

    def _send_certificates(self, worker: _Worker) -> None:
        if self._certificates is None or not self._certificates.any:
            return
        try:
            with self._certificates.message() as (message, descriptors):
                self._send(worker, message, descriptors)
        except OSError as error:
            self._give_up(worker, f"cannot be given its certificates ({error})")

    def _send(self, worker: _Worker, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if worker.doomed:
            return
        try:
            channel.send(worker.sock, message, fds)
        except (OSError, ValueError) as error:
            # A worker that is gone will be seen by its pidfd; one that does not read is as good as gone.
            self._give_up(worker, f"cannot be told anything ({error})")

    def _read(self, worker: _Worker) -> None:
        try:
            messages = worker.receiver.feed(worker.sock)
        except EOFError:
            asyncio.get_running_loop().remove_reader(worker.sock)
            worker.mute = True
            return
        except (ValueError, OSError) as error:
            asyncio.get_running_loop().remove_reader(worker.sock)
            self._give_up(worker, f"does not make sense ({error})")
            return
        for message, fds in messages:
            for fd in fds:
                os.close(fd)
            try:
                self._hear(worker, message)
            except (KeyError, TypeError, TidegateError) as error:
                self._give_up(worker, f"does not make sense ({error!r})")

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "listening":
            worker.listening = self._listened = True
            worker.silent_sweeps = 0
        elif kind == "notice":
            self._log(f"worker {worker.slot}: {message['text']}")
        elif kind == "released":
            self._generations.release(message["generation"], worker.slot)
        elif kind in ("ack", "refused"):
            why = None if kind == "ack" else f"worker {worker.slot}: {message.get('why')}"
            awaited = worker.awaited.pop(message["generation"], None)
            if awaited is not None and not awaited.answer.done():
                awaited.answer.set_result(why)
            worker.serves = worker.serves or why is None
            if not worker.serves and not worker.doomed:
                self._refused = f"worker {worker.slot} cannot use its first table: {message.get('why')}"
                self._give_up(worker, f"cannot use its first table ({message.get('why')})")
        self._change()

    # --- waiting -------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()

    @contextlib.contextmanager
    def _reported(self, what: str, kind: type[Exception] = OSError) -> Iterator[None]:
        """Log an error of this kind instead of raising it: the rest still has to be done."""
        try:
            yield
        except kind as error:
            self._log(f"{what}: {error}")
