"""What was measured before: the points of a report (`proxy.rollout.report`), from the lines of a block journal.

A report is drawn from what the judges saw. Its blocks are put together to as many points as a plot can show. Counts
stay exact, percentiles come from the histograms of all blocks of a point. Lines that cannot be read are passed over: a
report shows what there is, `replay` is strict. While a rollout goes on only what is new of it is read, and `joined`
puts the points together that have become too many: of their percentiles the worst stays.

Cost: 13 to 15 µs of CPU per line, about 11 s for a rollout of 54 hours; it is done once, in another process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import groupby
from math import ceil
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

    def take(self, lines: Iterable[bytes]) -> None:
        """Take lines."""
        for line in lines:
            try:
                if _is_before(line, self._since):
                    continue
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
        place = ceil((t - self._since) / self._each_s)  # `t` is the end of a block
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


def joined(points: Sequence[Json], since: float) -> list[Json]:
    """Return the points since that time (s since 1970), neighbours put together until about `MOST` span the time."""
    # Steps that double: what was put together at one of them is never cut by the next.
    each_s = LEAST_S
    while points and points[-1]["t"] - since > each_s * MOST:
        each_s *= 2
    cells = groupby(points, lambda point: (ceil((point["t"] - since) / each_s), point["weight"]))
    return [reduce(_together, cell) for _, cell in cells]


def _is_before(line: bytes, since: float) -> bool:
    """Tell of a block as Tidegate writes it whether it is too old, without reading all of it."""
    return line.startswith(b'{"t":') and float(line[5 : line.index(b",")]) <= since


def _together(first: Json, second: Json) -> Json:
    found: Json = {
        "t": second["t"],
        "seconds": round(first["seconds"] + second["seconds"], 3),
        "weight": second["weight"],
    }
    for name in VERSIONS:
        parts = first[name], second[name]
        found[name] = {key: sum(part[key] for part in parts) for key in ("requests", "bad")}
        for called in PERCENTILES:
            found[name][called] = max((part[called] for part in parts if part[called] is not None), default=None)
    return found
