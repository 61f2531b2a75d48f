"""The judges of limits: by evidence, by the value over a window, by comparison with stable, by readings, by the stage.

`judge_for` chooses by the limit (INTERFACE §1.1):

* a fixed limit without `window`: `EvidenceJudge`, block by block (`proxy.rollout.evidence`);
* a fixed limit with `window`: `WindowJudge`, the measured value over the sliding window, in breach for `for`. A
  window never reaches back behind the instant from which the version is judged; fewer than `min_requests` neither
  continue nor break `for`;
* `max_ratio` of a share: `RatioJudge`, by which version the bad ones come from (`proxy.rollout.ratio`); where stable
  has no traffic any more: the evidence against the ratio times what its record says;
* `max_ratio` of a latency: `PercentileJudge`, percentile against percentile of stable over the trailing ten minutes
  (at least 1,000 of them), or its record. The two come from histograms (0.8 % coarse), once per second; a measured
  comparison, never *proven*;
* a check: `ReadingJudge`; what cannot be read is ERROR, never FAIL and never PASS;
* a requirement of a stage: `StageJudge` or one of the last two, over the whole stage.

Beside a fixed limit that rolls `new` back sits an `Attribution`: when stable is over the same limit too, the FAIL is
*shared*, unless `new` is worse than stable.

A record without any bad response does not say "never": it is taken as one bad of its n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
    Sight,
    Verdict,
    allowed,
    beyond,
    breached,
)
from proxy.rollout.evidence import ShareEvidence, alarm_at
from proxy.rollout.plan import CHECK, EVIDENCE, HOLD, READING, STAGE, WINDOW, Limit, Plan, ServicePlan
from proxy.rollout.ratio import Attribution, RatioEvidence
from proxy.routing.table import FULL, NEW, STABLE

# One block is charged to `for` at a time, and a late one as at most so many.
LATE_BLOCKS = 2
# A latency is compared with stable's percentile over so long, of at least so many.
TRAILING_S = 600.0
LEAST_SAMPLES = 1000
# Percentiles are looked at so often: histograms are kept by the second.
PERCENTILE_S = 1.0
# So many readings in a row that gave nothing pause a rollout.
UNREADABLE = 3
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
    bets = sum(stage.hold_s / plan.block_s * (always + betting(stage.limits)) for stage in rollout.stages)
    return alarm_at(plan.false_alarms, bets, 1)


def judge_for(court: Court, limit: Limit) -> Judge:
    """Return the judge of `limit`."""
    if limit.source == CHECK:
        return ReadingJudge(limit, court)
    if limit.max_ratio is not None:
        return PercentileJudge(limit, court) if limit.quantile is not None else RatioJudge(limit, court)
    if limit.judge == STAGE:
        return StageJudge(limit, court)
    return WindowJudge(limit, court) if limit.judge == WINDOW else EvidenceJudge(limit, court)


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
    """Whose fault it is when a fixed limit on `new` fails; nobody's but its own where nothing would be rolled back."""

    __slots__ = ("_attribution", "_counter")

    def __init__(self, limit: Limit, counter: Counter, level: float) -> None:
        self._counter = counter
        asked = limit.version == NEW and limit.acts
        self._attribution = Attribution(allowed(limit), level) if asked else None

    def look(self, stable: Judged, new: Judged) -> None:
        """Take in one block of both versions."""
        if self._attribution is not None:
            self._attribution.look(*self._counter.bad(new), *self._counter.bad(stable))

    def shared(self, *, stable_over: bool = False) -> bool:
        """Tell whether a failure is stable's too; `stable_over`: something else says that it is over the limit."""
        found = self._attribution
        return found is not None and (found.stable_over or stable_over) and not found.new_worse


