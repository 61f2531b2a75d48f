"""Sliding windows: the difference of two snapshots, never a counter that is reset.

A *ring* keeps rows of counters with the time at which they were read, for as long as anybody asks: the longest window
that was asked for, and a minute. A window of s seconds reaches from the newest row back to the newest one that is at
least s seconds older: it is never shorter than asked, and at most one block longer. While there is no row that old,
it reaches back to the first one, and says so by the seconds that it covers.

Rules: no clock is read here, times are arguments (monotonic seconds); a negative difference raises `CounterWentBack`.
Memory: 8 bytes per number and block; a 5-minute window of one version with two latency limits takes 80 kB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence

from proxy.errors import CounterWentBack
from proxy.metrics.snapshot import Judged

_SLACK_S = 60.0  # kept beyond the longest window, so that a window that grows with every block finds its rows
_SPARE = 256  # expired rows that may wait until they are cut off together


class Ring:
    """Rows of `width` counters over time."""

    __slots__ = ("_longest_s", "_rows", "_times", "_width")

    def __init__(self, width: int) -> None:
        self._width = width
        self._longest_s = 0.0
        self._times = array("d")
        self._rows = array("Q")

    def append(self, time_s: float, row: Sequence[int]) -> None:
        """Add what the counters said at `time_s`, which is not before the newest row's time."""
        self._times.append(time_s)
        self._rows.extend(row)
        # The newest row that is older than the longest window is still needed: it is where that window begins.
        expired = bisect_right(self._times, time_s - self._longest_s - _SLACK_S) - 1
        if expired > _SPARE:
            del self._times[:expired]
            del self._rows[: expired * self._width]

    def over(self, seconds: float) -> tuple[list[int], float]:
        """Return what was added in the last `seconds`, and the seconds that this covers (0 with less than two rows)."""
        self._longest_s = max(self._longest_s, seconds)
        if not self._times:
            return [0] * self._width, 0.0
        newest = self._times[-1]
        first = max(0, bisect_right(self._times, newest - seconds) - 1)
        now, before = self._row(len(self._times) - 1), self._row(first)
        added = [after - earlier for after, earlier in zip(now, before, strict=True)]
        if any(number < 0 for number in added):
            raise CounterWentBack(f"a counter shrank within {seconds} s: from {before.tolist()} to {now.tolist()}")
        return added, newest - self._times[first]

    def select(self, columns: Sequence[int | None]) -> Ring:
        """Return a ring with these columns of this one; `None` is a column of zeros."""
        other = Ring(len(columns))
        other._longest_s = self._longest_s
        other._times = self._times[:]
        for index in range(len(self._times)):
            row = self._row(index)
            other._rows.extend(0 if column is None else row[column] for column in columns)
        return other

    def _row(self, index: int) -> array[int]:
        return self._rows[index * self._width : (index + 1) * self._width]


class Window:
    """What was judged of one version over time, for the latency thresholds `thresholds_us`."""

    __slots__ = ("_ring", "thresholds_us")

    def __init__(self, thresholds_us: Sequence[int]) -> None:
        self.thresholds_us = tuple(thresholds_us)
        self._ring = Ring(4 + 2 * len(self.thresholds_us))

    def append(self, time_s: float, judged: Judged) -> None:
        """Add the totals read at `time_s` (monotonic seconds); their thresholds are this window's."""
        self._ring.append(
            time_s, (judged.ended, judged.bad, judged.diverted, judged.client_errors, *judged.slow, *judged.fast)
        )

    def over(self, seconds: float) -> tuple[Judged, float]:
        """Return what was judged in the last `seconds`, and the seconds that this covers."""
        added, covered = self._ring.over(seconds)
        split = 4 + len(self.thresholds_us)
        return Judged(added[0], added[1], added[2], added[3], tuple(added[4:split]), tuple(added[split:])), covered

    def with_thresholds(self, thresholds_us: Sequence[int]) -> Window:
        """Return the same history for other thresholds; one that was not counted before is at 0 there."""
        other = Window(thresholds_us)
        count = len(self.thresholds_us)
        at = {us: index for index, us in enumerate(self.thresholds_us)}
        slow = [4 + at[us] if us in at else None for us in other.thresholds_us]
        fast = [None if column is None else column + count for column in slow]
        other._ring = self._ring.select([0, 1, 2, 3, *slow, *fast])
        return other
