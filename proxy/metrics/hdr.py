"""Latency histograms: which counter a latency belongs to, and what the counters say.

The scale is HdrHistogram's with unit 1 µs, highest value 60 s and 2 significant digits: up to 255 µs every
microsecond has its own counter; above, each doubling is cut into 128 equal steps, so that a counter's width is
below 1/128 of its values. One counter more holds what took longer than 60 s: it is shown as "> 60 s".

`index` is the request path's: 0.1 µs, two shifts and one `int.bit_length()`. The library takes ten times that
to record a value; it is the encoder (`proxy.metrics.encode`) and the tests' oracle.
Counts are sparse mappings, index → count, because a second's worth of latencies touches few of the 2,560 counters.

Sources: HdrHistogram (Gil Tene, http://hdrhistogram.org); the index arithmetic is `countsArrayIndex` of its
Java version with leadingZeroCount written as bit_length, unit magnitude 0 and subBucketHalfCountMagnitude 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HIGHEST_US = 60_000_000
COUNTS = 2560  # counters of the scale
OVERFLOW = COUNTS  # the index of the counter of what took longer
OVER_US = HIGHEST_US + 1  # what a percentile that falls into the overflow is given as: read it as "> 60 s"
_QUANTILE_UNIT = 1_000_000


def index(us: int) -> int:
    """Return the counter of a latency in µs: 0…2,559, or `OVERFLOW` above 60 s; negative counts as 0."""
    if us > HIGHEST_US:
        return OVERFLOW
    if us < 256:
        return us if us > 0 else 0  # noqa: FURB136  # max() would double the cost
    shift = us.bit_length() - 8
    return (shift << 7) + (us >> shift)


def lowest(index: int) -> int:
    """Return the lowest latency in µs that counts at `index`."""
    if index >= COUNTS:
        return OVER_US
    shift = max(0, (index >> 7) - 1)
    return (index - (shift << 7)) << shift


def highest(index: int) -> int:
    """Return the highest latency in µs that counts at `index`; `OVER_US` for the overflow."""
    if index >= COUNTS:
        return OVER_US
    return min(lowest(index) + _width(index) - 1, HIGHEST_US)


def middle(index: int) -> int:
    """Return the latency in µs that stands for all at `index`: the middle of its range, 60 s for the overflow."""
    if index >= COUNTS:
        return HIGHEST_US
    return lowest(index) + (_width(index) >> 1)


def percentile(counts: Mapping[int, int], quantile: float) -> int | None:
    """Return the latency in µs that a share `quantile` (0…1) of all counted ones did not exceed.

    It is the highest value of the counter in which the ⌈quantile · n⌉-th smallest lies, so that "p99 > L" and
    "more than 1 % slower than L" say the same. `OVER_US` means above 60 s; `None` means that nothing was counted.
    """
    total = sum(counts.values())
    if not total:
        return None
    # In integers: 0.07 * 100 is 7.000000000000001 in floats, which would be rounded up to the 8th.
    rank = max(1, -(-total * round(quantile * _QUANTILE_UNIT) // _QUANTILE_UNIT))
    seen = 0
    last = 0
    for last in sorted(counts):
        seen += counts[last]
        if seen >= rank:
            break
    return highest(last)


def within(counts: Mapping[int, int], us: int) -> int:
    """Return how many took at most `us`; the counter that holds `us` is taken whole (up to 0.8 % too far)."""
    last = index(us)
    return sum(count for at, count in counts.items() if at <= last)


def merge(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Return the sum of sparse histograms."""
    total: dict[int, int] = {}
    for part in parts:
        if not total:
            total = dict(part)
            continue
        add(total, part)
    return total


def add(total: dict[int, int], part: Mapping[int, int]) -> None:
    """Add a sparse histogram to `total`."""
    for at, count in part.items():
        total[at] = total.get(at, 0) + count


def subtract(total: dict[int, int], part: Mapping[int, int]) -> None:
    """Take a sparse histogram that was added away from `total`; counters that are 0 then are left out."""
    for at, count in part.items():
        left = total[at] - count
        if left:
            total[at] = left
        else:
            del total[at]


def sum_us(counts: Mapping[int, int]) -> int:
    """Return the sum of all latencies in µs, each taken at the middle of its counter's range."""
    return sum(count * middle(at) for at, count in counts.items())


def _width(index: int) -> int:
    return 1 << max(0, (index >> 7) - 1)
