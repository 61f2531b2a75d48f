"""Valid plans, limits, signals and checks to the types that controller, machine and judge work with.

Everything here is a translation that cannot fail: what could be wrong was reported before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from proxy.config.limits import CheckConfig, LimitConfig, RequireConfig, SignalConfig, written
from proxy.config.stages import HookConfig, PlanConfig, StageConfig
from proxy.config.units import format_duration
from proxy.config.values import parse_json_path
from proxy.rollout.plan import HOLD, READING, ROLLBACK, Check, Hook, Hooks, Limit, Plan, Stage
from proxy.routing.table import VERSIONS, Signal


def plan(name: str, config: PlanConfig, base: Path) -> Plan:
    """Return a plan; relative paths are taken from `base`."""
    return Plan(
        name=name,
        stages=tuple(_stage(stage, config.advance) for stage in config.stages),
        advance=config.advance,
        max_hold_s=config.max_hold,
        on_max_hold=config.on_max_hold,
        progress_report_s=config.progress_report,
        hooks=Hooks(
            before_start=_hook(config.hooks.before_start, base),
            before_stage=_hook(config.hooks.before_stage, base),
            after_rollback=_hook(config.hooks.after_rollback, base),
            after_complete=_hook(config.hooks.after_complete, base),
        ),
        signals=signals(config.signals),
        checks=checks(config.checks, base),
    )


def _stage(stage: StageConfig, advance: str) -> Stage:
    return Stage(
        name=stage.name,
        weight_bp=stage.weight,
        hold_s=stage.hold,
        min_requests=stage.min_requests,
        limits=tuple(limit(config) for config in stage.limits),
        require=tuple(_requirement(config) for config in stage.require),
        advance=stage.advance or advance,
    )


def limit(config: LimitConfig) -> Limit:
    """Return a limit."""
    return Limit(
        metric=str(config.metric),
        max=_in_ms(config, config.max),
        min=config.min,
        window_s=config.window,
        for_s=config.for_,
        after_s=config.after,
        min_requests=config.min_requests,
        version=VERSIONS.index(config.version),
        action=config.action,
        dry_run=config.dry_run,
        max_ratio=config.max_ratio,
        floor=_in_ms(config, config.floor) or 0.0,
        source=config.metric.source,
    )


def _requirement(config: RequireConfig) -> Limit:
    return Limit(
        metric=str(config.metric),
        max=_in_ms(config, config.max),
        min=config.min,
        after_s=config.after,
        min_requests=config.min_requests,
        action=HOLD,
        max_ratio=config.max_ratio,
        floor=_in_ms(config, config.floor) or 0.0,
        source=config.metric.source,
    )


def _in_ms(config: LimitConfig | RequireConfig, bound: float | None) -> float | None:
    return round(bound * 1000, 6) if bound is not None and config.metric.latency else bound


def signals(configs: Mapping[str, SignalConfig]) -> tuple[Signal, ...]:
    """Return signals in the order of their definition."""
    return tuple(Signal(name, config.header, config.matches) for name, config in configs.items())


def checks(configs: Mapping[str, CheckConfig], base: Path) -> tuple[Check, ...]:
    """Return checks in the order of their definition; relative files are taken from `base`."""
    return tuple(
        Check(
            name=name,
            url=config.url,
            file=None if config.file is None else str(base / config.file),
            path=parse_json_path(config.json_),
            every_s=config.every,
            timeout_s=config.timeout,
        )
        for name, config in configs.items()
    )


def _hook(config: HookConfig | None, base: Path) -> Hook | None:
    if config is None:
        return None
    run = tuple(config.run or ())
    return Hook(config.url, run, str(base / (config.cwd or ".")) if run else None, config.timeout)


def notes(name: str, config: PlanConfig) -> Iterator[str]:
    """Yield how every limit of a plan is judged, each once with the stages that have it, and what may surprise."""
    said: dict[str, list[str]] = {}
    for stage in config.stages:
        for each in stage.limits:
            said.setdefault(f"{_bounded(each)} {_judged_by(each)}", []).append(stage.name)
        for required in stage.require:
            after = f", without its first {format_duration(required.after)}" if required.after else ""
            said.setdefault(f"{_bounded(required)} is required over the whole stage{after}", []).append(stage.name)
    for text, stages in said.items():
        where = "every stage" if len(stages) == len(config.stages) else f"stage {', '.join(stages)}"
        yield f"{name}: {where}: {text}"
    if not any(each.action == ROLLBACK and not each.dry_run for stage in config.stages for each in stage.limits):
        yield f"{name}: no limit of this plan rolls back: only those of the service do"


def judged(config: LimitConfig) -> str:
    """Return how a limit is judged, in words."""
    return f"{_bounded(config)} {_judged_by(config)}"


def _metric(config: LimitConfig | RequireConfig) -> str:
    stable = isinstance(config, LimitConfig) and config.version == "stable"
    return f"{config.metric} of stable" if stable else str(config.metric)


def _bounded(config: LimitConfig | RequireConfig) -> str:
    bounds = {"max": config.max, "min": config.min}
    shown = [f"{key} {written(config.metric, bound)}" for key, bound in bounds.items() if bound is not None]
    if config.max_ratio is not None:
        shown.append(f"max_ratio {config.max_ratio:g}")
    return f"{_metric(config)} {' '.join(shown)}"


def _judged_by(config: LimitConfig) -> str:
    made = limit(config)
    if made.judge == READING:
        text = "is judged by every reading"
    elif made.sliding_s is not None:
        text = f"is judged over window {format_duration(made.sliding_s)} with at least {config.min_requests} requests"
    else:
        text = f"is judged by evidence, with at least {config.min_requests} requests"
    if config.for_:
        text += f", in breach for {format_duration(config.for_)}"
    if config.after:
        text += f", after {format_duration(config.after)}"
    if config.dry_run:
        text += ", reported only (dry_run)"
    elif config.action != ROLLBACK:
        text += f", then {config.action}"
    return text
