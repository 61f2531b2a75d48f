"""Descriptors: what is kept back for what must work when all the others are taken, and how many are left.

A generation comes with two descriptors, and mapping their segments takes two more. When a worker has no room for
them the kernel drops them, and without them there is no way to lead this worker: it would have to be replaced, with
all its connections. So a few are held on nothing, given up while the supervisor is listened to, and taken back after.

Accepting is held while as many are taken as `proxy.ipc.files` leaves to clients: whoever comes waits in the accept
queue. Were there none left for the next client, libuv, which has no other way not to spin, would accept and close
everybody who waits there. The number of a new descriptor does not say how many are taken: it is the lowest that is
free, and those above may all be in use. So the worker counts its connections, and now and then what else is open.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

_HELD = 16  # room for four generations
_OPENED = Path("/proc/self/fd")


class Spare:
    """The descriptors that are kept back."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[int] = []
        self.take()

    def give(self) -> None:
        """Make room."""
        while self._held:
            os.close(self._held.pop())

    def take(self) -> None:
        """Keep back again what is missing, as far as there is anything."""
        while len(self._held) < _HELD:
            try:
                self._held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return


def allowed() -> int:
    """Return how many files may be open, -1 if there is no limit. It may be changed from outside (prlimit)."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def opened() -> int:
    """Return how many files this process has open."""
    count = _OPENED.stat().st_size  # 0 before Linux 6.2
    if count:
        return count
    try:
        return sum(1 for _ in _OPENED.iterdir()) - 1  # without the one that it is read with
    except OSError:
        return max(0, allowed())  # there is none to read it with


def has_room(count: int) -> bool:
    """Return whether so many more files can be opened now."""
    descriptors: list[int] = []
    try:
        while len(descriptors) < count:
            descriptors.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return True
