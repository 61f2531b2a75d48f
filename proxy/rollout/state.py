"""Where the life of one service is: what the machine reads and returns, and what the store keeps.

Nouns: the *phase* is where a rollout's life is; the *reason* says in one stable UpperCamelCase word why the phase
is what it is; the *revision* grows by one with every change, a person's or an automatic one, and is the ETag of the
weights; an *expiry* is the end of a weight that was given for a time (`ttl`).

Units: weights in 1/10,000, instants and durations in seconds of the controller's monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.routing.table import FULL

IDLE = "idle"
ROLLED_BACK = "rolled_back"
PHASES = (IDLE, ROLLED_BACK)

OPERATOR_ROLLBACK = "OperatorRollback"
NO_HEALTHY_ENDPOINT = "NoHealthyEndpoint"
LATCHED = "Latched"  # the latch was shut for a reason that this release does not know


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a weight ends (`at`), what it goes back to, and the revision that gave it."""

    at: float
    back_bp: int
    revision: int


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The state of one service. `live_since`: the weight has been above 0 since then, `None` while it is 0.

    `no_stable`: an automatic safety move is held back because `stable` has no ready endpoint, and that was said.
    """

    phase: str = IDLE
    weight_bp: int = 0
    revision: int = 1
    reason: str = ""
    salt: str = ""
    has_new: bool = False
    expiry: Expiry | None = None
    live_since: float | None = None
    no_stable: bool = False


def percent(weight_bp: int) -> float:
    """Return a weight as a percentage with at most two decimals; a whole one is an `int`."""
    whole, rest = divmod(weight_bp, FULL // 100)
    return round(weight_bp * 100 / FULL, 2) if rest else whole


def shown(state: ServiceState) -> dict[str, object]:
    """Return what an event shows of a state before and after it."""
    return {"new": percent(state.weight_bp), "phase": state.phase, "revision": state.revision}
