"""Which versions are `new` and `stable`: what the config says, or what was registered since.

PUT versions/new *registers* a version: it stands in the store and wins over the config until the config says
something else than it said then. DELETE registers that there is none. What the config said is stored beside it, so
that a restart can tell a changed config from an unchanged one. `finish` registers what is stable now, and that there
is no new one, by the same rule: it stands until the config says something else of stable than it said then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from proxy.controlplane.store import CONFIG, REGISTERED, STABLE_CONFIG, STABLE_REGISTERED
from proxy.rollout.plan import CHECK, SIGNAL, Check, Limit, Plan, ServicePlan
from proxy.rollout.state import COMPLETED, DRILL, PAUSED, PROGRESSING, ServiceState
from proxy.routing.table import MAX_SIGNALS, MAX_THRESHOLDS, RoutingTable, Service, Version


@dataclass(frozen=True, slots=True)
class Choice:
    """What `new` of a service is, what it was (`None`: never seen), what is to be stored, and what to tell people."""

    new: Version
    was: Version | None
    stored: Mapping[tuple[str, str], Version | None]
    note: str = ""


def choose(service: str, config: Version, stored: Mapping[tuple[str, str], Version]) -> Choice:
    """Return which version is `new` when the config says `config`."""
    said, registered = stored.get((service, CONFIG)), stored.get((service, REGISTERED))
    was = said if registered is None else registered
    if said == config:
        if registered is None:
            return Choice(config, was, {})
        return Choice(registered, was, {}, _note(service, config, registered, stored.get((service, STABLE_REGISTERED))))
    fresh: dict[tuple[str, str], Version | None] = {(service, CONFIG): config}
    if registered is None:
        return Choice(config, was, fresh)
    note = f"{service}: the config has changed and says that new is {named(config)}: the registered one is dropped"
    return Choice(config, was, {**fresh, (service, REGISTERED): None}, note)


def _note(service: str, config: Version, registered: Version, finished: Version | None) -> str:
    """Say why `new` is not what the config says, if it is not."""
    if registered == config:
        return ""
    if registered.endpoints:
        return f"{service}: new is {named(registered)}, as registered through the API; the config says {named(config)}"
    since = (
        "it was removed through the API" if finished is None else f"a finished rollout made {named(finished)} stable"
    )
    return (
        f"{service}: there is no new version, since {since}; the config still says that new is {named(config)}: "
        "name the next one there"
    )


@dataclass(frozen=True, slots=True)
class StableChoice:
    """What `stable` of a service is, what is to be stored, and what to tell people."""

    stable: Version
    stored: Mapping[tuple[str, str], Version | None]
    note: str = ""


def choose_stable(service: str, config: Version, stored: Mapping[tuple[str, str], Version]) -> StableChoice:
    """Return which version is `stable` when the config says `config`."""
    said, finished = stored.get((service, STABLE_CONFIG)), stored.get((service, STABLE_REGISTERED))
    if said == config:
        if finished is None or finished == config:
            return StableChoice(config, {})
        note = f"{service}: stable is {named(finished)}, as a finished rollout made it; the config says {named(config)}"
        return StableChoice(finished, {}, note)
    fresh: dict[tuple[str, str], Version | None] = {(service, STABLE_CONFIG): config}
    if finished is None:
        return StableChoice(config, fresh)
    note = f"{service}: the config has changed and says that stable is {named(config)}: that stands now"
    return StableChoice(config, {**fresh, (service, STABLE_REGISTERED): None}, note if config != finished else "")


def with_stable(table: RoutingTable, service: str, stable: Version) -> RoutingTable:
    """Return the table with another stable version of a service."""
    return replace(
        table, services=tuple(replace(one, stable=stable) if one.name == service else one for one in table.services)
    )


def finished(table: RoutingTable, service: str) -> RoutingTable:
    """Return the table in which the new version of a service is the stable one, and there is no new one."""
    return replace(
        table,
        services=tuple(
            replace(one, stable=one.new, new=Version()) if one.name == service else one for one in table.services
        ),
    )


def counting(table: RoutingTable, plan: ServicePlan, rollout: Plan) -> RoutingTable:
    """Return the table in which workers count what the limits of a service and of a rollout there are about.

    What only its other plans need is counted while there is room: their start makes it. Counts go on by value.
    A table in which all of it is counted already comes back as it is.
    """
    service = next(one for one in table.services if one.name == plan.name)
    needed = _edges((*plan.limits, *rollout.every_limit()))
    names = {signal.name for signal in service.signals}
    lacking = tuple(signal for signal in rollout.signals if signal.name not in names)
    if not lacking and needed.keys() <= _counted(service):
        return table
    edges = list(needed | _edges(plan.every_limit()))[:MAX_THRESHOLDS]
    total, first = (tuple(sorted(us for is_first, us in edges if is_first == wanted)) for wanted in (False, True))
    changed = replace(
        service,
        thresholds_us=total,
        ttfb_thresholds_us=first,
        signals=(*service.signals, *lacking)[:MAX_SIGNALS],
    )
    return replace(table, services=tuple(changed if one is service else one for one in table.services))


def uncounted(table: RoutingTable, plan: ServicePlan, rollout: Plan) -> list[str]:
    """Return the metrics of a service's limits and of a rollout's there that the workers of a table do not count."""
    service = next(one for one in table.services if one.name == plan.name)
    counted, signals = _counted(service), dict.fromkeys(service.signals)
    wanted = {signal.name: signal for signal in rollout.signals}
    lacking = (
        limit.metric
        for limit in (*plan.limits, *rollout.every_limit())
        if not _edges((limit,)).keys() <= counted
        or (limit.source == SIGNAL and wanted.get(limit.metric) not in (None, *signals))
    )
    return list(dict.fromkeys(lacking))


def with_checks(rollout: Plan, plan: ServicePlan) -> Plan:
    """Return a plan with every check that its limits name: its own ones, and those of the service."""
    named = {limit.metric for limit in rollout.every_limit() if limit.source == CHECK}
    named -= {check.name for check in rollout.checks}
    more = sorted((check for check in plan.checks if check.name in named), key=lambda check: check.name)
    return replace(rollout, checks=(*rollout.checks, *more)) if more else rollout


def read_of(plan: ServicePlan, state: ServiceState) -> tuple[Check, ...]:
    """Return the checks of a service that are to be read; those of a rollout under way are what it started with."""
    lasts = state.phase in (PROGRESSING, PAUSED, COMPLETED) or state.reason == DRILL
    kept = state.rollout.plan.checks if state.rollout is not None and lasts else ()
    names = {check.name for check in kept}
    return (*kept, *(check for check in plan.checks if check.name not in names))


def other_checks(plan: ServicePlan, rollout: Plan) -> list[str]:
    """Return the checks that a service's own limits name and that mean something else in a rollout there."""
    kept = {check.name: check for check in rollout.checks}
    named = {limit.metric for limit in plan.limits if limit.source == CHECK}
    return [check.name for check in plan.checks if check.name in named and kept.get(check.name, check) != check]


def _edges(limits: Iterable[Limit]) -> dict[tuple[bool, int], None]:
    """Return the latencies that limits name, each once and in order: (of the first byte, µs)."""
    return {(limit.first_byte, limit.threshold_us): None for limit in limits if limit.threshold_us is not None}


def _counted(service: Service) -> set[tuple[bool, int]]:
    return {(False, us) for us in service.thresholds_us} | {(True, us) for us in service.ttfb_thresholds_us}


def with_new(table: RoutingTable, service: str, new: Version) -> RoutingTable:
    """Return the table with another new version of a service."""
    return replace(
        table, services=tuple(replace(one, new=new) if one.name == service else one for one in table.services)
    )


def named(version: Version) -> str:
    """Return how a version is called in a sentence."""
    if not version.endpoints:
        return "none"
    return repr(version.label) if version.label else version.endpoints[0].url
