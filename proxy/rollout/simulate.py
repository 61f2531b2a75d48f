"""A rollout played many times with made-up traffic: how likely it is rolled back, how fast, and how long it takes.

Every run is a `Trial`: the very `step` and the very judges, block by block, fed with counts that chance makes. The
traffic: requests come at random (Poisson) at a constant rate and are split by the stage's weight; the responses of each
version are bad with a given probability, in *bursts* of consecutive ones of geometric length (mean 1 = one by one), and
slower than every latency limit with another. From `fault_s` on, `new` is what the simulation is about; before, it is as
good as stable.

Not simulated: signals, checks and latencies compared with stable (taken as met, and named); hooks (they say go);
endpoints that cannot be reached. Manual stages are promoted as soon as their hold is over and all is well.

Chance is an argument: a function that gives numbers 0…1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, exp, fsum, lgamma, log, log1p, pi, sqrt
from typing import Any

from proxy.metrics.snapshot import Columns, Judged
from proxy.rollout.event import Start
from proxy.rollout.plan import Limit, Plan, ServicePlan, thresholds_us
from proxy.rollout.state import COMPLETED, PAUSED, PROGRESSING, ROLLED_BACK, ServiceState
from proxy.rollout.trial import Trial, only_judgeable
from proxy.routing.table import FULL

Chance = Callable[[], float]

# Above this mean a normal law stands for Poisson's.
MANY = 50.0
# A rollout that is still not over after so many times its holds is said to be held.
PATIENCE = 2.0
TAIL = 0.025  # of the probability, on each side of an interval
HALVINGS = 50


@dataclass(frozen=True, slots=True)
class World:
    """The traffic: requests per second of both versions together, shares 0…1, bursts in responses, times in seconds.

    `fault_s`: from then on `new` has its own shares; `longest_s`: no run takes longer (`None` = until it is over).
    """

    rate: float
    new_error_rate: float = 0.0
    stable_error_rate: float = 0.0
    new_slow_rate: float = 0.0
    stable_slow_rate: float = 0.0
    burst: float = 1.0
    fault_s: float = 0.0
    longest_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended: phase (progressing = it was still held, or cut off), reason, when, and in which stage.

    `requests` and `bad`: of `new` since its fault began.
    """

    phase: str
    reason: str
    seconds: float
    stage: str
    requests: int
    bad: int


