"""The histogram's scale against its definition and against the hdrhistogram library."""

from __future__ import annotations

import math

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from proxy.ipc import layout
from proxy.metrics import hdr

latencies = st.one_of(
    st.integers(0, hdr.HIGHEST_US),
    st.integers(0, 25).map(lambda power: min(2**power, hdr.HIGHEST_US)),
    st.integers(1, 25).map(lambda power: min(2**power - 1, hdr.HIGHEST_US)),
)
sparse = st.dictionaries(st.integers(0, hdr.OVERFLOW), st.integers(1, 10_000), max_size=30)


def library() -> HdrHistogram:
    return HdrHistogram(1, hdr.HIGHEST_US, 2)


def count(values: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for value in values:
        counts[hdr.index(value)] = counts.get(hdr.index(value), 0) + 1
    return counts


def test_the_scale_is_the_librarys() -> None:
    assert hdr.COUNTS == library().counts_len == layout.HDR_COUNTS
    assert layout.HDR_OVERFLOW == hdr.index(hdr.HIGHEST_US + 1) == layout.HDR_WORDS - 1


@given(latencies)
def test_index_equals_the_librarys(us: int) -> None:
    assert hdr.index(us) == library().get_counts_array_index(us)


@given(latencies)
def test_ranges_equal_the_librarys(us: int) -> None:
    at = hdr.index(us)
    assert hdr.lowest(at) == library().get_lowest_equivalent_value(us)
    assert hdr.highest(at) == min(library().get_highest_equivalent_value(us), hdr.HIGHEST_US)
    assert hdr.middle(at) == library()._hdr_median_equiv_value(us)
    assert hdr.lowest(at) <= us <= hdr.highest(at)


def test_the_ranges_cover_everything_without_gap_or_overlap() -> None:
    last = hdr.index(hdr.HIGHEST_US)
    assert hdr.lowest(0) == 0
    for at in range(last):
        assert hdr.highest(at) + 1 == hdr.lowest(at + 1)
    assert hdr.highest(last) == hdr.HIGHEST_US


@pytest.mark.parametrize(
    "us, at",
    [(-1, 0), (0, 0), (hdr.HIGHEST_US + 1, hdr.OVERFLOW), (10**15, hdr.OVERFLOW), (255, 255), (256, 256), (258, 257)],
)
def test_index_at_the_edges(us: int, at: int) -> None:
    assert hdr.index(us) == at


def test_the_overflow_says_over_60_s() -> None:
    assert hdr.lowest(hdr.OVERFLOW) == hdr.highest(hdr.OVERFLOW) == hdr.OVER_US
    assert hdr.percentile({hdr.OVERFLOW: 1, 5: 1}, 0.99) == hdr.OVER_US
    assert hdr.sum_us({hdr.OVERFLOW: 2}) == 2 * hdr.HIGHEST_US


def test_nothing_counted_has_no_percentile() -> None:
    assert hdr.percentile({}, 0.99) is None
    assert hdr.percentile({7: 0}, 0.5) is None


@given(st.lists(latencies, min_size=1, max_size=200), st.sampled_from([0.0, 0.07, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]))
def test_percentile_is_the_value_at_its_rank(values: list[int], quantile: float) -> None:
    # In exact arithmetic: a float would take 0.07 * 100 for more than 7.
    rank = max(1, math.ceil(len(values) * round(quantile * 1000) / 1000 - 1e-9))
    exact = sorted(values)[rank - 1]
    assert hdr.percentile(count(values), quantile) == hdr.highest(hdr.index(exact))


@given(st.lists(latencies, min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))
def test_percentile_equals_the_librarys(values: list[int], quantile: float) -> None:
    # The library rounds the rank to the nearest, we round it up; 1000 of each value make both ranks whole.
    theirs = library()
    for value in values:
        theirs.record_value(value, 1000)
    ours = {at: n * 1000 for at, n in count(values).items()}
    assert hdr.percentile(ours, quantile) == min(theirs.get_value_at_percentile(quantile * 100), hdr.HIGHEST_US)


@given(st.lists(latencies, min_size=1, max_size=200), latencies)
def test_p99_over_a_limit_is_more_than_one_percent_slower(values: list[int], limit: int) -> None:
    edge = hdr.highest(hdr.index(limit))
    slower = sum(value > edge for value in values)
    measured = hdr.percentile(count(values), 0.99)
    assert measured is not None
    assert (measured > edge) == (slower * 100 > len(values))


@given(st.lists(latencies, max_size=200), latencies)
def test_within_never_counts_too_few(values: list[int], limit: int) -> None:
    exact = sum(value <= limit for value in values)
    counted = hdr.within(count(values), limit)
    assert exact <= counted <= sum(value <= hdr.highest(hdr.index(limit)) for value in values)


@given(sparse, sparse, sparse)
def test_merge_is_associative_commutative_and_keeps_counts(
    a: dict[int, int], b: dict[int, int], c: dict[int, int]
) -> None:
    assert hdr.merge([a, b]) == hdr.merge([b, a])
    assert hdr.merge([hdr.merge([a, b]), c]) == hdr.merge([a, hdr.merge([b, c])]) == hdr.merge([a, b, c])
    assert hdr.merge([a]) == a
    assert sum(hdr.merge([a, b]).values()) == sum(a.values()) + sum(b.values())
    assert hdr.sum_us(hdr.merge([a, b])) == hdr.sum_us(a) + hdr.sum_us(b)


@given(sparse, sparse)
def test_what_was_added_can_be_taken_away(a: dict[int, int], b: dict[int, int]) -> None:
    total = hdr.merge([a, b])
    hdr.subtract(total, b)
    assert total == a


@pytest.mark.slow
@given(st.lists(latencies, min_size=1, max_size=60), st.lists(latencies, min_size=1, max_size=60))
def test_merge_equals_the_librarys_add(a: list[int], b: list[int]) -> None:
    one, two = library(), library()
    for value in a:
        one.record_value(value)
    for value in b:
        two.record_value(value)
    one.add(two)
    merged = hdr.merge([count(a), count(b)])
    assert merged == {at: n for at, n in enumerate(one.counts) if n}
    assert hdr.sum_us(merged) / sum(merged.values()) == pytest.approx(one.get_mean_value())
