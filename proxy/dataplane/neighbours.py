"""Who accepts on whose socket, so that no queue is forgotten and connections lie evenly on the workers.

The kernel deals new connections to the workers' sockets by a hash (SO_REUSEPORT, socket(7)), as dice would: of 1,000 on
8 workers the most loaded has a fifth more than the mean, and a worker that was replaced begins with none. Every worker
holds the sockets of all slots and sees on the board what the others have.

A neighbour is *absent* when its beat stands still for 1 s (crashed, stopped, hung), or when it beats for 1 s and does
not accept (it is starting, perhaps again and again, or was told to end): its sockets are everybody's. A worker is
*crowded* when it has clearly more connections than the mean of those that accept, and has *room* when it has no more
than the mean. The board is as old as a sweep: while connections rush in, "clearly" is also more than what came to one
of them meanwhile, or those with room would take far too many before anybody looks again.

Whoever has room accepts for a neighbour that was crowded at two looks in a row. The crowded one goes on for one look
more, so that somebody has begun, and then leaves its queue to them. With nobody there who has room and whose beat
moves, it goes on accepting.
"""

from __future__ import annotations

from proxy.dataplane.watch import Beat
from proxy.ipc.layout import ACCEPTING, ACCEPTING_NOT, ROW_ACCEPTING, ROW_BEAT, ROW_CONNECTIONS, row

ABSENT = 20  # looks
FRESH = 2
LOOKS = 3
MORE_SHARE = 1.03
MORE = 4  # a handful makes nobody crowded


class Neighbours:
    """What the worker in `slot` makes of the board. `elsewhere`: the others' connections together."""

    __slots__ = ("_beats", "_closed", "_crowded", "_last", "_looks", "_own", "_slot", "_turn", "elsewhere")

    def __init__(self, slot: int, slots: int) -> None:
        self.elsewhere = 0
        self._slot = slot
        self._own = row(slot)
        self._beats = {other: Beat() for other in range(slots) if other != slot}
        self._closed = dict.fromkeys(self._beats, 0)  # looks in a row at which it did not accept
        self._turn: set[int] = set()  # the neighbours on whose sockets it is our turn to accept
        self._crowded: set[int] = set()  # the neighbours that were so when we looked last
        self._looks = 0  # in a row, at which we were crowded and there was help
        self._last: dict[int, int] = {}

    def look(self, words: memoryview) -> None:
        """Look at the board, once in a sweep."""
        own = words[self._own + ROW_CONNECTIONS]
        elsewhere = 0
        absent = set()
        others: dict[int, int] = {}
        for slot, beat in self._beats.items():
            at = row(slot)
            elsewhere += words[at + ROW_CONNECTIONS]
            accepting = words[at + ROW_ACCEPTING]
            self._closed[slot] = self._closed[slot] + 1 if accepting == ACCEPTING_NOT else 0
            if beat.look(words[at + ROW_BEAT]) >= ABSENT or self._closed[slot] >= ABSENT:
                absent.add(slot)
            elif accepting == ACCEPTING:
                others[slot] = words[at + ROW_CONNECTIONS]
        self.elsewhere = elsewhere
        mean = (own + sum(others.values())) / (1 + len(others))
        seen = {**others, self._slot: own}
        rush = max(connections - self._last.get(slot, 0) for slot, connections in seen.items())
        self._last = seen
        most = mean * MORE_SHARE + MORE + max(0, rush)
        crowded = {slot for slot, connections in others.items() if connections > most}
        self._turn = absent | (crowded & self._crowded if own <= mean else set())
        self._crowded = crowded
        helped = any(count <= mean and self._beats[slot].silent <= FRESH for slot, count in others.items())
        self._looks = self._looks + 1 if own > most and helped else 0

    def turn(self, slot: int | None) -> bool:
        """Return whether it is our turn to accept on the socket of `slot`; `None`: of everybody."""
        if slot is None or slot == self._slot:
            return self._looks < LOOKS
        return slot in self._turn
