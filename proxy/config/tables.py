"""A valid config to what the processes work with: settings, routing table, plans, and what to say about them.

Everything here is a translation that cannot fail: what could be wrong was reported before.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.config import health, plan_tables
from proxy.config.addresses import is_local, parse_endpoint
from proxy.config.certificates import Trust
from proxy.config.cpus import usable_cpus
from proxy.config.limits import LimitConfig
from proxy.config.load import Loc
from proxy.config.model import CertificateConfig, Config, ServiceConfig, VersionConfig
from proxy.rollout.plan import ServicePlan, thresholds_us
from proxy.routing.table import (
    AccessLog,
    Drain,
    EndpointTls,
    Failover,
    InFlight,
    Match,
    Override,
    RequestLimits,
    RoutingTable,
    Service,
    Sticky,
    Timeouts,
    Version,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the admin API. `token` is the secret itself, read from `token_file` where that is given."""

    name: str
    role: str  # operator | read
    token: str = field(repr=False)
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a certificate and its key stand."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a listen address is beside an address: TLS with these certificates, the PROXY protocol."""

    certificates: tuple[CertificateFiles, ...] = ()
    proxy_protocol: bool = False


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Where the admin API listens and who may use it. `hosts`: names browsers may use where no token is set."""

    listen: str
    tokens: tuple[Token, ...]
    public_metrics: bool = False
    hosts: tuple[str, ...] = ()
    tls: CertificateFiles | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What needs a restart when it changes. `state` `None` = in memory; `entrances`: of the addresses in `listen`."""

    listen: tuple[str, ...]
    workers: int
    state: Path | None
    admin: AdminSettings
    entrances: Mapping[str, Entrance] = field(default_factory=dict)


def settings(config: Config, base: Path, tokens: Mapping[str, str]) -> Settings:
    """Return the settings; `tokens` holds what token files say. Relative paths are taken from `base`."""
    workers = config.workers if isinstance(config.workers, int) else usable_cpus()
    return Settings(
        listen=tuple(_address(listener.address, base) for listener in config.listen),
        workers=workers,
        state=None if config.state is None else base / config.state,
        admin=AdminSettings(
            listen=_address(config.admin.listen, base),
            tokens=tuple(_tokens(config, base, tokens)),
            public_metrics=config.admin.public_metrics,
            hosts=tuple(config.admin.hosts),
            tls=None if config.admin.tls is None else _files(config.admin.tls, base),
        ),
        entrances={
            _address(listener.address, base): Entrance(
                tuple(_files(pair, base) for pair in listener.tls), listener.proxy_protocol
            )
            for listener in config.listen
        },
    )


def _files(pair: CertificateConfig, base: Path) -> CertificateFiles:
    return CertificateFiles(base / pair.cert, base / pair.key)


def _tokens(config: Config, base: Path, read: Mapping[str, str]) -> Iterator[Token]:
    for token in config.admin.tokens:
        if token.token_file is not None:
            yield Token(token.name, token.role, read[token.token_file], base / token.token_file)
        elif token.token:
            yield Token(token.name, token.role, token.token)


def _address(address: str, base: Path) -> str:
    return f"unix:{base / address.removeprefix('unix:')}" if address.startswith("unix:") else address


def routing_table(config: Config, base: Path, trusts: Mapping[int, Trust]) -> RoutingTable:
    """Return what the workers need; `trusts` holds what the files of `endpoint_tls` say, by service."""
    limits, log = config.request_limits, config.access_log
    return RoutingTable(
        services=tuple(_service(service, base, trusts[index]) for index, service in enumerate(config.services)),
        trusted_proxies=tuple(config.trusted_proxies),
        request_limits=RequestLimits(
            head=limits.head,
            target=limits.target,
            headers=limits.headers,
            body=limits.body,
            header_timeout_s=limits.header_timeout,
            body_idle_timeout_s=limits.body_idle_timeout,
            keepalive_timeout_s=limits.keepalive_timeout,
            connections=limits.connections,
        ),
        access_log=AccessLog(
            path=log.path if log.path in {None, "-"} else str(base / str(log.path)),
            format=log.format,
            sample=log.sample,
            min_status=log.min_status,
            redact=tuple(log.redact),
        ),
        drain=Drain(config.drain.delay, config.drain.timeout),
        via=config.via,
        half_close=config.half_close,
    )


