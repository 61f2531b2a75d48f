"""Idle connections to endpoints.

One pool per address and worker, shared by all generations that name the address, so that a reload keeps the
connections. The last one put back is the first one taken: what is not needed grows old at the bottom and is
closed after `timeouts.pool_idle`, before the endpoint's own keep-alive timeout would (RFC 9112 §9.3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.dataplane.deadline import ticks
from proxy.routing.table import Endpoint, Timeouts

if TYPE_CHECKING:
    from proxy.dataplane.upstream import Upstream


class Pool:
    """The connections of one address: `idle` is a stack; `active` counts those with an exchange."""

    __slots__ = ("active", "connect_s", "endpoint", "idle", "idle_ticks")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.idle: list[Upstream] = []
        self.active = 0
        self.idle_ticks = 1
        self.connect_s = 1.0


class Pools:
    """All pools of a worker, by URL."""

    __slots__ = ("_pools",)

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}

    def of(self, endpoint: Endpoint, timeouts: Timeouts) -> Pool:
        """Return the pool of `endpoint`, with the timeouts of the newest table that names it."""
        pool = self._pools.get(endpoint.url)
        if pool is None:
            pool = self._pools[endpoint.url] = Pool(endpoint)
        pool.idle_ticks = ticks(timeouts.pool_idle_s)
        pool.connect_s = timeouts.connect_s
        return pool

    def keep_only(self, urls: set[str]) -> None:
        """Close the idle connections of addresses that no live generation names."""
        for url in [url for url in self._pools if url not in urls]:
            pool = self._pools[url]
            for upstream in list(pool.idle):
                upstream.close()
            if not pool.active:
                del self._pools[url]

    def close(self) -> None:
        """Close every idle connection."""
        for pool in self._pools.values():
            for upstream in list(pool.idle):
                upstream.close()
