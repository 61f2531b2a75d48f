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

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Totals: TypeAlias = tuple[int, int]  # attempts that ended, and the bad ones of them

_SAMPLES = 20  # of a window


@dataclass(frozen=True, slots=True)
class Eject:
    """When an endpoint is ejected and for how long: `bad` is a share 0…1, the others seconds and a number."""

    bad: float = 0.2
    window_s: float = 10.0
    min_requests: int = 20
    base_s: float = 30.0
    max_s: float = 300.0


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

    __slots__ = ("bad", "ended", "out", "outlier_since", "returned", "returned_with", "was")

    def __init__(self) -> None:
        self.ended = 0  # within the window
        self.bad = 0
        self.outlier_since: float | None = None
        self.out: Ejection | None = None
        self.was: Ejection | None = None  # the last ejection that is over
        self.returned = -math.inf
        self.returned_with: Totals = (0, 0)

    def measure(self, totals: Totals, before: Totals) -> None:
        ended, bad = before
        self.ended = totals[0] - ended
        self.bad = min(totals[1] - bad, self.ended)


class Outliers:
    """Watches the endpoints of one version. `patience_s`: how long one must be an outlier until it is ejected.

    Cost of a look while too few requests fail to matter: 3 µs with 4 endpoints.
    """

    __slots__ = ("_known", "_least_bad", "_patience_s", "_quiet", "_rule", "_samples")

    def __init__(self, rule: Eject, patience_s: float = 0.0) -> None:
        self._rule = rule
        self._patience_s = patience_s
        self._known: dict[str, _Known] = {}
        self._samples: deque[tuple[float, Mapping[str, Totals], int]] = deque()  # (when, totals, all bad)
        self._least_bad = rule.bad * rule.min_requests  # fewer bad ones make no outlier
        self._quiet = True  # nobody is out, or an outlier

    @property
    def rule(self) -> Eject:
        """When and for how long."""
        return self._rule

    @property
    def out(self) -> dict[str, Ejection]:
        """Who is ejected, by URL."""
        if self._quiet:
            return {}
        return {url: known.out for url, known in self._known.items() if known.out is not None}

    def look(self, totals: Mapping[str, Totals], serves: Callable[[str], bool], now: float) -> list[Ejection | Return]:
        """Take note of the totals at `now` (s), by URL; return what changes.

        `serves` tells whether an endpoint could serve, ejected or not. Endpoints that are gone are forgotten.
        """
        bad = sum([one for _, one in totals.values()])
        before = self._window(totals, bad, now)
        if self._quiet and bad - before[2] < self._least_bad:
            return []
        for url, known in self._known.items():
            # What it did before it returned has been answered for.
            known.measure(totals[url], known.returned_with if known.returned > before[0] else before[1][url])
        serving = [url for url in totals if serves(url)]
        changes: list[Ejection | Return] = [*self._returns(totals, serving, now)]
        changes += self._ejections(serving, now)
        self._quiet = all(known.out is None and known.outlier_since is None for known in self._known.values())
        return changes

    def _window(self, totals: Mapping[str, Totals], bad: int, now: float) -> tuple[float, Mapping[str, Totals], int]:
        """Keep a sample, and return the one that the window begins with. Other endpoints begin another window."""
        samples = self._samples
        if self._known.keys() != totals.keys():
            self._known = {url: self._known.get(url) or _Known() for url in totals}
            samples.clear()
        if not samples or now - samples[-1][0] >= self._rule.window_s / _SAMPLES:
            samples.append((now, totals, bad))
        while len(samples) > 1 and samples[1][0] <= now - self._rule.window_s:
            samples.popleft()
        return samples[0]

    def _returns(self, totals: Mapping[str, Totals], serving: Sequence[str], now: float) -> list[Return]:
        out = {url: known.out for url, known in self._known.items() if known.out is not None}
        returns = [Return(url, early=False) for url, one in out.items() if one.until <= now]
        due = {one.url for one in returns}
        # Whoever has been out longest comes first.
        left = sorted((out[url].began, url) for url in serving if url in out and url not in due)
        returns += [Return(url, early=True) for _, url in left[: max(0, len(left) - len(serving) // 2)]]
        for one in returns:
            known = self._known[one.url]
            known.was, known.out = known.out, None
            known.returned, known.returned_with = now, totals[one.url]
            known.ended = known.bad = 0
        return returns

    def _ejections(self, serving: Sequence[str], now: float) -> list[Ejection]:
        rule = self._rule
        shares = {
            url: known.bad / known.ended
            for url in serving
            if (known := self._known[url]).out is None and known.ended >= rule.min_requests
        }
        least = min(shares.values(), default=1.0)
        ripe: list[tuple[float, str]] = []
        for url, known in self._known.items():
            share = shares.get(url)
            if share is None or share < rule.bad or least > share / 2:
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
