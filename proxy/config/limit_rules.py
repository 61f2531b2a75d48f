"""Rules between the keys of a limit, and between a limit and what is around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.config.limits import Metric
from proxy.config.load import Loc
from proxy.config.looking import Finding, good, mappings
from proxy.config.units import format_duration, parse_duration
from proxy.rollout.plan import CHECK, FIRST_BYTE, SIGNAL, Limit
from proxy.routing.table import MAX_THRESHOLDS

BOUNDS = ("max", "min", "max_ratio")


@dataclass(slots=True)
class Around:
    """What limits are judged in. `edges`: the latency limits seen so far (first byte?, seconds).

    `first_byte_s` and `block_s` are those of the service; `None` = not known.
    """

    what: str
    first_byte_s: float | None
    block_s: float | None
    edges: set[tuple[bool, float]] = field(default_factory=set)


def check(loc: Loc, section: dict[str, Any], key: str, around: Around) -> Iterator[Finding]:
    """Yield what is wrong with the limits under `key` of a section."""
    for index, limit in mappings(section, key):
        metric = limit.get("metric")
        if isinstance(metric, Metric):
            at = (*loc, key, index)
            yield from _bounds(at, limit, metric)
            yield from _version(at, limit)
            yield from _window(at, limit, around)
            if metric.source == CHECK:
                yield from _reading(at, limit)
            elif "window" not in limit and _lasts(limit):
                yield (*at, "for"), "belongs to a window: add window: 10s, or remove it (evidence takes its own time)"
            if metric.latency:
                yield from _latency(at, limit, metric, around)


def _bounds(at: Loc, limit: dict[str, Any], metric: Metric) -> Iterator[Finding]:
    given = [key for key in BOUNDS if key in limit]
    if not given:
        yield at, f"has no bound: add {_example(metric)}"
    elif len(given) > 1:
        yield (*at, given[1]), f"stands beside {given[0]}: keep one of them"
    elif given == ["max_ratio"] and metric.source == CHECK:
        yield (*at, "max_ratio"), "a check has no value of stable to compare with: give max or min"
    elif given == ["max_ratio"] and metric == "availability":
        yield (*at, "max_ratio"), "availability is limited by min: limit error_rate by max_ratio instead"
    if "floor" in limit and "max_ratio" not in limit:
        yield (*at, "floor"), "belongs to max_ratio: remove it"


def _example(metric: Metric) -> str:
    if metric.source == CHECK:
        return "max: 1000"
    if metric.latency:
        return "max: 200ms"
    return "min: 99%" if metric == "availability" else "min: 50%" if metric.source == SIGNAL else "max: 1%"


def _version(at: Loc, limit: dict[str, Any]) -> Iterator[Finding]:
    if limit.get("version") != "stable":
        return
    if "max_ratio" in limit:
        yield (*at, "max_ratio"), "compares with stable, and this limit is on stable itself: give max"
    if limit.get("action", "rollback") == "rollback":
        key = (*at, "action") if "action" in limit else at
        yield key, "a limit on stable cannot roll new back: add action: pause or action: alert"


def _window(at: Loc, limit: dict[str, Any], around: Around) -> Iterator[Finding]:
    window = good(parse_duration, limit.get("window"))
    if window and around.block_s and window < around.block_s:
        yield (*at, "window"), f"is shorter than the judge's block ({format_duration(around.block_s)})"


def _lasts(limit: dict[str, Any]) -> bool:
    seconds = good(parse_duration, limit.get("for"))
    return bool(seconds)


def _reading(at: Loc, limit: dict[str, Any]) -> Iterator[Finding]:
    if "window" in limit:
        yield (*at, "window"), "a check is judged by its last reading: remove window, and say how long with for"
    if limit.get("min_requests", Limit("").min_requests) != Limit("").min_requests:
        yield (*at, "min_requests"), "a check counts no requests: remove it"
    if limit.get("version") == "stable":
        yield (*at, "version"), "a check is of no version: remove it"


def _latency(at: Loc, limit: dict[str, Any], metric: Metric, around: Around) -> Iterator[Finding]:
    seconds = good(parse_duration, limit.get("max"))
    if seconds is None:
        return
    if around.first_byte_s and seconds > around.first_byte_s:
        yield (
            (*at, "max"),
            (
                f"is above timeouts.first_byte ({format_duration(around.first_byte_s)}): "
                "an endpoint that never answers is recorded at that timeout and would count as fast enough"
            ),
        )
    edge = (metric in FIRST_BYTE, seconds)
    if edge not in around.edges and len(around.edges) == MAX_THRESHOLDS:
        ordinal = f"{MAX_THRESHOLDS + 1}th different latency limit of {around.what}"
        yield (*at, "max"), f"is the {ordinal}: at most {MAX_THRESHOLDS}, so use a bound again that stands elsewhere"
    elif seconds:
        around.edges.add(edge)
