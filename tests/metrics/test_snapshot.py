"""Judged integers: sums, differences, and what can only be a bug."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import CounterWentBack
from proxy.metrics.snapshot import Judged, nothing

numbers = st.integers(0, 2**40)
rows = st.tuples(*[numbers] * 8)


def judged(row: tuple[int, ...]) -> Judged:
    return Judged(*row[:4], row[4:6], row[6:])


@given(rows, rows, rows)
def test_sums_commute_and_associate_and_a_difference_undoes_them(
    one: tuple[int, ...], two: tuple[int, ...], three: tuple[int, ...]
) -> None:
    a, b, c = judged(one), judged(two), judged(three)
    assert a + b == b + a == judged(tuple(x + y for x, y in zip(one, two, strict=True)))
    assert (a + b) + c == a + (b + c)
    assert (a + b) - b == a
    assert a - a == nothing(2)
    assert a + nothing(2) == a - nothing(2) == a


def test_requests_count_diverted_ones() -> None:
    assert Judged(ended=7, bad=3, diverted=2).requests == 9


@pytest.mark.parametrize("field", ["ended", "bad", "diverted", "client_errors", "slow", "fast"])
def test_a_counter_that_shrank_is_a_bug(field: str) -> None:
    before = Judged(5, 5, 5, 5, (5, 5), (5, 5))
    after = replace(before, **{field: (5, 4) if field in {"slow", "fast"} else 4})
    with pytest.raises(CounterWentBack, match=field):
        _ = after - before


def test_thresholds_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        _ = nothing(2) - nothing(1)
