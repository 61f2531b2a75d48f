"""What the counts say of a limit: PASS, FAIL, INCONCLUSIVE or ERROR, with the evidence for it.

Nouns: a *judge* looks at one limit, block after block (`proxy.rollout.judges`); a *sight* is all that it can look at;
a *verdict* is its answer, which carries value, limit, n, window and block range to whoever shows or acts on it.

Rules (INTERFACE §1.1):

* decisions use exact counts: p99 > L is the same as "more than 1 % slower than L", and those that hang count as
  slower as soon as they have passed L. Shares are compared as fractions, without rounding;
* fewer than `min_requests` is INCONCLUSIVE, which is neither good nor bad;
* over the limit, but not yet for `for` or without enough evidence, is INCONCLUSIVE too; FAIL is a breach; PASS is
  enough requests within;
* what cannot be read (a latency that workers do not count yet, a check without an answer) is ERROR;
* until the version has been judged for `after`, a FAIL is shown and not `due`;
* a FAIL of `new` that is stable's fault as well is `shared`: the ramp freezes, nobody is rolled back for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

from proxy.metrics.snapshot import Columns, Judged
from proxy.rollout.plan import CHECK, COUNTED, SIGNAL, Limit
from proxy.rollout.state import Record
from proxy.routing.table import STABLE, VERSIONS

PASS = "PASS"  # noqa: S105  # a verdict
FAIL = "FAIL"
INCONCLUSIVE = "INCONCLUSIVE"
ERROR = "ERROR"
VERDICTS = (PASS, FAIL, INCONCLUSIVE, ERROR)


@dataclass(slots=True)
class Count:
    """How a limit counts: `count` of `n`; for a minimum `count` are the good ones, for a maximum the bad ones."""

    n: int
    count: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a check gave last: a number, or why there is none (`error`). `number` counts the readings from 1."""

    number: int
    value: float | None = None
    error: str = ""


class Histogram(Protocol):
    """Looks latencies up: `seconds` of the past (to 600), `None` = since the judging began."""

    def __call__(self, version: int, seconds: float | None, *, first_byte: bool) -> Mapping[int, int]:
        """Return sparse HDR counts."""


@dataclass(slots=True)
class Sight:
    """What judges can look at in a block.

    `totals`: of stable and new, since their incarnation began. `over(version, seconds)` gives what was counted over
    up to the last `seconds`, and how many seconds that really are. `readings`: of checks, by name. `record`: how
    stable measured in the stage `record_of`, while it still had traffic.
    """

    totals: tuple[Judged, Judged]
    over: Callable[[int, float], tuple[Judged, float]]
    histogram: Histogram
    readings: Mapping[str, Reading] = field(default_factory=dict)
    record: Record = field(default_factory=dict)
    record_of: str = ""
    _since: dict[int, tuple[Judged, Judged]] = field(default_factory=dict)

    def since(self, before: tuple[Judged, Judged]) -> tuple[Judged, Judged]:
        """Return what was counted since the totals of another sight; looked up once for all judges that ask for it."""
        found = self._since.get(id(before))
        if found is None:
            found = self._since[id(before)] = (self.totals[0] - before[0], self.totals[1] - before[1])
        return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found of `limit`. `due`: it is a FAIL that is to be acted on.

    `count` of `n` requests were bad, slower than the limit, or (for a minimum) good, over `seconds`, the blocks
    `blocks[0]` to `blocks[1]`. `held_s`: for how long the limit has been in breach without a break. `measured`: the
    value where it is no share of those (a reading, a percentile, a ratio). `needed`: so many more requests are
    needed for anything but INCONCLUSIVE; `needed_to_prove`: for `proven`, `None` if no number would do.
    `unreadable`: so many readings in a row gave nothing. `detail`: more numbers, for people and records.
    """

    word: str
    limit: Limit
    judge: str
    n: int = 0
    count: int = 0
    seconds: float = 0.0
    blocks: tuple[int, int] = (0, 0)
    held_s: float = 0.0
    due: bool = False
    needed: int = 0
    proven: bool = False
    needed_to_prove: int | None = None
    shared: bool = False
    measured: float | None = None
    unreadable: int = 0
    detail: Mapping[str, object] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """The measured share 0…1, `None` without requests; of a latency limit: the share that was slower."""
        return min(1.0, self.count / self.n) if self.n else None


class Judge(Protocol):
    """One limit's judge; it is made anew when a stage begins or the weight comes above 0.

    What can follow from a block are plain attributes, as a `Verdict` has them: they are asked for in every block. The
    verdict itself, with all its numbers, is made for whoever shows or records it.
    """

    @property
    def limit(self) -> Limit:
        """What is judged."""

    @property
    def word(self) -> str:
        """The verdict in a word; INCONCLUSIVE before the first look."""

    @property
    def due(self) -> bool:
        """Whether it is a FAIL that is to be acted on."""

    @property
    def proven(self) -> bool:
        """Whether a PASS is proven."""

    @property
    def shared(self) -> bool:
        """Whether a FAIL is stable's fault as well."""

    @property
    def unreadable(self) -> int:
        """How many readings in a row gave nothing."""

    def look(self, sight: Sight, now: float, block: int) -> None:
        """Take in block number `block`, which ends at `now` (s)."""

    def verdict(self) -> Verdict:
        """Return the verdict as of the last look."""


