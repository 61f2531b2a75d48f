"""The shape of a config: every key, its type, its default and what it means.

The classes here (with those of `limits` and `stages`) are what `config/reference.yaml` and `docs/reference/config.md`
are generated from, so a field's description is documentation. Each checks one value at a time; rules between values
are in `rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from proxy.config.addresses import parse_cookie_name, parse_field_name
from proxy.config.health import EjectConfig, EjectOrNone, HealthConfig
from proxy.config.limits import CheckConfig, LimitConfig, SignalConfig
from proxy.config.load import Bare
from proxy.config.stages import PlanConfig
from proxy.config.values import (
    Duration,
    DurationOrKeep,
    EndpointUrl,
    FieldName,
    File,
    FileOrNone,
    Label,
    Listen,
    MatchHost,
    MatchPath,
    MetricName,
    Name,
    Network,
    Notation,
    Salt,
    Secret,
    Section,
    ServerName,
    Share,
    Size,
    SizeOrNone,
    UpstreamHost,
    Wait,
    WaitOrNone,
    Weight,
    Workers,
    none_for,
)


class CertificateConfig(Section):
    """A certificate and its key, as PEM files. They are read again within a second when they change."""

    cert: File = Field(description="the certificate, and below it those that lead to a root", examples=["tls/cert.pem"])
    key: File = Field(description="its private key, without a passphrase", examples=["tls/key.pem"])


class ListenerConfig(Section):
    """One address that clients connect to. An address alone is `{address: …}`."""

    address: Listen = Field(description="0.0.0.0:8080, [::]:8080 or unix:/path", examples=["0.0.0.0:8080"])
    tls: list[CertificateConfig] = Field(
        default=[],
        min_length=1,
        description="TLS, with one certificate or a list: the name that a client asks for chooses among their names, "
        "an exact one before a wildcard; the first serves the rest",
        examples=["{cert: tls/cert.pem, key: tls/key.pem}"],
    )
    proxy_protocol: bool = Field(
        default=False,
        description="true: every connection begins with a PROXY protocol header (v1 or v2), and only those of "
        "trusted_proxies are taken",
    )

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> Any:
        return write(self) if self.tls or self.proxy_protocol else self.address


class TokenConfig(Section):
    """One token of the admin API."""

    name: Name = Field(description="who uses it; stands in every event as the actor", examples=["ops"])
    role: Literal["operator", "read"] = Field(
        description="operator changes things; read only looks", examples=["operator"]
    )
    token: Secret | None = Field(
        default=None,
        description="the token itself, best from a variable; empty = no token",
        examples=['"${TIDEGATE_ADMIN_TOKEN:-}"'],
    )
    token_file: File | None = Field(
        default=None, description="or a file that holds it; read again at every reload", examples=["ops.token"]
    )

    @field_serializer("token")
    def _hide(self, token: str | None) -> str | None:
        return "***" if token else token


class AdminConfig(Section):
    """The admin API, its page and its metrics."""

    listen: Listen = Field(
        default="127.0.0.1:9900",
        description="one address, or unix:/path; beyond this machine an operator token is required",
    )
    tls: CertificateConfig | None = Field(
        default=None,
        description="https:// for the API and the page",
        examples=["{cert: tls/cert.pem, key: tls/key.pem}"],
    )
    tokens: list[TokenConfig] = Field(default=[], description="named tokens: `Authorization: Bearer …`")
    public_metrics: bool = Field(default=False, description="true: /metrics needs no token")
    hosts: list[MatchHost] = Field(
        default=[],
        description="names a browser may use for it where no token is set; loopback names always may",
    )


class MatchConfig(Section):
    """Which requests a service gets."""

    host: MatchHost | None = Field(
        default=None, description="exact host, or *.suffix; absent = every host", examples=["shop.example.com"]
    )
    path: MatchPath = Field(default="/", description="path prefix of whole segments")


class VersionConfig(Section):
    """`stable` or `new` of a service."""

    label: Label = Field(
        default="", description="its release, shown in status, reports and x-tidegate-label", examples=['"2.3.0"']
    )
    endpoints: list[EndpointUrl] = Field(
        min_length=1,
        description="http://host[:port], https://host[:port] or unix:/path; requests go to the less busy of two "
        "drawn at random",
        examples=["[http://127.0.0.1:9001]"],
    )


class EndpointTlsConfig(Section):
    """TLS towards the `https://` endpoints of both versions."""

    verify: bool = Field(
        default=True, description="false takes any certificate: whoever is on the way can read and change everything"
    )
    ca: File | None = Field(
        default=None, description="PEM file of who may sign, instead of the system's", examples=["tls/ca.pem"]
    )
    server_name: ServerName | None = Field(
        default=None,
        description="what their certificates are for; absent = the name that `host` gives, else the endpoint's own",
        examples=["app.internal"],
    )
    cert: File | None = Field(
        default=None, description="the certificate that the proxy shows when asked", examples=["tls/proxy.pem"]
    )
    key: File | None = Field(default=None, description="its private key", examples=["tls/proxy.key"])


class StickyConfig(Section):
    """What keeps a visitor on a version."""

    by: Literal["cookie", "header", "client_ip", "none"] = Field(
        default="cookie", description="where the key comes from"
    )
    name: Annotated[str, Notation("cookie or header name")] | None = Field(
        default=None,
        description="the cookie or header; with cookie it may be absent: the minted cookie alone",
        examples=["session"],
    )
    mint: bool = Field(
        default=True, description="give visitors without a key the cookie `tidegate`; false draws at random"
    )

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str) or isinstance(value, Bare):
            raise PydanticCustomError("text_expected", "must be text")
        return parse_field_name(value) if info.data.get("by") == "header" else parse_cookie_name(value)


class OverrideConfig(Section):
    """How testers reach a version of their choice, at any weight."""

    header: FieldName = Field(description="send this header with `stable` or `new`", examples=["x-tidegate-version"])
    allow: list[Network] = Field(
        min_length=1, description="addresses and networks that may", examples=["[127.0.0.1/32]"]
    )


class SplitConfig(Section):
    """Which share goes to `new`, and who."""

    new: Weight = Field(default=0, description="weight of `new` while none is stored; a stored weight wins")
    sticky: StickyConfig = Field(default=StickyConfig(), description="what keeps a visitor on a version")
    salt: Salt = Field(
        default="rollout", description="rollout = other visitors first in every rollout; or any fixed text"
    )
    override: OverrideConfig | None = Field(
        default=None, description="lets testers choose; counted apart, never judged"
    )


class JudgeConfig(Section):
    """How often the limits are judged."""

    block: Annotated[Duration, Field(ge=0.05, le=10)] = Field(
        default=0.25, description="time step of the judge; a decision is at most one block late"
    )
    false_alarms: Annotated[Share, Field(gt=0, le=0.5)] = Field(
        default=0.01, description="how many rollouts of a healthy version may be rolled back, at most"
    )


class TimeoutsConfig(Section):
    """How long an endpoint may take. What runs into one counts as bad, at the timeout's value."""

    connect: Wait = Field(default=1.0, description="until the connection stands")
    first_byte: Wait = Field(
        default=30.0, description="until the response begins; the highest latency limit there can be"
    )
    idle: Wait = Field(default=60.0, description="between two parts of a response")
    total: WaitOrNone = Field(
        default=None, description="for the whole exchange, a wait in the queue of `in_flight` and a rescue included"
    )
    tunnel_idle: Wait = Field(default=3600.0, description="silence in an upgraded connection (WebSocket)")
    pool_idle: Wait = Field(
        default=4.0, description="how long an idle connection is kept; shorter than the endpoint's keep-alive"
    )


