"""What is asked of the judge: how late it is when `new` fails, and how often it cries wolf when `new` is well.

Every scenario runs the judge by evidence and the naive rule over the very same blocks. Its result is one number per
run: the block in which it alarmed, counted from the first block with the failure, or `NEVER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.counts import Counted
from loadtests.judge.streams import DAY, Block, Healthy, blocks
from loadtests.judge.vectorised import Attributions, Flags, Naive, Numbers, RatioAlarms, ShareAlarms
from proxy.rollout.betting import TOTAL_BLOCKS, WAYS, Way
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
class Setting:
    """A choice of the constants of `proxy.rollout.betting`."""

    name: str
    ways: Sequence[Way] = WAYS
    total_blocks: float = TOTAL_BLOCKS

    def judge(self, runs: int, allowed: float) -> ShareAlarms:
        """Return a judge of `runs` runs with this setting."""
        return ShareAlarms(runs, allowed, AT, self.ways, self.total_blocks)


PRODUCT = Setting("the product's")
_WHOLE = (Way(0.2, 1.0), Way(0.4, 0.2), Way(0.4, 0.04))
# What else could be chosen: bets on the whole share only, smaller or larger.
OTHERS = (
    Setting("whole share, 4.9 blocks", _WHOLE, 4.9),
    Setting("whole share, 4.6 blocks", _WHOLE, 4.6),
    Setting("whole share, 4.3 blocks", _WHOLE, 4.3),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """`new` turns `share` bad after 20,000 good responses, at `rate` requests/s on it.

    `poisson`: they arrive at random, else evenly. `within`: it turns at a random instant within a block, else with a
    block's beginning. `blocks`: how long it lasts at most.
    """

    allowed: float = 0.01
    rate: float = 20.0
    share: float = 1.0
    poisson: bool = True
    within: bool = False
    blocks: int = 4000


def failing(
    failure: Failure, runs: int, chance: np.random.Generator, setting: Setting = PRODUCT
) -> tuple[Alarms, Alarms]:
    """Return in which block of the failure the judge and the naive rule alarm, for each run.

    The first block is the first that holds a bad response.
    """
    per_block = failure.rate / 4
    judge, naive = setting.judge(runs, failure.allowed), Naive(runs, failure.allowed)
    alarmed, naively, bad_seen = _Firsts(runs), _Firsts(runs), _Firsts(runs)

    def arrivals() -> NDArray[np.int64]:
        return chance.poisson(per_block, runs) if failure.poisson else np.full(runs, round(per_block))

    for _ in range(round(GOOD_BEFORE / per_block)):
        good = arrivals().astype(np.float64)
        judge.look(good, np.zeros(runs))
        naive.look(good, np.zeros(runs))
    for number in range(failure.blocks):
        n = arrivals()
        failed = chance.binomial(n, chance.random(runs)) if failure.within and number == 0 else n
        bad = chance.binomial(failed, failure.share)
        bad_seen.note(number, bad > 0)
        alarmed.note(number, judge.look(n.astype(np.float64), bad.astype(np.float64)))
        naively.note(number, naive.look(n.astype(np.float64), bad.astype(np.float64)))
        if alarmed.all and naively.all:
            break
    return alarmed.since(bad_seen), naively.since(bad_seen)


def near(allowed: float, times: float, rate: float, runs: int, seconds: int, chance: np.random.Generator) -> Alarms:
    """Return in which block each run alarms when `times` as many as allowed are bad all the time, one by one."""
    judge, alarmed = PRODUCT.judge(runs, allowed), _Firsts(runs)
    for number in range(1, 4 * seconds + 1):
        n = chance.poisson(rate / 4, runs)
        bad = chance.binomial(n, times * allowed)
        alarmed.note(number, judge.look(n.astype(np.float64), bad.astype(np.float64)))
        if alarmed.all:
            break
    return alarmed.block


def outage(seconds: float, rate: float, runs: int, chance: np.random.Generator, setting: Setting = PRODUCT) -> Counted:
    """Return how many runs alarm when everything fails for so many seconds, from a random instant on."""
    judge, first, per_block = setting.judge(runs, 0.01), _Firsts(runs), rate / 4
    begins = chance.random(runs)
    for number in range(-400, int(seconds * 4) + 4):
        n = chance.poisson(per_block, runs)
        covered = np.clip(np.minimum(number + 1, begins + 4 * seconds) - np.maximum(number, begins), 0, 1)
        first.note(number, judge.look(n.astype(np.float64), chance.binomial(n, covered).astype(np.float64)))
    return Counted(int((first.block != NEVER).sum()), runs)


@dataclass(frozen=True, slots=True)
class Fault:
    """`share` of the responses of `new`, and of stable if it is `shared`, turn bad at a random instant of a block.

    `weight`: of `new`, which gets `rate` requests/s. `healthy`: how bad both were before, and a stable that has no
    part in it stays, relative to the limit. `burst`: so many of a version fail together, in the mean. `before`,
    `after`: so many blocks are judged before the fault, and after the alarm of each run.
    """

    weight: float = 0.5
    rate: float = 80.0
    share: float = 0.05
    shared: bool = True
    healthy: float = 0.2
    allowed: float = 0.01
    burst: float = 1.0
    before: int = 500
    after: int = 240


@dataclass(frozen=True, slots=True)
class Blamed:
    """In which block of the fault each run alarmed, and in which it was rolled back (`NEVER`: it stayed frozen)."""

    alarmed: Alarms
    rolled_back: Alarms

    @property
    def frozen(self) -> Flags:
        """Where the alarm froze the ramp."""
        frozen: Flags = self.rolled_back > self.alarmed
        return frozen


def blamed(fault: Fault, runs: int, chance: np.random.Generator) -> Blamed:
    """Return what the judge makes of a fault, for each run."""
    judge, alarmed, rolled_back, bad_seen = Attributions(runs, fault.allowed, AT), *(_Firsts(runs) for _ in range(3))
    usual, per_block = fault.healthy * fault.allowed, fault.rate / 4
    versions = [_Version(load, fault.burst, runs, chance) for load in (per_block, per_block * (1 / fault.weight - 1))]
    begins = chance.random(runs)
    number = -fault.before
    while not alarmed.all or number < int(alarmed.block.max()) + fault.after:
        hit = 1 - begins if number == 0 else float(number > 0)
        failing = usual + hit * (fault.share - usual)
        shares = failing, failing if fault.shared else usual
        (n, bad), (stable_n, stable_bad) = (one.block(share) for one, share in zip(versions, shares, strict=True))
        alarms, shared = judge.look(n, bad, stable_n, stable_bad)
        if number >= 0:
            bad_seen.note(number, bad > 0)
            alarmed.note(number, alarms)
            rolled_back.note(number, alarms & ~shared)
        number += 1
    late = np.where(rolled_back.block <= alarmed.block + fault.after, rolled_back.block, NEVER)
    return Blamed(alarmed.since(bad_seen), np.where(late == NEVER, NEVER, rolled_back.since(bad_seen)))


@dataclass(frozen=True, slots=True)
class Days:
    """How many healthy days were rolled back: by evidence, by `max_ratio`, by the naive rule."""

    fixed: Counted
    ratio: Counted
    naive: Counted


def healthy_days(
    services: Sequence[Healthy], runs: int, chances: Iterable[np.random.Generator], hours: int = 24
) -> list[Days]:
    """Return how many of `runs` healthy days of each service a limit on errors and one on a latency roll back.

    All services have the same limit; they are judged side by side, which is faster.
    """
    (allowed,) = {healthy.allowed for healthy in services}
    days = len(services) * runs
    both, naive = PRODUCT.judge(2 * days, allowed), Naive(2 * days, allowed)
    ratio = RatioAlarms(days, MAX_RATIO, FLOOR * allowed, AT)
    firsts = _Firsts(2 * days), _Firsts(days), _Firsts(2 * days)
    traffic = [blocks(healthy, runs, hours, chance) for healthy, chance in zip(services, chances, strict=True)]
    for number, side_by_side in enumerate(zip(*traffic, strict=True), 1):
        block = Block(*map(np.concatenate, zip(*side_by_side, strict=True)))
        n, bad = _twice(block.n, block.n), _twice(block.bad, block.slow)
        firsts[0].note(number, both.look(n, bad))
        firsts[1].note(number, ratio.look(block.n, block.bad, block.stable_n, block.stable_bad))
        if not firsts[2].all:
            firsts[2].note(number, naive.look(n, bad))
    either, alone, wrong = (first.block != NEVER for first in firsts)
    columns = (either[:days] | either[days:], alone, wrong[:days] | wrong[days:])
    counted = ([Counted(int(part.sum()), runs) for part in np.split(column, len(services))] for column in columns)
    return [Days(*found) for found in zip(*counted, strict=True)]


def settings_on_healthy_days(
    settings: Iterable[Setting], healthy: Healthy, runs: int, chance: np.random.Generator, hours: int = 24
) -> list[Counted]:
    """Return how many of the very same healthy days each setting rolls back, by limits on errors and latency."""
    judges = [(setting.judge(2 * runs, healthy.allowed), _Firsts(2 * runs)) for setting in settings]
    for number, block in enumerate(blocks(healthy, runs, hours, chance), 1):
        n, bad = _twice(block.n, block.n), _twice(block.bad, block.slow)
        for judge, first in judges:
            first.note(number, judge.look(n, bad))
    wrong = [first.block != NEVER for _, first in judges]
    return [Counted(int((either[:runs] | either[runs:]).sum()), runs) for either in wrong]


class _Firsts:
    """The first block in which each run alarmed."""

    def __init__(self, runs: int) -> None:
        self.block = np.full(runs, NEVER, dtype=np.int64)

    def note(self, number: int, alarms: Flags) -> None:
        """Remember `number` where there is an alarm for the first time."""
        if alarms.any():
            self.block[alarms & (self.block == NEVER)] = number

    def since(self, other: _Firsts) -> Alarms:
        """Return the blocks counted from those of another, which are the first."""
        blocks: Alarms = np.where(self.block == NEVER, NEVER, self.block - other.block + 1)
        return blocks

    @property
    def all(self) -> bool:
        """Whether every run has alarmed."""
        return bool((self.block != NEVER).all())


class _Version:
    """Traffic of one version: `load` responses in a block, bad ones in bursts of geometric length, mean `burst`."""

    def __init__(self, load: float, burst: float, runs: int, chance: np.random.Generator) -> None:
        self._load, self._burst, self._runs, self._chance = load, burst, runs, chance
        self._open = np.zeros(runs, dtype=np.int64)  # of bursts that have begun: what is yet to come

    def block(self, share: Numbers | float) -> tuple[Numbers, Numbers]:
        """Return the responses of the next block of every run, and the bad ones, `share` of all in the mean."""
        n = self._chance.poisson(self._load, self._runs)
        begun = self._chance.binomial(n, np.minimum(1.0, np.asarray(share) / self._burst))
        self._open += begun
        some = (begun > 0) & (self._burst > 1)
        self._open[some] += self._chance.negative_binomial(begun[some], 1 / self._burst)
        bad = np.minimum(n, self._open)
        self._open -= bad
        return n.astype(np.float64), bad.astype(np.float64)


def _twice(one: Numbers, other: Numbers) -> Numbers:
    return np.concatenate((one, other))
