"""The pre-flight of a rollout: everything that can be known before anybody is sent to `new`, with go or no-go.

A *finding* is one check with what it found: `ok`, `warning` (it goes, but look at it) or `no-go`. It is *go* when there
is no no-go. Nothing is changed: hooks are not called; it is looked whether their address can be reached and whether
their command exists. Every ready endpoint is asked for a connection, all at once, because one that nobody has asked yet
is ready until somebody does.

Whoever starts all the same is told what of this is no-go (`no_go`), without being held up by any connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from proxy.controlplane.entry import Entry
from proxy.controlplane.history import History
from proxy.controlplane.operations import Json
from proxy.controlplane.store import Store
from proxy.errors import Refused, StateError
from proxy.metrics.snapshot import EndpointCounts, ServiceCounts
from proxy.rollout.analysis import Counter, Reading
from proxy.rollout.event import Start
from proxy.rollout.machine import step
from proxy.rollout.plan import CHECK, Hook, Plan
from proxy.rollout.timetable import timetable
from proxy.routing.table import NEW, STABLE, Endpoint, Service

OK, WARNING, NO_GO = "ok", "warning", "no-go"
MEASURED_S = 60.0
LEAST_STABLE = 20
CONNECT_S = 2.0
TAKEN_OUT = ("drain", "maintenance")  # by a person

VERSIONS = ((STABLE, "stable"), (NEW, "new"))


async def preflight(
    entry: Entry,
    plan: Plan,
    service: Service,
    counts: ServiceCounts,
    history: History,
    store: Store,
    readings: Mapping[str, Reading],
    now: float,
) -> Json:
    """Return {"go", "plan", "findings": [{"check", "finding", "what", "cure"?}]}."""
    findings = [
        *_phase(entry, plan, now),
        *await _asked(service, counts, list(_endpoints(entry, counts, now))),
        *_measured(entry, plan, history),
        *_limits(entry, plan, counts, readings),
        *await _hooks(plan),
        await state(store),
    ]
    return {
        "go": all(finding["finding"] != NO_GO for finding in findings),
        "plan": plan.name,
        "findings": findings,
    }


def no_go(
    entry: Entry, plan: Plan, counts: ServiceCounts, readings: Mapping[str, Reading], now: float
) -> tuple[Json, ...]:
    """Return what is known to be no-go of a rollout that is started all the same: the findings, as `preflight` does."""
    known = (*_endpoints(entry, counts, now), *_limits(entry, plan, counts, readings))
    return tuple([finding for finding in known if finding["finding"] == NO_GO])


def _found(check: str, finding: str, what: str, cure: str = "") -> Json:
    return {"check": check, "finding": finding, "what": what, **({"cure": cure} if cure else {})}


def _phase(entry: Entry, plan: Plan, now: float) -> Iterator[Json]:
    try:
        step(entry.plan, entry.latest, Start(plan, "", "preflight"), now)
    except Refused as refused:
        yield _found("phase", NO_GO, str(refused))
    else:
        yield _found("phase", OK, f"phase {entry.latest.phase}, weight 0 %: a rollout can start")


def _endpoints(entry: Entry, counts: ServiceCounts, now: float) -> Iterator[Json]:
    for version, name in VERSIONS:
        endpoints = counts.versions[version].endpoints
        ready = [endpoint.url for endpoint in endpoints if endpoint.state == "ready"]
        reach = entry.watch.reach[version]
        if not ready:
            what = f"none of {len(endpoints)} endpoints of {name} is ready"
            yield _found(f"{name} endpoints", NO_GO, what, _back(endpoints))
        elif not reach.ready(now) and all(reach.failures_of(url) for url in ready):  # one may be ready since the tick
            what = f"connections to every ready endpoint of {name} failed lately"
            yield _found(f"{name} endpoints", NO_GO, what, "look whether they run, and at their addresses")
        else:
            yield _found(f"{name} endpoints", OK, f"{len(ready)} of {len(endpoints)} ready")


def _back(endpoints: Sequence[EndpointCounts]) -> str:
    out = [endpoint.url for endpoint in endpoints if endpoint.state in TAKEN_OUT]
    return f"tidegate undrain {out[0]}" if out else "tidegate status says why its endpoints are not ready"


async def _asked(service: Service, counts: ServiceCounts, findings: Sequence[Json]) -> list[Json]:
    """Return the findings about the endpoints with what connections to the ready ones of each version gave."""
    ready = [
        [endpoint for endpoint in service.version(version).endpoints if _is_ready(counts, version, endpoint)]
        for version, _ in VERSIONS
    ]
    answers = iter(await asyncio.gather(*[_refuses(endpoint) for endpoints in ready for endpoint in endpoints]))
    found: list[Json] = []
    for finding, endpoints in zip(findings, ready, strict=True):
        failed = [why for why in (next(answers) for _ in endpoints) if why]
        found.append(finding if finding["finding"] != OK else _connected(finding, failed, len(endpoints)))
    return found


def _is_ready(counts: ServiceCounts, version: int, endpoint: Endpoint) -> bool:
    return any(one.url == endpoint.url and one.state == "ready" for one in counts.versions[version].endpoints)


def _connected(finding: Json, failed: Sequence[str], asked: int) -> Json:
    if not failed:
        return {**finding, "what": f"{finding['what']}, a connection to each came about"}
    cure = "start what listens there, or correct the address"
    if len(failed) < asked:
        return _found(finding["check"], WARNING, f"{finding['what']}, but cannot be reached: {'; '.join(failed)}", cure)
    return _found(finding["check"], NO_GO, f"{finding['what']}, but none can be reached: {'; '.join(failed)}", cure)


async def _refuses(endpoint: Endpoint) -> str:
    """Return why no connection to an endpoint comes about, "" if one does."""
    if endpoint.unix is not None:
        opened = asyncio.open_unix_connection(endpoint.unix)
    else:
        opened = asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        _, writer = await asyncio.wait_for(opened, CONNECT_S)
    except TimeoutError:
        return f"{endpoint.url}: no answer within {CONNECT_S:g} s"
    except OSError as error:
        return f"{endpoint.url}: {_reason(error)}"
    writer.transport.abort()
    return ""


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else "its name is not known"


def _measured(entry: Entry, plan: Plan, history: History) -> Iterator[Json]:
    judged, seconds = history.over(entry.plan.name, STABLE, MEASURED_S)
    if judged.requests < LEAST_STABLE:
        what = f"{judged.requests} requests in {seconds:.0f} s: nobody knows yet how stable does, nor at which rate"
        yield _found("stable measured", WARNING, what)
        return
    rate = float(f"{judged.requests / seconds:.3g}") if seconds else 0.0  # nobody reads more digits
    share = judged.bad / judged.requests
    yield _found("stable measured", OK, f"{rate:.1f} requests/s, {share:.2%} bad, over {seconds:.0f} s")
    # All of it goes to stable now, so that its rate is that of both together.
    times = timetable(plan, rate=rate, service=entry.plan)
    for time in times.stages:
        if time.enough:
            yield _found(f"stage {time.stage.name}", OK, f"about {time.expected} requests to new, {time.needed} needed")
    for warning in times.warnings:
        check, what = warning.split(": ", 1)
        yield _found(check, WARNING, what)


def _limits(entry: Entry, plan: Plan, counts: ServiceCounts, readings: Mapping[str, Reading]) -> Iterator[Json]:
    limits = dict.fromkeys((*entry.plan.limits, *plan.every_limit()))
    if not any(limit.acts and limit.version == NEW for limit in limits):
        yield _found("limits", WARNING, "no limit acts on new: nobody but a person takes it out")
    unread = dict.fromkeys(limit.metric for limit in limits if limit.source == CHECK)
    for name in unread:
        reading = readings.get(name)
        if reading is None or not reading.number:
            yield _found(f"check {name}", WARNING, "not read yet")
        elif reading.value is None:
            yield _found(f"check {name}", NO_GO, f"cannot be read: {reading.error}")
        else:
            yield _found(f"check {name}", OK, f"reads {reading.value:g}")
    unknown = [
        limit.metric for limit in limits if limit.source != CHECK and not Counter(limit, counts.columns).readable
    ]
    if unknown:
        what = f"the workers begin to count at the start what these need: {', '.join(dict.fromkeys(unknown))}"
        yield _found("limits counted", OK, what)


async def _hooks(plan: Plan) -> list[Json]:
    found: list[Json] = []
    for name in ("before_start", "before_stage", "after_rollback", "after_complete"):
        hook: Hook | None = getattr(plan.hooks, name)
        if hook is not None:
            why = await _unreachable(hook)
            found.append(_found(f"hook {name}", NO_GO if why else OK, why or "can be called"))
    return found


async def _unreachable(hook: Hook) -> str:
    """Return why a hook cannot be called, "" if it can; nothing of its URL or arguments is in it."""
    if hook.url is None:
        command = hook.run[0]
        place = command if os.sep not in command else os.path.join(hook.cwd or ".", command)  # noqa: PTH118
        return "" if shutil.which(place) else f"the command {command!r} is not found or not executable"
    parts: Any = urlsplit(hook.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), CONNECT_S)
    except (OSError, TimeoutError) as error:
        return f"{parts.hostname}:{port} cannot be reached: {error or 'no answer'}"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


async def state(store: Store) -> Json:
    """Return the finding about the state store: whether it can be written."""
    try:
        await asyncio.wait_for(asyncio.wrap_future(store.probe()), CONNECT_S)
    except StateError as error:
        return _found("state", NO_GO, str(error))
    except TimeoutError:
        return _found("state", NO_GO, str(store.silent(CONNECT_S)))
    what = "can be written" if store.path else "is in memory: a rollout does not survive the process"
    return _found("state", OK if store.path else WARNING, what)
