"""Idle connections to endpoints.

One pool per endpoint and worker, shared by all generations that name the endpoint, so that a reload keeps the
connections. The last one put back is the first one taken: what is not needed grows old at the bottom and is
closed after `timeouts.pool_idle`, before the endpoint's own keep-alive timeout would (RFC 9112 §9.3.1).
"""

from __future__ import annotations

import ssl
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from proxy.dataplane.deadline import ticks
from proxy.dataplane.hosts import Hosts, Name
from proxy.routing.table import Endpoint, EndpointTls, Timeouts

if TYPE_CHECKING:
    from proxy.dataplane.upstream import Upstream
    from proxy.dataplane.worker import Worker

_TOLD_TICKS = 200  # 10 s: an endpoint that TLS fails with is named in the log no more often


class Trust:
    """TLS towards one endpoint: the context, whose certificate it must show, and the last session with it."""

    __slots__ = ("context", "server_name", "session", "spec")

    def __init__(self, spec: EndpointTls, context: ssl.SSLContext, server_name: str) -> None:
        self.spec = spec
        self.context = context
        self.server_name = server_name
        self.session: ssl.SSLSession | None = None


class Pool:
    """The connections of one endpoint: `idle` is a stack; `active` counts those with an exchange.

    `name`: what its host resolves to, `None` for an address or a unix socket. `unasked`: whether the endpoint has ever
    said something that nobody had asked for.
    """

    __slots__ = ("_told", "active", "connect_s", "endpoint", "idle", "idle_ticks", "name", "tls", "unasked")

    def __init__(self, endpoint: Endpoint, name: Name | None) -> None:
        self.endpoint = endpoint
        self.name = name
        self.idle: list[Upstream] = []
        self.active = 0
        self.idle_ticks = 1
        self.connect_s = 1.0
        self.tls: Trust | None = None
        self.unasked = False
        self._told = 0

    def settle(self, timeouts: Timeouts, tls: Trust | None) -> None:
        """Take over the timeouts and the context of the newest table that names the endpoint."""
        self.tls = tls
        self.idle_ticks = ticks(timeouts.pool_idle_s)
        self.connect_s = timeouts.connect_s

    def drop_speaking(self) -> None:
        """Close the connections on top that have something to say: it would be taken for the next answer.

        The loop sees that by itself, but not what came since it last looked. To ask the kernel is a system call for
        each request, so that only those endpoints are asked about that have spoken out of turn before.
        """
        while self.idle and self.idle[-1].speaks():
            self.idle[-1].close()

    def tls_failed(self, worker: Worker, error: ssl.SSLError | ValueError) -> None:
        """Have the log say why TLS fails with this endpoint; clients do not hear it."""
        tick = worker.wheel.tick
        if tick >= self._told:
            self._told = tick + _TOLD_TICKS
            why = getattr(error, "verify_message", "") or (getattr(error, "reason", "") or str(error)).lower()
            name = self.tls.server_name if self.tls is not None else ""
            worker.notice(f"TLS with {self.endpoint.url} (as {name}) failed: {why.replace('_', ' ')}")


class Pools:
    """All pools of a worker, by URL and what TLS there must be like."""

    __slots__ = ("_hosts", "_pools")

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._pools: dict[tuple[str, EndpointTls | None, str], Pool] = {}

    def of(self, endpoint: Endpoint, tls: Trust | None = None) -> Pool:
        """Return the pool of `endpoint`, as it is; a new one is of no use before it is settled."""
        key = (endpoint.url, None, "") if tls is None else (endpoint.url, tls.spec, tls.server_name)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(endpoint, self._hosts.of(endpoint))
        return pool

    def give_up(self, most: int, until: int) -> None:
        """Close up to `most` idle connections: those that rest longest, and none put back after tick `until`."""
        for _ in range(most):
            bottoms = (pool.idle[0] for pool in self._pools.values() if pool.idle)
            oldest = min(bottoms, key=lambda upstream: upstream.rests_since, default=None)
            if oldest is None or oldest.rests_since > until:
                return
            oldest.close()

    def keep_only(self, named: AbstractSet[Pool]) -> None:
        """Close the idle connections of addresses that no live generation names."""
        for key, pool in [(key, pool) for key, pool in self._pools.items() if pool not in named]:
            for upstream in list(pool.idle):
                upstream.close()
            if not pool.active:
                del self._pools[key]
        self._hosts.keep_only({pool.name for pool in self._pools.values() if pool.name is not None})

    def close(self) -> None:
        """Close every idle connection."""
        for pool in self._pools.values():
            for upstream in list(pool.idle):
                upstream.close()