class EvidenceJudge:
    """Judges a fixed limit by evidence, block after block."""

    name = EVIDENCE

    __slots__ = ("_began", "_blame", "_blocks", "_counter", "_evidence", "_first", "limit")

    def __init__(self, limit: Limit, court: Court) -> None:
        self.limit = limit
        self._began = court.began
        self._counter = Counter(limit, court.columns)
        self._blocks = _Blocks(court)
        self._evidence = ShareEvidence(allowed(limit), court.alarm_at, min_requests=limit.min_requests)
        self._blame = _Blame(limit, self._counter, court.alarm_at)
        self._first: int | None = None

    def look(self, sight: Sight, now: float, block: int) -> Verdict:
        """Return the verdict at `now`."""
        limit = self.limit
        if not self._counter.readable:
            return Verdict(ERROR, limit, self.name, blocks=(block, block), detail=NOT_COUNTED)
        both = self._blocks.next(sight, now)
        self._evidence.look(*self._counter.bad(both[limit.version]))
        self._blame.look(*both)
        self._first = block if self._first is None else self._first
        found = self._evidence.finding()
        word = INCONCLUSIVE
        if found.alarm:
            word = FAIL
        elif found.enough and found.within:
            word = PASS
        return Verdict(
            word,
            limit,
            self.name,
            n=found.n,
            count=found.n - found.bad if limit.min is not None else found.bad,
            seconds=now - self._began,
            blocks=(max(self._first, block - found.span.blocks + 1) if word == FAIL else self._first, block),
            due=word == FAIL and now - self._began >= limit.after_s,
            needed=found.needed,
            proven=word == PASS and found.proven,
            needed_to_prove=found.needed_to_prove,
            shared=word == FAIL and self._blame.shared(),
            detail={
                "interval": [round(found.low, 6), round(found.high, 6)],
                "evidence": round(found.evidence, 2) if found.n else None,
                "alarm_at": round(found.alarm_at, 2),
                "since_breach": {"blocks": found.span.blocks, "n": found.span.n, "bad": found.span.bad},
            },
        )


class WindowJudge:
    """Judges the measured value over a sliding window."""

    name = WINDOW

    __slots__ = ("_began", "_blame", "_block_s", "_blocks", "_counter", "_held_s", "_last", "limit")

    def __init__(self, limit: Limit, court: Court) -> None:
        self.limit = limit
        self._counter = Counter(limit, court.columns)
        self._block_s = court.plan.block_s
        self._blocks = _Blocks(court)
        self._blame = _Blame(limit, self._counter, court.alarm_at)
        self._began = court.began
        self._held_s: float | None = None  # `None`: not in breach
        self._last = court.began

    def look(self, sight: Sight, now: float, block: int) -> Verdict:
        """Return the verdict at `now`."""
        limit = self.limit
        if not self._counter.readable:
            return Verdict(ERROR, limit, self.name, blocks=(block, block), detail=NOT_COUNTED)
        self._blame.look(*self._blocks.next(sight, now))
        judged, seconds = sight.over(limit.version, self._seconds(now))
        counted = self._counter(judged)
        enough = counted.n >= max(1, limit.min_requests)
        wrong = enough and breached(limit, counted)
        if wrong:
            late = min(now - self._last, LATE_BLOCKS * self._block_s)
            self._held_s = 0.0 if self._held_s is None else self._held_s + late
        elif enough:
            self._held_s = None
        self._last = now
        fails = wrong and self._held_s is not None and self._held_s >= limit.for_s
        return Verdict(
            FAIL if fails else INCONCLUSIVE if wrong or not enough else PASS,
            limit,
            self.name,
            n=counted.n,
            count=counted.count,
            seconds=seconds,
            blocks=(max(0, block - max(0, round(seconds / self._block_s) - 1)), block),
            held_s=self._held_s or 0.0,
            due=fails and now - self._began >= limit.after_s,
            needed=max(0, limit.min_requests - counted.n),
            shared=fails and self._blame.shared(stable_over=self._stable_over(sight, now)),
        )

    def _stable_over(self, sight: Sight, now: float) -> bool:
        if self.limit.version == STABLE:
            return False
        counted = self._counter(sight.over(STABLE, self._seconds(now))[0])
        return counted.n >= max(1, self.limit.min_requests) and breached(self.limit, counted)

    def _seconds(self, now: float) -> float:
        return min(self.limit.window_s or 0.0, now - self._began)


