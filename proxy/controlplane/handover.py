"""How the workers of a dead supervisor hand their sockets to the next one.

Nouns: an *orphan* is a worker whose channel shows that its supervisor is gone. It serves on, sends everything to
`stable`, and looks for a successor at the *handover*, a unix socket beside the state. There it sends its listening
sockets and its control segments (orphaned.py), and waits for one word: *retire*.

1. The successor opens the handover and waits until every orphan on the roster has come (`collect`); 2 s are
   enough for a healthy one, which looks every 200 ms. A stopped one may stay out: the sockets of all slots are
   open in each of its neighbours.
2. It makes the sockets its own slots' sockets, so that no connection that waits in an accept queue is lost,
   starts its workers and waits until they listen. Until then the orphans accept as ever.
3. It answers everyone who has come, and from then on everyone who comes late (`retire`). `adopted: true`: every
   socket on which this orphan accepts lives on with us, so it closes its own at once. `false`: it has one
   that nobody needs any more (fewer slots, another address) and accepts until that queue is empty.
4. An orphan that has not come 10 s later is not going to: it is killed, for as long as it holds a socket
   the kernel gives it connections (`reap`).

What is not promised: a socket that nobody needs any more is closed by its orphans one after the other, and the kernel
resets what came in between (unless net.ipv4.tcp_migrate_req is 1). So fewer workers after a crash may cost a few
connections; the same number, or more, costs none.

Only this user's processes are listened to (SO_PEERCRED). Source: unix(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from proxy.controlplane.listeners import Listener, inode, shown
from proxy.controlplane.roster import Process
from proxy.errors import SegmentMismatch, StateError
from proxy.ipc import channel

COME_S = 2.0
SILENT_S = 10.0
_LOOK_S = 0.05
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class _Visitor:
    """A connection at the handover: a process of ours, and, once it has spoken, an orphan with its sockets."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.receiver = channel.Receiver()
        self.accepts_on: frozenset[int] | None = None  # inodes; `None` = it has not spoken yet


