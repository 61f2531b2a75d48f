"""The judge of `proxy.rollout.evidence` and `proxy.rollout.ratio` over many runs at once, with numpy.

The arithmetic is the same, number by number; `tests/loadtests/test_judge.py` proves it. An array holds one number per
run. Only alarms are here: proof is cheap enough to be simulated with the product's own class. Beside them stands what
most people would write first: `Naive`, three breached windows of 500 responses in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from proxy.rollout.betting import KEPT, MOST_LOSS, TOTAL_BLOCKS, WAYS, Way
from proxy.rollout.evidence import BET_RESPONSES, QUIET, RATE_BLOCKS, SMALL_BLOCK
from proxy.rollout.ratio import ALONE, BET_EVENTS, MEMORY, TINY, WORSE
from proxy.rollout.ratio import TOTAL_BLOCKS as RATIO_BLOCKS
from proxy.rollout.ratio import WAYS as RATIO_WAYS

Numbers: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

NAIVE_RESPONSES = 500
NAIVE_WINDOWS = 3


class Detectors:
    """`proxy.rollout.betting.Detector` for `runs` runs; what is allowed must be above 0."""

    def __init__(
        self, runs: int, alarm_at: float, ways: Sequence[Way] = WAYS, total_blocks: float = TOTAL_BLOCKS
    ) -> None:
        parts, sizes, sees, patient = zip(*ways, strict=True)
        self._parts, self._sizes, self._sees = np.array(parts)[:, None], np.array(sizes)[:, None], list(sees)
        self._patient = np.array(patient)[:, None]
        self._enough = np.exp(alarm_at)
        self._most = (self._enough / ways[0].part) ** (1 / total_blocks) - 1
        self._ceilings = KEPT * self._enough / self._parts
        self._wealth = np.zeros((len(ways), runs))
        self._level: Numbers = np.ones((len(ways), 1))
        self._total = np.zeros(runs)

    @property
    def odds(self) -> Numbers:
        """The wealth of each way relative to the level of the last bet."""
        return self._wealth / self._level

    @property
    def evidence(self) -> Numbers:
        """The logarithms of the evidence."""
        with np.errstate(divide="ignore"):
            evidence: Numbers = np.log(self._total)
        return evidence

    @property
    def alarms(self) -> Flags:
        """Where there is enough evidence for an alarm."""
        alarms: Flags = self._total >= self._enough
        return alarms

    def bet(self, share: Numbers, allowed: Numbers | float, due: Flags, stake: Numbers | float = 1.0) -> None:
        """Take in a share per run, where `due`."""
        largest = stake * np.minimum(MOST_LOSS / np.asarray(allowed), self._most)
        third = (1 - np.asarray(allowed)) / 3
        upper = np.maximum(0.0, share - 1 + third) / np.maximum(third, 1e-9)
        seen = np.array((share, np.minimum(share, allowed + third), upper))[self._sees]
        bets = self._sizes * largest
        lost = bets * allowed
        self._level = level = np.where(self._patient & (lost > 0), 1 / np.where(lost > 0, lost, 1.0), 1.0)
        wealth = np.maximum(self._wealth, np.minimum(self._wealth + 1, level)) * (1 + bets * seen - lost)
        np.minimum(wealth, self._ceilings, out=wealth)
        np.copyto(self._wealth, wealth, where=due)
        np.copyto(self._total, (self._parts * wealth).sum(axis=0), where=due)


class Gathers:
    """`proxy.rollout.evidence.Gather` for `runs` runs."""

    def __init__(self, runs: int) -> None:
        self._rate = np.zeros(runs)
        self._seen = 0
        self.n = np.zeros(runs)

    def add(self, n: Numbers) -> Flags:
        """Add a block; tell where a bet is due."""
        self._seen = min(self._seen + 1, RATE_BLOCKS)
        self._rate += (n - self._rate) / self._seen
        self.n += n
        usual = np.maximum(1.0, self._rate * SMALL_BLOCK)
        return self.n >= np.where(self._rate >= QUIET, usual, BET_RESPONSES)

    def clear(self, due: Flags) -> None:
        """Begin anew where a bet was made."""
        self.n[due] = 0


class ShareAlarms:
    """`proxy.rollout.evidence.ShareAlarm` for `runs` runs."""

    def __init__(
        self,
        runs: int,
        allowed: float,
        alarm_at: float,
        ways: Sequence[Way] = WAYS,
        total_blocks: float = TOTAL_BLOCKS,
    ) -> None:
        self._allowed = allowed
        self._gather = Gathers(runs)
        self._bad = np.zeros(runs)
        self.due: Flags = np.zeros(runs, dtype=bool)  # where the last block was bet on
        self.detectors = Detectors(runs, alarm_at, ways, total_blocks)

    def look(self, n: Numbers, bad: Numbers) -> Flags:
        """Take in one block of every run; tell which of them alarm."""
        self._bad += bad
        due = self.due = self._gather.add(n)
        share = np.minimum(1.0, self._bad / np.maximum(self._gather.n, 1))
        self.detectors.bet(share, self._allowed, due)
        self._gather.clear(due)
        self._bad[due] = 0
        return self.detectors.alarms


class Origins:
    """`proxy.rollout.ratio.Origin` for `runs` runs."""

    def __init__(self, runs: int, max_ratio: float, alarm_at: float) -> None:
        self._max_ratio = max_ratio
        self._gather = Gathers(runs)
        self._open = np.zeros((3, runs))  # bad of new, responses and bad of stable
        self.detectors = Detectors(runs, alarm_at, RATIO_WAYS, RATIO_BLOCKS)

    def look(self, n: Numbers, bad: Numbers, stable_n: Numbers, stable_bad: Numbers) -> None:
        """Take in one block of every run."""
        self._open += (bad, stable_n, stable_bad)
        due = self._gather.add(n)
        weighed, (new_bad, others, others_bad) = self._max_ratio * self._gather.n, self._open
        events = new_bad + others_bad
        says = due & (others > 0) & (events > 0)
        allowed = np.where(says, weighed / np.maximum(weighed + others, 1), 1.0)
        share = np.where(says, new_bad / np.maximum(events, 1), 1.0)
        self.detectors.bet(share, allowed, says, np.minimum(1.0, events / BET_EVENTS))
        self._gather.clear(due)
        self._open[:, due] = 0


class RatioAlarms:
    """The alarm of `proxy.rollout.ratio.RatioEvidence` (with a floor above 0) for `runs` runs."""

    def __init__(self, runs: int, max_ratio: float, floor: float, alarm_at: float) -> None:
        self._origins = Origins(runs, max_ratio, alarm_at)
        self._floor = ShareAlarms(runs, floor, alarm_at)

    @property
    def evidence(self) -> Numbers:
        """The logarithms of the evidence."""
        evidence: Numbers = np.minimum(self._origins.detectors.evidence, self._floor.detectors.evidence)
        return evidence

    def look(self, n: Numbers, bad: Numbers, stable_n: Numbers, stable_bad: Numbers) -> Flags:
        """Take in one block of every run; tell which of them alarm."""
        self._floor.look(n, bad)
        self._origins.look(n, bad, stable_n, stable_bad)
        return self._origins.detectors.alarms & self._floor.detectors.alarms


class Attributions:
    """`proxy.rollout.evidence.ShareAlarm` of `new` with `proxy.rollout.ratio.Attribution`, for `runs` runs."""

    def __init__(self, runs: int, allowed: float, alarm_at: float) -> None:
        self._allowed = allowed
        self._alarms = ShareAlarms(runs, allowed, alarm_at)
        self._worse = Origins(runs, 1.0, alarm_at)
        self._proven = alarm_at * WORSE
        # Of both versions, as in a `Counts`: in all, in all that was bet on, and there when each way's evidence began.
        self._total, self._bet = np.zeros((4, runs)), np.zeros((4, runs))
        self._begun = np.zeros((len(WAYS), 4, runs))
        self._alarm = np.zeros((4, runs))
        self._alarmed = np.zeros(runs, dtype=bool)

    def look(self, n: Numbers, bad: Numbers, stable_n: Numbers, stable_bad: Numbers) -> tuple[Flags, Flags]:
        """Take in one block of every run; tell which of them alarm, and where the fault is shared."""
        block = np.array((n, bad, stable_n, stable_bad))
        alarms = self._alarms.look(n, bad)
        self._worse.look(n, bad, stable_n, stable_bad)
        self._total += block
        np.copyto(self._bet, self._total, where=self._alarms.due)
        odds = self._alarms.detectors.odds
        np.copyto(self._begun, self._bet, where=((odds <= 1) & self._alarms.due)[:, None])
        if not alarms.any():
            self._alarmed = alarms
            return alarms, alarms
        span = self._bet - self._begun[odds.argmax(axis=0), :, np.arange(odds.shape[1])].T
        self._alarm = np.where(self._alarmed, self._alarm * (1 - 1 / MEMORY) + block, span)
        self._alarmed = alarms
        over = self._alarm[3] > self._allowed * self._alarm[2]
        alone, worse = self._likeness() <= -np.log(ALONE), self._worse.detectors.evidence >= self._proven
        return alarms, alarms & over & ~alone & ~worse

    def _likeness(self) -> Numbers:
        n, bad, stable_n, stable_bad = self._alarm
        one = _share(bad + stable_bad, n + stable_n)
        within = np.minimum(self._allowed, _share(stable_bad, stable_n))
        together = _likelihoods(n, bad, one) + _likelihoods(stable_n, stable_bad, one)
        found = together - _likelihoods(n, bad, _share(bad, n)) - _likelihoods(stable_n, stable_bad, within)
        return np.where((n > 0) & (stable_n > 0), found, 0.0)


def _share(bad: Numbers, n: Numbers) -> Numbers:
    share: Numbers = np.minimum(1.0, bad / np.maximum(n, 1))
    return share


def _likelihoods(n: Numbers, bad: Numbers, share: Numbers) -> Numbers:
    bad = np.minimum(n, bad)
    return bad * np.log(np.maximum(TINY, share)) + (n - bad) * np.log(np.maximum(TINY, 1 - share))


class Naive:
    """Three breached windows of at least 500 responses in a row, for `runs` runs."""

    def __init__(self, runs: int, allowed: float) -> None:
        self._allowed = allowed
        self._n = np.zeros(runs)
        self._bad = np.zeros(runs)
        self._row = np.zeros(runs)

    def look(self, n: Numbers, bad: Numbers) -> Flags:
        """Take in one block of every run; tell which of them alarm."""
        self._n += n
        self._bad += bad
        full = self._n >= NAIVE_RESPONSES
        breached = self._bad > self._allowed * self._n
        self._row = np.where(full, np.where(breached, self._row + 1, 0), self._row)
        self._n[full] = 0
        self._bad[full] = 0
        return self._row >= NAIVE_WINDOWS