@dataclass(frozen=True, slots=True)
class Part:
    """So many of all runs, with the exact 95 % interval for the probability behind it (Clopper and Pearson)."""

    runs: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The interval, 0…1."""
        low = _share_with(self.runs - 1, self.of, 1 - TAIL) if self.runs else 0.0
        return low, _share_with(self.runs, self.of, TAIL) if self.runs < self.of else 1.0


class Source:
    """Makes what one version answers."""

    __slots__ = ("_burst", "_chance", "_error_rate", "_left", "_slow_rate", "_until")

    def __init__(self, error_rate: float, slow_rate: float, burst: float, chance: Chance) -> None:
        self._error_rate = error_rate
        self._slow_rate = slow_rate
        self._burst = burst
        self._chance = chance
        self._left = 0  # bad responses that the present burst still has
        self._until = self._gap()  # good responses before the next one

    def block(self, mean: float, thresholds: tuple[int, int]) -> Judged:
        """Return what was counted in a block with `mean` requests on average; how many latency thresholds there are."""
        n = poisson(mean, self._chance)
        bad = self._bad(n)
        slow = n if self._slow_rate >= 1 else min(n, poisson(n * self._slow_rate, self._chance))
        whole, first = thresholds
        fast = n - slow
        return Judged(
            ended=n,
            bad=bad,
            slow=(slow,) * whole,
            fast=(fast,) * whole,
            ttfb_slow=(slow,) * first,
            ttfb_fast=(fast,) * first,
        )

    def _bad(self, n: int) -> int:
        if self._error_rate <= 0:
            return 0
        if self._error_rate >= 1:
            return n
        bad = 0
        while n:
            if self._left:
                some = min(n, self._left)
                bad, n, self._left = bad + some, n - some, self._left - some
            elif self._until >= n:
                self._until -= n
                n = 0
            else:
                n -= self._until
                self._left, self._until = geometric(1 / self._burst, self._chance), self._gap()
        return bad

    def _gap(self) -> int:
        """Return how many good responses stand between two bursts, so that the share is right; may be none."""
        if not 0 < self._error_rate < 1:
            return 0
        mean = self._burst * (1 - self._error_rate) / self._error_rate
        return geometric(1 / (1 + mean), self._chance) - 1


def prepared(plan: Plan, around: ServicePlan) -> tuple[Plan, ServicePlan, tuple[Limit, ...]]:
    """Return plan and service without the limits that cannot be simulated, and these."""
    kept, left_out = only_judgeable(plan)
    always, not_always = only_judgeable(
        replace(plan, stages=(replace(plan.stages[0], limits=around.limits, require=()),))
    )
    return kept, replace(around, limits=always.stages[0].limits), (*not_always, *left_out)


def run(plan: Plan, around: ServicePlan, world: World, chance: Chance) -> Outcome:
    """Play a prepared plan once."""
    edges = thresholds_us((*around.limits, *plan.every_limit()))
    first = tuple(
        sorted({edge for limit in plan.every_limit() if limit.first_byte and (edge := limit.threshold_us) is not None})
    )
    many = len(edges), len(first)
    trial = Trial(around, ServiceState(has_new=True), Columns(edges, first), 0.0, promotes=True)
    trial.give(Start(plan, "simulated", "a person"), 0.0)
    stable = Source(world.stable_error_rate, world.stable_slow_rate, world.burst, chance)
    healthy = Source(world.stable_error_rate, world.stable_slow_rate, world.burst, chance)
    faulty = Source(world.new_error_rate, world.new_slow_rate, world.burst, chance)
    block_s = around.block_s
    number = requests = bad = 0
    while trial.state.phase == PROGRESSING and number < blocks_at_most(plan, around, world):
        weight = trial.state.weight_bp / FULL
        at_fault = number * block_s >= world.fault_s
        number += 1
        of_new = (faulty if at_fault else healthy).block(world.rate * weight * block_s, many)
        requests, bad = requests + of_new.ended * at_fault, bad + of_new.bad * at_fault
        trial.block(number * block_s, stable.block(world.rate * (1 - weight) * block_s, many), of_new)
    rollout = trial.state.rollout
    stage = "" if rollout is None else rollout.now_at.name
    return Outcome(trial.state.phase, trial.state.reason, number * block_s, stage, requests, bad)


def blocks_at_most(plan: Plan, around: ServicePlan, world: World) -> int:
    """Return after how many blocks a run is cut off."""
    hold_s = sum(stage.hold_s for stage in plan.stages)
    longest_s = hold_s * PATIENCE + (plan.max_hold_s or 0.0) * len(plan.stages)
    return ceil(min(longest_s, world.longest_s or longest_s) / around.block_s)


def summary(outcomes: Sequence[Outcome], world: World) -> dict[str, Any]:
    """Return what the runs say together, as JSON: shares 0…1, seconds."""
    of = len(outcomes)
    parts = {
        word: Part(sum(one.phase == phase for one in outcomes), of)
        for word, phase in (
            ("rolled_back", ROLLED_BACK),
            ("completed", COMPLETED),
            ("paused", PAUSED),
            ("not_over", PROGRESSING),
        )
    }
    back = [one for one in outcomes if one.phase == ROLLED_BACK]
    return {
        "runs": of,
        **{
            word: {
                "runs": part.runs,
                "share": part.runs / of,
                "low": round(part.interval[0], 4),
                "high": round(part.interval[1], 4),
            }
            for word, part in parts.items()
        },
        "reasons": dict(Counter(one.reason for one in outcomes if one.reason).most_common()),
        "stages": dict(Counter(one.stage for one in back).most_common()),
        # A rollback before the fault is a false one, and detects nothing.
        "detect_s": spread([one.seconds - world.fault_s for one in back if one.seconds > world.fault_s]),
        "bad_before": spread([float(one.bad) for one in back if one.seconds > world.fault_s]),
        "finish_s": spread([one.seconds for one in outcomes if one.phase == COMPLETED]),
    }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return median, 95th percentile and largest of some numbers, `None` without any."""
    if not values:
        return None
    ordered = sorted(values)
    at = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {word: round(ordered[max(0, ceil(share * len(ordered)) - 1)], 3) for word, share in at.items()}


def _share_with(at_most: int, of: int, probability: float) -> float:
    """Return the share at which `at_most` hits of `of` or less have this probability (it falls as the share grows)."""
    low, high = 0.0, 1.0
    whole = lgamma(of + 1)
    ways = [whole - lgamma(k + 1) - lgamma(of - k + 1) for k in range(at_most + 1)]
    for _ in range(HALVINGS):
        share = (low + high) / 2
        hit, missed = log(share), log1p(-share)
        if fsum(exp(way + k * hit + (of - k) * missed) for k, way in enumerate(ways)) > probability:
            low = share
        else:
            high = share
    return (low + high) / 2


def poisson(mean: float, chance: Chance) -> int:
    """Return a number of arrivals with this mean."""
    if mean <= 0:
        return 0
    if mean > MANY:
        normal = sqrt(-2 * log(1 - chance())) * cos(2 * pi * chance())
        return max(0, round(mean + sqrt(mean) * normal))
    floor, product, count = exp(-mean), chance(), 0
    while product > floor:
        product *= chance()
        count += 1
    return count


def geometric(p: float, chance: Chance) -> int:
    """Return the number of the first success, from 1, each with probability `p`."""
    return 1 if p >= 1 else 1 + int(log(1 - chance()) / log(1 - p))
