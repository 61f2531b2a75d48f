"""Which endpoint of a version gets the next request.

Two random choices, the one with fewer requests in flight wins (Mitzenmacher, "The Power of Two Choices in
Randomized Load Balancing", 2001): nearly as even as asking all, at constant cost, and without the herd that
"always the least loaded" makes of several workers that do not know each other's counts.

*Slow start*: an endpoint that comes back (from being down, ejected or taken out) begins with empty caches. Its share of
the requests grows linearly from a tenth to the full one (HAProxy's `slowstart`, nginx's and Envoy's slow start): it
takes part in so many of the draws. A tenth and not nothing, because only what it is asked can show that it is well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from proxy.routing.table import FULL

LEAST = FULL // 10  # of its share, with which an endpoint comes back


class Loaded(Protocol):
    """Something with a load."""

    @property
    def load(self) -> int:
        """How much it has in flight."""
        ...


T = TypeVar("T", bound=Loaded)


def two_choices(candidates: Sequence[T], random_bits: int) -> T:
    """Return one of at least one candidate. `random_bits`: 32 uniformly random bits."""
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = (random_bits & 0xFFFF) % count
    second = (first + 1 + (random_bits >> 16) % (count - 1)) % count
    one, other = candidates[first], candidates[second]
    return one if one.load <= other.load else other


def share_after(seconds: float, slow_start_s: float) -> int:
    """Return the share (`LEAST` … `FULL`) of an endpoint that has been back for so long; no slow start: all of it."""
    if seconds >= slow_start_s:
        return FULL
    return max(LEAST, int(FULL * seconds / slow_start_s))


def level(best: int, random_bits: int) -> int:
    """Return the share that an endpoint needs to take part in this draw. `random_bits`: 32 uniformly random bits.

    `best`: the highest share of any. Whoever has it always takes part, the others in proportion to it.
    """
    return 1 + (best * random_bits >> 32)
