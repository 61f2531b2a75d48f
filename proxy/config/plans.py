"""Rollout plans without a service: files of plans, and plans in the body of a request.

A file is checked and compiled in full. What only a service can say (its timeouts, its own limits) is not known here;
a signal or check of the service has to stand in the file. A plan in a body may name hooks' and checks' results, never
define hooks, checks or signals: those come from files only.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config import plan_tables, rules, schema
from proxy.config.include import as_plans, is_plan, read_text
from proxy.config.limit_rules import Around
from proxy.config.limits import metric
from proxy.config.load import from_body, load
from proxy.config.normal import normalise, normalise_plan
from proxy.config.stages import PlanConfig, PlansConfig
from proxy.errors import ConfigError, Problem
from proxy.rollout.plan import CHECK, METRICS, SIGNAL, Plan, ServicePlan
from proxy.routing.table import Service

FILES_ONLY = ("hooks", "signals", "checks")


@dataclass(frozen=True, slots=True)
class CompiledPlans:
    """The plans of a file that is right; `notes` are for people."""

    plans: tuple[Plan, ...]
    source: Path | None
    notes: tuple[str, ...]


def is_plan_file(path: Path) -> bool:
    """Return whether a file holds rollout plans (`stages` or `plans` at its top) and no config; see `ConfigError`."""
    return is_plan(load(read_text(path, "a config or of rollout plans"), {}, str(path)).data)


def compile_plan_file(path: Path, environ: Mapping[str, str]) -> CompiledPlans:
    """Return the compiled plans of a file; raise `ConfigError` with all problems."""
    return _compile(
        read_text(path, "a rollout plan"), environ, name=str(path), base=path.absolute().parent, source=path
    )


def compile_plan_text(
    text: str, environ: Mapping[str, str], *, name: str = "<text>", base: Path = Path()
) -> CompiledPlans:
    """Return the compiled plans of a text; relative paths are taken from `base`."""
    return _compile(text, environ, name=name, base=base, source=None)


def compile_plan_body(data: object, plan: ServicePlan, service: Service, *, name: str = "inline") -> Plan:
    """Return the plan of a request's body (plain JSON, in the notation of a file) for a service.

    Raises `ConfigError` with all problems, which have keys and no lines.
    """
    body: Any = deepcopy(data)
    document = from_body(body)
    if not isinstance(body, dict):
        raise ConfigError([Problem("", "must be a mapping with keys such as stages, advance, max_hold")])
    for key in FILES_ONLY:
        if key in body:
            document.report(
                (key,), f"come from files only: put the plan into a file and name it under rollouts of {plan.name}"
            )
    scope = {known: metric(known) for known in METRICS}
    scope |= {signal.name: metric(signal.name, SIGNAL) for signal in plan.signals}
    scope |= {check.name: metric(check.name, CHECK) for check in plan.checks}
    normalise_plan(document, (), body, scope)
    config = schema.validate(document, PlanConfig)
    edges = {
        (limit.first_byte, limit.max / 1000)
        for limit in plan.limits  # those of other plans make room
        if limit.quantile is not None and limit.max is not None
    }
    rules.check_plan(document, (), body, Around("this service", service.timeouts.first_byte_s, plan.block_s, edges))
    if config is None or document.problems:
        raise document.error()
    return plan_tables.plan(name, config, Path())


def _compile(text: str, environ: Mapping[str, str], *, name: str, base: Path, source: Path | None) -> CompiledPlans:
    document = load(text, environ, name)
    if not is_plan(document.data):
        raise ConfigError([Problem("", "is not a rollout plan: it needs stages, or plans by name", name, 1, 1)])
    as_plans(document)
    normalise(document)
    config = schema.validate(document, PlansConfig)
    rules.check_plans(document)
    if config is None or document.problems:
        raise document.error()
    notes = [f"warning: {warning}" for warning in document.in_order(document.warnings)]
    for plan_name, plan in config.plans.items():
        notes += plan_tables.notes(plan_name, plan)
    return CompiledPlans(
        plans=tuple(plan_tables.plan(plan_name, plan, base) for plan_name, plan in config.plans.items()),
        source=source,
        notes=tuple(notes),
    )
