"""Time as an argument.

Everything below the shells takes `now`; the shells take a `Clock`, so that tests can pass their own.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds that never go back; comparable between processes of one boot."""

    def wall(self) -> float:
        """Return seconds since the Unix epoch."""


class SystemClock:
    """The machine's clocks (CLOCK_MONOTONIC and CLOCK_REALTIME)."""

    def monotonic_ns(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    def wall(self) -> float:
        """Return CLOCK_REALTIME in seconds."""
        return time.time()
