"""What a plan means in time: when each stage begins, how long a breach takes to be acted on, what traffic it needs.

It is arithmetic over the plan and a rate (requests per second of the whole service), before anything runs. A *stage
time* says when a stage begins at the earliest, how long it lasts at least and which requests it needs; a *reaction*
says how long one limit takes from the fault to its action, which is one store and takes no time that counts here.

* The requests that a stage needs are the most that it, its limits and its requirements ask for. A window that never
  holds what its limit asks for is never more than INCONCLUSIVE: the limit cannot act, and if it is one on `new` that
  acts the stage never ends. What is compared over a window asks for as many of stable, a percentile for
  `LEAST_SAMPLES` of it.
* A reaction is given for a version that fails entirely (`total_s`) and at worst (`worst_s`). Over a window the worst is
  any breach at all that lasts: the whole window, `for` and a block. A share that is compared with stable over a window
  is timed beside a stable without anything bad (what a few bad ones of either are worth: `proxy.rollout.judges`), and
  not at all at 100 %, where stable's record is what counts. Evidence has no worst case, because the nearer to the limit
  the more of it is needed: what is given is the time at twice the limit within which 19 of 20 are found, by the
  arithmetic of `proxy.rollout.betting`; without a rate, and for a ratio, without the luck of the draw.
* Latency limits take their own time more: a request that hangs is too slow only when it has passed the limit.
* `evidence` stages end when the proof is complete, if `new` is without fault: so many blocks without anything bad, and
  for a check one reading. What is measured over a window is never proven. The last one, the bake, is held to its end.

`None` for a time: never, or not without more traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, comb
from typing import NamedTuple

from proxy.rollout.betting import Bound, Detector, outlook
from proxy.rollout.evidence import BET_RESPONSES, DOUBT, QUIET
from proxy.rollout.judges import PERCENTILE_S, budget
from proxy.rollout.plan import (
    CHECK,
    EVIDENCE,
    HOLD,
    LEAST_SAMPLES,
    MANUAL,
    PROVEN,
    READING,
    STAGE,
    TRAILING_S,
    Check,
    Limit,
    Plan,
    ServicePlan,
    Stage,
)
from proxy.rollout.ratio import origin_detector
from proxy.routing.table import FULL, NEW, STABLE

# Twice what is allowed: the breach that evidence is timed with.
BREACH = 2.0
# A breach is found within the time that is given in 19 of 20 cases: that many standard deviations.
LUCK = 1.645
# Blocks with more responses are as even as those, and what comes more seldom than that is left out.
MANY = 100
HARDLY = 1e-9
# A detector that has not alarmed after so many bets is said to need too long.
MOST_BETS = 20_000


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage in time, in seconds from the start of the rollout.

    `least_s`: how long it lasts if all is well. `needed`: requests to `new` before it can end; `rate_new`: how many
    it gets per second, `expected` how many in its hold, `enough` whether that will do; `None` without a rate.
    `by_person`: it ends when somebody promotes it. `least_s` is `None` if it never has what it needs.
    """

    stage: Stage
    from_s: float | None
    least_s: float | None
    needed: int
    rate_new: float | None
    expected: int | None
    enough: bool | None
    by_person: bool


@dataclass(frozen=True, slots=True)
class Reaction:
    """How long one limit of a stage takes from the fault to its action. `for_breach`: `worst_s` is an estimate."""

    stage: Stage
    limit: Limit
    total_s: float | None
    worst_s: float | None
    estimated: bool


@dataclass(frozen=True, slots=True)
class Timetable:
    """A plan in time. `least_s`: the whole rollout; `last_s`: when its last stage begins; `None` = never."""

    plan: Plan
    rate: float | None
    stages: tuple[StageTime, ...]
    reactions: tuple[Reaction, ...]
    least_s: float | None
    last_s: float | None
    warnings: tuple[str, ...]


ALONE = ServicePlan("")  # a plan beside no limits but its own


class _World(NamedTuple):
    """What the times depend on beside the plan."""

    rate: float | None
    block_s: float
    alarm_at: float
    checks: dict[str, Check]


def timetable(plan: Plan, *, rate: float | None = None, service: ServicePlan = ALONE) -> Timetable:
    """Return the timetable of a plan at `rate` requests per second (both versions together), `None` = not known.

    The limits of its `service` are armed in every stage too.
    """
    known = {check.name: check for check in (*service.checks, *plan.checks)}
    world = _World(rate, service.block_s, budget(service, plan), known)
    stages: list[StageTime] = []
    begin: float | None = 0.0
    for number, stage in enumerate(plan.stages, 1):
        bake = number == len(plan.stages)
        stages.append(_stage_time(stage, _armed(stage, service.limits), begin, world, bake=bake))
        begin = _sum(begin, stages[-1].least_s)
    return Timetable(
        plan=plan,
        rate=rate,
        stages=tuple(stages),
        reactions=tuple(
            _reaction(stage, limit, world) for stage in plan.stages for limit in _armed(stage, service.limits)
        ),
        least_s=begin,
        last_s=stages[-1].from_s,
        warnings=tuple(_warnings(plan, stages, service.limits, world)),
    )


