"""The routing table brought to life in one worker: with its counters, control words and pools attached.

A `Plane` is one generation. It is built once, off the request path; everything that a request needs of it is a
fixed attribute here (positions of words, prepared bytes, ticks). Exchanges keep the plane they began with, so a
new generation takes over between two requests, and an old plane ends with its last exchange. Making one may fail, and
changes nothing of what generations share (pools, queues) before `take_over`, which cannot.

Who writes: the worker that owns the plane writes its counters; the control words are only read.
"""

from __future__ import annotations

import re
import ssl
from ipaddress import ip_network

from proxy.dataplane.deadline import ticks
from proxy.dataplane.exchange import Exchange
from proxy.dataplane.lasting import Lasting
from proxy.dataplane.pool import Pool, Pools, Trust
from proxy.dataplane.queue import LimitedExchange, Queue, Queues
from proxy.http1.response import ResponseParser
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.routing.match import Matcher
from proxy.routing.retry import failover_methods
from proxy.routing.table import (
    NEW,
    STABLE,
    Endpoint,
    EndpointTls,
    RoutingTable,
    Service,
    Signal,
    authority,
    server_name,
)
from proxy.tls import endpoint_context

_VALUE_MAX = 1024  # bytes of a header's value that a signal looks at
_VALUES_MAX = 1024  # remembered per signal


class LiveEndpoint:
    """One address of a version, as this worker sees it."""

    __slots__ = (
        "authority",
        "counters_at",
        "in_flight",
        "pool",
        "spec",
        "state_at",
        "suspect_until",
        "trust",
    )

    def __init__(self, spec: Endpoint, pool: Pool, trust: Trust | None, counters_at: int, state_at: int) -> None:
        self.spec = spec
        self.trust = trust
        self.authority = authority(spec).encode()
        self.pool = pool
        self.counters_at = counters_at
        self.state_at = state_at
        self.in_flight = 0
        self.suspect_until = 0  # tick until which another endpoint is preferred: a connect failed here

    @property
    def load(self) -> int:
        """How many attempts are in flight there, whichever service or generation they are of."""
        return self.pool.active


class LiveSignal:
    """A signal of a service, with its pattern compiled."""

    __slots__ = ("_known", "_search", "at", "header")

    def __init__(self, spec: Signal, at: int) -> None:
        self.header = spec.header.lower().encode()
        self.at = at  # of its two words, from the beginning of a version's block
        self._search = re.compile(spec.matches).search
        self._known: dict[bytes, bool] = {}

    def matches(self, value: bytes) -> bool:
        """Return whether a value of the header matches. Values repeat: what one says is remembered."""
        known = self._known.get(value)
        if known is None:
            known = self._search(value[:_VALUE_MAX].decode(errors="replace")) is not None
            if len(value) <= _VALUE_MAX:
                if len(self._known) >= _VALUES_MAX:
                    self._known.clear()
                self._known[value] = known
        return known


class LiveVersion:
    """`stable` or `new` of a live service."""

    __slots__ = (
        "counters_at",
        "endpoints",
        "exposed",
        "in_flight",
        "index",
        "label",
        "last_dispatch_ns",
        "only",
        "queue",
        "queued",
        "started",
        "total_at",
        "ttfb_at",
        "ttfb_within_at",
        "tunnels",
        "within_at",
    )

    def __init__(
        self, index: int, label: str, endpoints: list[LiveEndpoint], counters_at: int, *, expose: bool
    ) -> None:
        self.index = index
        self.label = label
        self.endpoints = endpoints
        self.only = endpoints[0] if len(endpoints) == 1 else None
        self.counters_at = counters_at
        self.total_at = counters_at + layout.VERSION_TOTAL_HDR
        self.ttfb_at = counters_at + layout.VERSION_TTFB_HDR
        self.within_at = counters_at + layout.VERSION_ENDED_WITHIN
        self.ttfb_within_at = counters_at + layout.VERSION_TTFB_WITHIN
        self.in_flight = 0
        self.queue: Queue | None = None  # where limits make requests wait
        self.queued = 0
        self.tunnels = 0
        self.last_dispatch_ns = 0
        self.exposed = b""
        if expose:
            name = b"new" if index else b"stable"
            self.exposed = b"x-tidegate-version: " + name + b"\r\n"
            if label:
                self.exposed += b"x-tidegate-label: " + label.encode("latin-1", "replace") + b"\r\n"


