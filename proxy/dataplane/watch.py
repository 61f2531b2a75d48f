"""Whose beats a worker watches: the controller's and its neighbours'.

A beat is a counter on the board. The watcher counts its own sweeps since the counter last moved and compares no
clocks: a worker that was itself stopped for a minute does not take everybody else for dead when it wakes up.
"""

from __future__ import annotations


class Beat:
    """One watched counter; `silent` is how many sweeps in a row it stood still."""

    __slots__ = ("_last", "silent")

    def __init__(self) -> None:
        self._last = -1
        self.silent = 0

    def look(self, value: int) -> int:
        """Take the counter's value of this sweep; return for how many sweeps it has not moved."""
        if value != self._last:
            self._last = value
            self.silent = 0
        else:
            self.silent += 1
        return self.silent
