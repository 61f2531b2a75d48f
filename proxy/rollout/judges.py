"""The judges of limits: by evidence, by the value over a window, by comparison with stable, by readings, by the stage.

`judge_for` chooses by the limit (INTERFACE §1.1):

* a fixed limit without `window`: `EvidenceJudge`, block by block (`proxy.rollout.evidence`);
* a fixed limit with `window`: `WindowJudge`, the measured value over the sliding window, in breach for `for`. A
  window never reaches back behind the instant from which the version is judged; fewer than `min_requests` neither
  continue nor break `for`;
* `max_ratio` of a share: `RatioJudge`, by which version the bad ones come from (`proxy.rollout.ratio`); where stable
  has no traffic any more: `RecordJudge`, the evidence against the ratio times what its record says. With `window`:
  `RatioWindowJudge`, measured share against measured share, or against the record;
* `max_ratio` of a latency: `PercentileJudge`, percentile against percentile of stable over the trailing ten minutes
  (at least 1,000 of them), or its record. The two come from histograms (0.8 % coarse), once per second; a measured
  comparison, never *proven*;
* a check: `ReadingJudge`; what cannot be read is ERROR, never FAIL and never PASS;
* a requirement of a stage: `StageJudge` or one of the last two, over the whole stage;
* what the workers do not count (yet): `UncountedJudge`.

Beside a fixed limit that rolls `new` back sits an `Attribution`: when stable was over the same limit too in the blocks
on which a FAIL rests, it is *shared*, unless `new` is alone in it or worse than stable (`proxy.rollout.ratio`).

A record without any bad response does not say "never": it is taken as one bad of its n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from proxy.metrics import hdr
from proxy.metrics.snapshot import Columns, Judged
from proxy.rollout.analysis import (
    ERROR,
    FAIL,
    INCONCLUSIVE,
    PASS,
    Count,
    Counter,
    Judge,
    Reading,
    Sight,
    Verdict,
    allowed,
    beyond,
    breached,
)
from proxy.rollout.evidence import ShareEvidence, alarm_at
from proxy.rollout.plan import (
    CHECK,
    EVIDENCE,
    HOLD,
    LEAST_SAMPLES,
    READING,
    STAGE,
    TRAILING_S,
    WINDOW,
    Limit,
    Plan,
    ServicePlan,
)
from proxy.rollout.ratio import Attribution, Counts, RatioEvidence
from proxy.routing.table import FULL, NEW, STABLE

# One block is charged to `for` at a time, and a late one as at most so many.
LATE_BLOCKS = 2
# Percentiles are looked at so often: histograms are kept by the second.
PERCENTILE_S = 1.0
# So many readings in a row that gave nothing pause a rollout.
UNREADABLE = 3
# So many blocks wait until it is worked out whose fault a failure would be.
MOST_WAITING = 16
# Without a rollout nobody says how long it will take.
BY_HAND_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Court:
    """What all judges of a service have in common.

    `began`: they judge what is counted after that instant (s). `alarm_at`: see `budget`. `weight_bp`: of the stage.
    """

    plan: ServicePlan
    columns: Columns
    began: float
    alarm_at: float
    weight_bp: int = 0


def budget(plan: ServicePlan, rollout: Plan | None) -> float:
    """Return the evidence (a logarithm) that makes an alarm, from what the rollout may spend on false ones.

    `judge.false_alarms` is split evenly over all blocks of all limits that are judged by evidence and act on `new`.
    """

    def betting(limits: tuple[Limit, ...]) -> int:
        return sum(limit.judge == EVIDENCE and limit.version == NEW and limit.acts for limit in limits)

    always = betting(plan.limits)
    if rollout is None:
        return alarm_at(plan.false_alarms, BY_HAND_S / plan.block_s, always)
    blocks = [stage.hold_s / plan.block_s for stage in rollout.stages]
    bets = sum(of * (always + betting(stage.limits)) for of, stage in zip(blocks, rollout.stages, strict=True))
    # Without any such limit whose fault a failure is still takes evidence (`proxy.rollout.ratio`).
    return alarm_at(plan.false_alarms, bets or sum(blocks), 1)


def judge_for(court: Court, limit: Limit) -> Judge:
    """Return the judge of `limit`."""
    if limit.source == CHECK:
        return ReadingJudge(limit, court)
    if limit.compares_percentiles:
        return PercentileJudge(limit, court)
    if not Counter(limit, court.columns).readable:
        return UncountedJudge(limit, court)
    if limit.max_ratio is not None:
        return _ratio_judge(court, limit)
    if limit.judge == STAGE:
        return StageJudge(limit, court)
    return WindowJudge(limit, court) if limit.judge == WINDOW else EvidenceJudge(limit, court)


def _ratio_judge(court: Court, limit: Limit) -> Judge:
    if limit.judge == WINDOW:
        return RatioWindowJudge(limit, court)
    return RecordJudge(limit, court) if court.weight_bp == FULL else RatioJudge(limit, court)


class _Blocks:
    """Gives what was counted of both versions in each block, beginning with the instant `began`."""

    __slots__ = ("_began", "_block_s", "_last")

    def __init__(self, court: Court) -> None:
        self._began = court.began
        self._block_s = court.plan.block_s
        self._last: tuple[Judged, Judged] | None = None

    def next(self, sight: Sight, now: float) -> tuple[Judged, Judged]:
        """Return what stable and new were charged with since the last call."""
        last, self._last = self._last, sight.totals
        if last is not None:
            return sight.since(last)
        # The first block began with the judging; who comes much later has not seen what was before.
        seconds = now - self._began
        if seconds > LATE_BLOCKS * self._block_s:
            seconds = 0.0
        return sight.over(STABLE, seconds)[0], sight.over(NEW, seconds)[0]


class _Blame:
    """Whose fault it is when a fixed limit on `new` fails; nobody's but its own where nothing would be rolled back.

    That is asked for only when it fails. Until then blocks wait to be taken in many at once: it is a twentieth of the
    work of a tick less.
    """

    __slots__ = ("_attribution", "_waiting")

    def __init__(self, limit: Limit, level: float) -> None:
        asked = limit.version == NEW and limit.acts
        self._attribution = Attribution(allowed(limit), level) if asked else None
        self._waiting: list[tuple[int, int, int, int, Counts | None]] = []

    def look(self, stable: tuple[int, int], new: tuple[int, int], alarm: Counts | None = None) -> bool:
        """Take in one block of both versions, each as (n, bad); tell whether a failure is stable's too.

        `alarm`: what the failure rests on, `None` if the limit does not fail.
        """
        found = self._attribution
        if found is None:
            return False
        self._waiting.append((*new, *stable, alarm))
        if alarm is None and len(self._waiting) < MOST_WAITING:
            return False
        for block in self._waiting:
            found.look(*block)
        self._waiting.clear()
        return found.shared


class _Judge:
    """What all judges have: what they said last, as plain attributes, and of when that is."""

    __slots__ = ("_began", "_block", "_now", "due", "limit", "name", "proven", "shared", "unreadable", "word")

    def __init__(self, limit: Limit, court: Court, name: str) -> None:
        self.limit = limit
        self.name = name
        self._began = self._now = court.began
        self._block = 0
        self.word = INCONCLUSIVE
        self.due = self.proven = self.shared = False
        self.unreadable = 0

    def _say(self, word: str, now: float, block: int, *, proven: bool = False, shared: bool = False) -> None:
        self.word, self.proven, self.shared = word, proven, shared
        self._now, self._block = now, block
        self.due = word == FAIL and now - self._began >= self.limit.after_s

    def _verdict(self, n: int = 0, count: int = 0, *, first: int | None = None, **more: Any) -> Verdict:
        """Return what was said, with its numbers; `first`: the first of its blocks, if there are several."""
        return Verdict(
            self.word,
            self.limit,
            self.name,
            n,
            count,
            blocks=(self._block if first is None else first, self._block),
            due=self.due,
            proven=self.proven,
            shared=self.shared,
            unreadable=self.unreadable,
            **more,
        )


class _Held:
    """For how long a value has been in breach without a break (`s`, `None`: it is not)."""

    __slots__ = ("s",)

    def __init__(self) -> None:
        self.s: float | None = None

    def look(self, passed_s: float, *, enough: bool, wrong: bool) -> None:
        """Take in what passed; too few requests neither go on with a breach nor break it."""
        if wrong:
            self.s = 0.0 if self.s is None else self.s + passed_s
        elif enough:
            self.s = None

    def word(self, limit: Limit, *, enough: bool, wrong: bool) -> str:
        """Return the verdict's word."""
        if wrong and self.s is not None and self.s >= limit.for_s:
            return FAIL
        return PASS if enough and not wrong else INCONCLUSIVE