class FailoverConfig(Section):
    """Which failed requests of `new` are answered by `stable`. The failure still counts against `new`."""

    to_stable: Literal["safe", "idempotent", "never"] = Field(
        default="safe", description="safe = GET HEAD OPTIONS TRACE; idempotent = PUT and DELETE too"
    )
    when: list[Literal["connect", "reset", "timeout", "5xx"]] = Field(
        default=["connect", "reset", "timeout", "5xx"], description="after which failures (never 501 and 505)"
    )
    budget: Share = Field(
        default=0.2,
        description="at most this share of what is in flight, tunnels and event streams aside; at least 3 requests",
    )


InFlightLimit = Annotated[
    Annotated[int, Field(ge=1, le=10_000_000)] | None, Notation("number or none"), BeforeValidator(none_for)
]


class InFlightConfig(Section):
    """How many requests may be in flight at once; what is above waits, and then gets 503 with Retry-After.

    For all workers together, each keeping its part. Open tunnels count. Off unless set: only you know what a version
    can take, and a limit that is too low refuses requests that could have been answered.
    """

    endpoint: InFlightLimit = Field(default=None, description="on each endpoint", examples=["100"])
    version: InFlightLimit = Field(default=None, description="on each version", examples=["400"])
    queue: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=128, description="requests of each version that may wait; above: 503 at once"
    )
    wait: Wait = Field(default=1.0, description="how long they wait at most; then 503")


