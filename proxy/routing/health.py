"""Whether an endpoint is up, by checks that ask it.

Nouns: a *check* is one request; it *passes* or fails, with the failure in words. An endpoint counts as up until `fall`
checks in a row have failed, and as down until `rise` in a row have passed: one odd answer moves nothing, and an
endpoint that is up half of the time does not flap with every check (HAProxy's `rise` and `fall`, nginx's `passes` and
`fails`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """How the endpoints of a service are checked: `GET path` every `interval_s`, answered within `timeout_s`."""

    path: str
    interval_s: float = 2.0
    timeout_s: float = 1.0
    rise: int = 2
    fall: int = 3


class Pulse:
    """Up or down, by the last checks of one endpoint. `why` says why it is down, "" while it is up."""

    __slots__ = ("_against", "why")

    def __init__(self, why: str = "") -> None:
        """Begin up, or down for a reason that is known."""
        self.why = why
        self._against = 0  # checks in a row that said otherwise; while down: failed ones, as a negative number

    def note(self, failure: str, rule: Health) -> bool:
        """Take note of a check ("" = passed); return whether the endpoint went up or down with it."""
        if self.why:
            return self._while_down(failure, rule)
        self._against = self._against + 1 if failure else 0
        if self._against < rule.fall:
            return False
        self.why = _failed(self._against, failure)
        self._against = -self._against
        return True

    def _while_down(self, failure: str, rule: Health) -> bool:
        if failure:
            self._against = min(self._against, 0) - 1
            self.why = _failed(-self._against, failure)
            return False
        self._against = max(self._against, 0) + 1
        if self._against < rule.rise:
            return False
        self.why, self._against = "", 0
        return True


def well(status: int) -> bool:
    """Return whether a status says that the endpoint is well: 2xx, and 3xx as with HAProxy and nginx."""
    return 200 <= status < 400


def _failed(count: int, failure: str) -> str:
    return f"{count} check{'' if count == 1 else 's'} failed: {failure}"