class UncountedJudge(_Judge):
    """Says ERROR of what the workers do not count."""

    __slots__ = ()

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court, limit.judge)

    def look(self, sight: Sight, now: float, block: int) -> None:  # noqa: ARG002  # there is nothing to see
        """Take in a block."""
        self._say(ERROR, now, block)

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        return self._verdict(detail=NOT_COUNTED)


class EvidenceJudge(_Judge):
    """Judges a fixed limit by evidence, block after block."""

    __slots__ = ("_blame", "_blocks", "_counter", "_evidence", "_first")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court, EVIDENCE)
        self._counter = Counter(limit, court.columns)
        self._blocks = _Blocks(court)
        self._evidence = ShareEvidence(allowed(limit), court.alarm_at, min_requests=limit.min_requests)
        self._blame = _Blame(limit, court.alarm_at)
        self._first: int | None = None

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        stable, new = self._blocks.next(sight, now)
        both = self._counter.bad(stable), self._counter.bad(new)
        self._evidence.look(*both[self.limit.version], *both[STABLE])
        self._first = block if self._first is None else self._first
        word = _word(self.limit, self._evidence)
        shared = self._blame.look(*both, self._evidence.span[1:] if word == FAIL else None)
        self._say(word, now, block, proven=word == PASS and self._evidence.proven, shared=shared)

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        found, first = self._evidence.finding(), self._first
        since = {"blocks": found.span.blocks, "n": found.span.n, "bad": found.span.bad}
        if self.shared:
            since |= {"stable_n": found.span.stable_n, "stable_bad": found.span.stable_bad}
        if self.word == FAIL and first is not None:
            first = max(first, self._block - found.span.blocks + 1)
        return self._verdict(
            found.n,
            found.n - found.bad if self.limit.min is not None else found.bad,
            first=first,
            seconds=self._now - self._began,
            needed=found.needed,
            needed_to_prove=found.needed_to_prove,
            detail={
                "interval": [round(found.low, 6), round(found.high, 6)],
                "evidence": round(found.evidence, 2) if found.n else None,
                "alarm_at": round(found.alarm_at, 2),
                "since_breach": since,
            },
        )


