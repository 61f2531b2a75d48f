"""What a drill will meet: which limits see failures that are made up, and how soon the first of them acts.

A *drill* (`proxy.controlplane.drill`) adds requests that fail to what the judges see of `new`: counts of responses that
were bad, refused the client, and were slower than every limit. So a limit decides it only when it rolls back and
compares such counts with a number:

* what is read elsewhere (checks), what responses say of themselves (signals) and percentiles of histograms have nothing
  made up in them;
* a share relative to stable has a number over a window, and at 100 % by the record, as soon as enough is known of
  stable. Elsewhere it is judged by where the bad ones come from: of a block nearly all of which is made up it is no
  news that they come from `new`.

`FAILURES` are so many that the requests of users beside them hardly matter, in any window. So the time is arithmetic:
evidence needs its blocks, a window only its `for`, and both what is left of `after`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.metrics.snapshot import Judged
from proxy.rollout.analysis import Counter, Judge, allowed, reason_of
from proxy.rollout.betting import Detector
from proxy.rollout.event import Breach
from proxy.rollout.judges import Court, RatioWindowJudge, RecordJudge
from proxy.rollout.plan import CHECK, COUNTED, HOLD, ROLLBACK, WINDOW, Limit
from proxy.rollout.state import SHARED_FAULT
from proxy.routing.table import NEW

# Made up per tick; beside so many, this share of a block fails at least.
FAILURES = 1_000_000
FAILING = 0.99
# A good past may let a limit act after this part of the time that it needs at the latest, and so many blocks less.
HASTENED = 0.8
HASTENED_BLOCKS = 2
# A limit that has not acted after so many bets acts never.
MOST_BETS = 1000


@dataclass(frozen=True, slots=True)
class Prospect:
    """The limits that may act first, the soonest first, and after how many seconds; `blind`: why others cannot act."""

    limits: tuple[Limit, ...]
    seconds: float
    blind: tuple[str, ...]

    @property
    def limit(self) -> Limit | None:
        """The limit that acts first, `None` if none does."""
        return self.limits[0] if self.limits else None


def prospect(court: Court, judges: Sequence[Judge], now: float) -> Prospect:
    """Return what a drill that begins at `now` (s) will meet, by the judges in force."""
    acting: list[tuple[float, Limit]] = []
    blind: list[str] = []
    for judge in judges:
        limit = judge.limit
        if limit.version != NEW or limit.action == HOLD:
            continue
        most = judge.allowed if isinstance(judge, RecordJudge | RatioWindowJudge) else allowed(limit)
        why = _blind(court, judge) or ("has too little of stable to compare with" if most is None else "")
        seconds = None if why or most is None else _acts_after_s(court, limit, most, now)
        if seconds is None:
            blind.append(f"{limit.metric} {why or 'allows that all fail'}")
        else:
            acting.append((seconds, limit))
    acting.sort(key=lambda one: one[0])
    soonest = acting[0][0] if acting else 0.0
    slack_s = HASTENED_BLOCKS * court.plan.block_s
    first = [limit for seconds, limit in acting if HASTENED * seconds - slack_s <= soonest]
    return Prospect(tuple(first), soonest, tuple(blind))


def sees(limit: Limit) -> bool:
    """Tell whether what is made up is in what a limit is judged by."""
    return limit.version == NEW and limit.source == COUNTED and not limit.compares_percentiles


def made_up_by(breach: Breach, limits: Sequence[Limit]) -> bool:
    """Tell whether what is made up alone may have led to a breach; one that it cannot is real."""
    return breach.reason in {SHARED_FAULT, *(reason_of(limit) for limit in limits if sees(limit))}


def made_up(requests: int, like: Judged) -> Judged:
    """Return so many requests that failed in every way, with the thresholds and signals of `like`."""
    return Judged(
        ended=requests,
        bad=requests,
        client_errors=requests,
        slow=(requests,) * len(like.slow),
        fast=(0,) * len(like.fast),
        ttfb_slow=(requests,) * len(like.ttfb_slow),
        ttfb_fast=(0,) * len(like.ttfb_fast),
        signals=((0, 0),) * len(like.signals),
    )


def _blind(court: Court, judge: Judge) -> str:
    """Return why made-up failures do not let a limit act, "" if they may."""
    limit = judge.limit
    if not limit.acts or limit.action != ROLLBACK:
        return "is a dry run" if limit.dry_run else f"has action {limit.action}"
    if limit.source != COUNTED:
        return "is a check, which is read elsewhere" if limit.source == CHECK else "is what responses say in a header"
    if limit.max_ratio is not None and not isinstance(judge, RecordJudge | RatioWindowJudge):
        return "is relative to stable"
    return "" if Counter(limit, court.columns).readable else "is not counted by the workers"


def _acts_after_s(court: Court, limit: Limit, most: float, now: float) -> float | None:
    """Return after how many seconds of failures a limit acts at the latest, `None` if `most` (a share) allows them."""
    block_s = court.plan.block_s
    if limit.judge == WINDOW:
        # The block in which it begins, and one more because they lie on a grid.
        takes_s = limit.for_s + 2 * block_s if most < FAILING else None
    else:
        bets = Detector(court.alarm_at).bets(FAILING, most, MOST_BETS)
        takes_s = None if bets is None else (bets + 1) * block_s
    return None if takes_s is None else max(takes_s, court.began + limit.after_s - now)
