"""One service as people see it: its object in GET /api/v1/status (INTERFACE §2) and its standing in /metrics.

Everything here is for people. Percentiles come from the histograms of the last `SHOWN_S` seconds, or of the limit's
own window; decisions were made from exact counts before (`proxy.rollout.analysis`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.controlplane.history import History
from proxy.controlplane.operations import Json
from proxy.controlplane.scales import TOTAL, TTFB
from proxy.controlplane.watch import Watch
from proxy.metrics import hdr
from proxy.metrics.expose import LimitStanding, ServiceStanding
from proxy.metrics.snapshot import EndpointCounts, ServiceCounts, VersionCounts
from proxy.rollout.analysis import Verdict, at_least, unit_of, value
from proxy.rollout.bench import action_of
from proxy.rollout.plan import PROVEN, Stage
from proxy.rollout.reach import Reach
from proxy.rollout.state import COMPLETED, PAUSED, PROGRESSING, Rollout, ServiceState, percent
from proxy.routing.table import FULL, NEW, STABLE, VERSIONS

SHOWN_S = 10.0
ACTUAL_S = 10.0
HISTOGRAM_S = 600  # histograms are kept for so long
QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}
_US_PER_MS = 1000


def weights(service: str, state: ServiceState, now: float) -> Json:
    """Return the object of GET weights; percent."""
    shown: Json = {
        "service": service,
        "stable": percent(FULL - state.weight_bp),
        "new": percent(state.weight_bp),
        "revision": state.revision,
    }
    if state.expiry is not None:
        shown["expires_in_s"] = _left(state, now)
    return shown


def taken_over(after: ServiceState) -> Json:
    """Return {"paused": …} when a person has set the weight of a rollout, which is paused then; {} without one.

    It has the plan, the stage, and where the verbs lead by which the rollout goes on.
    """
    rollout = after.rollout
    if rollout is None or after.phase != PAUSED:
        return {}
    onward = rollout.next_stage
    return {
        "paused": {
            "plan": rollout.plan.name,
            "stage": rollout.now_at.name,
            "resume": _leads(PROGRESSING, rollout.now_at),
            "promote": _leads(COMPLETED, rollout.now_at) if onward is None else _leads(PROGRESSING, onward),
        }
    }


def _leads(phase: str, stage: Stage) -> Json:
    return {"phase": phase, "stage": stage.name, "weight": percent(stage.weight_bp)}


def service_status(
    state: ServiceState,
    counts: ServiceCounts,
    watch: Watch,
    history: History,
    last_event: Json | None,
    now: float,
    why: Callable[[str, int, str], str],
    *,
    drilling: bool = False,
) -> Json:
    """Return the service's object of `status`; "new" and its limits are there only when there is one.

    `why(service, version, url)` says why an endpoint is not simply ready, "" if it is.
    """
    return {
        "weights": {
            "stable": percent(FULL - state.weight_bp),
            "new": percent(state.weight_bp),
            "revision": state.revision,
            "expires_in_s": _left(state, now),
        },
        "phase": state.phase,
        "reason": state.reason or None,
        "stage": stage(state, watch, now),
        **({"drilling": True} if drilling else {}),
        "versions": {
            VERSIONS[version]: _version(
                counts.name, version, counts.versions[version], watch.reach[version], history, why
            )
            for version in _shown(counts)
        },
        "limits": _limits(counts, watch, state, history),
        "last_event": last_event,
    }


def stage(state: ServiceState, watch: Watch, now: float) -> Json | None:
    """Return where a rollout is, `None` without one; after a rollback: where it was."""
    rollout = state.rollout
    if rollout is None:
        return None
    at = rollout.now_at
    standing = watch.standing()
    return {
        "index": rollout.stage,
        "of": len(rollout.plan.stages),
        "name": at.name,
        "weight": percent(at.weight_bp),
        "elapsed_s": round(rollout.elapsed_s(now), 3),
        "hold_s": at.hold_s,
        "requests": watch.requests,
        "min_requests": at.min_requests,
        "needed": max(0, max(1, at.min_requests) - watch.requests),
        "advance": at.advance,
        "open": list(standing.open),
        "plan": rollout.plan.name,
        "max_hold_s": rollout.plan.max_hold_s,
        "stages": [_rung(rollout, number) for number in range(len(rollout.plan.stages))],
    }


def rollout(state: ServiceState, counts: ServiceCounts, watch: Watch, history: History, now: float) -> Json:
    """Return what is kept of a rollout that ends: a report shows it when the service is something else by then."""
    return {
        "labels": {name: counts.versions[version].label for version, name in enumerate(VERSIONS)},
        "stage": stage(state, watch, now),
        "limits": _limits(counts, watch, state, history),
    }


def _rung(rollout: Rollout, number: int) -> Json:
    """Return what is shown of one stage; of one that was left how long it ran, and who let it go on and why."""
    one = rollout.plan.stages[number]
    shown: Json = {"name": one.name, "weight": percent(one.weight_bp), "hold_s": one.hold_s}
    left = [passed for passed in rollout.passed if passed.stage == number]
    if left:
        shown |= {"ran_s": round(left[-1].ran_s, 3), "left_by": left[-1].actor, "left_for": left[-1].reason}
    return shown


def standing(
    state: ServiceState,
    service: str,
    watch: Watch,
    history: History,
    rollbacks: Mapping[str, int],
    ejections: tuple[int, int],
) -> ServiceStanding:
    """Return what /metrics says of the controller's side of a service; `ejections`: of stable and new."""
    return ServiceStanding(
        new_set=state.weight_bp / FULL,
        phase=state.phase,
        new_actual=history.share_of_new(service, ACTUAL_S),
        rollbacks=dict(rollbacks),
        ejections=ejections,
        stage=0 if state.rollout is None else state.rollout.stage + 1,
        limits=tuple(
            LimitStanding(
                verdict.limit.metric,
                VERSIONS[verdict.limit.version],
                unit(verdict),
                value(verdict, percentile_ms(service, verdict, history)),
                verdict.word,
            )
            for verdict in watch.verdicts
        ),
    )


