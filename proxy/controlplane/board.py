"""The board: where the supervisor and its workers see whether the other one lives.

One segment for the supervisor's life. The *controller's beat* and the draining flag are written by the supervisor;
each slot has a *row* of gauges that the worker in it writes. A replaced worker is dead before the next one
writes, so every word has one writer at a time. Nobody compares clocks: a reader counts its own sweeps in which a
beat did not change.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.ipc.layout import BOARD_BEAT, BOARD_DRAINING, ROW_BEAT, ROW_TUNNELS, board_hash, board_words, row
from proxy.ipc.segment import Segment


@dataclass(frozen=True, slots=True)
class Row:
    """What a worker says of itself; the fields are the words of its row, in order (layout.ROW_…)."""

    beat: int
    pid: int
    connections: int
    loop_lag_us: int
    rss: int
    generation: int
    stable_only: int
    accepted: int
    accepting: int
    tunnels: int


class Board:
    """The supervisor's side of the board; `segment.fd` is what workers are given."""

    __slots__ = ("segment", "slots")

    def __init__(self, segment: Segment, slots: int) -> None:
        self.segment = segment
        self.slots = slots

    @classmethod
    def create(cls, slots: int) -> Board:
        """Make a board with `slots` rows, all 0."""
        return cls(Segment.create("board", board_words(slots), board_hash(slots)), slots)

    def beat(self) -> None:
        """Say that the controller has judged every service: the last act of its tick."""
        self.segment.words[BOARD_BEAT] += 1

    def set_draining(self, draining: bool) -> None:  # noqa: FBT001  # the flag is the argument
        """Say whether the supervisor drains."""
        self.segment.words[BOARD_DRAINING] = int(draining)

    def row(self, slot: int) -> Row:
        """Return what the worker in `slot` wrote last."""
        at = row(slot)
        return Row(*self.segment.words[at + ROW_BEAT : at + ROW_TUNNELS + 1].tolist())

    def clear(self, slot: int) -> None:
        """Zero the gauges of a dead worker; the beat stays where it stopped: that is what its neighbours watch."""
        words = self.segment.words
        for at in range(row(slot) + ROW_BEAT + 1, row(slot) + ROW_TUNNELS + 1):
            words[at] = 0

    def close(self) -> None:
        """Unmap; workers keep their mapping."""
        self.segment.close()
