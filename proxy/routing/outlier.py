"""Which endpoints of a version are so much worse than their siblings that they get nothing for a while.

Nouns: an endpoint's *share* is the bad ones of the attempts that ended there within a window. It is an *outlier* when
its share is at least `bad`, and some sibling's is at most half of that. To *eject* it is to send it nothing for
`base_s`, twice as long with every time in a row, `max_s` at most; then it *returns*.

Rules:

* A share, not failures in a row: at 20 % errors, five in a row take about 3,900 responses.
* Half as bad elsewhere: what hits all endpoints alike (a database that all of them ask) ejects nobody, because nobody
  is better served by the rest.
* No data is neither good nor bad: an endpoint with fewer than `min_requests` in the window is no outlier, and no
  measure for others.
* At most half of those that could serve (rounded down) are out; so one alone never is, and when others cannot serve
  any more, ejected ones return early. The worst go first.
* An endpoint that has been back for as long as it was out begins anew with `base_s`.

Sources: Envoy's outlier detection (ejection time × number of ejections, largest share ejected); the doubling is that
of Finagle's and Linkerd's failure accrual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_SAMPLES = 20  # of a window


@dataclass(frozen=True, slots=True)
class Eject:
    """When an endpoint is ejected and for how long: `bad` is a share 0…1, the others seconds and a number."""

    bad: float = 0.2
    window_s: float = 10.0
    min_requests: int = 20
    base_s: float = 30.0
    max_s: float = 300.0


class Sight(NamedTuple):
    """What is seen of an endpoint: whether it could serve (ejected or not), and its totals."""

    url: str
    serves: bool
    ended: int
    bad: int


class Ejection(NamedTuple):
    """An endpoint that gets nothing until `until` (s): `bad` of `ended` within the window; the `times`-th in a row."""

    url: str
    bad: int
    ended: int
    began: float
    until: float
    times: int


class Return(NamedTuple):
    """An endpoint that gets requests again; `early`: because too few others could serve."""

    url: str
    early: bool


class _Known:
    """What is remembered of one endpoint."""

    __slots__ = ("bad", "ended", "out", "outlier_since", "returned", "samples", "totals", "was")

    def __init__(self) -> None:
        self.samples: deque[tuple[float, int, int]] = deque()  # (when, ended, bad), oldest first
        self.totals = (0, 0)
        self.ended = 0  # within the window
        self.bad = 0
        self.outlier_since: float | None = None
        self.out: Ejection | None = None
        self.was: Ejection | None = None  # the last ejection that is over
        self.returned = 0.0

    def look(self, sight: Sight, rule: Eject, now: float) -> None:
        samples = self.samples
        self.totals = (sight.ended, sight.bad)
        if not samples or now - samples[-1][0] >= rule.window_s / _SAMPLES:
            samples.append((now, sight.ended, sight.bad))
        while len(samples) > 1 and samples[1][0] <= now - rule.window_s:
            samples.popleft()
        _, ended, bad = samples[0]
        self.ended, self.bad = sight.ended - ended, min(sight.bad - bad, sight.ended - ended)

    def share(self, rule: Eject) -> float | None:
        return self.bad / self.ended if self.ended >= rule.min_requests else None


class Outliers:
    """Watches the endpoints of one version. `patience_s`: how long one must be an outlier until it is ejected."""

    __slots__ = ("_known", "_patience_s", "_rule")

    def __init__(self, rule: Eject, patience_s: float = 0.0) -> None:
        self._rule = rule
        self._patience_s = patience_s
        self._known: dict[str, _Known] = {}

    @property
    def rule(self) -> Eject:
        """When and for how long."""
        return self._rule

    @property
    def out(self) -> dict[str, Ejection]:
        """Who is ejected, by URL."""
        return {url: known.out for url, known in self._known.items() if known.out is not None}

    def look(self, sights: Sequence[Sight], now: float) -> list[Ejection | Return]:
        """Take note of the totals at `now` (s); return what changes. Endpoints that are gone are forgotten."""
        self._known = {sight.url: self._known.get(sight.url) or _Known() for sight in sights}
        for sight in sights:
            self._known[sight.url].look(sight, self._rule, now)
        serving = [sight.url for sight in sights if sight.serves]
        return [*self._returns(serving, now), *self._ejections(serving, now)]

    def _returns(self, serving: Sequence[str], now: float) -> list[Return]:
        due = [Return(url, early=False) for url, out in self.out.items() if out.until <= now]
        for one in due:
            self._bring_back(one.url, now)
        # Whoever has served its time longest comes first.
        left = sorted((out.began, url) for url, out in self.out.items() if url in serving)
        early = [Return(url, early=True) for _, url in left[: max(0, len(left) - len(serving) // 2)]]
        for one in early:
            self._bring_back(one.url, now)
        return [*due, *early]

    def _bring_back(self, url: str, now: float) -> None:
        known = self._known[url]
        known.was, known.out, known.returned = known.out, None, now
        known.samples = deque([(now, *known.totals)])  # what it did before has been answered for
        known.ended = known.bad = 0

    def _ejections(self, serving: Sequence[str], now: float) -> list[Ejection]:
        shares = {
            url: share
            for url in serving
            if self._known[url].out is None and (share := self._known[url].share(self._rule)) is not None
        }
        least = min(shares.values(), default=1.0)
        ripe: list[tuple[float, str]] = []
        for url, known in self._known.items():
            share = shares.get(url)
            if share is None or share < self._rule.bad or least > share / 2:
                known.outlier_since = None
                continue
            if known.outlier_since is None:
                known.outlier_since = now
            if now - known.outlier_since >= self._patience_s:
                ripe.append((-share, url))
        room = len(serving) // 2 - sum(self._known[url].out is not None for url in serving)
        return [self._eject(url, now) for _, url in sorted(ripe)[: max(0, room)]]

    def _eject(self, url: str, now: float) -> Ejection:
        known, rule = self._known[url], self._rule
        times, was = 1, known.was
        if was is not None and now - known.returned < was.until - was.began:
            times = was.times + 1
        seconds = min(rule.max_s, rule.base_s * 2.0 ** min(times - 1, 60))
        known.out = Ejection(url, known.bad, known.ended, now, now + seconds, times)
        known.outlier_since = None
        return known.out