class LiveService:
    """A service with what a request needs of it.

    `weights` is the control segment's words, or a row of zeros while everything must go to `stable`.
    `response_parser` watches the headers of the service's signals; services without any share one.
    """

    __slots__ = (
        "body_limit",
        "causes",
        "cookie_needle",
        "counters_at",
        "exchange",
        "failover_budget",
        "failover_methods",
        "fallback_to_new",
        "first_byte_ns",
        "has_new",
        "header_name",
        "host_line",
        "idle_ns",
        "lasting",
        "mint",
        "name",
        "new",
        "opened_at",
        "override_header",
        "override_networks",
        "patience",
        "plane",
        "response_parser",
        "rollbacks_at",
        "seed_at",
        "signals",
        "spec",
        "stable",
        "sticky_by",
        "thresholds_ns",
        "total_ns",
        "ttfb_thresholds_ns",
        "tunnel_idle_ticks",
        "user_at",
        "watchdog_ticks",
        "weight_at",
        "weights",
    )

    def __init__(self, plane: Plane, spec: Service, stable: LiveVersion, new: LiveVersion, counters_at: int) -> None:
        self.plane = plane
        self.spec = spec
        self.name = spec.name
        self.stable = stable
        self.new = new
        self.has_new = bool(new.endpoints)
        self.exchange: type[Exchange] = LimitedExchange if spec.in_flight.limits else Exchange
        self.counters_at = counters_at
        self.user_at = counters_at + layout.SERVICE_USER_HDR
        self.weights = plane.control.words
        self.weight_at = 0
        self.opened_at = 0
        self.seed_at = 0
        self.rollbacks_at = 0
        self.lasting: Lasting | None = None  # unless what lasts on `new` is kept
        self.sticky_by = spec.sticky.by
        self.cookie_needle = (
            spec.sticky.name.encode() + b"=" if spec.sticky.by == "cookie" and spec.sticky.name else b""
        )
        self.header_name = spec.sticky.name.lower().encode() if spec.sticky.by == "header" else b""
        self.mint = spec.sticky.mint and spec.sticky.by in ("cookie", "header")
        self.override_header = spec.override.header.lower().encode() if spec.override else b""
        self.override_networks = (
            tuple(ip_network(network, strict=False) for network in spec.override.allow) if spec.override else ()
        )
        self.thresholds_ns = tuple(threshold * 1000 for threshold in spec.thresholds_us)
        self.ttfb_thresholds_ns = tuple(threshold * 1000 for threshold in spec.ttfb_thresholds_us)
        self.signals = tuple(
            LiveSignal(signal, layout.VERSION_SIGNALS + index * layout.SIGNAL_WORDS)
            for index, signal in enumerate(spec.signals)
        )
        self.response_parser = (
            ResponseParser(watch=frozenset(signal.header for signal in self.signals))
            if self.signals
            else plane.response_parser
        )
        timeouts = spec.timeouts
        self.first_byte_ns = round(timeouts.first_byte_s * 1e9)
        self.idle_ns = round(timeouts.idle_s * 1e9)
        self.total_ns = 0 if timeouts.total_s is None else round(timeouts.total_s * 1e9)
        thresholds_s = [threshold / 1e6 for threshold in (*spec.thresholds_us, *spec.ttfb_thresholds_us)]
        first = min((timeouts.first_byte_s, timeouts.idle_s, *thresholds_s))
        if timeouts.total_s is not None:
            first = min(first, timeouts.total_s)
        self.patience = ticks(first)  # until an attempt is first looked at
        self.tunnel_idle_ticks = ticks(timeouts.tunnel_idle_s)
        self.watchdog_ticks = ticks(spec.watchdog_s)
        self.failover_methods = failover_methods(spec.failover)
        self.causes = frozenset(spec.failover.when)
        self.failover_budget = spec.failover.budget
        self.fallback_to_new = spec.fallback_to_new
        self.body_limit = plane.table.request_limits.body
        # None: the client's Host passes; b"": the chosen endpoint's own; else this one.
        self.host_line: bytes | None = None
        if spec.host == "endpoint":
            self.host_line = b""
        elif spec.host != "preserve":
            self.host_line = b"Host: " + spec.host.encode() + b"\r\n"


