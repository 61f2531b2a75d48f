"""The routing table: everything a worker needs to know, and nothing else.

It is compiled from the config in the supervisor (`proxy.config.compile`), crosses the process border
as JSON (`to_json`, `from_json`) and never changes: a reload is a new table with the next generation.
What changes while a table lives (weights, salts as seeds, endpoint states) is in the control segment,
by the index that services, versions and endpoints have here.

Units: `_s` seconds (float; `None` = no limit), `_us` microseconds, bytes for sizes, weights in 1/10,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from ipaddress import ip_address
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

STABLE = 0
NEW = 1
VERSIONS = ("stable", "new")
FULL = 10_000  # buckets, and the weight at which every bucket goes to `new`
MAX_THRESHOLDS = 16  # latency limits of a service, of whole responses and of first bytes together
MAX_SIGNALS = 16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a version. `unix` is a socket's path; then `host` and `port` are "localhost", 80."""

    url: str
    host: str
    port: int
    unix: str | None = None
    tls: bool = False

    @property
    def named(self) -> bool:
        """Whether its host is a name, behind which addresses have to be looked up."""
        if self.unix is not None:
            return False
        try:
            ip_address(self.host)
        except ValueError:
            return True
        return False


@dataclass(frozen=True, slots=True)
class EndpointTls:
    """TLS towards `https://` endpoints. `ca` `None`: the system's; `pair`: the proxy's own certificate and key.

    Both are PEM texts, so that everybody trusts and shows what stood in the files when the config was read.

    `server_name`: what the endpoint's certificate must be for, and what it is asked for; `None`: `Service.host` if
    that is a name, else the endpoint's own.
    """

    ca: str | None = field(default=None, repr=False)
    verify: bool = True
    server_name: str | None = None
    pair: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Version:
    """`stable` or `new` of a service. No endpoints: the version is absent."""

    label: str = ""
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a service gets: an exact host, `*.suffix` or any (""), and a path prefix of whole segments."""

    host: str = ""
    path: str = "/"


@dataclass(frozen=True, slots=True)
class Sticky:
    """Where the sticky key comes from. `by`: cookie | header | client_ip | none; `name` "" = minted cookie alone."""

    by: str = "cookie"
    name: str = ""
    mint: bool = True


@dataclass(frozen=True, slots=True)
class Override:
    """Testers choose a version by header `name` (lower case) if their address is in one of the `allow` networks."""

    header: str
    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Waits of the exchange with an endpoint, in seconds."""

    connect_s: float = 1.0
    first_byte_s: float = 30.0
    idle_s: float = 60.0
    total_s: float | None = None
    tunnel_idle_s: float = 3600.0
    pool_idle_s: float = 4.0


@dataclass(frozen=True, slots=True)
class Failover:
    """Which failed requests of `new` `stable` answers.

    `to_stable`: safe | idempotent | never. `when`: connect, reset, timeout, 5xx. `budget`: share of in-flight, 0…1.
    """

    to_stable: str = "safe"
    when: tuple[str, ...] = ("connect", "reset", "timeout", "5xx")
    budget: float = 0.2


@dataclass(frozen=True, slots=True)
class InFlight:
    """How many requests may be in flight at once: on one endpoint, on one version; `None` = no limit.

    What is above waits, at most `queue` requests of a version for at most `wait_s`. All workers together.
    """

    endpoint: int | None = None
    version: int | None = None
    queue: int = 128
    wait_s: float = 1.0

    @property
    def limits(self) -> bool:
        """Whether there is any limit."""
        return self.endpoint is not None or self.version is not None


@dataclass(frozen=True, slots=True)
class Signal:
    """A share that is read from a response header: of the responses with `header`, those whose value `matches`.

    `header` is in lower case and not hop-by-hop; of a repeated one the first value counts. `matches` is a regular
    expression that may match anywhere in the first 1,024 bytes of the value.
    """

    name: str
    header: str
    matches: str


