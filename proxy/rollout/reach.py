"""Whether a version can be reached at all, from what connecting to its endpoints gave.

Without active checks the only evidence is what requests met: a connection that failed, or one that came about and
what was answered on it. An endpoint is *failing* when the last that was seen of it is failed connections only; a
version is *unreachable* when that holds for all its endpoints (those that take no traffic now count as failing) while
requests for it keep failing or being diverted.

Rules: silence proves nothing, so that time without failures does not count; a few failures are no evidence
(`LEAST_FAILURES`); evidence about `stable` that is older than `FRESH_S` is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.metrics.snapshot import EndpointCounts

UNREACHABLE_S = 10.0  # so long until a version that cannot be reached is rolled back
FRESH_S = 10.0
LEAST_FAILURES = 3
READY = "ready"  # the endpoint state that takes traffic


class _Contact:
    """What is known of one endpoint."""

    __slots__ = ("failed", "failed_at", "failures", "good")

    def __init__(self, counts: EndpointCounts) -> None:
        self.failed = counts.connect_failed
        self.good = _good(counts)
        self.failures = 0  # failed connections since the last success
        self.failed_at = 0.0


class Reach:
    """Watches the endpoints of one version."""

    __slots__ = ("_began", "_contacts", "_diverted", "_failed_at", "_failures", "_ready")

    def __init__(self) -> None:
        self._contacts: dict[str, _Contact] = {}
        self._ready: list[_Contact] = []  # of the endpoints that take traffic
        self._diverted: int | None = None
        self._began: float | None = None  # the version has been unreachable since then
        self._failed_at = 0.0
        self._failures = 0

    def look(self, endpoints: Sequence[EndpointCounts], diverted: int, now: float) -> None:
        """Take note of the totals at `now` (s); `diverted` requests found no endpoint that takes traffic."""
        failures = 0 if self._diverted is None else max(0, diverted - self._diverted)
        self._diverted = diverted
        answered = False
        before, self._contacts, self._ready = self._contacts, {}, []
        for counts in endpoints:
            contact = self._contacts[counts.url] = before.get(counts.url) or _Contact(counts)
            if counts.state == READY:
                self._ready.append(contact)
            good, failed = _good(counts), counts.connect_failed - contact.failed
            if good > contact.good:
                contact.failures = 0
                answered = True
            elif failed > 0:
                contact.failures += failed
                contact.failed_at = now
                failures += failed
            contact.good = max(good, contact.good)
            contact.failed = counts.connect_failed
        if answered or not all(contact.failures for contact in self._ready):
            self._began = None
        elif failures:
            if self._began is None:
                self._began, self._failures = now, 0
            self._failures += failures
            self._failed_at = now

    def ready(self, now: float) -> bool:
        """Tell whether requests sent to this version can be expected to reach an endpoint."""
        return any(contact.failures < LEAST_FAILURES or now - contact.failed_at > FRESH_S for contact in self._ready)

    @property
    def unreachable_s(self) -> float:
        """For how long every request failed to reach an endpoint, up to the last one that did; 0 if not."""
        if self._began is None or self._failures < LEAST_FAILURES:
            return 0.0
        return self._failed_at - self._began

    def failures_of(self, url: str) -> int:
        """Return how many connections to an endpoint failed since the last sign of life."""
        contact = self._contacts.get(url)
        return 0 if contact is None else contact.failures

    @property
    def failures(self) -> int:
        """How many failed in that time."""
        return 0 if self._began is None else self._failures


def _good(counts: EndpointCounts) -> int:
    # Grows with whatever proves that the endpoint can be reached: a connection, or a good answer on one.
    return counts.connected + counts.ended - counts.bad
