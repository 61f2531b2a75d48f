"""What was measured of the last rollouts, for the plots of their reports, from the block journal.

What was read of a journal is kept, a bounded row of points for each service: while a rollout goes on only the blocks
since then are read, and of one that is over nothing is read twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from proxy.controlplane.operations import Json, Operations
from proxy.rollout.past import joined


@dataclass(slots=True)
class _Known:
    """The points of a service from `since` on; all there is up to `until` (s since 1970)."""

    since: float
    until: float
    points: list[Json] = field(default_factory=list)


class Measured:
    """The points of all services."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._known: dict[str, _Known] = {}

    async def of(self, service: str, span: tuple[float, float] | None) -> list[Json]:
        """Return the points of a span of time (s since 1970), oldest first; to be asked once at a time."""
        if span is None:
            return []
        since, until = span
        known = self._known.get(service)
        if known is None or known.since != since:
            known = self._known[service] = _Known(since, since)
        if known.until < until:
            # From the last block on, not from when it was asked for: blocks come to the disk a little late.
            newest = known.points[-1]["t"] if known.points else since
            more = await self._operations.past(service, newest, until)
            known.points = joined([*known.points, *more], since)
            # A journal that could not be read is tried again.
            known.until = until if known.points else since
        return known.points


MEASURED: web.AppKey[Measured] = web.AppKey("measured", Measured)
