"""The shape of a config: every key, its type, its default and what it means.

The classes here are what `config/reference.yaml` and `docs/reference/config.md` are generated from, so a field's
description is documentation. Each checks one value at a time; rules between values are in `rules`.
`LATER` of a class names keys of the contract that this version does not do yet: they are refused with that sentence,
never ignored. In memory: durations are seconds, shares 0…1, sizes bytes, weights 1/10,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError

from proxy.config.addresses import (
    parse_cookie_name,
    parse_endpoint,
    parse_field_name,
    parse_listen,
    parse_match_host,
    parse_match_path,
    parse_network,
    parse_upstream_host,
)
from proxy.config.load import Bare
from proxy.config.units import (
    format_duration,
    format_share,
    format_size,
    format_weight,
    parse_duration,
    parse_share,
    parse_size,
    parse_weight,
)
from proxy.config.wrong import WrongValue
from proxy.rollout.plan import QUANTILES, SHARES

WORKERS_MAX = 256
LONGEST_WINDOW_S = 3600.0  # the judge keeps one snapshot per block for the longest window
METRICS = (*SHARES, *QUANTILES)
TLS_LATER = "give the address alone and end TLS in front of it"
PLAN_LATER = "it belongs to a rollout plan, and rollouts in stages come later"
_NAME_MAX = 63


def _text(parse: Callable[[str], Any]) -> BeforeValidator:
    """Return a validator that lets `parse` see texts only; other scalars get their own message in `schema`."""

    def validate(value: object) -> Any:
        if not isinstance(value, str) or isinstance(value, Bare):
            raise PydanticCustomError("text_expected", "must be text")
        return parse(value)

    return BeforeValidator(validate)


def _or_none(parse: Callable[[object], Any]) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value in (None, "none") else parse(value))


def _write(write: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(lambda value: "none" if value is None else write(value))


def _name(text: str) -> str:
    inner = text.strip("-")
    plain = inner == text and text.isascii() and text.replace("-", "").isalnum() and text == text.lower()
    if not plain or len(text) > _NAME_MAX:
        raise WrongValue("is not a name", "lower-case letters, digits and - inside, at most 63 characters")
    return text


def _label(text: str) -> str:
    if not text.isascii() or not text.isprintable() or text != text.strip() or len(text) > _NAME_MAX:
        raise WrongValue("is not a label", "printable ASCII without spaces around it, at most 63 characters")
    return text


def _token(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise WrongValue("holds a space or a character that no HTTP header can carry")
    return text


def _path(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise WrongValue("is not a path")
    return text


def _salt(text: str) -> str:
    if not text.strip() or len(text) > 200:
        raise WrongValue("is not a salt", "write rollout or a fixed text of at most 200 characters")
    return text


def _listen(value: object) -> str:
    if isinstance(value, dict):
        raise PydanticCustomError("whole", f"a TLS listener is not in this version yet: {TLS_LATER}")
    if not isinstance(value, str) or isinstance(value, Bare):
        if isinstance(value, int) and not isinstance(value, bool):
            raise WrongValue("is a port without an address", f"write 0.0.0.0:{value}")
        raise PydanticCustomError("text_expected", "must be text")
    return parse_listen(value)


def _workers(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= WORKERS_MAX):
        return value
    raise WrongValue(f"is neither auto nor a whole number from 1 to {WORKERS_MAX}")


@dataclass(frozen=True, slots=True)
class Notation:
    """What a value looks like, for the documentation."""

    text: str


Duration = Annotated[float, Notation("duration"), BeforeValidator(parse_duration), _write(format_duration)]
Wait = Annotated[Duration, Field(gt=0)]
WaitOrNone = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Notation("duration or none"),
    _or_none(parse_duration),
    _write(format_duration),
]
Share = Annotated[float, Notation("share"), BeforeValidator(parse_share), _write(format_share)]
Weight = Annotated[int, Notation("weight"), BeforeValidator(parse_weight), _write(format_weight)]
Size = Annotated[int, Notation("size"), BeforeValidator(parse_size), _write(format_size)]
SizeOrNone = Annotated[int | None, Notation("size or none"), _or_none(parse_size), _write(format_size)]
Workers = Annotated[
    int | Literal["auto"], Notation(f"auto, or a number from 1 to {WORKERS_MAX}"), BeforeValidator(_workers)
]
Name = Annotated[str, Notation("name"), _text(_name)]
Label = Annotated[str, Notation("text"), _text(_label)]
Salt = Annotated[str, Notation("text"), _text(_salt)]
Secret = Annotated[str, Notation("text"), _text(_token)]
File = Annotated[str, Notation("path"), _text(_path)]
FileOrNone = Annotated[
    str | None, Notation("path or none"), _text(lambda text: None if text == "none" else _path(text)), _write(str)
]
Listen = Annotated[str, Notation("address"), BeforeValidator(_listen)]
EndpointUrl = Annotated[str, Notation("endpoint"), _text(lambda text: parse_endpoint(text).url)]
Network = Annotated[str, Notation("network"), _text(parse_network)]
FieldName = Annotated[str, Notation("header name"), _text(parse_field_name)]
MatchHost = Annotated[str, Notation("host"), _text(parse_match_host)]
MatchPath = Annotated[str, Notation("path prefix"), _text(parse_match_path)]
UpstreamHost = Annotated[str, Notation("preserve, endpoint or a host"), _text(parse_upstream_host)]


class Section(BaseModel):
    """A mapping of the config: unknown keys and wrong types are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    LATER: ClassVar[dict[str, str]] = {}


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

    LATER: ClassVar[dict[str, str]] = {"tls": TLS_LATER}

    listen: Listen = Field(
        default="127.0.0.1:9900",
        description="one address, or unix:/path; beyond this machine an operator token is required",
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
        description="http://host[:port] or unix:/path; requests go to the less busy of two drawn at random",
        examples=["[http://127.0.0.1:9001]"],
    )


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