@dataclass(frozen=True, slots=True)
class Service:
    """What clients reach: a `stable` version and, for a part of the year, a `new` one.

    `thresholds_us`: the latencies of whole responses in all limits of the service, ascending; `ttfb_thresholds_us`:
    those of first bytes; at most `MAX_THRESHOLDS` together. `signals`: at most `MAX_SIGNALS`.
    `close_tunnels_s`: over how long tunnels and event streams on `new` are closed after a rollback; `None`: they stay.
    `host`: "preserve", "endpoint" or a fixed name. `watchdog_s`: silence of the controller after which
    everything goes to `stable`.
    """

    name: str
    stable: Version
    new: Version = Version()
    match: Match = Match()
    sticky: Sticky = Sticky()
    override: Override | None = None
    timeouts: Timeouts = Timeouts()
    failover: Failover = Failover()
    in_flight: InFlight = InFlight()
    thresholds_us: tuple[int, ...] = ()
    ttfb_thresholds_us: tuple[int, ...] = ()
    signals: tuple[Signal, ...] = ()
    fallback_to_new: bool = False
    close_tunnels_s: float | None = 30.0
    watchdog_s: float = 2.0
    host: str = "preserve"
    expose_version: bool = True
    endpoint_tls: EndpointTls = EndpointTls()

    def version(self, version: int) -> Version:
        """Return the version with index `STABLE` or `NEW`."""
        return self.new if version else self.stable


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits on what clients send, in bytes and seconds; `connections` is for all workers together."""

    head: int = 32 * 1024
    target: int = 16 * 1024
    headers: int = 128
    body: int | None = None
    header_timeout_s: float = 10.0
    body_idle_timeout_s: float = 30.0
    keepalive_timeout_s: float = 75.0
    connections: int = 20_000


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Where a worker writes its access log: a file, "-" (stdout) or `None`; `sample` 0…1."""

    path: str | None = None
    format: str = "json"
    sample: float = 1.0
    min_status: int = 0
    redact: tuple[str, ...] = ("authorization", "cookie", "set-cookie")


@dataclass(frozen=True, slots=True)
class Drain:
    """`delay_s`: how long to keep accepting after readiness turned 503; `timeout_s`: how long requests may finish."""

    delay_s: float = 5.0
    timeout_s: float = 20.0


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All services of one generation and the listener-wide settings."""

    services: tuple[Service, ...]
    trusted_proxies: tuple[str, ...] = ()
    request_limits: RequestLimits = RequestLimits()
    access_log: AccessLog = AccessLog()
    drain: Drain = Drain()
    via: bool = True
    half_close: str = "abort"  # abort | allow

    def endpoints(self) -> Iterator[tuple[int, int, int, Endpoint]]:
        """Yield (service index, version index, endpoint index, endpoint) in the order of the layout."""
        for service_index, service in enumerate(self.services):
            for version_index in (STABLE, NEW):
                for index, endpoint in enumerate(service.version(version_index).endpoints):
                    yield service_index, version_index, index, endpoint


def authority(endpoint: Endpoint) -> str:
    """Return what Host says towards an endpoint: host and, unless it is the scheme's own, port."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return host if endpoint.port == (443 if endpoint.tls else 80) else f"{host}:{endpoint.port}"


def server_name(service: Service, endpoint: Endpoint) -> str:
    """Return the name that an endpoint's certificate must be for, and that it is asked for (SNI)."""
    if service.endpoint_tls.server_name is not None:
        return service.endpoint_tls.server_name
    if service.host in {"preserve", "endpoint"}:
        return endpoint.host
    return service.host.partition("]")[0].strip("[") if service.host.startswith("[") else service.host.partition(":")[0]


def to_plain(value: Any) -> Any:
    """Return dataclasses and tuples as dicts and lists that JSON can hold."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(plain: Any, kind: Any = RoutingTable) -> Any:
    """Return the inverse of `to_plain` for the dataclass `kind`; unknown keys raise `TypeError`."""
    if get_origin(kind) is tuple:
        return tuple(from_plain(item, get_args(kind)[0]) for item in plain)
    if isinstance(kind, UnionType):
        inner = next(option for option in get_args(kind) if option is not NoneType)
        return None if plain is None else from_plain(plain, inner)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: from_plain(item, hints.get(name)) for name, item in plain.items()})  # type: ignore[operator]
    return plain
