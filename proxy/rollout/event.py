"""What can happen to a service: the inputs of the machine.

`stable_ready` stands in every event that moves users to `stable`: automatic moves go only to a version that can
serve (promise 9 of the design), a person's order is obeyed with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONTROLLER = "controller"  # the actor of everything that no person asked for


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit of `new` failed, or none of its endpoints can be reached. `reason` is one UpperCamelCase word."""

    reason: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    stable_ready: bool = True


@dataclass(frozen=True, slots=True)
class SetWeight:
    """A person wants this weight. `if_match`: the revision they saw, `None` = any.

    `ttl_s`: how long it lasts; `None` leaves an earlier expiry standing, infinity takes it away.
    """

    weight_bp: int
    actor: str
    reason: str = ""
    if_match: int | None = None
    ttl_s: float | None = None
    stable_ready: bool = True


@dataclass(frozen=True, slots=True)
class Rollback:
    """A person wants everything on `stable`."""

    actor: str
    reason: str = ""
    stable_ready: bool = True


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: ends a weight whose time is over."""

    stable_ready: bool = True


@dataclass(frozen=True, slots=True)
class NewChanged:
    """`new` is another version now (registered, or another one in a reloaded config).

    `salt` is a fresh one; it is taken when `fresh` says so, or when the version before was rolled back.
    """

    was: str
    label: str
    salt: str
    fresh: bool
    actor: str
    reason: str = ""
    if_match: int | None = None


@dataclass(frozen=True, slots=True)
class NewRemoved:
    """There is no new version any more."""

    was: str
    actor: str
    reason: str = ""
    if_match: int | None = None


@dataclass(frozen=True, slots=True)
class Restarted:
    """The controller begins with a stored state; `latched` is the reason in the latch, `None` while it is open."""

    latched: str | None = None


Event = Breach | SetWeight | Rollback | Tick | NewChanged | NewRemoved | Restarted
