"""The arithmetic of evidence: bets on shares, with a state of a few floats.

A *share* is a number 0…1 seen once per block (the bad ones of its responses); what is *allowed* is its greatest
expected value as long as all is well. A *bet* turns a share into a factor of a gambler's wealth, whose expected value
is at most 1 while the share's is at most what is allowed, whatever the past was: wealth is evidence, and the gambler
who gets rich was right that something is wrong.

`Detector`: is the share above what is allowed, since any block at all?
  One bet multiplies the wealth by 1 + λ(share − allowed), 0 ≤ λ < 1/allowed (Waudby-Smith & Ramdas, "Estimating means
  of bounded random variables by betting", JRSS B 2024). A fresh gambler starts at every block, so that good
  history does not slow the alarm, and the evidence is at most the wealth of all of them together (the Shiryaev-Roberts
  e-detector, M ← (M + 1)·factor; Shin, Ramdas & Rinaldo, "E-detectors", arXiv 2203.03532): above a *level* no more of
  them start, M ← max(M, min(M + 1, level))·factor, so that a long good history does not hasten it either. Several
  *ways* to bet play side by side, each with a part of the first stake, for no λ is good against every failure.
  Guarantee: E[M] grows by at most 1 per block, hence P(alarm within T blocks) ≤ T / exp(alarm_at).
`Bound`: between which limits does the share lie, at every instant at once?
  The empirical Bernstein confidence sequence of Waudby-Smith & Ramdas (theorem 2; inequality of Fan, Grama & Liu 2015),
  of share − allowed, so that what is allowed may differ from block to block. Each side holds at all times together
  with probability 1 − doubt, for the average of the expected shares, each block weighing as it was bet on.

A way may see a part of the share only: a function that is nowhere above the share has no greater expected value, so
bets on it keep the guarantee. What lies between the allowed share and 1 is cut into thirds, because its parts tell a
failure from a burst better than the whole:

* the upper third is almost only reached at total failure. What begins within a block leaves a partial share there; to
  find it in the fifth block at the latest, the four blocks after that must be enough. Bets on the whole share that are
  so large make an alarm of three full blocks between two partial ones, for these two are worth as much as a full one.
* up to the lower third is what a partial failure has. To a burst, however dense, it grants no more per block.

The first gets most of the stake, because four bets that each win less than 1/allowed must reach the alarm; the others
lose little by it: with a tenth of the stake it takes them an eighth of the time more.

What is assumed: the expected share of a block, given all before it, is at most what is allowed. What happens *inside*
a block is free: responses of one block may fail all together or not at all. How many responses a block has must not
depend on how they end. What breaks it: bursts that are longer than a block are no chance but, as far as one can see,
a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, inf, log, log1p, sqrt
from typing import NamedTuple

# What a way sees of a share: all of it, the lower part, or the upper part stretched to 0…1.
WHOLE, LOWER, UPPER = range(3)


class Way(NamedTuple):
    """One way to bet: with which `part` of the first stake, of which `size` (relative to the largest), on what.

    `patient`: gamblers start until the wealth is what it comes to while nothing is bad, else until it is 1. The first
    finds small excesses sooner; the second takes as long whatever is allowed and however long all was well.
    """

    part: float
    size: float
    sees: int = WHOLE
    patient: bool = False


class _Terms(NamedTuple):
    """One way's bet on a block. Where the way sees x it multiplies the wealth by 1 + slope·x − lost.

    Gamblers start until the wealth is at `level`; it is kept up to `ceiling`.
    """

    part: float
    slope: float
    sees: int
    lost: float
    level: float
    ceiling: float


# The first finds total failure, the second a failure of a tenth or more, the last an excess of a half in minutes.
WAYS = (Way(0.75, 1.0, UPPER), Way(0.11, 0.8, LOWER), Way(0.07, 0.14, patient=True), Way(0.07, 0.022, patient=True))
# So many blocks in which all is bad make an alarm: the fourth. Fewer forgive less, more come later than the fifth.
TOTAL_BLOCKS = 3.9
# No bet loses more than this part of the wealth in one block. Of a limit of 1 % it is what bounds the largest bet.
MOST_LOSS = 0.99
# The wealth of a way is kept up to so many times what makes an alarm, so that an alarm ends soon after its cause.
KEPT = 2.7

# The largest bet of a bound: larger ones prove sooner where all is good, and later where something is bad.
MOST_STAKE = 0.8


class Detector:
    """Evidence that a share is above what is allowed, beginning at any block.

    `alarm_at`: natural logarithm of the evidence that makes an alarm. `total_blocks`: so many blocks in which all is
    bad make one by the first of `ways`, if what is allowed is small.
    `odds`: for each way, the wealth of its gamblers relative to the level; at most 1 says that nothing that was before
    speaks for a failure.
    """

    __slots__ = (
        "_ceilings",
        "_enough",
        "_most",
        "_rest",
        "_terms",
        "_terms_of",
        "_total",
        "_wealth",
        "alarm_at",
        "odds",
        "ways",
    )

    def __init__(self, alarm_at: float, ways: Sequence[Way] = WAYS, total_blocks: float = TOTAL_BLOCKS) -> None:
        self.alarm_at = alarm_at
        self._enough = exp(alarm_at)
        self.ways = ways
        self._most = (self._enough / ways[0].part) ** (1 / total_blocks) - 1
        self._ceilings = [KEPT * self._enough / way.part for way in ways]
        self._total = 0.0
        # What was allowed and staked when a bet on a block with nothing bad changed nothing: the same would not either.
        self._rest: tuple[float, float] | None = None
        self._terms: list[_Terms] = []
        self._terms_of: tuple[float, float] | None = None  # what was allowed and staked
        self._wealth = [0.0] * len(ways)
        self.odds = [0.0] * len(ways)

    @property
    def evidence(self) -> float:
        """What evidence there is, as a natural logarithm."""
        return log(self._total) if self._total else -inf

    @property
    def alarm(self) -> bool:
        """Whether the evidence is enough for an alarm."""
        return self._total >= self._enough

    def gains(self, share: float, allowed: float) -> list[float]:
        """Return by what a block with this share multiplies the wealth of each way."""
        fresh = Detector(self.alarm_at, self.ways)
        fresh._most = self._most
        fresh.bet(share, allowed)
        return fresh._wealth  # the first gambler began with 1

    def bet(self, share: float, allowed: float, stake: float = 1.0) -> None:
        """Take in one block's `share`, of which `allowed` is the greatest expected value; both 0…1.

        `stake` (0…1): how much the block counts; it must not depend on how the share came out.
        """
        if share == 0 and self._rest == (allowed, stake):
            return  # it would come out as it is
        if self._terms_of != (allowed, stake):
            self._terms_of, self._terms = (allowed, stake), self._work_out(allowed, stake)
        third = (1 - allowed) / 3
        upper = max(0.0, share - 1 + third) / third if share and third else 0.0
        seen = (share, min(share, allowed + third), upper)
        before, total = self._wealth, 0.0
        self._wealth, self.odds = wealth, odds = [], []
        for was, (part, slope, sees, lost, level, ceiling) in zip(before, self._terms, strict=True):
            have = was if was >= level else min(was + 1, level)
            have = min(have * (1 + slope * seen[sees] - lost), ceiling)
            wealth.append(have)
            odds.append(have / level)
            total += part * have
        self._total = total
        self._rest = (allowed, stake) if share == 0 and wealth == before else None

    def bets(self, share: float, allowed: float, most: int) -> int | None:
        """Return after how many bets, each on this `share`, there is an alarm; `None`: not after `most`."""
        if share <= allowed:
            return None
        for bets in range(1, most + 1):
            self.bet(share, allowed)
            if self.alarm:
                return bets
        return None

    def _work_out(self, allowed: float, stake: float) -> list[_Terms]:
        largest = stake * (min(MOST_LOSS / allowed, self._most) if allowed else self._most)
        terms = []
        for way, ceiling in zip(self.ways, self._ceilings, strict=True):
            slope = way.size * largest
            lost = slope * allowed
            terms.append(_Terms(way.part, slope, way.sees, lost, 1 / lost if way.patient and lost else 1.0, ceiling))
        return terms


def outlook(detector: Detector, shares: Sequence[tuple[float, float]], allowed: float, luck: float) -> float | None:
    """Return after how many bets a fresh `detector` has raised an alarm, about.

    `shares`: each share that a block may have, with its probability. `luck`: how bad it is, in standard deviations.
    The logarithm of a way's wealth is a random walk with the drift and variance of its bets, taken as normal; what
    the way has while all is well is where it starts. The best way counts; `None` if none of them grows. That a fresh
    gambler starts at every block is left out: it is a little sooner than this.
    """
    gains = [(detector.gains(share, allowed), weight) for share, weight in shares]
    idle = detector.gains(0.0, allowed)
    found: list[float] = []
    for index, (part, _, _, patient) in enumerate(detector.ways):
        logs = [(log(gain[index]), weight) for gain, weight in gains]
        drift = sum(weight * one for one, weight in logs)
        if drift <= 0:
            continue
        spread = sqrt(max(0.0, sum(weight * one * one for one, weight in logs) - drift * drift))
        lost = 1 - idle[index]
        away = max(0.0, detector.alarm_at - log(part) + (log(lost) if patient and lost else 0.0))
        off = luck * spread
        found.append(((off + sqrt(off * off + 4 * drift * away)) / (2 * drift)) ** 2)
    return min(found, default=None)


class Bound:
    """Between which limits the average of share − allowed lies, at every instant at once.

    `doubt`: the probability that one side is ever wrong. A block counts by its responses, up to an average block's.
    """

    __slots__ = ("_blocks", "_doubt", "_gained", "_guess", "_mean", "_spread", "_squares", "_staked", "size")

    def __init__(self, doubt: float) -> None:
        self._doubt = -log(doubt)
        self._staked = 0.0  # Σ λ
        self._gained = 0.0  # Σ λ (share − allowed)
        self._spread = 0.0  # Σ ψ(λ) (share − mean before)²
        self._blocks = 0
        self._mean = 0.0
        self._squares = 0.0  # Σ (share − mean)²
        self._guess = 0.0  # the variance before anything was seen, worth one block
        self.size = 0.0  # responses of an average block

    def look(self, share: float, allowed: float, n: int) -> None:
        """Take in one block's `share` of its `n` responses (at least 1)."""
        if not self._blocks:
            self._mean = allowed
            self._guess = allowed * (1 - allowed)
        self._blocks += 1
        self.size += (n - self.size) / self._blocks
        stake = self._stake() * min(1.0, n / self.size)
        off = share - self._mean
        self._staked += stake
        self._gained += stake * (share - allowed)
        self._spread += _price(stake) * off * off
        self._mean += off / (self._blocks + 1)
        self._squares += off * (share - self._mean)

    @property
    def low(self) -> float:
        """The lower bound of the average of share − allowed."""
        return (self._gained - self._doubt - self._spread) / self._staked if self._staked else -inf

    @property
    def high(self) -> float:
        """The upper bound of the average of share − allowed; at most 0 = proven to be within."""
        return (self._gained + self._doubt + self._spread) / self._staked if self._staked else inf

    def needed(self, allowed: float) -> int | None:
        """Return how many more responses prove it if they are like those so far, `None` if no number does.

        Without any: as if all were good.
        """
        stake = self._stake()
        if not self._staked:
            return ceil(self._doubt / (stake * allowed)) if allowed else None
        missing = self._gained + self._doubt + self._spread
        if missing <= 0:
            return 0
        gain = -stake * self._gained / self._staked - _price(stake) * self._squares / self._blocks
        return ceil(missing / gain * self.size) if gain > 0 else None

    def _stake(self) -> float:
        # Predictable: only what was seen before the block that it is staked on.
        squares = self._guess + self._squares
        if not squares:
            return MOST_STAKE
        return min(MOST_STAKE, sqrt(2 * self._doubt / (squares * log1p(self._blocks))))


def _price(stake: float) -> float:
    # ψ(λ): what a bet on one side costs when the share strays from its mean.
    return -log1p(-stake) - stake
