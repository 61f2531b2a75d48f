"""The arithmetic of evidence: bets on shares, in logarithms, with a state of a few floats.

A *share* is a number 0…1 seen once per block (the bad ones of its responses); what is *allowed* is its greatest
expected value as long as all is well. A *bet* turns a share into a factor of a gambler's wealth, whose expected value
is at most 1 while the share's is at most what is allowed, whatever the past was: wealth is evidence, and the gambler
who gets rich was right that something is wrong.

`Detector`: is the share above what is allowed, since any block at all?
  One bet multiplies the wealth by 1 + λ(share − allowed), 0 ≤ λ < 1/allowed (Waudby-Smith & Ramdas, "Estimating means
  of bounded random variables by betting", JRSS B 2024). A fresh gambler starts at every block and the evidence is the
  wealth of all of them together, M ← (M + 1)·factor (the Shiryaev-Roberts e-detector; Shin, Ramdas & Rinaldo,
  "E-detectors", arXiv 2203.03532), so that good history does not slow the alarm. Three sizes of λ play side by side:
  the largest sees a failure in blocks, the smallest an excess of a fifth in minutes.
  Guarantee: E[M] grows by at most 1 per block, hence P(alarm within T blocks) ≤ T / exp(alarm_at).
`Bound`: between which limits does the share lie, at every instant at once?
  The empirical Bernstein confidence sequence of the same paper (theorem 2; inequality of Fan, Grama & Liu 2015), of
  share − allowed, so that what is allowed may differ from block to block. Each side holds at all times together with
  probability 1 − doubt, for the average of the expected shares, each block weighing as it was bet on.

What is assumed: the expected share of a block, given all before it, is at most what is allowed. What happens *inside*
a block is free: responses of one block may fail all together or not at all. How many responses a block has must not
depend on how they end. What breaks it: bursts that are longer than a block are no chance but, as far as one can see,
a failure. The largest λ is so chosen that a failure of everything must last for almost five blocks (`TOTAL_BLOCKS`).
"""

from __future__ import annotations

from math import ceil, exp, inf, log, log1p, sqrt

# So many blocks in which all is bad make an alarm: the fifth. Fewer forgive less, more are late at partial failure.
TOTAL_BLOCKS = 4.9
# The sizes of bets relative to the largest, and the part of the first stake that each of them plays with. A small part
# for the largest makes it larger, as total failure takes `TOTAL_BLOCKS` whatever it is: partial failure shows sooner.
SIZES = (1.0, 0.2, 0.04)
PARTS = (0.2, 0.4, 0.4)
# No bet loses more than this part of the wealth in one block.
MOST_LOSS = 0.95
# Evidence is kept up to so much (a logarithm) above the alarm's, so that an alarm ends soon after its cause.
KEPT = 1.0

# The largest bet of a bound: larger ones prove sooner where all is good, and later where something is bad.
MOST_STAKE = 0.8


class Detector:
    """Evidence that a share is above what is allowed, beginning at any block.

    `alarm_at`: natural logarithm of the evidence that makes an alarm. `total_blocks`: so many blocks in which all is
    bad make one, if what is allowed is small. `evidence`: what there is, as a logarithm.
    `runs`: for each size of bets, the wealth of the luckiest gambler, as a logarithm; at most 0 says that nobody
    believes in anything that was before.
    """

    __slots__ = ("_ceilings", "_logs", "_most", "alarm_at", "evidence", "runs")

    def __init__(self, alarm_at: float, total_blocks: float = TOTAL_BLOCKS) -> None:
        self.alarm_at = alarm_at
        self.evidence = -inf
        self._most = exp((alarm_at - log(PARTS[0])) / total_blocks) - 1
        self._ceilings = [alarm_at - log(part) + KEPT for part in PARTS]
        self._logs = [-inf] * len(SIZES)
        self.runs = [0.0] * len(SIZES)

    @property
    def alarm(self) -> bool:
        """Whether the evidence is enough for an alarm."""
        return self.evidence >= self.alarm_at

    def bet(self, share: float, allowed: float, stake: float = 1.0) -> None:
        """Take in one block's `share`, of which `allowed` is the greatest expected value; both 0…1.

        `stake` (0…1): how much the block counts; it must not depend on how the share came out.
        """
        largest = min(MOST_LOSS / allowed, self._most) if allowed else self._most
        excess = stake * largest * (share - allowed)
        logs, runs, total = self._logs, self.runs, 0.0
        for index, size in enumerate(SIZES):
            one, win = logs[index], log1p(size * excess)
            fresh = one + log1p(exp(-one)) if one > 0 else log1p(exp(one))
            logs[index] = one = min(fresh + win, self._ceilings[index])
            runs[index] = max(0.0, runs[index]) + win
            total += PARTS[index] * exp(one - self.alarm_at)
        self.evidence = log(total) + self.alarm_at


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
