"""What is asked of the judge: how late it is when `new` fails, and how often it cries wolf when `new` is well.

Every scenario runs the judge by evidence and the naive rule over the very same blocks. Its result is one number per
run: the block in which it alarmed, counted from the first block with the failure, or `NEVER`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.counts import Counted
from loadtests.judge.streams import DAY, Healthy, blocks
from loadtests.judge.vectorised import Flags, Naive, Numbers, RatioAlarms, ShareAlarms
from proxy.rollout.evidence import alarm_at

NEVER = 2**31 - 1  # no block
FALSE_ALARMS = 0.01
LIMITS = 2
GOOD_BEFORE = 20_000
MAX_RATIO = 1.5
FLOOR = 0.1  # of the fixed limit

# What a rollout of 24 h with two limits needs for an alarm, however many stages share its budget.
AT = alarm_at(FALSE_ALARMS, DAY, LIMITS)

Alarms = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Failure:
    """`new` turns `share` bad after 20,000 good responses, at `rate` requests/s on it.

    `poisson`: they arrive at random, else evenly. `within`: it turns within a block (which counts as the first), at a
    random instant, else with a block's beginning. `blocks`: how long it lasts at most.
    """

    allowed: float = 0.01
    rate: float = 20.0
    share: float = 1.0
    poisson: bool = True
    within: bool = False
    blocks: int = 4000


def failing(failure: Failure, runs: int, chance: np.random.Generator) -> tuple[Alarms, Alarms]:
    """Return in which block of the failure the judge and the naive rule alarm, for each run."""
    per_block = failure.rate / 4
    judge, naive = ShareAlarms(runs, failure.allowed, AT), Naive(runs, failure.allowed)
    first, naive_first = _Firsts(runs), _Firsts(runs)

    def arrivals() -> NDArray[np.int64]:
        return chance.poisson(per_block, runs) if failure.poisson else np.full(runs, round(per_block))

    for _ in range(round(GOOD_BEFORE / per_block)):
        good = arrivals().astype(np.float64)
        judge.look(good, np.zeros(runs))
        naive.look(good, np.zeros(runs))
    for number in range(1, failure.blocks + 1):
        n = arrivals()
        failed = chance.binomial(n, chance.random(runs)) if failure.within and number == 1 else n
        bad = chance.binomial(failed, failure.share).astype(np.float64)
        first.note(number, judge.look(n.astype(np.float64), bad))
        naive_first.note(number, naive.look(n.astype(np.float64), bad))
        if first.all and naive_first.all:
            break
    return first.block, naive_first.block


def outage(seconds: float, rate: float, runs: int, chance: np.random.Generator, allowed: float = 0.01) -> Counted:
    """Return how many runs alarm when everything fails for so many seconds, from a random instant on."""
    judge, first, per_block = ShareAlarms(runs, allowed, AT), _Firsts(runs), rate / 4
    begins = chance.random(runs)
    for number in range(-400, int(seconds * 4) + 4):
        n = chance.poisson(per_block, runs)
        covered = np.clip(np.minimum(number + 1, begins + 4 * seconds) - np.maximum(number, begins), 0, 1)
        first.note(number, judge.look(n.astype(np.float64), chance.binomial(n, covered).astype(np.float64)))
    return Counted(int((first.block != NEVER).sum()), runs)


@dataclass(frozen=True, slots=True)
class Days:
    """How many healthy days were rolled back: by evidence, by `max_ratio`, by the naive rule."""

    fixed: Counted
    ratio: Counted
    naive: Counted


def healthy_days(healthy: Healthy, runs: int, chance: np.random.Generator, hours: int = 24) -> Days:
    """Return how many of `runs` healthy days are rolled back by a limit on errors and one on a latency."""
    both = ShareAlarms(2 * runs, healthy.allowed, AT)
    ratio = RatioAlarms(runs, MAX_RATIO, FLOOR * healthy.allowed, AT)
    naive = Naive(2 * runs, healthy.allowed)
    firsts = _Firsts(2 * runs), _Firsts(runs), _Firsts(2 * runs)
    for number, block in enumerate(blocks(healthy, runs, hours, chance), 1):
        n, bad = _twice(block.n, block.n), _twice(block.bad, block.slow)
        firsts[0].note(number, both.look(n, bad))
        firsts[1].note(number, ratio.look(block.n, block.bad, block.stable_n, block.stable_bad))
        firsts[2].note(number, naive.look(n, bad))
    either, alone, wrong = (first.block != NEVER for first in firsts)
    return Days(
        Counted(int((either[:runs] | either[runs:]).sum()), runs),
        Counted(int(alone.sum()), runs),
        Counted(int((wrong[:runs] | wrong[runs:]).sum()), runs),
    )


class _Firsts:
    """The first block in which each run alarmed."""

    def __init__(self, runs: int) -> None:
        self.block = np.full(runs, NEVER, dtype=np.int64)

    def note(self, number: int, alarms: Flags) -> None:
        """Remember `number` where there is an alarm for the first time."""
        if alarms.any():
            self.block[alarms & (self.block == NEVER)] = number

    @property
    def all(self) -> bool:
        """Whether every run has alarmed."""
        return bool((self.block != NEVER).all())


def _twice(one: Numbers, other: Numbers) -> Numbers:
    return np.concatenate((one, other))