class Counter:
    """Counts what one limit is about; `None` of it is counted when the workers do not know its latency or signal."""

    __slots__ = ("_first", "_good", "_latency", "_limit", "_plain", "_signal", "readable")

    def __init__(self, limit: Limit, columns: Columns) -> None:
        self._limit = limit
        self._first = limit.first_byte
        self._good = limit.min is not None  # what the limit counts speaks for the version
        self._plain = limit.source == COUNTED and limit.metric == "error_rate" and not self._good
        self._latency: int | None = None
        self._signal: int | None = None
        self.readable = True
        if limit.threshold_us is not None:
            edges = columns.ttfb_thresholds_us if self._first else columns.thresholds_us
            self.readable = limit.threshold_us in edges
            self._latency = edges.index(limit.threshold_us) if self.readable else None
        elif limit.source == SIGNAL:
            names = [signal.name for signal in columns.signals]
            self.readable = limit.metric in names
            self._signal = names.index(limit.metric) if self.readable else None

    def __call__(self, judged: Judged) -> Count:
        """Return what the limit counts in `judged`."""
        limit = self._limit
        if self._latency is not None:
            return Count(*self._slower(judged, self._latency))
        if self._signal is not None:
            # What matches is what the metric is the share of: good for a minimum, bad for a maximum.
            return Count(*judged.signals[self._signal])
        if limit.metric == "client_error_rate":
            return Count(judged.ended, judged.client_errors)
        if limit.metric == "availability":
            good = max(0, judged.requests - judged.bad)
            return Count(judged.requests, good if limit.min is not None else judged.requests - good)
        bad = min(judged.bad, judged.requests) if limit.min is not None else judged.bad
        return Count(judged.requests, bad)

    def bad(self, judged: Judged) -> tuple[int, int]:
        """Return (n, those of them that speak against the version)."""
        # These two are asked for in every block.
        if self._plain:
            return judged.ended + judged.diverted, judged.bad
        if self._latency is not None:
            return self._slower(judged, self._latency)
        found = self(judged)
        return found.n, found.n - found.count if self._good else found.count

    def _slower(self, judged: Judged, at: int) -> tuple[int, int]:
        slow = judged.ttfb_slow[at] if self._first else judged.slow[at]
        return slow + (judged.ttfb_fast[at] if self._first else judged.fast[at]), slow


def allowed(limit: Limit) -> float:
    """Return the greatest share of the bad that a fixed limit on a share or a latency allows."""
    if limit.quantile is not None:
        return float(1 - exact(limit.quantile))
    return float(1 - exact(limit.min)) if limit.min is not None else float(limit.max or 0.0)


def breached(limit: Limit, counted: Count) -> bool:
    """Tell whether the measured share is on the wrong side of the limit, exactly."""
    # In integers: a product of fractions takes ten times as long, and this is asked in every block.
    if limit.quantile is not None:
        good, of = exact(limit.quantile).as_integer_ratio()
        return counted.count * of > (of - good) * counted.n
    if limit.min is not None:
        least, of = exact(limit.min).as_integer_ratio()
        return counted.count * of < least * counted.n
    if limit.max is None:
        return False
    most, of = exact(limit.max).as_integer_ratio()
    return counted.count * of > most * counted.n