class _SlidingJudge(_Judge):
    """What those have in common that judge counts over a sliding window, in breach for `for`."""

    __slots__ = ("_block_s", "_counter", "_held", "_seconds")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court, WINDOW)
        self._counter = Counter(limit, court.columns)
        self._block_s = court.plan.block_s
        self._held = _Held()
        self._seconds = 0.0

    def _window_s(self, now: float) -> float:
        return min(self.limit.window_s or 0.0, now - self._began)

    def _hold(self, now: float, *, enough: bool, wrong: bool) -> str:
        """Take in whether the value is in breach, and return the verdict's word."""
        self._held.look(min(now - self._now, LATE_BLOCKS * self._block_s), enough=enough, wrong=wrong)
        return self._held.word(self.limit, enough=enough, wrong=wrong)

    def _of_window(self, n: int, count: int, **more: Any) -> Verdict:
        return self._verdict(
            n,
            count,
            first=max(0, self._block - max(0, round(self._seconds / self._block_s) - 1)),
            seconds=self._seconds,
            held_s=self._held.s or 0.0,
            needed=max(0, self.limit.min_requests - n),
            **more,
        )


class WindowJudge(_SlidingJudge):
    """Judges the measured value over a sliding window."""

    __slots__ = ("_blame", "_blocks", "_counted")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court)
        self._blocks = _Blocks(court)
        self._blame = _Blame(limit, court.alarm_at)
        self._counted = Count(0, 0)

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        limit = self.limit
        stable, new = self._blocks.next(sight, now)
        judged, self._seconds = sight.over(limit.version, self._window_s(now))
        counted = self._counted = self._counter(judged)
        enough = counted.n >= max(1, limit.min_requests)
        wrong = enough and breached(limit, counted)
        word = self._hold(now, enough=enough, wrong=wrong)
        alarm = (*self._counter.bad(judged), *self._over_stable(sight, now)) if word == FAIL else None
        shared = self._blame.look(self._counter.bad(stable), self._counter.bad(new), alarm)
        self._say(word, now, block, shared=shared)

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        return self._of_window(self._counted.n, self._counted.count)

    def _over_stable(self, sight: Sight, now: float) -> tuple[int, int]:
        return self._counter.bad(sight.over(STABLE, self._window_s(now))[0])


