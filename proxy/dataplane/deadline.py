"""One coarse timer wheel per worker.

The problem: every exchange has several deadlines (head, body, connect, first byte, idle, total, latency
thresholds), nearly all of which never expire. A `call_later` for each would cost more than the request.

*Item*: a connection, with two fields: `due`, the tick at which it wants to be looked at (0 = never), and `filed`,
the tick under which it stands in the wheel (0 = not at all). Arming is lazy: moving `due` to a later tick is one
store; only an earlier one is filed anew, and the old entry is dropped when its tick comes. Nothing is armed more
than `HORIZON` ticks ahead, so that a closed connection is not held longer than a second.

*Far*: what has come up and is due in more than `_FAR_FROM` ticks waits in a second ring, whose slots are `HORIZON`
ticks wide: thousands of idle connections would else be filed anew every second. Whoever ends must `drop` its item,
which would else be held there for up to a minute.

An item's `expire(now_ns)` is called at its tick and arms the next one. A tick is 50 ms. Cost of arming: 0.1 µs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

TICK_NS = 50_000_000
HORIZON = 20
_SLOTS = 32
_MASK = _SLOTS - 1
_FAR_FROM = 4 * HORIZON
_FAR_SLOTS = 64
_FAR_MASK = _FAR_SLOTS - 1


def ticks(seconds: float) -> int:
    """Return how many ticks cover `seconds`, at least 1."""
    return max(1, -int(-seconds * 1_000_000_000 // TICK_NS))


class Item(Protocol):
    """What stands in the wheel."""

    due: int
    filed: int

    def expire(self, now_ns: int) -> None:
        """Act on what is over, and arm what comes next."""


class Wheel:
    """The wheel; `tick` is the current tick and starts at 1."""

    __slots__ = ("_far", "_slots", "tick")

    def __init__(self) -> None:
        self.tick = 1
        self._slots: list[list[Item]] = [[] for _ in range(_SLOTS)]
        self._far: list[dict[Item, None]] = [{} for _ in range(_FAR_SLOTS)]

    def arm(self, item: Item, after: int) -> None:
        """Have `item` looked at `after` ticks from now (at least 1), instead of when it was due before."""
        due = self.tick + after
        item.due = due
        if not item.filed or due < item.filed:
            self._file(item, due)

    def drop(self, item: Item) -> None:
        """Look at `item` no more, and do not hold it."""
        item.due = 0
        self._leave_far(item)

    def _leave_far(self, item: Item) -> None:
        if item.filed > self.tick + HORIZON:
            del self._far[item.filed // HORIZON & _FAR_MASK][item]
            item.filed = 0

    def _file(self, item: Item, due: int) -> None:
        self._leave_far(item)
        at = min(due, self.tick + HORIZON)
        item.filed = at
        self._slots[at & _MASK].append(item)

    def _file_far(self, item: Item) -> None:
        slot = min(item.due // HORIZON, self.tick // HORIZON + _FAR_MASK)
        item.filed = slot * HORIZON
        self._far[slot & _FAR_MASK][item] = None

    def advance(self, now_ns: int) -> None:
        """Go one tick forward and expire what is due. `expire` must not raise."""
        self.tick = tick = self.tick + 1
        slot = self._slots[tick & _MASK]
        if slot:
            self._slots[tick & _MASK] = []
            self._look_at(slot, now_ns)
        if not tick % HORIZON:
            far = self._far[tick // HORIZON & _FAR_MASK]
            if far:
                self._far[tick // HORIZON & _FAR_MASK] = {}
                self._look_at(far, now_ns)

    def _look_at(self, items: Iterable[Item], now_ns: int) -> None:
        tick = self.tick
        for item in items:
            if item.filed != tick:
                continue  # filed anew under an earlier tick since
            item.filed = 0
            if item.due > tick + _FAR_FROM:
                self._file_far(item)
            elif item.due > tick:
                self._file(item, item.due)
            elif item.due:
                item.due = 0
                item.expire(now_ns)