def beyond(limit: Limit, number: float) -> bool:
    """Tell whether a number (of a check) is on the wrong side of the limit."""
    if limit.min is not None:
        return number < limit.min
    return limit.max is not None and number > limit.max


def reason_of(limit: Limit) -> str:
    """Return the reason of a move by this limit: P99AboveLimit, AvailabilityBelowLimit, StableErrorRateAboveLimit."""
    metric = "".join(part[:1].upper() + part[1:] for part in limit.metric.replace("-", "_").split("_"))
    version = "Stable" if limit.version == STABLE else ""
    if limit.max_ratio is not None:
        return f"{version}{metric}AboveStable"
    return f"{version}{metric}{'AboveLimit' if limit.min is None else 'BelowLimit'}"


def bound_of(limit: Limit) -> float | None:
    """Return the number that the value is compared with."""
    if limit.max_ratio is not None:
        return limit.max_ratio
    return limit.max if limit.min is None else limit.min


def unit_of(limit: Limit) -> str:
    """Return the unit of the value and of the limit: ratio | ms | times (as stable's) | number (of a check)."""
    if limit.max_ratio is not None:
        return "times"
    if limit.source == CHECK:
        return "number"
    return "ratio" if limit.quantile is None else "ms"


def evidence(verdict: Verdict, value_ms: float | None = None) -> dict[str, object]:
    """Return the numbers of a verdict for events, status, log and report.

    `value_ms` is the measured percentile of a latency limit, for people; the decision is `slower` of `n`.
    """
    limit = verdict.limit
    shown: dict[str, object] = {
        "metric": limit.metric,
        "version": VERSIONS[limit.version],
        "verdict": verdict.word,
        "value": value(verdict, value_ms),
        "limit": bound_of(limit),
        "unit": unit_of(limit),
        "n": verdict.n,
        "window_s": round(verdict.seconds, 3),
        "blocks": list(verdict.blocks),
        "judge": verdict.judge,
        "held_s": round(verdict.held_s, 3),
    }
    if limit.source == CHECK or limit.compares_percentiles:
        pass
    elif limit.quantile is None:
        shown["good" if limit.min is not None else "bad"] = verdict.count
    else:
        shown |= {
            "slower": verdict.count,
            "slower_share": verdict.share,
            "slower_allowed": float(1 - exact(limit.quantile)),
        }
    if at_least(verdict, value_ms):
        shown["at_least"] = True
    return {**shown, **verdict.detail}


def at_least(verdict: Verdict, value_ms: float | None = None) -> bool:
    """Tell whether a latency is above its limit by what is counted, and nobody has measured how far.

    So it is while requests hang: they count as slower, and no histogram has them.
    """
    limit = verdict.limit
    if limit.quantile is None or limit.max is None or limit.max_ratio is not None or not verdict.n:
        return False
    over = breached(limit, Count(verdict.n, verdict.count))
    return over and (value_ms is None or value_ms <= limit.max)


def value(verdict: Verdict, value_ms: float | None = None) -> float | None:
    """Return the measured value in the limit's unit, `None` if there is none.

    A percentile comes from a histogram, which is coarser than the exact counts and does not hold what still hangs:
    it is never shown on the side of the limit where the counts say it is not.
    """
    limit = verdict.limit
    if limit.source == CHECK or limit.max_ratio is not None:
        return verdict.measured
    if limit.quantile is None:
        return verdict.share
    if limit.max is None or not verdict.n:
        return None
    if breached(limit, Count(verdict.n, verdict.count)):
        return limit.max if value_ms is None else max(limit.max, value_ms)
    return None if value_ms is None else min(limit.max, value_ms)


@lru_cache(maxsize=1024)
def exact(share: float) -> Fraction:
    """Return the fraction that stood in the config: the shortest decimal that is this float (1 % is 1/100)."""
    return Fraction(repr(share))
