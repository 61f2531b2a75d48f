"""Judged integers: sums, differences, and what can only be a bug."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import CounterWentBack
from proxy.metrics.snapshot import Judged, Named, ServiceCounts, SignalKey, VersionCounts, nothing

numbers = st.integers(0, 2**40)
rows = st.tuples(*[numbers] * 14)


def judged(row: tuple[int, ...]) -> Judged:
    return Judged(*row[:4], row[4:6], row[6:8], row[8:9], row[9:10], (row[10:12], row[12:14]))


@given(rows, rows, rows)
def test_sums_commute_and_associate_and_a_difference_undoes_them(
    one: tuple[int, ...], two: tuple[int, ...], three: tuple[int, ...]
) -> None:
    a, b, c = judged(one), judged(two), judged(three)
    assert a + b == b + a == judged(tuple(x + y for x, y in zip(one, two, strict=True)))
    assert (a + b) + c == a + (b + c)
    assert (a + b) - b == a
    assert a - a == nothing(2, 1, 2)
    assert a + nothing(2, 1, 2) == a - nothing(2, 1, 2) == a
    assert a.row() == list(one)


def test_requests_count_diverted_ones() -> None:
    assert Judged(ended=7, bad=3, diverted=2).requests == 9


@pytest.mark.parametrize("field", Judged._fields)
def test_a_counter_that_shrank_is_a_bug(field: str) -> None:
    before = Judged(5, 5, 5, 5, (5, 5), (5, 5), (5, 5), (5, 5), ((5, 5), (5, 5)))
    less = {int: 4, tuple: (5, 4)}[type(getattr(before, field))]
    after = before._replace(**{field: ((5, 5), (5, 4)) if field == "signals" else less})
    with pytest.raises(CounterWentBack, match=field):
        _ = after - before


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 0, 1), (2, 1, 0)])
def test_thresholds_and_signals_must_match(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        _ = nothing(2, 1, 1) - nothing(*sizes)
    with pytest.raises(ValueError, match="thresholds"):
        _ = nothing(2, 1, 1) + nothing(*sizes)


def test_numbers_are_found_by_their_names() -> None:
    named = Named(("a", "b"), [1, 2, 3, 4], 1)
    assert named == {"a": 2, "b": 3} == dict(named)
    assert named.get("c", 0) == 0


def test_a_signal_is_found_by_its_name() -> None:
    signals = (SignalKey("hits", "x-cache", "^HIT"), SignalKey("fresh", "age", "^0$"))
    nobody = VersionCounts("stable", "1", 1, Judged())
    service = ServiceCounts("web", (), (nobody, nobody), signals=signals)
    assert [service.signal(name) for name in ("hits", "fresh", "x-cache")] == [0, 1, None]
