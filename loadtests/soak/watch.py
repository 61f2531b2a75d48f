"""What a product under load holds, over time: memory and descriptors of its processes, and whether they grow.

A *sample* is the sum over the supervisor and its workers. The run is cut into quarters: the first is for everything
that fills up once (pools, caches, the allocator's arenas), and the medians of the second and the last are compared.
Descriptors come and go with the traffic, so they are also compared at rest: before and after, when no client is left.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.measure import pss_kib, tree

MOST_GROWTH_MIB = 2.0
MOST_THREADS = 6  # asyncio's pool fills up when it happens to be busy (cores + 4); a leak is one with every reload
MOST_MORE = 0.05  # of the descriptors under load: how many clients are there varies by more than nothing


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes hold together at one instant: memory (PSS) in KiB, descriptors, threads."""

    memory_kib: int
    descriptors: int
    threads: int


NOTHING = Sample(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Growth:
    """The medians of the second quarter and of the last."""

    second: float
    last: float

    @property
    def more(self) -> float:
        """How much the last is above the second."""
        return self.last - self.second


def sample(supervisor: int) -> Sample:
    """Look at a supervisor and its workers now."""
    pids = tree(supervisor)
    return Sample(
        pss_kib(pids),
        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
    )


def growth(samples: Sequence[Sample], of: Callable[[Sample], float]) -> Growth:
    """Compare the second quarter of at least eight samples with the last."""
    quarter = len(samples) // 4
    return Growth(
        statistics.median(of(one) for one in samples[quarter : 2 * quarter]),
        statistics.median(of(one) for one in samples[-quarter:]),
    )


def complaints(samples: Sequence[Sample], before: Sample, after: Sample) -> list[str]:
    """Say what has grown; `before` and `after` are samples at rest."""
    found = []
    memory = growth(samples, lambda one: one.memory_kib / 1024)
    if memory.more > MOST_GROWTH_MIB:
        found.append(f"memory grew by {memory.more:.1f} MiB, of at most {MOST_GROWTH_MIB:g}")
    descriptors = growth(samples, lambda one: one.descriptors)
    if descriptors.more > MOST_MORE * descriptors.second:
        found.append(f"descriptors under load grew from {descriptors.second:g} to {descriptors.last:g}")
    if after.descriptors > before.descriptors:
        found.append(f"descriptors at rest grew from {before.descriptors} to {after.descriptors}")
    if after.threads > before.threads + MOST_THREADS:
        found.append(f"threads grew from {before.threads} to {after.threads}")
    return found