def _armed(stage: Stage, limits: Sequence[Limit]) -> list[Limit]:
    """Return the limits that can be judged in a stage: where stable has no traffic, none of its own."""
    armed = (*limits, *stage.limits)
    return [limit for limit in armed if limit.version == NEW or stage.weight_bp < FULL]


def _stage_time(stage: Stage, limits: Sequence[Limit], begin: float | None, world: _World, *, bake: bool) -> StageTime:
    needed = _needed(stage, limits)
    rate = _rate(stage, NEW, world)
    expected = None if rate is None else int(rate * stage.hold_s)
    least = _least(stage, limits, needed, world, bake=bake)
    return StageTime(
        stage=stage,
        from_s=begin,
        least_s=least,
        needed=needed,
        rate_new=rate,
        expected=expected,
        enough=None if expected is None else expected >= needed,
        by_person=stage.advance == MANUAL,
    )


def _needed(stage: Stage, limits: Sequence[Limit]) -> int:
    rules = (*filter(_asked, limits), *stage.require)
    return max(stage.min_requests, *(limit.min_requests for limit in rules if limit.source != CHECK), 0)


def _asked(limit: Limit) -> bool:
    """Tell whether a stage goes on only while a limit is PASS: what is only shown, or is of stable, holds nobody up."""
    return limit.acts and limit.version == NEW


def _least(stage: Stage, limits: Sequence[Limit], needed: int, world: _World, *, bake: bool) -> float | None:
    asked = [limit for limit in limits if _asked(limit)]
    if any(_starved(stage, limit, world) for limit in (*asked, *stage.require)):
        return None
    rate = _rate(stage, NEW, world)
    if rate is not None and not rate:
        return None
    wait = max([0.0 if rate is None else needed / rate, *(_required_s(limit, rate) for limit in stage.require)])
    full = max(stage.hold_s, wait)
    if bake or stage.advance != PROVEN:
        return full
    proofs = [_proof_s(stage, limit, world) for limit in asked]
    if not proofs or None in proofs:
        return full
    return min(full, max(wait, *(proof for proof in proofs if proof is not None)))


def _required_s(limit: Limit, rate: float | None) -> float:
    """Return when a requirement has its requests: those before its `after` are left out."""
    left_out_s = limit.after_s if limit.max_ratio is None else 0.0
    return left_out_s + (limit.min_requests / rate if rate and limit.source != CHECK else 0.0)


def _proof_s(stage: Stage, limit: Limit, world: _World) -> float | None:
    """Return how long the proof of a limit takes if nothing is bad, `None` if it is never proven."""
    if limit.judge == READING:
        return world.block_s
    if limit.judge != EVIDENCE:
        return None
    allowed = _allowed(limit) if limit.max_ratio is None else limit.floor
    if not allowed:
        return None
    # Within the floor is proof of a ratio too, for half of the doubt (`proxy.rollout.ratio`).
    blocks = Bound(DOUBT if limit.max_ratio is None else DOUBT / 2).needed(allowed)
    if blocks is None:
        return None
    rate = _rate(stage, limit.version, world)
    each = world.block_s if rate is None else max(world.block_s, 1 / rate) if rate else None
    return None if each is None else blocks * each + (limit.max or 0.0) / 1000 * (limit.quantile is not None)


def _starved(stage: Stage, limit: Limit, world: _World) -> str:
    """Tell why a limit is never judged because a window holds too few requests, "" if it is."""
    stable, seconds = _rate(stage, STABLE, world), None if limit.judge == STAGE else limit.sliding_s
    if stable is not None and limit.max_ratio is not None and stage.weight_bp < FULL:
        least, over_s, where = limit.min_requests, seconds, "in its window"
        if limit.quantile is not None:
            least, over_s, where = LEAST_SAMPLES, TRAILING_S, "in ten minutes"
        if over_s is not None and stable * over_s < least:
            return f"stable has {stable * over_s:.1f} of the {least:,} requests {where} that it needs"
    rate = _rate(stage, limit.version, world)
    if seconds is not None and rate is not None and rate * seconds < limit.min_requests:
        return f"its window gets {rate * seconds:.1f} of the {limit.min_requests:,} requests that it needs"
    return ""