class StageJudge(_Judge):
    """Judges a requirement over the whole stage; what came before its `after` is left out."""

    __slots__ = ("_counted", "_counter", "_from", "_open")

    def __init__(self, limit: Limit, court: Court) -> None:
        court = replace(court, began=court.began + limit.after_s)
        super().__init__(limit, court, STAGE)
        self._counter = Counter(limit, court.columns)
        self._open = _Blocks(court)
        self._from: Judged | None = None
        self._counted = Count(0, 0)

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        limit, word = self.limit, INCONCLUSIVE
        if now >= self._began:
            part = self._open.next(sight, now)[limit.version]
            self._from = part if self._from is None else self._from + part
            counted = self._counted = self._counter(self._from)
            if counted.n >= max(1, limit.min_requests):
                word = FAIL if breached(limit, counted) else PASS
        self._say(word, now, block)
        self.due = False  # it holds the stage; that is nothing to act on

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        counted = self._counted
        return self._verdict(
            counted.n,
            counted.count,
            seconds=max(0.0, self._now - self._began),
            needed=max(0, self.limit.min_requests - counted.n),
        )


class RatioJudge(_Judge):
    """Judges how many times the bad of `new` there are compared with stable."""

    __slots__ = ("_blocks", "_counter", "_evidence")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court, STAGE if limit.action == HOLD else EVIDENCE)
        self._counter = Counter(limit, court.columns)
        self._blocks = _Blocks(court)
        self._evidence = RatioEvidence(
            limit.max_ratio or 1.0, limit.floor, court.alarm_at, min_requests=limit.min_requests
        )

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        stable, new = self._blocks.next(sight, now)
        self._evidence.look(*self._counter.bad(new), *self._counter.bad(stable))
        word = _word(self.limit, self._evidence)
        self._say(word, now, block, proven=word == PASS and self._evidence.proven)

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        found = self._evidence.finding()
        return self._verdict(
            found.n,
            found.bad,
            seconds=self._now - self._began,
            needed=found.needed,
            needed_to_prove=found.needed_to_prove,
            measured=None if found.ratio is None else round(found.ratio, 4),
            detail={
                "stable": {"n": found.stable_n, "bad": found.stable_bad},
                "evidence": round(found.evidence, 2) if found.n else None,
                "alarm_at": round(found.alarm_at, 2),
            },
        )


class RecordJudge(_Judge):
    """Judges how many times the bad of `new` there are compared with what stable had while it had traffic.

    `allowed`: the greatest share of bad ones that `new` may have, `None` without a record.
    """

    __slots__ = ("_blocks", "_counter", "_evidence", "_level", "_record", "_usual", "allowed")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court, STAGE if limit.action == HOLD else EVIDENCE)
        self._level = court.alarm_at
        self._counter = Counter(limit, court.columns)
        self._blocks = _Blocks(court)
        self._evidence: ShareEvidence | None = None  # `None`: there is no record
        self._record: dict[str, object] = {}
        self._usual = 0.0
        self.allowed: float | None = None

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        new = self._blocks.next(sight, now)[NEW]
        if self._evidence is None:
            self._evidence = self._against(sight)
        word, proven = INCONCLUSIVE, False
        if self._evidence is not None:
            self._evidence.look(*self._counter.bad(new))
            word = _word(self.limit, self._evidence)
            proven = word == PASS and self._evidence.proven
        self._say(word, now, block, proven=proven)

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        if self._evidence is None:
            return self._verdict(detail=NO_RECORD)
        found = self._evidence.finding()
        return self._verdict(
            found.n,
            found.bad,
            seconds=self._now - self._began,
            needed=found.needed,
            needed_to_prove=found.needed_to_prove,
            measured=None if found.share is None else round(found.share / self._usual, 4),
            detail={
                "record": self._record,
                "evidence": round(found.evidence, 2) if found.n else None,
                "alarm_at": round(found.alarm_at, 2),
            },
        )

    def _against(self, sight: Sight) -> ShareEvidence | None:
        limit = self.limit
        row = sight.record.get(limit.metric)
        if not row or not row.get("n"):
            return None
        self._record = {"stage": sight.record_of, **row}
        self._usual = max(row["count"], 1.0) / row["n"]
        self.allowed = min(1.0, max(limit.floor, (limit.max_ratio or 1.0) * self._usual))
        return ShareEvidence(self.allowed, self._level, min_requests=limit.min_requests)