class Plane:
    """One generation in this worker."""

    __slots__ = (
        "_queues",
        "control",
        "counters",
        "counts",
        "generation",
        "layout",
        "matcher",
        "only",
        "response_parser",
        "services",
        "table",
        "zeros",
    )

    def __init__(
        self,
        generation: int,
        table: RoutingTable,
        control: Segment,
        counters: Segment,
        pools: Pools,
        queues: Queues | None = None,
    ) -> None:
        self.generation = generation
        self.table = table
        self.control = control
        self.zeros = memoryview(bytes(control.size * layout.WORD)).cast("Q")
        self.counters = counters
        self.counts = counters.words
        self.layout = layout.counters_layout(table)
        self.response_parser = ResponseParser()
        self._queues = queues = queues or Queues()
        contexts = _Contexts()
        control_at = layout.control_layout(table)
        self.services: list[LiveService] = []
        for index, spec in enumerate(table.services):
            versions = []
            for which in (STABLE, NEW):
                version = spec.version(which)
                trusts = [contexts.trust(spec, endpoint) for endpoint in version.endpoints]
                endpoints = [
                    LiveEndpoint(endpoint, pools.of(endpoint, trust), trust, at, state_at)
                    for endpoint, trust, at, state_at in zip(
                        version.endpoints,
                        trusts,
                        self.layout.endpoints[index][which],
                        control_at.endpoints[index][which],
                        strict=True,
                    )
                ]
                at = self.layout.versions[index][which]
                versions.append(LiveVersion(which, version.label, endpoints, at, expose=spec.expose_version))
            service = LiveService(self, spec, versions[STABLE], versions[NEW], self.layout.services[index])
            service.weight_at = control_at.services[index] + layout.CONTROL_WEIGHT
            service.seed_at = control_at.services[index] + layout.CONTROL_SEED
            service.opened_at = control_at.services[index] + layout.CONTROL_OPENED
            service.rollbacks_at = control_at.services[index] + layout.CONTROL_ROLLBACKS
            if service.has_new and spec.close_tunnels_s is not None:
                service.lasting = Lasting(spec.close_tunnels_s, control.words[service.rollbacks_at])
            if spec.in_flight.limits:
                for which, one in enumerate(versions):
                    one.queue = queues.of(spec.name, which)
            self.services.append(service)
        self.matcher = Matcher([(service.spec.match, service) for service in self.services])
        alone = (
            len(self.services) == 1 and not self.services[0].spec.match.host and self.services[0].spec.match.path == "/"
        )
        self.only = self.services[0] if alone else None

    def take_over(self) -> None:
        """Put this generation's settings on the pools and queues that it shares with the ones before."""
        for service in self.services:
            for version in (service.stable, service.new):
                for endpoint in version.endpoints:
                    endpoint.pool.settle(service.spec.timeouts, endpoint.trust)
                if version.queue is not None:
                    self._queues.settle(version.queue, service.spec.in_flight)

    def close(self) -> None:
        """Give the segments back; nothing may be in flight."""
        self.control.close()
        self.counters.close()


class _Contexts:
    """TLS contexts of one generation: services that ask for the same share one."""

    def __init__(self) -> None:
        self._made: dict[EndpointTls, ssl.SSLContext] = {}

    def trust(self, service: Service, endpoint: Endpoint) -> Trust | None:
        """Return what TLS with an endpoint of a service must be like, `None` where there is none."""
        if not endpoint.tls:
            return None
        spec = service.endpoint_tls
        context = self._made.get(spec)
        if context is None:
            context = endpoint_context(ca=spec.ca, verify=spec.verify, pair=spec.pair)
            self._made[spec] = context
        return Trust(spec, context, server_name(service, endpoint))
