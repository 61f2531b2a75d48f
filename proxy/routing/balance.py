"""Which endpoint of a version gets the next request.

Two random choices, the one with fewer requests in flight wins (Mitzenmacher, "The Power of Two Choices in
Randomized Load Balancing", 2001): nearly as even as asking all, at constant cost, and without the herd that
"always the least loaded" makes of several workers that do not know each other's counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """Something with a load."""

    in_flight: int


T = TypeVar("T", bound=Loaded)


def two_choices(candidates: Sequence[T], random_bits: int) -> T:
    """Return one of at least one candidate. `random_bits`: 32 uniformly random bits."""
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = (random_bits & 0xFFFF) % count
    second = (first + 1 + (random_bits >> 16) % (count - 1)) % count
    one, other = candidates[first], candidates[second]
    return one if one.in_flight <= other.in_flight else other
