"""Made-up traffic, block by block, for many runs at once.

*Healthy*: responses arrive at random (Poisson) at a rate that follows the day, a sine around its mean; bad ones come in
*bursts*, runs of consecutive bad responses of geometric length; slow ones come one by one: latencies are lognormal
(σ = 1) with a p99 at 90 % of its limit, which leaves 0.75 % above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, pi
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.vectorised import Numbers

# Responses of `new`, the bad of them, responses of stable, the bad of them: per run and block.
Versions: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

HOUR = 4 * 3600  # blocks of 250 ms
DAY = 24 * HOUR
OWN = "own"  # bursts are of consecutive responses of the version
WHOLE = "whole"  # bursts are of consecutive responses of the service, of which the version gets its share


@dataclass(frozen=True, slots=True)
class Healthy:
    """A healthy service: `per_block` responses of `new` in an average block, `weight` its part of the traffic.

    `allowed`: the limit, as a share. `errors` and `p99` are where the service is relative to it; `burst` is the mean
    length of bursts, `swing` how far the rate goes up and down in a day, relative to its mean.
    """

    weight: float = 0.1
    per_block: float = 20.0
    allowed: float = 0.01
    errors: float = 0.2
    p99: float = 0.9
    burst: float = 5.0
    swing: float = 0.3
    of: str = OWN

    @property
    def slow(self) -> float:
        """The share of responses that are slower than the limit."""
        normal = NormalDist()
        return 1 - normal.cdf(normal.inv_cdf(1 - self.allowed) - log(self.p99))


class Block(NamedTuple):
    """One block of every run: responses of `new`, the bad and the slow of them; responses of stable and the bad."""

    n: Numbers
    bad: Numbers
    slow: Numbers
    stable_n: Numbers
    stable_bad: Numbers


def blocks(healthy: Healthy, runs: int, hours: int, chance: np.random.Generator) -> Iterator[Block]:
    """Yield the blocks of so many hours, one after the other; at an hour's end a burst may go over to another run."""
    for hour in range(hours):
        columns = _hour(healthy, runs, hour, chance)
        for index in range(HOUR):
            yield Block(*(column[index].astype(np.float64) for column in columns))


def _hour(healthy: Healthy, runs: int, hour: int, chance: np.random.Generator) -> list[NDArray[np.float32]]:
    at = (np.arange(HOUR) + hour * HOUR) / DAY
    rate = healthy.per_block * (1 - healthy.swing * np.cos(2 * pi * at))
    n, bad, stable_n, stable_bad = (_own if healthy.of == OWN else _whole)(healthy, rate, runs, chance)
    slow = chance.binomial(n, healthy.slow)
    return [np.ascontiguousarray(part.T, dtype=np.float32) for part in (n, bad, slow, stable_n, stable_bad)]


def in_bursts(n: NDArray[np.int64], share: float, burst: float, chance: np.random.Generator) -> NDArray[np.int64]:
    """Return how many of the `n` responses of each block are bad, if bad ones come in bursts through all blocks."""
    total = int(n.sum())
    expected = total * share / burst
    count = int(expected + 6 * expected**0.5 + 10)
    lengths = chance.geometric(1 / burst, count)
    gaps = chance.geometric(share / (burst * (1 - share)), count)
    # The first gap begins somewhere in the middle: time is cut at random.
    starts = np.cumsum(gaps) + np.concatenate(([0], np.cumsum(lengths)[:-1])) - 1 - int(chance.integers(gaps[0] + 1))
    ends = np.cumsum(lengths)
    offsets = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)
    places = np.repeat(starts, lengths) + offsets
    places = places[(places >= 0) & (places < total)]
    found = np.searchsorted(np.cumsum(n.ravel()), places, side="right")
    return np.bincount(found, minlength=n.size).reshape(n.shape)


def _own(healthy: Healthy, rate: Numbers, runs: int, chance: np.random.Generator) -> Versions:
    n = chance.poisson(np.broadcast_to(rate, (runs, rate.size)))
    stable_n = chance.poisson(np.broadcast_to(rate * (1 / healthy.weight - 1), n.shape))
    bad = in_bursts(n, healthy.allowed * healthy.errors, healthy.burst, chance)
    return n, bad, stable_n, _compound(healthy, stable_n, chance)


def _whole(healthy: Healthy, rate: Numbers, runs: int, chance: np.random.Generator) -> Versions:
    whole = chance.poisson(np.broadcast_to(rate / healthy.weight, (runs, rate.size)))
    whole_bad = in_bursts(whole, healthy.allowed * healthy.errors, healthy.burst, chance)
    bad = chance.binomial(whole_bad, healthy.weight)
    n = bad + chance.binomial(whole - whole_bad, healthy.weight)
    return n, bad, whole - n, whole_bad - bad


def _compound(healthy: Healthy, n: NDArray[np.int64], chance: np.random.Generator) -> NDArray[np.int64]:
    # Blocks of stable are large: its bursts end in the block in which they begin.
    bursts = chance.poisson(n * (healthy.allowed * healthy.errors / healthy.burst))
    more = np.zeros_like(bursts)
    some = bursts > 0
    more[some] = chance.negative_binomial(bursts[some], 1 / healthy.burst)
    bad: NDArray[np.int64] = np.minimum(n, bursts + more)
    return bad