class Handover:
    """The meeting point. Belongs to one event loop; every method but `collect` returns at once."""

    def __init__(
        self,
        path: Path,
        *,
        orphans: Iterable[Process] = (),
        asked: Mapping[str, str] | None = None,
        log: Callable[[str], None],
        adopt: Callable[[int, int, Mapping[str, int]], None],
    ) -> None:
        """`adopt(fd, layout hash, weight words by service)` takes the control segments that orphans read."""
        self._path = path
        self._orphans = tuple(orphans)
        self._asked = asked or {}
        self._log = log
        self._adopt = adopt
        self._sock: socket.socket | None = None
        self._visitors: set[_Visitor] = set()
        self._came: set[int] = set()
        self._offered: list[Listener] = []
        self._kept: frozenset[int] | None = None  # `None` until `retire`
        self._silent_from: float | None = None

    def open(self) -> None:
        """Listen. Whoever holds the lock owns the path; raise `StateError` if it cannot be made."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)  # noqa: FBT003
        try:
            self._path.unlink(missing_ok=True)
            sock.bind(str(self._path))
            self._path.chmod(0o600)
            sock.listen(64)
        except OSError as error:
            sock.close()
            raise StateError(f"cannot be made: {error.strerror or error}", where=str(self._path)) from error
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)

    async def collect(self) -> list[Listener]:
        """Wait until every live orphan has come, 2 s at most, and return their sockets, each once."""
        loop = asyncio.get_running_loop()
        late = loop.time() + COME_S
        while self._missing() and loop.time() < late:  # noqa: ASYNC110 - a death is no event of ours
            await asyncio.sleep(_LOOK_S)
        if missing := self._missing():
            pids = ", ".join(str(process.pid) for process in missing)
            self._log(f"workers of the supervisor before do not answer (pid {pids}): going on without them")
            self._silent_from = loop.time()
        offered, self._offered = self._offered, []
        return offered

    def retire(self, kept: Iterable[Listener]) -> None:
        """Tell the orphans, those here and those to come, that our own workers listen on the `kept` sockets."""
        self._kept = frozenset(inode(listener.sock) for listener in kept)
        for visitor in list(self._visitors):
            self._answer(visitor)

    def reap(self) -> None:
        """Kill the orphans that have been silent for 10 s more. Call it now and then."""
        if self._silent_from is None or asyncio.get_running_loop().time() - self._silent_from < SILENT_S:
            return
        self._silent_from = None
        for process in self._missing():
            if process.kill():
                self._log(f"worker {process.slot} of the supervisor before (pid {process.pid}) was silent: killed")

    def close(self) -> None:
        """Stop listening; orphans that were not answered keep looking for a successor."""
        for visitor in list(self._visitors):
            self._leave(visitor)
        for listener in self._offered:
            listener.sock.close()
        self._offered = []
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None
            self._path.unlink(missing_ok=True)

    def _missing(self) -> list[Process]:
        return [process for process in self._orphans if process.pid not in self._came and process.alive]

    def _accept(self) -> None:
        assert self._sock is not None  # noqa: S101 - the reader is removed before it is closed
        try:
            sock, _ = self._sock.accept()
        except OSError:  # it left already, or no descriptor is free: it will come again
            return
        sock.setblocking(False)  # noqa: FBT003
        pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.getuid():
            sock.close()
            return
        visitor = _Visitor(sock, pid)
        self._visitors.add(visitor)
        asyncio.get_running_loop().add_reader(sock, self._read, visitor)

    def _read(self, visitor: _Visitor) -> None:
        try:
            messages = visitor.receiver.feed(visitor.sock)
        except (EOFError, ValueError, OSError):
            self._leave(visitor)
            return
        for message, fds in messages:
            try:
                self._take(visitor, message, fds)
            except (KeyError, TypeError, ValueError, OSError, SegmentMismatch) as error:
                self._log(f"what process {visitor.pid} said at the handover makes no sense: {error!r}")
                self._leave(visitor)
                return

    def _take(self, visitor: _Visitor, message: dict[str, Any], fds: list[int]) -> None:
        """Take the sockets and the control segments of an orphan, whose descriptors come in this order.

        {"type": "orphan", "slot", "pid", "listeners": [{"address", "slot"}], "controls": [{"hash", "weights"}]}
        """
        taken = len(message["listeners"])
        segments = fds[taken:]
        socks = [socket.socket(fileno=fd) for fd in fds[:taken]]
        with contextlib.ExitStack() as undo:
            for sock in socks:
                undo.callback(sock.close)
            undo.callback(_close_all, segments)
            slot = int(message["slot"])
            if len(segments) != len(message["controls"]):
                raise ValueError("not one descriptor for each control segment")
            for control in message["controls"]:
                layout_hash, weights = control["hash"], control["weights"]
                self._adopt(segments.pop(0), layout_hash, weights)
            listeners = []
            for described, sock in zip(message["listeners"], socks, strict=True):
                sock.setblocking(False)  # noqa: FBT003
                if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    raise ValueError("a socket that does not listen")
                # A unix socket was bound under another name than it is reached by.
                address = str(described["address"]) if sock.family == socket.AF_UNIX else shown(sock)
                listeners.append(Listener(self._asked.get(address, address), address, described["slot"], sock))
            undo.pop_all()
        visitor.accepts_on = frozenset(inode(one.sock) for one in listeners if one.slot in (slot, None))
        self._came.add(visitor.pid)
        known = {inode(listener.sock) for listener in self._offered}
        for listener in listeners:
            # Later than `retire` nobody takes a socket any more: the orphan itself empties the queue.
            if self._kept is not None or inode(listener.sock) in known:
                listener.sock.close()
            else:
                self._offered.append(listener)
        if self._kept is not None:
            self._answer(visitor)

    def _answer(self, visitor: _Visitor) -> None:
        if visitor.accepts_on is None or self._kept is None:
            return
        adopted = visitor.accepts_on <= self._kept
        with contextlib.suppress(OSError):
            channel.send(visitor.sock, {"type": "retire", "adopted": adopted})
        self._log(f"worker of the supervisor before (pid {visitor.pid}) retires, adopted={str(adopted).lower()}")
        self._leave(visitor)

    def _leave(self, visitor: _Visitor) -> None:
        self._visitors.discard(visitor)
        if visitor.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(visitor.sock)
            visitor.sock.close()
        visitor.receiver.close()


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
