"""Passive ejection: sends nothing to endpoints at which requests fail much more often than at their siblings.

Who is out, and for how long, is decided by `proxy.routing.outlier`, from the same counters that are judged. What failed
there stays charged to the version. And a `new` is judged first: its endpoint is ejected only after it has been an
outlier for a whole window, in which the judge has seen dozens of blocks of it; else an ejection within one block would
take the evidence away before there is enough of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from proxy.controlplane.health import Key
from proxy.metrics.snapshot import ServiceCounts
from proxy.rollout.plan import ServicePlan
from proxy.routing.outlier import Eject, Ejection, Outliers, Return
from proxy.routing.table import NEW, STABLE


class Ejections:
    """Who is ejected in all services: `out`, by endpoint. `totals`: how often so far, by (service, version)."""

    def __init__(self) -> None:
        self._rules: dict[str, Eject] = {}
        self._watched: dict[tuple[str, int], Outliers] = {}
        self.out: dict[Key, Ejection] = {}
        self.totals: dict[tuple[str, int], int] = {}

    def follow(self, plans: Iterable[ServicePlan]) -> None:
        """Watch these services from now on; one whose rule changed begins anew."""
        self._rules = {plan.name: plan.eject for plan in plans if plan.eject is not None}
        self._watched = {
            key: outliers for key, outliers in self._watched.items() if self._rules.get(key[0]) == outliers.rule
        }
        self._take_stock()

    def look(
        self, services: Mapping[str, ServiceCounts], serves: Callable[[str, int, str], bool], now: float
    ) -> list[tuple[Key, Ejection | Return]]:
        """Take note of what was counted up to `now` (s); return what changes.

        `serves(service, version, url)` tells whether an endpoint could serve if it was not ejected.
        """
        changes: list[tuple[Key, Ejection | Return]] = []
        for name, rule in self._rules.items():
            if name not in services:
                continue  # workers refuse the table, and the one before is on its way back
            for version in (STABLE, NEW):
                endpoints = services[name].versions[version].endpoints
                if len(endpoints) < 2:
                    self._watched.pop((name, version), None)
                    continue
                outliers = self._watched.get((name, version))
                if outliers is None:
                    outliers = Outliers(rule, rule.window_s if version == NEW else 0.0)
                    self._watched[name, version] = outliers
                totals = {one.url: (one.ended, one.bad) for one in endpoints}
                for change in outliers.look(totals, partial(serves, name, version), now):
                    changes.append(((name, version, change.url), change))
                    if isinstance(change, Ejection):
                        self.totals[name, version] = self.totals.get((name, version), 0) + 1
        self._take_stock()
        return changes

    def _take_stock(self) -> None:
        self.out = {
            (name, version, url): ejection
            for (name, version), outliers in self._watched.items()
            for url, ejection in outliers.out.items()
        }
