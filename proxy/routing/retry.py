"""Which failed attempts may be made again, and where.

Two different things (DESIGN §6): a *retry* repeats a request on a fresh connection to the same version when a
reused one failed before any response byte (the keep-alive race, RFC 9112 §9.3.1); a *failover* lets `stable`
answer what failed on `new`, within a budget.
"""

from __future__ import annotations

from proxy.routing.table import Failover

# RFC 9110 §9.2.1 and §9.2.2. Methods are case-sensitive.
SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
IDEMPOTENT = SAFE | {b"PUT", b"DELETE"}

# A 501 or 505 says what the request is, not how the version fares: stable would say the same.
NEVER_FAILED_OVER = frozenset((501, 505))

MINIMUM_BUDGET = 3


def failover_methods(failover: Failover) -> frozenset[bytes]:
    """Return the methods that may fail over."""
    return {"safe": SAFE, "idempotent": IDEMPOTENT, "never": frozenset[bytes]()}[failover.to_stable]


def within_budget(failing_over: int, in_flight: int, share: float) -> bool:
    """Return whether one more failover fits: `share` (0…1) of what is in flight in the worker, at least 3."""
    return failing_over < MINIMUM_BUDGET or failing_over < in_flight * share
