"""What the counts say of a limit: PASS, FAIL, INCONCLUSIVE or ERROR, with the evidence for it.

Nouns: a *judge* looks at one limit, block after block; a *span* is what was counted over some seconds; a *verdict*
is its answer, which carries value, limit, n, window and block range to whoever shows or acts on it.

Rules (INTERFACE §1.1):

* decisions use exact counts: p99 > L is the same as "more than 1 % slower than L", and those that hang count as
  slower as soon as they have passed L. Shares are compared as fractions, without rounding;
* fewer than `min_requests` is INCONCLUSIVE, which is neither good nor bad: it neither continues nor breaks `for`;
* over the limit, but not yet for `for`, is INCONCLUSIVE too; FAIL is a breach; PASS is enough requests within;
* a window never reaches back behind the instant from which the version is judged (the weight came above 0):
  what was before is not what is tried now;
* a latency that the workers do not count (yet) cannot be judged: ERROR, neither good nor bad;
* until the weight has been above 0 for `after`, a FAIL is shown and not `due`.

`judge_for` is the seam: today every limit is judged by the measured value over a window; limits without `window`
will be judged by evidence there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from proxy.metrics.snapshot import Judged
from proxy.rollout.plan import Limit, ServicePlan
from proxy.routing.table import VERSIONS

PASS = "PASS"  # noqa: S105  # a verdict
FAIL = "FAIL"
INCONCLUSIVE = "INCONCLUSIVE"
ERROR = "ERROR"
VERDICTS = (PASS, FAIL, INCONCLUSIVE, ERROR)

# One block is charged to `for` at a time, and a late one as at most so many.
LATE_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Count:
    """How a limit counts: `count` of `n`; for a minimum `count` are the good ones, for a maximum the bad ones."""

    n: int
    count: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found of `limit`. `due`: it is a FAIL that is to be acted on.

    `count` of `n` requests were bad, slower than the limit, or (for a minimum) good, over `seconds`, the blocks
    `blocks[0]` to `blocks[1]`. `held_s`: for how long the limit has been in breach without a break.
    `needed`: so many more requests are needed for anything but INCONCLUSIVE.
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

    @property
    def share(self) -> float | None:
        """The measured share 0…1, `None` without requests; of a latency limit: the share that was slower."""
        return min(1.0, self.count / self.n) if self.n else None


class Judge(Protocol):
    """One limit's judge; it is made anew when the weight comes above 0."""

    name: str
    limit: Limit

    def look(self, over: Callable[[float], tuple[Judged, float]], now: float, block: int) -> Verdict:
        """Return the verdict at `now` (s), the end of block number `block`.

        `over(seconds)` gives what was counted over up to the last `seconds`, and how many seconds that really are.
        """


def judge_for(plan: ServicePlan, limit: Limit, thresholds_us: tuple[int, ...], began: float) -> Judge:
    """Return the judge of `limit`, which judges what is counted after the instant `began` (s)."""
    return WindowJudge(limit, thresholds_us, plan.block_s, began)


def count(limit: Limit, threshold: int | None, judged: Judged) -> Count:
    """Return what `limit` counts in `judged`; `threshold` is the index of its latency."""
    if threshold is not None:
        return Count(judged.slow[threshold] + judged.fast[threshold], judged.slow[threshold])
    if limit.metric == "client_error_rate":
        return Count(judged.ended, judged.client_errors)
    if limit.min is not None:
        return Count(judged.requests, max(0, judged.requests - judged.bad))
    return Count(judged.requests, judged.bad)


def breached(limit: Limit, counted: Count) -> bool:
    """Tell whether the measured share is on the wrong side of the limit, exactly."""
    if limit.quantile is not None:
        return counted.count > (1 - _exact(limit.quantile)) * counted.n
    if limit.min is not None:
        return counted.count < _exact(limit.min) * counted.n
    return limit.max is not None and counted.count > _exact(limit.max) * counted.n


def reason_of(limit: Limit) -> str:
    """Return the reason of a rollback by this limit: P99AboveLimit, AvailabilityBelowLimit."""
    metric = "".join(part.capitalize() for part in limit.metric.split("_"))
    return f"{metric}{'AboveLimit' if limit.min is None else 'BelowLimit'}"


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
        "limit": limit.max if limit.min is None else limit.min,
        "unit": "ratio" if limit.quantile is None else "ms",
        "n": verdict.n,
        "window_s": round(verdict.seconds, 3),
        "blocks": list(verdict.blocks),
        "judge": verdict.judge,
        "held_s": round(verdict.held_s, 3),
    }
    if limit.quantile is None:
        shown["good" if limit.min is not None else "bad"] = verdict.count
    else:
        shown |= {
            "slower": verdict.count,
            "slower_share": verdict.share,
            "slower_allowed": float(1 - _exact(limit.quantile)),
        }
    return shown


def value(verdict: Verdict, value_ms: float | None = None) -> float | None:
    """Return the measured value in the limit's unit, `None` if there is none.

    A percentile comes from a histogram, which is coarser than the exact counts and does not hold what still hangs:
    it is never shown on the side of the limit where the counts say it is not.
    """
    limit = verdict.limit
    if limit.quantile is None:
        return verdict.share
    if limit.max is None or not verdict.n:
        return None
    if breached(limit, Count(verdict.n, verdict.count)):
        return limit.max if value_ms is None else max(limit.max, value_ms)
    return None if value_ms is None else min(limit.max, value_ms)


class WindowJudge:
    """Judges the measured value over a sliding window."""

    name = "window"

    __slots__ = ("_began", "_block_s", "_held_s", "_last", "_readable", "_threshold", "limit")

    def __init__(self, limit: Limit, thresholds_us: tuple[int, ...], block_s: float, began: float) -> None:
        self.limit = limit
        self._readable = limit.threshold_us is None or limit.threshold_us in thresholds_us
        self._threshold = (
            thresholds_us.index(limit.threshold_us) if limit.threshold_us is not None and self._readable else None
        )
        self._block_s = block_s
        self._began = began
        self._held_s: float | None = None  # `None`: not in breach
        self._last = began

    def look(self, over: Callable[[float], tuple[Judged, float]], now: float, block: int) -> Verdict:
        """Return the verdict at `now`."""
        limit = self.limit
        if not self._readable:
            return Verdict(ERROR, limit, self.name, blocks=(block, block))
        judged, seconds = over(min(limit.window_s, now - self._began))
        counted = count(limit, self._threshold, judged)
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
        )


def _exact(share: float) -> Fraction:
    # The shortest decimal that is this float is what stood in the config: 1 % is 1/100, not 0.01000000000000000021.
    return Fraction(repr(share))
