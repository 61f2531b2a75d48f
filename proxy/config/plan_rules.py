"""Rules of rollout plans: what is wrong between values, and what is right and yet may surprise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.config import limit_rules
from proxy.config.limit_rules import Around
from proxy.config.limits import NAMED, Metric, written
from proxy.config.load import Loc
from proxy.config.looking import Finding, good, mapping, mappings
from proxy.config.units import (
    format_duration,
    format_weight,
    parse_duration,
    parse_reading,
    parse_share,
    parse_weight,
)
from proxy.config.wrong import WrongValue
from proxy.rollout.plan import CHECK, METRICS
from proxy.routing.table import FULL

Rule = tuple[object, ...]
Stages = list[tuple[Loc, dict[str, Any]]]


def check(loc: Loc, plan: dict[str, Any], around: Around) -> Iterator[Finding]:
    """Yield every broken rule of a normalised plan at a path."""
    stages: Stages = [((*loc, "stages", index), stage) for index, stage in mappings(plan, "stages")]
    yield from definitions(loc, plan)
    yield from _names(stages)
    yield from _weights(stages)
    for at, stage in stages:
        yield from limit_rules.check(at, stage, "limits", around)
        yield from limit_rules.check(at, stage, "require", around)
        yield from _warm_up(at, stage)
    yield from _hooks((*loc, "hooks"), mapping(plan, "hooks"))
    if plan.get("on_max_hold") == "rollback" and plan.get("max_hold", "none") == "none":
        yield (*loc, "on_max_hold"), "never happens without max_hold: add max_hold: 24h"


def definitions(loc: Loc, section: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the signals and checks of a service or a plan."""
    for kind in NAMED:
        for name in mapping(section, kind):
            if name in METRICS:
                yield (*loc, kind, name), "is a metric that every service has: give it another name"
            elif kind == "checks" and name in mapping(section, "signals"):
                yield (*loc, kind, name), "is the name of a signal already: give it another name"
    for name, definition in mapping(section, "checks").items():
        if isinstance(definition, dict):
            yield from _one_of((*loc, "checks", name), definition, "url", "file")


def _one_of(loc: Loc, section: dict[str, Any], first: str, second: str) -> Iterator[Finding]:
    if first in section and second in section:
        yield (*loc, second), f"stands beside {first}: keep one of them"
    elif first not in section and second not in section:
        yield loc, f"has neither {first} nor {second}: give one"


def _names(stages: Stages) -> Iterator[Finding]:
    seen: set[str] = set()
    for at, stage in stages:
        name = stage.get("name")
        if isinstance(name, str) and name in seen:
            yield (*at, "name"), "is the name of another stage already: give it its own"
        seen.add(str(name))


def _weights(stages: Stages) -> Iterator[Finding]:
    highest = 0
    for at, stage in stages:
        weight = good(parse_weight, stage.get("weight"))
        if weight is not None and weight < highest:
            before = f"{format_weight(highest)} of a stage before"
            yield (*at, "weight"), f"{format_weight(weight)} is below {before}: weights never fall in a rollout"
        highest = max(highest, weight or 0)


def _warm_up(at: Loc, stage: dict[str, Any]) -> Iterator[Finding]:
    hold = good(parse_duration, stage.get("hold"))
    for index, limit in mappings(stage, "require"):
        after = good(parse_duration, limit.get("after"))
        if hold and after and after >= hold:
            what = f"leaves nothing of the hold ({format_duration(hold)}) to be measured"
            yield (*at, "require", index, "after"), f"{what}: shorten it"


def _hooks(loc: Loc, hooks: dict[str, Any]) -> Iterator[Finding]:
    for name, hook in hooks.items():
        if isinstance(hook, dict):
            yield from _one_of((*loc, name), hook, "url", "run")
            if "cwd" in hook and "run" not in hook:
                yield (*loc, name, "cwd"), "belongs to run: remove it"


