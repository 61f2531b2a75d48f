"""Descriptors that are kept back, for what must work when clients have taken all the others.

A generation comes with two descriptors, and mapping their segments takes two more. When a worker has no room for
them the kernel drops them, and without them there is no way to lead this worker: it would have to be replaced, with
all its connections. So a few are held on nothing, given up while the supervisor is listened to, and taken back after.
"""

from __future__ import annotations

import os

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
