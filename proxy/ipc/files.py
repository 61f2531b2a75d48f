"""How the open files that a worker may have are shared out.

Clients get three quarters of them, so that the connections to endpoints which their requests need, the next
generation, and what a look-up of a name opens, can still be had when clients have taken all of theirs.
"""

from __future__ import annotations

LEAST_KEPT = 48


def for_all(clients: int) -> int:
    """Return how many files must be allowed so that descriptors below `clients` are for clients."""
    return max(clients + LEAST_KEPT, (clients - 1) * 4 // 3 + 1)


def for_clients(allowed: int) -> int:
    """Return below which descriptor clients are accepted where `allowed` may be open (-1: no limit)."""
    if allowed < 0:
        return 1 << 31
    return allowed - max(LEAST_KEPT, allowed // 4)