def _reaction(stage: Stage, limit: Limit, world: _World) -> Reaction:
    if limit.judge == READING:
        check = world.checks.get(limit.metric)
        every = Check("").every_s if check is None else check.every_s
        seconds = every + limit.for_s + world.block_s
        return Reaction(stage, limit, seconds, seconds, estimated=False)
    hangs = (limit.max or 0.0) / 1000 if limit.quantile is not None else 0.0
    if limit.sliding_s is not None:
        if _starved(stage, limit, world):
            return Reaction(stage, limit, None, None, estimated=False)
        compares = limit.max_ratio is not None and limit.quantile is not None
        late = limit.for_s + (PERCENTILE_S if compares else world.block_s) + hangs
        part = _part(stage, limit, limit.sliding_s, world)
        if part is None:
            return Reaction(stage, limit, None, None, estimated=False)
        return Reaction(stage, limit, part * limit.sliding_s + late, limit.sliding_s + late, estimated=False)
    total, double = (_evidence_s(stage, limit, world, factor) for factor in (None, BREACH))
    late = limit.for_s + world.block_s + hangs  # the block in which it begins is not full of it
    return Reaction(stage, limit, _sum(total, late), _sum(double, late), estimated=True)


def _part(stage: Stage, limit: Limit, window_s: float, world: _World) -> float | None:
    """Return which part of a window has to fail entirely for a breach, `None` if none would do or it is not known."""
    allowed = _allowed(limit)
    if allowed is not None:
        return min(1.0, allowed)
    if stage.weight_bp == FULL:
        return None  # compared with what stable was, which the plan does not know
    if world.rate is None:
        return limit.floor
    # Without luck either: stable has nothing bad, and both are taken to have one.
    fewest = window_s * world.rate * min(stage.weight_bp, FULL - stage.weight_bp) / FULL
    part = max(limit.floor, (limit.max_ratio or 1.0) / fewest)
    return part if part < 1 else None


def _evidence_s(stage: Stage, limit: Limit, world: _World, factor: float | None) -> float | None:
    """Return how long evidence takes to alarm when all fails (`factor` `None`), or so many times what is allowed."""
    rate = _rate(stage, limit.version, world)
    if rate is not None and not rate:
        return None
    if limit.max_ratio is not None:
        new, stable = stage.weight_bp, FULL - stage.weight_bp
        if not stable:
            return None  # compared with what stable was, which the plan does not know
        allowed = limit.max_ratio * new / (limit.max_ratio * new + stable)
        share = 1.0 if factor is None else factor * limit.max_ratio * new / (factor * limit.max_ratio * new + stable)
        detector: Callable[[float], Detector] = origin_detector
    else:
        fixed = _allowed(limit)
        if fixed is None:
            return None
        allowed, share, detector = fixed, 1.0 if factor is None else min(1.0, factor * fixed), Detector
    bets = detector(world.alarm_at).bets(share, allowed, MOST_BETS)
    if bets is None or rate is None:
        return None if bets is None else bets * world.block_s
    # A bet needs responses: where there are less per block, blocks are put together.
    blocks = 1 if rate * world.block_s >= QUIET else ceil(BET_RESPONSES / (rate * world.block_s))
    likely: float | None = bets
    if share < 1 and limit.max_ratio is None:
        draws = _draws(max(1, round(rate * world.block_s * blocks)), share)
        likely = outlook(detector(world.alarm_at), draws, allowed, LUCK)
    if likely is None or likely > MOST_BETS:
        return None
    return max(max(bets, likely) * blocks * world.block_s, limit.min_requests / rate)


def _draws(n: int, share: float) -> list[tuple[float, float]]:
    """Return which shares of bad ones `n` responses have, and how probable each is; without what hardly ever comes."""
    n = min(n, MANY)
    weights = [comb(n, bad) * share**bad * (1 - share) ** (n - bad) for bad in range(n + 1)]
    return [(bad / n, weight) for bad, weight in enumerate(weights) if weight > HARDLY]


def _allowed(limit: Limit) -> float | None:
    """Return the share of responses that may be bad (slow, missing), `None` if it depends on stable."""
    if limit.quantile is not None:
        return 1 - limit.quantile
    if limit.min is not None:
        return 1 - limit.min
    return limit.max


def _rate(stage: Stage, version: int, world: _World) -> float | None:
    if world.rate is None:
        return None
    share = stage.weight_bp if version == NEW else FULL - stage.weight_bp
    return world.rate * share / FULL


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _warnings(plan: Plan, stages: Sequence[StageTime], limits: Sequence[Limit], world: _World) -> Iterator[str]:
    for time in stages:
        stage = time.stage
        if time.enough is False and time.rate_new:
            wait = time.needed / time.rate_new
            yield (
                f"stage {stage.name}: the hold gives {time.expected:,} of the {time.needed:,} requests that it needs "
                f"at {time.rate_new:g}/s on new: it lasts {wait / stage.hold_s:.1f} times its hold"
            )
            if plan.max_hold_s is not None and wait > stage.hold_s + plan.max_hold_s:
                yield f"stage {stage.name}: before it has them, max_hold is over: {plan.on_max_hold}"
        for limit in (*_armed(stage, limits), *stage.require):
            if why := _starved(stage, limit, world):
                end = ", and the stage never ends" if _asked(limit) or limit.action == HOLD else ""
                yield f"stage {stage.name}: {limit.metric} is never judged: {why}{end}"
