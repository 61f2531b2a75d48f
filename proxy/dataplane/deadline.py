"""One coarse timer wheel per worker.

The problem: every exchange has several deadlines (head, body, connect, first byte, idle, total, latency
thresholds), nearly all of which never expire. A `call_later` for each would cost more than the request.

*Item*: a connection, with two fields: `due`, the tick at which it wants to be looked at (0 = never), and `filed`,
the tick under which it stands in the wheel (0 = not at all). Arming is lazy: moving `due` to a later tick is one
store; only an earlier one is filed anew, and the old entry is dropped when its tick comes. Nothing is filed more
than `HORIZON` ticks ahead, so that a closed connection is not held longer than a second.

An item's `expire(now_ns)` is called at its tick and arms the next one. A tick is 50 ms. Cost of arming: 0.1 µs.
"""

from __future__ import annotations

from typing import Protocol

TICK_NS = 50_000_000
HORIZON = 20
_SLOTS = 32
_MASK = _SLOTS - 1


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

    __slots__ = ("_slots", "tick")

    def __init__(self) -> None:
        self.tick = 1
        self._slots: list[list[Item]] = [[] for _ in range(_SLOTS)]

    def arm(self, item: Item, after: int) -> None:
        """Have `item` looked at `after` ticks from now (at least 1), instead of when it was due before."""
        due = self.tick + after
        item.due = due
        if not item.filed or due < item.filed:
            self._file(item, due)

    def _file(self, item: Item, due: int) -> None:
        at = min(due, self.tick + HORIZON)
        item.filed = at
        self._slots[at & _MASK].append(item)

    def advance(self, now_ns: int) -> None:
        """Go one tick forward and expire what is due. `expire` must not raise."""
        self.tick = tick = self.tick + 1
        slot = self._slots[tick & _MASK]
        if not slot:
            return
        self._slots[tick & _MASK] = []
        for item in slot:
            if item.filed != tick:
                continue  # filed anew under an earlier tick since
            item.filed = 0
            if item.due > tick:
                self._file(item, item.due)
            elif item.due:
                item.due = 0
                item.expire(now_ns)