class LimitConfig(Section):
    """One rule on a metric of a version."""

    LATER: ClassVar[dict[str, str]] = {
        "max_ratio": "limits relative to stable come later, give max",
        "floor": "it belongs to max_ratio, which comes later",
    }

    metric: Annotated[str, Notation("metric")] = Field(
        description=f"one of {', '.join(METRICS)}", examples=["error_rate"]
    )
    max: Annotated[float, Notation("share or duration")] | None = Field(
        default=None, description="highest good value: a share (1%), or a duration for p50 … p999", examples=["1%"]
    )
    min: Annotated[float, Notation("share")] | None = Field(
        default=None, description="lowest good value, a share; for availability instead of max", examples=["99.5%"]
    )
    window: Annotated[Duration, Field(gt=0, le=LONGEST_WINDOW_S)] | None = Field(
        default=None, description="judged over this sliding window; absent = 10s", examples=["10s"]
    )
    for_: Duration = Field(default=0.0, alias="for", description="the breach must last this long without a break")
    after: Duration = Field(
        default=0.0, description="shown but not acted on until `new` has had traffic this long (warm-up)"
    )
    min_requests: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=20, description="fewer requests in the window: INCONCLUSIVE, no decision"
    )
    version: Literal["new", "stable"] = Field(
        default="new", description="whose metric; stable only with pause or alert"
    )
    action: Literal["rollback", "pause", "alert"] = Field(default="rollback", description="what a breach does")
    dry_run: bool = Field(default=False, description="true: report what would have happened, do nothing")

    @field_validator("metric", mode="before")
    @classmethod
    def _metric(cls, value: object) -> object:
        if value in METRICS:
            return value
        raise PydanticCustomError("unknown_metric", "is not a metric")

    @field_validator("max", "min", mode="before")
    @classmethod
    def _bound(cls, value: object, info: ValidationInfo) -> object:
        metric = info.data.get("metric")
        if metric is None:  # its own mistake is reported; without it nobody knows the unit
            return None
        if metric in QUANTILES:
            if info.field_name == "min":
                raise PydanticCustomError("whole", "min is for availability only: give max")
            if isinstance(value, str) and value.endswith("%"):
                raise WrongValue(f"is a share, but {metric} is a duration", "write it like 200ms")
            seconds = parse_duration(value)
            if seconds < 0.000_001:
                raise WrongValue("is below 1 µs")
            return seconds
        other = {"min": "max", "max": "min"}[str(info.field_name)]
        if (metric == "availability") != (info.field_name == "min"):
            raise PydanticCustomError("whole", f"{metric} is limited by {other}: write {other} instead")
        return parse_share(value)

    @field_serializer("max", "min")
    def _write_bound(self, bound: float | None) -> str | None:
        if bound is None:
            return None
        return format_duration(bound) if self.metric in QUANTILES else format_share(bound)

    @field_serializer("window")
    def _write_window(self, window: float | None) -> str | None:
        return None if window is None else format_duration(window)


class JudgeConfig(Section):
    """How often the limits are judged."""

    LATER: ClassVar[dict[str, str]] = {"false_alarms": "every limit is judged over a window, which has no such setting"}

    block: Annotated[Duration, Field(ge=0.05, le=10)] = Field(
        default=0.25, description="time step of the judge; a decision is at most one block late"
    )


class TimeoutsConfig(Section):
    """How long an endpoint may take. What runs into one counts as bad, at the timeout's value."""

    connect: Wait = Field(default=1.0, description="until the connection stands")
    first_byte: Wait = Field(
        default=30.0, description="until the response begins; the highest latency limit there can be"
    )
    idle: Wait = Field(default=60.0, description="between two parts of a response")
    total: WaitOrNone = Field(default=None, description="for the whole exchange")
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
    budget: Share = Field(default=0.2, description="at most this share of what is in flight, at least 3 requests")


class ServiceConfig(Section):
    """What clients reach: a `stable` version, and for a part of the year a `new` one."""

    LATER: ClassVar[dict[str, str]] = {
        "health": "every endpoint counts as ready, and what fails there is seen by the requests that fail",
        "signals": "limit error_rate, availability or a percentile",
        "checks": "limit error_rate, availability or a percentile",
        "rollouts": "set weights by hand (tidegate weights set 10%)",
        "on_rollback": "open tunnels are kept",
    }

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
    judge: JudgeConfig = Field(default=JudgeConfig(), description="how often the limits are judged")
    timeouts: TimeoutsConfig = Field(default=TimeoutsConfig(), description="how long an endpoint may take")
    failover: FailoverConfig = Field(
        default=FailoverConfig(), description="which failures of `new` stable answers instead"
    )
    fallback_to_new: bool = Field(
        default=False, description="true: `new` answers when no endpoint of `stable` is ready, at weight 0 too"
    )
    watchdog: Wait = Field(default=2.0, description="nobody judged for this long: workers send everything to stable")
    host: UpstreamHost = Field(
        default="preserve", description="the Host that endpoints see: preserve, endpoint, or a name"
    )
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

    LATER: ClassVar[dict[str, str]] = {
        "tls": TLS_LATER,
        **dict.fromkeys(("stages", "advance", "max_hold", "on_max_hold", "progress_report", "hooks"), PLAN_LATER),
    }

    listen: list[Listen] = Field(
        default=["0.0.0.0:8080"],
        min_length=1,
        description="where clients connect: one address or a list; [::]:8080, unix:/path",
        examples=["0.0.0.0:8080"],
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