def surprises(loc: Loc, plan: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is right and yet may not be what was meant."""
    stages: Stages = [((*loc, "stages", index), stage) for index, stage in mappings(plan, "stages")]
    yield from _looser(stages)
    yield from _too_late(stages)
    yield from _nothing_to_compare(stages)
    for at, stage in stages:
        if stage.get("advance", plan.get("advance")) == "evidence":
            yield from _never_proven(at, stage)
    weights = [weight for _, stage in stages if (weight := good(parse_weight, stage.get("weight"))) is not None]
    if weights and max(weights) < FULL:
        yield (*loc, "stages"), f"the last stage leaves new at {format_weight(max(weights))}: stable keeps the rest"


def _looser(stages: Stages) -> Iterator[Finding]:
    tightest: dict[Rule, tuple[float, str]] = {}
    for at, stage in stages:
        found: dict[Rule, tuple[float, str]] = {}
        for index, limit in mappings(stage, "limits"):
            metric = limit.get("metric")
            for key in ("max", "min"):
                bound = _bound(metric, limit.get(key))
                if bound is None or not isinstance(metric, Metric) or metric.source == CHECK:
                    continue  # what a check reads may well grow with the traffic
                sign = 1 if key == "max" else -1
                kind = [str(limit.get(name)) for name in ("version", "action", "dry_run")]
                rule: Rule = (metric, key, "window" in limit, *kind)
                if rule in tightest and sign * bound > sign * tightest[rule][0]:
                    before = f"{written(metric, tightest[rule][0])} of stage {tightest[rule][1]}"
                    yield (*at, "limits", index, key), f"{written(metric, bound)} is looser than {before}"
                if rule not in found or sign * bound < sign * found[rule][0]:
                    found[rule] = (bound, str(stage.get("name")))
        for rule, (bound, name) in found.items():
            sign = 1 if rule[1] == "max" else -1
            if rule not in tightest or sign * bound < sign * tightest[rule][0]:
                tightest[rule] = (bound, name)


def _bound(metric: object, value: object) -> float | None:
    if not isinstance(metric, Metric) or value is None:
        return None
    try:
        return (parse_duration if metric.latency else parse_reading if metric.source == CHECK else parse_share)(value)
    except WrongValue:
        return None


def _too_late(stages: Stages) -> Iterator[Finding]:
    for at, stage in stages:
        hold = good(parse_duration, stage.get("hold"))
        for index, limit in mappings(stage, "limits"):
            late = {key: good(parse_duration, limit.get(key)) or 0.0 for key in ("for", "after")}
            if hold and sum(late.values()) >= hold:
                key = max(late, key=lambda name: late[name])
                what = f"the hold of {format_duration(hold)} is over before this limit can act"
                yield (*at, "limits", index, key), f"{what}: shorten {key}, or hold the stage longer"


def _nothing_to_compare(stages: Stages) -> Iterator[Finding]:
    before = False  # a stage in which stable had traffic
    for at, stage in stages:
        before = before or (good(parse_weight, stage.get("weight")) or 0) < FULL
        for key in ("limits", "require"):
            for index, limit in mappings(stage, key):
                if "max_ratio" in limit and not before:
                    what = "no stage below 100% comes before it: stable leaves no record to compare with"
                    yield (*at, key, index, "max_ratio"), what


def _never_proven(at: Loc, stage: dict[str, Any]) -> Iterator[Finding]:
    for index, limit in mappings(stage, "limits"):
        metric = limit.get("metric")
        acts = limit.get("action", "rollback") != "alert" and limit.get("dry_run") is not True
        if not acts or not isinstance(metric, Metric):
            continue
        why = "is judged over a window" if "window" in limit else "is read by a check"
        if "window" in limit or metric.source == CHECK:
            what = f"{metric} {why}, which proves nothing: this stage lasts its whole hold"
            yield (*at, "limits", index), what
