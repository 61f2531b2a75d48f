"""What was measured before: the points of a report (`proxy.rollout.report`), from the lines of a block journal.

A report is drawn from what the running supervisor has seen. What an earlier one saw is in its block journal; here its
blocks are put together to as many points as a plot can show. Counts stay exact, percentiles come from the histograms
of all blocks of a point. Lines that cannot be read are passed over: a report shows what there is, `replay` is strict.

Cost: 13 to 15 µs of CPU per line, about 11 s for a rollout of 54 hours; it is done once, in another process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from proxy.metrics import hdr

Json = dict[str, Any]

MOST = 720  # points
LEAST_S = 5.0  # that a point stands for
LATE_BLOCKS = 2  # a block that is further from the one before has not lasted all that time
VERSIONS = ("stable", "new")
PERCENTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


class Past:
    """Takes the lines of a journal from `since` to `until` (s since 1970), oldest first."""

    def __init__(self, since: float, until: float) -> None:
        self._since, self._until = since, until
        self._each_s = max(LEAST_S, (until - since) / MOST)
        self._block_s, self._weight = 0.25, 0.0
        self._last: float | None = None
        self._place = -1
        self._point: Json = {}
        self._hists: dict[str, dict[str, int]] = {}  # indices as the lines have them
        self._points: list[Json] = []

    def take(self, lines: Iterable[str | bytes]) -> None:
        """Take lines."""
        for line in lines:
            try:
                plain = orjson.loads(line)
                if "header" in plain:
                    self._weight = plain["header"]["judged"]["weight"]
                    self._block_s = plain["header"]["block_s"]
                elif self._since < plain["t"] <= self._until:
                    self._add(plain)
            except (ValueError, KeyError, TypeError):
                continue

    def points(self) -> list[Json]:
        """Return the points, oldest first."""
        self._close()
        return self._points

    def _add(self, block: Json) -> None:
        t = block["t"]
        parts = {name: (block[name]["requests"], block[name]["bad"]) for name in VERSIONS}
        place = int((t - self._since) / self._each_s)
        if place != self._place or self._point.get("weight") != self._weight:
            self._close()
            self._place = place
            self._point = {"t": t, "seconds": 0.0, "weight": self._weight}
            self._point |= {name: {"requests": 0, "bad": 0} for name in VERSIONS}
        passed = self._block_s if self._last is None else min(t - self._last, LATE_BLOCKS * self._block_s)
        self._last = self._point["t"] = t
        self._point["seconds"] += passed
        for name, (requests, bad) in parts.items():
            part = self._point[name]
            part["requests"] += requests
            part["bad"] += bad
            hist = block[name].get("hist")
            if hist:
                found = self._hists.setdefault(name, {})
                for index, count in hist.items():
                    found[index] = found.get(index, 0) + count

    def _close(self) -> None:
        if not self._point:
            return
        for name in VERSIONS:
            counts = {int(index): count for index, count in self._hists.get(name, {}).items()}
            for called, quantile in PERCENTILES.items():
                us = hdr.percentile(counts, quantile)
                self._point[name][called] = None if us is None else us / 1000
        self._point["seconds"] = round(self._point["seconds"], 3)
        self._points.append(self._point)
        self._point, self._hists = {}, {}