class RatioWindowJudge(_SlidingJudge):
    """Judges the share of `new` by that of stable over the same sliding window; at 100 % by the record of stable.

    Of nothing everything is many times, and of a very large stable so is a single response. So what is compared with
    is the share of stable, but at least one bad response of as many as stable had, and one of as many as `new` had:
    `measured` is "at least so many times", with the counts beside it. One bad response alone is never a breach.
    """

    __slots__ = ("_detail", "_full", "_n_bad", "_of_stable", "_ratio")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court)
        self._full = court.weight_bp == FULL
        self._n_bad = (0, 0)
        self._ratio: float | None = None
        self._detail: dict[str, object] = {}
        self._of_stable: tuple[float, float] | None = None

    @property
    def allowed(self) -> float | None:
        """The greatest share of bad ones that very many of `new` may have, `None`: too little is known of stable."""
        if self._of_stable is None:
            return None
        usual, of = self._of_stable
        return min(1.0, max(self.limit.floor, (self.limit.max_ratio or 1.0) * max(usual, 1) / of))

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        limit = self.limit
        judged, self._seconds = sight.over(NEW, self._window_s(now))
        n, bad = self._n_bad = self._counter.bad(judged)
        self._of_stable, self._detail = self._usual(sight)
        usual = self._of_stable
        enough = n >= max(1, limit.min_requests) and usual is not None
        self._ratio = _times(bad, n, *usual) if n and usual else None
        over = (self._ratio or 0.0) > (limit.max_ratio or 1.0)
        wrong = enough and over and bad > 1 and bad / n > limit.floor
        self._say(self._hold(now, enough=enough, wrong=wrong), now, block)

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        measured = None if self._ratio is None else round(self._ratio, 4)
        return self._of_window(*self._n_bad, measured=measured, detail=self._detail)

    def _usual(self, sight: Sight) -> tuple[tuple[float, float] | None, dict[str, object]]:
        """Return the bad of stable and of how many, `None` when too little is known, and what is shown of it."""
        if self._full:
            row = sight.record.get(self.limit.metric)
            if not row or not row.get("n"):
                return None, dict(NO_RECORD)
            return (row["count"], row["n"]), {"record": {"stage": sight.record_of, **row}}
        n, bad = self._counter.bad(sight.over(STABLE, self._seconds)[0])
        detail: dict[str, object] = {"stable": {"n": n, "bad": bad}}
        return ((bad, n) if n >= max(1, self.limit.min_requests) else None), detail


def _times(bad: int, n: int, usual: float, of: float) -> float:
    """Return how many times as large `bad` of `n` is as `usual` of `of`, of which each has one bad one at least."""
    return min(bad * of / (n * max(usual, 1)), float(bad))


