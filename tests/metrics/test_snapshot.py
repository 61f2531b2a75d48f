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


@given(rows, rows)
def test_a_difference_is_what_was_added(before: tuple[int, ...], added: tuple[int, ...]) -> None:
    after = judged(tuple(a + b for a, b in zip(before, added, strict=True)))
    assert after - judged(before) == judged(added)
    assert after - nothing(2) == after
    assert after - after == nothing(2)


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
