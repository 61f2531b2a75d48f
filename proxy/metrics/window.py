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
from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise
from operator import sub

from proxy.errors import CounterWentBack
from proxy.metrics.snapshot import Columns, Judged

_PLAIN = 4  # numbers of a `Judged` before its tuples
_SLACK_S = 60.0  # kept beyond the longest window, so that a window that grows with every block finds its rows
_SPARE = 256  # expired rows are looked for when there are so many, or a multiple of it


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
        if len(self._times) % _SPARE:
            return
        # The newest row that is older than the longest window is still needed: it is where that window begins.
        expired = bisect_right(self._times, time_s - self._longest_s - _SLACK_S) - 1
        if expired > 0:
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
        added = list(map(sub, now, before))
        if min(added) < 0:
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
    """What was judged of one version over time; `columns` say for which thresholds and signals."""

    __slots__ = ("_edges", "_ring", "columns")

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._ring = Ring(len(_places(columns)))
        thresholds, first = len(columns.thresholds_us), len(columns.ttfb_thresholds_us)
        edges = list(accumulate((_PLAIN, thresholds, thresholds, first, first)))
        self._edges = list(pairwise(edges))  # where the tuples of a `Judged` stand in a row

    def append(self, time_s: float, judged: Judged) -> None:
        """Add the totals read at `time_s` (monotonic seconds); they are of this window's columns."""
        self._ring.append(time_s, judged.row())

    def over(self, seconds: float) -> tuple[Judged, float]:
        """Return what was judged in the last `seconds`, and the seconds that this covers."""
        added, covered = self._ring.over(seconds)
        ended, bad, diverted, client_errors = added[:_PLAIN]
        slow, fast, ttfb_slow, ttfb_fast = [tuple(added[start:stop]) for start, stop in self._edges]
        signals = added[self._edges[-1][1] :]
        pairs = tuple(zip(signals[::2], signals[1::2], strict=True))
        return Judged(ended, bad, diverted, client_errors, slow, fast, ttfb_slow, ttfb_fast, pairs), covered

    def with_columns(self, columns: Columns) -> Window:
        """Return the same history for other columns; what was not counted before is at 0 there."""
        other = Window(columns)
        at = {place: index for index, place in enumerate(_places(self.columns))}
        other._ring = self._ring.select([at.get(place) for place in _places(columns)])
        return other


def _places(columns: Columns) -> list[Hashable]:
    """Return names for the numbers of `Judged.row`."""
    places: list[Hashable] = [("plain", index) for index in range(_PLAIN)]
    places += [("slow", us) for us in columns.thresholds_us]
    places += [("fast", us) for us in columns.thresholds_us]
    places += [("ttfb_slow", us) for us in columns.ttfb_thresholds_us]
    places += [("ttfb_fast", us) for us in columns.ttfb_thresholds_us]
    places += [(word, signal) for signal in columns.signals for word in ("seen", "matched")]
    return places
