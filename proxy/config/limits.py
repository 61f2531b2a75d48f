"""The shape of limits, and of the signals and checks that they may name.

A bound is written in the unit of its metric: a share, a duration, or whatever a check reads. What a name means depends
on where it stands (a service's signals, a plan's checks), so `normal` puts a `Metric` in its place before the model
sees it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_serializer, field_validator
from pydantic_core import PydanticCustomError

from proxy.config.units import (
    format_duration,
    format_reading,
    format_share,
    parse_duration,
    parse_reading,
    parse_share,
)
from proxy.config.values import Duration, File, JsonPath, Notation, Pattern, Ratio, Section, SignalHeader, Url, Wait
from proxy.config.wrong import WrongValue
from proxy.rollout.plan import CHECK, COUNTED, LATENCIES, METRICS, SIGNAL

LONGEST_WINDOW_S = 3600.0  # the judge keeps one snapshot per block for the longest window


class Metric(str):
    """A metric that is known where it stands, with what it comes from."""

    __slots__ = ("source",)
    source: str

    @property
    def latency(self) -> bool:
        """Whether its unit is a duration."""
        return self.source == COUNTED and self in LATENCIES


def metric(name: str, source: str = COUNTED) -> Metric:
    """Return a known metric; `source` is counted, signal or check."""
    made = Metric(name)
    made.source = source
    return made


def _known(value: object) -> Metric:
    if isinstance(value, Metric):
        return value
    raise PydanticCustomError("unknown_metric", "is not a metric")


def _bound(value: object, info: ValidationInfo) -> float | None:
    known: Metric | None = info.data.get("metric")
    if known is None:  # its own mistake is reported; without it nobody knows the unit
        return None
    if known.latency:
        return _latency(known, value, str(info.field_name))
    if known.source == CHECK:
        return parse_reading(value)
    other = {"min": "max", "max": "min"}.get(str(info.field_name), "")
    if known.source == COUNTED and other and (known == "availability") != (info.field_name == "min"):
        raise PydanticCustomError("whole", f"{known} is limited by {other}: write {other} instead")
    return parse_share(value)


def _latency(known: Metric, value: object, key: str) -> float:
    if key == "min":
        raise PydanticCustomError("whole", "min is for availability, signals and checks only: give max")
    if isinstance(value, str) and value.endswith("%"):
        raise WrongValue(f"is a share, but {known} is a duration", "write it like 200ms")
    seconds = parse_duration(value, bare="ms")
    if seconds < 0.000_001:
        raise WrongValue("is below 1 µs")
    return seconds


def written(known: Metric, bound: float | None) -> Any:
    """Return a bound in the notation of the file."""
    if bound is None:
        return None
    if known.source == CHECK:
        return format_reading(bound)
    return format_duration(bound) if known.latency else format_share(bound)


MetricField = Annotated[Metric, Notation("metric"), PlainValidator(_known)]
Bound = Annotated[float, Notation("share, duration or number")] | None
Requests = Annotated[int, Field(ge=1, le=10_000_000)]
BUILT_IN = ", ".join(METRICS[:8]) + ", ttfb_p50 … ttfb_p999"
_MAX = "highest good value: a share (1%), a duration (p50 …), or what a check reads"
_MIN = "lowest good value, for availability, signals and checks instead of max"
_RATIO = "instead of max: at most so many times the value of stable over the same time"
_FLOOR = "with max_ratio: a value within this is never too much"


class LimitConfig(Section):
    """One rule on a metric of a version."""

    metric: MetricField = Field(
        description=f"one of {BUILT_IN}; or the name of a signal or check", examples=["error_rate"]
    )
    max: Bound = Field(default=None, description=_MAX, examples=["1%"])
    min: Bound = Field(default=None, description=_MIN, examples=["99.5%"])
    max_ratio: Ratio | None = Field(default=None, description=_RATIO, examples=["1.5"])
    floor: Bound = Field(default=None, description=_FLOOR, examples=["0.1%"])
    window: Annotated[Duration, Field(gt=0, le=LONGEST_WINDOW_S)] | None = Field(
        default=None,
        description="judged over this sliding window; absent = by evidence, block by block",
        examples=["10s"],
    )
    for_: Duration = Field(default=0.0, alias="for", description="the breach must last this long without a break")
    after: Duration = Field(
        default=0.0, description="shown but not acted on until `new` has had traffic this long (warm-up)"
    )
    min_requests: Requests = Field(default=20, description="fewer requests in the window: INCONCLUSIVE, no decision")
    version: Literal["new", "stable"] = Field(
        default="new", description="whose metric; stable only with pause or alert"
    )
    action: Literal["rollback", "pause", "alert"] = Field(default="rollback", description="what a breach does")
    dry_run: bool = Field(default=False, description="true: report what would have happened, do nothing")

    _read = field_validator("max", "min", "floor", mode="before")(_bound)

    @field_serializer("max", "min", "floor")
    def _write_bound(self, bound: float | None) -> Any:
        return written(self.metric, bound)

    @field_serializer("window")
    def _write_window(self, window: float | None) -> str | None:
        return None if window is None else format_duration(window)


class RequireConfig(Section):
    """What must hold at the end of a stage, measured over the whole stage; not met: the stage is held."""

    metric: MetricField = Field(
        description=f"one of {BUILT_IN}; or the name of a signal or check", examples=["availability"]
    )
    min: Bound = Field(default=None, description=_MIN, examples=["99.5%"])
    max: Bound = Field(default=None, description=_MAX, examples=["1%"])
    max_ratio: Ratio | None = Field(default=None, description=_RATIO, examples=["0.6"])
    floor: Bound = Field(default=None, description=_FLOOR, examples=["0.1%"])
    after: Duration = Field(default=0.0, description="what came before the stage was this old is left out (warm-up)")
    min_requests: Requests = Field(default=20, description="fewer requests: not met")

    _read = field_validator("max", "min", "floor", mode="before")(_bound)

    @field_serializer("max", "min", "floor")
    def _write_bound(self, bound: float | None) -> Any:
        return written(self.metric, bound)


class SignalConfig(Section):
    """A metric from a response header: the share of the responses that have it whose value matches."""

    header: SignalHeader = Field(description="the response header", examples=["x-cache"])
    matches: Pattern = Field(description="a regular expression that is searched in its value", examples=['"^HIT"'])


class CheckConfig(Section):
    """A metric that is read from elsewhere. A reading that fails is ERROR, never good or bad."""

    url: Url | None = Field(
        default=None, description="JSON from here (GET)", examples=["http://127.0.0.1:9005/memory.json"]
    )
    file: File | None = Field(default=None, description="or from this file", examples=["memory.json"])
    json_: JsonPath = Field(default="$", alias="json", description="where in it the number is", examples=["$.rss"])
    every: Annotated[Duration, Field(ge=1, le=3600)] = Field(default=10.0, description="how often it is read")
    timeout: Annotated[Wait, Field(le=60)] = Field(default=5.0, description="how long one reading may take")


NAMED = {"signals": SIGNAL, "checks": CHECK}