class PercentileJudge(_Judge):
    """Judges a percentile of `new` by that of stable, once per second."""

    __slots__ = ("_found", "_full", "_held")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court, STAGE if limit.action == HOLD else WINDOW)
        self._full = court.weight_bp == FULL
        self._held = _Held()
        self._found: Verdict | None = None

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        passed = now - self._now
        if self._found is not None and passed < PERCENTILE_S:
            return
        limit = self.limit
        quantile = limit.quantile or 0.5
        seconds = None
        if limit.action != HOLD:
            seconds = min(limit.sliding_s or TRAILING_S, now - self._began)
        mine = sight.histogram(NEW, seconds, first_byte=limit.first_byte)
        n = sum(mine.values())
        value_ms = _ms(hdr.percentile(mine, quantile))
        usual_ms, detail = self._usual(sight, quantile)
        enough = n >= max(1, limit.min_requests)
        word = INCONCLUSIVE
        ratio = None
        if value_ms is not None and usual_ms:
            ratio = value_ms / usual_ms
            wrong = enough and ratio > (limit.max_ratio or 1.0) and value_ms > limit.floor
            self._held.look(min(passed, LATE_BLOCKS * PERCENTILE_S), enough=enough, wrong=wrong)
            word = self._held.word(limit, enough=enough, wrong=wrong)
        self._say(word, now, block)
        self._found = self._verdict(
            n,
            seconds=now - self._began if seconds is None else seconds,
            held_s=self._held.s or 0.0,
            needed=max(0, limit.min_requests - n),
            measured=None if ratio is None else round(ratio, 4),
            detail={"value_ms": value_ms, **detail},
        )

    def verdict(self) -> Verdict:
        """Return the verdict as of the last second."""
        return self._verdict() if self._found is None else self._found

    def _usual(self, sight: Sight, quantile: float) -> tuple[float | None, dict[str, object]]:
        limit = self.limit
        if self._full:
            row = sight.record.get(limit.metric)
            if not row or not row.get("value"):
                return None, dict(NO_RECORD)
            return row["value"], {"record": {"stage": sight.record_of, **row}}
        theirs = sight.histogram(STABLE, TRAILING_S, first_byte=limit.first_byte)
        n = sum(theirs.values())
        found = _ms(hdr.percentile(theirs, quantile))
        shown: dict[str, object] = {"stable": {"n": n, "value_ms": found}}
        if n < LEAST_SAMPLES:
            return None, {**shown, "why": f"stable has {n} of {LEAST_SAMPLES} samples"}
        return found, shown


class ReadingJudge(_Judge):
    """Judges the number that a check reads.

    `for` is what was seen: of a time in which nobody judged, two blocks count, as for what is counted.
    """

    __slots__ = ("_block_s", "_held_s", "_reading", "_seen")

    def __init__(self, limit: Limit, court: Court) -> None:
        super().__init__(limit, court, READING)
        self._block_s = court.plan.block_s
        self._held_s: float | None = None
        self._reading: Reading | None = None
        self._seen = 0

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in a block."""
        limit, passed = self.limit, min(now - self._now, LATE_BLOCKS * self._block_s)
        reading = self._reading = sight.readings.get(limit.metric)
        if reading is None or not reading.number:
            self._say(INCONCLUSIVE, now, block)
            return
        fresh = reading.number - self._seen if self._seen else 1
        self._seen = reading.number
        if reading.value is None:
            self.unreadable += max(0, fresh)
            self._say(ERROR, now, block)
            return
        self.unreadable = 0
        wrong = beyond(limit, reading.value)
        self._held_s = None if not wrong else 0.0 if self._held_s is None else self._held_s + passed
        fails = self._held_s is not None and self._held_s >= limit.for_s
        self._say(FAIL if fails else INCONCLUSIVE if wrong else PASS, now, block, proven=not wrong)

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""
        reading = self._reading
        if reading is None or not reading.number:
            return self._verdict(detail={"why": "not read yet"})
        if reading.value is None:
            return self._verdict(detail={"why": reading.error, "unreadable": self.unreadable})
        return self._verdict(1, held_s=self._held_s or 0.0, measured=reading.value)


NOT_COUNTED: Mapping[str, object] = {"why": "the workers do not count it"}
NO_RECORD: Mapping[str, object] = {"why": "stable has no traffic here and no record from a stage below 100 %"}


def _word(limit: Limit, found: ShareEvidence | RatioEvidence) -> str:
    """Return what the evidence says; a requirement asks for what was measured over the stage, not for an alarm."""
    if limit.action == HOLD:
        return INCONCLUSIVE if not found.enough else PASS if found.within else FAIL
    return FAIL if found.alarm else PASS if found.enough and found.within else INCONCLUSIVE


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1000
