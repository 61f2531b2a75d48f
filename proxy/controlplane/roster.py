"""Which worker processes are ours: the list beside the state that the next supervisor reads.

Workers outlive a supervisor that dies (handover.py), so its successor must know whom to wait for and whose
sockets it may find on its addresses. The *roster* is a small JSON file, replaced as a whole at each change, or, on a
disk that is full, written over: it has whole blocks of its own. A new worker is written into it before it is given a
socket: one that is not in it holds nothing.

A *process* is told from a later one with the same pid by its start time (field 22 of /proc/PID/stat, clock ticks
since boot) and the boot's id; a signal goes through a pidfd opened before both were compared, so that it
cannot hit a stranger. A list that cannot be read means that there are no orphans: whoever holds an
address will be found by the probe.

Sources: proc(5), pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from proxy.controlplane.listeners import Listener, path_identity

_WHOLE = 4096  # the list takes whole blocks: written over, it does not grow


@dataclass(frozen=True, slots=True)
class Process:
    """One worker process in slot `slot`; `start` is its start time in clock ticks since boot."""

    slot: int
    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_time(self.pid) == self.start

    def kill(self) -> bool:
        """Send SIGKILL to this very process and to no other; return whether it was there."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive:
                return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return True
        finally:
            os.close(pidfd)


@dataclass(frozen=True, slots=True)
class Left:
    """What a dead supervisor left: its live workers, and its listeners.

    `asked` has the config's address by the bound one; `paths` the identities of unix sockets' paths.
    """

    orphans: tuple[Process, ...] = ()
    asked: dict[str, str] | None = None
    paths: frozenset[tuple[int, int]] = frozenset()


def start_time(pid: int) -> int | None:
    """Return when a running process started, in clock ticks since boot; `None` when it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Return what tells this boot of the machine from another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def read(path: Path) -> Left:
    """Return what the supervisor before left behind; nothing when there is no list or it is of another boot."""
    try:
        found = json.loads(path.read_bytes())
        if found["boot"] != boot_id():
            return Left()
        processes = [Process(one["slot"], one["pid"], one["start"]) for one in found["workers"]]
        listeners = found["listeners"]
        return Left(
            tuple(process for process in processes if process.alive),
            {one["address"]: one["asked"] for one in listeners},
            frozenset((one["path"][0], one["path"][1]) for one in listeners if one["path"]),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return Left()


class Roster:
    """The list of this supervisor's workers. `orphans` stay on it for as long as they live."""

    def __init__(self, path: Path, orphans: Iterable[Process] = (), listeners: Iterable[Listener] = ()) -> None:
        self._path = path
        self._orphans = tuple(orphans)
        self._workers: dict[int, Process] = {}
        self._listeners = [
            {"asked": one.asked, "address": one.address, "path": path_identity(one.address)} for one in listeners
        ]

    def add(self, slot: int, pid: int) -> None:
        """Write down a worker that was just started (and not yet waited for)."""
        self._workers[slot] = Process(slot, pid, start_time(pid) or 0)
        self._write()

    def remove(self, slot: int) -> None:
        """Strike out the worker of a slot."""
        if self._workers.pop(slot, None) is not None:
            self._write()

    def clear(self) -> None:
        """Remove the list; if an orphan is still alive, leave it with the orphans alone."""
        self._workers.clear()
        if any(process.alive for process in self._orphans):
            self._write()
        else:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._orphans = tuple(process for process in self._orphans if process.alive)
        everybody = (*self._workers.values(), *self._orphans)
        text = json.dumps(
            {
                "boot": boot_id(),
                "workers": [{"slot": one.slot, "pid": one.pid, "start": one.start} for one in everybody],
                "listeners": self._listeners,
            }
        )
        raw = text.encode("ascii").ljust(-(-len(text) // _WHOLE) * _WHOLE)
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            fresh.write_bytes(raw)
            fresh.rename(self._path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            if error.errno != errno.ENOSPC:
                raise
            with self._path.open("r+b", buffering=0) as file:
                file.write(raw)
