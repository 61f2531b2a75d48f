"""What lines are written to: a file, or something that somebody reads. Nobody who reads slowly holds up a worker.

* A *file* on disk takes what comes, in one write with O_APPEND, so that lines of several workers never mix.
* A *pipe* or a terminal may be full. It is written to without waiting, in pieces of whole lines that the kernel takes
  whole or not at all (PIPE_BUF, pipe(7)). O_NONBLOCK is a flag of the open file, which standard output shares with
  whoever else has it (our supervisor, the shell behind us), so it is opened anew instead. Where that may not be (it is
  another user's), it is asked first whether it takes a piece; a terminal that then takes only a part is waited for.
* A *socket* (journald) is told with every piece not to wait.

What cannot be written now waits for the next time, up to 1 MiB. What is more is lost, and so is what a full disk, or
a pipe that nobody reads any more, refuses. A line that was written in part is ended before the next one begins, in a
file that may be read also one of another worker, or of one that crashed: such a file has to end as before the next time
that it is written to, because it also looks so while another worker writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Callable, Sequence
from errno import ENXIO
from pathlib import Path

WAITS_MOST = 1024 * 1024  # bytes
_PIPE_BYTES = 1024 * 1024  # usually the most that a user may ask for (pipe-max-size)
_FLAGS = os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MODE = 0o640
_SLOW = "its reader does not keep up"


class Sink:
    """One of them, open. `fault`: why a line was lost the last time."""

    __slots__ = ("_descriptor", "_is_file", "_put", "_readable", "_torn", "_torn_at", "_waiting", "fault")

    def __init__(self, place: str | int) -> None:
        """Open a path, or a descriptor that others have too, such as standard output; raise `OSError`.

        A pipe that nobody reads cannot be opened by its path.
        """
        self._descriptor = _shared(place) if isinstance(place, int) else _open(place)
        mode = os.fstat(self._descriptor).st_mode
        self._is_file = stat.S_ISREG(mode)
        access = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        self._readable = self._is_file and access == os.O_RDWR
        self._put = self._way_to_write(mode)
        self._torn = False
        self._torn_at = 0  # the size at which the file was last seen to end within a line
        self._waiting: list[bytes] = []
        self.fault = ""
        if self._readable:
            with contextlib.suppress(BlockingIOError):
                self._ends_torn()
        with contextlib.suppress(OSError):  # else it has 64 KiB, which several busy workers fill within a sweep
            if stat.S_ISFIFO(mode) and fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ) < _PIPE_BYTES:
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _way_to_write(self, mode: int) -> Callable[[bytes], int]:
        if stat.S_ISSOCK(mode):
            return self._send
        if self._is_file or not os.get_blocking(self._descriptor):
            return self._write
        return self._write_if_ready

    def write(self, lines: Sequence[bytes]) -> int:
        """Write lines, each with its end, behind those that wait; return how many were lost."""
        lost = 0
        self._waiting += lines
        try:
            while self._waiting:
                lost += self._write_piece()
        except BlockingIOError:
            lost += self._keep_what_may_wait()
        except OSError as error:
            self.fault = (error.strerror or "unknown").lower()
            lost += self._forget(len(self._waiting))
        return lost

    def close(self) -> int:
        """Close it; return how many of the lines that waited are lost."""
        lost = self.write([])
        os.close(self._descriptor)
        return lost + self._forget(len(self._waiting))

    def _write_piece(self) -> int:
        """Write the next lines; return how many were lost by being written in part."""
        if self._readable:
            self._torn = self._ends_torn()
        lines = self._waiting[: self._fitting()]
        before = b"\n" if self._torn else b""
        piece = b"".join(lines)
        left = self._put(before + piece) - len(before)
        if left < len(piece):
            return self._cut(lines, left)
        self._torn = False
        self._forget(len(lines))
        return 0

    def _cut(self, lines: Sequence[bytes], left: int) -> int:
        """Take note that only `left` bytes of `lines` were written; return how many lines are lost by that."""
        done = 0
        while left >= len(lines[done]):
            left -= len(lines[done])
            done += 1
        self._torn = left > 0
        if self._readable:
            self._torn_at = os.fstat(self._descriptor).st_size
        self.fault = "there was no room for a whole line"
        lost = 0 < left < len(lines[done]) - 1  # where only its end is missing, that comes before the next one
        self._forget(done + self._torn)
        return int(lost)

    def _fitting(self) -> int:
        """Return how many of the waiting lines make the next piece: at least one."""
        if self._is_file:
            return len(self._waiting)
        size = 1  # the end of a torn line
        for count, line in enumerate(self._waiting):
            size += len(line)
            if size > select.PIPE_BUF:
                return max(1, count)
        return len(self._waiting)

    def _forget(self, count: int) -> int:
        del self._waiting[:count]
        return count

    def _keep_what_may_wait(self) -> int:
        """Give up the newest lines where too much waits; return how many."""
        size = 0
        for count, line in enumerate(self._waiting):
            size += len(line)
            if size > WAITS_MOST:
                lost = len(self._waiting) - count
                del self._waiting[count:]
                self.fault = _SLOW
                return lost
        return 0

    def _ends_torn(self) -> bool:
        """Whether the file ends within a line, whoever began it; raise `BlockingIOError` where that may be going on."""
        size = os.fstat(self._descriptor).st_size
        if not size or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return False
        if size != self._torn_at:
            self._torn_at = size
            raise BlockingIOError
        return True

    def _write(self, piece: bytes) -> int:
        return os.write(self._descriptor, piece)

    def _write_if_ready(self, piece: bytes) -> int:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._descriptor, piece[: select.PIPE_BUF])  # ready is who takes so much without waiting

    def _send(self, piece: bytes) -> int:
        sock = socket.socket(fileno=self._descriptor)
        try:
            return sock.send(piece, socket.MSG_DONTWAIT)
        finally:
            sock.detach()


def _shared(descriptor: int) -> int:
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | _FLAGS)
    return os.dup(descriptor)


def _open(path: str) -> int:
    is_pipe = False
    with contextlib.suppress(OSError):
        is_pipe = Path(path).is_fifo()
    if not is_pipe:
        with contextlib.suppress(PermissionError):
            return os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, _MODE)
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | _FLAGS, _MODE)
    except OSError as error:
        if is_pipe and error.errno == ENXIO:
            raise OSError(ENXIO, "nobody reads this pipe", path) from None
        raise
