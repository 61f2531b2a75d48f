"""What the demo finds out: a round, a moment of it, and the two books that have to agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Round:
    """What happened in one round; times in seconds since its start, `None` for what did not happen."""

    mode: str
    rolled_back: bool = False
    reason: str | None = None
    first_bad_s: float | None = None
    decided_s: float | None = None
    requests_to_new_after: int = 0
    under_way: int = 0
    client_errors: int = 0
    client_requests: int = 0
    rescued: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return the object that `--headless` prints."""
        return {
            "rolled_back": self.rolled_back,
            "reason": self.reason,
            "first_bad_s": None if self.first_bad_s is None else round(self.first_bad_s, 3),
            "decided_s": None if self.decided_s is None else round(self.decided_s, 3),
            "requests_to_new_after": self.requests_to_new_after,
            "client_errors": self.client_errors,
        }


@dataclass(slots=True)
class Moment:
    """What the screen shows: the round, the proxy's status, the traffic's report, requests per second by version."""

    round: Round
    number: int
    elapsed_s: float
    failing: bool
    status: dict[str, Any]
    report: dict[str, Any]
    rates: dict[str, float]


@dataclass(slots=True)
class Books:
    """The proxy's counters and the backends' own, by version, after the last answer."""

    proxy: dict[str, int]
    backends: dict[str, int]

    @property
    def agree(self) -> bool:
        """Say whether both counted the same."""
        return self.proxy == self.backends
