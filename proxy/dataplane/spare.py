"""Descriptors: what is kept back for what must work when all the others are taken, and how many are left.

A generation comes with two descriptors, and mapping their segments takes two more. When a worker has no room for
them the kernel drops them, and without them there is no way to lead this worker: it would have to be replaced, with
all its connections. So a few are held on nothing, given up while the supervisor is listened to, and taken back after.

The kernel gives the lowest number that is free, so that a new descriptor's number says how many are taken at least.
At the mark that `proxy.ipc.files` sets, accepting is held until a lower one is free: whoever comes waits in the accept
queue. Without that libuv, which has no other way not to spin, would accept and close everybody who waits there.
"""

from __future__ import annotations

import os
import resource

_HELD = 16  # room for four generations


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


def lowest_free(beside: int = 0) -> int | None:
    """Return the number that a descriptor gets which follows `beside` others, `None` if there is none left."""
    opened: list[int] = []
    try:
        while len(opened) <= beside:
            opened.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return opened[-1]
