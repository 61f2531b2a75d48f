"""Work that would hold up everybody else's requests, done a bit at a time.

The problem: what one read brings is done with in microseconds, unless it is a body in chunks of one byte: then in tens
of milliseconds, and the next read waits already. A few clients who send such a body, or an endpoint that answers so,
would keep the loop from everything else until the worker passes for hung.

*Turn*: a bit of such work, about a millisecond. Whoever has more than that is not read from, and waits here. In each
round of the loop, between the events of all others, turns are taken for a few milliseconds: by the first to its end,
then by the next, because if they took them in rotation they would all be read from again in the same round. Whose turn
raises is ended, and nobody else is held up by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic_ns
from typing import Protocol

_ROUND_NS = 5_000_000


class TakesTurns(Protocol):
    """Who has a bit of work left."""

    def take_turn(self) -> bool:
        """Do about a millisecond's work; return whether some is left."""
        ...

    def abort(self) -> None:
        """Close now: a turn raised."""
        ...


class Turns:
    """Those who wait, in their order."""

    __slots__ = ("_internal_error", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, internal_error: Callable[[BaseException], None]) -> None:
        """`internal_error` hears what a turn raised."""
        self._loop = loop
        self._internal_error = internal_error
        self._waiting: dict[TakesTurns, None] = {}

    def add(self, one: TakesTurns) -> None:
        """Let one wait, unless it does already."""
        if not self._waiting:
            self._loop.call_soon(self._round)
        self._waiting[one] = None

    def _round(self) -> None:
        waiting = self._waiting
        until = monotonic_ns() + _ROUND_NS
        while waiting and monotonic_ns() < until:
            first = next(iter(waiting))
            if not self._take(first):
                del waiting[first]
        if waiting:
            self._loop.call_soon(self._round)

    def _take(self, one: TakesTurns) -> bool:
        try:
            return one.take_turn()
        except Exception as error:  # noqa: BLE001 -- the others' turns must come
            self._internal_error(error)
            one.abort()
            return False
