"""What was measured over time, for the plots of reports: a bounded row of points for each service.

Every `EVERY_S` the status of every service is looked at. What was counted since the look before becomes a point; when
there are more than `MOST` of them, neighbours are put together and every point stands for twice as long, so that a
rollout of two days takes no more memory than one of an hour. Sums stay exact, of percentiles the worst stays.

A track begins anew when `new` gets weight after `APART_S` without any (a rollout begins), and stands still when `new`
has had no weight for `AFTER_S` (it is over). It is in memory: what was measured before the supervisor started is read
from the block journal, once for each rollout.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from proxy.controlplane.operations import Json, Operations

EVERY_S = 5.0
MOST = 720
APART_S = 60.0
AFTER_S = 600.0
VERSIONS = ("stable", "new")
PERCENTILES = ("p50_ms", "p95_ms", "p99_ms")

log = logging.getLogger("tidegate.admin")


class Track:
    """The points of one service."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._points: list[Json] = []
        self._each = 1  # looks that a point stands for
        self._last: tuple[float, Json] | None = None
        self._weighed: float | None = None  # when `new` had weight last

    @property
    def points(self) -> list[Json]:
        """The points, oldest first (`proxy.rollout.report`)."""
        return list(self._points)

    def look(self, item: Json, t: float) -> None:
        """Take note of a service's object of `status` at `t` (seconds since 1970)."""
        weight = item["weights"]["new"]
        if weight and (self._weighed is None or t - self._weighed > APART_S):
            self._points, self._each = [], 1
        if weight:
            self._weighed = t
        last, self._last = self._last, (t, item)
        over = not weight and (self._weighed is None or t - self._weighed > AFTER_S)
        if last is None or over or t <= last[0]:
            return
        self._add(_point(last[1], item, t, t - last[0]))

    def _add(self, point: Json) -> None:
        points = self._points
        if points and points[-1]["looks"] < self._each:
            points[-1] = _together(points[-1], point)
            return
        points.append(point)
        if len(points) > self._most:
            whole = len(points) - len(points) % 2
            pairs = [_together(points[at], points[at + 1]) for at in range(0, whole, 2)]
            self._points, self._each = [*pairs, *points[whole:]], 2 * self._each


class Tracks:
    """The tracks of all services of a running supervisor."""

    def __init__(self, operations: Operations, wall: Callable[[], float] = time.time) -> None:
        self._operations = operations
        self._wall = wall
        self._began = wall()
        self._tracks: dict[str, Track] = {}
        self._past: dict[str, tuple[tuple[float, float], list[Json]]] = {}

    def points(self, service: str) -> list[Json]:
        """Return the points of a service."""
        track = self._tracks.get(service)
        return [] if track is None else track.points

    async def past(self, service: str, since: float | None) -> list[Json]:
        """Return the points from `since` (seconds since 1970, `None`: there are none) until the first of `points`."""
        points = self.points(service)
        until = points[0]["t"] - points[0]["seconds"] if points else self._began
        if since is None or until <= since:
            return []
        found = self._past.get(service)
        if found is None or found[0] != (since, until):
            found = self._past[service] = (since, until), await self._operations.past(service, since, until)
        return found[1]

    def look(self) -> None:
        """Look at every service once."""
        services = self._operations.status()["services"]
        now = self._wall()
        for name, item in services.items():
            self._tracks.setdefault(name, Track()).look(item, now)
        for name in self._tracks.keys() - services.keys():
            del self._tracks[name]

    async def follow(self, _: web.Application) -> AsyncIterator[None]:
        """Look again and again as long as the application lives (its `cleanup_ctx`)."""
        task = asyncio.create_task(self._follow(), name="track")
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _follow(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                # A report without plots is less than a supervisor without an admin API.
                log.exception("the status could not be noted for reports")
            await asyncio.sleep(EVERY_S)


TRACKS: web.AppKey[Tracks] = web.AppKey("tracks", Tracks)


def _point(before: Json, after: Json, t: float, seconds: float) -> Json:
    point: Json = {"t": round(t, 3), "seconds": round(seconds, 3), "weight": after["weights"]["new"], "looks": 1}
    for version in VERSIONS:
        now, then = after["versions"].get(version), before["versions"].get(version)
        if now is None:
            continue
        # Another version under this name begins at 0.
        same = then is not None and all(then[key] <= now[key] for key in ("requests", "bad"))
        window = now.get("window") or {}
        point[version] = {
            **{key: now[key] - (then[key] if same and then is not None else 0) for key in ("requests", "bad")},
            **{name: window.get(name) for name in PERCENTILES},
        }
    return point


def _together(first: Json, second: Json) -> Json:
    found: Json = {
        "t": second["t"],
        "seconds": round(first["seconds"] + second["seconds"], 3),
        "weight": second["weight"],
        "looks": first["looks"] + second["looks"],
    }
    for version in VERSIONS:
        parts = [point[version] for point in (first, second) if version in point]
        if parts:
            found[version] = {key: sum(part[key] for part in parts) for key in ("requests", "bad")}
            found[version] |= {name: _worst([part[name] for part in parts]) for name in PERCENTILES}
    return found


def _worst(values: list[Any]) -> float | None:
    return max((value for value in values if value is not None), default=None)