class StageJudge:
    """Judges a requirement over the whole stage; what came before its `after` is left out."""

    name = STAGE

    __slots__ = ("_began", "_counter", "_from", "_open", "limit")

    def __init__(self, limit: Limit, court: Court) -> None:
        self.limit = limit
        self._began = court.began + limit.after_s
        self._counter = Counter(limit, court.columns)
        self._open = _Blocks(replace(court, began=self._began))
        self._from: Judged | None = None

    def look(self, sight: Sight, now: float, block: int) -> Verdict:
        """Return the verdict at `now`."""
        limit = self.limit
        if not self._counter.readable:
            return Verdict(ERROR, limit, self.name, blocks=(block, block), detail=NOT_COUNTED)
        if now < self._began:
            return Verdict(INCONCLUSIVE, limit, self.name, blocks=(block, block), needed=limit.min_requests)
        part = self._open.next(sight, now)[limit.version]
        self._from = part if self._from is None else self._from + part
        counted = self._counter(self._from)
        return _by_share(self, counted, now - self._began, block)


class RatioJudge:
    """Judges how many times the bad of `new` there are compared with stable."""

    name = EVIDENCE

    __slots__ = ("_after_s", "_began", "_blocks", "_counter", "_full", "_level", "_recorded", "_worse", "limit")

    def __init__(self, limit: Limit, court: Court) -> None:
        self.limit = limit
        self._began = court.began
        self._level = court.alarm_at
        self._counter = Counter(limit, court.columns)
        self._blocks = _Blocks(court)
        self._full = court.weight_bp == FULL
        self._worse = RatioEvidence(
            limit.max_ratio or 1.0, limit.floor, court.alarm_at, min_requests=limit.min_requests
        )
        self._recorded: ShareEvidence | None = None

    def look(self, sight: Sight, now: float, block: int) -> Verdict:
        """Return the verdict at `now`."""
        limit = self.limit
        if not self._counter.readable:
            return Verdict(ERROR, limit, self.name, blocks=(block, block), detail=NOT_COUNTED)
        stable, new = self._blocks.next(sight, now)
        if self._full:
            return self._by_record(sight, new, now, block)
        self._worse.look(*self._counter.bad(new), *self._counter.bad(stable))
        found = self._worse.finding()
        word = FAIL if found.alarm else PASS if found.enough and found.within else INCONCLUSIVE
        counts = {"n": found.stable_n, "bad": found.stable_bad}
        measured = None if found.ratio is None else round(found.ratio, 4)
        if limit.action == HOLD:
            # A requirement asks for what was measured over the stage, not for an alarm.
            word = PASS if found.enough and found.within else FAIL if found.enough else INCONCLUSIVE
        return Verdict(
            word,
            limit,
            STAGE if limit.action == HOLD else self.name,
            n=found.n,
            count=found.bad,
            seconds=now - self._began,
            blocks=(block, block),
            due=word == FAIL and now - self._began >= limit.after_s,
            needed=found.needed,
            proven=word == PASS and found.proven,
            needed_to_prove=found.needed_to_prove,
            measured=measured,
            detail={
                "stable": counts,
                "evidence": round(found.evidence, 2) if found.n else None,
                "alarm_at": round(found.alarm_at, 2),
            },
        )

    def _by_record(self, sight: Sight, new: Judged, now: float, block: int) -> Verdict:
        limit = self.limit
        row = sight.record.get(limit.metric)
        name = STAGE if limit.action == HOLD else self.name
        if not row or not row.get("n"):
            return Verdict(INCONCLUSIVE, limit, name, blocks=(block, block), detail=NO_RECORD)
        usual = max(row["count"], 1.0) / row["n"]
        most = min(1.0, max(limit.floor, (limit.max_ratio or 1.0) * usual))
        if self._recorded is None:
            self._recorded = ShareEvidence(most, self._level, min_requests=limit.min_requests)
        self._recorded.look(*self._counter.bad(new))
        found = self._recorded.finding()
        word = FAIL if found.alarm else PASS if found.enough and found.within else INCONCLUSIVE
        if limit.action == HOLD and found.enough:
            word = PASS if found.within else FAIL
        return Verdict(
            word,
            limit,
            name,
            n=found.n,
            count=found.bad,
            seconds=now - self._began,
            blocks=(block, block),
            due=word == FAIL and now - self._began >= limit.after_s,
            needed=found.needed,
            proven=word == PASS and found.proven,
            needed_to_prove=found.needed_to_prove,
            measured=None if found.share is None else round(found.share / usual, 4),
            detail={
                "record": {"stage": sight.record_of, **row},
                "evidence": round(found.evidence, 2) if found.n else None,
                "alarm_at": round(found.alarm_at, 2),
            },
        )