def percentile_ms(service: str, verdict: Verdict, history: History) -> float | None:
    """Return the percentile of a latency limit over its window in ms, `None` for other limits and without data."""
    limit = verdict.limit
    if limit.quantile is None or not verdict.seconds:
        return None
    # Whole seconds, because merged histograms are kept by their seconds until the next one has passed.
    seconds = float(max(1, min(HISTOGRAM_S, round(verdict.seconds))))
    counts, _ = history.histogram(service, limit.version, TTFB if limit.first_byte else TOTAL, seconds)
    return _ms(hdr.percentile(counts, limit.quantile))


def unit(verdict: Verdict) -> str:
    """Return the unit of a limit's value."""
    return unit_of(verdict.limit)


def _shown(counts: ServiceCounts) -> tuple[int, ...]:
    return (STABLE, NEW) if counts.versions[NEW].endpoints else (STABLE,)


def _limits(counts: ServiceCounts, watch: Watch, state: ServiceState, history: History) -> list[Json]:
    rollout = state.rollout
    by_proof = rollout is not None and rollout.now_at.advance == PROVEN and rollout.next_stage is not None
    return [
        _limit(counts.name, verdict, state, history, by_proof=by_proof, of_stage=index >= watch.always)
        for index, verdict in enumerate(watch.verdicts)
        if verdict.limit.version in _shown(counts)
    ]


def _limit(
    service: str, verdict: Verdict, state: ServiceState, history: History, *, by_proof: bool, of_stage: bool
) -> Json:
    limit, measured_ms = verdict.limit, percentile_ms(service, verdict, history)
    shown: Json = {
        "metric": limit.metric,
        "version": VERSIONS[limit.version],
        "max": limit.max,
        "value": value(verdict, measured_ms),
        "unit": unit(verdict),
        "verdict": verdict.word,
        "proven": verdict.proven,
        "samples": verdict.n,
        "needed": max(verdict.needed, verdict.needed_to_prove or 0) if by_proof else verdict.needed,
        "needed_to_prove": verdict.needed_to_prove,
        "judge": verdict.judge,
        "scope": "stage" if of_stage else "service",
        "action": action_of(limit, state),
        "window_s": limit.window_s,
        "for_s": limit.for_s,
        "held_s": round(verdict.held_s, 3),
        "dry_run": limit.dry_run,
    }
    if at_least(verdict, measured_ms):
        shown["at_least"] = True
    if limit.min is not None:
        shown["min"] = limit.min
    if limit.max_ratio is not None:
        shown["max_ratio"] = limit.max_ratio
    return {**shown, **({"shared": True} if verdict.shared else {}), **verdict.detail}


def _version(
    service: str,
    version: int,
    counts: VersionCounts,
    reach: Reach,
    history: History,
    why: Callable[[str, int, str], str],
) -> Json:
    part, seconds = history.over(service, version, SHOWN_S)
    histogram, _ = history.histogram(service, version, TOTAL, SHOWN_S)
    return {
        "label": counts.label,
        "requests": counts.judged.requests,
        "bad": counts.judged.bad,
        "in_flight": counts.in_flight,
        "queued": counts.queued,
        "tunnels": counts.tunnels,
        "rescued": counts.rescued,
        "window": {
            "seconds": round(seconds, 3),
            "requests": part.requests,
            "error_rate": min(1.0, part.bad / part.requests) if part.requests else None,
            **{name: _ms(hdr.percentile(histogram, quantile)) for name, quantile in QUANTILES.items()},
        },
        "endpoints": [_endpoint(one, reach, why(service, version, one.url)) for one in counts.endpoints],
    }


def _endpoint(counts: EndpointCounts, reach: Reach, why: str) -> Json:
    failed = reach.failures_of(counts.url)
    if not why and failed:
        why = f"the last {failed} connections failed"
    return {
        "url": counts.url,
        "state": counts.state,
        "why": why,
        "in_flight": counts.in_flight,
        "requests": counts.ended,
        "bad": counts.bad,
    }


def _left(state: ServiceState, now: float) -> float | None:
    return None if state.expiry is None else round(max(0.0, state.expiry.at - now), 3)


def _ms(us: int | None) -> float | None:
    return None if us is None else us / _US_PER_MS