class OnRollbackConfig(Section):
    """What becomes of the connections that last when `new` loses all its weight."""

    tunnels: DurationOrKeep = Field(
        default=30.0,
        description="tunnels (WebSocket) and event streams on `new` are closed, spread over this time, so that their "
        "clients come again, to `stable`; keep = they stay",
    )


class ServiceConfig(Section):
    """What clients reach: a `stable` version, and for a part of the year a `new` one."""

    name: Name = Field(description="its name in the API, metrics and journal", examples=["web"])
    match: MatchConfig = Field(default=MatchConfig(), description="which requests it gets; absent = all")
    stable: VersionConfig = Field(description="the version that everything returns to")
    new: VersionConfig | None = Field(default=None, description="the version on trial; may be absent")
    split: SplitConfig = Field(default=SplitConfig(), description="which share goes to `new`, and who")
    limits: list[LimitConfig] = Field(
        default=[],
        description="what `new` must keep; armed while its weight is above 0; short: {error_rate: 1%, p99: 200ms}",
        examples=["{metric: p99, max: 200ms}", "{metric: availability, min: 99.5%}"],
    )
    signals: dict[MetricName, SignalConfig] = Field(default={}, description="metrics from response headers, by name")
    checks: dict[MetricName, CheckConfig] = Field(
        default={}, description="metrics that are read from elsewhere, by name"
    )
    rollouts: dict[Name, PlanConfig] = Field(
        default={},
        description="plans by name: a FILE, FILE#NAME where it holds several, or the plan itself; "
        "`default` is the one that `rollout start` takes",
        examples=["{default: rollouts/canary.yaml}"],
    )
    judge: JudgeConfig = Field(default=JudgeConfig(), description="how often the limits are judged")
    health: HealthConfig | None = Field(
        default=None, description="active checks of the endpoints; absent = none: what fails there is seen by requests"
    )
    eject: EjectOrNone = Field(
        default=EjectConfig(), description="take out endpoints that fail more than their siblings; none = never"
    )
    slow_start: Duration = Field(
        default=10.0,
        description="an endpoint that was down, ejected or taken out gets its share back over this time; "
        "0s = at once; only where its version has others",
    )
    timeouts: TimeoutsConfig = Field(default=TimeoutsConfig(), description="how long an endpoint may take")
    failover: FailoverConfig = Field(
        default=FailoverConfig(), description="which failures of `new` stable answers instead"
    )
    in_flight: InFlightConfig = Field(
        default=InFlightConfig(), description="how many requests may be in flight at once"
    )
    fallback_to_new: bool = Field(
        default=False, description="true: `new` answers when no endpoint of `stable` is ready, at weight 0 too"
    )
    on_rollback: OnRollbackConfig = Field(
        default=OnRollbackConfig(),
        description="what becomes of the connections that last when `new` loses all its weight; short: keep",
    )
    watchdog: Wait = Field(default=2.0, description="nobody judged for this long: workers send everything to stable")
    host: UpstreamHost = Field(
        default="preserve", description="the Host that endpoints see: preserve, endpoint, or a name"
    )
    endpoint_tls: EndpointTlsConfig = Field(default=EndpointTlsConfig(), description="TLS towards https:// endpoints")
    expose_version: bool = Field(default=True, description="put x-tidegate-version and x-tidegate-label on responses")