def _service(service: ServiceConfig, base: Path, trust: Trust) -> Service:
    split, timeouts, failover = service.split, service.timeouts, service.failover
    plan = _plan(service, base)
    return Service(
        name=service.name,
        stable=_version(service.stable, base),
        new=_version(service.new, base),
        match=Match(service.match.host or "", service.match.path),
        sticky=Sticky(split.sticky.by, split.sticky.name or "", split.sticky.mint),
        override=Override(split.override.header, tuple(split.override.allow)) if split.override else None,
        timeouts=Timeouts(
            connect_s=timeouts.connect,
            first_byte_s=timeouts.first_byte,
            idle_s=timeouts.idle,
            total_s=timeouts.total,
            tunnel_idle_s=timeouts.tunnel_idle,
            pool_idle_s=timeouts.pool_idle,
        ),
        failover=Failover(failover.to_stable, tuple(failover.when), failover.budget),
        in_flight=InFlight(
            service.in_flight.endpoint, service.in_flight.version, service.in_flight.queue, service.in_flight.wait
        ),
        thresholds_us=thresholds_us(plan.every_limit()),
        ttfb_thresholds_us=thresholds_us(plan.every_limit(), first_byte=True),
        signals=plan.signals,
        fallback_to_new=service.fallback_to_new,
        close_tunnels_s=service.on_rollback.tunnels,
        watchdog_s=service.watchdog,
        host=service.host,
        expose_version=service.expose_version,
        endpoint_tls=EndpointTls(trust.ca, service.endpoint_tls.verify, service.endpoint_tls.server_name, trust.pair),
    )


def _version(version: VersionConfig | None, base: Path) -> Version:
    if version is None:
        return Version()
    urls = (_address(url, base) for url in version.endpoints)
    return Version(version.label, tuple(parse_endpoint(url) for url in urls))


def plans(config: Config, base: Path) -> tuple[ServicePlan, ...]:
    """Return what the controller needs; relative paths are taken from `base`."""
    return tuple(_plan(service, base) for service in config.services)


def _plan(service: ServiceConfig, base: Path) -> ServicePlan:
    rollouts = tuple(plan_tables.plan(name, plan, base) for name, plan in service.rollouts.items())
    signals = (*plan_tables.signals(service.signals), *(signal for plan in rollouts for signal in plan.signals))
    checks = (*plan_tables.checks(service.checks, base), *(check for plan in rollouts for check in plan.checks))
    return ServicePlan(
        name=service.name,
        limits=tuple(plan_tables.limit(limit) for limit in service.limits),
        block_s=service.judge.block,
        initial_weight=service.split.new if service.new else 0,
        salt=service.split.salt,
        watchdog_s=service.watchdog,
        rollouts=rollouts,
        false_alarms=service.judge.false_alarms,
        signals=tuple(dict.fromkeys(signals)),
        checks=tuple(dict.fromkeys(checks)),
        health=health.health(service.health),
        eject=health.eject(service.eject),
        slow_start_s=service.slow_start,
    )


def notes(config: Config, ready: Settings) -> Iterator[str]:
    """Yield what `check` says about a config that is right: how it is judged, and what may surprise."""
    if ready.state is None:
        yield "state: none: weights, versions and events are in memory and end with the process"
    elif not ready.state.parent.exists():
        yield _created(ready.state.parent)
    if not any(token.role == "operator" for token in ready.admin.tokens) and is_local(ready.admin.listen):
        yield f"admin: no operator token: whoever reaches {ready.admin.listen} on this machine may change weights"
    for service in config.services:
        for limit in service.limits:
            yield f"{service.name}: {plan_tables.judged(limit)}"
        if service.new and not any(_acts(limit) for limit in service.limits):
            by_hand = "a weight that a person sets" if service.rollouts else "new"
            of = " of the service" if service.rollouts else ""
            yield f"{service.name}: no limit{of} rolls back: {by_hand} stays until a person takes it out"
        if service.split.new and not service.new:
            yield f"{service.name}: split.new waits for a new version: the weight is 0% until there is one"
        for name, plan in service.rollouts.items():
            yield from plan_tables.notes(f"{service.name}: {name}", plan)


def _created(directory: Path) -> str:
    there = next(parent for parent in directory.absolute().parents if parent.exists())
    if os.access(there, os.W_OK | os.X_OK):
        return f"state: {directory} does not exist: run creates it"
    cure = "create it for the user that runs, or give another path"
    return f"warning: state: {directory} does not exist, and this user may not create it in {there}: {cure}"


def _acts(limit: LimitConfig) -> bool:
    return limit.action == "rollback" and not limit.dry_run


def redacted(config: Config, expanded: Collection[Loc] = ()) -> dict[str, Any]:
    """Return the config in force with every default, in the notation of the file, without secrets.

    `expanded`: the places whose value holds an environment variable; in hooks and checks those may be secrets.
    """
    plain: dict[str, Any] = _shown(config.model_dump(mode="json", by_alias=True), (), expanded)
    return plain


def _shown(plain: Any, loc: Loc, expanded: Collection[Loc]) -> Any:
    if isinstance(plain, dict):
        return {key: _shown(value, (*loc, key), expanded) for key, value in plain.items() if value is not None}
    if isinstance(plain, list):
        return [_shown(item, (*loc, index), expanded) for index, item in enumerate(plain)]
    return "***" if loc in expanded and {"hooks", "checks"} & set(loc) else plain