class PercentileJudge:
    """Judges a percentile of `new` by that of stable."""

    __slots__ = ("_began", "_full", "_held_s", "_last", "_verdict", "limit", "name")

    def __init__(self, limit: Limit, court: Court) -> None:
        self.limit = limit
        self.name = STAGE if limit.action == HOLD else WINDOW
        self._began = court.began
        self._full = court.weight_bp == FULL
        self._held_s: float | None = None
        self._last = court.began
        self._verdict: Verdict | None = None

    def look(self, sight: Sight, now: float, block: int) -> Verdict:
        """Return the verdict at `now`; a fresh one once per second."""
        if self._verdict is not None and now - self._last < PERCENTILE_S:
            return self._verdict
        passed, self._last = now - self._last, now
        limit = self.limit
        quantile = limit.quantile or 0.5
        seconds = None
        if limit.action != HOLD:
            seconds = min(limit.window_s or TRAILING_S, now - self._began)
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
            if wrong:
                self._held_s = 0.0 if self._held_s is None else self._held_s + min(passed, LATE_BLOCKS * PERCENTILE_S)
            elif enough:
                self._held_s = None
            fails = wrong and self._held_s is not None and self._held_s >= limit.for_s
            word = FAIL if fails else PASS if enough and not wrong else INCONCLUSIVE
        age = now - self._began
        self._verdict = Verdict(
            word,
            limit,
            self.name,
            n=n,
            seconds=age if seconds is None else seconds,
            blocks=(block, block),
            held_s=self._held_s or 0.0,
            due=word == FAIL and age >= limit.after_s,
            needed=max(0, limit.min_requests - n),
            measured=None if ratio is None else round(ratio, 4),
            detail={"value_ms": value_ms, **detail},
        )
        return self._verdict

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


class ReadingJudge:
    """Judges the number that a check reads."""

    name = READING

    __slots__ = ("_began", "_held_s", "_last", "_seen", "_unreadable", "limit")

    def __init__(self, limit: Limit, court: Court) -> None:
        self.limit = limit
        self._began = court.began
        self._held_s: float | None = None
        self._last = court.began
        self._seen = 0
        self._unreadable = 0

    def look(self, sight: Sight, now: float, block: int) -> Verdict:
        """Return the verdict at `now`."""
        limit, at = self.limit, (block, block)
        reading = sight.readings.get(limit.metric)
        passed, self._last = now - self._last, now
        if reading is None or not reading.number:
            return Verdict(INCONCLUSIVE, limit, self.name, blocks=at, detail={"why": "not read yet"})
        fresh = reading.number - self._seen if self._seen else 1
        self._seen = reading.number
        if reading.value is None:
            self._unreadable += max(0, fresh)
            detail = {"why": reading.error, "unreadable": self._unreadable}
            return Verdict(ERROR, limit, self.name, blocks=at, unreadable=self._unreadable, detail=detail)
        self._unreadable = 0
        wrong = beyond(limit, reading.value)
        self._held_s = None if not wrong else 0.0 if self._held_s is None else self._held_s + passed
        fails = self._held_s is not None and self._held_s >= limit.for_s
        return Verdict(
            FAIL if fails else INCONCLUSIVE if wrong else PASS,
            limit,
            self.name,
            n=1,
            blocks=at,
            held_s=self._held_s or 0.0,
            due=fails and now - self._began >= limit.after_s,
            proven=not wrong,
            measured=reading.value,
        )


NOT_COUNTED: Mapping[str, object] = {"why": "the workers do not count it"}
NO_RECORD: Mapping[str, object] = {"why": "stable has no traffic here and no record from a stage below 100 %"}


def _by_share(judge: StageJudge, counted: Count, seconds: float, block: int) -> Verdict:
    limit = judge.limit
    enough = counted.n >= max(1, limit.min_requests)
    word = INCONCLUSIVE if not enough else FAIL if breached(limit, counted) else PASS
    return Verdict(
        word,
        limit,
        judge.name,
        n=counted.n,
        count=counted.count,
        seconds=seconds,
        blocks=(block, block),
        due=False,
        needed=max(0, limit.min_requests - counted.n),
    )


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1000
