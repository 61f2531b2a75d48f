"""Judging a fixed limit by evidence, block after block: alarm, proof, and what is missing for either.

A *limit on a share* says: at most so many of the responses may be bad; p99 ≤ L is the same with "slower than L" for
bad and 1 % for the share, availability ≥ a the same with 1 − a. `ShareEvidence` takes the two integers of each block
(250 ms); `finding` says what follows from them. Arithmetic, model and papers are in `proxy.rollout.betting`.

* **alarm**: the share has been above the limit since some block. Only `alarm_at` decides how sure that is:
  `alarm_at(false_alarms, blocks, limits)` splits what a rollout may spend on false alarms evenly over its limits and
  over all its blocks, hence over its stages by their length. A rollout that lasts longer than expected spends more,
  in proportion.
* **proven**: the anytime-valid upper bound of the share is within the limit. Looking at it as often as one likes does
  not spoil it. No alarm is no proof: of a limit of 1 %, 375 blocks without any bad response are one (`doubt` 5 %).
  The block is the unit, not the response, because nobody says that responses of one block fail independently; hence
  where a block has 20 responses it takes 7,500 of them.
* **a bet needs responses**: where the service sends less than `QUIET` per block, blocks are put together until they
  hold `BET_RESPONSES`. Else four failures in a row on a quiet night would be four blocks of total failure. The same is
  done with a block that holds less than an eighth of the usual: a slow response is counted when it passes the limit,
  after the fast ones of its time, and where the load comes in pulses it would be a block of its own, 100 % slow.

What it takes, in blocks (limit 1 %, two limits, 24 h): at total failure the one in which it begins and four more, 8 to
10 at 20 % bad (`loadtests/judge`). A bet wins less than 1/allowed, so a larger limit takes more, 7 at 5 % and 27 at
50 %, and so does one of 1 % where the rollout lasts longer or has more limits: one block.
What breaks it: bursts longer than a block. One that fills three and halves of two more never alarms if all was well
before; one that fills four does at limits up to 1 %, because by then it cannot be told from a failure. `judge.block` is
the knob: four or five times as long as the bursts that are to be forgiven. No traffic: no bet, no alarm, no proof.
Cost: 3 µs per limit and block while all is well, 6 µs in trouble.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import log
from operator import sub
from typing import NamedTuple

from proxy.rollout.betting import Bound, Detector

# Where the service sends less than so many responses per block, a bet is made on so many of them.
QUIET = 4
BET_RESPONSES = 5
# A block with less than this part of the usual responses is put together with the next.
SMALL_BLOCK = 1 / 8
# Blocks over which the usual is averaged.
RATE_BLOCKS = 64
# `proven` and each end of the interval are wrong at any time at all with at most this probability.
DOUBT = 0.05


def alarm_at(false_alarms: float, blocks: float, limits: int) -> float:
    """Return the logarithm of the evidence that makes an alarm.

    `false_alarms` (0…1) is the greatest probability that any of `limits` limits raises a false one within `blocks`,
    the number of blocks that the whole rollout is expected to take.
    """
    return log(max(1.0, blocks) * max(1, limits) / false_alarms)


class Span(NamedTuple):
    """The blocks of which the present evidence consists: how many, with `bad` of `n` responses.

    `stable_n` and `stable_bad`: what stable had in these blocks, as far as that was said.
    """

    blocks: int = 0
    n: int = 0
    bad: int = 0
    stable_n: int = 0
    stable_bad: int = 0


@dataclass(slots=True)
class Finding:
    """What is known of one limit: `bad` of `n` responses since the judge began, and what that proves.

    `low` and `high` bound the share at all times together. `enough`: at least the requests that the limit asks for;
    only then `alarm` and `proven` can be set. `within`: the measured share is within the limit, exactly.
    `needed`: requests missing for `enough`; `needed_to_prove`: for `proven`, if they are like those so far, `None` if
    no number of such would be. `evidence` and `alarm_at` are natural logarithms; `span` is what the evidence is of.
    """

    n: int
    bad: int
    low: float
    high: float
    enough: bool
    within: bool
    alarm: bool
    proven: bool
    needed: int
    needed_to_prove: int | None
    evidence: float
    alarm_at: float
    span: Span

    @property
    def share(self) -> float | None:
        """The measured share 0…1, `None` without responses."""
        return min(1.0, self.bad / self.n) if self.n else None


class Gather:
    """Puts blocks together until a bet can be made on them."""

    __slots__ = ("_blocks", "_rate", "_seen", "blocks", "n")

    def __init__(self) -> None:
        self._rate = 0.0
        self._seen = 0
        self.n = 0
        self.blocks = 0

    def add(self, n: int) -> bool:
        """Add a block with `n` responses; tell whether a bet is due on those gathered."""
        if self._seen < RATE_BLOCKS:
            self._seen += 1
        self._rate = rate = self._rate + (n - self._rate) / self._seen
        self.n += n
        self.blocks += 1
        if rate < QUIET:
            return self.n >= BET_RESPONSES
        return self.n >= 1 and self.n >= rate * SMALL_BLOCK

    def clear(self) -> None:
        """Begin anew after a bet."""
        self.n = 0
        self.blocks = 0


class ShareAlarm:
    """The alarm of a limit on a share, without the proof."""

    __slots__ = ("_allowed", "_bad", "_begun", "_gather", "_stable_bad", "_stable_n", "_total", "detector")

    def __init__(self, allowed: float, alarm_at: float) -> None:
        self._allowed = allowed
        self._gather = Gather()
        self._bad = self._stable_n = self._stable_bad = 0
        self._total: tuple[int, ...] = Span()  # what the bets were made on so far
        self._begun: dict[int, tuple[int, ...]] = {}  # of the ways that have evidence: what was before it
        self.detector = Detector(alarm_at)

    def look(self, n: int, bad: int, stable_n: int = 0, stable_bad: int = 0) -> None:
        """Take in one block: `bad` of its `n` responses; what stable had in it is only kept for the span."""
        gather, detector, total = self._gather, self.detector, self._total
        self._bad += bad
        self._stable_n += stable_n
        self._stable_bad += stable_bad
        if not gather.add(n):
            return
        detector.bet(share(self._bad, gather.n), self._allowed)
        if max(detector.odds) > 1:
            for index, odds in enumerate(detector.odds):
                if odds > 1:
                    self._begun.setdefault(index, total)
                else:
                    self._begun.pop(index, None)
        elif self._begun:
            self._begun.clear()
        blocks, bet_n, bet_bad, with_n, with_bad = total
        self._total = (
            blocks + gather.blocks,
            bet_n + gather.n,
            bet_bad + self._bad,
            with_n + self._stable_n,
            with_bad + self._stable_bad,
        )
        gather.clear()
        self._bad = self._stable_n = self._stable_bad = 0

    @property
    def span(self) -> Span:
        """The blocks of which the strongest evidence consists."""
        odds, total = self.detector.odds, self._total
        begun = self._begun.get(max(range(len(odds)), key=odds.__getitem__), total)
        return Span(*map(sub, total, begun))


class ShareEvidence:
    """The evidence for and against one limit on a share.

    `allowed`: the limit as a share 0…1. `alarm_at`: from the function of this name. `doubt` is that of `proven`.
    """

    __slots__ = ("_allowed", "_bad", "_bound", "_exact", "_min_requests", "_n", "_over")

    def __init__(self, allowed: float, alarm_at: float, *, min_requests: int = 20, doubt: float = DOUBT) -> None:
        self._allowed = allowed
        self._exact = exact(allowed)
        self._min_requests = max(1, min_requests)
        self._over = ShareAlarm(allowed, alarm_at)
        self._bound = Bound(doubt)
        self._n = self._bad = 0

    def look(self, n: int, bad: int, stable_n: int = 0, stable_bad: int = 0) -> None:
        """Take in one block: `bad` of its `n` responses; what stable had in it is only kept for the span."""
        self._over.look(n, bad, stable_n, stable_bad)
        if n:
            self._bound.look(share(bad, n), self._allowed, n)
            self._n += n
        self._bad += bad

    @property
    def enough(self) -> bool:
        """Whether there were the requests that the limit asks for; without them there is neither alarm nor proof."""
        return self._n >= self._min_requests

    @property
    def within(self) -> bool:
        """Whether the measured share is within the limit, exactly."""
        numerator, denominator = self._exact
        return self._bad * denominator <= numerator * self._n

    @property
    def alarm(self) -> bool:
        """Whether the share has been above the limit since some block."""
        return self.enough and self._over.detector.alarm

    @property
    def span(self) -> Span:
        """The blocks of which the evidence of an alarm consists."""
        return self._over.span

    @property
    def proven(self) -> bool:
        """Whether the upper bound of the share is within the limit."""
        return self.enough and self._bound.high <= 0

    def finding(self) -> Finding:
        """Return what is known now, for people and records."""
        over, bound, allowed = self._over, self._bound, self._allowed
        return Finding(
            n=self._n,
            bad=self._bad,
            low=max(0.0, allowed + bound.low),
            high=min(1.0, allowed + bound.high),
            enough=self.enough,
            within=self.within,
            alarm=self.alarm,
            proven=self.proven,
            needed=max(0, self._min_requests - self._n),
            needed_to_prove=bound.needed(allowed),
            evidence=over.detector.evidence,
            alarm_at=over.detector.alarm_at,
            span=over.span,
        )


def share(bad: int, n: int) -> float:
    """Return the share of bad ones; a block may hold one more of them than responses (`proxy.metrics.snapshot`)."""
    return min(1.0, bad / n)


def exact(number: float) -> tuple[int, int]:
    """Return the fraction that stood in the config: 1 % is 1/100, not what a float makes of it."""
    return Fraction(repr(number)).as_integer_ratio()
