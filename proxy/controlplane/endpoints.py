"""What is known of every endpoint, and the control word that follows from it.

Who says what, the strongest first: a person (drain, maintenance), the active checks (down), ejection; else it is ready.
One that is ready again after any of these gets its share back by and by (slow start, `proxy.routing.balance`). Workers
read the word at every request; here it is stored in every tick in which it changes.

That an endpoint is down is stored too: the next supervisor does not send users there before its checks have passed.
A supervisor that starts knows of no ejection: what is still bad is soon ejected again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from proxy.controlplane.collector import ENDPOINT_STATES
from proxy.controlplane.ejection import Ejections
from proxy.controlplane.generations import Generations
from proxy.controlplane.health import Checked, Key
from proxy.controlplane.operations import Json
from proxy.ipc.layout import (
    ENDPOINT_DOWN,
    ENDPOINT_DRAIN,
    ENDPOINT_EJECTED,
    ENDPOINT_LACKS_SHIFT,
    ENDPOINT_MAINTENANCE,
    ENDPOINT_READY,
)
from proxy.metrics.snapshot import ServiceCounts
from proxy.rollout.plan import ServicePlan
from proxy.routing.balance import share_after
from proxy.routing.outlier import Ejection
from proxy.routing.table import FULL, VERSIONS, RoutingTable

RETRY_S = 1.0  # between two stores of who is down

# What people can say of an endpoint; the other states are found out, not said.
SAID = {ENDPOINT_STATES[code]: code for code in (ENDPOINT_READY, ENDPOINT_DRAIN, ENDPOINT_MAINTENANCE)}


class News(NamedTuple):
    """An event to be told: of which service, its type, the reason, and the numbers."""

    service: str
    kind: str
    reason: str
    numbers: Json


class Endpoints:
    """Knows of every endpoint of the table in force. Use within a running loop."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self._checked = Checked()
        self._ejections = Ejections()
        self._said: dict[Key, int] = {}  # drain and maintenance, whether or not the table has them
        self._was_down: set[Key] = set()  # by the store
        self._slow_start_s: dict[Key, float] = {}  # of every endpoint of the table
        self._unstored: set[Key] = set()
        self._tried = 0.0
        self._down: dict[Key, str] = {}  # as of the last look, with why
        self._states: dict[Key, int] = {}  # only those that are not ready
        self._words: dict[Key, int] = {}  # only those that are not 0
        self._back: dict[Key, float] = {}  # since when those in their slow start are ready again

    def load(self, stored: Mapping[Key, int]) -> None:
        """Take what the store has: what people said, and who was down."""
        self._said = {key: code for key, code in stored.items() if code in (ENDPOINT_DRAIN, ENDPOINT_MAINTENANCE)}
        self._was_down = {key for key, code in stored.items() if code == ENDPOINT_DOWN}

    def follow(self, plans: Iterable[ServicePlan], table: RoutingTable, now: float) -> None:
        """Watch the endpoints of a table from now (s) on; the next generation begins with what is known of them.

        `store` has to follow once it is in force.
        """
        plans = tuple(plans)
        slow_start_s = {plan.name: plan.slow_start_s for plan in plans}
        self._slow_start_s = {
            (table.services[at].name, version, endpoint.url): slow_start_s[table.services[at].name]
            for at, version, _, endpoint in table.endpoints()
        }
        self._checked.watch(plans, table, self._was_down)
        self._was_down = set()
        self._down = dict(self._checked.down)
        self._ejections.follow(plans)
        known = self._slow_start_s.keys()
        self._states = {key: state for key, state in self._states.items() if key in known}
        self._back = {key: since for key, since in self._back.items() if key in known}
        self._generations.expect_endpoints({key: self._word(key, now) for key in known})

    async def close(self) -> None:
        """Stop checking."""
        await self._checked.close()

    def said(self, key: Key) -> int:
        """Return what people said of an endpoint: `layout.ENDPOINT_…`."""
        return self._said.get(key, ENDPOINT_READY)

    def stored(self, key: Key, said: int) -> int:
        """Return what the store must know of an endpoint of which people say that."""
        return ENDPOINT_DOWN if said == ENDPOINT_READY and key in self._down else said

    def say(self, key: Key, said: int, now: float) -> None:
        """Take what a person says of an endpoint, at `now` (s)."""
        self._said[key] = said
        if said == ENDPOINT_READY:
            del self._said[key]
        self._unstored.add(key)  # it may have gone up or down while this was being stored
        self.store(now)

    def store(self, now: float) -> None:
        """Store the words of all endpoints of the table in force."""
        self._words = dict.fromkeys(self._slow_start_s, -1)  # whatever stands there
        self._settle(now)

    def look(self, services: Mapping[str, ServiceCounts], now: float) -> tuple[list[News], dict[Key, int]]:
        """Look at checks and counters at `now` (s) and store what changes; return what to tell, and to persist."""
        news: list[News] = []
        before, self._down = self._down, dict(self._checked.down)
        turned = before.keys() ^ self._down.keys()
        for key in turned:
            if key in self._down:
                news.append(News(key[0], "EndpointDown", "ChecksFailed", {**_named(key), "why": self._down[key]}))
            else:
                news.append(News(key[0], "EndpointUp", "ChecksPassed", {**_named(key), "was": before[key]}))
        for key, change in self._ejections.look(services, self._serves, now):
            if isinstance(change, Ejection):
                numbers: Json = {"bad": change.bad, "n": change.ended, "times": change.times, "why": _share(change)}
                numbers["out_s"] = round(change.until - change.began, 3)
                news.append(News(key[0], "EndpointEjected", "WorseThanSiblings", {**_named(key), **numbers}))
            else:
                reason = "SiblingsOut" if change.early else "EjectionOver"
                news.append(News(key[0], "EndpointReturned", reason, _named(key)))
        self._settle(now)
        self._unstored |= turned & self._slow_start_s.keys()
        return news, self._to_store(now)

    def not_stored(self, keys: Iterable[Key]) -> None:
        """Take note that this could not be stored."""
        self._unstored.update(keys)

    def _to_store(self, now: float) -> dict[Key, int]:
        if not self._unstored or now - self._tried < RETRY_S:
            return {}
        self._tried = now
        changed = {key: self.stored(key, self.said(key)) for key in self._unstored}
        self._unstored = set()
        return changed

    def why(self, key: Key, now: float) -> str:
        """Return why an endpoint is not simply ready, "" if it is."""
        if key in self._said:
            return "set by an operator"
        if key in self._down:
            return self._down[key]
        ejection = self._ejections.out.get(key)
        if ejection is not None:
            return f"ejected: {_share(ejection)}, returns in {max(0.0, ejection.until - now):.0f} s"
        if key in self._back:
            return f"slow start: {(FULL - (self._words.get(key, 0) >> ENDPOINT_LACKS_SHIFT)) / FULL:.0%} of its share"
        return ""

    def ejections(self, service: str, version: int) -> int:
        """Return how often endpoints of a version were ejected since the start."""
        return self._ejections.totals.get((service, version), 0)

    def _serves(self, service: str, version: int, url: str) -> bool:
        key = (service, version, url)
        return key not in self._said and key not in self._down

    def _state(self, key: Key) -> int:
        if key in self._said:
            return self._said[key]
        if key in self._down:
            return ENDPOINT_DOWN
        return ENDPOINT_EJECTED if key in self._ejections.out else ENDPOINT_READY

    def _settle(self, now: float) -> None:
        """Store the words that change. Costs nothing for endpoints of which there is nothing to say."""
        out = self._ejections.out
        if not (self._words or self._states or self._said or self._down or out):
            return
        for key in {*self._words, *self._states, *self._said, *self._down, *out} & self._slow_start_s.keys():
            word = self._word(key, now)
            if word != self._words.get(key, 0):
                # Not there: workers refuse the table, and the one before is on its way back.
                with contextlib.suppress(KeyError):
                    self._generations.store_endpoint(*key, word)
            self._words[key] = word
            if not word:
                del self._words[key]

    def _word(self, key: Key, now: float) -> int:
        state = self._state(key)
        if state != ENDPOINT_READY:
            self._states[key] = state
            self._back.pop(key, None)
            return state
        if self._states.pop(key, ENDPOINT_READY) != ENDPOINT_READY:
            self._back[key] = now
        if key not in self._back:
            return ENDPOINT_READY
        lacks = FULL - share_after(now - self._back[key], self._slow_start_s[key])
        if not lacks:
            del self._back[key]
        return ENDPOINT_READY | lacks << ENDPOINT_LACKS_SHIFT


def _named(key: Key) -> Json:
    return {"version": VERSIONS[key[1]], "url": key[2]}


def _share(ejection: Ejection) -> str:
    return f"{ejection.bad / ejection.ended:.0%} bad of {ejection.ended}"
