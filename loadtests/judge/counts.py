"""So many of so many runs, with the exact (Clopper-Pearson) interval for the probability behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, fsum, lgamma, log, log1p

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Counted:
    """`hits` of `runs` runs."""

    hits: int
    runs: int

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return 0.0 if not self.hits else _root(lambda p: 1 - _at_most(self.hits - 1, self.runs, p))

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return 1.0 if self.hits == self.runs else _root(lambda p: 1 - _at_most(self.hits, self.runs, p), upper=True)

    def __str__(self) -> str:
        return f"{self.hits} of {self.runs} ({100 * self.low:.1f} – {100 * self.high:.1f} %)"


def _at_most(hits: int, runs: int, p: float) -> float:
    """Return the probability of at most `hits` in `runs`, each with probability `p` in (0, 1)."""
    whole = lgamma(runs + 1)
    return fsum(
        exp(whole - lgamma(k + 1) - lgamma(runs - k + 1) + k * log(p) + (runs - k) * log1p(-p)) for k in range(hits + 1)
    )


def _root(rising: Callable[[float], float], *, upper: bool = False) -> float:
    """Return where `rising` passes the tail's probability."""
    tail = 1 - (1 - CONFIDENCE) / 2 if upper else (1 - CONFIDENCE) / 2
    low, high = 1e-12, 1 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2