class RequestLimitsConfig(Section):
    """What clients may send."""

    head: Annotated[Size, Field(ge=1024, le=1024**2)] = Field(default=32 * 1024, description="request line and headers")
    target: Annotated[Size, Field(ge=1024, le=1024**2)] = Field(
        default=16 * 1024, description="the request target (414)"
    )
    headers: Annotated[int, Field(ge=1, le=10_000)] = Field(default=128, description="number of headers (431)")
    body: SizeOrNone = Field(default=None, description="largest body (413)")
    header_timeout: Wait = Field(default=10.0, description="until a request's head is whole (408)")
    body_idle_timeout: Wait = Field(default=30.0, description="between two parts of a request's body")
    keepalive_timeout: Wait = Field(default=75.0, description="how long an idle client connection is kept")
    connections: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=20_000, description="client connections of all workers together"
    )


class AccessLogConfig(Section):
    """One line per request."""

    path: FileOrNone = Field(default=None, description='a file, "-" for standard output, or none')
    format: Literal["json"] = Field(default="json", description="one JSON object per line")
    sample: Share = Field(default=1.0, description="share of requests that are written")
    min_status: Annotated[int, Field(ge=0, le=599)] = Field(default=0, description="500 writes only server errors")
    redact: list[FieldName] = Field(
        default=["authorization", "cookie", "set-cookie"], description="headers whose value is never written"
    )


class DrainConfig(Section):
    """How the proxy stops (TERM, INT)."""

    delay: Duration = Field(default=5.0, description="keeps accepting this long after /readyz turned 503")
    timeout: Duration = Field(default=20.0, description="what is open may finish for this long")


class Config(Section):
    """The whole file."""

    listen: list[ListenerConfig] = Field(
        default=[ListenerConfig(address="0.0.0.0:8080")],
        min_length=1,
        description="where clients connect: one or a list of addresses ([::]:8080 and unix:/path too) and of "
        "{address: …, tls: {cert: …, key: …}}",
    )
    workers: Workers = Field(
        default="auto", description="processes; auto = what CPU affinity and the cgroup's quota give"
    )
    state: FileOrNone = Field(
        default=None,
        description="file for weights, versions and events, with a lock and a latch beside it; "
        "none = in memory: forgotten at the end",
        examples=["var/tidegate.db"],
    )
    admin: AdminConfig = Field(default=AdminConfig(), description="the admin API")
    services: list[ServiceConfig] = Field(min_length=1, description="what clients reach")
    trusted_proxies: list[Network] = Field(
        default=[], description="whose X-Forwarded-For is believed: addresses and networks, such as 10.0.0.0/8"
    )
    request_limits: RequestLimitsConfig = Field(default=RequestLimitsConfig(), description="what clients may send")
    access_log: AccessLogConfig = Field(default=AccessLogConfig(), description="one line per request")
    drain: DrainConfig = Field(default=DrainConfig(), description="how the proxy stops")
    half_close: Literal["abort", "allow"] = Field(
        default="abort", description="a client that shuts its sending side before the answer: has left, or waits for it"
    )
    via: bool = Field(default=True, description="add Via; false for backends that stop compressing because of it")
