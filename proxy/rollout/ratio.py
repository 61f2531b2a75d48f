"""Judging `new` against `stable` by which version the bad responses come from.

If `new` is no worse than r times `stable`, then of the bad responses of a block the expected part from `new` is at
most θ = r·a / (r·a + b), where a and b are the responses of `new` and `stable` in that very block (the conditional,
anytime-valid multinomial test; Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022).
Load and trouble that hit both versions fall out: only who was hit counts. One bet per block on the part of its bad
responses that came from `new`, allowed θ, in the e-detector of `proxy.rollout.betting`. A block counts by its bad
responses, up to eight, so that it matters little whether those of a version come one by one or in clumps.

* `RatioEvidence`: a limit `max_ratio` with its `floor`. Breached only when `new` is above the ratio *and* above the
  floor: the lesser of the two evidences counts, which is evidence against "one of the two is fine". Proven when either
  is proven, each with half of the doubt. Where stable has no responses the ratio has no evidence and never alarms.
* `Attribution`: `new` has an alarm by a fixed limit. Whose fault is it? *Shared*, when three things are so over the
  blocks on which the alarm rests (`proxy.rollout.evidence.Span`, or the window) and those after it:
  - stable's measured share is above the limit too. Its own alarm would come too late where it has little traffic;
  - `new` is not alone. Two explanations are compared: both have one share, or stable is within the limit and `new` has
    a share of its own. The second must be twenty times as likely (`likeness`, each at its best) to count. A fault that
    both have is then taken for that of `new` alone with a probability of about 1/20, however often one looks (Ville's
    inequality; about, because the shares are fitted);
  - `new` is not worse by the conditional test, with half of the evidence that makes an alarm.

  It is decided anew in every block: a freeze by mistake ends when stable has shown that it is within the limit, and so
  does one by right, minutes after stable has recovered (`MEMORY`) while `new` has not. Responses of one version are
  taken as independent here, so bursts make mistakes likelier. A stable without bad responses, or without any, never
  shares a fault. At weights up to 50 % hardly any mistake is made (`loadtests/judge`); where stable has a ninth of the
  responses of `new`, what it says until the alarm is too little to make few mistakes of both kinds, whatever the rule.

Assumed: the same as there, and that the split does not send the requests that fail to one version on purpose. What
breaks it: bursts of one version that are longer than a block, even more than for a fixed limit, because a block with
one bad response can say as much as one with twenty. Hence its bets are smaller: nine to twelve blocks of total failure
of `new` make an alarm, where a fixed limit beside it takes four. Its power falls with the weight of `new`: one block
can win at most 1/θ, which at 50 % and ratio 1 is a factor of 2, and total failure takes 29 blocks.
Cost per limit and block: 4 µs for `RatioEvidence` while all is well, 14 µs in trouble; 1 and 7 µs for `Attribution`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import TypeAlias

from proxy.rollout.betting import Bound, Detector, Way
from proxy.rollout.evidence import DOUBT, Gather, ShareAlarm, exact, share

# Responses of `new`, the bad of them, responses of stable, the bad of them.
Counts: TypeAlias = tuple[int, int, int, int]
_NOTHING: Counts = (0, 0, 0, 0)
# The same, where what is longer ago counts less.
Weighed: TypeAlias = tuple[float, float, float, float]

# A block with so many bad responses counts fully.
BET_EVENTS = 8
# What a weight of 10 % allows anyway: at smaller ones bets are kept from growing with 1/θ.
TOTAL_BLOCKS = 8.5
WAYS = (Way(0.2, 1.0), Way(0.4, 0.2), Way(0.4, 0.04))
# Of the evidence that would roll back, so much says that `new` is worse.
WORSE = 1 / 2
# The fault is of `new` alone when that is so many times as likely.
ALONE = 20.0
# While an alarm lasts, what was so many blocks ago counts a third as much: four minutes of 250 ms.
MEMORY = 960
TINY = 1e-9  # a share that is as good as none, where a limit allows none


@dataclass(slots=True)
class RatioFinding:
    """What is known of a limit `max_ratio`: the bad of the responses of both versions, and what that proves.

    As in `proxy.rollout.evidence.Finding`. `needed_to_prove` counts requests to `new`.
    """

    n: int
    bad: int
    stable_n: int
    stable_bad: int
    enough: bool
    within: bool
    alarm: bool
    proven: bool
    needed: int
    needed_to_prove: int | None
    evidence: float
    alarm_at: float

    @property
    def ratio(self) -> float | None:
        """How many times worse `new` measured than stable, `None` when stable had nothing bad or no responses."""
        if not (self.n and self.stable_n and self.stable_bad):
            return None
        return (self.bad / self.n) / (self.stable_bad / self.stable_n)


def origin_detector(alarm_at: float) -> Detector:
    """Return the detector of a share of bad responses that came from `new`."""
    return Detector(alarm_at, WAYS, TOTAL_BLOCKS)


class Origin:
    """Evidence that bad responses come from `new` more often than `max_ratio` explains."""

    __slots__ = ("_gather", "_max_ratio", "_open", "detector")

    def __init__(self, max_ratio: float, alarm_at: float) -> None:
        self._max_ratio = max_ratio
        self._gather = Gather()
        self._open = _NOTHING
        self.detector = origin_detector(alarm_at)

    def look(self, block: Counts) -> None:
        """Take in one block of both versions."""
        self._open = _sum(self._open, block)
        if not self._gather.add(block[0]):
            return
        share_of_new = self.share(self._open)
        if share_of_new is not None:
            self.detector.bet(*share_of_new, stake=min(1.0, (self._open[1] + self._open[3]) / BET_EVENTS))
        self._open = _NOTHING
        self._gather.clear()

    def share(self, counts: Counts) -> tuple[float, float] | None:
        """Return which part of the bad came from `new` and which is allowed; `None` when they say nothing."""
        n, bad, stable_n, stable_bad = counts
        if not (n and stable_n and bad + stable_bad):
            return None
        weighed = self._max_ratio * n
        return bad / (bad + stable_bad), weighed / (weighed + stable_n)


class RatioEvidence:
    """The evidence for and against `max_ratio` (above 0) with `floor` (a share 0…1, 0 = none)."""

    __slots__ = ("_bound", "_exact", "_floor", "_floor_bound", "_floor_over", "_min_requests", "_origin", "_total")

    def __init__(
        self, max_ratio: float, floor: float, alarm_at: float, *, min_requests: int = 20, doubt: float = DOUBT
    ) -> None:
        self._exact = exact(max_ratio), exact(floor)
        self._floor = floor
        self._min_requests = max(1, min_requests)
        self._origin = Origin(max_ratio, alarm_at)
        self._bound = Bound(doubt / 2)
        self._floor_over = ShareAlarm(floor, alarm_at)
        self._floor_bound = Bound(doubt / 2)
        self._total = _NOTHING

    def look(self, n: int, bad: int, stable_n: int, stable_bad: int) -> None:
        """Take in one block of both versions."""
        block = (n, bad, stable_n, stable_bad)
        self._total = _sum(self._total, block)
        self._origin.look(block)
        share_of_new = self._origin.share(block)
        if share_of_new is not None:
            self._bound.look(*share_of_new, bad + stable_bad)
        if self._floor:
            self._floor_over.look(n, bad)
            if n:
                self._floor_bound.look(share(bad, n), self._floor, n)

    @property
    def enough(self) -> bool:
        """Whether `new` had the requests that the limit asks for; without them there is neither alarm nor proof."""
        return self._total[0] >= self._min_requests

    @property
    def within(self) -> bool:
        """Whether the measured ratio, or the measured share, is within what is allowed, exactly."""
        n, bad, stable_n, stable_bad = self._total
        (ratio, ratio_of), (floor, floor_of) = self._exact
        within_ratio = stable_n > 0 and bad * stable_n * ratio_of <= ratio * stable_bad * n
        return within_ratio or bad * floor_of <= floor * n

    @property
    def evidence(self) -> float:
        """The logarithm of the evidence that `new` is above the ratio, and above the floor if there is one."""
        ratio = self._origin.detector.evidence
        return min(ratio, self._floor_over.detector.evidence) if self._floor else ratio

    @property
    def alarm(self) -> bool:
        """Whether `new` has been above the ratio, and above the floor, since some block."""
        over = self._origin.detector.alarm and (not self._floor or self._floor_over.detector.alarm)
        return self.enough and over

    @property
    def proven(self) -> bool:
        """Whether `new` is proven to be within the ratio, or within the floor."""
        return self.enough and (self._bound.high <= 0 or (self._floor > 0 and self._floor_bound.high <= 0))

    def finding(self) -> RatioFinding:
        """Return what is known now, for people and records."""
        n, bad, stable_n, stable_bad = self._total
        return RatioFinding(
            n=n,
            bad=bad,
            stable_n=stable_n,
            stable_bad=stable_bad,
            enough=self.enough,
            within=self.within,
            alarm=self.alarm,
            proven=self.proven,
            needed=max(0, self._min_requests - n),
            needed_to_prove=self._needed_to_prove(),
            evidence=self.evidence,
            alarm_at=self._origin.detector.alarm_at,
        )

    def _needed_to_prove(self) -> int | None:
        n, bad, _, stable_bad = self._total
        ways = [self._floor_bound.needed(self._floor)] if self._floor else []
        if n and bad + stable_bad:
            events = self._bound.needed(0.0)
            ways.append(None if events is None else ceil(events * n / (bad + stable_bad)))
        return min((way for way in ways if way is not None), default=None)


class Attribution:
    """Whose fault it is when `new` is over the fixed limit `allowed` (a share 0…1)."""

    __slots__ = ("_alarm", "_allowed", "_exact", "_proven", "_worse")

    def __init__(self, allowed: float, alarm_at: float) -> None:
        self._allowed = allowed
        self._exact = exact(allowed)
        self._worse = Origin(1.0, alarm_at)
        self._proven = alarm_at * WORSE
        self._alarm: Weighed | None = None  # what an alarm rests on, and what came after it

    def look(self, n: int, bad: int, stable_n: int, stable_bad: int, alarm: Counts | None = None) -> None:
        """Take in one block of both versions; `alarm`: what an alarm for `new` rests on, if there is one now."""
        block = (n, bad, stable_n, stable_bad)
        self._worse.look(block)
        if alarm is None or self._alarm is None:
            self._alarm = alarm
        else:
            before, kept = self._alarm, 1 - 1 / MEMORY
            self._alarm = (
                before[0] * kept + n,
                before[1] * kept + bad,
                before[2] * kept + stable_n,
                before[3] * kept + stable_bad,
            )

    @property
    def stable_over(self) -> bool:
        """Whether stable's measured share is above the limit too."""
        if self._alarm is None:
            return False
        most, of = self._exact
        return self._alarm[3] * of > most * self._alarm[2]

    @property
    def new_alone(self) -> bool:
        """Whether it is `ALONE` times as likely that stable is within the limit as that both have one share."""
        return self._alarm is not None and likeness(self._alarm, self._allowed) <= -log(ALONE)

    @property
    def new_worse(self) -> bool:
        """Whether `new` is worse than stable."""
        return self._worse.detector.evidence >= self._proven

    @property
    def shared(self) -> bool:
        """Whether an alarm for `new` is a `SharedFault`: freeze the ramp, do not roll back."""
        return self.stable_over and not (self.new_alone or self.new_worse)


def likeness(counts: Weighed, allowed: float) -> float:
    """Return how much likelier it is that both versions have one share than that stable is within `allowed` (0…1).

    As a natural logarithm; each is as likely as it can be made, by the shares that fit best.
    """
    n, bad, stable_n, stable_bad = counts
    if not (n and stable_n):
        return 0.0
    one, own = _share(bad + stable_bad, n + stable_n), _share(bad, n)
    within = min(allowed, _share(stable_bad, stable_n))
    together = _likelihood(n, bad, one) + _likelihood(stable_n, stable_bad, one)
    return together - _likelihood(n, bad, own) - _likelihood(stable_n, stable_bad, within)


def _share(bad: float, n: float) -> float:
    return min(1.0, bad / n)


def _likelihood(n: float, bad: float, share: float) -> float:
    bad = min(n, bad)
    return bad * log(max(TINY, share)) + (n - bad) * log(max(TINY, 1 - share))


def _sum(one: Counts, other: Counts) -> Counts:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]
